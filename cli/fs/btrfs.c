/* SPDX-License-Identifier: BSD-3-Clause */
/* Free space of btrfs on one device.
 *
 * The superblock leads to the chunk tree, which maps the logical addresses
 * that all else is written in to the device (btrfs-chunks.c), and to the root
 * tree, which has the roots of the other trees.  The extent tree lists every
 * range that a file, a snapshot or a tree has.  Free is what no chunk has, and
 * what in a chunk no extent has, at each place where the chunk is.
 *
 * A mounted btrfs is read as well as any.  Nothing that the last committed
 * superblock leads to is overwritten or discarded before the next superblock
 * is on the disk: an extent that is freed meanwhile is pinned until then.  So
 * the superblock in the view leads to whole trees, and what they call used is
 * all that a mount of the view would read:
 *  - what the transaction that was running has written lies in space that is
 *    free as of the superblock, and nobody finds it.  What it has freed is
 *    still in the extent tree, and is kept;
 *  - a file without copy-on-write is overwritten in place, but its extents are
 *    in the extent tree before and after;
 *  - extents that only a log tree has (of fsync) are in no extent tree: so a
 *    file system that has a log is refused.  Freezing it ends the log.
 *
 * And what else is read, besides files: the old cache of free space is in
 * files of the root tree, the newer one is a tree; a balance, a subvolume that
 * is being deleted and an orphan keep their extents in the extent tree until
 * they need them no more.  The superblock's backup roots lead to trees of
 * older transactions, which may be overwritten any time: they are no reason to
 * keep something.
 *
 * The block groups count what is used in each chunk, and the superblock what
 * is used in all.  Both must agree with the extents found, and so must the free
 * space tree (btrfs-free-tree.c); and no tree that is read or known may lie in
 * free space.
 */

#include "btrfs.h"

#include <endian.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* --- the superblock --------------------------------------------------------
 */

static bool
is_size (uint32_t size, uint32_t least)
{
  return size >= least && size <= BTRFS_BLOCK_MAX && (size & (size - 1)) == 0;
}

static int
check_features (struct btrfs *fs)
{
  const struct btrfs_super *super = &fs->super;
  const uint64_t flags = le64toh (super->flags) & ~BTRFS_SUPER_FLAGS_KNOWN;
  const uint64_t incompat = le64toh (super->incompat);
  const uint64_t compat_ro = le64toh (super->compat_ro);

  if (flags != 0)
    return refuse (fs->reading,
                   "it is marked as damaged, as a seed or as being converted"
                   " (flags 0x%" PRIx64 ")",
                   flags);
  if ((incompat & ~BTRFS_INCOMPAT_KNOWN) != 0
      || (incompat & BTRFS_INCOMPAT_MIXED_BACKREF) == 0)
    return refuse (fs->reading,
                   "it has features that are not known (0x%" PRIx64 ")",
                   incompat & ~BTRFS_INCOMPAT_KNOWN);
  if ((compat_ro & ~BTRFS_COMPAT_RO_KNOWN) != 0)
    return refuse (fs->reading,
                   "it has features that are not known (0x%" PRIx64
                   ", for reading)",
                   compat_ro & ~BTRFS_COMPAT_RO_KNOWN);
  if (super->log_root != 0)
    return refuse (fs->reading, "the log needs to be replayed");
  return 0;
}

