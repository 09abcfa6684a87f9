/* SPDX-License-Identifier: BSD-3-Clause */
/* What a snapshot may be asked to be: values as people write them, as
 * parameters of the plugin and in requests on the control socket.
 */

#ifndef FSSNAP_OPTIONS_H
#define FSSNAP_OPTIONS_H

#include "snapshot.h"

#include <stdbool.h>
#include <stdint.h>

struct options {
  struct snapshot_options snapshot;
  char *backing_store;   /* what SNAPSHOT points to; owned; NULL: not given */
  bool durability_given; /* by who asks, not by default */
};

/* The defaults. */
void options_init (struct options *options);

/* The same as FROM, for a change of some of it.  0, or -1 after logging. */
int options_copy (struct options *options, const struct options *from);

void options_free (struct options *options);

/* Take one option of a snapshot; a path must be absolute.  1: taken; 0:
 * there is no such option; -1 after one message.
 */
int options_set (struct options *options, const char *key, const char *value);

/* All are taken: fill in what depends on the rest, refuse what does not go
 * together.  0, or -1 after one message.
 */
int options_check (struct options *options);

/* max-memory must be at least this for such a snapshot, bytes. */
uint64_t options_least_memory (const struct options *options);

/* For parameters that are no snapshot's: a size; which of some words, with
 * '|' between them; or a message that says what is ALLOWED.  -1 after one.
 */
int options_parse_size (const char *key, const char *value, uint64_t *size);
int options_parse_word (const char *key, const char *value, const char *words);
int options_refuse (const char *key, const char *value, const char *allowed);

#endif
