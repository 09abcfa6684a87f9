/* SPDX-License-Identifier: BSD-3-Clause */

#include "cmocka-all.h"
#include "format.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GROUP(chunk_size) (64 * (uint64_t)(chunk_size))
#define MIB (UINT64_C (1) << 20)

static const struct format_header plain = {
  .store = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16 },
  .layer = { 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36 },
  .part = 1,
  .parts = 3,
  .chunk_size = 4096,
  .size = 100 * MIB + 12345,
  .first = 40 * MIB,
  .length = 40 * MIB,
  .number = 7,
  .created = 1700000000,
  .name = "before-upgrade",
  .origin = "/dev/disk/by-id/scsi-1",
};

static uint32_t
get32 (const uint8_t *p)
{
  return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16
         | (uint32_t)p[3] << 24;
}

static void
put (uint8_t *p, uint64_t value, unsigned bytes)
{
  for (unsigned i = 0; i < bytes; i++)
    p[i] = (uint8_t)(value >> 8 * i);
}

static uint64_t
get64 (const uint8_t *p)
{
  return get32 (p) | (uint64_t)get32 (p + 4) << 32;
}

/* Have the checksum right after a change. */
static void
fix (uint8_t *sector, unsigned at)
{
  put (sector + at, 0, 4);
  put (sector + at, format_crc (0, sector, FORMAT_SECTOR), 4);
}

static void
assert_accepted (const uint8_t *sector, struct format_header *header)
{
  char *why = NULL;

  if (format_decode_header (sector, header, &why) != 0)
    fail_msg ("refused: %s", why);
  assert_null (why);
}

static void
assert_refused (const uint8_t *sector, const char *expected)
{
  struct format_header header;
  char *why = NULL;

  assert_int_equal (format_decode_header (sector, &header, &why), -1);
  assert_non_null (why);
  if (strstr (why, expected) == NULL)
    fail_msg ("refused with \"%s\", not \"%s\"", why, expected);
  free (why);
}

/* A header that only whoever makes one wrongly makes. */
static void
assert_header_refused (const struct format_header *header, const char *expected)
{
  uint8_t sector[FORMAT_SECTOR];

  format_encode_header (header, sector);
  assert_refused (sector, expected);
}

static void
assert_header_accepted (const struct format_header *header)
{
  uint8_t sector[FORMAT_SECTOR];
  struct format_header read;

  format_encode_header (header, sector);
  assert_accepted (sector, &read);
}

static void
checksum_is_crc32c (void **state)
{
  uint8_t bytes[32];

  (void)state;
  assert_int_equal (format_crc (0, "123456789", 9), 0xe3069283);
  assert_int_equal (format_crc (format_crc (0, "1234", 4), "56789", 5),
                    0xe3069283);
  assert_int_equal (format_crc (0, "", 0), 0);
  /* RFC 3720, B.4 */
  memset (bytes, 0, sizeof bytes);
  assert_int_equal (format_crc (0, bytes, sizeof bytes), 0x8a9136aa);
  memset (bytes, 0xff, sizeof bytes);
  assert_int_equal (format_crc (0, bytes, sizeof bytes), 0x62a8ab43);
}

static void
header_comes_back (void **state)
{
  uint8_t sector[FORMAT_SECTOR], again[FORMAT_SECTOR];
  struct format_header header;

  (void)state;
  format_encode_header (&plain, sector);
  memset (&header, 0xff, sizeof header);
  assert_accepted (sector, &header);
  assert_memory_equal (header.store, plain.store, 16);
  assert_memory_equal (header.layer, plain.layer, 16);
  assert_int_equal (header.part, plain.part);
  assert_int_equal (header.parts, plain.parts);
  assert_int_equal (header.chunk_size, plain.chunk_size);
  assert_int_equal (header.size, plain.size);
  assert_int_equal (header.first, plain.first);
  assert_int_equal (header.length, plain.length);
  assert_int_equal (header.number, plain.number);
  assert_int_equal (header.created, plain.created);
  assert_string_equal (header.name, plain.name);
  assert_string_equal (header.origin, plain.origin);
  format_encode_header (&header, again);
  assert_memory_equal (again, sector, FORMAT_SECTOR);
}

