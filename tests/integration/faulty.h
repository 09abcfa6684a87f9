/* SPDX-License-Identifier: BSD-3-Clause */
/* A world (world.h) whose store is on a file system of ours, which fails and
 * hangs as the test wants (faultfs.h).
 */

#ifndef FSSNAP_TEST_FAULTY_H
#define FSSNAP_TEST_FAULTY_H

#include "faultfs.h"
#include "store.h"

/* What a machine under load may add to a time-out, in seconds. */
#define SLACK 8

/* What the catalogue may take longer than that, before a mark is made. */
#define MARK 2

/* An option of snapshots that are to break soon. */
#define IMPATIENT "'cow-timeout':1"

struct world faulty_world (struct fixture *f);

/* All writes and syncs hang from now on. */
void hold_all (struct fixture *f);

/* Snapshot 1 is IMPATIENT, and its store hangs: it breaks, while the origin
 * goes on.
 */
void hang_breaks (struct world *w);

/* SIGKILL; what hangs holds the process until it is let go. */
void kill_and_release (struct world *w);

/* Where the mark of a snapshot is made, which goes with the test; ask while
 * the store works.
 */
const char *mark_of (struct fixture *f, int snapnumber);

#endif
