/* SPDX-License-Identifier: BSD-3-Clause */
/* The space of snapshots that are taken and deleted while the server runs:
 * stores that are of no use, what is given back, what is not taken at all.
 */

#include "world.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* --- space ---------------------------------------------------------------
 */

static void
the_oldest_is_gone_at_once (void **state)
{
  struct world w = begin (*state);

  create_in_store (&w, 1);
  overwrite (&w, 0, SIZE);
  const uint8_t *content = remember (&w);
  create_in_store (&w, 2);
  overwrite (&w, 0, SIZE);
  delete (&w, 1);
  await_listed (w.c, true, "2");
  assert_false (has_store (&w, 1));
  assert_true (has_store (&w, 2));
  reads_as (connect_to (w.f, "snapshot/2"), 0, content, SIZE);
}

/* It stays as long as an older one reads through it, and no longer. */
static void
what_older_ones_need_stays_until_they_go (void **state)
{
  struct world w = begin (*state);
  const uint8_t *content = remember (&w);

  create_in_store (&w, 1);
  overwrite (&w, 0, SIZE / 4);
  create_in_store (&w, 2);
  overwrite (&w, 0, SIZE / 2);
  delete (&w, 2);
  reads_as (connect_to (w.f, "snapshot/1"), 0, content, SIZE);
  force_deletion (&w, 1);
  assert_string_equal (listed (w.c, false), "");
  close_readers (&w);
  await_listed (w.c, true, "");
  assert_false (has_store (&w, 1));
  assert_false (has_store (&w, 2));
}

/* What nobody needs of it is given back, while the rest stays. */
static void
the_space_that_nobody_needs_is_given_back (void **state)
{
  struct world w = begin (*state);
  const uint8_t *content = remember (&w);

  create_in_store (&w, 1);
  overwrite (&w, 0, SIZE / 2);
  create_in_store (&w, 2);
  overwrite (&w, 0, SIZE / 2 + SIZE / 8);
  await_figure (w.c, 2, "bytes-in-memory", 0);
  assert_true (figure (w.c, 2, "backing-store-len") >= SIZE / 2 + SIZE / 8);
  delete (&w, 2);
  /* The first half is in the older one's own file already. */
  const double end = now () + 60;
  json_int_t left;
  do
    left = number (entry (&w, 2), "backing-store-len");
  while (left >= SIZE / 4 && now () < end);
  assert_in_range (left, SIZE / 8, SIZE / 4);
  reads_as (connect_to (w.f, "snapshot/1"), 0, content, SIZE);
}

/* However many come and go. */
static void
the_store_is_as_empty_as_before (void **state)
{
  struct fixture *f = *state;
  struct statvfs before, after;

  snprintf (f->mount, sizeof f->mount, "%s/store", f->server.dir);
  assert_int_equal (mkdir (f->mount, 0700), 0);
  assert_int_equal (mount ("tmpfs", f->mount, "tmpfs", 0, "size=64m"), 0);
  assert_int_equal (statvfs (f->mount, &before), 0);
  struct world w = begin (f);
  for (unsigned round = 0; round < 5; round++) {
    for (int i = 1; i <= 6; i++) {
      call (w.c, "snapshot.create", "{s:{s:s, s:s}}", "options",
            "backing-store", f->mount, "backfile-size", "300k");
      overwrite_anywhere (&w);
    }
    assert_int_equal (statvfs (f->mount, &after), 0);
    assert_true (after.f_bfree < before.f_bfree);
    for (int i = 1; i <= 6; i++)
      delete (&w, (int)((unsigned)i * 5 + round) % 6 + 1);
    await_listed (w.c, true, "");
    assert_int_equal (statvfs (f->mount, &after), 0);
    assert_int_equal (after.f_bfree, before.f_bfree);
    /* The files are closed a moment later. */
    const double end = now () + 60;
    while (after.f_ffree != before.f_ffree && now () < end)
      assert_int_equal (statvfs (f->mount, &after), 0);
    assert_int_equal (after.f_ffree, before.f_ffree);
  }
}

/* Newer ones that come and go leave one layer behind an old one that
 * stays, not one each.
 */
static void
deleted_layers_are_merged (void **state)
{
  struct world w = begin (*state);
  const uint8_t *content = remember (&w);
  const json_t *list;

  create (w.c);
  for (unsigned i = 0; i < 12; i++) {
    const size_t kept = w.f->kept_count;
    overwrite (&w, i * 80000, 60000);
    assert_int_equal (create (w.c), 2);
    overwrite (&w, i * 80000 + 40000, 60000);
    delete (&w, 2);
    forget (w.f, kept);
  }
  const double end = now () + 60;
  do {
    const size_t kept = w.f->kept_count;
    list = json_object_get (call (w.c, "snapshot.list", "{s:b}", "all", 1),
                            "snapshots");
    const size_t layers = json_array_size (list);
    forget (w.f, kept);
    if (layers <= 2)
      break;
    if (now () > end)
      fail_msg ("%zu layers are left: %s", layers,
                json_dumps (call (w.c, "snapshot.list", "{s:b}", "all", 1), 0));
  } while (true);
  reads_as (connect_to (w.f, "snapshot/1"), 0, content, SIZE);
}

