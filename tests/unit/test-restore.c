/* SPDX-License-Identifier: BSD-3-Clause */
/* What the next server makes of what it finds in a store. */

#include "cmocka-all.h"
#include "call-hook.h"
#include "fixture.h"
#include "history.h"
#include "identity.h"
#include "image.h"
#include "nbdkit-stub.h"
#include "restore.h"
#include "scoped.h"
#include "scratch.h"
#include "store.h"
#include "storefile.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHUNK 4096
#define SIZE ((uint64_t)60 * CHUNK + 777)

static struct fixture here, there;
static struct history history;
static struct image *image;  /* that THERE is of */
static struct catalog found; /* by noted */
static char path[256];

static int
setup (void **state)
{
  (void)state;
  snprintf (path, sizeof path, "%s", scratch_path ("store"));
  here = (struct fixture){ .size = SIZE,
                           .in_store = path,
                           .options = { .durability = DURABILITY_WRITTEN } };
  there = (struct fixture){ 0 };
  fixture_open (&here);
  history_begin (&history, &here);
  return 0;
}

static void
close_there (void)
{
  if (there.origin != NULL)
    fixture_close (&there);
  there.origin = NULL;
  image_free (image);
  image = NULL;
}

static int
teardown (void **state)
{
  (void)state;
  call_hook_set (NULL);
  close_there ();
  fixture_close (&here);
  history_free (&history);
  catalog_free (&found);
  scratch_remove ();
  return 0;
}

static struct snapshot *
freeze (enum durability durability)
{
  here.options.durability = durability;
  return history_freeze (&history);
}

static void
write_chunks (unsigned first, unsigned count, uint8_t value)
{
  history_write (&history, first * (uint64_t)CHUNK, count * (uint64_t)CHUNK,
                 value);
}

/* One of each, with something written after each. */
static void
take_all_levels (void)
{
  freeze (DURABILITY_ASYNC);
  write_chunks (0, 10, 1);
  freeze (DURABILITY_WRITTEN);
  write_chunks (5, 10, 2);
  freeze (DURABILITY_STABLE);
  write_chunks (3, 30, 3);
}

static void
drain (unsigned count)
{
  for (unsigned i = 1; i <= count; i++)
    fixture_drain (fixture_find (&here, i));
}

/* A crash now, and the next server. */
static void
crash (bool rebooted)
{
  close_there ();
  image = image_take (&here);
  messages_clear ();
  image_serve (image, &there, rebooted);
}

/* The same, with something done to the catalogue. */
static void
crash_with (void (*edit) (struct catalog *catalog))
{
  struct catalog catalog;

  image = image_take (&here);
  image_catalog (image->store, &catalog);
  edit (&catalog);
  image_set_catalog (image->store, &catalog);
  catalog_free (&catalog);
  messages_clear ();
  image_serve (image, &there, false);
}

static struct catalog_layer *
layer (struct catalog *catalog, unsigned number)
{
  struct catalog_layer *l = catalog->layers;

  while (l->number != number)
    l = l->next;
  return l;
}

/* What the store of the server that is there has of a snapshot. */
static const struct catalog_layer *
noted (unsigned number)
{
  catalog_free (&found);
  image_catalog (there.in_store, &found);
  return layer (&found, number);
}

/* --- ends ---------------------------------------------------------------- */

static void
clean_end_brings_back_all (void **state)
{
  (void)state;
  take_all_levels ();
  fixture_restart (&here, true);
  assert_history (&history, &here);
  assert_no_message ();
  write_chunks (1, 50, 4);
  assert_history (&history, &here);
  fixture_restart (&here, true);
  fixture_restart (&here, true);
  assert_history (&history, &here);
  assert_no_message ();
}

static void
kill_brings_back_what_was_written (void **state)
{
  (void)state;
  take_all_levels ();
  drain (3);
  crash (false);
  assert_broken (&there, 1, "durability=async");
  assert_holds (&history, &there, 2);
  assert_holds (&history, &there, 3);
  assert_int_equal (messages_count (), 2); /* and that it cannot be read */
  assert_non_null (noted (1)->broken_reason);
  assert_null (noted (2)->broken_reason);
}

static void
another_boot_brings_back_what_is_stable (void **state)
{
  (void)state;
  take_all_levels ();
  drain (3);
  crash (true);
  assert_broken (&there, 1, "durability=async");
  assert_broken (&there, 2, "durability=written");
  assert_holds (&history, &there, 3);
  assert_non_null (noted (2)->broken_reason);
  /* And it stays so, though this is the same boot. */
  fixture_restart (&there, false);
  assert_broken (&there, 2, "durability=written");
  assert_holds (&history, &there, 3);
}

static void
clean_end_and_another_boot_bring_back_all (void **state)
{
  (void)state;
  take_all_levels ();
  fixture_end (&here, true);
  crash (true);
  assert_history (&history, &there);
}

/* Whoever cannot say which boot this is cannot say that it is the same. */
static void
forget_boot (struct catalog *catalog)
{
  catalog->boot[0] = '\0';
}

static void
unknown_boot_is_another (void **state)
{
  (void)state;
  freeze (DURABILITY_WRITTEN);
  write_chunks (0, 1, 1);
  crash_with (forget_boot);
  assert_broken (&there, 1, "durability=written");
}

static void
all_stable (struct catalog *catalog)
{
  for (struct catalog_layer *l = catalog->layers; l != NULL; l = l->next)
    l->level = DURABILITY_STABLE;
}

