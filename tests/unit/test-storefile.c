/* SPDX-License-Identifier: BSD-3-Clause */

#include "cmocka-all.h"
#include "call-hook.h"
#include "fixture.h"
#include "nbdkit-stub.h"
#include "scoped.h"
#include "scratch.h"
#include "storefile.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHUNK 4096
#define GROUP (BITMAP_GROUP * (uint64_t)CHUNK)

static struct {
  struct format_header header;
  uint64_t part_size;
  char paths[4][512];
  char *path[BACKFILE_PARTS_MAX];
} here;

/* What is made next. */
static void
plan (uint64_t size, uint64_t part_size)
{
  here.header.size = size;
  here.part_size = part_size;
  assert_int_equal (storefile_plan (size, here.header.chunk_size, part_size,
                                    &here.header.parts),
                    0);
}

static int
setup (void **state)
{
  (void)state;
  messages_clear ();
  memset (&here, 0, sizeof here);
  here.header.chunk_size = CHUNK;
  here.header.number = 3;
  here.header.created = 1700000000;
  memset (here.header.store, 1, sizeof here.header.store);
  memset (here.header.layer, 2, sizeof here.header.layer);
  strcpy (here.header.name, "monday");
  strcpy (here.header.origin, "/dev/some-disk");
  for (unsigned i = 0; i < 4; i++) {
    snprintf (here.paths[i], sizeof here.paths[i], "%s%s%.0u",
              scratch_path ("file"), i > 0 ? "." : "", i);
    here.path[i] = here.paths[i];
  }
  plan (1 << 20, 0);
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

static struct backfile *
create (void)
{
  struct backfile *backfile
      = storefile_create (&here.header, here.part_size, here.path);

  if (backfile == NULL)
    messages_show ();
  assert_non_null (backfile);
  return backfile;
}

static struct backfile *
reopen (void)
{
  char *why;
  struct backfile *backfile
      = storefile_open (&here.header, here.part_size, here.path, &why);

  if (backfile == NULL)
    print_message ("%s\n", why);
  assert_non_null (backfile);
  assert_null (why);
  return backfile;
}

/* It cannot be opened, and is said to be like this, by its name. */
#define assert_refused(error, text)                                            \
  assert_refused_at (__FILE__, __LINE__, error, text)
static void
assert_refused_at (const char *file, int line, int error, const char *text)
{
  char *why;
  struct backfile *backfile
      = storefile_open (&here.header, here.part_size, here.path, &why);
  const int err = errno;

  if (backfile != NULL || err != error || why == NULL
      || strstr (why, text) == NULL || strstr (why, here.path[0]) == NULL) {
    print_message ("%s: %s\n", strerror (err), why != NULL ? why : "-");
    _fail (file, line);
  }
  free (why);
  assert_no_message ();
}

static uint64_t
size_of (const char *path)
{
  struct stat st;

  assert_int_equal (stat (path, &st), 0);
  return (uint64_t)st.st_size;
}

static uint64_t
allocated (const char *path)
{
  struct stat st;

  assert_int_equal (stat (path, &st), 0);
  return (uint64_t)st.st_blocks * 512;
}

static void
overwrite (const char *path, uint64_t offset, const void *data, size_t count)
{
  const int fd = open (path, O_WRONLY);

  assert_int_not_equal (fd, -1);
  assert_int_equal (pwrite (fd, data, count, (off_t)offset), count);
  close (fd);
}

/* A file's size for GROUPS groups of chunks. */
static uint64_t
part_for (uint64_t groups)
{
  return format_layout (here.header.chunk_size,
                        groups * BITMAP_GROUP * here.header.chunk_size)
      .file_size;
}

/* --- the plan ------------------------------------------------------------ */

static void
one_file_if_nothing_is_said (void **state)
{
  static const uint64_t sizes[] = { 0, 1, 4096, UINT64_C (64) << 40 };

  (void)state;
  for (unsigned i = 0; i < 4; i++) {
    plan (sizes[i], 0);
    assert_int_equal (here.header.parts, 1);
  }
}

static void
parts_are_as_many_as_needed (void **state)
{
  (void)state;
  plan (GROUP, part_for (1));
  assert_int_equal (here.header.parts, 1);
  plan (GROUP + 1, part_for (1));
  assert_int_equal (here.header.parts, 2);
  plan (256 * GROUP, part_for (1));
  assert_int_equal (here.header.parts, 256);
  plan (256 * GROUP, part_for (2));
  assert_int_equal (here.header.parts, 128);
  plan (256 * GROUP, part_for (2) - 1); /* no room for two */
  assert_int_equal (here.header.parts, 256);
  plan (0, part_for (1));
  assert_int_equal (here.header.parts, 1);
}

static void
too_many_parts_are_refused (void **state)
{
  unsigned parts = 77;

  (void)state;
  errno = 0;
  assert_int_equal (
      storefile_plan (256 * GROUP + 1, CHUNK, part_for (1), &parts), -1);
  assert_int_equal (errno, EINVAL);
  assert_one_message ("257 files");
}

static void
too_small_parts_are_refused (void **state)
{
  unsigned parts = 77;
  char least[32];

  (void)state;
  snprintf (least, sizeof least, "%" PRIu64, part_for (1));
  errno = 0;
  assert_int_equal (storefile_plan (GROUP, CHUNK, part_for (1) - 1, &parts),
                    -1);
  assert_int_equal (errno, EINVAL);
  assert_one_message ("backfile-size=", least);
}

/* --- making and opening -------------------------------------------------- */

static void
made_files_can_be_opened (void **state)
{
  (void)state;
  backfile_free (create ());
  assert_int_equal (size_of (here.path[0]), part_for (4));
  assert_true (allocated (here.path[0]) <= 4096);
  backfile_free (reopen ());
  assert_int_equal (scratch_files (), 1);
}

static void
header_says_what_it_is (void **state)
{
  uint8_t sector[FORMAT_SECTOR];
  struct format_header found;
  char *why;

  (void)state;
  plan (5 * GROUP - 77, part_for (2));
  assert_int_equal (here.header.parts, 3);
  backfile_free (create ());
  for (unsigned i = 0; i < 3; i++) {
    const int fd = open (here.path[i], O_RDONLY);
    assert_int_equal (read (fd, sector, sizeof sector), sizeof sector);
    close (fd);
    assert_int_equal (format_decode_header (sector, &found, &why), 0);
    assert_int_equal (found.part, i);
    assert_int_equal (found.parts, 3);
    assert_int_equal (found.first, 2 * GROUP * i);
    assert_int_equal (found.length, i < 2 ? 2 * GROUP : GROUP - 77);
    assert_int_equal (found.number, 3);
    assert_string_equal (found.name, "monday");
    assert_string_equal (found.origin, "/dev/some-disk");
  }
  backfile_free (reopen ());
}

static void
what_is_written_is_read_after_it_was_opened (void **state)
{
  uint8_t buf[3 * CHUNK], back[3 * CHUNK];
  uint64_t offset;
  int fd;

  (void)state;
  plan (5 * GROUP, part_for (2));
  struct backfile *backfile = create ();
  memset (buf, 0x42, sizeof buf);
  for (unsigned i = 0; i < 5; i++) {
    backfile_locate (backfile, i * GROUP, &fd, &offset);
    assert_int_equal (offset % CHUNK, 0);
    assert_int_equal (pwrite (fd, buf, sizeof buf, (off_t)offset), sizeof buf);
  }
  backfile_free (backfile);
  backfile = reopen ();
  for (unsigned i = 0; i < 5; i++) {
    assert_int_equal (backfile_read (backfile, back, sizeof back, i * GROUP),
                      0);
    assert_memory_equal (back, buf, sizeof buf);
  }
  backfile_free (backfile);
}

static void
files_that_are_there_are_not_touched (void **state)
{
  (void)state;
  plan (3 * GROUP, part_for (1));
  const int fd = open (here.path[1], O_CREAT | O_WRONLY, 0600);
  assert_int_equal (write (fd, "mine", 4), 4);
  close (fd);
  errno = 0;
  assert_null (storefile_create (&here.header, here.part_size, here.path));
  assert_int_equal (errno, EEXIST);
  assert_one_message (here.path[1]);
  assert_int_equal (size_of (here.path[1]), 4);
}

static void
links_are_not_followed (void **state)
{
  (void)state;
  assert_int_equal (symlink (scratch_path ("elsewhere"), here.path[0]), 0);
  assert_null (storefile_create (&here.header, here.part_size, here.path));
  assert_int_equal (scratch_files (), 1);
  unlink (here.path[0]);
  backfile_free (create ());
  assert_int_equal (rename (here.path[0], scratch_path ("elsewhere")), 0);
  assert_int_equal (symlink (scratch_path ("elsewhere"), here.path[0]), 0);
  messages_clear ();
  assert_refused (ELOOP, "link");
}

/* --- opening what is not it ---------------------------------------------- */

static void
missing_file_is_refused (void **state)
{
  (void)state;
  assert_refused (ENOENT, "cannot be opened");
  plan (3 * GROUP, part_for (1));
  backfile_free (create ());
  unlink (here.path[2]);
  assert_refused (ENOENT, here.path[2]);
}

static void
what_is_no_file_is_refused (void **state)
{
  (void)state;
  assert_int_equal (mkdir (here.path[0], 0700), 0);
  assert_refused (EISDIR, "cannot be opened");
  rmdir (here.path[0]);
  assert_int_equal (mkfifo (here.path[0], 0600), 0);
  assert_refused (EINVAL, "regular file");
}

static void
truncated_files_are_refused (void **state)
{
  static const uint64_t sizes[] = { 0, 511, 512, 4096, 1 << 20 };

  (void)state;
  backfile_free (create ());
  for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
    assert_int_equal (truncate (here.path[0], (off_t)sizes[i]), 0);
    assert_refused (EINVAL, "bytes");
    unlink (here.path[0]);
    backfile_free (create ());
  }
  assert_int_equal (truncate (here.path[0], (off_t)part_for (4) + 1), 0);
  assert_refused (EINVAL, "bytes instead of");
}

