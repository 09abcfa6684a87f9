/* SPDX-License-Identifier: BSD-3-Clause */
/* Group commit, with an engine that ends each request when a test wants. */

#include "cmocka-all.h"
#include "commit.h"
#include "fake-engine.h"
#include "fixture.h"
#include "nbdkit-stub.h"
#include "scoped.h"
#include "scratch.h"
#include "storefile.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHUNK 512

/* Chunks that one unit of the index has the bits of. */
#define UNIT (FORMAT_UNIT_GROUPS * BITMAP_GROUP)

/* A translation, and what became of it. */
struct copied {
  struct translation translation; /* first */
  sem_t ended;
  unsigned times;
  int error;
};

static struct {
  struct flusher *flusher;
  struct backfile *backfile;
  struct format_header header;
  uint64_t part_size;
  uint64_t chunks;
  struct bitmap hastrans, unreadable;
  _Atomic int level;
  _Atomic uint64_t serial;
  atomic_bool cancelled;
  struct commit *commit;
  sem_t added; /* to the commit */
  uint8_t data[BITMAP_GROUP * CHUNK];
} here;

static int64_t
all_hang (const struct engine_request *request, size_t length, unsigned index)
{
  (void)request;
  (void)length;
  (void)index;
  return FAKE_HANG;
}

/* A commit for CHUNKS chunks in files of PART_SIZE bytes. */
static void
start (uint64_t chunks, uint64_t part_size, enum durability level)
{
  static const char *const names[] = { "f", "f.1", "f.2", "f.3" };
  char *paths[4];

  memset (&here.header, 0, sizeof here.header);
  here.header.chunk_size = CHUNK;
  here.header.size = chunks * CHUNK;
  here.header.number = 1;
  memset (here.header.layer, 7, sizeof here.header.layer);
  here.part_size = part_size;
  here.chunks = chunks;
  assert_int_equal (
      storefile_plan (here.header.size, CHUNK, part_size, &here.header.parts),
      0);
  for (unsigned i = 0; i < 4; i++)
    paths[i] = (char *)(uintptr_t)scratch_path (names[i]);
  here.backfile = storefile_create (&here.header, part_size, paths);
  assert_non_null (here.backfile);
  assert_int_equal (bitmap_init (&here.hastrans, chunks), 0);
  assert_int_equal (bitmap_init (&here.unreadable, chunks), 0);
  atomic_store (&here.level, (int)level);
  here.commit
      = commit_create (&(struct commit_of){ .flusher = here.flusher,
                                            .backfile = here.backfile,
                                            .hastrans = &here.hastrans,
                                            .unreadable = &here.unreadable,
                                            .level = &here.level,
                                            .cancelled = &here.cancelled,
                                            .serial = &here.serial });
  assert_non_null (here.commit);
  assert_int_equal (flusher_start (here.flusher), 0);
}

static int
setup (void **state)
{
  (void)state;
  messages_clear ();
  fake_reset (all_hang);
  here.flusher = flusher_create (&engine_fake, NULL, SIZE_MAX);
  atomic_store (&here.cancelled, false);
  sem_init (&here.added, 0, 0);
  memset (here.data, 0x5a, sizeof here.data);
  return 0;
}

static int
teardown (void **state)
{
  (void)state;
  fake_let_go ();
  assert_int_equal (flusher_stop (here.flusher, 60), 0);
  flusher_free (here.flusher);
  commit_free (here.commit);
  backfile_free (here.backfile);
  bitmap_free (&here.hastrans);
  bitmap_free (&here.unreadable);
  here.commit = NULL;
  here.backfile = NULL;
  scratch_remove ();
  return 0;
}

/* --- what copy.c does ---------------------------------------------------- */

static void
ended (struct flush_job *job, int error)
{
  struct copied *copied
      = (struct copied *)((char *)job - offsetof (struct translation, job));
  const struct translation *translation = &copied->translation;
  const uint64_t group = translation->first / BITMAP_GROUP;
  const uint64_t mask
      = bitmap_mask (translation->first % BITMAP_GROUP, translation->count);

  copied->times++;
  copied->error = error;
  if (error == 0 && translation->state == TRANSLATION_LOST)
    bitmap_set_group (&here.unreadable, group, mask);
  if (error == 0)
    bitmap_set_group (&here.hastrans, group, mask);
  sem_post (&copied->ended);
}

static void
written (struct flush_job *job, int error)
{
  struct copied *copied
      = (struct copied *)((char *)job - offsetof (struct translation, job));

  if (error != 0) {
    ended (job, error);
    return;
  }
  job->done = ended;
  commit_add (here.commit, &copied->translation);
  sem_post (&here.added);
}

enum kind { DATA, ZERO, LOST };

