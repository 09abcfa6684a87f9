/* SPDX-License-Identifier: BSD-3-Clause */
/* An origin with bad sectors: an image on a file system that fails on
 * command.
 */

#include "faultfs.h"
#include "fixture.h"

#include <errno.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define SIZE (1 << 20)
#define CHUNK 4096

/* The chunk that cannot be read. */
#define BAD 67

struct views {
  uint8_t *old, *live; /* SIZE bytes: the image as it was, and should be */
  struct nbd_handle *origin, *snapshot;
};

static struct views
serve (struct fixture *f, const char *more)
{
  struct views views = { .live = scratch (f, SIZE) };
  const char *directory = text (f, "%s/disk", f->server.dir);

  assert_int_equal (mkdir (directory, 0700), 0);
  f->faults = faultfs_mount (directory);
  assert_non_null (f->faults);
  snprintf (f->image, sizeof f->image, "%s/image", directory);
  views.old = make_image (f, SIZE);
  memcpy (views.live, views.old, SIZE);
  start (f, text (f, "backing-store=%s", f->server.dir), more, NULL);
  views.origin = connect_to (f, "");
  views.snapshot = connect_to (f, "snapshot");
  return views;
}

static void
go_bad (struct fixture *f)
{
  faultfs_set (f->faults, FAULTFS_READ,
               (struct faultfs_rule){ .fault = FAULTFS_FAIL,
                                      .error = EIO,
                                      .offset = BAD * CHUNK,
                                      .length = CHUNK });
}

static void
go_good (struct fixture *f)
{
  faultfs_set (f->faults, FAULTFS_READ, (struct faultfs_rule){ 0 });
}

static void
write_ok (struct fixture *f, struct views *views, unsigned seed,
          uint64_t offset, size_t count)
{
  memcpy (views->live + offset, pattern (f, seed, offset, count), count);
  ok (nbd_pwrite (views->origin, views->live + offset, count, offset, 0));
}

/* All but the bad chunk reads as it was; that one fails. */
static void
assert_one_chunk_lost (struct views *views)
{
  uint8_t buf[CHUNK];

  reads_as (views->snapshot, 0, views->old, BAD * CHUNK);
  reads_as (views->snapshot, (BAD + 1) * CHUNK, views->old + (BAD + 1) * CHUNK,
            SIZE - (BAD + 1) * CHUNK);
  fails (nbd_pread (views->snapshot, buf, 1, BAD * CHUNK, 0), EIO);
  fails (nbd_pread (views->snapshot, buf, 1, BAD * CHUNK + CHUNK - 1, 0), EIO);
  fails (nbd_pread (views->snapshot, buf, CHUNK, BAD * CHUNK - 100, 0), EIO);
}

static void
unreadable_chunk_is_lost_alone (void **state)
{
  struct fixture *f = *state;
  struct views views = serve (f, NULL);

  go_bad (f);
  write_ok (f, &views, 2, (BAD - 2) * CHUNK, 5 * CHUNK);
  assert_one_chunk_lost (&views);
  assert_int_equal (
      server_logged (
          &f->server,
          "old content of 4096 bytes at offset 274432 cannot be read: Input"),
      1);
  assert_int_equal (server_logged (&f->server, "is broken"), 0);
  /* never what came later, also when that can be read */
  go_good (f);
  write_ok (f, &views, 3, 0, SIZE);
  assert_one_chunk_lost (&views);
  reads_as (views.origin, 0, views.live, SIZE);
}

static void
unreadable_chunk_is_lost_to_a_part_of_a_write (void **state)
{
  struct fixture *f = *state;
  struct views views = serve (f, NULL);

  go_bad (f);
  write_ok (f, &views, 2, BAD * CHUNK + 100, 1);
  go_good (f);
  assert_one_chunk_lost (&views);
  reads_as (views.origin, 0, views.live, SIZE);
}

static void
unreadable_chunk_is_lost_to_zeroes (void **state)
{
  struct fixture *f = *state;
  struct views views = serve (f, NULL);

  go_bad (f);
  ok (nbd_zero (views.origin, SIZE, 0, 0));
  go_good (f);
  memset (views.live, 0, SIZE);
  assert_one_chunk_lost (&views);
  reads_as (views.origin, 0, views.live, SIZE);
}

