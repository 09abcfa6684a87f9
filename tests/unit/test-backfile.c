/* SPDX-License-Identifier: BSD-3-Clause */

#include "cmocka-all.h"
#include "backfile.h"
#include "bitmap.h"
#include "call-hook.h"
#include "fixture.h"
#include "nbdkit-stub.h"
#include "scratch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHUNK 4096

static struct backfile_options options;

static int
setup (void **state)
{
  (void)state;
  messages_clear ();
  options = (struct backfile_options){
    .store = test_directory (),
    .size = 1 << 20,
    .chunk_size = CHUNK,
    .origin = "/dev/some-disk",
  };
  return 0;
}

static int
teardown (void **state)
{
  (void)state;
  call_hook_set (NULL);
  scratch_remove ();
  return 0;
}

/* A part for N bitmap groups. */
static uint64_t
part_for (unsigned groups)
{
  return 4096 + groups * UINT64_C (64) * CHUNK;
}

/* As the flusher writes it. */
static void
store (const struct backfile *backfile, uint64_t offset, uint8_t value,
       uint64_t count)
{
  uint8_t buf[CHUNK];
  uint64_t file_offset;
  int fd;

  memset (buf, value, sizeof buf);
  backfile_locate (backfile, offset, &fd, &file_offset);
  assert_int_equal (pwrite (fd, buf, count, (off_t)file_offset), count);
}

static void
assert_stored (const struct backfile *backfile, uint64_t offset, uint8_t value,
               uint64_t count)
{
  uint8_t buf[CHUNK];

  assert_int_equal (backfile_read (backfile, buf, count, offset), 0);
  for (uint64_t i = 0; i < count; i++)
    assert_int_equal (buf[i], value);
}

static void
chunks_read_as_they_were_stored (void **state)
{
  struct backfile *backfile = backfile_create (&options);

  (void)state;
  assert_non_null (backfile);
  store (backfile, 0, 1, CHUNK);
  store (backfile, 5 * CHUNK, 2, CHUNK);
  store (backfile, options.size - CHUNK, 3, CHUNK);
  assert_stored (backfile, 0, 1, CHUNK);
  assert_stored (backfile, CHUNK, 0, CHUNK);
  assert_stored (backfile, 5 * CHUNK, 2, CHUNK);
  assert_stored (backfile, options.size - CHUNK, 3, CHUNK);
  backfile_free (backfile);
  assert_no_message ();
}

static void
data_lie_behind_a_header (void **state)
{
  static const uint64_t sizes[][2]
      = { { 512, 4096 }, { 4096, 4096 }, { 65536, 65536 } };
  uint64_t file_offset;
  int fd;

  (void)state;
  for (unsigned i = 0; i < 3; i++) {
    options.chunk_size = sizes[i][0];
    struct backfile *backfile = backfile_create (&options);
    backfile_locate (backfile, 0, &fd, &file_offset);
    assert_int_equal (file_offset, sizes[i][1]);
    backfile_locate (backfile, 3 * 65536 + 1, &fd, &file_offset);
    assert_int_equal (file_offset, sizes[i][1] + 3 * 65536 + 1);
    backfile_free (backfile);
  }
}

static void
header_tells_people_what_the_file_is (void **state)
{
  struct backfile *backfile = backfile_create (&options);
  char header[4096] = "";
  uint64_t file_offset;
  int fd;

  (void)state;
  backfile_locate (backfile, 0, &fd, &file_offset);
  assert_true (pread (fd, header, sizeof header - 1, 0) > 0);
  assert_non_null (strstr (header, "fssnap backing file 1 of 1"));
  assert_non_null (strstr (header, "/dev/some-disk"));
  assert_non_null (strchr (header, '\n'));
  backfile_free (backfile);
}

static void
header_of_a_very_long_name_is_cut (void **state)
{
  static char name[5000];
  struct backfile *backfile;

  (void)state;
  memset (name, 'x', sizeof name - 1);
  options.origin = name;
  backfile = backfile_create (&options);
  assert_non_null (backfile);
  assert_stored (backfile, 0, 0, CHUNK);
  backfile_free (backfile);
}

