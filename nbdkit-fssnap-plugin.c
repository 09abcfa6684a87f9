/* SPDX-License-Identifier: BSD-3-Clause */
/* nbdkit-fssnap-plugin: the nbdkit callbacks.  Parameters in, views out;
 * the work is done in src/, see docs/architecture.md.
 */

#include "allocation.h"
#include "closing.h"
#include "config.h"
#include "control.h"
#include "cow.h"
#include "lookup.h"
#include "origin.h"
#include "reclaim.h"
#include "restore.h"
#include "snapset.h"
#include "store.h"
#include "view.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

/* Seconds that the map of the origin's free space may take.  One of 10 TiB
 * takes some; a disk that hangs must not keep the server from starting.
 */
#define MAP_PATIENCE 60

/* Room for two paths and an error; the protocol allows 4096 bytes. */
#define DESCRIPTION_SIZE 1024

/* All set before the server starts and torn down after it has ended. */
static struct config config;
static struct origin *origin;
static struct store *store; /* or NULL */
static struct snapset *set;
static struct closing *closing; /* with a store */
static struct reclaim *reclaim;
static struct methods methods;
static struct control *control; /* or NULL */

/* True while the files that get_ready made are this process's to remove if
 * it exits: until after_fork, and not in a parent that forked the server.
 */
static bool starting;
static unsigned taken_at_start; /* the number of that snapshot in a store */

/* What a connection reads and writes. */
struct view {
  struct snapshot *snapshot; /* NULL: the origin; else we are its client */
  char description[DESCRIPTION_SIZE];
};

static void
not_starting (void)
{
  starting = false;
}

static void
fssnap_load (void)
{
  config_init (&config);
  pthread_atfork (NULL, not_starting, NULL);
}

static void
tear_down (void)
{
  control_free (control);
  control = NULL;
  reclaim_free (reclaim);
  reclaim = NULL;
  closing_free (closing);
  closing = NULL;
  snapset_free (set);
  set = NULL;
  store_close (store);
  store = NULL;
  origin_close (origin);
  origin = NULL;
}

/* nbdkit calls exit without a word to us if it cannot bind, say. */
__attribute__ ((destructor)) static void
exit_while_starting (void)
{
  unsigned number;

  if (!starting)
    return;
  if (taken_at_start != 0) {
    char who[16];
    snprintf (who, sizeof who, "%u", taken_at_start);
    snapset_delete (set, who, true, &config, &number);
  }
  if (closing != NULL)
    closing_unstarted (set);
  tear_down ();
}

static void
fssnap_unload (void)
{
  config_free (&config);
}

static int
fssnap_config (const char *key, const char *value)
{
  return config_set (&config, key, value);
}

static int
fssnap_config_complete (void)
{
  return config_check (&config);
}

static void
fssnap_dump_plugin (void)
{
  config_dump ();
}

static int
fssnap_thread_model (void)
{
  return THREAD_MODEL;
}

/* What is in the store may need more memory than new snapshots do. */
static int
open_store (void)
{
  unsigned number;

  store = store_open (config.store);
  if (store == NULL)
    return -1;
  const uint64_t least = restore_least_memory (store, &number);
  if (config.max_memory >= least)
    return 0;
  if (config.max_memory_given) {
    nbdkit_error ("max-memory=%" PRIu64 ": must be at least %" PRIu64
                  " for snapshot %u in the store",
                  config.max_memory, least, number);
    return -1;
  }
  config.max_memory = least;
  return 0;
}

/* The snapshots that are there already. */
static int
bring_back (void)
{
  snapset_use_store (set, store);
  if (restore_snapshots (set) == -1)
    return -1;
  closing = closing_create (set);
  return closing == NULL ? -1 : 0;
}

/* Nobody writes to the origin yet.  0, or -1 after a message. */
static int
leave_out_free (struct snapshot *snapshot)
{
  char who[16];

  allocation_leave_out (snapshot, config.origin, MAP_PATIENCE);
  snprintf (who, sizeof who, "%u", snapshot->number);
  return snapset_finish (set, who, &config);
}

static int
take_first (void)
{
  struct snapshot_options options = config.options.snapshot;

  if (config.find_free)
    options.creator = &config;
  struct snapshot *snapshot = snapset_freeze (set, &options);
  if (snapshot == NULL)
    return -1;
  if (store != NULL)
    taken_at_start = snapshot->number;
  const int r = config.find_free ? leave_out_free (snapshot) : 0;
  snapset_unpin (set, snapshot);
  return r;
}

