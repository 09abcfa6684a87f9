/* SPDX-License-Identifier: BSD-3-Clause */
/* Copy-on-write: what every change of the origin passes first. */

#ifndef FSSNAP_COW_H
#define FSSNAP_COW_H

#include "snapset.h"

#include <stdbool.h>
#include <stdint.h>

/* Before COUNT bytes at OFFSET of the origin are overwritten: copy aside
 * what the newest snapshot still has to keep of them.  Returns 0 inside the
 * gate: write, then call cow_end_write.  Or -1 with errno, logged, outside
 * the gate: do not write (only with on-error=break-write).  No lock may be
 * held.  May wait for the store, at most the snapshot's cow_timeout.
 */
int cow_begin_write (struct snapset *set, uint64_t offset, uint64_t count);
void cow_end_write (struct snapset *set);

/* Inside the gate: may OFFSET be overwritten as things are, without a copy?
 * *LENGTH is for how many bytes, at most COUNT (1 or more), that holds.
 */
bool cow_is_kept (struct snapset *set, uint64_t offset, uint64_t count,
                  uint64_t *length);

#endif
