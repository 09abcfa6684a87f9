/* SPDX-License-Identifier: BSD-3-Clause */
/* Every operation on the origin does to the image what it says, with a
 * snapshot and on different file systems.
 */

#include "fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <linux/magic.h>
#include <unistd.h>

#define SIZE (1 << 20)
#define HOLE (LIBNBD_STATE_HOLE | LIBNBD_STATE_ZERO)

static uint64_t
blocks (const struct fixture *f)
{
  struct stat st;

  assert_int_equal (stat (f->image, &st), 0);
  return (uint64_t)st.st_blocks * 512;
}

/* Some writes, zeros and so on work on what has holes or not. */
static bool
on_tmpfs (const struct fixture *f)
{
  struct statfs st;

  assert_int_equal (statfs (f->server.dir, &st), 0);
  return st.f_type == TMPFS_MAGIC;
}

static void
reads_what_is_in_the_image (void **state)
{
  struct fixture *f = *state;
  const uint8_t *content = make_image (f, SIZE);

  start (f, NULL);
  struct nbd_handle *nbd = connect_to (f, "");
  reads_as (nbd, 0, content, SIZE);
  reads_as (nbd, 4095, content + 4095, 4098);
  reads_as (nbd, SIZE - 1, content + SIZE - 1, 1);
}

static void
writes_of_any_offset_and_length (void **state)
{
  static const struct {
    uint64_t offset;
    size_t count;
  } writes[] = {
    { 0, 1 },          { 1, 1 },
    { 511, 2 },        { 4095, 2 },
    { 4096, 4096 },    { 8191, 12290 },
    { 100000, 65537 }, { 262143, 262146 },
    { SIZE - 1, 1 },   { SIZE - 4097, 4097 },
  };
  struct fixture *f = *state;
  uint8_t *content = make_image (f, SIZE);

  start (f, NULL);
  struct nbd_handle *nbd = connect_to (f, "");
  for (unsigned i = 0; i < sizeof writes / sizeof *writes; i++) {
    const uint8_t *new = pattern (f, 2 + i, 0, writes[i].count);
    memcpy (content + writes[i].offset, new, writes[i].count);
    ok (nbd_pwrite (nbd, new, writes[i].count, writes[i].offset, 0));
  }
  reads_as (nbd, 0, content, SIZE);
  file_is (f->image, 0, content, SIZE);
}

static void
one_write_of_everything (void **state)
{
  struct fixture *f = *state;
  const uint64_t size = 33 << 20;

  make_image (f, size);
  start (f, "max-memory=1M", NULL);
  const uint8_t *new = pattern (f, 2, 0, size);
  ok (nbd_pwrite (connect_to (f, ""), new, size, 0, 0));
  file_is (f->image, 0, new, size);
}

static void
fua_write_reaches_the_image (void **state)
{
  struct fixture *f = *state;
  uint8_t *content = make_image (f, SIZE);

  start (f, NULL);
  memcpy (content + 777, pattern (f, 2, 0, 5555), 5555);
  ok (nbd_pwrite (connect_to (f, ""), content + 777, 5555, 777,
                  LIBNBD_CMD_FLAG_FUA));
  file_is (f->image, 0, content, SIZE);
}

static void
flush_succeeds (void **state)
{
  struct fixture *f = *state;
  uint8_t *content = make_image (f, SIZE);

  start (f, NULL);
  struct nbd_handle *nbd = connect_to (f, "");
  memset (content + 4096, 'x', 4096);
  ok (nbd_pwrite (nbd, content + 4096, 4096, 4096, 0));
  ok (nbd_flush (nbd, 0));
  file_is (f->image, 0, content, SIZE);
}

/* Without a snapshot nothing stands against giving it all back. */
static void
trim_without_a_snapshot_gives_space_back (void **state)
{
  struct fixture *f = *state;
  uint8_t *content = make_image (f, SIZE);

  start (f, "snapshot=no", NULL);
  const uint64_t before = blocks (f);
  ok (nbd_trim (connect_to (f, ""), 65536, 131072, 0));
  memset (content + 131072, 0, 65536);
  file_is (f->image, 0, content, SIZE);
  assert_int_equal (blocks (f), before - 65536);
}

