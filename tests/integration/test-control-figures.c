/* SPDX-License-Identifier: BSD-3-Clause */
/* The figures of snapshot.info and server.info, after what is known to have
 * happened.
 */

#include "control.h"
#include "faultfs.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define SIZE (4 << 20)
#define CHUNK 4096

static const struct faultfs_rule hold = { .fault = FAULTFS_HOLD };

/* A server with snapshot 1 in a file of a file system of ours, and who uses
 * it.
 */
struct world {
  struct fixture *f;
  struct control *c;
  struct nbd_handle *origin;
  uint8_t *old;
  const char *store;
};

static struct world
begin (struct fixture *f, const char *a, const char *b)
{
  const char *directory = text (f, "%s/faults", f->server.dir);
  struct world w = { .f = f,
                     .old = make_image (f, SIZE),
                     .store = text (f, "%s/store", directory) };

  assert_int_equal (mkdir (directory, 0700), 0);
  f->faults = faultfs_mount (directory);
  assert_non_null (f->faults);
  serve (f, text (f, "backing-store=%s", w.store), a, b, NULL);
  w.c = control_connect (f, NULL);
  w.origin = connect_to (f, "");
  return w;
}

static void
overwrite (struct world *w, uint64_t offset, size_t count)
{
  ok (nbd_pwrite (w->origin, pattern (w->f, 9, offset, count), count, offset,
                  0));
}

static void
await_stored (struct world *w, int snapnumber)
{
  await_figure (w->c, snapnumber, "bytes-in-memory", 0);
}

static void
a_fresh_snapshot_has_done_nothing (void **state)
{
  static const char *const zero[]
      = { "clients",      "chunks-copied",     "chunks-lost",
          "chunks-free",  "bytes-copied",      "bytes-in-memory",
          "reads-origin", "reads-memory",      "reads-backing-file",
          "reads-zero",   "throttled-writers", "waits",
          "flush-errors" };
  static const char *const null[] = { "name", "broken-reason", "broken-errno",
                                      "broken-time", "blocked-by" };
  struct world w = begin (*state, NULL, NULL);
  const json_t *s = info (w.c, 1);

  for (size_t i = 0; i < sizeof zero / sizeof *zero; i++)
    assert_int_equal (number (s, zero[i]), 0);
  for (size_t i = 0; i < sizeof null / sizeof *null; i++)
    assert_true (is_null (s, null[i]));
  assert_string_equal (string (s, "backing-store"), w.store);
  assert_string_equal (string (s, "export"), "snapshot/1");
  assert_string_equal (string (s, "origin"), w.f->image);
  assert_int_equal (number (s, "size"), SIZE);
}

static void
copies_are_counted_once (void **state)
{
  struct world w = begin (*state, NULL, NULL);

  overwrite (&w, 10 * CHUNK, CHUNK);
  await_figure (w.c, 1, "chunks-copied", 1);
  /* from the middle of one chunk to the middle of another */
  overwrite (&w, 20 * CHUNK + 100, 2 * CHUNK);
  await_figure (w.c, 1, "chunks-copied", 4);
  assert_int_equal (figure (w.c, 1, "bytes-copied"), 4 * CHUNK);
  /* the same ones, and those that no longer belong to it */
  overwrite (&w, 20 * CHUNK, 2 * CHUNK);
  call (w.c, "snapshot.create", "{s:{s:s}}", "options", "backing-store",
        text (w.f, "%s/faults/second", w.f->server.dir));
  overwrite (&w, 0, 8 * CHUNK);
  await_figure (w.c, 2, "chunks-copied", 8);
  assert_int_equal (figure (w.c, 1, "chunks-copied"), 4);
  assert_int_equal (figure (w.c, 1, "bytes-copied"), 4 * CHUNK);
  assert_int_equal (figure (w.c, 2, "bytes-copied"), 8 * CHUNK);
}

