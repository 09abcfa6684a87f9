/* SPDX-License-Identifier: BSD-3-Clause */
/* Deleted snapshots: what the others read, before, while and after it is
 * cleared away behind them.
 */

#include "cmocka-all.h"
#include "call-hook.h"
#include "fake-engine.h"
#include "fixture.h"
#include "nbdkit-stub.h"
#include "scoped.h"
#include "scratch.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <sched.h>
#include <string.h>

#define CHUNK 4096

static struct fixture here;

/* Start over with other sizes. */
static void
start (uint64_t size, uint64_t memory)
{
  if (here.set != NULL)
    fixture_close (&here);
  here = (struct fixture){ .engine = &engine_fake,
                           .size = size,
                           .memory = memory };
  fixture_open (&here);
}

static int
setup (void **state)
{
  (void)state;
  fake_reset (NULL);
  start (1 << 20, 64 << 20);
  return 0;
}

static int
teardown (void **state)
{
  (void)state;
  call_hook_set (NULL);
  fake_let_go ();
  fixture_close (&here);
  here.set = NULL;
  scratch_remove ();
  return 0;
}

static struct snapshot *
target (void)
{
  SCOPED_LOCK (&here.set->lock);
  return here.set->target;
}

static struct snapshot *
freeze (uint64_t chunk_size)
{
  here.options.chunk_size = chunk_size;
  return fixture_freeze (&here);
}

static void
write_chunks (unsigned first, unsigned count, uint8_t value)
{
  assert_int_equal (fixture_write (&here, first * (uint64_t)CHUNK,
                                   count * (uint64_t)CHUNK, value),
                    0);
}

/* --- clients of what was deleted ---------------------------------------- */

/* The layers behind a snapshot that has left the chain go while a client
 * still has it open.
 */
static void
deleted_snapshot_is_refused_after_its_neighbours_are_freed (void **state)
{
  uint8_t buf[CHUNK];

  (void)state;
  fixture_reclaim (&here);
  struct snapshot *a = freeze (CHUNK);
  assert_ptr_equal (snapset_open (here.set, NULL), a);
  struct snapshot *b = freeze (CHUNK);
  fixture_delete (&here, a);
  fixture_settle (&here);
  assert_int_equal (fixture_dropped (&here), 1);
  freeze (CHUNK);
  fixture_delete (&here, b);
  fixture_settle (&here);
  assert_int_equal (fixture_dropped (&here), 1); /* A: B is freed */
  assert_int_equal (view_read (here.set, a, buf, CHUNK, 0), -1);
  assert_int_equal (errno, EIO);
  snapset_close (here.set, a);
}

static void
status_of_a_dropped_snapshot (void **state)
{
  (void)state;
  fixture_reclaim (&here);
  struct snapshot *a = freeze (CHUNK);
  snapset_open (here.set, NULL);
  struct snapshot *b = freeze (CHUNK);
  fixture_delete (&here, a);
  fixture_settle (&here);
  freeze (CHUNK);
  fixture_delete (&here, b);
  fixture_settle (&here);
  assert_int_equal (snapset_status (here.set, a).blocked_by, 0);
  snapset_close (here.set, a);
}

static sem_t deletion_waits;

static struct call_verdict
note_wait (const struct call_event *event)
{
  if (event->call == CALL_WAIT)
    sem_post (&deletion_waits);
  return (struct call_verdict){ 0 };
}

static void *
leave (void *arg)
{
  sem_wait (&deletion_waits);
  snapset_close (here.set, arg);
  return NULL;
}

/* Without force. */
static int
delete_newest (void)
{
  unsigned number;

  return snapset_delete (here.set, NULL, false, NULL, &number);
}

static void
client_on_its_way_out_is_waited_for (void **state)
{
  pthread_t thread;

  (void)state;
  sem_init (&deletion_waits, 0, 0);
  struct snapshot *a = freeze (CHUNK);
  assert_ptr_equal (snapset_open (here.set, NULL), a);
  assert_int_equal (pthread_create (&thread, NULL, leave, a), 0);
  call_hook_set (note_wait);
  assert_int_equal (delete_newest (), 0);
  call_hook_set (NULL);
  pthread_join (thread, NULL);
  sem_destroy (&deletion_waits);
}

