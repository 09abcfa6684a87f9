/* SPDX-License-Identifier: BSD-3-Clause */
/* Backing files that hang: the origin goes on, and the next server knows what
 * that has cost.
 */

#include "faulty.h"

#include <errno.h>
#include <unistd.h>

static const struct faultfs_rule hold = { .fault = FAULTFS_HOLD };

/* Only the backing file does: the catalogue is told. */
static void
a_backing_file_that_hangs_breaks_the_snapshot (void **state)
{
  struct fixture *f = *state;
  struct world w = faulty_world (f);
  struct faultfs_rule rule = hold;

  /* With so little memory async has to wait too. */
  serve_store (&w, "snapshot=no", "max-memory=1M", NULL);
  create_as (&w, "'options':{" IMPATIENT "}");
  const char *mark = mark_of (f, 1);
  snprintf (rule.file, sizeof rule.file, "snapshot-");
  faultfs_set (f->faults, FAULTFS_WRITE, rule);
  hang_breaks (&w);
  assert_int_equal (access (mark, F_OK), -1);
  kill_and_release (&w);
  open_store (&w);
  snapshot_is_broken (&w, 1, "cow-timeout");
}

static void
a_barrier_that_hangs_breaks_the_snapshot (void **state)
{
  struct fixture *f = *state;
  struct world w = faulty_world (f);
  struct faultfs_rule rule = hold;

  if (!has_level (f, "stable"))
    skip ();
  open_store (&w);
  create_as (&w, "'options':{" IMPATIENT "}");
  snprintf (rule.file, sizeof rule.file, "snapshot-");
  faultfs_set (f->faults, FAULTFS_SYNC, rule);
  hang_breaks (&w);
  kill_and_release (&w);
  open_store (&w);
  snapshot_is_broken (&w, 1, "cow-timeout");
}

/* break-write: nothing is lost, so nothing need be told. */
static void
a_hang_fails_the_write (void **state)
{
  struct fixture *f = *state;
  struct world w = faulty_world (f);
  const uint8_t *then = remember (&w), *new = pattern (f, 9, 0, SIZE);

  if (has_level (f, "async"))
    skip ();
  open_store (&w);
  create_as (&w, "'options':{'on-error':'break-write'," IMPATIENT "}");
  const char *mark = mark_of (f, 1);
  overwrite (&w, 0, 10 * CHUNK);
  hold_all (f);
  const double began = now ();
  fails (nbd_pwrite (w.origin, new, SIZE, 0, 0), EIO);
  assert_true (now () - began < 1 + MARK + SLACK);
  overwrite (&w, 0, 10 * CHUNK); /* copied already */
  snapshot_is (&w, 1, then);
  origin_is_live (&w);
  assert_int_equal (access (mark, F_OK), -1);
  kill_and_release (&w);
  open_store (&w);
  snapshot_is (&w, 1, then);
  origin_is_live (&w);
  overwrite (&w, 0, SIZE);
  snapshot_is (&w, 1, then);
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
    fixture_test (a_backing_file_that_hangs_breaks_the_snapshot),
    fixture_test (a_barrier_that_hangs_breaks_the_snapshot),
    fixture_test (a_hang_fails_the_write),
  };

  if (!private_mounts () || access ("/dev/fuse", R_OK | W_OK) == -1)
    return 77;
  return RUN_VARIANTS ("store-hang", tests, variants);
}
