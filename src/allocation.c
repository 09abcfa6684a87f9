/* SPDX-License-Identifier: BSD-3-Clause */
/* The command's lines are described in cli/free-lines.h.  It may have been made
 * to misbehave by what it reads: what it says is taken if it makes sense, and
 * it has some time.
 */

#include "allocation.h"
#include "report.h"
#include "scoped.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

/* The longest line has 4096 extents of two numbers. */
#define LINE_SIZE (UINT32_C (512) << 10)

extern char **environ;

struct listing {
  int fd; /* what the command writes */
  struct timespec deadline;
  char *buffer; /* LINE_SIZE bytes */
  size_t used;
  struct snapshot *snapshot;
  bool done; /* it has said that this is all */
};

static const char *
command (void)
{
  const char *path = getenv ("FSSNAP_COMMAND");

  if (path != NULL)
    return path;
  return access (FSSNAP_COMMAND, X_OK) == 0 ? FSSNAP_COMMAND : "fssnap";
}

/* The process, or -1 after a report.  *FD is what it writes. */
static pid_t
start_command (const char *path, int *fd)
{
  const char *name = command ();
  char *const argv[]
      = { (char[]){ "fssnap" }, (char[]){ "candidates" }, (char[]){ "--json" },
          (char[]){ "--" },     (char *)(uintptr_t)path,  NULL };
  posix_spawn_file_actions_t actions;
  int ends[2];
  pid_t pid = -1;

  if (pipe2 (ends, O_CLOEXEC) == -1) {
    report_error ("candidates=auto: pipe2: %s; all is kept", strerror (errno));
    return -1;
  }
  int err = posix_spawn_file_actions_init (&actions);
  if (err == 0) {
    posix_spawn_file_actions_adddup2 (&actions, ends[1], STDOUT_FILENO);
    err = posix_spawnp (&pid, name, &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy (&actions);
  }
  close (ends[1]);
  if (err != 0) {
    report_error ("candidates=auto: cannot run %s: %s; all is kept", name,
                  strerror (err));
    close (ends[0]);
    return -1;
  }
  *fd = ends[0];
  return pid;
}

static void
take_ranges (struct snapshot *snapshot, const json_t *ranges)
{
  for (size_t i = 0; i < json_array_size (ranges); i++) {
    const json_t *range = json_array_get (ranges, i);
    const json_int_t offset = json_integer_value (json_array_get (range, 0));
    const json_int_t length = json_integer_value (json_array_get (range, 1));
    if (offset >= 0 && length > 0 && (uint64_t)offset <= snapshot->size
        && (uint64_t)length <= snapshot->size - (uint64_t)offset)
      snapshot_set_free (snapshot, (uint64_t)offset, (uint64_t)length);
  }
}

static void
tell (const json_t *found)
{
  const char *type = json_string_value (json_object_get (found, "type"));
  const char *why = json_string_value (json_object_get (found, "kept-because"));
  const json_int_t partition
      = json_integer_value (json_object_get (found, "partition"));
  const json_int_t size = json_integer_value (json_object_get (found, "size"));
  const json_int_t space = json_integer_value (json_object_get (found, "free"));
  char place[40] = "";

  if (partition != 0)
    snprintf (place, sizeof place, "partition %" JSON_INTEGER_FORMAT ": ",
              partition);
  if (why != NULL)
    report_error ("candidates=auto: %s%s: all is kept: %s", place,
                  type != NULL ? type : "unknown", why);
  else
    nbdkit_debug ("candidates=auto: %s%s: %" JSON_INTEGER_FORMAT
                  " bytes of %" JSON_INTEGER_FORMAT " are free",
                  place, type != NULL ? type : "unknown", space, size);
}

static void
take_line (struct listing *listing, const char *line, size_t length)
{
  json_auto_t *object = json_loadb (line, length, 0, NULL);
  const json_t *found = json_object_get (object, "found");

  if (found != NULL)
    tell (found);
  take_ranges (listing->snapshot, json_object_get (object, "free"));
  if (json_is_true (json_object_get (object, "done")))
    listing->done = true;
}

static void
take_lines (struct listing *listing)
{
  char *begin = listing->buffer, *end;

  while ((end = memchr (begin, '\n',
                        listing->used - (size_t)(begin - listing->buffer)))
         != NULL) {
    take_line (listing, begin, (size_t)(end - begin));
    begin = end + 1;
  }
  listing->used -= (size_t)(begin - listing->buffer);
  memmove (listing->buffer, begin, listing->used);
}

/* Wait for more.  False: there is none, and no time is left for it. */
static bool
wait_for_more (const struct listing *listing)
{
  struct pollfd poller = { .fd = listing->fd, .events = POLLIN };
  struct timespec now;

  clock_gettime (CLOCK_MONOTONIC, &now);
  const int64_t rest = (listing->deadline.tv_sec - now.tv_sec) * 1000;
  return rest > 0 && poll (&poller, 1, (int)rest) == 1;
}

/* All that the command says. */
static void
listen_to (struct listing *listing)
{
  while (listing->used < LINE_SIZE && wait_for_more (listing)) {
    const ssize_t r = read (listing->fd, listing->buffer + listing->used,
                            LINE_SIZE - listing->used);
    if (r <= 0)
      return;
    listing->used += (size_t)r;
    take_lines (listing);
  }
}

void
allocation_leave_out (struct snapshot *snapshot, const char *path,
                      unsigned patience)
{
  SCOPED_FREE char *buffer = malloc (LINE_SIZE);
  struct listing listing = { .buffer = buffer, .snapshot = snapshot };
  int status;

  if (buffer == NULL) {
    report_error ("candidates=auto: no memory; all is kept");
    return;
  }
  const pid_t pid = start_command (path, &listing.fd);
  if (pid == -1)
    return;
  clock_gettime (CLOCK_MONOTONIC, &listing.deadline);
  listing.deadline.tv_sec += patience;
  listen_to (&listing);
  close (listing.fd);
  if (!listing.done)
    kill (pid, SIGKILL); /* it hangs, or has ended */
  while (waitpid (pid, &status, 0) == -1 && errno == EINTR)
    ;
  if (!listing.done)
    report_error ("candidates=auto: fssnap candidates did not finish%s; what "
                  "it had not found is kept",
                  WIFEXITED (status) ? "" : " in time");
}
