/* SPDX-License-Identifier: BSD-3-Clause */
/* Who is in a set of snapshots: finding them by number or name, having them
 * open, listing them.
 */

#ifndef FSSNAP_LOOKUP_H
#define FSSNAP_LOOKUP_H

#include "snapset.h"

#include <stdbool.h>
#include <stddef.h>

/* Characters of a name. */
#define SNAPSET_NAME_MAX 64

/* Whether snapshots may be called so: up to 64 letters, digits, '.', '_' and
 * '-', a letter or digit first, not all digits.
 */
bool snapset_is_name (const char *name);

/* The snapshot that WHO means, a number or a name; NULL: the newest.  No
 * deleted one.  It stays as long as the chain is not changed.  NULL: none.
 */
struct snapshot *snapset_find (struct snapset *set, const char *who);

/* The same, and the snapshot has a client more, or is kept from being freed
 * for a while, until it is given back.
 */
struct snapshot *snapset_open (struct snapset *set, const char *who);
void snapset_close (struct snapset *set, struct snapshot *snapshot);

/* Wait half a second, at most, until the snapshot has no clients.  LOCK is
 * held, but not while this waits: look everything up again.
 */
void snapset_await_clients (struct snapset *set, const char *who);

struct snapshot *snapset_pin (struct snapset *set, const char *who);
void snapset_unpin (struct snapset *set, struct snapshot *snapshot);

/* All snapshots, oldest first, each pinned; ALL: those too that are deleted
 * and not freed yet.  A list of *COUNT to be freed, or NULL with errno.
 */
struct snapshot **snapset_list (struct snapset *set, bool all, size_t *count);

/* The layer whose copies hold most memory, of those that are needed still,
 * pinned; NULL: none holds any.
 */
struct snapshot *snapset_memory_holder (struct snapset *set);

/* What of a snapshot changes under LOCK. */
struct snapshot_status {
  unsigned clients;
  bool creating;
  unsigned blocked_by; /* the number of a newer one that broke, or 0 */
};
struct snapshot_status snapset_status (struct snapset *set,
                                       struct snapshot *snapshot);

/* The highest number that a snapshot ever had, or 0. */
unsigned snapset_highest (struct snapset *set);

/* Whether the snapshot is being created by CREATOR. */
bool snapset_is_creator (struct snapset *set, struct snapshot *snapshot,
                         const void *creator);

/* For the set itself, LOCK or MUTATIONS held: the snapshot that WHO means, as
 * for snapset_find; the one of that name, LEAVING: also if it is about to be
 * deleted.
 */
struct snapshot *lookup (struct snapset *set, const char *who);
struct snapshot *lookup_name (struct snapset *set, const char *name,
                              bool leaving);

#endif
