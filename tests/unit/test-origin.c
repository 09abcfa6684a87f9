/* SPDX-License-Identifier: BSD-3-Clause */

#include "cmocka-all.h"
#include "call-hook.h"
#include "fixture.h"
#include "nbdkit-stub.h"
#include "origin.h"
#include "scratch.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* No multiple of 512. */
#define SIZE 100003

static struct {
  int fd;
  char path[32];
  struct origin *origin;
} here;

static int
setup (void **state)
{
  static uint8_t data[SIZE];

  (void)state;
  messages_clear ();
  here.fd = unnamed_file (SIZE, here.path);
  for (unsigned i = 0; i < SIZE; i++)
    data[i] = old_byte (i);
  assert_int_equal (pwrite (here.fd, data, SIZE, 0), SIZE);
  here.origin = origin_open (here.path);
  assert_non_null (here.origin);
  return 0;
}

static int
teardown (void **state)
{
  (void)state;
  call_hook_set (NULL);
  origin_close (here.origin);
  close (here.fd);
  scratch_remove ();
  return 0;
}

static uint8_t
byte_at (off_t offset)
{
  uint8_t byte;

  assert_int_equal (pread (here.fd, &byte, 1, offset), 1);
  return byte;
}

static void
assert_old (uint64_t from, uint64_t to)
{
  for (; from < to; from++)
    assert_int_equal (byte_at ((off_t)from), old_byte (from));
}

static void
assert_zero (uint64_t from, uint64_t to)
{
  for (; from < to; from++)
    assert_int_equal (byte_at ((off_t)from), 0);
}

static void
size_and_name (void **state)
{
  (void)state;
  assert_int_equal (origin_size (here.origin), SIZE);
  assert_string_equal (origin_path (here.origin), here.path);
  assert_false (origin_is_readonly (here.origin));
  assert_false (origin_is_rotational (here.origin));
  assert_true (origin_can_extents (here.origin));
}

static void
size_follows_the_file (void **state)
{
  (void)state;
  assert_int_equal (ftruncate (here.fd, SIZE + 7), 0);
  assert_int_equal (origin_size (here.origin), SIZE + 7);
}

static void
reads_to_the_last_byte (void **state)
{
  static uint8_t buf[SIZE];

  (void)state;
  assert_int_equal (origin_read (here.origin, buf, SIZE, 0), 0);
  for (unsigned i = 0; i < SIZE; i++)
    assert_int_equal (buf[i], old_byte (i));
  assert_int_equal (origin_read (here.origin, buf, 1, SIZE - 1), 0);
  assert_int_equal (buf[0], old_byte (SIZE - 1));
}

static void
read_past_the_end_is_eio_and_logged_once (void **state)
{
  uint8_t buf[10];

  (void)state;
  assert_int_equal (origin_read (here.origin, buf, 10, SIZE - 5), -1);
  assert_int_equal (errno, EIO);
  assert_one_message (here.path, "read of 10 bytes at 99998", strerror (EIO));
}

static void
quiet_read_is_not_logged (void **state)
{
  uint8_t buf[10];

  (void)state;
  assert_int_equal (origin_read_quiet (here.origin, buf, 10, SIZE), -1);
  assert_int_equal (errno, EIO);
  assert_no_message ();
}

static void
writes_to_the_last_byte (void **state)
{
  (void)state;
  assert_int_equal (origin_write (here.origin, "xyz", 3, SIZE - 3, false), 0);
  assert_int_equal (byte_at (SIZE - 1), 'z');
  assert_int_equal (byte_at (SIZE - 3), 'x');
  assert_old (0, SIZE - 3);
  assert_int_equal (origin_size (here.origin), SIZE);
}

static unsigned calls_of[CALL_WAIT + 1];
static enum call bad_call;
static int bad_errno;

static struct call_verdict
count_and_fail (const struct call_event *event)
{
  calls_of[event->call]++;
  return (struct call_verdict){ .error
                                = event->call == bad_call ? bad_errno : 0 };
}

/* CALL fails with ERR from here on. */
static void
let_fail (enum call call, int err)
{
  bad_call = call;
  bad_errno = err;
  memset (calls_of, 0, sizeof calls_of);
  call_hook_set (count_and_fail);
}

static void
fua_write_is_on_stable_storage (void **state)
{
  (void)state;
  let_fail (CALL_WAIT, 0);
  assert_int_equal (origin_write (here.origin, "x", 1, 5, true), 0);
  assert_true (calls_of[CALL_PWRITEV2] + calls_of[CALL_FDATASYNC] > 0);
  assert_int_equal (byte_at (5), 'x');
}

