/* SPDX-License-Identifier: BSD-3-Clause */
/* Bytes of a header, offset and what is there, all little endian:
 *
 *     0  magic, 8 bytes         72  first             u64
 *     8  version          u32   80  length            u64
 *    12  CRC32C           u32   88  index begins at   u64
 *    16  store            UUID  96  units of a table  u64
 *    32  layer            UUID  104 data begin at     u64
 *    48  part, parts  2 x u32   112 number            u32
 *    56  chunk size       u64   120 created           i64
 *    64  size             u64   128 name, 64; 192 origin, 255
 *
 * and of a unit:
 *
 *     0  CRC32C           u32    8  the first 8 bytes of the layer's UUID
 *     4  table            u16   16  number            u64
 *     6  part             u16   32  60 words of bits  u64
 *
 * All others are zero, and the checksum is that of the whole sector with its
 * own field zero.  A unit says which one it is, so that one that was written
 * to a wrong place, or is left of a file that was there before, is not taken
 * for another; its checksum alone would be right.
 *
 * What is zero is checked to be so: a later version that wants the room has
 * another number, and is refused for that.
 */

#include "format.h"

#include <assert.h>
#include <endian.h>
#include <inttypes.h>
#include <isa-l/crc.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define MAGIC "FSSNAPBF"

#define GROUP 64 /* chunks */
#define PARTS_MAX 256
#define NUMBER_MAX 999999999
#define CHUNK_MIN 512
#define CHUNK_MAX (UINT64_C (64) << 20)
#define TABLE_ALIGN 4096

enum {
  AT_VERSION = 8,
  AT_CRC = 12,
  AT_STORE = 16,
  AT_LAYER = 32,
  AT_PART = 48,
  AT_PARTS = 52,
  AT_CHUNK_SIZE = 56,
  AT_SIZE = 64,
  AT_FIRST = 72,
  AT_LENGTH = 80,
  AT_INDEX = 88,
  AT_UNITS = 96,
  AT_DATA = 104,
  AT_NUMBER = 112,
  AT_CREATED = 120,
  AT_NAME = 128,
  AT_ORIGIN = 192,
};

enum {
  UNIT_AT_CRC = 0,
  UNIT_AT_TABLE = 4,
  UNIT_AT_PART = 6,
  UNIT_AT_LAYER = 8,
  UNIT_AT_NUMBER = 16,
  UNIT_AT_WORDS = 32,
};

static void
put16 (uint8_t *p, unsigned value)
{
  const uint16_t le = htole16 ((uint16_t)value);

  memcpy (p, &le, sizeof le);
}

static void
put32 (uint8_t *p, uint32_t value)
{
  const uint32_t le = htole32 (value);

  memcpy (p, &le, sizeof le);
}

static void
put64 (uint8_t *p, uint64_t value)
{
  const uint64_t le = htole64 (value);

  memcpy (p, &le, sizeof le);
}

static uint32_t
get32 (const uint8_t *p)
{
  uint32_t le;

  memcpy (&le, p, sizeof le);
  return le32toh (le);
}

static uint64_t
get64 (const uint8_t *p)
{
  uint64_t le;

  memcpy (&le, p, sizeof le);
  return le64toh (le);
}

static uint64_t
round_up (uint64_t value, uint64_t multiple)
{
  return (value + multiple - 1) / multiple * multiple;
}

uint32_t
format_crc (uint32_t crc, const void *data, uint64_t length)
{
  /* Which says nothing of const, but does not write; and counts in int. */
  union {
    const void *given;
    uint8_t *taken;
  } p = { data };

  crc = ~crc;
  while (length > 0) {
    const int n = length < INT32_MAX ? (int)length : INT32_MAX;
    crc = crc32_iscsi (p.taken, n, crc);
    p.taken += n;
    length -= (uint64_t)n;
  }
  return ~crc;
}

/* The checksum of a sector, with the field for it, at AT, zero. */
static uint32_t
sector_crc (const uint8_t sector[FORMAT_SECTOR], unsigned at)
{
  static const uint8_t zeros[4];
  uint32_t crc = format_crc (0, sector, at);

  crc = format_crc (crc, zeros, sizeof zeros);
  return format_crc (crc, sector + at + 4, FORMAT_SECTOR - at - 4);
}

static bool
all_zeros (const uint8_t *bytes, size_t length)
{
  return length == 0
         || (bytes[0] == 0 && memcmp (bytes, bytes + 1, length - 1) == 0);
}

