/* SPDX-License-Identifier: BSD-3-Clause */
/* Chunks that could not be read on the origin when they were to be copied:
 * they stay lost, and the others good, also for the next server.
 */

#include "faultfs.h"
#include "store.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

/* The chunk that cannot be read. */
#define BAD 67

/* The image is on a file system of ours, the store is not. */
static struct world
bad_world (struct fixture *f)
{
  const char *directory = text (f, "%s/disk", f->server.dir);

  assert_int_equal (mkdir (directory, 0700), 0);
  f->faults = faultfs_mount (directory);
  assert_non_null (f->faults);
  snprintf (f->image, sizeof f->image, "%s/image", directory);
  return new_world (f);
}

static void
go_bad (struct fixture *f)
{
  faultfs_set (f->faults, FAULTFS_READ,
               (struct faultfs_rule){ .fault = FAULTFS_FAIL,
                                      .error = EIO,
                                      .offset = BAD * CHUNK,
                                      .length = CHUNK });
}

static void
go_good (struct fixture *f)
{
  faultfs_set (f->faults, FAULTFS_READ, (struct faultfs_rule){ 0 });
}

/* All but the bad chunk reads as it was. */
static void
one_chunk_is_lost (struct world *w, int snapnumber, const uint8_t *then)
{
  struct nbd_handle *nbd
      = connect_to (w->f, text (w->f, "snapshot/%d", snapnumber));
  const uint64_t bad = BAD * CHUNK, after = bad + CHUNK;
  struct extent extents[8];
  uint8_t buf[CHUNK];

  reads_as (nbd, 0, then, bad);
  reads_as (nbd, after, then + after, SIZE - after);
  fails (nbd_pread (nbd, buf, 1, bad, 0), EIO);
  fails (nbd_pread (nbd, buf, 1, after - 1, 0), EIO);
  fails (nbd_pread (nbd, buf, CHUNK, bad - 100, 0), EIO);
  /* block status must not call it a hole, which would read as zeros */
  const unsigned count = extents_of (nbd, 0, SIZE, extents, 8);
  for (unsigned i = 0; i < count; i++)
    if (extents[i].offset <= bad && bad < extents[i].offset + extents[i].length)
      assert_int_equal (extents[i].flags, 0);
  close_readers (w);
  await_figure (w->c, snapnumber, "clients", 0);
}

static void
lost_chunks_stay_lost (void **state)
{
  struct world w = bad_world (*state);
  const uint8_t *then = remember (&w);

  open_store (&w);
  create (w.c);
  go_bad (w.f);
  overwrite (&w, (BAD - 2) * CHUNK, 5 * CHUNK);
  go_good (w.f);
  const json_t *before = info (w.c, 1);
  assert_int_equal (number (before, "chunks-lost"), 1);
  for (enum ending ending = 0; ending < ENDINGS; ending++) {
    overwrite_anywhere (&w);
    restart (&w, ending);
    assert_int_equal (figure (w.c, 1, "chunks-lost"), 1);
    one_chunk_is_lost (&w, 1, then);
    overwrite_anywhere (&w);
    one_chunk_is_lost (&w, 1, then);
    origin_is_live (&w);
  }
}

/* They are lost to older ones too, and to no newer one. */
static void
lost_chunks_are_lost_to_older_ones (void **state)
{
  struct world w = bad_world (*state);
  const uint8_t *first = remember (&w);

  open_store (&w);
  create (w.c);
  overwrite (&w, 0, 10 * CHUNK);
  const uint8_t *second = remember (&w);
  create (w.c);
  go_bad (w.f);
  overwrite (&w, BAD * CHUNK + 100, 1000);
  go_good (w.f);
  /* what the client did not write of the chunk is as it was */
  const uint8_t *third = remember (&w);
  create (w.c);
  overwrite_anywhere (&w);
  for (enum ending ending = 0; ending < ENDINGS; ending++) {
    restart (&w, ending);
    one_chunk_is_lost (&w, 1, first);
    one_chunk_is_lost (&w, 2, second);
    snapshot_is (&w, 3, third);
  }
  /* also when the layer that says so is deleted */
  delete (&w, 2);
  for (enum ending ending = 0; ending < ENDINGS; ending++) {
    restart (&w, ending);
    assert_string_equal (listed (w.c, false), "1 3");
    one_chunk_is_lost (&w, 1, first);
    snapshot_is (&w, 3, third);
  }
}

/* The disk is going: that is when its snapshots matter most.  The sector is
 * one of those that tell whether the origin was changed.
 */
static void
a_sector_that_stays_bad_costs_no_snapshot (void **state)
{
  struct world w = bad_world (*state);
  const uint8_t *then = remember (&w);

  open_store (&w);
  create (w.c);
  overwrite (&w, 0, 20 * CHUNK);
  go_bad (w.f);
  overwrite (&w, BAD * CHUNK, CHUNK);
  for (enum ending ending = 0; ending < ENDINGS; ending++) {
    restart (&w, ending);
    one_chunk_is_lost (&w, 1, then);
  }
}

/* It goes bad while no server runs. */
static void
a_sector_that_went_bad_costs_no_more_than_itself (void **state)
{
  struct world w = bad_world (*state);
  const uint8_t *then = remember (&w);

  open_store (&w);
  create (w.c);
  overwrite (&w, 0, 20 * CHUNK);
  end (&w, KILLED);
  go_bad (w.f);
  open_store (&w);
  one_chunk_is_lost (&w, 1, then);
  go_good (w.f);
  snapshot_is (&w, 1, then);
}

/* The same after a clean stop, although it is one of those that tell whether
 * the origin was changed: then the others have to do.
 */
static void
a_sector_that_went_bad_keeps_no_server_from_starting (void **state)
{
  struct world w = bad_world (*state);
  const uint8_t *then = remember (&w);

  open_store (&w);
  create (w.c);
  overwrite (&w, 0, 20 * CHUNK);
  end (&w, STOPPED);
  const struct timespec mtime = file_time (w.f->image);
  go_bad (w.f);
  for (unsigned i = 0; i < 2; i++) {
    open_store (&w);
    reads_as (w.origin, 0, w.live, BAD * CHUNK);
    one_chunk_is_lost (&w, 1, then);
    end (&w, STOPPED);
  }
  go_good (w.f);
  set_file_time (w.f->image, mtime);
  open_store (&w);
  snapshot_is (&w, 1, then);
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
    fixture_test (lost_chunks_stay_lost),
    fixture_test (lost_chunks_are_lost_to_older_ones),
    fixture_test (a_sector_that_stays_bad_costs_no_snapshot),
    fixture_test (a_sector_that_went_bad_costs_no_more_than_itself),
    fixture_test (a_sector_that_went_bad_keeps_no_server_from_starting),
  };

  if (!private_mounts () || access ("/dev/fuse", R_OK | W_OK) == -1)
    return 77;
  return RUN_VARIANTS ("store-lost", tests, variants);
}
