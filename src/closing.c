/* SPDX-License-Identifier: BSD-3-Clause */
/* To make all copies stable:
 *
 *   1  from here on writes, and new snapshots, are at level stable
 *   2  for each layer: all copies whose bits were set early are stored
 *   3  the index has all that has its bit (a sweep; at the other levels that
 *      is so already, and the sweep just waits for what was before 1)
 *   4  its files are synced, and the origin
 *   5  the catalogue says so
 *
 * If a layer cannot be made so, the catalogue goes on saying what was true of
 * all before; it is tried once more when nobody writes any more, and then that
 * layer breaks.
 *
 * A thread does all of it, since the store may hang: the server ends without
 * it then.
 */

#include "closing.h"
#include "commit.h"
#include "identity.h"
#include "lookup.h"
#include "report.h"
#include "scoped.h"
#include "slow-sync.h"
#include "store.h"
#include "storefile.h"

#include <errno.h>
#include <string.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

struct closing {
  struct snapset *set;
  pthread_t thread;
  bool started; /* of who starts and stops it */

  pthread_mutex_t lock;
  pthread_cond_t changed;
  bool finish, ended; /* under LOCK */

  _Atomic unsigned steps; /* done towards the end */
};

/* --- one layer ----------------------------------------------------------- */

/* A sweep and who waits for it. */
struct waiting {
  struct commit_sweep sweep; /* first */
  struct flush_job job;      /* begins it, on the flusher's thread */
  struct snapshot *snapshot;
  pthread_mutex_t lock;
  pthread_cond_t changed;
  bool ended;
  int error;
  int users; /* under LOCK, like those two: whoever is last frees it */
};

static void
release_waiting (struct waiting *waiting)
{
  pthread_mutex_lock (&waiting->lock);
  const bool last = --waiting->users == 0;
  pthread_mutex_unlock (&waiting->lock);
  if (!last)
    return;
  pthread_cond_destroy (&waiting->changed);
  pthread_mutex_destroy (&waiting->lock);
  free (waiting);
}

static void
end_sweep (struct waiting *waiting, int error)
{
  struct snapshot *snapshot = waiting->snapshot;

  {
    SCOPED_LOCK (&waiting->lock);
    waiting->ended = true;
    waiting->error = error;
    pthread_cond_signal (&waiting->changed);
  }
  release_waiting (waiting);
  snapshot_job_ended (snapshot);
}

static void
swept (struct commit_sweep *sweep, int error)
{
  end_sweep ((struct waiting *)sweep, error);
}

static void
begin_sweep (struct flush_job *job, int error)
{
  struct waiting *waiting
      = (struct waiting *)((char *)job - offsetof (struct waiting, job));

  if (error != 0)
    end_sweep (waiting, error);
  else
    commit_sweep (waiting->snapshot->commit, &waiting->sweep);
}

/* Have the index of a layer swept, ALL: written.  0, or -1 with errno. */
static int
sweep (struct snapshot *snapshot, bool all, const struct timespec *deadline)
{
  struct waiting *waiting = calloc (1, sizeof *waiting);
  pthread_condattr_t attr;
  int err = 0;

  if (waiting == NULL)
    return -1;
  waiting->sweep.all = all;
  waiting->sweep.done = swept;
  waiting->job = (struct flush_job){ .done = begin_sweep, .urgent = true };
  waiting->snapshot = snapshot;
  waiting->users = 2;
  pthread_mutex_init (&waiting->lock, NULL);
  pthread_condattr_init (&attr);
  pthread_condattr_setclock (&attr, CLOCK_MONOTONIC);
  pthread_cond_init (&waiting->changed, &attr);
  pthread_condattr_destroy (&attr);
  snapshot_submit (snapshot, &waiting->job, 1);
  pthread_mutex_lock (&waiting->lock);
  while (!waiting->ended && err == 0)
    err = pthread_cond_timedwait (&waiting->changed, &waiting->lock, deadline);
  if (waiting->ended)
    err = waiting->error;
  pthread_mutex_unlock (&waiting->lock);
  release_waiting (waiting);
  errno = err;
  return err == 0 ? 0 : -1;
}

