/* SPDX-License-Identifier: BSD-3-Clause */
/* A backing store without room: a small tmpfs of our own, or maxsize. */

#include "fixture.h"

#include <errno.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#define SIZE (4 << 20)
#define CHUNK 4096
#define STEP 65536

struct views {
  uint8_t *old, *live; /* SIZE bytes: the image as it was, and should be */
  struct nbd_handle *origin, *snapshot;
};

static void
connect_views (struct fixture *f, struct views *views)
{
  views->origin = connect_to (f, "");
  views->snapshot = connect_to (f, "snapshot");
}

static struct views
make_views (struct fixture *f)
{
  struct views views
      = { .old = make_image (f, SIZE), .live = scratch (f, SIZE) };

  memcpy (views.live, views.old, SIZE);
  return views;
}

/* With a store that holds about a quarter of the image. */
static struct views
serve (struct fixture *f, const char *more)
{
  struct views views = make_views (f);

  snprintf (f->mount, sizeof f->mount, "%s/store", f->server.dir);
  assert_int_equal (mkdir (f->mount, 0700), 0);
  assert_int_equal (mount ("fssnap-test", f->mount, "tmpfs", 0, "size=1m"), 0);
  start (f, text (f, "backing-store=%s", f->mount), more, NULL);
  connect_views (f, &views);
  return views;
}

