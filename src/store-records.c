/* SPDX-License-Identifier: BSD-3-Clause */

#include "store-internal.h"
#include "backfile.h"
#include "report.h"
#include "scoped.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Take a layer's files out of a list. */
static void
forget_files (struct catalog_files **list, const struct catalog_layer *record)
{
  for (; *list != NULL; list = &(*list)->next)
    if (uuid_compare ((*list)->uuid, record->uuid) == 0) {
      struct catalog_files *files = *list;
      *list = files->next;
      catalog_free_files (files);
      return;
    }
}

/* Whether a path is the store's own directory. */
static bool
is_own (const struct store *store, const struct stat *st)
{
  struct stat own;

  return fstat (store->directory, &own) == 0 && own.st_dev == st->st_dev
         && own.st_ino == st->st_ino;
}

/* The name of a new layer's file.  NULL with errno. */
static char *
file_name (const struct store *store, const struct catalog_layer *record,
           const char *place, unsigned part)
{
  char tail[16] = "", uuid[37];
  struct stat st;
  char *name;
  int r;

  if (part > 0)
    snprintf (tail, sizeof tail, ".%u", part);
  uuid_unparse_lower (record->uuid, uuid);
  if (stat (place, &st) == -1 || !S_ISDIR (st.st_mode))
    r = asprintf (&name, "%s%s", place, tail);
  else if (is_own (store, &st))
    r = asprintf (&name, "snapshot-%u-%.8s%s", record->number, uuid, tail);
  else
    r = asprintf (&name, "%s/snapshot-%u-%.8s%s", place, record->number, uuid,
                  tail);
  return r == -1 ? NULL : name;
}

static struct catalog_layer *
new_record (const struct store *store, const struct catalog_layer *template,
            const char *place, unsigned parts)
{
  struct catalog_layer *record = calloc (1, sizeof *record);

  if (record == NULL)
    return NULL;
  *record = *template;
  record->next = NULL;
  record->pending = true;
  record->level = record->durability;
  record->name = NULL;
  uuid_generate (record->uuid);
  record->files = calloc (parts, sizeof *record->files);
  if (record->files == NULL
      || (template->name != NULL
          && (record->name = strdup (template->name)) == NULL))
    goto error;
  for (; record->parts < parts; record->parts++)
    if ((record->files[record->parts]
         = file_name (store, record, place, record->parts))
        == NULL)
      goto error;
  return record;

error:
  catalog_free_layer (record);
  errno = ENOMEM;
  return NULL;
}

struct catalog_layer *
store_make (struct store *store, const struct catalog_layer *template,
            const char *place, unsigned parts)
{
  SCOPED_LOCK (&store->lock);
  if (store_check_accepts (store) == -1)
    return NULL;
  struct catalog_layer *record = new_record (store, template, place, parts);
  struct catalog_files *files = record == NULL ? NULL : store_files_of (record);
  if (files == NULL) {
    catalog_free_layer (record);
    report_error ("no memory for a new snapshot in the store");
    errno = ENOMEM;
    return NULL;
  }
  for (unsigned part = 0; part < parts; part++)
    if (store_is_listed (store, record->files[part])) {
      report_error (
          "backing-store=%s: %s is a snapshot's backing file already; "
          "give a directory or a new file",
          place, record->files[part]);
      catalog_free_files (files);
      catalog_free_layer (record);
      errno = EEXIST;
      return NULL;
    }
  files->next = store->catalog.making;
  store->catalog.making = files;
  if (store_save (store) == 0)
    return record;
  const int err = errno;
  forget_files (&store->catalog.making, record);
  catalog_free_layer (record);
  errno = err;
  return NULL;
}

char **
store_paths (struct store *store, const struct catalog_layer *record)
{
  char **paths = calloc (record->parts, sizeof *paths);

  if (paths == NULL)
    return NULL;
  for (unsigned i = 0; i < record->parts; i++) {
    const char *name = record->files[i];
    const int r = *name == '/'
                      ? asprintf (&paths[i], "%s", name)
                      : asprintf (&paths[i], "%s/%s", store->path, name);
    if (r == -1) {
      catalog_free_names (paths, i);
      errno = ENOMEM;
      return NULL;
    }
  }
  return paths;
}

