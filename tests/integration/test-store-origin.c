/* SPDX-License-Identifier: BSD-3-Clause */
/* An origin that was changed while nobody watched: what its snapshots left
 * to it is gone, so they are refused, and the store is left alone.
 */

#include "store.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

/* Two snapshots; the origin that they are of, put aside. */
struct closed {
  struct world w;
  const uint8_t *content[3];
  const char *aside; /* the image, under another name, once it was replaced */
  struct timespec mtime;
};

static struct closed
make_closed (struct fixture *f, enum ending ending)
{
  struct closed c = { .w = new_world (f) };

  open_store (&c.w);
  for (int i = 1; i <= 2; i++) {
    c.content[i] = remember (&c.w);
    create (c.w.c);
    overwrite_anywhere (&c.w);
  }
  end (&c.w, ending);
  c.aside = text (f, "%s/aside.img", f->server.dir);
  c.mtime = file_time (f->image);
  return c;
}

static void
all_are_exact (struct closed *c)
{
  for (int i = 1; i <= 2; i++)
    snapshot_is (&c->w, i, c->content[i]);
  origin_is_live (&c->w);
}

static void
write_at (const char *path, const void *bytes, size_t count, uint64_t offset)
{
  const int fd = open (path, O_WRONLY | O_CLOEXEC);

  assert_int_not_equal (fd, -1);
  assert_int_equal (pwrite (fd, bytes, count, (off_t)offset), count);
  close (fd);
}

/* Another file in the image's place, with its content and time. */
static void
replace (struct closed *c)
{
  assert_int_equal (rename (c->w.f->image, c->aside), 0);
  copy_file (c->aside, c->w.f->image);
}

static void
undo_replace (struct closed *c)
{
  assert_int_equal (rename (c->aside, c->w.f->image), 0);
}

/* Both are listed as broken for this reason, nothing can be added, and the
 * origin is served.
 */
static void
both_are_refused (struct closed *c, const char *why)
{
  struct world *w = &c->w;
  uint8_t buf[CHUNK];

  assert_string_equal (listed (w->c, true), "1 2");
  snapshot_is_broken (w, 1, "origin", why);
  snapshot_is_broken (w, 2, "origin", why);
  log_says (w->f, "origin", why);
  const json_t *error
      = call_fails (w->c, FAILED, "snapshot.create", "{s:s}", "name", "new");
  assert_true (has_words (string (error, "message"), "origin"));
  assert_true (has_words (string (error, "message"), "delete"));
  assert_string_equal (listed (w->c, true), "1 2");
  ok (nbd_pread (w->origin, buf, CHUNK, 0, 0));
  file_is (w->f->image, 0, buf, CHUNK);
}

/* The store is the same after it was refused, however the server ended. */
static void
store_is_left_alone (struct closed *c, const char *why)
{
  struct fixture *f = c->w.f;
  const struct inventory *before = inventory (f, store_directory (f));

  for (enum ending ending = STOPPED; ending <= KILLED; ending++) {
    open_store (&c->w);
    both_are_refused (c, why);
    end (&c->w, ending);
    unchanged (before, true);
  }
  /* nor does one that would take a snapshot at its start */
  serve_store (&c->w, NULL);
  both_are_refused (c, why);
  end (&c->w, STOPPED);
  unchanged (before, true);
}

/* The right origin is back, as it was. */
static void
all_is_well_again (struct closed *c)
{
  set_file_time (c->w.f->image, c->mtime);
  open_store (&c->w);
  all_are_exact (c);
  overwrite_anywhere (&c->w);
  all_are_exact (c);
}

/* --- after a clean stop -------------------------------------------------- */

static void
written_to (void **state)
{
  struct closed c = make_closed (*state, STOPPED);

  write_at (c.w.f->image, "new", 3, SIZE / 2);
  store_is_left_alone (&c, "time");
  write_at (c.w.f->image, c.w.live + SIZE / 2, 3, SIZE / 2);
  all_is_well_again (&c);
}

/* Who touches it may have changed anything. */
static void
touched (void **state)
{
  struct closed c = make_closed (*state, STOPPED);

  set_file_time (c.w.f->image,
                 (struct timespec){ .tv_sec = c.mtime.tv_sec, .tv_nsec = 77 });
  store_is_left_alone (&c, "time");
  all_is_well_again (&c);
}

