/* SPDX-License-Identifier: BSD-3-Clause */
/* Which layer writes copy into, and that nobody waits for the store or the
 * memory of one that they do not copy into any more.
 */

#include "cmocka-all.h"
#include "call-hook.h"
#include "fake-engine.h"
#include "fixture.h"
#include "nbdkit-stub.h"
#include "scoped.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <string.h>
#include <unistd.h>

#define CHUNK 4096

static struct fixture here;
static sem_t waits, go_on;

/* Threads that the hook does something for. */
static _Thread_local bool tells, hangs;

static void
start (uint64_t memory)
{
  here = (struct fixture){ .engine = &engine_fake, .memory = memory };
  fixture_open (&here);
}

static int
setup (void **state)
{
  (void)state;
  fake_reset (NULL);
  sem_init (&waits, 0, 0);
  sem_init (&go_on, 0, 0);
  start (0);
  return 0;
}

static int
teardown (void **state)
{
  (void)state;
  call_hook_set (NULL);
  fake_let_go ();
  fixture_close (&here);
  sem_destroy (&waits);
  sem_destroy (&go_on);
  return 0;
}

static struct snapshot *
freeze (uint64_t chunk_size)
{
  here.options.chunk_size = chunk_size;
  return fixture_freeze (&here);
}

static bool
is_retired (struct snapshot *snapshot)
{
  return atomic_load (&snapshot->retired);
}

static struct snapshot *
target_now (void)
{
  SCOPED_LOCK (&here.set->lock);
  return here.set->target;
}

static void
assert_target (struct snapshot *newest, struct snapshot *target)
{
  assert_ptr_equal (snapset_newest (here.set), newest);
  assert_ptr_equal (target_now (), target);
}

/* --- the target --------------------------------------------------------- */

static void
newest_is_the_target (void **state)
{
  (void)state;
  assert_target (NULL, NULL);
  struct snapshot *a = freeze (CHUNK);
  assert_target (a, a);
  assert_false (is_retired (a));
  struct snapshot *b = freeze (512);
  assert_target (b, b);
  assert_true (is_retired (a));
  assert_false (is_retired (b));
}

static void
next_older_one_is_the_target_again (void **state)
{
  (void)state;
  struct snapshot *a = freeze (CHUNK), *b = freeze (CHUNK);
  fixture_delete (&here, b);
  assert_target (a, a);
  assert_false (is_retired (a));
  assert_true (is_retired (b));
}

static void
deletion_of_an_older_one_changes_no_target (void **state)
{
  (void)state;
  struct snapshot *a = freeze (512), *b = freeze (CHUNK);
  fixture_delete (&here, a);
  assert_target (b, b);
  assert_false (is_retired (b));
}

static void
deleted_one_with_smaller_chunks_stays_the_target (void **state)
{
  (void)state;
  struct snapshot *a = freeze (CHUNK), *b = freeze (512);
  fixture_delete (&here, b);
  assert_target (a, b);
  assert_false (is_retired (b));
  struct snapshot *c = freeze (CHUNK);
  assert_target (c, c);
  assert_true (is_retired (b));
}

static void
smallest_chunks_are_the_targets (void **state)
{
  (void)state;
  struct snapshot *a = freeze (CHUNK), *b = freeze (1024), *c = freeze (512);
  struct snapshot *d = freeze (2048);
  fixture_delete (&here, d);
  assert_target (c, c);
  fixture_delete (&here, b);
  assert_target (c, c);
  fixture_delete (&here, c);
  assert_target (a, c);
  assert_false (is_retired (c));
}

static void
broken_one_with_smaller_chunks_is_no_target (void **state)
{
  (void)state;
  struct snapshot *a = freeze (CHUNK), *b = freeze (512);
  snapshot_break (b, EIO, "a test");
  fixture_delete (&here, b);
  assert_target (a, a);
}

static void
broken_target_stays_retired (void **state)
{
  (void)state;
  struct snapshot *a = freeze (CHUNK), *b = freeze (CHUNK);
  snapshot_break (a, EIO, "a test");
  fixture_delete (&here, b);
  assert_target (a, a);
  assert_true (is_retired (a));
  assert_int_equal (fixture_write (&here, 0, CHUNK, 1), 0);
}

static void
without_snapshots_there_is_no_target (void **state)
{
  (void)state;
  struct snapshot *a = freeze (CHUNK), *b = freeze (512);
  fixture_delete (&here, b);
  fixture_delete (&here, a);
  assert_target (NULL, NULL);
  assert_true (is_retired (a));
  assert_true (is_retired (b));
  assert_int_equal (fixture_write (&here, 0, CHUNK, 1), 0);
  assert_int_equal (fake_count (), 0);
}

