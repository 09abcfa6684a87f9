/* SPDX-License-Identifier: BSD-3-Clause */
/* Make a store as a server would leave it, for tests of the command:
 *
 *   make-store DIR [clean|unclean|boot=ID|making=FILE|removing=FILE|
 *                   layer KEY=VALUE...]...
 *
 * The store was closed cleanly, in this boot, unless said otherwise.  KEYs of
 * a layer, the oldest first, are number, name, size, chunksize,
 * backfile-size, durability, level, file (of the first part), broken, and
 * copied, free and unreadable, which are chunks as in "0-5+9"; a word alone
 * is pending, creating, ephemeral, deleted, or beyond: a bit is set for a
 * chunk behind the end.  The store's and the layers'
 * UUIDs are always the same: the Nth layer's begins with eight times N.
 */

#include "catalog.h"
#include "format.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int directory;
static struct catalog catalog;

#define RANGES_MAX 16

struct ranges {
  unsigned count;
  struct range {
    uint64_t first, last;
  } range[RANGES_MAX];
};

/* What is asked for, for one layer. */
struct wanted {
  struct catalog_layer *layer;
  struct ranges chunks[FORMAT_TABLES];
  const char *file;
  bool beyond;
};

static void
die (const char *what)
{
  fprintf (stderr, "make-store: %s: %s\n", what, strerror (errno));
  exit (EXIT_FAILURE);
}

static char *text (const char *format, ...)
    __attribute__ ((format (printf, 1, 2)));

static char *
text (const char *format, ...)
{
  va_list args;
  char *result;

  va_start (args, format);
  if (vasprintf (&result, format, args) == -1)
    die ("memory");
  va_end (args);
  return result;
}

/* Chunks as in "0-5+9". */
static struct ranges
parse_ranges (const char *text)
{
  struct ranges ranges = { 0 };

  for (const char *p = text; p != NULL && ranges.count < RANGES_MAX;
       p = strchr (p, '+')) {
    struct range *range = &ranges.range[ranges.count++];
    p += *p == '+';
    if (sscanf (p, "%" SCNu64 "-%" SCNu64, &range->first, &range->last) == 1)
      range->last = range->first;
  }
  return ranges;
}

static bool
is_chunk (const struct ranges *ranges, uint64_t chunk)
{
  for (unsigned i = 0; i < ranges->count; i++)
    if (chunk >= ranges->range[i].first && chunk <= ranges->range[i].last)
      return true;
  return false;
}

/* The units of a table that are not empty; copied chunks get data. */
static void
write_table (int fd, const struct format_header *header,
             const struct format_layout *layout, enum format_table table,
             const struct ranges *chunks, bool beyond)
{
  const uint64_t first = header->first / header->chunk_size;
  struct format_unit unit = { .part = header->part, .table = table };

  memcpy (unit.layer, header->layer, sizeof unit.layer);
  for (; unit.number < layout->units; unit.number++) {
    uint64_t words[FORMAT_UNIT_GROUPS] = { 0 };
    uint8_t sector[FORMAT_SECTOR];
    bool any = false;

    for (unsigned i = 0; i < FORMAT_UNIT_GROUPS * 64; i++) {
      const uint64_t chunk = unit.number * FORMAT_UNIT_GROUPS * 64 + i;
      const bool last = chunk * header->chunk_size >= header->length;
      if (last ? !beyond : !is_chunk (chunks, first + chunk))
        continue;
      any = true;
      words[i / 64] |= UINT64_C (1) << i % 64;
      if (table == FORMAT_COPIED
          && pwrite (fd, "old", 3,
                     (off_t)(layout->data + chunk * header->chunk_size))
                 == -1)
        die ("data");
    }
    if (!any)
      continue;
    format_encode_unit (&unit, words, sector);
    if (pwrite (fd, sector, sizeof sector,
                (off_t)format_unit_offset (layout, table, unit.number))
        == -1)
      die ("index");
  }
}

static void
write_part (const struct wanted *wanted, const struct format_header *header)
{
  const struct format_layout layout
      = format_layout (header->chunk_size, header->length);
  const char *name = wanted->layer->files[header->part];
  uint8_t sector[FORMAT_SECTOR];
  const int fd = openat (directory, name, O_RDWR | O_CREAT | O_EXCL, 0600);

  if (fd == -1)
    die (name);
  format_encode_header (header, sector);
  if (pwrite (fd, sector, sizeof sector, 0) == -1)
    die (name);
  for (int table = 0; table < FORMAT_TABLES; table++)
    if (wanted->chunks[table].count > 0)
      write_table (fd, header, &layout, (enum format_table)table,
                   &wanted->chunks[table], wanted->beyond);
  if (ftruncate (fd, (off_t)layout.file_size) == -1)
    die (name);
  close (fd);
}