/* They are kept, and take no room. */
static void
zeros_are_chunks_but_no_bytes (void **state)
{
  struct world w = begin (*state, NULL, NULL);

  ok (nbd_zero (w.origin, 16 * CHUNK, 0, 0));
  call (w.c, "snapshot.create", "{s:{s:s}}", "options", "backing-store",
        text (w.f, "%s/faults/second", w.f->server.dir));
  overwrite (&w, 0, 20 * CHUNK);
  await_figure (w.c, 2, "chunks-copied", 20);
  assert_int_equal (figure (w.c, 2, "bytes-copied"), 4 * CHUNK);
}

static void
chunks_are_of_the_chunks_size (void **state)
{
  struct world w = begin (*state, "chunksize=64k", NULL);

  overwrite (&w, 65535, 2);
  await_figure (w.c, 1, "chunks-copied", 2);
  assert_int_equal (figure (w.c, 1, "bytes-copied"), 2 * 65536);
}

static void
reads_are_counted_by_where_they_came_from (void **state)
{
  struct world w = begin (*state, NULL, NULL);
  struct nbd_handle *reader = connect_to (w.f, "snapshot");

  overwrite (&w, 0, 4 * CHUNK);
  await_stored (&w, 1);
  faultfs_set (w.f->faults, FAULTFS_WRITE, hold);
  overwrite (&w, 8 * CHUNK, 2 * CHUNK);
  reads_as (reader, 0, w.old, 16 * CHUNK);
  const json_t *s = info (w.c, 1);
  assert_int_equal (number (s, "reads-origin"), 10 * CHUNK);
  assert_int_equal (number (s, "reads-memory"), 2 * CHUNK);
  assert_int_equal (number (s, "reads-backing-file"), 4 * CHUNK);
  assert_int_equal (number (s, "reads-zero"), 0);
  reads_as (reader, 4 * CHUNK - 5, w.old + 4 * CHUNK - 5, 7);
  s = info (w.c, 1);
  assert_int_equal (number (s, "reads-origin"), 10 * CHUNK + 2);
  assert_int_equal (number (s, "reads-backing-file"), 4 * CHUNK + 5);
  faultfs_release (w.f->faults);
}

static void
reads_of_free_chunks_are_counted (void **state)
{
  struct world w = begin (*state, NULL, NULL);
  uint8_t buf[8 * CHUNK];

  call (w.c, "snapshot.create", "{s:b, s:{s:s}}", "creating", 1, "options",
        "backing-store", text (w.f, "%s/faults/second", w.f->server.dir));
  call (w.c, "snapshot.set_free", "{s:i, s:[[i, i]]}", "snapshot", 2, "ranges",
        CHUNK, 3 * CHUNK);
  ok (nbd_pread (connect_to (w.f, "snapshot/2"), buf, sizeof buf, 0, 0));
  const json_t *s = info (w.c, 2);
  assert_int_equal (number (s, "chunks-free"), 3);
  assert_int_equal (number (s, "reads-zero"), 3 * CHUNK);
  assert_int_equal (number (s, "reads-origin"), 5 * CHUNK);
}

/* What is read of an older one, wherever it is, is the older one's. */
static void
reads_through_a_newer_snapshot_are_the_older_ones (void **state)
{
  struct world w = begin (*state, NULL, NULL);

  call (w.c, "snapshot.create", "{s:{s:s}}", "options", "backing-store",
        text (w.f, "%s/faults/second", w.f->server.dir));
  overwrite (&w, 0, 4 * CHUNK);
  await_stored (&w, 2);
  reads_as (connect_to (w.f, "snapshot/1"), 0, w.old, 8 * CHUNK);
  assert_int_equal (figure (w.c, 1, "reads-backing-file"), 4 * CHUNK);
  assert_int_equal (figure (w.c, 1, "reads-origin"), 4 * CHUNK);
  assert_int_equal (figure (w.c, 2, "reads-backing-file"), 0);
  assert_int_equal (figure (w.c, 2, "reads-origin"), 0);
}

