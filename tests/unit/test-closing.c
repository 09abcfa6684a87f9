/* SPDX-License-Identifier: BSD-3-Clause */
/* The end of a server with a store, from its first moment on. */

#include "cmocka-all.h"
#include "call-hook.h"
#include "closing.h"
#include "fake-engine.h"
#include "fixture.h"
#include "history.h"
#include "image.h"
#include "nbdkit-stub.h"
#include "scoped.h"
#include "scratch.h"
#include "store.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define CHUNK 4096
#define SIZE ((uint64_t)100 * CHUNK)

static struct fixture here, there;
static struct history history;
static struct closing *closing;
static struct image *image; /* that THERE is of */
static char path[256];

static void
open_with (const struct engine_type *engine)
{
  here = (struct fixture){ .size = SIZE, .in_store = path, .engine = engine };
  fixture_open (&here);
  history_begin (&history, &here);
  server_runs ();
}

static int
setup (void **state)
{
  (void)state;
  fake_reset (NULL);
  snprintf (path, sizeof path, "%s", scratch_path ("store"));
  there = (struct fixture){ 0 };
  open_with (&engine_fake);
  return 0;
}

static void
close_there (void)
{
  if (there.origin != NULL)
    fixture_close (&there);
  there.origin = NULL;
  image_free (image);
  image = NULL;
}

static int
teardown (void **state)
{
  (void)state;
  call_hook_set (NULL);
  fake_let_go ();
  if (closing != NULL) {
    server_ends ();
    closing_finish (closing, 60);
    closing_free (closing);
    closing = NULL;
  }
  close_there ();
  fixture_close (&here);
  history_free (&history);
  scratch_remove ();
  return 0;
}

static struct snapshot *
freeze (enum durability durability)
{
  here.options.durability = durability;
  return history_freeze (&history);
}

static void
write_chunks (unsigned first, unsigned count, uint8_t value)
{
  history_write (&history, first * (uint64_t)CHUNK, count * (uint64_t)CHUNK,
                 value);
}

static void
watch (void)
{
  closing = closing_create (here.set);
  assert_non_null (closing);
  assert_int_equal (closing_start (closing), 0);
}

/* It begins to end. */
static void
begin_to_end (void)
{
  watch ();
  server_ends ();
}

static void
finish (void)
{
  assert_int_equal (closing_finish (closing, 60), 0);
  closing_free (closing);
  closing = NULL;
}

/* The next server, with the same origin. */
static void
next_server (void)
{
  fixture_end (&here, false);
  fixture_serve (&here);
}

/* The next server, had there been a crash just now. */
static void
crash (bool rebooted)
{
  close_there ();
  image = image_take (&here);
  image_serve (image, &there, rebooted);
}

/* What the catalogue says of a level, of the first layer. */
static enum durability
noted_level (void)
{
  struct catalog catalog;

  image_catalog (path, &catalog);
  const enum durability level = catalog.layers->level;
  catalog_free (&catalog);
  return level;
}

static bool
is_noted_clean (void)
{
  struct catalog catalog;

  image_catalog (path, &catalog);
  const bool clean = catalog.clean;
  catalog_free (&catalog);
  return clean;
}

static void
await_noted_stable (void)
{
  while (noted_level () != DURABILITY_STABLE)
    sched_yield ();
}

static void
await_message (const char *text)
{
  while (messages_with (text) == 0)
    sched_yield ();
}

static int64_t
all_hang (const struct engine_request *request, size_t length, unsigned index)
{
  (void)request;
  (void)length;
  (void)index;
  return FAKE_HANG;
}

/* --- from the first moment on -------------------------------------------- */

static void
all_levels_become_stable (void **state)
{
  (void)state;
  freeze (DURABILITY_ASYNC);
  write_chunks (0, 50, 1);
  freeze (DURABILITY_WRITTEN);
  write_chunks (20, 50, 2);
  freeze (DURABILITY_STABLE);
  write_chunks (0, 100, 3);
  begin_to_end ();
  await_noted_stable ();
  assert_false (is_noted_clean ());
  crash (false);
  assert_history (&history, &there);
  crash (true);
  assert_history (&history, &there);
  finish ();
  assert_true (is_noted_clean ());
  next_server ();
  assert_history (&history, &here);
  assert_no_message ();
}

