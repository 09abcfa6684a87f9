/* SPDX-License-Identifier: BSD-3-Clause */
/* Damage to one of a snapshot's several files, and to files elsewhere. */

#include "format.h"
#include "store.h"

#include <unistd.h>

/* --- several files, files elsewhere -------------------------------------- */

/* One snapshot in four files. */
static struct world
make_split (struct fixture *f, const uint8_t **then)
{
  struct world w = new_world (f);

  open_store (&w);
  *then = remember (&w);
  create_as (&w, "'options':{'backfile-size':'300k'}");
  overwrite (&w, 0, SIZE);
  end (&w, STOPPED);
  return w;
}

static void
damage_to_a_part_is_found (struct fixture *f, void (*spoil) (const char *path))
{
  const uint8_t *then;
  struct world w = make_split (f, &then);
  const char *part = part_of (f, 1, 2);
  const char *good = text (f, "%s/good", f->server.dir);

  copy_file (part, good);
  spoil (part);
  const struct inventory *before = inventory (f, store_directory (f));
  open_store (&w);
  log_says (f, name_in (part));
  snapshot_is_broken (&w, 1, name_in (part));
  end (&w, STOPPED);
  unchanged (before, false);
}

static void
flip_part_header (const char *path)
{
  flip (path, 70);
}

static void
flip_part_index (const char *path)
{
  flip (path, FORMAT_HEADER + 33);
}

static void
remove_part (const char *path)
{
  assert_int_equal (unlink (path), 0);
}

static void
damaged_header_of_a_part (void **state)
{
  damage_to_a_part_is_found (*state, flip_part_header);
}

static void
damaged_index_of_a_part (void **state)
{
  damage_to_a_part_is_found (*state, flip_part_index);
}

static void
missing_part (void **state)
{
  damage_to_a_part_is_found (*state, remove_part);
}

static void
parts_in_the_wrong_order (void **state)
{
  const uint8_t *then;
  struct world w = make_split (*state, &then);
  const char *one = part_of (w.f, 1, 1), *two = part_of (w.f, 1, 2);
  const char *aside = text (w.f, "%s/aside", w.f->server.dir);

  assert_int_equal (rename (one, aside), 0);
  assert_int_equal (rename (two, one), 0);
  assert_int_equal (rename (aside, two), 0);
  open_store (&w);
  snapshot_is_broken (&w, 1, name_in (one));
}

static void
file_elsewhere_is_named_in_full (void **state)
{
  struct world w = new_world (*state);
  const char *file = text (w.f, "%s/elsewhere", w.f->server.dir);
  const char *aside = text (w.f, "%s/aside", w.f->server.dir);
  const uint8_t *first = remember (&w);

  open_store (&w);
  create_as (&w, text (w.f, "'options':{'backing-store':'%s'}", file));
  overwrite_anywhere (&w);
  const uint8_t *second = remember (&w);
  create (w.c);
  overwrite_anywhere (&w);
  end (&w, STOPPED);
  assert_int_equal (rename (file, aside), 0);
  open_store (&w);
  log_says (w.f, file, "No such file");
  snapshot_is_broken (&w, 1, file);
  snapshot_is (&w, 2, second);
  end (&w, STOPPED);
  assert_int_equal (rename (aside, file), 0);
  open_store (&w);
  snapshot_is (&w, 1, first);
  snapshot_is (&w, 2, second);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    fixture_test (damaged_header_of_a_part),
    fixture_test (damaged_index_of_a_part),
    fixture_test (missing_part),
    fixture_test (parts_in_the_wrong_order),
    fixture_test (file_elsewhere_is_named_in_full),
  };

  return cmocka_run_group_tests_name ("store-damage-parts", tests, NULL, NULL);
}
