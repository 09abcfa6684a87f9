/* SPDX-License-Identifier: BSD-3-Clause */
/* What is in the directory:
 *
 *   lock           locked by the server that uses it; its process, as text
 *   catalog        what there is (catalog.h), and catalog.spare
 *   snapshot-N-X   backing files, made by storefile.c; N is the snapshot's
 *                  number, X the beginning of the layer's UUID
 *
 * What happens when, and what a crash in between leaves:
 *
 *   make     the catalogue has the files in MAKING, then they are made
 *   add      the layer is in the catalogue, PENDING, then in the chain
 *   settle   PENDING goes, then the creation is answered
 *   break    the layer is BROKEN in the catalogue, then the origin is
 *            overwritten without a copy
 *   delete   DELETED, then nothing is copied into it any more
 *   drop     out of the chain, then the files are in REMOVING, then they
 *            are emptied
 *   remove   the files are unlinked, then they leave the catalogue
 *
 * A PENDING layer that is found after a crash is one that nobody was told of;
 * it may have got copies that older ones need: a deleted one.  So whatever
 * the catalogue has not, has not happened either, as far as it mattered.
 */

#include "store-internal.h"
#include "report.h"
#include "scoped.h"
#include "storefile.h"
#include "whole.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

/* --- opening ------------------------------------------------------------- */

static void
read_boot (char boot[37])
{
  FILE *f = fopen ("/proc/sys/kernel/random/boot_id", "re");

  if (f == NULL || fgets (boot, 37, f) == NULL)
    boot[0] = '\0';
  if (f != NULL)
    fclose (f);
}

/* The process that has the store locked, as text. */
static void
read_holder (int fd, char text[32])
{
  const ssize_t r = pread (fd, text, 31, 0);

  text[r > 0 ? r : 0] = '\0';
  text[strspn (text, "0123456789")] = '\0';
}

void
store_own (const struct store *store, int fd)
{
  struct stat st;

  if (geteuid () == 0 && fstat (store->directory, &st) == 0 && st.st_uid != 0
      && fchown (fd, st.st_uid, st.st_gid) == -1)
    nbdkit_debug ("fssnap: store=%s: chown: %m", store->path);
}

/* The same for the two files of the catalogue, which come and go by name. */
static void
own_catalog (const struct store *store)
{
  static const char *const names[] = { "catalog", "catalog.spare" };

  for (unsigned i = 0; i < 2; i++) {
    const int fd = openat (store->directory, names[i],
                           O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd == -1)
      continue;
    store_own (store, fd);
    close (fd);
  }
}

