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

#endif