static void
split_files_hold_a_part_each (void **state)
{
  struct stat a, b;
  uint64_t offset_a, offset_b;
  int fd_a, fd_b;

  (void)state;
  options.part_size = part_for (1);
  struct backfile *backfile = backfile_create (&options);
  assert_non_null (backfile);
  backfile_locate (backfile, 64 * CHUNK - 1, &fd_a, &offset_a);
  backfile_locate (backfile, 64 * CHUNK, &fd_b, &offset_b);
  assert_int_not_equal (fd_a, fd_b);
  assert_int_equal (offset_a, part_for (1) - 1);
  assert_int_equal (offset_b, 4096);
  fstat (fd_a, &a);
  fstat (fd_b, &b);
  assert_int_equal (a.st_size, part_for (1));
  assert_int_equal (b.st_size, part_for (1));
  backfile_free (backfile);
}

static void
reads_go_on_in_the_next_file (void **state)
{
  uint8_t buf[2 * CHUNK];

  (void)state;
  options.part_size = part_for (1);
  struct backfile *backfile = backfile_create (&options);
  store (backfile, 63 * CHUNK, 1, CHUNK);
  store (backfile, 64 * CHUNK, 2, CHUNK);
  assert_int_equal (backfile_read (backfile, buf, sizeof buf, 63 * CHUNK), 0);
  assert_int_equal (buf[0], 1);
  assert_int_equal (buf[CHUNK - 1], 1);
  assert_int_equal (buf[CHUNK], 2);
  assert_int_equal (buf[2 * CHUNK - 1], 2);
  backfile_free (backfile);
}

static void
group_is_within_one_file_whatever_the_part_size (void **state)
{
  (void)state;
  for (uint64_t extra = 0; extra < 64 * CHUNK; extra += 50001) {
    options.part_size = part_for (1) + extra;
    struct backfile *backfile = backfile_create (&options);
    assert_non_null (backfile);
    for (uint64_t group = 0; group < 4; group++) {
      uint64_t first, last;
      int fd_first, fd_last;
      backfile_locate (backfile, group * 64 * CHUNK, &fd_first, &first);
      backfile_locate (backfile, (group + 1) * 64 * CHUNK - 1, &fd_last, &last);
      assert_int_equal (fd_first, fd_last);
      assert_int_equal (last - first, 64 * CHUNK - 1);
      assert_true (last < options.part_size);
    }
    backfile_free (backfile);
  }
}

static void
least_part_is_accepted (void **state)
{
  (void)state;
  for (uint64_t chunk = 512; chunk <= 65536; chunk *= 2) {
    options.chunk_size = chunk;
    options.part_size = backfile_least_part (chunk);
    struct backfile *backfile = backfile_create (&options);
    assert_non_null (backfile);
    backfile_free (backfile);
  }
}

static void
too_many_files_are_refused (void **state)
{
  const uint64_t group = 64 * CHUNK;
  char least[32];

  (void)state;
  options.part_size = part_for (1);
  options.size = (BACKFILE_PARTS_MAX + 1) * group;
  assert_null (backfile_create (&options));
  snprintf (least, sizeof least, "%llu", (unsigned long long)part_for (2));
  assert_one_message ("backfile-size=", "257 files", "256", least);
}

static void
size_the_refusal_names_is_enough (void **state)
{
  (void)state;
  options.part_size = part_for (2);
  options.size = (BACKFILE_PARTS_MAX + 1) * UINT64_C (64) * CHUNK;
  struct backfile *backfile = backfile_create (&options);
  assert_non_null (backfile);
  backfile_free (backfile);
}

static void
sizes_that_are_no_multiple_of_the_chunk (void **state)
{
  static const uint64_t sizes[] = { 1, 511, 4095, 4097, 64 * CHUNK + 1, 99999 };

  (void)state;
  for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
    for (unsigned split = 0; split < 2; split++) {
      options.size = sizes[i];
      options.part_size = split ? part_for (1) : 0;
      struct backfile *backfile = backfile_create (&options);
      assert_non_null (backfile);
      const uint64_t last = (sizes[i] - 1) / CHUNK * CHUNK;
      store (backfile, last, 7, sizes[i] - last);
      assert_stored (backfile, last, 7, sizes[i] - last);
      assert_stored (backfile, sizes[i] - 1, 7, 1);
      backfile_free (backfile);
    }
  assert_no_message ();
}

static void
empty_origin_has_a_backing_file (void **state)
{
  (void)state;
  options.size = 0;
  struct backfile *backfile = backfile_create (&options);
  assert_non_null (backfile);
  backfile_free (backfile);
  options.part_size = part_for (1);
  backfile = backfile_create (&options);
  assert_non_null (backfile);
  backfile_free (backfile);
}

static void
read_past_the_end_is_eio (void **state)
{
  struct backfile *backfile = backfile_create (&options);
  uint8_t byte;

  (void)state;
  assert_int_equal (backfile_read (backfile, &byte, 1, options.size), -1);
  assert_int_equal (errno, EIO);
  assert_no_message (); /* the caller logs it */
  backfile_free (backfile);
}

