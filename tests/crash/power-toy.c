/* SPDX-License-Identifier: BSD-3-Clause */
/* Keeps a number in a file, with more or less care, and says in the log when
 * it begins to store one and when it is stored.  For power-self, which knows
 * of each way whether a loss of power may do harm to it.
 *
 * usage: power-toy WAY COUNT LOG, in the directory that is recorded
 */

#include "power-self.h"
#include "power-note.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static void
must (bool good, const char *what)
{
  if (!good) {
    perror (what);
    exit (1);
  }
}

/* The number, over and over. */
static void
fill (uint64_t *content, uint64_t number)
{
  for (unsigned i = 0; i < TOY_SIZE / sizeof number; i++)
    content[i] = number;
}

static void
sync_directory (void)
{
  const int fd = open (".", O_RDONLY | O_DIRECTORY);

  must (fd != -1 && fsync (fd) == 0, "fsync .");
  close (fd);
}

static void
write_whole (const char *name, const uint64_t *content, bool sync)
{
  const int fd = open (name, O_WRONLY | O_CREAT, 0600);

  must (fd != -1 && pwrite (fd, content, TOY_SIZE, 0) == TOY_SIZE, name);
  must (!sync || fdatasync (fd) == 0, "fdatasync");
  close (fd);
}

/* Replace the file by a new one. */
static void
replace (const uint64_t *content, bool sync_data, bool sync_name)
{
  write_whole ("new", content, sync_data);
  must (rename ("new", TOY_FILE) == 0, "rename");
  if (sync_name)
    sync_directory ();
}

/* The old one is the next new one. */
static void
exchange (const uint64_t *content)
{
  write_whole ("new", content, true);
  must (renameat2 (AT_FDCWD, "new", AT_FDCWD, TOY_FILE, RENAME_EXCHANGE) == 0,
        "renameat2");
  sync_directory ();
}

static void
in_place (const uint64_t *content, size_t size, bool first_sync,
          bool second_sync)
{
  const int fd = open (TOY_FILE, O_WRONLY);

  must (fd != -1 && (!first_sync || fdatasync (fd) == 0), TOY_FILE);
  must (pwrite (fd, content, size, 0) == (ssize_t)size, "pwrite");
  must (!second_sync || fdatasync (fd) == 0, "fdatasync");
  close (fd);
}

static void
by_dsync (const uint64_t *content)
{
  const struct iovec iov = { (void *)(uintptr_t)content, SECTOR };
  const int fd = open (TOY_FILE, O_WRONLY);

  must (fd != -1 && pwritev2 (fd, &iov, 1, 0, RWF_DSYNC) == SECTOR, "pwritev2");
  close (fd);
}

/* Into a file that grows: the last sector counts. */
static void
grow (const uint64_t *content, uint64_t number, bool sync)
{
  const int fd = open (TOY_FILE, O_WRONLY);

  must (fd != -1 && ftruncate (fd, (off_t)((number + 1) * SECTOR)) == 0,
        "ftruncate");
  must (pwrite (fd, content, SECTOR, (off_t)(number * SECTOR)) == SECTOR,
        "pwrite");
  must (!sync || fdatasync (fd) == 0, "fdatasync");
  close (fd);
}

static void
store (const char *way, uint64_t number)
{
  uint64_t content[TOY_SIZE / sizeof number];

  fill (content, number);
  if (strcmp (way, "careful") == 0)
    replace (content, true, true);
  else if (strcmp (way, "no-data-sync") == 0)
    replace (content, false, true);
  else if (strcmp (way, "no-name-sync") == 0)
    replace (content, true, false);
  else if (strcmp (way, "exchange") == 0)
    exchange (content);
  else if (strcmp (way, "in-place") == 0)
    in_place (content, TOY_SIZE, false, true);
  else if (strcmp (way, "sector") == 0)
    in_place (content, SECTOR, false, true);
  else if (strcmp (way, "sync-before") == 0)
    in_place (content, SECTOR, true, false);
  else if (strcmp (way, "dsync") == 0)
    by_dsync (content);
  else if (strcmp (way, "grow") == 0)
    grow (content, number, true);
  else
    grow (content, number, false);
}

int
main (int argc, char **argv)
{
  if (argc != 4)
    return 2;
  note_go_on (argv[3]);
  for (uint64_t number = 1; number <= strtoull (argv[2], NULL, 10); number++) {
    note_mark (TOY_BEGINS, number);
    store (argv[1], number);
    note_mark (TOY_HAS, number);
  }
  return 0;
}