/* It is on this one device, which is as large as it should be. */
static int
check_device (struct btrfs *fs)
{
  const struct btrfs_super *super = &fs->super;
  const uint64_t total = le64toh (super->dev_item.total_bytes);
  /* One's name may have been changed without writing all blocks anew. */
  const bool renamed
      = (le64toh (super->incompat) & BTRFS_INCOMPAT_METADATA_UUID) != 0;

  if (le64toh (super->num_devices) != 1)
    return refuse (fs->reading, "it is on %" PRIu64 " devices",
                   le64toh (super->num_devices));
  fs->tree_fsid = renamed ? super->metadata_uuid : super->fsid;
  if (memcmp (super->dev_item.fsid, fs->tree_fsid, 16) != 0)
    return refuse (fs->reading, "the device is another file system's");
  if (total > fs->reading->source->size)
    return refuse (fs->reading,
                   "it has %" PRIu64 " bytes, but there are only %" PRIu64,
                   total, fs->reading->source->size);
  if (total - le64toh (super->total_bytes) >= fs->sectorsize)
    return refuse (fs->reading, "its size and the device's are different");
  fs->devid = le64toh (super->dev_item.devid);
  fs->reading->size = total;
  return 0;
}

static int
read_superblock (struct btrfs *fs)
{
  struct btrfs_super *super = &fs->super;
  uint8_t block[BTRFS_SUPER_SIZE];

  if (reading_get (fs->reading, "the superblock", block, sizeof block,
                   BTRFS_SUPER_OFFSET)
      == -1)
    return -1;
  memcpy (super, block, sizeof *super);
  if (memcmp (super->magic, BTRFS_MAGIC, sizeof super->magic) != 0)
    return refuse (fs->reading, "there is no superblock");
  if (le16toh (super->checksum_type) != BTRFS_CHECKSUM_CRC32C)
    return refuse (fs->reading, "its checksums are not crc32c");
  if (!btrfs_checksum_fits (block, sizeof block))
    return refuse (fs->reading, "the superblock's checksum is wrong");
  fs->generation = le64toh (super->generation);
  fs->sectorsize = le32toh (super->sectorsize);
  fs->nodesize = le32toh (super->nodesize);
  if (le64toh (super->bytenr) != BTRFS_SUPER_OFFSET
      || !is_size (fs->sectorsize, 4096)
      || !is_size (fs->nodesize, fs->sectorsize)
      || super->leafsize != super->nodesize)
    return refuse (fs->reading, "the superblock's sizes are impossible");
  if (check_features (fs) == -1 || check_device (fs) == -1)
    return -1;
  fs->blocks = malloc ((size_t)BTRFS_LEVELS * fs->nodesize);
  return fs->blocks != NULL ? 0 : refuse (fs->reading, "no memory");
}

/* --- the root tree ---------------------------------------------------------
 */

static int
root_tree_item (struct btrfs *fs, const struct btrfs_item *item)
{
  struct btrfs_root_item root;

  if (item->key.type != BTRFS_ROOT_ITEM)
    return 0;
  if (item->size < sizeof root)
    return refuse (fs->reading, "the root of tree %" PRIu64 " is too short",
                   item->key.objectid);
  memcpy (&root, item->data, sizeof root);
  const struct btrfs_root found = { .bytenr = le64toh (root.bytenr),
                                    .generation = le64toh (root.generation),
                                    .level = root.level };
  if (item->key.offset == 0 && item->key.objectid == BTRFS_EXTENT_TREE)
    fs->extent_root = found;
  if (item->key.offset == 0 && item->key.objectid == BTRFS_DEV_TREE)
    fs->dev_root = found;
  if (item->key.offset == 0 && item->key.objectid == BTRFS_BLOCK_GROUP_TREE)
    fs->group_root = found;
  if (item->key.offset == 0 && item->key.objectid == BTRFS_FREE_SPACE_TREE)
    fs->free_root = found;
  return btrfs_know (fs, found.bytenr);
}

static int
read_root_tree (struct btrfs *fs)
{
  const struct btrfs_tree tree = { .name = "the root tree",
                                   .owner = BTRFS_ROOT_TREE,
                                   .root = { .bytenr = le64toh (fs->super.root),
                                             .generation = fs->generation,
                                             .level = fs->super.root_level },
                                   .item = root_tree_item };

  return btrfs_walk (fs, &tree);
}

/* --- block groups ----------------------------------------------------------
 */

