/* SPDX-License-Identifier: BSD-3-Clause */

#include "lookup.h"
#include "scoped.h"

#include <ctype.h>
#include <string.h>

/* How long a deletion waits for clients that may be leaving.  nbdkit sees that
 * one has hung up in milliseconds; longer only on a machine that is busy.
 */
#define LEAVING_NS 500000000

static struct snapshot *
newer (struct snapshot *layer)
{
  return atomic_load_explicit (&layer->newer, memory_order_acquire);
}

bool
snapset_is_name (const char *name)
{
  static const char allowed[] = "abcdefghijklmnopqrstuvwxyz"
                                "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
  const size_t length = strlen (name);

  return length > 0 && length <= SNAPSET_NAME_MAX
         && isalnum ((unsigned char)*name) && strspn (name, allowed) == length
         && strspn (name, "0123456789") < length;
}

/* The number that WHO is, or 0. */
static unsigned
parse_number (const char *who)
{
  if (*who == '0' || strlen (who) > 9
      || strspn (who, "0123456789") != strlen (who))
    return 0;
  return (unsigned)strtoul (who, NULL, 10);
}

static struct snapshot *
find_number (struct snapset *set, unsigned number)
{
  struct snapshot *s = set->last;

  while (s != NULL
         && (snapshot_is_deleted (s) || s->leaving || s->number != number))
    s = s->older;
  return s;
}

struct snapshot *
lookup_name (struct snapset *set, const char *name, bool leaving)
{
  struct snapshot *s = set->last;

  while (s != NULL
         && (snapshot_is_deleted (s) || (s->leaving && !leaving)
             || s->name == NULL || strcmp (s->name, name) != 0))
    s = s->older;
  return s;
}

struct snapshot *
lookup (struct snapset *set, const char *who)
{
  if (who == NULL)
    return snapset_newest (set);
  const unsigned number = parse_number (who);
  return number != 0 ? find_number (set, number)
                     : lookup_name (set, who, false);
}

struct snapshot *
snapset_find (struct snapset *set, const char *who)
{
  SCOPED_LOCK (&set->lock);
  return lookup (set, who);
}

struct snapshot *
snapset_open (struct snapset *set, const char *who)
{
  SCOPED_LOCK (&set->lock);
  struct snapshot *snapshot = lookup (set, who);
  if (snapshot != NULL)
    snapshot->clients++;
  return snapshot;
}

void
snapset_close (struct snapset *set, struct snapshot *snapshot)
{
  bool last;

  {
    SCOPED_LOCK (&set->lock);
    last = --snapshot->clients == 0 && snapshot_is_deleted (snapshot);
    pthread_cond_broadcast (&set->closed);
  }
  if (last)
    bell_ring (&set->bell);
}

/* qemu-img does not wait until the server has seen it go. */
void
snapset_await_clients (struct snapset *set, const char *who)
{
  const struct snapshot *snapshot = lookup (set, who);
  struct timespec deadline;
  int err = 0;

  clock_gettime (CLOCK_MONOTONIC, &deadline);
  deadline.tv_nsec += LEAVING_NS;
  if (deadline.tv_nsec >= 1000000000) {
    deadline.tv_nsec -= 1000000000;
    deadline.tv_sec++;
  }
  /* It may be deleted meanwhile, and be another then. */
  while (snapshot != NULL && snapshot->clients > 0 && err == 0) {
    err = pthread_cond_timedwait (&set->closed, &set->lock, &deadline);
    snapshot = lookup (set, who);
  }
}

struct snapshot *
snapset_pin (struct snapset *set, const char *who)
{
  SCOPED_LOCK (&set->lock);
  struct snapshot *snapshot = lookup (set, who);
  if (snapshot != NULL)
    snapshot->pins++;
  return snapshot;
}

void
snapset_unpin (struct snapset *set, struct snapshot *snapshot)
{
  bool last;

  {
    SCOPED_LOCK (&set->lock);
    last = --snapshot->pins == 0 && snapshot_is_deleted (snapshot);
  }
  if (last)
    bell_ring (&set->bell);
}

struct snapshot **
snapset_list (struct snapset *set, bool all, size_t *count)
{
  size_t layers = 0, n = 0;

  SCOPED_LOCK (&set->lock);
  for (struct snapshot *s = set->oldest; s != NULL; s = newer (s))
    layers++;
  for (struct snapshot *s = set->dropped; all && s != NULL; s = s->next)
    layers++;
  struct snapshot **list = malloc ((layers + 1) * sizeof (struct snapshot *));
  if (list == NULL)
    return NULL;
  for (struct snapshot *s = set->dropped; all && s != NULL; s = s->next)
    list[n++] = s;
  for (struct snapshot *s = set->oldest; s != NULL; s = newer (s))
    if (all || !snapshot_is_deleted (s))
      list[n++] = s;
  for (size_t i = 0; i < n; i++)
    list[i]->pins++;
  *count = n;
  return list;
}

struct snapshot *
snapset_memory_holder (struct snapset *set)
{
  struct snapshot *holder = NULL;
  uint64_t most = 0;

  SCOPED_LOCK (&set->lock);
  for (struct snapshot *s = set->last; s != NULL; s = s->older) {
    const uint64_t bytes = atomic_load (&s->in_memory);
    if (bytes > most && !atomic_load (&s->gone)) {
      most = bytes;
      holder = s;
    }
  }
  if (holder != NULL)
    holder->pins++;
  return holder;
}

struct snapshot_status
snapset_status (struct snapset *set, struct snapshot *snapshot)
{
  SCOPED_LOCK (&set->lock);
  struct snapshot_status status
      = { .clients = snapshot->clients, .creating = snapshot->creator != NULL };
  /* The links of one that has left the chain are stale. */
  struct snapshot *s
      = snapshot_is_given_up (snapshot) || snapshot_is_deleted (snapshot)
            ? NULL
            : newer (snapshot);
  while (s != NULL && !snapshot_is_given_up (s))
    s = newer (s);
  if (s != NULL)
    status.blocked_by = s->number;
  return status;
}

unsigned
snapset_highest (struct snapset *set)
{
  SCOPED_LOCK (&set->lock);
  return set->highest;
}

bool
snapset_is_creator (struct snapset *set, struct snapshot *snapshot,
                    const void *creator)
{
  SCOPED_LOCK (&set->lock);
  return snapshot->creator == creator;
}
