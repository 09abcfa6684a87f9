/* SPDX-License-Identifier: BSD-3-Clause */
/* What all readers call: reasons, reads and free space within bounds. */

#include "cmocka-all.h"
#include "reader.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SIZE 1000

static int
read_fake (struct source *source, void *buffer, size_t count, uint64_t offset)
{
  (void)source;
  if (offset >= 500) {
    errno = EIO;
    return -1;
  }
  memset (buffer, 0x5a, count);
  return 0;
}

static struct source source = { .size = SIZE, .read = read_fake };
static struct freemap map;
static struct reading reading;

static int
set_up (void **state)
{
  (void)state;
  map = (struct freemap){};
  reading = (struct reading){ .source = &source, .size = SIZE, .free = &map };
  return 0;
}

static int
tear_down (void **state)
{
  (void)state;
  freemap_free (&map);
  free (reading.why);
  return 0;
}

static void
test_refuse (void **state)
{
  (void)state;
  assert_int_equal (refuse (&reading, "group %d is damaged", 12), -1);
  assert_int_equal (refuse (&reading, "so is another"), -1);
  assert_string_equal (reading.why, "group 12 is damaged");
}

static void
test_get (void **state)
{
  (void)state;
  char buffer[10] = { 0 };

  assert_int_equal (reading_get (&reading, "it", buffer, 0, SIZE), 0);
  assert_int_equal (reading_get (&reading, "it", buffer, 9, 490), 0);
  assert_int_equal (buffer[8], 0x5a);
  assert_int_equal (buffer[9], 0);
  assert_null (reading.why);
}

static void
test_get_behind (void **state)
{
  (void)state;
  char buffer[10];

  assert_int_equal (reading_get (&reading, "the list", buffer, 10, SIZE - 9),
                    -1);
  assert_string_equal (reading.why,
                       "the list should be at 991, behind the end");
}

static void
test_get_error (void **state)
{
  (void)state;
  char buffer[10];

  assert_int_equal (reading_get (&reading, "the list", buffer, 10, 600), -1);
  assert_string_equal (reading.why,
                       "the list at 600 cannot be read: Input/output error");
}

static void
test_frees (void **state)
{
  (void)state;
  assert_int_equal (reading_free (&reading, 0, 0), 0);
  assert_int_equal (reading_free (&reading, SIZE, 0), 0);
  assert_int_equal (map.count, 0);
  assert_int_equal (reading_free (&reading, 0, SIZE), 0);
  assert_int_equal (map.count, 1);
  assert_null (reading.why);
}

static void
check_refused (uint64_t offset, uint64_t length)
{
  assert_int_equal (reading_free (&reading, offset, length), -1);
  assert_non_null (reading.why);
  assert_int_equal (map.count, 0);
}

static void
test_free_behind (void **state)
{
  (void)state;
  reading.size = 900;
  check_refused (0, 901);
  check_refused (901, 0);
  check_refused (899, 2);
  check_refused (1, UINT64_MAX);
  check_refused (UINT64_MAX, 1);
  check_refused (UINT64_MAX, UINT64_MAX);
}

/* A file system that says it is larger than what it is on. */
static void
test_free_too_large (void **state)
{
  (void)state;
  reading.size = SIZE + 1;
  check_refused (0, 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown (name, set_up, tear_down)

int
main (void)
{
  const struct CMUnitTest tests[] = {
    TEST (test_refuse),         TEST (test_get),   TEST (test_get_behind),
    TEST (test_get_error),      TEST (test_frees), TEST (test_free_behind),
    TEST (test_free_too_large),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