/* --- a store that is no use ----------------------------------------------
 */

/* Nothing of the attempt is left, and the next one gets all it wants. */
static void
assert_nothing_left (struct world *w)
{
  assert_string_equal (listed (w->c, true), "");
  assert_int_equal (number (call (w->c, "server.info", NULL), "highest"), 0);
  const json_t *s = call (w->c, "snapshot.create", "{s:s}", "name", "wanted");
  assert_int_equal (number (s, "snapnumber"), 1);
  overwrite (w, 0, SIZE);
}

static void
fail_to_create (struct world *w, const char *path, const char *err,
                const char *words)
{
  json_t *reply = control_ask (
      w->c, quoted (w->f,
                    "{'jsonrpc':'2.0','id':1,'method':'snapshot.create',"
                    "'params':{'name':'wanted','options':{"
                    "'backing-store':'%s','backfile-size':'300k'}}}",
                    path));
  const json_t *error = is_error (reply, FAILED, err, words);

  assert_non_null (strstr (string (error, "message"), path));
  /* the same is in the log */
  assert_int_equal (server_logged (&w->f->server, string (error, "message")),
                    1);
}

static void
a_store_that_is_not_there_is_an_error (void **state)
{
  struct world w = begin (*state);
  const char *path = text (w.f, "%s/missing/store", w.f->server.dir);

  fail_to_create (&w, path, "ENOENT", "No such file or directory");
  assert_nothing_left (&w);
}

static void
a_file_that_exists_is_no_store (void **state)
{
  struct world w = begin (*state);
  const char *path = text (w.f, "%s/mine", w.f->server.dir);
  FILE *file = fopen (path, "we");

  assert_non_null (file);
  fputs ("precious", file);
  fclose (file);
  fail_to_create (&w, path, "EEXIST", "exists already");
  file_is (path, 0, (const uint8_t *)"precious", 8);
  assert_nothing_left (&w);
}

/* The first of its files is made and removed again, the other stays. */
static void
no_file_of_a_store_may_exist (void **state)
{
  struct world w = begin (*state);
  const char *path = text (w.f, "%s/split", w.f->server.dir);
  const char *second = text (w.f, "%s.1", path);

  FILE *file = fopen (second, "we");
  assert_non_null (file);
  fclose (file);
  fail_to_create (&w, path, "EEXIST", "exists already");
  assert_int_equal (access (path, F_OK), -1);
  assert_int_equal (access (second, F_OK), 0);
  assert_nothing_left (&w);
}

