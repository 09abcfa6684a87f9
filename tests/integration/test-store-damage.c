/* SPDX-License-Identifier: BSD-3-Clause */
/* Backing files that are not what they were: each is refused by its name,
 * the rest is served, and nothing is changed by that.
 */

#include "format.h"
#include "gallery.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* SPOIL 2's file.  That is found, changes nothing, and is over once the good
 * one is back.
 */
static void
damage_is_found (struct fixture *f,
                 void (*spoil) (struct gallery *g, const char *path),
                 const char *why)
{
  struct gallery g = make_gallery (f);

  spoil (&g, g.file[2]);
  const struct inventory *before = inventory (f, store_directory (f));
  for (unsigned i = 0; i < 2; i++) {
    open_store (&g.w);
    second_is_refused (&g, why);
    end (&g.w, i == 0 ? STOPPED : KILLED);
    unchanged (before, false);
  }
  open_store (&g.w);
  second_is_refused (&g, why);
  /* writes are copied to 3, so that 2 and 1 miss nothing */
  overwrite_anywhere (&g.w);
  snapshot_is (&g.w, 3, g.content[3]);
  end (&g.w, STOPPED);

  put_back (g.good[2], g.file[2]);
  open_store (&g.w);
  all_are_exact (&g);
  overwrite_anywhere (&g.w);
  all_are_exact (&g);
}

/* --- the kinds ----------------------------------------------------------- */

static void
flip_magic (struct gallery *g, const char *path)
{
  (void)g;
  flip (path, 0);
}

static void
other_magic (void **state)
{
  damage_is_found (*state, flip_magic, "no backing file");
}

static void
flip_header (struct gallery *g, const char *path)
{
  (void)g;
  flip (path, 70);
}

static void
damaged_header (void **state)
{
  damage_is_found (*state, flip_header, "header");
}

/* As the next fssnap might write one: all is right but the number. */
static void
raise_version (struct gallery *g, const char *path)
{
  const int fd = open (path, O_RDWR | O_CLOEXEC);
  uint8_t sector[FORMAT_SECTOR];

  (void)g;
  assert_int_equal (pread (fd, sector, sizeof sector, 0), sizeof sector);
  sector[8] = FORMAT_VERSION + 1;
  memset (sector + 12, 0, 4);
  const uint32_t crc = format_crc (0, sector, sizeof sector);
  for (unsigned i = 0; i < 4; i++)
    sector[12 + i] = (uint8_t)(crc >> 8 * i);
  assert_int_equal (pwrite (fd, sector, sizeof sector, 0), sizeof sector);
  close (fd);
}

static void
newer_version (void **state)
{
  damage_is_found (*state, raise_version,
                   "is of format 2; this fssnap knows 1");
}

static void
flip_index (struct gallery *g, const char *path)
{
  (void)g;
  flip (path, index_of_copied () + 33);
}

static void
damaged_index (void **state)
{
  damage_is_found (*state, flip_index, "index");
}

/* A table that nothing was written to. */
static void
write_free_table (struct gallery *g, const char *path)
{
  const struct format_layout layout = format_layout (CHUNK, SIZE);

  (void)g;
  flip (path, format_unit_offset (&layout, FORMAT_FREE, 0) + 40);
}

static void
damaged_table_of_free_chunks (void **state)
{
  damage_is_found (*state, write_free_table, "index");
}

/* A good unit, but of another file: its own checksum is right. */
static void
take_index_of_first (struct gallery *g, const char *path)
{
  const int from = open (g->file[1], O_RDONLY | O_CLOEXEC);
  const int to = open (path, O_WRONLY | O_CLOEXEC);
  uint8_t unit[FORMAT_SECTOR];
  const off_t at = (off_t)index_of_copied ();

  assert_int_equal (pread (from, unit, sizeof unit, at), sizeof unit);
  assert_int_equal (pwrite (to, unit, sizeof unit, at), sizeof unit);
  close (from);
  close (to);
}

static void
index_of_another_snapshot (void **state)
{
  damage_is_found (*state, take_index_of_first, "index");
}

/* A sector that reads as zeros, as if nothing had ever been written: how many
 * chunks there must be at least is in the catalogue since the store was closed
 * last.  Of what was copied later, until a kill, nobody knows.
 */
static void
lose_index (struct gallery *g, const char *path)
{
  static const uint8_t zeros[FORMAT_SECTOR];
  const int fd = open (path, O_WRONLY | O_CLOEXEC);

  (void)g;
  assert_int_equal (pwrite (fd, zeros, sizeof zeros, (off_t)index_of_copied ()),
                    sizeof zeros);
  close (fd);
}

static void
lost_index (void **state)
{
  damage_is_found (*state, lose_index, "index");
}

static void
index_lost_in_a_kill (void **state)
{
  struct gallery g = make_gallery (*state);

  open_store (&g.w);
  overwrite_anywhere (&g.w);
  end (&g.w, KILLED);
  lose_index (&g, g.file[2]);
  open_store (&g.w);
  second_is_refused (&g, "index");
}

static void
cut_to (const char *path, uint64_t size)
{
  assert_int_equal (truncate (path, (off_t)size), 0);
}

static void
cut_data (struct gallery *g, const char *path)
{
  (void)g;
  cut_to (path, format_layout (CHUNK, SIZE).data + SIZE / 2);
}

static void
truncated_data (void **state)
{
  damage_is_found (*state, cut_data, "bytes");
}

