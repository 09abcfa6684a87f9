/* SPDX-License-Identifier: BSD-3-Clause */
/* A store that answers with errors: each kind of write and each barrier in
 * turn.  What becomes of the snapshot, and that the next server knows.
 */

#include "faulty.h"
#include "format.h"

#include <errno.h>
#include <unistd.h>

/* --- what fails ---------------------------------------------------------- */

static void
fail_data (struct fixture *f)
{
  const struct format_layout layout = format_layout (CHUNK, SIZE);

  faultfs_set (f->faults, FAULTFS_WRITE,
               (struct faultfs_rule){ .fault = FAULTFS_FAIL,
                                      .file = "snapshot-",
                                      .error = EIO,
                                      .offset = layout.data,
                                      .length = SIZE });
}

static void
fail_index (struct fixture *f)
{
  const struct format_layout layout = format_layout (CHUNK, SIZE);

  faultfs_set (f->faults, FAULTFS_WRITE,
               (struct faultfs_rule){ .fault = FAULTFS_FAIL,
                                      .file = "snapshot-",
                                      .error = EIO,
                                      .offset = FORMAT_HEADER,
                                      .length = layout.data - FORMAT_HEADER });
}

static void
fail_sync_of (struct fixture *f, const char *file)
{
  struct faultfs_rule rule = { .fault = FAULTFS_FAIL, .error = EIO };

  snprintf (rule.file, sizeof rule.file, "%s", file);
  faultfs_set (f->faults, FAULTFS_SYNC, rule);
}

static void
fail_sync (struct fixture *f)
{
  fail_sync_of (f, "snapshot-");
}

static void
fail_catalog (struct fixture *f)
{
  faultfs_set (f->faults, FAULTFS_WRITE,
               (struct faultfs_rule){
                   .fault = FAULTFS_FAIL, .file = "catalog", .error = EIO });
}

static void
heal (struct fixture *f)
{
  faultfs_release (f->faults);
}

/* --- copies -------------------------------------------------------------- */

/* break-snapshot: the write goes through, and the next server knows. */
static void
breaks_the_snapshot (struct fixture *f, void (*fail_it) (struct fixture *f))
{
  struct world w = faulty_world (f);

  open_store (&w);
  create (w.c);
  overwrite (&w, 0, 10 * CHUNK);
  await_figure (w.c, 1, "bytes-in-memory", 0);
  fail_it (f);
  overwrite (&w, 20 * CHUNK, 10 * CHUNK);
  await_broken (&w, 1);
  snapshot_is_broken (&w, 1, "Input/output error");
  origin_is_live (&w);
  heal (f);
  restart (&w, KILLED);
  /* An async one is lost by the kill as well, and that may come first. */
  if (has_level (f, "async"))
    snapshot_is_broken (&w, 1, "");
  else {
    snapshot_is_broken (&w, 1, "Input/output error");
    assert_string_equal (string (info (w.c, 1), "broken-errno"), "EIO");
  }
  overwrite_anywhere (&w);
  origin_is_live (&w);
}

static void
data_that_cannot_be_written_break_it (void **state)
{
  breaks_the_snapshot (*state, fail_data);
}

static void
an_index_that_cannot_be_written_breaks_it (void **state)
{
  if (has_level (*state, "async"))
    skip ();
  breaks_the_snapshot (*state, fail_index);
}

static void
a_barrier_that_fails_breaks_it (void **state)
{
  if (!has_level (*state, "stable"))
    skip ();
  breaks_the_snapshot (*state, fail_sync);
}

/* The catalogue cannot say so either: then nothing that it was kept for may
 * be lost by the next start.
 */
static void
a_store_that_takes_nothing_breaks_it (void **state)
{
  struct fixture *f = *state;
  struct world w = faulty_world (f);
  const struct faultfs_rule all = { .fault = FAULTFS_FAIL, .error = EIO };

  open_store (&w);
  create (w.c);
  overwrite (&w, 0, 10 * CHUNK);
  await_figure (w.c, 1, "bytes-in-memory", 0);
  faultfs_set (f->faults, FAULTFS_WRITE, all);
  faultfs_set (f->faults, FAULTFS_SYNC, all);
  overwrite (&w, 20 * CHUNK, 10 * CHUNK);
  await_broken (&w, 1);
  snapshot_is_broken (&w, 1, "Input/output error");
  origin_is_live (&w);
  end (&w, KILLED);
  heal (f);
  open_store (&w);
  snapshot_is_broken (&w, 1, "");
  restart (&w, KILLED);
  snapshot_is_broken (&w, 1, "");
}

