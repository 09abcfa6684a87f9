/* SPDX-License-Identifier: BSD-3-Clause */

#include "slow-sync.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

/* Bytes in a step: seconds on a slow disk, and enough for a fast one. */
#define STEP ((off_t)16 << 20)

int
slow_sync (int fd, _Atomic unsigned *steps)
{
  const off_t end = lseek (fd, 0, SEEK_END);
  off_t next;

  for (off_t offset = 0; offset < end; offset = next) {
    const off_t data = lseek (fd, offset, SEEK_DATA);

    if (data == -1 && errno == ENXIO)
      break; /* a hole, to the end */
    if (data > offset)
      offset = data;
    next = offset + STEP;
    if (sync_file_range (fd, offset, STEP,
                         SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE
                             | SYNC_FILE_RANGE_WAIT_AFTER)
        == -1) {
      /* What failed is reported once: it must not be lost. */
      if (errno == EIO || errno == ENOSPC || errno == EDQUOT)
        return -1;
      break; /* it cannot be done in steps here */
    }
    atomic_fetch_add (steps, 1);
  }
  const int r = fsync (fd);
  atomic_fetch_add (steps, 1);
  return r;
}
