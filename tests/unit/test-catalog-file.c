/* SPDX-License-Identifier: BSD-3-Clause */
/* The catalogue's two files: full disks, failures, crashes, readers. */

#include "cmocka-all.h"
#include "call-hook.h"
#include "catalog-example.h"
#include "catalog.h"
#include "scoped.h"
#include "scratch.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define ROOM 4096

/* The store of a test, and what is written to it. */
static int directory;
static struct catalog catalog;

static int
setup (void **state)
{
  (void)state;
  directory = open (scratch_directory (), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  assert_int_not_equal (directory, -1);
  example_catalog (&catalog);
  return 0;
}

static int
teardown (void **state)
{
  (void)state;
  call_hook_set (NULL);
  catalog_free (&catalog);
  close (directory);
  scratch_remove ();
  return 0;
}

static void
write_it (void)
{
  char *why;

  catalog.generation++;
  if (catalog_write (directory, &catalog, &why) != 0)
    fail_msg ("not written: %s", why);
  assert_null (why);
}

/* 0, or the errno, after which the text must say EXPECTED. */
static int
try_to_write (const char *expected)
{
  char *why;

  catalog.generation++;
  if (catalog_write (directory, &catalog, &why) == 0) {
    assert_null (why);
    return 0;
  }
  const int err = errno;
  catalog.generation--;
  if (why == NULL)
    assert_int_equal (err, ENOMEM);
  else if (strstr (why, expected) == NULL)
    fail_msg ("\"%s\" does not say \"%s\"", why, expected);
  free (why);
  return err;
}

/* The generation of what is there. */
static uint64_t
read_generation (void)
{
  struct catalog read;
  char *why;

  if (catalog_read (directory, &read, &why) != 0)
    fail_msg ("not read: %s", why);
  assert_null (why);
  const uint64_t generation = read.generation;
  catalog_free (&read);
  return generation;
}

static void
assert_reads_back (void)
{
  struct catalog read;
  char *why;

  if (catalog_read (directory, &read, &why) != 0)
    fail_msg ("not read: %s", why);
  assert_same_catalog (&read, &catalog);
  catalog_free (&read);
}

static void
assert_not_read (int err, const char *expected)
{
  struct catalog read;
  char *why;

  assert_int_equal (catalog_read (directory, &read, &why), -1);
  assert_int_equal (errno, err);
  if (strstr (why, expected) == NULL)
    fail_msg ("\"%s\" does not say \"%s\"", why, expected);
  free (why);
}

static off_t
size_of (const char *name)
{
  struct stat st;

  assert_int_equal (fstatat (directory, name, &st, AT_SYMLINK_NOFOLLOW), 0);
  return st.st_size;
}

/* A reason that makes the text longer by this. */
static void
set_reason (size_t length)
{
  struct catalog_layer *layer = catalog.layers;

  free (layer->broken_reason);
  layer->broken_reason = malloc (length + 1);
  memset (layer->broken_reason, 'r', length);
  layer->broken_reason[length] = '\0';
}

static void
put_file (const char *name, const void *content, size_t length)
{
  const int fd = openat (directory, name, O_WRONLY | O_CREAT | O_TRUNC, 0600);

  assert_int_equal (pwrite (fd, content, length, 0), length);
  close (fd);
}

static void
what_is_written_is_read (void **state)
{
  struct stat st;

  (void)state;
  for (unsigned i = 0; i < 5; i++) {
    write_it ();
    assert_reads_back ();
    assert_int_equal (scratch_files (), 2);
  }
  assert_int_equal (fstatat (directory, "catalog", &st, 0), 0);
  assert_int_equal (st.st_mode & 0777, 0600);
  assert_int_equal (fstatat (directory, "catalog.spare", &st, 0), 0);
  assert_int_equal (st.st_mode & 0777, 0600);
}

static void
new_store_has_no_catalogue (void **state)
{
  (void)state;
  assert_not_read (ENOENT, strerror (ENOENT));
}

static void
spare_is_not_read (void **state)
{
  (void)state;
  write_it ();
  write_it ();
  put_file ("catalog.spare", "rubbish", 7);
  assert_reads_back ();
  write_it ();
  assert_reads_back ();
  assert_int_equal (unlinkat (directory, "catalog.spare", 0), 0);
  assert_reads_back ();
  write_it ();
  assert_reads_back ();
}

static void
damaged_catalogue_is_refused (void **state)
{
  (void)state;
  put_file ("catalog", "rubbish", 7);
  assert_not_read (EBADMSG, "is no catalogue of fssnap");
  write_it ();
  const int fd = openat (directory, "catalog", O_RDWR);
  assert_int_equal (pwrite (fd, "x", 1, 300), 1);
  close (fd);
  assert_not_read (EBADMSG, "is damaged (checksum)");
}

static void
what_is_no_file_is_refused (void **state)
{
  (void)state;
  write_it ();
  assert_int_equal (renameat (directory, "catalog", directory, "other"), 0);
  assert_int_equal (symlinkat ("other", directory, "catalog"), 0);
  assert_not_read (EINVAL, "catalog is a symbolic link");
  assert_int_equal (try_to_write ("catalog is a symbolic link"), EINVAL);
  assert_int_equal (unlinkat (directory, "catalog", 0), 0);
  assert_int_equal (mkfifoat (directory, "catalog", 0600), 0);
  assert_not_read (EINVAL, "catalog is no file"); /* and does not wait */
  assert_int_equal (try_to_write ("catalog is no file"), EINVAL);
  assert_int_equal (unlinkat (directory, "catalog", 0), 0);
  assert_int_equal (mkdirat (directory, "catalog", 0700), 0);
  assert_not_read (EINVAL, "catalog is no file");
  assert_int_equal (unlinkat (directory, "catalog", AT_REMOVEDIR), 0);
  assert_int_equal (renameat (directory, "other", directory, "catalog"), 0);
  assert_reads_back ();
}

static void
spare_that_is_no_file_is_refused (void **state)
{
  (void)state;
  write_it ();
  assert_int_equal (unlinkat (directory, "catalog.spare", 0), 0);
  put_file ("precious", "mine", 4);
  assert_int_equal (symlinkat ("precious", directory, "catalog.spare"), 0);
  assert_int_equal (try_to_write ("catalog.spare is a symbolic link"), EINVAL);
  assert_int_equal (size_of ("precious"), 4);
  assert_int_equal (unlinkat (directory, "catalog.spare", 0), 0);
  assert_int_equal (mkfifoat (directory, "catalog.spare", 0600), 0);
  assert_int_equal (try_to_write ("catalog.spare is no file"), EINVAL);
  assert_reads_back ();
}

static void
absurd_size_is_refused (void **state)
{
  (void)state;
  write_it ();
  const int fd = openat (directory, "catalog", O_RDWR);
  assert_int_equal (ftruncate (fd, CATALOG_BYTES_MAX), 0);
  assert_reads_back ();
  assert_int_equal (ftruncate (fd, CATALOG_BYTES_MAX + 1), 0);
  close (fd);
  assert_not_read (EINVAL, "is too large");
}

static void
what_is_wrong_is_not_written (void **state)
{
  (void)state;
  write_it ();
  catalog.layers->chunk_size = 3;
  assert_int_equal (try_to_write ("(chunksize)"), EINVAL);
  catalog.layers->chunk_size = 65536;
  assert_reads_back ();
}

/* A disk without a free block: what is allocated can be written. */
static struct call_verdict
disk_is_full (const struct call_event *event)
{
  struct stat st;

  if (event->call != CALL_PWRITE || fstat (event->fd, &st) == -1)
    return (struct call_verdict){ 0 };
  const uint64_t end = (uint64_t)(st.st_size + ROOM - 1) / ROOM * ROOM;
  if (event->offset >= end)
    return (struct call_verdict){ .error = ENOSPC };
  return (struct call_verdict){ .most = end - event->offset };
}

static void
full_disk_keeps_nothing_from_being_written (void **state)
{
  (void)state;
  set_reason (3 * ROOM);
  write_it ();
  call_hook_set (disk_is_full);
  for (unsigned i = 0; i < 4; i++) {
    write_it ();
    assert_reads_back ();
  }
  set_reason (10); /* shorter, and as long again */
  for (unsigned i = 0; i < 4; i++) {
    write_it ();
    assert_reads_back ();
  }
  set_reason (3 * ROOM);
  for (unsigned i = 0; i < 4; i++) {
    write_it ();
    assert_reads_back ();
  }
}

/* Breaking says why, which takes bytes. */
static void
full_disk_has_room_for_reasons (void **state)
{
  (void)state;
  write_it ();
  call_hook_set (disk_is_full);
  set_reason (ROOM / 2);
  write_it ();
  assert_reads_back ();
  write_it ();
  assert_reads_back ();
}

static void
full_disk_leaves_the_catalogue_as_it_was (void **state)
{
  (void)state;
  write_it ();
  call_hook_set (disk_is_full);
  set_reason (10 * ROOM);
  for (unsigned i = 0; i < 3; i++) {
    assert_int_equal (try_to_write (strerror (ENOSPC)), ENOSPC);
    assert_int_equal (read_generation (), catalog.generation);
  }
  set_reason (10);
  write_it ();
  assert_reads_back ();
  call_hook_set (NULL);
  set_reason (10 * ROOM);
  write_it ();
  call_hook_set (disk_is_full);
  write_it ();
  assert_reads_back ();
}

static void
full_disk_makes_no_store (void **state)
{
  (void)state;
  call_hook_set (disk_is_full);
  assert_int_equal (try_to_write (strerror (ENOSPC)), ENOSPC);
  call_hook_set (NULL);
  assert_not_read (ENOENT, "");
  write_it ();
  assert_reads_back ();
}

/* There was space for the one, but not for the other. */
static struct call_verdict
second_file_finds_no_space (const struct call_event *event)
{
  struct stat st;

  if (event->call == CALL_PWRITE && fstatat (directory, "catalog", &st, 0) == 0)
    return disk_is_full (event);
  return (struct call_verdict){ 0 };
}

static void
first_catalogue_without_a_spare_is_none (void **state)
{
  (void)state;
  call_hook_set (second_file_finds_no_space);
  assert_int_equal (try_to_write (strerror (ENOSPC)), ENOSPC);
  call_hook_set (NULL);
  assert_not_read (ENOENT, "");
  write_it ();
  assert_reads_back ();
}

/* The same with a disk. */
static void
real_full_disk (void **state)
{
  const char *place = scratch_path ("full");
  static char rest[ROOM];

  (void)state;
  assert_int_equal (mkdir (place, 0700), 0);
  if (mount ("none", place, "tmpfs", 0, "size=256k,mode=0700") == -1) {
    print_message ("cannot mount: %s\n", strerror (errno));
    rmdir (place);
    skip ();
  }
  const int saved = directory;
  directory = open (place, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  umount2 (place, MNT_DETACH); /* it goes with its last descriptor */
  rmdir (place);

  set_reason (ROOM);
  write_it ();
  const int fd = openat (directory, "rest", O_WRONLY | O_CREAT, 0600);
  for (off_t at = 0; pwrite (fd, rest, ROOM, at) == ROOM;)
    at += ROOM;
  assert_int_equal (errno, ENOSPC);
  for (unsigned i = 0; i < 20; i++) {
    set_reason (i % 3 * ROOM / 2);
    write_it ();
    assert_reads_back ();
  }
  set_reason (20 * ROOM);
  assert_int_equal (try_to_write (strerror (ENOSPC)), ENOSPC);
  assert_int_equal (read_generation (), catalog.generation);
  assert_int_equal (ftruncate (fd, 0), 0);
  write_it ();
  assert_reads_back ();
  close (fd);
  close (directory);
  directory = saved;
}

static void
files_are_never_cut (void **state)
{
  off_t largest = 0;

  (void)state;
  for (unsigned i = 0; i < 30; i++) {
    set_reason (i * 7919 % 20 * 1000);
    write_it ();
    assert_reads_back ();
    assert_int_equal (size_of ("catalog"), size_of ("catalog.spare"));
    assert_int_equal (size_of ("catalog") % ROOM, 0);
    assert_true (size_of ("catalog") >= largest);
    largest = size_of ("catalog");
  }
}

static struct call_verdict
short_and_interrupted (const struct call_event *event)
{
  static unsigned calls;

  if (event->call != CALL_PWRITE && event->call != CALL_PREAD)
    return (struct call_verdict){ 0 };
  return ++calls % 3 == 0 ? (struct call_verdict){ .error = EINTR }
                          : (struct call_verdict){ .most = 1000 };
}

static void
short_transfers_go_on (void **state)
{
  (void)state;
  call_hook_set (short_and_interrupted);
  for (unsigned i = 0; i < 4; i++) {
    set_reason (i * 5000);
    write_it ();
    assert_reads_back ();
  }
}

static struct call_verdict
no_exchange (const struct call_event *event)
{
  return (struct call_verdict){ .error
                                = event->call == CALL_RENAME2 ? EINVAL : 0 };
}

static void
file_system_that_cannot_exchange (void **state)
{
  (void)state;
  call_hook_set (no_exchange);
  for (unsigned i = 0; i < 4; i++) {
    set_reason (i * 5000);
    write_it ();
    assert_reads_back ();
    assert_int_equal (scratch_files (), 2);
    assert_int_equal (size_of ("catalog"), size_of ("catalog.spare"));
  }
}

/* What was called, a letter each. */
static char calls[64];

static void
note (char letter)
{
  const size_t n = strlen (calls);

  if (n + 1 < sizeof calls && (n == 0 || calls[n - 1] != letter))
    calls[n] = letter;
}

static struct call_verdict
note_calls (const struct call_event *event)
{
  if (event->call == CALL_PWRITE)
    note ('w');
  else if (event->call == CALL_FSYNC)
    note (event->fd == directory ? 'D' : 'F');
  else if (event->call == CALL_RENAME2)
    note ('X');
  else if (event->call == CALL_RENAME)
    note ('R');
  else if (event->call == CALL_FTRUNCATE)
    note ('T');
  return (struct call_verdict){ 0 };
}

static void
each_step_is_durable_before_the_next (void **state)
{
  (void)state;
  call_hook_set (note_calls);
  memset (calls, 0, sizeof calls);
  write_it ();
  assert_string_equal (calls, "wFRwD");
  memset (calls, 0, sizeof calls);
  write_it ();
  assert_string_equal (calls, "wFXD");
}

/* The call at which something happens; calls until then. */
static int chosen, crash_error;
static atomic_int calls_left;

static struct call_verdict
fail_once (const struct call_event *event)
{
  if (event->call == CALL_MEMORY)
    return (struct call_verdict){ 0 };
  return (struct call_verdict){ .error = calls_left-- == 0 ? EIO : 0 };
}

/* Every call fails in turn; then nothing has changed, and the next one
 * works.
 */
static void
assert_failures_leave_the_old_one (void)
{
  for (chosen = 0;; chosen++) {
    calls_left = chosen;
    call_hook_set (fail_once);
    const uint64_t before = catalog.generation;
    const int err = try_to_write (strerror (EIO));
    call_hook_set (NULL);
    if (calls_left >= 0) {
      assert_int_equal (err, 0);
      break;
    }
    if (err == 0)
      assert_int_equal (read_generation (), before + 1);
    else {
      assert_int_equal (err, EIO);
      assert_int_equal (read_generation (), before);
    }
    write_it ();
    assert_reads_back ();
  }
  assert_in_range (chosen, 5, 100);
}

static void
failures_leave_the_old_one (void **state)
{
  (void)state;
  write_it ();
  assert_failures_leave_the_old_one ();
}

static void
failures_of_the_first_leave_none (void **state)
{
  bool failed = true;

  (void)state;
  for (chosen = 0; failed; chosen++) {
    calls_left = chosen;
    call_hook_set (fail_once);
    const int err = try_to_write (strerror (EIO));
    call_hook_set (NULL);
    failed = calls_left < 0;
    if (err == 0)
      assert_reads_back ();
    else {
      assert_int_equal (err, EIO);
      assert_not_read (ENOENT, "");
    }
    unlinkat (directory, "catalog", 0);
    unlinkat (directory, "catalog.spare", 0);
  }
  assert_in_range (chosen, 5, 100);
}

static struct call_verdict
crash (const struct call_event *event)
{
  if (event->call == CALL_MEMORY)
    return (struct call_verdict){ 0 };
  if (calls_left-- == 0) {
    /* Half of it has been written. */
    if (event->call == CALL_PWRITE && crash_error == 0)
      return (struct call_verdict){ .most = 1 + event->count / 2 };
    _exit (EXIT_SUCCESS);
  }
  if (calls_left < -1)
    _exit (EXIT_SUCCESS);
  return (struct call_verdict){ .error = event->call == CALL_RENAME2
                                             ? crash_error
                                             : 0 };
}

/* The process ends before the call, or in it, each in turn.  The exit of
 * who came through is 1.
 */
static bool
write_and_crash (void)
{
  int status;
  const pid_t pid = fork ();

  assert_int_not_equal (pid, -1);
  if (pid == 0) {
    char *why;
    catalog.generation++;
    calls_left = chosen;
    call_hook_set (crash);
    const int r = catalog_write (directory, &catalog, &why);
    _exit (r == 0 ? 1 : 2);
  }
  assert_int_equal (waitpid (pid, &status, 0), pid);
  assert_true (WIFEXITED (status));
  assert_int_not_equal (WEXITSTATUS (status), 2);
  return WEXITSTATUS (status) == 0;
}

/* With ERROR from the exchange, or 0.  LENGTH of the reason goes up and
 * down.
 */
static void
assert_crashes_leave_old_or_new (int error)
{
  bool crashed = true;
  unsigned old = 0, new = 0;

  crash_error = error;
  write_it ();
  for (chosen = 0; crashed; chosen++) {
    set_reason (chosen * 7919U % 10 * 1000);
    crashed = write_and_crash ();
    const uint64_t there = read_generation ();
    if (there == catalog.generation)
      old++;
    else {
      new ++;
      catalog.generation++;
      assert_int_equal (there, catalog.generation);
    }
  }
  assert_true (old > 3);
  assert_true (new > 0);
  write_it ();
  assert_reads_back ();
}

static void
crashes_leave_old_or_new (void **state)
{
  (void)state;
  assert_crashes_leave_old_or_new (0);
}

static void
crashes_without_exchange_leave_old_or_new (void **state)
{
  (void)state;
  assert_crashes_leave_old_or_new (ENOSYS);
}

/* A reader that has not locked the store. */
static atomic_bool finished;
static atomic_uint reads;

static void *
read_all_the_time (void *unused)
{
  uint64_t last = 0;

  (void)unused;
  while (!finished) {
    struct catalog read;
    char *why;
    if (catalog_read (directory, &read, &why) != 0) {
      fprintf (stderr, "not read: %s\n", why);
      abort ();
    }
    if (read.generation < last)
      abort ();
    last = read.generation;
    catalog_free (&read);
    reads++;
  }
  return NULL;
}

static void
reader_needs_no_lock (void **state)
{
  pthread_t thread;

  (void)state;
  write_it ();
  finished = false;
  reads = 0;
  assert_int_equal (pthread_create (&thread, NULL, read_all_the_time, NULL), 0);
  for (unsigned i = 0; i < 500 || reads < 200; i++) {
    set_reason (i % 7 * 3000);
    write_it ();
  }
  finished = true;
  pthread_join (thread, NULL);
}

#define TEST(name) cmocka_unit_test_setup_teardown (name, setup, teardown)

int
main (void)
{
  const struct CMUnitTest tests[] = {
    TEST (what_is_written_is_read),
    TEST (new_store_has_no_catalogue),
    TEST (spare_is_not_read),
    TEST (damaged_catalogue_is_refused),
    TEST (what_is_no_file_is_refused),
    TEST (spare_that_is_no_file_is_refused),
    TEST (absurd_size_is_refused),
    TEST (what_is_wrong_is_not_written),
    TEST (full_disk_keeps_nothing_from_being_written),
    TEST (full_disk_has_room_for_reasons),
    TEST (full_disk_leaves_the_catalogue_as_it_was),
    TEST (full_disk_makes_no_store),
    TEST (first_catalogue_without_a_spare_is_none),
    TEST (real_full_disk),
    TEST (files_are_never_cut),
    TEST (short_transfers_go_on),
    TEST (file_system_that_cannot_exchange),
    TEST (each_step_is_durable_before_the_next),
    TEST (failures_leave_the_old_one),
    TEST (failures_of_the_first_leave_none),
    TEST (crashes_leave_old_or_new),
    TEST (crashes_without_exchange_leave_old_or_new),
    TEST (reader_needs_no_lock),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
