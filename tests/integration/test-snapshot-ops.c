/* SPDX-License-Identifier: BSD-3-Clause */
/* A snapshot reads as the origin did, whatever is done to the origin, with
 * both engines, both durabilities and any chunk size.
 */

#include "fixture.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define SIZE ((2 << 20) + 777)
#define HOLE (LIBNBD_STATE_HOLE | LIBNBD_STATE_ZERO)

/* An image, a server on it, a connection to each view. */
struct views {
  const uint8_t *old; /* SIZE bytes: the image as it was */
  struct nbd_handle *origin, *snapshot;
};

static struct views
serve (struct fixture *f)
{
  struct views views = { .old = make_image (f, SIZE) };

  start (f, NULL);
  views.origin = connect_to (f, "");
  views.snapshot = connect_to (f, "snapshot");
  return views;
}

static void
write_some (struct fixture *f, struct views *views, uint64_t offset,
            size_t count, uint32_t flags)
{
  ok (nbd_pwrite (views->origin, pattern (f, 2, offset, count), count, offset,
                  flags));
}

static void
stays_after_an_aligned_write (void **state)
{
  struct fixture *f = *state;
  struct views views = serve (f);

  write_some (f, &views, 65536, 65536, 0);
  reads_as (views.snapshot, 0, views.old, SIZE);
}

static void
stays_after_unaligned_writes (void **state)
{
  struct fixture *f = *state;
  struct views views = serve (f);

  write_some (f, &views, 1, 1, 0);
  write_some (f, &views, 4095, 2, 0);
  write_some (f, &views, 65000, 70001, 0);
  reads_as (views.snapshot, 0, views.old, SIZE);
}

static void
stays_after_a_write_of_the_last_byte (void **state)
{
  struct fixture *f = *state;
  struct views views = serve (f);

  write_some (f, &views, SIZE - 1, 1, 0);
  reads_as (views.snapshot, 0, views.old, SIZE);
}

static void
stays_after_a_write_of_everything (void **state)
{
  struct fixture *f = *state;
  struct views views = serve (f);

  write_some (f, &views, 0, SIZE, 0);
  reads_as (views.snapshot, 0, views.old, SIZE);
  reads_as (views.origin, 0, pattern (f, 2, 0, SIZE), SIZE);
}

static void
stays_after_a_second_write (void **state)
{
  struct fixture *f = *state;
  struct views views = serve (f);

  for (unsigned i = 0; i < 3; i++)
    ok (nbd_pwrite (views.origin, pattern (f, 2 + i, 0, 300000), 300000, 70000,
                    0));
  reads_as (views.snapshot, 0, views.old, SIZE);
}

static void
stays_after_a_write_with_fua (void **state)
{
  struct fixture *f = *state;
  struct views views = serve (f);

  write_some (f, &views, 12345, 54321, LIBNBD_CMD_FLAG_FUA);
  reads_as (views.snapshot, 0, views.old, SIZE);
}

static void
stays_after_zeroes (void **state)
{
  struct fixture *f = *state;
  struct views views = serve (f);

  ok (nbd_zero (views.origin, 200000, 5000, 0));
  ok (nbd_zero (views.origin, 8192, 1 << 20, LIBNBD_CMD_FLAG_NO_HOLE));
  ok (nbd_zero (views.origin, 8192, 2 << 19, LIBNBD_CMD_FLAG_FAST_ZERO));
  reads_as (views.snapshot, 0, views.old, SIZE);
}

static void
stays_after_a_trim (void **state)
{
  struct fixture *f = *state;
  struct views views = serve (f);

  ok (nbd_trim (views.origin, SIZE, 0, 0));
  reads_as (views.snapshot, 0, views.old, SIZE);
}

static void
stays_after_a_write_and_a_trim (void **state)
{
  struct fixture *f = *state;
  struct views views = serve (f);

  write_some (f, &views, 100000, 300000, 0);
  ok (nbd_trim (views.origin, SIZE, 0, LIBNBD_CMD_FLAG_FUA));
  reads_as (views.snapshot, 0, views.old, SIZE);
}

/* What is all zeros is kept as a hole, and is still zeros. */
static void
stays_where_it_was_zeros (void **state)
{
  struct fixture *f = *state;
  uint8_t *old = make_image (f, SIZE);
  const int fd = open (f->image, O_WRONLY | O_CLOEXEC);

  memset (old + 100000, 0, 400000);
  assert_int_equal (pwrite (fd, old, SIZE, 0), SIZE);
  close (fd);
  start (f, NULL);
  struct nbd_handle *origin = connect_to (f, "");
  ok (nbd_pwrite (origin, pattern (f, 2, 0, SIZE), SIZE, 0, 0));
  reads_as (connect_to (f, "snapshot"), 0, old, SIZE);
}

