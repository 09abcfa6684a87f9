/* SPDX-License-Identifier: BSD-3-Clause */
/* The error table of docs/architecture.md and src/cow.c, as far as the
 * backing store answers with errors: each caused for real, on a file system
 * that fails on command.
 */

#include "faultfs.h"
#include "fixture.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#define SIZE (1 << 20)
#define CHUNK 4096
/* The backing file's header comes before its data. */
#define HEADER 4096

struct views {
  uint8_t *old, *live; /* SIZE bytes: the image as it was, and should be */
  struct nbd_handle *origin, *snapshot;
};

/* Everything up, with the store on a file system of ours. */
static struct views
serve (struct fixture *f, const char *more)
{
  struct views views
      = { .old = make_image (f, SIZE), .live = scratch (f, SIZE) };

  memcpy (views.live, views.old, SIZE);
  const char *directory = text (f, "%s/store", f->server.dir);
  assert_int_equal (mkdir (directory, 0700), 0);
  f->faults = faultfs_mount (directory);
  assert_non_null (f->faults);
  start (f, text (f, "backing-store=%s", directory), more, NULL);
  views.origin = connect_to (f, "");
  views.snapshot = connect_to (f, "snapshot");
  return views;
}

static bool
written (const struct fixture *f)
{
  for (unsigned i = 0; f->variant->parameters[i] != NULL; i++)
    if (strcmp (f->variant->parameters[i], "durability=written") == 0)
      return true;
  return false;
}

static void
write_ok (struct fixture *f, struct views *views, unsigned seed,
          uint64_t offset, size_t count)
{
  memcpy (views->live + offset, pattern (f, seed, offset, count), count);
  ok (nbd_pwrite (views->origin, views->live + offset, count, offset, 0));
}

static void
write_fails (struct fixture *f, struct views *views, uint64_t offset,
             size_t count, int err)
{
  fails (nbd_pwrite (views->origin, pattern (f, 9, offset, count), count,
                     offset, 0),
         err);
}

static void
assert_exact (struct fixture *f, struct views *views)
{
  reads_as (views->snapshot, 0, views->old, SIZE);
  reads_as (views->origin, 0, views->live, SIZE);
  file_is (f->image, 0, views->live, SIZE);
}

/* The snapshot is broken, said so once, and the origin goes on. */
static void
assert_broken (struct fixture *f, struct views *views, const char *why)
{
  uint8_t byte;

  await_log (&f->server, "is broken and reads as errors", 10);
  assert_int_equal (server_logged (&f->server, "is broken and reads"), 1);
  assert_true (server_logged (&f->server, why) >= 1);
  fails (nbd_pread (views->snapshot, &byte, 1, 0, 0), EIO);
  fails (nbd_pread (views->snapshot, &byte, 1, SIZE - 1, 0), EIO);
  assert_non_null (strstr (description (f, "snapshot"), "BROKEN"));
  assert_non_null (strstr (description (f, "snapshot"), why));
  assert_null (strstr (description (f, ""), "BROKEN"));
  write_ok (f, views, 5, 0, SIZE);
  reads_as (views->origin, 0, views->live, SIZE);
  file_is (f->image, 0, views->live, SIZE);
}

/* Backing write fails: break-snapshot. */
static void
write_error_breaks_the_snapshot (struct fixture *f, int err)
{
  struct views views = serve (f, NULL);

  /* Else it might be the one that fails. */
  if (written (f))
    write_ok (f, &views, 2, 0, 10000);
  faultfs_set (f->faults, FAULTFS_WRITE,
               (struct faultfs_rule){ .fault = FAULTFS_FAIL, .error = err });
  write_ok (f, &views, 2, 100000, 50000);
  assert_broken (f, &views, strerror (err));
  /* which call, where and how much */
  assert_int_equal (
      server_logged (&f->server, "write of 53248 bytes at offset 98304"), 1);
}

static void
eio_breaks_the_snapshot (void **state)
{
  write_error_breaks_the_snapshot (*state, EIO);
}

static void
edquot_breaks_the_snapshot (void **state)
{
  write_error_breaks_the_snapshot (*state, EDQUOT);
}

static void
enospc_breaks_the_snapshot (void **state)
{
  write_error_breaks_the_snapshot (*state, ENOSPC);
}

/* No progress, and no error either. */
static void
write_of_nothing_breaks_the_snapshot (void **state)
{
  struct fixture *f = *state;
  struct views views = serve (f, NULL);

  faultfs_set (f->faults, FAULTFS_WRITE,
               (struct faultfs_rule){ .fault = FAULTFS_SHORT, .amount = 0 });
  write_ok (f, &views, 2, 100000, 50000);
  assert_broken (f, &views, strerror (EIO));
}

