/* SPDX-License-Identifier: BSD-3-Clause */
/* A backing store that hangs, or is slow: how long the origin's clients
 * wait, what becomes of the snapshot, and how the server ends.
 */

#include "faultfs.h"
#include "fixture.h"

#include <errno.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define SIZE (8 << 20)

/* What a machine under load may add to a time-out, in seconds. */
#define SLACK 8

struct views {
  uint8_t *old, *live; /* SIZE bytes: the image as it was, and should be */
  struct nbd_handle *origin, *snapshot;
};

static const struct faultfs_rule hold = { .fault = FAULTFS_HOLD };

/* Everything up, with the store on a file system of ours. */
static struct views
serve (struct fixture *f, const char *a, const char *b)
{
  struct views views
      = { .old = make_image (f, SIZE), .live = scratch (f, SIZE) };

  memcpy (views.live, views.old, SIZE);
  const char *directory = text (f, "%s/store", f->server.dir);
  assert_int_equal (mkdir (directory, 0700), 0);
  f->faults = faultfs_mount (directory);
  assert_non_null (f->faults);
  start (f, text (f, "backing-store=%s", directory), a, b, NULL);
  views.origin = connect_to (f, "");
  views.snapshot = connect_to (f, "snapshot");
  return views;
}

static void
write_ok (struct fixture *f, struct views *views, unsigned seed,
          uint64_t offset, size_t count)
{
  memcpy (views->live + offset, pattern (f, seed, offset, count), count);
  ok (nbd_pwrite (views->origin, views->live + offset, count, offset, 0));
}

static void
assert_exact (struct fixture *f, struct views *views)
{
  reads_as (views->snapshot, 0, views->old, SIZE);
  reads_as (views->origin, 0, views->live, SIZE);
  file_is (f->image, 0, views->live, SIZE);
}

static void
assert_broken (struct fixture *f, struct views *views)
{
  uint8_t byte;

  assert_int_equal (server_logged (&f->server, "is broken and reads"), 1);
  assert_int_equal (server_logged (&f->server, "cow-timeout"), 1);
  fails (nbd_pread (views->snapshot, &byte, 1, 0, 0), EIO);
  assert_non_null (strstr (description (f, "snapshot"), "BROKEN"));
}

/* break-snapshot: the write comes through when the time is over, and then
 * nothing waits any more.
 */
static void
hang_breaks_the_snapshot (void **state)
{
  struct fixture *f = *state;
  struct views views = serve (f, "durability=written", "cow-timeout=1");

  faultfs_set (f->faults, FAULTFS_WRITE, hold);
  double began = now ();
  write_ok (f, &views, 2, 100000, 50000);
  assert_true (now () - began >= 0.9);
  assert_true (now () - began < 1 + SLACK);
  assert_broken (f, &views);
  began = now ();
  write_ok (f, &views, 3, 0, SIZE);
  assert_true (now () - began < SLACK);
  reads_as (views.origin, 0, views.live, SIZE);
  file_is (f->image, 0, views.live, SIZE);
}

/* The memory that holds what hangs is not waited for any more either. */
static void
hang_does_not_keep_memory_from_the_origin (void **state)
{
  struct fixture *f = *state;
  struct views views = serve (f, "max-memory=1M", "cow-timeout=1");

  faultfs_set (f->faults, FAULTFS_WRITE, hold);
  const double began = now ();
  write_ok (f, &views, 2, 0, SIZE);
  assert_true (now () - began >= 0.9);
  assert_true (now () - began < 1 + SLACK);
  assert_broken (f, &views);
  for (unsigned i = 0; i < 20; i++)
    write_ok (f, &views, 3, i * 300000, 300000);
  assert_true (now () - began < 1 + 2 * SLACK);
  reads_as (views.origin, 0, views.live, SIZE);
}

/* durability=async: what fits into memory does not wait. */
static void
async_writes_go_on_until_memory_is_full (void **state)
{
  struct fixture *f = *state;
  struct views views = serve (f, "max-memory=1M", "cow-timeout=1");

  faultfs_set (f->faults, FAULTFS_WRITE, hold);
  double began = now ();
  for (unsigned i = 0; i < 64; i++)
    write_ok (f, &views, 2, i * 8192, 4096);
  assert_int_equal (server_logged (&f->server, "broken"), 0);
  assert_exact (f, &views);
  const double unhindered = now () - began;
  began = now ();
  write_ok (f, &views, 3, 1 << 20, 4 << 20);
  assert_true (now () - began >= 0.9);
  assert_true (now () - began < 1 + SLACK);
  assert_true (unhindered < SLACK);
  assert_broken (f, &views);
}

