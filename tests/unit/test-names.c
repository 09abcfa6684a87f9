/* SPDX-License-Identifier: BSD-3-Clause */
/* What people and programs call snapshots: names, numbers, who holds them,
 * who may delete them.
 */

#include "cmocka-all.h"
#include "call-hook.h"
#include "fixture.h"
#include "nbdkit-stub.h"
#include "scoped.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static struct fixture here;

static int
setup (void **state)
{
  (void)state;
  here = (struct fixture){ 0 };
  fixture_open (&here);
  return 0;
}

static int
teardown (void **state)
{
  (void)state;
  call_hook_set (NULL);
  fixture_close (&here);
  return 0;
}

static struct snapshot *
freeze_as (const char *name)
{
  here.options.name = name;
  struct snapshot *snapshot = snapset_freeze (here.set, &here.options);
  here.options.name = NULL;
  if (snapshot != NULL)
    snapset_unpin (here.set, snapshot);
  return snapshot;
}

static struct snapshot *
freeze_for (const void *creator)
{
  here.options.creator = creator;
  struct snapshot *snapshot = fixture_freeze (&here);
  here.options.creator = NULL;
  return snapshot;
}

/* Try to delete; 0 or errno. */
static int
try_delete (const char *who, bool force, const void *creator)
{
  unsigned number = 0;

  errno = 0;
  const int r = snapset_delete (here.set, who, force, creator, &number);
  return r == 0 ? 0 : errno;
}

/* --- names -------------------------------------------------------------- */

static void
names_that_are_allowed (void **state)
{
  static const char *const names[] = {
    "a",      "Z",
    "9a",     "a9",
    "1.2",    "0x10",
    "monday", "a-b_c.d",
    "1-",     "0123456789012345678901234567890123456789012345678901234567890abc"
  };

  (void)state;
  for (unsigned i = 0; i < sizeof names / sizeof names[0]; i++)
    assert_true (snapset_is_name (names[i]));
}

static void
names_that_are_refused (void **state)
{
  static const char *const names[]
      = { "",
          "1",
          "0",
          "123456789012",
          ".a",
          "-a",
          "_a",
          "a b",
          "a/b",
          "a\n",
          "\xc3\xa4",
          "a\x80",
          "a:b",
          "a*",
          " a",
          "a ",
          "\xff",
          "%s",
          ("01234567890123456789012345678901234567890123456789012345678901234"
           "5a") };

  (void)state;
  for (unsigned i = 0; i < sizeof names / sizeof names[0]; i++) {
    assert_false (snapset_is_name (names[i]));
    messages_clear ();
    assert_null (freeze_as (names[i]));
    assert_int_equal (errno, EINVAL);
    assert_one_message ("cannot be called");
  }
  assert_int_equal (fixture_layers (&here), 0);
}

static void
snapshot_is_found_by_its_name_and_its_number (void **state)
{
  (void)state;
  struct snapshot *a = freeze_as ("a"), *b = freeze_as ("b");
  assert_ptr_equal (snapset_find (here.set, "a"), a);
  assert_ptr_equal (snapset_find (here.set, "b"), b);
  assert_ptr_equal (snapset_find (here.set, "1"), a);
  assert_ptr_equal (snapset_find (here.set, NULL), b);
  assert_null (snapset_find (here.set, "A"));
  assert_null (snapset_find (here.set, ""));
  assert_null (snapset_find (here.set, "01"));
  assert_null (snapset_find (here.set, "1 "));
  assert_null (snapset_find (here.set, "4294967297"));
}

static void
name_is_used_once (void **state)
{
  (void)state;
  assert_non_null (freeze_as ("a"));
  assert_null (freeze_as ("a"));
  assert_int_equal (errno, ENOTUNIQ);
  assert_one_message ("a snapshot a already: number 1");
  assert_int_equal (freeze_as ("b")->number, 2); /* none was lost */
}