/* docs/store-format.md has these numbers. */
static void
header_fields_are_where_the_document_says (void **state)
{
  const struct format_layout layout
      = format_layout (plain.chunk_size, plain.length);
  uint8_t sector[FORMAT_SECTOR];

  (void)state;
  format_encode_header (&plain, sector);
  assert_memory_equal (sector, "FSSNAPBF", 8);
  assert_int_equal (get32 (sector + 8), 1);
  assert_memory_equal (sector + 16, plain.store, 16);
  assert_memory_equal (sector + 32, plain.layer, 16);
  assert_int_equal (get32 (sector + 48), 1);
  assert_int_equal (get32 (sector + 52), 3);
  assert_int_equal (get64 (sector + 56), 4096);
  assert_int_equal (get64 (sector + 64), plain.size);
  assert_int_equal (get64 (sector + 72), plain.first);
  assert_int_equal (get64 (sector + 80), plain.length);
  assert_int_equal (get64 (sector + 88), 4096);
  assert_int_equal (get64 (sector + 96), layout.units);
  assert_int_equal (get64 (sector + 104), layout.data);
  assert_int_equal (get32 (sector + 112), 7);
  assert_int_equal (get32 (sector + 116), 0);
  assert_int_equal (get64 (sector + 120), 1700000000);
  assert_string_equal ((char *)sector + 128, plain.name);
  assert_string_equal ((char *)sector + 192, plain.origin);
  const uint32_t crc = get32 (sector + 12);
  put (sector + 12, 0, 4);
  assert_int_equal (format_crc (0, sector, FORMAT_SECTOR), crc);
}

static void
longest_texts_come_back (void **state)
{
  struct format_header header = plain, read;
  uint8_t sector[FORMAT_SECTOR];

  (void)state;
  memset (header.name, 'n', FORMAT_NAME_MAX);
  header.name[FORMAT_NAME_MAX] = '\0';
  memset (header.origin, '\xff', FORMAT_ORIGIN_MAX);
  header.origin[FORMAT_ORIGIN_MAX] = '\0';
  format_encode_header (&header, sector);
  assert_accepted (sector, &read);
  assert_string_equal (read.name, header.name);
  assert_string_equal (read.origin, header.origin);
}

static void
negative_time_comes_back (void **state)
{
  struct format_header header = plain, read;
  uint8_t sector[FORMAT_SECTOR];

  (void)state;
  header.created = -5;
  format_encode_header (&header, sector);
  assert_accepted (sector, &read);
  assert_true (read.created == -5);
}

/* Each bit of each byte. */
static void
every_damaged_bit_of_a_header_is_seen (void **state)
{
  uint8_t sector[FORMAT_SECTOR];

  (void)state;
  format_encode_header (&plain, sector);
  for (unsigned bit = 0; bit < 8 * FORMAT_SECTOR; bit++) {
    sector[bit / 8] ^= (uint8_t)(1U << bit % 8);
    assert_refused (sector, bit < 64   ? "is no backing file of fssnap"
                            : bit < 96 ? "; this fssnap knows 1"
                                       : "has a damaged header (checksum)");
    sector[bit / 8] ^= (uint8_t)(1U << bit % 8);
  }
}

static void
nothing_is_no_header (void **state)
{
  static const uint8_t zeros[FORMAT_SECTOR];

  (void)state;
  assert_refused (zeros, "is no backing file of fssnap");
}

static void
newer_version_is_named (void **state)
{
  uint8_t sector[FORMAT_SECTOR];

  (void)state;
  format_encode_header (&plain, sector);
  put (sector + 8, 2, 4);
  assert_refused (sector, "is of format 2; this fssnap knows 1");
  fix (sector, 12);
  assert_refused (sector, "is of format 2; this fssnap knows 1");
}