static void *
write_some (void *arg)
{
  write_chunks (50, 10, 9);
  return arg;
}

/* Copies on their way count, and so do those that come meanwhile. */
static void
copies_in_flight_are_waited_for (void **state)
{
  pthread_t thread;

  (void)state;
  fake_reset (all_hang);
  struct snapshot *s = freeze (DURABILITY_ASYNC);
  write_chunks (0, 10, 1); /* early: it is through */
  fake_wait (1);
  begin_to_end ();
  while (atomic_load (&s->level) != DURABILITY_STABLE)
    sched_yield ();
  /* From here on a write waits for all four steps. */
  assert_int_equal (pthread_create (&thread, NULL, write_some, NULL), 0);
  fake_wait (2);
  assert_int_equal (noted_level (), DURABILITY_ASYNC);
  assert_false (bitmap_test (&s->hastrans, 50));
  uint8_t byte;
  assert_int_equal (pread (here.fd, &byte, 1, 50 * CHUNK), 1);
  assert_int_equal (byte, here.old[50 * CHUNK]);
  crash (false);
  assert_broken (&there, 1, "async");
  fake_let_go ();
  pthread_join (thread, NULL);
  await_noted_stable ();
  crash (true);
  assert_history (&history, &there);
  finish ();
  next_server ();
  assert_history (&history, &here);
}

static sem_t closing_waits;

static struct call_verdict
note_waits (const struct call_event *event)
{
  if (event->call == CALL_WAIT && event->count == 1 && watched_for_the_end)
    sem_post (&closing_waits);
  return (struct call_verdict){ 0 };
}

static int64_t
data_hang (const struct engine_request *request, size_t length, unsigned index)
{
  (void)request;
  (void)index;
  return length >= CHUNK ? FAKE_HANG : FAKE_WRITE;
}

/* Nothing is noted of copies whose bits were set early before all of them are
 * there.
 */
static void
index_waits_for_early_copies (void **state)
{
  (void)state;
  sem_init (&closing_waits, 0, 0);
  fake_reset (data_hang);
  struct snapshot *s = freeze (DURABILITY_ASYNC);
  write_chunks (0, 10, 1);
  fake_wait (1);
  call_hook_set (note_waits);
  begin_to_end ();
  sem_wait (&closing_waits);
  call_hook_set (NULL);
  for (unsigned i = 0; i < 4; i++) {
    fixture_pass (s);
    assert_int_equal (fake_count (), 1); /* the data */
  }
  fake_let_go ();
  await_noted_stable ();
  crash (true);
  assert_history (&history, &there);
}

static atomic_bool load_goes_on;

static void *
load (void *arg)
{
  static uint8_t buf[4 * CHUNK];
  unsigned seed = (unsigned)(uintptr_t)arg;

  while (atomic_load (&load_goes_on)) {
    const uint64_t offset = (uint64_t)rand_r (&seed) % (SIZE - sizeof buf);
    if (cow_begin_write (here.set, offset, sizeof buf) == -1)
      abort ();
    if (origin_write (here.origin, buf, sizeof buf, offset, false) == -1)
      abort ();
    cow_end_write (here.set);
  }
  return NULL;
}

static void
it_is_made_stable_under_load (void **state)
{
  pthread_t threads[3];

  for (unsigned round = 0; round < 5; round++) {
    freeze (DURABILITY_ASYNC);
    atomic_store (&load_goes_on, true);
    for (uintptr_t i = 0; i < 3; i++)
      pthread_create (&threads[i], NULL, load, (void *)(i + 1));
    begin_to_end ();
    await_noted_stable ();
    atomic_store (&load_goes_on, false);
    for (unsigned i = 0; i < 3; i++)
      pthread_join (threads[i], NULL);
    crash (true);
    assert_history (&history, &there);
    finish ();
    next_server ();
    assert_history (&history, &here);
    teardown (state);
    setup (state);
  }
}