static void
name_is_free_again_after_deletion (void **state)
{
  (void)state;
  assert_ptr_equal (snapset_open (here.set, "a"), NULL);
  struct snapshot *a = freeze_as ("a");
  snapset_open (here.set, "a");
  assert_int_equal (try_delete ("a", true, NULL), 0);
  assert_null (snapset_find (here.set, "a"));
  struct snapshot *again = freeze_as ("a");
  assert_non_null (again);
  assert_ptr_equal (snapset_find (here.set, "a"), again);
  snapset_close (here.set, a);
}

/* While one is being made: the first to make its files does that. */
static void (*meanwhile) (void);
static int result;

static struct call_verdict
do_meanwhile (const struct call_event *event)
{
  if (event->call == CALL_FTRUNCATE && meanwhile != NULL) {
    void (*action) (void) = meanwhile;
    meanwhile = NULL;
    call_hook_off = false;
    action ();
    call_hook_off = true;
  }
  return (struct call_verdict){ 0 };
}

static void
freeze_the_same (void)
{
  struct snapshot *snapshot = freeze_as ("a");

  result = snapshot == NULL ? -errno : 0;
  assert_null (snapset_find (here.set, "a"));
  assert_null (snapset_find (here.set, "1"));
}

static void
freeze_another (void)
{
  result = (int)freeze_as ("b")->number;
}

static struct snapshot *
freeze_with (void (*action) (void))
{
  meanwhile = action;
  call_hook_set (do_meanwhile);
  here.options.name = "a";
  const struct snapshot_options options = here.options;
  struct snapshot *snapshot = snapset_freeze (here.set, &options);
  here.options.name = NULL;
  call_hook_set (NULL);
  assert_null (meanwhile);
  assert_non_null (snapshot);
  snapset_unpin (here.set, snapshot);
  return snapshot;
}

static void
name_is_reserved_while_its_snapshot_is_being_made (void **state)
{
  (void)state;
  assert_int_equal (freeze_with (freeze_the_same)->number, 1);
  assert_int_equal (result, -ENOTUNIQ);
}

static void
number_is_reserved_while_its_snapshot_is_being_made (void **state)
{
  (void)state;
  assert_int_equal (freeze_with (freeze_another)->number, 1);
  assert_int_equal (result, 2);
  /* The chain is in the order of the instants, not of the numbers. */
  assert_int_equal (snapset_newest (here.set)->number, 1);
}

static struct call_verdict
bad_store (const struct call_event *event)
{
  return (struct call_verdict){ .error
                                = event->call == CALL_FTRUNCATE ? EDQUOT : 0 };
}

static void
failed_creation_gives_name_and_number_back (void **state)
{
  (void)state;
  call_hook_set (bad_store);
  assert_null (freeze_as ("a"));
  assert_int_equal (errno, EDQUOT);
  call_hook_set (NULL);
  assert_null (here.set->reserved);
  assert_int_equal (freeze_as ("a")->number, 1);
}

/* --- numbers ------------------------------------------------------------ */

static void
lowest_free_number_is_taken (void **state)
{
  (void)state;
  for (unsigned i = 0; i < 5; i++)
    fixture_freeze (&here);
  assert_int_equal (try_delete ("4", false, NULL), 0);
  assert_int_equal (try_delete ("2", false, NULL), 0);
  assert_int_equal (fixture_freeze (&here)->number, 2);
  assert_int_equal (fixture_freeze (&here)->number, 4);
  assert_int_equal (fixture_freeze (&here)->number, 6);
  assert_int_equal (snapset_highest (here.set), 6);
}

static void
number_is_held_while_a_client_has_the_deleted_one_open (void **state)
{
  (void)state;
  struct snapshot *first = fixture_freeze (&here);
  fixture_freeze (&here);
  assert_ptr_equal (snapset_open (here.set, "1"), first);
  assert_int_equal (try_delete ("1", true, NULL), 0);
  assert_int_equal (fixture_freeze (&here)->number, 3);
  snapset_close (here.set, first);
  assert_int_equal (fixture_freeze (&here)->number, 1);
}

