/* SPDX-License-Identifier: BSD-3-Clause */

#include "ext-io.h"

#include <et/com_err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct struct_io_manager manager;

static errcode_t
open_channel (const char *name, int flags, io_channel *opened)
{
  io_channel channel = calloc (1, sizeof *channel);
  char *copy = strdup (name);
  void *reading;

  (void)flags;
  if (channel == NULL || copy == NULL || sscanf (name, "%p", &reading) != 1) {
    free (channel);
    free (copy);
    return EXT2_ET_NO_MEMORY;
  }
  channel->magic = EXT2_ET_MAGIC_IO_CHANNEL;
  channel->manager = &manager;
  channel->name = copy;
  channel->block_size = 1024;
  channel->refcount = 1;
  channel->private_data = reading;
  *opened = channel;
  return 0;
}

static errcode_t
close_channel (io_channel channel)
{
  if (--channel->refcount > 0)
    return 0;
  free (channel->name);
  free (channel);
  return 0;
}

static errcode_t
set_block_size (io_channel channel, int size)
{
  channel->block_size = size;
  return 0;
}

static errcode_t
read_blocks (io_channel channel, unsigned long long block, int count,
             void *data)
{
  const uint64_t size = (uint64_t)channel->block_size;
  /* A negative count is one of bytes. */
  const uint64_t bytes
      = count < 0 ? (uint64_t) - (int64_t)count : (uint64_t)count * size;
  uint64_t offset;

  if (__builtin_mul_overflow (block, size, &offset))
    return EXT2_ET_SHORT_READ;
  return reading_get (channel->private_data, "a block", data, bytes, offset)
                 == -1
             ? EXT2_ET_SHORT_READ
             : 0;
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
};

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
