/* SPDX-License-Identifier: BSD-3-Clause */
/* Threads that write, take, read and delete snapshots of a store at the same
 * time, while others clear away, and a catalogue that cannot be written now
 * and then; then the server ends under that load, or is killed, and the next
 * one goes on.  What a snapshot read as when it was taken it reads as ever
 * after, or it is broken.
 */

#include "cmocka-all.h"
#include "call-hook.h"
#include "closing.h"
#include "fixture.h"
#include "nbdkit-stub.h"
#include "scoped.h"
#include "scratch.h"
#include "store.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define CHUNK 512
#define SIZE ((uint64_t)200 * CHUNK + 13)
#define WRITERS 2
#define TAKERS 3
#define KEPT_MAX 4 /* of a taker's */

static struct fixture here;
static char path[256];
static atomic_bool goes_on, catalog_fails;
static atomic_uint faults, taken, deleted;

struct taker {
  pthread_t thread;
  unsigned number, seed, count;
  struct {
    char name[24]; /* "": none */
    uint64_t sum;
    bool async, doubtful;
  } kept[KEPT_MAX];
};

static struct taker takers[TAKERS];
static unsigned seed;

/* Not in vain: a fault of the test's own must not be hidden. */
static void
fault (const char *what, const char *name)
{
  fprintf (stderr, "%s: %s\n", name, what);
  atomic_fetch_add (&faults, 1);
}

static struct call_verdict
hook (const struct call_event *event)
{
  static _Atomic unsigned count;

  return (struct call_verdict){
    .error = event->call == CALL_RENAME2 && atomic_load (&catalog_fails)
                     && atomic_fetch_add (&count, 1) % 17 == 5
                 ? EIO
                 : 0
  };
}

/* False: it cannot be read. */
static bool
sum_of (struct snapshot *snapshot, uint64_t *sum)
{
  SCOPED_FREE uint8_t *buf = malloc (SIZE);

  if (buf == NULL || view_read (here.set, snapshot, buf, SIZE, 0) == -1)
    return false;
  *sum = 0;
  for (uint64_t i = 0; i < SIZE; i++)
    *sum = (*sum ^ buf[i]) * UINT64_C (0x100000001b3);
  return true;
}

static void
take (struct taker *taker, unsigned i)
{
  struct snapshot_options options = here.options;

  snprintf (taker->kept[i].name, sizeof taker->kept[i].name, "t%u-%u",
            taker->number, taker->count++);
  options.name = taker->kept[i].name;
  options.durability = (enum durability) (rand_r (&taker->seed) % 3);
  options.chunk_size = UINT64_C (512) << rand_r (&taker->seed) % 3;
  struct snapshot *snapshot = snapset_freeze (here.set, &options);
  if (snapshot != NULL && sum_of (snapshot, &taker->kept[i].sum)) {
    taker->kept[i].async = snapshot->options.durability == DURABILITY_ASYNC;
    taker->kept[i].doubtful = false;
    atomic_fetch_add (&taken, 1);
  }
  else {
    if (snapshot != NULL)
      fault ("cannot be read when it was taken", options.name);
    taker->kept[i].name[0] = '\0';
  }
  if (snapshot != NULL)
    snapset_unpin (here.set, snapshot);
}

static void
look (const struct taker *taker, unsigned i)
{
  const char *name = taker->kept[i].name;
  uint64_t sum;

  struct snapshot *snapshot = snapset_open (here.set, name);
  if (snapshot == NULL) {
    fault ("is not there", name);
    return;
  }
  if (!sum_of (snapshot, &sum)) {
    if (!taker->kept[i].doubtful)
      fault ("cannot be read", name);
  }
  else if (sum != taker->kept[i].sum)
    fault ("reads as something else", name);
  snapset_close (here.set, snapshot);
}

static void
drop (struct taker *taker, unsigned i)
{
  unsigned number;

  if (snapset_delete (here.set, taker->kept[i].name, true, NULL, &number) == -1)
    return; /* the catalogue; it is still there */
  taker->kept[i].name[0] = '\0';
  atomic_fetch_add (&deleted, 1);
}

static void *
run_taker (void *arg)
{
  struct taker *taker = arg;

  while (atomic_load (&goes_on)) {
    const unsigned i = (unsigned)rand_r (&taker->seed) % KEPT_MAX;

    if (taker->kept[i].name[0] == '\0')
      take (taker, i);
    else if (rand_r (&taker->seed) % 3 == 0)
      drop (taker, i);
    else
      look (taker, i);
  }
  return NULL;
}