static void
client_that_stays_is_in_the_way (void **state)
{
  (void)state;
  struct snapshot *a = freeze (CHUNK);
  assert_ptr_equal (snapset_open (here.set, NULL), a);
  assert_int_equal (delete_newest (), -1);
  assert_int_equal (errno, EBUSY);
  assert_one_message ("snapshot 1 is in use: 1 connection has it open",
                      "force");
  messages_clear ();
  snapset_close (here.set, a);
  assert_int_equal (delete_newest (), 0);
}

/* --- merging ------------------------------------------------------------ */

static void
merge_keeps_within_a_small_max_memory (void **state)
{
  (void)state;
  start (1 << 20, 100000);
  here.options.durability = DURABILITY_WRITTEN;
  struct snapshot *a = freeze (CHUNK);
  struct snapshot *b = freeze (CHUNK);
  write_chunks (0, 64, 1);
  struct snapshot *c = freeze (CHUNK);
  write_chunks (64, 64, 2);
  freeze (CHUNK);
  fixture_delete (&here, b);
  fixture_delete (&here, c);
  fixture_reclaim (&here);
  fixture_settle (&here);
  assert_frozen (&here, a);
}

static void
burst_of_deletions_leaves_few_layers (void **state)
{
  struct snapshot *deleted[10];

  (void)state;
  struct snapshot *a = freeze (CHUNK);
  for (unsigned i = 0; i < 10; i++) {
    deleted[i] = freeze (CHUNK);
    write_chunks (i, 1, 1);
  }
  freeze (CHUNK);
  for (unsigned i = 0; i < 10; i++)
    fixture_delete (&here, deleted[i]);
  fixture_reclaim (&here);
  fixture_settle (&here);
  assert_frozen (&here, a);
  assert_int_equal (fixture_layers (&here), 3);
}

static struct call_verdict
origin_is_unreadable (const struct call_event *event)
{
  return (struct call_verdict){
    .error = event->call == CALL_PREAD && fixture_is_origin (&here, event->fd)
                 ? EIO
                 : 0
  };
}

/* A lost chunk that nobody needs any more, in a layer that then is the
 * target again.
 */
static void
write_to_a_lost_chunk_that_was_free_goes_through (void **state)
{
  (void)state;
  struct snapshot *older = freeze (CHUNK);
  struct snapshot *newer = freeze (CHUNK);
  struct snapshot *small = freeze (512);
  call_hook_set (origin_is_unreadable);
  write_chunks (3, 1, 1);
  call_hook_set (NULL);
  write_chunks (5, 1, 1);
  struct snapshot *last = freeze (512);
  snapshot_set_free (newer, 3 * CHUNK, CHUNK);
  fixture_delete (&here, small);
  fixture_delete (&here, older);
  fixture_reclaim (&here);
  fixture_settle (&here);
  assert_int_equal (fixture_layers (&here), 3);
  fixture_delete (&here, last);
  assert_ptr_equal (target (), small);
  write_chunks (3, 1, 2);
  assert_reads (&here, newer, here.old, 5 * CHUNK, CHUNK);
}

/* --- in the middle ------------------------------------------------------ */

static void (*in_the_middle) (void);
static struct snapshot *middle_layer; /* in a read of its file */
static _Thread_local bool is_main;

static struct call_verdict
do_in_the_middle (const struct call_event *event)
{
  uint64_t file_offset;
  int fd;

  if (!is_main || in_the_middle == NULL || event->call != CALL_PREAD)
    return (struct call_verdict){ 0 };
  backfile_locate (middle_layer->backfile, 0, &fd, &file_offset);
  if (event->fd != fd)
    return (struct call_verdict){ 0 };
  void (*action) (void) = in_the_middle;
  in_the_middle = NULL;
  call_hook_off = false;
  action ();
  call_hook_off = true;
  return (struct call_verdict){ 0 };
}