static struct call_verdict
short_and_interrupted (const struct call_event *event)
{
  static unsigned calls;

  if (event->call != CALL_PREAD)
    return (struct call_verdict){ 0 };
  calls++;
  return calls % 3 == 0 ? (struct call_verdict){ .error = EINTR }
                        : (struct call_verdict){ .most = 1000 };
}

static void
short_reads_go_on (void **state)
{
  struct backfile *backfile = backfile_create (&options);

  (void)state;
  store (backfile, CHUNK, 5, CHUNK);
  call_hook_set (short_and_interrupted);
  assert_stored (backfile, CHUNK, 5, CHUNK);
  call_hook_set (NULL);
  assert_no_message ();
  backfile_free (backfile);
}

static struct call_verdict
bad_reads (const struct call_event *event)
{
  return (struct call_verdict){ .error = event->call == CALL_PREAD ? EIO : 0 };
}

static void
failed_read_has_its_errno (void **state)
{
  struct backfile *backfile = backfile_create (&options);
  uint8_t byte;

  (void)state;
  call_hook_set (bad_reads);
  const int r = backfile_read (backfile, &byte, 1, 4097);
  const int err = errno;
  call_hook_set (NULL);
  assert_int_equal (r, -1);
  assert_int_equal (err, EIO);
  assert_no_message ();
  backfile_free (backfile);
}

static void
extents_tell_holes_from_data (void **state)
{
  struct backfile *backfile = backfile_create (&options);
  uint64_t length;
  bool hole;

  (void)state;
  for (unsigned i = 0; i < 16; i++)
    store (backfile, 65536 + i * CHUNK, 1, CHUNK);
  assert_int_equal (backfile_extent (backfile, options.size, 0, &length, &hole),
                    0);
  assert_true (hole);
  assert_int_equal (length, 65536);
  assert_int_equal (
      backfile_extent (backfile, options.size - 65536, 65536, &length, &hole),
      0);
  assert_false (hole);
  assert_int_equal (length, 65536);
  assert_int_equal (
      backfile_extent (backfile, options.size - 131072, 131072, &length, &hole),
      0);
  assert_true (hole);
  assert_int_equal (length, options.size - 131072);
  backfile_free (backfile);
}

static void
extents_end_with_the_file (void **state)
{
  uint64_t length;
  bool hole;

  (void)state;
  options.part_size = part_for (1);
  struct backfile *backfile = backfile_create (&options);
  assert_int_equal (
      backfile_extent (backfile, 4 * CHUNK, 62 * CHUNK, &length, &hole), 0);
  assert_true (hole);
  assert_int_equal (length, 2 * CHUNK);
  backfile_free (backfile);
}

static void
unnamed_files_leave_no_name (void **state)
{
  (void)state;
  options.store = scratch_directory ();
  options.part_size = part_for (1);
  struct backfile *backfile = backfile_create (&options);
  assert_non_null (backfile);
  assert_int_equal (scratch_files (), 0);
  backfile_free (backfile);
}

static struct call_verdict
no_tmpfile (const struct call_event *event)
{
  static bool refused;

  if (event->call != CALL_OPEN || refused)
    return (struct call_verdict){ 0 };
  refused = true;
  return (struct call_verdict){ .error = EOPNOTSUPP };
}

static void
file_system_without_o_tmpfile (void **state)
{
  (void)state;
  options.store = scratch_directory ();
  call_hook_set (no_tmpfile);
  struct backfile *backfile = backfile_create (&options);
  call_hook_set (NULL);
  assert_non_null (backfile);
  assert_int_equal (scratch_files (), 0);
  store (backfile, 0, 1, CHUNK);
  assert_stored (backfile, 0, 1, CHUNK);
  backfile_free (backfile);
}

static void
named_files_are_numbered_and_removed (void **state)
{
  struct stat st;

  (void)state;
  options.store = scratch_path ("store");
  options.part_size = part_for (2);
  struct backfile *backfile = backfile_create (&options);
  assert_non_null (backfile);
  assert_string_equal (backfile_name (backfile), scratch_path ("store"));
  assert_int_equal (scratch_files (), 2);
  assert_int_equal (stat (scratch_path ("store"), &st), 0);
  assert_int_equal (st.st_mode & 0777, 0600);
  assert_int_equal (access (scratch_path ("store.1"), F_OK), 0);
  backfile_free (backfile);
  assert_int_equal (scratch_files (), 0);
}

