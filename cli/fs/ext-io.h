/* SPDX-License-Identifier: BSD-3-Clause */
/* libext2fs reads what a reader reads. */

#ifndef FSSNAP_EXT_IO_H
#define FSSNAP_EXT_IO_H

#include "reader.h"

#include <ext2fs/ext2fs.h>

/* Open the file system, to read it only; READING must live until it is closed,
 * by ext2fs_free ().  NULL after refuse ().
 */
ext2_filsys ext_open (struct reading *reading);

/* BLOCK will be read after all that were announced before: those are read many
 * at a time, as they may be scattered.
 */
void ext_announce (ext2_filsys fs, uint64_t block);

/* Read a BLOCK that is WHAT.  0, or -1 after refuse (). */
int ext_get (ext2_filsys fs, const char *what, void *buffer, uint64_t block);

#endif
