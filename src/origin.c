/* SPDX-License-Identifier: BSD-3-Clause */

#include "origin.h"
#include "extents.h"
#include "report.h"
#include "slow-sync.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <unistd.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

struct origin {
  char *path; /* set at creation, as are the next five */
  int fd;
  bool block_device;
  bool readonly;
  bool rotational;
  unsigned sector; /* what a block device can trim or zero; file: 1 byte */

  /* Off once the kernel has said it cannot. */
  atomic_bool can_punch;
  atomic_bool can_zero_range;
};

/* Log what the kernel said of a call, with errno left as it was. */
static int
failed (const struct origin *origin, const char *call, uint64_t offset,
        uint64_t count)
{
  const int err = errno;

  report_error ("origin %s: %s of %" PRIu64 " bytes at %" PRIu64 ": %s",
                origin->path, call, count, offset, strerror (err));
  errno = err;
  return -1;
}

static int
open_origin (const char *path, int flags, bool *readonly)
{
  int fd = open (path, O_RDWR | flags);

  *readonly = false;
  if (fd == -1 && (errno == EACCES || errno == EPERM || errno == EROFS)) {
    fd = open (path, O_RDONLY | flags);
    *readonly = true;
  }
  return fd;
}

/* Anyone else who locks (QEMU, another fssnap) shall see us, and we them. */
static int
lock_file (const struct origin *origin)
{
  struct flock lock = { .l_type = origin->readonly ? F_RDLCK : F_WRLCK,
                        .l_whence = SEEK_SET };

  if (fcntl (origin->fd, F_OFD_SETLK, &lock) == 0)
    return 0;
  if (errno == EAGAIN || errno == EACCES) {
    report_error ("origin=%s: the file is locked: another program uses it "
                  "(a virtual machine, or another server?)",
                  origin->path);
    return -1;
  }
  nbdkit_debug ("origin=%s: locking is not possible here (%m), going on",
                origin->path);
  return 0;
}

static bool
read_rotational (const struct stat *st)
{
  char path[64];
  char c = '0';

  /* A partition has no queue of its own; its disk is one up. */
  for (int up = 0; up < 2; up++) {
    snprintf (path, sizeof path, "/sys/dev/block/%u:%u/%squeue/rotational",
              major (st->st_rdev), minor (st->st_rdev), up ? "../" : "");
    FILE *f = fopen (path, "re");
    if (f == NULL)
      continue;
    if (fread (&c, 1, 1, f) != 1)
      c = '0';
    fclose (f);
    break;
  }
  return c == '1';
}

/* What kind of thing it is, and what it can do. */
static int
examine (struct origin *origin, const struct stat *st)
{
  int sector = 512;

  origin->sector = 1;
  if (S_ISREG (st->st_mode))
    return lock_file (origin);
  if (ioctl (origin->fd, BLKSSZGET, &sector) == -1) {
    report_error ("origin=%s: cannot read the sector size: %m", origin->path);
    return -1;
  }
  origin->sector = (unsigned)sector;
  origin->rotational = read_rotational (st);
  return 0;
}

struct origin *
origin_open (const char *path)
{
  struct origin *origin = calloc (1, sizeof *origin);
  struct stat st;

  if (origin == NULL || (origin->path = strdup (path)) == NULL) {
    report_error ("origin=%s: %m", path);
    free (origin);
    return NULL;
  }
  origin->fd = -1;
  atomic_init (&origin->can_punch, true);
  atomic_init (&origin->can_zero_range, true);

  if (stat (path, &st) == -1) {
    report_error ("origin=%s: %m", path);
    goto error;
  }
  if (!S_ISBLK (st.st_mode) && !S_ISREG (st.st_mode)) {
    report_error ("origin=%s: not a block device nor a regular file", path);
    goto error;
  }
  origin->block_device = S_ISBLK (st.st_mode);
  origin->fd = open_origin (
      path, O_CLOEXEC | (origin->block_device ? O_EXCL : 0), &origin->readonly);
  if (origin->fd == -1) {
    if (errno == EBUSY)
      report_error ("origin=%s: the device is in use: mounted, or part of "
                    "LVM, RAID, swap or another server",
                    path);
    else
      report_error ("origin=%s: open: %m", path);
    goto error;
  }
  if (examine (origin, &st) == -1)
    goto error;
  return origin;

error:
  origin_close (origin);
  return NULL;
}

void
origin_close (struct origin *origin)
{
  if (origin == NULL)
    return;
  if (origin->fd != -1)
    close (origin->fd);
  free (origin->path);
  free (origin);
}

const char *
origin_path (const struct origin *origin)
{
  return origin->path;
}

bool
origin_is_readonly (const struct origin *origin)
{
  return origin->readonly;
}

bool
origin_can_fast_zero (const struct origin *origin)
{
  return atomic_load (&origin->can_punch)
         || atomic_load (&origin->can_zero_range);
}

bool
origin_can_extents (const struct origin *origin)
{
  return !origin->block_device;
}

bool
origin_is_rotational (const struct origin *origin)
{
  return origin->rotational;
}

int64_t
origin_size (const struct origin *origin)
{
  struct stat st;
  uint64_t size;

  if (origin->block_device) {
    if (ioctl (origin->fd, BLKGETSIZE64, &size) == 0)
      return (int64_t)size;
  }
  else if (fstat (origin->fd, &st) == 0)
    return st.st_size;
  report_error ("origin %s: cannot read the size: %m", origin->path);
  return -1;
}

