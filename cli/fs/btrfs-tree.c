/* SPDX-License-Identifier: BSD-3-Clause */
/* Trees of btrfs.  All are alike: a block is at a logical address, which a
 * chunk maps to the device; it carries a checksum of itself, its own address,
 * its level, its tree and the transaction that wrote it, and whoever points
 * to it knows the latter, its first key and its level, too.  So a block that
 * is stale, lost or another's is told from the right one.
 *
 * The walk ends: levels only go down, and as the first key of a block is the
 * key of the pointer to it, and keys ascend, no block is visited twice.
 */

#include "btrfs.h"

#include <endian.h>
#include <inttypes.h>
#include <isa-l/crc.h>
#include <stdlib.h>
#include <string.h>

/* A block as the one that points to it sees it. */
struct place {
  uint64_t bytenr, generation;
  uint8_t level;
  const struct btrfs_key *first; /* NULL: any, and it may be empty */
  const struct btrfs_key *end;   /* keys are less than this; NULL: any */
};

bool
btrfs_checksum_fits (const uint8_t *block, size_t size)
{
  /* The library asks for a pointer to what it does not change. */
  const union {
    const uint8_t *kept;
    uint8_t *taken;
  } p = { block + BTRFS_CHECKSUM_SIZE };
  uint32_t stored;

  memcpy (&stored, block, sizeof stored);
  return ~crc32_iscsi (p.taken, (int)(size - BTRFS_CHECKSUM_SIZE), UINT32_MAX)
         == le32toh (stored);
}

struct btrfs_key
btrfs_key_of (const struct btrfs_disk_key *key)
{
  return (struct btrfs_key){ .objectid = le64toh (key->objectid),
                             .type = key->type,
                             .offset = le64toh (key->offset) };
}

static int
compare_keys (const struct btrfs_key *a, const struct btrfs_key *b)
{
  if (a->objectid != b->objectid)
    return a->objectid < b->objectid ? -1 : 1;
  if (a->type != b->type)
    return a->type < b->type ? -1 : 1;
  if (a->offset != b->offset)
    return a->offset < b->offset ? -1 : 1;
  return 0;
}

int
btrfs_room (struct reading *reading, void **list, size_t *room, size_t count,
            size_t size)
{
  if (count < *room)
    return 0;
  const size_t more = *room == 0 ? 64 : *room * 2;
  void *larger = reallocarray (*list, more, size);
  if (larger == NULL)
    return refuse (reading, "no memory");
  *list = larger;
  *room = more;
  return 0;
}

int
btrfs_know (struct btrfs *fs, uint64_t bytenr)
{
  void *list = fs->known;

  if (btrfs_room (fs->reading, &list, &fs->known_room, fs->known_count,
                  sizeof *fs->known)
      == -1)
    return -1;
  fs->known = list;
  fs->known[fs->known_count++] = bytenr;
  return 0;
}

static int
refuse_block (struct btrfs *fs, const struct btrfs_tree *tree,
              const struct place *place, const char *what)
{
  return refuse (fs->reading, "%s: block %" PRIu64 ": %s", tree->name,
                 place->bytenr, what);
}

/* The size of what is listed after the header. */
static size_t
entry_size (uint8_t level)
{
  return level == 0 ? sizeof (struct btrfs_disk_item)
                    : sizeof (struct btrfs_pointer);
}

/* Both kinds of entries begin with one. */
static struct btrfs_key
key_at (const uint8_t *block, uint8_t level, uint32_t i)
{
  struct btrfs_disk_key key;

  memcpy (&key, block + sizeof (struct btrfs_header) + i * entry_size (level),
          sizeof key);
  return btrfs_key_of (&key);
}

/* It is the block that was looked for, and is whole. */
static int
check_header (struct btrfs *fs, const struct btrfs_tree *tree,
              const struct place *place, const struct btrfs_header *header)
{
  const char *wrong = NULL;

  if (le64toh (header->bytenr) != place->bytenr)
    wrong = "it is another one";
  else if (memcmp (header->fsid, fs->tree_fsid, 16) != 0)
    wrong = "it is another file system's";
  else if (fs->has_chunk_tree_uuid
           && memcmp (header->chunk_tree_uuid, fs->chunk_tree_uuid, 16) != 0)
    wrong = "it belongs to another chunk tree";
  else if (le64toh (header->generation) != place->generation
           || place->generation > fs->generation)
    wrong = "it is of another transaction";
  else if (le64toh (header->owner) != tree->owner)
    wrong = "it is another tree's";
  else if (header->level != place->level)
    wrong = "it is of another level";
  else if (le32toh (header->nritems)
           > (fs->nodesize - sizeof *header) / entry_size (place->level))
    wrong = "it has too many items";
  else if (header->nritems == 0 && (place->first != NULL || place->level != 0))
    wrong = "it is empty";
  return wrong == NULL ? 0 : refuse_block (fs, tree, place, wrong);
}