static void
cut_index (struct gallery *g, const char *path)
{
  (void)g;
  cut_to (path, index_of_copied () + 100);
}

static void
truncated_index (void **state)
{
  damage_is_found (*state, cut_index, "bytes");
}

static void
cut_header (struct gallery *g, const char *path)
{
  (void)g;
  cut_to (path, 100);
}

static void
truncated_header (void **state)
{
  damage_is_found (*state, cut_header, "truncated");
}

static void
cut_all (struct gallery *g, const char *path)
{
  (void)g;
  cut_to (path, 0);
}

static void
empty_file (void **state)
{
  damage_is_found (*state, cut_all, "truncated");
}

static void
lengthen (struct gallery *g, const char *path)
{
  (void)g;
  cut_to (path, format_layout (CHUNK, SIZE).file_size + CHUNK);
}

static void
longer_file (void **state)
{
  damage_is_found (*state, lengthen, "bytes");
}

static void
put_image (struct gallery *g, const char *path)
{
  put_back (g->w.f->image, path);
}

static void
foreign_file (void **state)
{
  damage_is_found (*state, put_image, "no backing file");
}

static void
put_first (struct gallery *g, const char *path)
{
  put_back (g->file[1], path);
}

static void
duplicate_of_another_snapshot (void **state)
{
  damage_is_found (*state, put_first, "of another snapshot");
}

/* Of the same number, size and time. */
static void
put_file_of_another_store (struct gallery *g, const char *path)
{
  struct fixture *f = g->w.f;
  const char *mine = text (f, "%s/mine", f->server.dir);
  const char *other = text (f, "%s/other", f->server.dir);

  assert_int_equal (rename (store_directory (f), mine), 0);
  open_store (&g->w);
  for (int i = 1; i <= 2; i++)
    create (g->w.c);
  end (&g->w, STOPPED);
  const char *file = name_in (part_of (f, 2, 0));
  assert_int_equal (rename (store_directory (f), other), 0);
  assert_int_equal (rename (mine, store_directory (f)), 0);
  put_back (text (f, "%s/%s", other, file), path);
}

static void
file_of_another_store (void **state)
{
  damage_is_found (*state, put_file_of_another_store, "of another store");
}

static void
remove_file (struct gallery *g, const char *path)
{
  (void)g;
  assert_int_equal (unlink (path), 0);
}

static void
missing_file (void **state)
{
  damage_is_found (*state, remove_file, "No such file");
}

static void
link_to_good (struct gallery *g, const char *path)
{
  assert_int_equal (unlink (path), 0);
  assert_int_equal (symlink (g->good[2], path), 0);
}

/* Even to what was there: who made it may change what it leads to. */
static void
symbolic_link (void **state)
{
  damage_is_found (*state, link_to_good, "link");
}

static void
link_to_nothing (struct gallery *g, const char *path)
{
  assert_int_equal (unlink (path), 0);
  assert_int_equal (
      symlink (text (g->w.f, "%s/none", g->w.f->server.dir), path), 0);
}

static void
dangling_link (void **state)
{
  damage_is_found (*state, link_to_nothing, "link");
}

static void
make_directory (struct gallery *g, const char *path)
{
  (void)g;
  assert_int_equal (unlink (path), 0);
  assert_int_equal (mkdir (path, 0700), 0);
}

static void
directory (void **state)
{
  damage_is_found (*state, make_directory, "directory");
}

/* Who opens one waits for the other end, unless he takes care. */
static void
make_pipe (struct gallery *g, const char *path)
{
  (void)g;
  assert_int_equal (unlink (path), 0);
  assert_int_equal (mkfifo (path, 0600), 0);
}

static void
named_pipe (void **state)
{
  damage_is_found (*state, make_pipe, "regular file");
}

static void
make_socket (struct gallery *g, const char *path)
{
  struct sockaddr_un address = { .sun_family = AF_UNIX };
  const int fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

  (void)g;
  assert_int_equal (unlink (path), 0);
  snprintf (address.sun_path, sizeof address.sun_path, "%s", path);
  assert_int_equal (
      bind (fd, (const struct sockaddr *)&address, sizeof address), 0);
  close (fd);
}

static void
socket_file (void **state)
{
  damage_is_found (*state, make_socket, "");
}

static void
forbid (struct gallery *g, const char *path)
{
  (void)g;
  assert_int_equal (chmod (path, 0), 0);
}

static void
unreadable_file (void **state)
{
  become_nobody (*state);
  damage_is_found (*state, forbid, "Permission denied");
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    fixture_test (other_magic),
    fixture_test (damaged_header),
    fixture_test (newer_version),
    fixture_test (damaged_index),
    fixture_test (damaged_table_of_free_chunks),
    fixture_test (index_of_another_snapshot),
    fixture_test (lost_index),
    fixture_test (index_lost_in_a_kill),
    fixture_test (truncated_data),
    fixture_test (truncated_index),
    fixture_test (truncated_header),
    fixture_test (empty_file),
    fixture_test (longer_file),
    fixture_test (foreign_file),
    fixture_test (duplicate_of_another_snapshot),
    fixture_test (file_of_another_store),
    fixture_test (missing_file),
    fixture_test (symbolic_link),
    fixture_test (dangling_link),
    fixture_test (directory),
    fixture_test (named_pipe),
    fixture_test (socket_file),
    fixture_test (unreadable_file),
  };

  return cmocka_run_group_tests_name ("store-damage", tests, NULL, NULL);
}