/* Killed when it was about to end. */
static void
level_counts_not_what_was_asked (void **state)
{
  (void)state;
  freeze (DURABILITY_ASYNC);
  crash_with (all_stable);
  assert_holds (&history, &there, 1);
  assert_int_equal (noted (1)->level, DURABILITY_ASYNC); /* from now on */
}

static unsigned file_syncs, origin_syncs;

static struct call_verdict
count_syncs (const struct call_event *event)
{
  if (event->call != CALL_FDATASYNC)
    return (struct call_verdict){ 0 };
  if (fixture_is_origin (&here, event->fd))
    origin_syncs++;
  else
    file_syncs++;
  return (struct call_verdict){ 0 };
}

/* What the index has after a kill looks stable, and must be. */
static void
stable_ones_are_synced_after_a_kill (void **state)
{
  (void)state;
  take_all_levels ();
  drain (3);
  for (unsigned clean = 0; clean < 2; clean++) {
    fixture_end (&here, clean);
    file_syncs = 0;
    call_hook_set (count_syncs);
    fixture_serve (&here);
    call_hook_set (NULL);
    assert_int_equal (file_syncs, clean ? 0 : 1);
    assert_holds (&history, &here, 3);
  }
}

static struct call_verdict
file_syncs_fail (const struct call_event *event)
{
  return (struct call_verdict){ .error = event->call == CALL_FDATASYNC
                                                 && !fixture_is_origin (
                                                     &here, event->fd)
                                             ? EIO
                                             : 0 };
}

static void
stable_one_that_cannot_be_synced_is_broken (void **state)
{
  (void)state;
  freeze (DURABILITY_STABLE);
  write_chunks (3, 4, 1);
  fixture_end (&here, false);
  call_hook_set (file_syncs_fail);
  fixture_serve (&here);
  call_hook_set (NULL);
  assert_broken (&here, 1, "synced");
}

static void
begun_and_killed_twice (void **state)
{
  (void)state;
  freeze (DURABILITY_STABLE);
  write_chunks (3, 4, 1);
  freeze (DURABILITY_WRITTEN);
  write_chunks (0, 5, 2);
  for (unsigned i = 0; i < 3; i++) {
    drain (2);
    fixture_restart (&here, false);
    assert_history (&history, &here);
    write_chunks (10 + i, 1, (uint8_t)i);
  }
  assert_no_message ();
}

/* --- unfinished and unwanted --------------------------------------------- */

static void
pending_second (struct catalog *catalog)
{
  layer (catalog, 2)->pending = true;
}

static void
creating_second (struct catalog *catalog)
{
  layer (catalog, 2)->creating = true;
}

static void
ephemeral_second (struct catalog *catalog)
{
  layer (catalog, 2)->ephemeral = true;
}

static void
second_goes (void (*edit) (struct catalog *catalog), unsigned messages)
{
  freeze (DURABILITY_WRITTEN);
  write_chunks (0, 10, 1);
  freeze (DURABILITY_WRITTEN);
  write_chunks (5, 10, 2);
  freeze (DURABILITY_WRITTEN);
  write_chunks (0, 3, 3);
  crash_with (edit);
  assert_int_equal (messages_with ("snapshot 2 is deleted"), messages);
  assert_int_equal (messages_count (), messages);
  assert_null (fixture_find (&there, 2));
  assert_holds (&history, &there, 1); /* which reads through it */
  assert_holds (&history, &there, 3);
  assert_true (noted (2)->deleted);
  fixture_reclaim (&there);
  fixture_settle (&there);
  assert_holds (&history, &there, 1);
  assert_holds (&history, &there, 3);
}

static void
pending_one_is_deleted (void **state)
{
  (void)state;
  second_goes (pending_second, 1);
}

static void
one_being_created_is_deleted (void **state)
{
  (void)state;
  second_goes (creating_second, 1);
}

static void
ephemeral_one_is_deleted (void **state)
{
  (void)state;
  second_goes (ephemeral_second, 0);
}

static void
creation_that_was_not_finished (void **state)
{
  static const char me;

  (void)state;
  freeze (DURABILITY_WRITTEN);
  write_chunks (0, 10, 1);
  here.options.creator = &me;
  struct snapshot *snapshot = fixture_freeze (&here);
  here.options.creator = NULL;
  snapshot_set_free (snapshot, 0, 20 * CHUNK);
  write_chunks (5, 10, 2);
  crash (false);
  assert_history (&history, &there);
  assert_int_equal (messages_with ("snapshot 2 is deleted"), 1);
}

/* The end does not wait for who deletes. */
static void
deleted_one_is_still_read_through (void **state)
{
  (void)state;
  freeze (DURABILITY_WRITTEN);
  write_chunks (0, 10, 1);
  freeze (DURABILITY_WRITTEN);
  write_chunks (5, 10, 2);
  freeze (DURABILITY_WRITTEN);
  write_chunks (7, 20, 3);
  history_delete (&history, 2);
  crash (false);
  assert_history (&history, &there);
  crash (true);
  assert_null (fixture_find (&there, 2));
}

static void
all_deleted_leave_an_empty_store (void **state)
{
  (void)state;
  freeze (DURABILITY_WRITTEN);
  write_chunks (0, 10, 1);
  freeze (DURABILITY_WRITTEN);
  history_delete (&history, 1);
  history_delete (&history, 2);
  crash (false);
  assert_history (&history, &there);
  fixture_reclaim (&there);
  fixture_settle (&there);
  assert_int_equal (fixture_layers (&there), 0);
  assert_int_equal (fixture_dropped (&there), 0);
  assert_null (store_catalog (there.store)->layers);
  assert_int_equal (fixture_freeze (&there)->number, 1);
}

