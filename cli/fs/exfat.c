/* SPDX-License-Identifier: BSD-3-Clause */
/* exFAT.
 *
 *   boot region     twice; each has a checksum
 *   the FAT         what follows a cluster, where a file is not contiguous
 *   cluster heap    number 2 first
 *
 * The root directory leads to a bitmap of the clusters that are used.  It has
 * no checksum, so the directory tree is walked, whose entries have some: each
 * cluster that a file or a structure has must be marked as used, no two may
 * have the same, and what nobody has must not be marked, unless the FAT says
 * that it is bad.  So a wrong bit is found whatever it says.
 *
 * PercentInUse is no help: Linux does not keep it up to date, and it is not
 * part of the checksum.
 *
 * The backup of the boot region must be the same as the first.  TexFAT, which
 * has two FATs and two bitmaps, is refused.
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
#define UPCASE_MAX 131072
#define CLUSTERS_MAX 0xfffffff5

#define REGION_SECTORS 12 /* the last one has the checksum */

/* In the FAT. */
#define BAD 0xfffffff7
#define END 0xffffffff

/* Volume flags. */
#define SECOND_FAT 1
#define DIRTY 2
#define MEDIA_FAILURE 4

/* Directory entries. */
#define IN_USE 0x80
#define SECONDARY 0x40
#define BITMAP 0x81
#define UPCASE 0x82
#define LABEL 0x83
#define FILE_SET 0x85
#define VOLUME_GUID 0xa0
#define STREAM 0xc0
#define NAME 0xc1

/* Flags of a secondary entry. */
#define HAS_CLUSTERS 1
#define CONTIGUOUS 2 /* the FAT says nothing about them */

#define ATTRIBUTE_DIRECTORY 0x10

struct boot {
  uint8_t jump[3], name[8], zeros[53];
  uint8_t partition[8];
  uint8_t sectors[8];
  uint8_t fat_start[4], fat_sectors[4];
  uint8_t heap_start[4], clusters[4];
  uint8_t root[4], serial[4];
  uint8_t revision[2];
  uint8_t flags[2];
  uint8_t sector_shift, cluster_shift;
  uint8_t fats, drive, percent;
  uint8_t rest[397];
  uint8_t signature[2];
};

_Static_assert(sizeof (struct boot) == 512, "it is a sector");

/* Not part of the checksum: flags and percentage. */
#define IS_VOLATILE(i) ((i) == 106 || (i) == 107 || (i) == 112)

/* Clusters that belong to something. */
struct chain {
  uint32_t first;
  uint64_t count; /* 0: to the end, by the FAT; never so when CONTIGUOUS */
  bool contiguous;
};

/* A set of entries that is a file, while it is read. */
struct set {
  unsigned left;          /* entries to come */
  unsigned number;        /* of the next one */
  uint16_t checksum, sum; /* expected; so far */
  bool is_directory;
};

struct exfat {
  struct reading *reading;
  struct boot boot;
  uint32_t sector, cluster;  /* bytes */
  uint32_t end;              /* the number behind the last cluster's */
  uint64_t fat, heap;        /* offsets */
  uint8_t *bitmap;           /* as it is there; bit 0 is cluster 2 */
  uint8_t *met;              /* the same; what has an owner */
  uint8_t *piece;            /* PIECE bytes, of a directory */
  uint8_t *values;           /* a piece of the FAT; */
  uint64_t values_at;        /* and which, or UINT64_MAX */
  struct chain *directories; /* to be walked */
  size_t count, room;
  bool has_bitmap, has_upcase;
};

static bool
bit (const uint8_t *map, uint32_t cluster)
{
  return map[(cluster - 2) / 8] >> (cluster - 2) % 8 & 1;
}

static uint64_t
offset_of (const struct exfat *fs, uint32_t cluster)
{
  return fs->heap + (uint64_t)(cluster - 2) * fs->cluster;
}

/* Of exFAT's checksums, the 32 bit ones. */
static uint32_t
add_byte (uint32_t sum, uint8_t byte)
{
  return (sum << 31 | sum >> 1) + byte;
}

/* --- the boot region -------------------------------------------------------
 */

