/* SPDX-License-Identifier: BSD-3-Clause */
/* Grace periods: how to know that nobody is still on his way to what was
 * taken out of the chain.
 *
 * Who walks the chain without a lock is inside from grace_enter to
 * grace_leave, which may take as long as I/O takes.  What was unlinked
 * before a period began can be freed when it has passed: whoever was inside
 * at its beginning has left.  The idea, with its two counters and two turns
 * for a period, is that of sleepable RCU in the Linux kernel.
 */

#ifndef FSSNAP_GRACE_H
#define FSSNAP_GRACE_H

#include "bell.h"
#include "stripes.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct grace {
  struct grace_stripe {
    _Atomic uint64_t inside[2]; /* threads, by the turn they entered in */
  } __attribute__ ((aligned (64))) stripe[STRIPES];
  _Atomic unsigned turn; /* its lowest bit says which counter to use */
  atomic_bool awaited;   /* leavers ring the bell */
  struct bell *bell;     /* set at creation */
  unsigned turns_left;   /* of the period; of who calls grace_passed */
};

/* BELL is rung when a period that was asked for may have passed. */
void grace_init (struct grace *grace, struct bell *bell);

/* Enter, and leave with what grace_enter returned, on any thread.  Never
 * blocks.  May be nested.
 */
unsigned grace_enter (struct grace *grace);
void grace_leave (struct grace *grace, unsigned token);

/* Begin a period.  One thread at a time, and one period at a time. */
void grace_begin (struct grace *grace);

/* Has the period passed?  If not, the bell rings when it is worth asking
 * again.  True once for each grace_begin.
 */
bool grace_passed (struct grace *grace);

#endif