static void
target_that_is_dropped_gives_way (void **state)
{
  (void)state;
  struct snapshot *a = freeze (CHUNK), *b = freeze (512);
  fixture_delete (&here, b);
  fixture_delete (&here, a);
  fixture_reclaim (&here);
  fixture_settle (&here);
  assert_target (NULL, NULL);
  struct snapshot *c = freeze (CHUNK);
  assert_target (c, c);
}

/* --- waiters ------------------------------------------------------------ */

/* The next wait of a writer is as long as cow-timeout allows. */
static atomic_bool expires;

static struct call_verdict
tell_or_hang (const struct call_event *event)
{
  if (tells && event->call == CALL_WAIT) {
    if (atomic_exchange (&expires, false))
      return (struct call_verdict){ .error = ETIMEDOUT };
    sem_post (&waits);
  }
  if (hangs && event->call == CALL_FTRUNCATE) {
    hangs = false;
    sem_post (&waits);
    sem_wait (&go_on);
  }
  return (struct call_verdict){ 0 };
}

/* The store of one snapshot hangs. */
static int bad_fd;

static int64_t
hang (const struct engine_request *request, size_t length, unsigned index)
{
  (void)length;
  (void)index;
  return request->fd == bad_fd ? FAKE_HANG : FAKE_WRITE;
}

static struct snapshot *
freeze_on_a_hanging_store (void)
{
  uint64_t file_offset;
  struct snapshot *snapshot = freeze (CHUNK);

  backfile_locate (snapshot->backfile, 0, &bad_fd, &file_offset);
  fake_reset (hang);
  return snapshot;
}

static void *
write_everything (void *arg)
{
  (void)arg;
  tells = true;
  const int r = fixture_write (&here, 0, here.size, 9);
  assert (r == 0);
  return NULL;
}

/* A writer that waits, for its copies to be written or for memory. */
static pthread_t
start_writer (void)
{
  pthread_t writer;

  call_hook_set (tell_or_hang);
  pthread_create (&writer, NULL, write_everything, NULL);
  sem_wait (&waits);
  return writer;
}

static void
waiter_for_the_store_goes_on_when_the_snapshot_is_deleted (void **state)
{
  (void)state;
  here.options.durability = DURABILITY_WRITTEN;
  struct snapshot *a = freeze_on_a_hanging_store ();
  const pthread_t writer = start_writer ();
  fixture_delete (&here, a);
  pthread_join (writer, NULL);
  assert_no_message ();
}

static void
waiter_for_the_store_goes_on_when_another_is_taken (void **state)
{
  (void)state;
  here.options.durability = DURABILITY_WRITTEN;
  struct snapshot *a = freeze_on_a_hanging_store ();
  const pthread_t writer = start_writer ();
  struct snapshot *b = freeze (CHUNK);
  pthread_join (writer, NULL);
  assert_frozen (&here, a);
  assert_frozen (&here, b);
  fake_let_go ();
  fixture_drain (a);
  assert_frozen (&here, a);
  assert_no_message ();
}

static void
waiter_for_memory_goes_on_when_the_snapshot_is_deleted (void **state)
{
  (void)state;
  fixture_close (&here);
  start (100000);
  struct snapshot *a = freeze_on_a_hanging_store ();
  const pthread_t writer = start_writer ();
  assert_int_equal (a->throttled, 1);
  fixture_delete (&here, a);
  pthread_join (writer, NULL);
  assert_no_message ();
}

/* The old one's hanging store keeps the memory, so it waits again. */
static void
waiter_for_memory_waits_for_the_sake_of_whom_it_copies_to (void **state)
{
  (void)state;
  fixture_close (&here);
  start (100000);
  struct snapshot *a = freeze_on_a_hanging_store ();
  const pthread_t writer = start_writer ();
  struct snapshot *b = freeze (CHUNK);
  while (atomic_load (&b->throttled) == 0)
    sem_wait (&waits);
  assert_int_equal (a->throttled, 0);
  assert_frozen (&here, a);
  assert_frozen (&here, b);
  fixture_delete (&here, b);
  while (atomic_load (&a->throttled) == 0)
    sem_wait (&waits);
  assert_frozen (&here, a);
  fixture_delete (&here, a);
  pthread_join (writer, NULL);
  assert_no_message ();
}