static int
check_boot (struct exfat *fs)
{
  const struct boot *boot = &fs->boot;
  static const uint8_t zeros[sizeof boot->zeros];

  if (memcmp (boot->jump, "\xeb\x76\x90", 3) != 0
      || memcmp (boot->name, "EXFAT   ", 8) != 0
      || memcmp (boot->zeros, zeros, sizeof zeros) != 0
      || number16 (boot->signature) != 0xaa55)
    return refuse (fs->reading, "the boot sector is not exFAT's");
  if (number16 (boot->revision) != 0x100)
    return refuse (fs->reading, "it is of revision %u.%u", boot->revision[1],
                   boot->revision[0]);
  if (boot->sector_shift < 9 || boot->sector_shift > 12
      || boot->cluster_shift > 25 - boot->sector_shift)
    return refuse (fs->reading, "the boot sector has a size of sectors or "
                                "clusters that cannot be");
  if (boot->fats != 1 || (number16 (boot->flags) & SECOND_FAT))
    return refuse (fs->reading, "it has two FATs (TexFAT)");
  if (number16 (boot->flags) & DIRTY)
    return refuse (fs->reading, "it was not unmounted: it is marked as dirty");
  if (number16 (boot->flags) & MEDIA_FAILURE)
    return refuse (fs->reading, "it is marked as being on a failing medium");
  if (boot->percent > 100 && boot->percent != 0xff)
    return refuse (fs->reading, "%u percent of it are in use", boot->percent);
  return 0;
}

static int
lay_out (struct exfat *fs)
{
  const struct boot *boot = &fs->boot;
  const uint64_t sectors = number64 (boot->sectors),
                 fat_start = number32 (boot->fat_start),
                 fat_sectors = number32 (boot->fat_sectors),
                 heap_start = number32 (boot->heap_start);
  const uint32_t clusters = number32 (boot->clusters);

  fs->sector = UINT32_C (1) << boot->sector_shift;
  fs->cluster = fs->sector << boot->cluster_shift;
  if (sectors > fs->reading->source->size >> boot->sector_shift)
    return refuse (fs->reading, "it is larger than what it is on");
  fs->reading->size = sectors << boot->sector_shift;
  if (fat_start < UINT64_C (2) * REGION_SECTORS
      || heap_start < fat_start + fat_sectors || heap_start >= sectors)
    return refuse (fs->reading, "the FAT and the clusters are out of place");
  if (clusters == 0 || clusters > CLUSTERS_MAX
      || clusters > (sectors - heap_start) >> boot->cluster_shift)
    return refuse (fs->reading, "%" PRIu32 " clusters do not fit into it",
                   clusters);
  fs->end = clusters + 2;
  if ((uint64_t)fs->end * 4 > fat_sectors << boot->sector_shift)
    return refuse (fs->reading, "the FAT is too small for the clusters");
  fs->fat = fat_start << boot->sector_shift;
  fs->heap = heap_start << boot->sector_shift;
  return 0;
}

/* The region that begins at sector FIRST has the right checksum, and is the
 * main one or the same as it.
 */
static int
check_region (struct exfat *fs, const char *which, unsigned first)
{
  uint8_t sector[SECTOR_MAX];
  uint32_t sum = 0;

  for (unsigned n = 0; n < REGION_SECTORS; n++) {
    if (reading_get (fs->reading, which, sector, fs->sector,
                     (uint64_t)(first + n) * fs->sector)
        == -1)
      return -1;
    if (n == REGION_SECTORS - 1)
      break;
    for (unsigned i = 0; i < fs->sector; i++) {
      const bool is_volatile = n == 0 && IS_VOLATILE (i);
      if (!is_volatile)
        sum = add_byte (sum, sector[i]);
      if (n == 0 && !is_volatile && i < sizeof fs->boot
          && sector[i] != ((const uint8_t *)&fs->boot)[i])
        return refuse (fs->reading, "%s differs from the first", which);
    }
  }
  for (unsigned i = 0; i < fs->sector; i += 4)
    if (number32 (sector + i) != sum)
      return refuse (fs->reading, "%s has a wrong checksum", which);
  return 0;
}

