/* SPDX-License-Identifier: BSD-3-Clause */
/* ext2, ext3, ext4.
 *
 * libext2fs opens the file system, that is, it reads the superblock (and checks
 * its checksum) and the group descriptors (whose checksums it leaves to us),
 * and knows where the copies of both are.  It does not read the block bitmaps:
 * ext2fs_read_block_bitmap () takes one of a group whose descriptor says
 * "not initialised" for granted, and wants all of them in memory.  Here
 * they are read group by group.
 *
 * A bitmap without a checksum is not evidence enough, so it must agree with
 * what else says the same:
 *
 *   - the count of free clusters in the group's descriptor, and the sum of all
 *     in the superblock (the kernel writes that one when it freezes and
 *     unmounts);
 *   - where the superblock's copies, descriptors, blocks reserved for more of
 *     these, bitmaps and inode tables are, that of any group: these are used;
 *     and no two of them overlap;
 *   - bits behind the last cluster, which are set.
 *
 * A bitmap that is not initialised is what these structures leave free.
 *
 * What the kernel has yet to do is no danger where it is only to free more:
 * the orphans (files that were deleted while open) are freed by the next mount,
 * and the bitmap still says that theirs is used.  But a journal with anything
 * in it must be replayed first, and without a journal only unmounting makes a
 * file system that can be believed.
 */

#include "ext-io.h"

#include <endian.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* The fewest that mke2fs makes.  With it the descriptors are at most 1/4096 of
 * the file system, and so is the memory that they take.
 */
#define BLOCKS_PER_GROUP_MIN 256

#define COMPAT_KNOWN                                                           \
  (EXT2_FEATURE_COMPAT_DIR_PREALLOC | EXT2_FEATURE_COMPAT_IMAGIC_INODES        \
   | EXT3_FEATURE_COMPAT_HAS_JOURNAL | EXT2_FEATURE_COMPAT_EXT_ATTR            \
   | EXT2_FEATURE_COMPAT_RESIZE_INODE | EXT2_FEATURE_COMPAT_DIR_INDEX          \
   | EXT4_FEATURE_COMPAT_SPARSE_SUPER2 | EXT4_FEATURE_COMPAT_FAST_COMMIT       \
   | EXT4_FEATURE_COMPAT_STABLE_INODES | 0x1000 /* orphan_file */)

#define RO_COMPAT_KNOWN                                                        \
  (EXT2_FEATURE_RO_COMPAT_SPARSE_SUPER | EXT2_FEATURE_RO_COMPAT_LARGE_FILE     \
   | EXT4_FEATURE_RO_COMPAT_HUGE_FILE | EXT4_FEATURE_RO_COMPAT_GDT_CSUM        \
   | EXT4_FEATURE_RO_COMPAT_DIR_NLINK | EXT4_FEATURE_RO_COMPAT_EXTRA_ISIZE     \
   | EXT4_FEATURE_RO_COMPAT_QUOTA | EXT4_FEATURE_RO_COMPAT_BIGALLOC            \
   | EXT4_FEATURE_RO_COMPAT_METADATA_CSUM | EXT4_FEATURE_RO_COMPAT_READONLY    \
   | EXT4_FEATURE_RO_COMPAT_PROJECT | EXT4_FEATURE_RO_COMPAT_VERITY            \
   | 0x10000 /* orphan_present */)

#define INCOMPAT_KNOWN                                                         \
  (EXT2_FEATURE_INCOMPAT_FILETYPE | EXT2_FEATURE_INCOMPAT_META_BG              \
   | EXT3_FEATURE_INCOMPAT_EXTENTS | EXT4_FEATURE_INCOMPAT_64BIT               \
   | EXT4_FEATURE_INCOMPAT_MMP | EXT4_FEATURE_INCOMPAT_FLEX_BG                 \
   | EXT4_FEATURE_INCOMPAT_EA_INODE | EXT4_FEATURE_INCOMPAT_CSUM_SEED          \
   | EXT4_FEATURE_INCOMPAT_LARGEDIR | EXT4_FEATURE_INCOMPAT_INLINE_DATA        \
   | EXT4_FEATURE_INCOMPAT_ENCRYPT | EXT4_FEATURE_INCOMPAT_CASEFOLD)

#define SNAPSHOT_FLAGS                                                         \
  (EXT2_FLAGS_IS_SNAPSHOT | EXT2_FLAGS_FIX_SNAPSHOT | EXT2_FLAGS_FIX_EXCLUDE)

