/* SPDX-License-Identifier: BSD-3-Clause */
/* What does the flusher's requests: io_uring, or pwritev and fdatasync.
 *
 * One thread, the flusher's, makes the engine and calls it; only wake may
 * be called by others.  An engine moves bytes and reports what the kernel
 * said; merging, repeating and failing are the flusher's.
 */

#ifndef FSSNAP_ENGINE_H
#define FSSNAP_ENGINE_H

#include <stdint.h>
#include <sys/uio.h>

/* Segments of one request: a run of 64 chunks copied one by one still goes
 * out as one write.
 */
#define ENGINE_SEGMENTS 64

/* How often in a row a write may come back with EAGAIN.  Who is short of
 * something has it by then; io_uring says the same, always, of a store that
 * writes nothing.
 */
#define ENGINE_TRIES 100

/* One write or sync.  The owner fills it in, the engine sets RESULT. */
struct engine_request {
  struct engine_request *next;
  int fd;
  uint64_t offset;
  unsigned segments; /* 0: no write; have FD's data on stable storage */
  int64_t result;    /* bytes written, or -errno */
  struct iovec segment[ENGINE_SEGMENTS];
};

struct engine;

/* Write now: bytes written, or -errno.  Any thread. */
typedef int64_t engine_write (int fd, const struct iovec *segment,
                              unsigned segments, uint64_t offset);

struct engine_type {
  const char *name;

  /* An engine for DEPTH requests at a time, or NULL with errno. */
  struct engine *(*create) (unsigned depth);
  void (*free) (struct engine *engine);

  /* Begin a request.  At most DEPTH are under way. */
  void (*submit) (struct engine *engine, struct engine_request *request);

  /* Wait until something is done or someone called wake, then return the
   * requests that are done (NULL for none), each with its result.
   */
  struct engine_request *(*reap) (struct engine *engine);

  /* Make reap return, now or the next time.  Any thread. */
  void (*wake) (struct engine *engine);

  /* What helpers write with; NULL: there are none. */
  engine_write *write;
};

extern const struct engine_type engine_uring;
extern const struct engine_type engine_sync;

/* pwritev. */
int64_t engine_write_now (int fd, const struct iovec *segment,
                          unsigned segments, uint64_t offset);

#endif
