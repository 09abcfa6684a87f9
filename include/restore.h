/* SPDX-License-Identifier: BSD-3-Clause */
/* Bringing back the snapshots of a store. */

#ifndef FSSNAP_RESTORE_H
#define FSSNAP_RESTORE_H

#include "snapset.h"

/* Fill an empty set with what is in its store, which is in use from here on.
 * What cannot be served is there too, broken, with the reason.  Before any
 * thread runs.  0, or -1 after logging.
 */
int restore_snapshots (struct snapset *set);

#endif
