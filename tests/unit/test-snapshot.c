/* SPDX-License-Identifier: BSD-3-Clause */

#include "cmocka-all.h"
#include "call-hook.h"
#include "fake-engine.h"
#include "fixture.h"
#include "storefile.h"
#include "nbdkit-stub.h"
#include "scoped.h"
#include "scratch.h"
#include "snapshot.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>

static struct fixture here;

static int
setup (void **state)
{
  (void)state;
  fake_reset (NULL);
  here = (struct fixture){ .engine = &engine_fake, .size = 100000 };
  fixture_open (&here);
  return 0;
}

static int
teardown (void **state)
{
  (void)state;
  call_hook_set (NULL);
  fake_let_go ();
  fixture_close (&here);
  scratch_remove ();
  return 0;
}

static uint64_t
space_of (const struct snapshot *snapshot)
{
  uint64_t file_offset;
  struct stat st;
  int fd;

  backfile_locate (snapshot->backfile, 0, &fd, &file_offset);
  assert_int_equal (fstat (fd, &st), 0);
  return (uint64_t)st.st_blocks * 512;
}

static void
new_snapshot_is_what_was_asked_for (void **state)
{
  (void)state;
  here.options.chunk_size = 512;
  struct snapshot *snapshot = fixture_freeze (&here);
  assert_int_equal (snapshot->number, 1);
  assert_int_equal (snapshot->size, 100000);
  assert_int_equal (snapshot->chunk_shift, 9);
  assert_int_equal (snapshot_chunks (snapshot), 196);
  assert_false (snapshot_is_broken (snapshot));
  assert_null (snapshot_why_broken (snapshot));
  assert_int_equal (snapshot->copied, 0);
}

static void
last_chunk_may_be_short (void **state)
{
  (void)state;
  struct snapshot *snapshot = fixture_freeze (&here);
  assert_int_equal (snapshot_chunks (snapshot), 25);
  assert_int_equal (snapshot_bytes (snapshot, 0, 1), 4096);
  assert_int_equal (snapshot_bytes (snapshot, 24, 1), 100000 - 24 * 4096);
  assert_int_equal (snapshot_bytes (snapshot, 0, 25), 100000);
}

static void
run_is_at_most_a_group_a_mebibyte_and_an_eighth_of_memory (void **state)
{
  static const struct {
    uint64_t chunk, memory, run;
  } cases[] = {
    { 512, 64 << 20, 64 * 512 },      { 4096, 64 << 20, 64 * 4096 },
    { 65536, 64 << 20, 1 << 20 },     { 1 << 20, 64 << 20, 1 << 20 },
    { 16 << 20, 64 << 20, 16 << 20 }, { 4096, 1 << 20, 65536 },
  };

  (void)state;
  for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    struct snapshot_shared shared = here.set->shared;
    shared.throttle = throttle_create (cases[i].memory);
    here.options.chunk_size = cases[i].chunk;
    struct snapshot *snapshot = snapshot_create (
        &here.options, 1, here.size, storefile_absent ("name"), NULL, &shared);
    assert_non_null (snapshot);
    assert_int_equal (snapshot->run_limit, cases[i].run);
    snapshot_free (snapshot);
    throttle_free (shared.throttle);
  }
}

static void
count_keeps_within_maxsize (void **state)
{
  (void)state;
  here.options.maxsize = 10000;
  struct snapshot *snapshot = fixture_freeze (&here);
  assert_true (snapshot_count (snapshot, 4096));
  assert_true (snapshot_count (snapshot, 10000 - 4096));
  assert_false (snapshot_count (snapshot, 1));
  assert_int_equal (snapshot->copied, 10000);
  snapshot_uncount (snapshot, 4096);
  assert_false (snapshot_count (snapshot, 4097));
  assert_true (snapshot_count (snapshot, 4096));
}

static void
count_without_maxsize_has_no_limit (void **state)
{
  (void)state;
  struct snapshot *snapshot = fixture_freeze (&here);
  assert_true (snapshot_count (snapshot, UINT64_C (1) << 60));
  assert_true (snapshot_count (snapshot, UINT64_C (1) << 60));
}

#define COUNTERS 4

static void *
count_by_one (void *arg)
{
  struct snapshot *snapshot = arg;
  uintptr_t n = 0;

  while (snapshot_count (snapshot, 1))
    n++;
  return (void *)n;
}

static void
counting_threads_share_maxsize_exactly (void **state)
{
  pthread_t threads[COUNTERS];
  uintptr_t sum = 0;
  void *n;

  (void)state;
  here.options.maxsize = 20000;
  struct snapshot *snapshot = fixture_freeze (&here);
  for (unsigned i = 0; i < COUNTERS; i++)
    pthread_create (&threads[i], NULL, count_by_one, snapshot);
  for (unsigned i = 0; i < COUNTERS; i++) {
    pthread_join (threads[i], &n);
    sum += (uintptr_t)n;
  }
  assert_int_equal (sum, 20000);
}