/* A header with this number at this offset and the right checksum. */
static void
assert_number_refused (unsigned at, uint64_t value, unsigned bytes,
                       const char *expected)
{
  uint8_t sector[FORMAT_SECTOR];

  format_encode_header (&plain, sector);
  put (sector + at, value, bytes);
  fix (sector, 12);
  assert_refused (sector, expected);
}

static void
numbers_out_of_bounds_are_refused (void **state)
{
  (void)state;
  assert_number_refused (48, 3, 4, "(part)");
  assert_number_refused (48, UINT32_MAX, 4, "(part)");
  assert_number_refused (52, 0, 4, "(part)");
  assert_number_refused (52, 257, 4, "(part)");
  assert_number_refused (56, 0, 8, "(chunk size)");
  assert_number_refused (56, 256, 8, "(chunk size)");
  assert_number_refused (56, 4097, 8, "(chunk size)");
  assert_number_refused (56, 128 * MIB, 8, "(chunk size)");
  assert_number_refused (56, UINT64_C (1) << 63, 8, "(chunk size)");
  assert_number_refused (64, UINT64_C (1) << 63, 8, "(size)");
  assert_number_refused (72, 40 * MIB + 4096, 8, "(bounds of the part)");
  assert_number_refused (72, UINT64_MAX - 4095, 8, "(bounds of the part)");
  assert_number_refused (72, 0, 8, "(bounds of the part)");
  assert_number_refused (72, 80 * MIB, 8, "(bounds of the part)");
  assert_number_refused (80, 0, 8, "(bounds of the part)");
  assert_number_refused (80, 40 * MIB - 1, 8, "(bounds of the part)");
  assert_number_refused (80, 20 * MIB, 8, "(bounds of the part)");
  assert_number_refused (80, UINT64_MAX, 8, "(bounds of the part)");
  assert_number_refused (88, 512, 8, "(layout)");
  assert_number_refused (96, 0, 8, "(layout)");
  assert_number_refused (104, 8192, 8, "(layout)");
  assert_number_refused (112, 0, 4, "(number)");
  assert_number_refused (112, 1000000000, 4, "(number)");
}

static void
what_is_zero_must_be (void **state)
{
  (void)state;
  assert_number_refused (116, 1, 4, "(zeros)");
  for (unsigned at = 192 + FORMAT_ORIGIN_MAX; at < FORMAT_SECTOR; at++)
    assert_number_refused (at, 1, 1, "(zeros)");
  assert_number_refused (191, 'x', 1, "(text)");
  assert_number_refused (192 + 254, 'x', 1, "(text)");
}

static void
name_must_be_one_of_letters (void **state)
{
  (void)state;
  assert_number_refused (128, 27, 1, "(name)");
  assert_number_refused (128, ' ', 1, "(name)");
  assert_number_refused (128, 127, 1, "(name)");
  assert_number_refused (128, 0xe4, 1, "(name)");
}

static void
parts_must_fit_together (void **state)
{
  struct format_header header = plain;

  (void)state;
  header.part = 2; /* the last: 80 MiB on, 20 MiB and some */
  header.first = 80 * MIB;
  header.length = 20 * MIB + 12345;
  assert_header_accepted (&header);
  header.length--;
  assert_header_refused (&header, "(bounds of the part)");
  header.length = 20 * MIB;
  assert_header_refused (&header, "(bounds of the part)");
  header.size = 100 * MIB;
  assert_header_accepted (&header);
  header.size = 80 * MIB;
  header.length = 0;
  assert_header_refused (&header, "(bounds of the part)");
  header.size = 130 * MIB; /* longer than those before it */
  header.length = 50 * MIB;
  assert_header_refused (&header, "(bounds of the part)");

  header = plain;
  header.part = 0;
  header.first = 0;
  assert_header_accepted (&header);
  header.length = 40 * MIB + 4096;
  assert_header_refused (&header, "(bounds of the part)");
  header.length = header.size;
  assert_header_refused (&header, "(bounds of the part)");
  header.parts = 1;
  assert_header_accepted (&header);
}

