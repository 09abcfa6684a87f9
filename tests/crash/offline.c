/* SPDX-License-Identifier: BSD-3-Clause */

#include "offline.h"
#include "ask.h"
#include "load.h"
#include "story.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static json_t *said; /* of the snapshots, or NULL */

void
offline_forget (void)
{
  json_decref (said);
  said = NULL;
}

/* A crash loses what durability=async had in memory.  Else, all is whole; but
 * a store whose first server was killed at its start may have nothing yet.
 */
static void
check_findings (const json_t *findings, bool killed)
{
  const json_t *finding;
  size_t i;

  json_array_foreach (findings, i, finding)
  {
    const char *severity = ask_text (finding, "severity");
    const char *message = ask_text (finding, "message");
    const char *file = ask_text (finding, "file");

    const bool own
        = strncmp (file, "catalog", 7) == 0 || strcmp (file, "lock") == 0;

    if (strcmp (severity, "note") != 0
        && !(killed && strstr (message, "durability=async") != NULL)
        && !(killed && own && strstr (message, "is missing") != NULL))
      wrong ("fssnap check: %s %s", file, message);
  }
}

void
offline_check (bool killed)
{
  const char *fssnap = getenv ("FSSNAP");
  char command[512], store[128];
  json_error_t error;

  offline_forget ();
  snprintf (store, sizeof store, "%s/store", server.dir);
  if (fssnap == NULL || access (store, F_OK) == -1)
    return;
  snprintf (command, sizeof command, "'%s' check --json '%s' 2>>'%s'", fssnap,
            store, server.log);
  FILE *pipe = popen (command, "re");
  if (pipe == NULL)
    abort ();
  json_t *result = json_loadf (pipe, 0, &error);
  const int status = pclose (pipe);
  if (result == NULL)
    wrong ("fssnap check: wait status %#x, %s", (unsigned)status, error.text);
  const bool found
      = json_integer_value (json_object_get (result, "problems")) > 0;
  if (!WIFEXITED (status) || WEXITSTATUS (status) != (found ? 1 : 0))
    wrong ("fssnap check: wait status %#x", (unsigned)status);
  check_findings (json_object_get (result, "findings"), killed);
  said = json_incref (json_object_get (result, "snapshots"));
  json_decref (result);
}

static bool
is_same (const json_t *a, const json_t *b)
{
  return json_equal (json_object_get (a, "snapnumber"),
                     json_object_get (b, "snapnumber"))
         && json_equal (json_object_get (a, "name"),
                        json_object_get (b, "name"));
}

/* The one of LIST that ITEM is, or NULL. */
static const json_t *
find (const json_t *list, const json_t *item)
{
  const json_t *other;
  size_t i;

  json_array_foreach (list, i, other)
  {
    if (is_same (item, other)
        && !json_is_true (json_object_get (other, "deleted")))
      return other;
  }
  return NULL;
}

static void
compare (const json_t *what, const json_t *is)
{
  const char *next = ask_text (what, "next-start");
  const int number = (int)ask_number (what, "snapnumber");
  const char *came = is == NULL                               ? "deleted"
                     : ask_text (is, "broken-reason") != NULL ? "broken"
                                                              : "kept";

  if (strcmp (next, came) != 0)
    wrong ("fssnap check: snapshot %d was to be %s, and was %s", number, next,
           came);
  if (strcmp (came, "kept") != 0)
    return;
  const json_int_t copied = ask_number (is, "chunks-copied");
  if (copied != ask_number (what, "chunks-copied"))
    wrong ("fssnap check: snapshot %d had %lld chunks copied, and has %lld",
           number, ask_number (what, "chunks-copied"), copied);
}

void
offline_compare (const json_t *list)
{
  const json_t *what;
  size_t i;

  json_array_foreach (said, i, what)
  {
    /* The server may have taken a snapshot of the same number at start. */
    const bool unsure = strcmp (ask_text (what, "next-start"), "deleted") == 0
                        && ask_text (what, "name") == NULL;
    if (!unsure && !json_is_true (json_object_get (what, "deleted")))
      compare (what, find (list, what));
  }
}