/* Errors here still reach the terminal, so all that can fail is done here;
 * threads and rings would not survive the fork and come after it.
 */
static int
fssnap_get_ready (void)
{
  starting = true;
  origin = origin_open (config.origin);
  if (origin == NULL)
    return -1;
  if (config.store != NULL && open_store () == -1)
    return -1;
  set = snapset_create (origin, config.engine, config.fallback,
                        config.max_memory);
  if (set == NULL)
    return -1;
  reclaim = reclaim_create (set);
  if (reclaim == NULL || (store != NULL && bring_back () == -1))
    return -1;
  if (config.snapshot_at_start && snapset_newest (set) == NULL
      && take_first () == -1)
    return -1;
  if (config.control != NULL) {
    methods = (struct methods){ .set = set,
                                .defaults = &config.options,
                                .control = config.control };
    control = control_create (config.control, &methods);
    if (control == NULL)
      return -1;
  }
  return 0;
}

static int
fssnap_after_fork (void)
{
  if ((store != NULL && store_start (store) == -1) || snapset_start (set) == -1
      || reclaim_start (reclaim) == -1
      || (closing != NULL && closing_start (closing) == -1)
      || (control != NULL && control_start (control) == -1))
    return -1;
  starting = false;
  return 0;
}

static void
fssnap_cleanup (void)
{
  const unsigned timeout = config.options.snapshot.cow_timeout;

  if (set != NULL
      && ((control != NULL && control_stop (control, timeout) == -1)
          || reclaim_stop (reclaim, timeout) == -1
          || (closing != NULL && closing_finish (closing, timeout) == -1)
          || snapset_stop (set, timeout) == -1
          || (store != NULL && store_stop (store, timeout) == -1))) {
    /* A thread is stuck in the kernel and will use what it points to. */
    nbdkit_error ("the backing store hangs: ending without it");
    return;
  }
  tear_down ();
}

/* What is written of a view for people.  A reason longer than SIZE has room
 * for is cut; the log has it whole.
 */
static void
describe (struct snapshot *snapshot, char *text, size_t size)
{
  struct tm tm;
  char when[64];

  if (snapshot == NULL) {
    snprintf (text, size, "%s, live", config.origin);
    return;
  }
  localtime_r (&snapshot->created, &tm);
  strftime (when, sizeof when, "%Y-%m-%d %H:%M:%S %z", &tm);
  char *why = snapshot_why_broken (snapshot);
  snprintf (text, size, "snapshot %u%s%s, %s%s of %s%s%s", snapshot->number,
            snapshot->name != NULL ? " " : "",
            snapshot->name != NULL ? snapshot->name : "",
            snapshot_is_given_up (snapshot) ? "BROKEN, " : "", when,
            config.origin, why != NULL ? ": " : "", why != NULL ? why : "");
  free (why);
}

static int
add_exports (struct nbdkit_exports *exports, struct snapshot *snapshot,
             bool newest)
{
  char name[128], text[DESCRIPTION_SIZE];

  describe (snapshot, text, sizeof text);
  if (newest && nbdkit_add_export (exports, "snapshot", text) == -1)
    return -1;
  snprintf (name, sizeof name, "snapshot/%u", snapshot->number);
  if (nbdkit_add_export (exports, name, text) == -1)
    return -1;
  if (snapshot->name == NULL)
    return 0;
  snprintf (name, sizeof name, "snapshot/%s", snapshot->name);
  return nbdkit_add_export (exports, name, text);
}

static int
fssnap_list_exports (int readonly, int is_tls, struct nbdkit_exports *exports)
{
  char text[DESCRIPTION_SIZE];
  size_t count;
  int r = 0;

  (void)readonly;
  (void)is_tls;
  describe (NULL, text, sizeof text);
  if (nbdkit_add_export (exports, "", text) == -1
      || nbdkit_add_export (exports, "origin", text) == -1)
    return -1;
  struct snapshot **list = snapset_list (set, false, &count);
  if (list == NULL) {
    nbdkit_error ("no memory for the list of exports: %m");
    return -1;
  }
  /* Newest first. */
  for (size_t i = count; i-- > 0; snapset_unpin (set, list[i]))
    if (r == 0)
      r = add_exports (exports, list[i], i == count - 1);
  free (list);
  return r;
}

