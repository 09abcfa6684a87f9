/* SPDX-License-Identifier: BSD-3-Clause */
/* The way of a snapshot read, with the second look forced by changes that
 * happen in the middle of the first.
 */

#include "cmocka-all.h"
#include "call-hook.h"
#include "fake-engine.h"
#include "fixture.h"
#include "nbdkit-stub.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#define CHUNK 4096
#define HOLE (NBDKIT_EXTENT_HOLE | NBDKIT_EXTENT_ZERO)

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
  fake_let_go ();
  fixture_close (&here);
  return 0;
}

static void
assert_fails (struct snapshot *snapshot, uint64_t offset, uint64_t count)
{
  static uint8_t buf[1 << 20];

  assert_int_equal (view_read (here.set, snapshot, buf, count, offset), -1);
  assert_int_equal (errno, EIO);
}

static int64_t
hang (const struct engine_request *request, size_t length, unsigned index)
{
  (void)request;
  (void)length;
  (void)index;
  return FAKE_HANG;
}

/* --- the chain ---------------------------------------------------------- */

static void
untouched_origin_reads_through (void **state)
{
  (void)state;
  struct snapshot *snapshot = fixture_freeze (&here);
  assert_frozen (&here, snapshot);
  assert_reads (&here, snapshot, here.old, 5, 1);
  assert_reads (&here, snapshot, here.old, here.size - 1, 1);
}

static void
pieces_come_from_memory_file_and_origin (void **state)
{
  (void)state;
  struct snapshot *snapshot = fixture_freeze (&here);
  assert_int_equal (fixture_write (&here, 0, 10 * CHUNK, 9), 0);
  fixture_drain (snapshot); /* these in the file */
  fake_reset (hang);
  assert_int_equal (fixture_write (&here, 8 * CHUNK, 10 * CHUNK, 9), 0);
  assert_frozen (&here, snapshot); /* these in memory */
  assert_reads (&here, snapshot, here.old, 5 * CHUNK + 7, 15 * CHUNK);
}

static atomic_uint reads;

static struct call_verdict
count_reads (const struct call_event *event)
{
  if (event->call == CALL_PREAD)
    atomic_fetch_add (&reads, 1);
  return (struct call_verdict){ 0 };
}

/* Groups of 64 chunks are no bounds for reads, what is in memory is. */
static void
groups_in_the_file_are_read_at_once (void **state)
{
  enum { GROUP = 64 * 512 };

  (void)state;
  here.options.chunk_size = 512;
  struct snapshot *snapshot = fixture_freeze (&here);
  assert_int_equal (fixture_write (&here, 0, 4 * GROUP + 512, 9), 0);
  fixture_drain (snapshot);
  fake_reset (hang);
  assert_int_equal (fixture_write (&here, 4 * GROUP + 512, 512, 9), 0);
  assert_int_equal (fixture_write (&here, 4 * GROUP + 1024, GROUP, 9), 0);
  assert_frozen (&here, snapshot);

  atomic_store (&reads, 0);
  call_hook_set (count_reads);
  assert_reads (&here, snapshot, here.old, 100, 4 * GROUP);
  assert_int_equal (atomic_load (&reads), 1);
  assert_reads (&here, snapshot, here.old, 100, 5 * GROUP);
  assert_int_equal (atomic_load (&reads), 2);
  call_hook_set (NULL);
}

/* Writes at random between three snapshots with different chunks; each one
 * reads as the model did at its instant.
 */
