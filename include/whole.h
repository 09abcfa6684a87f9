/* SPDX-License-Identifier: BSD-3-Clause */
/* Reads and writes that are not cut short by a signal, or by a file system
 * that does less than it was asked to.
 */

#ifndef FSSNAP_WHOLE_H
#define FSSNAP_WHOLE_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

/* The bytes read, fewer only at the file's end; or -1 with errno. */
static inline ssize_t
whole_pread (int fd, void *buf, size_t count, uint64_t offset)
{
  size_t done = 0;

  while (done < count) {
    const ssize_t r = pread (fd, (uint8_t *)buf + done, count - done,
                             (off_t)(offset + done));
    if (r == -1 && errno == EINTR)
      continue;
    if (r == -1)
      return -1;
    if (r == 0)
      break;
    done += (size_t)r;
  }
  return (ssize_t)done;
}

/* 0, or -1 with errno. */
static inline int
whole_pwrite (int fd, const void *buf, size_t count, uint64_t offset)
{
  size_t done = 0;

  while (done < count) {
    const ssize_t r = pwrite (fd, (const uint8_t *)buf + done, count - done,
                              (off_t)(offset + done));
    if (r == -1 && errno == EINTR)
      continue;
    if (r == 0)
      errno = ENOSPC;
    if (r <= 0)
      return -1;
    done += (size_t)r;
  }
  return 0;
}

#endif