static void
stays_through_many_changes (void **state)
{
  struct fixture *f = *state;
  struct views views = serve (f);
  const uint8_t *new = pattern (f, 3, 0, 70000);
  uint8_t *live = scratch (f, SIZE);
  unsigned seed = 4711;

  memcpy (live, views.old, SIZE);
  for (unsigned i = 0; i < 300; i++) {
    const uint64_t offset = (unsigned)rand_r (&seed) % SIZE;
    uint64_t count = 1 + (unsigned)rand_r (&seed) % (i % 10 ? 5000 : 70000);
    if (count > SIZE - offset)
      count = SIZE - offset;
    if (i % 5 == 0) {
      ok (nbd_zero (views.origin, count, offset, 0));
      memset (live + offset, 0, count);
    }
    else {
      ok (nbd_pwrite (views.origin, new, count, offset, 0));
      memcpy (live + offset, new, count);
    }
    if (i % 50 == 0)
      reads_as (views.snapshot, 0, views.old, SIZE);
  }
  reads_as (views.snapshot, 0, views.old, SIZE);
  reads_as (views.origin, 0, live, SIZE);
}

static void
parts_read_as_the_whole (void **state)
{
  static const uint64_t offsets[] = { 0, 1, 511, 4095, 65535, 65537, 1 << 20 };
  struct fixture *f = *state;
  struct views views = serve (f);

  write_some (f, &views, 60000, 10000, 0);
  write_some (f, &views, (1 << 20) - 1, 2, 0);
  for (unsigned i = 0; i < sizeof offsets / sizeof *offsets; i++) {
    reads_as (views.snapshot, offsets[i], views.old + offsets[i], 1);
    reads_as (views.snapshot, offsets[i], views.old + offsets[i], 70000);
  }
  reads_as (views.snapshot, SIZE - 1, views.old + SIZE - 1, 1);
}

static void
all_connections_read_the_same (void **state)
{
  struct fixture *f = *state;
  struct views views = serve (f);
  struct nbd_handle *more[6];

  for (unsigned i = 0; i < 6; i++)
    more[i] = connect_to (f, i % 2 ? "snapshot" : "snapshot/1");
  write_some (f, &views, 0, 500000, 0);
  for (unsigned i = 0; i < 6; i++)
    reads_as (more[i], 0, views.old, SIZE);
}

static void
cache_changes_nothing (void **state)
{
  struct fixture *f = *state;
  struct views views = serve (f);

  write_some (f, &views, 100000, 300000, 0);
  ok (nbd_cache (views.snapshot, 1000000, 4095, 0));
  reads_as (views.snapshot, 0, views.old, SIZE);
}

/* Block status. */

