/* SPDX-License-Identifier: BSD-3-Clause */
/* A file system may have been made to do harm, so it is read by a child: what
 * happens to that leaves the snapshot with all that was proven before.
 */

#include "free-space.h"
#include "free-lines.h"
#include "output.h"
#include "scoped.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

/* What the child may take: the map of a very fragmented file system, and what
 * libraries need beside it.
 */
#define MEMORY_MAX (UINT64_C (3) << 30)

const struct reader *
type_argument (const struct command *command, const char *option,
               const char *type)
{
  const struct reader *reader = reader_of (type);

  if (reader == NULL && strcmp (type, "auto") != 0)
    usage_error (command,
                 "%s=%s: must be auto, btrfs, exfat, ext2, ext3, ext4, ntfs, "
                 "swap, vfat or xfs",
                 option, type);
  return reader;
}

/* AddressSanitizer maps terabytes, and does not take a refusal. */
#if defined __SANITIZE_ADDRESS__
#define MEMORY_IS_LIMITED false
#elif defined __has_feature
#if __has_feature(address_sanitizer)
#define MEMORY_IS_LIMITED false
#endif
#endif
#ifndef MEMORY_IS_LIMITED
#define MEMORY_IS_LIMITED true
#endif

/* --- the child --------------------------------------------------------------
 */

__attribute__ ((noreturn)) static void
look (int to, pid_t parent, const char *uri, const struct reader *only)
{
  const struct rlimit memory = { MEMORY_MAX, MEMORY_MAX }, core = { 0, 0 };
  FILE *out = fdopen (to, "w");

  prctl (PR_SET_PDEATHSIG, SIGTERM);
  if (getppid () != parent)
    _exit (STATUS_FAILED);
  if (MEMORY_IS_LIMITED)
    setrlimit (RLIMIT_AS, &memory);
  setrlimit (RLIMIT_CORE, &core);
  struct source *source = source_of_nbd (uri);
  if (source != NULL)
    source = source_cached (source);
  if (source == NULL || out == NULL)
    _exit (STATUS_FAILED);
  _exit (free_lines_write (out, source, only) == 0 ? STATUS_DONE
                                                   : STATUS_FAILED);
}

/* --- its parent -------------------------------------------------------------
 */

static void
show (const json_t *found)
{
  const struct finding finding = {
    .partition
    = (unsigned)json_integer_value (json_object_get (found, "partition")),
    .type = json_string_value (json_object_get (found, "type")),
    .size = (uint64_t)json_integer_value (json_object_get (found, "size")),
    .free = (uint64_t)json_integer_value (json_object_get (found, "free")),
    .why = json_string_value (json_object_get (found, "kept-because")),
  };
  SCOPED_FREE char *shown = finding_shown (&finding);

  complain ("%s", shown);
}

/* One line of the child's.  1: it was the last one; 0; or -1 after a message
 * that the server refused it.
 */
static int
take (struct client *client, json_int_t number, const char *line)
{
  json_auto_t *object = json_loads (line, 0, NULL);
  json_t *ranges = json_object_get (object, "free");
  const json_t *found = json_object_get (object, "found");

  if (found != NULL)
    show (found);
  if (ranges != NULL) {
    json_auto_t *result = client_request (
        client, "snapshot.set_free",
        json_pack ("{s:I, s:O}", "snapshot", number, "ranges", ranges));
    return result != NULL ? 0 : -1;
  }
  return json_is_true (json_object_get (object, "done"));
}

static int
take_all (struct client *client, json_int_t number, FILE *lines)
{
  SCOPED_FREE char *line = NULL;
  size_t size = 0;
  int r = 0;

  while (r == 0 && getline (&line, &size, lines) != -1)
    r = take (client, number, line);
  return r;
}

int
free_space_tell (struct client *client, json_int_t number, const char *uri,
                 const struct reader *only)
{
  int ends[2], status = 0;

  if (pipe2 (ends, O_CLOEXEC) == -1)
    no_memory ();
  const pid_t parent = getpid (), child = fork ();
  if (child == 0) {
    close (ends[0]);
    close (client->fd); /* the server sees at once if its creator ends */
    look (ends[1], parent, uri, only);
  }
  close (ends[1]);
  FILE *lines = fdopen (ends[0], "r");
  if (lines == NULL)
    no_memory ();
  const int r = child == -1 ? 0 : take_all (client, number, lines);
  fclose (lines);
  if (child == -1) {
    complain ("the free space cannot be looked for: %s; all is kept",
              strerror (errno));
    return 0;
  }
  if (r != 1)
    kill (child, SIGTERM); /* it may have nobody to write to */
  while (waitpid (child, &status, 0) == -1 && errno == EINTR)
    ;
  if (r == 0)
    complain ("what looked for free space ended%s; what it had not found yet "
              "is kept",
              WIFSIGNALED (status) ? " by a signal" : "");
  return r == -1 ? -1 : 0;
}
