/* SPDX-License-Identifier: BSD-3-Clause */
/* What the parts of the reader of XFS know about one file system. */

#ifndef FSSNAP_XFS_H
#define FSSNAP_XFS_H

#include "reader.h"
#include "xfs-format.h"

#include <stdbool.h>
#include <stdint.h>

#define XFS_SECTOR_MAX 32768
#define XFS_BLOCK_MAX 65536

struct xfs {
  struct reading *reading;
  bool v5; /* there are checksums */
  uint64_t blocks;
  uint32_t block_size, sector_size; /* bytes */
  uint32_t ag_blocks, ag_count;
  uint32_t log_ag, log_start, log_blocks;
  uint8_t uuid[16]; /* in structures; the log has that of the superblock */
  bool frozen;      /* the log has the superblock, and nothing else */
  struct xfs_superblock super;
  uint8_t *super_sector;
};

/* One allocation group while it is read. */
struct xfs_group {
  struct xfs *xfs;
  uint32_t number;
  uint32_t blocks;
  const struct xfs_agf *agf;

  /* Blocks known to be used: of the btrees, of the free list, roots. */
  uint32_t *used;
  size_t used_count, used_room;
};

/* Records of a btree, in its order. */
struct xfs_records {
  struct xfs_record *records; /* in the machine's byte order */
  size_t count, room;
  uint64_t blocks; /* of the btree */
};

/* Whether the checksum of these COUNT bytes, at OFFSET in them, is right. */
bool xfs_is_summed (const void *data, size_t count, size_t offset);

/* Nothing has to be replayed, or nothing that matters: then ->frozen.  0, or
 * -1 after refuse ().
 */
int xfs_check_log (struct xfs *xfs);

/* Note that a block is used.  0, or -1 after refuse (). */
int xfs_use (struct xfs_group *group, uint32_t block);

/* Read the btree WHICH, of free space by block or by count; its blocks are
 * noted as used.  0, or -1 after refuse ().
 */
int xfs_read_btree (struct xfs_group *group, int which,
                    struct xfs_records *records);

#endif
