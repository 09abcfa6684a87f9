/* SPDX-License-Identifier: BSD-3-Clause */
/* Many writers, an engine that fails at random, and a model of what the disk
 * has: of each chunk whether its copy is written, and stable, and whether the
 * index says so, and stably.  A sync that fails loses all that was not stable
 * in that file, as the kernel does.  At no time may the origin be overwritten,
 * nor the index say something, before what comes first in the order.
 */

#include "cmocka-all.h"
#include "call-hook.h"
#include "fake-engine.h"
#include "fixture.h"
#include "history.h"
#include "nbdkit-stub.h"
#include "scoped.h"
#include "scratch.h"
#include "storefile.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define CHUNK 512
#define CHUNKS (7 * 64 + 13)
#define SIZE ((uint64_t)CHUNKS * CHUNK)
#define THREADS 4

static struct fixture here;
static struct history history;
static char path[256];

static struct {
  pthread_mutex_t lock; /* guards all */
  const struct backfile *backfile;
  const struct bitmap *hastrans;
  bool stable;
  unsigned seed, odds; /* one of so many requests fails; 0: none */
  enum { NOT_THERE, WRITTEN, STABLE } data[CHUNKS];
  bool noted[CHUNKS], noted_stably[CHUNKS];
  const char *fault; /* what was done too early */
  unsigned failed;   /* requests */
} disk = { .lock = PTHREAD_MUTEX_INITIALIZER };

static uint64_t
first_of (unsigned part)
{
  return part * disk.backfile->span / CHUNK;
}

static uint64_t
end_of (unsigned part)
{
  const uint64_t end = first_of (part + 1);

  return end < CHUNKS ? end : CHUNKS;
}

static void
sync_part (unsigned part, bool fails)
{
  for (uint64_t c = first_of (part); c < end_of (part); c++) {
    if (disk.data[c] == WRITTEN)
      disk.data[c] = fails ? NOT_THERE : STABLE;
    if (fails)
      disk.noted[c] = disk.noted_stably[c];
    else
      disk.noted_stably[c] = disk.noted[c];
  }
}

/* COUNT bytes of data at OFFSET of a part; chunk by chunk. */
static void
write_data (unsigned part, uint64_t offset, uint64_t bytes)
{
  const uint64_t start = offset - disk.backfile->part[part].data;

  for (uint64_t c = first_of (part) + start / CHUNK;
       c < end_of (part) && (c + 1 - first_of (part)) * CHUNK <= start + bytes;
       c++)
    if (disk.data[c] == NOT_THERE)
      disk.data[c] = WRITTEN;
}

static void
write_unit (unsigned part, uint64_t offset, const uint8_t *sector)
{
  uint64_t words[FORMAT_UNIT_GROUPS];
  const struct index_place place = storefile_place (
      disk.backfile, FORMAT_COPIED, first_of (part) / BITMAP_GROUP);

  if (offset != place.offset
      || format_decode_unit (sector, &place.unit, words) != 1) {
    disk.fault = "a unit is where it does not belong";
    return;
  }
  for (uint64_t c = first_of (part); c < end_of (part); c++) {
    const uint64_t i = c - first_of (part);
    const bool bit = words[i / 64] >> i % 64 & 1;

    if (bit && !disk.noted[c]
        && disk.data[c] < (disk.stable ? STABLE : WRITTEN))
      disk.fault = "the index was ahead of the data";
    if (!bit && bitmap_test (disk.hastrans, c))
      disk.fault = "the index lost a chunk";
    disk.noted[c] = bit;
  }
}

static int64_t
answer (const struct engine_request *request, size_t length, unsigned index)
{
  static const int errors[] = { EIO, ENOSPC, EDQUOT };
  unsigned part = 0;

  (void)index;
  SCOPED_LOCK (&disk.lock);
  while (disk.backfile->part[part].fd != request->fd)
    part++;
  const bool fails
      = disk.odds > 0 && (unsigned)rand_r (&disk.seed) % disk.odds == 0;
  const int error = errors[rand_r (&disk.seed) % 3];

  disk.failed += fails;
  if (length == 0) {
    sync_part (part, fails);
    return fails ? -error : FAKE_WRITE;
  }
  if (fails)
    return -error;
  if (request->offset < disk.backfile->part[part].data) {
    write_unit (part, request->offset, request->segment[0].iov_base);
    return FAKE_WRITE;
  }
  if (disk.odds > 0 && rand_r (&disk.seed) % 8 == 0) { /* a short one */
    const uint64_t bytes = 1 + (uint64_t)rand_r (&disk.seed) % (uint64_t)length;
    write_data (part, request->offset, bytes);
    return (int64_t)bytes;
  }
  write_data (part, request->offset, length);
  return FAKE_WRITE;
}

