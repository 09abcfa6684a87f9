/* SPDX-License-Identifier: BSD-3-Clause */
/* A store that hangs altogether cannot be told that a snapshot is broken: a
 * mark in shared memory tells the next server.
 */

#include "faulty.h"

#include <fcntl.h>
#include <pwd.h>
#include <signal.h>
#include <unistd.h>

/* Nothing in the store can be told. */
static void
a_store_that_hangs_leaves_a_mark (void **state)
{
  struct fixture *f = *state;
  struct world w = faulty_world (f);

  open_store (&w);
  create_as (&w, "'options':{" IMPATIENT "}");
  const char *mark = mark_of (f, 1);
  hold_all (f);
  hang_breaks (&w);
  assert_int_equal (access (mark, F_OK), 0);
  kill_and_release (&w);
  open_store (&w);
  snapshot_is_broken (&w, 1, "");
  /* the catalogue knows it now */
  assert_int_equal (access (mark, F_OK), -1);
  assert_non_null (layer_of (f, read_catalog (f), 1)->broken_reason);
  restart (&w, KILLED);
  snapshot_is_broken (&w, 1, "");
  delete (&w, 1);
  restart (&w, STOPPED);
  assert_string_equal (listed (w.c, true), "");
}

/* It does not even take what is sent. */
static void
a_store_that_is_gone_leaves_a_mark (void **state)
{
  struct fixture *f = *state;
  struct world w = faulty_world (f);

  open_store (&w);
  create_as (&w, "'options':{" IMPATIENT "}");
  const char *mark = mark_of (f, 1);
  kill (faultfs_pid (f->faults), SIGSTOP);
  hang_breaks (&w);
  assert_int_equal (access (mark, F_OK), 0);
  end (&w, KILLED);
  kill (faultfs_pid (f->faults), SIGCONT);
  open_store (&w);
  snapshot_is_broken (&w, 1, "");
  assert_int_equal (access (mark, F_OK), -1);
  restart (&w, KILLED);
  snapshot_is_broken (&w, 1, "");
}

/* The store comes back while the server runs: then it is told. */
static void
a_mark_goes_when_the_store_is_back (void **state)
{
  struct fixture *f = *state;
  struct world w = faulty_world (f);

  open_store (&w);
  create_as (&w, "'options':{" IMPATIENT "}");
  const char *mark = mark_of (f, 1);
  hold_all (f);
  hang_breaks (&w);
  assert_int_equal (access (mark, F_OK), 0);
  faultfs_release (f->faults);
  restart (&w, STOPPED);
  assert_int_equal (access (mark, F_OK), -1);
  snapshot_is_broken (&w, 1, "cow-timeout");
}

static void
a_mark_goes_with_its_snapshot (void **state)
{
  struct fixture *f = *state;
  struct world w = faulty_world (f);

  open_store (&w);
  create_as (&w, "'options':{" IMPATIENT "}");
  const char *mark = mark_of (f, 1);
  hold_all (f);
  hang_breaks (&w);
  assert_int_equal (access (mark, F_OK), 0);
  faultfs_release (f->faults);
  delete (&w, 1);
  await_listed (w.c, true, "");
  end (&w, STOPPED);
  assert_int_equal (access (mark, F_OK), -1);
}

/* Anyone may make files there, and must break nobody's snapshots by that. */
static void
a_mark_of_another_user_is_no_matter (void **state)
{
  struct fixture *f = *state;
  struct world w = new_world (f);
  const uint8_t *then = remember (&w);
  const struct passwd *nobody = getpwnam ("nobody");

  if (geteuid () != 0 || nobody == NULL)
    skip ();
  open_store (&w);
  create (w.c);
  const char *mark = mark_of (f, 1);
  overwrite_anywhere (&w);
  end (&w, KILLED);
  close (open (mark, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  assert_int_equal (chown (mark, nobody->pw_uid, nobody->pw_gid), 0);
  open_store (&w);
  snapshot_is (&w, 1, then);
}

/* What the server leaves, as it leaves it. */
static void
a_mark_is_believed (void **state)
{
  struct fixture *f = *state;
  struct world w = new_world (f);

  open_store (&w);
  create (w.c);
  create (w.c);
  const char *mark = mark_of (f, 2);
  const uint8_t *third = remember (&w);
  create (w.c);
  end (&w, KILLED);
  close (open (mark, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  for (unsigned i = 0; i < 2; i++) {
    open_store (&w);
    snapshot_is_broken (&w, 2, "hung");
    assert_int_equal (figure (w.c, 1, "blocked-by"), 2);
    overwrite_anywhere (&w);
    snapshot_is (&w, 3, third);
    assert_int_equal (access (mark, F_OK), -1);
    end (&w, KILLED);
  }
}

int
main (void)
{
  static const struct variant variants[] = {
    { .name = "written", .parameters = { "io=uring", "durability=written" } },
    { .name = "stable, sync",
      .parameters = { "io=sync", "durability=stable" } },
  };
  const struct CMUnitTest tests[] = {
    fixture_test (a_store_that_hangs_leaves_a_mark),
    fixture_test (a_store_that_is_gone_leaves_a_mark),
    fixture_test (a_mark_goes_when_the_store_is_back),
    fixture_test (a_mark_goes_with_its_snapshot),
    fixture_test (a_mark_of_another_user_is_no_matter),
    fixture_test (a_mark_is_believed),
  };

  if (!private_mounts () || access ("/dev/fuse", R_OK | W_OK) == -1)
    return 77;
  return RUN_VARIANTS ("store-mark", tests, variants);
}