/* What the store has not taken yet is read from memory, and is data. */
static void
copies_in_memory_read_as_data (void **state)
{
  struct fixture *f = *state;
  struct views views = serve (f, "cow-timeout=20", NULL);
  struct extent extents[4];

  faultfs_set (f->faults, FAULTFS_WRITE, hold);
  write_ok (f, &views, 2, 100000, 200000);
  ok (nbd_zero (views.origin, 100000, 400000, 0));
  memset (views.live + 400000, 0, 100000);
  assert_true (faultfs_await_held (f->faults, 1));
  assert_exact (f, &views);
  assert_int_equal (extents_of (views.snapshot, 0, SIZE, extents, 4), 1);
  assert_int_equal (extents[0].flags, 0);
  /* the same from the store */
  faultfs_release (f->faults);
  assert_exact (f, &views);
  assert_int_equal (extents_of (views.snapshot, 0, SIZE, extents, 4), 1);
  assert_int_equal (extents[0].flags, 0);
}

/* A hang that ends in time is no more than a delay. */
static void
hang_that_ends_in_time_does_no_harm (void **state)
{
  struct fixture *f = *state;
  struct views views = serve (f, "durability=written", "cow-timeout=60");

  faultfs_set (f->faults, FAULTFS_WRITE, hold);
  const uint8_t *new = pattern (f, 2, 50000, 100000);
  memcpy (views.live + 50000, new, 100000);
  const int64_t cookie = nbd_aio_pwrite (views.origin, new, 100000, 50000,
                                         NBD_NULL_COMPLETION, 0);
  ok (cookie);
  assert_true (faultfs_await_held (f->faults, 1));
  /* not written before the copy is */
  file_is (f->image, 0, views.old, SIZE);
  assert_int_equal (nbd_aio_command_completed (views.origin, (uint64_t)cookie),
                    0);
  reads_as (views.snapshot, 0, views.old, SIZE);
  faultfs_release (f->faults);
  while (nbd_aio_command_completed (views.origin, (uint64_t)cookie) == 0)
    ok (nbd_poll (views.origin, -1));
  assert_exact (f, &views);
}

/* break-write: it fails when the time is over; the snapshot is as it was,
 * while the store hangs and after.
 */
static void
hang_fails_the_write (void **state)
{
  struct fixture *f = *state;
  struct views views = serve (f, "on-error=break-write", "cow-timeout=1");
  const uint8_t *new = pattern (f, 2, 100000, 50000);

  write_ok (f, &views, 3, 1 << 20, 50000);
  faultfs_set (f->faults, FAULTFS_WRITE, hold);
  const double began = now ();
  fails (nbd_pwrite (views.origin, new, 50000, 100000, 0), EIO);
  assert_true (now () - began >= 0.9);
  assert_true (now () - began < 1 + SLACK);
  assert_int_equal (server_logged (&f->server, "cow-timeout"), 1);
  assert_exact (f, &views);
  /* what was copied before needs no store */
  write_ok (f, &views, 4, 1 << 20, 50000);
  /* others do, and the same chunks still do */
  fails (nbd_pwrite (views.origin, new, 1, 4 << 20, 0), EIO);
  fails (nbd_pwrite (views.origin, new, 1, 100000, 0), EIO);
  assert_exact (f, &views);
  faultfs_release (f->faults);
  assert_exact (f, &views);
  write_ok (f, &views, 5, 0, SIZE);
  assert_exact (f, &views);
  assert_int_equal (server_logged (&f->server, "is broken"), 0);
}

/* The same with all of the memory in the hands of the store. */
static void
hang_with_full_memory_fails_the_write (void **state)
{
  struct fixture *f = *state;
  struct views views = serve (f, "on-error=break-write", "cow-timeout=1");
  const uint8_t *new = pattern (f, 2, 0, SIZE);

  faultfs_set (f->faults, FAULTFS_WRITE, hold);
  fails (nbd_pwrite (views.origin, new, SIZE, 0, 0), EIO);
  assert_exact (f, &views);
  faultfs_release (f->faults);
  write_ok (f, &views, 5, 0, SIZE);
  assert_exact (f, &views);
}

