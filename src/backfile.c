/* SPDX-License-Identifier: BSD-3-Clause */
/* Layout: part K of the backing file holds the origin's bytes from K * SPAN
 * to (K + 1) * SPAN, behind a header.  Each file is stretched to its full
 * length when it is made, so that a file system that cannot have files of
 * that length says so at the start, and a short read later means that
 * something is wrong.
 *
 * The files made here end with their server; their header is a line for
 * people who find one after a crash.  Those of a store are made in
 * storefile.c.
 */

#include "backfile.h"
#include "bitmap.h"
#include "extents.h"
#include "report.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The least header: a block of the usual file systems and disks, so that
 * the data stay aligned to it.
 */
#define HEADER_MIN 4096

static uint64_t
header_size (uint64_t chunk_size)
{
  return chunk_size > HEADER_MIN ? chunk_size : HEADER_MIN;
}

uint64_t
backfile_least_part (uint64_t chunk_size)
{
  return header_size (chunk_size) + BITMAP_GROUP * chunk_size;
}

/* The name of a part, for people and for the file system. */
static char *
part_name (const struct backfile *backfile, unsigned part)
{
  char *name;

  if (part == 0)
    return strdup (backfile->store);
  if (asprintf (&name, "%s.%u", backfile->store, part) == -1)
    return NULL;
  return name;
}

static int
open_unnamed (const char *directory)
{
  char *name;
  int fd = open (directory, O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);

  /* Not every file system has O_TMPFILE; an old kernel says EISDIR. */
  if (fd != -1 || (errno != EOPNOTSUPP && errno != EISDIR))
    return fd;
  if (asprintf (&name, "%s/fssnap-XXXXXX", directory) == -1)
    return -1;
  fd = mkostemp (name, O_CLOEXEC);
  if (fd != -1)
    unlink (name);
  free (name);
  return fd;
}

static int
open_named (const struct backfile *backfile, unsigned part)
{
  char *name = part_name (backfile, part);

  if (name == NULL)
    return -1;
  const int fd = open (name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd == -1 && errno == EEXIST)
    report_error ("backing-store=%s: %s exists already; give a directory or "
                  "a new file, or remove it if a server that was killed left "
                  "it behind",
                  backfile->store, name);
  free (name);
  return fd;
}

/* Make one part.  0, or -1 after logging. */
static int
make_part (struct backfile *backfile, unsigned part,
           const struct backfile_options *options)
{
  const uint64_t header_bytes = header_size (options->chunk_size);
  const uint64_t start = part * backfile->span;
  const uint64_t left = options->size - start;
  const uint64_t length
      = header_bytes + (left < backfile->span ? left : backfile->span);
  char header[512];

  const int fd = backfile->named ? open_named (backfile, part)
                                 : open_unnamed (backfile->store);
  if (fd == -1) {
    if (errno != EEXIST)
      report_error ("backing-store=%s: cannot make a file: %m",
                    backfile->store);
    return -1;
  }
  backfile->part[part] = (struct backfile_part){ fd, header_bytes };

  const int n = snprintf (header, sizeof header,
                          "fssnap backing file %u of %u: old chunks of %" PRIu64
                          " bytes of %.256s from byte %" PRIu64
                          " on; of no use once its server has ended\n",
                          part + 1, backfile->parts, options->chunk_size,
                          options->origin, start);
  const size_t used = (size_t)n < sizeof header ? (size_t)n : sizeof header - 1;
  errno = ENOSPC; /* of a short write */
  if (pwrite (fd, header, used, 0) != (ssize_t)used) {
    report_error ("backing-store=%s: cannot write to a new file: %m",
                  backfile->store);
    return -1;
  }
  if (ftruncate (fd, (off_t)length) == -1) {
    if (errno == EFBIG)
      report_error ("backing-store=%s: a file of %" PRIu64 " bytes is too "
                    "large for this file system; split it with backfile-size=",
                    backfile->store, length);
    else
      report_error ("backing-store=%s: ftruncate: %m", backfile->store);
    return -1;
  }
  return 0;
}

struct backfile *
backfile_new (const char *name, unsigned parts, uint64_t span)
{
  struct backfile *backfile
      = calloc (1, sizeof *backfile + parts * sizeof backfile->part[0]);

  if (backfile == NULL || (backfile->store = strdup (name)) == NULL) {
    free (backfile);
    return NULL;
  }
  backfile->span = span;
  backfile->parts = parts;
  for (unsigned part = 0; part < parts; part++)
    backfile->part[part].fd = -1;
  return backfile;
}

