/* SPDX-License-Identifier: BSD-3-Clause */
/* The flusher: one thread that writes copied chunks to backing files, and
 * helpers for what cannot wait for it.
 *
 * Jobs are queued by anyone and done by the flusher's thread, which merges
 * neighbours, repeats what was short or interrupted and reports each job's
 * own error.  Who queues a job keeps it and its data until its DONE ran.
 */

#ifndef FSSNAP_FLUSHER_H
#define FSSNAP_FLUSHER_H

#include "engine.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

struct flush_job {
  struct flush_job *next;       /* the flusher's, once queued */
  int fd;                       /* and OFFSET, bytes: where to */
  uint64_t offset;              /*                             */
  const void *data;             /* what, LENGTH bytes; none: DONE is just */
  size_t length;                /* called on the flusher's thread */
  bool sync;                    /* nothing to write: what was written of FD
                                   goes to stable storage */
  bool urgent;                  /* someone waits for DONE */
  bool anywhere;                /* a helper may do it */
  const atomic_bool *cancelled; /* true: do not begin, fail with ECANCELED */

  /* On the flusher's thread or, if it may be done ANYWHERE, on any thread:
   * ERROR is 0 or an errno (never negative).  May free the job.
   */
  void (*done) (struct flush_job *job, int error);
};

struct flusher;

/* A flusher without a thread yet: jobs may be queued.  TYPE is the engine
 * to use; FALLBACK, if not NULL, is used when TYPE cannot be made.  Once
 * writes of MOST bytes are under way no more are begun; the thread may have
 * half of it, its helpers the other half.  NULL with errno.
 */
struct flusher *flusher_create (const struct engine_type *type,
                                const struct engine_type *fallback,
                                size_t most);

/* Start the thread.  0, or -1 with errno, and a message. */
int flusher_start (struct flusher *flusher);

/* Queue a list of jobs, linked by NEXT.  Never blocks on I/O.  Of jobs that
 * come after the flusher has ended, nobody hears again.
 */
void flusher_submit (struct flusher *flusher, struct flush_job *jobs);

/* Fail what is queued with ECANCELED, wait for what has begun, and end the
 * thread.  0, or -1 if what has begun did not end within TIMEOUT seconds:
 * then the flusher still runs and neither it nor what its jobs point to
 * may be freed.
 */
int flusher_stop (struct flusher *flusher, unsigned timeout);

/* The two halves of it, for who stops several; DEADLINE is of
 * CLOCK_MONOTONIC.
 */
void flusher_ask_to_stop (struct flusher *flusher);
int flusher_await_stop (struct flusher *flusher,
                        const struct timespec *deadline);

/* The flusher must not be running. */
void flusher_free (struct flusher *flusher);

#endif
