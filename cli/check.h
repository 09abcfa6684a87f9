/* SPDX-License-Identifier: BSD-3-Clause */
/* What "fssnap check" finds, shared by its parts. */

#ifndef FSSNAP_CLI_CHECK_H
#define FSSNAP_CLI_CHECK_H

#include "store.h"

#include <stdint.h>
#include <sys/types.h>

enum severity {
  PROBLEM, /* a snapshot cannot be read that ought to be, or more is wrong */
  WARNING, /* something to look at, of which no snapshot suffers */
  NOTE,    /* as it should be, but good to know */
};

/* A file that has been looked at. */
struct seen {
  struct seen *next;
  dev_t device;
  ino_t inode;
  const char *name; /* the catalogue's */
};

struct check {
  struct store store;
  json_t *findings; /* objects */
  unsigned counts[NOTE + 1];
  struct seen *seen;
};

/* What the files of a layer hold. */
struct figures {
  bool whole;           /* nothing is wrong with them */
  uint64_t copied;      /* chunks, those that could not be read included */
  uint64_t free;        /* chunks */
  uint64_t lost;        /* chunks that could not be read */
  uint64_t bytes;       /* on disk */
  uint64_t *file_bytes; /* of each file; to be freed */
};

/* Note what was found: about a snapshot's NUMBER, or 0, and FILE, as the
 * catalogue or the directory has it.
 */
void check_found (struct check *check, enum severity severity, unsigned number,
                  const char *file, const char *format, ...)
    __attribute__ ((format (printf, 5, 6)));

/* What the files of a layer take on disk. */
struct figures check_space (const struct check *check,
                            const struct catalog_layer *layer);

/* Look at all of them. */
void check_files (struct check *check, const struct catalog_layer *layer,
                  struct figures *figures);

/* What a file that the catalogue does not list is, for people: from malloc.
 * BACKING: part of a backing file.
 */
char *check_stranger (const struct check *check, const char *name,
                      bool *backing);

#endif