static void
every_damaged_byte_of_the_header_is_refused (void **state)
{
  uint8_t sector[FORMAT_SECTOR];

  (void)state;
  backfile_free (create ());
  const int fd = open (here.path[0], O_RDWR);
  assert_int_equal (pread (fd, sector, sizeof sector, 0), sizeof sector);
  for (unsigned i = 0; i < FORMAT_SECTOR; i++) {
    const uint8_t bad = (uint8_t)(sector[i] ^ 0x10);
    assert_int_equal (pwrite (fd, &bad, 1, i), 1);
    assert_refused (EINVAL, "backing file");
    assert_int_equal (pwrite (fd, &sector[i], 1, i), 1);
  }
  close (fd);
  backfile_free (reopen ());
}

/* Any header, with its checksum. */
static void
set_header (const char *path, const struct format_header *header)
{
  uint8_t sector[FORMAT_SECTOR];

  format_encode_header (header, sector);
  overwrite (path, 0, sector, sizeof sector);
}

static void
files_of_others_are_refused (void **state)
{
  struct format_header own, header;

  (void)state;
  backfile_free (create ());
  own = here.header;
  own.length = own.size;

  header = own;
  header.layer[0]++;
  set_header (here.path[0], &header);
  assert_refused (EINVAL, "another snapshot");
  header = own;
  header.store[15]++;
  set_header (here.path[0], &header);
  assert_refused (EINVAL, "another store");
  header = own;
  header.chunk_size *= 2;
  set_header (here.path[0], &header);
  assert_refused (EINVAL, "another snapshot");
  header = own;
  header.size = header.length = own.size + 4096;
  set_header (here.path[0], &header);
  assert_refused (EINVAL, "another snapshot");
  set_header (here.path[0], &own);
  backfile_free (reopen ());
}

