/* SPDX-License-Identifier: BSD-3-Clause */
/* Which space of the origin a file system uses, when the server starts.
 *
 * No file system is read in the server: "fssnap candidates" does that, in a
 * process of its own.
 */

#ifndef FSSNAP_ALLOCATION_H
#define FSSNAP_ALLOCATION_H

#include "snapshot.h"

/* Leave out of SNAPSHOT, which is being created, what is free on the origin at
 * PATH.  Nothing may write to the origin meanwhile.  Whatever goes wrong is
 * reported, and the snapshot keeps more than it had to.  Takes PATIENCE
 * seconds at most.
 */
void allocation_leave_out (struct snapshot *snapshot, const char *path,
                           unsigned patience);

#endif