static void
clients_are_counted (void **state)
{
  struct world w = begin (*state, NULL, NULL);
  struct nbd_handle *readers[3];

  for (int i = 0; i < 3; i++) {
    readers[i] = connect_to (w.f, i == 0 ? "snapshot" : "snapshot/1");
    assert_int_equal (figure (w.c, 1, "clients"), i + 1);
  }
  for (int i = 2; i >= 0; i--) {
    ok (nbd_shutdown (readers[i], 0));
    await_figure (w.c, 1, "clients", i);
  }
}

/* As much as the file system says. */
static void
the_space_on_disk_is_told (void **state)
{
  struct fixture *f = *state;
  struct stat st;

  make_image (f, SIZE);
  const char *store = text (f, "%s/store", f->server.dir);
  serve (f, text (f, "backing-store=%s", store), "backfile-size=1M", NULL);
  struct control *c = control_connect (f, NULL);
  const json_int_t before = figure (c, 1, "backing-store-len");
  ok (nbd_pwrite (connect_to (f, ""), pattern (f, 9, 0, SIZE / 2), SIZE / 2, 0,
                  0));
  await_figure (c, 1, "bytes-in-memory", 0);
  json_int_t expected = 0;
  for (unsigned i = 0;
       stat (i == 0 ? store : text (f, "%s.%u", store, i), &st) == 0; i++)
    expected += st.st_blocks * 512;
  assert_int_equal (figure (c, 1, "backing-store-len"), expected);
  assert_true (expected >= before + SIZE / 2);
}

static void
memory_is_what_is_on_its_way (void **state)
{
  struct world w = begin (*state, NULL, NULL);

  faultfs_set (w.f->faults, FAULTFS_WRITE, hold);
  overwrite (&w, 0, 100 * CHUNK);
  assert_int_equal (figure (w.c, 1, "bytes-in-memory"), 100 * CHUNK);
  assert_true (number (call (w.c, "server.info", NULL), "memory")
               >= 100 * CHUNK);
  faultfs_release (w.f->faults);
  await_stored (&w, 1);
  const double end = now () + 20;
  while (number (call (w.c, "server.info", NULL), "memory") > 0)
    assert_true (now () < end);
}

static void
writers_that_wait_for_memory_are_counted (void **state)
{
  struct world w = begin (*state, "max-memory=1M", NULL);
  const uint8_t *new = pattern (w.f, 9, 0, SIZE);

  faultfs_set (w.f->faults, FAULTFS_WRITE, hold);
  for (unsigned i = 0; i < 4; i++)
    ok (nbd_aio_pwrite (w.origin, new + i *(SIZE / 4), SIZE / 4, i * (SIZE / 4),
                        NBD_NULL_COMPLETION, 0));
  while (nbd_aio_get_direction (w.origin) & LIBNBD_AIO_DIRECTION_WRITE)
    ok (nbd_poll (w.origin, -1));
  await_figure (w.c, 1, "throttled-writers", 4);
  const json_t *s = call (w.c, "server.info", NULL);
  assert_int_equal (number (s, "throttled-writers"), 4);
  assert_true (number (s, "memory") <= number (s, "max-memory"));
  assert_true (figure (w.c, 1, "waits") >= 4);
  faultfs_release (w.f->faults);
  while (nbd_aio_in_flight (w.origin) > 0) {
    const int64_t cookie = nbd_aio_peek_command_completed (w.origin);
    if (cookie > 0)
      ok (nbd_aio_command_completed (w.origin, (uint64_t)cookie));
    else
      ok (nbd_poll (w.origin, -1));
  }
  assert_int_equal (figure (w.c, 1, "throttled-writers"), 0);
  reads_as (connect_to (w.f, "snapshot"), 0, w.old, SIZE);
}

/* Who waits for the store without being short of memory waits too. */
static void
writers_that_wait_for_the_store_are_counted (void **state)
{
  struct world w = begin (*state, "durability=written", NULL);
  const uint8_t *new = pattern (w.f, 9, 0, CHUNK);

  faultfs_set (w.f->faults, FAULTFS_WRITE, hold);
  const int64_t cookie
      = nbd_aio_pwrite (w.origin, new, CHUNK, 0, NBD_NULL_COMPLETION, 0);
  ok (cookie);
  await_figure (w.c, 1, "waits", 1);
  assert_int_equal (figure (w.c, 1, "throttled-writers"), 0);
  faultfs_release (w.f->faults);
  while (nbd_aio_command_completed (w.origin, (uint64_t)cookie) == 0)
    ok (nbd_poll (w.origin, -1));
  /* What is kept needs no store. */
  overwrite (&w, 0, CHUNK);
  assert_int_equal (figure (w.c, 1, "waits"), 1);
}