static void
number_is_held_too_once_it_has_left_the_chain (void **state)
{
  (void)state;
  fixture_reclaim (&here);
  struct snapshot *first = fixture_freeze (&here);
  snapset_open (here.set, "1");
  snapset_open (here.set, "1");
  assert_int_equal (try_delete ("1", true, NULL), 0);
  fixture_settle (&here);
  assert_int_equal (fixture_layers (&here), 0);
  assert_int_equal (fixture_freeze (&here)->number, 2);
  snapset_close (here.set, first);
  assert_int_equal (fixture_freeze (&here)->number, 3);
  snapset_close (here.set, first);
  assert_int_equal (fixture_freeze (&here)->number, 1);
}

static void
pin_holds_the_snapshot_but_not_its_number (void **state)
{
  (void)state;
  fixture_reclaim (&here);
  struct snapshot *first = fixture_freeze (&here);
  assert_ptr_equal (snapset_pin (here.set, "1"), first);
  assert_int_equal (try_delete ("1", false, NULL), 0);
  fixture_settle (&here);
  assert_int_equal (fixture_dropped (&here), 1);
  assert_int_equal (fixture_freeze (&here)->number, 1);
  snapset_unpin (here.set, first);
  fixture_settle (&here);
  assert_int_equal (fixture_dropped (&here), 0);
}

static void
nothing_is_pinned_or_opened_that_is_not_there (void **state)
{
  (void)state;
  assert_null (snapset_pin (here.set, NULL));
  assert_null (snapset_open (here.set, NULL));
  fixture_freeze (&here);
  assert_null (snapset_pin (here.set, "2"));
  assert_int_equal (try_delete (NULL, false, NULL), 0);
  assert_null (snapset_pin (here.set, "1"));
  assert_null (snapset_open (here.set, "1"));
}

/* --- lists and status --------------------------------------------------- */

/* The list's numbers, one after the other. */
static const char *
list_of (bool all)
{
  static char text[64];
  size_t count, length = 0;
  SCOPED_FREE struct snapshot **list = snapset_list (here.set, all, &count);

  assert_non_null (list);
  text[0] = '\0';
  for (size_t i = 0; i < count; i++) {
    length += (size_t)snprintf (text + length, sizeof text - length, "%u",
                                list[i]->number);
    snapset_unpin (here.set, list[i]);
  }
  return text;
}

static void
list_goes_from_the_oldest_to_the_newest (void **state)
{
  (void)state;
  assert_string_equal (list_of (false), "");
  for (unsigned i = 0; i < 4; i++)
    fixture_freeze (&here);
  assert_int_equal (try_delete ("2", false, NULL), 0);
  assert_string_equal (list_of (false), "134");
  fixture_freeze (&here);
  assert_string_equal (list_of (false), "1342");
}

static void
list_of_all_has_the_deleted_ones (void **state)
{
  (void)state;
  for (unsigned i = 0; i < 3; i++)
    fixture_freeze (&here);
  assert_int_equal (try_delete ("2", false, NULL), 0);
  assert_string_equal (list_of (false), "13");
  assert_string_equal (list_of (true), "123");
}

static void
list_of_all_has_what_left_the_chain_and_is_open (void **state)
{
  (void)state;
  fixture_reclaim (&here);
  struct snapshot *first = fixture_freeze (&here);
  fixture_freeze (&here);
  snapset_open (here.set, "1");
  assert_int_equal (try_delete ("1", true, NULL), 0);
  fixture_settle (&here);
  assert_string_equal (list_of (true), "12");
  assert_string_equal (list_of (false), "2");
  snapset_close (here.set, first);
}

static struct call_verdict
no_memory (const struct call_event *event)
{
  return (struct call_verdict){ .error
                                = event->call == CALL_MEMORY ? ENOMEM : 0 };
}

