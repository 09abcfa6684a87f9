/* SPDX-License-Identifier: BSD-3-Clause */
/* What comes back of snapshots that are not just there: deleted ones, broken
 * ones, those that are not kept, those that were being made.
 */

#include "store.h"

#include <errno.h>

#define for_each_ending(ending)                                                \
  for (enum ending ending = 0; ending < ENDINGS; ending++)

/* The only snapshot's files, and it, are gone for good. */
static void
nothing_is_left (struct world *w)
{
  await_listed (w->c, true, "");
  end (w, STOPPED);
  assert_null (read_catalog (w->f)->layers);
  assert_null (read_catalog (w->f)->removing);
  assert_int_equal (files_like (store_directory (w->f), "snapshot-"), 0);
}

/* --- snapshot=yes -------------------------------------------------------- */

static void
one_is_taken_only_if_there_is_none (void **state)
{
  struct world w = new_world (*state);
  const uint8_t *then = remember (&w);

  serve_store (&w, NULL);
  for_each_ending (ending)
  {
    overwrite_anywhere (&w);
    end (&w, ending);
    serve_store (&w, "snapshot=yes", NULL);
    assert_string_equal (listed (w.c, true), "1");
    snapshot_is (&w, 1, then);
  }
  delete (&w, 1);
  end (&w, STOPPED);
  then = remember (&w);
  serve_store (&w, NULL);
  assert_string_equal (listed (w.c, false), "1");
  overwrite_anywhere (&w);
  snapshot_is (&w, 1, then);
}

static void
one_that_broke_is_one (void **state)
{
  struct world w = new_world (*state);

  serve_store (&w, "maxsize=4k", NULL);
  overwrite (&w, 0, SIZE);
  snapshot_is_broken (&w, 1, "maxsize");
  for_each_ending (ending)
  {
    end (&w, ending);
    serve_store (&w, NULL);
    assert_string_equal (listed (w.c, true), "1");
    snapshot_is_broken (&w, 1, "maxsize");
  }
}

/* --- deleted ------------------------------------------------------------- */

static void
deleted_ones_stay_so (void **state)
{
  struct world w = new_world (*state);

  open_store (&w);
  for_each_ending (ending)
  {
    create (w.c);
    overwrite_anywhere (&w);
    delete (&w, 1);
    restart (&w, ending);
    assert_string_equal (listed (w.c, false), "");
    const char *why = description (w.f, "snapshot/1");
    assert_string_equal (why, "");
  }
  nothing_is_left (&w);
}

/* A client has it open until the end. */
static void
forced_deletion_stays_so (void **state)
{
  struct world w = new_world (*state);

  open_store (&w);
  for_each_ending (ending)
  {
    create (w.c);
    overwrite_anywhere (&w);
    connect_to (w.f, "snapshot/1");
    force_deletion (&w, 1);
    restart (&w, ending);
    assert_string_equal (listed (w.c, false), "");
  }
  nothing_is_left (&w);
}

/* What older ones need of deleted ones. */
static void
deleted_ones_serve_older_ones (void **state)
{
  struct world w = new_world (*state);
  const uint8_t *first = remember (&w);

  open_store (&w);
  create (w.c);
  overwrite_anywhere (&w);
  create (w.c);
  overwrite_anywhere (&w);
  const uint8_t *third = remember (&w);
  create (w.c);
  overwrite_anywhere (&w);
  delete (&w, 2);
  for_each_ending (ending)
  {
    restart (&w, ending);
    assert_string_equal (listed (w.c, false), "1 3");
    snapshot_is (&w, 1, first);
    snapshot_is (&w, 3, third);
    overwrite_anywhere (&w);
    snapshot_is (&w, 1, first);
    snapshot_is (&w, 3, third);
  }
  /* also of the newest */
  delete (&w, 3);
  for_each_ending (ending)
  {
    restart (&w, ending);
    assert_string_equal (listed (w.c, false), "1");
    snapshot_is (&w, 1, first);
    overwrite_anywhere (&w);
    snapshot_is (&w, 1, first);
  }
  delete (&w, 1);
  nothing_is_left (&w);
}

/* Its number may be another one's by then. */
static void
a_deleted_ones_number_may_be_taken_again (void **state)
{
  struct world w = new_world (*state);
  const uint8_t *first = remember (&w);

  open_store (&w);
  create (w.c);
  overwrite_anywhere (&w);
  create_as (&w, "'name':'nightly'");
  overwrite_anywhere (&w);
  delete (&w, 2);
  const uint8_t *second = remember (&w);
  assert_int_equal (create_as (&w, "'name':'nightly'"), 2);
  for_each_ending (ending)
  {
    overwrite_anywhere (&w);
    restart (&w, ending);
    assert_string_equal (listed (w.c, false), "1 2");
    snapshot_is (&w, 1, first);
    snapshot_is (&w, 2, second);
  }
}

