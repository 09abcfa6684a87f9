/* SPDX-License-Identifier: BSD-3-Clause */
/* What a snapshot may be asked to be.  How each value is spelt is tested as
 * the plugin's parameters, in test-config.c.
 */

#include "cmocka-all.h"
#include "nbdkit-stub.h"
#include "options.h"

static struct options options;

static int
setup (void **state)
{
  (void)state;
  messages_clear ();
  options_init (&options);
  return 0;
}

static int
teardown (void **state)
{
  (void)state;
  options_free (&options);
  return 0;
}

static void
take (const char *key, const char *value)
{
  assert_int_equal (options_set (&options, key, value), 1);
  assert_no_message ();
}

/* All goes together, or not, for a reason that has TEXT. */
static void
refuse_together (const char *text)
{
  messages_clear ();
  assert_int_equal (options_check (&options), -1);
  assert_one_message (text);
}

static void
option_is_taken (void **state)
{
  const struct snapshot_options *snapshot = &options.snapshot;

  (void)state;
  take ("chunksize", "64k");
  take ("maxsize", "1G");
  take ("backfile-size", "100M");
  take ("cow-timeout", "7");
  take ("durability", "written");
  take ("on-error", "break-write");
  take ("backing-store", "/a/b");
  assert_int_equal (snapshot->chunk_size, 65536);
  assert_int_equal (snapshot->maxsize, 1 << 30);
  assert_int_equal (snapshot->backfile_size, 100 << 20);
  assert_int_equal (snapshot->cow_timeout, 7);
  assert_int_equal (snapshot->durability, DURABILITY_WRITTEN);
  assert_true (options.durability_given);
  assert_int_equal (snapshot->on_error, ON_ERROR_BREAK_WRITE);
  assert_string_equal (snapshot->backing_store, "/a/b");
  assert_int_equal (options_check (&options), 0);
  assert_no_message ();
}

static void
what_is_no_option_of_a_snapshot_is_left_to_others (void **state)
{
  static const char *const keys[]
      = { "origin", "io", "max-memory", "control", "snapshot", "", "chunk" };

  (void)state;
  for (unsigned i = 0; i < sizeof keys / sizeof keys[0]; i++)
    assert_int_equal (options_set (&options, keys[i], "1"), 0);
  assert_no_message ();
}

static void
refused_value_has_one_message_and_changes_nothing (void **state)
{
  static const struct {
    const char *key, *value;
  } refused[] = {
    { "chunksize", "511" },     { "chunksize", "128M" },
    { "chunksize", "" },        { "maxsize", "-1" },
    { "backfile-size", "big" }, { "cow-timeout", "0" },
    { "cow-timeout", "86401" }, { "cow-timeout", "1k" },
    { "durability", "stab" },   { "durability", "" },
    { "on-error", "break" },    { "backing-store", "here" },
    { "backing-store", "" },
  };
  struct options before = options;

  (void)state;
  for (unsigned i = 0; i < sizeof refused / sizeof refused[0]; i++) {
    messages_clear ();
    assert_int_equal (options_set (&options, refused[i].key, refused[i].value),
                      -1);
    assert_one_message (refused[i].key, refused[i].value, "must be");
  }
  assert_int_equal (options.snapshot.chunk_size, before.snapshot.chunk_size);
  assert_int_equal (options.snapshot.maxsize, before.snapshot.maxsize);
  assert_int_equal (options.snapshot.cow_timeout, before.snapshot.cow_timeout);
  assert_null (options.backing_store);
}

static void
second_store_replaces_the_first (void **state)
{
  (void)state;
  take ("backing-store", "/a");
  take ("backing-store", "/b");
  assert_string_equal (options.snapshot.backing_store, "/b");
  assert_ptr_equal (options.snapshot.backing_store, options.backing_store);
}

static void
copy_is_independent (void **state)
{
  struct options copy;

  (void)state;
  take ("backing-store", "/a");
  take ("chunksize", "512");
  take ("durability", "async");
  assert_int_equal (options_copy (&copy, &options), 0);
  assert_int_equal (copy.snapshot.chunk_size, 512);
  assert_false (copy.durability_given); /* not by who asks now */
  assert_int_equal (options_set (&copy, "backing-store", "/b"), 1);
  assert_string_equal (options.snapshot.backing_store, "/a");
  options_free (&copy);
  assert_string_equal (options.backing_store, "/a");
}

static void
least_memory_is_two_chunks_or_a_mebibyte (void **state)
{
  (void)state;
  assert_int_equal (options_least_memory (&options), 1 << 20);
  take ("chunksize", "1M");
  assert_int_equal (options_least_memory (&options),
                    2 * throttle_least (1 << 20));
}

static void
limits_must_hold_a_chunk (void **state)
{
  (void)state;
  take ("chunksize", "64k");
  take ("maxsize", "65535");
  refuse_together ("at least the chunk size, 65536");
  messages_clear ();
  take ("maxsize", "64k");
  assert_int_equal (options_check (&options), 0);
  take ("backfile-size", "1M");
  refuse_together ("backfile-size=1048576");
}

static void
break_write_implies_written_unless_async_was_asked_for (void **state)
{
  struct options other;

  (void)state;
  take ("backing-store", "/a");
  take ("durability", "async");
  assert_int_equal (options_copy (&other, &options), 0);
  assert_int_equal (options_set (&other, "on-error", "break-write"), 1);
  assert_int_equal (options_check (&other), 0); /* async was the default */
  assert_int_equal (other.snapshot.durability, DURABILITY_WRITTEN);
  options_free (&other);
  take ("on-error", "break-write");
  refuse_together ("durability=async");
}

static void
words_are_those_that_are_taken (void **state)
{
  (void)state;
  for (unsigned i = 0; i < 3; i++) {
    take ("durability", policy_durability (i));
    assert_int_equal (options.snapshot.durability, i);
  }
  for (unsigned i = 0; i < 2; i++) {
    take ("on-error", policy_on_error (i));
    assert_int_equal (options.snapshot.on_error, i);
  }
}

static void
words_match_whole (void **state)
{
  (void)state;
  assert_int_equal (options_parse_word ("k", "b", "a|b|cc"), 1);
  assert_int_equal (options_parse_word ("k", "cc", "a|b|cc"), 2);
  assert_no_message ();
  assert_int_equal (options_parse_word ("k", "c", "a|b|cc"), -1);
  assert_int_equal (options_parse_word ("k", "a|b", "a|b|cc"), -1);
  assert_int_equal (messages_with ("must be a|b|cc"), 2);
}

#define TEST(name) cmocka_unit_test_setup_teardown (name, setup, teardown)

int
main (void)
{
  const struct CMUnitTest tests[] = {
    TEST (option_is_taken),
    TEST (what_is_no_option_of_a_snapshot_is_left_to_others),
    TEST (refused_value_has_one_message_and_changes_nothing),
    TEST (second_store_replaces_the_first),
    TEST (copy_is_independent),
    TEST (least_memory_is_two_chunks_or_a_mebibyte),
    TEST (limits_must_hold_a_chunk),
    TEST (break_write_implies_written_unless_async_was_asked_for),
    TEST (words_are_those_that_are_taken),
    TEST (words_match_whole),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
