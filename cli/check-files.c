/* SPDX-License-Identifier: BSD-3-Clause */
/* fssnap check: the files of one layer.
 *
 * All headers and all of the index are read, holes in it aside, and none of
 * the data, which have no checksums.
 */

#include "check.h"
#include "format.h"
#include "output.h"
#include "scoped.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Units of each table that are read at a time: large enough for a disk. */
#define WINDOW 2048

/* How often the same was found, and where first. */
struct trouble {
  uint64_t count;
  uint64_t unit; /* the first */
};

/* One file that is being looked at. */
struct part {
  struct check *check;
  const struct catalog_layer *layer;
  const char *name;
  unsigned index;
  int fd;
  struct format_header expected;
  struct format_layout layout;
  uint8_t *window[FORMAT_TABLES]; /* units from a common one on */
  struct trouble damaged[FORMAT_TABLES], beyond[FORMAT_TABLES];
  struct figures *figures;
};

static const char *const tables[FORMAT_TABLES]
    = { "copied", "free", "unreadable" };

#define found(part, ...)                                                       \
  ((part)->figures->whole = false,                                             \
   check_found ((part)->check, PROBLEM, (part)->layer->number, (part)->name,   \
                __VA_ARGS__))

/* What the header of a part should say.  False: the layer has another number
 * of parts than its sizes make.
 */
static bool
expect (const struct check *check, const struct catalog_layer *layer,
        unsigned index, struct format_header *header)
{
  const uint64_t span
      = format_span (layer->chunk_size, layer->size, layer->backfile_size);
  const uint64_t parts = span == 0          ? 0
                         : layer->size == 0 ? 1
                                            : (layer->size - 1) / span + 1;

  *header = (struct format_header){
    .part = index,
    .parts = layer->parts,
    .chunk_size = layer->chunk_size,
    .size = layer->size,
    .first = index * span,
  };
  memcpy (header->store, check->store.catalog.store, sizeof header->store);
  memcpy (header->layer, layer->uuid, sizeof header->layer);
  if (parts != layer->parts)
    return false;
  header->length
      = layer->size - header->first < span ? layer->size - header->first : span;
  return true;
}

/* How a header differs from what is expected, or NULL. */
static char *
compare (const struct format_header *is, const struct format_header *expected)
{
  if (memcmp (is->store, expected->store, sizeof is->store) != 0)
    return text ("belongs to another store (snapshot %u there)", is->number);
  if (memcmp (is->layer, expected->layer, sizeof is->layer) != 0)
    return text ("belongs to another snapshot (number %u)", is->number);
  if (is->part != expected->part || is->parts != expected->parts)
    return text ("is part %u of %u, not part %u of %u", is->part + 1, is->parts,
                 expected->part + 1, expected->parts);
  if (is->chunk_size != expected->chunk_size)
    return text ("has chunks of %" PRIu64 " bytes, not %" PRIu64,
                 is->chunk_size, expected->chunk_size);
  if (is->size != expected->size)
    return text ("is of an origin of %" PRIu64 " bytes, not %" PRIu64, is->size,
                 expected->size);
  if (is->first != expected->first || is->length != expected->length)
    return text ("has the bytes from %" PRIu64 " to %" PRIu64
                 ", not from %" PRIu64 " to %" PRIu64,
                 is->first, is->first + is->length, expected->first,
                 expected->first + expected->length);
  return NULL;
}

/* COUNT bytes at OFFSET.  How many there were, or -1 with errno. */
static ssize_t
read_at (int fd, uint8_t *buf, size_t count, uint64_t offset)
{
  size_t done = 0;

  while (done < count) {
    const ssize_t r
        = pread (fd, buf + done, count - done, (off_t)(offset + done));
    if (r == -1 && errno == EINTR)
      continue;
    if (r == -1)
      return -1;
    if (r == 0)
      break;
    done += (size_t)r;
  }
  return (ssize_t)done;
}

