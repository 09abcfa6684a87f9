/* SPDX-License-Identifier: BSD-3-Clause */
/* Preloaded into a server whose disk is one that the test has built: it is
 * to find another boot's id ($FSSNAP_POWER_BOOT is the file that has it), and
 * an origin that is the file it was before the power went away, although it
 * is a copy ($FSSNAP_POWER_ORIGIN is the path): an inode number and a time of
 * birth that are the same for all copies.
 */

/* Both names of a function are defined here, one by one. */
#undef _FILE_OFFSET_BITS

#include "power-record.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define EXPORT __attribute__ ((visibility ("default")))
#define BOOT_ID "/proc/sys/kernel/random/boot_id"

/* What every copy of the origin has. */
#define ORIGIN_INO 4711
#define ORIGIN_BIRTH 1000000000 /* seconds since 1970 */

const char *
power_boot_path (const char *path)
{
  const char *instead = getenv ("FSSNAP_POWER_BOOT");

  return instead != NULL && strcmp (path, BOOT_ID) == 0 ? instead : path;
}

/* By the system call: what is asked here is the truth. */
static long
true_statx (int directory, const char *path, int flags, unsigned mask,
            struct statx *st)
{
  return syscall (SYS_statx, directory, path, flags, mask, st);
}

static bool
is_origin (uint64_t ino)
{
  const char *path = getenv ("FSSNAP_POWER_ORIGIN");
  struct statx st;

  return path != NULL && true_statx (AT_FDCWD, path, 0, STATX_INO, &st) == 0
         && st.stx_ino == ino;
}

EXPORT int
statx (int directory, const char *restrict path, int flags, unsigned mask,
       struct statx *restrict st)
{
  const int r = (int)true_statx (directory, path, flags, mask | STATX_INO, st);

  if (r == 0 && is_origin (st->stx_ino)) {
    st->stx_ino = ORIGIN_INO;
    st->stx_mask |= STATX_BTIME;
    st->stx_btime.tv_sec = ORIGIN_BIRTH;
    st->stx_btime.tv_nsec = 0;
  }
  return r;
}

/* The next library's function of the same name. */
#define NEXT(name) ((__typeof__ (&(name)))dlsym (RTLD_NEXT, #name))

#define STAT_OF_PATH(name, type)                                               \
  EXPORT int name (const char *restrict path, struct type *restrict st)        \
  {                                                                            \
    const int r = NEXT (name) (path, st);                                      \
                                                                               \
    if (r == 0 && is_origin (st->st_ino))                                      \
      st->st_ino = ORIGIN_INO;                                                 \
    return r;                                                                  \
  }

#define STAT_OF_FD(name, type)                                                 \
  EXPORT int name (int fd, struct type *st)                                    \
  {                                                                            \
    const int r = NEXT (name) (fd, st);                                        \
                                                                               \
    if (r == 0 && is_origin (st->st_ino))                                      \
      st->st_ino = ORIGIN_INO;                                                 \
    return r;                                                                  \
  }

#define STAT_AT(name, type)                                                    \
  EXPORT int name (int fd, const char *restrict path,                          \
                   struct type *restrict st, int flags)                        \
  {                                                                            \
    const int r = NEXT (name) (fd, path, st, flags);                           \
                                                                               \
    if (r == 0 && is_origin (st->st_ino))                                      \
      st->st_ino = ORIGIN_INO;                                                 \
    return r;                                                                  \
  }

STAT_OF_PATH (stat, stat)
STAT_OF_PATH (stat64, stat64)
STAT_OF_PATH (lstat, stat)
STAT_OF_PATH (lstat64, stat64)
STAT_OF_FD (fstat, stat)
STAT_OF_FD (fstat64, stat64)
STAT_AT (fstatat, stat)
STAT_AT (fstatat64, stat64)