static void
empty_origin_has_a_header (void **state)
{
  struct format_header header = plain;

  (void)state;
  header.part = 0;
  header.parts = 1;
  header.size = header.first = header.length = 0;
  assert_header_accepted (&header);
  assert_int_equal (format_layout (4096, 0).units, 0);
  assert_int_equal (format_layout (4096, 0).data, 4096);
  assert_int_equal (format_layout (4096, 0).file_size, 4096);
}

/* There is a file of the largest origin only as far as file offsets go. */
static void
file_too_large_is_refused (void **state)
{
  struct format_header header = plain;

  (void)state;
  header.part = 0;
  header.parts = 1;
  header.first = 0;
  header.size = header.length = INT64_MAX;
  assert_header_refused (&header, "(layout)");
  header.chunk_size = 64 * MIB;
  assert_header_refused (&header, "(layout)");
  header.size = header.length = UINT64_C (1) << 62;
  assert_header_accepted (&header);
}

/* As the document has it, with numbers written out. */
static void
layout_of_some_sizes (void **state)
{
  static const struct {
    uint64_t chunk_size, length, groups, units, table_bytes, data;
  } cases[] = {
    { 4096, 1, 1, 1, 4096, 16384 },
    { 4096, GROUP (4096), 1, 1, 4096, 16384 },
    { 4096, GROUP (4096) + 1, 2, 1, 4096, 16384 },
    { 4096, 60 * GROUP (4096), 60, 1, 4096, 16384 },
    { 4096, 60 * GROUP (4096) + 1, 61, 2, 4096, 16384 },
    { 4096, 8 * 60 * GROUP (4096), 480, 8, 4096, 16384 },
    { 4096, 8 * 60 * GROUP (4096) + 1, 481, 9, 8192, 28672 },
    { 512, 1, 1, 1, 4096, 16384 },
    { 65536, 1, 1, 1, 4096, 65536 },
    { 64 * MIB, 1, 1, 1, 4096, 64 * MIB },
    { 512, UINT64_C (1) << 40, UINT64_C (1) << 25, 559241, 286334976,
      859009024 },
  };

  (void)state;
  for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    const struct format_layout layout
        = format_layout (cases[i].chunk_size, cases[i].length);
    assert_int_equal (layout.groups, cases[i].groups);
    assert_int_equal (layout.units, cases[i].units);
    assert_int_equal (layout.table_bytes, cases[i].table_bytes);
    assert_int_equal (layout.data, cases[i].data);
    assert_int_equal (layout.file_size, cases[i].data + cases[i].length);
  }
}

static void
tables_follow_each_other_and_the_data_them (void **state)
{
  (void)state;
  for (uint64_t chunk_size = 512; chunk_size <= 64 * MIB; chunk_size *= 2)
    for (uint64_t length = 1; length < UINT64_C (1) << 50; length *= 7) {
      const struct format_layout layout = format_layout (chunk_size, length);
      uint64_t end = FORMAT_HEADER;
      for (int table = 0; table < FORMAT_TABLES; table++) {
        const enum format_table t = (enum format_table)table;
        assert_int_equal (format_unit_offset (&layout, t, 0), end);
        end = format_unit_offset (&layout, t, layout.units - 1) + FORMAT_SECTOR;
        end = (end + 4095) / 4096 * 4096;
      }
      assert_in_range (layout.data, end,
                       end + (chunk_size > 4096 ? chunk_size : 4096) - 1);
      assert_int_equal (layout.data % 4096, 0);
      assert_int_equal (layout.data % chunk_size, 0);
    }
}