struct ext {
  struct reading *reading;
  ext2_filsys fs;
  struct freemap metadata; /* in blocks, what is surely used; settled */
  size_t next;             /* of METADATA, not wholly before this group */
  uint64_t metadata_added; /* blocks, before neighbours were made one */
  uint64_t free;           /* clusters, in the groups before this one */
  uint8_t *bitmap;         /* of this group, one block */
};

/* --- the superblock --------------------------------------------------------
 */

static int
check_features (struct reading *reading, const struct ext2_super_block *super)
{
  const uint32_t compat = le32toh (super->s_feature_compat);
  const uint32_t ro_compat = le32toh (super->s_feature_ro_compat);
  const uint32_t incompat = le32toh (super->s_feature_incompat);

  if (incompat & EXT3_FEATURE_INCOMPAT_JOURNAL_DEV)
    return refuse (reading, "it is the journal of another file system");
  if (incompat & EXT3_FEATURE_INCOMPAT_RECOVER)
    return refuse (reading, "the journal needs recovery");
  if ((compat & ~(uint32_t)COMPAT_KNOWN) != 0)
    return refuse (reading, "unknown compatible features 0x%" PRIx32,
                   compat & ~(uint32_t)COMPAT_KNOWN);
  if ((incompat & ~(uint32_t)INCOMPAT_KNOWN) != 0)
    return refuse (reading, "unknown incompatible features 0x%" PRIx32,
                   incompat & ~(uint32_t)INCOMPAT_KNOWN);
  if ((ro_compat & ~(uint32_t)RO_COMPAT_KNOWN) != 0)
    return refuse (reading, "unknown read-only features 0x%" PRIx32,
                   ro_compat & ~(uint32_t)RO_COMPAT_KNOWN);
  if ((le32toh (super->s_flags) & SNAPSHOT_FLAGS) != 0)
    return refuse (reading, "it is a snapshot of ext3's own");
  return 0;
}

/* Before libext2fs takes memory for what it says. */
static int
check_superblock (struct reading *reading)
{
  struct ext2_super_block super;

  if (reading_get (reading, "the superblock", &super, sizeof super,
                   SUPERBLOCK_OFFSET)
      == -1)
    return -1;
  if (le16toh (super.s_magic) != EXT2_SUPER_MAGIC)
    return refuse (reading, "there is no superblock");
  if (check_features (reading, &super) == -1)
    return -1;
  const unsigned state = le16toh (super.s_state);
  if ((state & EXT2_ERROR_FS) != 0)
    return refuse (reading, "it is marked as damaged");
  if (state != EXT2_VALID_FS)
    return refuse (reading, "it is mounted without a journal, or was not "
                            "unmounted cleanly");
  if (le32toh (super.s_blocks_per_group) < BLOCKS_PER_GROUP_MIN
      || le32toh (super.s_log_block_size) > 6)
    return refuse (reading, "the superblock is damaged");
  uint64_t blocks = le32toh (super.s_blocks_count);
  if ((le32toh (super.s_feature_incompat) & EXT4_FEATURE_INCOMPAT_64BIT) != 0)
    blocks |= (uint64_t)le32toh (super.s_blocks_count_hi) << 32;
  const unsigned shift = 10 + le32toh (super.s_log_block_size);
  if (blocks > reading->source->size >> shift)
    return refuse (reading,
                   "it is larger than what it is on: %" PRIu64
                   " blocks of %u bytes",
                   blocks, 1U << shift);
  reading->size = blocks << shift;
  return 0;
}

/* What libext2fs does not check, or not in each version. */
static int
check_geometry (const struct ext *ext)
{
  ext2_filsys fs = ext->fs;
  struct ext2_super_block *super = fs->super;
  const uint32_t ratio = (uint32_t)EXT2FS_CLUSTER_RATIO (fs);
  const bool clusters = ext2fs_has_feature_bigalloc (super);
  const uint64_t first = fs->blocksize == 1024 && !clusters ? 1 : 0;

  if (ext2fs_blocks_count (super) * fs->blocksize != ext->reading->size
      || super->s_first_data_block != first
      || super->s_first_data_block >= ext2fs_blocks_count (super))
    return refuse (ext->reading, "the first or last block is wrong");
  if ((!clusters && ratio != 1) || super->s_clusters_per_group % 8 != 0
      || super->s_clusters_per_group > 8 * fs->blocksize
      || (uint64_t)super->s_clusters_per_group * ratio
             != super->s_blocks_per_group)
    return refuse (ext->reading, "the size of clusters or groups is wrong");
  /* The feature's bit was lost, or else this would have been cleared; without
   * it no checksum would be looked at.
   */
  if (!ext2fs_has_feature_metadata_csum (super) && super->s_checksum_type != 0)
    return refuse (ext->reading, "it has checksums, but not the feature");
  if (ext2fs_has_feature_meta_bg (super)
      && super->s_first_meta_bg > fs->desc_blocks)
    return refuse (ext->reading, "the first meta block group is wrong");
  return 0;
}