/* --- broken ones --------------------------------------------------------- */

static void
break_second (struct catalog *catalog)
{
  struct catalog_layer *l = layer (catalog, 2);

  l->broken_reason = strdup ("a disk was full");
  l->broken_errno = ENOSPC;
  l->broken_time = 1700000000;
}

static void
broken_one_is_as_it_was (void **state)
{
  (void)state;
  freeze (DURABILITY_WRITTEN);
  write_chunks (0, 10, 1);
  freeze (DURABILITY_WRITTEN);
  write_chunks (5, 10, 2);
  freeze (DURABILITY_WRITTEN);
  write_chunks (0, 20, 3);
  crash_with (break_second);
  assert_broken (&there, 2, "a disk was full");
  struct snapshot *second = fixture_find (&there, 2);
  assert_int_equal (second->broken_errno, ENOSPC);
  assert_int_equal (second->broken_at, 1700000000);
  assert_holds (&history, &there, 3);
  /* What the oldest has itself holds, and no more. */
  struct snapshot *first = fixture_find (&there, 1);
  uint8_t byte;
  assert_reads (&there, first, history.frozen[1], 0, 10 * CHUNK);
  assert_int_equal (view_read (there.set, first, &byte, 1, 12 * CHUNK), -1);
  assert_int_equal (snapset_status (there.set, first).blocked_by, 2);
}

static void
marked_one_is_broken_for_good (void **state)
{
  (void)state;
  freeze (DURABILITY_WRITTEN);
  struct snapshot *second = freeze (DURABILITY_WRITTEN);
  store_mark_broken (here.store, second->record);
  crash (false);
  assert_broken (&there, 2, "killed");
  assert_non_null (noted (2)->broken_reason);
  assert_false (store_is_marked (second->record));
}

static void
marked_one_is_broken_after_a_clean_end_too (void **state)
{
  char mark[64], uuid[37];

  (void)state;
  freeze (DURABILITY_WRITTEN);
  uuid_unparse_lower (store_catalog (here.store)->layers->uuid, uuid);
  snprintf (mark, sizeof mark, "/dev/shm/fssnap-%s", uuid);
  fixture_end (&here, true);
  close (open (mark, O_CREAT | O_WRONLY, 0600));
  crash (false);
  const int left = access (mark, F_OK);
  unlink (mark);
  assert_broken (&there, 1, "killed");
  assert_int_equal (left, -1);
}

/* --- files --------------------------------------------------------------- */

static char *
file_of (unsigned number)
{
  char *name;

  assert_true (asprintf (&name, "%s/%s", path,
                         fixture_find (&here, number)->record->files[0])
               != -1);
  return name;
}

/* Four, of which the third is deleted, and each has what others need. */
static void
take_four (void)
{
  freeze (DURABILITY_WRITTEN);
  write_chunks (0, 4, 1);
  freeze (DURABILITY_WRITTEN);
  write_chunks (2, 4, 2);
  freeze (DURABILITY_WRITTEN);
  write_chunks (4, 4, 3);
  freeze (DURABILITY_WRITTEN);
  write_chunks (6, 4, 4);
  history_delete (&history, 3);
}

static void
absent_one_comes_back_with_its_file (void **state)
{
  (void)state;
  take_four ();
  SCOPED_FREE char *file = file_of (2);
  fixture_end (&here, true);
  assert_int_equal (rename (file, scratch_path ("elsewhere")), 0);
  messages_clear ();
  fixture_serve (&here);
  assert_int_equal (messages_count (), 1);
  assert_int_equal (messages_with (file), 1);
  assert_broken (&here, 2, file);
  assert_holds (&history, &here, 4);
  struct snapshot *first = fixture_find (&here, 1);
  assert_reads (&here, first, history.frozen[1], 0, 4 * CHUNK);
  /* Life goes on, and nothing goes that they will need. */
  fixture_reclaim (&here);
  write_chunks (0, 20, 5);
  fixture_settle (&here);
  freeze (DURABILITY_WRITTEN);
  write_chunks (10, 20, 6);
  fixture_settle (&here);
  fixture_end (&here, true);
  assert_int_equal (rename (scratch_path ("elsewhere"), file), 0);
  fixture_serve (&here);
  assert_history (&history, &here);
}

/* The same after kill -9. */
static void
absent_one_comes_back_after_a_kill (void **state)
{
  (void)state;
  take_four ();
  SCOPED_FREE char *file = file_of (2);
  fixture_end (&here, false);
  assert_int_equal (rename (file, scratch_path ("elsewhere")), 0);
  fixture_serve (&here);
  fixture_reclaim (&here);
  write_chunks (0, 20, 5);
  fixture_settle (&here);
  fixture_end (&here, false);
  assert_int_equal (rename (scratch_path ("elsewhere"), file), 0);
  fixture_serve (&here);
  assert_history (&history, &here);
}

/* A deleted layer without its file keeps the older ones from being read. */
static void
absent_deleted_one_comes_back (void **state)
{
  char file[600];
  uint8_t byte;

  (void)state;
  take_four ();
  snprintf (file, sizeof file, "%s/%s", path,
            store_catalog (here.store)->layers->next->next->files[0]);
  fixture_end (&here, true);
  assert_int_equal (rename (file, scratch_path ("elsewhere")), 0);
  fixture_serve (&here);
  assert_holds (&history, &here, 4);
  assert_int_equal (
      view_read (here.set, fixture_find (&here, 2), &byte, 1, 6 * CHUNK), -1);
  fixture_reclaim (&here);
  write_chunks (0, 20, 5);
  fixture_settle (&here);
  fixture_end (&here, true);
  assert_int_equal (rename (scratch_path ("elsewhere"), file), 0);
  fixture_serve (&here);
  assert_history (&history, &here);
}