/* Merging layers of several chunk sizes, and being ended meanwhile. */
static void
many_deletions_do_no_harm (void **state)
{
  static const char *const sizes[] = { "4k", "512", "16k", "64k" };
  struct world w = new_world (*state);
  const uint8_t *then[12];

  open_store (&w);
  for (int i = 0; i < 12; i++) {
    then[i] = remember (&w);
    create_as (&w, text (w.f, "'options':{'chunksize':'%s'}", sizes[i % 4]));
    overwrite_anywhere (&w);
  }
  for (int i = 1; i < 12; i++) {
    if (i % 4 == 2)
      continue;
    delete (&w, i + 1);
    restart (&w, (unsigned)i % ENDINGS);
    snapshot_is (&w, 1, then[0]);
    overwrite_anywhere (&w);
  }
  assert_string_equal (listed (w.c, false), "1 3 7 11");
  snapshot_is (&w, 1, then[0]);
  snapshot_is (&w, 3, then[2]);
  snapshot_is (&w, 7, then[6]);
  snapshot_is (&w, 11, then[10]);
  origin_is_live (&w);
}

/* --- broken -------------------------------------------------------------- */

#define BROKEN_FIGURES                                                         \
  "snapnumber name state export origin size createtime maxsize chunksize "     \
  "backfile-size durability on-error cow-timeout deleted broken-reason "       \
  "broken-errno broken-time blocked-by ephemeral store"

static void
broken_ones_stay_so (void **state)
{
  struct world w = new_world (*state);

  open_store (&w);
  create_as (&w, "'name':'small','options':{'maxsize':'4k'}");
  overwrite (&w, 0, SIZE);
  snapshot_is_broken (&w, 1, "maxsize");
  const json_t *before = info (w.c, 1);
  for_each_ending (ending)
  {
    restart (&w, ending);
    assert_string_equal (listed (w.c, true), "1");
    snapshot_is_broken (&w, 1, "maxsize");
    same_figures (before, info (w.c, 1), BROKEN_FIGURES);
  }
  delete (&w, 1);
  nothing_is_left (&w);
}

static void
broken_ones_block_older_ones (void **state)
{
  struct world w = new_world (*state);
  uint8_t byte;

  open_store (&w);
  const uint8_t *first = remember (&w);
  create (w.c);
  overwrite (&w, 0, SIZE / 2);
  create_as (&w, "'options':{'maxsize':'4k'}");
  overwrite (&w, SIZE / 2, SIZE / 2);
  snapshot_is_broken (&w, 2, "maxsize");
  const uint8_t *third = remember (&w);
  create (w.c);
  overwrite_anywhere (&w);
  const json_t *before = info (w.c, 1);
  assert_int_equal (number (before, "blocked-by"), 2);
  for_each_ending (ending)
  {
    restart (&w, ending);
    same_figures (before, info (w.c, 1), KEPT_FIGURES);
    struct nbd_handle *nbd = connect_to (w.f, "snapshot/1");
    reads_as (nbd, 0, first, SIZE / 2); /* it has this itself */
    fails (nbd_pread (nbd, &byte, 1, SIZE / 2, 0), EIO);
    fails (nbd_pread (nbd, &byte, 1, SIZE - 1, 0), EIO);
    close_readers (&w);
    snapshot_is (&w, 3, third);
    overwrite_anywhere (&w);
    snapshot_is (&w, 3, third);
  }
  /* the mark stays for who needs it */
  delete (&w, 2);
  for_each_ending (ending)
  {
    restart (&w, ending);
    assert_string_equal (listed (w.c, false), "1 3");
    struct nbd_handle *nbd = connect_to (w.f, "snapshot/1");
    reads_as (nbd, 0, first, SIZE / 2);
    fails (nbd_pread (nbd, &byte, 1, SIZE / 2, 0), EIO);
    close_readers (&w);
    snapshot_is (&w, 3, third);
  }
}

/* --- free chunks --------------------------------------------------------- */

static void
free_chunks_stay_free (void **state)
{
  struct world w = new_world (*state);

  open_store (&w);
  const uint8_t *first = remember (&w);
  create (w.c);
  assert_int_equal (begin_creating (&w), 2);
  uint8_t *then = remember (&w);
  const json_t *result = call (w.c, "snapshot.set_free", "{s:i, s:[[ii]]}",
                               "snapshot", 2, "ranges", SIZE / 4, SIZE / 2);
  assert_int_equal (number (result, "chunks"), SIZE / 2 / CHUNK);
  memset (then + SIZE / 4, 0, SIZE / 2);
  call (w.c, "snapshot.create_done", "{s:i}", "snapshot", 2);
  /* Then writes to them are copied for 1 alone; afterwards for nobody. */
  overwrite (&w, SIZE / 4, SIZE / 8);
  for_each_ending (ending)
  {
    restart (&w, ending);
    assert_int_equal (figure (w.c, 2, "chunks-free"), SIZE / 2 / CHUNK);
    snapshot_is (&w, 1, first);
    snapshot_is (&w, 2, then);
    overwrite (&w, SIZE / 4, SIZE / 4);
    snapshot_is (&w, 1, first);
    snapshot_is (&w, 2, then);
  }
  delete (&w, 1);
  restart (&w, STOPPED);
  await_figure (w.c, 2, "bytes-in-memory", 0);
  const json_int_t copied = figure (w.c, 2, "bytes-copied");
  overwrite (&w, SIZE / 2, SIZE / 4);
  assert_int_equal (figure (w.c, 2, "bytes-copied"), copied);
  snapshot_is (&w, 2, then);
}

