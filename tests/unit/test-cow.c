/* SPDX-License-Identifier: BSD-3-Clause */
/* The way of a write, and each row of the table of faults in src/cow.c. */

#include "cmocka-all.h"
#include "call-hook.h"
#include "fake-engine.h"
#include "fixture.h"
#include "nbdkit-stub.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHUNK 4096

static struct fixture here;

/* The test's own thread, not a writer's nor the flusher's. */
static _Thread_local bool is_main;

/* Has yet to tell that it waits. */
static _Thread_local bool tells;

static int
setup (void **state)
{
  (void)state;
  is_main = true;
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

/* Start over with a small max-memory. */
static void
with_memory (uint64_t memory)
{
  fixture_close (&here);
  here = (struct fixture){ .engine = &engine_fake, .memory = memory };
  fixture_open (&here);
}

static void
written (void)
{
  here.options.durability = DURABILITY_WRITTEN;
}

static void
break_write (void)
{
  written ();
  here.options.on_error = ON_ERROR_BREAK_WRITE;
}

static void
assert_origin_is (uint64_t offset, uint64_t count, uint8_t value)
{
  uint8_t byte;

  for (uint64_t i = offset; i < offset + count; i++) {
    assert_int_equal (pread (here.fd, &byte, 1, (off_t)i), 1);
    assert_int_equal (byte, value);
  }
}

static void
assert_origin_is_old (void)
{
  static uint8_t buf[1 << 20];

  assert_int_equal (pread (here.fd, buf, sizeof buf, 0), sizeof buf);
  assert_memory_equal (buf, here.old, sizeof buf);
}

static void
assert_fails (struct snapshot *snapshot, uint64_t offset, uint64_t count)
{
  static uint8_t buf[1 << 20];

  assert_int_equal (view_read (here.set, snapshot, buf, count, offset), -1);
  assert_int_equal (errno, EIO);
}

/* --- what is copied ----------------------------------------------------- */

static void
old_content_is_kept (void **state)
{
  static const uint64_t ranges[][2]
      = { { 0, 1 },         { 4095, 2 },     { 10000, 300 },
          { 65536, 65536 }, { 262143, 300 }, { (1 << 20) - 1, 1 } };

  (void)state;
  for (unsigned durability = 0; durability < 2; durability++) {
    here.options.durability = durability;
    struct snapshot *snapshot = fixture_freeze (&here);
    for (unsigned i = 0; i < sizeof ranges / sizeof ranges[0]; i++) {
      assert_int_equal (fixture_write (&here, ranges[i][0], ranges[i][1], 9),
                        0);
      if (durability == 0)
        assert_frozen (&here, snapshot);
    }
    fixture_drain (snapshot);
    assert_int_equal (pread (here.fd, here.old, here.size, 0), here.size);
  }
  assert_no_message ();
}

static void
snapshot_is_frozen_while_copies_are_in_memory (void **state)
{
  (void)state;
  with_memory (64 << 20);
  struct snapshot *snapshot = fixture_freeze (&here);
  assert_int_equal (fixture_write (&here, 0, here.size, 9), 0);
  assert_frozen (&here, snapshot);
  fixture_drain (snapshot);
  assert_frozen (&here, snapshot);
  assert_origin_is (0, 10000, 9);
}

static void
without_a_snapshot_nothing_is_copied (void **state)
{
  (void)state;
  assert_int_equal (fixture_write (&here, 100, 5000, 9), 0);
  assert_origin_is (100, 5000, 9);
  assert_int_equal (fake_count (), 0);
}

static void
only_chunks_that_are_touched_are_copied (void **state)
{
  (void)state;
  struct snapshot *snapshot = fixture_freeze (&here);
  assert_int_equal (fixture_write (&here, 3 * CHUNK + 5, 1, 9), 0);
  fixture_drain (snapshot);
  assert_int_equal (fake_count (), 1);
  assert_int_equal (fake_write_at (0).length, CHUNK);
  assert_int_equal (snapshot->copied, CHUNK);
}

static void
chunk_is_copied_once (void **state)
{
  (void)state;
  struct snapshot *snapshot = fixture_freeze (&here);
  for (unsigned i = 0; i < 5; i++)
    assert_int_equal (fixture_write (&here, i, 2 * CHUNK, 9), 0);
  fixture_drain (snapshot);
  assert_int_equal (snapshot->copied, 3 * CHUNK);
  assert_frozen (&here, snapshot);
}

static void
copy_goes_to_the_newest_snapshot_alone (void **state)
{
  (void)state;
  struct snapshot *older = fixture_freeze (&here);
  struct snapshot *newest = fixture_freeze (&here);
  assert_int_equal (fixture_write (&here, 0, CHUNK, 9), 0);
  assert_int_equal (older->copied, 0);
  assert_int_equal (newest->copied, CHUNK);
  assert_frozen (&here, older);
  assert_frozen (&here, newest);
}

static unsigned origin_reads;

static struct call_verdict
count_origin_reads (const struct call_event *event)
{
  if (event->call == CALL_PREAD && fixture_is_origin (&here, event->fd))
    origin_reads++;
  return (struct call_verdict){ 0 };
}

static void
large_write_reads_the_origin_in_few_runs (void **state)
{
  static const struct {
    uint64_t chunk;
    unsigned reads;
  } cases[] = { { 4096, 4 }, { 16384, 1 }, { 65536, 1 } };

  (void)state;
  for (unsigned i = 0; i < 3; i++) {
    here.options.chunk_size = cases[i].chunk;
    struct snapshot *snapshot = fixture_freeze (&here);
    origin_reads = 0;
    call_hook_set (count_origin_reads);
    assert_int_equal (fixture_write (&here, 0, 1 << 20, (uint8_t)i + 1), 0);
    call_hook_set (NULL);
    assert_int_equal (origin_reads, cases[i].reads);
    fixture_drain (snapshot);
  }
}

static void
copied_chunks_are_not_read_again (void **state)
{
  (void)state;
  struct snapshot *snapshot = fixture_freeze (&here);
  assert_int_equal (fixture_write (&here, 10 * CHUNK, CHUNK, 9), 0);
  origin_reads = 0;
  call_hook_set (count_origin_reads);
  assert_int_equal (fixture_write (&here, 10 * CHUNK, CHUNK, 9), 0);
  assert_int_equal (origin_reads, 0);
  assert_int_equal (fixture_write (&here, 0, 64 * CHUNK, 9), 0);
  assert_int_equal (origin_reads, 2); /* before and behind the copied one */
  call_hook_set (NULL);
  fixture_drain (snapshot);
  assert_frozen (&here, snapshot);
}

static void
make_zeros (uint64_t offset, uint64_t count)
{
  memset (here.old + offset, 0, count);
  assert_int_equal (pwrite (here.fd, here.old + offset, count, (off_t)offset),
                    count);
}

static void
zeros_are_kept_without_being_stored (void **state)
{
  (void)state;
  for (unsigned durability = 0; durability < 2; durability++) {
    here.options.durability = durability;
    make_zeros (0, here.size);
    struct snapshot *snapshot = fixture_freeze (&here);
    assert_int_equal (fixture_write (&here, 0, here.size, 9), 0);
    assert_int_equal (fake_count (), 0);
    assert_int_equal (snapshot->copied, 0);
    assert_frozen (&here, snapshot);
  }
}

static void
zeros_between_data_are_left_out (void **state)
{
  (void)state;
  written ();
  make_zeros (2 * CHUNK, CHUNK);
  make_zeros (5 * CHUNK, 3 * CHUNK);
  make_zeros (62 * CHUNK, 4 * CHUNK);
  struct snapshot *snapshot = fixture_freeze (&here);
  assert_int_equal (fixture_write (&here, 0, here.size, 9), 0);
  assert_int_equal (snapshot->copied, here.size - 8 * CHUNK);
  assert_frozen (&here, snapshot);
}

static void
chunk_with_one_byte_is_not_zero (void **state)
{
  static const uint64_t at[] = { 0, 1, CHUNK - 1 };

  (void)state;
  make_zeros (0, 3 * CHUNK);
  for (unsigned i = 0; i < 3; i++) {
    here.old[i * CHUNK + at[i]] = 1;
    assert_int_equal (pwrite (here.fd, "\1", 1, (off_t)(i * CHUNK + at[i])), 1);
  }
  struct snapshot *snapshot = fixture_freeze (&here);
  assert_int_equal (fixture_write (&here, 0, 3 * CHUNK, 9), 0);
  assert_int_equal (snapshot->copied, 3 * CHUNK);
  fixture_drain (snapshot);
  assert_frozen (&here, snapshot);
}

/* An origin of an odd size, with chunks of CHUNK_SIZE. */
static void
odd_origin (uint64_t size, uint64_t chunk_size)
{
  fixture_close (&here);
  here = (struct fixture){ .engine = &engine_fake,
                           .size = size,
                           .options.chunk_size = chunk_size };
  fixture_open (&here);
}

static void
last_chunk_is_short (void **state)
{
  (void)state;
  odd_origin (100003, CHUNK);
  written ();
  struct snapshot *snapshot = fixture_freeze (&here);
  assert_int_equal (fixture_write (&here, 100002, 1, 9), 0);
  assert_int_equal (snapshot->copied, 100003 % CHUNK);
  assert_frozen (&here, snapshot);
}

static void
chunk_is_larger_than_the_origin (void **state)
{
  (void)state;
  odd_origin (1000, 1 << 20);
  struct snapshot *snapshot = fixture_freeze (&here);
  assert_int_equal (fixture_write (&here, 500, 10, 9), 0);
  assert_int_equal (snapshot->copied, 1000);
  assert_frozen (&here, snapshot);
  fixture_drain (snapshot);
  assert_frozen (&here, snapshot);
}

static void
every_size_and_end_of_a_small_origin (void **state)
{
  (void)state;
  for (uint64_t size = 510; size <= 1030; size += 13) {
    odd_origin (size, 512);
    struct snapshot *snapshot = fixture_freeze (&here);
    assert_int_equal (fixture_write (&here, size - 1, 1, 9), 0);
    assert_frozen (&here, snapshot);
    fixture_drain (snapshot);
    assert_frozen (&here, snapshot);
  }
}

static void
what_the_origin_has_grown_by_is_not_copied (void **state)
{
  (void)state;
  odd_origin (5000, CHUNK);
  struct snapshot *snapshot = fixture_freeze (&here);
  assert_int_equal (ftruncate (here.fd, 50000), 0);
  assert_int_equal (fixture_write (&here, 5000, 100, 9), 0);
  assert_int_equal (fixture_write (&here, 40000, 100, 9), 0);
  assert_int_equal (snapshot->copied, 0);
  assert_int_equal (fixture_write (&here, 4999, 20000, 9), 0);
  assert_int_equal (snapshot->copied, 5000 - CHUNK);
  assert_origin_is (4999, 20000, 9);
  assert_frozen (&here, snapshot);
}

static void
write_of_nothing_passes (void **state)
{
  (void)state;
  fixture_freeze (&here);
  assert_int_equal (cow_begin_write (here.set, 0, 0), 0);
  cow_end_write (here.set);
  assert_int_equal (cow_begin_write (here.set, 5, 0), 0);
  cow_end_write (here.set);
  assert_int_equal (fake_count (), 0);
}

/* --- order -------------------------------------------------------------- */

static int64_t
hang (const struct engine_request *request, size_t length, unsigned index)
{
  (void)request;
  (void)length;
  (void)index;
  return FAKE_HANG;
}

/* A write of its own thread. */
struct writer {
  pthread_t thread;
  uint64_t offset, count;
  int r, err;
};

static sem_t waiting;

static struct call_verdict
tell_that_it_waits (const struct call_event *event)
{
  if (event->call == CALL_WAIT && tells) {
    tells = false;
    sem_post (&waiting);
  }
  return (struct call_verdict){ 0 };
}

static void *
write_once (void *arg)
{
  struct writer *writer = arg;

  tells = true;
  writer->r = fixture_write (&here, writer->offset, writer->count, 9);
  writer->err = errno;
  return NULL;
}

/* Returns when it waits for something. */
static void
start_waiting_writer (struct writer *writer, uint64_t offset, uint64_t count)
{
  *writer = (struct writer){ .offset = offset, .count = count };
  sem_init (&waiting, 0, 0);
  call_hook_set (tell_that_it_waits);
  pthread_create (&writer->thread, NULL, write_once, writer);
  sem_wait (&waiting);
  call_hook_set (NULL);
}

static void
async_write_does_not_wait_for_the_store (void **state)
{
  (void)state;
  fake_reset (hang);
  struct snapshot *snapshot = fixture_freeze (&here);
  assert_int_equal (fixture_write (&here, 0, CHUNK, 9), 0);
  assert_origin_is (0, CHUNK, 9);
  assert_frozen (&here, snapshot);
}

static void
written_write_waits_until_the_copy_is_written (void **state)
{
  struct writer writer;

  (void)state;
  written ();
  fake_reset (hang);
  struct snapshot *snapshot = fixture_freeze (&here);
  start_waiting_writer (&writer, 0, CHUNK);
  assert_origin_is_old ();
  assert_frozen (&here, snapshot);
  fake_let_go ();
  pthread_join (writer.thread, NULL);
  assert_int_equal (writer.r, 0);
  assert_origin_is (0, CHUNK, 9);
  assert_frozen (&here, snapshot);
}

static void
nobody_waits_inside_the_gate (void **state)
{
  struct writer writer;

  (void)state;
  written ();
  fake_reset (hang);
  struct snapshot *first = fixture_freeze (&here);
  start_waiting_writer (&writer, 0, CHUNK);
  struct snapshot *second = fixture_freeze (&here); /* would hang here */
  fake_let_go ();
  pthread_join (writer.thread, NULL);
  assert_int_equal (writer.r, 0);
  assert_frozen (&here, first);
  assert_frozen (&here, second);
  assert_int_equal (second->copied, CHUNK); /* it was taken into account */
}

static void
copied_chunks_can_be_written_while_the_store_hangs (void **state)
{
  struct writer writer;

  (void)state;
  written ();
  struct snapshot *snapshot = fixture_freeze (&here);
  assert_int_equal (fixture_write (&here, 0, CHUNK, 8), 0);
  fake_reset (hang);
  start_waiting_writer (&writer, 10 * CHUNK, CHUNK);
  assert_int_equal (fixture_write (&here, 0, CHUNK, 7), 0);
  fake_let_go ();
  pthread_join (writer.thread, NULL);
  assert_int_equal (writer.r, 0);
  assert_frozen (&here, snapshot);
}

static void
overlapping_writes_copy_once (void **state)
{
  struct writer a, b;

  (void)state;
  written ();
  fake_reset (hang);
  struct snapshot *snapshot = fixture_freeze (&here);
  start_waiting_writer (&a, 0, 4 * CHUNK);
  start_waiting_writer (&b, 2 * CHUNK, 4 * CHUNK);
  fake_let_go ();
  pthread_join (a.thread, NULL);
  pthread_join (b.thread, NULL);
  assert_int_equal (a.r, 0);
  assert_int_equal (b.r, 0);
  assert_int_equal (snapshot->copied, 6 * CHUNK);
  assert_frozen (&here, snapshot);
}

static void
write_waits_for_memory (void **state)
{
  struct writer writer;

  (void)state;
  with_memory (8 * (65536 + THROTTLE_ALLOWANCE));
  fake_reset (hang);
  struct snapshot *snapshot = fixture_freeze (&here);
  start_waiting_writer (&writer, 0, 1 << 20);
  assert_true (throttle_held (here.set->shared.throttle)
               <= throttle_limit (here.set->shared.throttle));
  fake_let_go ();
  pthread_join (writer.thread, NULL);
  assert_int_equal (writer.r, 0);
  fixture_drain (snapshot);
  assert_frozen (&here, snapshot);
}

/* The memory it waited for was meant for the smaller chunks of the snapshot
 * that was the newest then.
 */
static void
snapshot_with_larger_chunks_while_a_write_waits_for_memory (void **state)
{
  struct writer writer;

  (void)state;
  with_memory (8 * (65536 + THROTTLE_ALLOWANCE));
  here.options.chunk_size = 512;
  fake_reset (hang);
  struct snapshot *first = fixture_freeze (&here);
  start_waiting_writer (&writer, 0, 1 << 20);
  const uint64_t first_copied = first->copied;
  here.options.chunk_size = 65536;
  struct snapshot *second = fixture_freeze (&here);
  fake_let_go ();
  pthread_join (writer.thread, NULL);
  assert_int_equal (writer.r, 0);
  fixture_drain (first);
  fixture_drain (second);
  assert_true (first_copied < 1 << 20);
  assert_frozen (&here, first);
  assert_frozen (&here, second);
}

/* --- faults ------------------------------------------------------------- */

/* The origin cannot be read from BAD_FROM to BAD_TO - 1. */
static uint64_t bad_from, bad_to;

static struct call_verdict
bad_sectors (const struct call_event *event)
{
  if (event->call == CALL_PREAD && fixture_is_origin (&here, event->fd)
      && event->offset < bad_to && event->offset + event->count > bad_from)
    return (struct call_verdict){ .error = EIO };
  return (struct call_verdict){ 0 };
}

static void
bad_sector_at (uint64_t offset)
{
  bad_from = offset;
  bad_to = offset + 512;
  call_hook_set (bad_sectors);
}

static void
unreadable_chunk_is_lost_others_hold (void **state)
{
  (void)state;
  for (unsigned durability = 0; durability < 2; durability++) {
    here.options.durability = durability;
    struct snapshot *snapshot = fixture_freeze (&here);
    bad_sector_at (5 * CHUNK + 1024);
    messages_clear ();
    assert_int_equal (fixture_write (&here, 0, 20 * CHUNK, 9), 0);
    call_hook_set (NULL);
    assert_one_message ("snapshot ", "20480", strerror (EIO));
    assert_false (snapshot_is_broken (snapshot));
    assert_reads (&here, snapshot, here.old, 0, 5 * CHUNK);
    assert_reads (&here, snapshot, here.old, 6 * CHUNK, here.size - 6 * CHUNK);
    messages_clear ();
    assert_fails (snapshot, 5 * CHUNK + 7, 1);
    assert_one_message ("snapshot ", "20487");
    assert_fails (snapshot, 0, here.size);
    fixture_drain (snapshot);
    assert_fails (snapshot, 5 * CHUNK, CHUNK);
    assert_origin_is (5 * CHUNK, CHUNK, 9);
    assert_int_equal (pread (here.fd, here.old, here.size, 0), here.size);
  }
}

static void
lost_chunk_can_be_written_again (void **state)
{
  (void)state;
  struct snapshot *snapshot = fixture_freeze (&here);
  bad_sector_at (0);
  assert_int_equal (fixture_write (&here, 0, CHUNK, 9), 0);
  messages_clear ();
  assert_int_equal (fixture_write (&here, 0, CHUNK, 8), 0);
  call_hook_set (NULL);
  assert_no_message ();
  assert_fails (snapshot, 0, 1);
}

static void
unreadable_chunk_fails_the_write (void **state)
{
  (void)state;
  break_write ();
  struct snapshot *snapshot = fixture_freeze (&here);
  bad_sector_at (5 * CHUNK);
  assert_int_equal (fixture_write (&here, 0, 20 * CHUNK, 9), -1);
  assert_int_equal (errno, EIO);
  call_hook_set (NULL);
  assert_one_message ("snapshot 1", "20480", strerror (EIO));
  assert_origin_is_old ();
  assert_false (snapshot_is_broken (snapshot));
  assert_frozen (&here, snapshot);
  assert_int_equal (fixture_write (&here, 0, 20 * CHUNK, 9), 0);
  assert_frozen (&here, snapshot);
}

static void
too_many_lost_chunks_break_the_snapshot (void **state)
{
  (void)state;
  odd_origin (8400 * 512, 512);
  struct snapshot *snapshot = fixture_freeze (&here);
  bad_from = 0;
  bad_to = UINT64_MAX;
  call_hook_set (bad_sectors);
  for (unsigned i = 0; i < 4096; i++)
    assert_int_equal (fixture_write (&here, i * UINT64_C (1024), 1, 9), 0);
  assert_false (snapshot_is_broken (snapshot));
  assert_int_equal (fixture_write (&here, 4096 * 1024, 1, 9), 0);
  call_hook_set (NULL);
  assert_true (snapshot_is_broken (snapshot));
}

static void
maxsize_breaks_the_snapshot (void **state)
{
  (void)state;
  for (unsigned durability = 0; durability < 2; durability++) {
    here.options.durability = durability;
    here.options.maxsize = 10 * CHUNK;
    struct snapshot *snapshot = fixture_freeze (&here);
    assert_int_equal (fixture_write (&here, 0, 10 * CHUNK, 9), 0);
    assert_false (snapshot_is_broken (snapshot));
    messages_clear ();
    assert_int_equal (fixture_write (&here, 20 * CHUNK, 1, 9), 0);
    assert_true (snapshot_is_broken (snapshot));
    assert_one_message ("snapshot ", "81920", "maxsize");
    assert_origin_is (20 * CHUNK, 1, 9);
    fixture_drain (snapshot);
    assert_fails (snapshot, 0, 1);
    assert_fails (snapshot, 30 * CHUNK, 1);
    assert_int_equal (pread (here.fd, here.old, here.size, 0), here.size);
  }
}

static void
maxsize_fails_the_write (void **state)
{
  (void)state;
  break_write ();
  here.options.maxsize = 10 * CHUNK;
  struct snapshot *snapshot = fixture_freeze (&here);
  assert_int_equal (fixture_write (&here, 0, 10 * CHUNK, 9), 0);
  assert_int_equal (fixture_write (&here, 20 * CHUNK, 1, 9), -1);
  assert_int_equal (errno, ENOSPC);
  assert_one_message ("snapshot 1", "81920", "maxsize", strerror (ENOSPC));
  assert_int_equal (fixture_write (&here, 0, 10 * CHUNK, 8), 0);
  assert_frozen (&here, snapshot);
}

static void
maxsize_counts_no_zeros (void **state)
{
  (void)state;
  make_zeros (0, 100 * CHUNK);
  here.options.maxsize = CHUNK;
  struct snapshot *snapshot = fixture_freeze (&here);
  assert_int_equal (fixture_write (&here, 0, 100 * CHUNK, 9), 0);
  assert_false (snapshot_is_broken (snapshot));
}

static unsigned memory_calls, bad_memory_call;

static struct call_verdict
no_memory_once (const struct call_event *event)
{
  if (event->call == CALL_MEMORY && ++memory_calls == bad_memory_call)
    return (struct call_verdict){ .error = ENOMEM };
  return (struct call_verdict){ 0 };
}

/* A write over zeros, data and a copied chunk, so that it needs several
 * pieces of memory, with the N-th piece refused.
 */
static int
write_without_memory (unsigned n)
{
  static uint8_t buf[64 * CHUNK];

  memset (buf, 9, sizeof buf);
  memory_calls = 0;
  bad_memory_call = n;
  messages_clear ();
  call_hook_set (no_memory_once);
  int r = cow_begin_write (here.set, 0, sizeof buf);
  const int err = errno;
  call_hook_set (NULL);
  if (r == 0) {
    r = origin_write (here.origin, buf, sizeof buf, 0, false);
    cow_end_write (here.set);
  }
  errno = err;
  return r;
}

static void
no_memory_breaks_the_snapshot (void **state)
{
  unsigned n = 1;

  (void)state;
  for (;; n++) {
    make_zeros (3 * CHUNK, CHUNK);
    struct snapshot *snapshot = fixture_freeze (&here);
    assert_int_equal (fixture_write (&here, 10 * CHUNK, CHUNK, 9), 0);
    assert_int_equal (write_without_memory (n), 0);
    assert_origin_is (0, 100, 9);
    if (memory_calls < n) {
      assert_frozen (&here, snapshot);
      break;
    }
    assert_true (snapshot_is_broken (snapshot));
    assert_one_message ("snapshot ", "offset 0", strerror (ENOMEM));
    fixture_drain (snapshot);
    assert_fails (snapshot, 0, here.size);
    assert_int_equal (pread (here.fd, here.old, here.size, 0), here.size);
    for (uint64_t i = 0; i < 64 * CHUNK; i++)
      here.old[i] = old_byte (i);
    assert_int_equal (pwrite (here.fd, here.old, here.size, 0), here.size);
  }
  assert_true (n > 4); /* buffer, claim, pieces */
}

static void
no_memory_fails_the_write (void **state)
{
  unsigned n = 1;

  (void)state;
  break_write ();
  make_zeros (3 * CHUNK, CHUNK);
  struct snapshot *snapshot = fixture_freeze (&here);
  while (write_without_memory (n) == -1) {
    assert_int_equal (errno, ENOMEM);
    assert_one_message ("snapshot 1", "offset 0", strerror (ENOMEM));
    assert_frozen (&here, snapshot);
    assert_origin_is (3 * CHUNK, CHUNK, 0);
    n++;
  }
  assert_true (memory_calls < n);
  assert_true (n > 3);
  assert_frozen (&here, snapshot);
}

static struct call_verdict
time_is_up (const struct call_event *event)
{
  return (struct call_verdict){ .error = event->call == CALL_WAIT && is_main
                                             ? ETIMEDOUT
                                             : 0 };
}

static void
hanging_store_breaks_the_snapshot (void **state)
{
  (void)state;
  written ();
  fake_reset (hang);
  struct snapshot *snapshot = fixture_freeze (&here);
  call_hook_set (time_is_up);
  assert_int_equal (fixture_write (&here, 7 * CHUNK, 1, 9), 0);
  call_hook_set (NULL);
  assert_true (snapshot_is_broken (snapshot));
  assert_one_message ("snapshot 1", "28672", "cow-timeout");
  assert_origin_is (7 * CHUNK, 1, 9);
  assert_fails (snapshot, 0, 1);
  assert_int_equal (fixture_write (&here, 0, here.size, 9), 0);
  fake_let_go ();
  fixture_drain (snapshot);
  assert_int_equal (messages_with ("cow-timeout"), 1);
}

static void
hanging_store_without_memory_breaks_the_snapshot (void **state)
{
  (void)state;
  with_memory (8 * (65536 + THROTTLE_ALLOWANCE));
  fake_reset (hang);
  struct snapshot *snapshot = fixture_freeze (&here);
  call_hook_set (time_is_up);
  assert_int_equal (fixture_write (&here, 0, 1 << 20, 9), 0);
  call_hook_set (NULL);
  assert_true (snapshot_is_broken (snapshot));
  assert_one_message ("snapshot 1", "cow-timeout");
  assert_origin_is (0, 100, 9);
  assert_fails (snapshot, 0, 1);
}

static void
hanging_store_fails_the_write (void **state)
{
  (void)state;
  break_write ();
  fake_reset (hang);
  struct snapshot *snapshot = fixture_freeze (&here);
  call_hook_set (time_is_up);
  assert_int_equal (fixture_write (&here, 7 * CHUNK, 1, 9), -1);
  assert_int_equal (errno, EIO);
  call_hook_set (NULL);
  assert_one_message ("snapshot 1", "28672", "cow-timeout");
  assert_origin_is_old ();
  assert_frozen (&here, snapshot);
  fake_let_go ();
  assert_int_equal (fixture_write (&here, 7 * CHUNK, 1, 9), 0);
  assert_frozen (&here, snapshot);
}

/* The timeout itself, not a stand-in for it. */
static void
cow_timeout_ends_a_wait (void **state)
{
  (void)state;
  written ();
  here.options.cow_timeout = 1;
  fake_reset (hang);
  struct snapshot *snapshot = fixture_freeze (&here);
  assert_int_equal (fixture_write (&here, 0, 1, 9), 0);
  assert_true (snapshot_is_broken (snapshot));
  assert_one_message ("cow-timeout");
}

static void
all_who_wait_go_on_when_it_breaks (void **state)
{
  struct writer a, b, c;

  (void)state;
  written ();
  fake_reset (hang);
  struct snapshot *snapshot = fixture_freeze (&here);
  start_waiting_writer (&a, 0, CHUNK);
  start_waiting_writer (&b, 0, CHUNK);
  start_waiting_writer (&c, 70 * CHUNK, CHUNK);
  snapshot_break (snapshot, EIO, "a test");
  pthread_join (a.thread, NULL);
  pthread_join (b.thread, NULL);
  pthread_join (c.thread, NULL);
  assert_int_equal (a.r, 0);
  assert_int_equal (b.r, 0);
  assert_int_equal (c.r, 0);
  assert_origin_is (0, CHUNK, 9);
  assert_one_message ("a test");
}

static void
who_waits_for_memory_goes_on_when_it_breaks (void **state)
{
  struct writer writer;

  (void)state;
  with_memory (8 * (65536 + THROTTLE_ALLOWANCE));
  fake_reset (hang);
  struct snapshot *snapshot = fixture_freeze (&here);
  start_waiting_writer (&writer, 0, 1 << 20);
  snapshot_break (snapshot, EIO, "a test");
  pthread_join (writer.thread, NULL);
  assert_int_equal (writer.r, 0);
  assert_origin_is (0, 100, 9);
}

static int64_t
disk_full (const struct engine_request *request, size_t length, unsigned index)
{
  (void)request;
  (void)length;
  (void)index;
  return -ENOSPC;
}

static void
full_store_breaks_the_snapshot (void **state)
{
  (void)state;
  for (unsigned durability = 0; durability < 2; durability++) {
    here.options.durability = durability;
    fake_reset (disk_full);
    struct snapshot *snapshot = fixture_freeze (&here);
    messages_clear ();
    assert_int_equal (fixture_write (&here, 3 * CHUNK, CHUNK, 9), 0);
    fixture_drain (snapshot);
    assert_true (snapshot_is_broken (snapshot));
    assert_one_message ("snapshot ", here.options.backing_store, "12288",
                        strerror (ENOSPC));
    assert_origin_is (3 * CHUNK, CHUNK, 9);
    assert_fails (snapshot, 3 * CHUNK, CHUNK);
    assert_fails (snapshot, 0, 1);
    assert_int_equal (pread (here.fd, here.old, here.size, 0), here.size);
  }
}

static void
full_store_fails_the_write (void **state)
{
  (void)state;
  break_write ();
  fake_reset (disk_full);
  struct snapshot *snapshot = fixture_freeze (&here);
  assert_int_equal (fixture_write (&here, 3 * CHUNK, CHUNK, 9), -1);
  assert_int_equal (errno, ENOSPC);
  assert_one_message ("snapshot 1", here.options.backing_store, "12288",
                      strerror (ENOSPC));
  assert_origin_is_old ();
  assert_false (snapshot_is_broken (snapshot));
  assert_frozen (&here, snapshot);
  assert_int_equal (snapshot->copied, 0);
  fake_reset (NULL);
  assert_int_equal (fixture_write (&here, 3 * CHUNK, CHUNK, 9), 0);
  assert_frozen (&here, snapshot);
}

static uint64_t bad_store_offset;

static int64_t
bad_block (const struct engine_request *request, size_t length, unsigned index)
{
  (void)index;
  return request->offset <= bad_store_offset
                 && request->offset + length > bad_store_offset
             ? -EIO
             : FAKE_WRITE;
}

static void
one_bad_block_of_the_store_fails_the_writes_that_need_it (void **state)
{
  int fd;

  (void)state;
  break_write ();
  fake_reset (bad_block);
  struct snapshot *snapshot = fixture_freeze (&here);
  backfile_locate (snapshot->backfile, 100 * CHUNK, &fd, &bad_store_offset);
  assert_int_equal (fixture_write (&here, 0, here.size, 9), -1);
  assert_int_equal (errno, EIO);
  /* A write may try again what failed while it waited for the rest. */
  assert_in_range (messages_with ("backing store"), 1, 2);
  assert_int_equal (messages_with ("backing store"), messages_count ());
  assert_origin_is_old ();
  assert_frozen (&here, snapshot);
  assert_int_equal (fixture_write (&here, 0, 64 * CHUNK, 9), 0);
  assert_frozen (&here, snapshot);
}

static unsigned waits;

static struct call_verdict
bad_sectors_and_no_waiting (const struct call_event *event)
{
  if (event->call != CALL_WAIT || !is_main)
    return bad_sectors (event);
  waits++;
  return (struct call_verdict){ .error = ETIMEDOUT };
}

/* The first group is being copied by another, the second cannot be read:
 * the write fails for that, now, and says so once.
 */
static void
write_that_fails_does_not_wait_for_others_first (void **state)
{
  struct writer other;

  (void)state;
  break_write ();
  fake_reset (hang);
  struct snapshot *snapshot = fixture_freeze (&here);
  start_waiting_writer (&other, 0, CHUNK);
  bad_sector_at (64 * CHUNK);
  waits = 0;
  call_hook_set (bad_sectors_and_no_waiting);
  assert_int_equal (fixture_write (&here, 0, 65 * CHUNK, 9), -1);
  assert_int_equal (errno, EIO);
  call_hook_set (NULL);
  fake_let_go ();
  pthread_join (other.thread, NULL);
  assert_int_equal (waits, 0);
  assert_one_message ("262144", strerror (EIO));
  assert_int_equal (other.r, 0);
  assert_frozen (&here, snapshot);
}

static void
broken_snapshot_wants_no_copies (void **state)
{
  (void)state;
  struct snapshot *snapshot = fixture_freeze (&here);
  snapshot_break (snapshot, EIO, "a test");
  origin_reads = 0;
  call_hook_set (count_origin_reads);
  assert_int_equal (fixture_write (&here, 0, here.size, 9), 0);
  call_hook_set (NULL);
  assert_int_equal (origin_reads, 0);
  assert_int_equal (fake_count (), 0);
}

static void
snapshot_taken_after_one_broke_holds (void **state)
{
  (void)state;
  struct snapshot *first = fixture_freeze (&here);
  snapshot_break (first, EIO, "a test");
  struct snapshot *second = fixture_freeze (&here);
  assert_int_equal (fixture_write (&here, 0, here.size, 9), 0);
  assert_frozen (&here, second);
  assert_fails (first, 0, 1);
}

/* What never reached the store must not read as the hole that is there. */
static void
copies_that_a_stopped_flusher_dropped_do_not_read_as_zeros (void **state)
{
  static uint8_t buf[CHUNK];

  (void)state;
  fake_reset (hang);
  struct snapshot *snapshot = fixture_freeze (&here);
  assert_int_equal (fixture_write (&here, 0, CHUNK, 9), 0);
  fake_wait (1);
  assert_int_equal (snapset_stop (here.set, 0), -1);
  assert_int_equal (fixture_write (&here, 8 * CHUNK, CHUNK, 9), 0);
  fake_let_go ();
  assert_int_equal (snapset_stop (here.set, 60), 0);
  if (view_read (here.set, snapshot, buf, CHUNK, 8 * CHUNK) == 0)
    assert_memory_equal (buf, here.old + 8 * CHUNK, CHUNK);
  else
    assert_int_equal (errno, EIO);
}

/* --- trim --------------------------------------------------------------- */

static void
chunks_not_copied_are_not_kept (void **state)
{
  uint64_t length;

  (void)state;
  struct snapshot *snapshot = fixture_freeze (&here);
  assert_int_equal (fixture_write (&here, 4 * CHUNK, 2 * CHUNK, 9), 0);
  origin_reads = 0;
  call_hook_set (count_origin_reads);
  snapset_enter (here.set);
  assert_false (cow_is_kept (here.set, 100, 100000, &length));
  assert_int_equal (length, 4 * CHUNK - 100);
  assert_true (cow_is_kept (here.set, 4 * CHUNK, 100000, &length));
  assert_int_equal (length, 2 * CHUNK);
  assert_true (cow_is_kept (here.set, 4 * CHUNK + 5, 10, &length));
  assert_int_equal (length, 10);
  assert_false (cow_is_kept (here.set, here.size - 1, 1, &length));
  assert_int_equal (length, 1);
  snapset_leave (here.set);
  call_hook_set (NULL);
  assert_int_equal (origin_reads, 0); /* asking copies nothing */
  assert_int_equal (snapshot->copied, 2 * CHUNK);
}

static void
everything_is_kept_without_a_snapshot_that_holds (void **state)
{
  uint64_t length;

  (void)state;
  assert_true (cow_is_kept (here.set, 100, 5000, &length));
  assert_int_equal (length, 5000);
  snapshot_break (fixture_freeze (&here), EIO, "a test");
  assert_true (cow_is_kept (here.set, 100, 5000, &length));
  assert_int_equal (length, 5000);
}

static void
what_the_origin_has_grown_by_is_kept (void **state)
{
  uint64_t length;

  (void)state;
  odd_origin (5000, CHUNK);
  fixture_freeze (&here);
  assert_true (cow_is_kept (here.set, 5000, 777, &length));
  assert_int_equal (length, 777);
  assert_false (cow_is_kept (here.set, 4999, 777, &length));
  assert_int_equal (length, 1);
}

static void
copies_not_yet_written_are_not_kept (void **state)
{
  struct writer writer;
  uint64_t length;

  (void)state;
  written ();
  fake_reset (hang);
  fixture_freeze (&here);
  start_waiting_writer (&writer, 0, CHUNK);
  assert_false (cow_is_kept (here.set, 0, CHUNK, &length));
  fake_let_go ();
  pthread_join (writer.thread, NULL);
  assert_true (cow_is_kept (here.set, 0, CHUNK, &length));
}

/* --- many at once ------------------------------------------------------- */

#define WRITERS 4
#define WRITES 60

static void *
write_at_random (void *arg)
{
  unsigned seed = *(unsigned *)arg;

  for (unsigned i = 0; i < WRITES; i++) {
    const uint64_t offset = (uint64_t)rand_r (&seed) % here.size;
    uint64_t count = 1 + (uint64_t)rand_r (&seed) % 100000;
    if (count > here.size - offset)
      count = here.size - offset;
    const int r = fixture_write (&here, offset, count, (uint8_t)i);
    assert (r == 0);
  }
  return NULL;
}

static void
many_writers (const struct engine_type *engine, uint64_t chunk_size,
              uint64_t memory, enum durability durability)
{
  pthread_t threads[WRITERS];
  unsigned seeds[WRITERS];

  fixture_close (&here);
  here = (struct fixture){ .engine = engine,
                           .memory = memory,
                           .options = { .chunk_size = chunk_size,
                                        .durability = durability } };
  fixture_open (&here);
  struct snapshot *snapshot = fixture_freeze (&here);
  for (unsigned i = 0; i < WRITERS; i++) {
    seeds[i] = i + (unsigned)chunk_size;
    pthread_create (&threads[i], NULL, write_at_random, &seeds[i]);
  }
  for (unsigned i = 0; i < 5; i++)
    assert_frozen (&here, snapshot);
  for (unsigned i = 0; i < WRITERS; i++)
    pthread_join (threads[i], NULL);
  assert_frozen (&here, snapshot);
  fixture_drain (snapshot);
  assert_frozen (&here, snapshot);
  assert_no_message ();
}

static void
many_writers_async (void **state)
{
  (void)state;
  many_writers (&engine_sync, 4096, 64 << 20, DURABILITY_ASYNC);
}

static void
many_writers_written (void **state)
{
  (void)state;
  many_writers (&engine_sync, 4096, 64 << 20, DURABILITY_WRITTEN);
}

static void
many_writers_with_the_least_chunk_and_memory (void **state)
{
  (void)state;
  many_writers (&engine_sync, 512, 1 << 20, DURABILITY_ASYNC);
}

static void
many_writers_with_memory_for_two_chunks (void **state)
{
  (void)state;
  many_writers (&engine_sync, 65536, 2 * (65536 + THROTTLE_ALLOWANCE),
                DURABILITY_WRITTEN);
}

#define TEST(name) cmocka_unit_test_setup_teardown (name, setup, teardown)

int
main (void)
{
  const struct CMUnitTest tests[] = {
    TEST (old_content_is_kept),
    TEST (snapshot_is_frozen_while_copies_are_in_memory),
    TEST (without_a_snapshot_nothing_is_copied),
    TEST (only_chunks_that_are_touched_are_copied),
    TEST (chunk_is_copied_once),
    TEST (copy_goes_to_the_newest_snapshot_alone),
    TEST (large_write_reads_the_origin_in_few_runs),
    TEST (copied_chunks_are_not_read_again),
    TEST (zeros_are_kept_without_being_stored),
    TEST (zeros_between_data_are_left_out),
    TEST (chunk_with_one_byte_is_not_zero),
    TEST (last_chunk_is_short),
    TEST (chunk_is_larger_than_the_origin),
    TEST (every_size_and_end_of_a_small_origin),
    TEST (what_the_origin_has_grown_by_is_not_copied),
    TEST (write_of_nothing_passes),
    TEST (async_write_does_not_wait_for_the_store),
    TEST (written_write_waits_until_the_copy_is_written),
    TEST (nobody_waits_inside_the_gate),
    TEST (copied_chunks_can_be_written_while_the_store_hangs),
    TEST (overlapping_writes_copy_once),
    TEST (write_waits_for_memory),
    TEST (snapshot_with_larger_chunks_while_a_write_waits_for_memory),
    TEST (unreadable_chunk_is_lost_others_hold),
    TEST (lost_chunk_can_be_written_again),
    TEST (unreadable_chunk_fails_the_write),
    TEST (too_many_lost_chunks_break_the_snapshot),
    TEST (maxsize_breaks_the_snapshot),
    TEST (maxsize_fails_the_write),
    TEST (maxsize_counts_no_zeros),
    TEST (no_memory_breaks_the_snapshot),
    TEST (no_memory_fails_the_write),
    TEST (hanging_store_breaks_the_snapshot),
    TEST (hanging_store_without_memory_breaks_the_snapshot),
    TEST (hanging_store_fails_the_write),
    TEST (cow_timeout_ends_a_wait),
    TEST (all_who_wait_go_on_when_it_breaks),
    TEST (who_waits_for_memory_goes_on_when_it_breaks),
    TEST (full_store_breaks_the_snapshot),
    TEST (full_store_fails_the_write),
    TEST (one_bad_block_of_the_store_fails_the_writes_that_need_it),
    TEST (write_that_fails_does_not_wait_for_others_first),
    TEST (broken_snapshot_wants_no_copies),
    TEST (snapshot_taken_after_one_broke_holds),
    TEST (copies_that_a_stopped_flusher_dropped_do_not_read_as_zeros),
    TEST (chunks_not_copied_are_not_kept),
    TEST (everything_is_kept_without_a_snapshot_that_holds),
    TEST (what_the_origin_has_grown_by_is_kept),
    TEST (copies_not_yet_written_are_not_kept),
    TEST (many_writers_async),
    TEST (many_writers_written),
    TEST (many_writers_with_the_least_chunk_and_memory),
    TEST (many_writers_with_memory_for_two_chunks),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