/* Steps 2 and 3 for one layer.  0, or -1 with errno. */
static int
write_index (struct snapshot *snapshot)
{
  struct timespec deadline;

  clock_gettime (CLOCK_MONOTONIC, &deadline);
  deadline.tv_sec += snapshot->options.cow_timeout;
  if (snapshot_await_early (snapshot, &deadline) == -1)
    return -1;
  if (snapshot_is_failing (snapshot)) { /* its copies ended so */
    snapshot_await_break (snapshot);
    return 0;
  }
  if (sweep (snapshot, snapshot->unindexed, &deadline) == -1)
    return -1;
  snapshot->unindexed = false;
  return 0;
}

/* Step 4. */
static int
sync_files (struct closing *closing, const struct backfile *backfile)
{
  for (unsigned part = 0; part < backfile->parts; part++)
    if (slow_sync (backfile->part[part].fd, &closing->steps) == -1)
      return -1;
  return 0;
}

static void
give_up (struct snapshot *snapshot, int err)
{
  snapshot_break (snapshot, err,
                  "backing store %s: its copies could not be made stable when "
                  "the server ended: %s",
                  backfile_name (snapshot->backfile), strerror (err));
  snapshot_await_break (snapshot);
}

/* One that cannot be made stable breaks: when there is no more time, LAST; or
 * if a sync failed, which is told once, so that another would seem to do.
 */
static int
harden_layer (struct closing *closing, struct snapshot *snapshot, bool last)
{
  if (snapshot->commit == NULL || snapshot_is_broken (snapshot)
      || atomic_load (&snapshot->gone))
    return 0;
  if (write_index (snapshot) == -1) {
    const int err = errno;
    if (snapshot_is_broken (snapshot) || atomic_load (&snapshot->gone))
      return 0;
    if (last) {
      give_up (snapshot, err);
      return 0;
    }
    report_error ("snapshot %u: backing store %s: its copies cannot be made "
                  "stable yet: %s",
                  snapshot->number, backfile_name (snapshot->backfile),
                  strerror (err));
    return -1;
  }
  if (!snapshot_is_broken (snapshot)
      && sync_files (closing, snapshot->backfile) == -1)
    give_up (snapshot, errno);
  return 0;
}

/* --- all of them --------------------------------------------------------- */

/* Step 1; returns the layers, pinned.  NULL with errno. */
static struct snapshot **
raise_levels (struct snapset *set, size_t *count)
{
  SCOPED_LOCK (&set->births);
  SCOPED_LOCK (&set->mutations);
  struct snapshot **list = snapset_list (set, true, count);
  if (list == NULL)
    return NULL;
  /* No write may be on its way at the level of before. */
  pthread_rwlock_wrlock (&set->gate);
  set->ending = true;
  for (size_t i = 0; i < *count; i++)
    atomic_store (&list[i]->level, DURABILITY_STABLE);
  pthread_rwlock_unlock (&set->gate);
  return list;
}

/* LAST: nobody writes any more.  0, or -1 after logging. */
static int
harden (struct closing *closing, bool last)
{
  struct snapset *set = closing->set;
  size_t count;
  int r = 0;

  struct snapshot **list = raise_levels (set, &count);
  if (list == NULL) {
    report_error ("no memory to make the snapshots stable: %m");
    return -1;
  }
  for (size_t i = 0; i < count; i++) {
    r |= harden_layer (closing, list[i], last);
    snapset_unpin (set, list[i]);
  }
  free (list);
  if (r == -1
      || (count > 0
          && origin_flush_slowly (set->origin, &closing->steps) == -1))
    return -1;
  return store_set_stable (set->shared.store);
}

/* Counters of all snapshots into their records.  Nothing else runs. */
static void
save_counters (struct snapset *set)
{
  for (struct snapshot *s = set->last; s != NULL; s = s->older) {
    struct catalog_layer *record = s->record;

    if (snapshot_is_broken (s))
      continue; /* nothing is known of one that is absent */
    record->copied = atomic_load (&s->copied);
    record->chunks_copied = bitmap_weight (&s->hastrans);
    record->chunks_free = bitmap_weight (&s->free);
    record->chunks_unreadable = bitmap_weight (&s->unreadable);
    record->waits = atomic_load (&s->waits);
    record->flush_errors = atomic_load (&s->flush_errors);
    record->reads_origin = record->reads_memory = 0;
    record->reads_backfile = record->reads_free = 0;
    for (unsigned i = 0; i < STRIPES; i++) {
      record->reads_origin += atomic_load (&s->reads[i].origin);
      record->reads_memory += atomic_load (&s->reads[i].memory);
      record->reads_backfile += atomic_load (&s->reads[i].backfile);
      record->reads_free += atomic_load (&s->reads[i].free);
    }
  }
}

