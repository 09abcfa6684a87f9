/* SPDX-License-Identifier: BSD-3-Clause */

#include "cmocka-all.h"
#include "config.h"
#include "nbdkit-stub.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct config config;

static int
setup (void **state)
{
  (void)state;
  messages_clear ();
  config_init (&config);
  return 0;
}

static int
teardown (void **state)
{
  (void)state;
  config_free (&config);
  return 0;
}

static void
accept (const char *key, const char *value)
{
  messages_clear ();
  assert_int_equal (config_set (&config, key, value), 0);
  assert_no_message ();
}

/* Refused with one message that names all there is to know. */
#define refuse(key, value, allowed)                                            \
  do {                                                                         \
    messages_clear ();                                                         \
    assert_int_equal (config_set (&config, key, value), -1);                   \
    assert_one_message (key "=" value, allowed);                               \
  } while (0)

static void
complete (void)
{
  if (config.origin == NULL)
    accept ("origin", "/dev/null");
  messages_clear ();
  assert_int_equal (config_check (&config), 0);
  assert_no_message ();
}

#define refuse_together(...)                                                   \
  do {                                                                         \
    if (config.origin == NULL)                                                 \
      accept ("origin", "/dev/null");                                          \
    assert_int_equal (config_check (&config), -1);                             \
    assert_one_message (__VA_ARGS__);                                          \
  } while (0)

static void
defaults (void **state)
{
  (void)state;
  unsetenv ("TMPDIR");
  complete ();
  assert_int_equal (config.options.snapshot.chunk_size, 4096);
  assert_int_equal (config.options.snapshot.maxsize, 0);
  assert_int_equal (config.options.snapshot.backfile_size, 0);
  assert_int_equal (config.options.snapshot.durability, DURABILITY_ASYNC);
  assert_int_equal (config.options.snapshot.on_error, ON_ERROR_BREAK_SNAPSHOT);
  assert_int_equal (config.options.snapshot.cow_timeout, 20);
  assert_string_equal (config.options.snapshot.backing_store, "/var/tmp");
  assert_int_equal (config.max_memory, 64 << 20);
  assert_true (config.snapshot_at_start);
  assert_ptr_equal (config.engine, &engine_uring);
  assert_ptr_equal (config.fallback, &engine_sync);
}

static void
origin (void **state)
{
  (void)state;
  accept ("origin", "/dev/sdb");
  assert_string_equal (config.origin, "/dev/sdb");
}

static void
origin_becomes_absolute (void **state)
{
  char directory[4096], expected[8192];

  (void)state;
  assert_non_null (getcwd (directory, sizeof directory));
  snprintf (expected, sizeof expected, "%s/disk.img", directory);
  accept ("origin", "disk.img");
  assert_string_equal (config.origin, expected);
}

static void
origin_twice (void **state)
{
  (void)state;
  accept ("origin", "/dev/sda");
  refuse ("origin", "/dev/sdb", "/dev/sda");
  assert_string_equal (config.origin, "/dev/sda");
}

static void
origin_empty (void **state)
{
  (void)state;
  refuse ("origin", "", "a path");
}

static void
origin_missing (void **state)
{
  (void)state;
  assert_int_equal (config_check (&config), -1);
  assert_one_message ("origin=PATH is missing");
}

static void
snapshot (void **state)
{
  (void)state;
  accept ("snapshot", "no");
  assert_false (config.snapshot_at_start);
  accept ("snapshot", "yes");
  assert_true (config.snapshot_at_start);
  refuse ("snapshot", "maybe", "yes|no");
  refuse ("snapshot", "", "yes|no");
  refuse ("snapshot", "ye", "yes|no");
  refuse ("snapshot", "yes|no", "yes|no");
}

static void
candidates (void **state)
{
  (void)state;
  assert_false (config.find_free);
  accept ("candidates", "auto");
  assert_true (config.find_free);
  accept ("candidates", "all");
  assert_false (config.find_free);
  refuse ("candidates", "ext4", "all|auto");
}

