/* SPDX-License-Identifier: BSD-3-Clause */
/* Snapshots of a store come and go, at random, are merged and cleared away;
 * at every catalogue that is written, every file that is removed and every
 * hole that is punched there is a crash.  Whatever the next server finds then
 * reads as it must, goes on as it should, and leaves nothing behind.
 */

#include "cmocka-all.h"
#include "call-hook.h"
#include "fixture.h"
#include "image.h"
#include "nbdkit-stub.h"
#include "scoped.h"
#include "scratch.h"
#include "store.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define SIZE ((uint64_t)61 * 512 + 100)
#define TAKEN_MAX 64   /* snapshots, ever */
#define IMAGES_MAX 400 /* of one step */

/* Each has a name that no other ever has. */
static struct taken {
  uint8_t bytes[SIZE];
  bool live;
} taken[TAKEN_MAX];
static unsigned count;

static struct fixture here;
static uint8_t now[SIZE];
static char path[256];
static unsigned seed;
static unsigned in_doubt; /* which one is just coming or going */
static unsigned checked;  /* images */

static struct image *images[IMAGES_MAX];
static _Atomic unsigned image_count;

static unsigned
chance (unsigned n)
{
  return (unsigned)rand_r (&seed) % n;
}

/* --- crashes ------------------------------------------------------------- */

static struct call_verdict
take_images (const struct call_event *event)
{
  if (event->call == CALL_RENAME2 || event->call == CALL_FSYNC
      || event->call == CALL_UNLINK || event->call == CALL_FALLOCATE) {
    const unsigned i = atomic_fetch_add (&image_count, 1);
    assert (i < IMAGES_MAX);
    images[i] = image_take (&here);
  }
  return (struct call_verdict){ 0 };
}

static void
show (const char *what, unsigned i, unsigned n)
{
  messages_show ();
  print_message ("snapshot s%u %s, in image %u of this step, after %u\n", i,
                 what, n, checked);
}

/* All that must be in THERE is, and nothing of it is wrong. */
static void
check_reads (struct fixture *there, unsigned n)
{
  for (unsigned i = 0; i < count; i++) {
    char name[16];

    snprintf (name, sizeof name, "s%u", i);
    struct snapshot *snapshot = snapset_find (there->set, name);
    const bool broken = snapshot != NULL && snapshot_is_given_up (snapshot);
    /* All that a kill may break is async. */
    if (i != in_doubt && (snapshot != NULL) != taken[i].live)
      show (snapshot != NULL ? "is there" : "is not there", i, n);
    if (i != in_doubt)
      assert_int_equal (snapshot != NULL, taken[i].live);
    if (broken && snapshot->options.durability != DURABILITY_ASYNC)
      show ("is broken", i, n);
    if (snapshot == NULL)
      continue;
    if (broken) {
      assert_int_equal (snapshot->options.durability, DURABILITY_ASYNC);
      continue;
    }
    uint8_t buf[SIZE];
    if (view_read (there->set, snapshot, buf, SIZE, 0) == -1) {
      /* One that it reads through may be broken, and async too. */
      if (snapshot->options.durability != DURABILITY_ASYNC) {
        show ("cannot be read", i, n);
        fail ();
      }
      continue;
    }
    if (memcmp (buf, taken[i].bytes, SIZE) != 0) {
      show ("reads as something else", i, n);
      fail ();
    }
  }
}

static unsigned
files_in (const char *directory)
{
  DIR *dir = opendir (directory);
  const struct dirent *entry;
  unsigned n = 0;

  assert_non_null (dir);
  while ((entry = readdir (dir)) != NULL)
    n += entry->d_name[0] != '.';
  closedir (dir);
  return n;
}

/* Lock, catalogue and spare, and the files of the layers. */
static void
check_files (const char *directory)
{
  struct catalog catalog;
  unsigned files = 3;

  image_catalog (directory, &catalog);
  assert_null (catalog.making);
  assert_null (catalog.removing);
  for (const struct catalog_layer *l = catalog.layers; l != NULL; l = l->next)
    files += l->parts;
  catalog_free (&catalog);
  assert_int_equal (files_in (directory), files);
}

static void
check_image (struct image *image, unsigned n)
{
  struct fixture there;

  image_serve (image, &there, false);
  assert_int_equal (messages_with ("not in the catalogue"), 0);
  assert_int_equal (messages_with ("is not removed"), 0);
  check_reads (&there, n);
  if (checked++ % 3 == 0) {
    fixture_reclaim (&there);
    fixture_settle (&there);
    check_reads (&there, n);
    assert_int_equal (fixture_write (&there, 0, SIZE, 0xee), 0);
    fixture_settle (&there);
    check_reads (&there, n);
    fixture_end (&there, true);
    check_files (image->store);
    fixture_serve (&there);
    check_reads (&there, n);
  }
  fixture_close (&there);
}

static void
check_images (void)
{
  const unsigned n = atomic_load (&image_count);

  call_hook_set (NULL);
  for (unsigned i = 0; i < n; i++) {
    check_image (images[i], i);
    image_remove (images[i]);
    image_free (images[i]);
  }
  /* HERE goes on: its thread that clears away is watched, and no other's. */
  atomic_store (&image_count, 0);
}

/* --- steps --------------------------------------------------------------- */

static void
watch_here (void)
{
  if (here.reclaim == NULL)
    fixture_reclaim (&here);
}

