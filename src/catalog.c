/* SPDX-License-Identifier: BSD-3-Clause */
/* How the catalogue is replaced.  There are two files, the catalogue and a
 * spare, which is written in place, made durable, and then exchanged with the
 * catalogue in one step: whoever looks, after a crash too, finds the old one
 * or the new one, whole.  A new file for each change would do as well, but
 * needs space, and it is on a full disk that snapshots break and are deleted.
 * So both files have room for more than they hold, zeros that have been
 * written, and are never cut off.  The catalogue itself can be made longer in
 * place, since zeros behind it mean nothing.
 *
 *   step                        a crash or a failure leaves
 *   --------------------------  -------------------------------------------
 *   zeros behind the catalogue  the old catalogue, with some more zeros
 *   the spare is written        the old one; nobody reads the spare
 *   fsync of the spare          the same
 *   exchange                    the old one; after a crash it or the new one
 *   fsync of the directory      after a failure they are exchanged back, and
 *                               a crash then leaves either
 *
 * A file system that cannot exchange has the spare renamed, and a new one
 * made, for which there may be no space later.  One that writes nothing in
 * place (btrfs) may want space for anything.
 */

#include "catalog.h"
#include "scoped.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CATALOG "catalog"
#define SPARE "catalog.spare"

/* A multiple of the blocks of file systems, and of what disks write whole, so
 * that room is added without touching what is there.
 */
#define ROOM 4096

/* See catalog_read. */
#define READ_TRIES 10

#define NAME_BYTES_MAX 64

const char catalog_no_memory[] = "no memory";

/*----------------------------------------------------------------------*/
/* The structures. */

void
catalog_init (struct catalog *catalog)
{
  *catalog = (struct catalog){};
  uuid_generate_random (catalog->store);
}

void
catalog_free_names (char **names, unsigned count)
{
  if (names == NULL)
    return;
  for (unsigned i = 0; i < count; i++)
    free (names[i]);
  free (names);
}

char **
catalog_copy_names (char *const *names, unsigned count)
{
  char **copy = calloc (count > 0 ? count : 1, sizeof *copy);

  if (copy == NULL)
    return NULL;
  for (unsigned i = 0; i < count; i++) {
    copy[i] = strdup (names[i]);
    if (copy[i] == NULL) {
      catalog_free_names (copy, i);
      errno = ENOMEM;
      return NULL;
    }
  }
  return copy;
}

void
catalog_free_layer (struct catalog_layer *layer)
{
  if (layer == NULL)
    return;
  free (layer->name);
  free (layer->broken_reason);
  catalog_free_names (layer->files, layer->parts);
  free (layer);
}

void
catalog_free_files (struct catalog_files *files)
{
  if (files == NULL)
    return;
  catalog_free_names (files->files, files->parts);
  free (files);
}

static void
free_all_files (struct catalog_files *files)
{
  while (files != NULL) {
    struct catalog_files *next = files->next;
    catalog_free_files (files);
    files = next;
  }
}

void
catalog_free (struct catalog *catalog)
{
  while (catalog->layers != NULL) {
    struct catalog_layer *layer = catalog->layers;
    catalog->layers = layer->next;
    catalog_free_layer (layer);
  }
  free_all_files (catalog->making);
  free_all_files (catalog->removing);
  free (catalog->origin.path);
  free (catalog->origin.identity);
  *catalog = (struct catalog){};
}

/*----------------------------------------------------------------------*/
/* What holds of every catalogue, besides what its types and the bounds of
 * its numbers say.
 */

/* As snapset_is_name, which is of no use to the command. */
static bool
is_name (const char *name)
{
  const size_t length = strlen (name);

  if (length > NAME_BYTES_MAX || !isalnum ((unsigned char)*name)
      || strspn (name, "0123456789") == length)
    return false;
  for (const char *p = name; *p != '\0'; p++)
    if ((*p & 0x80) != 0
        || (!isalnum ((unsigned char)*p) && strchr ("._-", *p) == NULL))
      return false;
  return true;
}

/* The files in a store that are no part of a backing file must not be taken,
 * or removed, as one.
 */
static bool
is_file (const char *name)
{
  static const char *const others[]
      = { ".", "..", "lock", "catalog", "catalog.spare" };

  if (*name == '\0' || strlen (name) >= PATH_MAX)
    return false;
  if (*name == '/')
    return true;
  for (unsigned i = 0; i < sizeof others / sizeof others[0]; i++)
    if (strcmp (name, others[i]) == 0)
      return false;
  return strchr (name, '/') == NULL;
}

static bool
are_files (char *const *files, unsigned parts)
{
  if (parts < 1 || parts > CATALOG_PARTS_MAX)
    return false;
  for (unsigned i = 0; i < parts; i++)
    if (!is_file (files[i]))
      return false;
  return true;
}