/* COUNT chunks from FIRST on, within a group, are to be kept. */
static void
make (struct copied *copied, enum kind kind, uint64_t first, unsigned count)
{
  memset (copied, 0, sizeof *copied);
  sem_init (&copied->ended, 0, 0);
  copied->translation.first = first;
  copied->translation.count = count;
  copied->translation.serial = atomic_fetch_add (&here.serial, 1) + 1;
  copied->translation.state
      = kind == LOST ? TRANSLATION_LOST : TRANSLATION_STORING;
  copied->translation.job = (struct flush_job){
    .urgent = true,
    .cancelled = &here.cancelled,
    .done = written,
  };
  if (kind == DATA) {
    copied->translation.job.data = here.data;
    copied->translation.job.length = (size_t)count * CHUNK;
  }
  backfile_locate (here.backfile, first * CHUNK, &copied->translation.job.fd,
                   &copied->translation.job.offset);
}

static void
keep (struct copied *copied, enum kind kind, uint64_t first, unsigned count)
{
  make (copied, kind, first, count);
  flusher_submit (here.flusher, &copied->translation.job);
}

/* Wait until COUNT more are with the commit. */
static void
await_added (unsigned count)
{
  while (count-- > 0)
    sem_wait (&here.added);
}

/* It ended, once, like this. */
static void
assert_ended (struct copied *copied, int error)
{
  sem_wait (&copied->ended);
  assert_int_equal (copied->times, 1);
  assert_int_equal (copied->error, error);
}

/* --- what was done ------------------------------------------------------- */

static unsigned
part_of (int fd)
{
  unsigned part = 0;

  while (here.backfile->part[part].fd != fd)
    part++;
  return part;
}

static struct format_layout
layout_of (unsigned part)
{
  const uint64_t left = here.header.size - part * here.backfile->span;

  return format_layout (
      CHUNK, left < here.backfile->span ? left : here.backfile->span);
}

/* What a request is: d(ata), c(opied), u(nreadable) or s(ync). */
static char
kind_of (struct fake_write write)
{
  const struct format_layout layout = layout_of (part_of (write.fd));

  if (write.segments == 0)
    return 's';
  if (write.offset >= layout.data)
    return 'd';
  return write.offset < format_unit_offset (&layout, FORMAT_FREE, 0) ? 'c'
                                                                     : 'u';
}

/* All requests since the engine was reset, a letter each. */
static const char *
trace (void)
{
  static char text[FAKE_WRITES_MAX + 1];
  const unsigned count = fake_count ();

  for (unsigned i = 0; i < count; i++)
    text[i] = kind_of (fake_write_at (i));
  text[count] = '\0';
  return text;
}

struct mark {
  struct flush_job job; /* first */
  sem_t passed;
};

static void
pass (struct flush_job *job, int error)
{
  (void)error;
  sem_post (&((struct mark *)job)->passed);
}

/* Let the flusher's thread do all that it can. */
static void
settle (void)
{
  for (unsigned i = 0; i < 4; i++) {
    struct mark mark = { .job = { .done = pass } };
    sem_init (&mark.passed, 0, 0);
    flusher_submit (here.flusher, &mark.job);
    sem_wait (&mark.passed);
    sem_destroy (&mark.passed);
  }
}

/* Let the INDEX-th request, which must be of that kind and the last, end. */
static void
step (unsigned index, char kind, int64_t result)
{
  fake_wait (index + 1);
  settle ();
  assert_int_equal (fake_count (), index + 1);
  assert_int_equal (kind_of (fake_write_at (index)), kind);
  fake_end (index, result);
}

/* The index, read back: is a chunk in a table? */
static bool
is_noted (enum format_table table, uint64_t chunk)
{
  struct bitmap bitmap;
  char *why;

  assert_int_equal (bitmap_init (&bitmap, here.chunks), 0);
  const int r = storefile_load (here.backfile, table, &bitmap, &why);
  if (r == -1)
    print_message ("%s\n", why);
  assert_int_equal (r, 0);
  const bool noted = bitmap_test (&bitmap, chunk);
  bitmap_free (&bitmap);
  return noted;
}

static void
assert_same_bits (enum format_table table, const struct bitmap *bits)
{
  struct bitmap bitmap;
  char *why;

  assert_int_equal (bitmap_init (&bitmap, here.chunks), 0);
  assert_int_equal (storefile_load (here.backfile, table, &bitmap, &why), 0);
  assert_int_equal (bitmap_weight (&bitmap), bitmap_weight (bits));
  for (uint64_t group = bitmap_next_group (bits, 0); group != UINT64_MAX;
       group = bitmap_next_group (bits, group + 1))
    assert_true (bitmap_group (&bitmap, group) == bitmap_group (bits, group));
  bitmap_free (&bitmap);
}

/* All bits there are, and no others, are in the index. */
static void
assert_index_is_right (void)
{
  assert_same_bits (FORMAT_COPIED, &here.hastrans);
  assert_same_bits (FORMAT_UNREADABLE, &here.unreadable);
}

/* --- the order of a round ------------------------------------------------ */

