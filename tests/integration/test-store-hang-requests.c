/* SPDX-License-Identifier: BSD-3-Clause */
/* Creations, deletions and the server's end while the store hangs: they wait,
 * and nobody else does.
 */

#include "faulty.h"

#include <signal.h>
#include <unistd.h>

static const struct faultfs_rule hold = { .fault = FAULTFS_HOLD };

/* --- creation and deletion ----------------------------------------------- */

/* Asked for on a store that hangs, while the origin is written to. */
static void
request_on_a_hanging_store (struct world *w, const char *method,
                            const char *params)
{
  struct fixture *f = w->f;
  struct control *other = control_connect (f, NULL);
  json_t *object = json_loads (params, 0, NULL);

  hold_all (f);
  control_request (other, method, "o", object);
  assert_true (faultfs_await_held (f->faults, 1));
  const double began = now ();
  /* what has been copied already needs no store */
  overwrite (w, 0, 10 * CHUNK);
  origin_is_live (w);
  assert_true (now () - began < SLACK);
  /* and who asks gets answers */
  call (w->c, "snapshot.list", NULL);
  faultfs_release (f->faults);
  const json_t *reply = control_reply (other);
  assert_non_null (json_object_get (reply, "result"));
  control_close (other);
}

static void
creation_waits_and_harms_nobody (void **state)
{
  struct world w = faulty_world (*state);
  const uint8_t *first = remember (&w);

  open_store (&w);
  create (w.c);
  overwrite (&w, 0, 10 * CHUNK);
  await_figure (w.c, 1, "bytes-in-memory", 0);
  request_on_a_hanging_store (&w, "snapshot.create", "{}");
  const uint8_t *second = remember (&w);
  overwrite_anywhere (&w);
  snapshot_is (&w, 1, first);
  snapshot_is (&w, 2, second);
  restart (&w, STOPPED);
  snapshot_is (&w, 1, first);
  snapshot_is (&w, 2, second);
}

static void
deletion_waits_and_harms_nobody (void **state)
{
  struct world w = faulty_world (*state);
  const uint8_t *first = remember (&w);

  open_store (&w);
  create (w.c);
  overwrite (&w, 0, 10 * CHUNK);
  create (w.c);
  overwrite (&w, 0, 10 * CHUNK);
  await_figure (w.c, 2, "bytes-in-memory", 0);
  request_on_a_hanging_store (&w, "snapshot.delete", "{\"snapshot\":2}");
  assert_string_equal (listed (w.c, false), "1");
  overwrite_anywhere (&w);
  snapshot_is (&w, 1, first);
  restart (&w, STOPPED);
  assert_string_equal (listed (w.c, false), "1");
  snapshot_is (&w, 1, first);
}

/* Killed in the middle of it: nobody was told of it, so it is not there. */
static void
creation_that_is_killed_leaves_nothing (void **state)
{
  static const char *const files[] = { "catalog", "snapshot-" };
  static const enum faultfs_call calls[] = { FAULTFS_WRITE, FAULTFS_SYNC };
  struct fixture *f = *state;
  struct world w = faulty_world (f);

  for (unsigned i = 0; i < 8; i++) {
    struct faultfs_rule rule = hold;

    rule.skip = i / 4;
    snprintf (rule.file, sizeof rule.file, "%s", files[i % 2]);
    open_store (&w);
    faultfs_set (f->faults, calls[i / 2 % 2], rule);
    control_request (w.c, "snapshot.create", NULL);
    if (i / 4 == 0 || i % 2 == 0)
      assert_true (faultfs_await_held (f->faults, 1));
    else
      control_reply (w.c); /* its file is written to only once */
    kill_and_release (&w);
    open_store (&w);
    assert_string_equal (listed (w.c, true),
                         i / 4 == 0 || i % 2 == 0 ? "" : "1");
    if (i / 4 == 1 && i % 2 == 1)
      delete (&w, 1);
    await_listed (w.c, true, "");
    end (&w, STOPPED);
    assert_null (read_catalog (f)->making);
    assert_int_equal (files_like (store_directory (f), "snapshot-"), 0);
  }
}

/* --- ending -------------------------------------------------------------- */

static void
a_server_ends_without_a_store_that_hangs (void **state)
{
  struct fixture *f = *state;
  struct world w = faulty_world (f);
  const uint8_t *then = remember (&w);

  serve_store (&w, "snapshot=no", "cow-timeout=1", NULL);
  create (w.c);
  mark_of (f, 1); /* is left, if all gets on as far as that */
  overwrite_anywhere (&w);
  await_figure (w.c, 1, "bytes-in-memory", 0);
  kill (faultfs_pid (f->faults), SIGSTOP);
  control_close (w.c);
  while (f->handle_count > 0)
    nbd_close (f->handles[--f->handle_count]);
  kill (f->server.pid, SIGTERM);
  assert_true (ends (f->server.pid, 120));
  server_wait (&f->server);
  kill (faultfs_pid (f->faults), SIGCONT);
  open_store (&w);
  if (has_level (f, "async"))
    snapshot_is_broken (&w, 1, ""); /* by a mark or by its level */
  else
    snapshot_is (&w, 1, then);
  origin_is_live (&w);
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
    fixture_test (creation_waits_and_harms_nobody),
    fixture_test (deletion_waits_and_harms_nobody),
    fixture_test (creation_that_is_killed_leaves_nothing),
    fixture_test (a_server_ends_without_a_store_that_hangs),
  };

  if (!private_mounts () || access ("/dev/fuse", R_OK | W_OK) == -1)
    return 77;
  return RUN_VARIANTS ("store-hang-requests", tests, variants);
}
