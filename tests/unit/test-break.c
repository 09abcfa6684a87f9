/* SPDX-License-Identifier: BSD-3-Clause */
/* A snapshot in a store breaks: nothing is overwritten that it does not have
 * before the store knows, or a mark says so.
 */

#include "cmocka-all.h"
#include "call-hook.h"
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

static struct fixture here, there;
static struct history history;
static struct image *image; /* that THERE is of */
static char path[256];

/* For hooks. */
static sem_t hangs, goes_on;
static atomic_bool catalog_hangs, impatient;
static atomic_int catalog_error;
static struct snapshot *victim;
static _Thread_local bool is_writer;
static atomic_uint unnoted; /* writes to the origin before it was noted */
static atomic_uint origin_writes;

static bool
is_noted_broken (void)
{
  struct catalog catalog;
  bool broken = false;

  image_catalog (path, &catalog);
  for (const struct catalog_layer *l = catalog.layers; l != NULL; l = l->next)
    broken |= l->broken_reason != NULL;
  catalog_free (&catalog);
  return broken;
}

static struct call_verdict
hook (const struct call_event *event)
{
  if (event->call == CALL_RENAME2) {
    if (atomic_load (&catalog_hangs)) {
      sem_post (&hangs);
      sem_wait (&goes_on);
    }
    return (struct call_verdict){ .error = atomic_load (&catalog_error) };
  }
  if (event->call == CALL_WAIT && event->count == 1 && is_writer
      && atomic_load (&impatient) && victim != NULL
      && snapshot_is_failing (victim))
    return (struct call_verdict){ .error = ETIMEDOUT };
  if (event->call == CALL_PWRITE && fixture_is_origin (&here, event->fd)) {
    atomic_fetch_add (&origin_writes, 1);
    if (victim != NULL && !is_noted_broken ()
        && !store_is_marked (victim->record))
      atomic_fetch_add (&unnoted, 1);
  }
  return (struct call_verdict){ 0 };
}