static void
list_without_memory (void **state)
{
  size_t count;

  (void)state;
  struct snapshot *snapshot = fixture_freeze (&here);
  call_hook_set (no_memory);
  assert_null (snapset_list (here.set, true, &count));
  assert_int_equal (errno, ENOMEM);
  call_hook_set (NULL);
  assert_int_equal (snapshot->pins, 0);
}

static void
status_counts_the_clients (void **state)
{
  (void)state;
  struct snapshot *snapshot = fixture_freeze (&here);
  assert_int_equal (snapset_status (here.set, snapshot).clients, 0);
  snapset_open (here.set, "1");
  snapset_open (here.set, NULL);
  assert_int_equal (snapset_status (here.set, snapshot).clients, 2);
  snapset_close (here.set, snapshot);
  assert_int_equal (snapset_status (here.set, snapshot).clients, 1);
  snapset_close (here.set, snapshot);
}

static void
status_says_which_newer_one_is_in_the_way (void **state)
{
  (void)state;
  struct snapshot *a = fixture_freeze (&here), *b = fixture_freeze (&here);
  struct snapshot *c = fixture_freeze (&here);
  assert_int_equal (snapset_status (here.set, a).blocked_by, 0);
  snapshot_break (b, EIO, "a test");
  assert_int_equal (snapset_status (here.set, a).blocked_by, 2);
  assert_int_equal (snapset_status (here.set, b).blocked_by, 0);
  assert_int_equal (snapset_status (here.set, c).blocked_by, 0);
  assert_int_equal (try_delete ("2", false, NULL), 0);
  assert_int_equal (snapset_status (here.set, a).blocked_by, 2);
}

/* --- who may delete ----------------------------------------------------- */

static void
deletion_of_what_is_open_is_busy (void **state)
{
  (void)state;
  struct snapshot *snapshot = fixture_freeze (&here);
  snapset_open (here.set, "1");
  assert_int_equal (try_delete ("1", false, NULL), EBUSY);
  assert_one_message ("in use", "1 connection has it open");
  assert_false (snapshot_is_deleted (snapshot));
  snapset_open (here.set, "1");
  assert_int_equal (try_delete ("1", false, NULL), EBUSY);
  assert_int_equal (messages_with ("2 connections have it open"), 1);
  snapset_close (here.set, snapshot);
  snapset_close (here.set, snapshot);
  assert_int_equal (try_delete ("1", false, NULL), 0);
}

static void
forced_deletion_fails_the_reads_of_who_has_it_open (void **state)
{
  uint8_t byte;

  (void)state;
  struct snapshot *snapshot = fixture_freeze (&here);
  snapset_open (here.set, "1");
  assert_int_equal (try_delete ("1", true, NULL), 0);
  assert_int_equal (view_read (here.set, snapshot, &byte, 1, 0), -1);
  assert_int_equal (errno, EIO);
  assert_one_message ("the snapshot was deleted");
  snapset_close (here.set, snapshot);
}

static void
deletion_of_what_is_not_there (void **state)
{
  (void)state;
  assert_int_equal (try_delete ("7", true, NULL), ENOENT);
  assert_int_equal (try_delete ("seven", false, NULL), ENOENT);
  fixture_freeze (&here);
  assert_int_equal (try_delete ("1", false, NULL), 0);
  assert_int_equal (try_delete ("1", true, NULL), ENOENT);
  assert_int_equal (messages_with ("there is no snapshot seven"), 1);
}

static void
deletion_says_which_it_was (void **state)
{
  unsigned number = 0;

  (void)state;
  freeze_as ("a");
  freeze_as ("b");
  assert_int_equal (snapset_delete (here.set, NULL, false, NULL, &number), 0);
  assert_int_equal (number, 2);
  assert_int_equal (snapset_delete (here.set, "a", false, NULL, &number), 0);
  assert_int_equal (number, 1);
}

static const char me, you;

