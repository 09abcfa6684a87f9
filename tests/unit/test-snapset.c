/* SPDX-License-Identifier: BSD-3-Clause */

#include "cmocka-all.h"
#include "call-hook.h"
#include "fixture.h"
#include "nbdkit-stub.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

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

static void
set_is_empty_at_first (void **state)
{
  (void)state;
  assert_null (snapset_newest (here.set));
  assert_null (snapset_find (here.set, "1"));
}

static void
snapshots_are_numbered_from_one (void **state)
{
  (void)state;
  for (unsigned number = 1; number <= 4; number++) {
    struct snapshot *snapshot = fixture_freeze (&here);
    assert_int_equal (snapshot->number, number);
    assert_ptr_equal (snapset_newest (here.set), snapshot);
    const char text[] = { (char)('0' + number), '\0' };
    assert_ptr_equal (snapset_find (here.set, text), snapshot);
  }
  assert_null (snapset_find (here.set, "0"));
  assert_null (snapset_find (here.set, "5"));
}

static void
chain_goes_from_oldest_to_newest (void **state)
{
  struct snapshot *snapshots[3];

  (void)state;
  for (unsigned i = 0; i < 3; i++)
    snapshots[i] = fixture_freeze (&here);
  assert_null (snapshots[0]->older);
  assert_ptr_equal (snapshots[1]->older, snapshots[0]);
  assert_ptr_equal (snapshots[2]->older, snapshots[1]);
  assert_ptr_equal (snapshots[0]->newer, snapshots[1]);
  assert_ptr_equal (snapshots[1]->newer, snapshots[2]);
  assert_null (snapshots[2]->newer);
}

static void
snapshot_has_the_size_of_its_instant (void **state)
{
  (void)state;
  struct snapshot *before = fixture_freeze (&here);
  assert_int_equal (ftruncate (here.fd, 2 << 20), 0);
  struct snapshot *after = fixture_freeze (&here);
  assert_int_equal (before->size, 1 << 20);
  assert_int_equal (after->size, 2 << 20);
}

static struct call_verdict
bad_store (const struct call_event *event)
{
  return (struct call_verdict){ .error
                                = event->call == CALL_FTRUNCATE ? EDQUOT : 0 };
}

static void
freeze_that_fails_changes_nothing (void **state)
{
  (void)state;
  struct snapshot *first = fixture_freeze (&here);
  call_hook_set (bad_store);
  assert_null (snapset_freeze (here.set, &here.options));
  call_hook_set (NULL);
  assert_one_message ("backing-store=", strerror (EDQUOT));
  assert_ptr_equal (snapset_newest (here.set), first);
  assert_null (atomic_load (&first->newer));
  assert_int_equal (fixture_freeze (&here)->number, 2);
}

static struct call_verdict
no_size (const struct call_event *event)
{
  return (struct call_verdict){ .error = event->call == CALL_FSTAT ? EIO : 0 };
}

static void
freeze_of_an_origin_without_size (void **state)
{
  (void)state;
  call_hook_set (no_size);
  assert_null (snapset_freeze (here.set, &here.options));
  call_hook_set (NULL);
  assert_one_message ("size", strerror (EIO));
}

static struct call_verdict
no_memory (const struct call_event *event)
{
  return (struct call_verdict){ .error
                                = event->call == CALL_MEMORY ? ENOMEM : 0 };
}

static void
set_without_memory (void **state)
{
  (void)state;
  call_hook_set (no_memory);
  struct snapset *set
      = snapset_create (here.origin, &engine_sync, NULL, 1 << 20);
  call_hook_set (NULL);
  assert_null (set);
  assert_one_message (strerror (ENOMEM));
}

static void
free_of_nothing_is_allowed (void **state)
{
  (void)state;
  snapset_free (NULL);
}

/* Threads that write without a pause, each pass one value everywhere. */
#define WRITERS 4
#define BLOCKS 16

struct writer {
  pthread_t thread;
  unsigned number;
};

static atomic_bool enough;

static void *
write_all_the_time (void *arg)
{
  const struct writer *writer = arg;
  uint8_t buf[4096];

  for (unsigned pass = 1; !atomic_load (&enough); pass++) {
    memset (buf, (int)(pass % 255) + 1, sizeof buf);
    for (unsigned block = 0; block < BLOCKS; block++) {
      const uint64_t offset = (writer->number * BLOCKS + block) * sizeof buf;
      int r = cow_begin_write (here.set, offset, sizeof buf);
      assert (r == 0);
      r = origin_write (here.origin, buf, sizeof buf, offset, false);
      assert (r == 0);
      cow_end_write (here.set);
    }
  }
  return NULL;
}