/* The log and snapshot.info say the same. */
static void
assert_broken (struct world *w, int snapnumber, const char *err,
               const char *words, time_t since)
{
  const json_t *s = info (w->c, snapnumber);

  assert_string_equal (string (s, "state"), "disabled");
  assert_string_equal (string (s, "broken-errno"), err);
  assert_true (number (s, "broken-time") >= since
               && number (s, "broken-time") <= time (NULL));
  const char *reason = string (s, "broken-reason");
  if (strstr (reason, words) == NULL)
    fail_msg ("broken because: %s", reason);
  assert_int_equal (server_logged (&w->f->server, reason), 1);
  assert_false (truth (s, "deleted"));
}

static void
a_store_that_fails_is_why_it_broke (void **state)
{
  const time_t since = time (NULL);
  struct world w = begin (*state, NULL, NULL);

  faultfs_set (w.f->faults, FAULTFS_WRITE,
               (struct faultfs_rule){ .fault = FAULTFS_FAIL, .error = ENOSPC });
  overwrite (&w, 0, CHUNK);
  await_log (&w.f->server, "snapshot 1 is broken", 20);
  assert_broken (&w, 1, "ENOSPC", "No space left on device", since);
  assert_int_equal (figure (w.c, 1, "flush-errors"), 1);
  assert_int_equal (figure (w.c, 1, "bytes-copied"), 0);
}

static void
maxsize_is_why_it_broke (void **state)
{
  const time_t since = time (NULL);
  struct world w = begin (*state, "maxsize=64k", NULL);

  overwrite (&w, 0, SIZE / 2);
  assert_broken (&w, 1, "ENOSPC", "maxsize", since);
  assert_int_equal (figure (w.c, 1, "flush-errors"), 0);
}

static void
time_is_why_it_broke (void **state)
{
  const time_t since = time (NULL);
  struct world w = begin (*state, "cow-timeout=1", "durability=written");

  faultfs_set (w.f->faults, FAULTFS_WRITE, hold);
  overwrite (&w, 0, CHUNK);
  assert_broken (&w, 1, "EIO", "cow-timeout", since);
  faultfs_release (w.f->faults);
}

/* A snapshot that lives fails writes instead, each of which is counted. */
static void
failed_writes_are_counted (void **state)
{
  struct world w = begin (*state, "on-error=break-write", NULL);
  uint8_t byte = 1;

  faultfs_set (w.f->faults, FAULTFS_WRITE,
               (struct faultfs_rule){ .fault = FAULTFS_FAIL, .error = EIO });
  for (unsigned i = 0; i < 3; i++)
    fails (nbd_pwrite (w.origin, &byte, 1, i * 100 * CHUNK, 0), EIO);
  assert_int_equal (figure (w.c, 1, "flush-errors"), 3);
  assert_int_equal (figure (w.c, 1, "chunks-copied"), 0);
  assert_int_equal (figure (w.c, 1, "bytes-copied"), 0);
  assert_string_equal (string (info (w.c, 1), "state"), "idle");
}

