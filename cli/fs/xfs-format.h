/* SPDX-License-Identifier: BSD-3-Clause */
/* What XFS has on the disk, as far as the reader looks at it.  Numbers are
 * big-endian, but for checksums and what the log's buffer items say.
 */

#ifndef FSSNAP_XFS_FORMAT_H
#define FSSNAP_XFS_FORMAT_H

#include <stdint.h>

#define XFS_PACKED __attribute__ ((packed))

/* --- the superblock, sector 0 of each allocation group ---------------------
 */

#define XFS_SB_MAGIC 0x58465342
#define XFS_VERSION_MASK 0x000f
#define XFS_VERSION_DIRV2 0x2000
#define XFS_VERSION_MOREBITS 0x8000
/* All but shared ones (0x200). */
#define XFS_VERSION_KNOWN 0xfdf0

#define XFS_FEATURES2_LAZYSBCOUNT 0x02
#define XFS_FEATURES2_KNOWN 0x38a /* lazy, attr2, projid32, crc, ftype */
#define XFS_FEATURES2_CRC 0x100

#define XFS_RO_FINOBT 0x1
#define XFS_RO_RMAPBT 0x2
#define XFS_RO_REFLINK 0x4
#define XFS_RO_KNOWN 0xf /* and inobtcount */

#define XFS_INCOMPAT_META_UUID 0x04
#define XFS_INCOMPAT_NEEDSREPAIR 0x10
/* ftype, sparse inodes, meta_uuid, bigtime, nrext64, exchange-range, parent
 * pointers.  Not metadata directories, and not zones.
 */
#define XFS_INCOMPAT_KNOWN 0xef

struct xfs_superblock {
  uint32_t magic;
  uint32_t block_size;
  uint64_t blocks;
  uint64_t rt_blocks, rt_extents;
  uint8_t uuid[16];
  uint64_t log_start; /* 0: the log is elsewhere */
  uint64_t root_inode, rt_bitmap, rt_summary;
  uint32_t rt_extent_size;
  uint32_t ag_blocks;
  uint32_t ag_count;
  uint32_t rt_bitmap_blocks;
  uint32_t log_blocks;
  uint16_t version;
  uint16_t sector_size;
  uint16_t inode_size;
  uint16_t inodes_per_block;
  char name[12];
  uint8_t block_log, sector_log, inode_log, inodes_per_block_log, ag_block_log;
  uint8_t rt_extent_log;
  uint8_t in_progress;
  uint8_t inode_percent;
  uint64_t inodes, free_inodes;
  uint64_t free_blocks;
  uint64_t free_rt_extents;
  uint64_t user_quota, group_quota;
  uint16_t quota_flags;
  uint8_t flags, shared;
  uint32_t inode_alignment, unit, width;
  uint8_t directory_log, log_sector_log;
  uint16_t log_sector_size;
  uint32_t log_unit;
  uint32_t features2, bad_features2;
  /* Version 5 only. */
  uint32_t compat, ro_compat, incompat, log_incompat;
  uint32_t crc; /* little-endian */
  uint32_t sparse_alignment;
  uint64_t project_quota;
  uint64_t lsn;
  uint8_t meta_uuid[16];
} XFS_PACKED;

/* --- sectors 1 to 3 of each allocation group -------------------------------
 */

#define XFS_AGF_MAGIC 0x58414746
#define XFS_AGI_MAGIC 0x58414749
#define XFS_AGFL_MAGIC 0x5841464c
#define XFS_AG_VERSION 1

enum { XFS_BY_BLOCK, XFS_BY_COUNT, XFS_RMAP, XFS_ROOTS };

struct xfs_agf {
  uint32_t magic, version, number, length;
  uint32_t roots[XFS_ROOTS];
  uint32_t levels[XFS_ROOTS];
  uint32_t list_first, list_last, list_count;
  uint32_t free_blocks;
  uint32_t longest;
  uint32_t btree_blocks; /* without the roots; lazy counters only */
  uint8_t uuid[16];
  uint32_t rmap_blocks, refcount_blocks, refcount_root, refcount_level;
  uint64_t spare[14];
  uint64_t lsn;
  uint32_t crc;
} XFS_PACKED;

struct xfs_agi {
  uint32_t magic, version, number, length;
  uint32_t inodes, root, level, free_inodes;
  uint32_t newest, directory;
  uint32_t unlinked[64];
  uint8_t uuid[16];
  uint32_t crc, pad;
  uint64_t lsn;
  uint32_t free_root, free_level;
} XFS_PACKED;

/* Version 4 has none: the block numbers begin at once. */
struct xfs_agfl {
  uint32_t magic, number;
  uint8_t uuid[16];
  uint64_t lsn;
  uint32_t crc;
} XFS_PACKED;

/* --- a block of a btree of free space --------------------------------------
 */

#define XFS_LEVELS_MAX 9

struct xfs_btree {
  uint32_t magic;
  uint16_t level, count;
  uint32_t left, right;
  /* Version 5 only. */
  uint64_t sector; /* of 512 bytes, where this block is */
  uint64_t lsn;
  uint8_t uuid[16];
  uint32_t owner;
  uint32_t crc;
} XFS_PACKED;

#define XFS_BTREE_SHORT 16 /* bytes of it in version 4 */
#define XFS_NULL UINT32_C (0xffffffff)

struct xfs_record {
  uint32_t start, count;
} XFS_PACKED;

/* --- the log ---------------------------------------------------------------
 */

#define XLOG_MAGIC 0xfeedbabe
#define XLOG_BLOCK 512
#define XLOG_CYCLES 64 /* words that a header keeps */
#define XLOG_HEADER_COVERS (XLOG_CYCLES * XLOG_BLOCK)
#define XLOG_RECORD_MAX (UINT32_C (256) << 10)
#define XLOG_ICLOGS 8 /* records that are written at a time, at most */

struct xlog_record {
  uint32_t magic, cycle, version, length;
  uint64_t lsn, tail_lsn;
  uint32_t crc; /* little-endian */
  uint32_t previous;
  uint32_t operations;
  uint32_t cycles[XLOG_CYCLES];
  uint32_t format;
  uint8_t uuid[16];
  uint32_t size;
  uint32_t pad;
} XFS_PACKED;

#define XLOG_RECORD_32BIT 324 /* bytes of it, as 32-bit x86 has it */
#define XLOG_FORMAT_LITTLE 1

/* Further headers of records longer than 32 KiB. */
struct xlog_more {
  uint32_t cycle;
  uint32_t cycles[XLOG_CYCLES];
} XFS_PACKED;

struct xlog_operation {
  uint32_t transaction, length;
  uint8_t client, flags;
  uint16_t pad;
} XFS_PACKED;

#define XLOG_CLIENT_LOG 0xaa
#define XLOG_START 0x01
#define XLOG_COMMIT 0x02
#define XLOG_UNMOUNT 0x20

#define XLOG_TRANSACTION_MAGIC 0x5452414e
#define XLOG_TRANSACTION_SIZE 16

/* A buffer that is logged, in the byte order of the machine. */
struct xlog_buffer {
  uint16_t type, size;
  uint16_t flags, sectors;
  uint64_t sector;
  uint32_t map_size;
  uint32_t map; /* the first word: a bit for 128 bytes */
} XFS_PACKED;

#define XLOG_BUFFER 0x123c
#define XLOG_BUFFER_FLAGS 0x1f /* not the kind of buffer */
#define XLOG_CHUNK 128

#endif
