/* SPDX-License-Identifier: BSD-3-Clause */

#include "cmocka-all.h"
#include "call-hook.h"
#include "extents.h"
#include "fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

/* A multiple of any file system's blocks. */
#define UNIT 65536

static int fd;

/* A file of 8 units: a hole, two units of data, a hole. */
static int
setup (void **state)
{
  static uint8_t data[2 * UNIT];
  char path[32];

  (void)state;
  fd = unnamed_file (8 * UNIT, path);
  memset (data, 1, sizeof data);
  return pwrite (fd, data, sizeof data, 2 * UNIT) == sizeof data ? 0 : -1;
}

static int
teardown (void **state)
{
  (void)state;
  call_hook_set (NULL);
  return close (fd);
}

static void
assert_is (uint64_t offset, uint64_t count, bool expected_hole,
           uint64_t expected_length)
{
  uint64_t length;
  bool hole;

  assert_int_equal (file_extent (fd, offset, count, &length, &hole), 0);
  assert_int_equal (hole, expected_hole);
  assert_int_equal (length, expected_length);
}

static void
hole_ends_where_data_begins (void **state)
{
  (void)state;
  assert_is (0, 8 * UNIT, true, 2 * UNIT);
  assert_is (UNIT + 1, 8 * UNIT, true, UNIT - 1);
}

static void
data_end_where_a_hole_begins (void **state)
{
  (void)state;
  assert_is (2 * UNIT, 6 * UNIT, false, 2 * UNIT);
  assert_is (3 * UNIT + 5, 5 * UNIT - 5, false, UNIT - 5);
}

static void
hole_at_the_end_ends_with_the_file (void **state)
{
  (void)state;
  assert_is (4 * UNIT, 4 * UNIT, true, 4 * UNIT);
  assert_is (5 * UNIT, 100 * UNIT, true, 3 * UNIT);
  assert_is (8 * UNIT - 1, 1, true, 1);
}

static void
answer_keeps_within_count (void **state)
{
  (void)state;
  assert_is (0, 10, true, 10);
  assert_is (2 * UNIT, 1, false, 1);
  assert_is (4 * UNIT, 7, true, 7);
}

static void
data_up_to_the_end (void **state)
{
  (void)state;
  assert_int_equal (ftruncate (fd, 4 * UNIT - 100), 0);
  assert_is (3 * UNIT, UNIT - 100, false, UNIT - 100);
}

static void
past_the_end_is_eio_and_no_hole (void **state)
{
  uint64_t length;
  bool hole;

  (void)state;
  assert_int_equal (file_extent (fd, 8 * UNIT, 1, &length, &hole), -1);
  assert_int_equal (errno, EIO);
  assert_int_equal (ftruncate (fd, 0), 0);
  assert_int_equal (file_extent (fd, 0, 1, &length, &hole), -1);
  assert_int_equal (errno, EIO);
}

static void
bad_descriptor_is_an_error (void **state)
{
  uint64_t length;
  bool hole;

  (void)state;
  assert_int_equal (file_extent (-1, 0, 1, &length, &hole), -1);
  assert_int_equal (errno, EBADF);
}

static struct call_verdict
punch_in_between (const struct call_event *event)
{
  static int calls;

  if (event->call == CALL_LSEEK && calls++ == 1)
    (void)!fallocate (fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                      8 * UNIT);
  return (struct call_verdict){ 0 };
}

static void
data_punched_between_the_looks_are_data (void **state)
{
  uint64_t length = 0;
  bool hole = true;

  (void)state;
  call_hook_set (punch_in_between);
  const int r = file_extent (fd, 2 * UNIT, UNIT, &length, &hole);
  call_hook_set (NULL);
  assert_int_equal (r, 0);
  assert_false (hole);
  assert_true (length > 0 && length <= UNIT);
}

#define TEST(name) cmocka_unit_test_setup_teardown (name, setup, teardown)

int
main (void)
{
  const struct CMUnitTest tests[] = {
    TEST (hole_ends_where_data_begins),
    TEST (data_end_where_a_hole_begins),
    TEST (hole_at_the_end_ends_with_the_file),
    TEST (answer_keeps_within_count),
    TEST (data_up_to_the_end),
    TEST (past_the_end_is_eio_and_no_hole),
    TEST (bad_descriptor_is_an_error),
    TEST (data_punched_between_the_looks_are_data),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