static void
stable_is_data_sync_index_sync (void **state)
{
  static struct copied copied;
  static const char stages[] = "dscs";

  (void)state;
  start (100, 0, DURABILITY_STABLE);
  keep (&copied, DATA, 3, 2);
  for (unsigned i = 0; i < 4; i++) {
    fake_wait (i + 1);
    assert_int_equal (is_noted (FORMAT_COPIED, 3), i > 2);
    assert_false (bitmap_test (&here.hastrans, 3));
    step (i, stages[i], FAKE_WRITE);
  }
  assert_ended (&copied, 0);
  assert_index_is_right ();
  assert_true (is_noted (FORMAT_COPIED, 4));
  settle ();
  assert_int_equal (fake_count (), 4);
}

static void
written_is_data_index (void **state)
{
  static struct copied copied;

  (void)state;
  start (100, 0, DURABILITY_WRITTEN);
  keep (&copied, DATA, 99, 1);
  step (0, 'd', FAKE_WRITE);
  fake_wait (2);
  assert_false (bitmap_test (&here.hastrans, 99));
  step (1, 'c', FAKE_WRITE);
  assert_ended (&copied, 0);
  assert_index_is_right ();
  settle ();
  assert_int_equal (fake_count (), 2);
}

static void
unit_is_one_sector_in_its_place (void **state)
{
  static struct copied copied;

  (void)state;
  start (3 * UNIT, 0, DURABILITY_WRITTEN);
  keep (&copied, ZERO, 2 * UNIT + 64, 64);
  fake_wait (1);
  const struct format_layout layout = layout_of (0);
  assert_int_equal (fake_write_at (0).length, FORMAT_SECTOR);
  assert_int_equal (fake_write_at (0).offset,
                    format_unit_offset (&layout, FORMAT_COPIED, 2));
  step (0, 'c', FAKE_WRITE);
  assert_ended (&copied, 0);
  assert_index_is_right ();
}

/* A hole is a copy too; it needs no sync of data, since there are none. */
static void
zeros_are_noted_alone (void **state)
{
  static struct copied copied;

  (void)state;
  start (100, 0, DURABILITY_STABLE);
  keep (&copied, ZERO, 10, 64 - 10);
  step (0, 'c', FAKE_WRITE);
  step (1, 's', FAKE_WRITE);
  assert_ended (&copied, 0);
  assert_index_is_right ();
}

static void
lost_chunks_are_noted_as_such (void **state)
{
  static struct copied copied;

  (void)state;
  fake_reset (NULL);
  start (100, 0, DURABILITY_STABLE);
  keep (&copied, LOST, 5, 1);
  assert_ended (&copied, 0);
  assert_true (is_noted (FORMAT_UNREADABLE, 5));
  /* Whether it is in the other table too is for the reader to know. */
  assert_true (bitmap_test (&here.hastrans, 5));
  assert_null (strchr (trace (), 'd'));
}

/* A hole that is noted as copied and not as unreadable would be read as
 * zeros, were there a crash.
 */
static void
lost_chunk_is_never_noted_as_copied_alone (void **state)
{
  static struct copied copied, other;
  unsigned ended_count = 0;

  (void)state;
  start (100, 0, DURABILITY_WRITTEN);
  keep (&copied, LOST, 5, 1);
  for (unsigned i = 0; ended_count < 2; i++) {
    if (sem_trywait (&copied.ended) == 0) {
      ended_count++;
      keep (&other, DATA, 7, 1); /* in the same unit */
    }
    else if (copied.times == 1 && sem_trywait (&other.ended) == 0)
      ended_count++;
    settle ();
    if (is_noted (FORMAT_COPIED, 5))
      assert_true (is_noted (FORMAT_UNREADABLE, 5));
    if (i < fake_count ())
      fake_end (i, FAKE_WRITE);
    else
      i--;
  }
}

static void
units_have_the_bits_there_were (void **state)
{
  static struct copied copied[3];

  (void)state;
  fake_reset (NULL);
  start (200, 0, DURABILITY_WRITTEN);
  for (unsigned i = 0; i < 3; i++) {
    keep (&copied[i], DATA, i * 70, 3);
    assert_ended (&copied[i], 0);
    assert_index_is_right ();
  }
  assert_int_equal (bitmap_weight (&here.hastrans), 9);
}

static void
copies_at_the_very_end (void **state)
{
  static struct copied copied;
  static const uint64_t sizes[]
      = { 1, 63, 64, 65, UNIT - 1, UNIT, UNIT + 1, 2 * UNIT };

  (void)state;
  for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
    fake_reset (NULL);
    start (sizes[i], 0, DURABILITY_STABLE);
    keep (&copied, DATA, sizes[i] - 1, 1);
    assert_ended (&copied, 0);
    assert_index_is_right ();
    if (i + 1 < sizeof sizes / sizeof sizes[0]) {
      teardown (state);
      setup (state);
    }
  }
}

/* --- groups -------------------------------------------------------------- */

