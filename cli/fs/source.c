/* SPDX-License-Identifier: BSD-3-Clause */

#include "source.h"
#include "scoped.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int
source_read (struct source *source, void *buffer, size_t count, uint64_t offset)
{
  if (offset > source->size || count > source->size - offset) {
    errno = ERANGE;
    return -1;
  }
  return count == 0 ? 0 : source->read (source, buffer, count, offset);
}

/* Also where SOURCE can do no better. */
static int
read_spans (struct source *source, const struct span *spans, size_t count,
            uint64_t base)
{
  if (source->read_spans != NULL)
    return source->read_spans (source, spans, count, base);
  for (size_t i = 0; i < count; i++)
    if (source_read (source, spans[i].buffer, spans[i].count,
                     base + spans[i].offset)
        == -1)
      return -1;
  return 0;
}

int
source_read_spans (struct source *source, const struct span *spans,
                   size_t count)
{
  for (size_t i = 0; i < count; i++)
    if (spans[i].offset > source->size
        || spans[i].count > source->size - spans[i].offset) {
      errno = ERANGE;
      return -1;
    }
  return read_spans (source, spans, count, 0);
}

void
source_close (struct source *source)
{
  if (source != NULL)
    source->close (source);
}

/* --- a file ----------------------------------------------------------------
 */

struct file {
  struct source source;
  int fd;
};

static int
read_file (struct source *source, void *buffer, size_t count, uint64_t offset)
{
  const struct file *file = (const struct file *)source;
  char *next = buffer;

  while (count > 0) {
    const ssize_t r = pread (file->fd, next, count, (off_t)offset);
    if (r == -1 && errno == EINTR)
      continue;
    if (r <= 0) {
      errno = r == 0 ? EIO : errno; /* it has become shorter */
      return -1;
    }
    next += r;
    offset += (uint64_t)r;
    count -= (size_t)r;
  }
  return 0;
}

/* A disk does many at once, if it is told of them. */
static int
read_file_spans (struct source *source, const struct span *spans, size_t count,
                 uint64_t base)
{
  const struct file *file = (const struct file *)source;

  for (size_t i = 0; i < count; i++)
    posix_fadvise (file->fd, (off_t)(base + spans[i].offset),
                   (off_t)spans[i].count, POSIX_FADV_WILLNEED);
  for (size_t i = 0; i < count; i++)
    if (read_file (source, spans[i].buffer, spans[i].count,
                   base + spans[i].offset)
        == -1)
      return -1;
  return 0;
}

static void
close_file (struct source *source)
{
  close (((struct file *)source)->fd);
  free (source);
}

struct source *
source_of_file (const char *path)
{
  struct file *file = malloc (sizeof *file);

  if (file == NULL)
    return NULL;
  file->source = (struct source){ .read = read_file,
                                  .read_spans = read_file_spans,
                                  .close = close_file };
  file->fd = open (path, O_RDONLY | O_CLOEXEC);
  const off_t size = file->fd != -1 ? lseek (file->fd, 0, SEEK_END) : -1;
  if (size == -1) {
    const int error = errno;
    if (file->fd != -1)
      close (file->fd);
    free (file);
    errno = error;
    return NULL;
  }
  file->source.size = (uint64_t)size;
  return &file->source;
}

/* --- pieces, kept ----------------------------------------------------------
 */

/* Allocation maps lie together in runs of this order, and what is scattered
 * is read but a few times more than it has to be.
 */
#define PIECE (UINT64_C (64) << 10)
#define PIECES 32

struct piece {
  uint64_t offset;
  uint64_t used; /* when it was last asked for; 0: there is none */
  char *data;    /* PIECE bytes, or less at the end */
};

struct cache {
  struct source source;
  struct source *whole;
  struct piece pieces[PIECES];
  uint64_t now;
  char *memory;
};

/* The piece at OFFSET, a multiple of PIECE; NULL with errno. */
static const struct piece *
find_piece (struct cache *cache, uint64_t offset)
{
  struct piece *oldest = &cache->pieces[0];
  const uint64_t rest = cache->source.size - offset;

  for (struct piece *p = cache->pieces; p < cache->pieces + PIECES; p++) {
    if (p->used != 0 && p->offset == offset) {
      p->used = ++cache->now;
      return p;
    }
    if (p->used < oldest->used)
      oldest = p;
  }
  oldest->used = 0;
  if (source_read (cache->whole, oldest->data, rest < PIECE ? rest : PIECE,
                   offset)
      == -1)
    return NULL;
  oldest->offset = offset;
  oldest->used = ++cache->now;
  return oldest;
}

static int
read_cached (struct source *source, void *buffer, size_t count, uint64_t offset)
{
  struct cache *cache = (struct cache *)source;
  char *next = buffer;

  if (count > PIECE)
    return source_read (cache->whole, buffer, count, offset);
  while (count > 0) {
    const uint64_t within = offset % PIECE;
    const size_t n = count < PIECE - within ? count : PIECE - within;
    const struct piece *piece = find_piece (cache, offset - within);
    if (piece == NULL)
      return -1;
    memcpy (next, piece->data + within, n);
    next += n;
    offset += n;
    count -= n;
  }
  return 0;
}

/* Nothing of it is kept: whoever knows that many places is done with each. */
static int
read_cached_spans (struct source *source, const struct span *spans,
                   size_t count, uint64_t base)
{
  const struct cache *cache = (const struct cache *)source;

  return read_spans (cache->whole, spans, count, base);
}

static void
close_cached (struct source *source)
{
  struct cache *cache = (struct cache *)source;

  source_close (cache->whole);
  free (cache->memory);
  free (cache);
}

struct source *
source_cached (struct source *whole)
{
  struct cache *cache = calloc (1, sizeof *cache);
  char *memory = malloc (PIECES * PIECE);

  if (cache == NULL || memory == NULL) {
    free (cache);
    free (memory);
    source_close (whole);
    errno = ENOMEM;
    return NULL;
  }
  cache->source = (struct source){ .size = whole->size,
                                   .read = read_cached,
                                   .read_spans = read_cached_spans,
                                   .close = close_cached };
  cache->whole = whole;
  cache->memory = memory;
  for (size_t i = 0; i < PIECES; i++)
    cache->pieces[i].data = memory + i * PIECE;
  return &cache->source;
}

/* --- a part ----------------------------------------------------------------
 */

struct part {
  struct source source;
  struct source *whole;
  uint64_t offset;
};

static int
read_part (struct source *source, void *buffer, size_t count, uint64_t offset)
{
  const struct part *part = (const struct part *)source;

  return source_read (part->whole, buffer, count, part->offset + offset);
}

static int
read_part_spans (struct source *source, const struct span *spans, size_t count,
                 uint64_t base)
{
  const struct part *part = (const struct part *)source;

  return read_spans (part->whole, spans, count, part->offset + base);
}

static void
close_part (struct source *source)
{
  free (source);
}

struct source *
source_part (struct source *whole, uint64_t offset, uint64_t size)
{
  struct part *part = malloc (sizeof *part);

  if (part == NULL)
    return NULL;
  part->source = (struct source){ .size = size,
                                  .read = read_part,
                                  .read_spans = read_part_spans,
                                  .close = close_part };
  part->whole = whole;
  part->offset = offset;
  return &part->source;
}
