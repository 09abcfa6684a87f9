/* SPDX-License-Identifier: BSD-3-Clause */
/* The space of deleted snapshots: what is given back, when, and what
 * happens if that fails.
 */

#include "cmocka-all.h"
#include "call-hook.h"
#include "fake-engine.h"
#include "fixture.h"
#include "nbdkit-stub.h"
#include "scoped.h"
#include "scratch.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define CHUNK 4096

static struct fixture here;

static int
setup (void **state)
{
  (void)state;
  fake_reset (NULL);
  here = (struct fixture){ .engine = &engine_fake };
  fixture_open (&here);
  return 0;
}

static int
teardown (void **state)
{
  (void)state;
  call_hook_set (NULL);
  call_hook_off = false;
  fake_let_go ();
  fixture_close (&here);
  scratch_remove ();
  return 0;
}

static struct snapshot *
freeze (uint64_t chunk_size)
{
  here.options.chunk_size = chunk_size;
  return fixture_freeze (&here);
}

static struct snapshot *
freeze_named (const char *name)
{
  here.options.backing_store = scratch_path (name);
  struct snapshot *snapshot = freeze (CHUNK);
  here.options.backing_store = test_directory ();
  return snapshot;
}

static void
write_chunks (unsigned first, unsigned count, uint8_t value)
{
  assert_int_equal (fixture_write (&here, first * (uint64_t)CHUNK,
                                   count * (uint64_t)CHUNK, value),
                    0);
}

static void
reclaim_and_settle (void)
{
  fixture_reclaim (&here);
  fixture_settle (&here);
}

/* --- what is given back ------------------------------------------------- */

/* The header is a block of its own. */
#define HEADER 4096

static void
deleted_snapshot_shrinks_to_what_older_ones_need (void **state)
{
  (void)state;
  struct snapshot *a = freeze (CHUNK);
  write_chunks (0, 10, 1);
  struct snapshot *b = freeze (CHUNK);
  write_chunks (0, 20, 2);
  fixture_drain (b);
  assert_int_equal (backfile_allocated (b->backfile), HEADER + 20 * CHUNK);
  freeze (CHUNK);
  fixture_delete (&here, b);
  reclaim_and_settle ();
  assert_int_equal (fixture_layers (&here), 3);
  assert_int_equal (bitmap_weight (&b->hastrans), 10);
  assert_int_equal (backfile_allocated (b->backfile), HEADER + 10 * CHUNK);
  assert_frozen (&here, a);
}

static void
it_shrinks_again_with_each_older_one_that_goes (void **state)
{
  (void)state;
  struct snapshot *a = freeze (CHUNK);
  struct snapshot *b = freeze (CHUNK);
  write_chunks (0, 10, 1);
  struct snapshot *c = freeze (CHUNK);
  write_chunks (5, 10, 2);
  freeze (CHUNK);
  fixture_delete (&here, c);
  reclaim_and_settle ();
  assert_int_equal (bitmap_weight (&c->hastrans), 5); /* 10 to 14, for B */
  fixture_delete (&here, b);
  fixture_settle (&here);
  assert_int_equal (fixture_layers (&here), 3); /* B has all of it */
  assert_int_equal (bitmap_weight (&b->hastrans), 15);
  assert_int_equal (backfile_allocated (b->backfile), HEADER + 15 * CHUNK);
  assert_frozen (&here, a);
  fixture_delete (&here, a);
  fixture_settle (&here);
  assert_int_equal (fixture_layers (&here), 1);
}

static void
chunk_that_is_needed_in_part_is_kept_whole (void **state)
{
  (void)state;
  struct snapshot *a = freeze (512);
  assert_int_equal (fixture_write (&here, 0, CHUNK - 512, 1), 0);
  struct snapshot *b = freeze (CHUNK);
  write_chunks (0, 1, 2);
  freeze (CHUNK);
  fixture_delete (&here, b);
  reclaim_and_settle ();
  assert_int_equal (bitmap_weight (&b->hastrans), 1);
  assert_frozen (&here, a);
}