/* The snapshot cannot get what the origin itself cannot read. */
static void
what_cannot_be_read_is_counted (void **state)
{
  struct fixture *f = *state;
  const char *directory = text (f, "%s/faults", f->server.dir);
  uint8_t byte = 1;

  assert_int_equal (mkdir (directory, 0700), 0);
  f->faults = faultfs_mount (directory);
  assert_non_null (f->faults);
  snprintf (f->image, sizeof f->image, "%s/disk.img", directory);
  make_image (f, SIZE);
  serve (f, text (f, "backing-store=%s", f->server.dir), NULL);
  struct control *c = control_connect (f, NULL);
  faultfs_set (f->faults, FAULTFS_READ,
               (struct faultfs_rule){ .fault = FAULTFS_FAIL,
                                      .error = EIO,
                                      .offset = 10 * CHUNK,
                                      .length = 2 * CHUNK });
  struct nbd_handle *origin = connect_to (f, "");
  for (unsigned i = 8; i < 14; i++)
    ok (nbd_pwrite (origin, &byte, 1, i * CHUNK, 0));
  const json_int_t lost = figure (c, 1, "chunks-lost");
  assert_in_range (lost, 1, 2);
  assert_string_equal (string (info (c, 1), "state"), "idle");
}

/* An older one that needs what the broken one failed to keep. */
static void
a_broken_one_blocks_older_ones (void **state)
{
  struct world w = begin (*state, NULL, NULL);
  uint8_t byte;

  overwrite (&w, 0, 4 * CHUNK);
  await_stored (&w, 1);
  for (int i = 2; i <= 3; i++)
    call (w.c, "snapshot.create", "{s:{s:s, s:s}}", "options", "backing-store",
          text (w.f, "%s/faults/%d", w.f->server.dir, i), "maxsize",
          i == 2 ? "64k" : "0");
  assert_true (is_null (info (w.c, 1), "blocked-by"));
  call (w.c, "snapshot.delete", "{s:i}", "snapshot", 3);
  overwrite (&w, 8 * CHUNK, 100 * CHUNK);
  call (w.c, "snapshot.create", "{s:{s:s}}", "options", "backing-store",
        text (w.f, "%s/faults/after", w.f->server.dir));
  assert_string_equal (string (info (w.c, 2), "state"), "disabled");
  assert_int_equal (figure (w.c, 1, "blocked-by"), 2);
  assert_true (is_null (info (w.c, 2), "blocked-by"));
  assert_true (is_null (info (w.c, 3), "blocked-by"));
  /* It is not broken itself: it reads what it keeps. */
  assert_string_equal (string (info (w.c, 1), "state"), "idle");
  assert_true (is_null (info (w.c, 1), "broken-reason"));
  struct nbd_handle *reader = connect_to (w.f, "snapshot/1");
  reads_as (reader, 0, w.old, 4 * CHUNK);
  fails (nbd_pread (reader, &byte, 1, 8 * CHUNK, 0), EIO);
  /* and that does not end with the broken one */
  call (w.c, "snapshot.delete", "{s:i}", "snapshot", 2);
  assert_int_equal (figure (w.c, 1, "blocked-by"), 2);
  fails (nbd_pread (reader, &byte, 1, 8 * CHUNK, 0), EIO);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    fixture_test (a_fresh_snapshot_has_done_nothing),
    fixture_test (copies_are_counted_once),
    fixture_test (zeros_are_chunks_but_no_bytes),
    fixture_test (chunks_are_of_the_chunks_size),
    fixture_test (reads_are_counted_by_where_they_came_from),
    fixture_test (reads_of_free_chunks_are_counted),
    fixture_test (reads_through_a_newer_snapshot_are_the_older_ones),
    fixture_test (clients_are_counted),
    fixture_test (the_space_on_disk_is_told),
    fixture_test (memory_is_what_is_on_its_way),
    fixture_test (writers_that_wait_for_memory_are_counted),
    fixture_test (writers_that_wait_for_the_store_are_counted),
    fixture_test (a_store_that_fails_is_why_it_broke),
    fixture_test (maxsize_is_why_it_broke),
    fixture_test (time_is_why_it_broke),
    fixture_test (failed_writes_are_counted),
    fixture_test (what_cannot_be_read_is_counted),
    fixture_test (a_broken_one_blocks_older_ones),
  };

  if (!private_mounts () || access ("/dev/fuse", R_OK | W_OK) == -1) {
    fprintf (stderr, "no FUSE file systems can be mounted here\n");
    return 77;
  }
  return cmocka_run_group_tests_name ("control-figures", tests, NULL, NULL);
}