static const char *
fssnap_default_export (int readonly, int is_tls)
{
  (void)readonly;
  (void)is_tls;
  return "";
}

/* Become a client of the snapshot that an export's NAME means; NULL for the
 * origin.  -1 after logging if there is no such export.
 */
static int
open_view (const char *name, struct snapshot **snapshot)
{
  *snapshot = NULL;
  if (*name == '\0' || strcmp (name, "origin") == 0)
    return 0;
  if (strcmp (name, "snapshot") == 0)
    *snapshot = snapset_open (set, NULL);
  else if (strncmp (name, "snapshot/", 9) == 0)
    *snapshot = snapset_open (set, name + 9);
  if (*snapshot != NULL)
    return 0;
  nbdkit_error ("there is no export '%s'; the origin is '' or 'origin'%s", name,
                snapset_newest (set) != NULL
                    ? ", the newest snapshot 'snapshot'"
                    : ", and there is no snapshot");
  errno = ENOENT;
  return -1;
}

static void *
fssnap_open (int readonly)
{
  struct view *view = calloc (1, sizeof *view);

  (void)readonly; /* nbdkit itself refuses writes then */
  if (view == NULL) {
    nbdkit_error ("no memory for a connection: %m");
    return NULL;
  }
  if (open_view (nbdkit_export_name (), &view->snapshot) == -1) {
    free (view);
    return NULL;
  }
  describe (view->snapshot, view->description, sizeof view->description);
  return view;
}

static void
fssnap_close (void *handle)
{
  struct view *view = handle;

  if (view->snapshot != NULL)
    snapset_close (set, view->snapshot);
  free (view);
}

static const char *
fssnap_export_description (void *handle)
{
  const struct view *view = handle;

  return view->description;
}

static int64_t
fssnap_get_size (void *handle)
{
  const struct view *view = handle;

  return view->snapshot != NULL ? (int64_t)view->snapshot->size
                                : origin_size (origin);
}

static int
fssnap_block_size (void *handle, uint32_t *minimum, uint32_t *preferred,
                   uint32_t *maximum)
{
  /* A page, or the chunk if that is larger: smaller writes copy more than
   * they must.  The protocol wants at most 32M.
   */
  struct snapshot *newest = snapset_open (set, NULL);
  uint64_t size = 0;

  (void)handle;
  if (newest != NULL) {
    size = newest->options.chunk_size;
    snapset_close (set, newest);
  }
  if (size < 4096)
    size = 4096;
  if (size > UINT32_C (32) << 20)
    size = UINT32_C (32) << 20;
  *minimum = 1;
  *preferred = (uint32_t)size;
  *maximum = UINT32_MAX;
  return 0;
}

static int
fssnap_can_write (void *handle)
{
  const struct view *view = handle;

  return view->snapshot == NULL && !origin_is_readonly (origin);
}

static int
fssnap_can_flush (void *handle)
{
  (void)handle;
  return 1;
}

static int
fssnap_is_rotational (void *handle)
{
  (void)handle;
  return origin_is_rotational (origin);
}

static int
fssnap_can_fast_zero (void *handle)
{
  (void)handle;
  return origin_can_fast_zero (origin);
}

static int
fssnap_can_fua (void *handle)
{
  (void)handle;
  return NBDKIT_FUA_NATIVE;
}

/* One descriptor for all: a flush covers every connection's writes. */
static int
fssnap_can_multi_conn (void *handle)
{
  (void)handle;
  return 1;
}

/* A snapshot's parts come from several files: reading is the only way to
 * have them all in the page cache.
 */
static int
fssnap_can_cache (void *handle)
{
  const struct view *view = handle;

  return view->snapshot != NULL ? NBDKIT_CACHE_EMULATE : NBDKIT_CACHE_NATIVE;
}

static int
fssnap_can_extents (void *handle)
{
  const struct view *view = handle;

  return view->snapshot != NULL || origin_can_extents (origin);
}

/* Every errno that the wire does not have would reach the client as EINVAL,
 * its own fault; the true one is in the log.
 */
static int
to_wire (int r)
{
  if (r == 0)
    return 0;
  switch (errno) {
  case EPERM:
  case EROFS:
  case ENOMEM:
  case ENOSPC:
  case EDQUOT:
  case EFBIG:
  case ESHUTDOWN:
  case EOPNOTSUPP:
    break;
  default:
    errno = EIO;
  }
  return -1;
}