static struct call_verdict
before_a_write (const struct call_event *event)
{
  if (event->call != CALL_PWRITE || !fixture_is_origin (&here, event->fd))
    return (struct call_verdict){ 0 };
  SCOPED_LOCK (&disk.lock);
  for (uint64_t c = event->offset / CHUNK;
       c * CHUNK < event->offset + event->count; c++)
    if (disk.stable ? !disk.noted_stably[c] || disk.data[c] != STABLE
                    : !disk.noted[c] || disk.data[c] == NOT_THERE)
      disk.fault = "the origin was overwritten too early";
  return (struct call_verdict){ 0 };
}

static atomic_uint refused;

static void *
write_at_random (void *arg)
{
  unsigned seed = (unsigned)(uintptr_t)arg;

  for (unsigned i = 0; i < 150; i++) {
    const uint64_t count = 1 + (uint64_t)rand_r (&seed) % (20 * CHUNK);
    const uint64_t offset = (uint64_t)rand_r (&seed) % (SIZE - count);

    if (fixture_write (&here, offset, count, (uint8_t)i) == -1)
      atomic_fetch_add (&refused, 1);
  }
  return NULL;
}

static void
run (unsigned number, enum durability level)
{
  pthread_t threads[THREADS];

  snprintf (path, sizeof path, "%s", scratch_path ("store"));
  fake_reset (answer);
  here = (struct fixture){
    .size = SIZE,
    .in_store = path,
    .engine = &engine_fake,
    .options
    = { .chunk_size = CHUNK,
        .durability = level,
        .on_error = ON_ERROR_BREAK_WRITE,
        .backfile_size = format_layout (CHUNK, 3 * 64 * CHUNK).file_size }
  };
  fixture_open (&here);
  history_begin (&history, &here);
  struct snapshot *snapshot = history_freeze (&history);
  {
    SCOPED_LOCK (&disk.lock);
    disk.backfile = snapshot->backfile;
    disk.hastrans = &snapshot->hastrans;
    disk.stable = level == DURABILITY_STABLE;
    disk.seed = number;
    disk.odds = 12;
    disk.fault = NULL;
    disk.failed = 0;
    memset (disk.data, 0, sizeof disk.data);
    memset (disk.noted, 0, sizeof disk.noted);
    memset (disk.noted_stably, 0, sizeof disk.noted_stably);
  }
  assert_int_equal (snapshot->backfile->parts, 3);
  call_hook_set (before_a_write);
  for (uintptr_t i = 0; i < THREADS; i++)
    pthread_create (&threads[i], NULL, write_at_random,
                    (void *)(number * 100 + i));
  for (unsigned i = 0; i < THREADS; i++)
    pthread_join (threads[i], NULL);
  {
    SCOPED_LOCK (&disk.lock);
    disk.odds = 0;
  }
  assert_int_equal (fixture_write (&here, 0, SIZE, 1), 0);
  call_hook_set (NULL);
  if (disk.fault != NULL)
    print_message ("seed %u: %s\n", number, disk.fault);
  assert_null (disk.fault);
  assert_true (disk.failed > 0);
  assert_false (snapshot_is_given_up (snapshot));
  assert_history (&history, &here);
  fake_reset (NULL); /* the descriptors will be others */
  fixture_restart (&here, number % 2);
  assert_history (&history, &here);
}

static int
teardown (void **state)
{
  (void)state;
  call_hook_set (NULL);
  fake_reset (NULL);
  fake_let_go ();
  fixture_close (&here);
  history_free (&history);
  scratch_remove ();
  return 0;
}

static void
run_some (enum durability level)
{
  const unsigned runs = getenv ("FSSNAP_LONG") != NULL ? 300 : 6;
  const char *given = getenv ("FSSNAP_SEED");

  atomic_store (&refused, 0);
  for (unsigned i = 1; i <= runs; i++) {
    if (i > 1)
      teardown (NULL);
    run (given != NULL ? (unsigned)atoi (given) : i, level);
  }
  assert_true (atomic_load (&refused) > 0);
}

static void
written (void **state)
{
  (void)state;
  run_some (DURABILITY_WRITTEN);
}

static void
stable (void **state)
{
  (void)state;
  run_some (DURABILITY_STABLE);
}

int
main (void)
{
  const struct CMUnitTest tests[]
      = { cmocka_unit_test_teardown (written, teardown),
          cmocka_unit_test_teardown (stable, teardown) };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
