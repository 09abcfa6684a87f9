/* SPDX-License-Identifier: BSD-3-Clause */
/* The end of a server that has a store.  From the first moment of it on all
 * copies are made stable, because a server that waits for its clients to
 * leave may be killed, and the machine switched off.
 */

#ifndef FSSNAP_CLOSING_H
#define FSSNAP_CLOSING_H

#include "snapset.h"

struct closing;

/* NULL after logging. */
struct closing *closing_create (struct snapset *set);
void closing_free (struct closing *closing);

/* Its thread, which watches for the end.  0, or -1 after logging. */
int closing_start (struct closing *closing);

/* Nobody writes any more, nor creates, deletes or clears away; the flushers
 * still run: close the store, if all of it can be made stable.  0, or -1 if it
 * did not get on for TIMEOUT seconds: then it has not been closed, and the
 * thread is in there still.
 */
int closing_finish (struct closing *closing, unsigned timeout);

/* The same for a server that has not run. */
void closing_unstarted (struct snapset *set);

#endif
