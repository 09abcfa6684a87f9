/* SPDX-License-Identifier: BSD-3-Clause */
/* Snapshots that are taken and deleted while the server runs: their numbers
 * and names, what they read as, who keeps them, and what they leave.
 */

#include "control.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define SIZE (1 << 20)
#define CHUNK 4096

/* A server without snapshots, and who uses it. */
struct world {
  struct fixture *f;
  struct control *c;
  struct nbd_handle *origin;
  uint8_t *live; /* SIZE bytes that the origin has */
  unsigned seed;
};

static struct world
begin (struct fixture *f)
{
  struct world w = { .f = f, .live = make_image (f, SIZE), .seed = 1 };

  serve (f, "snapshot=no", NULL);
  w.c = control_connect (f, NULL);
  w.origin = connect_to (f, "");
  return w;
}

/* Overwrite with what was not there before. */
static void
overwrite (struct world *w, uint64_t offset, size_t count)
{
  const size_t kept = w->f->kept_count;

  memcpy (w->live + offset, pattern (w->f, ++w->seed, offset, count), count);
  forget (w->f, kept);
  ok (nbd_pwrite (w->origin, w->live + offset, count, offset, 0));
}

/* What the origin has now, to be compared with a snapshot later. */
static uint8_t *
remember (const struct world *w)
{
  uint8_t *copy = scratch (w->f, SIZE);

  memcpy (copy, w->live, SIZE);
  return copy;
}

static const char *
store (struct fixture *f, int i)
{
  return text (f, "%s/store%d", f->server.dir, i);
}

/* A snapshot with a backing file called store(I); its number. */
static int
create_in_store (struct world *w, int i)
{
  return (int)number (call (w->c, "snapshot.create", "{s:{s:s}}", "options",
                            "backing-store", store (w->f, i)),
                      "snapnumber");
}

static bool
has_store (struct world *w, int i)
{
  return access (store (w->f, i), F_OK) == 0;
}

static void delete (struct world *w, int snapnumber)
{
  call (w->c, "snapshot.delete", "{s:i}", "snapshot", snapnumber);
}

static void
force_deletion (struct world *w, int snapnumber)
{
  const json_t *result = call (w->c, "snapshot.delete", "{s:i, s:b}",
                               "snapshot", snapnumber, "force", 1);

  assert_int_equal (number (result, "snapnumber"), snapnumber);
}

static const char *
state (struct world *w, int snapnumber)
{
  return string (info (w->c, snapnumber), "state");
}

/* --- numbers and names ---------------------------------------------------
 */

static void
numbers_are_the_lowest_that_are_free (void **state)
{
  struct world w = begin (*state);

  for (int i = 1; i <= 5; i++)
    assert_int_equal (create (w.c), i);
  delete (&w, 4);
  delete (&w, 2);
  assert_int_equal (create (w.c), 2);
  delete (&w, 1);
  assert_int_equal (create (w.c), 1);
  assert_int_equal (create (w.c), 4);
  assert_int_equal (create (w.c), 6);
  /* in the order in which they were taken */
  assert_string_equal (listed (w.c, false), "3 5 2 1 4 6");
  assert_int_equal (number (call (w.c, "server.info", NULL), "highest"), 6);
}

static void
a_number_is_held_while_a_client_has_the_old_view (void **state)
{
  struct world w = begin (*state);

  assert_int_equal (create (w.c), 1);
  struct nbd_handle *first = connect_to (w.f, "snapshot/1");
  struct nbd_handle *second = connect_to (w.f, "snapshot/1");
  force_deletion (&w, 1);
  assert_int_equal (create (w.c), 2);
  ok (nbd_shutdown (first, 0));
  assert_int_equal (create (w.c), 3);
  ok (nbd_shutdown (second, 0));
  /* It takes the server a moment to see it. */
  await_listed (w.c, true, "2 3");
  assert_int_equal (create (w.c), 1);
}