/* Not the target, whose store is good, is given up, but who holds memory. */
static void
wait_for_memory_that_is_too_long_breaks_who_holds_it (void **state)
{
  (void)state;
  fixture_close (&here);
  start (100000);
  struct snapshot *a = freeze_on_a_hanging_store ();
  const pthread_t writer = start_writer ();
  struct snapshot *b = freeze (CHUNK);
  while (atomic_load (&b->throttled) == 0)
    sem_wait (&waits);
  atomic_store (&expires, true);
  throttle_wake (here.set->shared.throttle);
  pthread_join (writer, NULL);
  assert_true (snapshot_is_broken (a));
  assert_false (snapshot_is_broken (b));
  assert_one_message ("snapshot 1 is broken", "its copies held max-memory");
  assert_frozen (&here, b);
}

#define WRITERS 8

static void *
write_part (void *arg)
{
  const uint64_t part = here.size / WRITERS;
  const int r = fixture_write (&here, *(unsigned *)arg * part, part, 9);

  assert (r == 0);
  return NULL;
}

/* Their times are up together, and only one of them gives a snapshot up. */
static void
many_that_waited_for_memory_break_one_snapshot (void **state)
{
  pthread_t writers[WRITERS];
  unsigned numbers[WRITERS];

  (void)state;
  fixture_close (&here);
  start (100000);
  here.options.cow_timeout = 1;
  struct snapshot *a = freeze_on_a_hanging_store ();
  for (unsigned i = 0; i < WRITERS; i++) {
    numbers[i] = i;
    pthread_create (&writers[i], NULL, write_part, &numbers[i]);
  }
  while (atomic_load (&a->throttled) < WRITERS / 2)
    sched_yield ();
  struct snapshot *b = freeze (CHUNK);
  for (unsigned i = 0; i < WRITERS; i++)
    pthread_join (writers[i], NULL);
  assert_true (snapshot_is_broken (a));
  assert_false (snapshot_is_broken (b));
  assert_one_message ("snapshot 1 is broken", "its copies held max-memory");
  assert_frozen (&here, b);
}

static void
waiter_goes_on_when_the_store_does (void **state)
{
  (void)state;
  here.options.durability = DURABILITY_WRITTEN;
  struct snapshot *a = freeze_on_a_hanging_store ();
  const pthread_t writer = start_writer ();
  fake_let_go ();
  pthread_join (writer, NULL);
  assert_frozen (&here, a);
}

/* --- hanging stores ----------------------------------------------------- */

static void
neither_creation_nor_deletion_waits_for_a_hanging_store (void **state)
{
  (void)state;
  fixture_reclaim (&here);
  struct snapshot *a = freeze_on_a_hanging_store ();
  assert_int_equal (fixture_write (&here, 0, 4 * CHUNK, 1), 0);
  fake_wait (1);
  struct snapshot *b = freeze (CHUNK);
  assert_int_equal (fixture_write (&here, 0, 8 * CHUNK, 2), 0);
  fixture_delete (&here, a);
  assert_int_equal (fixture_write (&here, 0, 16 * CHUNK, 3), 0);
  struct snapshot *c = freeze (CHUNK);
  fixture_delete (&here, b);
  fixture_delete (&here, c);
  assert_target (NULL, NULL);
  fake_let_go ();
  fixture_settle (&here);
  assert_int_equal (fixture_layers (&here), 0);
  assert_int_equal (fixture_dropped (&here), 0);
  assert_no_message ();
}

/* It is needed, and not at rest: nothing of it moves. */
static void
deleted_one_whose_store_hangs_keeps_what_older_ones_need (void **state)
{
  (void)state;
  fixture_reclaim (&here);
  struct snapshot *a = freeze (CHUNK);
  struct snapshot *b = freeze_on_a_hanging_store ();
  assert_int_equal (fixture_write (&here, 0, 4 * CHUNK, 1), 0);
  fake_wait (1);
  freeze (CHUNK);
  fixture_delete (&here, b);
  assert_frozen (&here, a);
  assert_int_equal (fixture_layers (&here), 3);
  fake_let_go ();
  fixture_settle (&here);
  assert_frozen (&here, a);
  assert_int_equal (bitmap_weight (&b->hastrans), 4);
}

static void *
freeze_and_hang (void *arg)
{
  struct snapshot_options options = here.options;

  options.name = arg;
  hangs = true;
  struct snapshot *snapshot = snapset_freeze (here.set, &options);
  assert (snapshot != NULL);
  snapset_unpin (here.set, snapshot);
  return snapshot;
}