/* The first unit from UNIT on that is no hole in some table. */
static uint64_t
skip_holes (const struct part *part, uint64_t unit)
{
  uint64_t next = part->layout.units;

  for (unsigned table = 0; table < FORMAT_TABLES; table++) {
    const uint64_t offset
        = format_unit_offset (&part->layout, (enum format_table)table, unit);
    const off_t data = lseek (part->fd, (off_t)offset, SEEK_DATA);
    uint64_t first = unit;
    if (data == -1 && errno == ENXIO)
      continue;
    if (data > (off_t)offset)
      first = unit + ((uint64_t)data - offset) / FORMAT_SECTOR;
    if (first < next)
      next = first;
  }
  return next;
}

/* Read COUNT units of each table.  False after a finding. */
static bool
read_window (const struct part *part, uint64_t unit, uint64_t count)
{
  for (unsigned table = 0; table < FORMAT_TABLES; table++) {
    const uint64_t offset
        = format_unit_offset (&part->layout, (enum format_table)table, unit);
    const size_t bytes = count * FORMAT_SECTOR;
    const ssize_t r = read_at (part->fd, part->window[table], bytes, offset);
    if (r == -1)
      found (part, "cannot be read at byte %" PRIu64 ": %s", offset,
             strerror (errno));
    else if ((size_t)r < bytes)
      found (part, "ends within its index");
    if (r != (ssize_t)bytes)
      return false;
  }
  return true;
}

static void
count_trouble (struct trouble *trouble, uint64_t unit)
{
  if (trouble->count++ == 0)
    trouble->unit = unit;
}

/* The bits that a group of the part may have. */
static uint64_t
mask_of (const struct part *part, uint64_t group)
{
  const uint64_t chunk_size = part->expected.chunk_size;
  const uint64_t chunks = part->expected.length / chunk_size
                          + (part->expected.length % chunk_size != 0);
  const uint64_t first = group * 64;

  if (first >= chunks)
    return 0;
  return chunks - first >= 64 ? UINT64_MAX
                              : (UINT64_C (1) << (chunks - first)) - 1;
}

/* One unit of one table, the Ith in its window. */
static void
take_unit (struct part *part, unsigned table, uint64_t unit, uint64_t i,
           uint64_t words[FORMAT_UNIT_GROUPS])
{
  struct format_unit what = { .part = part->index,
                              .table = (enum format_table)table,
                              .number = unit };
  bool beyond = false;

  memcpy (what.layer, part->expected.layer, sizeof what.layer);
  const int r = format_decode_unit (part->window[table] + i * FORMAT_SECTOR,
                                    &what, words);
  if (r == -1)
    count_trouble (&part->damaged[table], unit);
  if (r != 1) {
    memset (words, 0, FORMAT_UNIT_GROUPS * sizeof words[0]);
    return;
  }
  for (unsigned group = 0; group < FORMAT_UNIT_GROUPS; group++) {
    const uint64_t mask = mask_of (part, unit * FORMAT_UNIT_GROUPS + group);
    beyond |= (words[group] & ~mask) != 0;
    words[group] &= mask;
  }
  if (beyond)
    count_trouble (&part->beyond[table], unit);
}

static void
take_window (struct part *part, uint64_t unit, uint64_t count)
{
  uint64_t words[FORMAT_TABLES][FORMAT_UNIT_GROUPS];
  struct figures *figures = part->figures;

  for (uint64_t i = 0; i < count; i++) {
    for (unsigned table = 0; table < FORMAT_TABLES; table++)
      take_unit (part, table, unit + i, i, words[table]);
    for (unsigned group = 0; group < FORMAT_UNIT_GROUPS; group++) {
      const uint64_t lost = words[FORMAT_UNREADABLE][group];
      const uint64_t copied = words[FORMAT_COPIED][group] | lost;
      figures->copied += (uint64_t)__builtin_popcountll (copied);
      figures->free
          += (uint64_t)__builtin_popcountll (words[FORMAT_FREE][group]);
      figures->lost += (uint64_t)__builtin_popcountll (lost);
    }
  }
}

