/* SPDX-License-Identifier: BSD-3-Clause */
/* How far a copy is, in a store, before the origin is overwritten: at each
 * level, step by step; and what becomes of the write if a step fails.
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
#include "storefile.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define CHUNK 4096

static struct fixture here, there;
static struct history history;
static struct image *image; /* that THERE is of */
static char path[256];

static int64_t
all_hang (const struct engine_request *request, size_t length, unsigned index)
{
  (void)request;
  (void)length;
  (void)index;
  return FAKE_HANG;
}

static int
setup (void **state)
{
  (void)state;
  fake_reset (all_hang);
  snprintf (path, sizeof path, "%s", scratch_path ("store"));
  here = (struct fixture){ .in_store = path, .engine = &engine_fake };
  there = (struct fixture){ 0 };
  fixture_open (&here);
  history_begin (&history, &here);
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
  close_there ();
  fixture_close (&here);
  history_free (&history);
  scratch_remove ();
  return 0;
}

static struct snapshot *
freeze (enum durability durability, enum on_error on_error)
{
  here.options.durability = durability;
  here.options.on_error = on_error;
  return history_freeze (&history);
}

struct writer {
  pthread_t thread;
  unsigned first, count;
  int error;
  atomic_bool ended;
};

static void *
run_writer (void *arg)
{
  struct writer *writer = arg;

  writer->error = fixture_write (&here, writer->first * (uint64_t)CHUNK,
                                 writer->count * (uint64_t)CHUNK, 7)
                          == 0
                      ? 0
                      : errno;
  atomic_store (&writer->ended, true);
  return NULL;
}

static void
begin_write (struct writer *writer, unsigned first, unsigned count)
{
  *writer = (struct writer){ .first = first, .count = count };
  assert_int_equal (pthread_create (&writer->thread, NULL, run_writer, writer),
                    0);
}

static int
end_write (struct writer *writer)
{
  pthread_join (writer->thread, NULL);
  return writer->error;
}

static bool
is_unchanged (unsigned chunk)
{
  uint8_t buf[CHUNK];

  assert_int_equal (pread (here.fd, buf, CHUNK, chunk * CHUNK), CHUNK);
  return memcmp (buf, history.now + chunk * CHUNK, CHUNK) == 0;
}

/* d(ata), i(ndex) or s(ync). */
static char
kind_of (unsigned index)
{
  const struct fake_write write = fake_write_at (index);

  return write.segments == 0 ? 's' : write.length % CHUNK == 0 ? 'd' : 'i';
}

/* A write of one chunk goes through these steps, and not before the last has
 * ended.
 */
static void
check_steps (enum durability level, const char *steps)
{
  struct writer writer;
  const unsigned count = (unsigned)strlen (steps);

  struct snapshot *s = freeze (level, ON_ERROR_BREAK_SNAPSHOT);
  begin_write (&writer, 3, 1);
  for (unsigned i = 0; i < count; i++) {
    fake_wait (i + 1);
    for (unsigned n = 0; n < 50; n++)
      sched_yield ();
    assert_int_equal (fake_count (), i + 1);
    assert_int_equal (kind_of (i), steps[i]);
    assert_true (is_unchanged (3));
    assert_false (atomic_load (&writer.ended));
    assert_false (bitmap_test (&s->hastrans, 3));
    fake_end (i, FAKE_WRITE);
  }
  assert_int_equal (end_write (&writer), 0);
  assert_false (is_unchanged (3));
  assert_holds (&history, &here, 1);
  close_there ();
  image = image_take (&here);
  image_serve (image, &there, level == DURABILITY_STABLE);
  assert_holds (&history, &there, 1);
}

static void
written_is_in_the_index_first (void **state)
{
  (void)state;
  check_steps (DURABILITY_WRITTEN, "di");
}

static void
stable_is_stable_first (void **state)
{
  (void)state;
  check_steps (DURABILITY_STABLE, "dsis");
}