static void
a_full_store_is_an_error (void **state)
{
  static const uint8_t filler[1 << 20];
  struct fixture *f = *state;

  snprintf (f->mount, sizeof f->mount, "%s/full", f->server.dir);
  assert_int_equal (mkdir (f->mount, 0700), 0);
  assert_int_equal (mount ("tmpfs", f->mount, "tmpfs", 0, "size=1m"), 0);
  const int fd = open (text (f, "%s/filler", f->mount),
                       O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  assert_int_equal (write (fd, filler, sizeof filler), sizeof filler);
  close (fd);
  struct world w = begin (f);
  fail_to_create (&w, f->mount, "ENOSPC", "No space left on device");
  fail_to_create (&w, text (f, "%s/named", f->mount), "ENOSPC",
                  "No space left on device");
  assert_int_equal (access (text (f, "%s/named", f->mount), F_OK), -1);
  assert_nothing_left (&w);
}

static void
a_store_that_cannot_be_written_is_an_error (void **state)
{
  struct fixture *f = *state;

  snprintf (f->mount, sizeof f->mount, "%s/ro", f->server.dir);
  assert_int_equal (mkdir (f->mount, 0700), 0);
  assert_int_equal (mount ("tmpfs", f->mount, "tmpfs", MS_RDONLY, NULL), 0);
  struct world w = begin (f);
  fail_to_create (&w, f->mount, "EROFS", "Read-only file system");
  assert_nothing_left (&w);
}

/* --- free space ----------------------------------------------------------
 */

/* Snapshot N, being created, has no use for these bytes. */
static json_int_t
set_free (struct world *w, int n, uint64_t offset, uint64_t length)
{
  return number (call (w->c, "snapshot.set_free", "{s:i, s:[[I, I]]}",
                       "snapshot", n, "ranges", (json_int_t)offset,
                       (json_int_t)length),
                 "chunks");
}

static void
free_chunks_read_as_zeros (void **state)
{
  struct world w = begin (*state);
  uint8_t *content = remember (&w);

  const int n = begin_creating (&w);
  struct nbd_handle *reader = connect_to (w.f, "snapshot");
  reads_as (reader, 0, content, SIZE);
  assert_int_equal (set_free (&w, n, 10 * CHUNK, 20 * CHUNK), 20);
  memset (content + 10 * CHUNK, 0, 20 * CHUNK);
  reads_as (reader, 0, content, SIZE);
  call (w.c, "snapshot.create_done", "{s:i}", "snapshot", n);
  overwrite (&w, 0, SIZE / 2);
  reads_as (reader, 0, content, SIZE);
  overwrite (&w, 0, SIZE);
  reads_as (reader, 0, content, SIZE);
  reads_as (connect_to (w.f, "snapshot/1"), 0, content, SIZE);
  reads_as (w.origin, 0, w.live, SIZE);
}

static void
free_chunks_are_holes (void **state)
{
  struct world w = begin (*state);
  struct extent extents[8];

  const int n = begin_creating (&w);
  set_free (&w, n, 10 * CHUNK, 20 * CHUNK);
  struct nbd_handle *reader = connect_to (w.f, "snapshot");
  for (unsigned i = 0; i < 2; i++) {
    assert_int_equal (extents_of (reader, 0, SIZE, extents, 8), 3);
    assert_int_equal (extents[0].flags, 0);
    assert_int_equal (extents[1].offset, 10 * CHUNK);
    assert_int_equal (extents[1].length, 20 * CHUNK);
    assert_int_equal (extents[1].flags, LIBNBD_STATE_HOLE | LIBNBD_STATE_ZERO);
    assert_int_equal (extents[2].flags, 0);
    /* also when all else is in the backing file */
    overwrite (&w, 0, SIZE);
    await_figure (w.c, n, "bytes-in-memory", 0);
  }
}

static void
free_chunks_are_not_copied (void **state)
{
  struct world w = begin (*state);

  const int n = begin_creating (&w);
  set_free (&w, n, 0, SIZE - 3 * CHUNK);
  call (w.c, "snapshot.create_done", "{s:i}", "snapshot", n);
  overwrite (&w, 0, SIZE / 2);
  assert_int_equal (figure (w.c, n, "bytes-copied"), 0);
  overwrite (&w, 0, SIZE);
  assert_int_equal (figure (w.c, n, "bytes-copied"), 3 * CHUNK);
  assert_int_equal (figure (w.c, n, "chunks-free"), SIZE / CHUNK - 3);
}

/* What is free in one need not be in another. */
static void
free_chunks_are_copied_if_an_older_one_wants_them (void **state)
{
  struct world w = begin (*state);
  const uint8_t *old = remember (&w);

  create (w.c);
  overwrite (&w, 0, 4 * CHUNK);
  uint8_t *content = remember (&w);
  const int n = begin_creating (&w);
  set_free (&w, n, 0, 8 * CHUNK);
  memset (content, 0, 8 * CHUNK);
  call (w.c, "snapshot.create_done", "{s:i}", "snapshot", n);
  overwrite (&w, 0, 8 * CHUNK);
  reads_as (connect_to (w.f, "snapshot/1"), 0, old, SIZE);
  reads_as (connect_to (w.f, "snapshot/2"), 0, content, SIZE);
  /* The first four are in the older one, and no more wanted. */
  assert_int_equal (figure (w.c, n, "bytes-copied"), 4 * CHUNK);
  force_deletion (&w, 1);
  reads_as (connect_to (w.f, "snapshot/2"), 0, content, SIZE);
}

static void
free_in_an_older_one_is_data_in_a_newer_one (void **state)
{
  struct world w = begin (*state);
  uint8_t *old = remember (&w);

  const int n = begin_creating (&w);
  set_free (&w, n, 0, 8 * CHUNK);
  memset (old, 0, 8 * CHUNK);
  call (w.c, "snapshot.create_done", "{s:i}", "snapshot", n);
  overwrite (&w, 0, 4 * CHUNK);
  const uint8_t *content = remember (&w);
  create (w.c);
  overwrite (&w, 0, SIZE);
  reads_as (connect_to (w.f, "snapshot/1"), 0, old, SIZE);
  reads_as (connect_to (w.f, "snapshot/2"), 0, content, SIZE);
  force_deletion (&w, 2);
  reads_as (connect_to (w.f, "snapshot/1"), 0, old, SIZE);
}

int
main (void)
{
  static const struct variant variants[] = {
    { .name = "default" },
    { .name = "written, sync",
      .parameters = { "durability=written", "io=sync" } },
  };
  const struct CMUnitTest tests[] = {
    fixture_test (the_oldest_is_gone_at_once),
    fixture_test (what_older_ones_need_stays_until_they_go),
    fixture_test (the_space_that_nobody_needs_is_given_back),
    fixture_test (the_store_is_as_empty_as_before),
    fixture_test (deleted_layers_are_merged),
    fixture_test (a_store_that_is_not_there_is_an_error),
    fixture_test (a_file_that_exists_is_no_store),
    fixture_test (no_file_of_a_store_may_exist),
    fixture_test (a_full_store_is_an_error),
    fixture_test (a_store_that_cannot_be_written_is_an_error),
    fixture_test (free_chunks_read_as_zeros),
    fixture_test (free_chunks_are_holes),
    fixture_test (free_chunks_are_not_copied),
    fixture_test (free_chunks_are_copied_if_an_older_one_wants_them),
    fixture_test (free_in_an_older_one_is_data_in_a_newer_one),
  };

  if (!private_mounts ()) {
    fprintf (stderr, "no mounts can be made here\n");
    return 77;
  }
  return RUN_VARIANTS ("snapshots-space", tests, variants);
}
