/* SPDX-License-Identifier: BSD-3-Clause */
/* The life of a layer in the catalogue: what a crash leaves after each step,
 * and what a catalogue that cannot be written does.
 */

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

static const struct catalog_origin origin
    = { .path = origin_name, .identity = origin_identity, .size = SIZE };

static void
open_store (void)
{
  here.store = store_open (here.path);
  if (here.store == NULL)
    messages_show ();
  assert_non_null (here.store);
}

static int
setup (void **state)
{
  (void)state;
  messages_clear ();
  snprintf (here.path, sizeof here.path, "%s", scratch_path ("store"));
  open_store ();
  assert_int_equal (store_begin (here.store, &origin), 0);
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

/* What a server would find now. */
static const struct catalog *
on_disk (void)
{
  catalog_free (&here.on_disk);
  image_catalog (here.path, &here.on_disk);
  assert_null (catalog_check (&here.on_disk));
  return &here.on_disk;
}

static bool
exists (const char *name)
{
  char path[600];

  snprintf (path, sizeof path, "%s%s%s", *name == '/' ? "" : here.path,
            *name == '/' ? "" : "/", name);
  return access (path, F_OK) == 0;
}

static struct catalog_layer
template_of (unsigned number)
{
  return (struct catalog_layer){ .number = number,
                                 .created = 1700000000,
                                 .size = SIZE,
                                 .chunk_size = CHUNK,
                                 .cow_timeout = 60,
                                 .durability = DURABILITY_WRITTEN };
}

static void
make_files (const struct catalog_layer *record)
{
  const struct format_header header
      = store_header (here.store, record, "/dev/sdb");
  char **paths = store_paths (here.store, record);

  assert_non_null (paths);
  struct backfile *backfile
      = storefile_create (&header, record->backfile_size, paths);
  assert_non_null (backfile);
  backfile_free (backfile);
  catalog_free_names (paths, record->parts);
}

static struct catalog_layer *
make (unsigned number)
{
  const struct catalog_layer template = template_of (number);
  struct catalog_layer *record
      = store_make (here.store, &template, here.path, 1);

  assert_non_null (record);
  make_files (record);
  return record;
}

/* One that is there. */
static struct catalog_layer *
add (unsigned number)
{
  struct catalog_layer *record = make (number);

  assert_int_equal (store_add (here.store, record), 0);
  assert_int_equal (store_settle (here.store, record, 1700000001, false), 0);
  return record;
}

/* --- step by step -------------------------------------------------------- */

static void
make_lists_files_that_are_not_there_yet (void **state)
{
  struct catalog_layer template = template_of (7);

  (void)state;
  template.name = (char *)(uintptr_t) "monday";
  struct catalog_layer *record
      = store_make (here.store, &template, here.path, 3);
  assert_non_null (record);
  assert_null (on_disk ()->layers);
  assert_non_null (on_disk ()->making);
  assert_int_equal (here.on_disk.making->parts, 3);
  assert_memory_equal (here.on_disk.making->uuid, record->uuid, 16);
  for (unsigned i = 0; i < 3; i++) {
    assert_string_equal (here.on_disk.making->files[i], record->files[i]);
    assert_false (exists (record->files[i]));
  }
  assert_true (record->pending);
  assert_string_equal (record->name, "monday");
  assert_ptr_not_equal (record->name, template.name);
  store_cancel (here.store, record);
  assert_null (on_disk ()->making);
}

static void
names_of_files (void **state)
{
  struct catalog_layer template = template_of (12);
  struct catalog_layer *record;
  char uuid[37], expected[600];
  char **paths;

  (void)state;
  /* In the store: no path, so that it can be moved. */
  record = store_make (here.store, &template, here.path, 2);
  uuid_unparse_lower (record->uuid, uuid);
  snprintf (expected, sizeof expected, "snapshot-12-%.8s", uuid);
  assert_string_equal (record->files[0], expected);
  snprintf (expected, sizeof expected, "snapshot-12-%.8s.1", uuid);
  assert_string_equal (record->files[1], expected);
  paths = store_paths (here.store, record);
  snprintf (expected, sizeof expected, "%s/snapshot-12-%.8s.1", here.path,
            uuid);
  assert_string_equal (paths[1], expected);
  catalog_free_names (paths, 2);
  store_cancel (here.store, record);

  /* The same directory by another name. */
  snprintf (expected, sizeof expected, "%s/.", here.path);
  record = store_make (here.store, &template, expected, 1);
  assert_null (strchr (record->files[0], '/'));
  store_cancel (here.store, record);

  /* Another directory. */
  assert_int_equal (mkdir (scratch_path ("other"), 0700), 0);
  record = store_make (here.store, &template, scratch_path ("other"), 2);
  uuid_unparse_lower (record->uuid, uuid);
  snprintf (expected, sizeof expected, "%s/snapshot-12-%.8s.1",
            scratch_path ("other"), uuid);
  assert_string_equal (record->files[1], expected);
  paths = store_paths (here.store, record);
  assert_string_equal (paths[1], expected);
  catalog_free_names (paths, 2);
  store_cancel (here.store, record);

  /* A file. */
  record = store_make (here.store, &template, scratch_path ("file"), 2);
  assert_string_equal (record->files[0], scratch_path ("file"));
  assert_string_equal (record->files[1], scratch_path ("file.1"));
  store_cancel (here.store, record);
}

static void
header_is_that_of_the_record (void **state)
{
  struct catalog_layer template = template_of (12);

  (void)state;
  template.name = (char *)(uintptr_t) "tuesday";
  struct catalog_layer *record
      = store_make (here.store, &template, here.path, 1);
  const struct format_header header
      = store_header (here.store, record, "/dev/sdb");
  assert_memory_equal (header.layer, record->uuid, 16);
  assert_memory_equal (header.store, on_disk ()->store, 16);
  assert_int_equal (header.number, 12);
  assert_int_equal (header.size, SIZE);
  assert_int_equal (header.chunk_size, CHUNK);
  assert_string_equal (header.name, "tuesday");
  assert_string_equal (header.origin, "/dev/sdb");
  store_cancel (here.store, record);
}

static void
life_of_a_layer (void **state)
{
  (void)state;
  struct catalog_layer *record = make (1);
  const struct catalog_layer *found;
  char *name = strdup (record->files[0]);

  assert_int_equal (store_add (here.store, record), 0);
  found = on_disk ()->layers;
  assert_non_null (found);
  assert_true (found->pending);
  assert_null (here.on_disk.making);

  assert_int_equal (store_settle (here.store, record, 1700000099, true), 0);
  found = on_disk ()->layers;
  assert_false (found->pending);
  assert_true (found->creating);
  assert_int_equal (found->created, 1700000099);

  assert_int_equal (store_settle (here.store, record, 1700000099, false), 0);
  assert_false (on_disk ()->layers->creating);

  assert_int_equal (
      store_set_broken (here.store, record, EIO, 1700000100, "no more"), 0);
  found = on_disk ()->layers;
  assert_string_equal (found->broken_reason, "no more");
  assert_int_equal (found->broken_errno, EIO);
  assert_int_equal (found->broken_time, 1700000100);

  assert_int_equal (store_delete (here.store, record, false), 0);
  assert_true (on_disk ()->layers->deleted);
  assert_null (here.on_disk.removing);

  assert_int_equal (store_drop (here.store, record), 0);
  assert_null (on_disk ()->layers);
  assert_non_null (here.on_disk.removing);
  assert_string_equal (here.on_disk.removing->files[0], name);
  assert_true (exists (name));

  store_remove (here.store, record);
  assert_null (on_disk ()->removing);
  assert_null (here.on_disk.layers);
  assert_false (exists (name));
  free (name);
  assert_false (here.on_disk.clean);
  assert_int_equal (scratch_files (), 1);
}

static void
layers_stay_in_order (void **state)
{
  struct catalog_layer *records[4];
  unsigned n = 0;

  (void)state;
  for (unsigned i = 0; i < 4; i++)
    records[i] = add (4 - i);
  assert_int_equal (store_delete (here.store, records[2], false), 0);
  assert_int_equal (store_drop (here.store, records[2]), 0);
  for (const struct catalog_layer *l = on_disk ()->layers; l != NULL;
       l = l->next, n++)
    assert_int_equal (l->number, n == 0 ? 4 : n == 1 ? 3 : 1);
  assert_int_equal (n, 3);
  store_remove (here.store, records[2]);
}

static void
cancel_removes_what_was_made (void **state)
{
  (void)state;
  for (unsigned added = 0; added < 2; added++) {
    struct catalog_layer *record = make (1);
    char *name = strdup (record->files[0]);
    if (added)
      assert_int_equal (store_add (here.store, record), 0);
    errno = EDQUOT;
    store_cancel (here.store, record);
    assert_int_equal (errno, EDQUOT);
    assert_null (on_disk ()->layers);
    assert_null (here.on_disk.making);
    assert_false (exists (name));
    free (name);
  }
}

static void
first_reason_stays (void **state)
{
  (void)state;
  struct catalog_layer *record = add (1);
  assert_int_equal (store_set_broken (here.store, record, EIO, 1, "first"), 0);
  assert_int_equal (store_set_broken (here.store, record, EPERM, 2, "second"),
                    0);
  assert_string_equal (on_disk ()->layers->broken_reason, "first");
}

static void
stable_is_said_of_all (void **state)
{
  (void)state;
  add (1);
  add (2);
  assert_int_equal (on_disk ()->layers->level, DURABILITY_WRITTEN);
  assert_int_equal (store_set_stable (here.store), 0);
  for (const struct catalog_layer *l = on_disk ()->layers; l != NULL;
       l = l->next) {
    assert_int_equal (l->level, DURABILITY_STABLE);
    assert_int_equal (l->durability, DURABILITY_WRITTEN);
  }
  assert_false (here.on_disk.clean);
}

/* --- the catalogue cannot be written ------------------------------------- */

static unsigned bad_call, calls;
static int bad_error;

static struct call_verdict
fail_in_turn (const struct call_event *event)
{
  if (event->call == CALL_MEMORY || event->call == CALL_WAIT)
    return (struct call_verdict){ 0 };
  return (struct call_verdict){ .error = ++calls == bad_call ? bad_error : 0 };
}

/* What is in memory, as text but for its number. */
static char *
text_of (struct catalog *catalog)
{
  const uint64_t generation = catalog->generation;
  size_t length;
  char *why;

  catalog->generation = 0;
  char *text = catalog_print (catalog, &length, &why);
  catalog->generation = generation;
  assert_non_null (text);
  return text;
}

static char *
memory_text (void)
{
  return text_of (store_catalog (here.store));
}

static char *
disk_text (void)
{
  on_disk ();
  return text_of (&here.on_disk);
}

static struct catalog_layer *victim;

static int
do_make (void)
{
  const struct catalog_layer template = template_of (9);
  struct catalog_layer *record
      = store_make (here.store, &template, here.path, 1);

  if (record == NULL)
    return -1;
  call_hook_set (NULL);
  store_cancel (here.store, record);
  return 0;
}

static int
do_settle (void)
{
  return store_settle (here.store, victim, 1800000000, true);
}

static int
do_delete (void)
{
  return store_delete (here.store, victim, false);
}

static int
do_drop (void)
{
  return store_drop (here.store, victim);
}

static int
do_set_stable (void)
{
  return store_set_stable (here.store);
}

/* Each call of the write fails in turn: nothing has changed then. */
static void
check_failures (int (*act) (void))
{
  unsigned failures = 0;

  victim = add (2);
  add (3);
  for (bad_call = 1;; bad_call++) {
    SCOPED_FREE char *memory = memory_text ();
    SCOPED_FREE char *disk = disk_text ();
    assert_string_equal (memory, disk);

    calls = 0;
    bad_error = bad_call % 2 ? EIO : ENOSPC;
    messages_clear ();
    call_hook_set (fail_in_turn);
    errno = 0;
    const int r = act ();
    const int err = errno;
    call_hook_set (NULL);
    if (calls < bad_call) {
      assert_int_equal (r, 0);
      break;
    }
    if (r == 0) {
      /* It could do without that call; most are done once only. */
      assert_no_message ();
      if (act == do_make)
        continue;
      break;
    }
    failures++;
    assert_int_equal (err, bad_error);
    assert_one_message (here.path, "catalogue");
    SCOPED_FREE char *memory_after = memory_text ();
    SCOPED_FREE char *disk_after = disk_text ();
    assert_string_equal (memory_after, memory);
    assert_string_equal (disk_after, disk);
  }
  assert_true (failures > 5);
}

static void
make_that_fails_changes_nothing (void **state)
{
  (void)state;
  check_failures (do_make);
  assert_null (on_disk ()->making);
}

static void
settle_that_fails_changes_nothing (void **state)
{
  (void)state;
  check_failures (do_settle);
  assert_int_equal (on_disk ()->layers->created, 1800000000);
}

static void
delete_that_fails_changes_nothing (void **state)
{
  (void)state;
  check_failures (do_delete);
  assert_true (on_disk ()->layers->deleted);
}

static void
drop_that_fails_changes_nothing (void **state)
{
  (void)state;
  check_failures (do_drop);
  assert_int_equal (on_disk ()->layers->number, 3);
}

/* Memory says what is so: from here on all of them are stable. */
static void
set_stable_that_fails_changes_nothing_on_disk (void **state)
{
  (void)state;
  add (2);
  SCOPED_FREE char *disk = disk_text ();
  for (bad_call = 1; bad_call < 6; bad_call++) {
    calls = 0;
    bad_error = EIO;
    call_hook_set (fail_in_turn);
    assert_int_equal (do_set_stable (), -1);
    call_hook_set (NULL);
    SCOPED_FREE char *disk_after = disk_text ();
    assert_string_equal (disk_after, disk);
  }
}

/* A layer that could not be added is the caller's to cancel, and then nothing
 * of it is left.
 */
static void
add_that_fails_leaves_what_is_to_be_removed (void **state)
{
  (void)state;
  for (bad_call = 1;; bad_call++) {
    struct catalog_layer *record = make (5);
    char *name = strdup (record->files[0]);

    calls = 0;
    bad_error = EIO;
    call_hook_set (fail_in_turn);
    const int r = store_add (here.store, record);
    call_hook_set (NULL);
    const bool done = calls < bad_call || r == 0;
    if (!done) {
      assert_null (on_disk ()->layers);
      assert_non_null (here.on_disk.making);
      assert_true (exists (name));
    }
    store_cancel (here.store, record);
    assert_null (on_disk ()->layers);
    assert_null (here.on_disk.making);
    assert_false (exists (name));
    free (name);
    if (done)
      break;
  }
  assert_true (bad_call > 5);
}

static struct call_verdict
no_catalog (const struct call_event *event)
{
  return (struct call_verdict){ .error = event->call == CALL_RENAME2
                                                 || event->call == CALL_RENAME
                                             ? EROFS
                                             : 0 };
}

/* What cannot be noted now is with the next. */
static void
cancel_that_cannot_be_noted_is_with_the_next (void **state)
{
  (void)state;
  struct catalog_layer *record = make (1);
  char *name = strdup (record->files[0]);
  call_hook_set (no_catalog);
  store_cancel (here.store, record);
  call_hook_set (NULL);
  assert_non_null (on_disk ()->making);
  add (2);
  assert_null (on_disk ()->making);
  assert_false (exists (name));
  free (name);
}

static void
remove_that_cannot_be_noted_is_with_the_next (void **state)
{
  (void)state;
  struct catalog_layer *record = add (1);
  char *name = strdup (record->files[0]);
  assert_int_equal (store_delete (here.store, record, false), 0);
  assert_int_equal (store_drop (here.store, record), 0);
  call_hook_set (no_catalog);
  store_remove (here.store, record);
  call_hook_set (NULL);
  assert_non_null (on_disk ()->removing);
  assert_false (exists (name));
  add (2);
  assert_null (on_disk ()->removing);
  free (name);
}

static void
delete_anyway_is_with_the_next (void **state)
{
  (void)state;
  struct catalog_layer *record = add (1);
  call_hook_set (no_catalog);
  assert_int_equal (store_delete (here.store, record, true), -1);
  call_hook_set (NULL);
  assert_false (on_disk ()->layers->deleted);
  add (2);
  assert_true (on_disk ()->layers->deleted);
}

/* It has broken, whatever can be written: it must not be whole again in a
 * catalogue that is written later.
 */
static void
broken_one_stays_broken_in_the_next (void **state)
{
  (void)state;
  struct catalog_layer *record = add (1);
  call_hook_set (no_catalog);
  assert_int_equal (store_set_broken (here.store, record, EIO, 77, "gone"), -1);
  assert_int_equal (errno, EROFS);
  call_hook_set (NULL);
  assert_null (on_disk ()->layers->broken_reason);
  add (2);
  assert_non_null (on_disk ()->layers->broken_reason);
  assert_string_equal (here.on_disk.layers->broken_reason, "gone");
  assert_int_equal (here.on_disk.layers->broken_time, 77);
}

static bool no_memory_now;

static struct call_verdict
no_memory (const struct call_event *event)
{
  return (struct call_verdict){ .error = no_memory_now
                                                 && event->call == CALL_MEMORY
                                                 && ++calls == bad_call
                                             ? ENOMEM
                                             : 0 };
}

static void
make_without_memory_changes_nothing (void **state)
{
  const struct catalog_layer template = template_of (9);
  struct catalog_layer *record = NULL;

  (void)state;
  no_memory_now = true;
  for (bad_call = 1; record == NULL; bad_call++) {
    SCOPED_FREE char *memory = memory_text ();
    calls = 0;
    messages_clear ();
    call_hook_set (no_memory);
    errno = 0;
    record = store_make (here.store, &template, here.path, 2);
    const int err = errno;
    call_hook_set (NULL);
    if (record != NULL)
      break;
    assert_int_equal (err, ENOMEM);
    assert_int_equal (messages_count (), 1);
    SCOPED_FREE char *after = memory_text ();
    assert_string_equal (after, memory);
  }
  assert_true (bad_call > 3);
  store_cancel (here.store, record);
}

/* --- files --------------------------------------------------------------- */

static void
write_file (const char *path, const char *text)
{
  const int fd = open (path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

  assert_int_not_equal (fd, -1);
  assert_int_equal (write (fd, text, strlen (text)), strlen (text));
  close (fd);
}

/* A file that was there before is not ours to remove. */
static void
cancel_leaves_files_of_others (void **state)
{
  const struct catalog_layer template = template_of (9);

  (void)state;
  write_file (scratch_path ("mine"), "a file of the user's");
  struct catalog_layer *record
      = store_make (here.store, &template, scratch_path ("mine"), 2);
  if (record == NULL)
    return; /* it may say so at once */
  store_cancel (here.store, record);
  assert_true (exists (scratch_path ("mine")));
  assert_null (on_disk ()->making);
}

/* The same of another snapshot's, should it have that name. */
static void
remove_leaves_files_of_other_snapshots (void **state)
{
  char from[600], to[600];

  (void)state;
  struct catalog_layer *first = add (1), *second = add (2);
  char *name = strdup (first->files[0]);
  snprintf (from, sizeof from, "%s/%s", here.path, second->files[0]);
  snprintf (to, sizeof to, "%s/%s", here.path, first->files[0]);
  assert_int_equal (rename (from, to), 0);
  assert_int_equal (store_delete (here.store, first, false), 0);
  assert_int_equal (store_drop (here.store, first), 0);
  messages_clear ();
  store_remove (here.store, first);
  assert_true (exists (name));
  assert_one_message (name, "is not removed");
  free (name);
}

static struct call_verdict
no_unlink (const struct call_event *event)
{
  return (struct call_verdict){ .error
                                = event->call == CALL_UNLINK ? EACCES : 0 };
}

static void
file_that_cannot_be_removed_is_named (void **state)
{
  (void)state;
  struct catalog_layer *record = add (1);
  char *name = strdup (record->files[0]);
  assert_int_equal (store_delete (here.store, record, false), 0);
  assert_int_equal (store_drop (here.store, record), 0);
  messages_clear ();
  call_hook_set (no_unlink);
  store_remove (here.store, record);
  call_hook_set (NULL);
  assert_true (messages_with (name) == 1);
  free (name);
}

static void
file_that_is_gone_already_is_no_trouble (void **state)
{
  (void)state;
  struct catalog_layer *record = add (1);
  char path[600];
  snprintf (path, sizeof path, "%s/%s", here.path, record->files[0]);
  assert_int_equal (store_delete (here.store, record, false), 0);
  assert_int_equal (store_drop (here.store, record), 0);
  unlink (path);
  messages_clear ();
  store_remove (here.store, record);
  assert_no_message ();
}

#define TEST(name) cmocka_unit_test_setup_teardown (name, setup, teardown)

int
main (void)
{
  const struct CMUnitTest tests[] = {
    TEST (make_lists_files_that_are_not_there_yet),
    TEST (names_of_files),
    TEST (header_is_that_of_the_record),
    TEST (life_of_a_layer),
    TEST (layers_stay_in_order),
    TEST (cancel_removes_what_was_made),
    TEST (first_reason_stays),
    TEST (stable_is_said_of_all),
    TEST (make_that_fails_changes_nothing),
    TEST (settle_that_fails_changes_nothing),
    TEST (delete_that_fails_changes_nothing),
    TEST (drop_that_fails_changes_nothing),
    TEST (set_stable_that_fails_changes_nothing_on_disk),
    TEST (add_that_fails_leaves_what_is_to_be_removed),
    TEST (cancel_that_cannot_be_noted_is_with_the_next),
    TEST (remove_that_cannot_be_noted_is_with_the_next),
    TEST (delete_anyway_is_with_the_next),
    TEST (broken_one_stays_broken_in_the_next),
    TEST (make_without_memory_changes_nothing),
    TEST (cancel_leaves_files_of_others),
    TEST (remove_leaves_files_of_other_snapshots),
    TEST (file_that_cannot_be_removed_is_named),
    TEST (file_that_is_gone_already_is_no_trouble),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
