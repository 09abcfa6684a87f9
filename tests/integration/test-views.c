/* SPDX-License-Identifier: BSD-3-Clause */
/* Which exports there are and what they say they can do. */

#include "fixture.h"

#include <errno.h>

#define SIZE (1 << 20)

struct listing {
  unsigned count;
  char names[16][64];
};

static int
see_name (void *opaque, const char *name, const char *words)
{
  struct listing *listing = opaque;

  (void)words;
  if (listing->count < 16)
    snprintf (listing->names[listing->count++], 64, "%s", name);
  return 0;
}

static void
list (struct fixture *f, struct listing *listing)
{
  struct nbd_handle *nbd = new_handle (f);

  *listing = (struct listing){ 0 };
  ok (nbd_set_opt_mode (nbd, true));
  ok (nbd_connect_unix (nbd, f->server.socket));
  ok (nbd_opt_list (
      nbd, (nbd_list_callback){ .callback = see_name, .user_data = listing }));
  ok (nbd_opt_abort (nbd));
}

static void
all_exports_are_listed (void **state)
{
  struct fixture *f = *state;
  struct listing listing;

  make_image (f, SIZE);
  start (f, NULL);
  list (f, &listing);
  assert_int_equal (listing.count, 4);
  assert_string_equal (listing.names[0], "");
  assert_string_equal (listing.names[1], "origin");
  assert_string_equal (listing.names[2], "snapshot");
  assert_string_equal (listing.names[3], "snapshot/1");
}

static void
without_a_snapshot_only_the_origin_is_listed (void **state)
{
  struct fixture *f = *state;
  struct listing listing;

  make_image (f, SIZE);
  start (f, "snapshot=no", NULL);
  list (f, &listing);
  assert_int_equal (listing.count, 2);
  assert_string_equal (listing.names[0], "");
  assert_string_equal (listing.names[1], "origin");
}

static void
descriptions_say_what_an_export_is (void **state)
{
  struct fixture *f = *state;

  make_image (f, SIZE);
  start (f, NULL);
  assert_string_equal (description (f, ""), text (f, "%s, live", f->image));
  assert_string_equal (description (f, "origin"), description (f, ""));
  assert_non_null (strstr (description (f, "snapshot"), "snapshot 1, 2"));
  assert_non_null (strstr (description (f, "snapshot"), f->image));
  assert_null (strstr (description (f, "snapshot"), "BROKEN"));
  assert_string_equal (description (f, "snapshot/1"),
                       description (f, "snapshot"));
}

static void
an_open_export_has_its_description (void **state)
{
  struct fixture *f = *state;
  char *words;

  make_image (f, SIZE);
  start (f, NULL);
  words = nbd_get_export_description (connect_to (f, "snapshot"));
  assert_non_null (words);
  assert_string_equal (words, description (f, "snapshot"));
  free (words);
}

static void
origin_has_two_names (void **state)
{
  struct fixture *f = *state;
  uint8_t *content = make_image (f, SIZE);
  const uint8_t *new = pattern (f, 2, 5000, 3000);

  start (f, NULL);
  ok (nbd_pwrite (connect_to (f, "origin"), new, 3000, 5000, 0));
  memcpy (content + 5000, new, 3000);
  reads_as (connect_to (f, ""), 0, content, SIZE);
  reads_as (connect_to (f, "origin"), 0, content, SIZE);
}

static void
snapshot_has_two_names (void **state)
{
  struct fixture *f = *state;
  const uint8_t *content = make_image (f, SIZE);

  start (f, NULL);
  ok (nbd_pwrite (connect_to (f, ""), pattern (f, 2, 0, SIZE), SIZE, 0, 0));
  reads_as (connect_to (f, "snapshot"), 0, content, SIZE);
  reads_as (connect_to (f, "snapshot/1"), 0, content, SIZE);
}

static void
refuse_export (struct fixture *f, const char *name)
{
  struct nbd_handle *nbd = new_handle (f);

  ok (nbd_set_export_name (nbd, name));
  if (nbd_connect_unix (nbd, f->server.socket) == 0)
    fail_msg ("export '%s' can be opened", name);
  await_log (&f->server, text (f, "there is no export '%s'", name), 10);
}