static void
chain_with_different_chunk_sizes (void **state)
{
  static const uint64_t chunk_sizes[] = { 4096, 512, 65536 };
  static uint8_t model[3][1 << 20], origin[1 << 20];
  struct snapshot *snapshots[3];
  unsigned seed = 5;

  (void)state;
  memcpy (origin, here.old, sizeof origin);
  for (unsigned i = 0; i < 3; i++) {
    here.options.chunk_size = chunk_sizes[i];
    snapshots[i] = fixture_freeze (&here);
    memcpy (model[i], origin, sizeof origin);
    for (unsigned n = 0; n < 30; n++) {
      const uint64_t offset = (uint64_t)rand_r (&seed) % here.size;
      uint64_t count = 1 + (uint64_t)rand_r (&seed) % 20000;
      if (count > here.size - offset)
        count = here.size - offset;
      const uint8_t value = (uint8_t)(i * 50 + n);
      assert_int_equal (fixture_write (&here, offset, count, value), 0);
      memset (origin + offset, value, count);
    }
    for (unsigned k = 0; k <= i; k++)
      assert_reads (&here, snapshots[k], model[k], 0, here.size);
  }
  for (unsigned k = 0; k < 3; k++) {
    for (unsigned n = 0; n < 200; n++) {
      const uint64_t offset = (uint64_t)rand_r (&seed) % here.size;
      uint64_t count = 1 + (uint64_t)rand_r (&seed) % 9000;
      if (count > here.size - offset)
        count = here.size - offset;
      assert_reads (&here, snapshots[k], model[k], offset, count);
    }
    fixture_drain (snapshots[k]);
    assert_reads (&here, snapshots[k], model[k], 0, here.size);
  }
  assert_no_message ();
}

/* If the origin grew again the older one would read what is there then. */
static void
newer_snapshot_of_a_shorter_origin_breaks_the_older (void **state)
{
  (void)state;
  struct snapshot *older = fixture_freeze (&here);
  assert_int_equal (ftruncate (here.fd, 500000), 0);
  struct snapshot *newer = fixture_freeze (&here);
  assert_int_equal (newer->size, 500000);
  assert_one_message ("snapshot 1 is broken", "shrunk from 1048576 to 500000");
  assert_int_equal (fixture_write (&here, 0, 500000, 9), 0);
  assert_reads (&here, newer, here.old, 0, 500000);
  assert_fails (older, 0, 1);
  assert_fails (older, 500000, 1);
}

static void
newer_snapshot_of_a_longer_origin (void **state)
{
  (void)state;
  struct snapshot *older = fixture_freeze (&here);
  assert_int_equal (ftruncate (here.fd, 2 << 20), 0);
  struct snapshot *newer = fixture_freeze (&here);
  assert_int_equal (fixture_write (&here, (1 << 20) - 100, 200, 9), 0);
  assert_frozen (&here, older);
  assert_frozen (&here, newer);
  uint8_t zero[100] = { 0 }, buf[100];
  assert_int_equal (view_read (here.set, newer, buf, 100, 1 << 20), 0);
  assert_memory_equal (buf, zero, 100);
}

/* --- the second look ---------------------------------------------------- */

/* Done once, in the middle of the next call of that kind on the origin:
 * after the reader has found its place, before it reads.
 */
static void (*in_the_middle) (void);
static enum call middle_call;
static int then_fail; /* and the call itself fails with this */

/* The test's own thread, not the flusher's. */
static _Thread_local bool is_main;

static struct call_verdict
do_in_the_middle (const struct call_event *event)
{
  if (!is_main || in_the_middle == NULL || event->call != middle_call
      || !fixture_is_origin (&here, event->fd))
    return (struct call_verdict){ 0 };
  void (*action) (void) = in_the_middle;
  in_the_middle = NULL;
  action ();
  return (struct call_verdict){ .error = then_fail };
}

static void
arrange (enum call call, void (*action) (void), int error)
{
  is_main = true;
  middle_call = call;
  in_the_middle = action;
  then_fail = error;
  call_hook_set (do_in_the_middle);
}

static void
write_all (void)
{
  const int r = fixture_write (&here, 0, here.size, 9);
  assert (r == 0);
}

static void
write_a_chunk_in_the_middle (void)
{
  const int r = fixture_write (&here, 10 * CHUNK, CHUNK, 9);
  assert (r == 0);
}

static void
write_all_and_drain (void)
{
  write_all ();
  fixture_drain (snapset_newest (here.set));
}

static void
freeze_and_write_all (void)
{
  fixture_freeze (&here);
  write_all ();
}

