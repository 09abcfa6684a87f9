/* SPDX-License-Identifier: BSD-3-Clause */
/* The free space tree of btrfs says of each block group what the extent tree
 * says, the other way round: which runs of it no extent has.  An extent item
 * that is at the wrong place in its chunk leaves all counts as they are, but
 * not the runs.  So these are compared, where the tree is there and valid; if
 * it is not valid, the kernel does not believe it either and builds it anew.
 *
 * The superblock's mirrors are free in this tree as in the extent tree: it is
 * only in memory that the kernel takes them out.
 *
 * What is kept of the runs of a chunk is how many there are, how long they are
 * together, and a hash of where each begins and ends.
 */

#include "btrfs.h"

#include <endian.h>
#include <inttypes.h>
#include <string.h>

/* The tree while it is walked. */
struct btrfs_free_walk {
  size_t chunks_seen;        /* of these, the last is where the walk is */
  struct btrfs_chunk *chunk; /* the last of them, or NULL */
  bool uses_bitmaps;
  uint32_t run_count;  /* what the chunk's item says */
  uint64_t next;       /* items have said everything before it */
  uint64_t begin, end; /* a run that may go on, or none: both are the same */
  struct btrfs_runs runs;
};

static uint64_t
mix (uint64_t hash, uint64_t value)
{
  hash = (hash ^ value) * UINT64_C (0x9e3779b97f4a7c15);
  return hash ^ hash >> 32;
}

void
btrfs_add_run (struct btrfs_runs *runs, uint64_t begin, uint64_t end)
{
  if (begin == end)
    return;
  runs->count++;
  runs->bytes += end - begin;
  runs->hash = mix (mix (runs->hash, begin), end);
}

static void
end_run (struct btrfs_free_walk *walk)
{
  btrfs_add_run (&walk->runs, walk->begin, walk->end);
  walk->begin = walk->end = 0;
}

/* These are free, too: the run goes on, or another begins. */
static void
go_on (struct btrfs_free_walk *walk, uint64_t begin, uint64_t end)
{
  if (walk->begin == walk->end || walk->end != begin) {
    end_run (walk);
    walk->begin = begin;
  }
  walk->end = end;
}

/* All of the chunk has been seen: compare it. */
static int
leave_chunk (struct btrfs *fs)
{
  struct btrfs_free_walk *walk = fs->free_walk;
  const struct btrfs_chunk *chunk = walk->chunk;

  if (chunk == NULL)
    return 0;
  end_run (walk);
  if (walk->uses_bitmaps && walk->next != chunk->logical + chunk->length)
    return refuse (fs->reading,
                   "the free space tree lacks a bitmap of block group %" PRIu64,
                   chunk->logical);
  if (walk->runs.count != walk->run_count)
    return refuse (fs->reading,
                   "the free space tree has %" PRIu64
                   " extents of block group %" PRIu64 ", but says %" PRIu32,
                   walk->runs.count, chunk->logical, walk->run_count);
  if (walk->runs.bytes != chunk->free.bytes
      || walk->runs.count != chunk->free.count
      || walk->runs.hash != chunk->free.hash)
    return refuse (fs->reading,
                   "the extent tree and the free space tree disagree on block"
                   " group %" PRIu64,
                   chunk->logical);
  return 0;
}

/* Each chunk has one such item, before its others. */
static int
enter_chunk (struct btrfs *fs, const struct btrfs_item *item)
{
  struct btrfs_free_walk *walk = fs->free_walk;
  struct btrfs_free_space_info info;

  if (leave_chunk (fs) == -1)
    return -1;
  if (walk->chunks_seen == fs->chunk_count || item->size != sizeof info)
    return refuse (fs->reading,
                   "the free space tree's block group %" PRIu64
                   " is not what it should be",
                   item->key.objectid);
  memcpy (&info, item->data, sizeof info);
  struct btrfs_chunk *chunk = &fs->chunks[walk->chunks_seen];
  const uint32_t flags = le32toh (info.flags);
  if (item->key.objectid != chunk->logical || item->key.offset != chunk->length)
    return refuse (fs->reading,
                   "the free space tree lacks block group %" PRIu64,
                   chunk->logical);
  if ((flags & ~BTRFS_FREE_SPACE_BITMAPS) != 0)
    return refuse (fs->reading,
                   "the free space tree has flags that are not known (0x%x)",
                   flags);
  *walk = (struct btrfs_free_walk){ .chunks_seen = walk->chunks_seen + 1,
                                    .chunk = chunk,
                                    .uses_bitmaps = flags != 0,
                                    .run_count = le32toh (info.extent_count),
                                    .next = chunk->logical };
  return 0;
}

