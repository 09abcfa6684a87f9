/* SPDX-License-Identifier: BSD-3-Clause */
/* A catalogue that is not what it was: without one nobody knows what the
 * files are, so that the server does not start, and changes nothing.  And
 * files that no catalogue lists.
 */

#include "store.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

/* Two snapshots in a store that was closed. */
struct closed {
  struct world w;
  const uint8_t *content[3];
  const char *catalog, *spare, *good; /* paths; GOOD: a copy */
};

static struct closed
make_closed (struct fixture *f)
{
  struct closed c = { .w = new_world (f) };

  open_store (&c.w);
  for (int i = 1; i <= 2; i++) {
    c.content[i] = remember (&c.w);
    create (c.w.c);
    overwrite_anywhere (&c.w);
  }
  end (&c.w, STOPPED);
  c.catalog = text (f, "%s/catalog", store_directory (f));
  c.spare = text (f, "%s/catalog.spare", store_directory (f));
  c.good = text (f, "%s/good", f->server.dir);
  copy_file (c.catalog, c.good);
  return c;
}

static void
is_whole (struct closed *c)
{
  open_store (&c->w);
  assert_string_equal (listed (c->w.c, true), "1 2");
  for (int i = 1; i <= 2; i++)
    snapshot_is (&c->w, i, c->content[i]);
  origin_is_live (&c->w);
}

/* The server says what is wrong and does not start; nothing changes by that,
 * and the good catalogue is as good as ever.
 */
static void
start_is_refused (struct closed *c, const char *why)
{
  struct fixture *f = c->w.f;
  const struct inventory *before = inventory (f, store_directory (f));

  for (unsigned i = 0; i < 2; i++) {
    const struct outcome *o = run_nbdkit (
        f, "-U", "-", getenv ("FSSNAP_PLUGIN"), text (f, "origin=%s", f->image),
        store_parameter (f), "--run", "true", NULL);
    refused (o, store_directory (f), "catalog");
    if (!has_words (o->err, why))
      fail_msg ("no '%s' in: %s", why, o->err);
    unchanged (before, true);
  }
  put_back (c->good, c->catalog);
  is_whole (c);
}

/* --- the catalogue ------------------------------------------------------- */

static void
a_damaged_one_is_refused (void **state)
{
  struct closed c = make_closed (*state);

  flip (c.catalog, 200);
  start_is_refused (&c, "checksum");
}

static void
one_that_begins_otherwise_is_refused (void **state)
{
  struct closed c = make_closed (*state);

  flip (c.catalog, 0);
  start_is_refused (&c, "catalog");
}

static void
a_truncated_one_is_refused (void **state)
{
  struct closed c = make_closed (*state);

  assert_int_equal (truncate (c.catalog, 300), 0);
  start_is_refused (&c, "catalog");
}

static void
an_empty_one_is_refused (void **state)
{
  struct closed c = make_closed (*state);

  assert_int_equal (truncate (c.catalog, 0), 0);
  start_is_refused (&c, "catalog");
}

/* Its first line says of which version it is. */
static void
a_newer_one_is_refused (void **state)
{
  struct closed c = make_closed (*state);
  char line[256];
  FILE *file = fopen (c.catalog, "r+e");

  assert_non_null (file);
  assert_non_null (fgets (line, sizeof line, file));
  char *version = strpbrk (line, "0123456789");
  assert_non_null (version);
  assert_int_equal (*version, '0' + CATALOG_VERSION);
  assert_int_equal (fseek (file, version - line, SEEK_SET), 0);
  assert_int_equal (fputc ('0' + CATALOG_VERSION + 1, file),
                    '0' + CATALOG_VERSION + 1);
  assert_int_equal (fclose (file), 0);
  start_is_refused (&c, "format 2");
}

static void
a_foreign_file_is_refused (void **state)
{
  struct closed c = make_closed (*state);

  put_back (c.w.f->image, c.catalog);
  start_is_refused (&c, "catalog");
}

static void
a_directory_is_refused (void **state)
{
  struct closed c = make_closed (*state);

  assert_int_equal (unlink (c.catalog), 0);
  assert_int_equal (mkdir (c.catalog, 0700), 0);
  start_is_refused (&c, "catalog");
}

/* And keeps nobody waiting. */
static void
a_named_pipe_is_refused (void **state)
{
  struct closed c = make_closed (*state);

  assert_int_equal (unlink (c.catalog), 0);
  assert_int_equal (mkfifo (c.catalog, 0600), 0);
  start_is_refused (&c, "catalog");
}

static void
a_missing_one_is_refused_if_there_are_files (void **state)
{
  struct closed c = make_closed (*state);

  assert_int_equal (unlink (c.catalog), 0);
  start_is_refused (&c, "catalog");
}

/* Nobody reads it. */
static void
a_damaged_spare_is_no_matter (void **state)
{
  struct closed c = make_closed (*state);

  put_back (c.w.f->image, c.spare);
  is_whole (&c);
  restart (&c.w, KILLED);
  assert_string_equal (listed (c.w.c, true), "1 2");
}

static void
a_missing_spare_is_no_matter (void **state)
{
  struct closed c = make_closed (*state);

  unlink (c.spare);
  is_whole (&c);
}

