/* SPDX-License-Identifier: BSD-3-Clause */
/* The btrees of free space.  A key of a node is the first record of the block
 * below it, and records and keys ascend: so no block can be visited twice, and
 * a walk comes to an end whatever is there.
 */

#include "xfs.h"

#include <endian.h>
#include <stdlib.h>
#include <string.h>

#define MAGIC_V4_BLOCK 0x41425442
#define MAGIC_V4_COUNT 0x41425443
#define MAGIC_V5_BLOCK 0x41423342
#define MAGIC_V5_COUNT 0x41423343

static const char *const names[]
    = { "free space by block", "free space by count" };

struct walk {
  struct xfs_group *group;
  struct xfs_records *records;
  const char *name;
  uint32_t magic;
  bool by_count;
  uint32_t depth;                    /* levels */
  uint8_t *blocks[XFS_LEVELS_MAX];   /* one of each level */
  uint32_t previous[XFS_LEVELS_MAX]; /* visited last on it */
  uint32_t awaited[XFS_LEVELS_MAX];  /* what that calls the next one */
};

static int
refuse_block (const struct walk *walk, uint32_t block, const char *what)
{
  return refuse (walk->group->xfs->reading,
                 "allocation group %u: block %u of the btree of %s %s",
                 walk->group->number, block, walk->name, what);
}

static struct xfs_record
record_of (const struct xfs_record *record)
{
  return (struct xfs_record){ .start = be32toh (record->start),
                              .count = be32toh (record->count) };
}

static bool
is_ascending (const struct walk *walk, struct xfs_record a, struct xfs_record b)
{
  if (!walk->by_count)
    return (uint64_t)a.start + a.count <= b.start;
  return a.count != b.count ? a.count < b.count : a.start < b.start;
}

static int
check_header (struct walk *walk, uint32_t block, uint32_t level)
{
  const struct xfs *xfs = walk->group->xfs;
  const struct xfs_btree *head = (const void *)walk->blocks[level];
  const uint64_t sector
      = ((uint64_t)walk->group->number * xfs->ag_blocks + block)
        * (xfs->block_size / 512);

  if (be32toh (head->magic) != walk->magic)
    return refuse_block (walk, block, "is none");
  if (xfs->v5
      && !xfs_is_summed (head, xfs->block_size,
                         offsetof (struct xfs_btree, crc)))
    return refuse_block (walk, block, "has a wrong checksum");
  if (xfs->v5
      && (be64toh (head->sector) != sector
          || be32toh (head->owner) != walk->group->number
          || memcmp (head->uuid, xfs->uuid, sizeof xfs->uuid) != 0))
    return refuse_block (walk, block, "belongs elsewhere");
  if (be16toh (head->level) != level)
    return refuse_block (walk, block, "is of another level");
  if (be32toh (head->left) != walk->previous[level]
      || block != walk->awaited[level])
    return refuse_block (walk, block, "has the wrong neighbours");
  walk->previous[level] = block;
  walk->awaited[level] = be32toh (head->right);
  return 0;
}

static size_t
header_size (const struct walk *walk)
{
  return walk->group->xfs->v5 ? sizeof (struct xfs_btree) : XFS_BTREE_SHORT;
}

static int
add_record (struct walk *walk, uint32_t block, struct xfs_record record)
{
  struct xfs_records *records = walk->records;

  if (record.count == 0 || record.start >= walk->group->blocks
      || record.count > walk->group->blocks - record.start)
    return refuse_block (walk, block, "has an extent out of bounds");
  if (records->count > 0
      && !is_ascending (walk, records->records[records->count - 1], record))
    return refuse_block (walk, block, "is not in order");
  if (records->count == records->room) {
    const size_t room = records->room == 0 ? 1024 : 2 * records->room;
    struct xfs_record *more
        = reallocarray (records->records, room, sizeof *more);
    if (more == NULL)
      return refuse (walk->group->xfs->reading, "no memory");
    records->records = more;
    records->room = room;
  }
  records->records[records->count++] = record;
  return 0;
}

static int read_block (struct walk *walk, uint32_t block, uint32_t level,
                       const struct xfs_record *key);

static int
read_children (struct walk *walk, uint32_t block, uint32_t level)
{
  const uint8_t *data = walk->blocks[level] + header_size (walk);
  const size_t most = (walk->group->xfs->block_size - header_size (walk))
                      / (sizeof (struct xfs_record) + sizeof (uint32_t));
  const size_t count
      = be16toh (((const struct xfs_btree *)walk->blocks[level])->count);

  if (count == 0 || count > most)
    return refuse_block (walk, block, "has an impossible number of keys");
  for (size_t i = 0; i < count; i++) {
    const struct xfs_record *keys = (const void *)data;
    const struct xfs_record key = record_of (&keys[i]);
    uint32_t child;
    memcpy (&child, data + most * sizeof *keys + i * sizeof child,
            sizeof child);
    if (read_block (walk, be32toh (child), level - 1, &key) == -1)
      return -1;
  }
  return 0;
}

