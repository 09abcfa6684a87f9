/* SPDX-License-Identifier: BSD-3-Clause */
/* How a snapshot ends.  A writer that cannot keep the old content marks
 * the snapshot broken before it overwrites the origin, and every reader
 * looks at the mark after it has read: so no read returns what came later.
 * Then whoever waits for room or for a translation is woken and goes on.
 *
 * The space is given back on the flusher's thread, when the last job has
 * ended: a write still under way would make the file grow again, and the
 * store may be the very thing that hangs, which no client's thread should
 * touch.  PENDING counts the jobs for that; one more, counted from the
 * start, stands for the discard job that snapshot_release queues, when the
 * snapshot breaks or is deleted and no older one needs it.
 */

#include "snapshot.h"
#include "report.h"
#include "scoped.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* The most that is read and stored in one step.  Larger steps do not make
 * the copy faster, and each holds that much of max-memory.
 */
#define RUN_LIMIT ((uint64_t)1 << 20)

/* Steps that must fit into max-memory, so that one can be read while others
 * are stored.
 */
#define RUNS_IN_MEMORY 8

/* The part of max-memory that one snapshot's writes may hold that have
 * begun: if its store hangs they cannot be taken back, and other snapshots
 * need memory too.
 */
#define UNDER_WAY_SHARE 4

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

/* The parts that can fail to be made.  0, or -1 after logging. */
static int
make_parts (struct snapshot *snapshot, const struct snapshot_options *options,
            const char *origin)
{
  const struct backfile_options backfile_options = {
    .store = options->backing_store,
    .part_size = options->backfile_size,
    .size = snapshot->size,
    .chunk_size = options->chunk_size,
    .origin = origin,
  };
  const uint64_t memory = throttle_limit (snapshot->shared->throttle);
  const uint64_t chunks = snapshot_chunks (snapshot);

  if (options->name != NULL)
    snapshot->name = strdup (options->name);
  snapshot->flusher
      = flusher_create (snapshot->shared->engine, snapshot->shared->fallback,
                        memory / UNDER_WAY_SHARE);
  if ((options->name != NULL && snapshot->name == NULL)
      || snapshot->flusher == NULL
      || bitmap_init (&snapshot->hastrans, chunks) == -1
      || bitmap_init (&snapshot->free, chunks) == -1
      || transtbl_init (&snapshot->table,
                        memory / throttle_least (options->chunk_size))
             == -1) {
    report_error ("snapshot %u: no memory for its tables: %m",
                  snapshot->number);
    return -1;
  }
  snapshot->backfile = backfile_create (&backfile_options);
  return snapshot->backfile == NULL ? -1 : 0;
}

struct snapshot *
snapshot_create (const struct snapshot_options *options, unsigned number,
                 uint64_t size, const char *origin,
                 const struct snapshot_shared *shared)
{
  struct snapshot *snapshot
      = aligned_alloc (_Alignof(struct snapshot), sizeof *snapshot);

  assert (options->on_error == ON_ERROR_BREAK_SNAPSHOT
          || options->durability >= DURABILITY_WRITTEN);
  if (snapshot == NULL) {
    report_error ("snapshot %u: %m", number);
    return NULL;
  }
  memset (snapshot, 0, sizeof *snapshot);
  snapshot->number = number;
  snapshot->options = *options;
  snapshot->options.name = NULL;
  snapshot->options.creator = NULL;
  snapshot->options.backing_store = NULL;
  snapshot->creator = options->creator;
  snapshot->size = size;
  snapshot->chunk_shift = (unsigned)__builtin_ctzll (options->chunk_size);
  snapshot->run_limit
      = run_limit (options->chunk_size, throttle_limit (shared->throttle));
  snapshot->shared = shared;
  atomic_init (&snapshot->pending, 1);
  atomic_init (&snapshot->copy_error, EIO);
  pthread_mutex_init (&snapshot->lock, NULL);
  if (make_parts (snapshot, options, origin) == -1) {
    const int err = errno;
    snapshot_free (snapshot);
    errno = err;
    return NULL;
  }
  return snapshot;
}

