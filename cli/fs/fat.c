/* SPDX-License-Identifier: BSD-3-Clause */
/* FAT12, FAT16 and FAT32.
 *
 *   reserved sectors    the boot sector; of FAT32 also FSINFO and a backup
 *   the FAT             once or more; one value for each cluster
 *   the root directory  of FAT12 and FAT16 only
 *   clusters            number 2 first
 *
 * A cluster whose value is 0 is free.  There are no checksums, so what is there
 * twice must agree: the copies of the FAT, the two boot sectors, FSINFO's
 * count of free clusters.  And the directory tree is walked: each file must
 * have the chain of clusters that its size asks for, no two share one, and
 * each cluster with a value must have been met.  So a wrong bit in the FAT or a
 * wrong size of a cluster shows up.  That costs a read for each directory.
 *
 * FSINFO's count is a hint that Linux leaves behind wrong where it was not
 * unmounted; but then the file system is marked as in use, too.  One that is
 * wrong without this mark says that somebody else was, and it may have been
 * the FAT that he did not finish.
 *
 * What is not a whole cluster is kept: the sectors behind the last one, too.
 */

#include "bytes.h"
#include "reader.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define SECTOR_MAX 4096
#define PIECE 65536
#define ENTRY 32 /* bytes, in a directory */

/* By their number of clusters. */
#define FAT12_MAX 4084
#define FAT16_MAX 65524
#define FAT32_MAX 0x0ffffff5

/* Values of clusters, as those of FAT32. */
#define FREE 0U
#define BAD 0x0ffffff7U
#define END 0x0fffffffU
#define MET (1U << 31) /* added: a file has it */

#define ATTRIBUTE_LABEL 0x08 /* or a part of a long name */
#define ATTRIBUTE_DIRECTORY 0x10

struct boot {
  uint8_t jump[3], oem[8];
  uint8_t sector_bytes[2];
  uint8_t cluster_sectors;
  uint8_t reserved_sectors[2];
  uint8_t fats;
  uint8_t root_entries[2];
  uint8_t sectors16[2];
  uint8_t media;
  uint8_t fat_sectors16[2];
  uint8_t geometry[4], hidden[4];
  uint8_t sectors32[4];
  /* From here on FAT12 and FAT16 have something else; see STATE16. */
  uint8_t fat_sectors32[4];
  uint8_t flags[2];
  uint8_t version[2];
  uint8_t root[4];
  uint8_t info[2];
  uint8_t backup[2];
  uint8_t unused[12];
  uint8_t drive;
  uint8_t state; /* of FAT32 */
  uint8_t rest[444];
  uint8_t signature[2];
};

_Static_assert(sizeof (struct boot) == 512, "it is a sector");

#define STATE16 0x25
#define STATE_BITS 3 /* in use; damaged */
#define BPB_FIRST 0x0b
#define BPB_END 0x40

struct info {
  uint8_t lead[4], unused[480];
  uint8_t middle[4], free[4], next[4];
  uint8_t unused2[12], trail[4];
};

_Static_assert(sizeof (struct info) == 512, "it is a sector");

struct directory {
  uint32_t first;  /* cluster; 0: the root directory's */
  uint32_t parent; /* the same */
};

struct fat {
  struct reading *reading;
  struct boot boot;
  unsigned bits;             /* 12, 16, 32 */
  uint32_t sector;           /* bytes */
  uint32_t cluster;          /* bytes */
  uint32_t end;              /* the number behind the last cluster's */
  uint64_t start, fat_bytes; /* of the first FAT */
  uint64_t root, root_bytes; /* of FAT12 and FAT16 */
  uint64_t clusters;         /* offset */
  unsigned fats, active;
  uint32_t *values;              /* END of them */
  uint8_t *buffer;               /* a cluster, or the root directory's piece */
  struct directory *directories; /* to be walked */
  size_t count, room;
  uint32_t used, met; /* clusters */
};

static bool
is_power (uint32_t n)
{
  return n != 0 && (n & (n - 1)) == 0;
}

/* --- the boot sector -------------------------------------------------------
 */