static int
open_exfat (struct exfat *fs)
{
  if (reading_get (fs->reading, "the boot sector", &fs->boot, sizeof fs->boot,
                   0)
          == -1
      || check_boot (fs) == -1 || lay_out (fs) == -1
      || check_region (fs, "the boot region", 0) == -1)
    return -1;
  return check_region (fs, "the backup boot region", REGION_SECTORS);
}

/* --- chains ----------------------------------------------------------------
 */

/* What the FAT has at number N; 0, or -1. */
static int
get_value (struct exfat *fs, uint32_t n, uint32_t *value)
{
  const uint64_t offset = (uint64_t)n * 4, at = offset / PIECE * PIECE;
  const uint64_t rest = (uint64_t)fs->end * 4 - at;

  if (fs->values_at != at) {
    fs->values_at = UINT64_MAX;
    if (reading_get (fs->reading, "the FAT", fs->values,
                     rest < PIECE ? rest : PIECE, fs->fat + at)
        == -1)
      return -1;
    fs->values_at = at;
  }
  *value = number32 (fs->values + (offset - at));
  return 0;
}

/* The cluster after N of this chain; END behind the last one. */
static int
next_of (struct exfat *fs, const struct chain *chain, uint32_t n,
         uint32_t *next)
{
  if (!chain->contiguous)
    return get_value (fs, n, next);
  *next = n - chain->first + 1 == chain->count ? END : n + 1;
  return 0;
}

/* This chain has an owner, who is the only one. */
static int
meet (struct exfat *fs, const struct chain *chain)
{
  uint32_t n = chain->first;

  for (uint64_t i = 0; chain->count == 0 || i < chain->count; i++) {
    if (n == END && chain->count == 0 && i > 0)
      return 0;
    if (n < 2 || n >= fs->end)
      return refuse (fs->reading,
                     "something has cluster %" PRIu32 ", which does not exist",
                     n);
    if (bit (fs->met, n))
      return refuse (fs->reading, "cluster %" PRIu32 " has two owners", n);
    fs->met[(n - 2) / 8] |= (uint8_t)(1U << (n - 2) % 8);
    if (next_of (fs, chain, n, &n) == -1)
      return -1;
  }
  if (n != END)
    return refuse (fs->reading, "something has more clusters than bytes");
  return 0;
}

/* The chain of an entry: its first cluster and bytes are where all entries
 * have them.
 */
static struct chain
chain_of (const struct exfat *fs, const uint8_t *entry, bool contiguous)
{
  const uint64_t bytes = number64 (entry + 24);

  return (struct chain){
    .first = number32 (entry + 20),
    .count = bytes / fs->cluster + (bytes % fs->cluster != 0),
    .contiguous = contiguous,
  };
}

/* COUNT bytes from the beginning of a chain that was met, to BUFFER. */
static int
get_chain (struct exfat *fs, const char *what, const struct chain *chain,
           uint8_t *buffer, size_t count)
{
  uint32_t n = chain->first;

  while (count > 0) {
    const size_t bytes = count < fs->cluster ? count : fs->cluster;
    if (reading_get (fs->reading, what, buffer, bytes, offset_of (fs, n)) == -1
        || next_of (fs, chain, n, &n) == -1)
      return -1;
    buffer += bytes;
    count -= bytes;
  }
  return 0;
}

/* --- the root directory's special entries ----------------------------------
 */

static int
take_bitmap (struct exfat *fs, const uint8_t *entry)
{
  const struct chain chain = chain_of (fs, entry, false);
  const size_t bytes = ((size_t)fs->end - 2 + 7) / 8;

  if (fs->has_bitmap || (entry[1] & 1))
    return refuse (fs->reading, "it has two allocation bitmaps (TexFAT)");
  fs->has_bitmap = true;
  if (number64 (entry + 24) != bytes)
    return refuse (fs->reading,
                   "the allocation bitmap has %" PRIu64 " bytes, not %zu",
                   number64 (entry + 24), bytes);
  if (meet (fs, &chain) == -1)
    return -1;
  return get_chain (fs, "the allocation bitmap", &chain, fs->bitmap, bytes);
}