static void
files_in_another_order_are_refused (void **state)
{
  (void)state;
  plan (3 * GROUP, part_for (1));
  backfile_free (create ());
  char *first = here.path[0];
  here.path[0] = here.path[1];
  here.path[1] = first;
  assert_refused (EINVAL, "another snapshot");
}

/* The catalogue is damaged, in spite of its checksum. */
static void
other_figures_are_refused (void **state)
{
  static const struct {
    unsigned parts, groups;
  } figures[] = { { 2, 1 }, { 3, 2 }, { 3, 0 } };
  char *why;

  (void)state;
  plan (3 * GROUP, part_for (1));
  backfile_free (create ());
  for (unsigned i = 0; i < 4; i++) {
    here.header.parts = i < 3 ? figures[i].parts : 3;
    here.part_size = i == 3                   ? 1 /* too small for anything */
                     : figures[i].groups == 0 ? 0
                                              : part_for (figures[i].groups);
    errno = 0;
    assert_null (
        storefile_open (&here.header, here.part_size, here.path, &why));
    assert_int_equal (errno, EINVAL);
    assert_non_null (why);
    free (why);
  }
}

static void
what_cannot_be_read_is_refused_with_its_errno (void **state)
{
  (void)state;
  backfile_free (create ());
  if (geteuid () == 0)
    skip ();
  assert_int_equal (chmod (here.path[0], 0), 0);
  assert_refused (EACCES, "cannot be opened");
}