/* A read of the store that hangs is its reader's alone. */
static void
hanging_read_does_not_hold_up_the_origin (void **state)
{
  struct fixture *f = *state;
  struct views views = serve (f, "durability=written", "cow-timeout=20");
  uint8_t buf[4096];

  write_ok (f, &views, 2, 0, 65536);
  faultfs_set (f->faults, FAULTFS_READ, hold);
  const int64_t cookie
      = nbd_aio_pread (views.snapshot, buf, 4096, 4096, NBD_NULL_COMPLETION, 0);
  ok (cookie);
  assert_true (faultfs_await_held (f->faults, 1));
  write_ok (f, &views, 3, 0, SIZE);
  reads_as (views.origin, 0, views.live, SIZE);
  faultfs_release (f->faults);
  while (nbd_aio_command_completed (views.snapshot, (uint64_t)cookie) == 0)
    ok (nbd_poll (views.snapshot, -1));
  assert_memory_equal (buf, views.old + 4096, 4096);
  assert_exact (f, &views);
}

/* How the server ends. */

static void
disconnect (struct fixture *f)
{
  while (f->handle_count > 0)
    nbd_close (f->handles[--f->handle_count]);
}

/* The store does not even take the request: a signal gets the server out. */
static void
server_ends_although_the_store_is_stopped (void **state)
{
  struct fixture *f = *state;
  struct views views = serve (f, "cow-timeout=1", NULL);

  kill (faultfs_pid (f->faults), SIGSTOP);
  write_ok (f, &views, 2, 100000, 50000);
  reads_as (views.origin, 0, views.live, SIZE);
  disconnect (f);
  const double began = now ();
  kill (f->server.pid, SIGTERM);
  assert_true (ends (f->server.pid, 1 + SLACK));
  print_message ("ended after %.1f s\n", now () - began);
  assert_int_equal (server_wait (&f->server), 0);
  kill (faultfs_pid (f->faults), SIGCONT);
}

/* The store has the request: the kernel lets nobody out before it answers,
 * but the server has done its part, and says so.
 */
static void
server_lets_go_of_a_store_that_hangs (void **state)
{
  struct fixture *f = *state;
  struct views views = serve (f, "cow-timeout=1", NULL);

  faultfs_set (f->faults, FAULTFS_WRITE, hold);
  write_ok (f, &views, 2, 100000, 50000);
  assert_true (faultfs_await_held (f->faults, 1));
  disconnect (f);
  const double began = now ();
  kill (f->server.pid, SIGTERM);
  await_log (&f->server, "the backing store hangs: ending without it",
             1 + SLACK);
  print_message ("let go after %.1f s\n", now () - began);
  const bool alone = ends (f->server.pid, 1);
  print_message ("%s\n", alone ? "ended by itself" : "ends with the store");
  faultfs_release (f->faults);
  assert_true (ends (f->server.pid, SLACK));
  assert_int_equal (server_wait (&f->server), 0);
}

/* A client that waits for the store is answered before the server ends. */
static void
server_ends_after_the_last_write_timed_out (void **state)
{
  struct fixture *f = *state;
  struct views views = serve (f, "durability=written", "cow-timeout=1");
  const uint8_t *new = pattern (f, 2, 0, 4096);

  faultfs_set (f->faults, FAULTFS_WRITE, hold);
  const int64_t cookie
      = nbd_aio_pwrite (views.origin, new, 4096, 0, NBD_NULL_COMPLETION, 0);
  ok (cookie);
  assert_true (faultfs_await_held (f->faults, 1));
  kill (f->server.pid, SIGTERM);
  int done;
  while ((done = nbd_aio_command_completed (views.origin, (uint64_t)cookie))
         == 0)
    ok (nbd_poll (views.origin, -1));
  ok (done);
  disconnect (f);
  faultfs_release (f->faults);
  assert_true (ends (f->server.pid, 1 + SLACK));
  assert_int_equal (server_wait (&f->server), 0);
  file_is (f->image, 0, new, 4096);
}