static void
written_with_its_time_put_back (struct fixture *f, uint64_t size,
                                uint64_t offset)
{
  struct world w = { .f = f };
  const uint8_t *then = make_image (f, size);
  uint8_t buf[3];

  open_store (&w);
  create (w.c);
  end (&w, STOPPED);
  const struct timespec mtime = file_time (f->image);
  write_at (f->image, "new", 3, offset);
  set_file_time (f->image, mtime);
  const struct inventory *before = inventory (f, store_directory (f));
  open_store (&w);
  const char *why = string (info (w.c, 1), "broken-reason");
  assert_true (has_words (why, "origin"));
  assert_true (has_words (why, "MiB"));
  fails (nbd_pread (connect_to (f, "snapshot/1"), buf, 3, offset, 0), EIO);
  end (&w, STOPPED);
  unchanged (before, true);
  write_at (f->image, then + offset, 3, offset);
  set_file_time (f->image, mtime);
  open_store (&w);
  reads_as (connect_to (f, "snapshot/1"), 0, then, size);
}

static void
first_mib_written_with_its_time_put_back (void **state)
{
  written_with_its_time_put_back (*state, 4 << 20, (1 << 20) - 3);
}

static void
last_mib_written_with_its_time_put_back (void **state)
{
  written_with_its_time_put_back (*state, (4 << 20) + 1000, (3 << 20) + 1000);
}

static void
small_one_written_with_its_time_put_back (void **state)
{
  written_with_its_time_put_back (*state, 5000, 4997);
}

static void
replaced_by_a_copy (void **state)
{
  struct closed c = make_closed (*state, STOPPED);

  replace (&c);
  store_is_left_alone (&c, "not the one");
  undo_replace (&c);
  all_is_well_again (&c);
}

static void
grown (void **state)
{
  struct closed c = make_closed (*state, STOPPED);

  assert_int_equal (truncate (c.w.f->image, 2 * SIZE), 0);
  set_file_time (c.w.f->image, c.mtime);
  store_is_left_alone (&c, "resized");
  assert_int_equal (truncate (c.w.f->image, SIZE), 0);
  all_is_well_again (&c);
}

static void
shrunk (void **state)
{
  struct closed c = make_closed (*state, STOPPED);

  assert_int_equal (truncate (c.w.f->image, SIZE - CHUNK), 0);
  set_file_time (c.w.f->image, c.mtime);
  store_is_left_alone (&c, "resized");
  assert_int_equal (truncate (c.w.f->image, SIZE), 0);
  write_at (c.w.f->image, c.w.live + SIZE - CHUNK, CHUNK, SIZE - CHUNK);
  all_is_well_again (&c);
}

static void
another_file (void **state)
{
  struct closed c = make_closed (*state, STOPPED);
  struct fixture *f = c.w.f;
  const char *other = text (f, "%s/other.img", f->server.dir);
  char image[sizeof f->image];

  copy_file (f->image, other);
  memcpy (image, f->image, sizeof image);
  snprintf (f->image, sizeof f->image, "%s", other);
  store_is_left_alone (&c, "not the one");
  memcpy (f->image, image, sizeof image);
  all_is_well_again (&c);
}

/* --- what is no change --------------------------------------------------- */

static void
another_name_is_no_change (void **state)
{
  struct closed c = make_closed (*state, STOPPED);
  struct fixture *f = c.w.f;

  assert_int_equal (rename (f->image, c.aside), 0);
  snprintf (f->image, sizeof f->image, "%s", c.aside);
  open_store (&c.w);
  all_are_exact (&c);
  overwrite_anywhere (&c.w);
  restart (&c.w, STOPPED);
  all_are_exact (&c);
}

static void
a_symbolic_link_to_it_is_no_change (void **state)
{
  struct closed c = make_closed (*state, STOPPED);
  struct fixture *f = c.w.f;

  assert_int_equal (symlink (f->image, c.aside), 0);
  snprintf (f->image, sizeof f->image, "%s", c.aside);
  open_store (&c.w);
  all_are_exact (&c);
}

static void
reading_it_is_no_change (void **state)
{
  struct closed c = make_closed (*state, STOPPED);

  file_is (c.w.f->image, 0, c.w.live, SIZE);
  open_store (&c.w);
  all_are_exact (&c);
}

/* A server without the store is no more watchful than any other program. */
static void
a_server_without_the_store_changes_it (void **state)
{
  struct closed c = make_closed (*state, STOPPED);

  serve (c.w.f, "snapshot=no", NULL);
  meet (&c.w);
  overwrite (&c.w, 0, 1);
  end (&c.w, STOPPED);
  store_is_left_alone (&c, "time");
}

/* --- after a kill -------------------------------------------------------- */

static void
replaced_by_a_copy_after_a_kill (void **state)
{
  struct closed c = make_closed (*state, KILLED);

  replace (&c);
  store_is_left_alone (&c, "not the one");
  undo_replace (&c);
  all_is_well_again (&c);
}

/* It is the same one, and nothing would tell later what was written to it
 * meanwhile: so they are broken for good, and new ones can be had.
 */