static int
read_leaf (struct walk *walk, uint32_t block)
{
  const struct xfs_record *records
      = (const void *)(walk->blocks[0] + header_size (walk));
  const size_t most
      = (walk->group->xfs->block_size - header_size (walk)) / sizeof *records;
  const size_t count
      = be16toh (((const struct xfs_btree *)walk->blocks[0])->count);

  if (count > most || (count == 0 && walk->depth > 1))
    return refuse_block (walk, block, "has an impossible number of records");
  for (size_t i = 0; i < count; i++)
    if (add_record (walk, block, record_of (&records[i])) == -1)
      return -1;
  return 0;
}

/* KEY: what the first record in it must be; NULL for the root. */
static int
read_block (struct walk *walk, uint32_t block, uint32_t level,
            const struct xfs_record *key)
{
  const struct xfs *xfs = walk->group->xfs;

  if (block >= walk->group->blocks)
    return refuse_block (walk, block, "is out of bounds");
  if (reading_get (xfs->reading, "a block of a btree of free space",
                   walk->blocks[level], xfs->block_size,
                   ((uint64_t)walk->group->number * xfs->ag_blocks + block)
                       * xfs->block_size)
          == -1
      || check_header (walk, block, level) == -1)
    return -1;
  if (key != NULL) {
    const struct xfs_record first
        = record_of ((const void *)(walk->blocks[level] + header_size (walk)));
    if (first.start != key->start || first.count != key->count)
      return refuse_block (walk, block, "does not begin with its key");
  }
  walk->records->blocks++;
  if (xfs_use (walk->group, block) == -1)
    return -1;
  return level > 0 ? read_children (walk, block, level)
                   : read_leaf (walk, block);
}

static int
check_ends (const struct walk *walk)
{
  for (uint32_t i = 0; i < walk->depth; i++)
    if (walk->awaited[i] != XFS_NULL)
      return refuse_block (walk, walk->awaited[i], "is not in its parent");
  return 0;
}

static uint32_t
left_most (const struct walk *walk, uint32_t level)
{
  const uint8_t *data = walk->blocks[level] + header_size (walk);
  const size_t most = (walk->group->xfs->block_size - header_size (walk))
                      / (sizeof (struct xfs_record) + sizeof (uint32_t));
  uint32_t child;

  memcpy (&child, data + most * sizeof (struct xfs_record), sizeof child);
  return be32toh (child);
}

/* The first block of each level is whatever the level above says. */
static int
read_levels (struct walk *walk, uint32_t root)
{
  const struct xfs *xfs = walk->group->xfs;

  for (uint32_t i = 0; i < walk->depth; i++) {
    walk->blocks[i] = malloc (xfs->block_size);
    if (walk->blocks[i] == NULL)
      return refuse (xfs->reading, "no memory");
    walk->previous[i] = XFS_NULL;
  }
  uint32_t block = root;
  for (uint32_t i = walk->depth; i-- > 0;) {
    walk->awaited[i] = block;
    if (i == 0)
      break;
    if (block >= walk->group->blocks)
      return refuse_block (walk, block, "is out of bounds");
    if (reading_get (xfs->reading, "a block of a btree of free space",
                     walk->blocks[i], xfs->block_size,
                     ((uint64_t)walk->group->number * xfs->ag_blocks + block)
                         * xfs->block_size)
        == -1)
      return -1;
    block = left_most (walk, i);
  }
  return read_block (walk, root, walk->depth - 1, NULL) == -1
             ? -1
             : check_ends (walk);
}

int
xfs_read_btree (struct xfs_group *group, int which, struct xfs_records *records)
{
  struct walk walk = {
    .group = group,
    .records = records,
    .name = names[which],
    .by_count = which == XFS_BY_COUNT,
    .depth = be32toh (group->agf->levels[which]),
  };

  if (group->xfs->v5)
    walk.magic = walk.by_count ? MAGIC_V5_COUNT : MAGIC_V5_BLOCK;
  else
    walk.magic = walk.by_count ? MAGIC_V4_COUNT : MAGIC_V4_BLOCK;
  if (walk.depth == 0 || walk.depth > XFS_LEVELS_MAX)
    return refuse (group->xfs->reading,
                   "allocation group %u: the btree of %s has %u levels",
                   group->number, walk.name, walk.depth);
  const int r = read_levels (&walk, be32toh (group->agf->roots[which]));
  for (uint32_t i = 0; i < walk.depth; i++)
    free (walk.blocks[i]);
  return r;
}