static int
take_upcase (struct exfat *fs, const uint8_t *entry)
{
  const struct chain chain = chain_of (fs, entry, false);
  const uint64_t bytes = number64 (entry + 24);
  uint32_t sum = 0;

  if (fs->has_upcase)
    return refuse (fs->reading, "it has two up-case tables");
  fs->has_upcase = true;
  if (bytes == 0 || bytes > UPCASE_MAX)
    return refuse (fs->reading, "the up-case table has %" PRIu64 " bytes",
                   bytes);
  uint8_t *table = malloc (bytes);
  if (table == NULL)
    return refuse (fs->reading, "no memory");
  int r = meet (fs, &chain);
  if (r == 0)
    r = get_chain (fs, "the up-case table", &chain, table, bytes);
  for (uint64_t i = 0; r == 0 && i < bytes; i++)
    sum = add_byte (sum, table[i]);
  free (table);
  if (r == 0 && sum != number32 (entry + 4))
    return refuse (fs->reading, "the up-case table's checksum is wrong");
  return r;
}

/* --- directories -----------------------------------------------------------
 */

/* Walk it later. */
static int
push (struct exfat *fs, const struct chain *chain)
{
  if (fs->count == fs->room) {
    const size_t room = fs->room == 0 ? 256 : 2 * fs->room;
    struct chain *more = reallocarray (fs->directories, room, sizeof *more);
    if (more == NULL)
      return refuse (fs->reading, "no memory");
    fs->directories = more;
    fs->room = room;
  }
  fs->directories[fs->count++] = *chain;
  return 0;
}

static uint16_t
sum_of (uint16_t sum, const uint8_t *entry, bool is_first)
{
  for (unsigned i = 0; i < ENTRY; i++)
    if (!is_first || (i != 2 && i != 3))
      sum = (uint16_t)((sum << 15 | sum >> 1) + entry[i]);
  return sum;
}

static int
begin_set (struct exfat *fs, struct set *set, const uint8_t *entry)
{
  *set = (struct set){
    .left = entry[1],
    .number = 1,
    .checksum = (uint16_t)number16 (entry + 2),
    .sum = sum_of (0, entry, true),
    .is_directory = number16 (entry + 4) & ATTRIBUTE_DIRECTORY,
  };
  if (set->left < 2 || set->left > 18)
    return refuse (fs->reading, "a file has %u directory entries", set->left);
  return 0;
}

static int
take_clusters (struct exfat *fs, const struct set *set, const uint8_t *entry)
{
  const struct chain chain = chain_of (fs, entry, entry[1] & CONTIGUOUS);
  const bool is_directory = entry[0] == STREAM && set->is_directory;

  if (!(entry[1] & HAS_CLUSTERS) || chain.first == 0) {
    if (chain.first != 0 || chain.count != 0)
      return refuse (fs->reading, "a file has bytes, but no clusters");
    return is_directory ? refuse (fs->reading, "a directory has no clusters")
                        : 0;
  }
  if (chain.count == 0)
    return refuse (fs->reading, "a file has clusters, but no bytes");
  if (meet (fs, &chain) == -1)
    return -1;
  if (!is_directory)
    return 0;
  if (number64 (entry + 24) % fs->cluster != 0)
    return refuse (fs->reading, "a directory has a part of a cluster");
  return push (fs, &chain);
}

/* The next entry of a file. */
static int
take_secondary (struct exfat *fs, struct set *set, const uint8_t *entry)
{
  const bool is_stream = entry[0] == STREAM;

  set->sum = sum_of (set->sum, entry, false);
  if ((entry[0] & (IN_USE | SECONDARY)) != (IN_USE | SECONDARY)
      || is_stream != (set->number == 1)
      || (set->number == 2 && entry[0] != NAME))
    return refuse (fs->reading, "a file's directory entries are incomplete");
  if (entry[0] != NAME && (is_stream || (entry[1] & HAS_CLUSTERS))
      && take_clusters (fs, set, entry) == -1)
    return -1;
  set->number++;
  if (--set->left == 0 && set->sum != set->checksum)
    return refuse (fs->reading, "the checksum of a file's directory entries "
                                "is wrong");
  return 0;
}

