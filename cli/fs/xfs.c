/* SPDX-License-Identifier: BSD-3-Clause */
/* XFS has its blocks in allocation groups.  Each begins with four sectors: a
 * superblock, the AGF (which says where free space is), the AGI (inodes) and
 * the AGFL (a few blocks set aside for btrees: used, for us).  Free extents are
 * in two btrees, one by block and one by count.  Both are read: they must have
 * the same extents, which is all the certainty that version 4, without
 * checksums, has to offer.  All counters must agree, too, and nothing known to
 * be used may be free.  The log must be empty: see xfs-log.c.
 *
 * The realtime device and an external log are devices of their own.
 */

#include "xfs.h"

#include <endian.h>
#include <inttypes.h>
#include <isa-l/crc.h>
#include <stdlib.h>
#include <string.h>

bool
xfs_is_summed (const void *data, size_t count, size_t offset)
{
  /* libisal says nothing of const, but does not write. */
  union {
    const void *given;
    uint8_t *taken;
  } p = { data };
  uint8_t zeros[4] = { 0 };
  uint32_t stored;

  memcpy (&stored, p.taken + offset, sizeof stored);
  uint32_t crc = crc32_iscsi (p.taken, (int)offset, UINT32_MAX);
  crc = crc32_iscsi (zeros, sizeof zeros, crc);
  offset += sizeof zeros;
  crc = crc32_iscsi (p.taken + offset, (int)(count - offset), crc);
  return le32toh (stored) == ~crc;
}

/* --- the superblock --------------------------------------------------------
 */

static bool
is_power (uint32_t value, uint8_t log, uint32_t least, uint32_t most)
{
  return log < 32 && value == UINT32_C (1) << log && value >= least
         && value <= most;
}

static int
check_features (const struct xfs *xfs)
{
  const struct xfs_superblock *super = &xfs->super;
  const unsigned version = be16toh (super->version);
  const uint32_t features2 = be32toh (super->features2);
  const uint32_t incompat = be32toh (super->incompat);

  if (super->in_progress != 0)
    return refuse (xfs->reading, "it was not made completely");
  if ((version & ~(unsigned)(XFS_VERSION_KNOWN | XFS_VERSION_MASK)) != 0
      || (version & XFS_VERSION_DIRV2) == 0
      || (features2 & ~(uint32_t)XFS_FEATURES2_KNOWN) != 0)
    return refuse (xfs->reading, "unknown features (version %x, %x)", version,
                   features2);
  if (!xfs->v5)
    return (features2 & XFS_FEATURES2_CRC) == 0
               ? 0
               : refuse (xfs->reading, "version 4 with checksums");
  if ((incompat & XFS_INCOMPAT_NEEDSREPAIR) != 0)
    return refuse (xfs->reading, "it needs xfs_repair");
  if ((incompat & ~(uint32_t)XFS_INCOMPAT_KNOWN) != 0
      || (be32toh (super->ro_compat) & ~(uint32_t)XFS_RO_KNOWN) != 0)
    return refuse (xfs->reading, "unknown features (incompat %x, ro_compat %x)",
                   incompat, be32toh (super->ro_compat));
  return 0;
}

static int
check_geometry (const struct xfs *xfs)
{
  const struct xfs_superblock *super = &xfs->super;
  const uint64_t before = (uint64_t)(xfs->ag_count - 1) * xfs->ag_blocks;

  if (!is_power (xfs->block_size, super->block_log, 512, XFS_BLOCK_MAX)
      || !is_power (xfs->sector_size, super->sector_log, 512, XFS_SECTOR_MAX)
      || xfs->sector_size > xfs->block_size)
    return refuse (xfs->reading, "blocks of %u, sectors of %u bytes",
                   xfs->block_size, xfs->sector_size);
  if (xfs->ag_count == 0 || xfs->ag_blocks < 64 || super->ag_block_log > 31
      || super->ag_block_log == 0
      || xfs->ag_blocks > UINT32_C (1) << super->ag_block_log
      || xfs->ag_blocks <= UINT32_C (1) << (super->ag_block_log - 1)
      || xfs->blocks <= before || xfs->blocks - before > xfs->ag_blocks
      || xfs->blocks - before < 64)
    return refuse (xfs->reading,
                   "%" PRIu64 " blocks in %u allocation groups of %u",
                   xfs->blocks, xfs->ag_count, xfs->ag_blocks);
  if (xfs->blocks > xfs->reading->source->size / xfs->block_size)
    return refuse (xfs->reading, "it is larger than what it is on");
  return 0;
}