/* break-write: the write fails, and the snapshot is whole. */
static void
fails_the_write (struct fixture *f, void (*fail_it) (struct fixture *f))
{
  struct world w = faulty_world (f);
  const uint8_t *then = remember (&w), *new = pattern (f, 9, 0, SIZE);

  if (has_level (f, "async"))
    skip ();
  open_store (&w);
  create_as (&w, "'options':{'on-error':'break-write'}");
  overwrite (&w, 0, 10 * CHUNK);
  fail_it (f);
  fails (nbd_pwrite (w.origin, new, 10 * CHUNK, 20 * CHUNK, 0), EIO);
  fails (nbd_zero (w.origin, 10 * CHUNK, 100 * CHUNK, 0), EIO);
  overwrite (&w, 0, 10 * CHUNK); /* copied already */
  snapshot_is (&w, 1, then);
  origin_is_live (&w);
  end (&w, KILLED);
  heal (f);
  open_store (&w);
  snapshot_is (&w, 1, then);
  fail_it (f);
  fails (nbd_pwrite (w.origin, new, 10 * CHUNK, 20 * CHUNK, 0), EIO);
  heal (f);
  overwrite_anywhere (&w);
  overwrite (&w, 0, SIZE);
  snapshot_is (&w, 1, then);
  restart (&w, KILLED);
  snapshot_is (&w, 1, then);
}

static void
data_that_cannot_be_written_fail_the_write (void **state)
{
  fails_the_write (*state, fail_data);
}

static void
an_index_that_cannot_be_written_fails_the_write (void **state)
{
  fails_the_write (*state, fail_index);
}

static void
a_barrier_that_fails_fails_the_write (void **state)
{
  if (!has_level (*state, "stable"))
    skip ();
  fails_the_write (*state, fail_sync);
}

/* Whichever it is of several in a round: those that were answered are kept.
 */
static void
each_call_in_turn_fails (void **state)
{
  struct fixture *f = *state;
  struct world w = faulty_world (f);
  const uint8_t *then = remember (&w);

  if (has_level (f, "async"))
    skip ();
  open_store (&w);
  create_as (&w, "'options':{'on-error':'break-write'}");
  for (unsigned i = 0; i < 24; i++) {
    const uint64_t offset = i * 10 * CHUNK;
    const uint8_t *new = pattern (f, 100 + i, offset, 6 * CHUNK);
    const enum faultfs_call failing
        = has_level (f, "stable") && i % 2 == 1 ? FAULTFS_SYNC : FAULTFS_WRITE;

    faultfs_set (f->faults, failing,
                 (struct faultfs_rule){ .fault = FAULTFS_FAIL,
                                        .file = "snapshot-",
                                        .error = EIO,
                                        .skip = i / 2 % 5,
                                        .times = 1 });
    for (unsigned j = 0; j < 3; j++) {
      const uint64_t at = offset + j * 3 * CHUNK;
      if (nbd_pwrite (w.origin, new, 2 * CHUNK, at, 0) == 0)
        memcpy (w.live + at, new, 2 * CHUNK);
      else
        assert_int_equal (nbd_get_errno (), EIO);
    }
    heal (f);
    snapshot_is (&w, 1, then);
    if (i % 8 == 7)
      restart (&w, KILLED);
  }
  snapshot_is (&w, 1, then);
  origin_is_live (&w);
}

/* --- the catalogue ------------------------------------------------------- */

static void
creation_fails_if_it_cannot_be_listed (void **state)
{
  struct fixture *f = *state;
  struct world w = faulty_world (f);
  const uint8_t *then = remember (&w);

  open_store (&w);
  create (w.c);
  overwrite_anywhere (&w);
  for (unsigned i = 0; i < 3; i++) {
    if (i == 0)
      fail_catalog (f);
    else
      fail_sync_of (f, i == 1 ? "catalog" : ".");
    const json_t *error
        = call_fails (w.c, FAILED, "snapshot.create", "{s:s}", "name", "new");
    assert_true (has_words (string (error, "message"), "Input/output error"));
    heal (f);
    assert_string_equal (listed (w.c, true), "1");
    overwrite_anywhere (&w);
  }
  assert_int_equal (create_as (&w, "'name':'new'"), 2);
  delete (&w, 2);
  restart (&w, STOPPED);
  assert_string_equal (listed (w.c, false), "1");
  snapshot_is (&w, 1, then);
  origin_is_live (&w);
  delete (&w, 1);
  await_listed (w.c, true, "");
  end (&w, STOPPED);
  assert_int_equal (files_like (store_directory (f), "snapshot-"), 0);
}