static int
setup (void **state)
{
  (void)state;
  fake_reset (NULL);
  snprintf (path, sizeof path, "%s", scratch_path ("store"));
  here = (struct fixture){ .in_store = path,
                           .engine = &engine_fake,
                           .options = { .durability = DURABILITY_WRITTEN } };
  there = (struct fixture){ 0 };
  fixture_open (&here);
  history_begin (&history, &here);
  sem_init (&hangs, 0, 0);
  sem_init (&goes_on, 0, 0);
  atomic_store (&catalog_hangs, false);
  atomic_store (&catalog_error, 0);
  atomic_store (&impatient, false);
  atomic_store (&unnoted, 0);
  atomic_store (&origin_writes, 0);
  victim = NULL;
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
  atomic_store (&catalog_hangs, false);
  call_hook_set (NULL);
  for (unsigned i = 0; i < 20; i++)
    sem_post (&goes_on);
  fake_let_go ();
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
crash (bool rebooted)
{
  close_there ();
  image = image_take (&here);
  image_serve (image, &there, rebooted);
}

/* A thread that writes some chunks. */
struct writer {
  pthread_t thread;
  unsigned first, count;
  bool patient; /* its waits do not time out */
  int error;
  atomic_bool ended;
};

static void *
run_writer (void *arg)
{
  struct writer *writer = arg;

  is_writer = !writer->patient;
  writer->error = fixture_write (&here, writer->first * (uint64_t)CHUNK,
                                 writer->count * (uint64_t)CHUNK, 7)
                          == 0
                      ? 0
                      : errno;
  atomic_store (&writer->ended, true);
  return NULL;
}

static void
run (struct writer *writer)
{
  assert_int_equal (pthread_create (&writer->thread, NULL, run_writer, writer),
                    0);
}

static void
begin_write (struct writer *writer, unsigned first, unsigned count)
{
  *writer = (struct writer){ .first = first, .count = count };
  run (writer);
}

static void
begin_patient_write (struct writer *writer, unsigned first, unsigned count)
{
  *writer = (struct writer){ .first = first, .count = count, .patient = true };
  run (writer);
}

static void
end_write (struct writer *writer)
{
  pthread_join (writer->thread, NULL);
  assert_int_equal (writer->error, 0);
}

static bool
is_unchanged (unsigned chunk)
{
  uint8_t buf[CHUNK];

  assert_int_equal (pread (here.fd, buf, CHUNK, chunk * CHUNK), CHUNK);
  return memcmp (buf, here.old + chunk * CHUNK, CHUNK) == 0;
}

static int64_t
all_fail (const struct engine_request *request, size_t length, unsigned index)
{
  (void)request;
  (void)length;
  (void)index;
  return -ENOSPC;
}

static int64_t
all_hang (const struct engine_request *request, size_t length, unsigned index)
{
  (void)request;
  (void)length;
  (void)index;
  return FAKE_HANG;
}

static int64_t
syncs_fail (const struct engine_request *request, size_t length, unsigned index)
{
  (void)request;
  (void)index;
  return length == 0 ? -EIO : FAKE_WRITE;
}

static int64_t
index_fails (const struct engine_request *request, size_t length,
             unsigned index)
{
  (void)request;
  (void)index;
  return length == 512 ? -EDQUOT : FAKE_WRITE;
}

/* --- the store is told first --------------------------------------------- */

static void
write_goes_on_when_the_catalogue_says_so (void **state)
{
  static const fake_answer answers[] = { all_fail, index_fails, syncs_fail };

  (void)state;
  call_hook_set (hook);
  for (unsigned i = 0; i < 3; i++) {
    victim = freeze (i == 2 ? DURABILITY_STABLE : DURABILITY_WRITTEN);
    fake_reset (answers[i]);
    assert_int_equal (fixture_write (&here, i * 10 * CHUNK, 5 * CHUNK, 7), 0);
    assert_true (snapshot_is_broken (victim));
    assert_true (is_noted_broken ());
    assert_int_equal (atomic_load (&unnoted), 0);
    assert_false (store_is_marked (victim->record));
    crash (false);
    assert_broken (&there, 1, "backing store");
    fake_reset (NULL);
    fixture_delete (&here, victim);
    fixture_reclaim (&here);
    fixture_settle (&here);
    assert_int_equal (reclaim_stop (here.reclaim, 60), 0);
    reclaim_free (here.reclaim);
    here.reclaim = NULL;
    victim = NULL;
    free (history.frozen[1]);
    history.frozen[1] = NULL;
  }
  assert_int_equal (atomic_load (&origin_writes), 3);
}

static void
write_waits_for_the_catalogue (void **state)
{
  struct writer writer;
  uint8_t byte;

  (void)state;
  victim = freeze (DURABILITY_WRITTEN);
  fake_reset (all_fail);
  atomic_store (&catalog_hangs, true);
  call_hook_set (hook);
  begin_write (&writer, 0, 5);
  sem_wait (&hangs);
  /* To who looks at it it is broken; but nothing is overwritten. */
  assert_true (snapshot_is_failing (victim));
  assert_true (snapshot_is_given_up (victim));
  assert_int_equal (view_read (here.set, victim, &byte, 1, 0), -1);
  assert_int_equal (errno, EIO);
  for (unsigned i = 0; i < 100; i++)
    sched_yield ();
  assert_false (atomic_load (&writer.ended));
  assert_true (is_unchanged (0));
  atomic_store (&catalog_hangs, false);
  sem_post (&goes_on);
  end_write (&writer);
  assert_true (snapshot_is_broken (victim));
  assert_int_equal (atomic_load (&unnoted), 0);
  crash (true);
  assert_broken (&there, 1, "No space");
}

/* All who write, whoever broke it. */
static void
all_writers_wait_and_all_go_on (void **state)
{
  struct writer writers[8];

  (void)state;
  victim = freeze (DURABILITY_WRITTEN);
  fake_reset (all_fail);
  atomic_store (&catalog_hangs, true);
  call_hook_set (hook);
  for (unsigned i = 0; i < 8; i++)
    begin_write (&writers[i], 20 * i, 5);
  sem_wait (&hangs);
  for (unsigned i = 0; i < 100; i++)
    sched_yield ();
  for (unsigned i = 0; i < 8; i++)
    assert_false (atomic_load (&writers[i].ended));
  atomic_store (&catalog_hangs, false);
  sem_post (&goes_on);
  for (unsigned i = 0; i < 8; i++)
    end_write (&writers[i]);
  assert_int_equal (atomic_load (&unnoted), 0);
}

/* --- a store that does not answer ---------------------------------------- */

static void
mark_is_made_when_patience_ends (void **state)
{
  struct writer writer;

  (void)state;
  victim = freeze (DURABILITY_WRITTEN);
  fake_reset (all_fail);
  atomic_store (&catalog_hangs, true);
  atomic_store (&impatient, true);
  call_hook_set (hook);
  begin_write (&writer, 0, 5);
  sem_wait (&hangs);
  end_write (&writer); /* the catalogue still hangs */
  assert_true (snapshot_is_broken (victim));
  assert_true (store_is_marked (victim->record));
  assert_int_equal (atomic_load (&unnoted), 0);
  assert_false (is_noted_broken ());
  assert_int_equal (messages_with ("does not answer"), 1);
  call_hook_set (NULL);
  crash (false); /* killed: the mark says it */
  assert_broken (&there, 1, "killed");
  assert_false (store_is_marked (victim->record));
  atomic_store (&catalog_hangs, false);
  sem_post (&goes_on);
  while (atomic_load (&victim->telling))
    sched_yield ();
  assert_true (is_noted_broken ());
}

/* A writer that waits for a copy that hangs need not go on waiting for it when
 * the snapshot breaks for something else; and the store hangs too.
 */
static void
writer_for_whom_a_copy_hangs_is_woken (void **state)
{
  struct writer writer;

  (void)state;
  victim = freeze (DURABILITY_WRITTEN);
  fake_reset (all_hang);
  atomic_store (&catalog_hangs, true);
  atomic_store (&impatient, true);
  call_hook_set (hook);
  begin_write (&writer, 0, 1);
  fake_wait (1);
  snapshot_break (victim, EIO, "for some reason");
  end_write (&writer);
  assert_int_equal (atomic_load (&unnoted), 0);
  assert_true (store_is_marked (victim->record));
}

/* One that waits for memory too. */
static void
writer_that_waits_for_memory_is_woken (void **state)
{
  struct writer writer;

  (void)state;
  fixture_close (&here);
  history_free (&history);
  scratch_remove ();
  snprintf (path, sizeof path, "%s", scratch_path ("store"));
  here = (struct fixture){ .in_store = path,
                           .engine = &engine_fake,
                           .memory = 40000 };
  fixture_open (&here);
  history_begin (&history, &here);
  victim = freeze (DURABILITY_ASYNC);
  fake_reset (all_hang);
  atomic_store (&catalog_hangs, true);
  atomic_store (&impatient, true);
  call_hook_set (hook);
  begin_write (&writer, 0, 20); /* more than there is memory for */
  fake_wait (1);
  while (atomic_load (&victim->throttled) == 0)
    sched_yield ();
  snapshot_break (victim, EIO, "for some reason");
  end_write (&writer);
  assert_int_equal (atomic_load (&unnoted), 0);
}

/* --- the catalogue cannot be written ------------------------------------- */

static void
mark_is_made_when_it_cannot_be_noted (void **state)
{
  (void)state;
  victim = freeze (DURABILITY_WRITTEN);
  fake_reset (all_fail);
  atomic_store (&catalog_error, EIO);
  call_hook_set (hook);
  assert_int_equal (fixture_write (&here, 0, 5 * CHUNK, 7), 0);
  assert_int_equal (atomic_load (&unnoted), 0);
  assert_true (store_is_marked (victim->record));
  assert_false (is_noted_broken ());
  call_hook_set (NULL);
  crash (false);
  assert_broken (&there, 1, "killed");
}

/* And noted with the next catalogue, also the one of a clean end, since a mark
 * does not outlive the machine's next start.
 */
static void
what_could_not_be_noted_is_noted_at_the_end (void **state)
{
  char mark[64], uuid[37];

  (void)state;
  victim = freeze (DURABILITY_WRITTEN);
  uuid_unparse_lower (victim->record->uuid, uuid);
  snprintf (mark, sizeof mark, "/dev/shm/fssnap-%s", uuid);
  fake_reset (all_fail);
  atomic_store (&catalog_error, EIO);
  call_hook_set (hook);
  assert_int_equal (fixture_write (&here, 0, 5 * CHUNK, 7), 0);
  call_hook_set (NULL);
  fixture_end (&here, true);
  unlink (mark);
  fixture_serve (&here);
  assert_broken (&here, 1, "No space");
}

/* --- reads meanwhile ----------------------------------------------------- */

/* At level async the copy that failed was the only one. */
static void
reads_of_a_failing_snapshot_never_get_a_hole (void **state)
{
  uint8_t buf[CHUNK];

  (void)state;
  victim = freeze (DURABILITY_ASYNC);
  struct snapshot *older = victim;
  victim = freeze (DURABILITY_ASYNC);
  fake_reset (all_hang);
  atomic_store (&catalog_hangs, true);
  call_hook_set (hook);
  assert_int_equal (fixture_write (&here, 0, CHUNK, 7), 0);
  atomic_store (&unnoted, 0); /* that one had its copy */
  fake_wait (1);
  assert_reads (&here, victim, here.old, 0, CHUNK);
  fake_end (0, -EIO);
  sem_wait (&hangs);
  fixture_drain (victim);
  assert_true (snapshot_is_failing (victim));
  for (unsigned i = 0; i < 2; i++) {
    assert_int_equal (
        view_read (here.set, i == 0 ? victim : older, buf, CHUNK, 0), -1);
    assert_int_equal (errno, EIO);
  }
}

/* --- others -------------------------------------------------------------- */

/* A new snapshot is the one to copy into; nobody waits for the old one. */
static void
new_snapshot_while_another_is_failing (void **state)
{
  struct writer writer;

  (void)state;
  victim = freeze (DURABILITY_WRITTEN);
  fake_reset (all_fail);
  atomic_store (&catalog_hangs, true);
  call_hook_set (hook);
  begin_write (&writer, 0, 5);
  sem_wait (&hangs);
  fake_reset (NULL);
  atomic_store (&catalog_hangs, false);
  sem_post (&goes_on);
  struct snapshot *fresh = freeze (DURABILITY_WRITTEN); /* when the store has
                                                           been told */
  end_write (&writer);
  assert_int_equal (fixture_write (&here, 30 * CHUNK, 5 * CHUNK, 8), 0);
  assert_reads (&here, fresh, here.old, 30 * CHUNK, 5 * CHUNK);
}

/* A thread that takes a snapshot, and is held up just before it enters the
 * chain.
 */
static struct {
  pthread_t thread;
  unsigned looks; /* at the origin's size; the second time it enters */
  sem_t is_there, goes;
  struct snapshot *snapshot;
} taker;

static _Thread_local bool is_taker;
static atomic_bool break_now;

static struct call_verdict
hook_of_the_taker (const struct call_event *event)
{
  if (is_taker && event->call == CALL_FSTAT
      && fixture_is_origin (&here, event->fd) && ++taker.looks == 2) {
    sem_post (&taker.is_there);
    sem_wait (&taker.goes);
  }
  /* The writer has seen that a chunk is another's by now. */
  if (is_writer && event->call == CALL_PREAD && event->offset >= 64 * CHUNK
      && fixture_is_origin (&here, event->fd)
      && atomic_exchange (&break_now, false))
    snapshot_break (victim, EIO, "just now");
  if (is_writer && event->call == CALL_WAIT && event->count == 1
      && snapshot_is_failing (victim)) {
    sem_post (&taker.goes);
    while (snapset_newest (here.set) == victim)
      sched_yield ();
  }
  return hook (event);
}

static void *
run_taker (void *arg)
{
  is_taker = true;
  here.options.durability = DURABILITY_WRITTEN;
  taker.snapshot = snapset_freeze (here.set, &here.options);
  return arg;
}

static int64_t
first_hangs (const struct engine_request *request, size_t length,
             unsigned index)
{
  (void)request;
  (void)length;
  return index == 0 ? FAKE_HANG : FAKE_WRITE;
}

/* A write that waited for a copy of another's in one snapshot must not go on
 * waiting for it in the next.
 */
static void
new_target_while_a_write_waits_for_the_old_one (void **state)
{
  struct writer owner, writer;

  (void)state;
  victim = freeze (DURABILITY_WRITTEN);
  fake_reset (first_hangs);
  begin_patient_write (&owner, 0, 1);
  fake_wait (1);
  taker.looks = 0;
  sem_init (&taker.is_there, 0, 0);
  sem_init (&taker.goes, 0, 0);
  atomic_store (&impatient, true);
  atomic_store (&break_now, true);
  call_hook_set (hook_of_the_taker);
  assert_int_equal (pthread_create (&taker.thread, NULL, run_taker, NULL), 0);
  sem_wait (&taker.is_there);
  atomic_store (&catalog_hangs, true);
  begin_write (&writer, 0, 70);
  end_write (&writer);
  assert_true (snapshot_is_broken (victim));
  atomic_store (&catalog_hangs, false);
  sem_post (&goes_on);
  sem_post (&goes_on);
  pthread_join (taker.thread, NULL);
  fake_let_go ();
  end_write (&owner);
  assert_non_null (taker.snapshot);
  if (snapshot_is_given_up (taker.snapshot))
    messages_show ();
  assert_false (snapshot_is_given_up (taker.snapshot));
  assert_reads (&here, taker.snapshot, here.old, 0, 70 * CHUNK);
  snapset_unpin (here.set, taker.snapshot);
}

/* It is deleted while the store is being told: freed when that is over. */
static void
deleted_while_the_store_is_told (void **state)
{
  struct writer writer;

  (void)state;
  struct snapshot *older = freeze (DURABILITY_WRITTEN);
  (void)older;
  struct snapshot *s = freeze (DURABILITY_WRITTEN);
  fixture_reclaim (&here);
  fake_reset (all_fail);
  atomic_store (&catalog_hangs, true);
  call_hook_set (hook);
  begin_write (&writer, 0, 5);
  sem_wait (&hangs);
  fake_reset (NULL);
  atomic_store (&catalog_hangs, false);
  sem_post (&goes_on);
  fixture_delete (&here, s);
  end_write (&writer);
  call_hook_set (NULL);
  fixture_settle (&here);
  /* A broken one stays, deleted, to say so to the older ones. */
  fixture_delete (&here, fixture_find (&here, 1));
  /* The store's thread may be on its way out of it. */
  do
    fixture_settle (&here);
  while (fixture_dropped (&here) > 0);
  assert_int_equal (fixture_layers (&here), 0);
  assert_null (store_catalog (here.store)->layers);
}

static void
first_reason_is_the_one (void **state)
{
  (void)state;
  victim = freeze (DURABILITY_WRITTEN);
  messages_clear ();
  snapshot_break (victim, EIO, "the first");
  snapshot_break (victim, EPERM, "the second");
  while (!snapshot_is_broken (victim))
    sched_yield ();
  assert_int_equal (messages_count (), 1);
  SCOPED_FREE char *why = snapshot_why_broken (victim);
  assert_string_equal (why, "the first");
  while (!is_noted_broken ())
    sched_yield ();
  crash (false);
  assert_broken (&there, 1, "the first");
}

static struct call_verdict
no_memory (const struct call_event *event)
{
  return (struct call_verdict){ .error
                                = event->call == CALL_MEMORY ? ENOMEM : 0 };
}

/* Broken it is all the same, and the next server knows. */
static void
no_memory_to_say_so (void **state)
{
  (void)state;
  victim = freeze (DURABILITY_WRITTEN);
  call_hook_set (no_memory);
  snapshot_break (victim, EIO, "for some reason");
  call_hook_set (NULL);
  while (!snapshot_is_broken (victim))
    sched_yield ();
  assert_true (is_noted_broken () || store_is_marked (victim->record));
  freeze (DURABILITY_WRITTEN); /* another catalogue */
  crash (false);
  assert_broken (&there, 1, "");
}

/* Copies of one that hangs hold the memory: that one is given up, and the
 * store told, before another write goes on.
 */
static void
holder_of_the_memory_is_given_up (void **state)
{
  struct writer writer;

  (void)state;
  fixture_close (&here);
  history_free (&history);
  scratch_remove ();
  snprintf (path, sizeof path, "%s", scratch_path ("store"));
  here = (struct fixture){ .in_store = path,
                           .engine = &engine_fake,
                           .memory = 40000,
                           .options = { .cow_timeout = 1 } };
  fixture_open (&here);
  history_begin (&history, &here);
  struct snapshot *holder = freeze (DURABILITY_ASYNC);
  fake_reset (all_hang);
  for (unsigned i = 0;
       throttle_used (here.set->shared.throttle) < 40000 - 2 * 4416; i++)
    assert_int_equal (fixture_write (&here, i * CHUNK, CHUNK, 7), 0);
  struct snapshot *fresh = freeze (DURABILITY_ASYNC);
  begin_write (&writer, 100, 40);
  end_write (&writer);
  assert_true (snapshot_is_broken (holder) || snapshot_is_broken (fresh));
  assert_true (is_noted_broken ());
}

#define TEST(name) cmocka_unit_test_setup_teardown (name, setup, teardown)

int
main (void)
{
  const struct CMUnitTest tests[] = {
    TEST (write_goes_on_when_the_catalogue_says_so),
    TEST (write_waits_for_the_catalogue),
    TEST (all_writers_wait_and_all_go_on),
    TEST (mark_is_made_when_patience_ends),
    TEST (writer_for_whom_a_copy_hangs_is_woken),
    TEST (writer_that_waits_for_memory_is_woken),
    TEST (mark_is_made_when_it_cannot_be_noted),
    TEST (what_could_not_be_noted_is_noted_at_the_end),
    TEST (reads_of_a_failing_snapshot_never_get_a_hole),
    TEST (new_snapshot_while_another_is_failing),
    TEST (new_target_while_a_write_waits_for_the_old_one),
    TEST (deleted_while_the_store_is_told),
    TEST (first_reason_is_the_one),
    TEST (no_memory_to_say_so),
    TEST (holder_of_the_memory_is_given_up),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
