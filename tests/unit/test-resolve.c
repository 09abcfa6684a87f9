/* SPDX-License-Identifier: BSD-3-Clause */
/* Which layer has what, and what anyone wants. */

#include "cmocka-all.h"
#include "fixture.h"
#include "resolve.h"

#include <errno.h>
#include <unistd.h>

#define CHUNK 4096

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
  fixture_close (&here);
  return 0;
}

static struct snapshot *
freeze (uint64_t chunk_size)
{
  here.options.chunk_size = chunk_size;
  return fixture_freeze (&here);
}

static void
write_some (uint64_t offset, uint64_t count)
{
  assert_int_equal (fixture_write (&here, offset, count, 9), 0);
}

#define assert_place(snapshot, offset, count, layer, free, length)             \
  assert_place_at (__FILE__, __LINE__, resolve_find (snapshot, offset, count), \
                   layer, free, length)

static void
assert_place_at (const char *file, int line, struct place place,
                 const struct snapshot *layer, bool free, uint64_t length)
{
  if (place.layer != layer || place.free != free || place.length != length) {
    print_message ("layer %u, free %d, length %u\n",
                   place.layer != NULL ? place.layer->number : 0, place.free,
                   (unsigned)place.length);
    _fail (file, line);
  }
}

/* --- find --------------------------------------------------------------- */

static void
what_nobody_has_is_on_the_origin (void **state)
{
  (void)state;
  struct snapshot *a = freeze (CHUNK);
  freeze (512);
  assert_place (a, 0, here.size, NULL, false, here.size);
  assert_place (a, 5, 1, NULL, false, 1);
}

static void
place_ends_where_the_answer_of_any_layer_does (void **state)
{
  (void)state;
  struct snapshot *a = freeze (CHUNK);
  write_some (5 * CHUNK, 1);
  struct snapshot *b = freeze (512);
  write_some (1024, 1);
  assert_place (a, 0, here.size, NULL, false, 1024);
  assert_place (a, 1030, here.size - 1030, b, false, 506);
  assert_place (a, 1536, here.size - 1536, NULL, false, 5 * CHUNK - 1536);
  assert_place (a, 5 * CHUNK, CHUNK + 1, a, false, CHUNK);
  assert_place (b, 5 * CHUNK, CHUNK + 1, NULL, false, CHUNK + 1);
}

static void
oldest_that_has_it_is_the_place (void **state)
{
  (void)state;
  struct snapshot *a = freeze (CHUNK), *b = freeze (CHUNK);
  write_some (0, CHUNK);
  struct snapshot *c = freeze (CHUNK);
  write_some (0, CHUNK);
  assert_place (a, 0, CHUNK, b, false, CHUNK);
  assert_place (c, 0, CHUNK, c, false, CHUNK);
  fixture_delete (&here, b);
  assert_place (a, 0, CHUNK, b, false, CHUNK);
}

static void
free_space_is_the_snapshots_own (void **state)
{
  (void)state;
  struct snapshot *a = freeze (CHUNK), *b = freeze (CHUNK);
  assert_int_equal (snapshot_set_free (b, 2 * CHUNK, 3 * CHUNK), 3);
  assert_place (b, 0, here.size, NULL, false, 2 * CHUNK);
  assert_place (b, 2 * CHUNK, here.size - 2 * CHUNK, b, true, 3 * CHUNK);
  assert_place (a, 0, here.size, NULL, false, here.size);
  write_some (3 * CHUNK, 1); /* for A */
  assert_place (a, 3 * CHUNK, CHUNK, b, false, CHUNK);
  assert_place (b, 2 * CHUNK, CHUNK, b, true, CHUNK);
  assert_place (b, 3 * CHUNK, CHUNK, b, true, CHUNK);
}

static void
deleted_layer_has_no_free_space (void **state)
{
  (void)state;
  struct snapshot *a = freeze (CHUNK);
  snapshot_set_free (a, 0, CHUNK);
  fixture_delete (&here, a);
  assert_place (a, 0, CHUNK, NULL, false, CHUNK);
}

static void
layer_that_is_shorter_has_nothing_beyond (void **state)
{
  (void)state;
  struct snapshot *a = freeze (CHUNK);
  fixture_delete (&here, a); /* so that it does not break */
  assert_int_equal (ftruncate (here.fd, 10000), 0);
  struct snapshot *b = freeze (CHUNK);
  write_some (8192, 1);
  assert_place (a, 0, here.size, NULL, false, 8192);
  assert_place (a, 8192, here.size - 8192, b, false, 10000 - 8192);
  assert_place (a, 10000, here.size - 10000, NULL, false, here.size - 10000);
}

