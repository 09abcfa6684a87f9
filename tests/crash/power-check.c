/* SPDX-License-Identifier: BSD-3-Clause */

#include "power-check.h"
#include "load.h"
#include "power-rpc.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

char *
say (const char *format, ...)
{
  va_list args;
  char *text;

  va_start (args, format);
  if (vasprintf (&text, format, args) == -1)
    abort ();
  va_end (args);
  return text;
}

struct nbd_handle *
check_connect (const char *export)
{
  struct nbd_handle *nbd = nbd_create ();

  if (nbd == NULL)
    abort ();
  if (nbd_connect_uri (nbd, server_uri (&server, export)) == -1) {
    nbd_close (nbd);
    return NULL;
  }
  return nbd;
}

bool
check_read (unsigned number, uint8_t *data, uint64_t size)
{
  char export[32];

  snprintf (export, sizeof export, "snapshot/%u", number);
  struct nbd_handle *nbd = check_connect (export);
  const bool good = nbd != NULL && nbd_get_size (nbd) == (int64_t)size
                    && nbd_pread (nbd, data, size, 0, 0) == 0;
  nbd_close (nbd);
  return good;
}

char *
check_equal (const char *what, const uint8_t *is, const uint8_t *should,
             uint64_t size)
{
  uint64_t first = 0, wrong = 0;

  if (memcmp (is, should, size) == 0)
    return NULL;
  while (is[first] == should[first])
    first++;
  for (uint64_t i = first; i < size; i++)
    wrong += is[i] != should[i];
  return say ("%s: WRONG BYTES: %" PRIu64 " from offset %" PRIu64
              " on: %02x should be %02x",
              what, wrong, first, is[first], should[first]);
}

/* What is said of it is what was said when it was made, if that is known. */
static char *
check_facts (struct snap *snap, const json_t *facts, bool learn)
{
  const unsigned number = (unsigned)rpc_number (facts, "snapnumber");
  const int64_t created = rpc_number (facts, "createtime");
  const uint64_t chunk_size = (uint64_t)rpc_number (facts, "chunksize");

  if (snap->number != 0 && snap->number != number)
    return say ("snapshot %s has number %u instead of %u", snap->name, number,
                snap->number);
  if (snap->created != 0 && snap->created != created)
    return say ("snapshot %s was taken at %" PRId64 " instead of %" PRId64,
                snap->name, created, snap->created);
  if (snap->chunk_size != 0 && snap->chunk_size != chunk_size)
    return say ("snapshot %s has another chunk size", snap->name);
  if (learn) {
    snap->number = number;
    snap->created = created;
    snap->chunk_size = chunk_size;
  }
  return NULL;
}

/* A snapshot that is listed as whole, and must be.  MAY_FAIL: but a newer
 * one, which it needs, may have broken.
 */
static char *
check_content (struct snap *snap, uint64_t size, bool may_fail, bool learn,
               struct seen *seen)
{
  uint8_t *data = zalloc (size);
  char *why = NULL;

  seen->whole = check_read (seen->number, data, size);
  if (!seen->whole && !may_fail)
    why = say ("snapshot %s cannot be read: %s", snap->name, nbd_get_error ());
  if (seen->whole && snap->content != NULL)
    why = check_equal (snap->name, data, snap->content, size);
  if (seen->whole && snap->content == NULL && learn)
    snap->content = data;
  else
    free (data);
  return why;
}

static char *
check_snapshot (struct snap *snap, const struct duty *duty, const json_t *facts,
                uint64_t size, bool learn, struct seen *seen)
{
  const char *state = rpc_text (facts, "state");
  const char *reason = rpc_text (facts, "broken-reason");
  const bool blocked = json_is_integer (json_object_get (facts, "blocked-by"));

  seen->listed = true;
  seen->number = (unsigned)rpc_number (facts, "snapnumber");
  char *why = check_facts (snap, facts, learn);
  if (why != NULL)
    return why;
  if (state != NULL && strcmp (state, "disabled") != 0)
    return check_content (snap, size, !duty->whole && blocked, learn, seen);
  if (reason == NULL || *reason == '\0')
    return say ("snapshot %s is disabled without a reason", snap->name);
  if (duty->whole)
    return say ("snapshot %s is LOST: %s", snap->name, reason);
  uint8_t *data = zalloc (size);
  if (check_read (seen->number, data, size))
    why = say ("snapshot %s is disabled (%s), and can be read", snap->name,
               reason);
  free (data);
  return why;
}

static char *
check_listed (struct model *model, const struct crash *crash,
              const json_t *facts, bool learn, struct seen *seen)
{
  const char *name = rpc_text (facts, "name");
  bool known = false;
  char *why = NULL;

  for (unsigned i = 0; i < model->count && why == NULL; i++) {
    struct snap *snap = model->snaps[i];
    const struct duty duty = model_duty (model, snap, crash);

    if (duty.presence == GONE || name == NULL || strcmp (name, snap->name) != 0)
      continue;
    known = true;
    why = check_snapshot (snap, &duty, facts, model->size, learn, &seen[i]);
  }
  if (!known)
    why = say ("snapshot %s is listed and should not be there",
               name != NULL ? name : "(no name)");
  return why;
}

/* Those that must be there are, in the order in which they were made. */
static char *
check_missing (const struct model *model, const struct crash *crash,
               const struct seen *seen)
{
  for (unsigned i = 0; i < model->count; i++)
    if (model_duty (model, model->snaps[i], crash).presence == LISTED
        && !seen[i].listed)
      return say ("snapshot %s is LOST: it is not listed",
                  model->snaps[i]->name);
  return NULL;
}

char *
check_snapshots (struct model *model, const struct crash *crash, bool learn,
                 struct seen *seen, uint64_t *compared)
{
  const int fd = rpc_connect ();
  char *why = NULL;
  int64_t last = 0;

  if (fd == -1)
    return say ("the control socket is not there");
  json_t *list = rpc (fd, "snapshot.list", NULL, &why);
  const json_t *snapshots = json_object_get (list, "snapshots");
  close (fd);
  if (list == NULL)
    return why != NULL ? why : say ("no reply to snapshot.list");
  for (size_t i = 0; i < json_array_size (snapshots) && why == NULL; i++) {
    const json_t *facts = json_array_get (snapshots, i);
    why = check_listed (model, crash, facts, learn, seen);
    if (why == NULL && rpc_number (facts, "createtime") < last)
      why = say ("the list is not in order");
    last = rpc_number (facts, "createtime");
    ++*compared;
  }
  json_decref (list);
  return why != NULL ? why : check_missing (model, crash, seen);
}
