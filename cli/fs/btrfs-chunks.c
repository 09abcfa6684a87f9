/* SPDX-License-Identifier: BSD-3-Clause */
/* Chunks of btrfs: pieces of the logical address space, and where they are on
 * the device.  To read the chunk tree one must know where it is, so the
 * superblock has a copy of those chunks that this tree itself is in.  The
 * device tree says the same the other way round, what each piece of the device
 * is for: both must agree on every byte.
 */

#include "btrfs.h"

#include <endian.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* The chunk tree's chunks, while the tree is read by the superblock's. */
struct btrfs_chunk_list {
  struct btrfs_chunk *chunks;
  size_t count, room;
};

struct btrfs_chunk *
btrfs_chunk_at (const struct btrfs *fs, uint64_t logical, uint64_t length)
{
  size_t low = 0, high = fs->chunk_count;

  while (low < high) { /* the first that ends behind LOGICAL */
    const size_t middle = low + (high - low) / 2;
    const struct btrfs_chunk *c = &fs->chunks[middle];
    if (c->logical + c->length <= logical)
      low = middle + 1;
    else
      high = middle;
  }
  if (low == fs->chunk_count)
    return NULL;
  struct btrfs_chunk *chunk = &fs->chunks[low];
  if (chunk->logical > logical
      || length > chunk->length - (logical - chunk->logical))
    return NULL;
  return chunk;
}

/* LENGTH, not 0, from OFFSET on are whole sectors that lie below LIMIT. */
static bool
are_sectors (const struct btrfs *fs, uint64_t offset, uint64_t length,
             uint64_t limit)
{
  return length > 0 && offset % fs->sectorsize == 0
         && length % fs->sectorsize == 0 && offset < limit
         && length <= limit - offset;
}

/* From an item of SIZE bytes, or more: *USED says how many it has. */
static int
parse_chunk (struct btrfs *fs, const struct btrfs_key *key, const uint8_t *data,
             size_t size, struct btrfs_chunk *chunk, size_t *used)
{
  struct btrfs_chunk_item item;

  if (size < sizeof item)
    return refuse (fs->reading, "chunk %" PRIu64 " is too short", key->offset);
  memcpy (&item, data, sizeof item);
  *chunk = (struct btrfs_chunk){ .logical = key->offset,
                                 .length = le64toh (item.length),
                                 .type = le64toh (item.type) };
  const uint64_t profile
      = chunk->type & ~(BTRFS_DATA | BTRFS_SYSTEM | BTRFS_METADATA);
  chunk->copies = profile == BTRFS_DUP ? 2 : 1;
  if (profile != 0 && profile != BTRFS_DUP)
    return refuse (fs->reading, "chunk %" PRIu64 " is neither single nor dup",
                   key->offset);
  if (profile == chunk->type || key->objectid != BTRFS_FIRST_CHUNK_TREE
      || !are_sectors (fs, chunk->logical, chunk->length, UINT64_MAX)
      || le16toh (item.num_stripes) != chunk->copies)
    return refuse (fs->reading, "chunk %" PRIu64 " is not what it should be",
                   key->offset);
  *used = sizeof item + chunk->copies * sizeof (struct btrfs_stripe);
  if (size < *used)
    return refuse (fs->reading, "chunk %" PRIu64 " is too short", key->offset);
  for (unsigned i = 0; i < chunk->copies; i++) {
    struct btrfs_stripe stripe;
    memcpy (&stripe, data + sizeof item + i * sizeof stripe, sizeof stripe);
    chunk->physical[i] = le64toh (stripe.offset);
    if (le64toh (stripe.devid) != fs->devid
        || memcmp (stripe.dev_uuid, fs->super.dev_item.uuid, 16) != 0)
      return refuse (fs->reading, "chunk %" PRIu64 " is on another device",
                     key->offset);
    if (!are_sectors (fs, chunk->physical[i], chunk->length, fs->reading->size))
      return refuse (fs->reading,
                     "chunk %" PRIu64 " does not lie within the device",
                     key->offset);
  }
  return 0;
}

static int
add_chunk (struct btrfs *fs, struct btrfs_chunk_list *to,
           const struct btrfs_chunk *chunk)
{
  void *list = to->chunks;

  if (to->count > 0) {
    const struct btrfs_chunk *last = &to->chunks[to->count - 1];
    if (last->logical + last->length > chunk->logical)
      return refuse (fs->reading, "chunk %" PRIu64 " overlaps another",
                     chunk->logical);
  }
  if (btrfs_room (fs->reading, &list, &to->room, to->count, sizeof *chunk)
      == -1)
    return -1;
  to->chunks = list;
  to->chunks[to->count++] = *chunk;
  return 0;
}