struct backfile *
backfile_create (const struct backfile_options *options)
{
  const uint64_t header = header_size (options->chunk_size);
  const uint64_t group = BITMAP_GROUP * options->chunk_size;
  uint64_t span = UINT64_MAX, parts = 1;
  struct stat st;

  if (options->part_size > 0) {
    span = (options->part_size - header) / group * group;
    parts = options->size / span + (options->size % span != 0);
    if (parts == 0)
      parts = 1;
  }
  if (parts > BACKFILE_PARTS_MAX) {
    report_error (
        "backfile-size=%" PRIu64 " makes %" PRIu64
        " files of an origin of %" PRIu64
        " bytes; allowed are %u: at least %" PRIu64,
        options->part_size, parts, options->size, BACKFILE_PARTS_MAX,
        header + (options->size / BACKFILE_PARTS_MAX / group + 1) * group);
    errno = EINVAL;
    return NULL;
  }

  struct backfile *backfile
      = backfile_new (options->store, (unsigned)parts, span);
  if (backfile == NULL) {
    report_error ("backing-store=%s: %m", options->store);
    return NULL;
  }
  backfile->named = !(stat (options->store, &st) == 0 && S_ISDIR (st.st_mode));
  for (unsigned part = 0; part < parts; part++)
    if (make_part (backfile, part, options) == -1) {
      backfile_free (backfile);
      return NULL;
    }
  return backfile;
}

/* Remove the names of the files that were made. */
static void
remove_names (struct backfile *backfile)
{
  if (!backfile->named)
    return;
  backfile->named = false;
  for (unsigned part = 0; part < backfile->parts; part++) {
    if (backfile->part[part].fd == -1)
      continue;
    char *name = part_name (backfile, part);
    if (name == NULL || unlink (name) == -1)
      report_error ("cannot remove the backing file %s: %m",
                    name != NULL ? name : backfile->store);
    free (name);
  }
}

void
backfile_free (struct backfile *backfile)
{
  if (backfile == NULL)
    return;
  remove_names (backfile);
  for (unsigned part = 0; part < backfile->parts; part++)
    if (backfile->part[part].fd != -1)
      close (backfile->part[part].fd);
  free (backfile->storefile); /* in one piece */
  free (backfile->store);
  free (backfile);
}

const char *
backfile_name (const struct backfile *backfile)
{
  return backfile->store;
}

void
backfile_locate (const struct backfile *backfile, uint64_t offset, int *fd,
                 uint64_t *file_offset)
{
  const struct backfile_part *part = &backfile->part[offset / backfile->span];

  *fd = part->fd;
  *file_offset = part->data + offset % backfile->span;
}

int
backfile_read (const struct backfile *backfile, void *buf, uint64_t count,
               uint64_t offset)
{
  uint8_t *p = buf;

  while (count > 0) {
    const uint64_t left = backfile->span - offset % backfile->span;
    uint64_t file_offset;
    int fd;

    backfile_locate (backfile, offset, &fd, &file_offset);
    const ssize_t r
        = pread (fd, p, count < left ? count : left, (off_t)file_offset);
    if (r == -1 && errno == EINTR)
      continue;
    if (r == 0)
      errno = EIO;
    if (r <= 0)
      return -1;
    p += r;
    offset += (uint64_t)r;
    count -= (uint64_t)r;
  }
  return 0;
}

int
backfile_extent (const struct backfile *backfile, uint64_t count,
                 uint64_t offset, uint64_t *length, bool *hole)
{
  const uint64_t left = backfile->span - offset % backfile->span;
  uint64_t file_offset;
  int fd;

  backfile_locate (backfile, offset, &fd, &file_offset);
  return file_extent (fd, file_offset, count < left ? count : left, length,
                      hole);
}

void
backfile_discard (struct backfile *backfile)
{
  remove_names (backfile);
  for (unsigned part = 0; part < backfile->parts; part++)
    if (ftruncate (backfile->part[part].fd, backfile->keep) == -1)
      report_error ("cannot give the space of the backing file %s back: %m",
                    backfile->store);
}

int
backfile_punch (const struct backfile *backfile, uint64_t offset,
                uint64_t count)
{
  while (count > 0) {
    const uint64_t left = backfile->span - offset % backfile->span;
    const uint64_t length = count < left ? count : left;
    uint64_t file_offset;
    int fd;

    backfile_locate (backfile, offset, &fd, &file_offset);
    if (fallocate (fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                   (off_t)file_offset, (off_t)length)
        == -1)
      return -1;
    offset += length;
    count -= length;
  }
  return 0;
}

uint64_t
backfile_allocated (const struct backfile *backfile)
{
  uint64_t bytes = 0;
  struct statx st;

  /* A store that hangs is not asked: what the kernel knows of it will do. */
  for (unsigned part = 0; part < backfile->parts; part++)
    if (statx (backfile->part[part].fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC,
               STATX_BLOCKS, &st)
        == 0)
      bytes += st.stx_blocks * 512;
  return bytes;
}