static void
fua_trim_and_zero_are_flushed (void **state)
{
  (void)state;
  let_fail (CALL_WAIT, 0);
  assert_int_equal (origin_trim (here.origin, 4096, 0, true), 0);
  assert_int_equal (calls_of[CALL_FDATASYNC], 1);
  assert_int_equal (origin_zero (here.origin, 4096, 0, true, true), 0);
  assert_int_equal (calls_of[CALL_FDATASYNC], 2);
}

static void
flush_is_fdatasync (void **state)
{
  (void)state;
  let_fail (CALL_WAIT, 0);
  assert_int_equal (origin_flush (here.origin), 0);
  assert_int_equal (calls_of[CALL_FDATASYNC], 1);
}

static void
failed_calls_are_logged_once (void **state)
{
  uint8_t byte = 0;

  (void)state;
  let_fail (CALL_PREAD, EIO);
  assert_int_equal (origin_read (here.origin, &byte, 1, 1000), -1);
  assert_int_equal (errno, EIO);
  assert_one_message (here.path, "read of 1 bytes at 1000", strerror (EIO));

  messages_clear ();
  let_fail (CALL_PWRITE, ENOSPC);
  assert_int_equal (origin_write (here.origin, &byte, 1, 1001, false), -1);
  assert_int_equal (errno, ENOSPC);
  assert_one_message (here.path, "write of 1 bytes at 1001", strerror (ENOSPC));

  messages_clear ();
  let_fail (CALL_PWRITEV2, EIO);
  assert_int_equal (origin_write (here.origin, &byte, 1, 1002, true), -1);
  assert_int_equal (errno, EIO);
  assert_one_message (here.path, "write of 1 bytes at 1002", strerror (EIO));

  messages_clear ();
  let_fail (CALL_FDATASYNC, EIO);
  assert_int_equal (origin_flush (here.origin), -1);
  assert_int_equal (errno, EIO);
  assert_one_message (here.path, "fdatasync", strerror (EIO));

  messages_clear ();
  let_fail (CALL_FALLOCATE, EIO);
  assert_int_equal (origin_trim (here.origin, 10, 1003, false), -1);
  assert_int_equal (errno, EIO);
  assert_one_message (here.path, "fallocate of 10 bytes at 1003",
                      strerror (EIO));

  messages_clear ();
  let_fail (CALL_LSEEK, EIO);
  uint64_t length;
  bool hole;
  assert_int_equal (origin_extent (here.origin, 10, 1004, &length, &hole), -1);
  assert_int_equal (errno, EIO);
  assert_one_message (here.path, "1004", strerror (EIO));

  messages_clear ();
  let_fail (CALL_FSTAT, EIO);
  assert_int_equal (origin_size (here.origin), -1);
  assert_int_equal (errno, EIO);
  assert_one_message (here.path, "size", strerror (EIO));
}

static struct call_verdict
short_and_interrupted (const struct call_event *event)
{
  static unsigned calls;

  if (event->call == CALL_WAIT || event->call == CALL_MEMORY)
    return (struct call_verdict){ 0 };
  if (++calls % 2 == 0)
    return (struct call_verdict){ .error = EINTR };
  return (struct call_verdict){ .most = 777 };
}

static void
short_transfers_go_on (void **state)
{
  static uint8_t data[5000], buf[5000];

  (void)state;
  for (unsigned i = 0; i < sizeof data; i++)
    data[i] = (uint8_t)(i * 7);
  for (unsigned fua = 0; fua < 2; fua++) {
    call_hook_set (short_and_interrupted);
    assert_int_equal (origin_write (here.origin, data, sizeof data, 100, fua),
                      0);
    assert_int_equal (origin_read (here.origin, buf, sizeof buf, 100), 0);
    call_hook_set (NULL);
    assert_memory_equal (buf, data, sizeof buf);
    assert_old (0, 100);
    assert_old (5100, 6000);
  }
  assert_no_message ();
}

static void
trim_gives_space_back (void **state)
{
  struct stat before, after;

  (void)state;
  assert_int_equal (fstat (here.fd, &before), 0);
  assert_int_equal (origin_trim (here.origin, 65536, 4096, false), 0);
  assert_int_equal (fstat (here.fd, &after), 0);
  assert_true (after.st_blocks < before.st_blocks);
  assert_int_equal (after.st_size, SIZE);
  assert_old (0, 4096);
  assert_old (4096 + 65536, SIZE);
}