static void
touch (const char *path)
{
  const int fd = open (path, O_WRONLY | O_CREAT, 0600);

  assert_int_equal (write (fd, "mine", 4), 4);
  close (fd);
}

static void
assert_untouched (const char *path)
{
  char buf[8];
  const int fd = open (path, O_RDONLY);

  assert_int_not_equal (fd, -1);
  assert_int_equal (read (fd, buf, sizeof buf), 4);
  assert_memory_equal (buf, "mine", 4);
  close (fd);
}

static void
file_that_exists_is_refused_and_kept (void **state)
{
  (void)state;
  options.store = scratch_path ("store");
  touch (options.store);
  assert_null (backfile_create (&options));
  assert_one_message ("backing-store=", "exists already",
                      scratch_path ("store"));
  assert_untouched (scratch_path ("store"));
}

static void
part_that_exists_is_refused_and_nothing_is_left (void **state)
{
  (void)state;
  options.store = scratch_path ("store");
  options.part_size = part_for (1);
  touch (scratch_path ("store.2"));
  assert_null (backfile_create (&options));
  assert_one_message ("store.2 exists already");
  assert_int_equal (scratch_files (), 1);
  assert_untouched (scratch_path ("store.2"));
}

static void
directory_that_does_not_exist_is_refused (void **state)
{
  (void)state;
  options.store = scratch_path ("no/such/store");
  assert_null (backfile_create (&options));
  assert_one_message ("backing-store=", "no/such/store", strerror (ENOENT));
}

static struct call_verdict
files_too_large (const struct call_event *event)
{
  return (struct call_verdict){ .error
                                = event->call == CALL_FTRUNCATE ? EFBIG : 0 };
}

static void
file_too_large_for_the_file_system (void **state)
{
  (void)state;
  options.store = scratch_path ("store");
  call_hook_set (files_too_large);
  assert_null (backfile_create (&options));
  call_hook_set (NULL);
  assert_one_message ("backing-store=", "1052672", "backfile-size=");
  assert_int_equal (scratch_files (), 0);
}

static struct call_verdict
disk_full (const struct call_event *event)
{
  return (struct call_verdict){ .error
                                = event->call == CALL_PWRITE ? ENOSPC : 0 };
}

static void
full_disk_at_creation_leaves_nothing (void **state)
{
  (void)state;
  options.store = scratch_path ("store");
  call_hook_set (disk_full);
  assert_null (backfile_create (&options));
  call_hook_set (NULL);
  assert_one_message ("backing-store=", strerror (ENOSPC));
  assert_int_equal (scratch_files (), 0);
}

static void
discard_gives_space_and_names_back (void **state)
{
  uint64_t file_offset;
  struct stat st;
  uint8_t byte;
  int fd;

  (void)state;
  options.store = scratch_path ("store");
  options.part_size = part_for (1);
  struct backfile *backfile = backfile_create (&options);
  store (backfile, 0, 1, CHUNK);
  store (backfile, options.size - CHUNK, 1, CHUNK);
  backfile_discard (backfile);
  assert_int_equal (scratch_files (), 0);
  for (uint64_t offset = 0; offset < options.size; offset += 64 * CHUNK) {
    backfile_locate (backfile, offset, &fd, &file_offset);
    assert_int_equal (fstat (fd, &st), 0);
    assert_int_equal (st.st_blocks, 0);
  }
  assert_no_message ();
  assert_int_equal (backfile_read (backfile, &byte, 1, 0), -1);
  assert_int_equal (errno, EIO);
  messages_clear ();
  backfile_free (backfile); /* which removes the names no second time */
  assert_no_message ();
}

static void
punched_chunks_are_zeros_and_take_no_space (void **state)
{
  (void)state;
  struct backfile *backfile = backfile_create (&options);
  const uint64_t empty = backfile_allocated (backfile);
  for (unsigned i = 0; i < 8; i++)
    store (backfile, i * CHUNK, 1, CHUNK);
  assert_int_equal (backfile_allocated (backfile), empty + 8 * CHUNK);
  assert_int_equal (backfile_punch (backfile, 2 * CHUNK, 3 * CHUNK), 0);
  assert_int_equal (backfile_allocated (backfile), empty + 5 * CHUNK);
  for (unsigned i = 0; i < 8; i++)
    assert_stored (backfile, i * CHUNK, i < 2 || i > 4, CHUNK);
  backfile_free (backfile);
}