/* An absent one can be deleted; what older ones need of it stays. */
static void
absent_one_is_deleted (void **state)
{
  (void)state;
  take_four ();
  SCOPED_FREE char *file = file_of (2);
  fixture_end (&here, true);
  assert_int_equal (rename (file, scratch_path ("elsewhere")), 0);
  fixture_serve (&here);
  history_delete (&history, 2);
  fixture_reclaim (&here);
  write_chunks (0, 20, 5);
  fixture_settle (&here);
  fixture_end (&here, true);
  assert_int_equal (rename (scratch_path ("elsewhere"), file), 0);
  fixture_serve (&here);
  assert_history (&history, &here);
}

/* It has not what was overwritten meanwhile. */
static void
newest_without_its_file_is_broken_for_good (void **state)
{
  (void)state;
  take_four ();
  SCOPED_FREE char *file = file_of (4);
  fixture_end (&here, true);
  assert_int_equal (rename (file, scratch_path ("elsewhere")), 0);
  fixture_serve (&here);
  assert_broken (&here, 4, file);
  write_chunks (0, 20, 5);
  fixture_end (&here, true);
  assert_int_equal (rename (scratch_path ("elsewhere"), file), 0);
  fixture_serve (&here);
  assert_broken (&here, 4, file);
  uint8_t byte;
  assert_int_equal (
      view_read (here.set, fixture_find (&here, 1), &byte, 1, 8 * CHUNK), -1);
}

/* A new one is taken while the newest is absent. */
static void
new_snapshot_after_an_absent_newest (void **state)
{
  (void)state;
  take_four ();
  SCOPED_FREE char *file = file_of (4);
  fixture_end (&here, true);
  assert_int_equal (rename (file, scratch_path ("elsewhere")), 0);
  fixture_serve (&here);
  struct snapshot *fifth = freeze (DURABILITY_WRITTEN);
  const unsigned number = fifth->number;
  write_chunks (0, 20, 5);
  assert_holds (&history, &here, number);
  fixture_end (&here, true);
  assert_int_equal (rename (scratch_path ("elsewhere"), file), 0);
  fixture_serve (&here);
  assert_holds (&history, &here, number);
}

static void
damage (const char *file, uint64_t offset)
{
  uint8_t byte;
  const int fd = open (file, O_RDWR);

  assert_int_not_equal (fd, -1);
  assert_int_equal (pread (fd, &byte, 1, (off_t)offset), 1);
  byte ^= 4;
  assert_int_equal (pwrite (fd, &byte, 1, (off_t)offset), 1);
  close (fd);
}

static void
damaged_header_and_index_break_that_one (void **state)
{
  static const uint64_t places[] = { 20, FORMAT_HEADER + 100 };

  (void)state;
  take_four ();
  SCOPED_FREE char *file = file_of (2);
  for (unsigned i = 0; i < 2; i++) {
    fixture_end (&here, i == 0);
    damage (file, places[i]);
    messages_clear ();
    fixture_serve (&here);
    assert_int_equal (messages_with (file), 1);
    assert_broken (&here, 2, file);
    assert_holds (&history, &here, 4);
    fixture_end (&here, false);
    damage (file, places[i]); /* as it was */
    fixture_serve (&here);
    assert_history (&history, &here);
  }
}

/* A sector of the index reads as if it had never been written. */
static void
lost_sector_of_the_index_is_found_after_a_clean_end (void **state)
{
  (void)state;
  take_four ();
  SCOPED_FREE char *file = file_of (2);
  fixture_end (&here, true);
  const int fd = open (file, O_RDWR);
  assert_int_equal (fallocate (fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                               FORMAT_HEADER, 4096),
                    0);
  close (fd);
  fixture_serve (&here);
  assert_broken (&here, 2, file);
  assert_holds (&history, &here, 4);
}

static void
file_of_another_snapshot_is_refused (void **state)
{
  (void)state;
  take_four ();
  SCOPED_FREE char *second = file_of (2);
  SCOPED_FREE char *first = file_of (1);
  fixture_end (&here, true);
  assert_int_equal (rename (second, first), 0);
  fixture_serve (&here);
  assert_broken (&here, 1, "another snapshot");
  assert_broken (&here, 2, second);
  assert_holds (&history, &here, 4);
}

/* --- the origin ---------------------------------------------------------- */

/* Served again, it is refused, because of TEXT. */
static void
check_refused (const char *text)
{
  messages_clear ();
  fixture_serve (&here);
  assert_true (messages_with (text) >= 1);
  for (unsigned i = 1; i <= 4; i++)
    if (i != 3)
      assert_broken (&here, i, text);
  errno = 0;
  assert_null (snapset_freeze (here.set, &here.options));
  assert_int_equal (errno, EBUSY);
}

static char *
read_catalog_text (void)
{
  char name[300];
  char *text = calloc (1, 1 << 20);

  snprintf (name, sizeof name, "%s/catalog", path);
  const int fd = open (name, O_RDONLY);
  assert_true (read (fd, text, (1 << 20) - 1) > 0);
  close (fd);
  return text;
}