static void
trim_up_to_the_last_byte_keeps_the_size (void **state)
{
  (void)state;
  assert_int_equal (origin_trim (here.origin, SIZE - 100, 100, false), 0);
  assert_int_equal (origin_size (here.origin), SIZE);
  assert_old (0, 100);
}

static void
trim_where_it_is_not_known_is_no_error (void **state)
{
  (void)state;
  let_fail (CALL_FALLOCATE, EOPNOTSUPP);
  assert_int_equal (origin_trim (here.origin, 4096, 0, false), 0);
  assert_int_equal (origin_trim (here.origin, 4096, 0, false), 0);
  assert_int_equal (calls_of[CALL_FALLOCATE], 1); /* it is remembered */
  assert_no_message ();
  assert_old (0, SIZE);
}

static void
zero_with_odd_ends (void **state)
{
  (void)state;
  assert_int_equal (origin_zero (here.origin, 5001, 333, true, false), 0);
  assert_old (0, 333);
  assert_zero (333, 5334);
  assert_old (5334, SIZE);
}

static void
zero_to_the_last_byte_keeps_the_size (void **state)
{
  (void)state;
  assert_int_equal (origin_zero (here.origin, 5003, SIZE - 5003, true, false),
                    0);
  assert_int_equal (origin_size (here.origin), SIZE);
  assert_old (0, SIZE - 5003);
  assert_zero (SIZE - 5003, SIZE);
}

static void
zero_that_must_not_trim_does_it_or_says_so (void **state)
{
  (void)state;
  /* Not every file system can. */
  if (origin_zero (here.origin, 4096, 4096, false, false) == -1) {
    assert_int_equal (errno, EOPNOTSUPP);
    assert_old (4096, 8192);
  }
  else
    assert_zero (4096, 8192);
  assert_no_message ();
}

static void
zero_where_it_is_not_known_is_eopnotsupp_without_a_message (void **state)
{
  (void)state;
  assert_true (origin_can_fast_zero (here.origin));
  let_fail (CALL_FALLOCATE, EOPNOTSUPP);
  assert_int_equal (origin_zero (here.origin, 4096, 0, true, false), -1);
  assert_int_equal (errno, EOPNOTSUPP);
  const unsigned calls = calls_of[CALL_FALLOCATE];
  assert_int_equal (origin_zero (here.origin, 4096, 0, true, false), -1);
  assert_int_equal (errno, EOPNOTSUPP);
  assert_int_equal (calls_of[CALL_FALLOCATE], calls); /* it is remembered */
  assert_false (origin_can_fast_zero (here.origin));
  assert_no_message ();
}

static void
extents_of_holes_and_data (void **state)
{
  uint64_t length;
  bool hole;

  (void)state;
  assert_int_equal (ftruncate (here.fd, 0), 0);
  assert_int_equal (ftruncate (here.fd, 262144), 0);
  assert_int_equal (pwrite (here.fd, "x", 1, 131072), 1);
  assert_int_equal (origin_extent (here.origin, 262144, 0, &length, &hole), 0);
  assert_true (hole);
  assert_int_equal (length, 131072);
  assert_int_equal (origin_extent (here.origin, 5, 131072, &length, &hole), 0);
  assert_false (hole);
  assert_int_equal (length, 5);
}

static void
extent_past_the_end_is_eio (void **state)
{
  uint64_t length;
  bool hole;

  (void)state;
  assert_int_equal (origin_extent (here.origin, 1, SIZE, &length, &hole), -1);
  assert_int_equal (errno, EIO);
  assert_one_message (here.path, "100003", strerror (EIO));
}

static void
cache_is_advice (void **state)
{
  (void)state;
  assert_int_equal (origin_cache (here.origin, SIZE, 0), 0);
  assert_int_equal (origin_cache (here.origin, 1, SIZE - 1), 0);
  assert_no_message ();
}

static void
second_open_is_refused (void **state)
{
  (void)state;
  assert_null (origin_open (here.path));
  assert_one_message (here.path, "locked");
}

static void
closed_origin_can_be_opened_again (void **state)
{
  (void)state;
  origin_close (here.origin);
  here.origin = origin_open (here.path);
  assert_non_null (here.origin);
  assert_no_message ();
}