/* Note that the store is closed, with the origin as it is now. */
static void
end_store (struct snapset *set)
{
  struct catalog_origin figures;

  if (identity_take (set->origin, true, &figures) == -1)
    return;
  save_counters (set);
  store_end (set->shared.store, &figures);
  free (figures.path);
  free (figures.identity);
}

/* --- the thread ---------------------------------------------------------- */

/* Wait for who ends the server to say that nobody writes any more. */
static void
await_finish (struct closing *closing)
{
  SCOPED_LOCK (&closing->lock);
  while (!closing->finish)
    pthread_cond_wait (&closing->changed, &closing->lock);
}

static void *
watch (void *arg)
{
  struct closing *closing = arg;

  /* The end interrupts it. */
  while (nbdkit_nanosleep (3600, 0) == 0)
    ;
  harden (closing, false);
  await_finish (closing);
  /* Once more, for what has happened since. */
  if (harden (closing, true) == 0)
    end_store (closing->set);

  SCOPED_LOCK (&closing->lock);
  closing->ended = true;
  pthread_cond_broadcast (&closing->changed);
  return NULL;
}

struct closing *
closing_create (struct snapset *set)
{
  struct closing *closing = calloc (1, sizeof *closing);
  pthread_condattr_t attr;

  if (closing == NULL) {
    report_error ("no memory for the end of the server: %m");
    return NULL;
  }
  closing->set = set;
  pthread_mutex_init (&closing->lock, NULL);
  pthread_condattr_init (&attr);
  pthread_condattr_setclock (&attr, CLOCK_MONOTONIC);
  pthread_cond_init (&closing->changed, &attr);
  pthread_condattr_destroy (&attr);
  return closing;
}

void
closing_free (struct closing *closing)
{
  if (closing == NULL)
    return;
  pthread_cond_destroy (&closing->changed);
  pthread_mutex_destroy (&closing->lock);
  free (closing);
}

int
closing_start (struct closing *closing)
{
  const int err = pthread_create (&closing->thread, NULL, watch, closing);

  if (err != 0) {
    errno = err;
    report_error ("fssnap: cannot start the thread that watches for the end: "
                  "%m");
    return -1;
  }
  closing->started = true;
  return 0;
}

int
closing_finish (struct closing *closing, unsigned timeout)
{
  if (!closing->started)
    return 0;
  pthread_mutex_lock (&closing->lock);
  closing->finish = true;
  pthread_cond_broadcast (&closing->changed);
  /* However long it takes, as long as it gets on. */
  for (unsigned steps = 0; !closing->ended;) {
    struct timespec deadline;
    int err = 0;

    clock_gettime (CLOCK_MONOTONIC, &deadline);
    deadline.tv_sec += timeout;
    while (!closing->ended && err == 0)
      err = pthread_cond_timedwait (&closing->changed, &closing->lock,
                                    &deadline);
    const unsigned now = atomic_load (&closing->steps);
    if (!closing->ended && now == steps)
      break;
    steps = now;
  }
  const bool ended = closing->ended;
  pthread_mutex_unlock (&closing->lock);
  if (!ended)
    return -1;
  pthread_join (closing->thread, NULL);
  closing->started = false;
  return 0;
}

void
closing_unstarted (struct snapset *set)
{
  _Atomic unsigned steps = 0;

  /* What it found was whole, but perhaps not on stable storage. */
  for (const struct snapshot *s = set->last; s != NULL; s = s->older)
    if (s->commit != NULL && storefile_sync (s->backfile) == -1)
      return;
  if (origin_flush_slowly (set->origin, &steps) == 0)
    end_store (set);
}