/* However many wait, they share two barriers and a unit. */
static void
what_waits_goes_together (void **state)
{
  static struct copied first, waiting[20];

  (void)state;
  start (UNIT, 0, DURABILITY_STABLE);
  keep (&first, DATA, 0, 1);
  await_added (0);
  step (0, 'd', FAKE_WRITE);
  await_added (1);
  fake_wait (2); /* its sync */
  for (unsigned i = 0; i < 20; i++) {
    keep (&waiting[i], DATA, 100 + 2 * i, 1);
    fake_wait (3 + i);
    fake_end (2 + i, FAKE_WRITE);
    await_added (1);
  }
  settle ();
  assert_int_equal (fake_count (), 22); /* nobody overtakes */
  assert_int_equal (waiting[0].times, 0);
  fake_end (1, FAKE_WRITE);
  step (22, 'c', FAKE_WRITE);
  step (23, 's', FAKE_WRITE);
  assert_ended (&first, 0);
  step (24, 's', FAKE_WRITE);
  assert_int_equal (bitmap_weight (&here.hastrans), 1);
  step (25, 'c', FAKE_WRITE);
  step (26, 's', FAKE_WRITE);
  for (unsigned i = 0; i < 20; i++)
    assert_ended (&waiting[i], 0);
  assert_index_is_right ();
  settle ();
  assert_int_equal (fake_count (), 27);
}

/* The index has none of those that come after its round has begun. */
static void
round_takes_no_more_once_it_has_begun (void **state)
{
  static struct copied first, second;

  (void)state;
  start (UNIT, 0, DURABILITY_STABLE);
  keep (&first, DATA, 0, 1);
  step (0, 'd', FAKE_WRITE);
  fake_wait (2);
  keep (&second, DATA, 9, 1);
  step (2, 'd', FAKE_WRITE);
  fake_end (1, FAKE_WRITE); /* the sync, which began before that was written */
  step (3, 'c', FAKE_WRITE);
  assert_ended ((fake_wait (5), fake_end (4, FAKE_WRITE), &first), 0);
  assert_false (is_noted (FORMAT_COPIED, 9));
  step (5, 's', FAKE_WRITE);
  step (6, 'c', FAKE_WRITE);
  step (7, 's', FAKE_WRITE);
  assert_ended (&second, 0);
  assert_index_is_right ();
}

static void
level_counts_as_it_is_when_a_round_begins (void **state)
{
  static struct copied first, second;

  (void)state;
  start (UNIT, 0, DURABILITY_WRITTEN);
  keep (&first, DATA, 0, 1);
  step (0, 'd', FAKE_WRITE);
  fake_wait (2);
  keep (&second, DATA, 9, 1);
  step (2, 'd', FAKE_WRITE);
  await_added (2);
  atomic_store (&here.level, DURABILITY_STABLE);
  fake_end (1, FAKE_WRITE);
  assert_ended (&first, 0);
  step (3, 's', FAKE_WRITE);
  step (4, 'c', FAKE_WRITE);
  step (5, 's', FAKE_WRITE);
  assert_ended (&second, 0);
  assert_string_equal (trace (), "dcdscs");
}

/* Of which kind, so many: more than a round has room for. */
static void
many (enum kind kind, unsigned count)
{
  SCOPED_FREE struct copied *copied = calloc (count + 1, sizeof *copied);
  unsigned syncs = 0, units = 0, in_round = 0;

  assert_non_null (copied);
  start (2 * UNIT * (uint64_t)(count + 1), 0, DURABILITY_STABLE);
  keep (&copied[count], ZERO, 0, 1); /* the others wait for it */
  fake_wait (1);
  for (unsigned i = 0; i < count; i++)
    keep (&copied[i], kind, 2 * UNIT * (uint64_t)(i + 1), 1);
  await_added (count + 1);
  fake_let_go ();
  for (unsigned i = 0; i <= count; i++)
    assert_ended (&copied[i], 0);
  for (const char *p = trace (); *p != '\0'; p++) {
    if (*p == 's') {
      syncs++;
      in_round = 0;
      continue;
    }
    units++;
    assert_in_range (++in_round, 1, 256);
  }
  assert_in_range (syncs, 2, 3 + units / 256);
  assert_true (units > count);
  if (kind != LOST)
    assert_index_is_right ();
}

static void
more_than_one_round_has_room_for (void **state)
{
  (void)state;
  many (ZERO, 600);
}

static void
more_lost_ones_than_one_round_has_room_for (void **state)
{
  (void)state;
  many (LOST, 600);
}

static void
several_parts_have_a_barrier_each (void **state)
{
  static struct copied first, copied[3];
  uint64_t part_size = format_layout (CHUNK, 64 * CHUNK).file_size;

  (void)state;
  start (3 * 64, part_size, DURABILITY_STABLE);
  assert_int_equal (here.header.parts, 3);
  keep (&first, ZERO, 1, 1);
  fake_wait (1);
  keep (&copied[0], DATA, 5, 1);
  fake_wait (2);
  keep (&copied[1], ZERO, 64, 64);
  keep (&copied[2], DATA, 130, 1);
  fake_wait (3);
  fake_let_go ();
  for (unsigned i = 0; i < 3; i++)
    assert_ended (&copied[i], 0);
  assert_ended (&first, 0);
  assert_index_is_right ();
  /* In the last round: data of two files, units of three. */
  unsigned syncs = 0, units = 0;
  for (const char *p = trace (); *p != '\0'; p++) {
    syncs += *p == 's';
    units += *p == 'c';
  }
  assert_int_equal (units, 4);
  assert_int_equal (syncs, 1 + 2 + 3);
}

