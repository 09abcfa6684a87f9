/* SPDX-License-Identifier: BSD-3-Clause */
/* What becomes of a layer that is found in the store:
 *
 * found                                it is
 * -----------------------------------  -------------------------------------
 * pending, creating, ephemeral         deleted
 * broken                               broken, as it was
 * a mark says that it is broken        broken, for good
 * not closed cleanly, level async      broken, for good
 * the same, written, and another boot  broken, for good
 * a file is missing or damaged         absent, until it is there again; for
 *                                      good if writes would have to copy into
 *                                      it, or be kept from doing so by it
 * the origin is another, or was        all are absent, and the store is not
 * written behind our back              changed; see store_refuse
 *
 * Absent is: broken, for now; what it would need is kept for it.
 *
 * Layers are loaded by several threads: it is mostly reading and checksums.
 */

#include "restore.h"
#include "identity.h"
#include "options.h"
#include "report.h"
#include "resolve.h"
#include "scoped.h"
#include "store.h"
#include "storefile.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* More would wait for each other's memory and disk. */
#define THREADS_MAX 8

/* A layer on its way from the store to the chain. */
struct loading {
  struct catalog_layer *record;
  struct snapshot *snapshot; /* the result; NULL: that failed */
  char *why;                 /* it is broken; or NULL */
  int err;
  time_t when;
  bool for_good; /* that is to be noted */
};

struct restore {
  struct snapset *set;
  struct store *store;
  const char *refused; /* or NULL */
  struct loading *loadings;
  unsigned count;
  _Atomic unsigned next; /* to be loaded */
};

__attribute__ ((format (printf, 3, 4))) static void
set_broken (struct loading *loading, int err, const char *format, ...)
{
  va_list args;

  va_start (args, format);
  if (vasprintf (&loading->why, format, args) == -1)
    loading->why = strdup ("no memory");
  va_end (args);
  loading->err = err;
  loading->when = time (NULL);
}

/* Since the store was opened last, or nobody knows. */
static bool
has_rebooted (struct store *store)
{
  const char *boot = store_boot (store);

  return *boot == '\0' || strcmp (store_catalog (store)->boot, boot) != 0;
}

/* What can be said of a layer without looking at its files. */
static void
judge (const struct restore *restore, struct loading *loading, uint64_t size)
{
  const struct catalog *catalog = store_catalog (restore->store);
  const struct catalog_layer *record = loading->record;
  const bool rebooted = has_rebooted (restore->store);

  if (record->broken_reason != NULL) {
    set_broken (loading, record->broken_errno, "%s", record->broken_reason);
    loading->when = record->broken_time;
    return;
  }
  if (restore->refused != NULL) {
    set_broken (loading, ESTALE, "%s", restore->refused);
    return;
  }
  loading->for_good = true;
  if (store_is_marked (record))
    set_broken (loading, EIO,
                "it broke when its store hung, and the server was killed");
  else if (!catalog->clean && record->level == DURABILITY_ASYNC)
    set_broken (loading, EIO,
                "its server was killed, and with durability=async the copies "
                "that it had in memory are lost");
  else if (!catalog->clean && record->level == DURABILITY_WRITTEN && rebooted)
    set_broken (loading, EIO,
                "the machine went down before the store was closed, and with "
                "durability=written copies may be lost then");
  else if (record->size > size)
    set_broken (loading, EIO,
                "the origin has shrunk from %" PRIu64 " to %" PRIu64 " bytes",
                record->size, size);
  else
    loading->for_good = false;
}

/* The translations of what could not be read.  The other table may not have
 * these chunks yet.
 */