/* A snapshot that broke stays so: what it missed is gone for good. */
static void
broken_stays_broken (void **state)
{
  struct fixture *f = *state;
  struct views views = serve (f, NULL);
  uint8_t byte;

  faultfs_set (
      f->faults, FAULTFS_WRITE,
      (struct faultfs_rule){ .fault = FAULTFS_FAIL, .error = EIO, .times = 1 });
  write_ok (f, &views, 2, 100000, 5000);
  assert_broken (f, &views, strerror (EIO));
  write_ok (f, &views, 3, 0, SIZE);
  fails (nbd_pread (views.snapshot, &byte, 1, 0, 0), EIO);
  fails (nbd_pread (connect_to (f, "snapshot/1"), &byte, 1, 100000, 0), EIO);
  assert_int_equal (server_logged (&f->server, "is broken and reads"), 1);
}

/* What has a name loses it when the snapshot breaks. */
static void
broken_snapshot_gives_up_its_file (void **state)
{
  struct fixture *f = *state;
  const char *file = text (f, "%s/store/file", f->server.dir);
  struct views views
      = { .old = make_image (f, SIZE), .live = scratch (f, SIZE) };

  assert_int_equal (mkdir (text (f, "%s/store", f->server.dir), 0700), 0);
  f->faults = faultfs_mount (text (f, "%s/store", f->server.dir));
  assert_non_null (f->faults);
  start (f, text (f, "backing-store=%s", file), NULL);
  views.origin = connect_to (f, "");
  views.snapshot = connect_to (f, "snapshot");
  assert_int_equal (access (file, F_OK), 0);
  faultfs_set (f->faults, FAULTFS_WRITE,
               (struct faultfs_rule){ .fault = FAULTFS_FAIL, .error = EIO });
  write_ok (f, &views, 2, 0, SIZE);
  assert_broken (f, &views, strerror (EIO));
  stop (f);
  assert_int_equal (access (file, F_OK), -1);
}

/* Backing write fails: break-write. */
static void
write_error_fails_the_write (struct fixture *f, int err, int on_wire)
{
  struct views views = serve (f, "on-error=break-write");

  write_ok (f, &views, 2, 0, 10000);
  faultfs_set (f->faults, FAULTFS_WRITE,
               (struct faultfs_rule){ .fault = FAULTFS_FAIL, .error = err });
  write_fails (f, &views, 100000, 50000, on_wire);
  fails (nbd_zero (views.origin, 50000, 200000, 0), on_wire);
  assert_exact (f, &views);
  assert_int_equal (
      server_logged (&f->server, "write of 53248 bytes at offset 98304"), 1);
  assert_true (server_logged (&f->server, strerror (err)) >= 1);
  /* what was copied before can be written on */
  write_ok (f, &views, 3, 0, 10000);
  /* and when the store works again, so does all */
  faultfs_set (f->faults, FAULTFS_WRITE, (struct faultfs_rule){ 0 });
  write_ok (f, &views, 4, 100000, 50000);
  write_ok (f, &views, 4, 0, SIZE);
  assert_exact (f, &views);
  assert_int_equal (server_logged (&f->server, "is broken"), 0);
}

static void
eio_fails_the_write (void **state)
{
  write_error_fails_the_write (*state, EIO, EIO);
}

/* The wire has one errno for both. */
static void
edquot_fails_the_write (void **state)
{
  write_error_fails_the_write (*state, EDQUOT, ENOSPC);
}

static void
enospc_fails_the_write (void **state)
{
  write_error_fails_the_write (*state, ENOSPC, ENOSPC);
}

static void
odd_errno_fails_the_write_with_eio (void **state)
{
  write_error_fails_the_write (*state, EXDEV, EIO);
}

/* Only what cannot be kept fails, whatever it was merged with. */
static void
only_the_bad_chunk_fails (void **state)
{
  struct fixture *f = *state;
  struct views views = serve (f, "on-error=break-write");

  faultfs_set (f->faults, FAULTFS_WRITE,
               (struct faultfs_rule){ .fault = FAULTFS_FAIL,
                                      .error = EIO,
                                      .offset = HEADER + 5 * CHUNK,
                                      .length = CHUNK });
  for (unsigned i = 0; i < 16; i++)
    if (i == 5)
      write_fails (f, &views, i * CHUNK, CHUNK, EIO);
    else
      write_ok (f, &views, 2, i * CHUNK, CHUNK);
  assert_exact (f, &views);
}

/* A request that needs it fails, and changes nothing, not even in part. */
static void
write_over_a_bad_chunk_changes_nothing (void **state)
{
  struct fixture *f = *state;
  struct views views = serve (f, "on-error=break-write");

  faultfs_set (f->faults, FAULTFS_WRITE,
               (struct faultfs_rule){ .fault = FAULTFS_FAIL,
                                      .error = EIO,
                                      .offset = HEADER + 130 * CHUNK,
                                      .length = CHUNK });
  write_fails (f, &views, 0, SIZE, EIO);
  assert_exact (f, &views);
}

/* Faults that are to be got over. */
static void
survives (struct fixture *f, struct faultfs_rule rule)
{
  struct views views = serve (f, NULL);

  faultfs_set (f->faults, FAULTFS_WRITE, rule);
  for (unsigned i = 0; i < 8; i++)
    write_ok (f, &views, 2, i * 100001, 30000);
  assert_exact (f, &views);
  write_ok (f, &views, 3, 0, SIZE);
  faultfs_set (f->faults, FAULTFS_READ, rule);
  assert_exact (f, &views);
  assert_int_equal (server_logged (&f->server, "error"), 0);
}