static int
by_logical (const void *left, const void *right)
{
  const struct btrfs_chunk *a = left, *b = right;

  return a->logical < b->logical ? -1 : a->logical > b->logical;
}

/* The array is not always in order.  There are at most 2048 bytes of it. */
int
btrfs_read_system_chunks (struct btrfs *fs)
{
  const uint8_t *next = fs->super.sys_chunk_array;
  size_t left = le32toh (fs->super.sys_chunk_array_size), count = 0, used;
  struct btrfs_chunk chunks[sizeof fs->super.sys_chunk_array
                            / sizeof (struct btrfs_chunk_item)];
  struct btrfs_chunk_list list = {};
  int r = 0;

  if (left > sizeof fs->super.sys_chunk_array)
    return refuse (fs->reading, "the superblock's chunks are too many");
  while (left > 0) {
    struct btrfs_disk_key disk;
    if (left < sizeof disk)
      return refuse (fs->reading, "the superblock's chunks are cut off");
    memcpy (&disk, next, sizeof disk);
    const struct btrfs_key key = btrfs_key_of (&disk);
    next += sizeof disk;
    left -= sizeof disk;
    if (parse_chunk (fs, &key, next, left, &chunks[count], &used) == -1)
      return -1;
    if (key.type != BTRFS_CHUNK_ITEM
        || (chunks[count++].type & BTRFS_SYSTEM) == 0)
      return refuse (fs->reading,
                     "a chunk in the superblock is not the system's");
    next += used;
    left -= used;
  }
  qsort (chunks, count, sizeof *chunks, by_logical);
  for (size_t i = 0; i < count && r == 0; i++)
    r = add_chunk (fs, &list, &chunks[i]);
  fs->chunks = list.chunks;
  fs->chunk_count = list.count;
  return r;
}

/* --- the chunk tree --------------------------------------------------------
 */

/* This device is the only one, and the superblock says the same of it. */
static int
check_dev_item (struct btrfs *fs, const struct btrfs_item *item)
{
  const struct btrfs_dev_item *super = &fs->super.dev_item;
  struct btrfs_dev_item device;

  if (item->size < sizeof device)
    return refuse (fs->reading, "the device's item is too short");
  memcpy (&device, item->data, sizeof device);
  if (fs->has_dev_item || item->key.objectid != BTRFS_DEV_ITEMS
      || item->key.offset != fs->devid || device.devid != super->devid
      || memcmp (device.uuid, super->uuid, sizeof device.uuid) != 0)
    return refuse (fs->reading, "there are other devices");
  if (device.total_bytes != super->total_bytes
      || device.bytes_used != super->bytes_used)
    return refuse (fs->reading,
                   "the superblock and the chunk tree disagree on the device");
  fs->has_dev_item = true;
  return 0;
}

static int
chunk_tree_item (struct btrfs *fs, const struct btrfs_item *item)
{
  struct btrfs_chunk chunk;
  size_t used;

  if (item->key.type == BTRFS_DEV_ITEM)
    return check_dev_item (fs, item);
  if (item->key.type != BTRFS_CHUNK_ITEM)
    return refuse (fs->reading, "the chunk tree has an item of type %u",
                   item->key.type);
  if (parse_chunk (fs, &item->key, item->data, item->size, &chunk, &used) == -1)
    return -1;
  if (used != item->size)
    return refuse (fs->reading, "chunk %" PRIu64 " is too long", chunk.logical);
  return add_chunk (fs, fs->found, &chunk);
}

static bool
is_same_chunk (const struct btrfs_chunk *a, const struct btrfs_chunk *b)
{
  return a->logical == b->logical && a->length == b->length
         && a->type == b->type && a->physical[0] == b->physical[0]
         && a->physical[1] == b->physical[1];
}

/* Those in the superblock, which are in use until now, are the system's chunks
 * of the chunk tree, all of them.
 */
static int
compare_system_chunks (struct btrfs *fs, const struct btrfs_chunk_list *found)
{
  size_t next = 0;

  for (size_t i = 0; i < found->count; i++)
    if ((found->chunks[i].type & BTRFS_SYSTEM) != 0
        && (next == fs->chunk_count
            || !is_same_chunk (&found->chunks[i], &fs->chunks[next++])))
      return refuse (fs->reading, "the superblock and the chunk tree disagree"
                                  " on the system's chunks");
  if (next != fs->chunk_count)
    return refuse (fs->reading,
                   "the chunk tree lacks a chunk that the superblock has");
  return 0;
}

static int
by_physical (const void *left, const void *right)
{
  const struct btrfs_copy *a = left, *b = right;

  return a->physical < b->physical ? -1 : a->physical > b->physical;
}

