/* SPDX-License-Identifier: BSD-3-Clause */

#include "create.h"
#include "report.h"
#include "store.h"
#include "storefile.h"

#include <errno.h>
#include <time.h>

/* In a store: the record, then the files.  NULL with errno, reported. */
static struct backfile *
make_in_store (struct snapset *set, const struct snapshot_options *options,
               unsigned number, uint64_t size, struct catalog_layer **record)
{
  struct store *store = set->shared.store;
  const struct catalog_layer template = {
    .number = number,
    .name = (char *)(uintptr_t)options->name, /* it is copied */
    .created = time (NULL),
    .size = size,
    .chunk_size = options->chunk_size,
    .maxsize = options->maxsize,
    .backfile_size = options->backfile_size,
    .cow_timeout = options->cow_timeout,
    .durability = options->durability,
    .on_error = options->on_error,
    .creating = options->creator != NULL,
    .ephemeral = options->ephemeral,
  };
  struct backfile *backfile = NULL;
  unsigned parts;

  if (storefile_plan (size, options->chunk_size, options->backfile_size, &parts)
      == -1)
    return NULL;
  *record = store_make (store, &template, options->backing_store, parts);
  if (*record == NULL)
    return NULL;
  char **paths = store_paths (store, *record);
  if (paths == NULL)
    report_error ("snapshot %u: %m", number);
  else {
    const struct format_header header
        = store_header (store, *record, origin_path (set->origin));
    backfile = storefile_create (&header, options->backfile_size, paths);
    const int err = errno;
    catalog_free_names (paths, parts);
    errno = err;
  }
  if (backfile == NULL)
    store_cancel (store, *record);
  else
    store_made (store, backfile);
  return backfile;
}

static struct backfile *
make_backfile (struct snapset *set, const struct snapshot_options *options,
               unsigned number, uint64_t size, struct catalog_layer **record)
{
  const struct backfile_options backfile_options = {
    .store = options->backing_store,
    .part_size = options->backfile_size,
    .size = size,
    .chunk_size = options->chunk_size,
    .origin = origin_path (set->origin),
  };

  *record = NULL;
  if (set->shared.store != NULL)
    return make_in_store (set, options, number, size, record);
  if (options->durability == DURABILITY_STABLE) {
    report_error ("durability=stable: needs a store that outlives the server "
                  "(store=DIR)");
    errno = EINVAL;
    return NULL;
  }
  return backfile_create (&backfile_options);
}

struct snapshot *
create_snapshot (struct snapset *set, const struct snapshot_options *options,
                 unsigned number, bool running)
{
  const int64_t size = origin_size (set->origin);
  struct catalog_layer *record;

  if (size == -1)
    return NULL;
  struct backfile *backfile
      = make_backfile (set, options, number, (uint64_t)size, &record);
  if (backfile == NULL)
    return NULL;
  struct snapshot *snapshot = snapshot_create (options, number, (uint64_t)size,
                                               backfile, record, &set->shared);
  if (snapshot == NULL) {
    if (record != NULL)
      store_cancel (set->shared.store, record);
    return NULL;
  }
  if (running && flusher_start (snapshot->flusher) == -1) {
    create_cancel (set, snapshot);
    return NULL;
  }
  return snapshot;
}

void
create_cancel (struct snapset *set, struct snapshot *snapshot)
{
  struct catalog_layer *record = snapshot->record;
  const int err = errno;

  flusher_stop (snapshot->flusher, snapshot->options.cow_timeout);
  snapshot_free (snapshot);
  if (record != NULL)
    store_cancel (set->shared.store, record);
  errno = err;
}