/* Many may be wrong; who reads it wants to know that, and where to look. */
static void
tell_trouble (const struct part *part, const struct trouble *trouble,
              unsigned table, const char *what)
{
  if (trouble->count == 0)
    return;
  found (part,
         "the index of %s chunks %s: %" PRIu64 " of %" PRIu64
         " units, the first is unit %" PRIu64 " at byte %" PRIu64,
         tables[table], what, trouble->count, part->layout.units, trouble->unit,
         format_unit_offset (&part->layout, (enum format_table)table,
                             trouble->unit));
}

static void
check_index (struct part *part)
{
  /* No SCOPED_FREE, which the analyzer does not see here. */
  uint8_t *windows = malloc ((size_t)FORMAT_TABLES * WINDOW * FORMAT_SECTOR);

  if (windows == NULL)
    no_memory ();
  for (unsigned table = 0; table < FORMAT_TABLES; table++)
    part->window[table] = windows + (size_t)table * WINDOW * FORMAT_SECTOR;
  for (uint64_t unit = 0; unit < part->layout.units;) {
    unit = skip_holes (part, unit);
    const uint64_t left = part->layout.units - unit;
    const uint64_t count = left < WINDOW ? left : WINDOW;
    if (count == 0 || !read_window (part, unit, count))
      break;
    take_window (part, unit, count);
    unit += count;
  }
  free (windows);
  for (unsigned table = 0; table < FORMAT_TABLES; table++) {
    tell_trouble (part, &part->damaged[table], table, "is damaged");
    tell_trouble (part, &part->beyond[table], table,
                  "has chunks behind the end");
  }
}

/* The header.  False after a finding. */
static bool
check_header (const struct part *part)
{
  SCOPED_FREE char *why = NULL;
  uint8_t sector[FORMAT_SECTOR];
  struct format_header header;

  const ssize_t r = read_at (part->fd, sector, sizeof sector, 0);
  if (r == -1) {
    found (part, "cannot be read: %s", strerror (errno));
    return false;
  }
  if (r < (ssize_t)sizeof sector) {
    found (part, "has %zd bytes, too few for a header", r);
    return false;
  }
  if (format_decode_header (sector, &header, &why) == 0)
    why = compare (&header, &part->expected);
  else if (why == NULL)
    no_memory ();
  if (why == NULL)
    return true;
  found (part, "%s", why);
  return false;
}

/* The same file may have two names. */
static bool
check_seen (const struct part *part, const struct stat *st)
{
  for (struct seen *seen = part->check->seen; seen != NULL; seen = seen->next)
    if (seen->device == st->st_dev && seen->inode == st->st_ino) {
      found (part, "is the same file as %s", seen->name);
      return false;
    }
  struct seen *seen = malloc (sizeof *seen);
  if (seen == NULL)
    no_memory ();
  *seen = (struct seen){ .next = part->check->seen,
                         .device = st->st_dev,
                         .inode = st->st_ino,
                         .name = part->name };
  part->check->seen = seen;
  return true;
}

static void
check_open_part (struct part *part)
{
  struct stat st;

  if (fstat (part->fd, &st) == -1) {
    found (part, "fstat: %s", strerror (errno));
    return;
  }
  if (!S_ISREG (st.st_mode)) {
    found (part, "is no regular file");
    return;
  }
  if (!check_seen (part, &st) || !check_header (part))
    return;
  if ((uint64_t)st.st_size != part->layout.file_size)
    found (part, "has %jd bytes instead of %" PRIu64 "%s", (intmax_t)st.st_size,
           part->layout.file_size,
           (uint64_t)st.st_size < part->layout.file_size ? ": it is cut off"
                                                         : "");
  if ((uint64_t)st.st_size >= part->layout.data)
    check_index (part);
}

