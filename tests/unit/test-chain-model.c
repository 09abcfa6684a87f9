/* SPDX-License-Identifier: BSD-3-Clause */
/* Many snapshots, taken and deleted in every order, against a model: after
 * each step every snapshot that is left is compared byte for byte with what
 * the origin was when it was taken.
 */

#include "cmocka-all.h"
#include "fixture.h"
#include "nbdkit-stub.h"
#include "scoped.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* At first, and at most; no multiples of a chunk. */
#define SIZE (130 * 1024 + 777)
#define SIZE_MAX_GROWN (SIZE + 3 * 24321)
#define SNAPSHOTS_MAX 8

static const uint64_t chunk_sizes[] = { 512, 4096, 1024, 65536, 8192 };
#define CHUNK_SIZES (sizeof chunk_sizes / sizeof chunk_sizes[0])

/* What a run does besides. */
struct kind {
  bool reclaim; /* a thread clears away */
  bool settle;  /* and is waited for after each step; else it races */
  bool free;    /* snapshots have free space */
  bool grow;    /* the origin grows between snapshots */
  bool broken;  /* one breaks before the first is deleted */
  bool small;   /* all chunks have one size */
};

struct model {
  struct snapshot *snapshot; /* NULL: none */
  uint64_t size;
  bool may_fail; /* it, or one that it may read through, is broken */
  uint8_t bytes[SIZE_MAX_GROWN];
};

static struct {
  struct fixture fixture;
  const struct kind *kind;
  const char *what; /* the run, for who has to find out */
  unsigned seed;
  uint64_t random;
  uint64_t size;
  uint8_t origin[SIZE_MAX_GROWN];
  struct model models[SNAPSHOTS_MAX];
} run;

static uint64_t
draw (uint64_t below)
{
  run.random ^= run.random << 13;
  run.random ^= run.random >> 7;
  run.random ^= run.random << 17;
  return (run.random >> 11) % below;
}

static void
start (const struct kind *kind, const char *what, unsigned seed)
{
  run.kind = kind;
  run.what = what;
  run.seed = seed;
  run.random = (seed + 1) * UINT64_C (0x9e3779b97f4a7c15);
  run.size = SIZE;
  run.fixture = (struct fixture){ .size = SIZE };
  fixture_open (&run.fixture);
  memcpy (run.origin, run.fixture.old, SIZE);
  for (unsigned i = 0; i < SNAPSHOTS_MAX; i++)
    run.models[i].snapshot = NULL;
  if (kind->reclaim)
    fixture_reclaim (&run.fixture);
}

#define run_fail(...)                                                          \
  do {                                                                         \
    messages_show ();                                                          \
    print_message ("%s, seed %u: ", run.what, run.seed);                       \
    print_message (__VA_ARGS__);                                               \
    fail ();                                                                   \
  } while (0)

/* --- steps -------------------------------------------------------------- */

static void
write_some (void)
{
  const uint64_t most = draw (4) == 0 ? 70000 : 3000;
  const uint64_t offset = draw (run.size);
  uint64_t count = 1 + draw (most);
  const uint8_t value = draw (6) == 0 ? 0 : (uint8_t)draw (256);

  if (count > run.size - offset)
    count = run.size - offset;
  if (fixture_write (&run.fixture, offset, count, value) == -1)
    run_fail ("write: %s\n", strerror (errno));
  memset (run.origin + offset, value, count);
}

static void
grow (void)
{
  if (run.size + 24321 > SIZE_MAX_GROWN)
    return;
  assert_int_equal (ftruncate (run.fixture.fd, (off_t)(run.size + 24321)), 0);
  memset (run.origin + run.size, 0, 24321);
  run.size += 24321;
}

/* A part of a snapshot is free: the chunks that lie wholly in there, and
 * that nobody has begun to copy.
 */
static void
set_free (struct model *model)
{
  struct snapshot *snapshot = model->snapshot;
  const uint64_t offset = draw (model->size);
  uint64_t count = 1 + draw (model->size / 2);
  uint64_t freed = 0;

  if (count > model->size - offset)
    count = model->size - offset;
  const uint64_t taken = snapshot_set_free (snapshot, offset, count);
  for (uint64_t chunk = 0; chunk < snapshot_chunks (snapshot); chunk++)
    if (bitmap_test (&snapshot->free, chunk)) {
      const uint64_t start = chunk << snapshot->chunk_shift;
      const uint64_t bytes = snapshot_bytes (snapshot, chunk, 1);
      if (start < offset || start + bytes > offset + count)
        continue;
      memset (model->bytes + start, 0, bytes);
      freed++;
    }
  if (taken > freed)
    run_fail ("%" PRIu64 " chunks set free, not %" PRIu64 "\n", taken, freed);
}