void
snapshot_free (struct snapshot *snapshot)
{
  if (snapshot == NULL)
    return;
  flusher_free (snapshot->flusher);
  backfile_free (snapshot->backfile);
  transtbl_free (&snapshot->table);
  bitmap_free (&snapshot->free);
  bitmap_free (&snapshot->hastrans);
  pthread_mutex_destroy (&snapshot->lock);
  free (snapshot->why);
  free (snapshot->name);
  free (snapshot);
}

char *
snapshot_why_broken (struct snapshot *snapshot)
{
  SCOPED_LOCK (&snapshot->lock);
  return snapshot->why != NULL ? strdup (snapshot->why) : NULL;
}

void
snapshot_wake (struct snapshot *snapshot)
{
  transtbl_wake (&snapshot->table);
  throttle_wake (snapshot->shared->throttle);
}

static void
discard_done (struct flush_job *job, int error)
{
  (void)error;
  snapshot_job_ended (
      (struct snapshot *)((char *)job - offsetof (struct snapshot, discard)));
}

void
snapshot_release (struct snapshot *snapshot)
{
  if (atomic_exchange (&snapshot->gone, true))
    return;
  snapshot->discard = (struct flush_job){ .done = discard_done };
  flusher_submit (snapshot->flusher, &snapshot->discard);
}

void
snapshot_break (struct snapshot *snapshot, int err, const char *format, ...)
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
    snapshot->broken_errno = err;
    snapshot->broken_at = time (NULL);
    /* Sequentially consistent: before the overwrite that follows, and
     * before the waiters look at RETIRED.
     */
    atomic_store (&snapshot->broken, true);
    atomic_store (&snapshot->retired, true);
  }
  report_error ("snapshot %u is broken and reads as errors from now on; the "
                "origin is not affected: %s",
                snapshot->number, why != NULL ? why : "no memory");
  snapshot_wake (snapshot);
  snapshot_release (snapshot);
  bell_ring (snapshot->shared->bell);
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
snapshot_count_anyway (struct snapshot *snapshot, uint64_t bytes)
{
  atomic_fetch_add_explicit (&snapshot->copied, bytes, memory_order_relaxed);
}

void
snapshot_uncount (struct snapshot *snapshot, uint64_t bytes)
{
  atomic_fetch_sub_explicit (&snapshot->copied, bytes, memory_order_relaxed);
}

uint64_t
snapshot_set_free (struct snapshot *snapshot, uint64_t offset, uint64_t length)
{
  const uint64_t chunk_size = snapshot->options.chunk_size;
  const uint64_t end = offset + length;
  uint64_t chunk = (offset + chunk_size - 1) >> snapshot->chunk_shift;
  /* The last chunk may be short. */
  const uint64_t last = end == snapshot->size ? snapshot_chunks (snapshot)
                                              : end >> snapshot->chunk_shift;
  uint64_t taken = 0;

  atomic_store (&snapshot->has_free, true);
  while (chunk < last) {
    uint64_t next = (chunk / BITMAP_GROUP + 1) * BITMAP_GROUP;
    if (next > last)
      next = last;
    taken += transtbl_set_free (
        &snapshot->table, &snapshot->hastrans, &snapshot->free,
        chunk / BITMAP_GROUP,
        bitmap_mask (chunk % BITMAP_GROUP, (unsigned)(next - chunk)));
    chunk = next;
  }
  return taken;
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
  struct bell *bell = snapshot->shared->bell;

  /* Only this thread, the flusher's, counts down. */
  if (atomic_load (&snapshot->pending) == 1)
    backfile_discard (snapshot->backfile);
  const uint64_t left = atomic_fetch_sub (&snapshot->pending, 1) - 1;
  /* At 0 it may be freed at once.  At 1 it is not, as its discard job would
   * have to pass here; and whoever deletes it after this look rings too.
   */
  if (left == 0 || (left == 1 && snapshot_is_deleted (snapshot)))
    bell_ring (bell);
}
