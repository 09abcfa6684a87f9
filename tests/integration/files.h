/* SPDX-License-Identifier: BSD-3-Clause */
/* Files that tests look at and spoil behind a server's back, and who may. */

#ifndef FSSNAP_TEST_FILES_H
#define FSSNAP_TEST_FILES_H

#include "fixture.h"

#include <sys/stat.h>

/* --- what is in a directory ---------------------------------------------- */

/* Files in a directory whose names begin so. */
unsigned files_like (const char *directory, const char *beginning);

/* All there is in a directory: names, kinds, modes, times, content. */
struct inventory;
struct inventory *inventory (struct fixture *f, const char *directory);

/* Nothing has changed since.  The lock is no matter; nor, if CATALOG is
 * false, is the catalogue.
 */
#define unchanged(before, catalog)                                             \
  assert_unchanged (before, catalog, __FILE__, __LINE__)
void assert_unchanged (const struct inventory *before, bool catalog,
                       const char *file, int line);

/* --- spoiling files ------------------------------------------------------ */

/* A copy at TO, which must not exist, sparse as FROM is, with its times. */
void copy_file (const char *from, const char *to);

/* Put the file FROM where TO is, whatever is there. */
void put_back (const char *from, const char *to);

/* Change a byte. */
void flip (const char *path, uint64_t offset);

/* Make the file's time what it was. */
struct timespec file_time (const char *path);
void set_file_time (const char *path, struct timespec mtime);

/* --- other users --------------------------------------------------------- */

/* Become a user who may do nothing, until the test ends, with all that is
 * started meanwhile.  Skips the test where that cannot be had.  Prepares the
 * fixture's directory for that user.
 */
void become_nobody (struct fixture *f);

#endif