static void
async_goes_on_at_once (void **state)
{
  (void)state;
  freeze (DURABILITY_ASYNC, ON_ERROR_BREAK_SNAPSHOT);
  assert_int_equal (fixture_write (&here, 0, 5 * CHUNK, 7), 0);
  assert_int_equal (fixture_write (&here, 0, 9 * CHUNK, 8), 0);
  assert_holds (&history, &here, 1);
  fake_let_go ();
  fixture_drain (fixture_find (&here, 1));
  for (unsigned i = 0; i < fake_count (); i++)
    assert_int_equal (kind_of (i), 'd'); /* no index until the end */
}

/* What needs no data needs the index all the same. */
static void
zeros_are_in_the_index_first (void **state)
{
  struct writer writer;

  (void)state;
  history_write (&history, 3 * CHUNK, CHUNK, 0);
  struct snapshot *s = freeze (DURABILITY_STABLE, ON_ERROR_BREAK_SNAPSHOT);
  begin_write (&writer, 3, 1);
  for (unsigned i = 0; i < 2; i++) {
    fake_wait (i + 1);
    assert_int_equal (kind_of (i), "is"[i]);
    assert_true (is_unchanged (3));
    assert_false (bitmap_test (&s->hastrans, 3));
    fake_end (i, FAKE_WRITE);
  }
  assert_int_equal (end_write (&writer), 0);
  assert_holds (&history, &here, 1);
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

static void
lost_chunks_are_in_the_index_first (void **state)
{
  struct writer writer;
  uint8_t byte;

  (void)state;
  struct snapshot *s = freeze (DURABILITY_STABLE, ON_ERROR_BREAK_SNAPSHOT);
  call_hook_set (origin_is_unreadable);
  begin_write (&writer, 3, 1);
  for (unsigned i = 0; i < 2; i++) {
    fake_wait (i + 1);
    assert_int_equal (kind_of (i), "is"[i]);
    assert_false (bitmap_test (&s->hastrans, 3));
    fake_end (i, FAKE_WRITE);
  }
  assert_int_equal (end_write (&writer), 0);
  call_hook_set (NULL);
  assert_int_equal (view_read (here.set, s, &byte, 1, 3 * CHUNK), -1);
  image = image_take (&here);
  image_serve (image, &there, true);
  struct snapshot *again = fixture_find (&there, 1);
  assert_int_equal (view_read (there.set, again, &byte, 1, 3 * CHUNK), -1);
  assert_reads (&there, again, history.frozen[1], 4 * CHUNK, CHUNK);
}

/* Writes that come together share what they wait for. */
static void
writers_share_the_barriers (void **state)
{
  struct writer first, writers[10];

  (void)state;
  freeze (DURABILITY_STABLE, ON_ERROR_BREAK_SNAPSHOT);
  begin_write (&first, 0, 1);
  fake_wait (1);
  fake_end (0, FAKE_WRITE);
  fake_wait (2);
  assert_int_equal (kind_of (1), 's');
  for (unsigned i = 0; i < 10; i++) {
    begin_write (&writers[i], 10 + 2 * i, 1);
    fake_wait (3 + i);
    assert_int_equal (kind_of (2 + i), 'd');
  }
  fake_let_go ();
  assert_int_equal (end_write (&first), 0);
  for (unsigned i = 0; i < 10; i++)
    assert_int_equal (end_write (&writers[i]), 0);
  unsigned syncs = 0;
  for (unsigned i = 0; i < fake_count (); i++)
    syncs += kind_of (i) == 's';
  /* Of the first two, and two for all the others, which may take two rounds
   * since the data of some end later.
   */
  assert_in_range (syncs, 4, 6);
  assert_holds (&history, &here, 1);
}

/* --- break-write --------------------------------------------------------- */

/* Step STEP of a write fails: so does the write, with that errno; and then it
 * can be made once more.
 */
static void
check_failure (unsigned step, int error)
{
  static const char steps[] = "dsis";
  struct writer writer;

  struct snapshot *s = freeze (DURABILITY_STABLE, ON_ERROR_BREAK_WRITE);
  messages_clear ();
  begin_write (&writer, 3, 2);
  for (unsigned i = 0; i <= step; i++) {
    fake_wait (i + 1);
    assert_int_equal (kind_of (i), steps[i]);
    fake_end (i, i == step ? -error : FAKE_WRITE);
  }
  if (step == 2) { /* it may sync the rest of the round */
    fake_let_go ();
  }
  assert_int_equal (end_write (&writer), error);
  assert_int_equal (messages_count (), 1);
  assert_true (is_unchanged (3) && is_unchanged (4));
  assert_false (bitmap_test (&s->hastrans, 3));
  assert_false (snapshot_is_given_up (s));
  assert_int_equal (atomic_load (&s->copied), 0);

  /* A crash now: what may be in the index is right. */
  image = image_take (&here);
  image_serve (image, &there, true);
  assert_holds (&history, &there, 1);
  close_there ();

  fake_reset (NULL);
  history_write (&history, 3 * CHUNK, 2 * CHUNK, 9);
  assert_holds (&history, &here, 1);
  image = image_take (&here);
  image_serve (image, &there, true);
  assert_holds (&history, &there, 1);
}

static void
write_fails_with_the_errno_of_the_data (void **state)
{
  (void)state;
  check_failure (0, ENOSPC);
}

static void
write_fails_with_the_errno_of_the_data_sync (void **state)
{
  (void)state;
  check_failure (1, EIO);
}

static void
write_fails_with_the_errno_of_the_index (void **state)
{
  (void)state;
  check_failure (2, EDQUOT);
}

static void
write_fails_with_the_errno_of_the_index_sync (void **state)
{
  (void)state;
  check_failure (3, EIO);
}

/* Bits that a failed round left in the index do not make it look damaged. */
static void
clean_end_after_a_failed_round (void **state)
{
  struct writer writer;

  (void)state;
  freeze (DURABILITY_STABLE, ON_ERROR_BREAK_WRITE);
  begin_write (&writer, 3, 1);
  for (unsigned i = 0; i < 4; i++) {
    fake_wait (i + 1);
    fake_end (i, i == 3 ? -EIO : FAKE_WRITE);
  }
  assert_int_equal (end_write (&writer), EIO);
  fake_reset (NULL);
  messages_clear ();
  fixture_restart (&here, true);
  assert_history (&history, &here);
  assert_no_message ();
  history_write (&history, 0, 10 * CHUNK, 9);
  fixture_restart (&here, true);
  assert_history (&history, &here);
}

static struct fake_write bad_unit;

static int64_t
unit_is_bad (const struct engine_request *request, size_t length,
             unsigned index)
{
  (void)index;
  return length > 0 && length < CHUNK && request->offset <= bad_unit.offset
                 && request->offset + length > bad_unit.offset
             ? -EIO
             : FAKE_WRITE;
}

/* Of writes whose units share a round, that one fails whose unit does. */
static void
one_unit_fails_one_write (void **state)
{
  struct writer writers[3];

  (void)state;
  fixture_close (&here);
  history_free (&history);
  scratch_remove ();
  snprintf (path, sizeof path, "%s", scratch_path ("store"));
  /* Three units of chunks. */
  here = (struct fixture){ .size = 3 * UINT64_C (60 * 64 * 512),
                           .in_store = path,
                           .engine = &engine_fake,
                           .options = { .chunk_size = 512 } };
  fixture_open (&here);
  history_begin (&history, &here);
  struct snapshot *s = freeze (DURABILITY_STABLE, ON_ERROR_BREAK_WRITE);
  bad_unit.offset = storefile_place (s->backfile, FORMAT_COPIED, 60).offset;
  fake_reset (unit_is_bad);
  for (unsigned i = 0; i < 3; i++)
    begin_write (&writers[i], i * 60 * 64 * 512 / CHUNK, 1);
  for (unsigned i = 0; i < 3; i++)
    assert_int_equal (end_write (&writers[i]), i == 1 ? EIO : 0);
  assert_holds (&history, &here, 1);
  image = image_take (&here);
  image_serve (image, &there, true);
  assert_holds (&history, &there, 1);
}

/* --- levels of several --------------------------------------------------- */

/* What a newer one keeps is read by the older ones: it keeps it as they asked.
 */
static void
newer_snapshots_keep_as_well_as_older_ones_ask (void **state)
{
  static const struct {
    enum durability asked, kept;
  } levels[] = {
    { DURABILITY_ASYNC, DURABILITY_ASYNC },
    { DURABILITY_WRITTEN, DURABILITY_WRITTEN },
    { DURABILITY_ASYNC, DURABILITY_WRITTEN },
    { DURABILITY_STABLE, DURABILITY_STABLE },
    { DURABILITY_ASYNC, DURABILITY_STABLE },
  };

  (void)state;
  fake_let_go ();
  for (unsigned i = 0; i < 5; i++) {
    struct snapshot *s = freeze (levels[i].asked, ON_ERROR_BREAK_SNAPSHOT);
    assert_int_equal (atomic_load (&s->level), levels[i].kept);
    assert_int_equal (s->options.durability, levels[i].kept);
    assert_int_equal (s->record->durability, levels[i].kept);
    history_write (&history, i * CHUNK, 3 * CHUNK, (uint8_t)i);
  }
  /* Those that are deleted ask for nothing. */
  history_delete (&history, 4);
  history_delete (&history, 5);
  assert_int_equal (
      freeze (DURABILITY_ASYNC, ON_ERROR_BREAK_SNAPSHOT)->options.durability,
      DURABILITY_WRITTEN);
  image = image_take (&here);
  image_serve (image, &there, false);
  assert_broken (&there, 1, "async");
  assert_holds (&history, &there, 2);
  assert_holds (&history, &there, 3);
}

static void
ephemeral_snapshots_ask_for_nothing (void **state)
{
  (void)state;
  fake_let_go ();
  here.options.ephemeral = true;
  freeze (DURABILITY_STABLE, ON_ERROR_BREAK_SNAPSHOT);
  here.options.ephemeral = false;
  assert_int_equal (
      freeze (DURABILITY_ASYNC, ON_ERROR_BREAK_SNAPSHOT)->options.durability,
      DURABILITY_ASYNC);
}

static unsigned origin_syncs, catalogs, catalogs_at_sync;

static struct call_verdict
note_syncs (const struct call_event *event)
{
  catalogs += event->call == CALL_RENAME2;
  if (event->call == CALL_FDATASYNC && fixture_is_origin (&here, event->fd)) {
    origin_syncs++;
    catalogs_at_sync = catalogs;
  }
  return (struct call_verdict){ 0 };
}

/* What it reads on the origin is stable before its creation is answered. */
static void
origin_is_flushed_for_stable_snapshots (void **state)
{
  (void)state;
  for (unsigned level = 0; level < 3; level++) {
    origin_syncs = catalogs = 0;
    call_hook_set (note_syncs);
    freeze ((enum durability)level, ON_ERROR_BREAK_SNAPSHOT);
    call_hook_set (NULL);
    assert_int_equal (origin_syncs, level == DURABILITY_STABLE);
    assert_int_equal (catalogs, 3); /* making, pending, settled */
    if (level == DURABILITY_STABLE)
      assert_int_equal (catalogs_at_sync, 2);
  }
}

static struct call_verdict
origin_syncs_fail (const struct call_event *event)
{
  return (struct call_verdict){ .error = event->call == CALL_FDATASYNC
                                                 && fixture_is_origin (
                                                     &here, event->fd)
                                             ? EIO
                                             : 0 };
}

static void
stable_snapshot_fails_if_the_origin_cannot_be_flushed (void **state)
{
  (void)state;
  fake_let_go ();
  freeze (DURABILITY_WRITTEN, ON_ERROR_BREAK_SNAPSHOT);
  here.options.durability = DURABILITY_STABLE;
  call_hook_set (origin_syncs_fail);
  errno = 0;
  assert_null (snapset_freeze (here.set, &here.options));
  assert_int_equal (errno, EIO);
  call_hook_set (NULL);
  history_write (&history, 0, 10 * CHUNK, 1);
  assert_history (&history, &here);
  fixture_reclaim (&here);
  fixture_settle (&here);
  assert_int_equal (fixture_layers (&here), 1);
  assert_null (store_catalog (here.store)->layers->next);
}

static bool grow;

/* When the new file is made, the origin becomes longer. */
static struct call_verdict
origin_grows (const struct call_event *event)
{
  if (event->call == CALL_FTRUNCATE && grow) {
    grow = false;
    if (ftruncate (here.fd, (off_t)here.size + CHUNK) == -1)
      abort ();
  }
  return (struct call_verdict){ 0 };
}

/* It is made once more, and nothing is left of the first. */
static void
origin_that_grows_while_a_snapshot_is_made (void **state)
{
  (void)state;
  fake_let_go ();
  grow = true;
  call_hook_set (origin_grows);
  struct snapshot *s = fixture_freeze (&here);
  call_hook_set (NULL);
  assert_false (grow);
  assert_int_equal (s->size, here.size + CHUNK);
  const struct catalog *catalog = store_catalog (here.store);
  assert_non_null (catalog->layers);
  assert_null (catalog->layers->next);
  assert_null (catalog->making);
  assert_null (catalog->removing);
  assert_int_equal (catalog->layers->size, here.size + CHUNK);
}

/* What is longer than the origin cannot be relied on any more. */
static void
origin_that_has_shrunk_breaks_what_is_longer (void **state)
{
  (void)state;
  fake_let_go ();
  struct snapshot *first = freeze (DURABILITY_WRITTEN, ON_ERROR_BREAK_SNAPSHOT);
  assert_int_equal (ftruncate (here.fd, (off_t)here.size - CHUNK), 0);
  struct snapshot *second = fixture_freeze (&here);
  assert_int_equal (second->size, here.size - CHUNK);
  while (!snapshot_is_broken (first))
    sched_yield ();
  assert_non_null (store_catalog (here.store)->layers->broken_reason);
  assert_int_equal (ftruncate (here.fd, (off_t)here.size), 0);
  fixture_restart (&here, false);
  assert_broken (&here, 1, "shrunk");
  assert_false (snapshot_is_broken (fixture_find (&here, 2)));
}

static void
stable_needs_a_store (void **state)
{
  struct fixture without = { .options = { .durability = DURABILITY_STABLE } };

  (void)state;
  fixture_open (&without);
  errno = 0;
  assert_null (snapset_freeze (without.set, &without.options));
  assert_int_equal (errno, EINVAL);
  assert_one_message ("durability=stable", "store=DIR");
  fixture_close (&without);
}

#define TEST(name) cmocka_unit_test_setup_teardown (name, setup, teardown)

int
main (void)
{
  const struct CMUnitTest tests[] = {
    TEST (written_is_in_the_index_first),
    TEST (stable_is_stable_first),
    TEST (async_goes_on_at_once),
    TEST (zeros_are_in_the_index_first),
    TEST (lost_chunks_are_in_the_index_first),
    TEST (writers_share_the_barriers),
    TEST (write_fails_with_the_errno_of_the_data),
    TEST (write_fails_with_the_errno_of_the_data_sync),
    TEST (write_fails_with_the_errno_of_the_index),
    TEST (write_fails_with_the_errno_of_the_index_sync),
    TEST (clean_end_after_a_failed_round),
    TEST (one_unit_fails_one_write),
    TEST (newer_snapshots_keep_as_well_as_older_ones_ask),
    TEST (ephemeral_snapshots_ask_for_nothing),
    TEST (origin_is_flushed_for_stable_snapshots),
    TEST (stable_snapshot_fails_if_the_origin_cannot_be_flushed),
    TEST (origin_that_grows_while_a_snapshot_is_made),
    TEST (origin_that_has_shrunk_breaks_what_is_longer),
    TEST (stable_needs_a_store),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