struct format_header
store_header (struct store *store, const struct catalog_layer *record,
              const char *origin)
{
  struct format_header header = {
    .parts = record->parts,
    .chunk_size = record->chunk_size,
    .size = record->size,
    .number = record->number,
    .created = record->created,
  };

  memcpy (header.store, store->catalog.store, sizeof header.store);
  memcpy (header.layer, record->uuid, sizeof header.layer);
  snprintf (header.name, sizeof header.name, "%s",
            record->name != NULL ? record->name : "");
  snprintf (header.origin, sizeof header.origin, "%s", origin);
  return header;
}

void
store_made (struct store *store, const struct backfile *backfile)
{
  for (unsigned part = 0; part < backfile->parts; part++)
    store_own (store, backfile->part[part].fd);
}

/* Where the list has a record, or would have a new one. */
static struct catalog_layer **
place_of (struct store *store, const struct catalog_layer *record)
{
  struct catalog_layer **p = &store->catalog.layers;

  while (*p != NULL && *p != record)
    p = &(*p)->next;
  return p;
}

int
store_add (struct store *store, struct catalog_layer *record)
{
  SCOPED_LOCK (&store->lock);
  struct catalog_layer **end = place_of (store, NULL);
  *end = record;
  forget_files (&store->catalog.making, record);
  if (store_save (store) == 0)
    return 0;
  *end = NULL; /* it is for the caller to cancel */
  return -1;
}

/* Remove a layer's files, which are in LIST or to be there if that fails, for
 * the next start to try again.
 */
static void
remove_record (struct store *store, struct catalog_layer *record,
               struct catalog_files **list)
{
  struct catalog_files *files = NULL;

  if (store_remove_files (store, record->files, record->parts, record->uuid)
      == -1)
    files = store_files_of (record);
  forget_files (list, record);
  if (files == NULL)
    return;
  files->next = *list;
  *list = files;
}

void
store_cancel (struct store *store, struct catalog_layer *record)
{
  const int err = errno;

  SCOPED_LOCK (&store->lock);
  struct catalog_layer **p = place_of (store, record);
  if (*p != NULL)
    *p = record->next;
  remove_record (store, record, &store->catalog.making);
  catalog_free_layer (record);
  store_save (store); /* if not, then with the next */
  errno = err;
}

int
store_settle (struct store *store, struct catalog_layer *record, time_t created,
              bool creating)
{
  SCOPED_LOCK (&store->lock);
  const struct catalog_layer before = *record;
  record->pending = false;
  record->created = created;
  record->creating = creating;
  if (store_save (store) == 0)
    return 0;
  record->pending = before.pending;
  record->created = before.created;
  record->creating = before.creating;
  return -1;
}

int
store_delete (struct store *store, struct catalog_layer *record, bool anyway)
{
  SCOPED_LOCK (&store->lock);
  const bool before = record->deleted;
  record->deleted = true;
  if (store_save (store) == 0)
    return 0;
  record->deleted = before || anyway;
  return -1;
}

int
store_drop (struct store *store, struct catalog_layer *record)
{
  SCOPED_LOCK (&store->lock);
  struct catalog_layer **p = place_of (store, record);
  struct catalog_files *files = store_files_of (record);
  if (files == NULL)
    return -1;
  *p = record->next;
  files->next = store->catalog.removing;
  store->catalog.removing = files;
  if (store_save (store) == 0)
    return 0;
  const int err = errno;
  *p = record;
  forget_files (&store->catalog.removing, record);
  errno = err;
  return -1;
}

void
store_remove (struct store *store, struct catalog_layer *record)
{
  SCOPED_LOCK (&store->lock);
  remove_record (store, record, &store->catalog.removing);
  store_remove_mark (record);
  catalog_free_layer (record);
  store_save (store); /* if not, then with the next */
}

int
store_set_broken (struct store *store, struct catalog_layer *record, int err,
                  time_t when, const char *why)
{
  SCOPED_LOCK (&store->lock);
  if (record->broken_reason != NULL)
    return 0;
  record->broken_reason = strdup (why);
  record->broken_errno = err;
  record->broken_time = when;
  if (record->broken_reason == NULL) {
    errno = ENOMEM;
    return -1;
  }
  if (store_save (store) == 0) {
    store_remove_mark (record);
    return 0;
  }
  return -1; /* the next catalogue says it */
}

int
store_set_stable (struct store *store)
{
  SCOPED_LOCK (&store->lock);
  if (store->refused != NULL)
    return 0;
  for (struct catalog_layer *l = store->catalog.layers; l != NULL; l = l->next)
    l->level = DURABILITY_STABLE;
  return store_save (store);
}
