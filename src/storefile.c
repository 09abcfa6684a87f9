/* SPDX-License-Identifier: BSD-3-Clause */

#include "storefile.h"
#include "report.h"
#include "scoped.h"
#include "whole.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Bytes of the index read at a time: large enough for a disk. */
#define LOAD_STEP ((size_t)1 << 20)

/* In one piece: backfile_free frees it. */
struct storefile {
  uint8_t layer[16];
  uint64_t size, chunk_size;     /* bytes */
  uint64_t groups;               /* in a part, but for the last */
  struct format_layout layout[]; /* of each part */
};

/* What follows the first part's name in the name of another, at most. */
#define TAIL_SIZE 16

static const char *
part_tail (unsigned part, char tail[TAIL_SIZE])
{
  tail[0] = '\0';
  if (part > 0)
    snprintf (tail, TAIL_SIZE, ".%u", part);
  return tail;
}

/* Two arguments of a message, for "%s%s". */
#define PART_NAME(backfile, part)                                              \
  (backfile)->store, part_tail (part, (char[TAIL_SIZE]){ 0 })

int
storefile_plan (uint64_t size, uint64_t chunk_size, uint64_t part_size,
                unsigned *parts)
{
  const uint64_t span = format_span (chunk_size, size, part_size);

  if (span == 0) {
    report_error (
        "backfile-size=%" PRIu64 ": must be 0 (one file) or at "
        "least %" PRIu64 " in a store with chunksize=%" PRIu64,
        part_size,
        format_layout (chunk_size, BITMAP_GROUP * chunk_size).file_size,
        chunk_size);
    errno = EINVAL;
    return -1;
  }
  const uint64_t count = size == 0 ? 1 : (size - 1) / span + 1;
  if (count > BACKFILE_PARTS_MAX) {
    report_error ("backfile-size=%" PRIu64 " makes %" PRIu64
                  " files of an origin of %" PRIu64
                  " bytes; allowed are %d: give a larger one",
                  part_size, count, size, BACKFILE_PARTS_MAX);
    errno = EINVAL;
    return -1;
  }
  *parts = (unsigned)count;
  return 0;
}

/* The backing file that HEADER describes, with no files yet. */
static struct backfile *
new_backfile (const struct format_header *header, uint64_t part_size,
              const char *name)
{
  const uint64_t span
      = format_span (header->chunk_size, header->size, part_size);
  struct backfile *backfile = backfile_new (name, header->parts, span);
  struct storefile *storefile = calloc (
      1, sizeof *storefile + header->parts * sizeof storefile->layout[0]);

  if (backfile == NULL || storefile == NULL) {
    free (storefile);
    backfile_free (backfile);
    errno = ENOMEM;
    return NULL;
  }
  memcpy (storefile->layer, header->layer, sizeof storefile->layer);
  storefile->size = header->size;
  storefile->chunk_size = header->chunk_size;
  storefile->groups = span / header->chunk_size / BITMAP_GROUP;
  for (unsigned part = 0; part < header->parts; part++) {
    const uint64_t left = header->size - part * span;
    storefile->layout[part]
        = format_layout (header->chunk_size, left < span ? left : span);
    backfile->part[part].data = storefile->layout[part].data;
  }
  backfile->storefile = storefile;
  backfile->keep = FORMAT_HEADER; /* whose it is stays to be seen */
  return backfile;
}

struct backfile *
storefile_absent (const char *name)
{
  return backfile_new (name, 0, UINT64_MAX);
}

/* What the header of a part says. */
static struct format_header
part_header (const struct format_header *header,
             const struct backfile *backfile, unsigned part)
{
  struct format_header own = *header;

  own.part = part;
  own.parts = backfile->parts;
  own.first = part * backfile->span;
  own.length = header->size - own.first < backfile->span
                   ? header->size - own.first
                   : backfile->span;
  return own;
}