static void
unknown_exports_are_refused (void **state)
{
  static const char *const names[] = {
    "nonsense",    "Origin",
    "origin/",     "snapshot/",
    "snapshot/0",  "snapshot/2",
    "snapshot/01", "snapshot/x",
    "snapshot/1x", "snapshot/-1",
    "snapshot1",   "Snapshot",
    " ",           "snapshot/4294967297",
  };
  struct fixture *f = *state;

  make_image (f, SIZE);
  start (f, NULL);
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    refuse_export (f, names[i]);
  /* and the server goes on */
  connect_to (f, "snapshot/1");
}

static void
without_a_snapshot_its_exports_are_refused (void **state)
{
  struct fixture *f = *state;

  make_image (f, SIZE);
  start (f, "snapshot=no", NULL);
  refuse_export (f, "snapshot");
  refuse_export (f, "snapshot/1");
  connect_to (f, "");
}

/* What a client gets that does not care for the flags. */
static void
assert_read_only (struct fixture *f, struct nbd_handle *nbd)
{
  const uint8_t *new = pattern (f, 3, 0, 4096);

  assert_int_equal (nbd_is_read_only (nbd), 1);
  ok (nbd_set_strict_mode (nbd, 0));
  for (unsigned i = 0; i < 3; i++) {
    const int r = i == 0   ? nbd_pwrite (nbd, new, 4096, 0, 0)
                  : i == 1 ? nbd_zero (nbd, 4096, 0, 0)
                           : nbd_trim (nbd, 4096, 0, 0);
    assert_int_equal (r, -1);
    if (nbd_get_errno () != EPERM && nbd_get_errno () != EROFS)
      fail_msg ("write %u: %s", i, nbd_get_error ());
  }
}

static void
snapshot_cannot_be_written (void **state)
{
  struct fixture *f = *state;
  const uint8_t *content = make_image (f, SIZE);

  start (f, NULL);
  struct nbd_handle *snapshot = connect_to (f, "snapshot");
  assert_read_only (f, snapshot);
  reads_as (snapshot, 0, content, SIZE);
  file_is (f->image, 0, content, SIZE);
}

static void
readonly_server_refuses_writes_to_the_origin (void **state)
{
  struct fixture *f = *state;
  const uint8_t *content = make_image (f, SIZE);

  start (f, "-r", NULL);
  struct nbd_handle *origin = connect_to (f, "");
  assert_read_only (f, origin);
  reads_as (origin, 0, content, SIZE);
  file_is (f->image, 0, content, SIZE);
}

static void
readonly_server_has_the_snapshot (void **state)
{
  struct fixture *f = *state;
  const uint8_t *content = make_image (f, SIZE);

  start (f, "-r", NULL);
  struct nbd_handle *snapshot = connect_to (f, "snapshot");
  assert_read_only (f, snapshot);
  reads_as (snapshot, 0, content, SIZE);
}

static void
sizes_are_the_origins (void **state)
{
  static const char *const names[] = { "", "origin", "snapshot", "snapshot/1" };
  struct fixture *f = *state;

  make_image (f, SIZE + 7);
  start (f, NULL);
  for (unsigned i = 0; i < 4; i++)
    assert_int_equal (nbd_get_size (connect_to (f, names[i])), SIZE + 7);
}

static void
origin_can_do_everything (void **state)
{
  struct fixture *f = *state;

  make_image (f, SIZE);
  start (f, NULL);
  struct nbd_handle *nbd = connect_to (f, "");
  assert_int_equal (nbd_is_read_only (nbd), 0);
  assert_int_equal (nbd_can_flush (nbd), 1);
  assert_int_equal (nbd_can_fua (nbd), 1);
  assert_int_equal (nbd_can_trim (nbd), 1);
  assert_int_equal (nbd_can_zero (nbd), 1);
  assert_int_equal (nbd_can_fast_zero (nbd), 1);
  assert_int_equal (nbd_can_cache (nbd), 1);
  assert_int_equal (nbd_can_df (nbd), 1);
  assert_int_equal (nbd_can_multi_conn (nbd), 1);
  assert_int_equal (nbd_is_rotational (nbd), 0);
  assert_int_equal (nbd_can_meta_context (nbd, LIBNBD_CONTEXT_BASE_ALLOCATION),
                    1);
}

