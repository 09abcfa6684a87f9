/* SPDX-License-Identifier: BSD-3-Clause */
/* How a snapshot breaks.  A writer that cannot keep the old content marks
 * the snapshot broken before it overwrites the origin, and every reader
 * looks at the mark after it has read: so no read returns what came later.
 * Then whoever waits for room or for a translation is woken and goes on.
 *
 * The space is given back on the flusher's thread, when the last job has
 * ended: a write still under way would make the file grow again, and the
 * store may be the very thing that hangs, which no client's thread should
 * touch.  PENDING counts the jobs for that; one more, counted from the
 * start, stands for the discard job that snapshot_break queues.
 */

#include "snapshot.h"
#include "scoped.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

/* The most that is read and stored in one step.  Larger steps do not make
 * the copy faster, and each holds that much of max-memory.
 */
#define RUN_LIMIT ((uint64_t)1 << 20)

/* Steps that must fit into max-memory, so that one can be read while others
 * are stored.
 */
#define RUNS_IN_MEMORY 8

/* Runs of a whole bitmap group at most, and few enough of them. */
static uint64_t
run_limit (uint64_t chunk_size, uint64_t memory)
{
  uint64_t run = BITMAP_GROUP * chunk_size;

  while (run > chunk_size
         && (run > RUN_LIMIT || throttle_least (run) * RUNS_IN_MEMORY > memory))
    run /= 2;
  return run;
}

struct snapshot *
snapshot_create (const struct snapshot_options *options, unsigned number,
                 uint64_t size, const char *origin, struct flusher *flusher,
                 struct throttle *throttle)
{
  const struct backfile_options backfile_options = {
    .store = options->backing_store,
    .part_size = options->backfile_size,
    .size = size,
    .chunk_size = options->chunk_size,
    .origin = origin,
  };
  const uint64_t memory = throttle_limit (throttle);
  struct snapshot *snapshot = calloc (1, sizeof *snapshot);

  assert (options->on_error == ON_ERROR_BREAK_SNAPSHOT
          || options->durability >= DURABILITY_WRITTEN);
  if (snapshot == NULL) {
    nbdkit_error ("snapshot %u: %m", number);
    return NULL;
  }
  snapshot->number = number;
  snapshot->options = *options;
  snapshot->size = size;
  snapshot->chunk_shift = (unsigned)__builtin_ctzll (options->chunk_size);
  snapshot->run_limit = run_limit (options->chunk_size, memory);
  snapshot->created = time (NULL);
  snapshot->flusher = flusher;
  snapshot->throttle = throttle;
  atomic_init (&snapshot->pending, 1);
  atomic_init (&snapshot->copy_error, EIO);
  pthread_mutex_init (&snapshot->lock, NULL);
  if (bitmap_init (&snapshot->hastrans, snapshot_chunks (snapshot)) == -1
      || transtbl_init (&snapshot->table,
                        memory / throttle_least (options->chunk_size))
             == -1) {
    nbdkit_error ("snapshot %u: no memory for its tables: %m", number);
    snapshot_free (snapshot);
    return NULL;
  }
  snapshot->backfile = backfile_create (&backfile_options);
  if (snapshot->backfile == NULL) {
    snapshot_free (snapshot);
    return NULL;
  }
  return snapshot;
}

void
snapshot_free (struct snapshot *snapshot)
{
  if (snapshot == NULL)
    return;
  backfile_free (snapshot->backfile);
  transtbl_free (&snapshot->table);
  bitmap_free (&snapshot->hastrans);
  pthread_mutex_destroy (&snapshot->lock);
  free (snapshot->why);
  free (snapshot);
}

char *
snapshot_why_broken (struct snapshot *snapshot)
{
  SCOPED_LOCK (&snapshot->lock);
  return snapshot->why != NULL ? strdup (snapshot->why) : NULL;
}

static void
discard_done (struct flush_job *job, int error)
{
  (void)error;
  snapshot_job_ended (
      (struct snapshot *)((char *)job - offsetof (struct snapshot, discard)));
}

void
snapshot_break (struct snapshot *snapshot, const char *format, ...)
{
  va_list args;
  char *why;

  va_start (args, format);
  if (vasprintf (&why, format, args) == -1)
    why = strdup ("no memory");
  va_end (args);
  {
    SCOPED_LOCK (&snapshot->lock);
    if (snapshot->broken) {
      free (why);
      return;
    }
    snapshot->why = why;
    /* Sequentially consistent: before the overwrite that follows, and
     * before the waiters look at it.
     */
    atomic_store (&snapshot->broken, true);
  }
  nbdkit_error ("snapshot %u is broken and reads as errors from now on; the "
                "origin is not affected: %s",
                snapshot->number, why != NULL ? why : "no memory");
  transtbl_wake (&snapshot->table);
  throttle_wake (snapshot->throttle);
  snapshot->discard = (struct flush_job){ .done = discard_done };
  flusher_submit (snapshot->flusher, &snapshot->discard);
}

bool
snapshot_count (struct snapshot *snapshot, uint64_t bytes)
{
  const uint64_t limit = snapshot->options.maxsize;
  uint64_t copied
      = atomic_load_explicit (&snapshot->copied, memory_order_relaxed);

  do
    if (limit > 0 && copied + bytes > limit)
      return false;
  while (!atomic_compare_exchange_weak_explicit (
      &snapshot->copied, &copied, copied + bytes, memory_order_relaxed,
      memory_order_relaxed));
  return true;
}

void
snapshot_uncount (struct snapshot *snapshot, uint64_t bytes)
{
  atomic_fetch_sub_explicit (&snapshot->copied, bytes, memory_order_relaxed);
}

void
snapshot_submit (struct snapshot *snapshot, struct flush_job *jobs,
                 uint64_t count)
{
  atomic_fetch_add (&snapshot->pending, count);
  flusher_submit (snapshot->flusher, jobs);
}

void
snapshot_job_ended (struct snapshot *snapshot)
{
  if (atomic_fetch_sub (&snapshot->pending, 1) == 1)
    backfile_discard (snapshot->backfile);
}