static void
free_space_of_older_ones_is_not_kept (void **state)
{
  (void)state;
  struct snapshot *a = freeze (CHUNK);
  struct snapshot *b = freeze (CHUNK);
  write_chunks (0, 10, 1);
  assert_int_equal (snapshot_set_free (a, 2 * CHUNK, 3 * CHUNK), 3);
  freeze (CHUNK);
  fixture_delete (&here, b);
  reclaim_and_settle ();
  assert_int_equal (bitmap_weight (&b->hastrans), 7);
  memset (here.old + 2 * CHUNK, 0, 3 * CHUNK);
  assert_frozen (&here, a);
}

static void
oldest_is_dropped_at_once (void **state)
{
  (void)state;
  struct snapshot *a = freeze (CHUNK);
  write_chunks (0, 10, 1);
  struct snapshot *b = freeze (CHUNK);
  fixture_delete (&here, a);
  reclaim_and_settle ();
  assert_int_equal (fixture_layers (&here), 1);
  assert_int_equal (fixture_dropped (&here), 0);
  assert_ptr_equal (snapset_newest (here.set), b);
}

static void
space_is_given_back_while_a_client_has_it_open (void **state)
{
  (void)state;
  struct snapshot *a = freeze (CHUNK);
  write_chunks (0, 10, 1);
  assert_ptr_equal (snapset_open (here.set, "1"), a);
  fixture_delete (&here, a);
  reclaim_and_settle ();
  assert_int_equal (fixture_dropped (&here), 1);
  assert_int_equal (backfile_allocated (a->backfile), 0);
  snapset_close (here.set, a);
  fixture_settle (&here);
  assert_int_equal (fixture_dropped (&here), 0);
}

static void
names_of_backing_files_go_with_what_is_dropped (void **state)
{
  (void)state;
  struct snapshot *a = freeze_named ("a"), *b = freeze_named ("b");
  write_chunks (0, 4, 1);
  struct snapshot *c = freeze_named ("c");
  assert_int_equal (scratch_files (), 3);
  fixture_delete (&here, b); /* A needs it */
  reclaim_and_settle ();
  assert_int_equal (scratch_files (), 3);
  fixture_delete (&here, a);
  fixture_settle (&here);
  assert_int_equal (scratch_files (), 1);
  assert_int_equal (access (scratch_path ("c"), F_OK), 0);
  fixture_delete (&here, c);
  fixture_settle (&here);
  assert_int_equal (scratch_files (), 0);
}

static void
named_file_can_be_made_again (void **state)
{
  (void)state;
  fixture_reclaim (&here);
  for (unsigned i = 0; i < 5; i++) {
    struct snapshot *snapshot = freeze_named ("again");
    write_chunks (i, 1, 1);
    fixture_delete (&here, snapshot);
    fixture_settle (&here);
  }
  assert_no_message ();
}

static void
nothing_is_left_of_many (void **state)
{
  struct snapshot *all[12];
  const uint64_t held = throttle_held (here.set->shared.throttle);

  (void)state;
  for (unsigned i = 0; i < 12; i++) {
    all[i] = freeze (i % 2 ? CHUNK : 512);
    write_chunks (i * 3, 5, (uint8_t)i);
  }
  fixture_reclaim (&here);
  for (unsigned i = 0; i < 12; i++)
    fixture_delete (&here, all[i * 5 % 12]);
  fixture_settle (&here);
  assert_null (here.set->oldest);
  assert_null (here.set->last);
  assert_null (here.set->target);
  assert_null (here.set->dropped);
  assert_null (snapset_newest (here.set));
  assert_int_equal (held, 0);
  /* Only what is kept for the next copies, which a second time does not
   * make more.
   */
  const uint64_t kept = throttle_held (here.set->shared.throttle);
  for (unsigned i = 0; i < 3; i++) {
    struct snapshot *snapshot = freeze (CHUNK);
    write_chunks (0, 64, (uint8_t)i + 1);
    fixture_delete (&here, snapshot);
    fixture_settle (&here);
  }
  assert_in_range (throttle_held (here.set->shared.throttle), 0,
                   kept + throttle_least (64 * CHUNK) * 2);
  assert_no_message ();
}