static void
span_is_the_most_that_fits (void **state)
{
  static const uint64_t sizes[] = { 16384,
                                    278527,
                                    278528,
                                    500000,
                                    UINT64_C (1) << 30,
                                    (UINT64_C (1) << 40) + 1,
                                    INT64_MAX };

  (void)state;
  for (uint64_t chunk_size = 512; chunk_size <= MIB; chunk_size *= 2)
    for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
      const uint64_t span = format_span (chunk_size, MIB, sizes[i]);
      assert_int_equal (span % GROUP (chunk_size), 0);
      if (span > 0)
        assert_true (format_layout (chunk_size, span).file_size <= sizes[i]);
      assert_true (
          format_layout (chunk_size, span + GROUP (chunk_size)).file_size
          > sizes[i]);
    }
  assert_int_equal (format_span (4096, MIB, 278527), 0);
  assert_int_equal (format_span (4096, MIB, 278528), GROUP (4096));
  assert_int_equal (format_span (4096, MIB, 0), MIB);
  assert_int_equal (format_span (4096, MIB + 1, 0), MIB + GROUP (4096));
  assert_int_equal (format_span (4096, 0, 0), GROUP (4096));
}

static const struct format_unit unit = {
  .layer = { 9, 8, 7, 6, 5, 4, 3, 2, 1 },
  .part = 255,
  .table = FORMAT_FREE,
  .number = UINT64_C (0x123456789a),
};

static void
fill (uint64_t words[FORMAT_UNIT_GROUPS])
{
  for (unsigned i = 0; i < FORMAT_UNIT_GROUPS; i++)
    words[i] = UINT64_C (0x9e3779b97f4a7c15) * (i + 1);
}

static void
unit_comes_back (void **state)
{
  uint64_t words[FORMAT_UNIT_GROUPS], read[FORMAT_UNIT_GROUPS];
  uint8_t sector[FORMAT_SECTOR];

  (void)state;
  fill (words);
  format_encode_unit (&unit, words, sector);
  assert_int_equal (format_decode_unit (sector, &unit, read), 1);
  assert_memory_equal (read, words, sizeof words);
}

static void
unit_fields_are_where_the_document_says (void **state)
{
  uint64_t words[FORMAT_UNIT_GROUPS];
  uint8_t sector[FORMAT_SECTOR];

  (void)state;
  fill (words);
  format_encode_unit (&unit, words, sector);
  assert_int_equal (get32 (sector + 4), 1 | 255 << 16);
  assert_memory_equal (sector + 8, unit.layer, 8);
  assert_int_equal (get64 (sector + 16), unit.number);
  assert_int_equal (get64 (sector + 24), 0);
  for (unsigned i = 0; i < FORMAT_UNIT_GROUPS; i++)
    assert_int_equal (get64 (sector + 32 + 8 * i), words[i]);
  const uint32_t crc = get32 (sector);
  put (sector, 0, 4);
  assert_int_equal (format_crc (0, sector, FORMAT_SECTOR), crc);
}

static void
unit_never_written_is_told_apart (void **state)
{
  uint64_t words[FORMAT_UNIT_GROUPS] = { 0 };
  uint8_t sector[FORMAT_SECTOR] = { 0 };

  (void)state;
  assert_int_equal (format_decode_unit (sector, &unit, words), 0);
  format_encode_unit (&unit, words, sector);
  assert_int_equal (format_decode_unit (sector, &unit, words), 1);
  /* The very first unit has the most zeros. */
  const struct format_unit first = { .table = FORMAT_COPIED };
  format_encode_unit (&first, words, sector);
  assert_int_equal (format_decode_unit (sector, &first, words), 1);
}

