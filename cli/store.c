/* SPDX-License-Identifier: BSD-3-Clause */

#include "store.h"
#include "output.h"
#include "scoped.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int
store_open (struct store *store, const char *path)
{
  store->directory = open (path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (store->directory == -1) {
    complain ("%s: cannot open the store: %s", path, strerror (errno));
    return -1;
  }
  store->path = realpath (path, NULL);
  if (store->path == NULL)
    store->path = text ("%s", path);
  return 0;
}

void
store_close (struct store *store)
{
  catalog_free (&store->catalog);
  if (store->directory != -1)
    close (store->directory);
  free (store->path);
}

char *
store_file (const struct store *store, const char *name)
{
  return *name == '/' ? text ("%s", name) : text ("%s/%s", store->path, name);
}

/* What the catalogue does not tell is null. */
static void
set (json_t *object, const char *key, json_t *value)
{
  if (json_object_set_new (object, key, value) == -1)
    no_memory ();
}

static void
set_number (json_t *object, const char *key, uint64_t value)
{
  set (object, key, json_integer ((json_int_t)value));
}

/* Bytes that are no UTF-8 are shown as JSON can have them. */
static void
set_text (json_t *object, const char *key, const char *value)
{
  json_t *string = value == NULL ? json_null () : json_string (value);

  if (string == NULL) {
    SCOPED_FREE char *escaped = escape (value);
    string = json_string (escaped);
  }
  set (object, key, string);
}

/* The first newer layer that is broken, for one that is not. */
static const struct catalog_layer *
find_blocker (const struct catalog_layer *layer)
{
  if (layer->deleted || layer->broken_reason != NULL)
    return NULL;
  do
    layer = layer->next;
  while (layer != NULL && layer->broken_reason == NULL);
  return layer;
}

static const char *
state_of (const struct catalog_layer *layer)
{
  if (layer->deleted || layer->broken_reason != NULL)
    return "disabled";
  return layer->pending || layer->creating ? "creating" : "idle";
}

static void
set_counters (json_t *object, const struct catalog_layer *layer, bool known)
{
  const struct {
    const char *key;
    uint64_t value;
  } counters[] = {
    { "bytes-copied", layer->copied },
    { "waits", layer->waits },
    { "flush-errors", layer->flush_errors },
    { "reads-origin", layer->reads_origin },
    { "reads-memory", layer->reads_memory },
    { "reads-backing-file", layer->reads_backfile },
    { "reads-zero", layer->reads_free },
  };

  for (size_t i = 0; i < sizeof counters / sizeof counters[0]; i++)
    if (known)
      set_number (object, counters[i].key, counters[i].value);
    else
      set (object, counters[i].key, json_null ());
}

static void
set_broken (json_t *object, const struct catalog_layer *layer)
{
  const bool broken = layer->broken_reason != NULL;

  set_text (object, "broken-reason", layer->broken_reason);
  set_text (object, "broken-errno",
            broken ? strerrorname_np (layer->broken_errno) : NULL);
  set (object, "broken-time",
       broken ? json_integer (layer->broken_time) : json_null ());
}

static json_t *
layer_json (const struct store *store, const struct catalog_layer *layer)
{
  const struct catalog_layer *blocker = find_blocker (layer);
  SCOPED_FREE char *export = text ("snapshot/%u", layer->number);
  SCOPED_FREE char *file = store_file (store, layer->files[0]);
  json_t *o = json_object ();

  set_number (o, "snapnumber", layer->number);
  set_text (o, "name", layer->name);
  set_text (o, "state", state_of (layer));
  set_text (o, "export", export);
  set_text (o, "origin", store->catalog.origin.path);
  set_text (o, "store", store->path);
  set (o, "ephemeral", json_boolean (layer->ephemeral));
  set_number (o, "size", layer->size);
  set (o, "createtime", json_integer (layer->created));
  set_text (o, "backing-store", file);
  set_number (o, "maxsize", layer->maxsize);
  set_number (o, "chunksize", layer->chunk_size);
  set_number (o, "backfile-size", layer->backfile_size);
  set_text (o, "durability", policy_durability (layer->durability));
  set_text (o, "on-error", policy_on_error (layer->on_error));
  set_number (o, "cow-timeout", layer->cow_timeout);
  set (o, "clients", json_null ());
  set_counters (o, layer, store->catalog.clean);
  set (o, "deleted", json_boolean (layer->deleted));
  set_broken (o, layer);
  set (o, "blocked-by",
       blocker != NULL ? json_integer (blocker->number) : json_null ());
  return o;
}

json_t *
store_list (const char *path, bool all)
{
  SCOPED_STORE store = STORE_INIT;
  SCOPED_FREE char *why = NULL;

  if (store_open (&store, path) == -1)
    return NULL;
  if (catalog_read (store.directory, &store.catalog, &why) == -1) {
    if (errno == ENOENT)
      complain ("%s: is no store: there is no file catalog in it", path);
    else
      complain ("%s/catalog %s", path, why != NULL ? why : strerror (errno));
    return NULL;
  }
  json_t *snapshots = json_array ();
  for (const struct catalog_layer *layer = store.catalog.layers; layer != NULL;
       layer = layer->next)
    if (all || !layer->deleted)
      json_array_append_new (snapshots, layer_json (&store, layer));
  json_t *result = json_pack ("{s:o}", "snapshots", snapshots);
  if (result == NULL)
    no_memory ();
  return result;
}
