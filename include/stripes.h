/* SPDX-License-Identifier: BSD-3-Clause */
/* Counters that many threads change are kept in several copies, one a cache
 * line, so that threads seldom meet in one.
 */

#ifndef FSSNAP_STRIPES_H
#define FSSNAP_STRIPES_H

#include <stdatomic.h>

/* As many as a connection of nbdkit has threads. */
#define STRIPES 16

/* The calling thread's copy, 0 to STRIPES - 1: threads take turns. */
static inline unsigned
stripe_of_thread (void)
{
  static _Atomic unsigned threads;
  static _Thread_local unsigned stripe = STRIPES;

  if (stripe == STRIPES)
    stripe = atomic_fetch_add_explicit (&threads, 1, memory_order_relaxed)
             % STRIPES;
  return stripe;
}

#endif
