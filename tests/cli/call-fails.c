/* SPDX-License-Identifier: BSD-3-Clause */
/* Preloaded, makes calls fail: $FAIL_CALLS is a list of CALL:ERRNO with
 * spaces between.  They fail in this order, each once; a call that is not the
 * next of the list goes through.
 */

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static bool
fails (const char *call)
{
  static const char *next;
  const size_t length = strlen (call);

  if (next == NULL)
    next = getenv ("FAIL_CALLS");
  if (next == NULL || strncmp (next, call, length) != 0 || next[length] != ':')
    return false;
  char *end;
  errno = (int)strtol (next + length + 1, &end, 10);
  next = *end == ' ' ? end + 1 : end;
  return true;
}

#define THE_REAL(call) ((__typeof__ (&(call)))dlsym (RTLD_NEXT, #call))

int
socket (int domain, int type, int protocol)
{
  return fails ("socket") ? -1 : THE_REAL (socket) (domain, type, protocol);
}

int
connect (int fd, const struct sockaddr *address, socklen_t length)
{
  return fails ("connect") ? -1 : THE_REAL (connect) (fd, address, length);
}

/* One byte at a time, which is a socket's right. */
ssize_t
send (int fd, const void *bytes, size_t count, int flags)
{
  return fails ("send") ? -1
                        : THE_REAL (send) (fd, bytes, count > 0 ? 1 : 0, flags);
}

ssize_t
recv (int fd, void *bytes, size_t count, int flags)
{
  return fails ("recv") ? -1
                        : THE_REAL (recv) (fd, bytes, count > 0 ? 1 : 0, flags);
}

struct dirent *
readdir (DIR *directory)
{
  return fails ("readdir") ? NULL : THE_REAL (readdir) (directory);
}