static void
punch_goes_on_in_the_next_file (void **state)
{
  (void)state;
  options.part_size = part_for (1);
  struct backfile *backfile = backfile_create (&options);
  const uint64_t empty = backfile_allocated (backfile);
  for (unsigned i = 0; i < 256; i++)
    store (backfile, i * CHUNK, 1, CHUNK);
  assert_int_equal (backfile_allocated (backfile), empty + 256 * CHUNK);
  assert_int_equal (backfile_punch (backfile, 60 * CHUNK, 130 * CHUNK), 0);
  assert_int_equal (backfile_allocated (backfile), empty + 126 * CHUNK);
  for (unsigned i = 0; i < 256; i++)
    assert_stored (backfile, i * CHUNK, i < 60 || i >= 190, CHUNK);
  backfile_free (backfile);
}

/* The file stays as long as it is, so that what lies there still reads. */
static void
punch_at_the_end_of_the_origin (void **state)
{
  (void)state;
  options.size = 10000;
  struct backfile *backfile = backfile_create (&options);
  store (backfile, 8192, 1, 10000 - 8192);
  assert_int_equal (backfile_punch (backfile, 8192, 10000 - 8192), 0);
  assert_stored (backfile, 8192, 0, 10000 - 8192);
  assert_int_equal (backfile_punch (backfile, 0, 10000), 0);
  assert_stored (backfile, 8192, 0, 10000 - 8192);
  backfile_free (backfile);
}

static struct call_verdict
no_punching (const struct call_event *event)
{
  return (struct call_verdict){ .error = event->call == CALL_FALLOCATE
                                             ? EOPNOTSUPP
                                             : 0 };
}

static void
punch_that_is_refused_has_its_errno (void **state)
{
  (void)state;
  struct backfile *backfile = backfile_create (&options);
  store (backfile, 0, 1, CHUNK);
  call_hook_set (no_punching);
  assert_int_equal (backfile_punch (backfile, 0, CHUNK), -1);
  assert_int_equal (errno, EOPNOTSUPP);
  call_hook_set (NULL);
  assert_no_message ();
  assert_stored (backfile, 0, 1, CHUNK);
  backfile_free (backfile);
}

static void
discarded_files_take_no_space (void **state)
{
  (void)state;
  struct backfile *backfile = backfile_create (&options);
  store (backfile, 0, 1, CHUNK);
  backfile_discard (backfile);
  assert_int_equal (backfile_allocated (backfile), 0);
  backfile_free (backfile);
}

static void
name_that_cannot_be_removed_is_logged (void **state)
{
  (void)state;
  options.store = scratch_path ("store");
  struct backfile *backfile = backfile_create (&options);
  assert_int_equal (unlink (options.store), 0);
  backfile_free (backfile);
  assert_one_message ("cannot remove", options.store, strerror (ENOENT));
}

#define TEST(name) cmocka_unit_test_setup_teardown (name, setup, teardown)

int
main (void)
{
  const struct CMUnitTest tests[] = {
    TEST (chunks_read_as_they_were_stored),
    TEST (data_lie_behind_a_header),
    TEST (header_tells_people_what_the_file_is),
    TEST (header_of_a_very_long_name_is_cut),
    TEST (split_files_hold_a_part_each),
    TEST (reads_go_on_in_the_next_file),
    TEST (group_is_within_one_file_whatever_the_part_size),
    TEST (least_part_is_accepted),
    TEST (too_many_files_are_refused),
    TEST (size_the_refusal_names_is_enough),
    TEST (sizes_that_are_no_multiple_of_the_chunk),
    TEST (empty_origin_has_a_backing_file),
    TEST (read_past_the_end_is_eio),
    TEST (short_reads_go_on),
    TEST (failed_read_has_its_errno),
    TEST (extents_tell_holes_from_data),
    TEST (extents_end_with_the_file),
    TEST (unnamed_files_leave_no_name),
    TEST (file_system_without_o_tmpfile),
    TEST (named_files_are_numbered_and_removed),
    TEST (file_that_exists_is_refused_and_kept),
    TEST (part_that_exists_is_refused_and_nothing_is_left),
    TEST (directory_that_does_not_exist_is_refused),
    TEST (file_too_large_for_the_file_system),
    TEST (full_disk_at_creation_leaves_nothing),
    TEST (discard_gives_space_and_names_back),
    TEST (punched_chunks_are_zeros_and_take_no_space),
    TEST (punch_goes_on_in_the_next_file),
    TEST (punch_at_the_end_of_the_origin),
    TEST (punch_that_is_refused_has_its_errno),
    TEST (discarded_files_take_no_space),
    TEST (name_that_cannot_be_removed_is_logged),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