static int
restore_lost (struct snapshot *snapshot)
{
  const struct bitmap *unreadable = &snapshot->unreadable;

  for (uint64_t group = bitmap_next_group (unreadable, 0); group != UINT64_MAX;
       group = bitmap_next_group (unreadable, group + 1))
    for (uint64_t bits = bitmap_group (unreadable, group); bits != 0;) {
      struct translation *translation = translation_new (snapshot);
      const unsigned bit = (unsigned)__builtin_ctzll (bits);

      if (translation == NULL)
        return -1;
      translation->state = TRANSLATION_LOST;
      translation->settled = true;
      translation->first = group * BITMAP_GROUP + bit;
      translation->count = bitmap_first_run (bits);
      const uint64_t mask = bitmap_mask (bit, translation->count);
      bitmap_set_group (&snapshot->hastrans, group, mask);
      bits &= ~mask;
      transtbl_add (&snapshot->table, translation);
      atomic_fetch_add (&snapshot->lost, 1);
    }
  return 0;
}

/* Read the index.  0, or -1 with *WHY (NULL: no memory). */
static int
load_index (struct snapshot *snapshot, char **why)
{
  const struct backfile *backfile = snapshot->backfile;

  if (storefile_load (backfile, FORMAT_COPIED, &snapshot->hastrans, why) == -1
      || storefile_load (backfile, FORMAT_FREE, &snapshot->free, why) == -1
      || storefile_load (backfile, FORMAT_UNREADABLE, &snapshot->unreadable,
                         why)
             == -1)
    return -1;
  atomic_store (&snapshot->has_free,
                bitmap_next_group (&snapshot->free, 0) != UINT64_MAX);
  return restore_lost (snapshot);
}

/* Whether the index has all the bits it had when it was last closed; it may
 * have more by now.  0, or -1 with *WHY.
 */
static int
check_weights (const struct snapshot *snapshot, char **why)
{
  const struct catalog_layer *record = snapshot->record;

  if (record->deleted
      || (bitmap_weight (&snapshot->hastrans) >= record->chunks_copied
          && bitmap_weight (&snapshot->free) >= record->chunks_free
          && bitmap_weight (&snapshot->unreadable)
                 >= record->chunks_unreadable))
    return 0;
  if (asprintf (why, "a part of the index of its backing file %s is missing",
                backfile_name (snapshot->backfile))
      == -1)
    *why = NULL;
  errno = EINVAL;
  return -1;
}

/* What the last server wrote and did not live to sync looks stable now, and
 * has to be so.  0, or -1 with *WHY.
 */
static int
sync_files (const struct snapshot *snapshot, char **why)
{
  if (snapshot->options.durability < DURABILITY_STABLE
      || storefile_sync (snapshot->backfile) == 0)
    return 0;
  const int err = errno;
  if (asprintf (why, "its backing file %s cannot be synced: %s",
                backfile_name (snapshot->backfile), strerror (err))
      == -1)
    *why = NULL;
  errno = err;
  return -1;
}

/* The files of a layer, or none if it is broken, or they are not as they must
 * be: then it is.  NULL after logging: what failed is no fault of theirs.
 */
static struct backfile *
open_files (const struct restore *restore, struct loading *loading)
{
  const struct catalog_layer *record = loading->record;
  const struct format_header header = store_header (restore->store, record, "");
  struct backfile *backfile = NULL;
  SCOPED_FREE char *why = NULL;

  char **paths = store_paths (restore->store, record);
  if (paths == NULL) {
    report_error ("snapshot %u: %m", record->number);
    return NULL;
  }
  if (loading->why == NULL) {
    backfile = storefile_open (&header, record->backfile_size, paths, &why);
    if (backfile == NULL && why != NULL && errno != EMFILE && errno != ENFILE)
      set_broken (loading, errno, "%s", why);
  }
  if (loading->why != NULL)
    backfile = storefile_absent (paths[0]);
  if (backfile == NULL)
    report_error ("snapshot %u: %s", record->number,
                  why != NULL ? why : strerror (errno));
  catalog_free_names (paths, record->parts);
  return backfile;
}

