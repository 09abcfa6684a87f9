/* SPDX-License-Identifier: BSD-3-Clause */
/* The readers of a store against what is almost right: headers, units of the
 * index and catalogues that are valid at first and then damaged, often with
 * the checksum put right again, so that what is behind it is reached.
 *
 * What is accepted must be within its bounds and be written again as it was
 * read; what is refused must be so with a reason; and damage that left the
 * checksum alone is never accepted.
 *
 * usage: store CASES
 *
 * The same seed, 1 unless FSSNAP_SEED=N says otherwise, makes the same cases;
 * FSSNAP_LONG=1 makes twenty times as many.
 */

#include "catalog.h"
#include "format.h"
#include "generate.h"
#include "scoped.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t seed, number; /* of the case */

#define ensure(condition)                                                      \
  do                                                                           \
    if (!(condition))                                                          \
      failed (#condition);                                                     \
  while (0)

static void
failed (const char *what)
{
  fprintf (stderr, "seed %" PRIu64 ", case %" PRIu64 ": not so: %s\n", seed,
           number, what);
  abort ();
}

/* How often each thing happened, so that a fuzzer that reaches nothing is
 * seen.
 */
static struct {
  uint64_t headers, units, catalogs;
} accepted, refused;

/* Numbers at the edges of what is allowed, and any. */
static uint64_t
odd_number (uint64_t *state)
{
  static const uint64_t steps[]
      = { 0, 1, 2, 64, 256, 512, 4096, 65536, 1000000000 };

  switch (below (state, 4)) {
  case 0:
    return (UINT64_C (1) << below (state, 64)) - below (state, 2);
  case 1:
    return steps[below (state, sizeof steps / sizeof steps[0])];
  case 2:
    return 0 - below (state, 5000);
  default:
    return below (state, UINT64_MAX) << below (state, 12);
  }
}

static void
fill (uint64_t *state, void *bytes, size_t length)
{
  uint8_t *p = bytes;

  for (size_t i = 0; i < length; i++)
    p[i] = (uint8_t)below (state, 256);
}

/* Change some bytes of LENGTH from START on. */
static void
damage (uint64_t *state, uint8_t *bytes, size_t start, size_t length)
{
  for (uint64_t n = 1 + below (state, 4); n > 0; n--) {
    const size_t at = start + below (state, length - start);
    const uint64_t value = odd_number (state);
    const size_t room = length - at;
    switch (below (state, 4)) {
    case 0:
      bytes[at] ^= (uint8_t)(1U << below (state, 8));
      break;
    case 1: /* a number, where numbers are */
      if (at / 8 * 8 + 8 <= length)
        memcpy (bytes + at / 8 * 8, &value, 8);
      break;
    case 2:
      memset (bytes + at, (int)value, below (state, room < 16 ? room : 16));
      break;
    default:
      memmove (bytes + start + below (state, at - start + 1), bytes + at,
               below (state, room < 64 ? room : 64));
    }
  }
}

static void
fix (uint8_t *sector, unsigned at)
{
  memset (sector + at, 0, 4);
  const uint32_t crc = format_crc (0, sector, FORMAT_SECTOR);
  for (unsigned i = 0; i < 4; i++)
    sector[at + i] = (uint8_t)(crc >> 8 * i);
}

static void
make_header (uint64_t *state, uint8_t *sector)
{
  struct format_header header = { 0 };

  header.parts = 1 + (unsigned)below (state, 256);
  header.part = (unsigned)below (state, header.parts);
  header.chunk_size = UINT64_C (512) << below (state, 18);
  const uint64_t span = 64 * header.chunk_size * (1 + below (state, 10000));
  const uint64_t rest = 1 + below (state, span);
  header.size = (header.parts - 1) * span + rest;
  header.first = header.part * span;
  header.length = header.part + 1 == header.parts ? rest : span;
  header.number = 1 + (unsigned)below (state, 999999999);
  header.created = (int64_t)odd_number (state);
  fill (state, header.store, sizeof header.store);
  fill (state, header.layer, sizeof header.layer);
  memset (header.name, 'n', below (state, sizeof header.name));
  fill (state, header.origin, below (state, sizeof header.origin));
  format_encode_header (&header, sector);
}

static void
check_header (const struct format_header *header)
{
  const struct format_layout layout
      = format_layout (header->chunk_size, header->length);

  ensure (header->parts >= 1 && header->parts <= 256);
  ensure (header->part < header->parts);
  ensure (header->chunk_size >= 512 && header->chunk_size <= 64 << 20);
  ensure ((header->chunk_size & (header->chunk_size - 1)) == 0);
  ensure (header->first <= header->size);
  ensure (header->length <= header->size - header->first);
  ensure (header->first % (64 * header->chunk_size) == 0);
  ensure (layout.file_size <= INT64_MAX);
  ensure (header->number >= 1 && header->number <= 999999999);
  ensure (strlen (header->name) <= FORMAT_NAME_MAX);
  ensure (strlen (header->origin) <= FORMAT_ORIGIN_MAX);
}

static void
fuzz_header (uint64_t *state)
{
  /* Of their own in memory, so that a sanitizer sees what is read behind. */
  SCOPED_FREE uint8_t *sector = malloc (FORMAT_SECTOR);
  uint8_t original[FORMAT_SECTOR], again[FORMAT_SECTOR];
  struct format_header header;
  char *why = NULL;

  make_header (state, sector);
  memcpy (original, sector, FORMAT_SECTOR);
  ensure (format_decode_header (sector, &header, &why) == 0);
  if (below (state, 8) != 0)
    damage (state, sector, below (state, 4) == 0 ? 0 : 16, FORMAT_SECTOR);
  const bool fixed = below (state, 8) != 0;
  if (fixed)
    fix (sector, 12);
  if (format_decode_header (sector, &header, &why) == -1) {
    ensure (why != NULL);
    ensure (strncmp (why, "is ", 3) == 0 || strncmp (why, "has ", 4) == 0);
    refused.headers++;
    free (why);
    return;
  }
  ensure (why == NULL);
  ensure (fixed || memcmp (sector, original, FORMAT_SECTOR) == 0);
  check_header (&header);
  format_encode_header (&header, again);
  ensure (memcmp (sector, again, FORMAT_SECTOR) == 0);
  accepted.headers++;
}

static void
fuzz_unit (uint64_t *state)
{
  SCOPED_FREE uint8_t *sector = malloc (FORMAT_SECTOR);
  SCOPED_FREE uint64_t *words = malloc (FORMAT_UNIT_GROUPS * sizeof *words);
  struct format_unit unit = {
    .part = (unsigned)below (state, 256),
    .table = (enum format_table)below (state, FORMAT_TABLES),
    .number = odd_number (state),
  };
  uint8_t original[FORMAT_SECTOR], again[FORMAT_SECTOR];

  fill (state, unit.layer, sizeof unit.layer);
  fill (state, words, FORMAT_UNIT_GROUPS * sizeof *words);
  format_encode_unit (&unit, words, sector);
  memcpy (original, sector, FORMAT_SECTOR);
  if (below (state, 8) != 0)
    damage (state, sector, below (state, 4) == 0 ? 32 : 0, FORMAT_SECTOR);
  const bool fixed = below (state, 4) != 0;
  if (fixed)
    fix (sector, 0);
  const int r = format_decode_unit (sector, &unit, words);
  ensure (r == 1 || r == -1);
  if (r == -1) {
    refused.units++;
    return;
  }
  ensure (fixed || memcmp (sector, original, FORMAT_SECTOR) == 0);
  format_encode_unit (&unit, words, again);
  ensure (memcmp (sector, again, FORMAT_SECTOR) == 0);
  accepted.units++;
}

static char *
some_text (uint64_t *state, const char *first)
{
  char *text;
  char rest[9];

  for (unsigned i = 0; i < 8; i++)
    rest[i] = (char)(1 + below (state, 255));
  for (char *p = rest; *first != '/' && p < rest + 8; p++)
    *p = (char)('a' + (*p & 15));
  rest[8] = '\0';
  if (asprintf (&text, "%s%" PRIx64 "%s", first, below (state, UINT64_MAX),
                rest)
      == -1)
    abort ();
  return text;
}

static char **
some_files (uint64_t *state, unsigned parts)
{
  char **files = calloc (parts, sizeof *files);

  for (unsigned i = 0; i < parts; i++)
    files[i] = some_text (state, below (state, 3) == 0 ? "/" : "snapshot-");
  return files;
}

static uint64_t
up_to_63_bits (uint64_t *state)
{
  return odd_number (state) & INT64_MAX;
}

static struct catalog_layer *
make_layer (uint64_t *state, unsigned nth)
{
  struct catalog_layer *layer = calloc (1, sizeof *layer);

  fill (state, layer->uuid, sizeof layer->uuid);
  layer->number = nth + 1;
  if (below (state, 2) == 0)
    layer->name = some_text (state, "n");
  layer->created = (int64_t)odd_number (state);
  layer->size = up_to_63_bits (state);
  layer->chunk_size = UINT64_C (512) << below (state, 18);
  layer->maxsize = up_to_63_bits (state);
  layer->backfile_size = up_to_63_bits (state);
  layer->cow_timeout = 1 + (unsigned)below (state, 86400);
  layer->durability = (enum durability)below (state, 3);
  layer->level = (enum durability)below (state, 3);
  layer->on_error = (enum on_error)below (state, 2);
  layer->parts = 1 + (unsigned)below (state, 3);
  layer->files = some_files (state, layer->parts);
  layer->pending = below (state, 2);
  layer->creating = below (state, 2);
  layer->ephemeral = below (state, 2);
  layer->deleted = below (state, 2);
  if (below (state, 2) == 0)
    layer->broken_reason = some_text (state, "/");
  layer->broken_errno = (int)below (state, 200);
  layer->broken_time = (int64_t)odd_number (state);
  layer->copied = up_to_63_bits (state);
  return layer;
}

static struct catalog_files *
make_files (uint64_t *state)
{
  struct catalog_files *files = calloc (1, sizeof *files);

  fill (state, files->uuid, sizeof files->uuid);
  files->parts = 1 + (unsigned)below (state, 3);
  files->files = some_files (state, files->parts);
  return files;
}

static void
make_catalog (uint64_t *state, struct catalog *catalog)
{
  struct catalog_layer **last = &catalog->layers;
  const unsigned layers = (unsigned)below (state, 4);

  *catalog = (struct catalog){ 0 };
  fill (state, catalog->store, sizeof catalog->store);
  catalog->generation = up_to_63_bits (state);
  catalog->clean = below (state, 2);
  memset (catalog->boot, 'b', below (state, sizeof catalog->boot));
  if (below (state, 4) != 0) {
    catalog->origin.path = some_text (state, "/");
    catalog->origin.identity = some_text (state, "/");
    catalog->origin.size = up_to_63_bits (state);
    catalog->origin.mtime = (int64_t)odd_number (state);
    catalog->origin.mtime_ns = (int64_t)below (state, 1000000000);
    catalog->origin.first_crc = (uint32_t)odd_number (state);
  }
  for (unsigned i = 0; i < layers; i++) {
    *last = make_layer (state, i);
    last = &(*last)->next;
  }
  if (below (state, 2) == 0)
    catalog->making = make_files (state);
  if (below (state, 2) == 0)
    catalog->removing = make_files (state);
}

/* Some value in JSON, LEFT values from here on; or the last. */
static json_t *
find_value (json_t *value, uint64_t *left)
{
  json_t *found = value, *member;
  const char *key;
  size_t i;

  json_array_foreach (value, i, member)
  {
    if (*left > 0) {
      --*left;
      found = find_value (member, left);
    }
  }
  json_object_foreach (value, key, member)
  {
    if (*left > 0) {
      --*left;
      found = find_value (member, left);
    }
  }
  return found;
}

static json_t *
odd_value (uint64_t *state)
{
  static const char *const texts[]
      = { "",  "lock", "catalog", "%00",    "%",           "%FF",  "a/b",
          "/", "1",    "async",   "stable", "break-write", "\x7f", "\xc3\xa4" };

  switch (below (state, 8)) {
  case 0:
    return json_null ();
  case 1:
    return json_boolean (below (state, 2));
  case 2:
    return json_real (0.5);
  case 3:
    return json_array ();
  case 4:
    return json_string (texts[below (state, sizeof texts / sizeof texts[0])]);
  default:
    return json_integer ((json_int_t)odd_number (state));
  }
}

/* Replace, take away or double one value somewhere in ROOT. */
static void
change_value (uint64_t *state, json_t *root)
{
  uint64_t left = below (state, 100);
  json_t *at = find_value (root, &left);
  const char *key;
  void *next;
  json_t *member;
  const size_t chosen = below (state, 32);
  size_t n = 0;

  if (json_is_integer (at))
    json_integer_set (at, (json_int_t)odd_number (state));
  else if (json_is_array (at) && json_array_size (at) > 0) {
    const size_t i = chosen % json_array_size (at);
    if (below (state, 3) == 0)
      json_array_remove (at, i);
    else if (below (state, 2) == 0)
      json_array_append_new (at, json_deep_copy (json_array_get (at, i)));
    else
      json_array_set_new (at, i, odd_value (state));
  }
  else if (json_is_object (at))
    json_object_foreach_safe (at, next, key, member)
    {
      if (n++ != chosen % json_object_size (at))
        continue;
      if (below (state, 4) == 0)
        json_object_del (at, key);
      else
        json_object_set_new (at, key, odd_value (state));
      break;
    }
}

/* The text with damaged JSON and a right first line. */
static char *
damage_catalog (uint64_t *state, const char *text, size_t *length)
{
  char *json = strdup (strchr (text, '\n') + 1);
  size_t n = strlen (json);
  char *damaged;

  if (below (state, 3) != 0) {
    json_auto_t *root = json_loads (json, 0, NULL);
    for (uint64_t i = below (state, 3); i > 0; i--)
      change_value (state, root);
    free (json);
    json = json_dumps (root, 0);
    n = strlen (json);
  }
  else
    damage (state, (uint8_t *)json, 0, n);
  const int line = asprintf (&damaged, "fssnap-catalog 1 %08" PRIx32 " %zu\n",
                             format_crc (0, json, n), n);
  char *grown = line == -1 ? NULL : realloc (damaged, (size_t)line + n);
  if (grown == NULL)
    abort ();
  memcpy (grown + line, json, n);
  *length = (size_t)line + n;
  free (json);
  return grown;
}

static char *
print (const struct catalog *catalog, size_t *length)
{
  char *why = NULL;
  char *text = catalog_print (catalog, length, &why);

  if (text == NULL)
    failed (why);
  return text;
}

/* Parse; what is accepted can be written, and is the same then.  Whether it
 * was.
 */
static bool
parse (const char *text, size_t length)
{
  struct catalog catalog, again;
  size_t length_1, length_2;
  char *why;

  if (catalog_parse (text, length, &catalog, &why) == -1) {
    ensure (why != NULL && strncmp (why, "is ", 3) == 0);
    ensure (catalog.layers == NULL && catalog.making == NULL);
    free (why);
    refused.catalogs++;
    return false;
  }
  SCOPED_FREE char *text_1 = print (&catalog, &length_1);
  ensure (catalog_parse (text_1, length_1, &again, &why) == 0);
  SCOPED_FREE char *text_2 = print (&again, &length_2);
  ensure (length_1 == length_2 && memcmp (text_1, text_2, length_1) == 0);
  catalog_free (&catalog);
  catalog_free (&again);
  accepted.catalogs++;
  return true;
}

static void
fuzz_catalog (uint64_t *state)
{
  struct catalog catalog;
  size_t length, damaged_length;

  make_catalog (state, &catalog);
  SCOPED_FREE char *text = print (&catalog, &length);
  catalog_free (&catalog);
  ensure (parse (text, length));
  for (unsigned i = 0; i < 8; i++) {
    SCOPED_FREE char *damaged = damage_catalog (state, text, &damaged_length);
    parse (damaged, damaged_length);
  }
  /* The same length, and the same checksum. */
  SCOPED_FREE uint8_t *bytes = malloc (length);
  memcpy (bytes, text, length);
  damage (state, bytes, 0, length);
  if (memcmp (bytes, text, length) != 0)
    ensure (!parse ((const char *)bytes, length));
  const size_t cut = below (state, length);
  SCOPED_FREE char *less = malloc (cut + 1);
  memcpy (less, text, cut);
  ensure (!parse (less, cut));
}

int
main (int argc, char **argv)
{
  const char *given = getenv ("FSSNAP_SEED");

  if (argc != 2) {
    fprintf (stderr, "usage: store CASES\n");
    return 2;
  }
  uint64_t cases = strtoull (argv[1], NULL, 10);
  if (getenv ("FSSNAP_LONG") != NULL)
    cases *= 20;
  seed = given != NULL ? strtoull (given, NULL, 10) : 1;
  printf ("seed %" PRIu64 "\n", seed);
  fflush (stdout);
  for (; number < cases; number++) {
    /* Its own, so that one case can be run alone; never 0. */
    uint64_t state = (seed << 32) + 2 * number + 1;
    for (unsigned i = 0; i < 8; i++) {
      fuzz_header (&state);
      fuzz_unit (&state);
    }
    fuzz_catalog (&state);
  }
  printf ("headers: %" PRIu64 " accepted, %" PRIu64 " refused; units: %" PRIu64
          ", %" PRIu64 "; catalogues: %" PRIu64 ", %" PRIu64 "\n",
          accepted.headers, refused.headers, accepted.units, refused.units,
          accepted.catalogs, refused.catalogs);
  return 0;
}