static void
trim_of_copied_chunks_gives_space_back (void **state)
{
  struct fixture *f = *state;
  const uint8_t *content = make_image (f, SIZE);

  start (f, "durability=written", NULL);
  struct nbd_handle *nbd = connect_to (f, "");
  ok (nbd_pwrite (nbd, pattern (f, 2, 0, 65536), 65536, 131072, 0));
  const uint64_t before = blocks (f);
  ok (nbd_trim (nbd, 65536, 131072, 0));
  assert_int_equal (blocks (f), before - 65536);
  reads_as (connect_to (f, "snapshot"), 0, content, SIZE);
}

static void
trim_with_fua_succeeds (void **state)
{
  struct fixture *f = *state;

  make_image (f, SIZE);
  start (f, "snapshot=no", NULL);
  ok (nbd_trim (connect_to (f, ""), 8192, 8192, LIBNBD_CMD_FLAG_FUA));
}

/* A part of a page cannot be given back, and nothing beside may change. */
static void
unaligned_trim_leaves_the_neighbours (void **state)
{
  struct fixture *f = *state;
  const uint8_t *content = make_image (f, SIZE);

  start (f, "snapshot=no", NULL);
  struct nbd_handle *nbd = connect_to (f, "");
  ok (nbd_trim (nbd, 10000, 5001, 0));
  reads_as (nbd, 0, content, 5001);
  reads_as (nbd, 15001, content + 15001, SIZE - 15001);
}

static void
zeroes (struct fixture *f, uint32_t flags, bool hole)
{
  uint8_t *content = make_image (f, SIZE);

  start (f, NULL);
  struct nbd_handle *nbd = connect_to (f, "");
  const uint64_t before = blocks (f);
  ok (nbd_zero (nbd, 65536, 131072, flags));
  memset (content + 131072, 0, 65536);
  reads_as (nbd, 0, content, SIZE);
  file_is (f->image, 0, content, SIZE);
  assert_int_equal (blocks (f), hole ? before - 65536 : before);
}

static void
zero_makes_a_hole (void **state)
{
  zeroes (*state, 0, true);
}

static void
zero_with_no_hole_makes_none (void **state)
{
  zeroes (*state, LIBNBD_CMD_FLAG_NO_HOLE, false);
}

static void
zero_with_fua_reaches_the_image (void **state)
{
  zeroes (*state, LIBNBD_CMD_FLAG_FUA, true);
}

static void
fast_zero_makes_a_hole (void **state)
{
  zeroes (*state, LIBNBD_CMD_FLAG_FAST_ZERO, true);
}

/* tmpfs has no FALLOC_FL_ZERO_RANGE: slow is then refused, and whatever
 * was there stays; others have it.
 */
static void
fast_zero_with_no_hole_is_fast_or_refused (void **state)
{
  struct fixture *f = *state;
  uint8_t *content = make_image (f, SIZE);

  start (f, NULL);
  struct nbd_handle *nbd = connect_to (f, "");
  const int r = nbd_zero (nbd, 65536, 131072,
                          LIBNBD_CMD_FLAG_FAST_ZERO | LIBNBD_CMD_FLAG_NO_HOLE);
  if (on_tmpfs (f)) {
    assert_int_equal (r, -1);
    assert_int_equal (nbd_get_errno (), ENOTSUP);
  }
  else {
    assert_int_equal (r, 0);
    memset (content + 131072, 0, 65536);
  }
  reads_as (nbd, 0, content, SIZE);
}

/* What one request found out must not be lost on the next. */
static void
zero_works_after_a_refused_fast_zero (void **state)
{
  struct fixture *f = *state;
  uint8_t *content = make_image (f, SIZE);

  start (f, NULL);
  struct nbd_handle *nbd = connect_to (f, "");
  nbd_zero (nbd, 4096, 0, LIBNBD_CMD_FLAG_FAST_ZERO | LIBNBD_CMD_FLAG_NO_HOLE);
  ok (nbd_zero (nbd, 8192, 0, LIBNBD_CMD_FLAG_NO_HOLE));
  ok (nbd_zero (nbd, 8192, 16384, LIBNBD_CMD_FLAG_FAST_ZERO));
  memset (content, 0, 8192);
  memset (content + 16384, 0, 8192);
  reads_as (nbd, 0, content, SIZE);
}

