/* SPDX-License-Identifier: BSD-3-Clause */

#include "extents.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

int
file_extent (int fd, uint64_t offset, uint64_t count, uint64_t *length,
             bool *hole)
{
  off_t end = lseek (fd, (off_t)offset, SEEK_DATA);

  if (end == -1 && errno != ENXIO)
    return -1;
  *length = count;
  if (end == -1) { /* no data from here to the end of the file */
    struct stat st;
    if (fstat (fd, &st) == -1)
      return -1;
    if (offset >= (uint64_t)st.st_size) {
      errno = EIO;
      return -1;
    }
    if (count > (uint64_t)st.st_size - offset)
      *length = (uint64_t)st.st_size - offset;
    *hole = true;
    return 0;
  }
  *hole = (uint64_t)end > offset;
  if (!*hole) {
    end = lseek (fd, (off_t)offset, SEEK_HOLE);
    /* Punched since we looked?  Call it data: that is always safe. */
    if (end == -1 && errno != ENXIO)
      return -1;
  }
  if (end > (off_t)offset && (uint64_t)end - offset < count)
    *length = (uint64_t)end - offset;
  return 0;
}