static uint64_t
free_blocks (const struct fixture *f)
{
  struct statvfs st;

  assert_int_equal (statvfs (f->mount, &st), 0);
  return st.f_bfree;
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

/* Overwrite piece by piece until a write fails with ERR; that one changed
 * nothing.  Returns its offset.
 */
static uint64_t
write_until_it_fails (struct fixture *f, struct views *views, int err)
{
  const uint8_t *new = pattern (f, 2, 0, SIZE);
  uint64_t offset;

  for (offset = 0; offset < SIZE; offset += STEP) {
    if (nbd_pwrite (views->origin, new + offset, STEP, offset, 0) == -1)
      break;
    memcpy (views->live + offset, new + offset, STEP);
  }
  if (offset == SIZE)
    fail_msg ("no write fails");
  assert_int_equal (nbd_get_errno (), err);
  assert_true (offset > 0);
  assert_exact (f, views);
  return offset;
}

static void
assert_broken (struct fixture *f, struct views *views, const char *why)
{
  uint8_t byte;

  await_log (&f->server, "is broken and reads as errors", 10);
  fails (nbd_pread (views->snapshot, &byte, 1, 0, 0), EIO);
  fails (nbd_pread (views->snapshot, &byte, 1, SIZE - 1, 0), EIO);
  assert_non_null (strstr (description (f, "snapshot"), "BROKEN"));
  assert_int_equal (server_logged (&f->server, "is broken and reads"), 1);
  assert_int_equal (server_logged (&f->server, why), 1);
  assert_int_equal (server_logged (&f->server, "at offset"), 1);
  write_ok (f, views, 4, 0, SIZE);
  reads_as (views->origin, 0, views->live, SIZE);
  file_is (f->image, 0, views->live, SIZE);
}

/* break-snapshot: all writes succeed, the snapshot gives its space back. */
static void
full_store_breaks_the_snapshot (struct fixture *f, const char *more)
{
  struct views views = serve (f, more);
  struct statvfs st;

  const uint64_t before = free_blocks (f);
  for (uint64_t offset = 0; offset < SIZE; offset += STEP)
    write_ok (f, &views, 2, offset, STEP);
  assert_broken (f, &views, "No space left on device");
  assert_int_equal (server_logged (&f->server, "write of"), 1);
  /* Nothing tells when it is done; it is on its way. */
  const double end = now () + 10;
  while (free_blocks (f) < before && now () < end)
    nanosleep (&(const struct timespec){ .tv_nsec = 1000000 }, NULL);
  assert_int_equal (statvfs (f->mount, &st), 0);
  assert_true (free_blocks (f) >= before);
  assert_true (free_blocks (f) >= st.f_blocks - 1);
}

static void
full_store_breaks_the_async_snapshot (void **state)
{
  full_store_breaks_the_snapshot (*state, "durability=async");
}

static void
full_store_breaks_the_written_snapshot (void **state)
{
  full_store_breaks_the_snapshot (*state, "durability=written");
}

static void
full_store_fails_the_write (void **state)
{
  struct fixture *f = *state;
  struct views views = serve (f, "on-error=break-write");

  const uint64_t offset = write_until_it_fails (f, &views, ENOSPC);
  assert_true (server_logged (&f->server, "No space left on device") >= 1);
  /* what was copied can be written on */
  write_ok (f, &views, 3, 0, offset);
  assert_exact (f, &views);
  /* and so can everything, once there is room */
  assert_int_equal (mount (NULL, f->mount, NULL, MS_REMOUNT, "size=16m"), 0);
  write_ok (f, &views, 5, 0, SIZE);
  assert_exact (f, &views);
  assert_int_equal (server_logged (&f->server, "is broken"), 0);
}

/* Zeros take no space, so a full store does not stand in their way. */
static void
zeros_need_no_room (void **state)
{
  struct fixture *f = *state;
  struct views views
      = { .old = make_image (f, SIZE), .live = scratch (f, SIZE) };
  FILE *image = fopen (f->image, "r+e");

  memset (views.old + SIZE / 2, 0, SIZE / 2);
  memcpy (views.live, views.old, SIZE);
  assert_int_equal (fwrite (views.old, 1, SIZE, image), SIZE);
  assert_int_equal (fclose (image), 0);
  snprintf (f->mount, sizeof f->mount, "%s/store", f->server.dir);
  assert_int_equal (mkdir (f->mount, 0700), 0);
  assert_int_equal (mount ("fssnap-test", f->mount, "tmpfs", 0, "size=1m"), 0);
  start (f, text (f, "backing-store=%s", f->mount), "on-error=break-write",
         NULL);
  connect_views (f, &views);
  write_until_it_fails (f, &views, ENOSPC);
  write_ok (f, &views, 3, SIZE / 2, SIZE / 2);
  assert_exact (f, &views);
}

static void
server_does_not_start_on_a_full_store (void **state)
{
  struct fixture *f = *state;

  make_image (f, SIZE);
  snprintf (f->mount, sizeof f->mount, "%s/store", f->server.dir);
  assert_int_equal (mkdir (f->mount, 0700), 0);
  assert_int_equal (
      mount ("fssnap-test", f->mount, "tmpfs", 0, "size=4k,nr_inodes=9"), 0);
  FILE *filler = fopen (text (f, "%s/filler", f->mount), "we");
  assert_int_equal (fwrite (pattern (f, 1, 0, 4096), 1, 4096, filler), 4096);
  assert_int_equal (fclose (filler), 0);
  refused (run_nbdkit (f, "-U", "-", getenv ("FSSNAP_PLUGIN"),
                       text (f, "origin=%s", f->image),
                       text (f, "backing-store=%s", f->mount), "--run", "true",
                       NULL),
           text (f, "backing-store=%s", f->mount), "No space left on device");
  refused (run_nbdkit (f, "-U", "-", getenv ("FSSNAP_PLUGIN"),
                       text (f, "origin=%s", f->image),
                       text (f, "backing-store=%s/new", f->mount), "--run",
                       "true", NULL),
           text (f, "backing-store=%s/new", f->mount),
           "No space left on device");
  assert_int_equal (access (text (f, "%s/new", f->mount), F_OK), -1);
}

/* maxsize. */

static void
maxsize_breaks_the_snapshot (void **state)
{
  struct fixture *f = *state;
  struct views views = make_views (f);
  const char *file = text (f, "%s/back", f->server.dir);

  start (f, "maxsize=1M", text (f, "backing-store=%s", file), NULL);
  connect_views (f, &views);
  write_ok (f, &views, 2, 0, 1 << 20);
  assert_exact (f, &views);
  write_ok (f, &views, 3, 0, 1 << 20); /* copied already: costs nothing */
  assert_exact (f, &views);
  write_ok (f, &views, 2, 1 << 20, 1);
  assert_broken (f, &views, "maxsize");
  stop (f);
  assert_int_equal (access (file, F_OK), -1);
}

static void
maxsize_fails_the_write (void **state)
{
  struct fixture *f = *state;
  struct views views = make_views (f);

  start (f, "maxsize=1M", "on-error=break-write", NULL);
  connect_views (f, &views);
  assert_int_equal (write_until_it_fails (f, &views, ENOSPC), 1 << 20);
  fails (nbd_pwrite (views.origin, "x", 1, 2 << 20, 0), ENOSPC);
  fails (nbd_zero (views.origin, SIZE, 0, 0), ENOSPC);
  assert_exact (f, &views);
  write_ok (f, &views, 3, 0, 1 << 20);
  assert_exact (f, &views);
  assert_true (server_logged (&f->server, "maxsize") >= 1);
  assert_int_equal (server_logged (&f->server, "is broken"), 0);
}

/* A last chunk that is short counts with what it has. */
static void
maxsize_to_the_last_byte (void **state)
{
  struct fixture *f = *state;
  const uint8_t *old = make_image (f, CHUNK + 77);

  start (f, "maxsize=4173", "on-error=break-write", NULL);
  struct nbd_handle *nbd = connect_to (f, "");
  ok (nbd_pwrite (nbd, pattern (f, 2, 0, CHUNK + 77), CHUNK + 77, 0, 0));
  reads_as (connect_to (f, "snapshot"), 0, old, CHUNK + 77);
}

/* A trim that would need a copy is not done, and costs nothing. */
static void
trim_does_not_count (void **state)
{
  struct fixture *f = *state;
  struct views views = make_views (f);

  start (f, "maxsize=4k", "on-error=break-write", NULL);
  connect_views (f, &views);
  ok (nbd_trim (views.origin, SIZE, 0, 0));
  assert_exact (f, &views);
  write_ok (f, &views, 2, 0, CHUNK);
  assert_exact (f, &views);
}

/* No memory: no address space for a buffer of that size.  One thread, for a
 * server that starts more just then would die of it.
 */

#ifndef __SANITIZE_ADDRESS__
#define LARGE (64 << 20)

static void
limit_memory (struct fixture *f, bool limit)
{
  char line[256];
  unsigned long kb = 0;
  FILE *status
      = fopen (text (f, "/proc/%ld/status", (long)f->server.pid), "re");

  assert_non_null (status);
  while (fgets (line, sizeof line, status) != NULL)
    if (sscanf (line, "VmSize: %lu", &kb) == 1)
      break;
  fclose (status);
  assert_true (kb > 0);
  /* Some for what the server itself does, too little for a chunk. */
  const struct rlimit rlimit
      = { .rlim_cur = limit ? kb * 1024 + LARGE / 2 : RLIM_INFINITY,
          .rlim_max = RLIM_INFINITY };
  assert_int_equal (prlimit (f->server.pid, RLIMIT_AS, &rlimit, NULL), 0);
}

static void
no_memory_breaks_the_snapshot (void **state)
{
  struct fixture *f = *state;
  struct views views = make_views (f);

  assert_int_equal (truncate (f->image, LARGE + 5), 0);
  start (f, "-t1", "chunksize=64M", "max-memory=256M", NULL);
  connect_views (f, &views);
  assert_exact (f, &views);
  limit_memory (f, true);
  write_ok (f, &views, 2, 0, 4096);
  await_log (&f->server, "is broken and reads as errors", 10);
  assert_int_equal (server_logged (&f->server, "Cannot allocate memory"), 1);
  fails (nbd_pread (views.snapshot, scratch (f, 1), 1, 0, 0), EIO);
  reads_as (views.origin, 0, views.live, SIZE);
}

static void
no_memory_fails_the_write (void **state)
{
  struct fixture *f = *state;
  struct views views = make_views (f);

  assert_int_equal (truncate (f->image, LARGE + 5), 0);
  start (f, "-t1", "chunksize=64M", "max-memory=256M", "on-error=break-write",
         NULL);
  connect_views (f, &views);
  assert_exact (f, &views);
  limit_memory (f, true);
  fails (nbd_pwrite (views.origin, "x", 1, 0, 0), ENOMEM);
  assert_exact (f, &views);
  assert_true (server_logged (&f->server, "Cannot allocate memory") >= 1);
  limit_memory (f, false);
  write_ok (f, &views, 2, 0, 4096);
  assert_exact (f, &views);
}
#endif

int
main (void)
{
  static const struct variant variants[] = {
    { .name = "uring", .parameters = { "io=uring" } },
    { .name = "sync", .parameters = { "io=sync" } },
  };
  const struct CMUnitTest tests[] = {
    fixture_test (full_store_breaks_the_async_snapshot),
    fixture_test (full_store_breaks_the_written_snapshot),
    fixture_test (full_store_fails_the_write),
    fixture_test (zeros_need_no_room),
    fixture_test (server_does_not_start_on_a_full_store),
    fixture_test (maxsize_breaks_the_snapshot),
    fixture_test (maxsize_fails_the_write),
    fixture_test (maxsize_to_the_last_byte),
    fixture_test (trim_does_not_count),
#ifndef __SANITIZE_ADDRESS__
    fixture_test (no_memory_breaks_the_snapshot),
    fixture_test (no_memory_fails_the_write),
#endif
  };

  if (!private_mounts ())
    return 77;
  return RUN_VARIANTS ("errors-full", tests, variants);
}