static void
break_and_write_all (void)
{
  snapshot_break (snapset_newest (here.set), EIO, "a test");
  write_all ();
}

static void
freeze_break_and_write_all (void)
{
  fixture_freeze (&here);
  break_and_write_all ();
}

static void
overwritten_while_it_is_read (void **state)
{
  void (*const actions[]) (void)
      = { write_all, write_a_chunk_in_the_middle, write_all_and_drain };

  (void)state;
  for (unsigned i = 0; i < 3; i++)
    for (unsigned chunk = 512; chunk <= 65536; chunk *= 128) {
      here.options.chunk_size = chunk;
      struct snapshot *snapshot = fixture_freeze (&here);
      arrange (CALL_PREAD, actions[i], 0);
      assert_frozen (&here, snapshot);
      assert_null (in_the_middle); /* it has happened */
      assert_frozen (&here, snapshot);
      call_hook_set (NULL);
      assert_int_equal (pwrite (here.fd, here.old, here.size, 0), here.size);
    }
  assert_no_message ();
}

static void
copied_to_a_snapshot_that_was_taken_while_it_is_read (void **state)
{
  (void)state;
  struct snapshot *snapshot = fixture_freeze (&here);
  here.options.chunk_size = 512;
  arrange (CALL_PREAD, freeze_and_write_all, 0);
  assert_frozen (&here, snapshot);
  assert_null (in_the_middle);
  assert_int_equal (snapset_newest (here.set)->number, 2);
  assert_int_equal (snapshot->copied, 0);
  assert_frozen (&here, snapset_newest (here.set));
}

static void
broken_while_it_is_read (void **state)
{
  (void)state;
  struct snapshot *snapshot = fixture_freeze (&here);
  arrange (CALL_PREAD, break_and_write_all, 0);
  assert_fails (snapshot, 0, here.size);
  assert_null (in_the_middle);
}

static void
newer_snapshot_comes_and_breaks_while_it_is_read (void **state)
{
  (void)state;
  struct snapshot *snapshot = fixture_freeze (&here);
  arrange (CALL_PREAD, freeze_break_and_write_all, 0);
  assert_fails (snapshot, 0, here.size);
  assert_null (in_the_middle);
}

static void
origin_fails_but_the_chunk_was_copied_meanwhile (void **state)
{
  (void)state;
  struct snapshot *snapshot = fixture_freeze (&here);
  arrange (CALL_PREAD, write_all, EIO);
  assert_frozen (&here, snapshot);
  assert_null (in_the_middle);
  assert_no_message ();
}

static struct call_verdict
bad_origin (const struct call_event *event)
{
  return (struct call_verdict){
    .error = event->call == CALL_PREAD && fixture_is_origin (&here, event->fd)
                 ? EIO
                 : 0
  };
}

static void
origin_that_cannot_be_read_is_logged_once (void **state)
{
  (void)state;
  struct snapshot *snapshot = fixture_freeze (&here);
  call_hook_set (bad_origin);
  assert_fails (snapshot, 12345, 10);
  call_hook_set (NULL);
  assert_one_message ("snapshot 1", here.path, "12345", strerror (EIO));
  assert_frozen (&here, snapshot);
}

/* --- layers that do not hold -------------------------------------------- */

static void
broken_snapshot_reads_as_errors_logged_once_each (void **state)
{
  (void)state;
  struct snapshot *snapshot = fixture_freeze (&here);
  assert_int_equal (fixture_write (&here, 0, CHUNK, 9), 0);
  fixture_drain (snapshot);
  snapshot_break (snapshot, EIO, "a test");
  fixture_drain (snapshot); /* its space is gone */
  messages_clear ();
  assert_fails (snapshot, 5 * CHUNK, 10); /* was on the origin */
  assert_one_message ("snapshot 1", "20480", "broken");
  messages_clear ();
  assert_fails (snapshot, 0, 10); /* was in the backing file */
  assert_one_message ("snapshot 1", "offset 0", "broken");
}

