/* SPDX-License-Identifier: BSD-3-Clause */

#include "ext-io.h"
#include "scoped.h"

#include <et/com_err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What is read at a time of the blocks that were announced. */
#define AHEAD (UINT32_C (4) << 20)

static struct struct_io_manager manager;

/* What a channel is to us. */
struct way {
  struct reading *reading;
  uint64_t *blocks; /* that were announced */
  size_t count, room;
  size_t next;  /* of BLOCKS, to be asked for */
  size_t ready; /* those before are in DATA, or were */
  size_t first; /* of them, the one that DATA begins with */
  char *data;   /* AHEAD bytes, or NULL until needed */
};

/* --- blocks that are announced ----------------------------------------------
 */

static void
forget (struct way *way)
{
  way->count = way->next = way->ready = way->first = 0;
}

/* To announce a block is a favour: without memory it is not done. */
static void
announce (struct way *way, uint64_t block)
{
  if (way->next == way->count)
    forget (way);
  if (way->count == way->room) {
    const size_t room = way->room == 0 ? 1024 : 2 * way->room;
    uint64_t *more = reallocarray (way->blocks, room, sizeof *more);
    if (more == NULL)
      return;
    way->blocks = more;
    way->room = room;
  }
  way->blocks[way->count++] = block;
}

/* The next that were announced, into DATA. */
static int
read_ahead (struct way *way, uint64_t size)
{
  const size_t left = way->count - way->next;
  const size_t n = left < AHEAD / size ? left : AHEAD / size;
  SCOPED_FREE struct span *spans = calloc (n, sizeof *spans);

  if (way->data == NULL)
    way->data = malloc (AHEAD);
  if (way->data == NULL || spans == NULL)
    return -1;
  for (size_t i = 0; i < n; i++) {
    spans[i] = (struct span){ .buffer = way->data + i * size, .count = size };
    if (__builtin_mul_overflow (way->blocks[way->next + i], size,
                                &spans[i].offset))
      return -1;
  }
  if (source_read_spans (way->reading->source, spans, n) == -1)
    return -1;
  way->first = way->next;
  way->ready = way->next + n;
  return 0;
}

/* A block of SIZE bytes that was announced; NULL: it was not, or it cannot be
 * read with the others, and why is said when it is read alone.
 */
static const char *
take_announced (struct way *way, uint64_t block, uint64_t size)
{
  if (way->next == way->count || way->blocks[way->next] != block)
    return NULL;
  if (way->next == way->ready && read_ahead (way, size) == -1) {
    forget (way);
    return NULL;
  }
  return way->data + (way->next++ - way->first) * size;
}

/* --- what libext2fs calls ---------------------------------------------------
 */

static errcode_t
open_channel (const char *name, int flags, io_channel *opened)
{
  io_channel channel = calloc (1, sizeof *channel);
  struct way *way = calloc (1, sizeof *way);
  char *copy = strdup (name);
  void *reading;

  (void)flags;
  if (channel == NULL || way == NULL || copy == NULL
      || sscanf (name, "%p", &reading) != 1) {
    free (channel);
    free (way);
    free (copy);
    return EXT2_ET_NO_MEMORY;
  }
  channel->magic = EXT2_ET_MAGIC_IO_CHANNEL;
  channel->manager = &manager;
  channel->name = copy;
  channel->block_size = 1024;
  channel->refcount = 1;
  way->reading = reading;
  channel->private_data = way;
  *opened = channel;
  return 0;
}

static errcode_t
close_channel (io_channel channel)
{
  struct way *way = channel->private_data;

  if (--channel->refcount > 0)
    return 0;
  free (way->blocks);
  free (way->data);
  free (way);
  free (channel->name);
  free (channel);
  return 0;
}

static errcode_t
set_block_size (io_channel channel, int size)
{
  channel->block_size = size;
  forget (channel->private_data); /* they were of another size */
  return 0;
}

static errcode_t
announce_blocks (io_channel channel, unsigned long long block,
                 unsigned long long count)
{
  /* More are one read, which needs no help. */
  if (count == 1)
    announce (channel->private_data, block);
  return 0;
}

static errcode_t
get (io_channel channel, const char *what, uint64_t block, int count,
     void *data)
{
  struct way *way = channel->private_data;
  const uint64_t size = (uint64_t)channel->block_size;
  /* A negative count is one of bytes. */
  const uint64_t bytes
      = count < 0 ? (uint64_t) - (int64_t)count : (uint64_t)count * size;
  uint64_t offset;

  const char *announced = count == 1 ? take_announced (way, block, size) : NULL;
  if (announced != NULL) {
    memcpy (data, announced, size);
    return 0;
  }
  if (__builtin_mul_overflow (block, size, &offset))
    return EXT2_ET_SHORT_READ;
  return reading_get (way->reading, what, data, bytes, offset) == -1
             ? EXT2_ET_SHORT_READ
             : 0;
}

static errcode_t
read_blocks (io_channel channel, unsigned long long block, int count,
             void *data)
{
  return get (channel, "a block", block, count, data);
}

static errcode_t
read_blocks_32 (io_channel channel, unsigned long block, int count, void *data)
{
  return read_blocks (channel, block, count, data);
}

static errcode_t
write_blocks (io_channel channel, unsigned long block, int count,
              const void *data)
{
  (void)channel, (void)block, (void)count, (void)data;
  return EXT2_ET_RO_FILSYS;
}

static errcode_t
flush (io_channel channel)
{
  (void)channel;
  return 0;
}

static struct struct_io_manager manager = {
  .magic = EXT2_ET_MAGIC_IO_MANAGER,
  .name = "fssnap",
  .open = open_channel,
  .close = close_channel,
  .set_blksize = set_block_size,
  .read_blk = read_blocks_32,
  .read_blk64 = read_blocks,
  .write_blk = write_blocks,
  .flush = flush,
  .cache_readahead = announce_blocks,
};

void
ext_announce (ext2_filsys fs, uint64_t block)
{
  announce (fs->io->private_data, block);
}

int
ext_get (ext2_filsys fs, const char *what, void *buffer, uint64_t block)
{
  const struct way *way = fs->io->private_data;

  if (get (fs->io, what, block, 1, buffer) == 0)
    return 0;
  return refuse (way->reading, "%s is nowhere", what);
}

ext2_filsys
ext_open (struct reading *reading)
{
  /* An io_manager is told no more than a name: it is the reading's address. */
  char name[32];
  ext2_filsys fs;

  snprintf (name, sizeof name, "%p", (void *)reading);
  initialize_ext2_error_table ();
  const errcode_t error = ext2fs_open2 (
      name, NULL, EXT2_FLAG_64BITS | EXT2_FLAG_SKIP_MMP, 0, 0, &manager, &fs);
  if (error == 0)
    return fs;
  if (error == EXT2_ET_SB_CSUM_INVALID)
    refuse (reading, "the superblock's checksum is wrong");
  else
    refuse (reading, "libext2fs does not open it: %s", error_message (error));
  return NULL;
}