static void
chunksize (void **state)
{
  (void)state;
  for (uint64_t size = 512; size <= 64 << 20; size *= 2) {
    char value[32];
    snprintf (value, sizeof value, "%llu", (unsigned long long)size);
    accept ("chunksize", value);
    assert_int_equal (config.options.snapshot.chunk_size, size);
  }
  accept ("chunksize", "64k");
  assert_int_equal (config.options.snapshot.chunk_size, 65536);
  accept ("chunksize", "64M");
  refuse ("chunksize", "0", "a power of two from 512 to 64M");
  refuse ("chunksize", "256", "a power of two from 512 to 64M");
  refuse ("chunksize", "128M", "a power of two from 512 to 64M");
  refuse ("chunksize", "4095", "a power of two from 512 to 64M");
  refuse ("chunksize", "12k", "a power of two from 512 to 64M");
  refuse ("chunksize", "-4096", "a power of two from 512 to 64M");
  refuse ("chunksize", "4096x", "a power of two from 512 to 64M");
  refuse ("chunksize", "4 k", "a power of two from 512 to 64M");
  refuse ("chunksize", "0x1000", "a power of two from 512 to 64M");
  refuse ("chunksize", "", "a power of two from 512 to 64M");
  assert_int_equal (config.options.snapshot.chunk_size, 64 << 20);
}

static void
backing_store (void **state)
{
  (void)state;
  accept ("backing-store", "/srv/store");
  refuse ("backing-store", "/srv/other", "/srv/store");
  complete ();
  assert_string_equal (config.options.snapshot.backing_store, "/srv/store");
}

static void
backing_store_empty (void **state)
{
  (void)state;
  refuse ("backing-store", "", "a path");
}

static void
backing_store_from_the_environment (void **state)
{
  (void)state;
  setenv ("TMPDIR", "/dev", 1);
  complete ();
  unsetenv ("TMPDIR");
  assert_string_equal (config.options.snapshot.backing_store, "/dev");
}

static void
tmpdir_that_is_no_directory (void **state)
{
  (void)state;
  setenv ("TMPDIR", "/dev/null/where", 1);
  accept ("origin", "/dev/null");
  const int r = config_check (&config);
  unsetenv ("TMPDIR");
  assert_int_equal (r, -1);
  assert_one_message ("TMPDIR=/dev/null/where", "directory");
}

static void
empty_tmpdir_counts_as_none (void **state)
{
  (void)state;
  setenv ("TMPDIR", "", 1);
  complete ();
  unsetenv ("TMPDIR");
  assert_string_equal (config.options.snapshot.backing_store, "/var/tmp");
}

static void
sizes_in_all_spellings (void **state)
{
  (void)state;
  accept ("maxsize", "1048576");
  assert_int_equal (config.options.snapshot.maxsize, 1048576);
  accept ("maxsize", "2k");
  assert_int_equal (config.options.snapshot.maxsize, 2048);
  accept ("maxsize", "3M");
  assert_int_equal (config.options.snapshot.maxsize, 3 << 20);
  accept ("maxsize", "4G");
  assert_int_equal (config.options.snapshot.maxsize, UINT64_C (4) << 30);
  accept ("maxsize", "5t");
  assert_int_equal (config.options.snapshot.maxsize, UINT64_C (5) << 40);
  accept ("maxsize", "0");
  assert_int_equal (config.options.snapshot.maxsize, 0);
}

static void
backfile_size (void **state)
{
  (void)state;
  accept ("backfile-size", "2G");
  assert_int_equal (config.options.snapshot.backfile_size, UINT64_C (2) << 30);
  complete ();
  refuse ("backfile-size", "much", "a size");
  refuse ("backfile-size", "-1", "a size");
  refuse ("backfile-size", "1MiB", "a size");
  refuse ("backfile-size", "", "a size");
}

static void
backfile_size_too_small (void **state)
{
  (void)state;
  accept ("backfile-size", "266239");
  refuse_together ("backfile-size=266239", "at least 266240", "chunksize=4096");
}

static void
least_backfile_size (void **state)
{
  (void)state;
  accept ("backfile-size", "266240");
  complete ();
}

