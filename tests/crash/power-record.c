/* SPDX-License-Identifier: BSD-3-Clause */
/* Preloaded into a server: has what it changes below $FSSNAP_POWER_ROOT, and
 * each barrier, written to $FSSNAP_POWER_LOG (power-log.h).  Without these
 * it does nothing.
 *
 * What would change a file in a way that is not recorded ends the server by
 * abort, with a word why, so that no test passes because it saw too little.
 * (What goes round libc, as io_uring does, is not seen; the test finds out,
 * since it compares the files with what the log says.)
 *
 * $FSSNAP_POWER_KILL=N: the server is killed once it has written the Nth
 * record, in the middle of whatever its other threads are doing; with
 * $FSSNAP_POWER_KILL_SYNC=N, when it is about to make the Nth barrier.
 *
 * The calls themselves are made as system calls: no other library comes
 * between.
 */

/* Both names of a function are defined here, one by one. */
#undef _FILE_OFFSET_BITS

#include "power-log.h"
#include "power-record.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define EXPORT __attribute__ ((visibility ("default")))
#define SEGMENTS_MAX 128

/* The log's descriptor: out of the way of those that are handed over. */
#define LOG_FD_MIN 500

static int log_fd = -1; /* set at load, as are the next four */
static const char *root;
static size_t root_length;
static uint64_t kill_after, kill_sync; /* records, barriers; 0: never */
static _Atomic uint64_t records, barriers, serials;

/* Held shared while a record is written, and by whoever kills the server:
 * SIGKILL may end a write of several pages after the first of them.
 */
static pthread_rwlock_t writing = PTHREAD_RWLOCK_INITIALIZER;

void
power_give_up (const char *format, ...)
{
  va_list args;

  va_start (args, format);
  fprintf (stderr, "power-record: ");
  vfprintf (stderr, format, args);
  fprintf (stderr, "\n");
  va_end (args);
  abort ();
}

static uint64_t
number_in (const char *variable)
{
  const char *text = getenv (variable);

  return text != NULL ? strtoull (text, NULL, 10) : 0;
}

__attribute__ ((constructor)) static void
begin_log (void)
{
  const char *path = getenv ("FSSNAP_POWER_LOG");

  root = getenv ("FSSNAP_POWER_ROOT");
  if (path == NULL || *path == '\0' || root == NULL)
    return;
  root_length = strlen (root);
  kill_after = number_in ("FSSNAP_POWER_KILL");
  kill_sync = number_in ("FSSNAP_POWER_KILL_SYNC");
  const int fd = (int)syscall (SYS_openat, AT_FDCWD, path,
                               O_WRONLY | O_APPEND | O_CLOEXEC);
  if (fd == -1)
    power_give_up ("%s: %m", path);
  log_fd = fcntl (fd, F_DUPFD_CLOEXEC, LOG_FD_MIN);
  if (log_fd == -1)
    power_give_up ("%s: F_DUPFD: %m", path);
  close (fd);
}

/* --- records -------------------------------------------------------------- */

static void
die (void)
{
  pthread_rwlock_wrlock (&writing);
  kill (getpid (), SIGKILL);
  pause ();
}

static void
append (struct power_record *record, const struct iovec *payload, unsigned n)
{
  static const char padding[8];
  struct iovec all[SEGMENTS_MAX + 2] = { { record, sizeof *record } };
  size_t bytes = sizeof *record;
  unsigned count = 1;

  for (unsigned i = 0; i < n; bytes += payload[i++].iov_len)
    all[count++] = payload[i];
  all[count++] = (struct iovec){ (void *)(uintptr_t)padding, -bytes % 8 };
  bytes += -bytes % 8;
  record->bytes = (uint32_t)bytes;
  pthread_rwlock_rdlock (&writing);
  const long r = syscall (SYS_writev, log_fd, all, count);
  pthread_rwlock_unlock (&writing);
  if (r != (ssize_t)bytes)
    power_give_up ("cannot write the log: %m");
  if (atomic_fetch_add (&records, 1) + 1 == kill_after)
    die ();
}

static void
begin (struct power_record *record, const struct iovec *payload, unsigned n)
{
  /* Servers that follow one another have different ones. */
  record->serial = (uint64_t)getpid () << 32 | atomic_fetch_add (&serials, 1);
  append (record, payload, n);
}

static bool
look_at (int fd, struct statx *st)
{
  return syscall (SYS_statx, fd, "", AT_EMPTY_PATH,
                  STATX_INO | STATX_MTIME | STATX_TYPE, st)
         == 0;
}

/* The call has returned RESULT, which is returned, with errno as it is.  FD:
 * the file, or -1.
 */
