/* SPDX-License-Identifier: BSD-3-Clause */
/* Bringing back the snapshots of a store. */

#ifndef FSSNAP_RESTORE_H
#define FSSNAP_RESTORE_H

#include "snapset.h"
#include "store.h"

/* The least max-memory, in bytes, for what is in a store, and the *NUMBER of
 * the snapshot that needs so much.
 */
uint64_t restore_least_memory (struct store *store, unsigned *number);

/* Fill an empty set with what is in its store, which is in use from here on.
 * What cannot be served is there too, broken, with the reason.  Before any
 * thread runs.  0, or -1 after logging.
 */
int restore_snapshots (struct snapset *set);

#endif