static int
check_state (struct fat *fat)
{
  const uint8_t state = fat->bits == 32
                            ? fat->boot.state
                            : ((const uint8_t *)&fat->boot)[STATE16];

  if (state & STATE_BITS)
    return refuse (fat->reading, "it was not unmounted, or is damaged: the "
                                 "boot sector says so");
  return 0;
}

/* Sizes of things that are as the specification says. */
static int
check_boot (struct fat *fat)
{
  const struct boot *boot = &fat->boot;
  const uint32_t sectors16 = number16 (boot->sectors16),
                 sectors32 = number32 (boot->sectors32);

  if (number16 (boot->signature) != 0xaa55)
    return refuse (fat->reading, "the boot sector has no signature");
  fat->sector = number16 (boot->sector_bytes);
  if (!is_power (fat->sector) || fat->sector < 512 || fat->sector > SECTOR_MAX
      || !is_power (boot->cluster_sectors))
    return refuse (fat->reading, "the boot sector has a size of sectors or "
                                 "clusters that cannot be");
  if (boot->fats == 0 || number16 (boot->reserved_sectors) == 0)
    return refuse (fat->reading, "the boot sector knows of no FAT");
  if (boot->media != 0xf0 && boot->media < 0xf8)
    return refuse (fat->reading, "the boot sector's medium is unknown");
  if (sectors16 != 0 && sectors32 != 0 && sectors16 != sectors32)
    return refuse (fat->reading, "the boot sector has two sizes");
  fat->cluster = fat->sector * boot->cluster_sectors;
  fat->fats = boot->fats;
  fat->reading->size
      = (uint64_t)(sectors16 != 0 ? sectors16 : sectors32) * fat->sector;
  if (fat->reading->size > fat->reading->source->size)
    return refuse (fat->reading, "it is larger than what it is on");
  return 0;
}

/* What FAT12 and FAT16 have, and FAT32 has not, tells them apart; mkfs.fat
 * makes FAT32 with fewer clusters than the specification asks for, and there
 * is no other way to read it.
 */
static int
find_type (struct fat *fat, uint64_t clusters)
{
  const struct boot *boot = &fat->boot;

  if (fat->bits == 32) {
    if (number16 (boot->sectors16) != 0 || number16 (boot->version) != 0
        || number16 (boot->root_entries) != 0)
      return refuse (fat->reading, "the boot sector is neither FAT16's nor "
                                   "FAT32's, or of a newer version");
    return clusters <= FAT32_MAX
               ? 0
               : refuse (fat->reading, "there are too many clusters");
  }
  if (fat->root_bytes == 0 || fat->root_bytes % fat->sector != 0)
    return refuse (fat->reading, "the root directory's size cannot be");
  if (clusters > FAT16_MAX)
    return refuse (fat->reading, "there are too many clusters for FAT16");
  fat->bits = clusters <= FAT12_MAX ? 12 : 16;
  return 0;
}

static int
lay_out (struct fat *fat)
{
  const struct boot *boot = &fat->boot;
  const uint32_t sectors = number16 (boot->fat_sectors16);

  fat->bits = sectors == 0 ? 32 : 16;
  fat->fat_bytes
      = (uint64_t)(sectors != 0 ? sectors : number32 (boot->fat_sectors32))
        * fat->sector;
  fat->start = (uint64_t)number16 (boot->reserved_sectors) * fat->sector;
  fat->root = fat->start + fat->fats * fat->fat_bytes;
  fat->root_bytes = (uint64_t)number16 (boot->root_entries) * ENTRY;
  fat->clusters = fat->root + fat->root_bytes;
  if (fat->clusters >= fat->reading->size)
    return refuse (fat->reading, "there is no room for clusters");
  const uint64_t clusters = (fat->reading->size - fat->clusters) / fat->cluster;
  if (clusters == 0)
    return refuse (fat->reading, "there are no clusters");
  if (find_type (fat, clusters) == -1)
    return -1;
  fat->end = (uint32_t)clusters + 2;
  if (((uint64_t)fat->end * fat->bits + 7) / 8 > fat->fat_bytes)
    return refuse (fat->reading, "the FAT is too small for the clusters");
  return 0;
}

