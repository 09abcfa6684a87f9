/* SPDX-License-Identifier: BSD-3-Clause */
/* The threads that load a server, and what they share with who starts them.
 */

#ifndef FSSNAP_TEST_POWER_TEAM_H
#define FSSNAP_TEST_POWER_TEAM_H

#include "power-load.h"

#include <pthread.h>
#include <stdatomic.h>

#define THREADS 3
#define SNAPSHOTS_MAX 8

/* What the threads share. */
extern struct load {
  struct model *model; /* set before there are threads, as are the next */
  const struct plan *plan;
  const char *log;
  bool may_die; /* the server kills itself at some point */
  unsigned requests;
  unsigned stop_at; /* with this request the server is asked to end; or 0 */

  _Atomic unsigned begun; /* requests */
  atomic_bool stopping;   /* it has been asked to end */
  atomic_bool dead;       /* it has gone */

  /* Held as a reader over a change of the origin; as a writer while a
   * snapshot is made whose content shall be known.
   */
  pthread_rwlock_t pause;

  /* Held as a reader while connecting, as a writer to set STOPPING: then
   * nbdkit lets connections wait for ever.
   */
  pthread_rwlock_t connecting;

  pthread_mutex_t lock; /* guards the model's list, and what follows */

  /* Requests that a server did not live to answer: the next gets them, as it
   * would from a client that connects again.
   */
  struct range {
    uint64_t offset, length;
  } unanswered[THREADS];
  unsigned unanswered_count;

  /* Snapshots that may be deleted, by index. */
  unsigned live[SNAPSHOTS_MAX], live_count;
  unsigned names; /* that snapshots were given, ever */
} load;

/* WHAT failed: the end of the test, unless the server was to go. */
void load_has_gone (const char *what, const char *why);

/* Run them until the requests are used up or the server has gone. */
void load_run_threads (uint64_t *random);

#endif
