/* SPDX-License-Identifier: BSD-3-Clause */
/* A store (docs/store-format.md) as a directory, without its server. */

#ifndef FSSNAP_CLI_STORE_H
#define FSSNAP_CLI_STORE_H

#include "catalog.h"

#include <jansson.h>
#include <stdbool.h>

struct store {
  char *path; /* absolute */
  int directory;
  struct catalog catalog;
};

#define STORE_INIT                                                             \
  {                                                                            \
    .directory = -1                                                            \
  }
#define SCOPED_STORE __attribute__ ((cleanup (store_close))) struct store

/* Open the directory.  0, or -1 after a message. */
int store_open (struct store *store, const char *path);

void store_close (struct store *store);

/* What a file of the catalogue is called from anywhere: from malloc. */
char *store_file (const struct store *store, const char *name);

/* The answer that a server of the store PATH, without clients, would give to
 * snapshot.list, as far as the catalogue has it; ALL: with those that are
 * deleted.  NULL after a message.  A server may be using the store.
 */
json_t *store_list (const char *path, bool all);

#endif