/* --- the index ----------------------------------------------------------- */

static void
init_bits (struct bitmap *bitmap)
{
  assert_int_equal (
      bitmap_init (bitmap, (here.header.size + here.header.chunk_size - 1)
                               / here.header.chunk_size),
      0);
}

static void
set_bit (struct bitmap *bitmap, uint64_t chunk)
{
  bitmap_set_group (bitmap, chunk / BITMAP_GROUP,
                    bitmap_mask (chunk % BITMAP_GROUP, 1));
}

static void
assert_loads (const struct backfile *backfile, enum format_table table,
              const struct bitmap *expected)
{
  struct bitmap bits;
  char *why;

  init_bits (&bits);
  const int r = storefile_load (backfile, table, &bits, &why);
  if (r == -1)
    print_message ("%s\n", why);
  assert_int_equal (r, 0);
  assert_int_equal (bitmap_weight (&bits), bitmap_weight (expected));
  for (uint64_t group = bitmap_next_group (expected, 0); group != UINT64_MAX;
       group = bitmap_next_group (expected, group + 1))
    assert_true (bitmap_group (&bits, group) == bitmap_group (expected, group));
  bitmap_free (&bits);
}

static void
new_index_is_empty (void **state)
{
  struct bitmap none;

  (void)state;
  plan (5 * GROUP, part_for (2));
  struct backfile *backfile = create ();
  init_bits (&none);
  for (enum format_table table = 0; table < FORMAT_TABLES; table++)
    assert_loads (backfile, table, &none);
  bitmap_free (&none);
  backfile_free (backfile);
}

/* Bits here and there, of SIZE bytes in files of PART_SIZE. */
static void
check_tables (uint64_t size, uint64_t part_size)
{
  struct bitmap bits[FORMAT_TABLES];

  plan (size, part_size);
  struct backfile *backfile = create ();
  const uint64_t chunks = (size + CHUNK - 1) / CHUNK;
  for (unsigned table = 0; table < FORMAT_TABLES; table++) {
    init_bits (&bits[table]);
    for (uint64_t chunk = table; chunk < chunks; chunk += 1 + chunk / 3)
      set_bit (&bits[table], chunk);
    set_bit (&bits[table], chunks - 1);
    assert_int_equal (storefile_write_table (backfile, table, &bits[table]), 0);
  }
  backfile_free (backfile);
  backfile = reopen ();
  for (unsigned table = 0; table < FORMAT_TABLES; table++) {
    assert_loads (backfile, table, &bits[table]);
    bitmap_free (&bits[table]);
  }
  backfile_free (backfile);
  for (unsigned i = 0; i < 4; i++)
    unlink (here.path[i]);
}

static void
tables_are_read_as_they_were_written (void **state)
{
  const uint64_t unit = FORMAT_UNIT_GROUPS * GROUP;

  (void)state;
  check_tables (1, 0);
  check_tables (GROUP - 1, 0);
  check_tables (GROUP + 1, 0);
  check_tables (unit, 0);
  check_tables (unit + 1, 0);
  check_tables (10 * unit + 3 * GROUP + 5, 0);
  check_tables (3 * GROUP + 7, part_for (1));
  check_tables (7 * GROUP, part_for (2));
  check_tables (2 * unit + 5, part_for (70));
}

