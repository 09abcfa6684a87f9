/* SPDX-License-Identifier: BSD-3-Clause */
/* Group commit: from "its data are written" to "the index says so", for a
 * snapshot in a store.
 *
 * All but commit_create, commit_free and commit_add is for the flusher's
 * thread.
 */

#ifndef FSSNAP_COMMIT_H
#define FSSNAP_COMMIT_H

#include "backfile.h"
#include "bitmap.h"
#include "flusher.h"
#include "format.h"
#include "policy.h"
#include "transtbl.h"

struct commit;

/* What a commit works on; all of it outlives it. */
struct commit_of {
  struct flusher *flusher;
  const struct backfile *backfile;
  const struct bitmap *hastrans;   /* the index is of these, and of what is */
  const struct bitmap *unreadable; /* being committed */
  const _Atomic int *level;        /* enum durability; never falls */
  const atomic_bool *cancelled;    /* true: fail with ECANCELED */
  const _Atomic uint64_t *serial;  /* of the last translation begun */
};

/* NULL with errno. */
struct commit *commit_create (const struct commit_of *of);
void commit_free (struct commit *commit);

/* The data of a translation are written, if it has any.  Its job's DONE is
 * called once more, when the index says so, or with the errno of why not.  Any
 * thread.
 */
void commit_add (struct commit *commit, struct translation *translation);

/* Write the index of all that has its bit.  DONE is called when it is
 * written and when what was added before has ended; once at a time.
 */
struct commit_sweep {
  void (*done) (struct commit_sweep *sweep, int error);
  int error; /* the rest is commit.c's */
  bool all;  /* else just wait for what was added before */
  bool last; /* all its units are in the round, or done */
  enum format_table table;
  uint64_t group; /* where to go on */
  uint64_t added; /* translations before it */
};

void commit_sweep (struct commit *commit, struct commit_sweep *sweep);

#endif
