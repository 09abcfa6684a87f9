/* SPDX-License-Identifier: BSD-3-Clause */
/* What the parts of the reader of btrfs share. */

#ifndef FSSNAP_BTRFS_H
#define FSSNAP_BTRFS_H

#include "btrfs-format.h"
#include "reader.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Runs of free space, in order and apart from one another. */
struct btrfs_runs {
  uint64_t count, bytes, hash;
};

/* A piece of the logical address space, and where it is on the device. */
struct btrfs_chunk {
  uint64_t logical, length, type;
  unsigned copies;        /* one, or two: DUP */
  uint64_t physical[2];   /* of each copy */
  bool has_group;         /* its block group has been seen, */
  uint64_t used;          /* which says that so many bytes are used */
  uint64_t counted;       /* and that many are in extents, */
  struct btrfs_runs free; /* which leave these */
};

/* A copy of a chunk, as it lies on the device. */
struct btrfs_copy {
  uint64_t physical, length, logical;
};

struct btrfs_key {
  uint64_t objectid;
  uint8_t type;
  uint64_t offset;
};

struct btrfs_root {
  uint64_t bytenr, generation; /* bytenr 0: there is none */
  uint8_t level;
};

struct btrfs_chunk_list;
struct btrfs_free_walk;

/* One file system while it is read. */
struct btrfs {
  struct reading *reading;
  struct btrfs_super super; /* as it is on the disk */
  uint64_t generation, devid;
  uint32_t sectorsize, nodesize;
  const uint8_t *tree_fsid;    /* what tree blocks say that they belong to */
  uint8_t chunk_tree_uuid[16]; /* the chunk tree's root has it, */
  bool has_chunk_tree_uuid;    /* once it has been read */
  uint8_t *blocks;             /* a tree block for each level */

  struct btrfs_chunk *chunks; /* by logical address; none overlap */
  size_t chunk_count;
  struct btrfs_chunk_list *found; /* while the chunk tree is read */
  struct btrfs_copy *copies;      /* by physical address; none overlap */
  size_t copy_count;
  size_t copies_seen; /* by the device tree, in order */
  bool has_dev_item;

  struct btrfs_root extent_root, dev_root, group_root, free_root;

  /* Logical addresses of the tree blocks that are known to be used. */
  uint64_t *known;
  size_t known_count, known_room;

  /* The extent tree, while it is walked: what is before NEXT is settled. */
  size_t chunk_now; /* in which chunk it is */
  uint64_t next;

  struct btrfs_free_walk *free_walk; /* while the free space tree is read */
};

struct btrfs_item {
  struct btrfs_key key;
  const uint8_t *data;
  uint32_t size;
};

struct btrfs_tree {
  const char *name; /* "the chunk tree" */
  uint64_t owner;
  struct btrfs_root root;
  int (*item) (struct btrfs *fs, const struct btrfs_item *item);
};

/* The checksum of a superblock or tree block of SIZE bytes is right. */
bool btrfs_checksum_fits (const uint8_t *block, size_t size);

struct btrfs_key btrfs_key_of (const struct btrfs_disk_key *key);

/* Call TREE->item for each item, in order.  0, or -1 after refuse (). */
int btrfs_walk (struct btrfs *fs, const struct btrfs_tree *tree);

/* A tree block is there: it must turn out to be used.  0, or -1 after
 * refuse ().
 */
int btrfs_know (struct btrfs *fs, uint64_t bytenr);

/* Read the superblock's array of chunks, and then the chunk tree and the
 * device tree.  0, or -1 after refuse ().
 */
int btrfs_read_system_chunks (struct btrfs *fs);
int btrfs_read_chunk_tree (struct btrfs *fs);
int btrfs_read_dev_tree (struct btrfs *fs);

/* The chunk that LENGTH bytes from LOGICAL on lie in, or NULL. */
struct btrfs_chunk *btrfs_chunk_at (const struct btrfs *fs, uint64_t logical,
                                    uint64_t length);

/* From BEGIN to END, behind the runs so far, are free; none if both are the
 * same.
 */
void btrfs_add_run (struct btrfs_runs *runs, uint64_t begin, uint64_t end);

/* The free space tree, if there is one that is valid, says what the extent tree
 * has left in each chunk.  0, or -1 after refuse ().
 */
int btrfs_check_free_tree (struct btrfs *fs);

/* Room for one more than COUNT members of SIZE bytes, from malloc, in *LIST.
 * 0, or -1 after refuse ().
 */
int btrfs_room (struct reading *reading, void **list, size_t *room,
                size_t count, size_t size);

#endif
