/* SPDX-License-Identifier: BSD-3-Clause */
/* Which space of a view is worth keeping: all of it, but for what a reader has
 * proven free in a file system that is on it, or on one of its partitions.
 */

#ifndef FSSNAP_CANDIDATES_H
#define FSSNAP_CANDIDATES_H

#include "reader.h"

/* What was found at one place. */
struct finding {
  unsigned partition; /* its number; 0: it is the whole disk */
  const char *type;   /* by libblkid's name, or the reader's */
  uint64_t offset;    /* bytes, of the partition */
  uint64_t size;      /* of the file system; of the partition if WHY */
  uint64_t free;      /* bytes */
  const char *why;    /* everything is kept, and why; or NULL */
};

/* Whoever wants to know; they come in ascending order of offset. */
struct teller {
  void (*found) (void *arg, const struct finding *finding);
  /* Free space, found just now; offsets from the beginning of the view. */
  void (*free) (void *arg, const struct extent *extents, size_t count);
  void *arg;
};

/* The reader of that name, or of what libblkid calls so; NULL: there is none.
 */
const struct reader *reader_of (const char *name);

/* Look at what is there, and tell.  ONLY: it is what this one reads, whatever
 * libblkid says; NULL: libblkid says what it is.  What cannot be read is told,
 * too.
 */
void candidates_find (struct source *source, const struct reader *only,
                      const struct teller *teller);

#endif
