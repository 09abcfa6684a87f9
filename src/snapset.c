/* SPDX-License-Identifier: BSD-3-Clause */

#include "snapset.h"
#include "scoped.h"

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

struct snapset *
snapset_create (struct origin *origin, struct flusher *flusher,
                uint64_t max_memory)
{
  struct snapset *set = calloc (1, sizeof *set);
  pthread_rwlockattr_t attr;

  if (set != NULL)
    set->throttle = throttle_create (max_memory);
  if (set == NULL || set->throttle == NULL) {
    nbdkit_error ("no memory for the set of snapshots: %m");
    free (set);
    return NULL;
  }
  set->origin = origin;
  set->flusher = flusher;
  /* The default kind prefers readers: with requests always in flight a
   * creation might wait for ever.
   */
  pthread_rwlockattr_init (&attr);
  pthread_rwlockattr_setkind_np (&attr,
                                 PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
  pthread_rwlock_init (&set->gate, &attr);
  pthread_rwlockattr_destroy (&attr);
  pthread_mutex_init (&set->mutations, NULL);
  return set;
}

void
snapset_free (struct snapset *set)
{
  if (set == NULL)
    return;
  struct snapshot *snapshot = atomic_load (&set->newest);
  while (snapshot != NULL) {
    struct snapshot *older = snapshot->older;
    snapshot_free (snapshot);
    snapshot = older;
  }
  throttle_free (set->throttle);
  pthread_rwlock_destroy (&set->gate);
  pthread_mutex_destroy (&set->mutations);
  free (set);
}

struct snapshot *
snapset_newest (struct snapset *set)
{
  return atomic_load_explicit (&set->newest, memory_order_acquire);
}

struct snapshot *
snapset_find (struct snapset *set, unsigned number)
{
  struct snapshot *snapshot = snapset_newest (set);

  while (snapshot != NULL && snapshot->number != number)
    snapshot = snapshot->older;
  return snapshot;
}

struct snapshot *
snapset_freeze (struct snapset *set, const struct snapshot_options *options)
{
  unsigned number = 1;

  SCOPED_LOCK (&set->mutations);
  const int64_t size = origin_size (set->origin);
  if (size == -1)
    return NULL;
  while (snapset_find (set, number) != NULL)
    number++;
  struct snapshot *snapshot = snapshot_create (options, number, (uint64_t)size,
                                               origin_path (set->origin),
                                               set->flusher, set->throttle);
  if (snapshot == NULL)
    return NULL;

  pthread_rwlock_wrlock (&set->gate);
  snapshot->older = snapset_newest (set);
  if (snapshot->older != NULL)
    atomic_store_explicit (&snapshot->older->newer, snapshot,
                           memory_order_release);
  atomic_store_explicit (&set->newest, snapshot, memory_order_release);
  pthread_rwlock_unlock (&set->gate);
  return snapshot;
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