struct format_layout
format_layout (uint64_t chunk_size, uint64_t length)
{
  const uint64_t group = GROUP * chunk_size;
  struct format_layout layout;

  layout.groups = length / group + (length % group != 0);
  layout.units = layout.groups / FORMAT_UNIT_GROUPS
                 + (layout.groups % FORMAT_UNIT_GROUPS != 0);
  layout.table_bytes = round_up (layout.units * FORMAT_SECTOR, TABLE_ALIGN);
  layout.data
      = round_up (FORMAT_HEADER + FORMAT_TABLES * layout.table_bytes,
                  chunk_size > FORMAT_HEADER ? chunk_size : FORMAT_HEADER);
  layout.file_size = layout.data + length;
  return layout;
}

uint64_t
format_span (uint64_t chunk_size, uint64_t size, uint64_t file_size)
{
  const uint64_t group = GROUP * chunk_size;
  uint64_t low = 0, high = file_size / group;

  if (file_size == 0)
    return size > 0 ? round_up (size, group) : group;
  /* The most groups whose file is not too large. */
  while (low < high) {
    const uint64_t middle = low + (high - low + 1) / 2;
    if (format_layout (chunk_size, middle * group).file_size <= file_size)
      low = middle;
    else
      high = middle - 1;
  }
  return low * group;
}

uint64_t
format_unit_offset (const struct format_layout *layout, enum format_table table,
                    uint64_t unit)
{
  assert (unit < layout->units);
  return FORMAT_HEADER + table * layout->table_bytes + unit * FORMAT_SECTOR;
}

void
format_encode_header (const struct format_header *header,
                      uint8_t sector[FORMAT_SECTOR])
{
  const struct format_layout layout
      = format_layout (header->chunk_size, header->length);

  memset (sector, 0, FORMAT_SECTOR);
  memcpy (sector, MAGIC, sizeof MAGIC - 1);
  put32 (sector + AT_VERSION, FORMAT_VERSION);
  memcpy (sector + AT_STORE, header->store, sizeof header->store);
  memcpy (sector + AT_LAYER, header->layer, sizeof header->layer);
  put32 (sector + AT_PART, header->part);
  put32 (sector + AT_PARTS, header->parts);
  put64 (sector + AT_CHUNK_SIZE, header->chunk_size);
  put64 (sector + AT_SIZE, header->size);
  put64 (sector + AT_FIRST, header->first);
  put64 (sector + AT_LENGTH, header->length);
  put64 (sector + AT_INDEX, FORMAT_HEADER);
  put64 (sector + AT_UNITS, layout.units);
  put64 (sector + AT_DATA, layout.data);
  put32 (sector + AT_NUMBER, header->number);
  put64 (sector + AT_CREATED, (uint64_t)header->created);
  memcpy (sector + AT_NAME, header->name,
          strnlen (header->name, FORMAT_NAME_MAX));
  memcpy (sector + AT_ORIGIN, header->origin,
          strnlen (header->origin, FORMAT_ORIGIN_MAX));
  put32 (sector + AT_CRC, sector_crc (sector, AT_CRC));
}

/* A text of at most MAX bytes with only zeros behind it; TO has one more. */
static bool
take_text (const uint8_t *from, size_t max, char *to)
{
  const size_t length = strnlen ((const char *)from, max);

  memcpy (to, from, length);
  memset (to + length, 0, max + 1 - length);
  return all_zeros (from + length, max - length);
}

static void
take_fields (const uint8_t *sector, struct format_header *header)
{
  memcpy (header->store, sector + AT_STORE, sizeof header->store);
  memcpy (header->layer, sector + AT_LAYER, sizeof header->layer);
  header->part = get32 (sector + AT_PART);
  header->parts = get32 (sector + AT_PARTS);
  header->chunk_size = get64 (sector + AT_CHUNK_SIZE);
  header->size = get64 (sector + AT_SIZE);
  header->first = get64 (sector + AT_FIRST);
  header->length = get64 (sector + AT_LENGTH);
  header->number = get32 (sector + AT_NUMBER);
  header->created = (int64_t)get64 (sector + AT_CREATED);
}

/* All parts are as long as the first, the last may be shorter. */
static bool
is_part (const struct format_header *header)
{
  const uint64_t size = header->size, first = header->first;
  const uint64_t length = header->length;
  const bool last = header->part + 1 == header->parts;

  if (first > size || length > size - first
      || first % (GROUP * header->chunk_size) != 0)
    return false;
  if (last != (length == size - first))
    return false;
  if (header->part == 0)
    return first == 0
           && (last
               || (length > 0 && length % (GROUP * header->chunk_size) == 0));
  const uint64_t span = first / header->part;
  return span > 0 && first % header->part == 0
         && span % (GROUP * header->chunk_size) == 0
         && (last ? length > 0 && length <= span : length == span);
}

