/* SPDX-License-Identifier: BSD-3-Clause */
/* Snapshots taken and deleted at random while others read all of them,
 * others write, and what was deleted is cleared away: nobody ever reads a
 * byte that is not of the snapshot's instant.
 */

#include "cmocka-all.h"
#include "fixture.h"
#include "nbdkit-stub.h"
#include "scoped.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define SIZE (256 * 1024 + 777)
#define OPERATIONS 400
#define SNAPSHOTS_MAX 6
#define READERS 3
#define WRITERS 3

static const uint64_t chunk_sizes[] = { 512, 4096, 65536, 1024, 16384 };

struct model {
  struct snapshot *snapshot; /* NULL: none; may be freed once it is deleted */
  unsigned number;
  unsigned readers;    /* who look at BYTES; under the lock */
  atomic_bool deleted; /* or about to be, or not there: reads may fail */
  uint8_t bytes[SIZE];
};

static struct {
  struct fixture fixture;
  bool free; /* snapshots have free space */
  atomic_bool enough;
  _Atomic uint64_t seeds;

  /* Writers are readers of it: who has it as the writer sees the origin at
   * rest, and takes snapshots.
   */
  pthread_rwlock_t model_lock;
  uint8_t origin[SIZE]; /* each writer changes a part of its own */

  pthread_mutex_t lock;
  pthread_cond_t unread;
  struct model models[SNAPSHOTS_MAX]; /* changed while they have no readers */
} run;

static uint64_t
draw (uint64_t *random, uint64_t below)
{
  *random ^= *random << 13;
  *random ^= *random >> 7;
  *random ^= *random << 17;
  return (*random >> 11) % below;
}

static uint64_t
seed (void)
{
  return (atomic_fetch_add (&run.seeds, 1) + 1) * UINT64_C (0x9e3779b97f4a7c15);
}

/* Writers share the origin in strips narrower than most chunks. */
#define STRIP 3000

static void *
write_at_random (void *arg)
{
  const uint64_t number = (uint64_t)(uintptr_t)arg;
  uint64_t random = seed ();

  while (!atomic_load (&run.enough)) {
    const uint64_t strip = draw (&random, SIZE / STRIP / WRITERS);
    const uint64_t inside = draw (&random, STRIP);
    const uint64_t offset = (strip * WRITERS + number) * STRIP + inside;
    const uint64_t count = 1 + draw (&random, STRIP - inside);
    const uint8_t value
        = draw (&random, 6) == 0 ? 0 : (uint8_t)draw (&random, 256);

    pthread_rwlock_rdlock (&run.model_lock);
    const int r = fixture_write (&run.fixture, offset, count, value);
    assert (r == 0);
    memset (run.origin + offset, value, count);
    pthread_rwlock_unlock (&run.model_lock);
  }
  return NULL;
}

/* One that is there, which then stays as it is until it is given back. */
static struct model *
choose (uint64_t *random)
{
  struct model *model = &run.models[draw (random, SNAPSHOTS_MAX)];

  SCOPED_LOCK (&run.lock);
  if (atomic_load (&model->deleted))
    return NULL;
  model->readers++;
  return model;
}

static void
give_back (struct model *model)
{
  SCOPED_LOCK (&run.lock);
  if (--model->readers == 0)
    pthread_cond_broadcast (&run.unread);
}

static void
read_some (struct model *model, uint64_t *random)
{
  uint8_t buf[70000];
  char who[16];
  const uint64_t offset = draw (random, SIZE);
  uint64_t count = 1 + draw (random, draw (random, 4) == 0 ? sizeof buf : 5000);

  snprintf (who, sizeof who, "%u", model->number);
  struct snapshot *snapshot = snapset_open (run.fixture.set, who);
  if (snapshot == NULL) {
    assert (atomic_load (&model->deleted));
    return;
  }
  assert (snapshot == model->snapshot);
  if (count > SIZE - offset)
    count = SIZE - offset;
  if (view_read (run.fixture.set, snapshot, buf, count, offset) == -1)
    assert (errno == EIO && atomic_load (&model->deleted));
  else
    assert (memcmp (buf, model->bytes + offset, count) == 0);
  snapset_close (run.fixture.set, snapshot);
}

static void *
read_at_random (void *arg)
{
  uint64_t random = seed ();

  (void)arg;
  while (!atomic_load (&run.enough)) {
    struct model *model = choose (&random);
    if (model == NULL)
      continue;
    for (unsigned i = 0; i < 5; i++)
      read_some (model, &random);
    give_back (model);
  }
  return NULL;
}

/* Free space, before anyone can look at it or write. */
static void
set_free (struct model *model, uint64_t *random)
{
  struct snapshot *snapshot = model->snapshot;
  const uint64_t offset = draw (random, SIZE);

  snapshot_set_free (snapshot, offset, draw (random, SIZE - offset + 1));
  for (uint64_t chunk = 0; chunk < snapshot_chunks (snapshot); chunk++)
    if (bitmap_test (&snapshot->free, chunk))
      memset (model->bytes + (chunk << snapshot->chunk_shift), 0,
              snapshot_bytes (snapshot, chunk, 1));
}

