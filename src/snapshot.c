/* SPDX-License-Identifier: BSD-3-Clause */
/* How a snapshot ends.  A writer that cannot keep the old content marks
 * the snapshot broken before it overwrites the origin, and every reader
 * looks at the mark after it has read: so no read returns what came later.
 * Then whoever waits for room or for a translation is woken and goes on.
 *
 * In a store the mark would be lost with the server, and the snapshot come
 * back with stale content.  So a snapshot that is given up is failing first:
 * no more copies are begun, nothing is overwritten that it does not have, and
 * writers wait, outside the gate, until the store has noted it.  A store that
 * hangs is not waited for: a mark in shared memory says it then to the next
 * server, if the machine is not restarted meanwhile.
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
#include "store.h"

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
make_parts (struct snapshot *snapshot, const struct snapshot_options *options)
{
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
      || bitmap_init (&snapshot->unreadable, chunks) == -1
      || transtbl_init (&snapshot->table,
                        memory / throttle_least (options->chunk_size))
             == -1)
    goto error;
  if (snapshot->record == NULL || snapshot->backfile->parts == 0)
    return 0;
  snapshot->commit = commit_create (&(struct commit_of){
      .flusher = snapshot->flusher,
      .backfile = snapshot->backfile,
      .hastrans = &snapshot->hastrans,
      .unreadable = &snapshot->unreadable,
      .level = &snapshot->level,
      .cancelled = &snapshot->gone,
      .serial = &snapshot->serial,
  });
  if (snapshot->commit != NULL)
    return 0;
error:
  report_error ("snapshot %u: no memory for its tables: %m", snapshot->number);
  return -1;
}

struct snapshot *
snapshot_create (const struct snapshot_options *options, unsigned number,
                 uint64_t size, struct backfile *backfile,
                 struct catalog_layer *record,
                 const struct snapshot_shared *shared)
{
  struct snapshot *snapshot
      = aligned_alloc (_Alignof(struct snapshot), sizeof *snapshot);
  pthread_condattr_t attr;

  assert (options->on_error == ON_ERROR_BREAK_SNAPSHOT
          || options->durability >= DURABILITY_WRITTEN);
  if (snapshot == NULL) {
    report_error ("snapshot %u: %m", number);
    backfile_free (backfile);
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
  snapshot->backfile = backfile;
  snapshot->record = record;
  atomic_init (&snapshot->level, options->durability);
  snapshot->unindexed = options->durability == DURABILITY_ASYNC;
  atomic_init (&snapshot->pending, 1);
  atomic_init (&snapshot->copy_error, EIO);
  pthread_mutex_init (&snapshot->lock, NULL);
  pthread_condattr_init (&attr);
  pthread_condattr_setclock (&attr, CLOCK_MONOTONIC);
  pthread_cond_init (&snapshot->changed, &attr);
  pthread_condattr_destroy (&attr);
  if (make_parts (snapshot, options) == -1) {
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
  {
    /* The store's thread may be on its way out of it. */
    SCOPED_LOCK (&snapshot->lock);
  }
  flusher_free (snapshot->flusher);
  commit_free (snapshot->commit);
  backfile_free (snapshot->backfile);
  transtbl_free (&snapshot->table);
  bitmap_free (&snapshot->unreadable);
  bitmap_free (&snapshot->free);
  bitmap_free (&snapshot->hastrans);
  pthread_cond_destroy (&snapshot->changed);
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

/* It is failing and the store knows, or there is none: broken, from now on. */
static void
enforce_break (struct snapshot *snapshot)
{
  {
    SCOPED_LOCK (&snapshot->lock);
    if (snapshot->broken)
      return;
    /* Sequentially consistent: before the overwrite that follows, and
     * before the waiters look at RETIRED.
     */
    atomic_store (&snapshot->broken, true);
    atomic_store (&snapshot->retired, true);
    pthread_cond_broadcast (&snapshot->changed);
  }
  snapshot_wake (snapshot);
  snapshot_release (snapshot);
  bell_ring (snapshot->shared->bell);
}

/* The store has been told. */
static void
told (void *arg)
{
  struct snapshot *snapshot = arg;
  struct bell *bell = snapshot->shared->bell;

  enforce_break (snapshot);
  atomic_store (&snapshot->telling, false); /* it may be freed from here on */
  bell_ring (bell);
}

