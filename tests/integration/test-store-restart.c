/* SPDX-License-Identifier: BSD-3-Clause */
/* What comes back when a server ends and starts again: the snapshots, each
 * exactly, with all that is said of them.
 */

#include "store.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

/* Every ending that the variant's snapshots live through. */
static bool
ending_keeps (const struct fixture *f, enum ending ending)
{
  return ending != KILLED || !has_level (f, "async");
}

#define for_each_ending(f, ending)                                             \
  for (enum ending ending = 0; ending < ENDINGS; ending++)                     \
    if (ending_keeps (f, ending))

/* --- what they read as --------------------------------------------------- */

static void
one_is_exact (void **state)
{
  struct world w = new_world (*state);
  const uint8_t *then = remember (&w);

  open_store (&w);
  create (w.c);
  for_each_ending (w.f, ending)
  {
    overwrite_anywhere (&w);
    restart (&w, ending);
    assert_string_equal (listed (w.c, true), "1");
    snapshot_is (&w, 1, then);
    origin_is_live (&w);
    /* and goes on to be */
    overwrite_anywhere (&w);
    snapshot_is (&w, 1, then);
  }
  overwrite (&w, 0, SIZE);
  restart (&w, STOPPED);
  snapshot_is (&w, 1, then);
}

static void
one_that_copied_nothing_is_exact (void **state)
{
  struct world w = new_world (*state);
  const uint8_t *then = remember (&w);

  open_store (&w);
  create (w.c);
  for_each_ending (w.f, ending)
  {
    restart (&w, ending);
    snapshot_is (&w, 1, then);
  }
  overwrite (&w, 0, SIZE);
  snapshot_is (&w, 1, then);
}

static void
several_are_exact (void **state)
{
  struct world w = new_world (*state);
  const uint8_t *then[16];
  int count = 0;

  open_store (&w);
  for_each_ending (w.f, ending)
  {
    for (unsigned i = 0; i < 3; i++) {
      then[count++] = remember (&w);
      assert_int_equal (create (w.c), count);
      overwrite_anywhere (&w);
    }
    restart (&w, ending);
    for (int i = 0; i < count; i++)
      snapshot_is (&w, i + 1, then[i]);
    overwrite_anywhere (&w);
    for (int i = 0; i < count; i++)
      snapshot_is (&w, i + 1, then[i]);
    origin_is_live (&w);
  }
}

static void
chunk_sizes_may_differ (void **state)
{
  static const char *const sizes[] = { "64k", "512", "4k", "1M", "8k" };
  struct world w = new_world (*state);
  const uint8_t *then[5];

  open_store (&w);
  for (int i = 0; i < 5; i++) {
    then[i] = remember (&w);
    create_as (&w, text (w.f, "'options':{'chunksize':'%s'}", sizes[i]));
    overwrite (&w, 5000 * (unsigned)i + 77, 3000);
    overwrite_anywhere (&w);
  }
  for_each_ending (w.f, ending)
  {
    restart (&w, ending);
    for (int i = 0; i < 5; i++)
      snapshot_is (&w, i + 1, then[i]);
    overwrite_anywhere (&w);
  }
  for (int i = 0; i < 5; i++)
    snapshot_is (&w, i + 1, then[i]);
}

/* A copy of zeros is a hole; it is one, not missing. */
static void
zeros_come_back_as_zeros (void **state)
{
  struct world w = new_world (*state);

  open_store (&w);
  memset (w.live + SIZE / 4, 0, SIZE / 2);
  ok (nbd_zero (w.origin, SIZE / 2, SIZE / 4, 0));
  const uint8_t *then = remember (&w);
  create (w.c);
  overwrite (&w, 0, SIZE);
  for_each_ending (w.f, ending)
  {
    restart (&w, ending);
    snapshot_is (&w, 1, then);
  }
}

static void
block_status_comes_back (void **state)
{
  struct world w = new_world (*state);
  struct extent before[64], after[64];

  open_store (&w);
  ok (nbd_zero (w.origin, SIZE / 2, SIZE / 4, 0));
  create (w.c);
  for (unsigned i = 0; i < 8; i++)
    overwrite (&w, i * (SIZE / 8) + 8192, 20000);
  const unsigned count
      = extents_of (connect_to (w.f, "snapshot/1"), 0, SIZE, before, 64);
  assert_true (count > 1);
  for_each_ending (w.f, ending)
  {
    restart (&w, ending);
    assert_int_equal (
        extents_of (connect_to (w.f, "snapshot/1"), 0, SIZE, after, 64), count);
    for (unsigned i = 0; i < count; i++) {
      assert_int_equal (after[i].length, before[i].length);
      assert_int_equal (after[i].flags, before[i].flags);
    }
  }
}