static uint32_t
blocks_of_group (const struct xfs *xfs, uint32_t number)
{
  const uint64_t first = (uint64_t)number * xfs->ag_blocks;

  return xfs->blocks - first < xfs->ag_blocks ? (uint32_t)(xfs->blocks - first)
                                              : xfs->ag_blocks;
}

static int
check_log_place (struct xfs *xfs)
{
  const uint64_t start = be64toh (xfs->super.log_start);
  const uint64_t group = start >> xfs->super.ag_block_log;

  if (start == 0)
    return refuse (xfs->reading, "the log is on another device");
  xfs->log_ag = (uint32_t)group;
  xfs->log_start
      = (uint32_t)(start & ((UINT64_C (1) << xfs->super.ag_block_log) - 1));
  xfs->log_blocks = be32toh (xfs->super.log_blocks);
  if (group >= xfs->ag_count
      || xfs->log_start >= blocks_of_group (xfs, xfs->log_ag)
      || xfs->log_blocks > blocks_of_group (xfs, xfs->log_ag) - xfs->log_start
      || (uint64_t)xfs->log_blocks * xfs->block_size
             < UINT64_C (64) * XLOG_BLOCK)
    return refuse (xfs->reading, "the log is out of bounds");
  return 0;
}

static int
read_superblock (struct xfs *xfs)
{
  struct xfs_superblock *super = &xfs->super;

  if (reading_get (xfs->reading, "the superblock", super, sizeof *super, 0)
      == -1)
    return -1;
  if (be32toh (super->magic) != XFS_SB_MAGIC)
    return refuse (xfs->reading, "there is no superblock of XFS");
  const unsigned version = be16toh (super->version) & XFS_VERSION_MASK;
  if (version != 4 && version != 5)
    return refuse (xfs->reading, "it is of version %u", version);
  xfs->v5 = version == 5;
  xfs->blocks = be64toh (super->blocks);
  xfs->block_size = be32toh (super->block_size);
  xfs->sector_size = be16toh (super->sector_size);
  xfs->ag_blocks = be32toh (super->ag_blocks);
  xfs->ag_count = be32toh (super->ag_count);
  memcpy (xfs->uuid, super->uuid, sizeof xfs->uuid);
  if (xfs->v5 && (be32toh (super->incompat) & XFS_INCOMPAT_META_UUID) != 0)
    memcpy (xfs->uuid, super->meta_uuid, sizeof xfs->uuid);
  if (check_features (xfs) == -1 || check_geometry (xfs) == -1
      || check_log_place (xfs) == -1)
    return -1;
  xfs->super_sector = malloc (xfs->sector_size);
  if (xfs->super_sector == NULL)
    return refuse (xfs->reading, "no memory");
  if (reading_get (xfs->reading, "the superblock", xfs->super_sector,
                   xfs->sector_size, 0)
      == -1)
    return -1;
  if (xfs->v5
      && !xfs_is_summed (xfs->super_sector, xfs->sector_size,
                         offsetof (struct xfs_superblock, crc)))
    return refuse (xfs->reading, "the superblock's checksum is wrong");
  xfs->reading->size = xfs->blocks * xfs->block_size;
  return 0;
}

/* --- the head of an allocation group ---------------------------------------
 */

static int
refuse_group (const struct xfs_group *group, const char *what)
{
  return refuse (group->xfs->reading, "allocation group %u: %s", group->number,
                 what);
}

/* The copies of the superblock must agree about what has where which size. */
static bool
is_copy (const struct xfs *xfs, const struct xfs_superblock *copy)
{
  const struct xfs_superblock *super = &xfs->super;

  return copy->magic == super->magic && copy->block_size == super->block_size
         && copy->blocks == super->blocks && copy->log_start == super->log_start
         && copy->ag_blocks == super->ag_blocks
         && copy->ag_count == super->ag_count
         && copy->log_blocks == super->log_blocks
         && copy->sector_size == super->sector_size
         && copy->block_log == super->block_log
         && copy->ag_block_log == super->ag_block_log;
}