void
snapshot_break (struct snapshot *snapshot, int err, const char *format, ...)
{
  va_list args;
  char *why;

  va_start (args, format);
  if (vasprintf (&why, format, args) == -1)
    why = NULL;
  va_end (args);
  {
    SCOPED_LOCK (&snapshot->lock);
    if (snapshot->failing) {
      free (why);
      return;
    }
    snapshot->why = why;
    snapshot->broken_errno = err;
    snapshot->broken_at = time (NULL);
    atomic_store (&snapshot->telling, snapshot->record != NULL);
    atomic_store (&snapshot->failing, true);
  }
  report_error ("snapshot %u is broken and reads as errors from now on; the "
                "origin is not affected: %s",
                snapshot->number, why != NULL ? why : "no memory");
  if (snapshot->record == NULL) {
    enforce_break (snapshot);
    return;
  }
  /* Who waits for a copy waits in vain. */
  atomic_store (&snapshot->retired, true);
  snapshot_wake (snapshot);
  store_tell_broken (snapshot->shared->store, snapshot->record, err,
                     snapshot->broken_at, why != NULL ? why : "no memory", told,
                     snapshot);
}

void
snapshot_await_break (struct snapshot *snapshot)
{
  struct timespec deadline;
  int err = 0;

  clock_gettime (CLOCK_MONOTONIC, &deadline);
  deadline.tv_sec += SNAPSHOT_TELL_PATIENCE;
  {
    SCOPED_LOCK (&snapshot->lock);
    while (!snapshot->broken && err == 0)
      err = pthread_cond_timedwait (&snapshot->changed, &snapshot->lock,
                                    &deadline);
    if (snapshot->broken)
      return;
  }
  store_mark_broken (snapshot->shared->store, snapshot->record);
  enforce_break (snapshot);
}

/* The store has been told of one that was broken before. */
static void
gave_up (void *arg)
{
  struct snapshot *snapshot = arg;

  SCOPED_LOCK (&snapshot->lock);
  pthread_cond_broadcast (&snapshot->changed);
  atomic_store (&snapshot->telling, false);
}

void
snapshot_give_up (struct snapshot *snapshot, const char *why)
{
  report_error ("snapshot %u is broken for good: %s", snapshot->number, why);
  atomic_store (&snapshot->telling, true);
  store_tell_broken (snapshot->shared->store, snapshot->record, ESTALE,
                     time (NULL), why, gave_up, snapshot);
}

void
snapshot_await_given_up (struct snapshot *snapshot,
                         const struct timespec *deadline)
{
  int err = 0;

  {
    SCOPED_LOCK (&snapshot->lock);
    while (atomic_load (&snapshot->telling) && err == 0)
      err = pthread_cond_timedwait (&snapshot->changed, &snapshot->lock,
                                    deadline);
  }
  if (err != 0)
    store_mark_broken (snapshot->shared->store, snapshot->record);
}

void
snapshot_set_broken (struct snapshot *snapshot, int err, time_t when,
                     const char *why)
{
  snapshot->why = strdup (why);
  snapshot->broken_errno = err;
  snapshot->broken_at = when;
  atomic_store (&snapshot->failing, true);
  atomic_store (&snapshot->broken, true);
  atomic_store (&snapshot->retired, true);
}

int
snapshot_await_early (struct snapshot *snapshot,
                      const struct timespec *deadline)
{
  int err = 0;

  SCOPED_LOCK (&snapshot->lock);
  while (atomic_load (&snapshot->early) > 0 && !snapshot->broken && err == 0)
    err = pthread_cond_timedwait (&snapshot->changed, &snapshot->lock,
                                  deadline);
  if (snapshot->broken)
    err = EIO;
  errno = err;
  return err == 0 ? 0 : -1;
}

void
snapshot_early_ended (struct snapshot *snapshot)
{
  if (atomic_fetch_sub (&snapshot->early, 1) > 1)
    return;
  SCOPED_LOCK (&snapshot->lock);
  pthread_cond_broadcast (&snapshot->changed);
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

  uint64_t left = atomic_load (&snapshot->pending);

  /* Who ends the last job, on whatever thread, discards before he counts
   * down: at 0 it may be freed.
   */
  do
    if (left == 1)
      backfile_discard (snapshot->backfile);
  while (!atomic_compare_exchange_weak (&snapshot->pending, &left, left - 1));
  left--;
  /* At 0 it may be freed at once.  At 1 it is not, as its discard job would
   * have to pass here; and whoever deletes it after this look rings too.
   */
  if (left == 0 || (left == 1 && snapshot_is_deleted (snapshot)))
    bell_ring (bell);
}
