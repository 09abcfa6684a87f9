/* SPDX-License-Identifier: BSD-3-Clause */
/* Locks and memory that are given back where their scope ends. */

#ifndef FSSNAP_SCOPED_H
#define FSSNAP_SCOPED_H

#include <pthread.h>
#include <stdlib.h>

static inline pthread_mutex_t *
scoped_lock (pthread_mutex_t *mutex)
{
  pthread_mutex_lock (mutex);
  return mutex;
}

static inline void
scoped_unlock (pthread_mutex_t **mutex)
{
  pthread_mutex_unlock (*mutex);
}

static inline void
scoped_free (void *pointer)
{
  free (*(void **)pointer);
}

/* Hold MUTEX from here to the end of the block. */
#define SCOPED_LOCK(mutex) SCOPED_LOCK_NAMED (mutex, __LINE__)
#define SCOPED_LOCK_NAMED(mutex, n) SCOPED_LOCK_AS (mutex, n)
#define SCOPED_LOCK_AS(mutex, n)                                               \
  __attribute__ ((cleanup (scoped_unlock), unused))                            \
  pthread_mutex_t *scoped_mutex_##n                                            \
      = scoped_lock (mutex)

/* A pointer to malloc'ed memory that the end of its block frees. */
#define SCOPED_FREE __attribute__ ((cleanup (scoped_free)))

#endif