/* Of FAT32. */
static int
check_backup (struct fat *fat)
{
  const uint32_t sector = number16 (fat->boot.backup);
  uint8_t backup[sizeof fat->boot];

  if (sector == 0 || sector == 0xffff)
    return 0;
  if (sector >= number16 (fat->boot.reserved_sectors))
    return refuse (fat->reading, "the backup boot sector is out of place");
  if (reading_get (fat->reading, "the backup boot sector", backup,
                   sizeof backup, (uint64_t)sector * fat->sector)
      == -1)
    return -1;
  /* Labels and serial numbers are changed in one of them by some tools. */
  if (memcmp (backup + BPB_FIRST, (const uint8_t *)&fat->boot + BPB_FIRST,
              BPB_END - BPB_FIRST)
          != 0
      || backup[510] != 0x55 || backup[511] != 0xaa)
    return refuse (fat->reading, "the backup boot sector differs");
  return 0;
}

/* Which copy of the FAT counts; all must be equal, but where FAT32 says that
 * one alone is written.
 */
static int
check_flags (struct fat *fat)
{
  const uint32_t flags = fat->bits == 32 ? number16 (fat->boot.flags) : 0;

  if (!(flags & 0x80))
    return 0;
  fat->active = flags & 0xf;
  if (fat->active >= fat->fats)
    return refuse (fat->reading, "the active FAT does not exist");
  fat->start += fat->active * fat->fat_bytes;
  fat->fats = 1;
  return 0;
}

static int
open_fat (struct fat *fat)
{
  if (reading_get (fat->reading, "the boot sector", &fat->boot,
                   sizeof fat->boot, 0)
          == -1
      || check_boot (fat) == -1 || lay_out (fat) == -1
      || check_state (fat) == -1)
    return -1;
  if (fat->bits == 32 && check_backup (fat) == -1)
    return -1;
  return check_flags (fat);
}

/* --- the FAT ---------------------------------------------------------------
 */

/* COUNT bytes of the FAT, and the same of all its copies. */
static int
get_fat (struct fat *fat, uint8_t *piece, size_t count, uint64_t offset)
{
  uint8_t *copy = piece + PIECE;

  if (reading_get (fat->reading, "the FAT", piece, count, fat->start + offset)
      == -1)
    return -1;
  for (unsigned i = 1; i < fat->fats; i++) {
    if (reading_get (fat->reading, "a copy of the FAT", copy, count,
                     fat->start + i * fat->fat_bytes + offset)
        == -1)
      return -1;
    if (memcmp (piece, copy, count) != 0)
      return refuse (fat->reading, "the copies of the FAT differ");
  }
  return 0;
}

/* The value of number I in this piece, as one of FAT32. */
static uint32_t
value_of (const struct fat *fat, const uint8_t *piece, size_t i)
{
  uint32_t value;

  switch (fat->bits) {
  case 12:
    value = number16 (piece + i + i / 2);
    value = i % 2 == 0 ? value & 0xfff : value >> 4;
    return value >= 0xff7 ? value | 0x0ffff000 : value;
  case 16:
    value = number16 (piece + 2 * i);
    return value >= 0xfff7 ? value | 0x0fff0000 : value;
  default:
    return number32 (piece + 4 * i) & 0x0fffffff; /* four bits are reserved */
  }
}

/* The first two values are no clusters'. */
static int
check_first (struct fat *fat)
{
  const uint32_t first = fat->values[0]
                         | (fat->bits == 12   ? 0x0ffff000
                            : fat->bits == 16 ? 0x0fff0000
                                              : 0);
  uint32_t second = fat->values[1];
  const uint32_t clean = fat->bits == 16 ? 0x8000 : 0x08000000;
  const uint32_t no_errors = clean >> 1;

  if (first != (0x0fffff00U | fat->boot.media))
    return refuse (fat->reading, "the FAT does not begin with the medium");
  if (fat->bits != 12 && !(second & clean))
    return refuse (fat->reading, "it was not unmounted: the FAT says so");
  if (fat->bits != 12 && !(second & no_errors))
    return refuse (fat->reading, "it had errors: the FAT says so");
  if (second <= BAD)
    return refuse (fat->reading, "the FAT's second value cannot be");
  return 0;
}