/* --- files that it does not list ----------------------------------------- */

static void
write_text (const char *path)
{
  FILE *file = fopen (path, "we");

  assert_non_null (file);
  assert_int_equal (fputs ("not to be lost\n", file) >= 0, 1);
  assert_int_equal (fclose (file), 0);
}

static void
others_are_named_and_left_alone (void **state)
{
  struct closed c = make_closed (*state);
  struct fixture *f = c.w.f;
  const char *directory = store_directory (f);
  const char *file = part_of (f, 1, 0);

  write_text (text (f, "%s/notes.txt", directory));
  write_text (text (f, "%s/snapshot-9-deadbeef", directory));
  copy_file (file, text (f, "%s/snapshot-1-00000000", directory));
  copy_file (file, text (f, "%s.1", file));
  assert_int_equal (mkdir (text (f, "%s/lost+found", directory), 0700), 0);
  assert_int_equal (mkfifo (text (f, "%s/pipe", directory), 0600), 0);
  assert_int_equal (symlink (file, text (f, "%s/link", directory)), 0);
  const struct inventory *before = inventory (f, directory);
  is_whole (&c);
  log_says (f, "notes.txt");
  log_says (f, "snapshot-9-deadbeef");
  log_says (f, "snapshot-1-00000000");
  log_says (f, text (f, "%s.1", name_in (file)));
  log_says (f, "pipe");
  end (&c.w, STOPPED);
  unchanged (before, false);
  /* and they stay when all that is ours goes */
  open_store (&c.w);
  delete (&c.w, 1);
  delete (&c.w, 2);
  await_listed (c.w.c, true, "");
  create (c.w.c);
  end (&c.w, STOPPED);
  assert_int_equal (access (text (f, "%s/notes.txt", directory), F_OK), 0);
  assert_int_equal (
      access (text (f, "%s/snapshot-9-deadbeef", directory), F_OK), 0);
  assert_int_equal (
      access (text (f, "%s/snapshot-1-00000000", directory), F_OK), 0);
  assert_int_equal (access (text (f, "%s.1", file), F_OK), 0);
}

/* A directory with other things in it becomes a store, as if they were not
 * there; but for files that look like a store's.
 */
static void
others_are_no_matter_to_a_new_store (void **state)
{
  struct world w = new_world (*state);
  const char *directory = store_directory (w.f);

  assert_int_equal (mkdir (directory, 0700), 0);
  write_text (text (w.f, "%s/notes.txt", directory));
  serve_store (&w, NULL);
  assert_string_equal (listed (w.c, true), "1");
  end (&w, STOPPED);
  assert_int_equal (access (text (w.f, "%s/notes.txt", directory), F_OK), 0);
}

/* Which the files are that a creation was making is in the catalogue first:
 * so they can go.
 */
static const uuid_t unfinished = { 0x12, 0x34, 0x56, 0x78 };

static void
note_making (struct catalog *catalog, void *arg)
{
  struct catalog_files *files = calloc (1, sizeof *files);

  assert_non_null (files);
  uuid_copy (files->uuid, unfinished);
  files->parts = 1;
  files->files = catalog_copy_names (arg, 1);
  assert_non_null (files->files);
  catalog->making = files;
  catalog->clean = false;
}

static void
half_made_files_go (void **state)
{
  struct closed c = make_closed (*state);
  char *name = strdup ("snapshot-3-12345678");

  edit_catalog (c.w.f, note_making, &name);
  const char *path = text (c.w.f, "%s/%s", store_directory (c.w.f), name);
  free (name);
  close (open (path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
  is_whole (&c);
  end (&c.w, STOPPED);
  assert_null (read_catalog (c.w.f)->making);
  assert_int_equal (access (path, F_OK), -1);
}

/* What a user has named may have been there before, and be his. */
static void
a_foreign_file_that_was_to_be_made_stays (void **state)
{
  struct closed c = make_closed (*state);
  const char *path = text (c.w.f, "%s/precious", c.w.f->server.dir);
  char *name = strdup (path);

  edit_catalog (c.w.f, note_making, &name);
  free (name);
  write_text (path);
  is_whole (&c);
  end (&c.w, STOPPED);
  assert_null (read_catalog (c.w.f)->making);
  assert_int_equal (access (path, F_OK), 0);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    fixture_test (a_damaged_one_is_refused),
    fixture_test (one_that_begins_otherwise_is_refused),
    fixture_test (a_truncated_one_is_refused),
    fixture_test (an_empty_one_is_refused),
    fixture_test (a_newer_one_is_refused),
    fixture_test (a_foreign_file_is_refused),
    fixture_test (a_directory_is_refused),
    fixture_test (a_named_pipe_is_refused),
    fixture_test (a_missing_one_is_refused_if_there_are_files),
    fixture_test (a_damaged_spare_is_no_matter),
    fixture_test (a_missing_spare_is_no_matter),
    fixture_test (others_are_named_and_left_alone),
    fixture_test (others_are_no_matter_to_a_new_store),
    fixture_test (half_made_files_go),
    fixture_test (a_foreign_file_that_was_to_be_made_stays),
  };

  return cmocka_run_group_tests_name ("store-catalog", tests, NULL, NULL);
}