static void
short_writes_and_reads_go_on (void **state)
{
  survives (*state,
            (struct faultfs_rule){ .fault = FAULTFS_SHORT, .amount = 1000 });
}

static void
interrupted_writes_and_reads_go_on (void **state)
{
  survives (*state, (struct faultfs_rule){
                        .fault = FAULTFS_FAIL, .error = EINTR, .times = 5 });
}

static void
eagain_on_writes_goes_again (void **state)
{
  struct fixture *f = *state;
  struct views views = serve (f, NULL);

  faultfs_set (f->faults, FAULTFS_WRITE,
               (struct faultfs_rule){
                   .fault = FAULTFS_FAIL, .error = EAGAIN, .times = 5 });
  write_ok (f, &views, 2, 0, SIZE);
  assert_exact (f, &views);
  assert_int_equal (server_logged (&f->server, "error"), 0);
}

/* Every write in turn is the one that fails. */
static void
each_write_in_turn_fails (void **state)
{
  struct fixture *f = *state;
  struct views views = serve (f, "on-error=break-write");

  for (unsigned i = 0; i < 8; i++) {
    const uint64_t offset = i * 32 * CHUNK;
    faultfs_set (
        f->faults, FAULTFS_WRITE,
        (struct faultfs_rule){
            .fault = FAULTFS_FAIL, .error = EIO, .skip = i % 3, .times = 1 });
    for (unsigned j = 0; j < 4; j++)
      if (j == i % 3)
        write_fails (f, &views, offset + j * 8 * CHUNK, CHUNK, EIO);
      else
        write_ok (f, &views, 2, offset + j * 8 * CHUNK, CHUNK);
    reads_as (views.snapshot, 0, views.old, SIZE);
  }
  assert_exact (f, &views);
}

/* Backing read fails. */
static void
read_error_is_the_readers_alone (void **state)
{
  struct fixture *f = *state;
  struct views views = serve (f, "durability=written");
  uint8_t buf[CHUNK];

  write_ok (f, &views, 2, 0, 64 * CHUNK);
  faultfs_set (f->faults, FAULTFS_READ,
               (struct faultfs_rule){ .fault = FAULTFS_FAIL,
                                      .error = EIO,
                                      .offset = HEADER + 3 * CHUNK,
                                      .length = CHUNK });
  fails (nbd_pread (views.snapshot, buf, CHUNK, 3 * CHUNK, 0), EIO);
  assert_int_equal (
      server_logged (&f->server, "read of 4096 bytes at 12288: Input/output"),
      1);
  reads_as (views.snapshot, 0, views.old, 3 * CHUNK);
  reads_as (views.snapshot, 4 * CHUNK, views.old + 4 * CHUNK, SIZE - 4 * CHUNK);
  /* the origin's clients do not notice */
  write_ok (f, &views, 3, 0, SIZE);
  reads_as (views.origin, 0, views.live, SIZE);
  assert_null (strstr (description (f, "snapshot"), "BROKEN"));
  /* and nothing of it stays */
  faultfs_set (f->faults, FAULTFS_READ, (struct faultfs_rule){ 0 });
  assert_exact (f, &views);
}

int
main (void)
{
  static const struct variant variants[] = {
    { .name = "uring, async", .parameters = { "io=uring" } },
    { .name = "sync, async", .parameters = { "io=sync" } },
    { .name = "uring, written",
      .parameters = { "io=uring", "durability=written" } },
    { .name = "sync, written",
      .parameters = { "io=sync", "durability=written" } },
  };
  /* break-write is written; once for each engine is enough. */
  const struct CMUnitTest breaking[] = {
    fixture_test (eio_breaks_the_snapshot),
    fixture_test (edquot_breaks_the_snapshot),
    fixture_test (enospc_breaks_the_snapshot),
    fixture_test (write_of_nothing_breaks_the_snapshot),
    fixture_test (broken_stays_broken),
    fixture_test (broken_snapshot_gives_up_its_file),
    fixture_test (short_writes_and_reads_go_on),
    fixture_test (interrupted_writes_and_reads_go_on),
    fixture_test (eagain_on_writes_goes_again),
    fixture_test (read_error_is_the_readers_alone),
  };
  static const struct variant engines[] = {
    { .name = "uring", .parameters = { "io=uring" } },
    { .name = "sync", .parameters = { "io=sync" } },
  };
  const struct CMUnitTest failing[] = {
    fixture_test (eio_fails_the_write),
    fixture_test (edquot_fails_the_write),
    fixture_test (enospc_fails_the_write),
    fixture_test (odd_errno_fails_the_write_with_eio),
    fixture_test (only_the_bad_chunk_fails),
    fixture_test (write_over_a_bad_chunk_changes_nothing),
    fixture_test (each_write_in_turn_fails),
  };

  if (!private_mounts () || access ("/dev/fuse", R_OK | W_OK) == -1)
    return 77;
  return RUN_VARIANTS ("errors-store, break-snapshot", breaking, variants)
         + RUN_VARIANTS ("errors-store, break-write", failing, engines);
}