static void
maxsize (void **state)
{
  (void)state;
  accept ("maxsize", "4k");
  complete ();
  refuse ("maxsize", "1.5G", "a size");
  refuse ("maxsize", "all", "a size");
}

static void
maxsize_too_small (void **state)
{
  (void)state;
  accept ("maxsize", "4095");
  refuse_together ("maxsize=4095", "4096");
}

static void
max_memory (void **state)
{
  (void)state;
  accept ("max-memory", "1M");
  assert_int_equal (config.max_memory, 1 << 20);
  complete ();
  refuse ("max-memory", "1Z", "a size");
}

static void
max_memory_too_small (void **state)
{
  (void)state;
  accept ("max-memory", "1048575");
  refuse_together ("max-memory=1048575", "at least 1048576", "chunksize=4096");
}

static void
max_memory_too_small_for_the_chunk (void **state)
{
  (void)state;
  accept ("chunksize", "64M");
  accept ("max-memory", "64M");
  refuse_together ("max-memory=67108864", "chunksize=67108864");
}

/* Who did not ask for 64M is not told that it is too little. */
static void
default_max_memory_fits_the_largest_chunk (void **state)
{
  (void)state;
  accept ("chunksize", "64M");
  complete ();
  assert_int_equal (config.max_memory, 134218368);
}

/* Two steps of the largest chunk, so that the message's figure is enough. */
static void
max_memory_for_the_largest_chunk (void **state)
{
  (void)state;
  accept ("chunksize", "64M");
  accept ("max-memory", "134218368");
  complete ();
}

static void
durability (void **state)
{
  (void)state;
  accept ("durability", "written");
  complete ();
  assert_int_equal (config.options.snapshot.durability, DURABILITY_WRITTEN);
  accept ("durability", "async");
  assert_int_equal (config.options.snapshot.durability, DURABILITY_ASYNC);
  refuse ("durability", "durable", "async|written|stable");
  refuse ("durability", "", "async|written|stable");
}

static void
stable_needs_a_store (void **state)
{
  (void)state;
  accept ("durability", "stable");
  refuse_together ("durability=stable");
  accept ("store", "/srv/store");
  complete ();
  assert_int_equal (config.options.snapshot.durability, DURABILITY_STABLE);
}

static void
store (void **state)
{
  (void)state;
  accept ("store", "/srv/store");
  complete ();
  assert_string_equal (config.store, "/srv/store");
  assert_string_equal (config.options.snapshot.backing_store, "/srv/store");
  assert_int_equal (config.options.snapshot.durability, DURABILITY_WRITTEN);
  refuse ("store", "/srv/other", "twice");
}

static void
store_with_other_wishes (void **state)
{
  (void)state;
  accept ("store", "/srv/store");
  accept ("durability", "async");
  accept ("backing-store", "/srv/else");
  complete ();
  assert_string_equal (config.options.snapshot.backing_store, "/srv/else");
  assert_int_equal (config.options.snapshot.durability, DURABILITY_ASYNC);
}

static void
on_error (void **state)
{
  (void)state;
  accept ("on-error", "break-snapshot");
  complete ();
  assert_int_equal (config.options.snapshot.on_error, ON_ERROR_BREAK_SNAPSHOT);
  assert_int_equal (config.options.snapshot.durability, DURABILITY_ASYNC);
  refuse ("on-error", "panic", "break-snapshot|break-write");
}

static void
break_write_makes_copies_written (void **state)
{
  (void)state;
  accept ("on-error", "break-write");
  complete ();
  assert_int_equal (config.options.snapshot.on_error, ON_ERROR_BREAK_WRITE);
  assert_int_equal (config.options.snapshot.durability, DURABILITY_WRITTEN);
}

static void
break_write_does_not_go_with_async (void **state)
{
  (void)state;
  accept ("on-error", "break-write");
  accept ("durability", "async");
  refuse_together ("durability=async", "written", "on-error=break-write");
}

