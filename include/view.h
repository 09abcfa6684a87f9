/* SPDX-License-Identifier: BSD-3-Clause */
/* What an export reads: a snapshot, or the origin as it is now. */

#ifndef FSSNAP_VIEW_H
#define FSSNAP_VIEW_H

#include "snapset.h"

#include <stdbool.h>
#include <stdint.h>

struct nbdkit_extents;

/* Read COUNT bytes at OFFSET of SNAPSHOT, within its size.  0, or -1 with
 * errno after logging.  Never blocks a writer.
 */
int view_read (struct snapset *set, struct snapshot *snapshot, void *buf,
               uint64_t count, uint64_t offset);

/* The same, not logged, for any layer, deleted or not, for who keeps it from
 * leaving the chain: what the older ones would read at this place.
 */
int view_read_layer (struct snapset *set, struct snapshot *layer, void *buf,
                     uint64_t count, uint64_t offset);

/* Add the extents of SNAPSHOT, or of the origin if that is NULL, from
 * OFFSET on: contiguous, within COUNT bytes, perhaps not up to their end;
 * ONE: no more than the first.  0, or -1 with errno after logging.
 */
int view_extents (struct snapset *set, struct snapshot *snapshot,
                  uint64_t count, uint64_t offset, bool one,
                  struct nbdkit_extents *extents);

#endif