/* Block status must not call it a hole, which would read as zeros. */
static void
lost_chunk_is_not_a_hole (void **state)
{
  struct fixture *f = *state;
  struct views views = serve (f, NULL);
  struct extent extents[8];

  go_bad (f);
  write_ok (f, &views, 2, (BAD - 2) * CHUNK, 5 * CHUNK);
  const unsigned n
      = extents_of (views.snapshot, BAD * CHUNK, CHUNK, extents, 8);
  for (unsigned i = 0; i < n; i++)
    assert_int_equal (extents[i].flags, 0);
}

static void
trim_of_an_unreadable_chunk_loses_nothing (void **state)
{
  struct fixture *f = *state;
  struct views views = serve (f, NULL);

  go_bad (f);
  ok (nbd_trim (views.origin, SIZE, 0, 0));
  go_good (f);
  reads_as (views.snapshot, 0, views.old, SIZE);
}

static void
unreadable_chunk_fails_the_write (void **state)
{
  struct fixture *f = *state;
  struct views views = serve (f, "on-error=break-write");
  const uint8_t *new = pattern (f, 2, 0, SIZE);

  go_bad (f);
  fails (nbd_pwrite (views.origin, new, 5 * CHUNK, (BAD - 2) * CHUNK, 0), EIO);
  fails (nbd_pwrite (views.origin, new, 1, BAD * CHUNK + 5, 0), EIO);
  fails (nbd_zero (views.origin, SIZE, 0, 0), EIO);
  assert_true (server_logged (&f->server, "at offset 274432 cannot be read")
               >= 1);
  /* others are not concerned */
  write_ok (f, &views, 3, 0, 10 * CHUNK);
  write_ok (f, &views, 3, (BAD + 1) * CHUNK, CHUNK);
  go_good (f);
  file_is (f->image, 0, views.live, SIZE);
  reads_as (views.origin, 0, views.live, SIZE);
  reads_as (views.snapshot, 0, views.old, SIZE);
  write_ok (f, &views, 4, 0, SIZE);
  reads_as (views.snapshot, 0, views.old, SIZE);
}

/* A reader of what was not copied yet sees the origin's trouble. */
static void
read_error_passes (void **state)
{
  struct fixture *f = *state;
  struct views views = serve (f, NULL);
  uint8_t byte;

  go_bad (f);
  fails (nbd_pread (views.snapshot, &byte, 1, BAD * CHUNK, 0), EIO);
  fails (nbd_pread (views.origin, &byte, 1, BAD * CHUNK, 0), EIO);
  assert_true (server_logged (&f->server, "Input/output error") >= 2);
  go_good (f);
  reads_as (views.snapshot, 0, views.old, SIZE);
  reads_as (views.origin, 0, views.old, SIZE);
}

static void
write_error_is_the_clients (void **state)
{
  struct fixture *f = *state;
  struct views views = serve (f, NULL);

  faultfs_set (
      f->faults, FAULTFS_WRITE,
      (struct faultfs_rule){ .fault = FAULTFS_FAIL, .error = EIO, .times = 1 });
  fails (nbd_pwrite (views.origin, "x", 1, 5, 0), EIO);
  assert_int_equal (server_logged (&f->server, "write of 1 bytes at 5: Input"),
                    1);
  reads_as (views.snapshot, 0, views.old, SIZE);
  write_ok (f, &views, 2, 0, SIZE);
  reads_as (views.snapshot, 0, views.old, SIZE);
  reads_as (views.origin, 0, views.live, SIZE);
}

/* EINVAL would say that the client was wrong. */
static void
odd_errno_becomes_eio (void **state)
{
  struct fixture *f = *state;
  struct views views = serve (f, NULL);

  faultfs_set (f->faults, FAULTFS_WRITE,
               (struct faultfs_rule){
                   .fault = FAULTFS_FAIL, .error = EXDEV, .times = 1 });
  fails (nbd_pwrite (views.origin, "x", 1, 5, 0), EIO);
  assert_int_equal (
      server_logged (&f->server, "write of 1 bytes at 5: Invalid cross-device"),
      1);
}

