/* SPDX-License-Identifier: BSD-3-Clause */
/* Which parts of a sparse file are holes. */

#ifndef FSSNAP_EXTENTS_H
#define FSSNAP_EXTENTS_H

#include <stdbool.h>
#include <stdint.h>

/* What is at OFFSET of FD, a regular file: *HOLE, and for how many bytes,
 * at most COUNT (1 or more), *LENGTH.  0, or -1 with errno, not logged: EIO
 * past the file's end, which must not pass for a hole.
 */
int file_extent (int fd, uint64_t offset, uint64_t count, uint64_t *length,
                 bool *hole);

#endif