static void *
run_writer (void *arg)
{
  unsigned own = (unsigned)(uintptr_t)arg;

  while (atomic_load (&goes_on)) {
    const uint64_t count = 1 + (uint64_t)rand_r (&own) % 5000;
    const uint64_t offset = (uint64_t)rand_r (&own) % (SIZE - count);

    if (fixture_write (&here, offset, count, (uint8_t)rand_r (&own)) == -1)
      fault ("fails", "write");
  }
  return NULL;
}

static pthread_t writers[WRITERS];

static void
begin_load (void)
{
  atomic_store (&goes_on, true);
  atomic_store (&catalog_fails, true);
  for (unsigned i = 0; i < WRITERS; i++)
    pthread_create (&writers[i], NULL, run_writer,
                    (void *)(uintptr_t)rand_r (&seed));
  for (unsigned i = 0; i < TAKERS; i++)
    pthread_create (&takers[i].thread, NULL, run_taker, &takers[i]);
}

static void
end_load (void)
{
  atomic_store (&goes_on, false);
  for (unsigned i = 0; i < WRITERS; i++)
    pthread_join (writers[i], NULL);
  for (unsigned i = 0; i < TAKERS; i++)
    pthread_join (takers[i].thread, NULL);
  atomic_store (&catalog_fails, false);
}

static void
await_progress (unsigned count)
{
  const unsigned wanted = atomic_load (&deleted) + count;

  while (atomic_load (&deleted) < wanted)
    sched_yield ();
}

/* The end begins while all go on. */
static void
end_cleanly (void)
{
  struct closing *closing = closing_create (here.set);

  assert_non_null (closing);
  server_runs ();
  assert_int_equal (closing_start (closing), 0);
  server_ends ();
  await_progress (3);
  end_load ();
  assert_int_equal (reclaim_stop (here.reclaim, 60), 0);
  reclaim_free (here.reclaim);
  here.reclaim = NULL;
  assert_int_equal (closing_finish (closing, 60), 0);
  closing_free (closing);
}

static void
drain (void)
{
  size_t layers;
  SCOPED_FREE struct snapshot **list = snapset_list (here.set, true, &layers);

  for (size_t i = 0; i < layers; i++) {
    fixture_drain (list[i]);
    snapset_unpin (here.set, list[i]);
  }
}

/* After a kill async ones are broken, and what reads through them. */
static void
look_at_all (bool killed)
{
  for (unsigned t = 0; t < TAKERS; t++)
    for (unsigned i = 0; i < KEPT_MAX; i++)
      if (takers[t].kept[i].name[0] != '\0') {
        takers[t].kept[i].doubtful |= killed && takers[t].kept[i].async;
        look (&takers[t], i);
      }
}

static int
setup (void **state)
{
  (void)state;
  snprintf (path, sizeof path, "%s", scratch_path ("store"));
  here = (struct fixture){ .size = SIZE,
                           .in_store = path,
                           .options = { .chunk_size = CHUNK } };
  fixture_open (&here);
  memset (takers, 0, sizeof takers);
  for (unsigned i = 0; i < TAKERS; i++)
    takers[i] = (struct taker){ .number = i, .seed = i + 1 };
  seed = 1;
  atomic_store (&faults, 0);
  call_hook_set (hook);
  return 0;
}

static int
teardown (void **state)
{
  (void)state;
  call_hook_set (NULL);
  fixture_close (&here);
  scratch_remove ();
  return 0;
}

static void
all_at_once (void **state)
{
  const unsigned rounds = getenv ("FSSNAP_LONG") != NULL ? 100 : 6;

  (void)state;
  for (unsigned round = 0; round < rounds; round++) {
    const bool kill = round % 2;

    fixture_reclaim (&here);
    begin_load ();
    await_progress (10);
    if (kill) {
      end_load ();
      drain ();
    }
    else
      end_cleanly ();
    fixture_end (&here, false);
    fixture_serve (&here);
    look_at_all (kill);
    assert_int_equal (atomic_load (&faults), 0);
  }
}

#define TEST(name) cmocka_unit_test_setup_teardown (name, setup, teardown)

int
main (void)
{
  const struct CMUnitTest tests[] = { TEST (all_at_once) };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