int
storefile_sync_name (const char *path)
{
  SCOPED_FREE char *copy = strdup (path);
  const int fd = copy == NULL ? -1
                              : open (dirname (copy),
                                      O_RDONLY | O_DIRECTORY | O_CLOEXEC);

  if (fd == -1)
    return -1;
  const int r = fsync (fd);
  const int err = errno;
  close (fd);
  errno = err;
  /* Some file systems have nothing to sync there. */
  return r == -1 && err != EINVAL ? -1 : 0;
}

/* Make one part.  0, or -1 after logging. */
static int
make_part (struct backfile *backfile, const struct format_header *header,
           const char *path)
{
  const uint64_t length = backfile->storefile->layout[header->part].file_size;
  uint8_t sector[FORMAT_SECTOR];

  const int fd
      = open (path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (fd == -1) {
    report_error ("cannot make the backing file %s: %m", path);
    return -1;
  }
  backfile->part[header->part].fd = fd;
  format_encode_header (header, sector);
  if (whole_pwrite (fd, sector, sizeof sector, 0) == -1) {
    report_error ("cannot write the new backing file %s: %m", path);
    return -1;
  }
  if (ftruncate (fd, (off_t)length) == -1) {
    if (errno == EFBIG)
      report_error ("backing file %s: %" PRIu64 " bytes are too many for this "
                    "file system; split it with backfile-size=",
                    path, length);
    else
      report_error ("backing file %s: ftruncate: %m", path);
    return -1;
  }
  if (fsync (fd) == -1) {
    report_error ("backing file %s: fsync: %m", path);
    return -1;
  }
  return 0;
}

struct backfile *
storefile_create (const struct format_header *header, uint64_t part_size,
                  char *const *paths)
{
  struct backfile *backfile = new_backfile (header, part_size, paths[0]);

  if (backfile == NULL) {
    report_error ("no memory for the backing file %s", paths[0]);
    return NULL;
  }
  for (unsigned part = 0; part < backfile->parts; part++) {
    const struct format_header own = part_header (header, backfile, part);
    if (make_part (backfile, &own, paths[part]) == -1)
      goto error;
  }
  if (storefile_sync_name (paths[0]) == -1) {
    report_error ("cannot have the name of %s on stable storage: %m", paths[0]);
    goto error;
  }
  return backfile;

error:;
  const int err = errno;
  backfile_free (backfile);
  errno = err;
  return NULL;
}

/* -1, with *WHY. */
__attribute__ ((format (printf, 3, 4))) static int
refuse (char **why, int err, const char *format, ...)
{
  va_list args;

  va_start (args, format);
  if (vasprintf (why, format, args) == -1)
    *why = NULL;
  va_end (args);
  errno = err;
  return -1;
}

static bool
is_same (const struct format_header *a, const struct format_header *b)
{
  return memcmp (a->store, b->store, sizeof a->store) == 0
         && memcmp (a->layer, b->layer, sizeof a->layer) == 0
         && a->part == b->part && a->parts == b->parts
         && a->chunk_size == b->chunk_size && a->size == b->size
         && a->first == b->first && a->length == b->length;
}

/* Open one part.  0, or -1 with errno and *WHY. */
static int
open_part (struct backfile *backfile, const struct format_header *header,
           const char *path, char **why)
{
  const uint64_t length = backfile->storefile->layout[header->part].file_size;
  SCOPED_FREE char *damage = NULL;
  struct format_header found;
  uint8_t sector[FORMAT_SECTOR];
  struct stat st;

  /* A pipe must not keep us waiting, nor a link lead us away. */
  const int fd = open (path, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (fd == -1)
    return refuse (why, errno, "its backing file %s cannot be opened: %s", path,
                   errno == ELOOP ? "it is a symbolic link" : strerror (errno));
  backfile->part[header->part].fd = fd;
  if (fstat (fd, &st) == -1 || !S_ISREG (st.st_mode))
    return refuse (why, EINVAL, "its backing file %s is not a regular file",
                   path);
  const ssize_t r = whole_pread (fd, sector, sizeof sector, 0);
  if (r == -1)
    return refuse (why, errno, "its backing file %s cannot be read: %s", path,
                   strerror (errno));
  if ((size_t)r < sizeof sector)
    return refuse (why, EINVAL, "its backing file %s is truncated to %jd bytes",
                   path, (intmax_t)st.st_size);
  if (format_decode_header (sector, &found, &damage) == -1)
    return refuse (why, EINVAL, "its backing file %s %s", path,
                   damage != NULL ? damage : "is damaged");
  if (!is_same (&found, header))
    return refuse (why, EINVAL,
                   "the file %s is the backing file of another snapshot "
                   "(number %u)%s",
                   path, found.number,
                   memcmp (found.store, header->store, sizeof found.store) != 0
                       ? " of another store"
                       : "");
  if ((uint64_t)st.st_size != length)
    return refuse (why, EINVAL,
                   "its backing file %s has %jd bytes instead of %" PRIu64,
                   path, (intmax_t)st.st_size, length);
  return 0;
}

struct backfile *
storefile_open (const struct format_header *header, uint64_t part_size,
                char *const *paths, char **why)
{
  unsigned parts;

  *why = NULL;
  report_begin ();
  const int r
      = storefile_plan (header->size, header->chunk_size, part_size, &parts);
  free (report_end ());
  if (r == -1 || parts != header->parts) {
    refuse (why, EINVAL, "its catalogue entry and its size do not agree");
    return NULL;
  }
  struct backfile *backfile = new_backfile (header, part_size, paths[0]);
  if (backfile == NULL)
    return NULL;
  for (unsigned part = 0; part < backfile->parts; part++) {
    const struct format_header own = part_header (header, backfile, part);
    if (open_part (backfile, &own, paths[part], why) == -1) {
      const int err = errno;
      backfile_free (backfile);
      errno = err;
      return NULL;
    }
  }
  return backfile;
}

/* The bits of a unit into a bitmap.  False: there are some for chunks that
 * the origin does not have.
 */
static bool
take_unit (const struct storefile *storefile, const struct format_unit *unit,
           const uint64_t *words, struct bitmap *bitmap)
{
  const uint64_t first
      = unit->part * storefile->groups + unit->number * FORMAT_UNIT_GROUPS;
  const uint64_t chunks
      = (storefile->size + storefile->chunk_size - 1) / storefile->chunk_size;

  for (unsigned i = 0; i < FORMAT_UNIT_GROUPS; i++) {
    const uint64_t start = (first + i) * BITMAP_GROUP;

    if (words[i] == 0)
      continue;
    if (unit->number * FORMAT_UNIT_GROUPS + i
            >= storefile->layout[unit->part].groups
        || start >= chunks
        || (chunks - start < BITMAP_GROUP && words[i] >> (chunks - start) != 0))
      return false;
    bitmap_set_group (bitmap, first + i, words[i]);
  }
  return true;
}

/* Units FIRST to FIRST + COUNT - 1 of a table, as read into DATA. */
static int
take_units (const struct backfile *backfile, struct format_unit unit,
            const uint8_t *data, uint64_t count, struct bitmap *bitmap,
            char **why)
{
  uint64_t words[FORMAT_UNIT_GROUPS];

  for (uint64_t i = 0; i < count; i++, unit.number++) {
    const int r = format_decode_unit (data + i * FORMAT_SECTOR, &unit, words);
    if (r == -1
        || (r == 1 && !take_unit (backfile->storefile, &unit, words, bitmap)))
      return refuse (why, EINVAL,
                     "the index of its backing file %s%s is damaged (table %d, "
                     "unit %" PRIu64 ")",
                     PART_NAME (backfile, unit.part), (int)unit.table,
                     unit.number);
  }
  return 0;
}

static int
load_part (const struct backfile *backfile, unsigned part,
           enum format_table table, struct bitmap *bitmap, uint8_t *buf,
           char **why)
{
  const struct format_layout *layout = &backfile->storefile->layout[part];
  const int fd = backfile->part[part].fd;
  const uint64_t start = format_unit_offset (layout, table, 0);
  struct format_unit unit = { .part = part, .table = table };

  memcpy (unit.layer, backfile->storefile->layer, sizeof unit.layer);
  while (unit.number < layout->units) {
    /* Nearly all of it may be a hole. */
    const uint64_t offset = start + unit.number * FORMAT_SECTOR;
    const off_t data = lseek (fd, (off_t)offset, SEEK_DATA);
    if (data == -1 && errno == ENXIO)
      break;
    if (data > (off_t)offset) {
      unit.number += ((uint64_t)data - offset) / FORMAT_SECTOR;
      if (unit.number >= layout->units)
        break;
    }
    uint64_t count = layout->units - unit.number;
    if (count > LOAD_STEP / FORMAT_SECTOR)
      count = LOAD_STEP / FORMAT_SECTOR;
    const ssize_t r = whole_pread (fd, buf, count * FORMAT_SECTOR,
                                   start + unit.number * FORMAT_SECTOR);
    if (r < FORMAT_SECTOR)
      return refuse (why, r == -1 ? errno : EIO,
                     "the index of its backing file %s%s cannot be read: %s",
                     PART_NAME (backfile, part),
                     r == -1 ? strerror (errno) : "it ends");
    count = (uint64_t)r / FORMAT_SECTOR;
    if (take_units (backfile, unit, buf, count, bitmap, why) == -1)
      return -1;
    unit.number += count;
  }
  return 0;
}

int
storefile_load (const struct backfile *backfile, enum format_table table,
                struct bitmap *bitmap, char **why)
{
  SCOPED_FREE uint8_t *buf = malloc (LOAD_STEP);

  *why = NULL;
  if (buf == NULL)
    return -1;
  for (unsigned part = 0; part < backfile->parts; part++)
    if (load_part (backfile, part, table, bitmap, buf, why) == -1)
      return -1;
  return 0;
}

struct index_place
storefile_place (const struct backfile *backfile, enum format_table table,
                 uint64_t group)
{
  const struct storefile *storefile = backfile->storefile;
  const unsigned part = (unsigned)(group / storefile->groups);
  const struct format_layout *layout = &storefile->layout[part];
  const uint64_t within = group % storefile->groups;
  const uint64_t number = within / FORMAT_UNIT_GROUPS;
  const uint64_t left = layout->groups - number * FORMAT_UNIT_GROUPS;
  struct index_place place = {
    .part = part,
    .fd = backfile->part[part].fd,
    .offset = format_unit_offset (layout, table, number),
    .unit = { .part = part, .table = table, .number = number },
    .first = group - within % FORMAT_UNIT_GROUPS,
    .groups = left < FORMAT_UNIT_GROUPS ? (unsigned)left : FORMAT_UNIT_GROUPS,
  };

  memcpy (place.unit.layer, storefile->layer, sizeof place.unit.layer);
  return place;
}

int
storefile_write_table (const struct backfile *backfile, enum format_table table,
                       const struct bitmap *bitmap)
{
  uint64_t group = bitmap_next_group (bitmap, 0);

  while (group != UINT64_MAX) {
    const struct index_place place = storefile_place (backfile, table, group);
    uint64_t words[FORMAT_UNIT_GROUPS] = { 0 };
    uint8_t sector[FORMAT_SECTOR];

    for (unsigned i = 0; i < place.groups; i++)
      words[i] = bitmap_group (bitmap, place.first + i);
    format_encode_unit (&place.unit, words, sector);
    if (whole_pwrite (place.fd, sector, sizeof sector, place.offset) == -1)
      return -1;
    group = bitmap_next_group (bitmap, place.first + place.groups);
  }
  return storefile_sync (backfile);
}

int
storefile_sync (const struct backfile *backfile)
{
  for (unsigned part = 0; part < backfile->parts; part++)
    if (fdatasync (backfile->part[part].fd) == -1)
      return -1;
  return 0;
}