/* --- is_wanted ---------------------------------------------------------- */

static void
what_no_snapshot_lacks_is_not_wanted (void **state)
{
  (void)state;
  assert_false (resolve_is_wanted (NULL, 0, CHUNK));
  struct snapshot *a = freeze (CHUNK);
  assert_true (resolve_is_wanted (a, 0, CHUNK));
  write_some (0, 1);
  assert_false (resolve_is_wanted (a, 0, CHUNK));
  assert_true (resolve_is_wanted (a, 0, CHUNK + 1));
  fixture_delete (&here, a);
  assert_false (resolve_is_wanted (a, CHUNK, CHUNK));
}

static void
older_snapshots_want_what_no_layer_before_has (void **state)
{
  (void)state;
  freeze (CHUNK);
  struct snapshot *b = freeze (CHUNK);
  write_some (0, CHUNK);
  fixture_delete (&here, b);
  assert_false (resolve_is_wanted (b, 0, CHUNK));
  assert_true (resolve_is_wanted (b, CHUNK, CHUNK));
}

static void
range_is_wanted_if_any_part_is (void **state)
{
  (void)state;
  freeze (CHUNK);
  struct snapshot *b = freeze (512);
  write_some (512, 512);
  fixture_delete (&here, b);
  assert_false (resolve_is_wanted (b, 512, 512));
  assert_true (resolve_is_wanted (b, 512, 513));
  assert_true (resolve_is_wanted (b, 0, CHUNK));
}

static void
nothing_is_wanted_past_a_broken_one (void **state)
{
  (void)state;
  struct snapshot *a = freeze (CHUNK), *b = freeze (CHUNK);
  struct snapshot *c = freeze (CHUNK);
  snapshot_break (b, EIO, "a test");
  assert_false (resolve_is_wanted (b, 0, CHUNK));
  assert_true (resolve_is_wanted (c, 0, CHUNK));
  assert_true (resolve_is_wanted (a, 0, CHUNK));
  fixture_delete (&here, c);
  assert_false (resolve_is_wanted (c, 0, CHUNK));
}

static void
free_space_is_not_wanted (void **state)
{
  (void)state;
  struct snapshot *a = freeze (CHUNK);
  snapshot_set_free (a, 0, 2 * CHUNK);
  assert_false (resolve_is_wanted (a, 0, 2 * CHUNK));
  assert_true (resolve_is_wanted (a, 0, 2 * CHUNK + 1));
  struct snapshot *b = freeze (CHUNK);
  snapshot_set_free (b, CHUNK, 2 * CHUNK);
  assert_true (resolve_is_wanted (b, 0, CHUNK));
  assert_false (resolve_is_wanted (b, CHUNK, CHUNK));
  assert_true (resolve_is_wanted (b, 2 * CHUNK, CHUNK));
}

static void
what_lies_beyond_a_snapshot_is_not_wanted (void **state)
{
  (void)state;
  assert_int_equal (ftruncate (here.fd, 10000), 0);
  struct snapshot *a = freeze (CHUNK);
  assert_int_equal (ftruncate (here.fd, 20000), 0);
  struct snapshot *b = freeze (CHUNK);
  write_some (8192, CHUNK);
  fixture_delete (&here, b);
  assert_false (resolve_is_wanted (b, 12288, CHUNK));
  assert_true (resolve_is_wanted (a, 9999, CHUNK));
  assert_false (resolve_is_wanted (a, 10000, CHUNK));
  assert_false (resolve_is_wanted (b, 8192, CHUNK));
}

/* --- kept and unwanted -------------------------------------------------- */

static uint64_t
kept (uint64_t mask)
{
  snapset_enter (here.set);
  const uint64_t result = resolve_kept (here.set, 0, mask);
  snapset_leave (here.set);
  return result;
}

static uint64_t
unwanted (uint64_t mask)
{
  snapset_enter (here.set);
  const uint64_t result = resolve_unwanted (here.set, 0, mask);
  snapset_leave (here.set);
  return result;
}

static void
newest_snapshot_keeps_for_itself (void **state)
{
  (void)state;
  freeze (CHUNK);
  freeze (CHUNK);
  write_some (0, CHUNK);
  assert_int_equal (kept (UINT64_MAX), 0);
}