/* Another origin of the same content.  The old one is in OLD_FD. */
static int
exchange_origin (void)
{
  const int old_fd = here.fd;
  uint8_t *buf = malloc (SIZE);

  assert_int_equal (pread (old_fd, buf, SIZE, 0), SIZE);
  origin_close (here.origin);
  here.fd = unnamed_file (SIZE, here.path);
  assert_int_equal (pwrite (here.fd, buf, SIZE, 0), SIZE);
  free (buf);
  here.origin = origin_open (here.path);
  assert_non_null (here.origin);
  return old_fd;
}

static void
right_origin_again (int old_fd)
{
  origin_close (here.origin);
  close (here.fd);
  here.fd = old_fd;
  snprintf (here.path, sizeof here.path, "/proc/self/fd/%d", here.fd);
  here.origin = origin_open (here.path);
  assert_non_null (here.origin);
}

/* The origin as it was, to who looks at it. */
static void
undo_write (const struct stat *st)
{
  const struct timespec times[2] = { st->st_atim, st->st_mtim };

  assert_int_equal (pwrite (here.fd, history.now, SIZE, 0), SIZE);
  assert_int_equal (futimens (here.fd, times), 0);
}

static void
origin_written_behind_our_back_is_refused (void **state)
{
  struct stat st;

  (void)state;
  take_four ();
  fixture_end (&here, true);
  SCOPED_FREE char *before = read_catalog_text ();
  assert_int_equal (fstat (here.fd, &st), 0);
  assert_int_equal (pwrite (here.fd, "x", 1, 30 * CHUNK), 1);
  check_refused ("written while no server watched");
  fixture_end (&here, true);
  SCOPED_FREE char *after = read_catalog_text ();
  assert_string_equal (after, before); /* it was not touched */
  undo_write (&st);
  fixture_serve (&here);
  assert_history (&history, &here);
}

/* What a server writes that keeps no copies is not to be undone. */
static void
origin_written_while_it_was_refused_is_so_for_good (void **state)
{
  struct stat st;

  (void)state;
  take_four ();
  fixture_end (&here, true);
  assert_int_equal (fstat (here.fd, &st), 0);
  assert_int_equal (pwrite (here.fd, "x", 1, 30 * CHUNK), 1);
  check_refused ("written while no server watched");
  for (unsigned i = 0; i < 3; i++)
    assert_int_equal (fixture_write (&here, 0, SIZE, 9), 0);
  fixture_end (&here, false);
  undo_write (&st);
  fixture_serve (&here);
  for (unsigned i = 1; i <= 4; i++)
    if (i != 3)
      assert_broken (&here, i, "while it was refused");
}

static void
other_origin_may_be_written_while_it_is_refused (void **state)
{
  (void)state;
  take_four ();
  fixture_end (&here, true);
  const int old_fd = exchange_origin ();
  check_refused ("not the one");
  assert_int_equal (fixture_write (&here, 0, SIZE, 9), 0);
  fixture_end (&here, true);
  right_origin_again (old_fd);
  fixture_serve (&here);
  assert_history (&history, &here);
}

static void
resized_origin_is_refused (void **state)
{
  (void)state;
  take_four ();
  fixture_end (&here, true);
  assert_int_equal (ftruncate (here.fd, (off_t)SIZE + 512), 0);
  check_refused ("resized");
}

static void
shrunk_origin_breaks_for_good (void **state)
{
  (void)state;
  take_four ();
  fixture_end (&here, false);
  assert_int_equal (ftruncate (here.fd, (off_t)SIZE - 512), 0);
  for (unsigned i = 0; i < 2; i++) {
    fixture_serve (&here);
    for (unsigned number = 1; number <= 4; number++)
      if (number != 3)
        assert_broken (&here, number, "shrunk");
    fixture_end (&here, false);
    assert_int_equal (ftruncate (here.fd, (off_t)SIZE), 0);
  }
  fixture_serve (&here);
}

static void
origin_that_grew_is_accepted_after_a_kill (void **state)
{
  (void)state;
  take_four ();
  drain (2);
  fixture_end (&here, false);
  assert_int_equal (ftruncate (here.fd, (off_t)SIZE + 4096), 0);
  fixture_serve (&here);
  assert_history (&history, &here);
}

static void
another_origin_is_refused (void **state)
{
  (void)state;
  for (unsigned clean = 0; clean < 2; clean++) {
    if (clean)
      fixture_restart (&here, true);
    else
      take_four ();
    drain (2);
    fixture_end (&here, clean);
    const int old_fd = exchange_origin ();
    check_refused ("not the one");
    fixture_end (&here, true);
    right_origin_again (old_fd);
    fixture_serve (&here);
    assert_history (&history, &here);
  }
}

/* Deleting in a store that is refused must not take from the others what they
 * need when the right origin is there again.
 */
static void
deleting_in_a_refused_store_spares_the_others (void **state)
{
  (void)state;
  take_four ();
  fixture_end (&here, true);
  const int old_fd = exchange_origin ();
  check_refused ("not the one");
  fixture_reclaim (&here);
  history_delete (&history, 2);
  fixture_settle (&here);
  fixture_end (&here, true);
  right_origin_again (old_fd);
  messages_clear ();
  fixture_serve (&here);
  assert_history (&history, &here);
  fixture_reclaim (&here);
  fixture_settle (&here);
  assert_history (&history, &here);
  assert_no_message ();
}

