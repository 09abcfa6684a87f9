/* SPDX-License-Identifier: BSD-3-Clause */
/* A reader finds out which space of a file system is free.  There is one for
 * each kind, in a file of its own.
 *
 * What is read may be damaged, may have been made to do harm, and may have
 * been frozen in the middle of something.  So everything is used until it is
 * proven free: a reader believes a structure only when its magic, checksum,
 * version, bounds, levels and order are what they must be, refuses a feature
 * that it does not know, a journal that would have to be replayed first, and
 * a file system that is marked as damaged; and when it refuses, all that it has
 * found is thrown away, and everything is kept.
 *
 * Free is what no file and no structure of the file system uses, and what
 * mounting it, checking it (fsck) and growing it would not read.  Space behind
 * the file system's end is not the reader's to call free.
 */

#ifndef FSSNAP_READER_H
#define FSSNAP_READER_H

#include "freemap.h"
#include "source.h"

#include <stddef.h>
#include <stdint.h>

/* One file system while it is read. */
struct reading {
  struct source *source; /* that begins where the file system does */
  uint64_t size;         /* of the file system, bytes; the reader's to say */
  struct freemap *free;  /* offsets from the beginning of SOURCE */
  char *why;             /* why it was refused, from malloc, or NULL */
};

struct reader {
  const char *name;         /* as in --candidates=NAME */
  const char *const *types; /* what libblkid calls what it reads; then NULL */

  /* Find the free space.  0, or -1 after refuse (). */
  int (*read) (struct reading *reading);
};

extern const struct reader reader_btrfs;
extern const struct reader reader_exfat;
extern const struct reader reader_ext;
extern const struct reader reader_fat;
extern const struct reader reader_ntfs;
extern const struct reader reader_swap;
extern const struct reader reader_xfs;

/* Note why the file system is not believed, in half a sentence for people
 * ("the journal needs recovery"); the first reason counts.
 */
void refuse_because (struct reading *reading, const char *format, ...)
    __attribute__ ((format (printf, 2, 3)));

static inline int
refused (void)
{
  return -1;
}

/* The same as an expression that is -1, which compilers and analysers see. */
#define refuse(...) (refuse_because (__VA_ARGS__), refused ())

/* Read COUNT bytes from OFFSET on of WHAT ("the superblock").  0, or -1 after
 * refuse (): also where they do not lie within the source.
 */
int reading_get (struct reading *reading, const char *what, void *buffer,
                 size_t count, uint64_t offset);

/* These LENGTH bytes, or none, are free.  0, or -1 after refuse (): no memory,
 * or they do not lie within the file system's size.
 */
int reading_free (struct reading *reading, uint64_t offset, uint64_t length);

#endif
