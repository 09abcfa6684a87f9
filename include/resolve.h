/* SPDX-License-Identifier: BSD-3-Clause */
/* Which layer has what: questions asked of the chain.
 *
 * The layers that a caller walks must not be freed meanwhile: it is inside
 * the gate, or inside a grace period, or keeps the chain from changing.
 *
 * Chunks move from newer layers to older ones, when deleted layers are
 * merged: first the older one has them too, then the newer one has not.
 * Who walks from old to new could pass the older one too early and come to
 * the newer one too late.  So between the two a move is announced, and a
 * walk during which one was is made again.
 */

#ifndef FSSNAP_RESOLVE_H
#define FSSNAP_RESOLVE_H

#include "snapset.h"

#include <stdbool.h>
#include <stdint.h>

/* Where a piece of a snapshot is. */
struct place {
  struct snapshot *layer; /* who has it, or NULL: the origin */
  bool free;              /* nobody: it is free space, LAYER is the snapshot */
  uint64_t length;        /* bytes for which that holds */
};

/* The next layer, or NULL. */
static inline struct snapshot *
resolve_newer (struct snapshot *layer)
{
  return atomic_load_explicit (&layer->newer, memory_order_seq_cst);
}

/* What older layers have is about to be taken from a newer one. */
static inline void
resolve_announce_move (const struct snapshot_shared *shared)
{
  atomic_fetch_add (shared->moves, 1);
}

/* Where the first COUNT bytes (1 or more) at OFFSET of SNAPSHOT are, or as
 * many of them as are in one place.
 */
struct place resolve_find (struct snapshot *snapshot, uint64_t offset,
                           uint64_t count);

/* A range that none of the layers after FROM has: does any snapshot, from
 * FROM to the oldest, need it kept?
 */
bool resolve_is_wanted (struct snapshot *from, uint64_t offset,
                        uint64_t length);

/* Of the chunks of MASK in bitmap group GROUP of the set's target: those
 * that need not be copied whatever bits the target has, because another
 * layer has them or nobody can read them any more.  Inside the gate.
 */
uint64_t resolve_kept (struct snapset *set, uint64_t group, uint64_t mask);

/* Of the same: those that no snapshot wants.  Inside the gate. */
uint64_t resolve_unwanted (struct snapset *set, uint64_t group, uint64_t mask);

#endif