/* The unit waits for the syncs of all parts' data. */
static void
no_index_before_the_last_sync_of_data (void **state)
{
  static struct copied first, a, b;
  uint64_t part_size = format_layout (CHUNK, 64 * CHUNK).file_size;

  (void)state;
  start (2 * 64, part_size, DURABILITY_STABLE);
  keep (&first, ZERO, 1, 1);
  fake_wait (1);
  keep (&a, DATA, 5, 1);
  fake_wait (2);
  keep (&b, DATA, 70, 1);
  fake_wait (3);
  fake_end (1, FAKE_WRITE);
  fake_end (2, FAKE_WRITE);
  await_added (3);
  fake_end (0, FAKE_WRITE);
  fake_wait (4);
  fake_end (3, FAKE_WRITE); /* the first's index sync */
  assert_ended (&first, 0);
  fake_wait (6); /* both data syncs */
  fake_end (5, FAKE_WRITE);
  settle ();
  assert_int_equal (fake_count (), 6);
  assert_false (is_noted (FORMAT_COPIED, 5));
  fake_end (4, FAKE_WRITE);
  fake_let_go ();
  assert_ended (&a, 0);
  assert_ended (&b, 0);
  assert_index_is_right ();
}

/* --- what fails ---------------------------------------------------------- */

static void
failed_data_sync_fails_the_round_and_writes_no_index (void **state)
{
  static struct copied copied, again;

  (void)state;
  start (100, 0, DURABILITY_STABLE);
  keep (&copied, DATA, 3, 1);
  step (0, 'd', FAKE_WRITE);
  step (1, 's', -EIO);
  assert_ended (&copied, EIO);
  assert_false (bitmap_test (&here.hastrans, 3));
  assert_false (is_noted (FORMAT_COPIED, 3));
  keep (&again, DATA, 3, 1);
  step (2, 'd', FAKE_WRITE);
  step (3, 's', FAKE_WRITE);
  step (4, 'c', FAKE_WRITE);
  step (5, 's', FAKE_WRITE);
  assert_ended (&again, 0);
  assert_index_is_right ();
}

static void
failed_unit_fails_its_own (void **state)
{
  static struct copied copied;

  (void)state;
  start (100, 0, DURABILITY_STABLE);
  keep (&copied, DATA, 3, 1);
  step (0, 'd', FAKE_WRITE);
  step (1, 's', FAKE_WRITE);
  step (2, 'c', -ENOSPC);
  fake_let_go (); /* whether it syncs what is left is its own business */
  assert_ended (&copied, ENOSPC);
  assert_false (bitmap_test (&here.hastrans, 3));
}

static struct format_layout bad_layout;

/* The unit of number 1 cannot be written. */
static int64_t
unit_one_is_bad (const struct engine_request *request, size_t length,
                 unsigned index)
{
  const uint64_t bad = format_unit_offset (&bad_layout, FORMAT_COPIED, 1);

  if (index == 0)
    return FAKE_HANG;
  return request->offset <= bad && request->offset + length > bad ? -EDQUOT
                                                                  : FAKE_WRITE;
}

static void
failed_unit_fails_no_other (void **state)
{
  static struct copied first, copied[6];

  (void)state;
  fake_reset (unit_one_is_bad);
  start (3 * UNIT, 0, DURABILITY_STABLE);
  bad_layout = layout_of (0);
  keep (&first, ZERO, 0, 1);
  fake_wait (1);
  for (unsigned i = 0; i < 6; i++)
    keep (&copied[i], DATA, i * UNIT / 2, 1);
  await_added (7);
  fake_end (0, FAKE_WRITE);
  assert_ended (&first, 0);
  for (unsigned i = 0; i < 6; i++)
    assert_ended (&copied[i], i == 2 || i == 3 ? EDQUOT : 0);
  assert_index_is_right ();
}

static void
failed_index_sync_fails_the_round (void **state)
{
  static struct copied first, copied[2], later;

  (void)state;
  start (2 * UNIT, 0, DURABILITY_STABLE);
  keep (&first, ZERO, 0, 1);
  fake_wait (1);
  keep (&copied[0], ZERO, 1, 1);
  keep (&copied[1], ZERO, UNIT, 1);
  await_added (3);
  step (0, 'c', FAKE_WRITE);
  step (1, 's', FAKE_WRITE);
  assert_ended (&first, 0);
  fake_wait (3);
  const unsigned last = fake_count ();
  for (unsigned i = 2; i < last; i++)
    fake_end (i, FAKE_WRITE);
  step (last, 's', -EIO);
  assert_ended (&copied[0], EIO);
  assert_ended (&copied[1], EIO);
  assert_int_equal (bitmap_weight (&here.hastrans), 1);
  fake_let_go ();
  keep (&later, ZERO, 9, 1); /* and then it is as it should be */
  assert_ended (&later, 0);
  assert_true (is_noted (FORMAT_COPIED, 9));
}