static struct snapshot *
make_snapshot (const struct restore *restore, struct loading *loading)
{
  struct catalog_layer *record = loading->record;
  const struct snapshot_options options = {
    .name = record->name,
    .chunk_size = record->chunk_size,
    .maxsize = record->maxsize,
    .backfile_size = record->backfile_size,
    .ephemeral = record->ephemeral,
    .durability = record->durability,
    .on_error = record->on_error,
    .cow_timeout = record->cow_timeout,
  };
  struct backfile *backfile = open_files (restore, loading);

  if (backfile == NULL)
    return NULL;
  return snapshot_create (&options, record->number, record->size, backfile,
                          record, &restore->set->shared);
}

static void
set_counters (struct snapshot *snapshot, bool clean)
{
  const struct catalog_layer *record = snapshot->record;
  uint64_t copied = record->copied;

  if (!clean) {
    /* It was not counted any more: no more than this. */
    const uint64_t chunks = bitmap_weight (&snapshot->hastrans);
    const uint64_t allocated = backfile_allocated (snapshot->backfile);
    copied = chunks << snapshot->chunk_shift;
    if (copied > allocated)
      copied = allocated;
  }
  atomic_store (&snapshot->copied, copied);
  atomic_store (&snapshot->waits, record->waits);
  atomic_store (&snapshot->flush_errors, record->flush_errors);
  atomic_store (&snapshot->reads[0].origin, record->reads_origin);
  atomic_store (&snapshot->reads[0].memory, record->reads_memory);
  atomic_store (&snapshot->reads[0].backfile, record->reads_backfile);
  atomic_store (&snapshot->reads[0].free, record->reads_free);
}

/* Load one layer.  On failure its snapshot is NULL, logged. */
static void
load (const struct restore *restore, struct loading *loading)
{
  const struct catalog_layer *record = loading->record;
  const bool clean = store_catalog (restore->store)->clean;
  char *why = NULL;

  struct snapshot *snapshot = make_snapshot (restore, loading);
  if (snapshot == NULL)
    return;
  if (loading->why == NULL
      && (load_index (snapshot, &why) == -1
          || check_weights (snapshot, &why) == -1
          || (!clean && sync_files (snapshot, &why) == -1))) {
    snapshot_free (snapshot);
    if (why == NULL) {
      report_error ("snapshot %u: no memory for its index", record->number);
      return;
    }
    set_broken (loading, errno == EINVAL ? EIO : errno, "%s", why);
    free (why);
    snapshot = make_snapshot (restore, loading); /* without files */
    if (snapshot == NULL)
      return;
  }
  set_counters (snapshot, clean);
  snapshot->created = record->created;
  atomic_store (&snapshot->deleted, record->deleted);
  if (loading->why != NULL)
    snapshot_set_broken (snapshot, loading->err, loading->when, loading->why);
  loading->snapshot = snapshot;
}

static void *
load_some (void *arg)
{
  struct restore *restore = arg;
  unsigned i;

  while ((i = atomic_fetch_add (&restore->next, 1)) < restore->count)
    load (restore, &restore->loadings[i]);
  return NULL;
}

static void
load_all (struct restore *restore)
{
  const long processors = sysconf (_SC_NPROCESSORS_ONLN);
  pthread_t threads[THREADS_MAX];
  unsigned n = 0;

  /* We are one of them. */
  while (n < THREADS_MAX && n + 1 < restore->count && (long)n + 1 < processors
         && pthread_create (&threads[n], NULL, load_some, restore) == 0)
    n++;
  load_some (restore);
  while (n > 0)
    pthread_join (threads[--n], NULL);
}

/* What no one was told that it is there, or is to stay, is deleted. */
static void
delete_unfinished (struct catalog_layer *record)
{
  if (!record->deleted && (record->pending || record->creating))
    report_error ("snapshot %u is deleted: the server ended while it was being "
                  "created",
                  record->number);
  record->deleted |= record->pending | record->creating | record->ephemeral;
}

/* Note in the catalogue, which is still to be written, what has to be. */
static void
note_broken (struct loading *loading)
{
  struct catalog_layer *record = loading->record;

  if (loading->why == NULL || record->broken_reason != NULL)
    return;
  record->broken_reason = strdup (loading->why);
  record->broken_errno = loading->err;
  record->broken_time = loading->when;
}

