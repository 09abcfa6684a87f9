/* SPDX-License-Identifier: BSD-3-Clause */
/* The snapshots that there are, or may be, as far as a client can know:
 * what was asked for, what was answered, what the server listed.
 */

#ifndef FSSNAP_TEST_ROSTER_H
#define FSSNAP_TEST_ROSTER_H

#include "ending.h"
#include "model.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

enum level { LEVEL_ASYNC, LEVEL_WRITTEN, LEVEL_STABLE };

struct entry {
  char name[16];  /* "": none; set at creation */
  bool ephemeral; /* set at creation */
  bool may_break; /* it has a limit; set at creation */
  uint64_t asked; /* when it was asked for */
  struct frozen *frozen;

  /* Under the roster's lock. */
  unsigned number;   /* 0: not known */
  uint64_t answered; /* when it was, 0: not yet */
  bool finished;     /* it does not go with its creator */
  bool created;      /* that was answered; else it may be there or not */
  bool deleting;     /* that was asked, and not answered */
  bool forced;       /* so that reads may fail */
  bool gone;         /* deleted: for the last reader to free */
  bool listed;       /* the server that runs now has listed it */
  unsigned readers;
  json_t *facts;        /* as first answered or listed, or NULL */
  enum level level;     /* of no meaning without FACTS */
  bool broken, blocked; /* it was seen so */
  bool killed, lost;    /* since it was listed last, a server was killed, and
                           so if it is async it may be broken; must be */
};

/* Of the model's origin; empty. */
void roster_init (struct model *model);
void roster_clear (void);

/* A snapshot is about to be asked for; NAME may be "".  FINISHED: it needs no
 * create_done.
 */
struct entry *roster_add (const char *name, bool ephemeral, bool may_break,
                          bool finished);

/* That was answered.  It can be read from now on, if FINISHED. */
void roster_created (struct entry *entry, const json_t *answer);

/* create_done is about to be asked for; was answered. */
void roster_finish (struct entry *entry);
void roster_finished (struct entry *entry);

/* It was never made, or was deleted. */
void roster_drop (struct entry *entry);

/* Those that can be read; some of them, with a reader more, or NULL. */
unsigned roster_count (void);
struct entry *roster_read (uint64_t *random);
void roster_release (struct entry *entry);

/* One to be deleted (of those without names, if UNNAMED, else of those with),
 * or NULL; and what the server said.
 */
struct entry *roster_begin_delete (uint64_t *random, bool force, bool unnamed);
void roster_end_delete (struct entry *entry, bool done);

/* Whether someone is deleting it, or has, by force: its number may have become
 * another one's.
 */
bool roster_is_forced (struct entry *entry);

/* Whether a read of it may fail now. */
bool roster_may_fail (struct entry *entry);

/* The server has ended: nobody reads, nothing is under way. */
void roster_ended (enum outcome outcome);

/* Whether there surely is a snapshot; whether there may be one of an old
 * server's that has no name.
 */
bool roster_has_any (void);
bool roster_may_have_unnamed (void);

/* What a server that has just started lists, before anything is asked of it,
 * is right; then only that is in the roster, in that order.
 */
void roster_match (const json_t *list);

/* What a server that runs lists while nothing is asked of it. */
void roster_see (const json_t *list);

/* The I-th, for who reads them all; or NULL. */
struct entry *roster_at (unsigned i);

#endif
