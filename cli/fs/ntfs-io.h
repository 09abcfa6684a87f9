/* SPDX-License-Identifier: BSD-3-Clause */
/* A source as libntfs-3g wants to have it. */

#ifndef FSSNAP_NTFS_IO_H
#define FSSNAP_NTFS_IO_H

#include "source.h"

#include <stdarg.h>
#include <sys/stat.h>
#include <time.h>

/* The library's headers ask for them, as if its own build were going on. */
#define HAVE_STDARG_H 1
#define HAVE_SYS_STAT_H 1
#define HAVE_TIME_H 1
#include <ntfs-3g/device.h>

/* A device that reads SOURCE and fails whatever would write; SOURCE must live
 * longer.  NULL with errno.  To be freed by ntfs_umount () of what is mounted
 * from it, or by ntfs_device_free ().
 */
struct ntfs_device *ntfs_io_new (struct source *source);

#endif