static void
older_snapshots_fail_only_where_they_need_the_broken_one (void **state)
{
  (void)state;
  struct snapshot *older = fixture_freeze (&here);
  assert_int_equal (fixture_write (&here, 0, 4 * CHUNK, 8), 0);
  struct snapshot *broken = fixture_freeze (&here);
  assert_int_equal (fixture_write (&here, 4 * CHUNK, 4 * CHUNK, 9), 0);
  snapshot_break (broken, EIO, "a test");
  fixture_drain (broken);
  struct snapshot *newest = fixture_freeze (&here);
  assert_int_equal (fixture_write (&here, 8 * CHUNK, CHUNK, 9), 0);

  assert_reads (&here, older, here.old, 0, 4 * CHUNK);
  assert_fails (older, 4 * CHUNK, CHUNK);
  assert_fails (older, 8 * CHUNK, CHUNK);
  assert_fails (older, 20 * CHUNK, CHUNK);
  assert_fails (broken, 0, CHUNK);
  memset (here.old, 8, 4 * CHUNK);
  memset (here.old + 4 * CHUNK, 9, 4 * CHUNK);
  assert_frozen (&here, newest);
}

static struct call_verdict
bad_store (const struct call_event *event)
{
  return (struct call_verdict){
    .error = event->call == CALL_PREAD && !fixture_is_origin (&here, event->fd)
                 ? EIO
                 : 0
  };
}

static void
backing_file_that_cannot_be_read_changes_nothing_else (void **state)
{
  (void)state;
  struct snapshot *snapshot = fixture_freeze (&here);
  assert_int_equal (fixture_write (&here, 3 * CHUNK, CHUNK, 9), 0);
  fixture_drain (snapshot);
  call_hook_set (bad_store);
  assert_fails (snapshot, 3 * CHUNK, 10);
  assert_one_message ("backing store", "12288", strerror (EIO));
  assert_reads (&here, snapshot, here.old, 0, 3 * CHUNK);
  call_hook_set (NULL);
  assert_false (snapshot_is_broken (snapshot));
  assert_frozen (&here, snapshot);
}

static void
chunk_that_the_newest_lost_is_lost_to_the_older (void **state)
{
  (void)state;
  struct snapshot *older = fixture_freeze (&here);
  struct snapshot *newest = fixture_freeze (&here);
  call_hook_set (bad_origin);
  assert_int_equal (fixture_write (&here, CHUNK, CHUNK, 9), 0);
  call_hook_set (NULL);
  assert_fails (newest, CHUNK, CHUNK);
  assert_fails (older, CHUNK, CHUNK);
  assert_reads (&here, older, here.old, 0, CHUNK);
  assert_reads (&here, older, here.old, 2 * CHUNK, 10 * CHUNK);
}

/* --- extents ------------------------------------------------------------ */

/* An origin with a hole from 64 KiB to 192 KiB, in units that every file
 * system can punch.
 */
#define UNIT 65536

static void
punch_hole (void)
{
  assert_int_equal (fallocate (here.fd,
                               FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, UNIT,
                               2 * UNIT),
                    0);
  memset (here.old + UNIT, 0, 2 * UNIT);
}

static struct nbdkit_extents
extents_of (struct snapshot *snapshot, uint64_t count, uint64_t offset,
            bool one)
{
  struct nbdkit_extents extents = { 0 };

  assert_int_equal (
      view_extents (here.set, snapshot, count, offset, one, &extents), 0);
  assert_true (extents.count > 0);
  assert_int_equal (extents.extent[0].offset, offset);
  return extents;
}

static void
extents_of_the_origin (void **state)
{
  (void)state;
  punch_hole ();
  const struct nbdkit_extents extents = extents_of (NULL, here.size, 0, false);
  assert_int_equal (extents.count, 3);
  assert_extent (&extents, 0, 0, UNIT, 0);
  assert_extent (&extents, 1, UNIT, 2 * UNIT, HOLE);
  assert_extent (&extents, 2, 3 * UNIT, here.size - 3 * UNIT, 0);
}