/* An origin whose size is a multiple of nothing. */
static void
odd_sizes_come_back (void **state)
{
  struct fixture *f = *state;
  const size_t size = 123457;
  const uint8_t *then = make_image (f, size);
  struct world w = { .f = f };

  open_store (&w);
  create (w.c);
  for_each_ending (f, ending)
  {
    ok (nbd_pwrite (w.origin, pattern (f, 2, 0, 5000), 5000, size - 5000, 0));
    restart (&w, ending);
    struct nbd_handle *nbd = connect_to (f, "snapshot/1");
    assert_int_equal (nbd_get_size (nbd), size);
    reads_as (nbd, 0, then, size);
  }
}

/* --- what is said of them ------------------------------------------------ */

static void
all_that_is_said_comes_back (void **state)
{
  struct world w = new_world (*state);
  const json_t *before[4];

  open_store (&w);
  create_as (&w, "'name':'first'");
  overwrite_anywhere (&w);
  create_as (&w, "'options':{'chunksize':'64k','maxsize':'3M',"
                 "'cow-timeout':7}");
  overwrite_anywhere (&w);
  create_as (&w, "'name':'third.one','options':{'chunksize':512,"
                 "'backfile-size':'512k'}");
  overwrite_anywhere (&w);
  for_each_ending (w.f, ending)
  {
    /* What is on its way is not said afterwards. */
    for (int i = 1; i <= 3; i++)
      await_figure (w.c, i, "bytes-in-memory", 0);
    for (int i = 1; i <= 3; i++)
      before[i] = info (w.c, i);
    end (&w, ending);
    /* Not as the new server would make one. */
    serve_store (&w, "snapshot=no", "chunksize=1M", "maxsize=64M", NULL);
    assert_string_equal (listed (w.c, true), "1 2 3");
    for (int i = 1; i <= 3; i++)
      same_figures (before[i], info (w.c, i), KEPT_FIGURES);
  }
}

static void
counters_come_back_after_a_clean_stop (void **state)
{
  struct world w = new_world (*state);
  const json_t *before[3];

  open_store (&w);
  for (int i = 1; i <= 2; i++) {
    const uint8_t *then = remember (&w);
    create (w.c);
    overwrite_anywhere (&w);
    snapshot_is (&w, i, then);
  }
  for (int i = 1; i <= 2; i++) {
    await_figure (w.c, i, "bytes-in-memory", 0);
    await_figure (w.c, i, "clients", 0);
    before[i] = info (w.c, i);
  }
  restart (&w, STOPPED);
  for (int i = 1; i <= 2; i++)
    same_figures (before[i], info (w.c, i), CLEANLY_KEPT_FIGURES);
}

static void
numbers_and_their_order_come_back (void **state)
{
  struct world w = new_world (*state);

  open_store (&w);
  for (int i = 1; i <= 5; i++)
    create (w.c);
  delete (&w, 4);
  delete (&w, 2);
  assert_int_equal (create (w.c), 2);
  delete (&w, 1);
  for_each_ending (w.f, ending)
  {
    restart (&w, ending);
    assert_string_equal (listed (w.c, false), "3 5 2");
  }
  /* the lowest that are free */
  assert_int_equal (create (w.c), 1);
  assert_int_equal (create (w.c), 4);
  assert_int_equal (create (w.c), 6);
  restart (&w, STOPPED);
  assert_string_equal (listed (w.c, false), "3 5 2 1 4 6");
  assert_int_equal (number (call (w.c, "server.info", NULL), "highest"), 6);
}

static void
names_come_back (void **state)
{
  struct world w = new_world (*state);
  const uint8_t *then = remember (&w);

  open_store (&w);
  create_as (&w, "'name':'nightly'");
  overwrite_anywhere (&w);
  for_each_ending (w.f, ending)
  {
    restart (&w, ending);
    reads_as (connect_to (w.f, "snapshot/nightly"), 0, then, SIZE);
    call_fails (w.c, EXISTS, "snapshot.create", "{s:s}", "name", "nightly");
    close_readers (&w);
  }
}

