/* SPDX-License-Identifier: BSD-3-Clause */
/* How btrfs lies on a disk, as far as the reader needs it.  All numbers are
 * little-endian and nothing is aligned: copy a structure out of a block, then
 * take its numbers with le64toh () and the like.
 */

#ifndef FSSNAP_BTRFS_FORMAT_H
#define FSSNAP_BTRFS_FORMAT_H

#include <stdint.h>

#define BTRFS_MAGIC "_BHRfS_M"
#define BTRFS_SUPER_OFFSET (UINT64_C (64) << 10)
#define BTRFS_SUPER_SIZE 4096
#define BTRFS_CHECKSUM_SIZE 32 /* a crc32c has but the first four bytes */
#define BTRFS_CHECKSUM_CRC32C 0
#define BTRFS_LEVELS 8
#define BTRFS_BLOCK_MAX (UINT32_C (64) << 10)

/* What is at these places is a superblock or is left alone, as if it were. */
#define BTRFS_RESERVED_FRONT (UINT64_C (1) << 20)
#define BTRFS_MIRROR_1 (UINT64_C (64) << 20)
#define BTRFS_MIRROR_2 (UINT64_C (256) << 30)
#define BTRFS_MIRROR_SIZE (UINT64_C (64) << 10)

/* Flags of the superblock: written, and written by a relocation.  All others
 * stand for an error, a seed, a dump or a conversion under way.
 */
#define BTRFS_SUPER_FLAGS_KNOWN UINT64_C (3)

#define BTRFS_INCOMPAT_MIXED_BACKREF (UINT64_C (1) << 0)
#define BTRFS_INCOMPAT_SKINNY_METADATA (UINT64_C (1) << 8)
#define BTRFS_INCOMPAT_METADATA_UUID (UINT64_C (1) << 10)
/* Also: default subvolume, mixed groups, lzo, zstd, big metadata, extended
 * iref, raid56, no holes, raid1c34; of the profiles the chunks tell.  Not:
 * zoned, extent tree v2, raid stripe tree, and what came later.
 */
#define BTRFS_INCOMPAT_KNOWN UINT64_C (0xfff)

#define BTRFS_COMPAT_RO_FREE_TREE (UINT64_C (1) << 0)
#define BTRFS_COMPAT_RO_FREE_TREE_VALID (UINT64_C (1) << 1)
#define BTRFS_COMPAT_RO_BLOCK_GROUP_TREE (UINT64_C (1) << 3)
/* Also: verity. */
#define BTRFS_COMPAT_RO_KNOWN UINT64_C (0xf)

/* Owners of trees, and what their roots are called in the root tree. */
#define BTRFS_ROOT_TREE 1
#define BTRFS_EXTENT_TREE 2
#define BTRFS_CHUNK_TREE 3
#define BTRFS_DEV_TREE 4
#define BTRFS_FREE_SPACE_TREE 10
#define BTRFS_BLOCK_GROUP_TREE 11

#define BTRFS_DEV_ITEMS 1          /* the object of the devices' items */
#define BTRFS_FIRST_CHUNK_TREE 256 /* the object of all chunks */

/* Kinds of items. */
#define BTRFS_ROOT_ITEM 132
#define BTRFS_EXTENT_ITEM 168
#define BTRFS_METADATA_ITEM 169
#define BTRFS_TREE_BLOCK_REF 176
#define BTRFS_EXTENT_DATA_REF 178
#define BTRFS_SHARED_BLOCK_REF 182
#define BTRFS_SHARED_DATA_REF 184
#define BTRFS_BLOCK_GROUP_ITEM 192
#define BTRFS_FREE_SPACE_INFO 198
#define BTRFS_FREE_SPACE_EXTENT 199
#define BTRFS_FREE_SPACE_BITMAP 200
#define BTRFS_DEV_EXTENT 204
#define BTRFS_DEV_ITEM 216
#define BTRFS_CHUNK_ITEM 228
#define BTRFS_DEV_STATS 249
#define BTRFS_DEV_REPLACE 250

/* Types of chunks and block groups. */
#define BTRFS_DATA UINT64_C (1)
#define BTRFS_SYSTEM UINT64_C (2)
#define BTRFS_METADATA UINT64_C (4)
#define BTRFS_DUP (UINT64_C (1) << 5)

