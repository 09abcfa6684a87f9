/* SPDX-License-Identifier: BSD-3-Clause */
/* The chain of snapshots of one origin, and the gate.
 *
 * The gate makes creation an instant: every write to the origin passes it
 * as a reader, from before it looks which snapshot is the newest until it
 * has written; creation links the new snapshot as the writer.  Nobody
 * waits for a backing store inside the gate, so that creation never waits
 * for one either.
 *
 * Readers of snapshots do not pass the gate: they walk the chain by the
 * links to newer snapshots, which are only ever added while the set lives.
 */

#ifndef FSSNAP_SNAPSET_H
#define FSSNAP_SNAPSET_H

#include "origin.h"
#include "snapshot.h"

#include <pthread.h>

struct snapset {
  struct origin *origin;     /* set at creation */
  struct throttle *throttle; /* set at creation */
  struct flusher *flusher;   /* set at creation */
  pthread_rwlock_t gate;

  /* Changed under the gate as the writer; read under the gate, or without
   * it by who only wants some snapshot that was the newest.
   */
  _Atomic (struct snapshot *) newest;

  pthread_mutex_t mutations; /* one creation at a time */
};

/* A set without snapshots.  It does not own ORIGIN, nor FLUSHER.
 * MAX_MEMORY in bytes.  NULL after logging.
 */
struct snapset *snapset_create (struct origin *origin, struct flusher *flusher,
                                uint64_t max_memory);

/* Nobody may use it, and the flusher must have stopped. */
void snapset_free (struct snapset *set);

/* Freeze the origin as it is once all writes before are through and none
 * after has begun.  The new snapshot has the lowest free number.  NULL
 * after logging.
 */
struct snapshot *snapset_freeze (struct snapset *set,
                                 const struct snapshot_options *options);

/* The snapshot with NUMBER, or NULL. */
struct snapshot *snapset_find (struct snapset *set, unsigned number);

/* The newest snapshot, or NULL. */
struct snapshot *snapset_newest (struct snapset *set);

/* Pass the gate as a reader.  Not recursive. */
void snapset_enter (struct snapset *set);
void snapset_leave (struct snapset *set);

#endif