/* A place is where it is loaded from. */
static void
places_are_those_of_the_tables (void **state)
{
  struct bitmap bits;

  (void)state;
  plan (130 * GROUP, part_for (65));
  assert_int_equal (here.header.parts, 2);
  struct backfile *backfile = create ();
  for (uint64_t group = 0; group < 130; group++) {
    const struct index_place place
        = storefile_place (backfile, FORMAT_FREE, group);
    assert_int_equal (place.part, group / 65);
    assert_int_equal (place.fd, backfile->part[group / 65].fd);
    assert_in_range (group, place.first, place.first + place.groups - 1);
    assert_int_equal (place.groups, group % 65 < 60 ? 60 : 5);
    assert_int_equal (place.offset % FORMAT_SECTOR, 0);
  }
  init_bits (&bits);
  set_bit (&bits, 64 * BITMAP_GROUP); /* the last group of the first part */
  const struct index_place place = storefile_place (backfile, FORMAT_FREE, 64);
  uint64_t words[FORMAT_UNIT_GROUPS] = { 0 };
  uint8_t sector[FORMAT_SECTOR];
  words[64 - place.first] = 1;
  format_encode_unit (&place.unit, words, sector);
  assert_int_equal (
      pwrite (place.fd, sector, sizeof sector, (off_t)place.offset),
      sizeof sector);
  assert_loads (backfile, FORMAT_FREE, &bits);
  bitmap_free (&bits);
  backfile_free (backfile);
}

/* 1 TiB has an index of 4 MiB and more a table, nearly all a hole. */
static void
large_sparse_index_costs_what_it_has (void **state)
{
  struct bitmap bits;

  (void)state;
  plan (UINT64_C (1) << 40, 0);
  struct backfile *backfile = create ();
  assert_true (allocated (here.path[0]) <= 4096);
  init_bits (&bits);
  for (uint64_t chunk = 3; chunk < (UINT64_C (1) << 40) / CHUNK;
       chunk += 30000000)
    set_bit (&bits, chunk);
  set_bit (&bits, (UINT64_C (1) << 40) / CHUNK - 1);
  assert_int_equal (storefile_write_table (backfile, FORMAT_COPIED, &bits), 0);
  assert_true (allocated (here.path[0]) <= 32 * 4096);
  assert_loads (backfile, FORMAT_COPIED, &bits);
  bitmap_free (&bits);
  backfile_free (backfile);
}

static uint64_t bytes_read;

static struct call_verdict
count_reads (const struct call_event *event)
{
  if (event->call == CALL_PREAD)
    bytes_read += event->count;
  return (struct call_verdict){ 0 };
}

static void
holes_are_not_read (void **state)
{
  struct bitmap bits;
  char *why;

  (void)state;
  plan (UINT64_C (1) << 40, 0);
  struct backfile *backfile = create ();
  init_bits (&bits);
  bytes_read = 0;
  call_hook_set (count_reads);
  assert_int_equal (storefile_load (backfile, FORMAT_COPIED, &bits, &why), 0);
  call_hook_set (NULL);
  assert_true (bytes_read <= 4 << 20); /* a step or two, of 35 MB */
  bitmap_free (&bits);
  backfile_free (backfile);
}

/* The index of its backing file FILE is refused: WHY says so. */
static void
assert_damaged (const struct backfile *backfile, enum format_table table)
{
  struct bitmap bits;
  char *why;

  init_bits (&bits);
  errno = 0;
  assert_int_equal (storefile_load (backfile, table, &bits, &why), -1);
  assert_int_equal (errno, EINVAL);
  assert_non_null (why);
  assert_non_null (strstr (why, "damaged"));
  assert_non_null (strstr (why, here.path[0]));
  free (why);
  bitmap_free (&bits);
}

static void
every_damaged_byte_of_a_unit_is_refused (void **state)
{
  uint8_t sector[FORMAT_SECTOR];
  struct bitmap bits;

  (void)state;
  struct backfile *backfile = create ();
  init_bits (&bits);
  set_bit (&bits, 100);
  assert_int_equal (storefile_write_table (backfile, FORMAT_COPIED, &bits), 0);
  const struct index_place place = storefile_place (backfile, FORMAT_COPIED, 0);
  assert_int_equal (
      pread (place.fd, sector, sizeof sector, (off_t)place.offset),
      sizeof sector);
  for (unsigned i = 0; i < FORMAT_SECTOR; i++) {
    const uint8_t bad = (uint8_t)(sector[i] ^ 1);
    assert_int_equal (pwrite (place.fd, &bad, 1, (off_t)place.offset + i), 1);
    assert_damaged (backfile, FORMAT_COPIED);
    assert_int_equal (pwrite (place.fd, &sector[i], 1, (off_t)place.offset + i),
                      1);
  }
  assert_loads (backfile, FORMAT_COPIED, &bits);
  bitmap_free (&bits);
  backfile_free (backfile);
}