static int
check_agf (const struct xfs_group *group)
{
  const struct xfs *xfs = group->xfs;
  const struct xfs_agf *agf = group->agf;

  if (be32toh (agf->magic) != XFS_AGF_MAGIC
      || be32toh (agf->version) != XFS_AG_VERSION)
    return refuse_group (group, "its AGF is none");
  if (xfs->v5
      && (!xfs_is_summed (agf, xfs->sector_size, offsetof (struct xfs_agf, crc))
          || memcmp (agf->uuid, xfs->uuid, sizeof xfs->uuid) != 0))
    return refuse_group (group, "its AGF's checksum or UUID is wrong");
  if (be32toh (agf->number) != group->number
      || be32toh (agf->length) != group->blocks)
    return refuse_group (group, "its AGF is another's");
  return 0;
}

static int
check_agi (const struct xfs_group *group, const struct xfs_agi *agi)
{
  const struct xfs *xfs = group->xfs;

  if (be32toh (agi->magic) != XFS_AGI_MAGIC
      || be32toh (agi->version) != XFS_AG_VERSION)
    return refuse_group (group, "its AGI is none");
  if (xfs->v5
      && (!xfs_is_summed (agi, xfs->sector_size, offsetof (struct xfs_agi, crc))
          || memcmp (agi->uuid, xfs->uuid, sizeof xfs->uuid) != 0))
    return refuse_group (group, "its AGI's checksum or UUID is wrong");
  if (be32toh (agi->number) != group->number
      || be32toh (agi->length) != group->blocks)
    return refuse_group (group, "its AGI is another's");
  return 0;
}

int
xfs_use (struct xfs_group *group, uint32_t block)
{
  if (block >= group->blocks)
    return refuse_group (group, "something is out of bounds");
  if (group->used_count == group->used_room) {
    const size_t room = group->used_room == 0 ? 256 : 2 * group->used_room;
    uint32_t *more = reallocarray (group->used, room, sizeof *more);
    if (more == NULL)
      return refuse (group->xfs->reading, "no memory");
    group->used = more;
    group->used_room = room;
  }
  group->used[group->used_count++] = block;
  return 0;
}

/* Roots of the other btrees, and the root directory. */
static int
use_roots (struct xfs_group *group, const struct xfs_agi *agi)
{
  const struct xfs_superblock *super = &group->xfs->super;
  const struct xfs_agf *agf = group->agf;
  const uint32_t ro = group->xfs->v5 ? be32toh (super->ro_compat) : 0;
  const unsigned in_block = super->inodes_per_block_log;
  const uint64_t root = be64toh (super->root_inode);

  if (xfs_use (group, be32toh (agi->root)) == -1
      || ((ro & XFS_RO_FINOBT) != 0
          && xfs_use (group, be32toh (agi->free_root)) == -1)
      || ((ro & XFS_RO_RMAPBT) != 0
          && xfs_use (group, be32toh (agf->roots[XFS_RMAP])) == -1)
      || ((ro & XFS_RO_REFLINK) != 0
          && xfs_use (group, be32toh (agf->refcount_root)) == -1))
    return -1;
  if (in_block > 16)
    return refuse (group->xfs->reading, "too many inodes are in a block");
  if (root >> (super->ag_block_log + in_block) == group->number)
    return xfs_use (group, (uint32_t)(root >> in_block)
                               & ((UINT32_C (1) << super->ag_block_log) - 1));
  return 0;
}

static int
use_free_list (struct xfs_group *group, const uint8_t *sector)
{
  const struct xfs *xfs = group->xfs;
  const struct xfs_agfl *head = (const void *)sector;
  const size_t head_size = xfs->v5 ? sizeof *head : 0;
  const uint32_t most
      = (uint32_t)((xfs->sector_size - head_size) / sizeof (uint32_t));
  const uint32_t first = be32toh (group->agf->list_first);
  const uint32_t last = be32toh (group->agf->list_last);
  const uint32_t count = be32toh (group->agf->list_count);

  if (xfs->v5
      && (be32toh (head->magic) != XFS_AGFL_MAGIC
          || be32toh (head->number) != group->number
          || !xfs_is_summed (sector, xfs->sector_size,
                             offsetof (struct xfs_agfl, crc))
          || memcmp (head->uuid, xfs->uuid, sizeof xfs->uuid) != 0))
    return refuse_group (group, "its AGFL is not in order");
  if (first >= most || last >= most || count > most
      || (first + count) % most != (last + 1) % most)
    return refuse_group (group, "its AGFL's bounds are wrong");
  for (uint32_t i = 0; i < count; i++) {
    uint32_t block;
    memcpy (&block, sector + head_size + (first + i) % most * sizeof block,
            sizeof block);
    if (xfs_use (group, be32toh (block)) == -1)
      return -1;
  }
  return 0;
}