static const char *
check_layer (const struct catalog_layer *layer)
{
  if ((layer->chunk_size & (layer->chunk_size - 1)) != 0)
    return "chunksize";
  if (layer->name != NULL && !is_name (layer->name))
    return "name";
  if (!are_files (layer->files, layer->parts))
    return "files";
  return NULL;
}

static const char *
check_files (const struct catalog_files *files, const char *fault)
{
  for (; files != NULL; files = files->next)
    if (!are_files (files->files, files->parts))
      return fault;
  return NULL;
}

/* To be sorted, so that twice the same are neighbours.  Layers that cannot
 * be the same have different addresses at least.
 */

static int
by_uuid (const void *a, const void *b)
{
  const struct catalog_layer *const *x = a, *const *y = b;

  return uuid_compare ((*x)->uuid, (*y)->uuid);
}

static int
by_address (const void *a, const void *b)
{
  return (a > b) - (a < b);
}

static int
by_number (const void *a, const void *b)
{
  const struct catalog_layer *const *x = a, *const *y = b;

  if ((*x)->deleted || (*y)->deleted)
    return (*x)->deleted == (*y)->deleted ? by_address (*x, *y)
                                          : (*x)->deleted - (*y)->deleted;
  return ((*x)->number > (*y)->number) - ((*x)->number < (*y)->number);
}

static bool
has_live_name (const struct catalog_layer *layer)
{
  return !layer->deleted && layer->name != NULL;
}

static int
by_name (const void *a, const void *b)
{
  const struct catalog_layer *const *x = a, *const *y = b;
  const bool named_x = has_live_name (*x), named_y = has_live_name (*y);

  if (!named_x || !named_y)
    return named_x == named_y ? by_address (*x, *y) : named_y - named_x;
  return strcmp ((*x)->name, (*y)->name);
}

static int
by_text (const void *a, const void *b)
{
  const char *const *x = a, *const *y = b;

  return strcmp (*x, *y);
}

/* Sort COUNT pointers; whether any two of them are the same then. */
static bool
has_twice (const void **pointers, size_t count,
           int (*compare) (const void *, const void *))
{
  if (count == 0)
    return false;
  qsort (pointers, count, sizeof *pointers, compare);
  for (size_t i = 1; i < count; i++)
    if (compare (&pointers[i - 1], &pointers[i]) == 0)
      return true;
  return false;
}

static const char *
check_layers_differ (const struct catalog *catalog)
{
  size_t count = 0;

  for (const struct catalog_layer *l = catalog->layers; l != NULL; l = l->next)
    count++;
  SCOPED_FREE const void **layers = calloc (count + 1, sizeof *layers);
  if (layers == NULL)
    return catalog_no_memory;
  count = 0;
  for (const struct catalog_layer *l = catalog->layers; l != NULL; l = l->next)
    layers[count++] = l;
  if (has_twice (layers, count, by_uuid))
    return "a layer twice";
  if (has_twice (layers, count, by_number))
    return "a number twice";
  if (has_twice (layers, count, by_name))
    return "a name twice";
  return NULL;
}

static size_t
add_files (const void **all, size_t count, char *const *files, unsigned parts)
{
  for (unsigned i = 0; i < parts; i++) {
    if (all != NULL)
      all[count] = files[i];
    count++;
  }
  return count;
}

/* Put all names of files in ALL, or just count them. */
static size_t
gather_files (const struct catalog *catalog, const void **all)
{
  const struct catalog_files *const lists[]
      = { catalog->making, catalog->removing };
  size_t count = 0;

  for (const struct catalog_layer *l = catalog->layers; l != NULL; l = l->next)
    count = add_files (all, count, l->files, l->parts);
  for (unsigned i = 0; i < 2; i++)
    for (const struct catalog_files *f = lists[i]; f != NULL; f = f->next)
      count = add_files (all, count, f->files, f->parts);
  return count;
}

static const char *
check_files_differ (const struct catalog *catalog)
{
  const size_t count = gather_files (catalog, NULL);
  SCOPED_FREE const void **files = calloc (count + 1, sizeof *files);

  if (files == NULL)
    return catalog_no_memory;
  gather_files (catalog, files);
  return has_twice (files, count, by_text) ? "a file twice" : NULL;
}

static const char *
check_boot (const char *boot)
{
  for (const char *p = boot; *p != '\0'; p++)
    if (*p <= ' ' || *p > '~')
      return "boot";
  return NULL;
}