static void
file_system_without_locks_is_used_without (void **state)
{
  (void)state;
  origin_close (here.origin);
  let_fail (CALL_FCNTL, ENOLCK);
  here.origin = origin_open (here.path);
  call_hook_set (NULL);
  assert_non_null (here.origin);
  assert_no_message ();
  assert_int_equal (debugs_with ("locking is not possible"), 1);
}

static unsigned opens;

static struct call_verdict
not_writable (const struct call_event *event)
{
  if (event->call == CALL_OPEN && opens++ == 0)
    return (struct call_verdict){ .error = EROFS };
  return (struct call_verdict){ 0 };
}

static void
what_cannot_be_written_is_read_only (void **state)
{
  uint8_t byte;

  (void)state;
  origin_close (here.origin);
  opens = 0;
  call_hook_set (not_writable);
  here.origin = origin_open (here.path);
  call_hook_set (NULL);
  assert_non_null (here.origin);
  assert_true (origin_is_readonly (here.origin));
  assert_int_equal (origin_read (here.origin, &byte, 1, 0), 0);
  assert_int_equal (origin_write (here.origin, &byte, 1, 0, false), -1);
}

static void
read_only_file_as_another_user (void **state)
{
  (void)state;
  if (geteuid () != 0)
    skip ();
  const char *path = scratch_path ("read-only");
  const int fd = open (path, O_WRONLY | O_CREAT, 0444);
  assert_int_equal (fchmod (fd, 0444), 0);
  assert_int_equal (chmod (scratch_directory (), 0755), 0);
  close (fd);
  assert_int_equal (seteuid (65534), 0);
  struct origin *origin = origin_open (path);
  assert_int_equal (seteuid (0), 0);
  assert_non_null (origin);
  assert_true (origin_is_readonly (origin));
  assert_no_message ();
  origin_close (origin);
}

static void
missing_file_is_named (void **state)
{
  const char *path = scratch_path ("missing");

  (void)state;
  assert_null (origin_open (path));
  assert_one_message ("origin=", path, strerror (ENOENT));
}

static void
directory_is_refused (void **state)
{
  (void)state;
  assert_null (origin_open (scratch_directory ()));
  assert_one_message ("origin=", scratch_directory (), "not a block device");
}

static void
character_device_is_refused (void **state)
{
  (void)state;
  assert_null (origin_open ("/dev/null"));
  assert_one_message ("origin=/dev/null", "not a block device");
}

static void
fifo_is_refused_without_waiting_for_its_other_end (void **state)
{
  const char *path = scratch_path ("fifo");

  (void)state;
  assert_int_equal (mkfifo (path, 0600), 0);
  assert_null (origin_open (path));
  assert_one_message ("origin=", path, "not a block device");
}

static void
close_of_nothing_is_allowed (void **state)
{
  (void)state;
  origin_close (NULL);
}

#define TEST(name) cmocka_unit_test_setup_teardown (name, setup, teardown)

int
main (void)
{
  const struct CMUnitTest tests[] = {
    TEST (size_and_name),
    TEST (size_follows_the_file),
    TEST (reads_to_the_last_byte),
    TEST (read_past_the_end_is_eio_and_logged_once),
    TEST (quiet_read_is_not_logged),
    TEST (writes_to_the_last_byte),
    TEST (fua_write_is_on_stable_storage),
    TEST (fua_trim_and_zero_are_flushed),
    TEST (flush_is_fdatasync),
    TEST (failed_calls_are_logged_once),
    TEST (short_transfers_go_on),
    TEST (trim_gives_space_back),
    TEST (trim_up_to_the_last_byte_keeps_the_size),
    TEST (trim_where_it_is_not_known_is_no_error),
    TEST (zero_with_odd_ends),
    TEST (zero_to_the_last_byte_keeps_the_size),
    TEST (zero_that_must_not_trim_does_it_or_says_so),
    TEST (zero_where_it_is_not_known_is_eopnotsupp_without_a_message),
    TEST (extents_of_holes_and_data),
    TEST (extent_past_the_end_is_eio),
    TEST (cache_is_advice),
    TEST (second_open_is_refused),
    TEST (closed_origin_can_be_opened_again),
    TEST (file_system_without_locks_is_used_without),
    TEST (what_cannot_be_written_is_read_only),
    TEST (read_only_file_as_another_user),
    TEST (missing_file_is_named),
    TEST (directory_is_refused),
    TEST (character_device_is_refused),
    TEST (fifo_is_refused_without_waiting_for_its_other_end),
    TEST (close_of_nothing_is_allowed),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