/* The thread of HERE must not run while others are watched. */
static void
stop_reclaim (void)
{
  if (here.reclaim == NULL)
    return;
  assert_int_equal (reclaim_stop (here.reclaim, 60), 0);
  reclaim_free (here.reclaim);
  here.reclaim = NULL;
}

static void
settle (void)
{
  watch_here ();
  fixture_settle (&here);
  stop_reclaim ();
}

static void
take (enum durability durability)
{
  static const char me;
  char name[16];

  in_doubt = count;
  snprintf (name, sizeof name, "s%u", count);
  memcpy (taken[count].bytes, now, SIZE);
  here.options.name = name;
  here.options.durability = durability;
  here.options.chunk_size = UINT64_C (512) << chance (4);
  here.options.backfile_size
      = chance (3) == 0 ? format_layout (here.options.chunk_size,
                                         64 * here.options.chunk_size)
                              .file_size
                        : 0;
  here.options.creator = chance (4) == 0 ? &me : NULL;
  count++;
  struct snapshot *snapshot = fixture_freeze (&here);
  if (here.options.creator != NULL) {
    const uint64_t chunk_size = here.options.chunk_size;
    assert_int_equal (snapshot_set_free (snapshot, 8192, 8192),
                      8192 / chunk_size);
    assert_int_equal (snapset_finish (here.set, name, &me), 0);
    memset (taken[count - 1].bytes + 8192, 0, 8192);
  }
  taken[count - 1].live = true;
}

static void
write_some (void)
{
  const uint64_t offset = chance ((unsigned)SIZE - 1);
  const uint64_t left = SIZE - offset;
  const uint64_t length = 1 + chance ((unsigned)(left < 6000 ? left : 6000));
  const uint8_t value = chance (4) == 0 ? 0 : (uint8_t)chance (256);

  assert_int_equal (fixture_write (&here, offset, length, value), 0);
  memset (now + offset, value, length);
}

static void
delete_one (void)
{
  unsigned i = chance (count);

  for (unsigned n = 0; n < count && !taken[i].live; n++)
    i = (i + 1) % count;
  if (!taken[i].live)
    return;
  char name[16];
  unsigned number;
  snprintf (name, sizeof name, "s%u", i);
  in_doubt = i;
  assert_int_equal (snapset_delete (here.set, name, true, NULL, &number), 0);
  taken[i].live = false;
}

/* All that was written has arrived where a kill finds it. */
static void
drain (void)
{
  size_t layers;
  SCOPED_FREE struct snapshot **list = snapset_list (here.set, true, &layers);

  for (size_t i = 0; i < layers; i++) {
    fixture_drain (list[i]);
    snapset_unpin (here.set, list[i]);
  }
}

static void
one_step (enum durability least, enum durability most)
{
  const unsigned what = chance (10);

  call_hook_set (take_images);
  if (what < 3 && count < TAKEN_MAX)
    take ((enum durability) (least + chance (most - least + 1)));
  else if (what < 5 && count > 0)
    delete_one ();
  else
    for (unsigned n = 1 + chance (5); n > 0; n--)
      write_some ();
  drain ();
  /* What it was about is known by now. */
  check_images ();
  in_doubt = UINT32_MAX;
  if (chance (2) == 0) {
    call_hook_set (take_images);
    settle ();
    check_images ();
  }
}

static void
run (unsigned number, enum durability least, enum durability most)
{
  seed = number;
  count = 0;
  in_doubt = UINT32_MAX;
  memset (taken, 0, sizeof taken);
  snprintf (path, sizeof path, "%s", scratch_path ("store"));
  here = (struct fixture){ .size = SIZE, .in_store = path };
  fixture_open (&here);
  memcpy (now, here.old, SIZE);
  for (unsigned step = 0; step < 40; step++)
    one_step (least, most);
  settle ();
  check_reads (&here, 0);
  fixture_restart (&here, chance (2));
  check_reads (&here, 0);
  for (unsigned i = 0; i < count; i++)
    if (taken[i].live)
      delete_one ();
  while (snapset_newest (here.set) != NULL)
    delete_one ();
  settle ();
  assert_int_equal (fixture_layers (&here), 0);
  fixture_end (&here, true);
  check_files (path);
  assert_int_equal (files_in (path), 3);
  fixture_serve (&here);
}

static int
teardown (void **state)
{
  (void)state;
  call_hook_set (NULL);
  for (unsigned i = 0; i < atomic_load (&image_count); i++)
    image_free (images[i]);
  atomic_store (&image_count, 0);
  fixture_close (&here);
  scratch_remove ();
  return 0;
}

static void
run_some (enum durability least, enum durability most)
{
  const unsigned runs = getenv ("FSSNAP_LONG") != NULL ? 100 : 3;
  const char *given = getenv ("FSSNAP_SEED");
  void *state = NULL;

  for (unsigned i = 1; i <= runs; i++) {
    const unsigned number = given != NULL ? (unsigned)atoi (given) : i;
    print_message ("seed %u\n", number);
    run (number, least, most);
    if (i < runs)
      teardown (&state);
  }
}

static void
written_and_stable_ones (void **state)
{
  (void)state;
  run_some (DURABILITY_WRITTEN, DURABILITY_STABLE);
  assert_true (checked > 100);
}

static void
with_async_ones_among_them (void **state)
{
  (void)state;
  run_some (DURABILITY_ASYNC, DURABILITY_STABLE);
}

#define TEST(name) cmocka_unit_test_setup_teardown (name, NULL, teardown)

int
main (void)
{
  const struct CMUnitTest tests[] = {
    TEST (written_and_stable_ones),
    TEST (with_async_ones_among_them),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