static void
take (struct model *model, uint64_t *random)
{
  run.fixture.options.chunk_size = chunk_sizes[draw (random, 5)];
  run.fixture.options.durability
      = draw (random, 3) == 0 ? DURABILITY_WRITTEN : DURABILITY_ASYNC;
  pthread_rwlock_wrlock (&run.model_lock);
  struct snapshot *snapshot
      = snapset_freeze (run.fixture.set, &run.fixture.options);
  assert_non_null (snapshot);
  memcpy (model->bytes, run.origin, SIZE);
  model->snapshot = snapshot;
  model->number = snapshot->number;
  if (run.free && draw (random, 2) == 0)
    set_free (model, random);
  pthread_rwlock_unlock (&run.model_lock);
  snapset_unpin (run.fixture.set, snapshot);

  SCOPED_LOCK (&run.lock);
  atomic_store (&model->deleted, false);
}

static void delete (struct model *model)
{
  atomic_store (&model->deleted, true);
  fixture_delete (&run.fixture, model->snapshot);
  pthread_mutex_lock (&run.lock);
  while (model->readers > 0)
    pthread_cond_wait (&run.unread, &run.lock);
  model->snapshot = NULL;
  pthread_mutex_unlock (&run.lock);
}

static void
check_all (void)
{
  for (unsigned i = 0; i < SNAPSHOTS_MAX; i++)
    if (run.models[i].snapshot != NULL)
      assert_reads (&run.fixture, run.models[i].snapshot, run.models[i].bytes,
                    0, SIZE);
}

static void
all_at_once (uint64_t memory, bool free)
{
  pthread_t threads[READERS + WRITERS];
  pthread_rwlockattr_t attr;
  uint64_t random = seed ();

  run.free = free;
  run.fixture = (struct fixture){ .size = SIZE, .memory = memory };
  fixture_open (&run.fixture);
  memcpy (run.origin, run.fixture.old, SIZE);
  pthread_rwlockattr_init (&attr);
  pthread_rwlockattr_setkind_np (&attr,
                                 PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
  pthread_rwlock_init (&run.model_lock, &attr);
  for (unsigned i = 0; i < SNAPSHOTS_MAX; i++)
    atomic_store (&run.models[i].deleted, true);
  atomic_store (&run.enough, false);
  fixture_reclaim (&run.fixture);

  for (unsigned i = 0; i < READERS + WRITERS; i++)
    pthread_create (&threads[i], NULL,
                    i < READERS ? read_at_random : write_at_random,
                    (void *)(uintptr_t)(i - READERS));
  for (unsigned i = 0; i < OPERATIONS; i++) {
    struct model *model = &run.models[draw (&random, SNAPSHOTS_MAX)];
    if (model->snapshot == NULL)
      take (model, &random);
    else
      delete (model);
  }
  atomic_store (&run.enough, true);
  for (unsigned i = 0; i < READERS + WRITERS; i++)
    pthread_join (threads[i], NULL);

  check_all ();
  fixture_settle (&run.fixture);
  check_all ();
  for (unsigned i = 0; i < SNAPSHOTS_MAX; i++)
    if (run.models[i].snapshot != NULL)
      delete (&run.models[i]);
  fixture_settle (&run.fixture);
  assert_int_equal (fixture_layers (&run.fixture), 0);
  assert_int_equal (fixture_dropped (&run.fixture), 0);
  assert_int_equal (messages_with ("cannot be read: the snapshot was deleted"),
                    messages_count () < 1024 ? messages_count () : 1024);
  fixture_close (&run.fixture);
  pthread_rwlock_destroy (&run.model_lock);
  pthread_rwlockattr_destroy (&attr);
}

static void
bytes_hold_while_all_are_at_work (void **state)
{
  (void)state;
  all_at_once (64 << 20, false);
}

static void
bytes_hold_with_free_space (void **state)
{
  (void)state;
  all_at_once (64 << 20, true);
}

/* Room for two copies of the largest chunks. */
static void
bytes_hold_with_little_memory (void **state)
{
  (void)state;
  all_at_once (2 * (65536 + 320), true);
}

int
main (int argc, char **argv)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (bytes_hold_while_all_are_at_work),
    cmocka_unit_test (bytes_hold_with_free_space),
    cmocka_unit_test (bytes_hold_with_little_memory),
  };

  pthread_mutex_init (&run.lock, NULL);
  pthread_cond_init (&run.unread, NULL);
  if (argc > 1)
    cmocka_set_test_filter (argv[1]);
  return cmocka_run_group_tests (tests, NULL, NULL);
}