static void
break_says_why_once (void **state)
{
  SCOPED_FREE char *why = NULL;

  (void)state;
  struct snapshot *snapshot = fixture_freeze (&here);
  snapshot_break (snapshot, EIO, "the %s at %d", "first", 1);
  assert_true (snapshot_is_broken (snapshot));
  assert_one_message ("snapshot 1", "the first at 1");
  snapshot_break (snapshot, EIO, "the second");
  assert_one_message ("the first at 1");
  why = snapshot_why_broken (snapshot);
  assert_string_equal (why, "the first at 1");
}

#define BREAKERS 4

static void *
break_it (void *arg)
{
  snapshot_break (arg, EIO, "thread");
  return NULL;
}

static void
many_threads_break_it_once (void **state)
{
  pthread_t threads[BREAKERS];

  (void)state;
  struct snapshot *snapshot = fixture_freeze (&here);
  for (unsigned i = 0; i < BREAKERS; i++)
    pthread_create (&threads[i], NULL, break_it, snapshot);
  for (unsigned i = 0; i < BREAKERS; i++)
    pthread_join (threads[i], NULL);
  assert_one_message ("snapshot 1");
  fixture_drain (snapshot);
}

static void
break_gives_the_space_back (void **state)
{
  (void)state;
  here.options.backing_store = scratch_path ("store");
  struct snapshot *snapshot = fixture_freeze (&here);
  assert_int_equal (fixture_write (&here, 0, 50000, 0xee), 0);
  fixture_drain (snapshot);
  assert_true (space_of (snapshot) >= 50000);
  assert_int_equal (scratch_files (), 1);
  snapshot_break (snapshot, EIO, "a test");
  fixture_drain (snapshot);
  assert_int_equal (space_of (snapshot), 0);
  assert_int_equal (scratch_files (), 0);
}

static int64_t
hang (const struct engine_request *request, size_t length, unsigned index)
{
  (void)request;
  (void)length;
  (void)index;
  return FAKE_HANG;
}

static void
space_is_given_back_after_the_last_job (void **state)
{
  (void)state;
  struct snapshot *snapshot = fixture_freeze (&here);
  assert_int_equal (fixture_write (&here, 0, 4096, 0xee), 0);
  fixture_drain (snapshot);
  fake_reset (hang);
  assert_int_equal (fixture_write (&here, 8192, 4096, 0xee), 0);
  fake_wait (1);
  snapshot_break (snapshot, EIO, "a test");
  assert_true (space_of (snapshot) > 0); /* a write is under way */
  fake_let_go ();
  fixture_drain (snapshot);
  assert_int_equal (space_of (snapshot), 0);
}

static unsigned memory_calls, bad_memory_call;

static struct call_verdict
no_memory_once (const struct call_event *event)
{
  if (event->call == CALL_MEMORY && ++memory_calls == bad_memory_call)
    return (struct call_verdict){ .error = ENOMEM };
  return (struct call_verdict){ 0 };
}

static void
creation_without_memory_is_logged_once_and_leaves_nothing (void **state)
{
  (void)state;
  here.options.backing_store = scratch_path ("store");
  for (bad_memory_call = 1;; bad_memory_call++) {
    memory_calls = 0;
    messages_clear ();
    call_hook_set (no_memory_once);
    struct snapshot *snapshot = snapset_freeze (here.set, &here.options);
    call_hook_set (NULL);
    if (snapshot != NULL)
      break;
    assert_int_equal (messages_count (), 1);
    assert_int_equal (scratch_files (), 0);
    assert_null (snapset_newest (here.set));
  }
  assert_true (bad_memory_call > 4); /* it has failed at each */
}

static void
free_of_nothing_is_allowed (void **state)
{
  (void)state;
  snapshot_free (NULL);
}

#define TEST(name) cmocka_unit_test_setup_teardown (name, setup, teardown)

int
main (void)
{
  const struct CMUnitTest tests[] = {
    TEST (new_snapshot_is_what_was_asked_for),
    TEST (last_chunk_may_be_short),
    TEST (run_is_at_most_a_group_a_mebibyte_and_an_eighth_of_memory),
    TEST (count_keeps_within_maxsize),
    TEST (count_without_maxsize_has_no_limit),
    TEST (counting_threads_share_maxsize_exactly),
    TEST (break_says_why_once),
    TEST (many_threads_break_it_once),
    TEST (break_gives_the_space_back),
    TEST (space_is_given_back_after_the_last_job),
    TEST (creation_without_memory_is_logged_once_and_leaves_nothing),
    TEST (free_of_nothing_is_allowed),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