static int
fssnap_pread (void *handle, void *buf, uint32_t count, uint64_t offset,
              uint32_t flags)
{
  const struct view *view = handle;

  (void)flags;
  return to_wire (view->snapshot != NULL
                      ? view_read (set, view->snapshot, buf, count, offset)
                      : origin_read (origin, buf, count, offset));
}

static int
fssnap_pwrite (void *handle, const void *buf, uint32_t count, uint64_t offset,
               uint32_t flags)
{
  (void)handle;
  if (cow_begin_write (set, offset, count) == -1)
    return to_wire (-1);
  const int r
      = origin_write (origin, buf, count, offset, flags & NBDKIT_FLAG_FUA);
  cow_end_write (set);
  return to_wire (r);
}

static int
fssnap_zero (void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
  (void)handle;
  if (cow_begin_write (set, offset, count) == -1)
    return to_wire (-1);
  /* EOPNOTSUPP: nbdkit writes zeros, unless asked to be fast. */
  const int r
      = origin_zero (origin, count, offset, flags & NBDKIT_FLAG_MAY_TRIM,
                     flags & NBDKIT_FLAG_FUA);
  cow_end_write (set);
  return to_wire (r);
}

/* Advice: chunks that would have to be copied are left as they are. */
static int
fssnap_trim (void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
  int r = 0;

  (void)handle;
  if (atomic_load (&set->unwatched))
    snapset_watch (set);
  snapset_enter (set);
  while (r == 0 && count > 0) {
    uint64_t length;

    if (cow_is_kept (set, offset, count, &length))
      r = origin_trim (origin, length, offset, false);
    offset += length;
    count -= (uint32_t)length;
  }
  snapset_leave (set);
  if (r == 0 && (flags & NBDKIT_FLAG_FUA))
    r = origin_flush (origin);
  return to_wire (r);
}

static int
fssnap_flush (void *handle, uint32_t flags)
{
  const struct view *view = handle;

  (void)flags;
  return view->snapshot != NULL ? 0 : to_wire (origin_flush (origin));
}

static int
fssnap_cache (void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
  (void)handle;
  (void)flags;
  return to_wire (origin_cache (origin, count, offset));
}

static int
fssnap_extents (void *handle, uint32_t count, uint64_t offset, uint32_t flags,
                struct nbdkit_extents *extents)
{
  const struct view *view = handle;

  return to_wire (view_extents (set, view->snapshot, count, offset,
                                flags & NBDKIT_FLAG_REQ_ONE, extents));
}

static struct nbdkit_plugin plugin = {
  .name = "fssnap",
  .longname = "nbdkit fssnap plugin",
  .version = FSSNAP_VERSION,
  .description = "serve a block device or image file and, beside it, "
                 "read-only snapshots of it",
  .load = fssnap_load,
  .unload = fssnap_unload,
  .config = fssnap_config,
  .config_complete = fssnap_config_complete,
  .config_help = CONFIG_HELP,
  .magic_config_key = "origin",
  .dump_plugin = fssnap_dump_plugin,
  .thread_model = fssnap_thread_model,
  .get_ready = fssnap_get_ready,
  .after_fork = fssnap_after_fork,
  .cleanup = fssnap_cleanup,
  .list_exports = fssnap_list_exports,
  .default_export = fssnap_default_export,
  .export_description = fssnap_export_description,
  .open = fssnap_open,
  .close = fssnap_close,
  .get_size = fssnap_get_size,
  .block_size = fssnap_block_size,
  .can_write = fssnap_can_write,
  .can_flush = fssnap_can_flush,
  .is_rotational = fssnap_is_rotational,
  .can_trim = fssnap_can_write,
  .can_zero = fssnap_can_write,
  .can_fast_zero = fssnap_can_fast_zero,
  .can_fua = fssnap_can_fua,
  .can_multi_conn = fssnap_can_multi_conn,
  .can_cache = fssnap_can_cache,
  .can_extents = fssnap_can_extents,
  .pread = fssnap_pread,
  .pwrite = fssnap_pwrite,
  .zero = fssnap_zero,
  .trim = fssnap_trim,
  .flush = fssnap_flush,
  .cache = fssnap_cache,
  .extents = fssnap_extents,
  .errno_is_preserved = 1,
};

NBDKIT_REGISTER_PLUGIN (plugin)