static void
failed_sync_of_one_part_fails_the_round (void **state)
{
  static struct copied first, a, b;
  uint64_t part_size = format_layout (CHUNK, 64 * CHUNK).file_size;

  (void)state;
  start (2 * 64, part_size, DURABILITY_STABLE);
  keep (&first, ZERO, 1, 1);
  fake_wait (1);
  keep (&a, DATA, 5, 1);
  fake_wait (2);
  keep (&b, DATA, 70, 1);
  fake_wait (3);
  fake_end (1, FAKE_WRITE);
  fake_end (2, FAKE_WRITE);
  await_added (3);
  fake_end (0, FAKE_WRITE);
  fake_wait (4);
  fake_end (3, FAKE_WRITE);
  assert_ended (&first, 0);
  fake_wait (6);
  fake_end (4, -EIO);
  fake_end (5, FAKE_WRITE);
  assert_ended (&a, EIO);
  assert_ended (&b, EIO);
  assert_false (is_noted (FORMAT_COPIED, 5));
  assert_false (is_noted (FORMAT_COPIED, 70));
}

/* The kernel says once that it could not write a page back; then the page
 * counts as clean, whoever's data are in it.
 */
static void
failed_sync_fails_what_was_written_before_it_too (void **state)
{
  static struct copied first, waiting;

  (void)state;
  start (100, 0, DURABILITY_STABLE);
  keep (&first, DATA, 3, 1);
  step (0, 'd', FAKE_WRITE);
  fake_wait (2);
  keep (&waiting, DATA, 9, 1);
  step (2, 'd', FAKE_WRITE);
  await_added (2);
  fake_end (1, -EIO);
  fake_let_go ();
  assert_ended (&first, EIO);
  assert_ended (&waiting, EIO);
  assert_false (is_noted (FORMAT_COPIED, 9));
}

static int64_t
unreadable_is_bad (const struct engine_request *request, size_t length,
                   unsigned index)
{
  (void)index;
  const uint64_t bad = format_unit_offset (&bad_layout, FORMAT_UNREADABLE, 0);

  return request->offset <= bad && request->offset + length > bad ? -EIO
                                                                  : FAKE_WRITE;
}

static void
lost_chunk_that_cannot_be_noted_fails (void **state)
{
  static struct copied copied;

  (void)state;
  fake_reset (unreadable_is_bad);
  start (100, 0, DURABILITY_WRITTEN);
  bad_layout = layout_of (0);
  keep (&copied, LOST, 5, 1);
  assert_ended (&copied, EIO);
  assert_false (is_noted (FORMAT_COPIED, 5));
}

/* --- the end comes first ------------------------------------------------- */

/* Nobody needs it any more while request STAGE is under way. */
static void
cancel_at (unsigned stage)
{
  static struct copied copied;
  static const char stages[] = "dscs";

  start (100, 0, DURABILITY_STABLE);
  keep (&copied, DATA, 3, 1);
  for (unsigned i = 0; i < stage; i++)
    step (i, stages[i], FAKE_WRITE);
  fake_wait (stage + 1);
  atomic_store (&here.cancelled, true);
  step (stage, stages[stage], FAKE_WRITE);
  assert_ended (&copied, stage == 3 ? 0 : ECANCELED);
  settle ();
  assert_int_equal (fake_count (), stage + 1); /* and no more was begun */
}

static void
cancelled_while_the_data_are_written (void **state)
{
  (void)state;
  cancel_at (0);
}

static void
cancelled_while_the_data_are_synced (void **state)
{
  (void)state;
  cancel_at (1);
}

static void
cancelled_while_the_index_is_written (void **state)
{
  (void)state;
  cancel_at (2);
}

static void
cancelled_while_the_index_is_synced (void **state)
{
  (void)state;
  cancel_at (3);
}

static void
stop_ends_the_round_and_all_that_waits (void **state)
{
  static struct copied first, waiting[10];

  (void)state;
  start (UNIT, 0, DURABILITY_STABLE);
  keep (&first, ZERO, 0, 1);
  fake_wait (1);
  for (unsigned i = 0; i < 10; i++)
    keep (&waiting[i], ZERO, 64 * (i + 1), 1);
  await_added (11);
  assert_int_equal (flusher_stop (here.flusher, 0), -1);
  fake_let_go ();
  assert_ended (&first, ECANCELED);
  for (unsigned i = 0; i < 10; i++)
    assert_ended (&waiting[i], ECANCELED);
  assert_int_equal (bitmap_weight (&here.hastrans), 0);
}

/* --- sweeps -------------------------------------------------------------- */

struct swept {
  struct commit_sweep sweep; /* first */
  struct flush_job job;
  sem_t ended;
  unsigned times;
  int error;
};

static void
end_sweep (struct commit_sweep *sweep, int error)
{
  struct swept *swept = (struct swept *)sweep;

  swept->times++;
  swept->error = error;
  sem_post (&swept->ended);
}

