/* SPDX-License-Identifier: BSD-3-Clause */
/* The chain of snapshots of one origin, and the gate.
 *
 * The gate makes creation an instant: every write to the origin passes it
 * as a reader, from before it looks which snapshot to copy into until it
 * has written; creation and deletion relink the chain as the writer.
 * Nobody waits for a backing store inside the gate, so that they never wait
 * for one either.
 *
 * Readers of snapshots do not pass the gate: they walk the chain by its
 * links to newer snapshots, inside a grace period (see grace.h), which is
 * what keeps a layer that leaves the chain from being freed under them.
 *
 * A deleted snapshot stays in the chain as long as older ones read through
 * it.  To be told from snapshots that someone can name, what is in the
 * chain is called a layer.
 */

#ifndef FSSNAP_SNAPSET_H
#define FSSNAP_SNAPSET_H

#include "grace.h"
#include "origin.h"
#include "snapshot.h"

#include <pthread.h>

/* A number, or a name, that a snapshot will have that is being made. */
struct reservation {
  struct reservation *next;
  unsigned number;
  const char *name;
};

struct snapset {
  struct origin *origin; /* set at creation */
  struct snapshot_shared shared;
  struct bell bell;
  struct grace grace;

  pthread_mutex_t births; /* in a store: the order of creations */

  /* Who changes the chain holds all three, taken in this order.  MUTATIONS
   * alone is enough to walk it, the gate as a reader to see what writes
   * need, LOCK to look at anything for a moment.  Readers of snapshots hold
   * none: they may follow NEWER.
   */
  pthread_mutex_t mutations;
  pthread_rwlock_t gate;
  pthread_mutex_t lock;

  struct snapshot *oldest, *last;     /* layers; or both NULL */
  _Atomic (struct snapshot *) newest; /* the last layer not deleted, or NULL */
  struct snapshot *target;            /* the layer that writes copy into, or
                                         NULL: they copy nothing */
  _Atomic uint64_t moves;             /* see resolve.h */
  _Atomic uint64_t memory_breaks;     /* how often writes had waited for
                                         memory in vain */
  _Atomic uint64_t deletions;         /* how many there were */

  pthread_cond_t closed; /* with LOCK: a client has closed a snapshot */

  /* Under LOCK. */
  struct snapshot *dropped; /* left the chain and not yet freed */
  struct reservation *reserved;
  unsigned highest; /* number ever used */
  bool running;     /* new snapshots start their threads */

  bool ending; /* new snapshots are stable; under BIRTHS */

  /* The store's snapshots are refused, and writes would go unnoticed; set at
   * start, false once the store knows.
   */
  atomic_bool unwatched;
  pthread_mutex_t watching; /* of who tells it */
};

/* A set without snapshots.  It does not own ORIGIN.  ENGINE and FALLBACK as
 * for flusher_create, MAX_MEMORY in bytes.  NULL after logging.
 */
struct snapset *snapset_create (struct origin *origin,
                                const struct engine_type *engine,
                                const struct engine_type *fallback,
                                uint64_t max_memory);

/* Its snapshots are in STORE, which outlives it. */
void snapset_use_store (struct snapset *set, struct store *store);

/* Start the threads of the snapshots there are, and of those to come.  0,
 * or -1 after logging.
 */
int snapset_start (struct snapset *set);

/* End them: what is queued is dropped.  0, or -1 if what has begun did not
 * end within TIMEOUT seconds: then the set may not be freed.  Nobody may be
 * creating or deleting.
 */
int snapset_stop (struct snapset *set, unsigned timeout);

/* Nobody may use it, and it must have stopped. */
void snapset_free (struct snapset *set);

/* Freeze the origin as it is once all writes before are through and none
 * after has begun.  The new snapshot has the lowest free number; it is
 * pinned for the caller (snapset_unpin).  NULL with errno after logging:
 * ENOTUNIQ if there is one of its name, EINVAL if the name is none, or what
 * making its files failed with.
 */
struct snapshot *snapset_freeze (struct snapset *set,
                                 const struct snapshot_options *options);

/* At start: put a snapshot that was there before at the chain's end. */
void snapset_adopt (struct snapset *set, struct snapshot *snapshot);

/* Before a write to an origin whose snapshots are refused, as if the origin was
 * not written any more: it is now.  Waits for the store, seconds at most.
 */
void snapset_watch (struct snapset *set);

/* Delete a snapshot: it is listed no more, its reads fail, no write waits
 * for it.  Without FORCE not one that has clients, half a second later, nor
 * one that somebody else than CREATOR is creating.  Waits for no backing file,
 * but for the store's catalogue if it is in one.  0, or -1 with errno,
 * reported: ENOENT, EBUSY, or why the catalogue cannot be written.  *NUMBER is
 * which it was.
 */
int snapset_delete (struct snapset *set, const char *who, bool force,
                    const void *creator, unsigned *number);

/* CREATOR has gone away: delete, by force, what it was creating.  Logged. */
void snapset_abandon (struct snapset *set, const void *creator);

/* CREATOR has done what it wanted with the snapshot it creates.  0, or -1
 * with errno (ENOENT, EPERM), reported.
 */
int snapset_finish (struct snapset *set, const char *who, const void *creator);

/* For who clears away: take a deleted layer out of the chain.  MUTATIONS is
 * held.
 */
void snapset_drop (struct snapset *set, struct snapshot *layer);

/* Forget one that was dropped, if no client has it open and nobody has it
 * pinned: true if now the caller may free it.
 */
bool snapset_forget (struct snapset *set, struct snapshot *layer);

/* The newest snapshot, or NULL. */
static inline struct snapshot *
snapset_newest (struct snapset *set)
{
  return atomic_load_explicit (&set->newest, memory_order_acquire);
}

/* Pass the gate as a reader.  Not recursive. */
void snapset_enter (struct snapset *set);
void snapset_leave (struct snapset *set);

#endif