/* --- not kept ------------------------------------------------------------ */

static void
ephemeral_ones_go_with_their_server (void **state)
{
  struct world w = new_world (*state);

  open_store (&w);
  for_each_ending (ending)
  {
    assert_int_equal (create_as (&w, "'ephemeral':true,'name':'tmp'"), 1);
    overwrite_anywhere (&w);
    restart (&w, ending);
    assert_string_equal (listed (w.c, false), "");
  }
  nothing_is_left (&w);
}

/* They hold what older ones need. */
static void
ephemeral_ones_leave_older_ones_what_they_need (void **state)
{
  struct world w = new_world (*state);
  const uint8_t *first = remember (&w);

  open_store (&w);
  create (w.c);
  overwrite_anywhere (&w);
  for_each_ending (ending)
  {
    const uint8_t *second = remember (&w);
    assert_int_equal (create_as (&w, "'ephemeral':true"), 2);
    overwrite_anywhere (&w);
    snapshot_is (&w, 2, second);
    restart (&w, ending);
    assert_string_equal (listed (w.c, false), "1");
    snapshot_is (&w, 1, first);
    overwrite_anywhere (&w);
    snapshot_is (&w, 1, first);
  }
  delete (&w, 1);
  nothing_is_left (&w);
}

static void
an_ephemeral_one_between_kept_ones_goes (void **state)
{
  struct world w = new_world (*state);
  const uint8_t *first = remember (&w);

  open_store (&w);
  create (w.c);
  overwrite_anywhere (&w);
  for_each_ending (ending)
  {
    create_as (&w, "'ephemeral':true");
    overwrite_anywhere (&w);
    const uint8_t *third = remember (&w);
    assert_int_equal (create (w.c), 3);
    overwrite_anywhere (&w);
    restart (&w, ending);
    assert_string_equal (listed (w.c, false), "1 3");
    snapshot_is (&w, 1, first);
    snapshot_is (&w, 3, third);
    delete (&w, 3);
  }
}

/* --- unfinished ---------------------------------------------------------- */

static void
unfinished_ones_are_deleted (void **state)
{
  struct world w = new_world (*state);
  const uint8_t *first = remember (&w);

  open_store (&w);
  create (w.c);
  overwrite_anywhere (&w);
  for_each_ending (ending)
  {
    const int snapnumber = begin_creating (&w);
    overwrite_anywhere (&w);
    restart (&w, ending);
    /* The server that ended has said so, or the one that starts. */
    if (ending == KILLED)
      log_says (w.f, text (w.f, "snapshot %d", snapnumber), "delet");
    assert_string_equal (listed (w.c, false), "1");
    snapshot_is (&w, 1, first);
  }
  delete (&w, 1);
  nothing_is_left (&w);
}

/* Nobody has been told of it. */
static void
set_newest_pending (struct catalog *catalog, void *arg)
{
  struct catalog_layer *layer = catalog->layers;

  (void)arg;
  while (layer->next != NULL)
    layer = layer->next;
  layer->pending = true;
  catalog->clean = false;
}

static void
unanswered_ones_are_deleted (void **state)
{
  struct world w = new_world (*state);
  const uint8_t *first = remember (&w);

  open_store (&w);
  create (w.c);
  overwrite_anywhere (&w);
  create (w.c);
  overwrite_anywhere (&w);
  end (&w, KILLED);
  edit_catalog (w.f, set_newest_pending, NULL);
  open_store (&w);
  log_says (w.f, "snapshot 2", "delet");
  assert_string_equal (listed (w.c, false), "1");
  snapshot_is (&w, 1, first);
  delete (&w, 1);
  nothing_is_left (&w);
}

int
main (void)
{
  static const struct variant variants[] = {
    { .name = "written", .parameters = { "io=uring", "durability=written" } },
    { .name = "stable", .parameters = { "io=uring", "durability=stable" } },
    { .name = "written, sync",
      .parameters = { "io=sync", "durability=written" } },
  };
  const struct CMUnitTest tests[] = {
    fixture_test (one_is_taken_only_if_there_is_none),
    fixture_test (one_that_broke_is_one),
    fixture_test (deleted_ones_stay_so),
    fixture_test (forced_deletion_stays_so),
    fixture_test (deleted_ones_serve_older_ones),
    fixture_test (a_deleted_ones_number_may_be_taken_again),
    fixture_test (many_deletions_do_no_harm),
    fixture_test (broken_ones_stay_so),
    fixture_test (broken_ones_block_older_ones),
    fixture_test (free_chunks_stay_free),
    fixture_test (ephemeral_ones_go_with_their_server),
    fixture_test (ephemeral_ones_leave_older_ones_what_they_need),
    fixture_test (an_ephemeral_one_between_kept_ones_goes),
    fixture_test (unfinished_ones_are_deleted),
    fixture_test (unanswered_ones_are_deleted),
  };

  return RUN_VARIANTS ("store-state", tests, variants);
}
