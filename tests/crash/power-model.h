/* SPDX-License-Identifier: BSD-3-Clause */
/* Which snapshots must be there after a crash at any place in the log, and
 * what is in them.
 */

#ifndef FSSNAP_TEST_POWER_MODEL_H
#define FSSNAP_TEST_POWER_MODEL_H

#include "power-state.h"

#include <stdbool.h>
#include <stdint.h>

/* As the file that a client of the origin knows is called in the log. */
#define CLIENT_INO 1

/* Marks; with a snapshot's index, or with 0. */
enum what {
  MARK_BEGINS,    /* a server is about to be started */
  MARK_STOPS,     /* it has ended well */
  MARK_FINISHING, /* of a snapshot's making only the answer is missing */
  MARK_MADE,      /* that has come */
  MARK_DELETING,  /* its deletion is about to be asked for */
  MARK_DELETED,   /* that was answered; or it was not there in the end */
  MARK_BROKEN,    /* it was seen broken */
  MARKS,
};

enum keeping { ASYNC, WRITTEN, STABLE };

struct snap {
  char name[16];
  enum keeping keeping;
  bool ephemeral;
  bool may_break; /* it, or one newer, has a limit */

  /* 0 and NULL as long as it is not known. */
  unsigned number;
  uint64_t chunk_size;
  int64_t created;
  uint8_t *content;

  /* From when that is made, this is what it is known as; or NULL. */
  const struct snap *again;

  uint64_t at[MARKS]; /* where the log has its marks; NEVER: nowhere */
};

struct model {
  uint64_t size;       /* bytes of the origin, and of each snapshot */
  uint8_t *origin;     /* while it is written: what it has */
  struct snap **snaps; /* oldest first */
  unsigned count;
  bool clean; /* the disk is from after a clean end, at first */

  /* Of the log, as read. */
  uint64_t begins;       /* the first place at which a server runs */
  uint64_t *runs, *ends; /* places: a server begins, has ended well */
  unsigned run_count, end_count;
};

/* What must be of a snapshot after a crash. */
struct duty {
  enum presence { GONE, EITHER, LISTED } presence;
  bool whole; /* else it may be disabled, with a reason */
};

struct model *model_create (uint64_t size);
void model_free (struct model *model);

/* A new snapshot's index; the rest of it is the caller's. */
unsigned model_add (struct model *model, const char *name);

/* The model for what goes on from the disk's state after a crash. */
struct model *model_after (const struct model *model, const struct crash *crash,
                           const uint8_t *origin);

/* Write a mark for it into the log. */
void model_mark (enum what what, unsigned snap);

/* Learn from the log where the marks are. */
void model_learn (struct model *model, const struct disk *disk);

struct duty model_duty (const struct model *model, const struct snap *snap,
                        const struct crash *crash);

/* Whether the last server had ended well. */
bool model_is_clean (const struct model *model, const struct crash *crash);

#endif
