/* SPDX-License-Identifier: BSD-3-Clause */

#include "files.h"
#include "format.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <pwd.h>
#include <unistd.h>

/* --- what is in a directory ---------------------------------------------- */

struct entry {
  char name[256];
  struct stat stat;
  uint32_t crc; /* of a file's content */
};

struct inventory {
  char directory[256];
  struct entry *entries; /* by name */
  unsigned count;
};

static uint32_t
crc_of (const char *path)
{
  uint8_t buf[65536];
  const int fd = open (path, O_RDONLY | O_CLOEXEC);
  uint32_t crc = 0;
  ssize_t r;

  if (fd == -1 && errno == EACCES) /* nobody else can write to it either */
    return 0;
  if (fd == -1)
    fail_msg ("%s: %s", path, strerror (errno));
  while ((r = read (fd, buf, sizeof buf)) > 0)
    crc = format_crc (crc, buf, (uint64_t)r);
  assert_int_equal (r, 0);
  close (fd);
  return crc;
}

static int
by_name (const void *a, const void *b)
{
  const struct entry *left = a, *right = b;

  return strcmp (left->name, right->name);
}

static struct inventory
take (const char *directory)
{
  struct inventory all = { 0 };
  DIR *dir = opendir (directory);
  const struct dirent *found;
  char path[512];

  assert_non_null (dir);
  snprintf (all.directory, sizeof all.directory, "%s", directory);
  while ((found = readdir (dir)) != NULL) {
    if (strcmp (found->d_name, ".") == 0 || strcmp (found->d_name, "..") == 0)
      continue;
    all.entries
        = reallocarray (all.entries, all.count + 1, sizeof *all.entries);
    assert_non_null (all.entries);
    struct entry *entry = &all.entries[all.count++];
    *entry = (struct entry){ 0 };
    snprintf (entry->name, sizeof entry->name, "%s", found->d_name);
    snprintf (path, sizeof path, "%s/%s", directory, found->d_name);
    assert_int_equal (lstat (path, &entry->stat), 0);
    if (S_ISREG (entry->stat.st_mode))
      entry->crc = crc_of (path);
  }
  closedir (dir);
  if (all.count > 0)
    qsort (all.entries, all.count, sizeof *all.entries, by_name);
  return all;
}

static void
release_inventory (void *what)
{
  struct inventory *all = what;

  free (all->entries);
  free (all);
}

struct inventory *
inventory (struct fixture *f, const char *directory)
{
  struct inventory *all = malloc (sizeof *all);

  assert_non_null (all);
  *all = take (directory);
  keep (f, all, release_inventory);
  return all;
}

/* What has become of an entry, or NULL. */
static const char *
difference (const struct entry *was, const struct entry *is)
{
  if (was->stat.st_mode != is->stat.st_mode)
    return "has another mode";
  if (was->stat.st_ino != is->stat.st_ino)
    return "is another file";
  if (was->stat.st_size != is->stat.st_size)
    return "has another size";
  if (was->crc != is->crc)
    return "has another content";
  if (!S_ISDIR (was->stat.st_mode)
      && (was->stat.st_mtim.tv_sec != is->stat.st_mtim.tv_sec
          || was->stat.st_mtim.tv_nsec != is->stat.st_mtim.tv_nsec))
    return "was written to";
  return NULL;
}

static bool
matters (const char *name, bool catalog)
{
  if (strcmp (name, "lock") == 0)
    return false;
  return catalog || strncmp (name, "catalog", 7) != 0;
}

void
assert_unchanged (const struct inventory *before, bool catalog,
                  const char *file, int line)
{
  struct inventory after = take (before->directory);
  unsigned i = 0, j = 0;
  bool same = true;

  while (i < before->count || j < after.count) {
    const struct entry *was = &before->entries[i], *is = &after.entries[j];
    const int order = i == before->count ? 1
                      : j == after.count ? -1
                                         : strcmp (was->name, is->name);
    const char *name = order <= 0 ? was->name : is->name;
    const char *what = order < 0   ? "is gone"
                       : order > 0 ? "is new"
                                   : difference (was, is);

    i += order <= 0;
    j += order >= 0;
    if (what != NULL && matters (name, catalog)) {
      print_error ("%s/%s %s\n", before->directory, name, what);
      same = false;
    }
  }
  free (after.entries);
  if (!same)
    _fail (file, line);
}