/* A unit in a place that is another's, with its own checksum right. */
static void
misplaced_units_are_refused (void **state)
{
  struct format_unit unit = { .table = FORMAT_COPIED, .number = 0 };
  uint64_t words[FORMAT_UNIT_GROUPS] = { 1 };
  uint8_t sector[FORMAT_SECTOR];

  (void)state;
  plan (2 * FORMAT_UNIT_GROUPS * GROUP, part_for (FORMAT_UNIT_GROUPS));
  assert_int_equal (here.header.parts, 2);
  struct backfile *backfile = create ();
  const struct index_place place = storefile_place (backfile, FORMAT_COPIED, 0);
  for (unsigned i = 0; i < 4; i++) {
    memcpy (unit.layer, here.header.layer, sizeof unit.layer);
    unit = (struct format_unit){ .table = i == 0 ? FORMAT_FREE : FORMAT_COPIED,
                                 .part = i == 1,
                                 .number = i == 2 };
    memcpy (unit.layer, here.header.layer, sizeof unit.layer);
    unit.layer[0] = (uint8_t)(unit.layer[0] + (i == 3));
    format_encode_unit (&unit, words, sector);
    assert_int_equal (
        pwrite (place.fd, sector, sizeof sector, (off_t)place.offset),
        sizeof sector);
    assert_damaged (backfile, FORMAT_COPIED);
  }
  backfile_free (backfile);
}

/* A unit with one bit, of a chunk of which there is none. */
static void
check_beyond (uint64_t chunk)
{
  uint64_t words[FORMAT_UNIT_GROUPS] = { 0 };
  uint8_t sector[FORMAT_SECTOR];
  struct backfile *backfile = create ();
  const uint64_t group = chunk / BITMAP_GROUP;
  struct index_place place
      = storefile_place (backfile, FORMAT_COPIED, group / 60 * 60);

  words[group % 60] = UINT64_C (1) << chunk % BITMAP_GROUP;
  format_encode_unit (&place.unit, words, sector);
  assert_int_equal (
      pwrite (place.fd, sector, sizeof sector, (off_t)place.offset),
      sizeof sector);
  assert_damaged (backfile, FORMAT_COPIED);
  backfile_free (backfile);
  unlink (here.path[0]);
  unlink (here.path[1]);
}

static void
bits_beyond_the_end_are_refused (void **state)
{
  (void)state;
  plan (100 * CHUNK - 7, 0);
  check_beyond (100);
  check_beyond (127);
  check_beyond (128);
  check_beyond (60 * 64 - 1);
  plan (128 * CHUNK, 0);
  check_beyond (128);
  /* Of the first part's last unit, where the second part goes on. */
  plan (20 * GROUP, part_for (10));
  check_beyond (10 * BITMAP_GROUP);
}

static void
index_that_ends_is_refused (void **state)
{
  struct bitmap bits;
  char *why;

  (void)state;
  plan (UINT64_C (1) << 30, 0);
  struct backfile *backfile = create ();
  init_bits (&bits);
  for (uint64_t chunk = 0; chunk < (1 << 30) / CHUNK; chunk += 100)
    set_bit (&bits, chunk);
  assert_int_equal (storefile_write_table (backfile, FORMAT_COPIED, &bits), 0);
  bitmap_free (&bits);
  assert_int_equal (truncate (here.path[0], FORMAT_HEADER + 1000), 0);
  init_bits (&bits);
  const int r = storefile_load (backfile, FORMAT_COPIED, &bits, &why);
  assert_int_equal (r, -1);
  assert_non_null (strstr (why, "cannot be read"));
  free (why);
  bitmap_free (&bits);
  backfile_free (backfile);
}

static struct call_verdict
reads_fail (const struct call_event *event)
{
  return (struct call_verdict){ .error = event->call == CALL_PREAD ? EIO : 0 };
}

static struct call_verdict
reads_are_short (const struct call_event *event)
{
  return (struct call_verdict){ .most = event->call == CALL_PREAD ? 1000 : 0 };
}

static void
index_that_cannot_be_read_has_its_errno (void **state)
{
  struct bitmap bits;
  char *why;

  (void)state;
  struct backfile *backfile = create ();
  init_bits (&bits);
  set_bit (&bits, 5);
  assert_int_equal (storefile_write_table (backfile, FORMAT_COPIED, &bits), 0);
  call_hook_set (reads_fail);
  const int r = storefile_load (backfile, FORMAT_COPIED, &bits, &why);
  const int err = errno;
  call_hook_set (NULL);
  assert_int_equal (r, -1);
  assert_int_equal (err, EIO);
  assert_non_null (strstr (why, here.path[0]));
  free (why);
  bitmap_free (&bits);
  backfile_free (backfile);
}

