/* SPDX-License-Identifier: BSD-3-Clause */
/* What "fssnap check" says of a store between two servers, and whether it was
 * right.
 */

#ifndef FSSNAP_TEST_OFFLINE_H
#define FSSNAP_TEST_OFFLINE_H

#include <jansson.h>
#include <stdbool.h>

/* Have it look at the store, if $FSSNAP says where the command is.  It must
 * find nothing wrong but, if KILLED, copies that were lost in memory.
 */
void offline_check (bool killed);

/* What the next server lists, before anything is asked of it. */
void offline_compare (const json_t *list);

/* There is another one now. */
void offline_forget (void);

#endif