static void
full_origin_is_the_clients (void **state)
{
  struct fixture *f = *state;
  struct views views = serve (f, NULL);

  faultfs_set (f->faults, FAULTFS_WRITE,
               (struct faultfs_rule){
                   .fault = FAULTFS_FAIL, .error = ENOSPC, .times = 1 });
  fails (nbd_pwrite (views.origin, "x", 1, 5, 0), ENOSPC);
  reads_as (views.snapshot, 0, views.old, SIZE);
  assert_int_equal (server_logged (&f->server, "is broken"), 0);
}

static void
short_reads_and_writes_go_on (void **state)
{
  const struct faultfs_rule rule = { .fault = FAULTFS_SHORT, .amount = 1000 };
  struct fixture *f = *state;
  struct views views = serve (f, NULL);

  faultfs_set (f->faults, FAULTFS_READ, rule);
  faultfs_set (f->faults, FAULTFS_WRITE, rule);
  write_ok (f, &views, 2, 12345, 500000);
  reads_as (views.snapshot, 0, views.old, SIZE);
  reads_as (views.origin, 0, views.live, SIZE);
}

/* An image that ends before its size, behind the server's back: what is
 * gone is an error, and no zeros.
 */
static void
truncated_image_reads_as_errors (void **state)
{
  struct fixture *f = *state;
  struct views views = serve (f, NULL);
  uint8_t byte;

  assert_int_equal (truncate (f->image, SIZE / 2), 0);
  fails (nbd_pread (views.snapshot, &byte, 1, SIZE / 2, 0), EIO);
  fails (nbd_pread (views.origin, &byte, 1, SIZE - 1, 0), EIO);
  reads_as (views.snapshot, 0, views.old, SIZE / 2);
}

static void
unwritable_image_is_served_read_only (void **state)
{
  struct fixture *f = *state;
  const uint8_t *old;

  snprintf (f->mount, sizeof f->mount, "%s/disk", f->server.dir);
  assert_int_equal (mkdir (f->mount, 0700), 0);
  assert_int_equal (mount ("fssnap-test", f->mount, "tmpfs", 0, "size=4m"), 0);
  snprintf (f->image, sizeof f->image, "%s/image", f->mount);
  old = make_image (f, SIZE);
  assert_int_equal (mount (NULL, f->mount, NULL, MS_REMOUNT | MS_RDONLY, NULL),
                    0);
  start (f, text (f, "backing-store=%s", f->server.dir), NULL);
  struct nbd_handle *origin = connect_to (f, "");
  assert_int_equal (nbd_is_read_only (origin), 1);
  reads_as (origin, 0, old, SIZE);
  reads_as (connect_to (f, "snapshot"), 0, old, SIZE);
}

int
main (void)
{
  static const struct variant variants[] = {
    { .name = "uring", .parameters = { "io=uring" } },
    { .name = "uring, written",
      .parameters = { "io=uring", "durability=written" } },
    { .name = "sync, written",
      .parameters = { "io=sync", "durability=written" } },
  };
  const struct CMUnitTest tests[] = {
    fixture_test (unreadable_chunk_is_lost_alone),
    fixture_test (unreadable_chunk_is_lost_to_a_part_of_a_write),
    fixture_test (unreadable_chunk_is_lost_to_zeroes),
    fixture_test (lost_chunk_is_not_a_hole),
    fixture_test (trim_of_an_unreadable_chunk_loses_nothing),
    fixture_test (unreadable_chunk_fails_the_write),
    fixture_test (read_error_passes),
    fixture_test (write_error_is_the_clients),
    fixture_test (odd_errno_becomes_eio),
    fixture_test (full_origin_is_the_clients),
    fixture_test (short_reads_and_writes_go_on),
    fixture_test (truncated_image_reads_as_errors),
    fixture_test (unwritable_image_is_served_read_only),
  };

  if (!private_mounts () || access ("/dev/fuse", R_OK | W_OK) == -1)
    return 77;
  return RUN_VARIANTS ("errors-origin", tests, variants);
}
