/* SPDX-License-Identifier: BSD-3-Clause */
/* The free map against an array of bytes. */

#include "cmocka-all.h"
#include "freemap.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define SPACE 4096

static void
check (const struct freemap *map, const bool *model)
{
  bool found[SPACE] = { false };
  uint64_t bytes = 0;

  for (size_t i = 0; i < map->count; i++) {
    const struct extent *e = &map->extents[i];
    assert_true (e->length > 0);
    if (i > 0) /* apart, and in order */
      assert_true (e->offset > e[-1].offset + e[-1].length);
    assert_true (e->offset + e->length <= SPACE);
    memset (found + e->offset, true, e->length);
  }
  assert_memory_equal (found, model, sizeof found);
  for (size_t i = 0; i < SPACE; i++)
    bytes += model[i];
  assert_int_equal (freemap_bytes (map), bytes);
}

static void
test_random (void **state)
{
  (void)state;
  for (unsigned round = 0; round < 2000; round++) {
    struct freemap map = {};
    bool model[SPACE] = { false };
    const unsigned adds = (unsigned)random () % 200;
    const unsigned longest = 1 + (unsigned)random () % 100;

    for (unsigned i = 0; i < adds; i++) {
      const uint64_t offset = (uint64_t)random () % SPACE;
      uint64_t length = (uint64_t)random () % longest;
      if (length > SPACE - offset)
        length = SPACE - offset;
      assert_int_equal (freemap_add (&map, offset, length), 0);
      memset (model + offset, true, length);
      if (i == adds / 2)
        freemap_settle (&map); /* more may come behind it */
    }
    freemap_settle (&map);
    check (&map, model);
    freemap_settle (&map);
    check (&map, model);
    freemap_free (&map);
  }
}

static void
test_neighbours (void **state)
{
  (void)state;
  struct freemap map = {};

  for (uint64_t i = 0; i < 100000; i++)
    assert_int_equal (freemap_add (&map, i * 10, 10), 0);
  assert_int_equal (map.count, 1);
  assert_int_equal (freemap_add (&map, UINT64_MAX - 5, 5), 0);
  assert_int_equal (map.count, 2);
  freemap_settle (&map);
  assert_int_equal (freemap_bytes (&map), 1000005);
  freemap_free (&map);
  assert_null (map.extents);
  assert_int_equal (map.count, 0);
}

static void
test_empty (void **state)
{
  (void)state;
  struct freemap map = {};

  assert_int_equal (freemap_add (&map, 5, 0), 0);
  freemap_settle (&map);
  assert_int_equal (map.count, 0);
  assert_int_equal (freemap_bytes (&map), 0);
  freemap_free (&map);
}

/* What is too much stays used; what lengthens the last one is still taken. */
static void
test_most (void **state)
{
  (void)state;
  struct freemap map = {
    .extents = calloc (FREEMAP_MAX, sizeof *map.extents),
    .count = FREEMAP_MAX,
    .room = FREEMAP_MAX,
  };

  if (map.extents == NULL)
    skip (); /* a small machine */
  struct extent *last = &map.extents[FREEMAP_MAX - 1];
  *last = (struct extent){ 1000, 1 };
  assert_int_equal (freemap_add (&map, UINT64_C (1) << 40, 100), 0);
  assert_int_equal (map.count, FREEMAP_MAX);
  assert_int_equal (freemap_add (&map, 1001, 7), 0);
  assert_int_equal (map.count, FREEMAP_MAX);
  assert_int_equal (last->length, 8);
  freemap_free (&map);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_empty),
    cmocka_unit_test (test_neighbours),
    cmocka_unit_test (test_random),
    cmocka_unit_test (test_most),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