static struct model *
take (uint64_t chunk_size)
{
  struct model *model = run.models;

  while (model->snapshot != NULL)
    model++;
  assert_true (model < run.models + SNAPSHOTS_MAX);
  run.fixture.options.chunk_size = chunk_size;
  run.fixture.options.durability
      = draw (2) ? DURABILITY_ASYNC : DURABILITY_WRITTEN;
  model->snapshot = fixture_freeze (&run.fixture);
  model->size = run.size;
  model->may_fail = false;
  memcpy (model->bytes, run.origin, run.size);
  if (run.kind->free)
    for (uint64_t n = draw (4); n > 0; n--)
      set_free (model);
  return model;
}

static void delete (struct model *model)
{
  fixture_delete (&run.fixture, model->snapshot);
  model->snapshot = NULL;
}

/* It, and all that are older, may fail from here on. */
static void
give_up (const struct model *broken)
{
  snapshot_break (broken->snapshot, EIO, "a test");
  pthread_mutex_lock (&run.fixture.set->lock);
  for (const struct snapshot *s = broken->snapshot; s != NULL; s = s->older)
    for (unsigned i = 0; i < SNAPSHOTS_MAX; i++)
      if (run.models[i].snapshot == s)
        run.models[i].may_fail = true;
  pthread_mutex_unlock (&run.fixture.set->lock);
}

/* --- comparing ---------------------------------------------------------- */

static void
compare (const struct model *model, const uint8_t *bytes, uint64_t offset,
         uint64_t count)
{
  for (uint64_t i = 0; i < count; i++)
    if (bytes[i] != model->bytes[offset + i])
      run_fail ("snapshot %u: byte %" PRIu64 " is 0x%02x, not 0x%02x\n",
                model->snapshot->number, offset + i, bytes[i],
                model->bytes[offset + i]);
}

/* Each sector is right, or an error. */
static void
check_sectors (const struct model *model)
{
  uint8_t sector[512];

  for (uint64_t offset = 0; offset < model->size; offset += 512) {
    const uint64_t count
        = model->size - offset < 512 ? model->size - offset : 512;
    if (view_read (run.fixture.set, model->snapshot, sector, count, offset)
        == 0)
      compare (model, sector, offset, count);
    else
      assert_int_equal (errno, EIO);
  }
}

static void
check (const struct model *model)
{
  static uint8_t bytes[SIZE_MAX_GROWN];

  if (model->may_fail) {
    check_sectors (model);
    return;
  }
  if (view_read (run.fixture.set, model->snapshot, bytes, model->size, 0) == -1)
    run_fail ("snapshot %u: %s\n", model->snapshot->number, strerror (errno));
  if (memcmp (bytes, model->bytes, model->size) != 0)
    compare (model, bytes, 0, model->size);
}

static void
check_all (void)
{
  for (unsigned i = 0; i < SNAPSHOTS_MAX; i++)
    if (run.models[i].snapshot != NULL)
      check (&run.models[i]);
}

static void
check_step (void)
{
  check_all ();
  if (run.kind->settle) {
    fixture_settle (&run.fixture);
    check_all ();
  }
}

static unsigned
count_snapshots (void)
{
  unsigned n = 0;

  for (unsigned i = 0; i < SNAPSHOTS_MAX; i++)
    n += run.models[i].snapshot != NULL;
  return n;
}

/* How many layers may be left of COUNT snapshots: one behind each.  But one
 * with chunks much smaller than the one before is not merged into that, and
 * none is merged into the target.
 */
static unsigned
most_layers (unsigned count)
{
  return run.kind->small ? 2 * count : 3 * count + 3;
}

/* Few layers are left, and none once all snapshots are deleted. */
static void
finish (void)
{
  const unsigned count = count_snapshots ();

  if (run.kind->reclaim) {
    fixture_settle (&run.fixture);
    check_all ();
    const unsigned layers = fixture_layers (&run.fixture);
    if (layers > most_layers (count) && !run.kind->broken)
      run_fail ("%u layers for %u snapshots\n", layers, count);
    assert_int_equal (fixture_dropped (&run.fixture), 0);
  }
  for (unsigned i = 0; i < SNAPSHOTS_MAX; i++)
    if (run.models[i].snapshot != NULL)
      delete (&run.models[i]);
  if (run.kind->reclaim) {
    fixture_settle (&run.fixture);
    assert_int_equal (fixture_layers (&run.fixture), 0);
    assert_null (run.fixture.set->oldest);
    assert_null (run.fixture.set->dropped);
    assert_null (run.fixture.set->target);
  }
  fixture_close (&run.fixture);
}

/* --- every order -------------------------------------------------------- */