const char *
catalog_check (const struct catalog *catalog)
{
  const char *fault = check_boot (catalog->boot);

  if (catalog->generation > INT64_MAX)
    fault = "generation";
  for (const struct catalog_layer *l = catalog->layers;
       fault == NULL && l != NULL; l = l->next)
    fault = check_layer (l);
  if (fault == NULL)
    fault = check_files (catalog->making, "making");
  if (fault == NULL)
    fault = check_files (catalog->removing, "removing");
  if (fault == NULL)
    fault = check_layers_differ (catalog);
  if (fault == NULL)
    fault = check_files_differ (catalog);
  return fault;
}

/*----------------------------------------------------------------------*/
/* In files. */

/* *WHY is "cannot be VERB: FILE: CALL: ..." of errno, which stays. */
static int
failed (char **why, const char *verb, const char *file, const char *call)
{
  const int err = errno;

  if (asprintf (why, "cannot be %s: %s: %s: %s", verb, file, call,
                strerror (err))
      == -1)
    *why = NULL;
  errno = err;
  return -1;
}

/* The same, but the kernel has nothing against it. */
static int
refuse_file (char **why, const char *verb, const char *file, const char *what)
{
  if (asprintf (why, "cannot be %s: %s %s", verb, file, what) == -1)
    *why = NULL;
  errno = EINVAL;
  return -1;
}

/* All of a file from its begin on.  The bytes read, or -1 with errno. */
static ssize_t
read_all (int fd, char *text, size_t size)
{
  size_t done = 0;

  while (done < size) {
    const ssize_t r = pread (fd, text + done, size - done, (off_t)done);
    if (r == -1 && errno == EINTR)
      continue;
    if (r == -1)
      return -1;
    if (r == 0)
      break;
    done += (size_t)r;
  }
  return (ssize_t)done;
}

static int
write_all (int fd, const char *text, size_t length, uint64_t offset)
{
  while (length > 0) {
    const ssize_t r = pwrite (fd, text, length, (off_t)offset);
    if (r == -1 && errno == EINTR)
      continue;
    if (r == 0)
      errno = ENOSPC;
    if (r <= 0)
      return -1;
    text += r;
    length -= (size_t)r;
    offset += (uint64_t)r;
  }
  return 0;
}

/* Open one of the two, which must be a file of a sane size.  The descriptor,
 * or -1 with errno and *WHY.
 */
static int
open_file (int directory, const char *name, int flags, const char *verb,
           struct stat *st, char **why)
{
  const int fd = openat (directory, name,
                         flags | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);

  if (fd == -1)
    return errno == ELOOP ? refuse_file (why, verb, name, "is a symbolic link")
                          : failed (why, verb, name, "open");
  int r = 0;
  if (fstat (fd, st) == -1)
    r = failed (why, verb, name, "fstat");
  else if (!S_ISREG (st->st_mode))
    r = refuse_file (why, verb, name, "is no file");
  else if (st->st_size > CATALOG_BYTES_MAX)
    r = refuse_file (why, verb, name, "is too large to be one");
  if (r == 0)
    return fd;
  const int err = errno;
  close (fd);
  errno = err;
  return -1;
}

/* Read the file that is there.  *SEEN says which that was. */
static int
read_file (int directory, struct catalog *catalog, struct stat *seen,
           char **why)
{
  const int fd = open_file (directory, CATALOG, O_RDONLY, "read", seen, why);

  if (fd == -1)
    return -1;
  const size_t size = (size_t)seen->st_size;
  SCOPED_FREE char *text = malloc (size + 1);
  const ssize_t length = text == NULL ? -1 : read_all (fd, text, size);
  if (length == -1)
    failed (why, "read", CATALOG, "read");
  const int err = errno;
  close (fd);
  errno = err;
  if (length == -1)
    return -1;
  if (catalog_parse (text, (size_t)length, catalog, why) == 0)
    return 0;
  errno = *why == NULL ? ENOMEM : EBADMSG;
  return -1;
}

/* Who has not locked the store may open the catalogue just before it becomes
 * the spare, and read it while it is written for the next time.  Then there
 * is another one by now.
 */
int
catalog_read (int directory, struct catalog *catalog, char **why)
{
  struct stat st;

  for (unsigned tries = 1;; tries++) {
    *why = NULL;
    *catalog = (struct catalog){};
    if (read_file (directory, catalog, &st, why) == 0)
      return 0;
    if (errno != EBADMSG || tries == READ_TRIES)
      return -1;
    free (*why);
  }
}

/* The two files while one is written. */
struct pair {
  int catalog; /* -1: there is none yet */
  int spare;
  uint64_t catalog_size, spare_size; /* bytes */
  size_t length;                     /* of what is written */
};