static void
deletion_of_what_someone_else_creates_is_busy (void **state)
{
  (void)state;
  freeze_for (&me);
  assert_int_equal (try_delete ("1", false, &you), EBUSY);
  assert_int_equal (try_delete ("1", false, NULL), EBUSY);
  assert_int_equal (messages_with ("being created"), 2);
  assert_int_equal (try_delete ("1", false, &me), 0);
  freeze_for (&me);
  assert_int_equal (try_delete ("1", true, &you), 0);
}

static void
only_the_creator_finishes (void **state)
{
  (void)state;
  struct snapshot *snapshot = freeze_for (&me);
  assert_true (snapset_status (here.set, snapshot).creating);
  assert_true (snapset_is_creator (here.set, snapshot, &me));
  assert_false (snapset_is_creator (here.set, snapshot, &you));
  assert_int_equal (snapset_finish (here.set, "1", &you), -1);
  assert_int_equal (errno, EPERM);
  assert_int_equal (snapset_finish (here.set, "1", &me), 0);
  assert_false (snapset_status (here.set, snapshot).creating);
  assert_int_equal (snapset_finish (here.set, "1", &me), -1);
  assert_int_equal (errno, EPERM);
  assert_int_equal (snapset_finish (here.set, "2", &me), -1);
  assert_int_equal (errno, ENOENT);
  assert_int_equal (try_delete ("1", false, &you), 0);
}

static void
what_its_creator_abandons_is_deleted_even_if_it_is_open (void **state)
{
  (void)state;
  struct snapshot *first = freeze_for (&me);
  freeze_for (&you);
  freeze_for (&me);
  freeze_for (&me);
  assert_int_equal (snapset_finish (here.set, "4", &me), 0);
  snapset_open (here.set, "1");
  messages_clear ();
  snapset_abandon (here.set, &me);
  assert_string_equal (list_of (false), "24");
  assert_int_equal (messages_count (), 2);
  assert_int_equal (messages_with ("went away before it was done"), 2);
  snapset_abandon (here.set, &me);
  assert_int_equal (messages_count (), 2);
  snapset_close (here.set, first);
}

#define TEST(name) cmocka_unit_test_setup_teardown (name, setup, teardown)

int
main (int argc, char **argv)
{
  const struct CMUnitTest tests[] = {
    TEST (names_that_are_allowed),
    TEST (names_that_are_refused),
    TEST (snapshot_is_found_by_its_name_and_its_number),
    TEST (name_is_used_once),
    TEST (name_is_free_again_after_deletion),
    TEST (name_is_reserved_while_its_snapshot_is_being_made),
    TEST (number_is_reserved_while_its_snapshot_is_being_made),
    TEST (failed_creation_gives_name_and_number_back),
    TEST (lowest_free_number_is_taken),
    TEST (number_is_held_while_a_client_has_the_deleted_one_open),
    TEST (number_is_held_too_once_it_has_left_the_chain),
    TEST (pin_holds_the_snapshot_but_not_its_number),
    TEST (nothing_is_pinned_or_opened_that_is_not_there),
    TEST (list_goes_from_the_oldest_to_the_newest),
    TEST (list_of_all_has_the_deleted_ones),
    TEST (list_of_all_has_what_left_the_chain_and_is_open),
    TEST (list_without_memory),
    TEST (status_counts_the_clients),
    TEST (status_says_which_newer_one_is_in_the_way),
    TEST (deletion_of_what_is_open_is_busy),
    TEST (forced_deletion_fails_the_reads_of_who_has_it_open),
    TEST (deletion_of_what_is_not_there),
    TEST (deletion_says_which_it_was),
    TEST (deletion_of_what_someone_else_creates_is_busy),
    TEST (only_the_creator_finishes),
    TEST (what_its_creator_abandons_is_deleted_even_if_it_is_open),
  };

  if (argc > 1)
    cmocka_set_test_filter (argv[1]);
  return cmocka_run_group_tests (tests, NULL, NULL);
}
