/* SPDX-License-Identifier: BSD-3-Clause */

#include "call-hook.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

/* The linker's names. */
#pragma GCC diagnostic ignored "-Wmissing-prototypes"
int __real_open64 (const char *path, int flags, ...);
ssize_t __real_pread64 (int fd, void *buf, size_t count, off_t offset);
ssize_t __real_pwrite64 (int fd, const void *buf, size_t count, off_t offset);
ssize_t __real_pwritev64 (int fd, const struct iovec *iov, int n, off_t offset);
ssize_t __real_pwritev64v2 (int fd, const struct iovec *iov, int n,
                            off_t offset, int flags);
int __real_fallocate64 (int fd, int mode, off_t offset, off_t length);
int __real_ftruncate64 (int fd, off_t length);
int __real_fdatasync (int fd);
off_t __real_lseek64 (int fd, off_t offset, int whence);
int __real_fstat64 (int fd, struct stat *st);
int __real_fcntl64 (int fd, int command, ...);
int __real_unlink (const char *path);
int __real_unlinkat (int directory, const char *path, int flags);
int __real_openat64 (int directory, const char *path, int flags, ...);
int __real_fsync (int fd);
int __real_renameat (int from, const char *old, int to, const char *new);
int __real_renameat2 (int from, const char *old, int to, const char *new,
                      unsigned flags);
void *__real_malloc (size_t size);
void *__real_calloc (size_t n, size_t size);
void *__real_aligned_alloc (size_t alignment, size_t size);
void *__real_mmap64 (void *where, size_t length, int protection, int flags,
                     int fd, off_t offset);
int __real_pthread_cond_timedwait (pthread_cond_t *cond, pthread_mutex_t *mutex,
                                   const struct timespec *deadline);
int __real_pthread_cond_wait (pthread_cond_t *cond, pthread_mutex_t *mutex);
int __real_sem_clockwait (sem_t *semaphore, clockid_t clock,
                          const struct timespec *deadline);

static _Atomic call_hook hook;
_Thread_local volatile bool call_hook_off;
struct call_watch call_watch = { .changed = PTHREAD_COND_INITIALIZER };

void
call_hook_set (call_hook new_hook)
{
  atomic_store (&hook, new_hook);
}

/* True if the call is to fail, with errno; *COUNT may become less. */
static bool
fails (enum call call, int fd, uint64_t offset, uint64_t *count)
{
  const call_hook ask = atomic_load (&hook);
  const int err = errno;

  if (ask == NULL || call_hook_off)
    return false;
  call_hook_off = true;
  const struct call_verdict verdict = ask (&(struct call_event){
      .call = call, .fd = fd, .offset = offset, .count = *count });
  call_hook_off = false;
  errno = err;
  if (verdict.error != 0) {
    errno = verdict.error;
    return true;
  }
  if (verdict.most > 0 && *count > verdict.most)
    *count = verdict.most;
  return false;
}

static bool
fails_simply (enum call call, int fd)
{
  uint64_t count = 0;

  return fails (call, fd, 0, &count);
}

int
__wrap_open64 (const char *path, int flags, ...)
{
  va_list args;

  va_start (args, flags);
  const unsigned mode = va_arg (args, unsigned);
  va_end (args);
  return fails_simply (CALL_OPEN, -1) ? -1 : __real_open64 (path, flags, mode);
}

ssize_t
__wrap_pread64 (int fd, void *buf, size_t count, off_t offset)
{
  uint64_t n = count;

  return fails (CALL_PREAD, fd, (uint64_t)offset, &n)
             ? -1
             : __real_pread64 (fd, buf, n, offset);
}

ssize_t
__wrap_pwrite64 (int fd, const void *buf, size_t count, off_t offset)
{
  uint64_t n = count;

  return fails (CALL_PWRITE, fd, (uint64_t)offset, &n)
             ? -1
             : __real_pwrite64 (fd, buf, n, offset);
}

static uint64_t
length_of (const struct iovec *iov, int n)
{
  uint64_t length = 0;

  for (int i = 0; i < n; i++)
    length += iov[i].iov_len;
  return length;
}

/* Write the first COUNT bytes of a vector. */
static ssize_t
write_part (int fd, const struct iovec *iov, uint64_t count, off_t offset)
{
  ssize_t done = 0;

  for (; count > 0; iov++) {
    const size_t n = iov->iov_len < count ? iov->iov_len : count;
    const ssize_t r = __real_pwrite64 (fd, iov->iov_base, n, offset + done);
    if (r <= 0)
      return done > 0 ? done : r;
    done += r;
    count -= (size_t)r;
  }
  return done;
}

ssize_t
__wrap_pwritev64 (int fd, const struct iovec *iov, int n, off_t offset)
{
  uint64_t count = length_of (iov, n);

  if (fails (CALL_PWRITEV, fd, (uint64_t)offset, &count))
    return -1;
  if (count < length_of (iov, n))
    return write_part (fd, iov, count, offset);
  return __real_pwritev64 (fd, iov, n, offset);
}

