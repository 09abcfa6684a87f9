/* SPDX-License-Identifier: BSD-3-Clause */
/* Having a file on stable storage when that may take minutes, so that others
 * can tell it from a store that hangs.
 */

#ifndef FSSNAP_SLOW_SYNC_H
#define FSSNAP_SLOW_SYNC_H

#include <stdatomic.h>

/* As fsync: its times too, by which the origin is known again.  *STEPS is
 * counted up whenever some of it is done.
 */
int slow_sync (int fd, _Atomic unsigned *steps);

#endif