static long
end (struct power_record *record, long result, int fd)
{
  const int err = errno;
  struct statx st;

  record->ended = 1;
  record->result = result;
  if (fd != -1 && look_at (fd, &st))
    record->mtime = st.stx_mtime.tv_sec * 1000000000 + st.stx_mtime.tv_nsec;
  append (record, NULL, 0);
  errno = err;
  return result;
}

bool
power_watched (int fd, uint64_t *ino)
{
  const int err = errno;
  char link[64], path[PATH_MAX];
  struct statx st;

  if (log_fd == -1)
    return false;
  snprintf (link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t n = readlink (link, path, sizeof path - 1);
  errno = err;
  if (n < (ssize_t)root_length || memcmp (path, root, root_length) != 0
      || (n > (ssize_t)root_length && path[root_length] != '/')
      || !look_at (fd, &st))
    return false;
  *ino = st.stx_ino;
  return true;
}

/* --- changes of files ----------------------------------------------------- */

static bool
is_dsync (int fd, int flags)
{
  return (flags & (RWF_DSYNC | RWF_SYNC)) != 0
         || (fcntl (fd, F_GETFL) & O_DSYNC) != 0;
}

static ssize_t
write_at (int fd, const struct iovec *iov, int n, int64_t offset, int flags)
{
  struct power_record record = { .op = POWER_WRITE };

  if (!power_watched (fd, &record.ino))
    return syscall (SYS_pwritev2, fd, iov, n, offset, 0, flags);
  if (n > SEGMENTS_MAX || (flags & RWF_APPEND) != 0
      || (fcntl (fd, F_GETFL) & O_APPEND) != 0)
    power_give_up ("a write of %d segments, or one that appends", n);
  record.dsync = is_dsync (fd, flags);
  /* Where a plain write goes. */
  record.offset = (uint64_t)(offset == -1 ? lseek (fd, 0, SEEK_CUR) : offset);
  for (int i = 0; i < n; i++)
    record.length += iov[i].iov_len;
  begin (&record, iov, (unsigned)n);
  return end (&record, syscall (SYS_pwritev2, fd, iov, n, offset, 0, flags),
              fd);
}

EXPORT ssize_t
pwrite64 (int fd, const void *buf, size_t count, off64_t offset)
{
  const struct iovec iov = { (void *)(uintptr_t)buf, count };

  return write_at (fd, &iov, 1, offset, 0);
}

EXPORT ssize_t
pwrite (int fd, const void *buf, size_t count, off_t offset)
{
  return pwrite64 (fd, buf, count, offset);
}

EXPORT ssize_t
pwritev64 (int fd, const struct iovec *iov, int n, off64_t offset)
{
  return write_at (fd, iov, n, offset, 0);
}

EXPORT ssize_t
pwritev (int fd, const struct iovec *iov, int n, off_t offset)
{
  return write_at (fd, iov, n, offset, 0);
}

EXPORT ssize_t
pwritev64v2 (int fd, const struct iovec *iov, int n, off64_t offset, int flags)
{
  return write_at (fd, iov, n, offset, flags);
}

EXPORT ssize_t
pwritev2 (int fd, const struct iovec *iov, int n, off_t offset, int flags)
{
  return write_at (fd, iov, n, offset, flags);
}

/* These two also go to pipes and sockets, which have no offset. */
EXPORT ssize_t
write (int fd, const void *buf, size_t count)
{
  const struct iovec iov = { (void *)(uintptr_t)buf, count };
  uint64_t ino;

  return power_watched (fd, &ino) ? write_at (fd, &iov, 1, -1, 0)
                                  : syscall (SYS_write, fd, buf, count);
}

EXPORT ssize_t
writev (int fd, const struct iovec *iov, int n)
{
  uint64_t ino;

  return power_watched (fd, &ino) ? write_at (fd, iov, n, -1, 0)
                                  : syscall (SYS_writev, fd, iov, n);
}

EXPORT int
ftruncate64 (int fd, off64_t size)
{
  struct power_record record
      = { .op = POWER_TRUNCATE, .offset = (uint64_t)size };

  if (!power_watched (fd, &record.ino))
    return (int)syscall (SYS_ftruncate, fd, size);
  begin (&record, NULL, 0);
  return (int)end (&record, syscall (SYS_ftruncate, fd, size), fd);
}

EXPORT int
ftruncate (int fd, off_t size)
{
  return ftruncate64 (fd, size);
}

EXPORT int
fallocate64 (int fd, int mode, off64_t offset, off64_t length)
{
  const bool punch = mode == (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
  const bool zero = mode == (FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE);
  struct power_record record
      = { .op = punch || zero ? POWER_ZERO : POWER_EXTEND,
          .offset = (uint64_t)offset,
          .length = (uint64_t)length };

  if (!power_watched (fd, &record.ino) || mode == FALLOC_FL_KEEP_SIZE)
    return (int)syscall (SYS_fallocate, fd, mode, offset, length);
  if (!punch && !zero && mode != 0)
    power_give_up ("fallocate with mode %#x", (unsigned)mode);
  begin (&record, NULL, 0);
  return (int)end (&record, syscall (SYS_fallocate, fd, mode, offset, length),
                   fd);
}

EXPORT int
fallocate (int fd, int mode, off_t offset, off_t length)
{
  return fallocate64 (fd, mode, offset, length);
}

EXPORT int
posix_fallocate64 (int fd, off64_t offset, off64_t length)
{
  return fallocate64 (fd, 0, offset, length) == -1 ? errno : 0;
}

EXPORT int
posix_fallocate (int fd, off_t offset, off_t length)
{
  return posix_fallocate64 (fd, offset, length);
}

/* --- barriers ------------------------------------------------------------- */

static int
barrier (int fd, enum power_op op, long call)
{
  struct power_record record = { .op = op };

  if (!power_watched (fd, &record.ino))
    return (int)syscall (call, fd);
  begin (&record, NULL, 0);
  if (atomic_fetch_add (&barriers, 1) + 1 == kill_sync)
    die ();
  return (int)end (&record, syscall (call, fd), fd);
}

EXPORT int
fsync (int fd)
{
  return barrier (fd, POWER_SYNC, SYS_fsync);
}

EXPORT int
fdatasync (int fd)
{
  return barrier (fd, POWER_DATASYNC, SYS_fdatasync);
}

EXPORT int
syncfs (int fd)
{
  return barrier (fd, POWER_SYNC_ALL, SYS_syncfs);
}

/* --- changes of directories ----------------------------------------------- */

bool
power_locate (int at, const char *path, struct power_place *place)
{
  const char *slash = strrchr (path, '/');
  const char *name = slash != NULL ? slash + 1 : path;
  char up[PATH_MAX];
  struct statx st;

  if (log_fd == -1 || *name == '\0' || strlen (name) > NAME_MAX)
    return false;
  snprintf (up, sizeof up, "%.*s", slash != NULL ? (int)(slash - path) : 1,
            slash != NULL ? path : ".");
  const int fd = (int)syscall (SYS_openat, at, slash == path ? "/" : up,
                               O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (fd == -1)
    return false;
  const bool found = power_watched (fd, &place->directory);
  if (found) {
    strcpy (place->name, name);
    place->exists
        = syscall (SYS_statx, fd, name, AT_SYMLINK_NOFOLLOW, STATX_INO, &st)
          == 0;
    place->ino = place->exists ? st.stx_ino : 0;
  }
  close (fd);
  return found;
}

/* Begin a change of a name, or of two in one directory. */
static void
begin_names (struct power_record *record, enum power_op op,
             const struct power_place *place, const struct power_place *to)
{
  static const struct power_place nowhere;

  if (to != NULL && to->directory != place->directory)
    power_give_up ("%s moves to another directory", place->name);
  if (to == NULL)
    to = &nowhere;
  const struct iovec names[]
      = { { (void *)(uintptr_t)place->name, strlen (place->name) + 1 },
          { (void *)(uintptr_t)to->name, strlen (to->name) + 1 } };

  *record = (struct power_record){ .op = (uint8_t)op,
                                   .ino = place->directory,
                                   .offset = place->ino,
                                   .length = to->ino };
  begin (record, names, 2);
}

static uint64_t
ino_of (int fd)
{
  struct statx st;

  return look_at (fd, &st) ? st.stx_ino : 0;
}

static int
make_file (int at, const char *path, int flags, mode_t mode,
           const struct power_place *place)
{
  struct power_record record;

  begin_names (&record, POWER_CREATE, place, NULL);
  const int fd = (int)syscall (SYS_openat, at, path, flags, mode);
  if (fd != -1)
    record.made = ino_of (fd);
  end (&record, fd, -1);
  return fd;
}

static int
truncate_file (int at, const char *path, int flags, mode_t mode,
               const struct power_place *place)
{
  struct power_record record = { .op = POWER_TRUNCATE, .ino = place->ino };

  begin (&record, NULL, 0);
  const int fd = (int)syscall (SYS_openat, at, path, flags, mode);
  end (&record, fd, fd);
  return fd;
}

static int
open_at (int at, const char *path, int flags, mode_t mode)
{
  struct power_place place = { .name = "" };

  path = power_boot_path (path);
  if ((flags & O_TMPFILE) == O_TMPFILE) {
    const int fd = (int)syscall (SYS_openat, at, path, flags, mode);
    struct power_record record = { .op = POWER_CREATE };

    if (fd != -1 && power_watched (fd, &record.made)) {
      begin_names (&record, POWER_CREATE, &place, NULL);
      record.made = ino_of (fd);
      end (&record, fd, -1);
    }
    return fd;
  }
  if ((flags & (O_CREAT | O_TRUNC)) == 0 || !power_locate (at, path, &place))
    return (int)syscall (SYS_openat, at, path, flags, mode);
  if (!place.exists && (flags & O_CREAT) != 0)
    return make_file (at, path, flags, mode, &place);
  if (place.exists && (flags & (O_TRUNC | O_EXCL)) == O_TRUNC)
    return truncate_file (at, path, flags, mode, &place);
  return (int)syscall (SYS_openat, at, path, flags, mode);
}

/* The mode is there only with these flags. */
#define MODE_ARGUMENT(flags)                                                   \
  mode_t mode = 0;                                                             \
  if (((flags) & (O_CREAT | O_TMPFILE)) != 0) {                                \
    va_list args;                                                              \
    va_start (args, flags);                                                    \
    mode = va_arg (args, mode_t);                                              \
    va_end (args);                                                             \
  }

EXPORT int
open64 (const char *path, int flags, ...)
{
  MODE_ARGUMENT (flags)
  return open_at (AT_FDCWD, path, flags, mode);
}

EXPORT int
open (const char *path, int flags, ...)
{
  MODE_ARGUMENT (flags)
  return open_at (AT_FDCWD, path, flags, mode);
}

EXPORT int
openat64 (int at, const char *path, int flags, ...)
{
  MODE_ARGUMENT (flags)
  return open_at (at, path, flags, mode);
}

EXPORT int
openat (int at, const char *path, int flags, ...)
{
  MODE_ARGUMENT (flags)
  return open_at (at, path, flags, mode);
}

static int
make_temporary (char *template, int flags)
{
  static _Atomic unsigned next;
  char *x = template + strlen (template) - 6;

  for (;;) {
    char digits[16];
    snprintf (digits, sizeof digits, "%06u",
              (unsigned)getpid () * 101 % 10000 * 100
                  + atomic_fetch_add (&next, 1) % 100);
    memcpy (x, digits, 6);
    const int fd
        = open_at (AT_FDCWD, template, flags | O_RDWR | O_CREAT | O_EXCL, 0600);
    if (fd != -1 || errno != EEXIST)
      return fd;
  }
}

EXPORT int
mkostemp64 (char *template, int flags)
{
  return make_temporary (template, flags);
}

EXPORT int
mkostemp (char *template, int flags)
{
  return make_temporary (template, flags);
}

EXPORT int
mkstemp64 (char *template)
{
  return make_temporary (template, 0);
}

EXPORT int
mkstemp (char *template)
{
  return make_temporary (template, 0);
}

EXPORT int
mkdirat (int at, const char *path, mode_t mode)
{
  struct power_record record;
  struct power_place place;

  if (!power_locate (at, path, &place) || place.exists)
    return (int)syscall (SYS_mkdirat, at, path, mode);
  begin_names (&record, POWER_MKDIR, &place, NULL);
  const int r = (int)syscall (SYS_mkdirat, at, path, mode);
  if (r == 0 && power_locate (at, path, &place))
    record.made = place.ino;
  return (int)end (&record, r, -1);
}

EXPORT int
mkdir (const char *path, mode_t mode)
{
  return mkdirat (AT_FDCWD, path, mode);
}

EXPORT int
unlinkat (int at, const char *path, int flags)
{
  struct power_record record;
  struct power_place place;

  if (!power_locate (at, path, &place) || !place.exists)
    return (int)syscall (SYS_unlinkat, at, path, flags);
  begin_names (&record, POWER_UNLINK, &place, NULL);
  return (int)end (&record, syscall (SYS_unlinkat, at, path, flags), -1);
}

EXPORT int
unlink (const char *path)
{
  return unlinkat (AT_FDCWD, path, 0);
}

EXPORT int
rmdir (const char *path)
{
  return unlinkat (AT_FDCWD, path, AT_REMOVEDIR);
}

EXPORT int
renameat2 (int at, const char *path, int to_at, const char *to, unsigned flags)
{
  struct power_record record;
  struct power_place place, to_place;
  const bool from_here = power_locate (at, path, &place);
  const bool to_here = power_locate (to_at, to, &to_place);

  if (from_here != to_here || (flags & RENAME_WHITEOUT) != 0)
    power_give_up ("%s is renamed to %s", path, to);
  if (!from_here || !place.exists)
    return (int)syscall (SYS_renameat2, at, path, to_at, to, flags);
  begin_names (&record, flags & RENAME_EXCHANGE ? POWER_EXCHANGE : POWER_RENAME,
               &place, &to_place);
  return (int)end (&record, syscall (SYS_renameat2, at, path, to_at, to, flags),
                   -1);
}

EXPORT int
renameat (int at, const char *path, int to_at, const char *to)
{
  return renameat2 (at, path, to_at, to, 0);
}

EXPORT int
rename (const char *path, const char *to)
{
  return renameat2 (AT_FDCWD, path, AT_FDCWD, to, 0);
}