static void
a_deleted_view_does_not_become_another_of_its_number (void **state)
{
  struct world w = begin (*state);
  uint8_t byte;

  create (w.c);
  struct nbd_handle *old = connect_to (w.f, "snapshot/1");
  force_deletion (&w, 1);
  overwrite (&w, 0, SIZE);
  const uint8_t *content = remember (&w);
  create (w.c);
  overwrite (&w, 0, SIZE);
  for (unsigned i = 0; i < 3; i++)
    fails (nbd_pread (old, &byte, 1, 0, 0), EIO);
  reads_as (connect_to (w.f, "snapshot/2"), 0, content, SIZE);
}

static void
a_name_is_free_when_its_snapshot_is_deleted (void **state)
{
  struct world w = begin (*state);
  uint8_t byte;

  call (w.c, "snapshot.create", "{s:s}", "name", "nightly");
  struct nbd_handle *old = connect_to (w.f, "snapshot/nightly");
  call (w.c, "snapshot.delete", "{s:s, s:b}", "snapshot", "nightly", "force",
        1);
  overwrite (&w, 0, CHUNK);
  const json_t *result
      = call (w.c, "snapshot.create", "{s:s}", "name", "nightly");
  assert_int_equal (number (result, "snapnumber"), 2);
  overwrite (&w, 0, CHUNK);
  fails (nbd_pread (old, &byte, 1, 0, 0), EIO);
  ok (nbd_pread (connect_to (w.f, "snapshot/nightly"), &byte, 1, 0, 0));
}

/* --- exports -------------------------------------------------------------
 */

static int
add_name (void *opaque, const char *name, const char *words)
{
  char *names = opaque;

  (void)words;
  strcat (strcat (names, name), ";");
  return 0;
}

/* All exports' names, each with a ';'. */
static const char *
exports (struct fixture *f)
{
  char *names = scratch (f, 4096);
  struct nbd_handle *nbd = nbd_create ();

  assert_non_null (nbd);
  ok (nbd_set_opt_mode (nbd, true));
  ok (nbd_connect_unix (nbd, f->server.socket));
  ok (nbd_opt_list (
      nbd, (nbd_list_callback){ .callback = add_name, .user_data = names }));
  ok (nbd_opt_abort (nbd));
  nbd_close (nbd);
  return names;
}

static void
snapshots_are_exports_while_they_exist (void **state)
{
  struct world w = begin (*state);

  assert_string_equal (exports (w.f), ";origin;");
  create (w.c);
  assert_string_equal (exports (w.f), ";origin;snapshot;snapshot/1;");
  call (w.c, "snapshot.create", "{s:s}", "name", "nightly");
  assert_string_equal (exports (w.f), ";origin;snapshot;snapshot/2;"
                                      "snapshot/nightly;snapshot/1;");
  delete (&w, 2);
  assert_string_equal (exports (w.f), ";origin;snapshot;snapshot/1;");
  delete (&w, 1);
  assert_string_equal (exports (w.f), ";origin;");
}

static void
deleted_snapshots_cannot_be_opened (void **state)
{
  struct world w = begin (*state);

  call (w.c, "snapshot.create", "{s:s}", "name", "nightly");
  struct nbd_handle *reader = connect_to (w.f, "snapshot/1");
  force_deletion (&w, 1);
  const char *const names[] = { "snapshot", "snapshot/1", "snapshot/nightly" };
  for (unsigned i = 0; i < 3; i++) {
    struct nbd_handle *nbd = new_handle (w.f);
    ok (nbd_set_export_name (nbd, names[i]));
    assert_int_equal (nbd_connect_unix (nbd, w.f->server.socket), -1);
  }
  ok (nbd_shutdown (reader, 0));
}

static void
the_newest_has_a_name_of_its_own (void **state)
{
  struct world w = begin (*state);
  const uint8_t *content[4];

  for (unsigned i = 1; i < 4; i++) {
    content[i] = remember (&w);
    create (w.c);
    overwrite (&w, 1000 * i, 100000);
  }
  reads_as (connect_to (w.f, "snapshot"), 0, content[3], SIZE);
  force_deletion (&w, 3);
  reads_as (connect_to (w.f, "snapshot"), 0, content[2], SIZE);
  delete (&w, 1);
  reads_as (connect_to (w.f, "snapshot"), 0, content[2], SIZE);
}