static void
extents_of_an_untouched_snapshot (void **state)
{
  (void)state;
  punch_hole ();
  struct snapshot *snapshot = fixture_freeze (&here);
  const struct nbdkit_extents extents
      = extents_of (snapshot, here.size - 10, 5, false);
  assert_int_equal (extents.count, 3);
  assert_extent (&extents, 0, 5, UNIT - 5, 0);
  assert_extent (&extents, 1, UNIT, 2 * UNIT, HOLE);
  assert_extent (&extents, 2, 3 * UNIT, here.size - 3 * UNIT - 5, 0);
}

static void
extents_stay_when_the_origin_is_overwritten (void **state)
{
  (void)state;
  punch_hole ();
  struct snapshot *snapshot = fixture_freeze (&here);
  assert_int_equal (fixture_write (&here, 0, here.size, 9), 0);
  fixture_drain (snapshot);
  const struct nbdkit_extents extents
      = extents_of (snapshot, here.size, 0, false);
  assert_int_equal (extents.count, 3);
  assert_extent (&extents, 0, 0, UNIT, 0);
  assert_extent (&extents, 1, UNIT, 2 * UNIT, HOLE);
  assert_extent (&extents, 2, 3 * UNIT, here.size - 3 * UNIT, 0);
  assert_frozen (&here, snapshot);
}

static void
copies_in_memory_are_data (void **state)
{
  (void)state;
  punch_hole ();
  fake_reset (hang);
  struct snapshot *snapshot = fixture_freeze (&here);
  assert_int_equal (fixture_write (&here, 0, 4 * UNIT, 9), 0);
  const struct nbdkit_extents extents
      = extents_of (snapshot, 4 * UNIT, 0, false);
  assert_extent (&extents, 0, 0, UNIT, 0);
  assert_extent (&extents, 1, UNIT, 2 * UNIT, HOLE);
  assert_extent (&extents, 2, 3 * UNIT, UNIT, 0);
}

static void
zeros_that_were_data_become_a_hole_of_the_snapshot (void **state)
{
  static const uint8_t zeros[UNIT];

  (void)state;
  assert_int_equal (pwrite (here.fd, zeros, UNIT, UNIT), UNIT);
  struct snapshot *snapshot = fixture_freeze (&here);
  assert_int_equal (fixture_write (&here, UNIT, UNIT, 9), 0);
  const struct nbdkit_extents extents = extents_of (snapshot, UNIT, UNIT, true);
  assert_extent (&extents, 0, UNIT, UNIT, HOLE);
}

static void
older_snapshot_has_the_extents_of_the_newest_copy (void **state)
{
  (void)state;
  punch_hole ();
  struct snapshot *older = fixture_freeze (&here);
  here.options.chunk_size = 512;
  struct snapshot *newest = fixture_freeze (&here);
  assert_int_equal (fixture_write (&here, 0, 4 * UNIT, 9), 0);
  fixture_drain (newest);
  const struct nbdkit_extents extents = extents_of (older, 4 * UNIT, 0, false);
  assert_extent (&extents, 0, 0, UNIT, 0);
  assert_extent (&extents, 1, UNIT, 2 * UNIT, HOLE);
  assert_extent (&extents, 2, 3 * UNIT, UNIT, 0);
}

static void
one_extent_when_one_is_asked_for (void **state)
{
  (void)state;
  punch_hole ();
  struct snapshot *snapshot = fixture_freeze (&here);
  struct nbdkit_extents extents = extents_of (snapshot, here.size, 0, true);
  assert_int_equal (extents.count, 1);
  assert_extent (&extents, 0, 0, UNIT, 0);
  extents = extents_of (snapshot, here.size - UNIT, UNIT, true);
  assert_int_equal (extents.count, 1);
  assert_extent (&extents, 0, UNIT, 2 * UNIT, HOLE);
}