static int
lock_store (struct store *store)
{
  struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
  char holder[32];

  store->lock_file = openat (store->directory, "lock",
                             O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (store->lock_file == -1) {
    report_error ("store=%s: cannot make the file lock: %m", store->path);
    return -1;
  }
  if (fcntl (store->lock_file, F_OFD_SETLK, &lock) == 0) {
    store_own (store, store->lock_file);
    return 0;
  }
  if (errno != EAGAIN && errno != EACCES) {
    report_error ("store=%s: it cannot be locked: %m", store->path);
    return -1;
  }
  read_holder (store->lock_file, holder);
  report_error ("store=%s: it is in use by another server (process %s)",
                store->path, holder[0] != '\0' ? holder : "unknown");
  return -1;
}

static int
open_directory (struct store *store)
{
  if (mkdir (store->path, 0700) == -1 && errno != EEXIST) {
    report_error ("store=%s: cannot be made: %m", store->path);
    return -1;
  }
  /* Also if it was there: whoever made it may have been killed. */
  if (storefile_sync_name (store->path) == -1 && errno != EACCES) {
    report_error ("store=%s: its name cannot be had on stable storage: %m",
                  store->path);
    return -1;
  }
  store->directory = open (store->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (store->directory == -1) {
    report_error ("store=%s: %m", store->path);
    return -1;
  }
  return 0;
}

static bool
has_name (char *const *names, unsigned count, const char *name)
{
  for (unsigned i = 0; i < count; i++)
    if (strcmp (names[i], name) == 0)
      return true;
  return false;
}

bool
store_is_listed (const struct store *store, const char *name)
{
  for (const struct catalog_layer *l = store->catalog.layers; l != NULL;
       l = l->next)
    if (has_name (l->files, l->parts, name))
      return true;
  for (const struct catalog_files *f = store->catalog.making; f != NULL;
       f = f->next)
    if (has_name (f->files, f->parts, name))
      return true;
  for (const struct catalog_files *f = store->catalog.removing; f != NULL;
       f = f->next)
    if (has_name (f->files, f->parts, name))
      return true;
  return false;
}

/* The header of a file; or an error, also if it is none.  DIRECTORY is for
 * relative names.
 */
static int
read_header (int directory, const char *name, struct format_header *header)
{
  uint8_t sector[FORMAT_SECTOR];
  char *why;
  struct stat st;

  const int fd = openat (directory, name,
                         O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (fd == -1)
    return -1;
  const bool whole
      = fstat (fd, &st) == 0 && S_ISREG (st.st_mode)
        && whole_pread (fd, sector, sizeof sector, 0) == sizeof sector;
  close (fd);
  if (!whole)
    return -1;
  const int r = format_decode_header (sector, header, &why);
  if (r == -1)
    free (why);
  return r;
}

/* Look for files that the catalogue does not know.  Without a catalogue there
 * must be no backing files.
 */
static int
look_around (struct store *store, bool found)
{
  /* Every ext4 has a lost+found at its top. */
  static const char *const own[]
      = { ".", "..", "lock", "catalog", "catalog.spare", "lost+found" };
  struct format_header header;
  const struct dirent *entry;
  int r = 0;

  const int fd
      = openat (store->directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR *dir = fd == -1 ? NULL : fdopendir (fd);
  if (dir == NULL) {
    report_error ("store=%s: cannot be read: %m", store->path);
    if (fd != -1)
      close (fd);
    return -1;
  }
  while ((entry = readdir (dir)) != NULL) {
    const char *name = entry->d_name;

    if (has_name ((char *const *)(uintptr_t)own, sizeof own / sizeof own[0],
                  name)
        || store_is_listed (store, name))
      continue;
    if (!found && read_header (store->directory, name, &header) == 0) {
      report_error ("store=%s: it has the backing file %s of snapshot %u, but "
                    "no catalogue: restore the file catalog, or use another "
                    "store",
                    store->path, name, header.number);
      r = -1;
      break;
    }
    nbdkit_error ("store=%s: the file %s is not in the catalogue and is "
                  "ignored",
                  store->path, name);
  }
  closedir (dir);
  return r;
}

static int
read_catalog (struct store *store)
{
  SCOPED_FREE char *why = NULL;
  bool found = true;

  if (catalog_read (store->directory, &store->catalog, &why) == -1) {
    if (errno != ENOENT) {
      report_error ("store=%s: its file catalog %s", store->path,
                    why != NULL ? why : strerror (errno));
      return -1;
    }
    found = false;
    catalog_init (&store->catalog);
    store->catalog.clean = true; /* there is nothing in it yet */
  }
  return look_around (store, found);
}

struct store *
store_open (const char *path)
{
  struct store *store = calloc (1, sizeof *store);

  if (store == NULL || (store->path = strdup (path)) == NULL) {
    report_error ("store=%s: %m", path);
    free (store);
    return NULL;
  }
  store->directory = store->lock_file = -1;
  pthread_mutex_init (&store->lock, NULL);
  pthread_mutex_init (&store->tell_lock, NULL);
  pthread_cond_init (&store->changed, NULL);
  store->tellings_end = &store->tellings;
  read_boot (store->boot);
  if (open_directory (store) == -1 || lock_store (store) == -1
      || read_catalog (store) == -1) {
    store_close (store);
    return NULL;
  }
  return store;
}

static void
free_origin (struct catalog_origin *origin)
{
  free (origin->path);
  free (origin->identity);
  *origin = (struct catalog_origin){ 0 };
}

void
store_close (struct store *store)
{
  if (store == NULL)
    return;
  catalog_free (&store->catalog);
  free_origin (&store->origin);
  if (store->lock_file != -1)
    close (store->lock_file);
  if (store->directory != -1)
    close (store->directory);
  pthread_cond_destroy (&store->changed);
  pthread_mutex_destroy (&store->tell_lock);
  pthread_mutex_destroy (&store->lock);
  free (store->refused);
  free (store->path);
  free (store);
}

const char *
store_path (const struct store *store)
{
  return store->path;
}

struct catalog *
store_catalog (struct store *store)
{
  return &store->catalog;
}

const char *
store_boot (const struct store *store)
{
  return store->boot;
}

/* --- the catalogue ------------------------------------------------------- */

/* Write the catalogue.  LOCK is held. */
int
store_save (struct store *store)
{
  SCOPED_FREE char *why = NULL;

  store->catalog.generation++;
  if (catalog_write (store->directory, &store->catalog, &why) == 0)
    return 0;
  const int err = errno;
  store->catalog.generation--;
  report_error ("store %s: its catalogue %s", store->path,
                why != NULL ? why : strerror (err));
  errno = err;
  return -1;
}

static int
copy_origin (struct catalog_origin *to, const struct catalog_origin *from)
{
  struct catalog_origin copy = *from;

  copy.path = strdup (from->path);
  copy.identity = strdup (from->identity);
  if (copy.path == NULL || copy.identity == NULL) {
    free_origin (&copy);
    report_error ("no memory for the store");
    errno = ENOMEM;
    return -1;
  }
  free_origin (to);
  *to = copy;
  return 0;
}

struct catalog_files *
store_files_of (const struct catalog_layer *record)
{
  struct catalog_files *files = calloc (1, sizeof *files);

  if (files == NULL)
    return NULL;
  uuid_copy (files->uuid, record->uuid);
  files->parts = record->parts;
  files->files = catalog_copy_names (record->files, record->parts);
  if (files->files == NULL) {
    free (files);
    return NULL;
  }
  return files;
}

/* Whether a file may be removed as a layer's: its header says so or, if that
 * is damaged or was never written, its name, which has the layer's UUID.  What
 * a user has named may be his.
 */
static bool
is_ours (const struct store *store, const char *name, const uuid_t uuid)
{
  const char *base = strrchr (name, '/');
  struct format_header header;
  char text[37], tail[10];

  if (read_header (store->directory, name, &header) == 0)
    return memcmp (header.layer, uuid, sizeof header.layer) == 0;
  base = base != NULL ? base + 1 : name;
  uuid_unparse_lower (uuid, text);
  snprintf (tail, sizeof tail, "-%.8s", text);
  return strncmp (base, "snapshot-", 9) == 0 && strstr (base, tail) != NULL;
}

int
store_remove_files (struct store *store, char *const *files, unsigned parts,
                    const uuid_t uuid)
{
  int r = 0;

  for (unsigned part = 0; part < parts; part++) {
    if (faccessat (store->directory, files[part], F_OK, AT_SYMLINK_NOFOLLOW)
            == -1
        && errno == ENOENT)
      continue;
    if (!is_ours (store, files[part], uuid))
      nbdkit_error ("store %s: %s is not removed: it is not known to be the "
                    "backing file of that snapshot",
                    store->path, files[part]);
    else if (unlinkat (store->directory, files[part], 0) == -1
             && errno != ENOENT) {
      nbdkit_error ("store %s: cannot remove the backing file %s: %m",
                    store->path, files[part]);
      r = -1;
    }
  }
  return r;
}

/* Remove the files of a list; those that cannot be stay in it. */
static void
remove_all (struct store *store, struct catalog_files **list)
{
  while (*list != NULL) {
    struct catalog_files *files = *list;

    if (store_remove_files (store, files->files, files->parts, files->uuid)
        == -1) {
      list = &files->next;
      continue;
    }
    *list = files->next;
    catalog_free_files (files);
  }
}

/* The catalogue says it of those that broke.  LOCK is held. */
static void
remove_marks (struct store *store)
{
  for (const struct catalog_layer *l = store->catalog.layers; l != NULL;
       l = l->next)
    if (l->broken_reason != NULL)
      store_remove_mark (l);
}

/* LOCK is held. */
static int
begin (struct store *store, const struct catalog_origin *origin)
{
  if (copy_origin (&store->catalog.origin, origin) == -1)
    return -1;
  store->catalog.clean = false;
  memcpy (store->catalog.boot, store->boot, sizeof store->boot);
  for (struct catalog_layer *l = store->catalog.layers; l != NULL; l = l->next)
    l->level = l->durability;
  if (store_save (store) == -1)
    return -1;
  own_catalog (store);
  /* What was left to be removed.  They leave the catalogue the next time. */
  remove_all (store, &store->catalog.making);
  remove_all (store, &store->catalog.removing);
  remove_marks (store);
  return 0;
}

int
store_begin (struct store *store, const struct catalog_origin *origin)
{
  SCOPED_LOCK (&store->lock);
  return begin (store, origin);
}

int
store_refuse (struct store *store, const char *why,
              const struct catalog_origin *origin)
{
  SCOPED_LOCK (&store->lock);
  store->refused = strdup (why);
  if (store->refused == NULL) {
    report_error ("no memory for the store: %m");
    return -1;
  }
  return copy_origin (&store->origin, origin);
}

/* A store that is refused holds nobody's snapshots once they are deleted.
 * LOCK is held.
 */
int
store_check_accepts (struct store *store)
{
  if (store->refused == NULL)
    return 0;
  for (const struct catalog_layer *l = store->catalog.layers; l != NULL;
       l = l->next)
    if (!l->deleted) {
      report_error ("store %s takes no new snapshots: %s; delete those that "
                    "are in it, or use another store",
                    store->path, store->refused);
      errno = EBUSY;
      return -1;
    }
  if (begin (store, &store->origin) == -1)
    return -1;
  free (store->refused);
  store->refused = NULL;
  return 0;
}

/* What nobody older needs of them is to be removed at once.  LOCK is held. */
static void
delete_ephemeral (struct store *store)
{
  bool needed = false;

  for (struct catalog_layer **p = &store->catalog.layers; *p != NULL;) {
    struct catalog_layer *layer = *p;
    struct catalog_files *files = NULL;

    layer->deleted |= layer->ephemeral;
    if (layer->deleted && !needed)
      files = store_files_of (layer);
    if (files == NULL) {
      needed |= !layer->deleted;
      p = &layer->next;
      continue;
    }
    files->next = store->catalog.removing;
    store->catalog.removing = files;
    *p = layer->next;
    catalog_free_layer (layer);
  }
}

int
store_end (struct store *store, const struct catalog_origin *origin)
{
  SCOPED_LOCK (&store->lock);
  if (store->refused != NULL)
    return 0;
  if (copy_origin (&store->catalog.origin, origin) == -1)
    return -1;
  delete_ephemeral (store);
  store->catalog.clean = true;
  if (store_save (store) == -1)
    return -1;
  remove_marks (store);
  if (store->catalog.making == NULL && store->catalog.removing == NULL)
    return 0;
  remove_all (store, &store->catalog.making);
  remove_all (store, &store->catalog.removing);
  return store_save (store);
}