/* A slow store. */

/* In kB, from /proc. */
static long
peak_memory (struct fixture *f)
{
  char line[256];
  long peak = 0;
  FILE *status
      = fopen (text (f, "/proc/%ld/status", (long)f->server.pid), "re");

  assert_non_null (status);
  while (fgets (line, sizeof line, status) != NULL)
    if (sscanf (line, "VmHWM: %ld", &peak) == 1)
      break;
  fclose (status);
  return peak;
}

#define WRITERS 8
#define BIG (64 << 20)

/* Every writer has a part of the image, which it overwrites once. */
static void
overwrite (struct fixture *f, const uint8_t *new)
{
  struct nbd_handle *nbd[WRITERS];
  const uint64_t part = BIG / WRITERS;

  for (unsigned i = 0; i < WRITERS; i++)
    nbd[i] = connect_to (f, "");
  for (unsigned i = 0; i < WRITERS; i++)
    for (uint64_t at = 0; at < part; at += 65536)
      ok (nbd_aio_pwrite (nbd[i], new + i *part + at, 65536, i * part + at,
                          NBD_NULL_COMPLETION, 0));
  for (unsigned i = 0; i < WRITERS; i++)
    while (nbd_aio_in_flight (nbd[i]) > 0) {
      ok (nbd_poll (nbd[i], -1));
      int64_t cookie;
      while ((cookie = nbd_aio_peek_command_completed (nbd[i])) > 0)
        ok (nbd_aio_command_completed (nbd[i], (uint64_t)cookie));
    }
}

static void
memory_stays_within_its_limit (void **state)
{
  struct fixture *f = *state;
  const uint8_t *old = make_image (f, BIG);
  const uint8_t *new = pattern (f, 2, 0, BIG);

  assert_int_equal (mkdir (text (f, "%s/store", f->server.dir), 0700), 0);
  f->faults = faultfs_mount (text (f, "%s/store", f->server.dir));
  assert_non_null (f->faults);
  /* What the server needs for that many clients anyway. */
  start (f, "snapshot=no", NULL);
  overwrite (f, new);
  const long base = peak_memory (f);
  stop (f);

  FILE *image = fopen (f->image, "r+e");
  assert_int_equal (fwrite (old, 1, BIG, image), BIG);
  assert_int_equal (fclose (image), 0);
  faultfs_set (f->faults, FAULTFS_WRITE,
               (struct faultfs_rule){ .fault = FAULTFS_SLOW, .amount = 1000 });
  start (f, text (f, "backing-store=%s/store", f->server.dir), "max-memory=1M",
         "cow-timeout=100", NULL);
  overwrite (f, new);
  const long peak = peak_memory (f);
  print_message ("peak %ld kB, without a snapshot %ld kB\n", peak, base);
  reads_as (connect_to (f, "snapshot"), 0, old, BIG);
  reads_as (connect_to (f, ""), 0, new, BIG);
#ifndef __SANITIZE_ADDRESS__
  /* The limit, the threads' stacks, malloc's arenas; not the 64M. */
  assert_true (peak < base + (1 << 10) + (8 << 10));
#endif
}

int
main (void)
{
  static const struct variant variants[] = {
    { .name = "uring", .parameters = { "io=uring" } },
    { .name = "sync", .parameters = { "io=sync" } },
  };
  const struct CMUnitTest tests[] = {
    fixture_test (hang_breaks_the_snapshot),
    fixture_test (hang_does_not_keep_memory_from_the_origin),
    fixture_test (async_writes_go_on_until_memory_is_full),
    fixture_test (copies_in_memory_read_as_data),
    fixture_test (hang_that_ends_in_time_does_no_harm),
    fixture_test (hang_fails_the_write),
    fixture_test (hang_with_full_memory_fails_the_write),
    fixture_test (hanging_read_does_not_hold_up_the_origin),
    fixture_test (server_ends_although_the_store_is_stopped),
    fixture_test (server_lets_go_of_a_store_that_hangs),
    fixture_test (server_ends_after_the_last_write_timed_out),
    fixture_test (memory_stays_within_its_limit),
  };

  if (!private_mounts () || access ("/dev/fuse", R_OK | W_OK) == -1)
    return 77;
  return RUN_VARIANTS ("errors-hang", tests, variants);
}