unsigned
files_like (const char *directory, const char *beginning)
{
  const struct inventory all = take (directory);
  unsigned count = 0;

  for (unsigned i = 0; i < all.count; i++)
    count += strncmp (all.entries[i].name, beginning, strlen (beginning)) == 0;
  free (all.entries);
  return count;
}

/* --- spoiling files ------------------------------------------------------ */

static void
copy_bytes (int from, int to, off_t start, off_t end_of_data)
{
  uint8_t buf[65536];

  while (start < end_of_data) {
    size_t n = (size_t)(end_of_data - start);
    if (n > sizeof buf)
      n = sizeof buf;
    const ssize_t r = pread (from, buf, n, start);
    assert_true (r > 0);
    assert_int_equal (pwrite (to, buf, (size_t)r, start), r);
    start += r;
  }
}

void
copy_file (const char *from, const char *to)
{
  const int in = open (from, O_RDONLY | O_CLOEXEC);
  const int out = open (to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  struct stat st;

  if (in == -1 || out == -1)
    fail_msg ("copy %s to %s: %s", from, to, strerror (errno));
  assert_int_equal (fstat (in, &st), 0);
  for (off_t at = 0; (at = lseek (in, at, SEEK_DATA)) != -1;) {
    const off_t hole = lseek (in, at, SEEK_HOLE);
    copy_bytes (in, out, at, hole);
    at = hole;
  }
  assert_int_equal (ftruncate (out, st.st_size), 0);
  assert_int_equal (
      futimens (out, (const struct timespec[]){ st.st_atim, st.st_mtim }), 0);
  close (in);
  close (out);
}

static int
remove_one (const char *path, const struct stat *st, int type, struct FTW *ftw)
{
  (void)st;
  (void)type;
  (void)ftw;
  return remove (path);
}

void
put_back (const char *from, const char *to)
{
  nftw (to, remove_one, 4, FTW_DEPTH | FTW_PHYS);
  copy_file (from, to);
}

void
flip (const char *path, uint64_t offset)
{
  const int fd = open (path, O_RDWR | O_CLOEXEC);
  uint8_t byte;

  assert_int_not_equal (fd, -1);
  assert_int_equal (pread (fd, &byte, 1, (off_t)offset), 1);
  byte ^= 0x10;
  assert_int_equal (pwrite (fd, &byte, 1, (off_t)offset), 1);
  close (fd);
}

struct timespec
file_time (const char *path)
{
  struct stat st;

  assert_int_equal (stat (path, &st), 0);
  return st.st_mtim;
}

void
set_file_time (const char *path, struct timespec mtime)
{
  const struct timespec times[] = { { .tv_nsec = UTIME_OMIT }, mtime };

  assert_int_equal (utimensat (AT_FDCWD, path, times, 0), 0);
}

/* --- other users --------------------------------------------------------- */

/* Be root again, when the plugin was WHAT. */
static void
release_user (void *what)
{
  if (setresuid (0, 0, 0) == -1)
    abort ();
  setenv ("FSSNAP_PLUGIN", what, 1);
  free (what);
}

void
become_nobody (struct fixture *f)
{
  const struct passwd *nobody = getpwnam ("nobody");
  const char *preload = getenv ("FSSNAP_PRELOAD");
  const char *plugin = text (f, "%s/plugin.so", f->server.dir);

  if (geteuid () != 0) /* we are one who may not do everything already */
    return;
  if (nobody == NULL || (preload != NULL && *preload != '\0')) {
    print_message ("cannot be run as another user here\n");
    skip ();
  }
  /* The build may be where nobody else may look. */
  copy_file (getenv ("FSSNAP_PLUGIN"), plugin);
  assert_int_equal (chmod (plugin, 0755), 0);
  assert_int_equal (chown (f->server.dir, nobody->pw_uid, (gid_t)-1), 0);
  keep (f, strdup (getenv ("FSSNAP_PLUGIN")), release_user);
  setenv ("FSSNAP_PLUGIN", plugin, 1);
  /* What is started gets no way back. */
  assert_int_equal (setresuid (nobody->pw_uid, nobody->pw_uid, 0), 0);
}
