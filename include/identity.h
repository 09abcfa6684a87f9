/* SPDX-License-Identifier: BSD-3-Clause */
/* Whether the origin is the one that the snapshots in a store are of, and as
 * they know it.
 */

#ifndef FSSNAP_IDENTITY_H
#define FSSNAP_IDENTITY_H

#include "catalog.h"
#include "origin.h"

/* What there is to know of the origin, as of now; path and identity are to be
 * freed.  WHOLE: also what changes as it is written.  0, or -1 with errno,
 * logged.
 */
int identity_take (const struct origin *origin, bool whole,
                   struct catalog_origin *figures);

/* How the origin differs, from what was recorded, in a way that it should
 * not; CLEAN: when the store was closed cleanly, else before that; REBOOTED:
 * the machine has started since.  To be freed.  NULL: not at all.
 */
char *identity_compare (const struct catalog_origin *then,
                        const struct catalog_origin *now, bool clean,
                        bool rebooted);

#endif
