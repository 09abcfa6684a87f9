/* SPDX-License-Identifier: BSD-3-Clause */

#include "ntfs-io.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The library has but a few volumes open at a time: here it is one. */
struct ntfs_io {
  struct source *source;
  s64 position;
};

static int
fail (int error)
{
  errno = error;
  return -1;
}

static int
io_open (struct ntfs_device *device, int flags)
{
  if (NDevOpen (device))
    return fail (EBUSY);
  if ((flags & O_ACCMODE) != O_RDONLY)
    return fail (EROFS);
  NDevSetOpen (device);
  NDevSetReadOnly (device);
  return 0;
}

/* It frees the rest, too: the library closes a device once. */
static int
io_close (struct ntfs_device *device)
{
  if (!NDevOpen (device))
    return fail (EBADF);
  NDevClearOpen (device);
  free (device->d_private);
  device->d_private = NULL;
  return 0;
}

static s64
io_seek (struct ntfs_device *device, s64 offset, int whence)
{
  struct ntfs_io *io = device->d_private;
  const s64 size = (s64)io->source->size;
  const s64 base = whence == SEEK_END   ? size
                   : whence == SEEK_CUR ? io->position
                                        : 0;
  s64 position;

  if (__builtin_add_overflow (base, offset, &position) || position < 0
      || position > size)
    return fail (EINVAL);
  io->position = position;
  return position;
}

/* As pread (): less at the end, nothing behind it. */
static s64
io_pread (struct ntfs_device *device, void *buffer, s64 count, s64 offset)
{
  const struct ntfs_io *io = device->d_private;
  const s64 size = (s64)io->source->size;

  if (count < 0 || offset < 0)
    return fail (EINVAL);
  if (offset >= size)
    return 0;
  if (count > size - offset)
    count = size - offset;
  return source_read (io->source, buffer, (size_t)count, (uint64_t)offset) == -1
             ? -1
             : count;
}

static s64
io_read (struct ntfs_device *device, void *buffer, s64 count)
{
  struct ntfs_io *io = device->d_private;
  const s64 done = io_pread (device, buffer, count, io->position);

  if (done > 0)
    io->position += done;
  return done;
}

static s64
io_write (struct ntfs_device *device, const void *buffer, s64 count)
{
  (void)device;
  (void)buffer;
  (void)count;
  return fail (EROFS);
}

static s64
io_pwrite (struct ntfs_device *device, const void *buffer, s64 count,
           s64 offset)
{
  (void)offset;
  return io_write (device, buffer, count);
}

static int
io_sync (struct ntfs_device *device)
{
  (void)device;
  return 0; /* nothing was written */
}

static int
io_stat (struct ntfs_device *device, struct stat *stat)
{
  const struct ntfs_io *io = device->d_private;

  memset (stat, 0, sizeof *stat);
  stat->st_mode = S_IFREG | 0400;
  stat->st_size = (off_t)io->source->size;
  return 0;
}

static int
io_ioctl (struct ntfs_device *device, unsigned long request, void *argument)
{
  (void)device;
  (void)request;
  (void)argument;
  return fail (EOPNOTSUPP);
}

static struct ntfs_device_operations operations = {
  .open = io_open,
  .close = io_close,
  .seek = io_seek,
  .read = io_read,
  .write = io_write,
  .pread = io_pread,
  .pwrite = io_pwrite,
  .sync = io_sync,
  .stat = io_stat,
  .ioctl = io_ioctl,
};

struct ntfs_device *
ntfs_io_new (struct source *source)
{
  struct ntfs_io *io = calloc (1, sizeof *io);

  if (io == NULL)
    return NULL;
  if (source->size > INT64_MAX) {
    free (io);
    fail (EFBIG);
    return NULL;
  }
  io->source = source;
  struct ntfs_device *device = ntfs_device_alloc ("view", 0, &operations, io);
  if (device == NULL)
    free (io);
  return device;
}
