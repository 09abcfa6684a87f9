/* SPDX-License-Identifier: BSD-3-Clause */
/* A store and an origin that nobody writes to: nbdkit -r, or a file without
 * permission to.
 */

#include "store.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

/* Two snapshots, one of them as the origin was before it was written to. */
static struct world
make_closed (struct fixture *f, const uint8_t **first, const uint8_t **second)
{
  struct world w = new_world (f);

  open_store (&w);
  *first = remember (&w);
  create (w.c);
  overwrite_anywhere (&w);
  *second = remember (&w);
  create (w.c);
  overwrite_anywhere (&w);
  end (&w, STOPPED);
  return w;
}

static void
both_are_exact (struct world *w, const uint8_t *first, const uint8_t *second)
{
  assert_string_equal (listed (w->c, true), "1 2");
  snapshot_is (w, 1, first);
  snapshot_is (w, 2, second);
  origin_is_live (w);
}

static void
a_readonly_server_serves_the_store (void **state)
{
  const uint8_t *first, *second;
  struct world w = make_closed (*state, &first, &second);

  for (enum ending ending = STOPPED; ending <= KILLED; ending++) {
    serve_store (&w, "-r", "snapshot=no", NULL);
    both_are_exact (&w, first, second);
    assert_true (nbd_is_read_only (w.origin));
    end (&w, ending);
  }
  open_store (&w);
  overwrite_anywhere (&w);
  both_are_exact (&w, first, second);
}

static void
a_readonly_server_takes_and_keeps_snapshots (void **state)
{
  struct world w = new_world (*state);
  const uint8_t *then = remember (&w);

  serve_store (&w, "-r", NULL);
  assert_int_equal (create_as (&w, "'name':'second'"), 2);
  end (&w, STOPPED);
  open_store (&w);
  assert_string_equal (listed (w.c, true), "1 2");
  overwrite_anywhere (&w);
  snapshot_is (&w, 1, then);
  snapshot_is (&w, 2, then);
}

static void
a_file_without_permission_to_write_is_served (void **state)
{
  struct fixture *f = *state;
  const uint8_t *first, *second;

  become_nobody (f);
  struct world w = make_closed (f, &first, &second);
  assert_int_equal (chmod (f->image, 0400), 0);
  for (enum ending ending = STOPPED; ending <= KILLED; ending++) {
    open_store (&w);
    assert_true (truth (call (w.c, "server.info", NULL), "readonly"));
    both_are_exact (&w, first, second);
    end (&w, ending);
  }
  assert_int_equal (chmod (f->image, 0600), 0);
  open_store (&w);
  overwrite_anywhere (&w);
  both_are_exact (&w, first, second);
}

/* --- a store without permission to write --------------------------------- */

static void
a_store_that_cannot_be_written_to_is_refused (void **state)
{
  struct fixture *f = *state;
  const uint8_t *first, *second;

  become_nobody (f);
  struct world w = make_closed (f, &first, &second);
  const struct inventory *before = inventory (f, store_directory (f));
  assert_int_equal (chmod (store_directory (f), 0500), 0);
  refused (run_nbdkit (f, "-U", "-", getenv ("FSSNAP_PLUGIN"),
                       text (f, "origin=%s", f->image), store_parameter (f),
                       "--run", "true", NULL),
           store_directory (f), "Permission denied");
  assert_int_equal (chmod (store_directory (f), 0700), 0);
  unchanged (before, false);
  open_store (&w);
  both_are_exact (&w, first, second);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    fixture_test (a_readonly_server_serves_the_store),
    fixture_test (a_readonly_server_takes_and_keeps_snapshots),
    fixture_test (a_file_without_permission_to_write_is_served),
    fixture_test (a_store_that_cannot_be_written_to_is_refused),
  };

  return cmocka_run_group_tests_name ("store-readonly", tests, NULL, NULL);
}
