/* SPDX-License-Identifier: BSD-3-Clause */

#include "kernel-facts.h"
#include "output.h"
#include "scoped.h"

#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef TEST_DIRECTORIES
const char *
sys_directory (void)
{
  const char *path = getenv ("FSSNAP_TEST_SYS");
  return path != NULL ? path : "/sys";
}

const char *
dev_directory (void)
{
  const char *path = getenv ("FSSNAP_TEST_DEV");
  return path != NULL ? path : "/dev";
}
#else
const char *
sys_directory (void)
{
  return "/sys";
}

const char *
dev_directory (void)
{
  return "/dev";
}
#endif

char *
first_line (const char *path)
{
  FILE *from = fopen (path, "re");
  SCOPED_FREE char *line = NULL;
  size_t size = 0;

  if (from == NULL)
    return NULL;
  const ssize_t n = getline (&line, &size, from);
  fclose (from);
  if (n <= 0)
    return NULL;
  line[strcspn (line, "\n")] = '\0';
  return text ("%s", line);
}

long long
process_start (pid_t pid)
{
  SCOPED_FREE char *path = text ("/proc/%d/stat", (int)pid);
  SCOPED_FREE char *line = pid > 0 ? first_line (path) : NULL;
  /* The second field is the name, which may have anything in it. */
  char *field = line != NULL ? strrchr (line, ')') : NULL;

  if (field == NULL || field[1] != ' ' || field[2] == 'Z' || field[2] == 'X')
    return 0;
  for (int n = 2; n < 22 && field != NULL; n++)
    field = strchr (field + 1, ' ');
  return field != NULL ? atoll (field) : 0;
}

/* \040 and the like, in place. */
static char *
unescape (char *string)
{
  char *to = string;

  for (const char *from = string; *from != '\0'; to++) {
    int code = 0;
    if (*from == '\\' && strspn (from + 1, "01234567") >= 3) {
      for (int i = 1; i <= 3; i++)
        code = 8 * code + (from[i] - '0');
      *to = (char)code;
      from += 4;
    }
    else
      *to = *from++;
  }
  *to = '\0';
  return string;
}

bool
each_mount (bool (*take) (void *, const char *, const char *), void *context)
{
  FILE *from = fopen ("/proc/self/mountinfo", "re");
  char **lines = NULL;
  size_t n = 0, size = 0;
  char *line = NULL;
  bool done = false;

  while (from != NULL && getline (&line, &size, from) != -1) {
    char **grown = realloc (lines, (n + 1) * sizeof *lines);
    if (grown == NULL)
      no_memory ();
    lines = grown;
    lines[n++] = line;
    line = NULL;
    size = 0;
  }
  free (line);
  if (from != NULL)
    fclose (from);
  while (n-- > 0) {
    char *rest = strstr (lines[n], " - ");
    char directory[4097], source[4097];

    if (!done && rest != NULL
        && sscanf (lines[n], "%*s %*s %*s %*s %4096s", directory) == 1
        && sscanf (rest + 3, "%*s %4096s", source) == 1)
      done = take (context, unescape (directory), unescape (source));
    free (lines[n]);
  }
  free (lines);
  return done;
}

char *
loops_on (const char *file)
{
  DIR *directory = opendir ("/sys/block");
  const struct dirent *entry;
  char *found = text ("%s", "");

  while (directory != NULL && (entry = readdir (directory)) != NULL) {
    if (strncmp (entry->d_name, "loop", 4) != 0)
      continue;
    SCOPED_FREE char *path
        = text ("/sys/block/%s/loop/backing_file", entry->d_name);
    SCOPED_FREE char *backing = first_line (path);
    if (backing == NULL || strcmp (backing, file) != 0)
      continue;
    SCOPED_FREE char *before = found;
    found = text ("%s/dev/%s\n", before, entry->d_name);
  }
  if (directory != NULL)
    closedir (directory);
  return found;
}

/* By its name, not by a look at the file: that may be of a file system that
 * does not answer any more.
 */
static bool
has_open (const char *pid, const char *wanted)
{
  SCOPED_FREE char *path = text ("/proc/%s/fd", pid);
  DIR *directory = opendir (path);
  const struct dirent *entry;
  bool found = false;

  while (!found && directory != NULL && (entry = readdir (directory)) != NULL) {
    char target[4096];
    const ssize_t n = readlinkat (dirfd (directory), entry->d_name, target,
                                  sizeof target - 1);
    if (n > 0)
      target[n] = '\0';
    found = n > 0 && strcmp (target, wanted) == 0;
  }
  if (directory != NULL)
    closedir (directory);
  return found;
}

char *
users_of (const char *path)
{
  DIR *directory = opendir ("/proc");
  const struct dirent *entry;
  char *found = NULL;

  while (directory != NULL && (entry = readdir (directory)) != NULL) {
    if (!isdigit ((unsigned char)entry->d_name[0])
        || atoi (entry->d_name) == getpid () || !has_open (entry->d_name, path))
      continue;
    SCOPED_FREE char *comm = text ("/proc/%s/comm", entry->d_name);
    SCOPED_FREE char *name = first_line (comm);
    SCOPED_FREE char *before = found;
    found = text ("%s%s%s (%s)", before != NULL ? before : "",
                  before != NULL ? ", " : "", name != NULL ? name : "?",
                  entry->d_name);
  }
  if (directory != NULL)
    closedir (directory);
  return found;
}
