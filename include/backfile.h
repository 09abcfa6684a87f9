/* SPDX-License-Identifier: BSD-3-Clause */
/* The backing file of one snapshot: sparse, each copied chunk at the offset
 * it has on the origin, behind a header; split over several files if asked.
 *
 * A hole is a copy too: of a chunk that was all zeros.
 */

#ifndef FSSNAP_BACKFILE_H
#define FSSNAP_BACKFILE_H

#include <stdbool.h>
#include <stdint.h>

/* Files of one backing file, each of which is an open descriptor: a quarter
 * of what a process may usually have.
 */
#define BACKFILE_PARTS_MAX 256

struct backfile_options {
  const char *store;   /* a directory, or a file that does not exist yet */
  uint64_t part_size;  /* bytes a file may have; 0: one file for all */
  uint64_t size;       /* bytes of the origin */
  uint64_t chunk_size; /* bytes */
  const char *origin;  /* its name, for who finds the file */
};

struct backfile_part {
  int fd;        /* -1 until made */
  uint64_t data; /* where in it the data begin */
};

/* Set when its files are made or opened, and never changed. */
struct backfile {
  char *store;   /* what it is called */
  bool named;    /* its files' names go when it does */
  uint64_t span; /* bytes of the origin in one file */
  unsigned parts;
  unsigned keep; /* bytes of each file that stay when it is emptied */
  struct storefile *storefile; /* what storefile.c knows of it, or NULL */
  struct backfile_part part[];
};

/* For who makes one: with PARTS files, none of which is there yet.  NULL with
 * errno.
 */
struct backfile *backfile_new (const char *name, unsigned parts, uint64_t span);

/* Make the files: unlinked ones in a directory, or STORE, STORE.1 and so
 * on.  NULL after logging; then nothing is left of them.
 */
struct backfile *backfile_create (const struct backfile_options *options);

/* Close the files and remove the names of those that end with the server. */
void backfile_free (struct backfile *backfile);

/* The least part_size for chunks of CHUNK_SIZE. */
uint64_t backfile_least_part (uint64_t chunk_size);

/* What the files are called, for messages. */
const char *backfile_name (const struct backfile *backfile);

/* Where the chunks at OFFSET are.  A run within one bitmap group is always
 * within one file.
 */
void backfile_locate (const struct backfile *backfile, uint64_t offset, int *fd,
                      uint64_t *file_offset);

/* Read copied chunks, COUNT bytes at OFFSET of the origin.  0, or -1 with
 * errno, not logged.
 */
int backfile_read (const struct backfile *backfile, void *buf, uint64_t count,
                   uint64_t offset);

/* Whether there is a *HOLE at OFFSET, and how long that answer holds, at
 * most COUNT (1 or more).  0, or -1 with errno, not logged.
 */
int backfile_extent (const struct backfile *backfile, uint64_t count,
                     uint64_t offset, uint64_t *length, bool *hole);

/* Give the space of COUNT bytes at OFFSET of the origin back; they read as
 * zeros.  0, or -1 with errno, not logged.
 */
int backfile_punch (const struct backfile *backfile, uint64_t offset,
                    uint64_t count);

/* Bytes that the files take on disk, as their file systems say. */
uint64_t backfile_allocated (const struct backfile *backfile);

/* Give all space back; what ends with the server loses its name.  Reads fail
 * from here on. No write may be under way.
 */
void backfile_discard (struct backfile *backfile);

#endif