static bool
is_sync (const struct call_event *event)
{
  return event->call == CALL_FDATASYNC || event->call == CALL_FSYNC;
}

static unsigned origin_syncs;

static struct call_verdict
count_origin_syncs (const struct call_event *event)
{
  if (is_sync (event) && fixture_is_origin (&here, event->fd))
    origin_syncs++;
  return (struct call_verdict){ 0 };
}

/* One that is taken meanwhile is stable from its first moment on. */
static void
new_snapshot_while_it_ends (void **state)
{
  (void)state;
  freeze (DURABILITY_ASYNC);
  write_chunks (0, 10, 1);
  begin_to_end ();
  await_noted_stable ();
  origin_syncs = 0;
  call_hook_set (count_origin_syncs);
  struct snapshot *s = freeze (DURABILITY_ASYNC);
  call_hook_set (NULL);
  assert_true (origin_syncs > 0);
  assert_int_equal (atomic_load (&s->level), DURABILITY_STABLE);
  write_chunks (5, 20, 2);
  crash (true);
  assert_history (&history, &there);
  finish ();
  next_server ();
  assert_history (&history, &here);
}

static void
deletion_while_it_ends (void **state)
{
  (void)state;
  freeze (DURABILITY_ASYNC);
  write_chunks (0, 10, 1);
  freeze (DURABILITY_ASYNC);
  write_chunks (5, 20, 2);
  freeze (DURABILITY_ASYNC);
  write_chunks (0, 30, 3);
  fixture_reclaim (&here);
  begin_to_end ();
  await_noted_stable ();
  history_delete (&history, 2);
  fixture_settle (&here);
  write_chunks (0, 90, 4);
  crash (true);
  assert_history (&history, &there);
}

static void
lost_and_zero_chunks_are_noted (void **state)
{
  (void)state;
  history_write (&history, 0, 5 * CHUNK, 0);
  freeze (DURABILITY_ASYNC);
  write_chunks (0, 10, 1);
  begin_to_end ();
  finish ();
  next_server ();
  assert_history (&history, &here);
}

/* --- what fails ---------------------------------------------------------- */

static atomic_int index_error; /* 0: none */

/* Writes of the index, sectors, fail. */
static int64_t
index_is_bad (const struct engine_request *request, size_t length,
              unsigned index)
{
  (void)request;
  (void)index;
  return length > 0 && length < CHUNK && atomic_load (&index_error) != 0
             ? -atomic_load (&index_error)
             : FAKE_WRITE;
}

/* What could not be noted at first must not be taken for noted later. */
static void
index_that_failed_is_written_once_more (void **state)
{
  (void)state;
  fake_reset (index_is_bad);
  freeze (DURABILITY_ASYNC);
  write_chunks (0, 50, 1);
  atomic_store (&index_error, ENOSPC);
  messages_clear ();
  begin_to_end ();
  await_message ("cannot be made stable yet");
  assert_int_equal (noted_level (), DURABILITY_ASYNC);
  crash (false);
  assert_broken (&there, 1, "async");
  atomic_store (&index_error, 0);
  finish ();
  assert_true (is_noted_clean ());
  next_server ();
  assert_history (&history, &here);
}

static void
index_that_fails_to_the_end_breaks_that_one (void **state)
{
  (void)state;
  fake_reset (index_is_bad);
  freeze (DURABILITY_ASYNC);
  write_chunks (0, 50, 1);
  fixture_drain (fixture_find (&here, 1));
  atomic_store (&index_error, EIO);
  begin_to_end ();
  finish ();
  atomic_store (&index_error, 0);
  assert_true (is_noted_clean ());
  next_server ();
  assert_broken (&here, 1, "could not be made stable");
}

static int bad_fd; /* whose next sync fails; -1: none's */

/* Whose data are lost by that is told once. */
static struct call_verdict
one_sync_fails (const struct call_event *event)
{
  if (!is_sync (event) || event->fd != bad_fd)
    return (struct call_verdict){ 0 };
  bad_fd = -1;
  return (struct call_verdict){ .error = EIO };
}

