/* SPDX-License-Identifier: BSD-3-Clause */
/* One snapshot: what it is, what it has kept, and whether it still holds.
 */

#ifndef FSSNAP_SNAPSHOT_H
#define FSSNAP_SNAPSHOT_H

#include "backfile.h"
#include "bitmap.h"
#include "flusher.h"
#include "throttle.h"
#include "transtbl.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

enum durability {
  DURABILITY_ASYNC,   /* the old chunk is in memory before the overwrite */
  DURABILITY_WRITTEN, /* it is in the backing file */
};

enum on_error {
  ON_ERROR_BREAK_SNAPSHOT, /* the write goes on, the snapshot is given up */
  ON_ERROR_BREAK_WRITE,    /* the write fails, the snapshot stays */
};

struct snapshot_options {
  uint64_t chunk_size; /* bytes, a power of two */
  uint64_t maxsize;    /* bytes that may be copied; 0: no limit */
  const char *backing_store;
  uint64_t backfile_size; /* bytes a backing file may have; 0: no limit */
  enum durability durability;
  enum on_error on_error; /* BREAK_WRITE only with WRITTEN: a write that has
                             gone through cannot be failed any more */
  unsigned cow_timeout;   /* seconds a write may wait for the store */
};

struct snapshot {
  /* Set at creation. */
  unsigned number;
  struct snapshot_options options;
  uint64_t size; /* bytes, the origin's at its instant */
  unsigned chunk_shift;
  uint64_t run_limit; /* bytes copied in one step, a multiple of chunks */
  time_t created;
  struct flusher *flusher;
  struct throttle *throttle;
  struct backfile *backfile;
  struct snapshot *older;

  struct bitmap hastrans; /* atomic; set only as transtbl.h says */
  struct transtbl table;

  /* The next in the chain.  Release when it is linked, acquire when read. */
  _Atomic (struct snapshot *) newer;

  _Atomic uint64_t copied; /* bytes counted against maxsize */
  _Atomic unsigned lost;   /* runs of chunks that could not be read */

  _Atomic int copy_error; /* why the last copy failed that did */

  /* Jobs queued or begun, and one until it breaks. */
  _Atomic uint64_t pending;

  atomic_bool broken; /* once true it stays so */
  pthread_mutex_t lock;
  char *why;                /* under LOCK; NULL unless broken */
  struct flush_job discard; /* the flusher's once broken */
};

/* A snapshot of an origin of SIZE bytes called ORIGIN, in no chain yet.
 * NULL after logging.  FLUSHER and THROTTLE outlive it.
 */
struct snapshot *snapshot_create (const struct snapshot_options *options,
                                  unsigned number, uint64_t size,
                                  const char *origin, struct flusher *flusher,
                                  struct throttle *throttle);

/* Nobody may use it, and none of its jobs be left. */
void snapshot_free (struct snapshot *snapshot);

static inline bool
snapshot_is_broken (const struct snapshot *snapshot)
{
  return atomic_load (&snapshot->broken);
}

/* Why it broke, to be freed by the caller; NULL if it did not. */
char *snapshot_why_broken (struct snapshot *snapshot);

/* Give the snapshot up.  Once this returns nobody waits for it any more and
 * every read fails that could miss something; the space is freed when the
 * flusher comes to it.  Logged, the first time only.  Callable from any
 * thread with no lock of ours held but the gate as a reader.
 */
void snapshot_break (struct snapshot *snapshot, const char *format, ...)
    __attribute__ ((format (printf, 2, 3)));

/* Count BYTES against maxsize, or give them back.  Counting returns false
 * if the limit would be passed.
 */
bool snapshot_count (struct snapshot *snapshot, uint64_t bytes);
void snapshot_uncount (struct snapshot *snapshot, uint64_t bytes);

/* Queue COUNT linked jobs; each one's done ends with snapshot_job_ended. */
void snapshot_submit (struct snapshot *snapshot, struct flush_job *jobs,
                      uint64_t count);
void snapshot_job_ended (struct snapshot *snapshot);

/* Chunks and bytes.  The last chunk may be short. */
static inline uint64_t
snapshot_chunks (const struct snapshot *snapshot)
{
  return (snapshot->size + snapshot->options.chunk_size - 1)
         >> snapshot->chunk_shift;
}

/* Bytes of COUNT chunks from FIRST on. */
static inline uint64_t
snapshot_bytes (const struct snapshot *snapshot, uint64_t first, uint64_t count)
{
  const uint64_t start = first << snapshot->chunk_shift;
  const uint64_t bytes = count << snapshot->chunk_shift;

  return bytes < snapshot->size - start ? bytes : snapshot->size - start;
}

#endif
