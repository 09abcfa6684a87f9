/* SPDX-License-Identifier: BSD-3-Clause */

#include "scratch.h"
#include "fixture.h"

#include <dirent.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char directory[256];

static void
remove_and_abort (int signal_number)
{
  scratch_remove ();
  signal (signal_number, SIG_DFL);
  raise (signal_number);
}

const char *
scratch_directory (void)
{
  static bool registered;

  if (directory[0] != '\0')
    return directory;
  if (!registered) {
    atexit (scratch_remove);
    signal (SIGABRT, remove_and_abort);
    signal (SIGTERM, remove_and_abort);
    signal (SIGINT, remove_and_abort);
    registered = true;
  }
  snprintf (directory, sizeof directory, "%s/fssnap-unit-XXXXXX",
            test_directory ());
  if (mkdtemp (directory) == NULL) {
    perror (directory);
    exit (EXIT_FAILURE);
  }
  return directory;
}

const char *
scratch_path (const char *name)
{
  static char paths[8][512];
  static unsigned next;
  char *path = paths[next++ % 8];

  snprintf (path, sizeof paths[0], "%s/%s", scratch_directory (), name);
  return path;
}

unsigned
scratch_files (void)
{
  DIR *dir = directory[0] != '\0' ? opendir (directory) : NULL;
  const struct dirent *entry;
  unsigned n = 0;

  if (dir == NULL)
    return 0;
  while ((entry = readdir (dir)) != NULL) {
    n += entry->d_name[0] != '.';
  }
  closedir (dir);
  return n;
}

static int
remove_one (const char *path, const struct stat *st, int type, struct FTW *ftw)
{
  (void)st;
  (void)type;
  (void)ftw;
  remove (path);
  return 0;
}

void
scratch_remove (void)
{
  if (directory[0] == '\0')
    return;
  nftw (directory, remove_one, 8, FTW_DEPTH | FTW_PHYS);
  directory[0] = '\0';
}