static void
refused_store_takes_new_ones_when_all_are_deleted (void **state)
{
  (void)state;
  take_four ();
  fixture_end (&here, true);
  close (exchange_origin ());
  check_refused ("not the one");
  fixture_reclaim (&here);
  for (unsigned i = 1; i <= 4; i++)
    if (i != 3)
      history_delete (&history, i);
  fixture_settle (&here);
  struct snapshot *snapshot = freeze (DURABILITY_WRITTEN);
  assert_int_equal (snapshot->number, 1);
  write_chunks (0, 9, 7);
  fixture_settle (&here);
  assert_history (&history, &here);
  fixture_restart (&here, true);
  assert_history (&history, &here);
}

static struct call_verdict
origin_is_unreadable (const struct call_event *event)
{
  return (struct call_verdict){
    .error = event->call == CALL_PREAD && fixture_is_origin (&here, event->fd)
                 ? EIO
                 : 0
  };
}

/* --- what there is to know ----------------------------------------------- */

static void
everything_is_as_it_was (void **state)
{
  uint8_t buf[CHUNK];

  (void)state;
  here.options.name = "monday";
  here.options.maxsize = 100 * CHUNK;
  here.options.cow_timeout = 17;
  here.options.on_error = ON_ERROR_BREAK_WRITE;
  here.options.chunk_size = 8192;
  struct snapshot *before = freeze (DURABILITY_STABLE);
  write_chunks (0, 10, 1);
  fixture_drain (before);
  assert_int_equal (view_read (here.set, before, buf, CHUNK, 0), 0);
  assert_int_equal (view_read (here.set, before, buf, CHUNK, 40 * CHUNK), 0);
  const time_t created = before->created;
  const uint64_t waits = atomic_load (&before->waits);
  assert_int_equal (atomic_load (&before->copied), 10 * CHUNK);
  fixture_restart (&here, true);
  struct snapshot *s = snapset_find (here.set, "monday");
  assert_non_null (s);
  assert_int_equal (s->number, 1);
  assert_int_equal (s->created, created);
  assert_int_equal (s->size, SIZE);
  assert_int_equal (s->options.chunk_size, 8192);
  assert_int_equal (s->options.maxsize, 100 * CHUNK);
  assert_int_equal (s->options.cow_timeout, 17);
  assert_int_equal (s->options.on_error, ON_ERROR_BREAK_WRITE);
  assert_int_equal (s->options.durability, DURABILITY_STABLE);
  assert_int_equal (atomic_load (&s->level), DURABILITY_STABLE);
  assert_false (s->options.ephemeral);
  assert_int_equal (atomic_load (&s->copied), 10 * CHUNK);
  assert_int_equal (atomic_load (&s->waits), waits);
  uint64_t origin = 0, backfile = 0;
  for (unsigned i = 0; i < STRIPES; i++) {
    origin += atomic_load (&s->reads[i].origin);
    backfile += atomic_load (&s->reads[i].backfile);
  }
  assert_int_equal (origin, CHUNK);
  assert_int_equal (backfile, CHUNK);
  assert_int_equal (snapset_highest (here.set), 1);
  here.options.name = NULL;
  here.options.on_error = ON_ERROR_BREAK_SNAPSHOT;
  assert_int_equal (freeze (DURABILITY_ASYNC)->number, 2);
}

/* maxsize goes on to count. */
static void
copied_is_known_after_a_kill (void **state)
{
  (void)state;
  here.options.maxsize = 20 * CHUNK;
  struct snapshot *before = freeze (DURABILITY_WRITTEN);
  write_chunks (0, 10, 1);
  fixture_drain (before);
  crash (false);
  const uint64_t copied = atomic_load (&fixture_find (&there, 1)->copied);
  assert_in_range (copied, 10 * CHUNK, 10 * CHUNK);
  assert_int_equal (fixture_write (&there, 20 * CHUNK, 9 * CHUNK, 1), 0);
  assert_holds (&history, &there, 1);
  assert_int_equal (fixture_write (&there, 30 * CHUNK, 9 * CHUNK, 1), 0);
  assert_broken (&there, 1, "maxsize");
}

static void
lost_chunks_stay_lost (void **state)
{
  uint8_t buf[CHUNK];

  (void)state;
  for (unsigned level = 0; level < 3; level++) {
    const unsigned number = freeze ((enum durability)level)->number;
    call_hook_set (origin_is_unreadable);
    assert_int_equal (fixture_write (&here, 5 * CHUNK, 3 * CHUNK, 1), 0);
    call_hook_set (NULL);
    memset (history.now + 5 * CHUNK, 1, 3 * CHUNK);
    write_chunks (7, 4, 2);
    for (unsigned clean = 0; clean < 2; clean++) {
      if (!clean && level == DURABILITY_ASYNC)
        continue;
      fixture_drain (fixture_find (&here, number));
      fixture_restart (&here, clean);
      struct snapshot *s = fixture_find (&here, number);
      assert_false (snapshot_is_broken (s));
      for (unsigned i = 4; i < 10; i++) {
        const int r = view_read (here.set, s, buf, CHUNK, i * CHUNK);
        assert_int_equal (r, i >= 5 && i < 8 ? -1 : 0);
        if (r == 0)
          assert_memory_equal (buf, history.frozen[number] + i * CHUNK, CHUNK);
      }
      assert_true (atomic_load (&s->lost) > 0);
      write_chunks (5, 3, 9); /* it is theirs no more */
    }
    history_delete (&history, number);
  }
}