static void
unaligned_zero_leaves_the_neighbours (void **state)
{
  struct fixture *f = *state;
  uint8_t *content = make_image (f, SIZE);

  start (f, NULL);
  struct nbd_handle *nbd = connect_to (f, "");
  ok (nbd_zero (nbd, 10001, 4095, 0));
  ok (nbd_zero (nbd, 3, 50001, LIBNBD_CMD_FLAG_NO_HOLE));
  memset (content + 4095, 0, 10001);
  memset (content + 50001, 0, 3);
  reads_as (nbd, 0, content, SIZE);
  file_is (f->image, 0, content, SIZE);
}

static void
cache_changes_nothing (void **state)
{
  struct fixture *f = *state;
  const uint8_t *content = make_image (f, SIZE);

  start (f, NULL);
  struct nbd_handle *nbd = connect_to (f, "");
  ok (nbd_cache (nbd, 100000, 4095, 0));
  ok (nbd_cache (nbd, SIZE, 0, 0));
  reads_as (nbd, 0, content, SIZE);
}

/* Data, a hole, data, and a hole to the end. */
static void
make_holes (struct fixture *f)
{
  const uint8_t *data = pattern (f, 1, 0, 65536);
  const int fd = open (f->image, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

  assert_int_equal (ftruncate (fd, SIZE), 0);
  assert_int_equal (pwrite (fd, data, 65536, 0), 65536);
  assert_int_equal (pwrite (fd, data, 65536, 196608), 65536);
  close (fd);
}

static void
block_status_shows_holes (void **state)
{
  static const struct extent expected[] = {
    { 0, 65536, 0 },
    { 65536, 131072, HOLE },
    { 196608, 65536, 0 },
    { 262144, SIZE - 262144, HOLE },
  };
  struct fixture *f = *state;
  struct extent extents[8];

  make_holes (f);
  start (f, NULL);
  assert_int_equal (extents_of (connect_to (f, ""), 0, SIZE, extents, 8), 4);
  assert_memory_equal (extents, expected, sizeof expected);
}

static void
block_status_of_a_part (void **state)
{
  static const struct extent expected[] = {
    { 65535, 1, 0 },
    { 65536, 131072, HOLE },
    { 196608, 1, 0 },
  };
  struct fixture *f = *state;
  struct extent extents[8];

  make_holes (f);
  start (f, NULL);
  assert_int_equal (extents_of (connect_to (f, ""), 65535, 131074, extents, 8),
                    3);
  for (unsigned i = 0; i < 3; i++)
    assert_memory_equal (&extents[i], &expected[i], sizeof *expected);
}

static void
block_status_follows_writes (void **state)
{
  static const struct extent expected[] = {
    { 0, 65536, 0 },      { 65536, 32768, HOLE },
    { 98304, 4096, 0 },   { 102400, 94208, HOLE },
    { 196608, 65536, 0 }, { 262144, SIZE - 262144, HOLE },
  };
  struct fixture *f = *state;
  struct extent extents[8];

  make_holes (f);
  start (f, NULL);
  struct nbd_handle *nbd = connect_to (f, "");
  ok (nbd_pwrite (nbd, pattern (f, 2, 0, 4096), 4096, 98304, 0));
  assert_int_equal (extents_of (nbd, 0, SIZE, extents, 8), 6);
  for (unsigned i = 0; i < 6; i++)
    assert_memory_equal (&extents[i], &expected[i], sizeof *expected);
}

struct first_extent {
  unsigned count;
  uint32_t length;
};

static int
see_first (void *opaque, const char *context, uint64_t offset,
           uint32_t *entries, size_t nr_entries, int *error)
{
  struct first_extent *first = opaque;

  (void)context;
  (void)offset;
  (void)error;
  first->count += (unsigned)nr_entries / 2;
  first->length = entries[0];
  return 0;
}

static void
block_status_of_one_extent (void **state)
{
  struct fixture *f = *state;
  struct first_extent first = { 0 };

  make_holes (f);
  start (f, NULL);
  ok (nbd_block_status (
      connect_to (f, ""), SIZE, 0,
      (nbd_extent_callback){ .callback = see_first, .user_data = &first },
      LIBNBD_CMD_FLAG_REQ_ONE));
  assert_int_equal (first.count, 1);
  assert_int_equal (first.length, 65536);
}

/* The whole of an image of any size, to its last byte. */
static void
serve_size (struct fixture *f, uint64_t size)
{
  const uint8_t *old = make_image (f, size);
  const uint8_t *new = pattern (f, 2, 0, size);
  uint8_t byte = 'x';

  start (f, NULL);
  struct nbd_handle *origin = connect_to (f, "");
  struct nbd_handle *snapshot = connect_to (f, "snapshot");
  assert_int_equal (nbd_get_size (origin), size);
  assert_int_equal (nbd_get_size (snapshot), size);
  ok (nbd_set_strict_mode (origin, 0));
  assert_int_equal (nbd_pwrite (origin, &byte, 1, size, 0), -1);
  if (size > 0) {
    reads_as (origin, size - 1, old + size - 1, 1);
    ok (nbd_pwrite (origin, new + size - 1, 1, size - 1, 0));
    reads_as (origin, size - 1, new + size - 1, 1);
    reads_as (snapshot, 0, old, size);
    ok (nbd_pwrite (origin, new, size, 0, 0));
    reads_as (origin, 0, new, size);
    reads_as (snapshot, 0, old, size);
    ok (nbd_zero (origin, size, 0, 0));
    ok (nbd_trim (origin, size, 0, 0));
    reads_as (snapshot, 0, old, size);
  }
  stop (f);
  struct stat st;
  assert_int_equal (stat (f->image, &st), 0);
  assert_int_equal (st.st_size, size);
}

static void
sizes_that_are_no_multiple_of_anything (void **state)
{
  static const uint64_t sizes[]
      = { 1, 511, 512, 513, 4095, 4096, 4097, 262143, 262145, SIZE + 7 };
  struct fixture *f = *state;

  for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++)
    serve_size (f, sizes[i]);
}

