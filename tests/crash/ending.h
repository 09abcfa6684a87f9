/* SPDX-License-Identifier: BSD-3-Clause */
/* How and when the server's life ends. */

#ifndef FSSNAP_TEST_ENDING_H
#define FSSNAP_TEST_ENDING_H

#include <stdbool.h>
#include <stdint.h>

/* What happens while it runs, after which the end may come. */
enum moment {
  MOMENT_NONE,
  MOMENT_WRITE,    /* the origin is about to be changed */
  MOMENT_WRITTEN,  /* it has been */
  MOMENT_CREATE,   /* a snapshot was asked for */
  MOMENT_CREATED,  /* and is there */
  MOMENT_SET_FREE, /* a part of it was said to be free */
  MOMENT_FINISH,   /* its creator said that it is done */
  MOMENT_DELETE,   /* a deletion was asked for */
  MOMENT_DELETED,  /* and is done */
  MOMENTS
};

enum manner {
  MANNER_KILL,      /* SIGKILL under load */
  MANNER_TERM_KILL, /* SIGTERM under load, and SIGKILL some time later */
  MANNER_IDLE_KILL, /* the same without load or clients */
  MANNER_TERM,      /* SIGTERM under load, whose clients leave by and by */
  MANNER_CLEAN,     /* SIGTERM when all clients have left */
  MANNERS
};

/* What became of it. */
enum outcome {
  OUTCOME_KILLED,
  OUTCOME_TOLD, /* killed, after SIGTERM */
  OUTCOME_ENDED,
};

/* Choose how the server that runs will end, and the moment. */
enum manner ending_choose (uint64_t *random);

/* For whoever makes a moment pass: the first signal may be sent by this. */
void moment_passed (enum moment moment);

/* Wait until the first signal was sent, at the latest in a while. */
void ending_await (void);

/* Whether it was, or is about to be: requests may fail from now on. */
bool ending_has_begun (void);

/* Send what is to be sent after that, and wait for the server. */
enum outcome ending_finish (void);

/* Start a server and kill it some time within the first moments. */
void ending_at_start (const char *const *parameters, uint64_t *random);

/* How long servers take to start, for that. */
void ending_started (uint64_t microseconds);

#endif