/* Keys ascend, and are what the parent says. */
static int
check_keys (struct btrfs *fs, const struct btrfs_tree *tree,
            const struct place *place, const uint8_t *block, uint32_t count)
{
  struct btrfs_key last;

  for (uint32_t i = 0; i < count; i++) {
    const struct btrfs_key key = key_at (block, place->level, i);
    if (i > 0 ? compare_keys (&key, &last) <= 0
              : place->first != NULL && compare_keys (&key, place->first) != 0)
      return refuse_block (fs, tree, place, "its keys are out of order");
    last = key;
  }
  if (count > 0 && place->end != NULL && compare_keys (&last, place->end) >= 0)
    return refuse_block (fs, tree, place, "it has keys that are not its own");
  return 0;
}

/* Items' data follow one another, backwards from the block's end, and end
 * behind the list of items.
 */
static int
check_items (struct btrfs *fs, const struct btrfs_tree *tree,
             const struct place *place, const uint8_t *block, uint32_t count)
{
  uint32_t end = fs->nodesize - (uint32_t)sizeof (struct btrfs_header);

  for (uint32_t i = 0; i < count; i++) {
    struct btrfs_disk_item item;
    memcpy (&item, block + sizeof (struct btrfs_header) + i * sizeof item,
            sizeof item);
    const uint32_t offset = le32toh (item.offset), size = le32toh (item.size);
    if (offset > end || end - offset != size || offset < count * sizeof item)
      return refuse_block (fs, tree, place, "its items overlap");
    end = offset;
  }
  return 0;
}

/* Read and check, into the level's block. */
static int
get_block (struct btrfs *fs, const struct btrfs_tree *tree,
           const struct place *place, uint32_t *count)
{
  uint8_t *block = fs->blocks + (size_t)place->level * fs->nodesize;
  struct btrfs_header header;

  const struct btrfs_chunk *chunk
      = btrfs_chunk_at (fs, place->bytenr, fs->nodesize);
  if (chunk == NULL || place->bytenr % fs->sectorsize != 0)
    return refuse_block (fs, tree, place, "there is no such address");
  if ((chunk->type & (BTRFS_METADATA | BTRFS_SYSTEM)) == 0)
    return refuse_block (fs, tree, place, "data are there");
  if (reading_get (fs->reading, tree->name, block, fs->nodesize,
                   chunk->physical[0] + (place->bytenr - chunk->logical))
      == -1)
    return -1;
  if (!btrfs_checksum_fits (block, fs->nodesize))
    return refuse_block (fs, tree, place, "its checksum is wrong");
  memcpy (&header, block, sizeof header);
  if (check_header (fs, tree, place, &header) == -1)
    return -1;
  *count = le32toh (header.nritems);
  if (!fs->has_chunk_tree_uuid) {
    memcpy (fs->chunk_tree_uuid, header.chunk_tree_uuid, 16);
    fs->has_chunk_tree_uuid = true;
  }
  if (check_keys (fs, tree, place, block, *count) == -1
      || (place->level == 0
          && check_items (fs, tree, place, block, *count) == -1))
    return -1;
  return btrfs_know (fs, place->bytenr);
}

static int
walk_leaf (struct btrfs *fs, const struct btrfs_tree *tree, uint32_t count)
{
  const uint8_t *list = fs->blocks + sizeof (struct btrfs_header);

  for (uint32_t i = 0; i < count; i++) {
    struct btrfs_disk_item disk;
    memcpy (&disk, list + i * sizeof disk, sizeof disk);
    const struct btrfs_item item = { .key = btrfs_key_of (&disk.key),
                                     .data = list + le32toh (disk.offset),
                                     .size = le32toh (disk.size) };
    if (tree->item (fs, &item) == -1)
      return -1;
  }
  return 0;
}

/* No deeper than there are levels. */
static int
walk_block (struct btrfs *fs, const struct btrfs_tree *tree,
            const struct place *place)
{
  const uint8_t *block = fs->blocks + (size_t)place->level * fs->nodesize;
  uint32_t count = 0;

  if (get_block (fs, tree, place, &count) == -1)
    return -1;
  if (place->level == 0)
    return walk_leaf (fs, tree, count);
  for (uint32_t i = 0; i < count; i++) {
    struct btrfs_pointer pointer;
    memcpy (&pointer, block + sizeof (struct btrfs_header) + i * sizeof pointer,
            sizeof pointer);
    const struct btrfs_key first = btrfs_key_of (&pointer.key);
    struct btrfs_key end = {};
    if (i + 1 < count)
      end = key_at (block, place->level, i + 1);
    const struct place child = { .bytenr = le64toh (pointer.bytenr),
                                 .generation = le64toh (pointer.generation),
                                 .level = (uint8_t)(place->level - 1),
                                 .first = &first,
                                 .end = i + 1 < count ? &end : place->end };
    if (walk_block (fs, tree, &child) == -1)
      return -1;
  }
  return 0;
}

int
btrfs_walk (struct btrfs *fs, const struct btrfs_tree *tree)
{
  if (tree->root.bytenr == 0)
    return refuse (fs->reading, "there is no root of %s", tree->name);
  if (tree->root.level >= BTRFS_LEVELS)
    return refuse (fs->reading, "%s has too many levels", tree->name);
  const struct place place = { .bytenr = tree->root.bytenr,
                               .generation = tree->root.generation,
                               .level = tree->root.level };
  return walk_block (fs, tree, &place);
}