int
origin_stat (const struct origin *origin, struct statx *st)
{
  if (statx (origin->fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME, st)
      == 0)
    return 0;
  const int err = errno;
  report_error ("origin %s: statx: %s", origin->path, strerror (err));
  errno = err;
  return -1;
}

int
origin_read_quiet (const struct origin *origin, void *buf, uint64_t count,
                   uint64_t offset)
{
  uint8_t *p = buf;

  while (count > 0) {
    const ssize_t r = pread (origin->fd, p, count, (off_t)offset);
    if (r == -1 && errno == EINTR)
      continue;
    if (r == 0)
      errno = EIO;
    if (r <= 0)
      return -1;
    p += r;
    offset += (uint64_t)r;
    count -= (uint64_t)r;
  }
  return 0;
}

int
origin_read (const struct origin *origin, void *buf, uint64_t count,
             uint64_t offset)
{
  if (origin_read_quiet (origin, buf, count, offset) == -1)
    return failed (origin, "read", offset, count);
  return 0;
}

int
origin_write (const struct origin *origin, const void *buf, uint64_t count,
              uint64_t offset, bool fua)
{
  const int flags = fua ? RWF_DSYNC : 0;
  /* iovec has no const; writing does not change the data. */
  uint8_t *p = (uint8_t *)(uintptr_t)buf;

  while (count > 0) {
    const struct iovec iov = { .iov_base = p, .iov_len = count };
    const ssize_t r = fua ? pwritev2 (origin->fd, &iov, 1, (off_t)offset, flags)
                          : pwrite (origin->fd, p, count, (off_t)offset);
    if (r == -1 && errno == EINTR)
      continue;
    if (r == 0)
      errno = EIO;
    if (r <= 0)
      return failed (origin, "write", offset, count);
    p += r;
    offset += (uint64_t)r;
    count -= (uint64_t)r;
  }
  return 0;
}

/* Log R, what a flush returned. */
static int
flushed (const struct origin *origin, int r)
{
  const int err = errno;

  if (r == -1)
    report_error ("origin %s: fdatasync: %s", origin->path, strerror (err));
  errno = err;
  return r;
}

int
origin_flush (const struct origin *origin)
{
  return flushed (origin, fdatasync (origin->fd));
}

int
origin_flush_slowly (const struct origin *origin, _Atomic unsigned *steps)
{
  return flushed (origin, slow_sync (origin->fd, steps));
}

/* fallocate, with the refusals of all kinds made one: EOPNOTSUPP, and
 * remembered in *CAN.
 */
static int
punch_or_zero (const struct origin *origin, int mode, uint64_t count,
               uint64_t offset, atomic_bool *can)
{
  int r;

  if (!atomic_load (can)) {
    errno = EOPNOTSUPP;
    return -1;
  }
  do
    r = fallocate (origin->fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)offset,
                   (off_t)count);
  while (r == -1 && errno == EINTR);
  if (r == 0)
    return 0;
  if (errno == EOPNOTSUPP || errno == ENOSYS || errno == ENODEV) {
    atomic_store (can, false);
    errno = EOPNOTSUPP;
    return -1;
  }
  return failed (origin, "fallocate", offset, count);
}

int
origin_trim (struct origin *origin, uint64_t count, uint64_t offset, bool fua)
{
  /* Part of a sector cannot be given back. */
  const uint64_t up
      = (offset + origin->sector - 1) / origin->sector * origin->sector;
  const uint64_t end = (offset + count) / origin->sector * origin->sector;

  if (up < end
      && punch_or_zero (origin, FALLOC_FL_PUNCH_HOLE, end - up, up,
                        &origin->can_punch)
             == -1
      && errno != EOPNOTSUPP)
    return -1;
  return fua ? origin_flush (origin) : 0;
}

int
origin_zero (struct origin *origin, uint64_t count, uint64_t offset,
             bool may_trim, bool fua)
{
  int r = -1;

  errno = EOPNOTSUPP;
  if (offset % origin->sector == 0 && count % origin->sector == 0) {
    if (may_trim)
      r = punch_or_zero (origin, FALLOC_FL_PUNCH_HOLE, count, offset,
                         &origin->can_punch);
    if (r == -1 && errno == EOPNOTSUPP)
      r = punch_or_zero (origin, FALLOC_FL_ZERO_RANGE, count, offset,
                         &origin->can_zero_range);
  }
  if (r == 0 && fua)
    r = origin_flush (origin);
  return r;
}

int
origin_cache (const struct origin *origin, uint64_t count, uint64_t offset)
{
  /* Returns the error; advice not taken is none. */
  const int err = posix_fadvise (origin->fd, (off_t)offset, (off_t)count,
                                 POSIX_FADV_WILLNEED);

  if (err != 0)
    nbdkit_debug ("origin %s: posix_fadvise: %s", origin->path, strerror (err));
  return 0;
}

int
origin_extent (const struct origin *origin, uint64_t count, uint64_t offset,
               uint64_t *length, bool *hole)
{
  if (origin->block_device) {
    *length = count;
    *hole = false;
    return 0;
  }
  if (file_extent (origin->fd, offset, count, length, hole) == -1)
    return failed (origin, "lseek", offset, count);
  return 0;
}