/* --- how many layers ---------------------------------------------------- */

static void
come_and_go (bool settle, const uint64_t *sizes, unsigned count)
{
  struct snapshot *old = freeze (CHUNK);

  fixture_reclaim (&here);
  for (unsigned i = 0; i < 60; i++) {
    struct snapshot *snapshot = freeze (sizes[i % count]);
    write_chunks (i, 2, (uint8_t)i);
    fixture_delete (&here, snapshot);
    if (settle)
      fixture_settle (&here);
  }
  fixture_settle (&here);
  assert_frozen (&here, old);
  assert_int_equal (fixture_dropped (&here), 0);
}

static void
many_that_come_and_go_leave_one_layer (void **state)
{
  static const uint64_t size = CHUNK;

  (void)state;
  come_and_go (true, &size, 1);
  assert_int_equal (fixture_layers (&here), 2);
}

static void
many_that_come_and_go_fast_leave_one_layer (void **state)
{
  static const uint64_t size = CHUNK;

  (void)state;
  come_and_go (false, &size, 1);
  assert_int_equal (fixture_layers (&here), 2);
}

/* A layer is not merged into one with much larger chunks, nor into the
 * target.  So there are at most two, the target, and two more.
 */
static void
layers_of_mixed_chunk_sizes_are_few (void **state)
{
  static const uint64_t sizes[] = { 65536, 512, 4096, 65536, 1024 };

  (void)state;
  come_and_go (false, sizes, 5);
  assert_in_range (fixture_layers (&here), 2, 6);
}

/* --- what goes wrong ---------------------------------------------------- */

/* A, then two that are deleted, the first of which has one chunk, and D. */
static struct snapshot *a, *b, *c, *d;
static int fd_b;
static int engine_error;

static int64_t
fail_b (const struct engine_request *request, size_t length, unsigned index)
{
  (void)length;
  (void)index;
  return request->fd == fd_b ? -engine_error : FAKE_WRITE;
}

static void
delete_two (void)
{
  uint64_t file_offset;

  a = freeze (CHUNK);
  b = freeze (CHUNK);
  write_chunks (0, 1, 1);
  fixture_drain (b);
  backfile_locate (b->backfile, 0, &fd_b, &file_offset);
  c = freeze (CHUNK);
  write_chunks (0, 20, 2);
  fixture_drain (c);
  d = freeze (CHUNK);
  fixture_delete (&here, b);
  fixture_delete (&here, c);
}

/* Of the layers that there are still. */
static bool
any_is_broken (void)
{
  bool broken = false;

  SCOPED_LOCK (&here.set->lock);
  for (struct snapshot *s = here.set->last; s != NULL; s = s->older)
    broken |= snapshot_is_broken (s);
  return broken;
}

static void
assert_nothing_is_lost (void)
{
  assert_false (any_is_broken ());
  assert_frozen (&here, a);
  write_chunks (0, 40, 7);
  assert_frozen (&here, a);
}

/* What failed is tried again after the next deletion. */
static void
assert_merged_next_time (void)
{
  assert_int_equal (fixture_layers (&here), 4);
  struct snapshot *other = freeze (CHUNK);
  fixture_delete (&here, other);
  fixture_settle (&here);
  assert_int_equal (fixture_layers (&here), 3);
  assert_frozen (&here, a);
}