static void
make_sparse (struct fixture *f, uint8_t *content)
{
  const int fd = open (f->image, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

  memset (content, 0, 4 << 20);
  memcpy (content, pattern (f, 1, 0, 1 << 20), 1 << 20);
  memcpy (content + (2 << 20), pattern (f, 1, 0, 1 << 20), 1 << 20);
  assert_int_equal (ftruncate (fd, 4 << 20), 0);
  assert_int_equal (pwrite (fd, content, 1 << 20, 0), 1 << 20);
  assert_int_equal (pwrite (fd, content + (2 << 20), 1 << 20, 2 << 20),
                    1 << 20);
  close (fd);
}

static const struct extent sparse[] = {
  { 0, 1 << 20, 0 },
  { 1 << 20, 1 << 20, HOLE },
  { 2 << 20, 1 << 20, 0 },
  { 3 << 20, 1 << 20, HOLE },
};

static void
assert_sparse (struct nbd_handle *nbd)
{
  struct extent extents[8];

  assert_int_equal (extents_of (nbd, 0, 4 << 20, extents, 8), 4);
  for (unsigned i = 0; i < 4; i++) {
    assert_int_equal (extents[i].offset, sparse[i].offset);
    assert_int_equal (extents[i].length, sparse[i].length);
    assert_int_equal (extents[i].flags, sparse[i].flags);
  }
}

static void
holes_of_the_origin_are_holes (void **state)
{
  struct fixture *f = *state;

  make_sparse (f, scratch (f, 4 << 20));
  start (f, NULL);
  assert_sparse (connect_to (f, "snapshot"));
}

/* Data that were copied are data, holes that were overwritten holes. */
static void
holes_stay_holes_when_overwritten (void **state)
{
  struct fixture *f = *state;
  uint8_t *old = scratch (f, 4 << 20);

  make_sparse (f, old);
  start (f, NULL);
  struct nbd_handle *snapshot = connect_to (f, "snapshot");
  ok (nbd_pwrite (connect_to (f, ""), pattern (f, 2, 0, 4 << 20), 4 << 20, 0,
                  0));
  assert_sparse (snapshot);
  reads_as (snapshot, 0, old, 4 << 20);
}

/* Data that the origin gave up are still data in the snapshot. */
static void
data_stay_data_when_zeroed (void **state)
{
  struct fixture *f = *state;
  uint8_t *old = scratch (f, 4 << 20);

  make_sparse (f, old);
  start (f, NULL);
  struct nbd_handle *origin = connect_to (f, "");
  ok (nbd_zero (origin, 4 << 20, 0, 0));
  ok (nbd_trim (origin, 4 << 20, 0, 0));
  struct nbd_handle *snapshot = connect_to (f, "snapshot");
  assert_sparse (snapshot);
  reads_as (snapshot, 0, old, 4 << 20);
}

/* Zeros that took space on the origin take none as a copy. */
static void
copied_zeros_become_a_hole (void **state)
{
  struct fixture *f = *state;
  struct extent extents[4];
  const uint8_t *zeros = scratch (f, 4 << 20);
  const int fd = open (f->image, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

  assert_int_equal (pwrite (fd, zeros, 4 << 20, 0), 4 << 20);
  close (fd);
  start (f, NULL);
  struct nbd_handle *snapshot = connect_to (f, "snapshot");
  assert_int_equal (extents_of (snapshot, 0, 4 << 20, extents, 4), 1);
  assert_int_equal (extents[0].flags, 0);
  ok (nbd_pwrite (connect_to (f, ""), pattern (f, 2, 0, 4 << 20), 4 << 20, 0,
                  0));
  assert_int_equal (extents_of (snapshot, 0, 4 << 20, extents, 4), 1);
  assert_int_equal (extents[0].flags, HOLE);
  reads_as (snapshot, 0, zeros, 4 << 20);
}

static void
block_status_of_a_part (void **state)
{
  struct fixture *f = *state;
  struct extent extents[4];

  make_sparse (f, scratch (f, 4 << 20));
  start (f, NULL);
  /* A whole page: it becomes data on the origin as a whole. */
  ok (nbd_pwrite (connect_to (f, ""), pattern (f, 2, 0, 4096), 4096, 1 << 20,
                  0));
  struct nbd_handle *snapshot = connect_to (f, "snapshot");
  assert_int_equal (
      extents_of (snapshot, (1 << 20) - 1, (1 << 20) + 2, extents, 4), 3);
  assert_int_equal (extents[0].length, 1);
  assert_int_equal (extents[0].flags, 0);
  assert_int_equal (extents[1].length, 1 << 20);
  assert_int_equal (extents[1].flags, HOLE);
  assert_int_equal (extents[2].length, 1);
  assert_int_equal (extents[2].flags, 0);
}

int
main (void)
{
  static const struct variant variants[] = {
    { .name = "default" },
    { .name = "sync", .parameters = { "io=sync" } },
    { .name = "uring, written",
      .parameters = { "io=uring", "durability=written" } },
    { .name = "sync, written, 512",
      .parameters = { "io=sync", "durability=written", "chunksize=512" } },
    { .name = "uring, 512", .parameters = { "io=uring", "chunksize=512" } },
    { .name = "64k, written",
      .parameters = { "chunksize=64k", "durability=written" } },
    { .name = "1M", .parameters = { "chunksize=1M", "max-memory=16M" } },
    { .name = "break-write", .parameters = { "on-error=break-write" } },
    { .name = "parts", .parameters = { "backfile-size=300k", "chunksize=4k" } },
    { .name = "1M of memory",
      .parameters = { "max-memory=1M", "chunksize=64k" } },
    { .name = "/tmp",
      .parameters = { "backing-store=/tmp" },
      .directory = "/tmp" },
  };
  const struct CMUnitTest tests[] = {
    fixture_test (stays_after_an_aligned_write),
    fixture_test (stays_after_unaligned_writes),
    fixture_test (stays_after_a_write_of_the_last_byte),
    fixture_test (stays_after_a_write_of_everything),
    fixture_test (stays_after_a_second_write),
    fixture_test (stays_after_a_write_with_fua),
    fixture_test (stays_after_zeroes),
    fixture_test (stays_after_a_trim),
    fixture_test (stays_after_a_write_and_a_trim),
    fixture_test (stays_where_it_was_zeros),
    fixture_test (stays_through_many_changes),
    fixture_test (parts_read_as_the_whole),
    fixture_test (all_connections_read_the_same),
    fixture_test (cache_changes_nothing),
    fixture_test (holes_of_the_origin_are_holes),
    fixture_test (holes_stay_holes_when_overwritten),
    fixture_test (data_stay_data_when_zeroed),
    fixture_test (copied_zeros_become_a_hole),
    fixture_test (block_status_of_a_part),
  };

  return RUN_VARIANTS ("snapshot-ops", tests, variants);
}