static void
empty_image (void **state)
{
  serve_size (*state, 0);
}

/* The last extent ends with the image. */
static void
block_status_to_the_last_byte (void **state)
{
  struct fixture *f = *state;
  struct extent extents[4];

  make_image (f, SIZE + 7);
  start (f, NULL);
  assert_int_equal (extents_of (connect_to (f, ""), 0, SIZE + 7, extents, 4),
                    1);
  assert_int_equal (extents[0].length, SIZE + 7);
  assert_int_equal (
      extents_of (connect_to (f, "snapshot"), SIZE, 7, extents, 4), 1);
}

static void
chunk_larger_than_the_origin (void **state)
{
  struct fixture *f = *state;
  const uint8_t *old = make_image (f, 10001);

  start (f, "chunksize=64M", "max-memory=256M", NULL);
  struct nbd_handle *nbd = connect_to (f, "");
  ok (nbd_pwrite (nbd, pattern (f, 2, 0, 10001), 10001, 0, 0));
  reads_as (connect_to (f, "snapshot"), 0, old, 10001);
}

static const char *
plugin (void)
{
  return getenv ("FSSNAP_PLUGIN");
}

static void
bare_argument_is_the_origin (void **state)
{
  struct fixture *f = *state;
  const uint8_t *content = make_image (f, SIZE);

  server_start (&f->server, (const char *const[]){ f->image, NULL });
  reads_as (connect_to (f, ""), 0, content, SIZE);
  assert_non_null (strstr (description (f, ""), f->image));
}

static void
relative_path_is_the_origin (void **state)
{
  struct fixture *f = *state;

  make_image (f, SIZE);
  assert_int_equal (chdir (f->server.dir), 0);
  server_start (&f->server, (const char *const[]){ "disk.img", NULL });
  connect_to (f, "");
  assert_int_equal (chdir ("/"), 0);
  assert_non_null (strstr (description (f, ""), f->image));
}