static void
merge_into_a_bad_store (int error)
{
  delete_two ();
  engine_error = error;
  fake_reset (fail_b);
  reclaim_and_settle ();
  assert_int_equal (messages_with ("they stay where they are"),
                    messages_count ());
  assert_true (messages_with (strerror (error)) > 0);
  assert_nothing_is_lost ();
  fake_reset (NULL);
  assert_merged_next_time ();
}

static void
merge_into_a_full_store_loses_nothing (void **state)
{
  (void)state;
  merge_into_a_bad_store (ENOSPC);
}

static void
merge_into_a_bad_disk_loses_nothing (void **state)
{
  (void)state;
  merge_into_a_bad_store (EIO);
}

/* Refused to all threads but the test's. */
static enum call bad_call;
static int bad_errno;
static _Thread_local bool is_main;

static struct call_verdict
refuse_to_others (const struct call_event *event)
{
  return (struct call_verdict){ .error = event->call == bad_call && !is_main
                                             ? bad_errno
                                             : 0 };
}

static void
refuse (enum call call, int error)
{
  is_main = true;
  bad_call = call;
  bad_errno = error;
  call_hook_set (refuse_to_others);
}

static void
merge_without_memory_loses_nothing (void **state)
{
  (void)state;
  delete_two ();
  refuse (CALL_MEMORY, ENOMEM);
  reclaim_and_settle ();
  call_hook_set (NULL);
  assert_nothing_is_lost ();
  assert_merged_next_time ();
}

static void
merge_of_what_cannot_be_read_loses_nothing (void **state)
{
  (void)state;
  delete_two ();
  refuse (CALL_PREAD, EIO);
  reclaim_and_settle ();
  call_hook_set (NULL);
  assert_nothing_is_lost ();
  assert_merged_next_time ();
}

static void
store_that_cannot_punch_loses_nothing (void **state)
{
  (void)state;
  delete_two ();
  refuse (CALL_FALLOCATE, EOPNOTSUPP);
  reclaim_and_settle ();
  call_hook_set (NULL);
  assert_true (debugs_with ("no holes can be punched") > 0);
  assert_no_message ();
  assert_nothing_is_lost ();
  assert_int_equal (fixture_layers (&here), 3); /* merged all the same */
}

static void
maxsize_does_not_count_for_a_merge (void **state)
{
  (void)state;
  here.options.maxsize = 20 * CHUNK;
  delete_two ();
  reclaim_and_settle ();
  assert_int_equal (fixture_layers (&here), 3);
  assert_int_equal (bitmap_weight (&b->hastrans), 20);
  assert_no_message ();
  assert_frozen (&here, a);
}

#define TEST(name) cmocka_unit_test_setup_teardown (name, setup, teardown)

int
main (int argc, char **argv)
{
  const struct CMUnitTest tests[] = {
    TEST (deleted_snapshot_shrinks_to_what_older_ones_need),
    TEST (it_shrinks_again_with_each_older_one_that_goes),
    TEST (chunk_that_is_needed_in_part_is_kept_whole),
    TEST (free_space_of_older_ones_is_not_kept),
    TEST (oldest_is_dropped_at_once),
    TEST (space_is_given_back_while_a_client_has_it_open),
    TEST (names_of_backing_files_go_with_what_is_dropped),
    TEST (named_file_can_be_made_again),
    TEST (nothing_is_left_of_many),
    TEST (many_that_come_and_go_leave_one_layer),
    TEST (many_that_come_and_go_fast_leave_one_layer),
    TEST (layers_of_mixed_chunk_sizes_are_few),
    TEST (merge_into_a_full_store_loses_nothing),
    TEST (merge_into_a_bad_disk_loses_nothing),
    TEST (merge_without_memory_loses_nothing),
    TEST (merge_of_what_cannot_be_read_loses_nothing),
    TEST (store_that_cannot_punch_loses_nothing),
    TEST (maxsize_does_not_count_for_a_merge),
  };

  if (argc > 1)
    cmocka_set_test_filter (argv[1]);
  return cmocka_run_group_tests (tests, NULL, NULL);
}