static void
short_reads_go_on (void **state)
{
  struct bitmap bits;

  (void)state;
  plan (UINT64_C (1) << 30, 0);
  struct backfile *backfile = create ();
  init_bits (&bits);
  for (uint64_t chunk = 0; chunk < (1 << 30) / CHUNK; chunk += 100)
    set_bit (&bits, chunk);
  assert_int_equal (storefile_write_table (backfile, FORMAT_COPIED, &bits), 0);
  call_hook_set (reads_are_short);
  assert_loads (backfile, FORMAT_COPIED, &bits);
  call_hook_set (NULL);
  bitmap_free (&bits);
  backfile_free (backfile);
}

/* --- every call in turn fails -------------------------------------------- */

static struct {
  unsigned bad_call, calls;
  int error;
  bool syncs_only;
  unsigned syncs;
} fault;

static struct call_verdict
fail_in_turn (const struct call_event *event)
{
  if (event->call == CALL_FSYNC || event->call == CALL_FDATASYNC)
    fault.syncs++;
  if (event->call == CALL_MEMORY && fault.error != ENOMEM)
    return (struct call_verdict){ 0 };
  if (event->call != CALL_MEMORY && fault.error == ENOMEM)
    return (struct call_verdict){ 0 };
  return (struct call_verdict){ .error = ++fault.calls == fault.bad_call
                                             ? fault.error
                                             : 0 };
}

static void
each_call_of_creating (int error)
{
  bool done = false;

  plan (3 * GROUP, part_for (1));
  for (fault.bad_call = 1; !done; fault.bad_call++) {
    fault.calls = fault.syncs = 0;
    fault.error = error;
    messages_clear ();
    call_hook_set (fail_in_turn);
    errno = 0;
    struct backfile *backfile
        = storefile_create (&here.header, here.part_size, here.path);
    const int err = errno;
    call_hook_set (NULL);
    done = fault.calls < fault.bad_call;
    if (backfile == NULL) {
      assert_false (done);
      assert_int_equal (err, error);
      assert_int_equal (messages_count (), 1);
    }
    else {
      /* What is done must be so. */
      assert_true (done);
      assert_int_equal (fault.syncs, 4);
      backfile_free (reopen ());
    }
    backfile_free (backfile);
    for (unsigned i = 0; i < 3; i++)
      unlink (here.path[i]);
    assert_int_equal (scratch_files (), 0);
  }
  assert_true (fault.bad_call > 3);
}

static void
creation_fails_at_each_call (void **state)
{
  (void)state;
  each_call_of_creating (EIO);
  each_call_of_creating (ENOSPC);
  each_call_of_creating (ENOMEM);
}

static struct call_verdict
interrupt_writes (const struct call_event *event)
{
  static unsigned times;

  if (event->call == CALL_PWRITE && ++times % 2 == 1)
    return (struct call_verdict){ .error = EINTR };
  return (struct call_verdict){ .most = event->call == CALL_PWRITE ? 100 : 0 };
}

static void
interrupted_and_short_writes_go_on (void **state)
{
  struct bitmap bits;

  (void)state;
  init_bits (&bits);
  set_bit (&bits, 9);
  call_hook_set (interrupt_writes);
  struct backfile *backfile = create ();
  assert_int_equal (storefile_write_table (backfile, FORMAT_COPIED, &bits), 0);
  call_hook_set (NULL);
  assert_loads (backfile, FORMAT_COPIED, &bits);
  bitmap_free (&bits);
  backfile_free (backfile);
  backfile_free (reopen ());
}

