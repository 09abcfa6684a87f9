/* SPDX-License-Identifier: BSD-3-Clause */
/* What it costs that a backing file is not what it was: the older ones that
 * read through it, and no other; what may be deleted meanwhile, and what comes
 * back with the good file.
 */

#include "gallery.h"

#include <unistd.h>

/* --- which one ----------------------------------------------------------- */

/* Nobody is older than the oldest. */
static void
damage_to_the_oldest_harms_no_other (void **state)
{
  struct gallery g = make_gallery (*state);

  flip (g.file[1], 70);
  const struct inventory *before = inventory (g.w.f, store_directory (g.w.f));
  open_store (&g.w);
  snapshot_is_broken (&g.w, 1, name_in (g.file[1]));
  snapshot_is (&g.w, 2, g.content[2]);
  snapshot_is (&g.w, 3, g.content[3]);
  end (&g.w, STOPPED);
  unchanged (before, false);
  open_store (&g.w);
  overwrite_anywhere (&g.w);
  end (&g.w, STOPPED);
  put_back (g.good[1], g.file[1]);
  open_store (&g.w);
  all_are_exact (&g);
}

/* Writes have gone on, and nobody kept what was there before. */
static void
the_newest_cannot_come_back (void **state)
{
  struct gallery g = make_gallery (*state);

  flip (g.file[3], 70);
  open_store (&g.w);
  snapshot_is_broken (&g.w, 3, name_in (g.file[3]));
  is_blocked (&g, 1, 3);
  is_blocked (&g, 2, 3);
  overwrite (&g.w, 0, SIZE);
  end (&g.w, STOPPED);
  put_back (g.good[3], g.file[3]);
  for (unsigned i = 0; i < 2; i++) {
    open_store (&g.w);
    snapshot_is_broken (&g.w, 3, "");
    is_blocked (&g, 1, 3);
    is_blocked (&g, 2, 3);
    end (&g.w, KILLED);
  }
}

/* The same if the server was killed right after. */
static void
the_newest_cannot_come_back_after_a_kill (void **state)
{
  struct gallery g = make_gallery (*state);

  flip (g.file[3], 70);
  open_store (&g.w);
  overwrite (&g.w, KEPT_BY (0, 0), CHUNK);
  end (&g.w, KILLED);
  put_back (g.good[3], g.file[3]);
  open_store (&g.w);
  snapshot_is_broken (&g.w, 3, "");
  is_blocked (&g, 2, 3);
}

static void
two_are_each_said (void **state)
{
  struct gallery g = make_gallery (*state);

  flip (g.file[1], 70);
  assert_int_equal (unlink (g.file[2]), 0);
  open_store (&g.w);
  log_says (g.w.f, name_in (g.file[1]), "header");
  log_says (g.w.f, name_in (g.file[2]), "No such file");
  snapshot_is_broken (&g.w, 1, name_in (g.file[1]));
  snapshot_is_broken (&g.w, 2, name_in (g.file[2]));
  snapshot_is (&g.w, 3, g.content[3]);
}

static void
damage_after_a_kill_is_found (void **state)
{
  struct gallery g = make_gallery (*state);

  open_store (&g.w);
  end (&g.w, KILLED);
  flip (g.file[2], index_of_copied () + 33);
  open_store (&g.w);
  second_is_refused (&g, "index");
  end (&g.w, KILLED);
  put_back (g.good[2], g.file[2]);
  open_store (&g.w);
  all_are_exact (&g);
}

/* A deleted one that 1 reads through. */
static void
damage_to_a_deleted_one_blocks_older_ones (void **state)
{
  struct gallery g = make_gallery (*state);

  open_store (&g.w);
  delete (&g.w, 2);
  end (&g.w, STOPPED);
  flip (g.file[2], 70);
  const struct inventory *before = inventory (g.w.f, store_directory (g.w.f));
  open_store (&g.w);
  log_says (g.w.f, name_in (g.file[2]), "header");
  assert_string_equal (listed (g.w.c, false), "1 3");
  is_blocked (&g, 1, 2);
  snapshot_is (&g.w, 3, g.content[3]);
  end (&g.w, STOPPED);
  unchanged (before, false);
}

/* --- deletion ------------------------------------------------------------ */

/* It still needs what newer ones keep for it, since it may come back. */
static void
what_a_refused_one_needs_is_not_dropped (void **state)
{
  struct gallery g = make_gallery (*state);

  flip (g.file[1], 70);
  open_store (&g.w);
  delete (&g.w, 2);
  for (unsigned i = 0; i < 2; i++) {
    restart (&g.w, STOPPED);
    assert_string_equal (listed (g.w.c, false), "1 3");
  }
  end (&g.w, STOPPED);
  put_back (g.good[1], g.file[1]);
  open_store (&g.w);
  first_is_exact_or_fails (&g);
}

/* The same of chunks that are free to all newer ones, and copied for 1
 * alone.
 */