static void
broken_snapshot_has_no_extents (void **state)
{
  struct nbdkit_extents extents = { 0 };

  (void)state;
  struct snapshot *snapshot = fixture_freeze (&here);
  assert_int_equal (fixture_write (&here, 0, CHUNK, 9), 0);
  snapshot_break (snapshot, EIO, "a test");
  fixture_drain (snapshot);
  messages_clear ();
  assert_int_equal (
      view_extents (here.set, snapshot, 100, CHUNK, false, &extents), -1);
  assert_int_equal (errno, EIO);
  assert_one_message ("snapshot 1", "4096", "broken");
  messages_clear ();
  assert_int_equal (view_extents (here.set, snapshot, 100, 0, false, &extents),
                    -1);
  assert_int_equal (errno, EIO);
  assert_one_message ("snapshot 1", "offset 0", "broken");
}

/* A hole is filled in the middle of the look at it: still a hole. */
static void
hole_is_written_while_it_is_looked_at (void **state)
{
  (void)state;
  punch_hole ();
  struct snapshot *snapshot = fixture_freeze (&here);
  arrange (CALL_LSEEK, write_all_and_drain, 0);
  const struct nbdkit_extents extents
      = extents_of (snapshot, here.size - UNIT, UNIT, false);
  assert_null (in_the_middle);
  assert_extent (&extents, 0, UNIT, 2 * UNIT, HOLE);
}

static void
write_and_punch_all (void)
{
  const int r = cow_begin_write (here.set, 0, here.size);
  assert (r == 0);
  const int p = origin_trim (here.origin, here.size, 0, false);
  assert (p == 0);
  cow_end_write (here.set);
}

/* Data become a hole in the middle of the look at them: still data. */
static void
data_are_trimmed_while_they_are_looked_at (void **state)
{
  (void)state;
  punch_hole ();
  struct snapshot *snapshot = fixture_freeze (&here);
  arrange (CALL_LSEEK, write_and_punch_all, 0);
  const struct nbdkit_extents extents
      = extents_of (snapshot, here.size, 0, false);
  assert_null (in_the_middle);
  assert_extent (&extents, 0, 0, UNIT, 0);
  assert_extent (&extents, 1, UNIT, 2 * UNIT, HOLE);
  assert_frozen (&here, snapshot);
}

static void
extents_of_an_origin_that_cannot_tell (void **state)
{
  struct nbdkit_extents extents = { 0 };

  (void)state;
  struct snapshot *snapshot = fixture_freeze (&here);
  arrange (CALL_LSEEK, messages_clear, EIO);
  assert_int_equal (
      view_extents (here.set, snapshot, 100, CHUNK, false, &extents), -1);
  assert_int_equal (errno, EIO);
  assert_one_message (here.path, "4096", strerror (EIO));
}

static void
extents_fail_but_the_chunk_was_copied_meanwhile (void **state)
{
  (void)state;
  struct snapshot *snapshot = fixture_freeze (&here);
  arrange (CALL_LSEEK, write_all_and_drain, EIO);
  struct nbdkit_extents extents = { 0 };
  /* The copy knows; an error would do no harm, a wrong answer would. */
  if (view_extents (here.set, snapshot, UNIT, 0, true, &extents) == 0)
    assert_extent (&extents, 0, 0, UNIT, 0);
  assert_null (in_the_middle);
}

/* Too fragmented for one answer: it may end early, but not before it has
 * begun.
 */
static void
extents_of_a_fragmented_origin (void **state)
{
  (void)state;
  for (uint64_t offset = 0; offset < here.size; offset += 8 * CHUNK) {
    assert_int_equal (fallocate (here.fd,
                                 FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                 (off_t)offset, 4 * CHUNK),
                      0);
    memset (here.old + offset, 0, 4 * CHUNK);
  }
  struct snapshot *snapshot = fixture_freeze (&here);
  assert_int_equal (fixture_write (&here, 0, here.size / 2, 9), 0);
  const struct nbdkit_extents extents
      = extents_of (snapshot, here.size, 0, false);
  for (unsigned i = 0; i < extents.count; i++)
    assert_extent (&extents, i, i * UINT64_C (4) * CHUNK, 4 * CHUNK,
                   i % 2 == 0 ? HOLE : 0);
}