/* Each chunk has one, of the same type and size. */
static int
read_block_group (struct btrfs *fs, const struct btrfs_item *item)
{
  struct btrfs_chunk *chunk
      = btrfs_chunk_at (fs, item->key.objectid, item->key.offset);
  struct btrfs_block_group group;

  if (item->size != sizeof group || chunk == NULL
      || chunk->logical != item->key.objectid
      || chunk->length != item->key.offset || chunk->has_group)
    return refuse (fs->reading, "block group %" PRIu64 " has no chunk",
                   item->key.objectid);
  memcpy (&group, item->data, sizeof group);
  if (le64toh (group.flags) != chunk->type
      || le64toh (group.chunk_objectid) != BTRFS_FIRST_CHUNK_TREE)
    return refuse (fs->reading,
                   "block group %" PRIu64 " is not of its chunk's type",
                   item->key.objectid);
  chunk->has_group = true;
  chunk->used = le64toh (group.used);
  return 0;
}

static bool
has_group_tree (const struct btrfs *fs)
{
  return (le64toh (fs->super.compat_ro) & BTRFS_COMPAT_RO_BLOCK_GROUP_TREE)
         != 0;
}

static int
group_tree_item (struct btrfs *fs, const struct btrfs_item *item)
{
  if (item->key.type != BTRFS_BLOCK_GROUP_ITEM)
    return refuse (fs->reading, "the block group tree has an item of type %u",
                   item->key.type);
  return read_block_group (fs, item);
}

static int
read_group_tree (struct btrfs *fs)
{
  const struct btrfs_tree tree = { .name = "the block group tree",
                                   .owner = BTRFS_BLOCK_GROUP_TREE,
                                   .root = fs->group_root,
                                   .item = group_tree_item };

  return has_group_tree (fs) ? btrfs_walk (fs, &tree) : 0;
}

/* --- free space ------------------------------------------------------------
 */

/* From BEGIN to END of the device are free, but for what is reserved. */
static int
free_on_device (struct btrfs *fs, uint64_t begin, uint64_t end)
{
  static const struct {
    uint64_t begin, end;
  } reserved[] = {
    { 0, BTRFS_RESERVED_FRONT },
    { BTRFS_MIRROR_1, BTRFS_MIRROR_1 + BTRFS_MIRROR_SIZE },
    { BTRFS_MIRROR_2, BTRFS_MIRROR_2 + BTRFS_MIRROR_SIZE },
  };

  for (size_t i = 0; i < sizeof reserved / sizeof reserved[0]; i++) {
    if (begin >= end || end <= reserved[i].begin)
      break;
    if (begin >= reserved[i].end)
      continue;
    if (begin < reserved[i].begin
        && reading_free (fs->reading, begin, reserved[i].begin - begin) == -1)
      return -1;
    begin = reserved[i].end;
  }
  return begin < end ? reading_free (fs->reading, begin, end - begin) : 0;
}

/* What no chunk has. */
static int
free_between_chunks (struct btrfs *fs)
{
  uint64_t last = 0;

  for (size_t i = 0; i < fs->copy_count; i++) {
    if (free_on_device (fs, last, fs->copies[i].physical) == -1)
      return -1;
    last = fs->copies[i].physical + fs->copies[i].length;
  }
  return free_on_device (fs, last, fs->reading->size);
}

/* No extent has what is in this chunk from the last one's end to END. */
static int
free_in_chunk (struct btrfs *fs, struct btrfs_chunk *chunk, uint64_t end)
{
  const uint64_t begin
      = fs->next > chunk->logical ? fs->next - chunk->logical : 0;

  for (unsigned i = 0; i < chunk->copies; i++)
    if (free_on_device (fs, chunk->physical[i] + begin,
                        chunk->physical[i] + (end - chunk->logical))
        == -1)
      return -1;
  btrfs_add_run (&chunk->free, chunk->logical + begin, end);
  fs->next = end;
  return 0;
}