static void
what_a_refused_one_needs_is_copied (void **state)
{
  struct gallery g = { .w = new_world (*state) };
  struct world *w = &g.w;

  open_store (w);
  g.content[1] = remember (w);
  create (w->c);
  g.file[1] = part_of (w->f, 1, 0);
  g.good[1] = text (w->f, "%s/good", w->f->server.dir);
  assert_int_equal (begin_creating (w), 2);
  call (w->c, "snapshot.set_free", "{s:i, s:[[ii]]}", "snapshot", 2, "ranges",
        0, SIZE);
  call (w->c, "snapshot.create_done", "{s:i}", "snapshot", 2);
  end (w, STOPPED);
  copy_file (g.file[1], g.good[1]);
  flip (g.file[1], 70);
  open_store (w);
  snapshot_is_broken (w, 1, "header");
  overwrite (w, 0, SIZE / 2);
  end (w, STOPPED);
  put_back (g.good[1], g.file[1]);
  open_store (w);
  first_is_exact_or_fails (&g);
}

/* What is left when the refused one has been deleted is whole. */
static void
deletion_heals_the_store (void **state)
{
  struct gallery g = make_gallery (*state);

  flip (g.file[2], 70);
  open_store (&g.w);
  delete (&g.w, 2);
  assert_string_equal (listed (g.w.c, false), "1 3");
  is_blocked (&g, 1, 2);
  restart (&g.w, STOPPED);
  assert_string_equal (listed (g.w.c, false), "1 3");
  is_blocked (&g, 1, 2);
  snapshot_is (&g.w, 3, g.content[3]);
  delete (&g.w, 1);
  await_listed (g.w.c, true, "3");
  const uint8_t *then = remember (&g.w);
  assert_int_equal (create (g.w.c), 1);
  overwrite_anywhere (&g.w);
  restart (&g.w, STOPPED);
  assert_int_equal (server_logged (&g.w.f->server, name_in (g.file[2])), 0);
  assert_string_equal (listed (g.w.c, true), "3 1");
  snapshot_is (&g.w, 3, g.content[3]);
  snapshot_is (&g.w, 1, then);
}

static void
deletion_of_what_is_missing_heals_too (void **state)
{
  struct gallery g = make_gallery (*state);

  for (int i = 1; i <= COUNT; i++)
    assert_int_equal (unlink (g.file[i]), 0);
  open_store (&g.w);
  for (int i = 1; i <= COUNT; i++) {
    snapshot_is_broken (&g.w, i, name_in (g.file[i]));
    delete (&g.w, i);
  }
  const uint8_t *then = remember (&g.w);
  create (g.w.c);
  overwrite_anywhere (&g.w);
  end (&g.w, STOPPED);
  assert_int_equal (files_like (store_directory (g.w.f), "snapshot-"), 1);
  open_store (&g.w);
  assert_string_equal (listed (g.w.c, true), "1");
  snapshot_is (&g.w, 1, then);
}

/* The file of another snapshot is not this one's to delete: they may have
 * been exchanged by mistake.
 */
static void
deletion_spares_the_file_of_another (void **state)
{
  struct gallery g = make_gallery (*state);

  put_back (g.good[1], g.file[2]);
  put_back (g.good[2], g.file[1]);
  open_store (&g.w);
  snapshot_is_broken (&g.w, 1, name_in (g.file[1]));
  snapshot_is_broken (&g.w, 2, name_in (g.file[2]));
  delete (&g.w, 2);
  end (&g.w, STOPPED);
  put_back (g.file[2], g.file[1]);
  open_store (&g.w);
  first_is_exact_or_fails (&g);
  snapshot_is (&g.w, 3, g.content[3]);
}

/* What a user has named may be his. */
static void
deletion_spares_a_foreign_file (void **state)
{
  struct world w = new_world (*state);
  const char *file = text (w.f, "%s/elsewhere", w.f->server.dir);

  open_store (&w);
  create_as (&w, text (w.f, "'options':{'backing-store':'%s'}", file));
  overwrite_anywhere (&w);
  end (&w, STOPPED);
  const uint8_t *content = remember (&w);
  put_back (w.f->image, file);
  open_store (&w);
  snapshot_is_broken (&w, 1, file);
  delete (&w, 1);
  await_listed (w.c, true, "");
  end (&w, STOPPED);
  log_says (w.f, file, "not removed");
  file_is (file, 0, content, SIZE);
  open_store (&w);
  assert_string_equal (listed (w.c, true), "");
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    fixture_test (damage_to_the_oldest_harms_no_other),
    fixture_test (the_newest_cannot_come_back),
    fixture_test (the_newest_cannot_come_back_after_a_kill),
    fixture_test (two_are_each_said),
    fixture_test (damage_after_a_kill_is_found),
    fixture_test (damage_to_a_deleted_one_blocks_older_ones),
    fixture_test (what_a_refused_one_needs_is_not_dropped),
    fixture_test (what_a_refused_one_needs_is_copied),
    fixture_test (deletion_heals_the_store),
    fixture_test (deletion_of_what_is_missing_heals_too),
    fixture_test (deletion_spares_the_file_of_another),
    fixture_test (deletion_spares_a_foreign_file),
  };

  return cmocka_run_group_tests_name ("store-damage-costs", tests, NULL, NULL);
}