static void
deleted_ones_after_it_keep_for_it (void **state)
{
  (void)state;
  freeze (CHUNK);
  struct snapshot *b = freeze (CHUNK);
  write_some (3 * CHUNK, CHUNK);
  struct snapshot *c = freeze (CHUNK);
  write_some (5 * CHUNK, CHUNK);
  fixture_delete (&here, b);
  fixture_delete (&here, c);
  assert_int_equal (kept (UINT64_MAX), 0x28);
  assert_int_equal (kept (0x8f), 0x08);
}

static void
what_older_ones_have_is_not_kept (void **state)
{
  (void)state;
  freeze (CHUNK);
  write_some (0, CHUNK);
  freeze (CHUNK);
  fixture_delete (&here, freeze (CHUNK));
  assert_int_equal (kept (UINT64_MAX), 0);
}

static void
large_chunk_keeps_many_small_ones (void **state)
{
  (void)state;
  freeze (512);
  struct snapshot *b = freeze (CHUNK);
  write_some (CHUNK, 1);
  fixture_delete (&here, b);
  assert_int_equal (kept (UINT64_MAX), 0xff00);
}

static void
target_with_small_chunks_asks_the_newest_snapshot (void **state)
{
  (void)state;
  freeze (CHUNK);
  write_some (CHUNK, 1);
  struct snapshot *b = freeze (512);
  write_some (0, 512);
  fixture_delete (&here, b);
  assert_ptr_equal (here.set->target, b);
  assert_int_equal (kept (UINT64_MAX), 0xff00); /* its own do not count */
}

static void
past_a_broken_layer_nothing_need_be_copied (void **state)
{
  (void)state;
  freeze (CHUNK);
  struct snapshot *b = freeze (CHUNK);
  snapshot_break (b, EIO, "a test");
  fixture_delete (&here, b);
  assert_int_equal (kept (0x1234), 0x1234);
}

static void
free_space_that_no_older_one_wants_is_unwanted (void **state)
{
  (void)state;
  struct snapshot *a = freeze (CHUNK);
  assert_int_equal (unwanted (UINT64_MAX), 0);
  snapshot_set_free (a, CHUNK, 2 * CHUNK);
  assert_int_equal (unwanted (UINT64_MAX), 6);
  assert_int_equal (unwanted (2), 2);
  struct snapshot *b = freeze (CHUNK);
  snapshot_set_free (b, 0, 2 * CHUNK);
  assert_int_equal (unwanted (UINT64_MAX), 2);
}

static void
small_chunks_of_free_space_are_unwanted (void **state)
{
  (void)state;
  struct snapshot *a = freeze (CHUNK);
  snapshot_set_free (a, CHUNK, CHUNK);
  struct snapshot *b = freeze (512);
  fixture_delete (&here, b);
  assert_ptr_equal (here.set->target, b);
  assert_int_equal (unwanted (UINT64_MAX), 0xff00);
}

static void
nothing_is_unwanted_without_snapshots (void **state)
{
  (void)state;
  assert_int_equal (unwanted (UINT64_MAX), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown (name, setup, teardown)

int
main (int argc, char **argv)
{
  const struct CMUnitTest tests[] = {
    TEST (what_nobody_has_is_on_the_origin),
    TEST (place_ends_where_the_answer_of_any_layer_does),
    TEST (oldest_that_has_it_is_the_place),
    TEST (free_space_is_the_snapshots_own),
    TEST (deleted_layer_has_no_free_space),
    TEST (layer_that_is_shorter_has_nothing_beyond),
    TEST (what_no_snapshot_lacks_is_not_wanted),
    TEST (older_snapshots_want_what_no_layer_before_has),
    TEST (range_is_wanted_if_any_part_is),
    TEST (nothing_is_wanted_past_a_broken_one),
    TEST (free_space_is_not_wanted),
    TEST (what_lies_beyond_a_snapshot_is_not_wanted),
    TEST (newest_snapshot_keeps_for_itself),
    TEST (deleted_ones_after_it_keep_for_it),
    TEST (what_older_ones_have_is_not_kept),
    TEST (large_chunk_keeps_many_small_ones),
    TEST (target_with_small_chunks_asks_the_newest_snapshot),
    TEST (past_a_broken_layer_nothing_need_be_copied),
    TEST (free_space_that_no_older_one_wants_is_unwanted),
    TEST (small_chunks_of_free_space_are_unwanted),
    TEST (nothing_is_unwanted_without_snapshots),
  };

  if (argc > 1)
    cmocka_set_test_filter (argv[1]);
  return cmocka_run_group_tests (tests, NULL, NULL);
}