/* Into the chain, oldest first.  0, or -1: not all could be made. */
static int
adopt_all (struct restore *restore)
{
  unsigned newest = 0; /* that is not deleted */
  bool any = false;    /* that is not */
  int r = 0;

  for (unsigned i = 0; i < restore->count; i++) {
    struct loading *loading = &restore->loadings[i];

    if (loading->snapshot == NULL)
      r = -1;
    else if (!snapshot_is_deleted (loading->snapshot))
      newest = i;
  }
  for (unsigned i = 0; i < restore->count; i++) {
    struct loading *loading = &restore->loadings[i];

    if (r == -1) {
      snapshot_free (loading->snapshot);
      continue;
    }
    /* A deleted one is of interest to older ones alone. */
    any |= !loading->record->deleted;
    if (loading->why != NULL && restore->refused == NULL && any)
      report_error ("snapshot %u%s is broken: %s", loading->record->number,
                    loading->record->deleted ? ", deleted," : "", loading->why);
    /* From the newest on they decide what writes copy. */
    if (restore->refused == NULL && (loading->for_good || i >= newest))
      note_broken (loading);
    loading->snapshot->absent
        = loading->why != NULL && loading->record->broken_reason == NULL;
    snapset_adopt (restore->set, loading->snapshot);
  }
  return r;
}

/* All but comparing the origin, which is as NOW. */
static int
restore_layers (struct restore *restore, const struct catalog_origin *now)
{
  struct catalog *catalog = store_catalog (restore->store);
  int r;

  for (struct catalog_layer *l = catalog->layers; l != NULL; l = l->next)
    restore->count++;
  restore->loadings = calloc (restore->count + 1, sizeof restore->loadings[0]);
  if (restore->loadings == NULL) {
    report_error ("no memory for the snapshots of the store: %m");
    return -1;
  }
  unsigned i = 0;
  for (struct catalog_layer *l = catalog->layers; l != NULL; l = l->next, i++) {
    restore->loadings[i].record = l;
    delete_unfinished (l);
    judge (restore, &restore->loadings[i], now->size);
  }
  load_all (restore);
  r = adopt_all (restore);
  for (i = 0; i < restore->count; i++)
    free (restore->loadings[i].why);
  free (restore->loadings);
  if (r == -1)
    return -1;
  return restore->refused != NULL
             ? store_refuse (restore->store, restore->refused, now)
             : store_begin (restore->store, now);
}

uint64_t
restore_least_memory (struct store *store, unsigned *number)
{
  uint64_t least = 0;

  *number = 0;
  for (const struct catalog_layer *l = store_catalog (store)->layers; l != NULL;
       l = l->next) {
    const struct options options = { .snapshot.chunk_size = l->chunk_size };
    const uint64_t needed = options_least_memory (&options);
    if (needed > least) {
      least = needed;
      *number = l->number;
    }
  }
  return least;
}

int
restore_snapshots (struct snapset *set)
{
  struct store *store = set->shared.store;
  struct restore restore = { .set = set, .store = store };
  const struct catalog *catalog = store_catalog (store);
  struct catalog_origin now;

  if (identity_take (set->origin,
                     catalog->clean && catalog->origin.path != NULL, &now)
      == -1)
    return -1;
  SCOPED_FREE char *refused = NULL;
  if (catalog->layers != NULL)
    refused = identity_compare (&catalog->origin, &now, catalog->clean,
                                has_rebooted (store));
  if (refused != NULL)
    report_error ("store %s: its snapshots are refused: %s", store_path (store),
                  refused);
  restore.refused = refused;
  /* Another one may be written to: the right one may come back as it was. */
  atomic_store (&set->unwatched,
                refused != NULL
                    && strcmp (catalog->origin.identity, now.identity) == 0);
  const int r = restore_layers (&restore, &now);
  free (now.path);
  free (now.identity);
  return r;
}
