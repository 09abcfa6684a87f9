/* SPDX-License-Identifier: BSD-3-Clause */
/* The store as a whole: opening, locking, refusing, closing. */

#include "cmocka-all.h"
#include "call-hook.h"
#include "catalog-example.h"
#include "fixture.h"
#include "image.h"
#include "nbdkit-stub.h"
#include "scoped.h"
#include "scratch.h"
#include "store.h"
#include "storefile.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHUNK 4096
#define SIZE (UINT64_C (1) << 20)

static struct {
  char path[256];
  struct store *store;
  struct catalog on_disk;
} here;

static char origin_name[] = "/dev/sdb", origin_identity[] = "wwid 1";
static char other_name[] = "/dev/sdc", other_identity[] = "wwid 2";

static const struct catalog_origin origin
    = { .path = origin_name, .identity = origin_identity, .size = SIZE };
static const struct catalog_origin other
    = { .path = other_name, .identity = other_identity, .size = SIZE + 512 };

static int
setup (void **state)
{
  (void)state;
  messages_clear ();
  snprintf (here.path, sizeof here.path, "%s", scratch_path ("store"));
  return 0;
}

static int
teardown (void **state)
{
  (void)state;
  call_hook_set (NULL);
  catalog_free (&here.on_disk);
  store_close (here.store);
  here.store = NULL;
  scratch_remove ();
  return 0;
}

static void
open_store (void)
{
  here.store = store_open (here.path);
  if (here.store == NULL)
    messages_show ();
  assert_non_null (here.store);
}

static void
close_store (void)
{
  store_close (here.store);
  here.store = NULL;
}

static void
begin (void)
{
  open_store ();
  assert_int_equal (store_begin (here.store, &origin), 0);
}

static const struct catalog *
on_disk (void)
{
  catalog_free (&here.on_disk);
  image_catalog (here.path, &here.on_disk);
  assert_null (catalog_check (&here.on_disk));
  return &here.on_disk;
}

static const char *
in_store (const char *name)
{
  static char paths[4][600];
  static unsigned next;
  char *path = paths[next++ % 4];

  snprintf (path, sizeof paths[0], "%s/%s", here.path, name);
  return path;
}

static bool
exists (const char *name)
{
  return access (in_store (name), F_OK) == 0;
}