/* --- the journal and MMP ---------------------------------------------------
 */

#define JOURNAL_MAGIC UINT32_C (0xc03b3998)

/* How a journal begins; all big-endian. */
struct journal_head {
  uint32_t magic, type, sequence;
  uint32_t block_size, blocks, first_block;
  uint32_t first_sequence;
  uint32_t start; /* where its log begins; 0: there is none */
  uint32_t error;
};

/* The journal's own word on whether it is empty. */
static int
check_journal (const struct ext *ext)
{
  ext2_filsys fs = ext->fs;
  const ext2_ino_t number = fs->super->s_journal_inum;
  struct ext2_inode inode;
  struct journal_head journal;
  blk64_t block;

  /* Without a number it is on another device; the flag must do. */
  if (!ext2fs_has_feature_journal (fs->super) || number == 0)
    return 0;
  if (number > fs->super->s_inodes_count
      || ext2fs_read_inode (fs, number, &inode) != 0
      || ext2fs_bmap2 (fs, number, &inode, NULL, 0, 0, NULL, &block) != 0
      || block == 0 || block >= ext2fs_blocks_count (fs->super))
    return refuse (ext->reading, "the journal is not found");
  if (reading_get (ext->reading, "the journal", &journal, sizeof journal,
                   block * fs->blocksize)
      == -1)
    return -1;
  if (be32toh (journal.magic) != JOURNAL_MAGIC)
    return refuse (ext->reading, "the journal is damaged");
  if (journal.start != 0)
    return refuse (ext->reading, "the journal is not empty");
  if (journal.error != 0)
    return refuse (ext->reading, "the journal was aborted after an error");
  return 0;
}

static int
check_mmp (const struct ext *ext)
{
  ext2_filsys fs = ext->fs;
  const uint64_t block = fs->super->s_mmp_block;
  struct mmp_struct mmp;

  if (!ext2fs_has_feature_mmp (fs->super))
    return 0;
  if (block <= fs->super->s_first_data_block
      || block >= ext2fs_blocks_count (fs->super))
    return refuse (ext->reading, "the MMP block is not within it");
  if (reading_get (ext->reading, "the MMP block", &mmp, sizeof mmp,
                   block * fs->blocksize)
      == -1)
    return -1;
  if (le32toh (mmp.mmp_magic) != EXT4_MMP_MAGIC
      || !ext2fs_mmp_csum_verify (fs, &mmp))
    return refuse (ext->reading, "the MMP block is damaged");
  if (le32toh (mmp.mmp_seq) == EXT4_MMP_SEQ_FSCK)
    return refuse (ext->reading, "it is being checked");
  if (le32toh (mmp.mmp_seq) != EXT4_MMP_SEQ_CLEAN)
    return refuse (ext->reading, "it is in use, says MMP");
  return 0;
}

/* --- what is surely used ---------------------------------------------------
 */

/* COUNT blocks from BLOCK on, which must lie within the blocks from FIRST to
 * LAST.
 */
static int
add_metadata (struct ext *ext, const char *what, dgrp_t group, uint64_t block,
              uint64_t count, uint64_t first, uint64_t last)
{
  if (block < first || block > last || count > last - block + 1)
    return refuse (ext->reading, "group %u: %s is not where it may be", group,
                   what);
  if (freemap_add (&ext->metadata, block, count) == -1)
    return refuse (ext->reading, "no memory");
  ext->metadata_added += count;
  return 0;
}

/* The superblock, descriptors, and room for more of these. */
static int
add_superblock (struct ext *ext, dgrp_t group)
{
  ext2_filsys fs = ext->fs;
  const uint64_t first = ext2fs_group_first_block2 (fs, group);
  const uint64_t last = ext2fs_group_last_block2 (fs, group);
  const bool meta = ext2fs_has_feature_meta_bg (fs->super);
  const uint64_t old_count
      = meta ? fs->super->s_first_meta_bg
             : fs->desc_blocks + fs->super->s_reserved_gdt_blocks;
  blk64_t super, old, new;

  ext2fs_super_and_bgd_loc2 (fs, group, &super, &old, &new, NULL);
  if (group == 0 && super > first
      && add_metadata (ext, "the boot block", 0, first, super - first, first,
                       last)
             == -1)
    return -1;
  /* "None" is 0, and so is where group 0's may be. */
  if ((super != 0 || group == 0)
      && add_metadata (ext, "the superblock", group, super, 1, first, last)
             == -1)
    return -1;
  if (old != 0 && old_count != 0
      && add_metadata (ext, "the descriptors", group, old, old_count, first,
                       last)
             == -1)
    return -1;
  if (new != 0)
    return add_metadata (ext, "the descriptors", group, new, 1, first, last);
  return 0;
}