static void
arrange (struct snapshot *layer, void (*action) (void))
{
  is_main = true;
  middle_layer = layer;
  in_the_middle = action;
  call_hook_set (do_in_the_middle);
}

static struct snapshot *victims[4];

static void
delete_victims (void)
{
  fixture_delete (&here, victims[0]);
  fixture_delete (&here, victims[1]);
  while (!bitmap_test (&victims[0]->hastrans, 0))
    sched_yield ();
  atomic_fetch_add (&here.set->deletions, 1); /* as if another was deleted */
  while (fixture_layers (&here) > 3) {
    bell_ring (&here.set->bell);
    sched_yield ();
  }
}

/* A reader is in layer C.  It is merged into B and leaves the chain; what
 * comes after it is broken.
 */
static void
reader_of_a_layer_that_was_merged_reads_on_before_a_broken_one (void **state)
{
  (void)state;
  struct snapshot *a = freeze (CHUNK);
  struct snapshot *b = victims[0] = freeze (CHUNK);
  write_chunks (8, 1, 1);
  fixture_drain (b);
  struct snapshot *c = victims[1] = freeze (CHUNK);
  write_chunks (0, 4, 1);
  fixture_drain (c);
  struct snapshot *d = freeze (CHUNK);
  snapshot_break (d, EIO, "a test");
  fixture_reclaim (&here);
  arrange (c, delete_victims);
  assert_reads (&here, a, here.old, 0, 4 * CHUNK);
  assert_null (in_the_middle);
}

/* A reader of A is in layer C; the second group of its piece is punched and
 * then claimed again, by a write.
 */
static pthread_t claimer;
static sem_t claimed, go_on;
static _Thread_local bool is_claimer;

static struct call_verdict
stop_the_claimer (const struct call_event *event)
{
  if (is_claimer && event->call == CALL_PREAD
      && fixture_is_origin (&here, event->fd)) {
    sem_post (&claimed);
    sem_wait (&go_on);
  }
  return (struct call_verdict){ 0 };
}

static void *
claim_it (void *arg)
{
  (void)arg;
  is_claimer = true;
  write_chunks (64, 3, 5);
  return NULL;
}

static void
free_and_claim (void)
{
  snapshot_set_free (victims[0], 64 * CHUNK, 2 * CHUNK);
  fixture_delete (&here, victims[1]); /* C, the small one */
  while (bitmap_test (&victims[1]->hastrans, 64 * 8)) {
    bell_ring (&here.set->bell);
    sched_yield ();
  }
  fixture_delete (&here, victims[2]);
  assert_ptr_equal (target (), victims[1]);
  call_hook_set (stop_the_claimer);
  /* Only half of what it claims is free: so it is read. */
  pthread_create (&claimer, NULL, claim_it, NULL);
  sem_wait (&claimed);
}

static void
reader_meets_a_chunk_that_was_punched_and_claimed_again (void **state)
{
  (void)state;
  sem_init (&claimed, 0, 0);
  sem_init (&go_on, 0, 0);
  struct snapshot *a = victims[0] = freeze (CHUNK);
  struct snapshot *c = victims[1] = freeze (512);
  write_chunks (62, 3, 1);
  fixture_drain (c);
  victims[2] = freeze (512);
  fixture_reclaim (&here);
  arrange (c, free_and_claim);
  memset (here.old + 64 * CHUNK, 0, CHUNK); /* it is free by then */
  assert_reads (&here, a, here.old, 62 * CHUNK, 3 * CHUNK);
  sem_post (&go_on);
  pthread_join (claimer, NULL);
}

/* --- the end ------------------------------------------------------------ */

static sem_t asked;
static _Thread_local bool asks;

static struct call_verdict
tell_that_it_asked (const struct call_event *event)
{
  if (event->call == CALL_WAIT && asks) {
    asks = false;
    sem_post (&asked);
  }
  return (struct call_verdict){ 0 };
}