/* --- options ------------------------------------------------------------- */

static void
maxsize_counts_on (void **state)
{
  struct world w = new_world (*state);
  const uint8_t *then = remember (&w);

  open_store (&w);
  create_as (&w, "'options':{'maxsize':'96k','durability':'written',"
                 "'on-error':'break-write'}");
  overwrite (&w, 0, 32768);
  uint64_t copied = 32768;
  for (enum ending ending = STOPPED; ending <= KILLED; ending++) {
    restart (&w, ending);
    assert_int_equal (figure (w.c, 1, "bytes-copied"), copied);
    overwrite (&w, copied, 32768);
    copied += 32768;
  }
  restart (&w, KILLED);
  fails (nbd_pwrite (w.origin, "x", 1, copied, 0), ENOSPC);
  overwrite (&w, 0, copied); /* copied already: costs nothing */
  snapshot_is (&w, 1, then);
  origin_is_live (&w);
}

static void
several_files_come_back (void **state)
{
  struct world w = new_world (*state);
  const uint8_t *then = remember (&w);

  open_store (&w);
  create_as (&w, "'options':{'backfile-size':'300k'}");
  const char *first = part_of (w.f, 1, 0);
  struct stat st;
  for (unsigned i = 0; i < 4; i++) {
    const char *path = i == 0 ? first : text (w.f, "%s.%u", first, i);
    assert_string_equal (part_of (w.f, 1, i), path);
    assert_int_equal (stat (path, &st), 0);
    assert_in_range (st.st_size, 1, 300 << 10);
  }
  for_each_ending (w.f, ending)
  {
    overwrite_anywhere (&w);
    restart (&w, ending);
    snapshot_is (&w, 1, then);
  }
  overwrite (&w, 0, SIZE);
  restart (&w, STOPPED);
  snapshot_is (&w, 1, then);
  delete (&w, 1);
  await_listed (w.c, true, "");
  end (&w, STOPPED);
  assert_int_equal (files_like (store_directory (w.f), "snapshot-"), 0);
}

/* backing-store=: a directory elsewhere, or a new file. */
static void
files_elsewhere_are_remembered (void **state)
{
  struct world w = new_world (*state);
  const char *directory = text (w.f, "%s/elsewhere", w.f->server.dir);
  const char *file = text (w.f, "%s/its.own", w.f->server.dir);
  const uint8_t *then[3];

  assert_int_equal (mkdir (directory, 0700), 0);
  open_store (&w);
  then[1] = remember (&w);
  create_as (&w, text (w.f, "'options':{'backing-store':'%s'}", directory));
  overwrite_anywhere (&w);
  then[2] = remember (&w);
  create_as (&w, text (w.f,
                       "'options':{'backing-store':'%s',"
                       "'backfile-size':'600k'}",
                       file));
  overwrite_anywhere (&w);
  assert_int_equal (files_like (store_directory (w.f), "snapshot-"), 0);
  assert_int_equal (files_like (directory, ""), 1);
  assert_int_equal (access (file, F_OK), 0);
  assert_int_equal (access (text (w.f, "%s.1", file), F_OK), 0);
  for_each_ending (w.f, ending)
  {
    restart (&w, ending);
    for (int i = 1; i <= 2; i++)
      snapshot_is (&w, i, then[i]);
    assert_string_equal (string (info (w.c, 1), "backing-store"),
                         part_of (w.f, 1, 0));
    assert_string_equal (string (info (w.c, 2), "backing-store"), file);
    overwrite_anywhere (&w);
  }
  delete (&w, 1);
  delete (&w, 2);
  await_listed (w.c, true, "");
  end (&w, STOPPED);
  assert_int_equal (files_like (directory, ""), 0);
  assert_int_equal (access (file, F_OK), -1);
  assert_int_equal (access (text (w.f, "%s.1", file), F_OK), -1);
}