/* A writer is somewhere between two blocks at any instant: those before have
 * one value, those after have the one before it.  (Neighbours of a later
 * pass would show that a write was not on one side of the instant.)
 */
static void
assert_one_instant (struct snapshot *snapshot)
{
  static uint8_t buf[WRITERS][BLOCKS][4096];

  assert_int_equal (view_read (here.set, snapshot, buf, sizeof buf, 0), 0);
  for (unsigned w = 0; w < WRITERS; w++) {
    unsigned steps = 0;
    for (unsigned b = 0; b < BLOCKS; b++) {
      for (unsigned i = 1; i < 4096; i++)
        assert_int_equal (buf[w][b][i], buf[w][b][0]);
      if (b > 0 && buf[w][b][0] != buf[w][b - 1][0]) {
        assert_int_equal (buf[w][b - 1][0], buf[w][b][0] % 255 + 1);
        steps++;
      }
    }
    assert_true (steps <= 1);
  }
}

static void
freeze_is_an_instant_and_is_not_starved_by_writers (void **state)
{
  struct writer writers[WRITERS];
  struct snapshot *snapshots[5];
  uint8_t ones[4096]; /* what the pass before the first would write */

  (void)state;
  memset (ones, 1, sizeof ones);
  for (unsigned i = 0; i < WRITERS * BLOCKS; i++)
    assert_int_equal (origin_write (here.origin, ones, sizeof ones,
                                    i * UINT64_C (4096), false),
                      0);
  atomic_store (&enough, false);
  for (unsigned i = 0; i < WRITERS; i++) {
    writers[i].number = i;
    pthread_create (&writers[i].thread, NULL, write_all_the_time, &writers[i]);
  }
  for (unsigned i = 0; i < 5; i++) {
    snapshots[i] = fixture_freeze (&here);
    assert_one_instant (snapshots[i]);
  }
  atomic_store (&enough, true);
  for (unsigned i = 0; i < WRITERS; i++)
    pthread_join (writers[i].thread, NULL);
  for (unsigned i = 0; i < 5; i++)
    assert_one_instant (snapshots[i]);
  assert_no_message ();
}

static atomic_bool frozen;

static void *
freeze_one (void *arg)
{
  (void)arg;
  fixture_freeze (&here);
  atomic_store (&frozen, true);
  return NULL;
}

static void
freeze_waits_for_the_writes_that_are_in_the_gate (void **state)
{
  pthread_t thread;

  (void)state;
  atomic_store (&frozen, false);
  assert_int_equal (cow_begin_write (here.set, 0, 4096), 0);
  pthread_create (&thread, NULL, freeze_one, NULL);
  /* A gate that prefers writers refuses us once one waits. */
  while (pthread_rwlock_tryrdlock (&here.set->gate) == 0) {
    pthread_rwlock_unlock (&here.set->gate);
    if (atomic_load (&frozen))
      break;
    sched_yield ();
  }
  assert_false (atomic_load (&frozen));
  assert_null (snapset_newest (here.set));
  cow_end_write (here.set);
  pthread_join (thread, NULL);
  assert_int_equal (snapset_newest (here.set)->number, 1);
}

static void *
freeze_some (void *arg)
{
  (void)arg;
  for (unsigned i = 0; i < 4; i++)
    fixture_freeze (&here);
  return NULL;
}

static void
numbers_are_given_once_between_threads (void **state)
{
  pthread_t threads[3];
  bool seen[13] = { false };

  (void)state;
  for (unsigned i = 0; i < 3; i++)
    pthread_create (&threads[i], NULL, freeze_some, NULL);
  for (unsigned i = 0; i < 3; i++)
    pthread_join (threads[i], NULL);
  for (const struct snapshot *s = snapset_newest (here.set); s != NULL;
       s = s->older) {
    assert_in_range (s->number, 1, 12);
    assert_false (seen[s->number]);
    seen[s->number] = true;
  }
  for (unsigned number = 1; number <= 12; number++)
    assert_true (seen[number]);
}

#define TEST(name) cmocka_unit_test_setup_teardown (name, setup, teardown)

int
main (void)
{
  const struct CMUnitTest tests[] = {
    TEST (set_is_empty_at_first),
    TEST (snapshots_are_numbered_from_one),
    TEST (chain_goes_from_oldest_to_newest),
    TEST (snapshot_has_the_size_of_its_instant),
    TEST (freeze_that_fails_changes_nothing),
    TEST (freeze_of_an_origin_without_size),
    TEST (set_without_memory),
    TEST (free_of_nothing_is_allowed),
    TEST (freeze_is_an_instant_and_is_not_starved_by_writers),
    TEST (freeze_waits_for_the_writes_that_are_in_the_gate),
    TEST (numbers_are_given_once_between_threads),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