static void
image_in_use_is_refused (void **state)
{
  struct fixture *f = *state;

  make_image (f, SIZE);
  start (f, NULL);
  connect_to (f, "");
  refused (run_nbdkit (f, "-U", "-", plugin (), text (f, "origin=%s", f->image),
                       "--run", "true", NULL),
           f->image, "locked");
}

static void
image_is_free_again_after_the_end (void **state)
{
  struct fixture *f = *state;

  make_image (f, SIZE);
  start (f, NULL);
  connect_to (f, "");
  stop (f);
  const struct outcome *o
      = run_nbdkit (f, "-U", "-", plugin (), text (f, "origin=%s", f->image),
                    "--run", "true", NULL);
  assert_int_equal (o->status, 0);
}

static void
refuse_origin (struct fixture *f, const char *path, const char *why)
{
  refused (run_nbdkit (f, "-U", "-", plugin (), text (f, "origin=%s", path),
                       "--run", "true", NULL),
           text (f, "origin=%s", path), why);
}

static void
directory_is_refused (void **state)
{
  struct fixture *f = *state;

  refuse_origin (f, f->server.dir, "not a block device nor a regular file");
}

static void
missing_file_is_refused (void **state)
{
  struct fixture *f = *state;

  refuse_origin (f, text (f, "%s/missing", f->server.dir),
                 "No such file or directory");
}

static void
character_device_is_refused (void **state)
{
  refuse_origin (*state, "/dev/null", "not a block device nor a regular file");
}

/* Opening one for reading would wait for a writer. */
static void
fifo_is_refused (void **state)
{
  struct fixture *f = *state;
  const char *path = text (f, "%s/fifo", f->server.dir);

  assert_int_equal (mkfifo (path, 0600), 0);
  refuse_origin (f, path, "not a block device nor a regular file");
}

int
main (void)
{
  static const struct variant variants[] = {
    { .name = "tmpfs", .directory = "/dev/shm" },
    { .name = "/tmp", .directory = "/tmp" },
  };
  const struct CMUnitTest tests[] = {
    fixture_test (reads_what_is_in_the_image),
    fixture_test (writes_of_any_offset_and_length),
    fixture_test (one_write_of_everything),
    fixture_test (fua_write_reaches_the_image),
    fixture_test (flush_succeeds),
    fixture_test (trim_without_a_snapshot_gives_space_back),
    fixture_test (trim_of_copied_chunks_gives_space_back),
    fixture_test (trim_with_fua_succeeds),
    fixture_test (unaligned_trim_leaves_the_neighbours),
    fixture_test (zero_makes_a_hole),
    fixture_test (zero_with_no_hole_makes_none),
    fixture_test (zero_with_fua_reaches_the_image),
    fixture_test (fast_zero_makes_a_hole),
    fixture_test (fast_zero_with_no_hole_is_fast_or_refused),
    fixture_test (zero_works_after_a_refused_fast_zero),
    fixture_test (unaligned_zero_leaves_the_neighbours),
    fixture_test (cache_changes_nothing),
    fixture_test (block_status_shows_holes),
    fixture_test (block_status_of_a_part),
    fixture_test (block_status_follows_writes),
    fixture_test (block_status_of_one_extent),
    fixture_test (sizes_that_are_no_multiple_of_anything),
    fixture_test (empty_image),
    fixture_test (block_status_to_the_last_byte),
    fixture_test (chunk_larger_than_the_origin),
    fixture_test (bare_argument_is_the_origin),
    fixture_test (relative_path_is_the_origin),
    fixture_test (image_in_use_is_refused),
    fixture_test (image_is_free_again_after_the_end),
    fixture_test (directory_is_refused),
    fixture_test (missing_file_is_refused),
    fixture_test (character_device_is_refused),
    fixture_test (fifo_is_refused),
  };

  return RUN_VARIANTS ("origin-ops", tests, variants);
}