static void
a_connection_stays_with_its_snapshot (void **state)
{
  struct world w = begin (*state);
  const uint8_t *content = remember (&w);
  uint8_t byte;

  create (w.c);
  struct nbd_handle *newest = connect_to (w.f, "snapshot");
  for (unsigned i = 0; i < 3; i++) {
    overwrite (&w, i * 100000, 200000);
    create (w.c);
    reads_as (newest, 0, content, SIZE);
  }
  force_deletion (&w, 1);
  fails (nbd_pread (newest, &byte, 1, 0, 0), EIO);
}

/* --- states --------------------------------------------------------------
 */

static void
states_follow_what_happens (void **cmocka)
{
  struct world w = begin (*cmocka);

  call (w.c, "snapshot.create", "{s:b}", "creating", 1);
  assert_string_equal (state (&w, 1), "creating");
  struct nbd_handle *reader = connect_to (w.f, "snapshot/1");
  assert_string_equal (state (&w, 1), "creating");
  call (w.c, "snapshot.create_done", "{s:i}", "snapshot", 1);
  assert_string_equal (state (&w, 1), "active");
  assert_int_equal (figure (w.c, 1, "clients"), 1);
  ok (nbd_shutdown (reader, 0));
  await_figure (w.c, 1, "clients", 0);
  assert_string_equal (state (&w, 1), "idle");
}

static void
a_snapshot_being_created_can_be_read (void **state)
{
  struct world w = begin (*state);
  const uint8_t *content = remember (&w);

  call (w.c, "snapshot.create", "{s:b}", "creating", 1);
  overwrite (&w, 0, SIZE / 2);
  struct nbd_handle *reader = connect_to (w.f, "snapshot");
  reads_as (reader, 0, content, SIZE);
  call (w.c, "snapshot.create_done", "{s:i}", "snapshot", 1);
  overwrite (&w, SIZE / 4, SIZE / 2);
  reads_as (reader, 0, content, SIZE);
}

static void
a_broken_snapshot_is_disabled (void **cmocka)
{
  struct world w = begin (*cmocka);

  call (w.c, "snapshot.create", "{s:{s:i}}", "options", "maxsize", 2 * CHUNK);
  overwrite (&w, 0, 4 * CHUNK);
  assert_string_equal (state (&w, 1), "disabled");
  assert_string_equal (listed (w.c, false), "1");
  delete (&w, 1);
  assert_string_equal (listed (w.c, false), "");
}

/* The one that LIST, of snapshot.list, has of a number. */
static const json_t *
entry (struct control *c, int snapnumber)
{
  const json_t *list = json_object_get (
      call (c, "snapshot.list", "{s:b}", "all", 1), "snapshots");
  const json_t *snapshot;
  size_t i;

  json_array_foreach (list, i, snapshot) if (number (snapshot, "snapnumber")
                                             == snapnumber) return snapshot;
  fail_msg ("snapshot %d is not listed", snapnumber);
  return NULL;
}

static void
deleted_ones_are_listed_with_all_while_they_exist (void **state)
{
  struct world w = begin (*state);

  create (w.c);
  create (w.c);
  struct nbd_handle *reader = connect_to (w.f, "snapshot/2");
  force_deletion (&w, 2);
  assert_string_equal (listed (w.c, false), "1");
  assert_true (truth (entry (w.c, 2), "deleted"));
  assert_string_equal (string (entry (w.c, 2), "state"), "disabled");
  assert_int_equal (number (entry (w.c, 2), "clients"), 1);
  assert_false (truth (entry (w.c, 1), "deleted"));
  call_fails (w.c, NO_SNAPSHOT, "snapshot.info", "{s:i}", "snapshot", 2);
  ok (nbd_shutdown (reader, 0));
  await_listed (w.c, true, "1");
}

/* --- busy ----------------------------------------------------------------
 */

static void
a_snapshot_in_use_is_not_deleted (void **state)
{
  struct world w = begin (*state);
  const uint8_t *content = remember (&w);

  create (w.c);
  struct nbd_handle *first = connect_to (w.f, "snapshot/1");
  struct nbd_handle *second = connect_to (w.f, "snapshot");
  const json_t *error
      = call_fails (w.c, BUSY, "snapshot.delete", "{s:i}", "snapshot", 1);
  assert_non_null (strstr (string (error, "message"), "2 connections have"));
  call_fails (w.c, BUSY, "snapshot.delete", "{s:i, s:b}", "snapshot", 1,
              "force", 0);
  overwrite (&w, 0, SIZE);
  reads_as (first, 0, content, SIZE);
  reads_as (second, 0, content, SIZE);
  ok (nbd_shutdown (first, 0));
  ok (nbd_shutdown (second, 0));
  await_figure (w.c, 1, "clients", 0);
  delete (&w, 1);
}

