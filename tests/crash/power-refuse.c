/* SPDX-License-Identifier: BSD-3-Clause */
/* The calls that the recorder does not record: they end a server that makes
 * them on what is watched.
 */

/* Both names of a function are defined here, one by one. */
#undef _FILE_OFFSET_BITS

#include "power-record.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <unistd.h>

#define EXPORT __attribute__ ((visibility ("default")))

static void
must_not (const char *call, int at, const char *path)
{
  struct power_place place;

  if (power_locate (at, path, &place))
    power_give_up ("%s of %s", call, path);
}

static void
fd_must_not (const char *call, int fd)
{
  uint64_t ino;

  if (power_watched (fd, &ino))
    power_give_up ("%s of inode %lu", call, (unsigned long)ino);
}

#define NEXT(name) ((__typeof__ (&(name)))dlsym (RTLD_NEXT, #name))

EXPORT FILE *
fopen64 (const char *restrict path, const char *restrict mode)
{
  if (strpbrk (mode, "wa+") != NULL)
    must_not ("fopen", AT_FDCWD, path);
  return NEXT (fopen64) (power_boot_path (path), mode);
}

EXPORT FILE *
fopen (const char *restrict path, const char *restrict mode)
{
  if (strpbrk (mode, "wa+") != NULL)
    must_not ("fopen", AT_FDCWD, path);
  return NEXT (fopen) (power_boot_path (path), mode);
}

EXPORT int
creat64 (const char *path, mode_t mode)
{
  return open64 (path, O_WRONLY | O_CREAT | O_TRUNC, mode);
}

EXPORT int
creat (const char *path, mode_t mode)
{
  return creat64 (path, mode);
}

EXPORT int
truncate64 (const char *path, off64_t size)
{
  must_not ("truncate", AT_FDCWD, path);
  return NEXT (truncate64) (path, size);
}

EXPORT int
truncate (const char *path, off_t size)
{
  return truncate64 (path, size);
}

EXPORT int
linkat (int at, const char *path, int to_at, const char *to, int flags)
{
  must_not ("link", to_at, to);
  return NEXT (linkat) (at, path, to_at, to, flags);
}

EXPORT int
link (const char *path, const char *to)
{
  return linkat (AT_FDCWD, path, AT_FDCWD, to, 0);
}

EXPORT int
symlinkat (const char *target, int at, const char *path)
{
  must_not ("symlink", at, path);
  return NEXT (symlinkat) (target, at, path);
}

EXPORT int
symlink (const char *target, const char *path)
{
  return symlinkat (target, AT_FDCWD, path);
}

EXPORT ssize_t
copy_file_range (int in, off64_t *in_offset, int out, off64_t *out_offset,
                 size_t count, unsigned flags)
{
  fd_must_not ("copy_file_range", out);
  return NEXT (copy_file_range) (in, in_offset, out, out_offset, count, flags);
}

EXPORT ssize_t
sendfile64 (int out, int in, off64_t *offset, size_t count)
{
  fd_must_not ("sendfile", out);
  return NEXT (sendfile64) (out, in, offset, count);
}

EXPORT ssize_t
sendfile (int out, int in, off_t *offset, size_t count)
{
  return sendfile64 (out, in, offset, count);
}

EXPORT ssize_t
splice (int in, off64_t *in_offset, int out, off64_t *out_offset, size_t count,
        unsigned flags)
{
  fd_must_not ("splice", out);
  return NEXT (splice) (in, in_offset, out, out_offset, count, flags);
}

EXPORT void *
mmap64 (void *where, size_t length, int protection, int flags, int fd,
        off64_t offset)
{
  if (fd != -1 && (flags & MAP_SHARED) != 0 && (protection & PROT_WRITE) != 0)
    fd_must_not ("mmap", fd);
  return (void *)syscall (SYS_mmap, where, length, protection, flags, fd,
                          offset);
}

EXPORT void *
mmap (void *where, size_t length, int protection, int flags, int fd,
      off_t offset)
{
  return mmap64 (where, length, protection, flags, fd, offset);
}

/* Weaker than what is asked of a barrier; promises nothing. */
EXPORT int
sync_file_range (int fd, off64_t offset, off64_t count, unsigned flags)
{
  return (int)syscall (SYS_sync_file_range, fd, offset, count, flags);
}
