/* SPDX-License-Identifier: BSD-3-Clause */
/* Clearing away behind deleted snapshots: one thread that gives back what
 * nobody needs any more.
 */

#ifndef FSSNAP_RECLAIM_H
#define FSSNAP_RECLAIM_H

#include "snapset.h"

struct reclaim;

/* For a set, which outlives it; the thread is not running yet.  NULL after
 * logging.
 */
struct reclaim *reclaim_create (struct snapset *set);

/* 0, or -1 after logging. */
int reclaim_start (struct reclaim *reclaim);

/* End the thread.  0, or -1 if it did not end within TIMEOUT seconds, since
 * a store hangs: then neither it nor the set may be freed.
 */
int reclaim_stop (struct reclaim *reclaim, unsigned timeout);

void reclaim_free (struct reclaim *reclaim);

#endif