/* --- its free space --------------------------------------------------------
 */

static int
compare_blocks (const void *a, const void *b)
{
  const uint32_t *x = a, *y = b;

  return (*x > *y) - (*x < *y);
}

static int
compare_records (const void *a, const void *b)
{
  const struct xfs_record *x = a, *y = b;

  return (x->start > y->start) - (x->start < y->start);
}

/* What is used for one thing is neither used for another nor free. */
static int
check_used (struct xfs_group *group, const struct xfs_records *free)
{
  const struct xfs *xfs = group->xfs;
  const uint64_t log_end = (uint64_t)xfs->log_start + xfs->log_blocks;
  const uint32_t heads
      = (4 * xfs->sector_size + xfs->block_size - 1) / xfs->block_size;
  size_t f = 0;

  qsort (group->used, group->used_count, sizeof *group->used, compare_blocks);
  for (size_t i = 0; i < group->used_count; i++) {
    const uint32_t block = group->used[i];
    if (block < heads || (i > 0 && group->used[i - 1] == block)
        || (group->number == xfs->log_ag && block >= xfs->log_start
            && block < log_end))
      return refuse_group (group, "a block is used for two things");
    while (f < free->count
           && free->records[f].start + free->records[f].count <= block)
      f++;
    if (f < free->count && free->records[f].start <= block)
      return refuse_group (group, "a block that is used is free");
  }
  for (f = 0; f < free->count; f++) {
    const struct xfs_record r = free->records[f];
    if (r.start < heads
        || (group->number == xfs->log_ag && r.start < log_end
            && r.start + r.count > xfs->log_start))
      return refuse_group (group, "a block that is used is free");
  }
  return 0;
}

static bool
is_lazy (const struct xfs *xfs)
{
  return xfs->v5
         || ((be16toh (xfs->super.version) & XFS_VERSION_MOREBITS) != 0
             && (be32toh (xfs->super.features2) & XFS_FEATURES2_LAZYSBCOUNT)
                    != 0);
}

static int
check_counts (const struct xfs_group *group, const struct xfs_records *free,
              uint64_t btree_blocks)
{
  const struct xfs *xfs = group->xfs;
  const struct xfs_agf *agf = group->agf;
  uint64_t blocks = 0, longest = 0;

  for (size_t i = 0; i < free->count; i++) {
    blocks += free->records[i].count;
    if (free->records[i].count > longest)
      longest = free->records[i].count;
  }
  if (blocks != be32toh (agf->free_blocks))
    return refuse_group (group, "its btree and its AGF count free blocks "
                                "differently");
  if (longest != be32toh (agf->longest))
    return refuse_group (group, "its longest free extent is another");
  if (!is_lazy (xfs))
    return 0;
  if (xfs->v5 && (be32toh (xfs->super.ro_compat) & XFS_RO_RMAPBT) != 0)
    btree_blocks += (uint64_t)be32toh (agf->rmap_blocks) - 1;
  if (btree_blocks - 2 != be32toh (agf->btree_blocks))
    return refuse_group (group, "its btrees have another number of blocks");
  return 0;
}

/* Both btrees, which must have the same extents; those remain in FREE. */
static int
read_btrees (struct xfs_group *group, struct xfs_records *free,
             struct xfs_records *by_count)
{
  if (xfs_read_btree (group, XFS_BY_BLOCK, free) == -1
      || xfs_read_btree (group, XFS_BY_COUNT, by_count) == -1)
    return -1;
  if (by_count->count != free->count)
    return refuse_group (group, "its two btrees of free space differ");
  if (free->count > 0) {
    qsort (by_count->records, by_count->count, sizeof *by_count->records,
           compare_records);
    if (memcmp (free->records, by_count->records,
                free->count * sizeof *free->records)
        != 0)
      return refuse_group (group, "its two btrees of free space differ");
  }
  if (check_used (group, free) == -1)
    return -1;
  return check_counts (group, free, free->blocks + by_count->blocks);
}