static int
ignore (void *opaque, const char *context, uint64_t offset, uint32_t *entries,
        size_t count, int *error)
{
  (void)opaque;
  (void)context;
  (void)offset;
  (void)entries;
  (void)count;
  (void)error;
  return 0;
}

static void
forced_deletion_fails_the_readers (void **state)
{
  struct world w = begin (*state);
  uint8_t byte;

  create (w.c);
  overwrite (&w, 0, CHUNK);
  struct nbd_handle *reader = connect_to (w.f, "snapshot/1");
  force_deletion (&w, 1);
  /* what was copied, what was not, and where there are holes */
  fails (nbd_pread (reader, &byte, 1, 0, 0), EIO);
  fails (nbd_pread (reader, &byte, 1, SIZE / 2, 0), EIO);
  fails (nbd_block_status (reader, SIZE, 0,
                           (nbd_extent_callback){ .callback = ignore }, 0),
         EIO);
  call_fails (w.c, NO_SNAPSHOT, "snapshot.delete", "{s:i, s:b}", "snapshot", 1,
              "force", 1);
  /* and nothing is copied any more */
  overwrite (&w, 0, SIZE);
  reads_as (w.origin, 0, w.live, SIZE);
}

/* --- deletion in any order -----------------------------------------------
 */

#define LAYERS 4

/* The I-th of the orders of LAYERS things. */
static void
order (unsigned i, int *numbers)
{
  unsigned taken = 0;

  for (unsigned left = LAYERS, n = 0; left > 0; i /= left--, n++) {
    unsigned skip = i % left;
    int candidate = 0;
    while (taken >> candidate & 1 || skip-- > 0)
      candidate++;
    taken |= 1u << candidate;
    numbers[n] = candidate + 1;
  }
}

/* Bytes that are put anywhere, in any length; the same with every run. */
static void
overwrite_anywhere (struct world *w)
{
  for (unsigned i = 0; i < 12; i++) {
    const uint64_t x = (w->seed + 1) * UINT64_C (0x9e3779b97f4a7c15);
    const size_t count = 1 + (x >> 20) % 60000;
    overwrite (w, (x >> 40) % (SIZE - count), count);
  }
}

/* Take snapshots and delete them in the order given; all that are left are
 * right all the time, whoever else has been deleted.
 */
static void
delete_in_order (struct world *w, const int *numbers, const char *const *chunks)
{
  const size_t kept = w->f->kept_count;
  struct nbd_handle *readers[LAYERS + 1] = { NULL };
  const uint8_t *content[LAYERS + 1];

  for (int i = 1; i <= LAYERS; i++) {
    content[i] = remember (w);
    const json_t *s
        = call (w->c, "snapshot.create", "{s:{s:s, s:s}}", "options",
                "backing-store", store (w->f, i), "chunksize", chunks[i - 1]);
    assert_int_equal (number (s, "snapnumber"), i);
    readers[i] = connect_to (w->f, text (w->f, "snapshot/%d", i));
    overwrite_anywhere (w);
  }
  for (unsigned n = 0; n < LAYERS; n++) {
    force_deletion (w, numbers[n]);
    for (unsigned again = 0; again < 2; again++) {
      for (unsigned left = n + 1; left < LAYERS; left++)
        reads_as (readers[numbers[left]], 0, content[numbers[left]], SIZE);
      overwrite_anywhere (w);
    }
    ok (nbd_shutdown (readers[numbers[n]], 0));
    for (unsigned left = n + 1; left < LAYERS; left++)
      reads_as (readers[numbers[left]], 0, content[numbers[left]], SIZE);
  }
  reads_as (w->origin, 0, w->live, SIZE);
  await_listed (w->c, true, "");
  for (int i = 1; i <= LAYERS; i++)
    assert_false (has_store (w, i));
  while (w->f->handle_count > 1)
    nbd_close (w->f->handles[--w->f->handle_count]);
  forget (w->f, kept);
}