static void
write_file (const char *path, const void *data, size_t length)
{
  const int fd = open (path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

  assert_int_not_equal (fd, -1);
  assert_int_equal (write (fd, data, length), length);
  close (fd);
}

static struct catalog_layer *
add (unsigned number, bool ephemeral)
{
  const struct catalog_layer template = { .number = number,
                                          .size = SIZE,
                                          .chunk_size = CHUNK,
                                          .cow_timeout = 60,
                                          .durability = DURABILITY_WRITTEN,
                                          .ephemeral = ephemeral };
  struct catalog_layer *record
      = store_make (here.store, &template, here.path, 1);

  assert_non_null (record);
  const struct format_header header
      = store_header (here.store, record, "/dev/sdb");
  char **paths = store_paths (here.store, record);
  struct backfile *backfile = storefile_create (&header, 0, paths);
  assert_non_null (backfile);
  backfile_free (backfile);
  catalog_free_names (paths, 1);
  assert_int_equal (store_add (here.store, record), 0);
  assert_int_equal (store_settle (here.store, record, 1700000001, false), 0);
  return record;
}

/* All bytes of all files, but for the lock. */
static char *
all_of_it (void)
{
  char *text = NULL;
  size_t length;
  FILE *f = open_memstream (&text, &length);
  struct dirent **entries;

  const int count = scandir (here.path, &entries, NULL, alphasort);
  assert_true (count > 0);
  for (int i = 0; i < count; i++) {
    const char *name = entries[i]->d_name;
    if (*name != '.' && strcmp (name, "lock") != 0) {
      uint8_t buf[4096];
      const int fd = open (in_store (name), O_RDONLY);
      ssize_t n;
      fprintf (f, "%s:", name);
      while ((n = read (fd, buf, sizeof buf)) > 0)
        for (ssize_t k = 0; k < n; k++)
          fprintf (f, "%02x", buf[k]);
      close (fd);
    }
    free (entries[i]);
  }
  free (entries);
  fclose (f);
  return text;
}

/* --- opening ------------------------------------------------------------- */

static void
new_store_is_made (void **state)
{
  struct stat st;

  (void)state;
  open_store ();
  assert_int_equal (stat (here.path, &st), 0);
  assert_int_equal (st.st_mode & 07777, 0700);
  assert_string_equal (store_path (here.store), here.path);
  assert_null (store_catalog (here.store)->layers);
  assert_true (store_catalog (here.store)->clean);
  assert_int_equal (store_begin (here.store, &origin), 0);
  assert_false (on_disk ()->clean);
  assert_string_equal (here.on_disk.boot, store_boot (here.store));
  assert_string_equal (here.on_disk.origin.path, "/dev/sdb");
  assert_no_message ();
}

static void
empty_directory_is_a_store (void **state)
{
  (void)state;
  assert_int_equal (mkdir (here.path, 0755), 0);
  open_store ();
  assert_no_message ();
}

static void
boot_is_that_of_the_kernel (void **state)
{
  char boot[37] = "";

  (void)state;
  open_store ();
  FILE *f = fopen ("/proc/sys/kernel/random/boot_id", "r");
  if (f == NULL)
    skip ();
  assert_non_null (fgets (boot, sizeof boot, f));
  fclose (f);
  assert_string_equal (store_boot (here.store), boot);
}

static void
directories_above_must_be_there (void **state)
{
  (void)state;
  assert_null (store_open (scratch_path ("nowhere/store")));
  assert_one_message ("nowhere/store", strerror (ENOENT));
}

static void
what_is_no_directory_is_refused (void **state)
{
  (void)state;
  write_file (here.path, "x", 1);
  assert_null (store_open (here.path));
  assert_one_message (here.path, strerror (ENOTDIR));
}

static void
second_server_is_refused (void **state)
{
  char text[32];

  (void)state;
  begin ();
  assert_int_equal (store_start (here.store), 0);
  SCOPED_FREE char *before = all_of_it ();
  assert_null (store_open (here.path));
  snprintf (text, sizeof text, "process %d", getpid ());
  assert_one_message (here.path, "in use", text);
  SCOPED_FREE char *after = all_of_it ();
  assert_string_equal (after, before);
  assert_int_equal (store_stop (here.store, 60), 0);
  close_store ();
  open_store ();
}

static void
what_was_noted_is_there_again (void **state)
{
  (void)state;
  begin ();
  add (1, false);
  add (2, false);
  const uint64_t generation = on_disk ()->generation;
  close_store ();
  messages_clear ();
  begin ();
  assert_non_null (store_catalog (here.store)->layers);
  assert_int_equal (store_catalog (here.store)->layers->number, 1);
  assert_int_equal (store_catalog (here.store)->layers->next->number, 2);
  assert_true (on_disk ()->generation > generation);
  assert_no_message ();
}

static void
strange_files_are_named_and_left_alone (void **state)
{
  (void)state;
  begin ();
  struct catalog_layer *record = add (1, false);
  assert_int_equal (link (in_store (record->files[0]), in_store ("copy")), 0);
  write_file (in_store ("notes.txt"), "hello", 5);
  assert_int_equal (mkdir (in_store ("subdirectory"), 0700), 0);
  close_store ();
  messages_clear ();
  begin ();
  assert_int_equal (messages_count (), 3);
  assert_int_equal (messages_with ("copy"), 1);
  assert_int_equal (messages_with ("notes.txt"), 1);
  assert_int_equal (messages_with ("subdirectory"), 1);
  assert_true (exists ("copy") && exists ("notes.txt")
               && exists ("subdirectory"));
}

/* A catalogue was lost, but not what it is of. */
static void
backing_files_without_a_catalogue_are_refused (void **state)
{
  (void)state;
  begin ();
  struct catalog_layer *record = add (7, false);
  char *name = strdup (record->files[0]);
  close_store ();
  unlink (in_store ("catalog"));
  SCOPED_FREE char *before = all_of_it ();
  messages_clear ();
  assert_null (store_open (here.path));
  assert_one_message (here.path, name, "snapshot 7", "catalog");
  SCOPED_FREE char *after = all_of_it ();
  assert_string_equal (after, before);
  free (name);
}

static void
damaged_catalogues_are_refused (void **state)
{
  char text[4096];

  (void)state;
  begin ();
  add (1, false);
  close_store ();
  int fd = open (in_store ("catalog"), O_RDONLY);
  const ssize_t length = read (fd, text, sizeof text);
  close (fd);
  assert_true (length > 100);
  for (ssize_t i = 0; i < 300; i += 7) {
    char damaged[4096];
    memcpy (damaged, text, (size_t)length);
    damaged[i] ^= 1;
    fd = open (in_store ("catalog"), O_WRONLY);
    assert_int_equal (pwrite (fd, damaged, (size_t)length, 0), length);
    close (fd);
    SCOPED_FREE char *before = all_of_it ();
    messages_clear ();
    assert_null (store_open (here.path));
    assert_one_message (here.path, "catalog");
    SCOPED_FREE char *after = all_of_it ();
    assert_string_equal (after, before);
  }
  write_file (in_store ("catalog"), "", 0);
  messages_clear ();
  assert_null (store_open (here.path));
  assert_one_message (here.path, "catalog");
}

static unsigned bad_call, calls;
static int bad_error;

static struct call_verdict
fail_in_turn (const struct call_event *event)
{
  if ((event->call == CALL_MEMORY) != (bad_error == ENOMEM)
      || event->call == CALL_WAIT)
    return (struct call_verdict){ 0 };
  return (struct call_verdict){ .error = ++calls == bad_call ? bad_error : 0 };
}

/* It opens, or says why it does not, and changes nothing. */
static void
opening_fails_at_each_call (void **state)
{
  static const int errors[] = { EIO, ENOMEM };

  (void)state;
  begin ();
  add (1, false);
  close_store ();
  SCOPED_FREE char *before = all_of_it ();
  for (unsigned i = 0; i < 2; i++) {
    bad_error = errors[i];
    for (bad_call = 1;; bad_call++) {
      calls = 0;
      messages_clear ();
      call_hook_set (fail_in_turn);
      here.store = store_open (here.path);
      call_hook_set (NULL);
      if (here.store == NULL)
        assert_int_equal (messages_count (), 1);
      else
        assert_int_equal (store_catalog (here.store)->layers->number, 1);
      close_store ();
      SCOPED_FREE char *after = all_of_it ();
      assert_string_equal (after, before);
      if (calls < bad_call)
        break;
    }
    assert_true (bad_call > 3);
  }
}

static void
beginning_fails_at_each_call (void **state)
{
  (void)state;
  begin ();
  add (1, false);
  assert_int_equal (store_end (here.store, &origin), 0);
  close_store ();
  bad_error = EIO;
  for (bad_call = 1;; bad_call++) {
    open_store ();
    calls = 0;
    messages_clear ();
    call_hook_set (fail_in_turn);
    const int r = store_begin (here.store, &origin);
    call_hook_set (NULL);
    close_store ();
    if (r == 0)
      break;
    assert_int_equal (messages_count (), 1);
    assert_true (on_disk ()->clean); /* as it was */
  }
  assert_true (bad_call > 3);
  assert_false (on_disk ()->clean);
}

/* --- what was left ------------------------------------------------------- */

static void
what_was_being_made_or_removed_is_removed (void **state)
{
  const struct catalog_layer template
      = { .number = 2, .size = SIZE, .chunk_size = CHUNK, .cow_timeout = 60 };

  (void)state;
  begin ();
  struct catalog_layer *removed = add (1, false);
  assert_int_equal (store_delete (here.store, removed, false), 0);
  assert_int_equal (store_drop (here.store, removed), 0);
  struct catalog_layer *made = store_make (here.store, &template, here.path, 2);
  assert_non_null (made);
  /* Made and not written to; the second part is not there. */
  write_file (in_store (made->files[0]), "", 0);
  char *names[] = { strdup (removed->files[0]), strdup (made->files[0]) };
  catalog_free_layer (removed);
  catalog_free_layer (made);
  close_store (); /* killed */

  messages_clear ();
  begin ();
  assert_no_message ();
  assert_false (exists (names[0]));
  assert_false (exists (names[1]));
  add (3, false);
  assert_null (on_disk ()->making);
  assert_null (here.on_disk.removing);
  free (names[0]);
  free (names[1]);
}

/* After a power loss a file may be there whose header never was written. */
static void
file_of_zeros_that_was_being_made_is_removed (void **state)
{
  static const uint8_t zeros[8192];
  const struct catalog_layer template
      = { .number = 2, .size = SIZE, .chunk_size = CHUNK, .cow_timeout = 60 };

  (void)state;
  begin ();
  struct catalog_layer *made = store_make (here.store, &template, here.path, 1);
  char *name = strdup (made->files[0]);
  write_file (in_store (name), zeros, sizeof zeros);
  catalog_free_layer (made);
  close_store ();
  begin ();
  assert_false (exists (name));
  free (name);
}

/* Somebody else has made a file of that name meanwhile. */
static void
file_of_others_that_was_to_be_made_stays (void **state)
{
  const struct catalog_layer template
      = { .number = 2, .size = SIZE, .chunk_size = CHUNK, .cow_timeout = 60 };

  (void)state;
  begin ();
  struct catalog_layer *made
      = store_make (here.store, &template, scratch_path ("image.raw"), 1);
  catalog_free_layer (made);
  close_store ();
  write_file (scratch_path ("image.raw"), "precious", 8);
  messages_clear ();
  begin ();
  assert_int_equal (access (scratch_path ("image.raw"), F_OK), 0);
  assert_one_message ("image.raw");
}

/* --- refused ------------------------------------------------------------- */

static void
refused_store_is_not_changed (void **state)
{
  (void)state;
  begin ();
  add (1, false);
  add (2, true);
  assert_int_equal (store_end (here.store, &origin), 0);
  close_store ();
  SCOPED_FREE char *before = all_of_it ();
  open_store ();
  assert_int_equal (store_refuse (here.store, "the origin is another", &other),
                    0);
  assert_int_equal (store_start (here.store), 0);
  assert_int_equal (store_set_stable (here.store), 0);
  assert_int_equal (store_end (here.store, &other), 0);
  assert_int_equal (store_stop (here.store, 60), 0);
  close_store ();
  SCOPED_FREE char *after = all_of_it ();
  assert_string_equal (after, before);
}

static const struct catalog_layer new_template
    = { .number = 9, .size = SIZE, .chunk_size = CHUNK, .cow_timeout = 60 };

static void
refused_store_takes_nothing_new_but_deletions (void **state)
{
  (void)state;
  begin ();
  add (1, false);
  add (2, false);
  assert_int_equal (store_end (here.store, &origin), 0);
  close_store ();
  open_store ();
  assert_int_equal (store_refuse (here.store, "the origin is another", &other),
                    0);
  struct catalog_layer *first = store_catalog (here.store)->layers;

  for (unsigned left = 2; left > 0; left--) {
    messages_clear ();
    errno = 0;
    assert_null (store_make (here.store, &new_template, here.path, 1));
    assert_int_equal (errno, EBUSY);
    assert_one_message (here.path, "the origin is another", "delete");
    assert_int_equal (
        store_delete (here.store, left == 2 ? first->next : first, false), 0);
    assert_true (on_disk ()->clean); /* who comes with the right origin
                                        finds it as it was */
    assert_string_equal (here.on_disk.origin.path, "/dev/sdb");
  }

  messages_clear ();
  struct catalog_layer *record
      = store_make (here.store, &new_template, here.path, 1);
  assert_non_null (record);
  assert_no_message ();
  assert_false (on_disk ()->clean);
  assert_string_equal (here.on_disk.origin.path, "/dev/sdc");
  store_cancel (here.store, record);
  assert_int_equal (store_end (here.store, &other), 0);
  assert_true (on_disk ()->clean);
  assert_string_equal (here.on_disk.origin.identity, "wwid 2");
}

static void
refused_store_without_memory_is_refused_all_the_same (void **state)
{
  (void)state;
  begin ();
  add (1, false);
  close_store ();
  bad_error = ENOMEM;
  for (bad_call = 1;; bad_call++) {
    open_store ();
    calls = 0;
    call_hook_set (fail_in_turn);
    const int r = store_refuse (here.store, "the origin is another", &other);
    call_hook_set (NULL);
    if (r == 0)
      assert_null (store_make (here.store, &new_template, here.path, 1));
    close_store ();
    if (calls < bad_call)
      break;
  }
}

/* --- the end ------------------------------------------------------------- */

static void
end_is_clean_with_the_figures (void **state)
{
  struct catalog_origin figures = origin;

  (void)state;
  begin ();
  add (1, false);
  assert_int_equal (store_set_stable (here.store), 0);
  figures.mtime = 1700000000;
  figures.mtime_ns = 999999999;
  figures.first_crc = 0xdeadbeef;
  figures.last_crc = 1;
  assert_int_equal (store_end (here.store, &figures), 0);
  assert_true (on_disk ()->clean);
  assert_int_equal (here.on_disk.origin.mtime, 1700000000);
  assert_int_equal (here.on_disk.origin.mtime_ns, 999999999);
  assert_int_equal (here.on_disk.origin.first_crc, 0xdeadbeef);
  assert_int_equal (here.on_disk.origin.last_crc, 1);
  assert_int_equal (here.on_disk.layers->level, DURABILITY_STABLE);
  close_store ();
  /* Who begins says that it is as asked again. */
  begin ();
  assert_int_equal (on_disk ()->layers->level, DURABILITY_WRITTEN);
  assert_false (here.on_disk.clean);
}

static void
ephemeral_ones_end_and_their_files_go (void **state)
{
  (void)state;
  begin ();
  struct catalog_layer *ephemeral = add (1, true);
  add (2, false);
  char *name = strdup (ephemeral->files[0]);
  assert_int_equal (store_end (here.store, &origin), 0);
  assert_int_equal (on_disk ()->layers->number, 2);
  assert_null (here.on_disk.layers->next);
  assert_null (here.on_disk.removing);
  assert_false (exists (name));
  assert_true (here.on_disk.clean);
  free (name);
}

/* What an older one reads stays, deleted. */
static void
ephemeral_ones_that_are_needed_are_deleted (void **state)
{
  (void)state;
  begin ();
  add (1, false);
  struct catalog_layer *ephemeral = add (2, true);
  char *name = strdup (ephemeral->files[0]);
  assert_int_equal (store_end (here.store, &origin), 0);
  const struct catalog_layer *second = on_disk ()->layers->next;
  assert_non_null (second);
  assert_true (second->deleted);
  assert_true (exists (name));
  free (name);
}

/* Everything up to the last step leaves a store that is not closed, and what
 * was to be removed is so then, or by the next server.
 */
static void
end_fails_at_each_call (void **state)
{
  (void)state;
  bad_error = ENOSPC;
  for (bad_call = 1;; bad_call++) {
    begin ();
    struct catalog_layer *ephemeral = add (1, true);
    add (2, false);
    char *name = strdup (ephemeral->files[0]);
    calls = 0;
    messages_clear ();
    call_hook_set (fail_in_turn);
    const int r = store_end (here.store, &origin);
    call_hook_set (NULL);
    if (r == -1 || calls >= bad_call)
      assert_true (messages_count () >= 1 || on_disk ()->clean);
    on_disk ();
    if (!here.on_disk.clean) {
      assert_int_equal (r, -1);
      assert_int_equal (here.on_disk.layers->number, 1);
      assert_true (exists (name));
    }
    close_store ();
    const bool done = calls < bad_call;
    begin (); /* whatever it was */
    if (on_disk ()->layers->number == 2) {
      if (done)
        assert_false (exists (name));
    }
    free (name);
    close_store ();
    scratch_remove ();
    setup (state);
    if (done)
      break;
  }
  assert_true (bad_call > 8);
}

#define TEST(name) cmocka_unit_test_setup_teardown (name, setup, teardown)

int
main (void)
{
  const struct CMUnitTest tests[] = {
    TEST (new_store_is_made),
    TEST (empty_directory_is_a_store),
    TEST (boot_is_that_of_the_kernel),
    TEST (directories_above_must_be_there),
    TEST (what_is_no_directory_is_refused),
    TEST (second_server_is_refused),
    TEST (what_was_noted_is_there_again),
    TEST (strange_files_are_named_and_left_alone),
    TEST (backing_files_without_a_catalogue_are_refused),
    TEST (damaged_catalogues_are_refused),
    TEST (opening_fails_at_each_call),
    TEST (beginning_fails_at_each_call),
    TEST (what_was_being_made_or_removed_is_removed),
    TEST (file_of_zeros_that_was_being_made_is_removed),
    TEST (file_of_others_that_was_to_be_made_stays),
    TEST (refused_store_is_not_changed),
    TEST (refused_store_takes_nothing_new_but_deletions),
    TEST (refused_store_without_memory_is_refused_all_the_same),
    TEST (end_is_clean_with_the_figures),
    TEST (ephemeral_ones_end_and_their_files_go),
    TEST (ephemeral_ones_that_are_needed_are_deleted),
    TEST (end_fails_at_each_call),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
