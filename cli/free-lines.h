/* SPDX-License-Identifier: BSD-3-Clause */
/* What was found of free space, as lines of JSON, from the process that looks
 * at the file system to the one that tells the server:
 *
 *   {"found":{"partition":1,"type":"ext4","offset":O,"size":N,"free":N,
 *             "kept-because":TEXT or null}}
 *   {"free":[[OFFSET,LENGTH],...]}        at most FREE_LINE_EXTENTS of them
 *   {"done":true}                         the last one; without it, it failed
 *
 * docs/candidates.md describes them for other programs.
 */

#ifndef FSSNAP_FREE_LINES_H
#define FSSNAP_FREE_LINES_H

#include "fs/candidates.h"

#include <stdio.h>

/* So that a request with them is no longer than a server takes. */
#define FREE_LINE_EXTENTS 4096

/* Look at SOURCE, with one reader or, NULL, with those that fit, and write the
 * lines.  0, or -1 if OUT has an error.
 */
int free_lines_write (FILE *out, struct source *source,
                      const struct reader *only);

/* One line of what was found, for people: "ext4: 3.1G of 10.0G are free". */
char *finding_shown (const struct finding *finding);

#endif