/* Chunks before that of LOGICAL are done: free their ends. */
static int
leave_chunks (struct btrfs *fs, uint64_t logical)
{
  while (fs->chunk_now < fs->chunk_count) {
    struct btrfs_chunk *chunk = &fs->chunks[fs->chunk_now];
    const uint64_t end = chunk->logical + chunk->length;
    if (end > logical)
      break;
    if (free_in_chunk (fs, chunk, end) == -1)
      return -1;
    fs->chunk_now++;
  }
  return 0;
}

/* --- the extent tree -------------------------------------------------------
 */

static int
refuse_extent (struct btrfs *fs, const struct btrfs_item *item,
               const char *what)
{
  return refuse (fs->reading, "extent %" PRIu64 " %s", item->key.objectid,
                 what);
}

/* What the item says of itself makes sense, in a chunk of TYPE. */
static int
check_extent (struct btrfs *fs, const struct btrfs_item *item, uint64_t length,
              uint64_t type)
{
  struct btrfs_extent_item extent;

  if (item->size < sizeof extent)
    return refuse_extent (fs, item, "is too short");
  memcpy (&extent, item->data, sizeof extent);
  const uint64_t flags = le64toh (extent.flags) & ~BTRFS_EXTENT_FULL_BACKREF;
  const bool is_block = flags == BTRFS_EXTENT_IS_TREE_BLOCK;
  if (!is_block && flags != BTRFS_EXTENT_IS_DATA)
    return refuse_extent (fs, item, "is neither data nor a tree block");
  if ((type & (is_block ? BTRFS_METADATA | BTRFS_SYSTEM : BTRFS_DATA)) == 0)
    return refuse_extent (fs, item, "is not of its chunk's type");
  if (is_block ? length != fs->nodesize : item->key.type == BTRFS_METADATA_ITEM)
    return refuse_extent (fs, item, "is not of a tree block's size");
  if (extent.refs == 0 || le64toh (extent.generation) > fs->generation)
    return refuse_extent (fs, item, "has no owner or no past");
  return 0;
}

static int
use_extent (struct btrfs *fs, const struct btrfs_item *item)
{
  const uint64_t logical = item->key.objectid;
  const bool is_metadata = item->key.type == BTRFS_METADATA_ITEM;
  const uint64_t length = is_metadata ? fs->nodesize : item->key.offset;
  struct btrfs_chunk *chunk = btrfs_chunk_at (fs, logical, length);

  if (is_metadata
      && (item->key.offset >= BTRFS_LEVELS
          || (le64toh (fs->super.incompat) & BTRFS_INCOMPAT_SKINNY_METADATA)
                 == 0))
    return refuse_extent (fs, item, "has an impossible level");
  if (chunk == NULL)
    return refuse_extent (fs, item, "does not lie within a chunk");
  if (length == 0 || logical % fs->sectorsize != 0
      || length % fs->sectorsize != 0)
    return refuse_extent (fs, item, "is not made of sectors");
  if (logical < fs->next)
    return refuse_extent (fs, item, "overlaps the one before");
  if (check_extent (fs, item, length, chunk->type) == -1
      || leave_chunks (fs, logical) == -1
      || free_in_chunk (fs, chunk, logical) == -1)
    return -1;
  fs->next = logical + length;
  chunk->counted += length;
  return 0;
}

static int
extent_tree_item (struct btrfs *fs, const struct btrfs_item *item)
{
  switch (item->key.type) {
  case BTRFS_EXTENT_ITEM:
  case BTRFS_METADATA_ITEM:
    return use_extent (fs, item);
  case BTRFS_BLOCK_GROUP_ITEM:
    if (has_group_tree (fs))
      return refuse (fs->reading,
                     "the extent tree and another have block groups");
    return read_block_group (fs, item);
  case BTRFS_TREE_BLOCK_REF:
  case BTRFS_EXTENT_DATA_REF:
  case BTRFS_SHARED_BLOCK_REF:
  case BTRFS_SHARED_DATA_REF:
    return 0;
  default:
    return refuse (fs->reading, "the extent tree has an item of type %u",
                   item->key.type);
  }
}