/* The ORDER-th order of COUNT things. */
static void
nth_order (unsigned order, unsigned count, unsigned *result)
{
  unsigned left[SNAPSHOTS_MAX];

  for (unsigned i = 0; i < count; i++)
    left[i] = i;
  for (unsigned n = count; n > 0; n--) {
    const unsigned k = order % n;
    order /= n;
    *result++ = left[k];
    memmove (left + k, left + k + 1, (n - k - 1) * sizeof *left);
  }
}

static void
one_order (const struct kind *kind, const char *what, unsigned count,
           unsigned order)
{
  unsigned turn[SNAPSHOTS_MAX];

  start (kind, what, count * 1000 + order);
  nth_order (order, count, turn);
  for (unsigned i = 0; i < count; i++) {
    write_some ();
    if (kind->grow && draw (2) == 0)
      grow ();
    take (chunk_sizes[kind->small ? 1 : draw (CHUNK_SIZES)]);
    write_some ();
    write_some ();
  }
  check_step ();
  if (kind->broken)
    give_up (&run.models[draw (count)]);
  for (unsigned i = 0; i < count; i++) {
    delete (&run.models[turn[i]]);
    check_step ();
    write_some ();
    write_some ();
    check_step ();
  }
  finish ();
}

static void
every_order (const struct kind *kind, const char *what)
{
  unsigned orders = 1;

  for (unsigned count = 1; count <= 5; count++) {
    orders *= count;
    for (unsigned order = 0; order < orders; order++)
      one_order (kind, what, count, order);
  }
}

/* --- at random ---------------------------------------------------------- */

static void
one_step (void)
{
  struct model *model = &run.models[draw (SNAPSHOTS_MAX)];

  switch (draw (8)) {
  case 0:
  case 1:
    if (count_snapshots () < SNAPSHOTS_MAX)
      take (chunk_sizes[run.kind->small ? 0 : draw (CHUNK_SIZES)]);
    break;
  case 2:
  case 3:
    if (model->snapshot != NULL)
      delete (model);
    break;
  case 4:
    if (run.kind->free && model->snapshot != NULL)
      set_free (model);
    if (run.kind->grow && draw (8) == 0)
      grow ();
    if (run.kind->broken && model->snapshot != NULL && draw (3) == 0)
      give_up (model);
    break;
  default:
    write_some ();
  }
}

static void
at_random (const struct kind *kind, const char *what)
{
  for (unsigned seed = 0; seed < 30; seed++) {
    start (kind, what, seed);
    for (unsigned i = 0; i < 60; i++) {
      one_step ();
      check_step ();
    }
    finish ();
  }
}

/* --- the tests ---------------------------------------------------------- */

static const struct {
  const char *name;
  struct kind kind;
} kinds[] = {
  { "without_clearing_away", { 0 } },
  { "of_one_chunk_size", { .reclaim = true, .settle = true, .small = true } },
  { "of_mixed_chunk_sizes", { .reclaim = true, .settle = true } },
  { "while_it_clears_away", { .reclaim = true } },
  { "with_free_space", { .reclaim = true, .settle = true, .free = true } },
  { "with_free_space_while_it_clears_away", { .reclaim = true, .free = true } },
  { "of_a_growing_origin", { .reclaim = true, .settle = true, .grow = true } },
  { "with_a_broken_one", { .reclaim = true, .settle = true, .broken = true } },
  { "with_everything",
    { .reclaim = true, .free = true, .grow = true, .broken = true } },
};
#define KINDS (sizeof kinds / sizeof kinds[0])

static void
deleted_in_every_order (void **state)
{
  const unsigned i = *(const unsigned *)*state;

  every_order (&kinds[i].kind, kinds[i].name);
}

static void
taken_and_deleted_at_random (void **state)
{
  const unsigned i = *(const unsigned *)*state;

  at_random (&kinds[i].kind, kinds[i].name);
}

int
main (int argc, char **argv)
{
  struct CMUnitTest tests[2 * KINDS];
  char names[2 * KINDS][80];
  unsigned numbers[KINDS];

  for (unsigned i = 0; i < 2 * KINDS; i++) {
    const bool order = i < KINDS;
    numbers[i % KINDS] = i % KINDS;
    snprintf (names[i], sizeof names[i], "%s_%s",
              order ? "deleted_in_every_order" : "taken_and_deleted_at_random",
              kinds[i % KINDS].name);
    tests[i] = (struct CMUnitTest){
      .name = names[i],
      .test_func = order ? deleted_in_every_order : taken_and_deleted_at_random,
      .initial_state = &numbers[i % KINDS],
    };
  }
  if (argc > 1)
    cmocka_set_test_filter (argv[1]);
  return cmocka_run_group_tests (tests, NULL, NULL);
}