static void
break_write_comes_back (void **state)
{
  struct world w = new_world (*state);

  open_store (&w);
  create_as (&w, "'options':{'durability':'written','on-error':'break-write',"
                 "'maxsize':'64k'}");
  for (enum ending ending = 0; ending < ENDINGS; ending++) {
    restart (&w, ending);
    assert_string_equal (string (info (w.c, 1), "on-error"), "break-write");
    fails (nbd_pwrite (w.origin, pattern (w.f, 2, 0, SIZE), SIZE, 0, 0),
           ENOSPC);
    origin_is_live (&w);
  }
}

/* --- the origin meanwhile ------------------------------------------------ */

/* It grows while the server runs, which sees that. */
static void
an_origin_that_grew_keeps_its_snapshots (void **state)
{
  struct world w = new_world (*state);
  const uint8_t *then = remember (&w);
  uint64_t size = SIZE;

  open_store (&w);
  create (w.c);
  for_each_ending (w.f, ending)
  {
    size += 100000;
    assert_int_equal (truncate (w.f->image, (off_t)size), 0);
    w.origin = connect_to (w.f, "");
    assert_int_equal (nbd_get_size (w.origin), size);
    overwrite_anywhere (&w);
    ok (nbd_pwrite (w.origin, "new", 3, size - 3, 0));
    restart (&w, ending);
    assert_int_equal (nbd_get_size (w.origin), size);
    assert_int_equal (figure (w.c, 1, "size"), SIZE);
    snapshot_is (&w, 1, then);
    overwrite_anywhere (&w);
    snapshot_is (&w, 1, then);
  }
}

/* --- again and again ----------------------------------------------------- */

static void
many_restarts_do_no_harm (void **state)
{
  struct world w = new_world (*state);
  const uint8_t *then[7];

  open_store (&w);
  for (int i = 1; i <= 6; i++) {
    then[i] = remember (&w);
    assert_int_equal (create (w.c), i);
    overwrite_anywhere (&w);
    enum ending ending = (unsigned)i % ENDINGS;
    if (!ending_keeps (w.f, ending))
      ending = STOPPED;
    restart (&w, ending);
    overwrite_anywhere (&w);
    for (int j = 1; j <= i; j++)
      snapshot_is (&w, j, then[j]);
  }
  origin_is_live (&w);
}

/* Nothing is done in between: nothing changes.  But the index of async ones
 * is written at each end.
 */
static void
a_server_that_serves_nobody_changes_no_snapshot (void **state)
{
  struct world w = new_world (*state);

  if (has_level (w.f, "async"))
    skip ();
  open_store (&w);
  for (unsigned i = 0; i < 3; i++) {
    create (w.c);
    overwrite_anywhere (&w);
  }
  end (&w, STOPPED);
  const struct inventory *before = inventory (w.f, store_directory (w.f));
  for (unsigned i = 0; i < 2; i++) {
    open_store (&w);
    end (&w, STOPPED);
    unchanged (before, false);
  }
}

int
main (void)
{
  static const struct variant variants[] = {
    { .name = "async", .parameters = { "io=uring", "durability=async" } },
    { .name = "written", .parameters = { "io=uring", "durability=written" } },
    { .name = "stable", .parameters = { "io=uring", "durability=stable" } },
    { .name = "written, sync",
      .parameters = { "io=sync", "durability=written" } },
    { .name = "stable, sync",
      .parameters = { "io=sync", "durability=stable" } },
  };
  const struct CMUnitTest tests[] = {
    fixture_test (one_is_exact),
    fixture_test (one_that_copied_nothing_is_exact),
    fixture_test (several_are_exact),
    fixture_test (chunk_sizes_may_differ),
    fixture_test (zeros_come_back_as_zeros),
    fixture_test (block_status_comes_back),
    fixture_test (odd_sizes_come_back),
    fixture_test (all_that_is_said_comes_back),
    fixture_test (counters_come_back_after_a_clean_stop),
    fixture_test (numbers_and_their_order_come_back),
    fixture_test (names_come_back),
    fixture_test (maxsize_counts_on),
    fixture_test (several_files_come_back),
    fixture_test (files_elsewhere_are_remembered),
    fixture_test (break_write_comes_back),
    fixture_test (an_origin_that_grew_keeps_its_snapshots),
    fixture_test (many_restarts_do_no_harm),
    fixture_test (a_server_that_serves_nobody_changes_no_snapshot),
  };

  return RUN_VARIANTS ("store-restart", tests, variants);
}
