/* SPDX-License-Identifier: BSD-3-Clause */
/* Which layer a write copies into.  As long as the newest snapshot is the
 * last layer, it is that one.  Once newer ones were deleted whose copies it
 * reads, a write has to copy what none of the layers from the newest
 * snapshot on has; and it reads what it copies from the origin, never from
 * another layer, whose store may hang.  For that each chunk must be wholly
 * in or wholly not in each of these layers: so the one with the smallest
 * chunks is the target.  That is the newest snapshot itself, unless one
 * with smaller chunks was taken later and deleted.
 *
 * What a deleted layer holds is needed by the nearest older snapshot that
 * is neither deleted nor broken, if there is one and no layer broke in
 * between, since nobody can read past that one.  Else nobody needs it and
 * it is released at once; it leaves the chain when reclaim.c comes to it.
 *
 * Making a snapshot's files may hang as the store may.  No lock is held
 * meanwhile; its number and name are reserved.
 */

#include "snapset.h"
#include "create.h"
#include "lookup.h"
#include "report.h"
#include "scoped.h"
#include "store.h"
#include "storefile.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct snapset *
snapset_create (struct origin *origin, const struct engine_type *engine,
                const struct engine_type *fallback, uint64_t max_memory)
{
  struct snapset *set = aligned_alloc (_Alignof(struct snapset), sizeof *set);
  struct throttle *throttle = throttle_create (max_memory);
  pthread_rwlockattr_t attr;
  pthread_condattr_t condattr;

  if (set == NULL || throttle == NULL) {
    report_error ("no memory for the set of snapshots: %m");
    free (set);
    if (throttle != NULL)
      throttle_free (throttle);
    return NULL;
  }
  memset (set, 0, sizeof *set);
  set->origin = origin;
  set->shared = (struct snapshot_shared){ .engine = engine,
                                          .fallback = fallback,
                                          .throttle = throttle,
                                          .bell = &set->bell,
                                          .moves = &set->moves };
  bell_init (&set->bell);
  grace_init (&set->grace, &set->bell);
  /* The default kind prefers readers: with requests always in flight a
   * creation might wait for ever.
   */
  pthread_rwlockattr_init (&attr);
  pthread_rwlockattr_setkind_np (&attr,
                                 PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
  pthread_rwlock_init (&set->gate, &attr);
  pthread_rwlockattr_destroy (&attr);
  pthread_mutex_init (&set->births, NULL);
  pthread_mutex_init (&set->watching, NULL);
  pthread_mutex_init (&set->mutations, NULL);
  pthread_mutex_init (&set->lock, NULL);
  pthread_condattr_init (&condattr);
  pthread_condattr_setclock (&condattr, CLOCK_MONOTONIC);
  pthread_cond_init (&set->closed, &condattr);
  pthread_condattr_destroy (&condattr);
  return set;
}

void
snapset_use_store (struct snapset *set, struct store *store)
{
  set->shared.store = store;
}

static struct snapshot *
newer (struct snapshot *layer)
{
  return atomic_load_explicit (&layer->newer, memory_order_acquire);
}

void
snapset_free (struct snapset *set)
{
  if (set == NULL)
    return;
  while (set->last != NULL) {
    struct snapshot *older = set->last->older;
    snapshot_free (set->last);
    set->last = older;
  }
  while (set->dropped != NULL) {
    struct snapshot *snapshot = set->dropped;
    set->dropped = snapshot->next;
    /* The store has forgotten it. */
    if (snapshot->dropped && snapshot->record != NULL)
      catalog_free_layer (snapshot->record);
    snapshot_free (snapshot);
  }
  throttle_free (set->shared.throttle);
  pthread_cond_destroy (&set->closed);
  pthread_rwlock_destroy (&set->gate);
  pthread_mutex_destroy (&set->births);
  pthread_mutex_destroy (&set->watching);
  pthread_mutex_destroy (&set->mutations);
  pthread_mutex_destroy (&set->lock);
  bell_destroy (&set->bell);
  free (set);
}

int
snapset_start (struct snapset *set)
{
  SCOPED_LOCK (&set->mutations);
  for (struct snapshot *s = set->last; s != NULL; s = s->older)
    if (flusher_start (s->flusher) == -1)
      return -1;
  {
    SCOPED_LOCK (&set->lock);
    set->running = true;
  }
  return 0;
}

int
snapset_stop (struct snapset *set, unsigned timeout)
{
  struct timespec deadline;
  int r = 0;

  clock_gettime (CLOCK_MONOTONIC, &deadline);
  deadline.tv_sec += timeout;
  SCOPED_LOCK (&set->mutations);
  /* All are asked before the first is waited for: one that hangs takes no
   * other's time.
   */
  for (struct snapshot *s = set->last; s != NULL; s = s->older)
    flusher_ask_to_stop (s->flusher);
  for (struct snapshot *s = set->dropped; s != NULL; s = s->next)
    flusher_ask_to_stop (s->flusher);
  for (struct snapshot *s = set->last; s != NULL; s = s->older)
    r |= flusher_await_stop (s->flusher, &deadline);
  for (struct snapshot *s = set->dropped; s != NULL; s = s->next)
    r |= flusher_await_stop (s->flusher, &deadline);
  return r;
}

/* Choose newest and target anew; returns the target that was, if writers
 * that wait for it have to be woken once no lock is held.  All locks are
 * held.
 */
static struct snapshot *
relink (struct snapset *set)
{
  struct snapshot *const before = set->target;
  struct snapshot *newest = set->last;

  while (newest != NULL && snapshot_is_deleted (newest))
    newest = newest->older;
  struct snapshot *target = newest;
  if (newest != NULL)
    for (struct snapshot *s = newer (newest); s != NULL; s = newer (s))
      if (s->chunk_shift < target->chunk_shift && !snapshot_is_broken (s))
        target = s;
  atomic_store_explicit (&set->newest, newest, memory_order_release);
  set->target = target;
  if (target != NULL) {
    atomic_store (&target->retired, false);
    if (atomic_load (&target->failing)) /* it may have broken meanwhile */
      atomic_store (&target->retired, true);
  }
  if (before == NULL || before == target)
    return NULL;
  atomic_store (&before->retired, true);
  return before;
}

/* LOCK is held.  A deleted snapshot's number is held by its clients. */
static bool
is_number_taken (struct snapset *set, unsigned number)
{
  for (struct reservation *r = set->reserved; r != NULL; r = r->next)
    if (r->number == number)
      return true;
  for (struct snapshot *s = set->last; s != NULL; s = s->older)
    if (s->number == number && (s->clients > 0 || !snapshot_is_deleted (s)))
      return true;
  for (struct snapshot *s = set->dropped; s != NULL; s = s->next)
    if (s->number == number && s->clients > 0)
      return true;
  return false;
}

/* The lowest free number and the name are kept for a new snapshot.  0, or
 * -1 with errno, reported.
 */
static int
reserve (struct snapset *set, const char *name, struct reservation *reservation)
{
  if (name != NULL && !snapset_is_name (name)) {
    report_error ("a snapshot cannot be called '%s': a name has up to %d "
                  "letters, digits, '.', '_' and '-', begins with a letter or "
                  "a digit, and is not all digits",
                  name, SNAPSET_NAME_MAX);
    errno = EINVAL;
    return -1;
  }

  SCOPED_LOCK (&set->lock);
  unsigned taken = 0;
  if (name != NULL) {
    const struct snapshot *other = lookup_name (set, name, true);
    if (other != NULL)
      taken = other->number;
    for (const struct reservation *r = set->reserved; r != NULL; r = r->next)
      if (r->name != NULL && strcmp (r->name, name) == 0)
        taken = r->number;
  }
  if (taken != 0) {
    report_error ("there is a snapshot %s already: number %u", name, taken);
    errno = ENOTUNIQ; /* EEXIST would be of a file */
    return -1;
  }
  *reservation = (struct reservation){ .next = set->reserved,
                                       .number = 1,
                                       .name = name };
  while (is_number_taken (set, reservation->number))
    reservation->number++;
  set->reserved = reservation;
  return 0;
}

/* LOCK is held. */
static void
end_reservation (struct snapset *set, struct reservation *reservation)
{
  struct reservation **p = &set->reserved;

  while (*p != reservation)
    p = &(*p)->next;
  *p = reservation->next;
}

/* Where the origin has shrunk, older snapshots would read what is there if
 * it grows again.  MUTATIONS is held.
 */
static void
break_longer (struct snapset *set, uint64_t size)
{
  for (struct snapshot *s = set->last; s != NULL; s = s->older)
    if (s->size > size && !snapshot_is_deleted (s) && !snapshot_is_broken (s))
      snapshot_break (
          s, EIO, "the origin has shrunk from %" PRIu64 " to %" PRIu64 " bytes",
          s->size, size);
}

void
snapset_watch (struct snapset *set)
{
  struct timespec deadline;
  size_t count;

  SCOPED_LOCK (&set->watching);
  if (!atomic_load (&set->unwatched))
    return;
  struct snapshot **list = snapset_list (set, false, &count);
  if (list == NULL)
    return; /* the next write tries again */
  for (size_t i = 0; i < count; i++)
    if (list[i]->absent)
      snapshot_give_up (list[i], "the origin was written while it was refused");
  clock_gettime (CLOCK_MONOTONIC, &deadline);
  deadline.tv_sec += SNAPSHOT_TELL_PATIENCE;
  for (size_t i = 0; i < count; i++) {
    if (list[i]->absent)
      snapshot_await_given_up (list[i], &deadline);
    snapset_unpin (set, list[i]);
  }
  free (list);
  atomic_store (&set->unwatched, false);
}

/* The chain gets a layer more, at its end.  All locks are held.  As relink. */
static struct snapshot *
link_last (struct snapset *set, struct snapshot *snapshot)
{
  snapshot->older = set->last;
  if (set->last != NULL)
    atomic_store_explicit (&set->last->newer, snapshot, memory_order_release);
  else
    set->oldest = snapshot;
  set->last = snapshot;
  if (set->highest < snapshot->number)
    set->highest = snapshot->number;
  return relink (set);
}

void
snapset_adopt (struct snapset *set, struct snapshot *snapshot)
{
  SCOPED_LOCK (&set->mutations);
  pthread_rwlock_wrlock (&set->gate);
  {
    SCOPED_LOCK (&set->lock);
    link_last (set, snapshot);
    if (snapshot_is_deleted (snapshot))
      atomic_fetch_add (&set->deletions, 1); /* it may have work to do */
  }
  pthread_rwlock_unlock (&set->gate);
}

/* Put a snapshot at the chain's end.  False, and nothing is done, if the
 * origin's size is not what it was when the snapshot was made.
 */
static bool
append (struct snapset *set, struct snapshot *snapshot,
        struct reservation *reservation)
{
  struct snapshot *before;

  SCOPED_LOCK (&set->mutations);
  if (origin_size (set->origin) != (int64_t)snapshot->size)
    return false;
  break_longer (set, snapshot->size);
  pthread_rwlock_wrlock (&set->gate);
  {
    SCOPED_LOCK (&set->lock);
    snapshot->created = time (NULL);
    snapshot->pins = 1;
    before = link_last (set, snapshot);
    end_reservation (set, reservation);
  }
  pthread_rwlock_unlock (&set->gate);
  if (before != NULL) {
    snapshot_wake (before);
    bell_ring (&set->bell); /* a deleted one can be cleared away now */
  }
  return true;
}

/* Whether the snapshot may be deleted.  0, or -1 with errno, reported.  LOCK
 * is held.
 */
static int
check_deletable (struct snapshot *snapshot, const char *who, bool force,
                 const void *creator)
{
  if (snapshot == NULL) {
    report_error ("there is no snapshot %s", who != NULL ? who : "at all");
    errno = ENOENT;
    return -1;
  }
  if (force)
    return 0;
  if (snapshot->creator != NULL && snapshot->creator != creator) {
    report_error ("snapshot %u is being created; wait, or force the deletion",
                  snapshot->number);
    errno = EBUSY;
    return -1;
  }
  if (snapshot->clients > 0) {
    report_error ("snapshot %u is in use: %u connection%s %s it open; have "
                  "%s closed, or force the deletion",
                  snapshot->number, snapshot->clients,
                  snapshot->clients == 1 ? "" : "s",
                  snapshot->clients == 1 ? "has" : "have",
                  snapshot->clients == 1 ? "it" : "them");
    errno = EBUSY;
    return -1;
  }
  return 0;
}

/* Release the deleted layers that no snapshot reads any more; in a store that
 * is for reclaim.c, which tells the store first.  MUTATIONS is held.
 */
static void
release_unneeded (struct snapset *set)
{
  bool needed = false;

  for (struct snapshot *s = set->oldest; s != NULL; s = newer (s)) {
    if (snapshot_is_broken (s))
      needed = false;
    else if (!snapshot_is_deleted (s))
      needed = true;
    else if (!needed && s->record == NULL)
      snapshot_release (s);
  }
}

/* Delete a snapshot, or NULL, which is what WHO means.  MUTATIONS is held.
 * 0, or -1 with errno, reported.
 */
static int
delete_snapshot (struct snapset *set, struct snapshot *snapshot,
                 const char *who, bool force, const void *creator)
{
  struct snapshot *before = NULL;
  int r;

  {
    /* Not to stop the writers for nothing. */
    SCOPED_LOCK (&set->lock);
    if (check_deletable (snapshot, who, force, creator) == -1)
      return -1;
  }
  pthread_rwlock_wrlock (&set->gate);
  {
    SCOPED_LOCK (&set->lock);
    r = check_deletable (snapshot, who, force, creator);
    if (r == 0) {
      atomic_store (&snapshot->deleted, true);
      atomic_fetch_add (&set->deletions, 1);
      snapshot->creator = NULL;
      before = relink (set);
    }
  }
  pthread_rwlock_unlock (&set->gate);
  if (r == -1)
    return -1;
  if (before != NULL)
    snapshot_wake (before);
  release_unneeded (set);
  bell_ring (&set->bell);
  return 0;
}

/* The strongest durability of the snapshots in the store: what is newer than
 * they are keeps what they need.
 */
static enum durability
strongest (struct snapset *set)
{
  enum durability strongest = DURABILITY_ASYNC;

  SCOPED_LOCK (&set->lock);
  for (const struct snapshot *s = set->last; s != NULL; s = s->older)
    if (!snapshot_is_deleted (s) && (!snapshot_is_broken (s) || s->absent)
        && !s->options.ephemeral && s->options.durability > strongest)
      strongest = s->options.durability;
  return strongest;
}

/* The same for a snapshot in a store, whose chain has the same order.  0; 1
 * for false; or -1 with errno, reported.
 */
static int
append_in_store (struct snapset *set, struct snapshot *snapshot,
                 struct reservation *reservation)
{
  struct catalog_layer *record = snapshot->record;

  SCOPED_LOCK (&set->births);
  const enum durability durability = strongest (set);
  if (durability > snapshot->options.durability)
    snapshot->options.durability = record->durability = durability;
  record->level
      = set->ending ? DURABILITY_STABLE : snapshot->options.durability;
  atomic_store (&snapshot->level, (int)record->level);
  snapshot->unindexed = record->level == DURABILITY_ASYNC;
  if (store_add (set->shared.store, record) == -1)
    return -1;
  return append (set, snapshot, reservation) ? 0 : 1;
}

/* A snapshot in a store has entered the chain: make sure that it is there
 * after a crash.  0, or -1 with errno, reported: then it is deleted.
 */
static int
settle (struct snapset *set, struct snapshot *snapshot)
{
  /* What it reads on the origin must not be lost either. */
  if ((atomic_load (&snapshot->level) < DURABILITY_STABLE
       || origin_flush (set->origin) == 0)
      && store_settle (set->shared.store, snapshot->record, snapshot->created,
                       snapshot->creator != NULL)
             == 0)
    return 0;
  const int err = errno;
  /* A crash would do the same, so the store need not know. */
  store_delete (set->shared.store, snapshot->record, true);
  {
    SCOPED_LOCK (&set->mutations);
    delete_snapshot (set, snapshot, NULL, true, NULL);
  }
  snapset_unpin (set, snapshot);
  errno = err;
  return -1;
}

struct snapshot *
snapset_freeze (struct snapset *set, const struct snapshot_options *options)
{
  struct reservation reservation;
  struct snapshot *snapshot;
  int r = 1;

  if (reserve (set, options->name, &reservation) == -1)
    return NULL;
  pthread_mutex_lock (&set->lock);
  const bool running = set->running;
  pthread_mutex_unlock (&set->lock);
  do {
    snapshot = create_snapshot (set, options, reservation.number, running);
    if (snapshot == NULL)
      break;
    if (snapshot->record != NULL)
      r = append_in_store (set, snapshot, &reservation);
    else
      r = append (set, snapshot, &reservation) ? 0 : 1;
    if (r != 0)
      create_cancel (set, snapshot);
  } while (r == 1);
  if (r == 0)
    return snapshot->record != NULL && settle (set, snapshot) == -1 ? NULL
                                                                    : snapshot;
  const int err = errno;
  {
    SCOPED_LOCK (&set->lock);
    end_reservation (set, &reservation);
  }
  errno = err;
  return NULL;
}

/* Begin to delete a snapshot: from here on nobody finds it.  NULL with errno,
 * reported; else it is pinned.
 */
static struct snapshot *
begin_delete (struct snapset *set, const char *who, bool force,
              const void *creator)
{
  SCOPED_LOCK (&set->lock);
  if (!force)
    snapset_await_clients (set, who);
  struct snapshot *snapshot = lookup (set, who);
  if (check_deletable (snapshot, who, force, creator) == -1)
    return NULL;
  snapshot->leaving = true;
  snapshot->pins++;
  return snapshot;
}

int
snapset_delete (struct snapset *set, const char *who, bool force,
                const void *creator, unsigned *number)
{
  struct snapshot *snapshot = begin_delete (set, who, force, creator);
  int r = 0;

  if (snapshot == NULL)
    return -1;
  *number = snapshot->number;
  /* The store first: what is deleted gets no copies, and must not come back
   * without them.
   */
  if (snapshot->record != NULL)
    r = store_delete (set->shared.store, snapshot->record, false);
  const int err = errno;
  if (r == 0) {
    SCOPED_LOCK (&set->mutations);
    delete_snapshot (set, snapshot, who, true, creator);
  }
  else {
    SCOPED_LOCK (&set->lock);
    snapshot->leaving = false;
  }
  snapset_unpin (set, snapshot);
  errno = err;
  return r;
}

/* Begin to delete what CREATOR creates.  NULL: nothing; else it is pinned. */
static struct snapshot *
begin_abandon (struct snapset *set, const void *creator)
{
  SCOPED_LOCK (&set->lock);
  struct snapshot *s = set->last;
  while (s != NULL && (s->creator != creator || s->leaving))
    s = s->older;
  if (s != NULL) {
    s->leaving = true;
    s->pins++;
  }
  return s;
}

void
snapset_abandon (struct snapset *set, const void *creator)
{
  struct snapshot *snapshot;

  while ((snapshot = begin_abandon (set, creator)) != NULL) {
    report_error ("snapshot %u is deleted: whoever was creating it went away "
                  "before it was done",
                  snapshot->number);
    /* To the store it is one that is being created: deleted, if it ends. */
    if (snapshot->record != NULL)
      store_delete (set->shared.store, snapshot->record, true);
    {
      SCOPED_LOCK (&set->mutations);
      delete_snapshot (set, snapshot, NULL, true, creator);
    }
    snapset_unpin (set, snapshot);
  }
}

/* The snapshot that CREATOR creates, pinned; NULL with errno, reported. */
static struct snapshot *
pin_created (struct snapset *set, const char *who, const void *creator)
{
  SCOPED_LOCK (&set->lock);
  struct snapshot *snapshot = lookup (set, who);
  if (snapshot == NULL) {
    report_error ("there is no snapshot %s", who != NULL ? who : "at all");
    errno = ENOENT;
    return NULL;
  }
  if (snapshot->creator != creator) {
    report_error ("snapshot %u is not being created by this connection",
                  snapshot->number);
    errno = EPERM;
    return NULL;
  }
  snapshot->pins++;
  return snapshot;
}

/* What of a snapshot is free, and that nobody creates it any more, to the
 * store.  0, or -1 with errno, reported.
 */
static int
finish_in_store (struct snapset *set, struct snapshot *snapshot)
{
  if (atomic_load (&snapshot->has_free) && !snapshot_is_broken (snapshot)
      && storefile_write_table (snapshot->backfile, FORMAT_FREE,
                                &snapshot->free)
             == -1) {
    const int err = errno;
    /* A sync that fails tells once what it failed for. */
    snapshot_break (snapshot, err,
                    "backing store %s: cannot note what is free: %s",
                    backfile_name (snapshot->backfile), strerror (err));
    errno = err;
    return -1;
  }
  return store_settle (set->shared.store, snapshot->record, snapshot->created,
                       false);
}

int
snapset_finish (struct snapset *set, const char *who, const void *creator)
{
  struct snapshot *snapshot = pin_created (set, who, creator);
  int r = 0;

  if (snapshot == NULL)
    return -1;
  if (snapshot->record != NULL)
    r = finish_in_store (set, snapshot);
  const int err = errno;
  if (r == 0) {
    SCOPED_LOCK (&set->lock);
    snapshot->creator = NULL;
  }
  snapset_unpin (set, snapshot);
  errno = err;
  return r;
}

void
snapset_drop (struct snapset *set, struct snapshot *layer)
{
  struct snapshot *before;

  assert (snapshot_is_deleted (layer));
  pthread_rwlock_wrlock (&set->gate);
  {
    SCOPED_LOCK (&set->lock);
    struct snapshot *const after = newer (layer);
    if (layer->older != NULL)
      atomic_store_explicit (&layer->older->newer, after, memory_order_seq_cst);
    else
      set->oldest = after;
    if (after != NULL)
      after->older = layer->older;
    else
      set->last = layer->older;
    layer->next = set->dropped;
    set->dropped = layer;
    before = relink (set);
  }
  pthread_rwlock_unlock (&set->gate);
  if (before != NULL)
    snapshot_wake (before);
}

bool
snapset_forget (struct snapset *set, struct snapshot *layer)
{
  struct snapshot **p = &set->dropped;

  SCOPED_LOCK (&set->lock);
  if (layer->clients > 0 || layer->pins > 0)
    return false;
  while (*p != layer)
    p = &(*p)->next;
  *p = layer->next;
  return true;
}

void
snapset_enter (struct snapset *set)
{
  pthread_rwlock_rdlock (&set->gate);
}

void
snapset_leave (struct snapset *set)
{
  pthread_rwlock_unlock (&set->gate);
}