static int
read_extent_tree (struct btrfs *fs)
{
  const struct btrfs_tree tree = { .name = "the extent tree",
                                   .owner = BTRFS_EXTENT_TREE,
                                   .root = fs->extent_root,
                                   .item = extent_tree_item };

  if (btrfs_walk (fs, &tree) == -1)
    return -1;
  return leave_chunks (fs, UINT64_MAX);
}

/* --- agreement -------------------------------------------------------------
 */

static int
check_counts (struct btrfs *fs)
{
  uint64_t total = 0;

  for (const struct btrfs_chunk *c = fs->chunks;
       c < fs->chunks + fs->chunk_count; c++) {
    if (!c->has_group)
      return refuse (fs->reading, "chunk %" PRIu64 " has no block group",
                     c->logical);
    if (c->counted != c->used)
      return refuse (fs->reading,
                     "block group %" PRIu64 ": extents have %" PRIu64
                     " bytes, but it says %" PRIu64,
                     c->logical, c->counted, c->used);
    total += c->used;
  }
  if (total != le64toh (fs->super.bytes_used))
    return refuse (fs->reading,
                   "extents have %" PRIu64
                   " bytes, but the superblock says %" PRIu64,
                   total, le64toh (fs->super.bytes_used));
  return 0;
}

/* LENGTH bytes from OFFSET on touch an extent of the settled MAP. */
static bool
touches (const struct freemap *map, uint64_t offset, uint64_t length)
{
  size_t low = 0, high = map->count;

  while (low < high) { /* the first that ends behind OFFSET */
    const size_t middle = low + (high - low) / 2;
    const struct extent *e = &map->extents[middle];
    if (e->offset + e->length <= offset)
      low = middle + 1;
    else
      high = middle;
  }
  return low < map->count && map->extents[low].offset < offset + length;
}

/* The tree blocks that are known are in no free space. */
static int
check_known (struct btrfs *fs)
{
  freemap_settle (fs->reading->free);
  for (size_t i = 0; i < fs->known_count; i++) {
    const uint64_t logical = fs->known[i];
    const struct btrfs_chunk *chunk
        = btrfs_chunk_at (fs, logical, fs->nodesize);
    if (chunk == NULL)
      return refuse (fs->reading, "tree block %" PRIu64 " is in no chunk",
                     logical);
    for (unsigned copy = 0; copy < chunk->copies; copy++)
      if (touches (fs->reading->free,
                   chunk->physical[copy] + (logical - chunk->logical),
                   fs->nodesize))
        return refuse (fs->reading, "tree block %" PRIu64 " has no extent",
                       logical);
  }
  return 0;
}

static int
read_all (struct btrfs *fs)
{
  if (read_superblock (fs) == -1 || btrfs_read_system_chunks (fs) == -1
      || btrfs_read_chunk_tree (fs) == -1 || read_root_tree (fs) == -1
      || btrfs_read_dev_tree (fs) == -1 || free_between_chunks (fs) == -1
      || read_group_tree (fs) == -1 || read_extent_tree (fs) == -1
      || check_counts (fs) == -1 || btrfs_check_free_tree (fs) == -1)
    return -1;
  return check_known (fs);
}

static int
read_btrfs (struct reading *reading)
{
  struct btrfs fs = { .reading = reading };
  const int r = read_all (&fs);

  free (fs.blocks);
  free (fs.chunks);
  free (fs.copies);
  free (fs.known);
  return r;
}

const struct reader reader_btrfs = {
  .name = "btrfs",
  .types = (const char *const[]){ "btrfs", NULL },
  .read = read_btrfs,
};