static int
refuse_space (struct btrfs *fs, const struct btrfs_item *item)
{
  return refuse (fs->reading,
                 "the free space tree's item %" PRIu64 " is impossible",
                 item->key.objectid);
}

/* What the item is about lies in the chunk, behind the items before. */
static int
check_place (struct btrfs *fs, const struct btrfs_item *item)
{
  struct btrfs_free_walk *walk = fs->free_walk;
  const uint64_t begin = item->key.objectid, length = item->key.offset;
  const bool is_bitmap = item->key.type == BTRFS_FREE_SPACE_BITMAP;

  if (walk->chunk == NULL || is_bitmap != walk->uses_bitmaps || length == 0
      || begin % fs->sectorsize != 0 || length % fs->sectorsize != 0
      || begin < walk->next || (is_bitmap && begin != walk->next)
      || btrfs_chunk_at (fs, begin, length) != walk->chunk)
    return refuse_space (fs, item);
  walk->next = begin + length;
  return 0;
}

static int
use_extent (struct btrfs *fs, const struct btrfs_item *item)
{
  if (check_place (fs, item) == -1)
    return -1;
  if (item->size != 0)
    return refuse_space (fs, item);
  go_on (fs->free_walk, item->key.objectid,
         item->key.objectid + item->key.offset);
  return 0;
}

/* A bit for each sector, the lowest first; 1: it is free. */
static int
use_bitmap (struct btrfs *fs, const struct btrfs_item *item)
{
  const uint64_t sectors = item->key.offset / fs->sectorsize;
  uint64_t at = item->key.objectid;

  if (check_place (fs, item) == -1)
    return -1;
  if (item->size != sectors / 8 + (sectors % 8 != 0))
    return refuse_space (fs, item);
  for (uint64_t i = 0; i < sectors; at += fs->sectorsize) {
    if (i % 8 == 0 && item->data[i / 8] == 0) { /* often */
      at += UINT64_C (7) * fs->sectorsize;
      i += 8;
      continue;
    }
    if ((item->data[i / 8] >> i % 8 & 1) != 0)
      go_on (fs->free_walk, at, at + fs->sectorsize);
    i++;
  }
  return 0;
}

/* The item is about addresses between the last chunk seen and the next.  Some
 * versions of mkfs leave what was of the chunks that they began with; nobody
 * looks there.
 */
static bool
is_between_chunks (const struct btrfs *fs, const struct btrfs_key *key)
{
  const struct btrfs_free_walk *walk = fs->free_walk;
  const struct btrfs_chunk *last = walk->chunk;

  if (last != NULL && key->objectid < last->logical + last->length)
    return false;
  if (walk->chunks_seen == fs->chunk_count)
    return true;
  const uint64_t next = fs->chunks[walk->chunks_seen].logical;
  return key->objectid < next && key->offset <= next - key->objectid;
}

static int
free_tree_item (struct btrfs *fs, const struct btrfs_item *item)
{
  const bool is_stale = is_between_chunks (fs, &item->key);

  switch (item->key.type) {
  case BTRFS_FREE_SPACE_INFO:
    return is_stale ? 0 : enter_chunk (fs, item);
  case BTRFS_FREE_SPACE_EXTENT:
    return is_stale ? 0 : use_extent (fs, item);
  case BTRFS_FREE_SPACE_BITMAP:
    return is_stale ? 0 : use_bitmap (fs, item);
  default:
    return refuse (fs->reading, "the free space tree has an item of type %u",
                   item->key.type);
  }
}

int
btrfs_check_free_tree (struct btrfs *fs)
{
  const uint64_t valid
      = BTRFS_COMPAT_RO_FREE_TREE | BTRFS_COMPAT_RO_FREE_TREE_VALID;
  const struct btrfs_tree tree = { .name = "the free space tree",
                                   .owner = BTRFS_FREE_SPACE_TREE,
                                   .root = fs->free_root,
                                   .item = free_tree_item };
  struct btrfs_free_walk walk = {};

  if ((le64toh (fs->super.compat_ro) & valid) != valid)
    return 0;
  fs->free_walk = &walk;
  int r = btrfs_walk (fs, &tree);
  if (r == 0)
    r = leave_chunk (fs);
  fs->free_walk = NULL;
  if (r == 0 && walk.chunks_seen != fs->chunk_count)
    return refuse (fs->reading,
                   "the free space tree lacks block group %" PRIu64,
                   fs->chunks[walk.chunks_seen].logical);
  return r;
}