/* Each of the steps in turn. */
static void
creation_that_fails_anywhere_leaves_nothing (void **state)
{
  struct fixture *f = *state;
  struct world w = faulty_world (f);
  const uint8_t *then = remember (&w);
  unsigned failed = 0;

  open_store (&w);
  create (w.c);
  overwrite_anywhere (&w);
  for (unsigned i = 0; i < 40; i++) {
    await_figure (w.c, 1, "bytes-in-memory", 0); /* no copy shall fail */
    faultfs_set (
        f->faults, i % 2 == 0 ? FAULTFS_WRITE : FAULTFS_SYNC,
        (struct faultfs_rule){
            .fault = FAULTFS_FAIL, .error = EIO, .skip = i / 2, .times = 1 });
    control_request (w.c, "snapshot.create", NULL);
    const json_t *reply = control_reply (w.c);
    heal (f);
    if (json_object_get (reply, "result") == NULL)
      failed++;
    else
      delete (&w, 2);
    assert_string_equal (listed (w.c, false), "1");
    overwrite (&w, i * 3 * CHUNK, CHUNK);
    if (i % 10 == 9)
      restart (&w, has_level (f, "async") ? STOPPED : KILLED);
    snapshot_is (&w, 1, then);
  }
  assert_true (failed >= 4);
  delete (&w, 1);
  await_listed (w.c, true, "");
  restart (&w, STOPPED);
  end (&w, STOPPED);
  assert_int_equal (files_like (store_directory (f), "snapshot-"), 0);
}

static void
deletion_fails_if_it_cannot_be_noted (void **state)
{
  struct fixture *f = *state;
  struct world w = faulty_world (f);
  const uint8_t *then = remember (&w);

  open_store (&w);
  create (w.c);
  overwrite_anywhere (&w);
  fail_catalog (f);
  const json_t *error
      = call_fails (w.c, FAILED, "snapshot.delete", "{s:i}", "snapshot", 1);
  assert_true (has_words (string (error, "message"), "Input/output error"));
  assert_string_equal (listed (w.c, false), "1");
  snapshot_is (&w, 1, then);
  heal (f);
  overwrite_anywhere (&w);
  restart (&w, has_level (f, "async") ? STOPPED : KILLED);
  assert_string_equal (listed (w.c, false), "1");
  snapshot_is (&w, 1, then);
  delete (&w, 1);
  await_listed (w.c, true, "");
}

/* --- starting and ending ------------------------------------------------- */

/* What cannot be noted at the end is not there for the next server; what was
 * kept at its level is.
 */
static void
an_end_that_fails_is_as_a_kill (void **state)
{
  struct fixture *f = *state;

  for (unsigned i = 0; i < 3; i++) {
    struct world w = i == 0 ? faulty_world (f) : new_world (f);
    const uint8_t *then = remember (&w);

    open_store (&w);
    create (w.c);
    overwrite_anywhere (&w);
    await_figure (w.c, 1, "bytes-in-memory", 0);
    if (i == 0)
      fail_catalog (f);
    else
      fail_sync_of (f, i == 1 ? "catalog" : ".");
    end (&w, STOPPED);
    heal (f);
    open_store (&w);
    assert_string_equal (listed (w.c, true), "1");
    if (has_level (f, "async"))
      snapshot_is_broken (&w, 1, "async");
    else
      snapshot_is (&w, 1, then);
    delete (&w, 1);
    await_listed (w.c, true, "");
    end (&w, STOPPED);
  }
}

static void
an_index_that_fails_at_the_end_breaks_async (void **state)
{
  struct fixture *f = *state;
  struct world w = faulty_world (f);

  if (!has_level (f, "async"))
    skip ();
  open_store (&w);
  create (w.c);
  overwrite_anywhere (&w);
  await_figure (w.c, 1, "bytes-in-memory", 0);
  fail_index (f);
  end (&w, STOPPED);
  heal (f);
  open_store (&w);
  snapshot_is_broken (&w, 1, "");
  origin_is_live (&w);
}

static void
start_is_refused (struct fixture *f, const char *words)
{
  refused (run_nbdkit (f, "-U", "-", getenv ("FSSNAP_PLUGIN"),
                       text (f, "origin=%s", f->image), store_parameter (f),
                       "snapshot=no", "--run", "true", NULL),
           words, "Input/output error");
}

static void
a_start_that_cannot_be_noted_is_refused (void **state)
{
  struct fixture *f = *state;
  struct world w = faulty_world (f);
  const uint8_t *then = remember (&w);

  open_store (&w);
  create (w.c);
  overwrite_anywhere (&w);
  end (&w, STOPPED);
  fail_catalog (f);
  start_is_refused (f, "catalog");
  heal (f);
  fail_sync_of (f, "catalog");
  start_is_refused (f, "catalog");
  heal (f);
  open_store (&w);
  snapshot_is (&w, 1, then);
}

