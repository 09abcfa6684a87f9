/* SPDX-License-Identifier: BSD-3-Clause */

#include "find-socket.h"
#include "output.h"
#include "scoped.h"

#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* The tests have one of their own. */
#ifndef SOCKET_DIRECTORY
#define SOCKET_DIRECTORY "/run/fssnap"
#endif

#define HOW_TO_SAY "say which with -s PATH or in $FSSNAP_SOCKET"

static void
close_directory (DIR **directory)
{
  if (*directory != NULL)
    closedir (*directory);
}

static int
none_found (const char *because)
{
  complain ("there is no control socket in " SOCKET_DIRECTORY "%s: start a "
            "server (nbdkit fssnap ... control=" SOCKET_DIRECTORY
            "/NAME), or " HOW_TO_SAY,
            because);
  return -1;
}

/* Read the directory: the number of sockets, and their paths with a space
 * between.  -1 after a message.
 */
static int
list_sockets (DIR *directory, char **paths)
{
  int n = 0;

  for (;;) {
    struct stat st;
    errno = 0;
    const struct dirent *entry = readdir (directory);

    if (entry == NULL) {
      if (errno == 0)
        return n;
      complain ("cannot read " SOCKET_DIRECTORY ": %s", strerror (errno));
      return -1;
    }
    if (fstatat (dirfd (directory), entry->d_name, &st, 0) == -1
        || !S_ISSOCK (st.st_mode))
      continue;
    SCOPED_FREE char *before = *paths;
    *paths = text ("%s%s" SOCKET_DIRECTORY "/%s", n == 0 ? "" : before,
                   n == 0 ? "" : " ", entry->d_name);
    n++;
  }
}

static char *
only_socket (void)
{
  __attribute__ ((cleanup (close_directory))) DIR *directory
      = opendir (SOCKET_DIRECTORY);
  SCOPED_FREE char *paths = NULL;

  if (directory == NULL) {
    SCOPED_FREE char *because = text (" (%s)", strerror (errno));
    none_found (because);
    return NULL;
  }
  const int n = list_sockets (directory, &paths);
  if (n == 0)
    none_found ("");
  if (n > 1)
    complain ("there is more than one control socket: " HOW_TO_SAY ": %s",
              paths);
  return n == 1 ? text ("%s", paths) : NULL;
}

char *
find_socket (void)
{
  const char *path = getenv ("FSSNAP_SOCKET");

  if (path != NULL && *path != '\0')
    return text ("%s", path);
  return only_socket ();
}