static void
opening_fails_at_each_call_and_changes_nothing (void **state)
{
  static const int errors[] = { EIO, ENOMEM };
  bool done;

  (void)state;
  plan (3 * GROUP, part_for (1));
  backfile_free (create ());
  for (unsigned i = 0; i < 2; i++) {
    done = false;
    for (fault.bad_call = 1; !done; fault.bad_call++) {
      char *why = NULL;
      fault.calls = 0;
      fault.error = errors[i];
      call_hook_set (fail_in_turn);
      struct backfile *backfile
          = storefile_open (&here.header, here.part_size, here.path, &why);
      const int err = errno;
      call_hook_set (NULL);
      done = fault.calls < fault.bad_call;
      assert_int_equal (backfile == NULL, !done);
      if (backfile == NULL)
        assert_true (err == errors[i] || err == EINVAL);
      free (why);
      backfile_free (backfile);
      backfile_free (reopen ());
    }
    assert_true (fault.bad_call > 2);
  }
  assert_no_message ();
}

static void
table_that_cannot_be_written_or_synced_fails (void **state)
{
  struct bitmap bits;
  bool done = false;

  (void)state;
  plan (3 * GROUP, part_for (1));
  struct backfile *backfile = create ();
  init_bits (&bits);
  for (unsigned i = 0; i < 3; i++)
    set_bit (&bits, i * BITMAP_GROUP);
  for (fault.bad_call = 1; !done; fault.bad_call++) {
    fault.calls = fault.syncs = 0;
    fault.error = ENOSPC;
    call_hook_set (fail_in_turn);
    const int r = storefile_write_table (backfile, FORMAT_FREE, &bits);
    const int err = errno;
    call_hook_set (NULL);
    done = fault.calls < fault.bad_call;
    assert_int_equal (r, done ? 0 : -1);
    if (r == -1)
      assert_int_equal (err, ENOSPC);
  }
  assert_int_equal (fault.bad_call, 3 + 3 + 2); /* writes, syncs, a whole one */
  assert_int_equal (fault.syncs, 3);
  assert_loads (backfile, FORMAT_FREE, &bits);
  bitmap_free (&bits);
  backfile_free (backfile);
}

static void
absent_one_has_a_name_and_no_files (void **state)
{
  struct backfile *backfile = storefile_absent ("/store/snapshot-1-abc");

  (void)state;
  assert_string_equal (backfile_name (backfile), "/store/snapshot-1-abc");
  assert_int_equal (backfile_allocated (backfile), 0);
  backfile_discard (backfile);
  backfile_free (backfile);
}

/* What was given up is emptied, but not so that nobody knows whose it was. */
static void
emptied_file_is_known_and_refused (void **state)
{
  (void)state;
  struct backfile *backfile = create ();
  backfile_discard (backfile);
  backfile_free (backfile);
  assert_true (size_of (here.path[0]) <= FORMAT_HEADER);
  assert_refused (EINVAL, "bytes");
}

#define TEST(name) cmocka_unit_test_setup_teardown (name, setup, teardown)

int
main (void)
{
  const struct CMUnitTest tests[] = {
    TEST (one_file_if_nothing_is_said),
    TEST (parts_are_as_many_as_needed),
    TEST (too_many_parts_are_refused),
    TEST (too_small_parts_are_refused),
    TEST (made_files_can_be_opened),
    TEST (header_says_what_it_is),
    TEST (what_is_written_is_read_after_it_was_opened),
    TEST (files_that_are_there_are_not_touched),
    TEST (links_are_not_followed),
    TEST (missing_file_is_refused),
    TEST (what_is_no_file_is_refused),
    TEST (truncated_files_are_refused),
    TEST (every_damaged_byte_of_the_header_is_refused),
    TEST (files_of_others_are_refused),
    TEST (files_in_another_order_are_refused),
    TEST (other_figures_are_refused),
    TEST (what_cannot_be_read_is_refused_with_its_errno),
    TEST (new_index_is_empty),
    TEST (tables_are_read_as_they_were_written),
    TEST (places_are_those_of_the_tables),
    TEST (large_sparse_index_costs_what_it_has),
    TEST (holes_are_not_read),
    TEST (every_damaged_byte_of_a_unit_is_refused),
    TEST (misplaced_units_are_refused),
    TEST (bits_beyond_the_end_are_refused),
    TEST (index_that_ends_is_refused),
    TEST (index_that_cannot_be_read_has_its_errno),
    TEST (short_reads_go_on),
    TEST (creation_fails_at_each_call),
    TEST (interrupted_and_short_writes_go_on),
    TEST (opening_fails_at_each_call_and_changes_nothing),
    TEST (table_that_cannot_be_written_or_synced_fails),
    TEST (absent_one_has_a_name_and_no_files),
    TEST (emptied_file_is_known_and_refused),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