ssize_t
__wrap_pwritev64v2 (int fd, const struct iovec *iov, int n, off_t offset,
                    int flags)
{
  uint64_t count = length_of (iov, n);

  if (fails (CALL_PWRITEV2, fd, (uint64_t)offset, &count))
    return -1;
  if (count < length_of (iov, n))
    return write_part (fd, iov, count, offset);
  return __real_pwritev64v2 (fd, iov, n, offset, flags);
}

int
__wrap_fallocate64 (int fd, int mode, off_t offset, off_t length)
{
  uint64_t count = (uint64_t)length;

  return fails (CALL_FALLOCATE, fd, (uint64_t)offset, &count)
             ? -1
             : __real_fallocate64 (fd, mode, offset, length);
}

int
__wrap_ftruncate64 (int fd, off_t length)
{
  uint64_t count = (uint64_t)length;

  return fails (CALL_FTRUNCATE, fd, 0, &count)
             ? -1
             : __real_ftruncate64 (fd, length);
}

int
__wrap_fdatasync (int fd)
{
  return fails_simply (CALL_FDATASYNC, fd) ? -1 : __real_fdatasync (fd);
}

off_t
__wrap_lseek64 (int fd, off_t offset, int whence)
{
  uint64_t count = 0;

  return fails (CALL_LSEEK, fd, (uint64_t)offset, &count)
             ? -1
             : __real_lseek64 (fd, offset, whence);
}

int
__wrap_fstat64 (int fd, struct stat *st)
{
  return fails_simply (CALL_FSTAT, fd) ? -1 : __real_fstat64 (fd, st);
}

int
__wrap_fcntl64 (int fd, int command, ...)
{
  va_list args;

  va_start (args, command);
  void *argument = va_arg (args, void *);
  va_end (args);
  return fails_simply (CALL_FCNTL, fd) ? -1
                                       : __real_fcntl64 (fd, command, argument);
}

int
__wrap_unlink (const char *path)
{
  return fails_simply (CALL_UNLINK, -1) ? -1 : __real_unlink (path);
}

int
__wrap_unlinkat (int directory, const char *path, int flags)
{
  return fails_simply (CALL_UNLINK, directory)
             ? -1
             : __real_unlinkat (directory, path, flags);
}

int
__wrap_openat64 (int directory, const char *path, int flags, ...)
{
  va_list args;

  va_start (args, flags);
  const unsigned mode = va_arg (args, unsigned);
  va_end (args);
  return fails_simply (CALL_OPEN, directory)
             ? -1
             : __real_openat64 (directory, path, flags, mode);
}

int
__wrap_fsync (int fd)
{
  return fails_simply (CALL_FSYNC, fd) ? -1 : __real_fsync (fd);
}

int
__wrap_renameat (int from, const char *old, int to, const char *new)
{
  return fails_simply (CALL_RENAME, from)
             ? -1
             : __real_renameat (from, old, to, new);
}

int
__wrap_renameat2 (int from, const char *old, int to, const char *new,
                  unsigned flags)
{
  return fails_simply (CALL_RENAME2, from)
             ? -1
             : __real_renameat2 (from, old, to, new, flags);
}

static bool
no_memory (uint64_t bytes)
{
  return fails (CALL_MEMORY, -1, 0, &bytes);
}

void *
__wrap_malloc (size_t size)
{
  return no_memory (size) ? NULL : __real_malloc (size);
}

void *
__wrap_calloc (size_t n, size_t size)
{
  return no_memory (n * size) ? NULL : __real_calloc (n, size);
}

void *
__wrap_aligned_alloc (size_t alignment, size_t size)
{
  return no_memory (size) ? NULL : __real_aligned_alloc (alignment, size);
}

void *
__wrap_mmap64 (void *where, size_t length, int protection, int flags, int fd,
               off_t offset)
{
  return no_memory (length)
             ? MAP_FAILED
             : __real_mmap64 (where, length, protection, flags, fd, offset);
}

int
__wrap_pthread_cond_timedwait (pthread_cond_t *cond, pthread_mutex_t *mutex,
                               const struct timespec *deadline)
{
  uint64_t count = 1;

  /* It returns its error. */
  if (fails (CALL_WAIT, -1, 0, &count))
    return errno;
  return __real_pthread_cond_timedwait (cond, mutex, deadline);
}

int
__wrap_pthread_cond_wait (pthread_cond_t *cond, pthread_mutex_t *mutex)
{
  if (fails_simply (CALL_WAIT, -1))
    return errno;
  if (cond != call_watch.cond)
    return __real_pthread_cond_wait (cond, mutex);
  call_watch.asleep = true;
  call_watch.sleeps++;
  pthread_cond_broadcast (&call_watch.changed);
  const int err = __real_pthread_cond_wait (cond, mutex);
  call_watch.asleep = false;
  return err;
}

int
__wrap_sem_clockwait (sem_t *semaphore, clockid_t clock,
                      const struct timespec *deadline)
{
  uint64_t count = deadline->tv_sec < LONG_MAX;

  return fails (CALL_WAIT, -1, 0, &count)
             ? -1
             : __real_sem_clockwait (semaphore, clock, deadline);
}
