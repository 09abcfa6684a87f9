/* SPDX-License-Identifier: BSD-3-Clause */
/* A bell: anyone may ring it, one thread waits for it.  Rung while nobody
 * waits, it still ends the next wait; rung often, it ends one.
 */

#ifndef FSSNAP_BELL_H
#define FSSNAP_BELL_H

#include "scoped.h"

#include <stdbool.h>

struct bell {
  pthread_mutex_t lock;
  pthread_cond_t cond;
  bool rung; /* under LOCK */
};

static inline void
bell_init (struct bell *bell)
{
  pthread_mutex_init (&bell->lock, NULL);
  pthread_cond_init (&bell->cond, NULL);
  bell->rung = false;
}

static inline void
bell_destroy (struct bell *bell)
{
  pthread_cond_destroy (&bell->cond);
  pthread_mutex_destroy (&bell->lock);
}

/* No lock need be held; any may be. */
static inline void
bell_ring (struct bell *bell)
{
  SCOPED_LOCK (&bell->lock);
  bell->rung = true;
  pthread_cond_signal (&bell->cond);
}

static inline void
bell_wait (struct bell *bell)
{
  SCOPED_LOCK (&bell->lock);
  while (!bell->rung)
    pthread_cond_wait (&bell->cond, &bell->lock);
  bell->rung = false;
}

#endif
