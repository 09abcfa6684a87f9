/* SPDX-License-Identifier: BSD-3-Clause */
/* A store on a file system that cannot exchange two files (NFS is one): there
 * a new catalogue is renamed to the old one's name.
 */

#include "faulty.h"

#include <errno.h>
#include <unistd.h>

static struct world
plain_world (struct fixture *f)
{
  struct world w = faulty_world (f);

  faultfs_refuse_exchange (f->faults);
  return w;
}

/* Calls of a kind that the catalogue's files get from now on: the one after
 * SKIP of them goes wrong.
 */
static void
set_fault (struct fixture *f, enum faultfs_call call, enum faultfs_fault fault,
           unsigned skip)
{
  faultfs_set (f->faults, call,
               (struct faultfs_rule){ .fault = fault,
                                      .file = "catalog",
                                      .error = EIO,
                                      .skip = skip,
                                      .times = 1 });
}

static void
snapshots_come_back (void **state)
{
  struct world w = plain_world (*state);
  const uint8_t *then[8];
  int count = 0;

  open_store (&w);
  for (enum ending ending = 0; ending < ENDINGS; ending++) {
    for (unsigned i = 0; i < 2; i++) {
      then[++count] = remember (&w);
      assert_int_equal (create (w.c), count);
      overwrite_anywhere (&w);
    }
    create_as (&w, "'name':'gone'");
    overwrite_anywhere (&w);
    delete (&w, count + 1);
    restart (&w, ending);
    for (int i = 1; i <= count; i++)
      snapshot_is (&w, i, then[i]);
    origin_is_live (&w);
  }
  create_as (&w, "'name':'small','options':{'maxsize':'4k'}");
  overwrite (&w, 0, SIZE);
  restart (&w, KILLED);
  snapshot_is_broken (&w, count + 1, "maxsize");
}

/* Who looks into a store while a server runs always finds a catalogue. */
static void
there_is_a_catalogue_at_each_moment (void **state)
{
  struct fixture *f = *state;
  struct world w = plain_world (f);

  open_store (&w);
  for (unsigned i = 0; i < 12; i++) {
    const enum faultfs_call call = i % 2 == 0 ? FAULTFS_WRITE : FAULTFS_SYNC;

    set_fault (f, call, FAULTFS_HOLD, i / 2);
    control_request (w.c, "snapshot.create", NULL);
    if (i / 2 < 3)
      assert_true (faultfs_await_held (f->faults, 1));
    read_catalog (f);
    faultfs_release (f->faults);
    assert_non_null (json_object_get (control_reply (w.c), "result"));
    read_catalog (f);
    delete (&w, 1);
    await_listed (w.c, true, "");
  }
}

/* Killed while it is written: before that nothing has been promised. */
static void
a_kill_in_the_middle_does_no_harm (void **state)
{
  struct fixture *f = *state;
  struct world w = plain_world (f);
  const uint8_t *then = remember (&w);

  open_store (&w);
  create (w.c);
  overwrite_anywhere (&w);
  for (unsigned i = 0; i < 6; i++) {
    const enum faultfs_call call = i % 2 == 0 ? FAULTFS_WRITE : FAULTFS_SYNC;

    set_fault (f, call, FAULTFS_HOLD, i / 2);
    control_request (w.c, "snapshot.create", NULL);
    assert_true (faultfs_await_held (f->faults, 1));
    kill_and_release (&w);
    open_store (&w);
    assert_string_equal (listed (w.c, false), "1");
    snapshot_is (&w, 1, then);
    overwrite_anywhere (&w);
  }
  delete (&w, 1);
  await_listed (w.c, true, "");
  end (&w, STOPPED);
  assert_null (read_catalog (f)->making);
  assert_int_equal (files_like (store_directory (f), "snapshot-"), 0);
}

/* Also of its directory: by then the new one is in place, and the old one has
 * gone, so that what failed may have been done.
 */
static void
a_failure_in_the_middle_does_no_harm (void **state)
{
  static const char *const files[] = { "catalog", "." };
  struct fixture *f = *state;
  struct world w = plain_world (f);
  const uint8_t *then = remember (&w);

  open_store (&w);
  create (w.c);
  overwrite_anywhere (&w);
  for (unsigned i = 0; i < 30; i++) {
    struct faultfs_rule rule = {
      .fault = FAULTFS_FAIL, .error = EIO, .skip = i / 3 % 5, .times = 1
    };

    snprintf (rule.file, sizeof rule.file, "%s", files[i % 3 == 2]);
    faultfs_set (f->faults, i % 3 == 0 ? FAULTFS_WRITE : FAULTFS_SYNC, rule);
    control_request (w.c, "snapshot.create", NULL);
    const json_t *reply = control_reply (w.c);
    faultfs_release (f->faults);
    if (json_object_get (reply, "result") != NULL)
      delete (&w, 2);
    if (i % 4 == 0)
      restart (&w, KILLED);
    overwrite (&w, i * 3 * CHUNK, CHUNK);
    assert_string_equal (listed (w.c, false), "1");
    snapshot_is (&w, 1, then);
  }
  delete (&w, 1);
  await_listed (w.c, true, "");
  restart (&w, STOPPED);
  end (&w, STOPPED);
  assert_int_equal (files_like (store_directory (f), "snapshot-"), 0);
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
    fixture_test (snapshots_come_back),
    fixture_test (there_is_a_catalogue_at_each_moment),
    fixture_test (a_kill_in_the_middle_does_no_harm),
    fixture_test (a_failure_in_the_middle_does_no_harm),
  };

  if (!private_mounts () || access ("/dev/fuse", R_OK | W_OK) == -1)
    return 77;
  return RUN_VARIANTS ("store-exchange", tests, variants);
}