static void
shrunk_after_a_kill (void **state)
{
  struct closed c = make_closed (*state, KILLED);
  struct world *w = &c.w;

  assert_int_equal (truncate (w->f->image, SIZE - CHUNK), 0);
  open_store (w);
  overwrite (w, 0, SIZE / 2);
  restart (w, STOPPED);
  assert_int_equal (truncate (w->f->image, SIZE), 0);
  end (w, KILLED);
  open_store (w);
  for (int i = 1; i <= 2; i++) {
    snapshot_is_broken (w, i, "origin", "shrunk");
    delete (w, i);
  }
  memset (w->live + SIZE - CHUNK, 0, CHUNK);
  const uint8_t *then = remember (w);
  create (w->c);
  overwrite_anywhere (w);
  restart (w, STOPPED);
  snapshot_is (w, 1, then);
}

/* What the server wrote that was killed is no change. */
static void
writes_before_a_kill_are_no_change (void **state)
{
  struct closed c = make_closed (*state, STOPPED);

  open_store (&c.w);
  overwrite (&c.w, 0, SIZE);
  restart (&c.w, KILLED);
  all_are_exact (&c);
}

/* --- starting over ------------------------------------------------------- */

static void
deleting_the_refused_ones_makes_room_for_new_ones (void **state)
{
  struct closed c = make_closed (*state, STOPPED);
  struct world *w = &c.w;

  replace (&c);
  open_store (w);
  delete (w, 1);
  call_fails (w->c, FAILED, "snapshot.create", NULL);
  delete (w, 2);
  const uint8_t *then = remember (w);
  assert_int_equal (create (w->c), 1);
  for (unsigned i = 0; i < 2; i++) {
    overwrite_anywhere (w);
    restart (w, i == 0 ? STOPPED : KILLED);
    assert_string_equal (listed (w->c, true), "1");
    snapshot_is (w, 1, then);
    origin_is_live (w);
  }
  assert_int_equal (files_like (store_directory (w->f), "snapshot-"), 1);
}

/* The right origin may come back, and with it those that were not deleted:
 * what they need must still be there.
 */
static void
deleting_a_refused_one_costs_older_ones_nothing (void **state)
{
  struct closed c = make_closed (*state, STOPPED);

  replace (&c);
  open_store (&c.w);
  delete (&c.w, 2);
  restart (&c.w, STOPPED);
  end (&c.w, STOPPED);
  undo_replace (&c);
  set_file_time (c.w.f->image, c.mtime);
  open_store (&c.w);
  assert_string_equal (listed (c.w.c, false), "1");
  snapshot_is (&c.w, 1, c.content[1]);
}

/* Deleting the refused ones is also what makes a start take one. */
static void
a_start_takes_one_when_they_are_deleted (void **state)
{
  struct closed c = make_closed (*state, STOPPED);

  replace (&c);
  open_store (&c.w);
  delete (&c.w, 1);
  delete (&c.w, 2);
  end (&c.w, STOPPED);
  const uint8_t *then = remember (&c.w);
  serve_store (&c.w, NULL);
  assert_string_equal (listed (c.w.c, true), "1");
  overwrite_anywhere (&c.w);
  snapshot_is (&c.w, 1, then);
}

static void
an_ephemeral_one_is_not_taken_either (void **state)
{
  struct closed c = make_closed (*state, STOPPED);

  replace (&c);
  open_store (&c.w);
  call_fails (c.w.c, FAILED, "snapshot.create", "{s:b}", "ephemeral", 1);
  call_fails (c.w.c, FAILED, "snapshot.create", "{s:b}", "creating", 1);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    fixture_test (written_to),
    fixture_test (touched),
    fixture_test (first_mib_written_with_its_time_put_back),
    fixture_test (last_mib_written_with_its_time_put_back),
    fixture_test (small_one_written_with_its_time_put_back),
    fixture_test (replaced_by_a_copy),
    fixture_test (grown),
    fixture_test (shrunk),
    fixture_test (another_file),
    fixture_test (another_name_is_no_change),
    fixture_test (a_symbolic_link_to_it_is_no_change),
    fixture_test (reading_it_is_no_change),
    fixture_test (a_server_without_the_store_changes_it),
    fixture_test (replaced_by_a_copy_after_a_kill),
    fixture_test (shrunk_after_a_kill),
    fixture_test (writes_before_a_kill_are_no_change),
    fixture_test (deleting_the_refused_ones_makes_room_for_new_ones),
    fixture_test (deleting_a_refused_one_costs_older_ones_nothing),
    fixture_test (a_start_takes_one_when_they_are_deleted),
    fixture_test (an_ephemeral_one_is_not_taken_either),
  };

  return cmocka_run_group_tests_name ("store-origin", tests, NULL, NULL);
}