static pthread_t
start_creation_that_hangs (void)
{
  static char name[] = "slow";
  pthread_t thread;

  call_hook_set (tell_or_hang);
  pthread_create (&thread, NULL, freeze_and_hang, name);
  sem_wait (&waits);
  return thread;
}

static struct snapshot *
let_creation_go_on (pthread_t thread)
{
  void *snapshot;

  sem_post (&go_on);
  pthread_join (thread, &snapshot);
  return snapshot;
}

static void
creation_on_a_hanging_store_holds_up_nobody (void **state)
{
  (void)state;
  struct snapshot *a = freeze (CHUNK);
  const pthread_t thread = start_creation_that_hangs ();
  assert_int_equal (fixture_write (&here, 0, CHUNK, 1), 0);
  assert_frozen (&here, a);
  struct snapshot *b = freeze (CHUNK);
  assert_int_equal (b->number, 3);
  fixture_delete (&here, b);
  fixture_delete (&here, a);
  assert_null (snapset_newest (here.set));
  struct snapshot *slow = let_creation_go_on (thread);
  assert_target (slow, slow);
  assert_int_equal (slow->number, 2);
  assert_ptr_equal (snapset_find (here.set, "slow"), slow);
}

/* --- sizes -------------------------------------------------------------- */

static void
origin_grows_while_two_are_taken (void **state)
{
  (void)state;
  const pthread_t thread = start_creation_that_hangs ();
  struct snapshot *before = freeze (CHUNK);
  assert_int_equal (ftruncate (here.fd, 2 << 20), 0);
  struct snapshot *after = freeze (CHUNK);
  struct snapshot *slow = let_creation_go_on (thread);
  assert_int_equal (before->size, 1 << 20);
  assert_int_equal (after->size, 2 << 20);
  assert_int_equal (slow->size, 2 << 20);
  assert_ptr_equal (slow->older, after);
  assert_int_equal (fixture_write (&here, 0, 2 << 20, 9), 0);
  assert_frozen (&here, before);
  assert_frozen (&here, slow);
  assert_no_message ();
}

static void
origin_that_shrank_breaks_what_is_longer (void **state)
{
  (void)state;
  struct snapshot *a = freeze (CHUNK), *b = freeze (CHUNK);
  fixture_delete (&here, b);
  assert_int_equal (ftruncate (here.fd, 1 << 19), 0);
  struct snapshot *c = freeze (CHUNK);
  assert_true (snapshot_is_broken (a));
  assert_false (snapshot_is_broken (b));
  assert_false (snapshot_is_broken (c));
  assert_int_equal (c->size, 1 << 19);
  assert_one_message ("has shrunk from 1048576 to 524288 bytes");
}

#define TEST(name) cmocka_unit_test_setup_teardown (name, setup, teardown)

int
main (int argc, char **argv)
{
  const struct CMUnitTest tests[] = {
    TEST (newest_is_the_target),
    TEST (next_older_one_is_the_target_again),
    TEST (deletion_of_an_older_one_changes_no_target),
    TEST (deleted_one_with_smaller_chunks_stays_the_target),
    TEST (smallest_chunks_are_the_targets),
    TEST (broken_one_with_smaller_chunks_is_no_target),
    TEST (broken_target_stays_retired),
    TEST (without_snapshots_there_is_no_target),
    TEST (target_that_is_dropped_gives_way),
    TEST (waiter_for_the_store_goes_on_when_the_snapshot_is_deleted),
    TEST (waiter_for_the_store_goes_on_when_another_is_taken),
    TEST (waiter_for_memory_goes_on_when_the_snapshot_is_deleted),
    TEST (waiter_for_memory_waits_for_the_sake_of_whom_it_copies_to),
    TEST (wait_for_memory_that_is_too_long_breaks_who_holds_it),
    TEST (many_that_waited_for_memory_break_one_snapshot),
    TEST (waiter_goes_on_when_the_store_does),
    TEST (neither_creation_nor_deletion_waits_for_a_hanging_store),
    TEST (deleted_one_whose_store_hangs_keeps_what_older_ones_need),
    TEST (creation_on_a_hanging_store_holds_up_nobody),
    TEST (origin_grows_while_two_are_taken),
    TEST (origin_that_shrank_breaks_what_is_longer),
  };

  if (argc > 1)
    cmocka_set_test_filter (argv[1]);
  return cmocka_run_group_tests (tests, NULL, NULL);
}
