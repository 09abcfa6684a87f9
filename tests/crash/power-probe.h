/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef FSSNAP_TEST_POWER_PROBE_H
#define FSSNAP_TEST_POWER_PROBE_H

#include "power-check.h"
#include "power-load.h"

/* Go on with a server whose snapshots have been compared: write the origin,
 * take a snapshot and delete it, and compare those again that were whole.
 * NULL; or what is wrong, to be freed.
 */
char *probe (const struct model *model, const struct plan *plan,
             const struct seen *seen, uint64_t *random);

#endif