/* One kind for all groups, so that in a flex group one follows the other and
 * they become one extent.
 */
static int
add_tables (struct ext *ext, const char *what,
            blk64_t (*locate) (ext2_filsys, dgrp_t), uint64_t count)
{
  ext2_filsys fs = ext->fs;
  const bool anywhere = ext2fs_has_feature_flex_bg (fs->super);
  uint64_t first = fs->super->s_first_data_block;
  uint64_t last = ext2fs_blocks_count (fs->super) - 1;

  for (dgrp_t group = 0; group < fs->group_desc_count; group++) {
    if (!anywhere) {
      first = ext2fs_group_first_block2 (fs, group);
      last = ext2fs_group_last_block2 (fs, group);
    }
    if (add_metadata (ext, what, group, locate (fs, group), count, first, last)
        == -1)
      return -1;
  }
  return 0;
}

static int
find_metadata (struct ext *ext)
{
  ext2_filsys fs = ext->fs;

  for (dgrp_t group = 0; group < fs->group_desc_count; group++) {
    if (!ext2fs_group_desc_csum_verify (fs, group))
      return refuse (ext->reading,
                     "group %u: the descriptor's checksum is wrong", group);
    if (add_superblock (ext, group) == -1)
      return -1;
  }
  if (add_tables (ext, "the block bitmap", ext2fs_block_bitmap_loc, 1) == -1
      || add_tables (ext, "the inode bitmap", ext2fs_inode_bitmap_loc, 1) == -1
      || add_tables (ext, "the inode table", ext2fs_inode_table_loc,
                     fs->inode_blocks_per_group)
             == -1)
    return -1;
  if (ext2fs_has_feature_mmp (fs->super)
      && add_metadata (ext, "the MMP block", 0, fs->super->s_mmp_block, 1,
                       fs->super->s_first_data_block,
                       ext2fs_blocks_count (fs->super) - 1)
             == -1)
    return -1;
  freemap_settle (&ext->metadata);
  /* Some were lost: in one another, or as they were too many. */
  if (freemap_bytes (&ext->metadata) != ext->metadata_added)
    return refuse (ext->reading, "structures of the file system overlap");
  return 0;
}

/* --- a group ---------------------------------------------------------------
 */

/* The first cluster from FROM on, and before END, whose bit is not USED; or
 * END.
 */
static uint32_t
skip (const uint8_t *bitmap, uint32_t from, uint32_t end, bool used)
{
  const uint64_t same = used ? UINT64_MAX : 0;

  while (from < end) {
    uint64_t word;
    if (from % 64 == 0 && end - from >= 64
        && (memcpy (&word, bitmap + from / 8, sizeof word), word == same))
      from += 64;
    else if ((bitmap[from / 8] >> from % 8 & 1) == used)
      from++;
    else
      return from;
  }
  return end;
}

static void
set_bits (uint8_t *bitmap, uint32_t from, uint32_t end)
{
  for (; from < end; from++)
    bitmap[from / 8] |= (uint8_t)(1 << from % 8);
}

/* For each piece of metadata in the group: it must be used, or, where the
 * bitmap is not initialised, becomes so.
 */
static int
apply_metadata (struct ext *ext, dgrp_t group, bool make)
{
  const uint32_t ratio = (uint32_t)EXT2FS_CLUSTER_RATIO (ext->fs);
  const uint64_t first = ext2fs_group_first_block2 (ext->fs, group);
  const uint64_t last = ext2fs_group_last_block2 (ext->fs, group);

  for (; ext->next < ext->metadata.count; ext->next++) {
    const struct extent *e = &ext->metadata.extents[ext->next];
    const uint64_t e_last = e->offset + e->length - 1;
    if (e->offset > last)
      break;
    const uint64_t begin = e->offset > first ? e->offset : first;
    const uint64_t end = e_last < last ? e_last : last;
    const uint32_t from = (uint32_t)((begin - first) / ratio);
    const uint32_t to = (uint32_t)((end - first) / ratio) + 1;
    if (make)
      set_bits (ext->bitmap, from, to);
    else if (skip (ext->bitmap, from, to, true) != to)
      return refuse (ext->reading,
                     "group %u: the bitmap calls the file system's own "
                     "structures free",
                     group);
    if (e_last > last)
      break;
  }
  return 0;
}