static void
begin_sweep (struct flush_job *job, int error)
{
  struct swept *swept
      = (struct swept *)((char *)job - offsetof (struct swept, job));

  (void)error;
  commit_sweep (here.commit, &swept->sweep);
}

static void
sweep (struct swept *swept, bool all)
{
  memset (swept, 0, sizeof *swept);
  sem_init (&swept->ended, 0, 0);
  swept->sweep = (struct commit_sweep){ .all = all, .done = end_sweep };
  swept->job = (struct flush_job){ .done = begin_sweep, .urgent = true };
  flusher_submit (here.flusher, &swept->job);
}

static void
assert_swept (struct swept *swept, int error)
{
  sem_wait (&swept->ended);
  assert_int_equal (swept->times, 1);
  assert_int_equal (swept->error, error);
}

/* As copies at level async do. */
static void
set_bits (struct bitmap *bitmap, uint64_t chunk)
{
  bitmap_set_group (bitmap, chunk / BITMAP_GROUP,
                    bitmap_mask (chunk % BITMAP_GROUP, 1));
}

static void
sweep_writes_every_bit (void **state)
{
  static struct swept swept;

  (void)state;
  fake_reset (NULL);
  start (700 * (uint64_t)UNIT, 0, DURABILITY_STABLE);
  for (unsigned i = 0; i < 400; i++)
    set_bits (&here.hastrans, i * (UNIT + 77));
  for (unsigned i = 0; i < 300; i += 3)
    set_bits (&here.unreadable, i * (UNIT + 77));
  set_bits (&here.hastrans, 700 * (uint64_t)UNIT - 1);
  sweep (&swept, true);
  assert_swept (&swept, 0);
  assert_index_is_right ();
  assert_null (strchr (trace (), 's')); /* whoever asked has his own */
}

static void
sweep_of_several_parts (void **state)
{
  static struct swept swept;
  uint64_t part_size = format_layout (CHUNK, 128 * CHUNK).file_size;

  (void)state;
  fake_reset (NULL);
  start (3 * 128, part_size, DURABILITY_STABLE);
  for (unsigned i = 0; i < 3 * 128; i += 19)
    set_bits (&here.hastrans, i);
  sweep (&swept, true);
  assert_swept (&swept, 0);
  assert_index_is_right ();
}

static void
sweep_of_nothing (void **state)
{
  static struct swept swept;

  (void)state;
  fake_reset (NULL);
  start (100, 0, DURABILITY_STABLE);
  sweep (&swept, true);
  assert_swept (&swept, 0);
  sweep (&swept, false);
  assert_swept (&swept, 0);
  assert_int_equal (fake_count (), 0);
}

static void
sweep_that_just_waits_writes_nothing (void **state)
{
  static struct copied copied;
  static struct swept swept;

  (void)state;
  start (UNIT, 0, DURABILITY_WRITTEN);
  set_bits (&here.hastrans, 300);
  keep (&copied, ZERO, 0, 1);
  fake_wait (1);
  sweep (&swept, false);
  settle ();
  assert_int_equal (swept.times, 0);
  assert_int_equal (fake_count (), 1);
  fake_end (0, FAKE_WRITE);
  assert_ended (&copied, 0);
  assert_swept (&swept, 0);
  assert_int_equal (fake_count (), 1);
}

/* All that was added before, not just the round under way. */
static void
sweep_waits_for_what_was_added_before (void **state)
{
  static struct copied first, second;
  static struct swept swept;

  (void)state;
  start (2 * UNIT, 0, DURABILITY_STABLE);
  keep (&first, ZERO, 0, 1);
  fake_wait (1);
  keep (&second, ZERO, 9, 1);
  await_added (2);
  sweep (&swept, false);
  step (0, 'c', FAKE_WRITE);
  step (1, 's', FAKE_WRITE);
  assert_ended (&first, 0);
  fake_wait (3);
  assert_int_equal (swept.times, 0);
  step (2, 'c', FAKE_WRITE);
  fake_wait (4);
  assert_int_equal (swept.times, 0);
  step (3, 's', FAKE_WRITE);
  assert_ended (&second, 0);
  assert_swept (&swept, 0);
}

static int64_t
unit_one_is_always_bad (const struct engine_request *request, size_t length,
                        unsigned index)
{
  (void)index;
  return unit_one_is_bad (request, length, 1);
}

static void
sweep_says_what_failed_and_goes_on (void **state)
{
  static struct swept swept;

  (void)state;
  fake_reset (unit_one_is_always_bad);
  start (3 * UNIT, 0, DURABILITY_STABLE);
  bad_layout = layout_of (0);
  for (unsigned i = 0; i < 3; i++)
    set_bits (&here.hastrans, i * UNIT);
  sweep (&swept, true);
  assert_swept (&swept, EDQUOT);
  assert_true (is_noted (FORMAT_COPIED, 0));
  assert_false (is_noted (FORMAT_COPIED, UNIT));
  assert_true (is_noted (FORMAT_COPIED, 2 * UNIT));
  fake_reset (NULL);
  sweep (&swept, true);
  assert_swept (&swept, 0);
  assert_index_is_right ();
}