/* The bits of the tables, as a server counts them when it ends. */
static void
count_chunks (const struct wanted *wanted)
{
  struct catalog_layer *layer = wanted->layer;
  const uint64_t chunks = (layer->size - 1) / layer->chunk_size + 1;

  for (uint64_t i = 0; layer->size > 0 && i < chunks; i++) {
    const bool lost = is_chunk (&wanted->chunks[FORMAT_UNREADABLE], i);
    layer->chunks_unreadable += lost;
    layer->chunks_copied
        += lost || is_chunk (&wanted->chunks[FORMAT_COPIED], i);
    layer->chunks_free += is_chunk (&wanted->chunks[FORMAT_FREE], i);
  }
}

static void
write_layer (const struct wanted *wanted)
{
  struct catalog_layer *layer = wanted->layer;
  const uint64_t span
      = format_span (layer->chunk_size, layer->size, layer->backfile_size);
  char uuid[37];

  if (span == 0) {
    errno = EINVAL;
    die ("backfile-size");
  }
  count_chunks (wanted);
  uuid_unparse_lower (layer->uuid, uuid);
  layer->parts
      = layer->size == 0 ? 1 : (unsigned)((layer->size - 1) / span + 1);
  layer->files = calloc (layer->parts, sizeof *layer->files);
  for (unsigned part = 0; part < layer->parts; part++) {
    struct format_header header = {
      .part = part,
      .parts = layer->parts,
      .chunk_size = layer->chunk_size,
      .size = layer->size,
      .first = part * span,
      .number = layer->number,
      .created = layer->created,
    };
    const uint64_t left = layer->size - header.first;
    header.length = left < span ? left : span;
    memcpy (header.store, catalog.store, sizeof header.store);
    memcpy (header.layer, layer->uuid, sizeof header.layer);
    snprintf (header.name, sizeof header.name, "%s",
              layer->name == NULL ? "" : layer->name);
    snprintf (header.origin, sizeof header.origin, "%s", catalog.origin.path);
    char *base = wanted->file != NULL
                     ? strdup (wanted->file)
                     : text ("snapshot-%u-%.8s", layer->number, uuid);
    layer->files[part] = part == 0 ? strdup (base) : text ("%s.%u", base, part);
    free (base);
    write_part (wanted, &header);
  }
}

static uint64_t
number_of (const char *value)
{
  char *end;
  const uint64_t number = strtoull (value, &end, 10);
  const char *suffix = *end == '\0' ? NULL : strchr ("kMGT", *end);

  return suffix == NULL ? number
                        : number << 10 * (1 + (suffix - strchr ("kMGT", 'k')));
}

static void
take_key (struct wanted *wanted, const char *key, char *value)
{
  struct catalog_layer *layer = wanted->layer;

  if (strcmp (key, "number") == 0)
    layer->number = (unsigned)number_of (value);
  else if (strcmp (key, "name") == 0)
    layer->name = strdup (value);
  else if (strcmp (key, "size") == 0)
    layer->size = number_of (value);
  else if (strcmp (key, "created") == 0)
    layer->created = (int64_t)number_of (value);
  else if (strcmp (key, "bytes") == 0)
    layer->copied = number_of (value);
  else if (strcmp (key, "chunksize") == 0)
    layer->chunk_size = number_of (value);
  else if (strcmp (key, "backfile-size") == 0)
    layer->backfile_size = number_of (value);
  else if (strcmp (key, "durability") == 0)
    layer->durability = layer->level
        = (enum durability)policy_parse_durability (value);
  else if (strcmp (key, "level") == 0)
    layer->level = (enum durability)policy_parse_durability (value);
  else if (strcmp (key, "file") == 0)
    wanted->file = value;
  else if (strcmp (key, "broken") == 0) {
    layer->broken_reason = strdup (value);
    layer->broken_errno = ENOSPC;
    layer->broken_time = 1700000000;
  }
  else if (strcmp (key, "copied") == 0)
    wanted->chunks[FORMAT_COPIED] = parse_ranges (value);
  else if (strcmp (key, "free") == 0)
    wanted->chunks[FORMAT_FREE] = parse_ranges (value);
  else if (strcmp (key, "unreadable") == 0)
    wanted->chunks[FORMAT_UNREADABLE] = parse_ranges (value);
  else {
    errno = EINVAL;
    die (key);
  }
}

