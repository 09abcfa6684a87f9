/* SPDX-License-Identifier: BSD-3-Clause */
/* The files of a backing file that is in a store: made, opened and checked,
 * with their index (format.h).
 */

#ifndef FSSNAP_STOREFILE_H
#define FSSNAP_STOREFILE_H

#include "backfile.h"
#include "bitmap.h"
#include "format.h"

/* In how many files of at most PART_SIZE bytes (0: one file) chunks of
 * CHUNK_SIZE bytes of an origin of SIZE bytes go.  0, or -1 with errno,
 * reported, if they are too many or too small.
 */
int storefile_plan (uint64_t size, uint64_t chunk_size, uint64_t part_size,
                    unsigned *parts);

/* Make the files PATHS, which must not exist, for what HEADER says (part and
 * parts, first and length are set here); they and their names are on stable
 * storage when this returns.  NULL with errno after logging; then those made
 * are still there.
 */
struct backfile *storefile_create (const struct format_header *header,
                                   uint64_t part_size, char *const *paths);

/* Open files that were made before and see that they are what HEADER says.
 * NULL with errno and *WHY (to be freed; with the file's name), not logged;
 * nothing is changed.
 */
struct backfile *storefile_open (const struct format_header *header,
                                 uint64_t part_size, char *const *paths,
                                 char **why);

/* Have the name PATH, made just now, on stable storage, and those beside it.
 * 0, or -1 with errno.
 */
int storefile_sync_name (const char *path);

/* For a snapshot that has no files any more: one without, called NAME. */
struct backfile *storefile_absent (const char *name);

/* Read a table of the index into a bitmap of the chunks.  0, or -1 with *WHY
 * as above.
 */
int storefile_load (const struct backfile *backfile, enum format_table table,
                    struct bitmap *bitmap, char **why);

/* Write a whole table, and have it on stable storage.  Nobody else may be
 * writing it.  0, or -1 with errno.
 */
int storefile_write_table (const struct backfile *backfile,
                           enum format_table table,
                           const struct bitmap *bitmap);

/* Have all that was written on stable storage.  0, or -1 with errno. */
int storefile_sync (const struct backfile *backfile);

/* Where the unit is that has a group's bits. */
struct index_place {
  unsigned part;
  int fd;
  uint64_t offset; /* bytes, in the file */
  struct format_unit unit;
  uint64_t first; /* its groups: the first */
  unsigned groups;
};

struct index_place storefile_place (const struct backfile *backfile,
                                    enum format_table table, uint64_t group);

#endif