static void
cow_timeout (void **state)
{
  (void)state;
  accept ("cow-timeout", "1");
  assert_int_equal (config.options.snapshot.cow_timeout, 1);
  accept ("cow-timeout", "86400");
  assert_int_equal (config.options.snapshot.cow_timeout, 86400);
  refuse ("cow-timeout", "0", "a number of seconds from 1 to 86400");
  refuse ("cow-timeout", "86401", "a number of seconds from 1 to 86400");
  refuse ("cow-timeout", "-1", "a number of seconds from 1 to 86400");
  refuse ("cow-timeout", "1k", "a number of seconds from 1 to 86400");
  refuse ("cow-timeout", "2.5", "a number of seconds from 1 to 86400");
  refuse ("cow-timeout", "", "a number of seconds from 1 to 86400");
  refuse ("cow-timeout", "99999999999999999999",
          "a number of seconds from 1 to 86400");
}

static void
io (void **state)
{
  (void)state;
  accept ("io", "uring");
  assert_ptr_equal (config.engine, &engine_uring);
  assert_null (config.fallback);
  accept ("io", "sync");
  assert_ptr_equal (config.engine, &engine_sync);
  assert_null (config.fallback);
  refuse ("io", "aio", "uring|sync");
}

static void
sizes_that_overflow_have_one_message (void **state)
{
  (void)state;
  refuse ("chunksize", "999999999999999E", "a power of two");
  refuse ("maxsize", "999999999999999E", "a size");
  refuse ("max-memory", "9E", "a size");
  refuse ("cow-timeout", "9223372036854775808", "a number of seconds");
}

static void
sizes_with_many_digits_are_sizes (void **state)
{
  (void)state;
  accept ("maxsize", "1152921504606846976");
  assert_int_equal (config.options.snapshot.maxsize, UINT64_C (1) << 60);
  accept ("maxsize", "00000000000000004096");
  assert_int_equal (config.options.snapshot.maxsize, 4096);
}

static void
unknown_parameter_names_the_known_ones (void **state)
{
  (void)state;
  refuse (
      "chunk", "4k",
      "origin snapshot candidates chunksize backing-store store "
      "backfile-size maxsize max-memory durability on-error cow-timeout io");
}

static void
every_parameter_of_the_help_is_taken (void **state)
{
  (void)state;
#define HAS_MESSAGE_OF_ITS_OWN(name, takes, standard, meaning)                 \
  messages_clear ();                                                           \
  assert_int_equal (config_set (&config, name, ""), -1);                       \
  assert_int_equal (messages_with ("no such parameter"), 0);
  CONFIG_PARAMETERS (HAS_MESSAGE_OF_ITS_OWN)
}

#define TEST(name) cmocka_unit_test_setup_teardown (name, setup, teardown)

int
main (void)
{
  const struct CMUnitTest tests[] = {
    TEST (defaults),
    TEST (origin),
    TEST (origin_becomes_absolute),
    TEST (origin_twice),
    TEST (origin_empty),
    TEST (origin_missing),
    TEST (snapshot),
    TEST (candidates),
    TEST (chunksize),
    TEST (backing_store),
    TEST (backing_store_empty),
    TEST (backing_store_from_the_environment),
    TEST (tmpdir_that_is_no_directory),
    TEST (empty_tmpdir_counts_as_none),
    TEST (sizes_in_all_spellings),
    TEST (backfile_size),
    TEST (backfile_size_too_small),
    TEST (least_backfile_size),
    TEST (maxsize),
    TEST (maxsize_too_small),
    TEST (max_memory),
    TEST (max_memory_too_small),
    TEST (max_memory_too_small_for_the_chunk),
    TEST (default_max_memory_fits_the_largest_chunk),
    TEST (max_memory_for_the_largest_chunk),
    TEST (durability),
    TEST (stable_needs_a_store),
    TEST (store),
    TEST (store_with_other_wishes),
    TEST (on_error),
    TEST (break_write_makes_copies_written),
    TEST (break_write_does_not_go_with_async),
    TEST (cow_timeout),
    TEST (io),
    TEST (sizes_that_overflow_have_one_message),
    TEST (sizes_with_many_digits_are_sizes),
    TEST (unknown_parameter_names_the_known_ones),
    TEST (every_parameter_of_the_help_is_taken),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