/* Read the bitmap, or make it.  CLUSTERS: those that there are. */
static int
get_bitmap (struct ext *ext, dgrp_t group, uint32_t clusters)
{
  ext2_filsys fs = ext->fs;

  if (ext2fs_bg_flags_test (fs, group, EXT2_BG_BLOCK_UNINIT)) {
    if (!ext2fs_has_group_desc_csum (fs))
      return refuse (ext->reading,
                     "group %u: the bitmap is not initialised, but the feature "
                     "is off",
                     group);
    memset (ext->bitmap, 0, fs->blocksize);
    return apply_metadata (ext, group, true);
  }
  if (ext_get (fs, "a block bitmap", ext->bitmap,
               ext2fs_block_bitmap_loc (fs, group))
      == -1)
    return -1;
  if (!ext2fs_block_bitmap_csum_verify (
          fs, group, (char *)ext->bitmap,
          (int)(fs->super->s_clusters_per_group / 8)))
    return refuse (ext->reading,
                   "group %u: the block bitmap's checksum is wrong", group);
  if (skip (ext->bitmap, clusters, 8 * fs->blocksize, true)
      != 8 * fs->blocksize)
    return refuse (ext->reading,
                   "group %u: the bitmap calls free what is behind its end",
                   group);
  return apply_metadata (ext, group, false);
}

static int
read_group (struct ext *ext, dgrp_t group)
{
  ext2_filsys fs = ext->fs;
  const uint32_t ratio = (uint32_t)EXT2FS_CLUSTER_RATIO (fs);
  const uint64_t begin = ext2fs_group_first_block2 (fs, group) * fs->blocksize;
  const uint64_t cluster = (uint64_t)ratio * fs->blocksize;
  const uint32_t blocks = (uint32_t)ext2fs_group_blocks_count (fs, group);
  const uint32_t clusters = (blocks + ratio - 1) / ratio;
  uint32_t free = 0;

  if (get_bitmap (ext, group, clusters) == -1)
    return -1;
  for (uint32_t c = skip (ext->bitmap, 0, clusters, true); c < clusters;) {
    const uint32_t end = skip (ext->bitmap, c, clusters, false);
    const uint64_t offset = begin + c * cluster;
    uint64_t length = (end - c) * cluster;
    /* The last cluster need not be whole. */
    if (length > ext->reading->size - offset)
      length = ext->reading->size - offset;
    if (reading_free (ext->reading, offset, length) == -1)
      return -1;
    free += end - c;
    c = skip (ext->bitmap, end, clusters, true);
  }
  if (free != ext2fs_bg_free_blocks_count (fs, group))
    return refuse (ext->reading,
                   "group %u: the bitmap has %u free clusters, the descriptor "
                   "says %u",
                   group, free, ext2fs_bg_free_blocks_count (fs, group));
  ext->free += free;
  return 0;
}

static int
read_groups (struct ext *ext)
{
  ext2_filsys fs = ext->fs;
  const uint64_t said = ext2fs_free_blocks_count (fs->super);

  for (dgrp_t group = 0; group < fs->group_desc_count; group++)
    if (!ext2fs_bg_flags_test (fs, group, EXT2_BG_BLOCK_UNINIT))
      ext_announce (fs, ext2fs_block_bitmap_loc (fs, group));
  for (dgrp_t group = 0; group < fs->group_desc_count; group++)
    if (read_group (ext, group) == -1)
      return -1;
  if (ext->free * (uint64_t)EXT2FS_CLUSTER_RATIO (fs) != said)
    return refuse (ext->reading,
                   "the groups have %" PRIu64 " free clusters, the superblock "
                   "says %" PRIu64 " blocks",
                   ext->free, said);
  return 0;
}

static int
read_opened (struct ext *ext)
{
  if (check_geometry (ext) == -1 || check_mmp (ext) == -1
      || find_metadata (ext) == -1 || check_journal (ext) == -1)
    return -1;
  ext->bitmap = malloc (ext->fs->blocksize);
  if (ext->bitmap == NULL)
    return refuse (ext->reading, "no memory");
  return read_groups (ext);
}

static int
read_ext (struct reading *reading)
{
  struct ext ext = { .reading = reading };

  if (check_superblock (reading) == -1)
    return -1;
  ext.fs = ext_open (reading);
  if (ext.fs == NULL)
    return -1;
  const int r = read_opened (&ext);
  free (ext.bitmap);
  freemap_free (&ext.metadata);
  ext2fs_free (ext.fs);
  return r;
}

const struct reader reader_ext = {
  .name = "ext4",
  .types = (const char *const[]){ "ext2", "ext3", "ext4", NULL },
  .read = read_ext,
};