static void
failed_sync_is_not_tried_again (void **state)
{
  (void)state;
  freeze (DURABILITY_ASYNC);
  write_chunks (0, 50, 1);
  freeze (DURABILITY_ASYNC);
  write_chunks (0, 50, 2);
  bad_fd = fixture_find (&here, 1)->backfile->part[0].fd;
  call_hook_set (one_sync_fails);
  begin_to_end ();
  await_noted_stable ();
  call_hook_set (NULL);
  finish ();
  next_server ();
  /* The first was given up, the second is as it should be. */
  assert_broken (&here, 1, "could not be made stable");
  assert_holds (&history, &here, 2);
}

static struct call_verdict
origin_syncs_fail (const struct call_event *event)
{
  return (struct call_verdict){
    .error = is_sync (event) && fixture_is_origin (&here, event->fd) ? EIO : 0
  };
}

static void
origin_that_cannot_be_flushed_leaves_all_as_it_was (void **state)
{
  (void)state;
  freeze (DURABILITY_ASYNC);
  write_chunks (0, 50, 1);
  messages_clear ();
  call_hook_set (origin_syncs_fail);
  begin_to_end ();
  finish ();
  call_hook_set (NULL);
  assert_int_equal (noted_level (), DURABILITY_ASYNC);
  assert_false (is_noted_clean ());
  assert_true (messages_with ("sync") > 0);
}

static struct call_verdict
no_catalog (const struct call_event *event)
{
  return (struct call_verdict){ .error
                                = event->call == CALL_RENAME2 ? EIO : 0 };
}

static void
catalogue_that_cannot_be_written_leaves_all_as_it_was (void **state)
{
  (void)state;
  freeze (DURABILITY_ASYNC);
  write_chunks (0, 50, 1);
  call_hook_set (no_catalog);
  begin_to_end ();
  finish ();
  call_hook_set (NULL);
  assert_int_equal (noted_level (), DURABILITY_ASYNC);
  assert_false (is_noted_clean ());
}

/* A copy of which its bit was set early fails while all is made stable. */
static int64_t
data_fail_late (const struct engine_request *request, size_t length,
                unsigned index)
{
  (void)request;
  (void)length;
  return index == 0 ? FAKE_HANG : FAKE_WRITE;
}

static void
copy_that_fails_meanwhile_breaks_it (void **state)
{
  (void)state;
  fake_reset (data_fail_late);
  struct snapshot *s = freeze (DURABILITY_ASYNC);
  write_chunks (0, 10, 1);
  fake_wait (1);
  begin_to_end ();
  while (atomic_load (&s->level) != DURABILITY_STABLE)
    sched_yield ();
  fake_end (0, -ENOSPC);
  finish ();
  assert_true (is_noted_clean ());
  next_server ();
  assert_broken (&here, 1, "No space");
}

/* --- stores that hang ---------------------------------------------------- */

static atomic_uint timeouts; /* how many waits of the end are to time out */

static struct call_verdict
waits_time_out (const struct call_event *event)
{
  if (event->call != CALL_WAIT || event->count != 1 || !watched_for_the_end
      || atomic_load (&timeouts) == 0)
    return (struct call_verdict){ 0 };
  atomic_fetch_sub (&timeouts, 1);
  return (struct call_verdict){ .error = ETIMEDOUT };
}

static int64_t
sectors_hang (const struct engine_request *request, size_t length,
              unsigned index)
{
  (void)request;
  (void)index;
  return length > 0 && length < CHUNK ? FAKE_HANG : FAKE_WRITE;
}

/* The sweep of the first attempt is still under way at the second. */
static void
sweep_that_hangs_is_given_up (void **state)
{
  (void)state;
  fake_reset (sectors_hang);
  struct snapshot *s = freeze (DURABILITY_ASYNC);
  write_chunks (0, 10, 1);
  fixture_drain (s);
  atomic_store (&timeouts, 1);
  call_hook_set (waits_time_out);
  begin_to_end ();
  await_message ("cannot be made stable yet");
  finish ();
  assert_true (snapshot_is_broken (s));
  assert_true (is_noted_clean ());
  fake_let_go ();
  next_server ();
  assert_broken (&here, 1, "could not be made stable");
}