static void
snapshots_are_deleted_in_any_order (void **state)
{
  static const char *const chunks[][LAYERS] = {
    { "4k", "4k", "4k", "4k" },
    { "512", "64k", "4k", "16k" },
    { "64k", "16k", "4k", "512" },
  };
  struct world w = begin (*state);
  int numbers[LAYERS];

  for (unsigned i = 0; i < 24; i++) {
    order (i, numbers);
    delete_in_order (&w, numbers, chunks[i % 3]);
  }
  assert_int_equal (server_logged (&w.f->server, "broken"), 0);
}

/* Reads that are under way while theirs, or others, are deleted. */
static void
deletion_and_reads_may_cross (void **state)
{
  enum { READS = 16, PART = SIZE / READS };
  struct world w = begin (*state);

  for (unsigned round = 0; round < 20; round++) {
    const size_t kept = w.f->kept_count;
    const uint8_t *content = remember (&w);
    uint8_t *got = scratch (w.f, 2 * SIZE);
    struct nbd_handle *readers[2];
    int64_t cookies[2 * READS];

    const int older = create (w.c);
    overwrite (&w, 0, SIZE / 2);
    const int newer = create (w.c);
    overwrite (&w, SIZE / 4, SIZE / 2);
    readers[0] = connect_to (w.f, text (w.f, "snapshot/%d", older));
    readers[1] = connect_to (w.f, text (w.f, "snapshot/%d", newer));
    for (unsigned i = 0; i < 2 * READS; i++) {
      cookies[i] = nbd_aio_pread (readers[i % 2], got + i * PART, PART,
                                  i / 2 * PART, NBD_NULL_COMPLETION, 0);
      ok (cookies[i]);
    }
    force_deletion (&w, newer);
    for (unsigned i = 0; i < 2 * READS; i++) {
      int done;
      while ((done = nbd_aio_command_completed (readers[i % 2],
                                                (uint64_t)cookies[i]))
             == 0)
        ok (nbd_poll (readers[i % 2], -1));
      if (i % 2 == 1) { /* it came in time, or it failed */
        assert_true (done == 1 || nbd_get_errno () == EIO);
        continue;
      }
      assert_int_equal (done, 1);
      assert_memory_equal (got + i * PART, content + i / 2 * PART, PART);
    }
    ok (nbd_shutdown (readers[1], 0));
    ok (nbd_shutdown (readers[0], 0));
    await_figure (w.c, older, "clients", 0);
    delete (&w, older);
    await_listed (w.c, true, "");
    while (w.f->handle_count > 1)
      nbd_close (w.f->handles[--w.f->handle_count]);
    forget (w.f, kept);
  }
}

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
  while (w.f->handle_count > 1)
    nbd_close (w.f->handles[--w.f->handle_count]);
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
    left = number (entry (w.c, 2), "backing-store-len");
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

static int
begin_creating (struct world *w)
{
  return (int)number (call (w->c, "snapshot.create", "{s:b}", "creating", 1),
                      "snapnumber");
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
    fixture_test (numbers_are_the_lowest_that_are_free),
    fixture_test (a_number_is_held_while_a_client_has_the_old_view),
    fixture_test (a_deleted_view_does_not_become_another_of_its_number),
    fixture_test (a_name_is_free_when_its_snapshot_is_deleted),
    fixture_test (snapshots_are_exports_while_they_exist),
    fixture_test (deleted_snapshots_cannot_be_opened),
    fixture_test (the_newest_has_a_name_of_its_own),
    fixture_test (a_connection_stays_with_its_snapshot),
    fixture_test (states_follow_what_happens),
    fixture_test (a_snapshot_being_created_can_be_read),
    fixture_test (a_broken_snapshot_is_disabled),
    fixture_test (deleted_ones_are_listed_with_all_while_they_exist),
    fixture_test (a_snapshot_in_use_is_not_deleted),
    fixture_test (forced_deletion_fails_the_readers),
    fixture_test (snapshots_are_deleted_in_any_order),
    fixture_test (deletion_and_reads_may_cross),
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
  return RUN_VARIANTS ("snapshots", tests, variants);
}
