/* SPDX-License-Identifier: BSD-3-Clause */
/* One thread of a crew: for its sources alone.
 *
 *   crew.c      all of them; those that write, those that read snapshots
 *   changer.c   those that take and delete snapshots
 */

#ifndef FSSNAP_TEST_HAND_H
#define FSSNAP_TEST_HAND_H

#include "crew.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

/* Connections with a snapshot whose creation they do not finish. */
#define UNFINISHED_MAX 2

struct hand {
  pthread_t thread;
  struct model *model;
  uint64_t random;
  uint8_t *buf; /* of the origin's size */
  struct temper temper;
  unsigned number;

  /* A changer's. */
  bool first; /* of them */
  int control;
  int creator[UNFINISHED_MAX];
  struct entry *unfinished[UNFINISHED_MAX]; /* or NULL */
};

/* Whether it is to end. */
bool crew_is_over (void);

void crew_count (uint64_t *deed);

/* From 0 to SIDES - 1. */
unsigned dice (struct hand *hand, unsigned sides);

/* Within the origin. */
void choose_range (struct hand *hand, uint64_t *offset, uint64_t *length);

/* A thread; ARG is its hand. */
void *changer_run (void *arg);

#endif