static void
sweep_that_hung_for_a_while_is_made_again (void **state)
{
  (void)state;
  fake_reset (sectors_hang);
  struct snapshot *s = freeze (DURABILITY_ASYNC);
  write_chunks (0, 10, 1);
  fixture_drain (s);
  atomic_store (&timeouts, 1);
  call_hook_set (waits_time_out);
  begin_to_end ();
  await_message ("cannot be made stable yet");
  fake_let_go ();
  fixture_drain (s);
  finish ();
  next_server ();
  assert_history (&history, &here);
}

static void
copies_that_hang_are_given_up (void **state)
{
  (void)state;
  fake_reset (all_hang);
  freeze (DURABILITY_ASYNC);
  write_chunks (0, 10, 1);
  atomic_store (&timeouts, 2);
  call_hook_set (waits_time_out);
  begin_to_end ();
  finish ();
  assert_true (is_noted_clean ());
  fake_let_go ();
  next_server ();
  assert_broken (&here, 1, "could not be made stable");
}

static sem_t hangs, goes_on;

static struct call_verdict
rename_hangs (const struct call_event *event)
{
  if (event->call == CALL_RENAME2) {
    sem_post (&hangs);
    sem_wait (&goes_on);
  }
  return (struct call_verdict){ 0 };
}

static void
finish_does_not_wait_for_a_catalogue_that_hangs (void **state)
{
  (void)state;
  sem_init (&hangs, 0, 0);
  sem_init (&goes_on, 0, 0);
  freeze (DURABILITY_WRITTEN);
  write_chunks (0, 10, 1);
  call_hook_set (rename_hangs);
  begin_to_end ();
  sem_wait (&hangs);
  assert_int_equal (closing_finish (closing, 0), -1);
  call_hook_set (NULL);
  sem_post (&goes_on);
  finish ();
  next_server ();
  assert_history (&history, &here);
}

/* --- every crash meanwhile ----------------------------------------------- */

#define IMAGES_MAX 64
static struct image *images[IMAGES_MAX];
static atomic_uint image_count;

/* Before each catalogue takes its place, and when it has. */
static struct call_verdict
take_images (const struct call_event *event)
{
  if (event->call == CALL_RENAME2 || event->call == CALL_FSYNC) {
    const unsigned i = atomic_fetch_add (&image_count, 1);
    assert (i < IMAGES_MAX);
    images[i] = image_take (&here);
  }
  return (struct call_verdict){ 0 };
}

static void
no_crash_meanwhile_gives_wrong_bytes (void **state)
{
  (void)state;
  atomic_store (&image_count, 0);
  freeze (DURABILITY_ASYNC);
  write_chunks (0, 50, 1);
  freeze (DURABILITY_WRITTEN);
  write_chunks (20, 50, 2);
  here.options.ephemeral = true;
  freeze (DURABILITY_STABLE);
  here.options.ephemeral = false;
  write_chunks (0, 100, 3);
  for (unsigned i = 1; i < 4; i++)
    fixture_drain (fixture_find (&here, i));
  call_hook_set (take_images);
  begin_to_end ();
  finish ();
  call_hook_set (NULL);
  const unsigned count = atomic_load (&image_count);
  assert_true (count >= 6);
  for (unsigned i = 0; i < count; i++) {
    const bool rebooted = i % 2;
    close_there ();
    image = images[i];
    image_serve (image, &there, rebooted);
    assert_null (fixture_find (&there, 3)); /* it was ephemeral */
    if (i == count - 1) {
      assert_holds (&history, &there, 1);
      assert_holds (&history, &there, 2);
      continue;
    }
    for (unsigned number = 1; number < 3; number++)
      if (!snapshot_is_broken (fixture_find (&there, number)))
        assert_holds (&history, &there, number);
  }
}

/* --- the rest ------------------------------------------------------------ */