static int
take_value (struct fat *fat, uint32_t number, uint32_t value)
{
  if (number >= 2 && value != FREE && value < BAD
      && (value < 2 || value >= fat->end))
    return refuse (fat->reading,
                   "cluster %" PRIu32 " is followed by %" PRIu32
                   ", which does not exist",
                   number, value);
  if (number >= 2 && value > BAD)
    value = END;
  if (number >= 2 && value != FREE && value != BAD)
    fat->used++;
  fat->values[number] = value;
  return 0;
}

static int
read_values (struct fat *fat)
{
  uint8_t *piece = malloc (2 * (size_t)PIECE);
  int r = 0;

  fat->values = calloc (fat->end, sizeof *fat->values);
  if (piece == NULL || fat->values == NULL)
    r = refuse (fat->reading, "no memory");
  /* All values of FAT12 are in one piece. */
  const uint32_t per_piece = PIECE * 8 / 32;
  for (uint32_t n = 0; r == 0 && n < fat->end; n += per_piece) {
    const uint32_t count = fat->end - n < per_piece ? fat->end - n : per_piece;
    r = get_fat (fat, piece, ((size_t)count * fat->bits + 7) / 8,
                 (uint64_t)n * fat->bits / 8);
    for (uint32_t i = 0; r == 0 && i < count; i++)
      r = take_value (fat, n + i, value_of (fat, piece, i));
  }
  free (piece);
  return r == 0 ? check_first (fat) : -1;
}

/* --- the directories -------------------------------------------------------
 */

/* All clusters from FIRST on are a file's.  The number of them, or -1. */
static int64_t
meet (struct fat *fat, uint32_t first)
{
  int64_t count = 0;

  for (uint32_t n = first; n != END; count++) {
    if (n < 2 || n >= fat->end)
      return refuse (
          fat->reading,
          "a file begins in cluster %" PRIu32 ", which does not exist", n);
    const uint32_t value = fat->values[n];
    if (value == FREE || value == BAD)
      return refuse (fat->reading,
                     "a file has cluster %" PRIu32 ", which is free or bad", n);
    if (value & MET)
      return refuse (fat->reading, "cluster %" PRIu32 " has two owners", n);
    fat->values[n] |= MET;
    fat->met++;
    n = value;
  }
  return count;
}

/* Walk the directory at FIRST later. */
static int
push (struct fat *fat, uint32_t first, uint32_t parent)
{
  if (fat->count == fat->room) {
    const size_t room = fat->room == 0 ? 256 : 2 * fat->room;
    struct directory *more
        = reallocarray (fat->directories, room, sizeof *more);
    if (more == NULL)
      return refuse (fat->reading, "no memory");
    fat->directories = more;
    fat->room = room;
  }
  fat->directories[fat->count++] = (struct directory){ first, parent };
  return 0;
}

/* "." and "..", which lead to itself and its parent. */
static int
check_dots (struct fat *fat, const struct directory *directory,
            const uint8_t *entry, uint32_t first)
{
  const uint32_t expected
      = entry[1] == '.' ? directory->parent : directory->first;

  if (first != expected || !(entry[11] & ATTRIBUTE_DIRECTORY))
    return refuse (fat->reading,
                   "the directory in cluster %" PRIu32 " is not one",
                   directory->first);
  return 0;
}

static int
take_entry (struct fat *fat, const struct directory *directory,
            const uint8_t *entry)
{
  const uint32_t high = fat->bits == 32 ? number16 (entry + 20) : 0;
  const uint32_t first = number16 (entry + 26) | high << 16;
  const uint64_t size = number32 (entry + 28);

  if (entry[0] == 0xe5 || (entry[11] & ATTRIBUTE_LABEL))
    return 0;
  if (entry[0] == '.')
    return check_dots (fat, directory, entry, first);
  const int64_t count = first != 0 ? meet (fat, first) : 0;
  if (count == -1)
    return -1;
  if (entry[11] & ATTRIBUTE_DIRECTORY)
    return count > 0 ? push (fat, first, directory->first)
                     : refuse (fat->reading, "a directory has no clusters");
  if ((uint64_t)count != (size + fat->cluster - 1) / fat->cluster)
    return refuse (fat->reading,
                   "a file has %" PRIu64 " bytes and %" PRIi64 " clusters",
                   size, count);
  return 0;
}

