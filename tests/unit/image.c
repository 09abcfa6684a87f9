/* SPDX-License-Identifier: BSD-3-Clause */

#include "image.h"
#include "call-hook.h"
#include "catalog.h"
#include "identity.h"
#include "scoped.h"
#include "scratch.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Copy what is no hole. */
static void
copy_data (int from, int to, off_t size)
{
  static const size_t step = 64 << 10;
  SCOPED_FREE uint8_t *buf = malloc (step);
  off_t offset = 0;

  assert (buf != NULL);
  while ((offset = lseek (from, offset, SEEK_DATA)) != -1) {
    const off_t end = lseek (from, offset, SEEK_HOLE);
    while (offset < end) {
      const size_t left = (size_t)(end - offset);
      const ssize_t n = pread (from, buf, left < step ? left : step, offset);
      if (n <= 0)
        break;
      if (pwrite (to, buf, (size_t)n, offset) != n)
        abort ();
      offset += n;
    }
  }
  if (ftruncate (to, size) == -1)
    abort ();
}

static void
copy_file (int from_directory, int to_directory, const char *name)
{
  struct stat st;
  const int from = openat (from_directory, name, O_RDONLY | O_CLOEXEC);
  const int to
      = openat (to_directory, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

  if (from == -1 || to == -1 || fstat (from, &st) == -1)
    abort ();
  copy_data (from, to, st.st_size);
  close (from);
  close (to);
}

static void
copy_directory (const char *from, const char *to)
{
  const int directory = open (to, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR *dir = opendir (from);
  const struct dirent *entry;

  if (directory == -1 || dir == NULL)
    abort ();
  while ((entry = readdir (dir)) != NULL)
    if (entry->d_name[0] != '.')
      copy_file (dirfd (dir), directory, entry->d_name);
  closedir (dir);
  close (directory);
}

struct image *
image_take (const struct fixture *fixture)
{
  static _Atomic unsigned count;
  const bool off = call_hook_off;
  char name[32];

  call_hook_off = true;
  struct image *image = calloc (1, sizeof *image);
  assert (image != NULL);
  image->size = fixture->size;
  image->origin = malloc (image->size);
  assert (image->origin != NULL);
  if (pread (fixture->fd, image->origin, image->size, 0)
      != (ssize_t)image->size)
    abort ();
  snprintf (name, sizeof name, "image-%u", atomic_fetch_add (&count, 1));
  snprintf (image->store, sizeof image->store, "%s/%s", scratch_directory (),
            name);
  if (mkdir (image->store, 0700) == -1)
    abort ();
  copy_directory (fixture->in_store, image->store);
  call_hook_off = off;
  return image;
}

void
image_free (struct image *image)
{
  if (image == NULL)
    return;
  free (image->origin);
  free (image);
}

void
image_remove (struct image *image)
{
  DIR *dir = opendir (image->store);
  const struct dirent *entry;

  assert (dir != NULL);
  while ((entry = readdir (dir)) != NULL)
    unlinkat (dirfd (dir), entry->d_name, 0);
  closedir (dir);
  rmdir (image->store);
}

static int
open_store (const char *store)
{
  const int directory = open (store, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

  assert (directory != -1);
  return directory;
}

void
image_catalog (const char *store, struct catalog *catalog)
{
  const int directory = open_store (store);
  char *why = NULL;

  if (catalog_read (directory, catalog, &why) == -1) {
    fprintf (stderr, "%s: %s\n", store, why != NULL ? why : strerror (errno));
    abort ();
  }
  close (directory);
}

void
image_set_catalog (const char *store, const struct catalog *catalog)
{
  const int directory = open_store (store);
  char *why = NULL;

  if (catalog_write (directory, catalog, &why) == -1) {
    fprintf (stderr, "%s: %s\n", store, why != NULL ? why : strerror (errno));
    abort ();
  }
  close (directory);
}

/* The image's origin is a copy, and in this boot: make that so. */
static void
adapt (const struct image *image, const struct fixture *fixture, bool rebooted)
{
  struct catalog_origin now;
  struct catalog catalog;
  char path[512];

  snprintf (path, sizeof path, "%s/catalog", image->store);
  if (access (path, F_OK) == -1)
    return;
  image_catalog (image->store, &catalog);
  if (identity_take (fixture->origin, true, &now) == -1)
    abort ();
  free (catalog.origin.path);
  free (catalog.origin.identity);
  catalog.origin = now;
  if (rebooted)
    strcpy (catalog.boot, "another");
  image_set_catalog (image->store, &catalog);
  catalog_free (&catalog);
}

void
image_serve (struct image *image, struct fixture *fixture, bool rebooted)
{
  *fixture = (struct fixture){ .size = image->size,
                               .content = image->origin,
                               .in_store = image->store };
  fixture_make_origin (fixture);
  adapt (image, fixture, rebooted);
  fixture_serve (fixture);
}