static void
every_damaged_bit_of_a_unit_is_seen (void **state)
{
  uint64_t words[FORMAT_UNIT_GROUPS];
  uint8_t sector[FORMAT_SECTOR];

  (void)state;
  fill (words);
  format_encode_unit (&unit, words, sector);
  for (unsigned bit = 0; bit < 8 * FORMAT_SECTOR; bit++) {
    sector[bit / 8] ^= (uint8_t)(1U << bit % 8);
    assert_int_equal (format_decode_unit (sector, &unit, words), -1);
    sector[bit / 8] ^= (uint8_t)(1U << bit % 8);
  }
}

/* Torn in the middle: the checksum is of all. */
static void
unit_half_old_half_new_is_seen (void **state)
{
  uint64_t words[FORMAT_UNIT_GROUPS] = { 1 };
  uint8_t old[FORMAT_SECTOR], new[FORMAT_SECTOR];

  (void)state;
  format_encode_unit (&unit, words, old);
  fill (words);
  format_encode_unit (&unit, words, new);
  for (unsigned at = 4; at < FORMAT_SECTOR; at += 4) {
    uint8_t torn[FORMAT_SECTOR];
    memcpy (torn, new, at);
    memcpy (torn + at, old + at, FORMAT_SECTOR - at);
    assert_int_equal (format_decode_unit (torn, &unit, words), -1);
  }
}

static void
unit_of_something_else_is_refused (void **state)
{
  uint64_t words[FORMAT_UNIT_GROUPS] = { 1 };
  struct format_unit other = unit;
  uint8_t sector[FORMAT_SECTOR];

  (void)state;
  format_encode_unit (&unit, words, sector);
  other.part = 254;
  assert_int_equal (format_decode_unit (sector, &other, words), -1);
  other = unit;
  other.table = FORMAT_COPIED;
  assert_int_equal (format_decode_unit (sector, &other, words), -1);
  other = unit;
  other.number++;
  assert_int_equal (format_decode_unit (sector, &other, words), -1);
  other = unit;
  other.layer[7] ^= 1;
  assert_int_equal (format_decode_unit (sector, &other, words), -1);
}

static void
unit_with_something_for_zero_is_refused (void **state)
{
  uint64_t words[FORMAT_UNIT_GROUPS] = { 1 };
  uint8_t sector[FORMAT_SECTOR];

  (void)state;
  for (unsigned at = 24; at < 32; at++) {
    format_encode_unit (&unit, words, sector);
    sector[at] = 1;
    fix (sector, 0);
    assert_int_equal (format_decode_unit (sector, &unit, words), -1);
  }
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (checksum_is_crc32c),
    cmocka_unit_test (header_comes_back),
    cmocka_unit_test (header_fields_are_where_the_document_says),
    cmocka_unit_test (longest_texts_come_back),
    cmocka_unit_test (negative_time_comes_back),
    cmocka_unit_test (every_damaged_bit_of_a_header_is_seen),
    cmocka_unit_test (nothing_is_no_header),
    cmocka_unit_test (newer_version_is_named),
    cmocka_unit_test (numbers_out_of_bounds_are_refused),
    cmocka_unit_test (what_is_zero_must_be),
    cmocka_unit_test (name_must_be_one_of_letters),
    cmocka_unit_test (parts_must_fit_together),
    cmocka_unit_test (empty_origin_has_a_header),
    cmocka_unit_test (file_too_large_is_refused),
    cmocka_unit_test (layout_of_some_sizes),
    cmocka_unit_test (tables_follow_each_other_and_the_data_them),
    cmocka_unit_test (span_is_the_most_that_fits),
    cmocka_unit_test (unit_comes_back),
    cmocka_unit_test (unit_fields_are_where_the_document_says),
    cmocka_unit_test (unit_never_written_is_told_apart),
    cmocka_unit_test (every_damaged_bit_of_a_unit_is_seen),
    cmocka_unit_test (unit_half_old_half_new_is_seen),
    cmocka_unit_test (unit_of_something_else_is_refused),
    cmocka_unit_test (unit_with_something_for_zero_is_refused),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