/* 1: that was the end of it; 0; or -1. */
static int
take_entries (struct fat *fat, const struct directory *directory,
              uint64_t offset, size_t bytes, bool begins)
{
  const uint8_t *entry = fat->buffer;

  if (reading_get (fat->reading, "a directory", fat->buffer, bytes, offset)
      == -1)
    return -1;
  if (begins && (entry[0] != '.' || entry[ENTRY] != '.'))
    return refuse (fat->reading,
                   "the directory in cluster %" PRIu32 " is not one",
                   directory->first);
  for (; entry < fat->buffer + bytes; entry += ENTRY) {
    if (entry[0] == 0)
      return 1;
    if (take_entry (fat, directory, entry) == -1)
      return -1;
  }
  return 0;
}

/* A directory that is a chain of clusters; IS_ROOT: it has no dots. */
static int
walk_chain (struct fat *fat, const struct directory *directory, uint32_t first,
            bool is_root)
{
  int r = 0;

  for (uint32_t n = first; r == 0 && n != END; n = fat->values[n] & ~MET)
    r = take_entries (fat, directory,
                      fat->clusters + (uint64_t)(n - 2) * fat->cluster,
                      fat->cluster, !is_root && n == first);
  return r == -1 ? -1 : 0;
}

static int
walk_root (struct fat *fat)
{
  const struct directory root = { 0, 0 };
  const uint32_t first = number32 (fat->boot.root);
  int r = 0;

  if (fat->bits == 32)
    return meet (fat, first) == -1 ? -1 : walk_chain (fat, &root, first, true);
  for (uint64_t done = 0; r == 0 && done < fat->root_bytes; done += fat->sector)
    r = take_entries (fat, &root, fat->root + done, fat->sector, false);
  return r == -1 ? -1 : 0;
}

static int
walk (struct fat *fat)
{
  fat->buffer = malloc (fat->cluster);
  if (fat->buffer == NULL)
    return refuse (fat->reading, "no memory");
  if (walk_root (fat) == -1)
    return -1;
  while (fat->count > 0) {
    const struct directory directory = fat->directories[--fat->count];
    if (walk_chain (fat, &directory, directory.first, false) == -1)
      return -1;
  }
  if (fat->met != fat->used)
    return refuse (fat->reading, "%" PRIu32 " clusters belong to no file",
                   fat->used - fat->met);
  return 0;
}

/* --- what is free ----------------------------------------------------------
 */

static int
check_info (struct fat *fat, uint32_t clusters)
{
  const uint32_t sector = number16 (fat->boot.info);
  struct info info;

  if (fat->bits != 32 || sector == 0 || sector == 0xffff)
    return 0;
  if (sector >= number16 (fat->boot.reserved_sectors))
    return refuse (fat->reading, "FSINFO is out of place");
  if (reading_get (fat->reading, "FSINFO", &info, sizeof info,
                   (uint64_t)sector * fat->sector)
      == -1)
    return -1;
  if (number32 (info.lead) != 0x41615252 || number32 (info.middle) != 0x61417272
      || number32 (info.trail) != 0xaa550000)
    return refuse (fat->reading, "FSINFO has no signature");
  const uint32_t free_count = number32 (info.free);
  if (free_count != 0xffffffff && free_count != clusters)
    return refuse (fat->reading,
                   "FSINFO has %" PRIu32 " free clusters, the FAT %" PRIu32,
                   free_count, clusters);
  return 0;
}

static int
tell_free (struct fat *fat)
{
  uint32_t clusters = 0;

  for (uint32_t n = 2; n < fat->end; n++) {
    if (fat->values[n] != FREE)
      continue;
    clusters++;
    if (reading_free (fat->reading,
                      fat->clusters + (uint64_t)(n - 2) * fat->cluster,
                      fat->cluster)
        == -1)
      return -1;
  }
  return check_info (fat, clusters);
}

static int
read_fat (struct reading *reading)
{
  struct fat fat = { .reading = reading };
  int r = -1;

  if (open_fat (&fat) == 0 && read_values (&fat) == 0 && walk (&fat) == 0)
    r = tell_free (&fat);
  free (fat.values);
  free (fat.buffer);
  free (fat.directories);
  return r;
}

const struct reader reader_fat = {
  .name = "vfat",
  .types = (const char *const[]){ "vfat", NULL },
  .read = read_fat,
};