static void
sweep_of_what_nobody_needs_is_cancelled (void **state)
{
  static struct swept swept;

  (void)state;
  fake_reset (NULL);
  start (100, 0, DURABILITY_STABLE);
  set_bits (&here.hastrans, 1);
  atomic_store (&here.cancelled, true);
  sweep (&swept, true);
  assert_swept (&swept, ECANCELED);
}

static void
stop_ends_a_sweep (void **state)
{
  static struct swept swept;

  (void)state;
  start (1000 * (uint64_t)UNIT, 0, DURABILITY_STABLE);
  for (unsigned i = 0; i < 1000; i++)
    set_bits (&here.hastrans, i * (uint64_t)UNIT);
  sweep (&swept, true);
  fake_wait (1);
  assert_int_equal (flusher_stop (here.flusher, 0), -1);
  fake_let_go ();
  assert_swept (&swept, ECANCELED);
}

/* Each that ends is followed by another. */
static struct copied load[8];
static atomic_bool load_goes_on;
static _Atomic uint64_t loaded;

static void
load_again (struct flush_job *job, int error)
{
  struct copied *copied
      = (struct copied *)((char *)job - offsetof (struct translation, job));

  ended (job, error);
  if (!atomic_load (&load_goes_on))
    return;
  sem_trywait (&copied->ended);
  make (copied, DATA, (atomic_fetch_add (&loaded, 1) * 65) % here.chunks, 1);
  commit_add (here.commit, &copied->translation);
  copied->translation.job.done = load_again;
}

static void
begin_load (struct flush_job *job, int error)
{
  struct copied *copied
      = (struct copied *)((char *)job - offsetof (struct translation, job));

  (void)error;
  commit_add (here.commit, &copied->translation);
  copied->translation.job.done = load_again;
}

static void
sweep_ends_under_constant_load (void **state)
{
  static struct swept swept;

  (void)state;
  fake_reset (NULL);
  start (1000 * (uint64_t)UNIT, 0, DURABILITY_STABLE);
  for (unsigned i = 0; i < 1000; i++)
    set_bits (&here.hastrans, i * (uint64_t)UNIT + 5);
  atomic_store (&load_goes_on, true);
  atomic_store (&loaded, 0);
  for (unsigned i = 0; i < 8; i++) {
    make (&load[i], DATA, i, 1);
    load[i].translation.job.done = begin_load;
    flusher_submit (here.flusher, &load[i].translation.job);
  }
  sweep (&swept, true);
  assert_swept (&swept, 0);
  assert_true (is_noted (FORMAT_COPIED, 999 * (uint64_t)UNIT + 5));
  sweep (&swept, false);
  assert_swept (&swept, 0);
  atomic_store (&load_goes_on, false);
  for (unsigned i = 0; i < 8; i++)
    sem_wait (&load[i].ended);
  assert_index_is_right ();
}

#define TEST(name) cmocka_unit_test_setup_teardown (name, setup, teardown)

int
main (void)
{
  const struct CMUnitTest tests[] = {
    TEST (stable_is_data_sync_index_sync),
    TEST (written_is_data_index),
    TEST (unit_is_one_sector_in_its_place),
    TEST (zeros_are_noted_alone),
    TEST (lost_chunks_are_noted_as_such),
    TEST (lost_chunk_is_never_noted_as_copied_alone),
    TEST (units_have_the_bits_there_were),
    TEST (copies_at_the_very_end),
    TEST (what_waits_goes_together),
    TEST (round_takes_no_more_once_it_has_begun),
    TEST (level_counts_as_it_is_when_a_round_begins),
    TEST (more_than_one_round_has_room_for),
    TEST (more_lost_ones_than_one_round_has_room_for),
    TEST (several_parts_have_a_barrier_each),
    TEST (no_index_before_the_last_sync_of_data),
    TEST (failed_data_sync_fails_the_round_and_writes_no_index),
    TEST (failed_unit_fails_its_own),
    TEST (failed_unit_fails_no_other),
    TEST (failed_index_sync_fails_the_round),
    TEST (failed_sync_of_one_part_fails_the_round),
    TEST (failed_sync_fails_what_was_written_before_it_too),
    TEST (lost_chunk_that_cannot_be_noted_fails),
    TEST (cancelled_while_the_data_are_written),
    TEST (cancelled_while_the_data_are_synced),
    TEST (cancelled_while_the_index_is_written),
    TEST (cancelled_while_the_index_is_synced),
    TEST (stop_ends_the_round_and_all_that_waits),
    TEST (sweep_writes_every_bit),
    TEST (sweep_of_several_parts),
    TEST (sweep_of_nothing),
    TEST (sweep_that_just_waits_writes_nothing),
    TEST (sweep_waits_for_what_was_added_before),
    TEST (sweep_says_what_failed_and_goes_on),
    TEST (sweep_of_what_nobody_needs_is_cancelled),
    TEST (stop_ends_a_sweep),
    TEST (sweep_ends_under_constant_load),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