static void *
stop_reclaim (void *arg)
{
  (void)arg;
  asks = true;
  const int r = reclaim_stop (here.reclaim, 60);
  assert (r == 0);
  return NULL;
}

/* What it has no time to look at counts as needed. */
static void
stopping_drops_nothing_that_is_needed (void **state)
{
  pthread_t thread;

  (void)state;
  sem_init (&asked, 0, 0);
  struct snapshot *a = freeze (CHUNK);
  struct snapshot *b = freeze (CHUNK);
  write_chunks (0, 4, 1);
  fixture_drain (b);
  freeze (CHUNK);
  fixture_delete (&here, b);
  pthread_mutex_lock (&here.set->mutations); /* its first step needs that */
  fixture_reclaim (&here);
  call_hook_set (tell_that_it_asked);
  pthread_create (&thread, NULL, stop_reclaim, NULL);
  sem_wait (&asked); /* it waits for the end: the wish is known */
  pthread_mutex_unlock (&here.set->mutations);
  pthread_join (thread, NULL);
  assert_reads (&here, a, here.old, 0, 4 * CHUNK);
}

static void
taking_a_snapshot_retires_a_deleted_target_and_tidies_it (void **state)
{
  (void)state;
  fixture_reclaim (&here);
  struct snapshot *a = freeze (CHUNK);
  struct snapshot *b = freeze (512);
  write_chunks (0, 4, 1);
  struct snapshot *c = freeze (512);
  write_chunks (4, 4, 1);
  fixture_delete (&here, c);
  fixture_delete (&here, b);
  fixture_settle (&here);
  const unsigned sleeps = call_watch.sleeps;
  freeze (CHUNK);
  pthread_mutex_lock (&here.set->bell.lock);
  const bool rung = here.set->bell.rung || !call_watch.asleep
                    || sleeps != call_watch.sleeps;
  pthread_mutex_unlock (&here.set->bell.lock);
  assert_true (rung);
  assert_frozen (&here, a);
}

/* A layer that nobody can name any more has its limits from its options; the
 * snapshot that reads through it was to have none.
 */
static void
limits_of_a_deleted_target_break_no_snapshot_without_limits (void **state)
{
  (void)state;
  struct snapshot *a = freeze (CHUNK);
  here.options.maxsize = 1024;
  struct snapshot *b = freeze (512);
  fixture_delete (&here, b);
  write_chunks (0, 4, 1);
  assert_frozen (&here, a);
}

static void
delete_of_the_newest_of_none (void **state)
{
  unsigned number;

  (void)state;
  assert_int_equal (snapset_delete (here.set, NULL, false, NULL, &number), -1);
  assert_int_equal (errno, ENOENT);
  assert_int_equal (messages_with ("(null)"), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown (name, setup, teardown)

int
main (int argc, char **argv)
{
  const struct CMUnitTest tests[] = {
    TEST (deleted_snapshot_is_refused_after_its_neighbours_are_freed),
    TEST (status_of_a_dropped_snapshot),
    TEST (client_on_its_way_out_is_waited_for),
    TEST (client_that_stays_is_in_the_way),
    TEST (merge_keeps_within_a_small_max_memory),
    TEST (burst_of_deletions_leaves_few_layers),
    TEST (write_to_a_lost_chunk_that_was_free_goes_through),
    TEST (reader_of_a_layer_that_was_merged_reads_on_before_a_broken_one),
    TEST (reader_meets_a_chunk_that_was_punched_and_claimed_again),
    TEST (stopping_drops_nothing_that_is_needed),
    TEST (taking_a_snapshot_retires_a_deleted_target_and_tidies_it),
    TEST (limits_of_a_deleted_target_break_no_snapshot_without_limits),
    TEST (delete_of_the_newest_of_none),
  };

  if (argc > 1)
    cmocka_set_test_filter (argv[1]);
  return cmocka_run_group_tests (tests, NULL, NULL);
}