/* Kinds of extents. */
#define BTRFS_EXTENT_IS_DATA UINT64_C (1)
#define BTRFS_EXTENT_IS_TREE_BLOCK UINT64_C (2)
#define BTRFS_EXTENT_FULL_BACKREF (UINT64_C (1) << 8)

struct btrfs_disk_key {
  uint64_t objectid;
  uint8_t type;
  uint64_t offset;
} __attribute__ ((packed));

struct btrfs_dev_item {
  uint64_t devid, total_bytes, bytes_used;
  uint32_t io_align, io_width, sector_size;
  uint64_t type, generation, start_offset;
  uint32_t dev_group;
  uint8_t seek_speed, bandwidth;
  uint8_t uuid[16], fsid[16];
} __attribute__ ((packed));

struct btrfs_super {
  uint8_t checksum[BTRFS_CHECKSUM_SIZE];
  uint8_t fsid[16];
  uint64_t bytenr, flags;
  char magic[8];
  uint64_t generation, root, chunk_root, log_root, log_root_transid;
  uint64_t total_bytes, bytes_used, root_dir_objectid, num_devices;
  uint32_t sectorsize, nodesize, leafsize, stripesize, sys_chunk_array_size;
  uint64_t chunk_root_generation, compat, compat_ro, incompat;
  uint16_t checksum_type;
  uint8_t root_level, chunk_root_level, log_root_level;
  struct btrfs_dev_item dev_item;
  char label[256];
  uint64_t cache_generation, uuid_tree_generation;
  uint8_t metadata_uuid[16];
  uint8_t reserved[224];
  uint8_t sys_chunk_array[2048];
  uint8_t backup_roots[4 * 168];
  uint8_t padding[565];
} __attribute__ ((packed));

_Static_assert(sizeof (struct btrfs_super) == BTRFS_SUPER_SIZE, "");

/* A tree block begins so; then come pointers, or items whose data lie at the
 * block's end, the first item's last.
 */
struct btrfs_header {
  uint8_t checksum[BTRFS_CHECKSUM_SIZE];
  uint8_t fsid[16];
  uint64_t bytenr, flags;
  uint8_t chunk_tree_uuid[16];
  uint64_t generation, owner;
  uint32_t nritems;
  uint8_t level;
} __attribute__ ((packed));

struct btrfs_pointer {
  struct btrfs_disk_key key;
  uint64_t bytenr, generation;
} __attribute__ ((packed));

struct btrfs_disk_item {
  struct btrfs_disk_key key;
  uint32_t offset, size; /* the offset counts from the header's end */
} __attribute__ ((packed));

struct btrfs_stripe {
  uint64_t devid, offset;
  uint8_t dev_uuid[16];
} __attribute__ ((packed));

/* As many stripes follow. */
struct btrfs_chunk_item {
  uint64_t length, owner, stripe_len, type;
  uint32_t io_align, io_width, sector_size;
  uint16_t num_stripes, sub_stripes;
} __attribute__ ((packed));

struct btrfs_dev_extent {
  uint64_t chunk_tree, chunk_objectid, chunk_offset, length;
  uint8_t chunk_tree_uuid[16];
} __attribute__ ((packed));

struct btrfs_dev_replace {
  uint64_t src_devid, cursor_left, cursor_right, mode, state;
} __attribute__ ((packed));

#define BTRFS_REPLACE_STARTED 1
#define BTRFS_REPLACE_SUSPENDED 4

/* More may follow. */
struct btrfs_root_item {
  uint8_t inode[160];
  uint64_t generation, root_dirid, bytenr, byte_limit, bytes_used;
  uint64_t last_snapshot, flags;
  uint32_t refs;
  struct btrfs_disk_key drop_progress;
  uint8_t drop_level, level;
} __attribute__ ((packed));

/* References follow. */
struct btrfs_extent_item {
  uint64_t refs, generation, flags;
} __attribute__ ((packed));

struct btrfs_block_group {
  uint64_t used, chunk_objectid, flags;
} __attribute__ ((packed));

struct btrfs_free_space_info {
  uint32_t extent_count, flags;
} __attribute__ ((packed));

#define BTRFS_FREE_SPACE_BITMAPS UINT32_C (1) /* or else extents */

#endif