static int
tell_free (const struct xfs_group *group, const struct xfs_records *free)
{
  const struct xfs *xfs = group->xfs;
  const uint64_t first = (uint64_t)group->number * xfs->ag_blocks;

  for (size_t i = 0; i < free->count; i++)
    if (reading_free (xfs->reading,
                      (first + free->records[i].start) * xfs->block_size,
                      (uint64_t)free->records[i].count * xfs->block_size)
        == -1)
      return -1;
  return 0;
}

/* HEADS: the four sectors. */
static int
read_heads (struct xfs_group *group, const uint8_t *heads)
{
  const struct xfs *xfs = group->xfs;
  const struct xfs_superblock *copy = (const void *)heads;
  const struct xfs_agi *agi
      = (const void *)(heads + (size_t)2 * xfs->sector_size);

  if (!is_copy (xfs, copy)
      || (xfs->v5
          && !xfs_is_summed (copy, xfs->sector_size,
                             offsetof (struct xfs_superblock, crc))))
    return refuse_group (group, "its superblock is another's");
  if (check_agf (group) == -1 || check_agi (group, agi) == -1
      || use_roots (group, agi) == -1)
    return -1;
  return use_free_list (group, heads + (size_t)3 * xfs->sector_size);
}

/* Adds to *FREE_BLOCKS what the superblock counts of it. */
static int
read_group (struct xfs *xfs, uint32_t number, uint8_t *heads,
            uint64_t *free_blocks)
{
  const struct xfs_agf *agf = (const void *)(heads + xfs->sector_size);
  struct xfs_group group = { .xfs = xfs,
                             .number = number,
                             .blocks = blocks_of_group (xfs, number),
                             .agf = agf };
  struct xfs_records by_block = {}, by_count = {};

  int r = reading_get (xfs->reading, "an allocation group", heads,
                       4 * (size_t)xfs->sector_size,
                       (uint64_t)number * xfs->ag_blocks * xfs->block_size);
  if (r == 0)
    r = read_heads (&group, heads);
  if (r == 0)
    r = read_btrees (&group, &by_block, &by_count);
  if (r == 0)
    r = tell_free (&group, &by_block);
  *free_blocks += (uint64_t)be32toh (agf->free_blocks)
                  + be32toh (agf->list_count)
                  + (is_lazy (xfs) ? be32toh (agf->btree_blocks) : 0);
  free (by_block.records);
  free (by_count.records);
  free (group.used);
  return r;
}

/* The superblock's count is exact after unmounting.  A frozen file system has
 * taken away from it what it holds back for its btrees.
 */
static int
check_total (const struct xfs *xfs, uint64_t free_blocks)
{
  const uint64_t stated = be64toh (xfs->super.free_blocks);

  if (xfs->frozen ? stated <= free_blocks : stated == free_blocks)
    return 0;
  return refuse (xfs->reading,
                 "the superblock counts %" PRIu64
                 " free blocks, the allocation groups %" PRIu64,
                 stated, free_blocks);
}

static int
read_groups (struct xfs *xfs)
{
  uint64_t free_blocks = 0;
  uint8_t *heads = calloc (4, xfs->sector_size);
  int r = 0;

  if (heads == NULL)
    return refuse (xfs->reading, "no memory");
  for (uint32_t i = 0; i < xfs->ag_count && r == 0; i++)
    r = read_group (xfs, i, heads, &free_blocks);
  free (heads);
  return r == 0 ? check_total (xfs, free_blocks) : r;
}

static int
read_xfs (struct reading *reading)
{
  struct xfs xfs = { .reading = reading };

  int r = read_superblock (&xfs);
  if (r == 0)
    r = xfs_check_log (&xfs);
  if (r == 0)
    r = read_groups (&xfs);
  free (xfs.super_sector);
  return r;
}

const struct reader reader_xfs = {
  .name = "xfs",
  .types = (const char *const[]){ "xfs", NULL },
  .read = read_xfs,
};
