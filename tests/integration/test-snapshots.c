/* SPDX-License-Identifier: BSD-3-Clause */
/* Snapshots that are taken and deleted while the server runs: their numbers
 * and names, their states, and what they read as.
 */

#include "world.h"

#include <errno.h>

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
states_follow_what_happens (void **state)
{
  struct world w = begin (*state);

  call (w.c, "snapshot.create", "{s:b}", "creating", 1);
  assert_string_equal (state_of (&w, 1), "creating");
  struct nbd_handle *reader = connect_to (w.f, "snapshot/1");
  assert_string_equal (state_of (&w, 1), "creating");
  call (w.c, "snapshot.create_done", "{s:i}", "snapshot", 1);
  assert_string_equal (state_of (&w, 1), "active");
  assert_int_equal (figure (w.c, 1, "clients"), 1);
  ok (nbd_shutdown (reader, 0));
  await_figure (w.c, 1, "clients", 0);
  assert_string_equal (state_of (&w, 1), "idle");
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
a_broken_snapshot_is_disabled (void **state)
{
  struct world w = begin (*state);

  call (w.c, "snapshot.create", "{s:{s:i}}", "options", "maxsize", 2 * CHUNK);
  overwrite (&w, 0, 4 * CHUNK);
  assert_string_equal (state_of (&w, 1), "disabled");
  assert_string_equal (listed (w.c, false), "1");
  delete (&w, 1);
  assert_string_equal (listed (w.c, false), "");
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
  assert_true (truth (entry (&w, 2), "deleted"));
  assert_string_equal (string (entry (&w, 2), "state"), "disabled");
  assert_int_equal (number (entry (&w, 2), "clients"), 1);
  assert_false (truth (entry (&w, 1), "deleted"));
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
  close_readers (w);
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
    close_readers (&w);
    forget (w.f, kept);
  }
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
  };

  return RUN_VARIANTS ("snapshots", tests, variants);
}