static int
take_entry (struct exfat *fs, struct set *set, const uint8_t *entry,
            bool is_root)
{
  if (set->left > 0)
    return take_secondary (fs, set, entry);
  if (!(entry[0] & IN_USE))
    return 0; /* deleted */
  switch (is_root || entry[0] == FILE_SET ? entry[0] : 0) {
  case FILE_SET:
    return begin_set (fs, set, entry);
  case BITMAP:
    return take_bitmap (fs, entry);
  case UPCASE:
    return take_upcase (fs, entry);
  case LABEL:
  case VOLUME_GUID: /* which has no secondary entries */
    return 0;
  default:
    return refuse (fs->reading, "a directory has an entry of type %#x",
                   entry[0]);
  }
}

/* 1: it was the directory's end; 0; or -1. */
static int
take_cluster (struct exfat *fs, struct set *set, uint32_t cluster, bool is_root)
{
  const uint32_t size = fs->cluster < PIECE ? fs->cluster : PIECE;

  for (uint32_t done = 0; done < fs->cluster; done += size) {
    if (reading_get (fs->reading, "a directory", fs->piece, size,
                     offset_of (fs, cluster) + done)
        == -1)
      return -1;
    for (const uint8_t *e = fs->piece; e < fs->piece + size; e += ENTRY) {
      if (e[0] == 0 && set->left == 0)
        return 1;
      if (take_entry (fs, set, e, is_root) == -1)
        return -1;
    }
  }
  return 0;
}

static int
walk_directory (struct exfat *fs, const struct chain *chain, bool is_root)
{
  struct set set = { 0 };
  uint32_t n = chain->first;
  int r = 0;

  while (r == 0 && n != END) {
    r = take_cluster (fs, &set, n, is_root);
    if (r == 0)
      r = next_of (fs, chain, n, &n);
  }
  if (r != -1 && set.left > 0)
    return refuse (fs->reading, "a file's directory entries are incomplete");
  return r == -1 ? -1 : 0;
}

static int
walk (struct exfat *fs)
{
  const struct chain root = { .first = number32 (fs->boot.root) };

  if (meet (fs, &root) == -1 || walk_directory (fs, &root, true) == -1)
    return -1;
  if (!fs->has_bitmap || !fs->has_upcase)
    return refuse (fs->reading, "the root directory has no %s",
                   fs->has_bitmap ? "up-case table" : "allocation bitmap");
  while (fs->count > 0) {
    const struct chain chain = fs->directories[--fs->count];
    if (walk_directory (fs, &chain, false) == -1)
      return -1;
  }
  return 0;
}

/* --- what is free ----------------------------------------------------------
 */

/* A cluster is marked that nobody has, or not marked, and somebody has it. */
static int
check_odd (struct exfat *fs, uint32_t n)
{
  uint32_t value;

  if (bit (fs->met, n))
    return refuse (fs->reading,
                   "cluster %" PRIu32 " has an owner, and is marked as free",
                   n);
  if (get_value (fs, n, &value) == -1)
    return -1;
  if (value != BAD)
    return refuse (fs->reading,
                   "cluster %" PRIu32 " has no owner, and is marked as used",
                   n);
  return 0;
}

static int
tell_free (struct exfat *fs)
{
  for (uint32_t n = 2; n < fs->end; n++) {
    const bool used = bit (fs->bitmap, n);
    if (used != bit (fs->met, n) && check_odd (fs, n) == -1)
      return -1;
    if (!used
        && reading_free (fs->reading, offset_of (fs, n), fs->cluster) == -1)
      return -1;
  }
  return 0;
}

static int
read_exfat (struct reading *reading)
{
  struct exfat fs = { .reading = reading, .values_at = UINT64_MAX };
  int r = -1;

  if (open_exfat (&fs) == 0) {
    const size_t bytes = ((size_t)fs.end - 2 + 7) / 8;
    fs.bitmap = calloc (1, bytes);
    fs.met = calloc (1, bytes);
    fs.piece = malloc (PIECE);
    fs.values = calloc (1, PIECE);
    if (fs.bitmap == NULL || fs.met == NULL || fs.piece == NULL
        || fs.values == NULL)
      refuse (reading, "no memory");
    else if (walk (&fs) == 0)
      r = tell_free (&fs);
  }
  free (fs.bitmap);
  free (fs.met);
  free (fs.piece);
  free (fs.values);
  free (fs.directories);
  return r;
}

const struct reader reader_exfat = {
  .name = "exfat",
  .types = (const char *const[]){ "exfat", NULL },
  .read = read_exfat,
};
