/* SPDX-License-Identifier: BSD-3-Clause */
/* Making a snapshot: its files, its record in the store, its thread; all that
 * may take time, before it enters the chain.
 */

#ifndef FSSNAP_CREATE_H
#define FSSNAP_CREATE_H

#include "snapset.h"

/* A snapshot of the origin's size as of now, which does not count yet.
 * RUNNING: its thread is started.  NULL with errno after logging.
 */
struct snapshot *create_snapshot (struct snapset *set,
                                  const struct snapshot_options *options,
                                  unsigned number, bool running);

/* It has not entered the chain, and is not to: nothing of it remains. */
void create_cancel (struct snapset *set, struct snapshot *snapshot);

#endif