static void
an_index_that_cannot_be_read_is_no_damage (void **state)
{
  struct fixture *f = *state;
  struct world w = faulty_world (f);
  const uint8_t *first = remember (&w);

  open_store (&w);
  create (w.c);
  overwrite_anywhere (&w);
  const uint8_t *second = remember (&w);
  create (w.c);
  const char *file = name_in (part_of (f, 1, 0));
  overwrite_anywhere (&w);
  end (&w, STOPPED);
  struct faultfs_rule rule
      = { .fault = FAULTFS_FAIL, .error = EIO, .length = 1 << 30 };
  snprintf (rule.file, sizeof rule.file, "%.15s", file);
  faultfs_set (f->faults, FAULTFS_READ, rule);
  open_store (&w);
  log_says (f, file, "Input/output error");
  snapshot_is_broken (&w, 1, file, "Input/output error");
  snapshot_is (&w, 2, second);
  end (&w, STOPPED);
  heal (f);
  open_store (&w);
  snapshot_is (&w, 1, first);
  snapshot_is (&w, 2, second);
}

static void
a_catalogue_that_cannot_be_read_is_no_empty_one (void **state)
{
  struct fixture *f = *state;
  struct world w = faulty_world (f);
  const uint8_t *then = remember (&w);

  open_store (&w);
  create (w.c);
  overwrite_anywhere (&w);
  end (&w, STOPPED);
  faultfs_set (f->faults, FAULTFS_READ,
               (struct faultfs_rule){
                   .fault = FAULTFS_FAIL, .file = "catalog", .error = EIO });
  start_is_refused (f, "catalog");
  heal (f);
  open_store (&w);
  snapshot_is (&w, 1, then);
}

/* --- faults that are to be got over -------------------------------------- */

static void
short_and_interrupted_calls_do_no_harm (void **state)
{
  static const struct faultfs_rule rules[] = {
    { .fault = FAULTFS_SHORT, .amount = 100 },
    { .fault = FAULTFS_FAIL, .error = EINTR, .times = 5 },
  };
  struct fixture *f = *state;
  struct world w = faulty_world (f);
  const uint8_t *then = remember (&w);

  open_store (&w);
  create (w.c);
  for (unsigned i = 0; i < 2; i++) {
    faultfs_set (f->faults, FAULTFS_WRITE, rules[i]);
    overwrite_anywhere (&w);
    end (&w, STOPPED);
    heal (f);
    faultfs_set (f->faults, FAULTFS_READ, rules[i]);
    open_store (&w);
    snapshot_is (&w, 1, then);
    heal (f);
  }
}

int
main (void)
{
  static const struct variant variants[] = {
    { .name = "async", .parameters = { "io=uring", "durability=async" } },
    { .name = "written", .parameters = { "io=uring", "durability=written" } },
    { .name = "stable", .parameters = { "io=uring", "durability=stable" } },
    { .name = "stable, sync",
      .parameters = { "io=sync", "durability=stable" } },
  };
  const struct CMUnitTest tests[] = {
    fixture_test (data_that_cannot_be_written_break_it),
    fixture_test (an_index_that_cannot_be_written_breaks_it),
    fixture_test (a_barrier_that_fails_breaks_it),
    fixture_test (a_store_that_takes_nothing_breaks_it),
    fixture_test (data_that_cannot_be_written_fail_the_write),
    fixture_test (an_index_that_cannot_be_written_fails_the_write),
    fixture_test (a_barrier_that_fails_fails_the_write),
    fixture_test (each_call_in_turn_fails),
    fixture_test (creation_fails_if_it_cannot_be_listed),
    fixture_test (creation_that_fails_anywhere_leaves_nothing),
    fixture_test (deletion_fails_if_it_cannot_be_noted),
    fixture_test (an_end_that_fails_is_as_a_kill),
    fixture_test (an_index_that_fails_at_the_end_breaks_async),
    fixture_test (a_start_that_cannot_be_noted_is_refused),
    fixture_test (an_index_that_cannot_be_read_is_no_damage),
    fixture_test (a_catalogue_that_cannot_be_read_is_no_empty_one),
    fixture_test (short_and_interrupted_calls_do_no_harm),
  };

  if (!private_mounts () || access ("/dev/fuse", R_OK | W_OK) == -1)
    return 77;
  return RUN_VARIANTS ("store-trouble", tests, variants);
}
