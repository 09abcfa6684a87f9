/* SPDX-License-Identifier: BSD-3-Clause */
/* A store without room: a small tmpfs of our own.  What breaks says so, also
 * to the next server; what can still be done is done.
 */

#include "store.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#define STEP 65536

/* The store is on a file system mounted with these options. */
static struct world
small_world (struct fixture *f, const char *options)
{
  struct world w = new_world (f);

  snprintf (f->mount, sizeof f->mount, "%s", store_directory (f));
  assert_int_equal (mkdir (f->mount, 0700), 0);
  assert_int_equal (mount ("fssnap-test", f->mount, "tmpfs", 0, options), 0);
  return w;
}

static uint64_t
free_blocks (const struct fixture *f)
{
  struct statvfs st;

  assert_int_equal (statvfs (f->mount, &st), 0);
  return st.f_bfree;
}

/* Take all the room there is, but for BLOCKS. */
static const char *
fill_up (struct fixture *f, unsigned blocks)
{
  const char *path = text (f, "%s/filler", f->mount);
  const int fd = open (path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  uint8_t page[4096] = { 1 };

  assert_int_not_equal (fd, -1);
  while (free_blocks (f) > blocks)
    assert_int_equal (write (fd, page, sizeof page), sizeof page);
  close (fd);
  return path;
}

/* Broken for want of space, said so in the catalogue before the write that
 * it could not keep up with was answered.
 */
static void
is_broken_for_good (struct world *w)
{
  for (enum ending ending = KILLED;; ending = STOPPED) {
    snapshot_is_broken (w, 1, "No space left on device");
    assert_string_equal (string (info (w->c, 1), "broken-errno"), "ENOSPC");
    origin_is_live (w);
    if (ending == STOPPED)
      break;
    restart (w, ending);
  }
}

static void
a_full_store_breaks_the_snapshot (void **state)
{
  struct world w = small_world (*state, "size=400k");

  open_store (&w);
  create (w.c);
  for (uint64_t offset = 0; offset < SIZE; offset += STEP)
    overwrite (&w, offset, STEP);
  if (has_level (w.f, "async"))
    await_broken (&w, 1);
  else
    restart (&w, KILLED);
  is_broken_for_good (&w);
}

/* Not even room for the first chunk of a snapshot. */
static void
a_first_copy_without_room_breaks_the_snapshot (void **state)
{
  struct world w = small_world (*state, "size=400k");

  open_store (&w);
  create (w.c);
  fill_up (w.f, 0);
  overwrite (&w, 5 * CHUNK, CHUNK);
  if (has_level (w.f, "async"))
    await_broken (&w, 1);
  else
    restart (&w, KILLED);
  is_broken_for_good (&w);
}

/* break-write keeps it whole. */
static void
a_full_store_fails_the_write (void **state)
{
  struct world w = small_world (*state, "size=400k");
  const uint8_t *then = remember (&w);
  uint64_t offset;

  if (has_level (w.f, "async"))
    skip ();
  open_store (&w);
  create_as (&w, "'options':{'on-error':'break-write'}");
  const uint8_t *new = pattern (w.f, 9, 0, SIZE);
  for (offset = 0; offset < SIZE; offset += STEP) {
    if (nbd_pwrite (w.origin, new + offset, STEP, offset, 0) == -1)
      break;
    memcpy (w.live + offset, new + offset, STEP);
  }
  assert_true (offset > 0 && offset < SIZE);
  assert_int_equal (nbd_get_errno (), ENOSPC);
  snapshot_is (&w, 1, then);
  origin_is_live (&w);
  static const enum ending endings[] = { KILLED, STOPPED, KILLED_WHILE_ENDING };
  for (unsigned i = 0; i < 3; i++) {
    restart (&w, endings[i]);
    snapshot_is (&w, 1, then);
    origin_is_live (&w);
    fails (nbd_pwrite (w.origin, new + offset, STEP, offset, 0), ENOSPC);
    snapshot_is (&w, 1, then);
    origin_is_live (&w);
  }
  /* once there is room, so can everything */
  assert_int_equal (mount (NULL, w.f->mount, NULL, MS_REMOUNT, "size=16m"), 0);
  overwrite (&w, 0, SIZE);
  snapshot_is (&w, 1, then);
}

/* What is asked of a store that is full to the last block. */

static void
a_stop_keeps_everything (void **state)
{
  struct world w = small_world (*state, "size=2m");
  const uint8_t *then = remember (&w);

  open_store (&w);
  create (w.c);
  overwrite (&w, 0, SIZE);
  await_figure (w.c, 1, "bytes-in-memory", 0);
  /* The index of an async one is written at the end, for which there must be
   * room.
   */
  fill_up (w.f, has_level (w.f, "async") ? 2 : 0);
  for (enum ending ending = 0; ending < ENDINGS; ending++) {
    if (ending == KILLED && has_level (w.f, "async"))
      continue;
    restart (&w, ending);
    snapshot_is (&w, 1, then);
  }
}

/* If there is none, it was kept in vain, but is not taken for whole. */
static void
a_stop_without_room_for_the_index_breaks_it (void **state)
{
  struct world w = small_world (*state, "size=2m");

  if (!has_level (w.f, "async"))
    skip ();
  open_store (&w);
  create (w.c);
  overwrite (&w, 0, SIZE);
  await_figure (w.c, 1, "bytes-in-memory", 0);
  fill_up (w.f, 0);
  restart (&w, STOPPED);
  snapshot_is_broken (&w, 1, "No space left on device");
  origin_is_live (&w);
}

/* An async one may have had no room for its index when the server ended: then
 * it says so.
 */
static void
is_exact_or_had_no_room (struct world *w, int number, const uint8_t *then)
{
  if (has_level (w->f, "async")
      && strcmp (state_of (w, number), "disabled") == 0)
    snapshot_is_broken (w, number, "No space left on device");
  else
    snapshot_is (w, number, then);
}

static void
deletion_needs_no_room (void **state)
{
  struct world w = small_world (*state, "size=2m");

  open_store (&w);
  const uint64_t empty = free_blocks (w.f);
  create_as (&w, "'name':'oldest'");
  overwrite (&w, 0, SIZE / 2);
  const uint8_t *then = remember (&w);
  create_as (&w, "'name':'newest'");
  overwrite (&w, SIZE / 2, SIZE / 2);
  await_figure (w.c, 2, "bytes-in-memory", 0);
  const char *filler = fill_up (w.f, 0);
  delete (&w, 1);
  await_listed (w.c, true, "2");
  assert_true (free_blocks (w.f) >= SIZE / 2 / 4096);
  snapshot_is (&w, 2, then);
  const char *rest = text (w.f, "%s/rest", w.f->mount);
  assert_int_equal (rename (filler, rest), 0);
  fill_up (w.f, 0);
  restart (&w, STOPPED);
  assert_string_equal (listed (w.c, true), "2");
  is_exact_or_had_no_room (&w, 2, then);
  delete (&w, 2);
  await_listed (w.c, true, "");
  assert_int_equal (unlink (filler), 0);
  assert_int_equal (unlink (rest), 0);
  restart (&w, STOPPED);
  assert_string_equal (listed (w.c, true), "");
  /* The catalogue may have become longer. */
  assert_true (free_blocks (w.f) + 16 >= empty);
}

static void
a_creation_without_room_is_refused (void **state)
{
  struct world w = small_world (*state, "size=2m");
  const uint8_t *then = remember (&w);

  open_store (&w);
  create (w.c);
  overwrite (&w, 0, SIZE / 2);
  await_figure (w.c, 1, "bytes-in-memory", 0);
  const char *filler = fill_up (w.f, 0);
  const unsigned files = files_like (w.f->mount, "snapshot-");
  const json_t *error = call_fails (w.c, FAILED, "snapshot.create", NULL);
  assert_true (
      has_words (string (error, "message"), "No space left on device"));
  assert_string_equal (listed (w.c, true), "1");
  assert_int_equal (files_like (w.f->mount, "snapshot-"), files);
  snapshot_is (&w, 1, then);
  restart (&w, STOPPED);
  assert_string_equal (listed (w.c, true), "1");
  is_exact_or_had_no_room (&w, 1, then);
  assert_int_equal (unlink (filler), 0);
  assert_int_equal (create (w.c), 2);
}

/* --- making one ---------------------------------------------------------- */

static void
a_new_store_without_room_is_refused (void **state)
{
  struct fixture *f = *state;

  small_world (f, "size=16k");
  fill_up (f, 0);
  const struct outcome *o = run_nbdkit (
      f, "-U", "-", getenv ("FSSNAP_PLUGIN"), text (f, "origin=%s", f->image),
      store_parameter (f), "--run", "true", NULL);
  assert_int_equal (WEXITSTATUS (o->status), 1);
  assert_true (has_words (o->err, store_directory (f)));
  assert_true (has_words (o->err, "No space left on device"));
}

int
main (void)
{
  static const struct variant variants[] = {
    { .name = "async", .parameters = { "io=uring", "durability=async" } },
    { .name = "written", .parameters = { "io=uring", "durability=written" } },
    { .name = "stable, sync",
      .parameters = { "io=sync", "durability=stable" } },
  };
  const struct CMUnitTest tests[] = {
    fixture_test (a_full_store_breaks_the_snapshot),
    fixture_test (a_first_copy_without_room_breaks_the_snapshot),
    fixture_test (a_full_store_fails_the_write),
    fixture_test (a_stop_keeps_everything),
    fixture_test (a_stop_without_room_for_the_index_breaks_it),
    fixture_test (deletion_needs_no_room),
    fixture_test (a_creation_without_room_is_refused),
    fixture_test (a_new_store_without_room_is_refused),
  };

  if (!private_mounts ())
    return 77;
  return RUN_VARIANTS ("store-full", tests, variants);
}