/* --- readers and writers at once ---------------------------------------- */

static atomic_bool enough;

static void *
write_until_enough (void *arg)
{
  unsigned seed = *(unsigned *)arg;

  while (!atomic_load (&enough)) {
    const uint64_t offset = (uint64_t)rand_r (&seed) % (here.size - 9000);
    const int r
        = fixture_write (&here, offset, 1 + (uint64_t)rand_r (&seed) % 9000,
                         (uint8_t)rand_r (&seed));
    assert (r == 0);
  }
  return NULL;
}

static void
readers_never_see_later_bytes (void **state)
{
  static uint8_t buf[40000];
  struct snapshot *snapshots[3];
  pthread_t threads[2];
  unsigned seeds[2] = { 1, 2 }, seed = 3;
  bool went_wrong = false;

  (void)state;
  atomic_store (&enough, false);
  snapshots[0] = fixture_freeze (&here);
  for (unsigned i = 0; i < 2; i++)
    pthread_create (&threads[i], NULL, write_until_enough, &seeds[i]);
  for (unsigned n = 0; n < 400; n++) {
    const uint64_t offset = (uint64_t)rand_r (&seed) % (here.size - sizeof buf);
    if (n == 100 || n == 200) {
      here.options.chunk_size = n == 100 ? 512 : 16384;
      snapshots[n / 100] = fixture_freeze (&here);
    }
    if (view_read (here.set, snapshots[0], buf, sizeof buf, offset) == -1
        || memcmp (buf, here.old + offset, sizeof buf) != 0)
      went_wrong = true;
  }
  atomic_store (&enough, true);
  for (unsigned i = 0; i < 2; i++)
    pthread_join (threads[i], NULL);
  assert_false (went_wrong);
  assert_frozen (&here, snapshots[0]);
  for (unsigned i = 0; i < 3; i++)
    fixture_drain (snapshots[i]);
  assert_frozen (&here, snapshots[0]);
  assert_no_message ();
}

#define TEST(name) cmocka_unit_test_setup_teardown (name, setup, teardown)

int
main (void)
{
  const struct CMUnitTest tests[] = {
    TEST (untouched_origin_reads_through),
    TEST (pieces_come_from_memory_file_and_origin),
    TEST (groups_in_the_file_are_read_at_once),
    TEST (chain_with_different_chunk_sizes),
    TEST (newer_snapshot_of_a_shorter_origin_breaks_the_older),
    TEST (newer_snapshot_of_a_longer_origin),
    TEST (overwritten_while_it_is_read),
    TEST (copied_to_a_snapshot_that_was_taken_while_it_is_read),
    TEST (broken_while_it_is_read),
    TEST (newer_snapshot_comes_and_breaks_while_it_is_read),
    TEST (origin_fails_but_the_chunk_was_copied_meanwhile),
    TEST (origin_that_cannot_be_read_is_logged_once),
    TEST (broken_snapshot_reads_as_errors_logged_once_each),
    TEST (older_snapshots_fail_only_where_they_need_the_broken_one),
    TEST (backing_file_that_cannot_be_read_changes_nothing_else),
    TEST (chunk_that_the_newest_lost_is_lost_to_the_older),
    TEST (extents_of_the_origin),
    TEST (extents_of_an_untouched_snapshot),
    TEST (extents_stay_when_the_origin_is_overwritten),
    TEST (copies_in_memory_are_data),
    TEST (zeros_that_were_data_become_a_hole_of_the_snapshot),
    TEST (older_snapshot_has_the_extents_of_the_newest_copy),
    TEST (one_extent_when_one_is_asked_for),
    TEST (broken_snapshot_has_no_extents),
    TEST (hole_is_written_while_it_is_looked_at),
    TEST (data_are_trimmed_while_they_are_looked_at),
    TEST (extents_of_an_origin_that_cannot_tell),
    TEST (extents_fail_but_the_chunk_was_copied_meanwhile),
    TEST (extents_of_a_fragmented_origin),
    TEST (readers_never_see_later_bytes),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