/* A crash between two units: COPIED has not what UNREADABLE has. */
static void
lost_chunk_that_is_not_noted_as_copied_is_lost (void **state)
{
  uint64_t words[FORMAT_UNIT_GROUPS] = { 0xf0 };
  uint8_t sector[FORMAT_SECTOR], buf[CHUNK];

  (void)state;
  struct snapshot *s = freeze (DURABILITY_WRITTEN);
  const struct index_place place
      = storefile_place (s->backfile, FORMAT_UNREADABLE, 0);
  format_encode_unit (&place.unit, words, sector);
  assert_int_equal (
      pwrite (place.fd, sector, sizeof sector, (off_t)place.offset),
      sizeof sector);
  crash (false);
  s = fixture_find (&there, 1);
  for (unsigned i = 0; i < 10; i++)
    assert_int_equal (view_read (there.set, s, buf, CHUNK, i * CHUNK),
                      i >= 4 && i < 8 ? -1 : 0);
  assert_int_equal (fixture_write (&there, 0, 20 * CHUNK, 1), 0);
}

static void
free_chunks_stay_free (void **state)
{
  static const char me;

  (void)state;
  here.options.creator = &me;
  struct snapshot *s = freeze (DURABILITY_WRITTEN);
  here.options.creator = NULL;
  assert_int_equal (snapshot_set_free (s, 10 * CHUNK, 10 * CHUNK), 10);
  assert_int_equal (snapset_finish (here.set, NULL, &me), 0);
  memset (history.frozen[1] + 10 * CHUNK, 0, 10 * CHUNK);
  assert_holds (&history, &here, 1);
  write_chunks (15, 10, 1);
  fixture_restart (&here, false);
  assert_holds (&history, &here, 1);
  fixture_restart (&here, true);
  assert_holds (&history, &here, 1);
  write_chunks (0, 40, 2);
  assert_holds (&history, &here, 1);
}

static void
zeros_are_kept (void **state)
{
  (void)state;
  for (unsigned level = 0; level < 3; level++) {
    history_write (&history, 0, 20 * CHUNK, 0);
    struct snapshot *s = freeze ((enum durability)level);
    write_chunks (0, 20, (uint8_t)(level + 1));
    fixture_drain (s);
    /* Header and index, and no data. */
    assert_true (backfile_allocated (s->backfile) <= FORMAT_HEADER + 4096);
    fixture_restart (&here, true);
    assert_history (&history, &here);
  }
}

static void
parts_and_other_directories (void **state)
{
  static const char *const places[] = { NULL, "other", "file" };

  (void)state;
  assert_int_equal (mkdir (scratch_path ("other"), 0700), 0);
  for (unsigned i = 0; i < 3; i++) {
    here.options.chunk_size = 512;
    here.options.backfile_size = format_layout (512, 128 * 512).file_size;
    here.options.backing_store
        = places[i] == NULL ? path : scratch_path (places[i]);
    struct snapshot *s = freeze (DURABILITY_STABLE);
    assert_int_equal (s->backfile->parts, 4);
    write_chunks (0, 60 - 5 * i, (uint8_t)(i + 1));
  }
  assert_int_equal (access (scratch_path ("file.3"), F_OK), 0);
  fixture_restart (&here, false);
  assert_history (&history, &here);
  fixture_restart (&here, true);
  assert_history (&history, &here);
  history_delete (&history, 3);
  fixture_reclaim (&here);
  fixture_settle (&here);
  assert_int_equal (access (scratch_path ("file.3"), F_OK), -1);
  assert_int_equal (access (scratch_path ("file"), F_OK), -1);
}

/* As many as a chain has, with deleted ones and chunks of all sizes. */
static void
long_chains_come_back (void **state)
{
  (void)state;
  for (unsigned i = 0; i < 64; i++) {
    here.options.chunk_size = UINT64_C (512) << i % 6;
    freeze ((enum durability) (i % 3 == 0 ? i % 2 : 1));
    history_write (&history, i * 3000, 9000, (uint8_t)i);
  }
  for (unsigned i = 3; i < 64; i += 5)
    history_delete (&history, i);
  drain (2);
  fixture_restart (&here, true);
  assert_history (&history, &here);
  fixture_reclaim (&here);
  fixture_settle (&here);
  history_write (&history, 0, SIZE, 0xee);
  assert_history (&history, &here);
  fixture_restart (&here, true);
  assert_history (&history, &here);
  assert_no_message ();
}

static void
snapshots_of_an_origin_that_grew_and_shrank (void **state)
{
  (void)state;
  freeze (DURABILITY_WRITTEN);
  write_chunks (0, 10, 1);
  assert_int_equal (ftruncate (here.fd, (off_t)SIZE + 8192), 0);
  struct snapshot *longer = fixture_freeze (&here);
  assert_int_equal (longer->size, SIZE + 8192);
  write_chunks (5, 10, 2);
  fixture_restart (&here, true);
  assert_holds (&history, &here, 1);
  assert_int_equal (fixture_find (&here, 2)->size, SIZE + 8192);
}

/* --- what goes wrong meanwhile ------------------------------------------- */

static unsigned bad_call;
static atomic_uint calls;
static int bad_error;

static struct call_verdict
fail_in_turn (const struct call_event *event)
{
  if ((event->call == CALL_MEMORY) != (bad_error == ENOMEM)
      || (event->call != CALL_OPEN && bad_error == EMFILE)
      || event->call == CALL_WAIT)
    return (struct call_verdict){ 0 };
  return (struct call_verdict){
    .error = atomic_fetch_add (&calls, 1) + 1 == bad_call ? bad_error : 0
  };
}

/* It starts, perhaps with one that is broken for now, or it does not start;
 * but nothing wrong is read, and the next time all is there.
 */