/* What is wrong with a header that has the right checksum, or NULL. */
static const char *
find_fault (const uint8_t *sector, const struct format_header *header)
{
  const uint64_t chunk_size = header->chunk_size;

  if (header->parts < 1 || header->parts > PARTS_MAX
      || header->part >= header->parts)
    return "part";
  if (chunk_size < CHUNK_MIN || chunk_size > CHUNK_MAX
      || (chunk_size & (chunk_size - 1)) != 0)
    return "chunk size";
  if (header->size > INT64_MAX)
    return "size";
  if (!is_part (header))
    return "bounds of the part";
  const struct format_layout layout
      = format_layout (chunk_size, header->length);
  if (get64 (sector + AT_INDEX) != FORMAT_HEADER
      || get64 (sector + AT_UNITS) != layout.units
      || get64 (sector + AT_DATA) != layout.data
      || layout.file_size > INT64_MAX)
    return "layout";
  if (header->number < 1 || header->number > NUMBER_MAX)
    return "number";
  for (const char *p = header->name; *p != '\0'; p++)
    if (*p <= ' ' || *p > '~')
      return "name";
  if (get32 (sector + AT_NUMBER + 4) != 0
      || !all_zeros (sector + AT_ORIGIN + FORMAT_ORIGIN_MAX,
                     FORMAT_SECTOR - AT_ORIGIN - FORMAT_ORIGIN_MAX))
    return "zeros";
  return NULL;
}

/* Say so in *WHY. */
static int __attribute__ ((format (printf, 2, 3)))
refuse (char **why, const char *format, ...)
{
  va_list args;

  va_start (args, format);
  if (vasprintf (why, format, args) == -1)
    *why = NULL;
  va_end (args);
  return -1;
}

int
format_decode_header (const uint8_t sector[FORMAT_SECTOR],
                      struct format_header *header, char **why)
{
  const uint32_t version = get32 (sector + AT_VERSION);

  if (memcmp (sector, MAGIC, strlen (MAGIC)) != 0)
    return refuse (why, "is no backing file of fssnap");
  if (version != FORMAT_VERSION)
    return refuse (why, "is of format %" PRIu32 "; this fssnap knows %d",
                   version, FORMAT_VERSION);
  if (get32 (sector + AT_CRC) != sector_crc (sector, AT_CRC))
    return refuse (why, "has a damaged header (checksum)");

  take_fields (sector, header);
  const bool name = take_text (sector + AT_NAME, FORMAT_NAME_MAX, header->name);
  const bool origin
      = take_text (sector + AT_ORIGIN, FORMAT_ORIGIN_MAX, header->origin);
  const char *fault = name && origin ? find_fault (sector, header) : "text";
  if (fault != NULL)
    return refuse (why, "has a damaged header (%s)", fault);
  return 0;
}

void
format_encode_unit (const struct format_unit *unit,
                    const uint64_t words[FORMAT_UNIT_GROUPS],
                    uint8_t sector[FORMAT_SECTOR])
{
  memset (sector, 0, UNIT_AT_WORDS);
  put16 (sector + UNIT_AT_TABLE, unit->table);
  put16 (sector + UNIT_AT_PART, unit->part);
  memcpy (sector + UNIT_AT_LAYER, unit->layer, 8);
  put64 (sector + UNIT_AT_NUMBER, unit->number);
  for (size_t i = 0; i < FORMAT_UNIT_GROUPS; i++)
    put64 (sector + UNIT_AT_WORDS + 8 * i, words[i]);
  put32 (sector + UNIT_AT_CRC, sector_crc (sector, UNIT_AT_CRC));
}

int
format_decode_unit (const uint8_t sector[FORMAT_SECTOR],
                    const struct format_unit *unit,
                    uint64_t words[FORMAT_UNIT_GROUPS])
{
  uint8_t expected[UNIT_AT_WORDS] = { 0 };

  if (all_zeros (sector, FORMAT_SECTOR))
    return 0;
  memcpy (expected, sector + UNIT_AT_CRC, 4);
  put16 (expected + UNIT_AT_TABLE, unit->table);
  put16 (expected + UNIT_AT_PART, unit->part);
  memcpy (expected + UNIT_AT_LAYER, unit->layer, 8);
  put64 (expected + UNIT_AT_NUMBER, unit->number);
  if (memcmp (sector, expected, sizeof expected) != 0
      || get32 (sector + UNIT_AT_CRC) != sector_crc (sector, UNIT_AT_CRC))
    return -1;
  for (size_t i = 0; i < FORMAT_UNIT_GROUPS; i++)
    words[i] = get64 (sector + UNIT_AT_WORDS + 8 * i);
  return 1;
}