static void
snapshot_can_do_all_that_reads (void **state)
{
  struct fixture *f = *state;

  make_image (f, SIZE);
  start (f, NULL);
  struct nbd_handle *nbd = connect_to (f, "snapshot");
  assert_int_equal (nbd_is_read_only (nbd), 1);
  assert_int_equal (nbd_can_trim (nbd), 0);
  assert_int_equal (nbd_can_zero (nbd), 0);
  assert_int_equal (nbd_can_fast_zero (nbd), 0);
  assert_int_equal (nbd_can_cache (nbd), 1);
  assert_int_equal (nbd_can_multi_conn (nbd), 1);
  assert_int_equal (nbd_can_meta_context (nbd, LIBNBD_CONTEXT_BASE_ALLOCATION),
                    1);
}

static void
flush_of_a_snapshot_is_harmless (void **state)
{
  struct fixture *f = *state;

  make_image (f, SIZE);
  start (f, NULL);
  struct nbd_handle *nbd = connect_to (f, "snapshot");
  ok (nbd_set_strict_mode (nbd, 0));
  ok (nbd_flush (nbd, 0));
}

static void
preferred_block_size_is_the_chunks (void **state)
{
  static const struct {
    const char *chunksize;
    int preferred;
  } cases[] = {
    { "chunksize=512", 4096 },     { "chunksize=4096", 4096 },
    { "chunksize=64k", 65536 },    { "chunksize=1M", 1 << 20 },
    { "chunksize=64M", 32 << 20 }, /* the most that the protocol has */
  };
  struct fixture *f = *state;

  make_image (f, SIZE);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    start (f, cases[i].chunksize, "max-memory=256M", NULL);
    struct nbd_handle *nbd = connect_to (f, "");
    assert_int_equal (nbd_get_block_size (nbd, LIBNBD_SIZE_MINIMUM), 1);
    assert_int_equal (nbd_get_block_size (nbd, LIBNBD_SIZE_PREFERRED),
                      cases[i].preferred);
    assert_int_equal (nbd_get_block_size (nbd, LIBNBD_SIZE_MAXIMUM),
                      UINT32_MAX);
    stop (f);
  }
}

static void
one_connection_flushes_what_another_wrote (void **state)
{
  struct fixture *f = *state;
  uint8_t *content = make_image (f, SIZE);

  start (f, NULL);
  struct nbd_handle *a = connect_to (f, ""), *b = connect_to (f, "origin");
  memcpy (content + 100, pattern (f, 2, 0, 9000), 9000);
  ok (nbd_pwrite (a, content + 100, 9000, 100, 0));
  ok (nbd_flush (b, 0));
  reads_as (b, 0, content, SIZE);
  file_is (f->image, 0, content, SIZE);
}

static void
reads_past_the_end_are_refused (void **state)
{
  static const char *const names[] = { "", "snapshot" };
  struct fixture *f = *state;
  uint8_t byte;

  make_image (f, SIZE);
  start (f, NULL);
  for (unsigned i = 0; i < 2; i++) {
    struct nbd_handle *nbd = connect_to (f, names[i]);
    ok (nbd_set_strict_mode (nbd, 0));
    fails (nbd_pread (nbd, &byte, 1, SIZE, 0), EINVAL);
    ok (nbd_pread (nbd, &byte, 1, SIZE - 1, 0));
  }
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    fixture_test (all_exports_are_listed),
    fixture_test (without_a_snapshot_only_the_origin_is_listed),
    fixture_test (descriptions_say_what_an_export_is),
    fixture_test (an_open_export_has_its_description),
    fixture_test (origin_has_two_names),
    fixture_test (snapshot_has_two_names),
    fixture_test (unknown_exports_are_refused),
    fixture_test (without_a_snapshot_its_exports_are_refused),
    fixture_test (snapshot_cannot_be_written),
    fixture_test (readonly_server_refuses_writes_to_the_origin),
    fixture_test (readonly_server_has_the_snapshot),
    fixture_test (sizes_are_the_origins),
    fixture_test (origin_can_do_everything),
    fixture_test (snapshot_can_do_all_that_reads),
    fixture_test (flush_of_a_snapshot_is_harmless),
    fixture_test (preferred_block_size_is_the_chunks),
    fixture_test (one_connection_flushes_what_another_wrote),
    fixture_test (reads_past_the_end_are_refused),
  };

  return cmocka_run_group_tests_name ("views", tests, NULL, NULL);
}