static void
take_word (struct catalog_layer *layer, const char *word)
{
  layer->pending |= strcmp (word, "pending") == 0;
  layer->creating |= strcmp (word, "creating") == 0;
  layer->ephemeral |= strcmp (word, "ephemeral") == 0;
  layer->deleted |= strcmp (word, "deleted") == 0;
}

/* The words from ARGV on that are of one layer.  Returns those after them. */
static char **
take_layer (char **argv, struct catalog_layer **last)
{
  static uint8_t nth;
  struct wanted wanted = { .layer = calloc (1, sizeof *wanted.layer) };

  nth++;
  *wanted.layer = (struct catalog_layer){
    .number = nth,
    .created = 1700000000,
    .size = 1 << 20,
    .chunk_size = 4096,
    .cow_timeout = 20,
    .durability = DURABILITY_WRITTEN,
    .level = DURABILITY_WRITTEN,
  };
  memset (wanted.layer->uuid, nth << 4 | nth, sizeof wanted.layer->uuid);
  for (; *argv != NULL && strcmp (*argv, "layer") != 0; argv++) {
    char *value = strchr (*argv, '=');
    if (value == NULL) {
      wanted.beyond |= strcmp (*argv, "beyond") == 0;
      take_word (wanted.layer, *argv);
      continue;
    }
    *value++ = '\0';
    take_key (&wanted, *argv, value);
  }
  write_layer (&wanted);
  *last = wanted.layer;
  return argv;
}

static void
take_files (struct catalog_files **list, const char *name)
{
  struct catalog_files *files = calloc (1, sizeof *files);
  const int fd = openat (directory, name, O_WRONLY | O_CREAT, 0600);

  if (fd == -1)
    die (name);
  close (fd);
  memset (files->uuid, 0xee, sizeof files->uuid);
  files->parts = 1;
  files->files = calloc (1, sizeof *files->files);
  files->files[0] = strdup (name);
  files->next = *list;
  *list = files;
}

static void
read_boot (void)
{
  FILE *f = fopen ("/proc/sys/kernel/random/boot_id", "re");

  if (f == NULL || fgets (catalog.boot, sizeof catalog.boot, f) == NULL)
    die ("boot_id");
  fclose (f);
}

static void
take_words (char **argv)
{
  struct catalog_layer **last = &catalog.layers;

  while (*argv != NULL) {
    char *word = *argv++;
    if (strcmp (word, "unclean") == 0)
      catalog.clean = false;
    else if (strncmp (word, "boot=", 5) == 0)
      snprintf (catalog.boot, sizeof catalog.boot, "%s", word + 5);
    else if (strncmp (word, "making=", 7) == 0)
      take_files (&catalog.making, word + 7);
    else if (strncmp (word, "removing=", 9) == 0)
      take_files (&catalog.removing, word + 9);
    else if (strcmp (word, "layer") == 0) {
      argv = take_layer (argv, last);
      last = &(*last)->next;
    }
  }
}

int
main (int argc, char **argv)
{
  char *why;

  if (argc < 2)
    return 2;
  if (mkdir (argv[1], 0700) == -1 && errno != EEXIST)
    die (argv[1]);
  directory = open (argv[1], O_RDONLY | O_DIRECTORY);
  if (directory == -1)
    die (argv[1]);
  catalog_init (&catalog);
  memset (catalog.store, 0xaa, sizeof catalog.store);
  catalog.clean = true;
  catalog.origin.path = strdup ("/dev/sdb");
  catalog.origin.identity = strdup ("");
  read_boot ();
  take_words (argv + 2);
  const int lock = openat (directory, "lock", O_WRONLY | O_CREAT, 0600);
  if (lock == -1 || write (lock, "4711\n", 5) != 5)
    die ("lock");
  close (lock);
  if (catalog_write (directory, &catalog, &why) == -1) {
    fprintf (stderr, "make-store: the catalogue %s\n", why);
    return EXIT_FAILURE;
  }
  catalog_free (&catalog);
  close (directory);
  return EXIT_SUCCESS;
}