static void
each_call_goes_wrong (int error)
{
  const bool may_be_noted = error == EIO; /* of the newest */
  bool done = false;

  bad_error = error;
  for (bad_call = 1; !done; bad_call++) {
    struct snapset *set
        = snapset_create (here.origin, &engine_sync, NULL, 64 << 20);
    struct image *copy = image_take (&here);
    atomic_store (&calls, 0);
    messages_clear ();
    call_hook_set (fail_in_turn);
    struct store *store = store_open (copy->store);
    int r = -1;
    if (store != NULL) {
      snapset_use_store (set, store);
      r = restore_snapshots (set);
    }
    call_hook_set (NULL);
    done = atomic_load (&calls) < bad_call;
    if (r == -1) {
      if (messages_count () == 0)
        print_message ("call %u, %s: nothing was said\n", bad_call,
                       strerror (error));
      assert_true (messages_count () > 0);
      assert_false (done);
    }
    for (unsigned i = 1; r == 0 && i <= 4; i++) {
      char who[2] = { (char)('0' + i), '\0' };
      struct snapshot *s = snapset_find (set, who);
      uint8_t buf[SIZE];
      if (i == 3)
        continue;
      assert_non_null (s);
      for (uint64_t offset = 0; offset < SIZE; offset += CHUNK) {
        const uint64_t n = SIZE - offset < CHUNK ? SIZE - offset : CHUNK;
        if (view_read (set, s, buf, n, offset) == 0)
          assert_memory_equal (buf, history.frozen[i] + offset, n);
        else
          assert_false (done);
      }
    }
    snapset_free (set);
    store_close (store);

    /* The image was not closed, if it was begun. */
    messages_clear ();
    set = snapset_create (here.origin, &engine_sync, NULL, 64 << 20);
    store = store_open (copy->store);
    assert_non_null (store);
    snapset_use_store (set, store);
    assert_int_equal (restore_snapshots (set), 0);
    for (struct snapshot *s = set->last; s != NULL; s = s->older)
      if (!may_be_noted && snapshot_is_broken (s)) {
        messages_show ();
        print_message ("call %u, %s\n", bad_call, strerror (error));
        fail ();
      }
    snapset_free (set);
    store_close (store);
    image_remove (copy);
    image_free (copy);
  }
  assert_true (bad_call > 10);
}

static void
no_memory_while_it_starts (void **state)
{
  (void)state;
  take_four ();
  fixture_end (&here, true);
  each_call_goes_wrong (ENOMEM);
}

static void
no_descriptors_while_it_starts (void **state)
{
  (void)state;
  take_four ();
  fixture_end (&here, true);
  each_call_goes_wrong (EMFILE);
}

static void
errors_while_it_starts (void **state)
{
  (void)state;
  take_four ();
  fixture_end (&here, false);
  each_call_goes_wrong (EIO);
}

#define TEST(name) cmocka_unit_test_setup_teardown (name, setup, teardown)

int
main (void)
{
  const struct CMUnitTest tests[] = {
    TEST (clean_end_brings_back_all),
    TEST (kill_brings_back_what_was_written),
    TEST (another_boot_brings_back_what_is_stable),
    TEST (clean_end_and_another_boot_bring_back_all),
    TEST (unknown_boot_is_another),
    TEST (level_counts_not_what_was_asked),
    TEST (stable_ones_are_synced_after_a_kill),
    TEST (stable_one_that_cannot_be_synced_is_broken),
    TEST (begun_and_killed_twice),
    TEST (pending_one_is_deleted),
    TEST (one_being_created_is_deleted),
    TEST (ephemeral_one_is_deleted),
    TEST (creation_that_was_not_finished),
    TEST (deleted_one_is_still_read_through),
    TEST (all_deleted_leave_an_empty_store),
    TEST (broken_one_is_as_it_was),
    TEST (marked_one_is_broken_for_good),
    TEST (marked_one_is_broken_after_a_clean_end_too),
    TEST (absent_one_comes_back_with_its_file),
    TEST (absent_one_comes_back_after_a_kill),
    TEST (absent_deleted_one_comes_back),
    TEST (absent_one_is_deleted),
    TEST (newest_without_its_file_is_broken_for_good),
    TEST (new_snapshot_after_an_absent_newest),
    TEST (damaged_header_and_index_break_that_one),
    TEST (lost_sector_of_the_index_is_found_after_a_clean_end),
    TEST (file_of_another_snapshot_is_refused),
    TEST (origin_written_behind_our_back_is_refused),
    TEST (origin_written_while_it_was_refused_is_so_for_good),
    TEST (other_origin_may_be_written_while_it_is_refused),
    TEST (resized_origin_is_refused),
    TEST (shrunk_origin_breaks_for_good),
    TEST (origin_that_grew_is_accepted_after_a_kill),
    TEST (another_origin_is_refused),
    TEST (deleting_in_a_refused_store_spares_the_others),
    TEST (refused_store_takes_new_ones_when_all_are_deleted),
    TEST (everything_is_as_it_was),
    TEST (copied_is_known_after_a_kill),
    TEST (lost_chunks_stay_lost),
    TEST (lost_chunk_that_is_not_noted_as_copied_is_lost),
    TEST (free_chunks_stay_free),
    TEST (zeros_are_kept),
    TEST (parts_and_other_directories),
    TEST (long_chains_come_back),
    TEST (snapshots_of_an_origin_that_grew_and_shrank),
    TEST (no_memory_while_it_starts),
    TEST (no_descriptors_while_it_starts),
    TEST (errors_while_it_starts),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