static int
open_pair (int directory, struct pair *pair, char **why)
{
  struct stat st;

  pair->catalog = open_file (directory, CATALOG, O_RDWR, "written", &st, why);
  if (pair->catalog != -1)
    pair->catalog_size = (uint64_t)st.st_size;
  else if (errno != ENOENT)
    return -1;
  free (*why);
  *why = NULL;
  pair->spare
      = open_file (directory, SPARE, O_RDWR | O_CREAT, "written", &st, why);
  if (pair->spare == -1)
    return -1;
  pair->spare_size = (uint64_t)st.st_size;
  return 0;
}

static void
close_pair (const struct pair *pair)
{
  const int err = errno;

  if (pair->catalog != -1)
    close (pair->catalog);
  if (pair->spare != -1)
    close (pair->spare);
  errno = err;
}

/* Have room in a file for LENGTH bytes and, if there is space for it, for
 * twice as many: for the reasons of all snapshots that break on a full disk.
 */
static int
make_room (int fd, uint64_t *size, size_t length)
{
  static const char zeros[ROOM];
  const uint64_t twice = (2 * (uint64_t)length + ROOM - 1) / ROOM * ROOM;
  const uint64_t wanted = twice < CATALOG_BYTES_MAX ? twice : CATALOG_BYTES_MAX;

  while (*size < wanted) {
    const uint64_t n = ROOM - *size % ROOM;
    if (write_all (fd, zeros, n, *size) == -1)
      return *size < length ? -1 : 0;
    *size += n;
  }
  return 0;
}

static int
write_spare (struct pair *pair, const char *text, char **why)
{
  const size_t length = pair->length;

  if (pair->catalog != -1
      && make_room (pair->catalog, &pair->catalog_size, length) == -1)
    return failed (why, "written", CATALOG, "write");
  if (make_room (pair->spare, &pair->spare_size, length) == -1)
    return failed (why, "written", SPARE, "write");
  SCOPED_FREE char *bytes = calloc (1, pair->spare_size);
  if (bytes == NULL)
    return failed (why, "written", SPARE, "memory");
  memcpy (bytes, text, length);
  if (write_all (pair->spare, bytes, pair->spare_size, 0) == -1)
    return failed (why, "written", SPARE, "write");
  if (fsync (pair->spare) == -1)
    return failed (why, "written", SPARE, "fsync");
  return 0;
}

/* The spare has become the catalogue: have another one, as long. */
static int
make_spare (int directory, const struct pair *pair, char **why)
{
  uint64_t size = 0;
  struct stat st;
  const int fd = open_file (directory, SPARE, O_RDWR | O_CREAT | O_EXCL,
                            "written", &st, why);

  if (fd == -1)
    return -1;
  int r = make_room (fd, &size, pair->length);
  if (r == -1)
    failed (why, "written", SPARE, "write");
  const int err = errno;
  close (fd);
  errno = err;
  return r;
}

static int
exchange (int directory)
{
  return renameat2 (directory, SPARE, directory, CATALOG, RENAME_EXCHANGE);
}

/* Have the spare be the catalogue.  *EXCHANGED: and the other way round. */
static int
put_in_place (int directory, const struct pair *pair, bool *exchanged,
              char **why)
{
  *exchanged = pair->catalog != -1 && exchange (directory) == 0;
  if (*exchanged)
    return 0;
  if (pair->catalog != -1 && errno != EINVAL && errno != ENOSYS
      && errno != EOPNOTSUPP)
    return failed (why, "written", SPARE, "renameat2");
  if (renameat (directory, SPARE, directory, CATALOG) == -1)
    return failed (why, "written", SPARE, "rename");
  if (make_spare (directory, pair, why) == 0)
    return 0;
  if (pair->catalog == -1)
    return -1;
  free (*why); /* it has worked, and may work the next time */
  *why = NULL;
  return 0;
}

static int
replace (int directory, const struct pair *pair, char **why)
{
  bool exchanged;
  int r = put_in_place (directory, pair, &exchanged, why);

  /* Some file systems have nothing to sync of a directory. */
  if (r == 0 && fsync (directory) == -1 && errno != EINVAL)
    r = failed (why, "written", "its directory", "fsync");
  if (r == 0)
    return 0;
  const int err = errno;
  if (exchanged)
    exchange (directory);
  else if (pair->catalog == -1)
    unlinkat (directory, CATALOG, 0);
  errno = err;
  return -1;
}

int
catalog_write (int directory, const struct catalog *catalog, char **why)
{
  struct pair pair = { .catalog = -1, .spare = -1 };
  SCOPED_FREE char *text = catalog_print (catalog, &pair.length, why);

  if (text == NULL) {
    errno = *why == NULL ? ENOMEM : EINVAL;
    return -1;
  }
  int r = open_pair (directory, &pair, why);
  if (r == 0)
    r = write_spare (&pair, text, why);
  if (r == 0)
    r = replace (directory, &pair, why);
  close_pair (&pair);
  return r;
}