static void
refused_store_stays_as_it_was (void **state)
{
  struct catalog before, after;

  (void)state;
  freeze (DURABILITY_WRITTEN);
  write_chunks (0, 10, 1);
  begin_to_end ();
  finish ();
  fixture_end (&here, false);
  assert_int_equal (pwrite (here.fd, "x", 1, 90 * CHUNK), 1);
  image_catalog (path, &before);
  fixture_serve (&here);
  server_runs ();
  begin_to_end ();
  finish ();
  image_catalog (path, &after);
  assert_int_equal (after.generation, before.generation);
  catalog_free (&before);
  catalog_free (&after);
}

static void
store_without_snapshots_is_closed (void **state)
{
  (void)state;
  begin_to_end ();
  finish ();
  assert_true (is_noted_clean ());
  next_server ();
  assert_no_message ();
}

/* nbdkit could not bind, say. */
static void
unstarted_server_leaves_it_as_it_was (void **state)
{
  (void)state;
  freeze (DURABILITY_ASYNC);
  write_chunks (0, 10, 1);
  fixture_restart (&here, true);
  for (unsigned i = 0; i < 3; i++) {
    assert_false (is_noted_clean ());
    closing_unstarted (here.set);
    assert_true (is_noted_clean ());
    next_server ();
    assert_history (&history, &here);
  }
}

static unsigned file_syncs;

static struct call_verdict
count_file_syncs (const struct call_event *event)
{
  if (is_sync (event) && fixture_is_origin (&there, event->fd))
    origin_syncs++;
  else
    file_syncs += event->call == CALL_FDATASYNC;
  return (struct call_verdict){ 0 };
}

/* The one before was killed as it ended. */
static void
unstarted_server_after_a_kill_at_the_end (void **state)
{
  (void)state;
  freeze (DURABILITY_ASYNC);
  write_chunks (0, 10, 1);
  begin_to_end ();
  await_noted_stable ();
  crash (false);
  assert_history (&history, &there);
  file_syncs = origin_syncs = 0;
  call_hook_set (count_file_syncs);
  closing_unstarted (there.set);
  call_hook_set (NULL);
  assert_int_equal (file_syncs, 1);
  assert_int_equal (origin_syncs, 1);
  fixture_restart (&there, false);
  assert_history (&history, &there);
}

static void
finish_of_what_was_not_started (void **state)
{
  (void)state;
  closing = closing_create (here.set);
  assert_int_equal (closing_finish (closing, 0), 0);
  closing_free (closing);
  closing = NULL;
  assert_false (is_noted_clean ());
}

#define TEST(name) cmocka_unit_test_setup_teardown (name, setup, teardown)

int
main (void)
{
  const struct CMUnitTest tests[] = {
    TEST (all_levels_become_stable),
    TEST (copies_in_flight_are_waited_for),
    TEST (index_waits_for_early_copies),
    TEST (it_is_made_stable_under_load),
    TEST (new_snapshot_while_it_ends),
    TEST (deletion_while_it_ends),
    TEST (lost_and_zero_chunks_are_noted),
    TEST (index_that_failed_is_written_once_more),
    TEST (index_that_fails_to_the_end_breaks_that_one),
    TEST (failed_sync_is_not_tried_again),
    TEST (origin_that_cannot_be_flushed_leaves_all_as_it_was),
    TEST (catalogue_that_cannot_be_written_leaves_all_as_it_was),
    TEST (copy_that_fails_meanwhile_breaks_it),
    TEST (sweep_that_hangs_is_given_up),
    TEST (sweep_that_hung_for_a_while_is_made_again),
    TEST (copies_that_hang_are_given_up),
    TEST (finish_does_not_wait_for_a_catalogue_that_hangs),
    TEST (no_crash_meanwhile_gives_wrong_bytes),
    TEST (refused_store_stays_as_it_was),
    TEST (store_without_snapshots_is_closed),
    TEST (unstarted_server_leaves_it_as_it_was),
    TEST (unstarted_server_after_a_kill_at_the_end),
    TEST (finish_of_what_was_not_started),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