/* All copies of all chunks, in the device's order. */
static int
list_copies (struct btrfs *fs)
{
  uint64_t total = 0;

  fs->copies = calloc (fs->chunk_count * 2 + 1, sizeof *fs->copies);
  if (fs->copies == NULL)
    return refuse (fs->reading, "no memory");
  for (const struct btrfs_chunk *c = fs->chunks;
       c < fs->chunks + fs->chunk_count; c++)
    for (unsigned i = 0; i < c->copies; i++)
      fs->copies[fs->copy_count++]
          = (struct btrfs_copy){ c->physical[i], c->length, c->logical };
  qsort (fs->copies, fs->copy_count, sizeof *fs->copies, by_physical);
  for (size_t i = 0; i < fs->copy_count; i++) {
    const struct btrfs_copy *c = &fs->copies[i];
    if (i + 1 < fs->copy_count && c->physical + c->length > c[1].physical)
      return refuse (fs->reading,
                     "chunks %" PRIu64 " and %" PRIu64 " overlap on the device",
                     c->logical, c[1].logical);
    total += c->length;
  }
  if (total != le64toh (fs->super.dev_item.bytes_used))
    return refuse (fs->reading,
                   "the chunks have %" PRIu64
                   " bytes, but the device says %" PRIu64,
                   total, le64toh (fs->super.dev_item.bytes_used));
  return 0;
}

int
btrfs_read_chunk_tree (struct btrfs *fs)
{
  const struct btrfs_tree tree
      = { .name = "the chunk tree",
          .owner = BTRFS_CHUNK_TREE,
          .root = { .bytenr = le64toh (fs->super.chunk_root),
                    .generation = le64toh (fs->super.chunk_root_generation),
                    .level = fs->super.chunk_root_level },
          .item = chunk_tree_item };
  struct btrfs_chunk_list found = {};

  fs->found = &found;
  int r = btrfs_walk (fs, &tree);
  fs->found = NULL;
  if (r == 0)
    r = compare_system_chunks (fs, &found);
  if (r == -1) {
    free (found.chunks);
    return -1;
  }
  free (fs->chunks);
  fs->chunks = found.chunks;
  fs->chunk_count = found.count;
  if (!fs->has_dev_item)
    return refuse (fs->reading, "the chunk tree does not know the device");
  return list_copies (fs);
}

/* --- the device tree -------------------------------------------------------
 */

static int
check_dev_extent (struct btrfs *fs, const struct btrfs_item *item)
{
  struct btrfs_dev_extent extent;

  if (item->size != sizeof extent || item->key.objectid != fs->devid)
    return refuse (fs->reading, "device extent %" PRIu64 " is another device's",
                   item->key.offset);
  memcpy (&extent, item->data, sizeof extent);
  const struct btrfs_copy *copy = &fs->copies[fs->copies_seen];
  if (fs->copies_seen == fs->copy_count || item->key.offset != copy->physical
      || le64toh (extent.length) != copy->length
      || le64toh (extent.chunk_offset) != copy->logical
      || le64toh (extent.chunk_tree) != BTRFS_CHUNK_TREE
      || le64toh (extent.chunk_objectid) != BTRFS_FIRST_CHUNK_TREE)
    return refuse (fs->reading,
                   "the device tree and the chunk tree disagree at %" PRIu64,
                   item->key.offset);
  fs->copies_seen++;
  return 0;
}

static int
dev_tree_item (struct btrfs *fs, const struct btrfs_item *item)
{
  struct btrfs_dev_replace replace;

  switch (item->key.type) {
  case BTRFS_DEV_EXTENT:
    return check_dev_extent (fs, item);
  case BTRFS_DEV_STATS:
    return 0;
  case BTRFS_DEV_REPLACE:
    if (item->size < sizeof replace)
      return refuse (fs->reading, "the device's replacement is cut off");
    memcpy (&replace, item->data, sizeof replace);
    if (le64toh (replace.state) == BTRFS_REPLACE_STARTED
        || le64toh (replace.state) == BTRFS_REPLACE_SUSPENDED)
      return refuse (fs->reading, "the device is being replaced");
    return 0;
  default:
    return refuse (fs->reading, "the device tree has an item of type %u",
                   item->key.type);
  }
}

int
btrfs_read_dev_tree (struct btrfs *fs)
{
  const struct btrfs_tree tree = { .name = "the device tree",
                                   .owner = BTRFS_DEV_TREE,
                                   .root = fs->dev_root,
                                   .item = dev_tree_item };

  if (btrfs_walk (fs, &tree) == -1)
    return -1;
  if (fs->copies_seen != fs->copy_count)
    return refuse (fs->reading, "the device tree lacks the chunk at %" PRIu64,
                   fs->copies[fs->copies_seen].physical);
  return 0;
}