/* Bytes on disk, whatever the file is. */
static uint64_t
allocated (const struct check *check, const char *name)
{
  struct stat st;

  return fstatat (check->store.directory, name, &st, AT_SYMLINK_NOFOLLOW) == -1
             ? 0
             : (uint64_t)st.st_blocks * 512;
}

struct figures
check_space (const struct check *check, const struct catalog_layer *layer)
{
  struct figures figures = { .whole = true };

  figures.file_bytes = calloc (layer->parts, sizeof *figures.file_bytes);
  if (figures.file_bytes == NULL)
    no_memory ();
  for (unsigned i = 0; i < layer->parts; i++) {
    figures.file_bytes[i] = allocated (check, layer->files[i]);
    figures.bytes += figures.file_bytes[i];
  }
  return figures;
}

/* A sector that was lost looks like one that was never written.  There may be
 * more than was counted, of copies made since.
 */
static void
check_counts (struct check *check, const struct catalog_layer *layer,
              struct figures *figures)
{
  if (!figures->whole || layer->deleted
      || (figures->copied >= layer->chunks_copied
          && figures->free >= layer->chunks_free
          && figures->lost >= layer->chunks_unreadable))
    return;
  figures->whole = false;
  check_found (check, PROBLEM, layer->number, layer->files[0],
               "a part of the index is missing: %" PRIu64 " copied, %" PRIu64
               " free and %" PRIu64 " unreadable chunks; %" PRIu64 ", %" PRIu64
               " and %" PRIu64 " when the store was last closed",
               figures->copied, figures->free, figures->lost,
               layer->chunks_copied, layer->chunks_free,
               layer->chunks_unreadable);
}

void
check_files (struct check *check, const struct catalog_layer *layer,
             struct figures *figures)
{
  for (unsigned index = 0; index < layer->parts; index++) {
    struct part part = { .check = check,
                         .layer = layer,
                         .name = layer->files[index],
                         .index = index,
                         .figures = figures };

    if (!expect (check, layer, index, &part.expected)) {
      found (&part,
             "the catalogue has %u files for a snapshot of %" PRIu64
             " bytes with backfile-size=%" PRIu64,
             layer->parts, layer->size, layer->backfile_size);
      break;
    }
    part.layout = format_layout (layer->chunk_size, part.expected.length);
    /* A pipe must not keep us waiting, nor a link lead us away. */
    part.fd = openat (check->store.directory, part.name,
                      O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (part.fd == -1 && errno == ENOENT)
      found (&part, "is missing");
    else if (part.fd == -1)
      found (&part, "cannot be opened: %s",
             errno == ELOOP ? "it is a symbolic link" : strerror (errno));
    else {
      check_open_part (&part);
      close (part.fd);
    }
  }
  check_counts (check, layer, figures);
}

char *
check_stranger (const struct check *check, const char *name, bool *backing)
{
  SCOPED_FREE char *why = NULL;
  uint8_t sector[FORMAT_SECTOR];
  struct format_header header;
  struct stat st;

  const int fd = openat (check->store.directory, name,
                         O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  *backing = false;
  if (fd == -1)
    return text ("is no file of the store");
  const bool has_sector
      = fstat (fd, &st) == 0 && S_ISREG (st.st_mode)
        && read_at (fd, sector, sizeof sector, 0) == sizeof sector;
  close (fd);
  if (!has_sector || format_decode_header (sector, &header, &why) == -1)
    return text ("is no file of the store");
  *backing = true;
  const bool other = !uuid_is_null (check->store.catalog.store)
                     && memcmp (header.store, check->store.catalog.store,
                                sizeof header.store)
                            != 0;
  return text ("is part %u of %u of a backing file of snapshot %u%s",
               header.part + 1, header.parts, header.number,
               other ? " of another store" : "");
}
