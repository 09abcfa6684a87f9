/* SPDX-License-Identifier: BSD-3-Clause */
/* How well a snapshot is kept, and what gives way if it cannot be. */

#ifndef FSSNAP_POLICY_H
#define FSSNAP_POLICY_H

/* Where the old chunk is before the origin is overwritten; each is stronger
 * than the one before.
 */
enum durability {
  DURABILITY_ASYNC,   /* in memory */
  DURABILITY_WRITTEN, /* in the backing file and its index, by write(2) */
  DURABILITY_STABLE,  /* there, and on stable storage */
};

enum on_error {
  ON_ERROR_BREAK_SNAPSHOT, /* the write goes on, the snapshot is given up */
  ON_ERROR_BREAK_WRITE,    /* the write fails, the snapshot stays */
};

/* The words for them, as in parameters. */
const char *policy_durability (enum durability durability);
const char *policy_on_error (enum on_error on_error);

/* Which WORD means: an enum's value, or -1. */
int policy_parse_durability (const char *word);
int policy_parse_on_error (const char *word);

#endif
