/* SPDX-License-Identifier: BSD-3-Clause */
/* libblkid reads from a descriptor, and a view has none: it gets a picture of
 * it, a sparse file in memory which has what libblkid looks at.  That is
 * the beginning and the end (as strace shows: up to 4 MiB and 512 bytes from
 * the one, 2 MiB from the other), and what these point to: the first record of
 * NTFS's $MFT, the chain of logical partitions, and the first sectors of the
 * primary ones, which may have slices.  Elsewhere the picture has zeros, in
 * which nobody finds more than there is.
 */

#include "probe.h"
#include "output.h"
#include "scoped.h"

#include <blkid/blkid.h>
#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define EDGE (UINT64_C (5) << 20)
#define PIECE (UINT64_C (64) << 10)
#define SECTOR 512
#define TABLE 4096 /* a partition table's sector, at most */

#define PROTECTIVE 0xee /* what an MBR calls the GPT's disk */

/* Tables of logical partitions, one for each; nobody has as many.  libblkid
 * would go round in a loop of them for ever.
 */
#define LOGICAL_MAX 256

struct picture {
  struct source *source;
  int fd;
  unsigned sector; /* bytes */
};

/* Copy COUNT bytes, or those that there are.  0, or -1 with errno. */
static int
copy (const struct picture *picture, uint64_t offset, uint64_t count)
{
  char data[PIECE];
  const uint64_t size = picture->source->size;

  for (uint64_t end = offset + count; offset < end && offset < size;) {
    const uint64_t rest = (end < size ? end : size) - offset;
    const size_t n = rest < PIECE ? rest : PIECE;
    if (source_read (picture->source, data, n, offset) == -1
        || pwrite (picture->fd, data, n, (off_t)offset) != (ssize_t)n)
      return -1;
    offset += n;
  }
  return 0;
}

/* libblkid takes for NTFS what has a $MFT where its boot sector says. */
static int
copy_mft (const struct picture *picture, const unsigned char *boot)
{
  uint64_t cluster = 0;

  if (memcmp (boot + 3, "NTFS    ", 8) != 0)
    return 0;
  for (int i = 7; i >= 0; i--)
    cluster = cluster << 8 | boot[0x30 + i];
  const uint64_t sector = boot[11] | (uint64_t)boot[12] << 8;
  const unsigned per_cluster
      = boot[13] <= 128 ? boot[13] : 1U << (256 - boot[13]) % 32;
  uint64_t offset;

  if (__builtin_mul_overflow (cluster, sector * per_cluster, &offset)
      || offset >= picture->source->size)
    return 0;
  return copy (picture, offset, PIECE);
}

/* An entry of a partition table; in sectors. */
struct entry {
  uint8_t type;
  uint32_t start, size;
};

static struct entry
get_entry (const unsigned char *sector, unsigned i)
{
  const unsigned char *at = sector + 0x1be + (size_t)16 * i;
  uint32_t start, size;

  memcpy (&start, at + 8, sizeof start);
  memcpy (&size, at + 12, sizeof size);
  return (struct entry){ at[4], le32toh (start), le32toh (size) };
}

static bool
is_table (const unsigned char *sector)
{
  return sector[510] == 0x55 && sector[511] == 0xaa;
}

static bool
is_extended (const struct entry *entry)
{
  return entry->size != 0
         && (entry->type == 0x05 || entry->type == 0x0f || entry->type == 0x85);
}

/* Copy the tables of logical partitions, of which the first is at sector
 * FIRST; each has a link to the next one, counted from FIRST.
 */
static int
copy_tables (const struct picture *picture, uint64_t first)
{
  unsigned char sector[SECTOR];
  uint64_t next = first;

  for (unsigned tables = 0; tables < LOGICAL_MAX; tables++) {
    const uint64_t offset = next * picture->sector;
    if (offset > picture->source->size
        || picture->source->size - offset < SECTOR)
      return 0;
    if (copy (picture, offset, TABLE) == -1
        || source_read (picture->source, sector, SECTOR, offset) == -1)
      return -1;
    unsigned i = 0;
    struct entry entry = get_entry (sector, 0);
    while (!is_extended (&entry) && ++i < 4)
      entry = get_entry (sector, i);
    if (!is_table (sector) || i == 4)
      return 0;
    next = first + entry.start;
  }
  errno = ELOOP;
  return -1;
}

/* What is where the entries of the first sector point to: tables of logical
 * partitions, or of slices.
 */
static int
copy_entries (const struct picture *picture, const unsigned char *boot)
{
  if (!is_table (boot))
    return 0;
  for (unsigned i = 0; i < 4; i++) {
    const struct entry entry = get_entry (boot, i);
    const uint64_t offset = (uint64_t)entry.start * picture->sector;
    if (is_extended (&entry)
            ? copy_tables (picture, entry.start) == -1
            : entry.size != 0 && copy (picture, offset, TABLE) == -1)
      return -1;
  }
  return 0;
}

static int
paint (struct picture *picture)
{
  unsigned char boot[SECTOR] = { 0 };
  char gpt[8] = { 0 };
  const uint64_t size = picture->source->size;

  picture->fd = memfd_create ("picture", MFD_CLOEXEC);
  if (picture->fd == -1 || ftruncate (picture->fd, (off_t)size) == -1
      || copy (picture, 0, EDGE) == -1
      || (size > EDGE
          && copy (picture, size - EDGE > EDGE ? size - EDGE : EDGE, EDGE)
                 == -1))
    return -1;
  picture->sector = SECTOR;
  if (size < SECTOR)
    return 0;
  if (source_read (picture->source, boot, sizeof boot, 0) == -1
      || (size >= 4096 + sizeof gpt
          && source_read (picture->source, gpt, sizeof gpt, 4096) == -1))
    return -1;
  if (memcmp (gpt, "EFI PART", sizeof gpt) == 0)
    picture->sector = 4096;
  return copy_mft (picture, boot) == -1 ? -1 : copy_entries (picture, boot);
}

static char *
value_of (blkid_probe pr, const char *name)
{
  const char *value;

  return blkid_probe_lookup_value (pr, name, &value, NULL) == 0
             ? text ("%s", value)
             : NULL;
}

static int
compare (const void *a, const void *b)
{
  const struct partition *x = a, *y = b;

  return (x->offset > y->offset) - (x->offset < y->offset);
}

static void
take_partitions (struct probed *probed, blkid_partlist list, uint64_t size)
{
  const int count = blkid_partlist_numof_partitions (list);

  probed->partitions = calloc ((size_t)count + 1, sizeof *probed->partitions);
  if (probed->partitions == NULL)
    no_memory ();
  for (int i = 0; i < count; i++) {
    blkid_partition found = blkid_partlist_get_partition (list, i);
    if (blkid_partition_is_extended (found))
      continue;
    const struct partition partition = {
      .number = (unsigned)blkid_partition_get_partno (found),
      .offset = (uint64_t)blkid_partition_get_start (found) * SECTOR,
      .size = (uint64_t)blkid_partition_get_size (found) * SECTOR,
    };
    if (probed->why == NULL
        && (partition.offset > size
            || partition.size > size - partition.offset))
      probed->why
          = text ("partition %u is not within the disk", partition.number);
    probed->partitions[probed->count++] = partition;
  }
  qsort (probed->partitions, probed->count, sizeof *probed->partitions,
         compare);
  for (size_t i = 1; i < probed->count && probed->why == NULL; i++) {
    const struct partition *a = &probed->partitions[i - 1], *b = a + 1;
    if (a->offset + a->size > b->offset)
      probed->why = text ("partitions %u and %u overlap", a->number, b->number);
  }
}

/* A hybrid table is a GPT with partitions in its MBR, too, which others may
 * use.  They must be the same ones, or lie where the GPT has none.
 */
static int
check_hybrid (const struct picture *picture, struct probed *probed)
{
  unsigned char boot[SECTOR];

  if (source_read (picture->source, boot, sizeof boot, 0) == -1)
    return -1;
  for (unsigned i = 0; i < 4 && probed->why == NULL; i++) {
    const struct entry entry = get_entry (boot, i);
    const uint64_t offset = (uint64_t)entry.start * picture->sector;
    const uint64_t size = (uint64_t)entry.size * picture->sector;
    if (entry.type == PROTECTIVE || entry.type == 0)
      continue;
    for (size_t p = 0; p < probed->count && probed->why == NULL; p++) {
      const struct partition *other = &probed->partitions[p];
      if ((other->offset != offset || other->size != size)
          && offset < other->offset + other->size
          && other->offset < offset + size)
        probed->why = text ("the MBR has another partition where the GPT has "
                            "partition %u",
                            other->number);
    }
  }
  return 0;
}

/* What a probe that is done has found.  0, or -1. */
static int
take_found (const struct picture *picture, blkid_probe pr,
            struct probed *probed)
{
  probed->type = value_of (pr, "TYPE");
  probed->table = value_of (pr, "PTTYPE");
  if (probed->table == NULL)
    return 0;
  blkid_partlist list = blkid_probe_get_partitions (pr);
  if (list == NULL)
    return -1;
  take_partitions (probed, list, picture->source->size);
  return strcmp (probed->table, "gpt") == 0 ? check_hybrid (picture, probed)
                                            : 0;
}

/* 0, or -1 with errno, which may be 0. */
static int
look (const struct picture *picture, blkid_probe pr, struct probed *probed)
{
  if (blkid_probe_set_device (pr, picture->fd, 0, 0) == -1)
    return -1;
  blkid_probe_set_sectorsize (pr, picture->sector);
  blkid_probe_enable_superblocks (pr, 1);
  blkid_probe_set_superblocks_flags (pr,
                                     BLKID_SUBLKS_TYPE | BLKID_SUBLKS_USAGE);
  blkid_probe_enable_partitions (pr, 1);
  blkid_probe_set_partitions_flags (pr, BLKID_PARTS_ENTRY_DETAILS);
  const int r = blkid_do_safeprobe (pr);
  if (r == -2)
    probed->why = text ("it looks like more than one thing");
  else if (r < 0)
    return -1;
  return r == 0 ? take_found (picture, pr, probed) : 0;
}

static int
paint_and_look (struct picture *picture, struct probed *probed)
{
  if (paint (picture) == -1)
    return -1;
  blkid_probe pr = blkid_new_probe ();
  if (pr == NULL) {
    errno = ENOMEM;
    return -1;
  }
  errno = 0;
  const int r = look (picture, pr, probed);
  const int error = errno;
  blkid_free_probe (pr);
  errno = error;
  return r;
}

struct probed
probe (struct source *source)
{
  struct picture picture = { .source = source, .fd = -1 };
  struct probed probed = {};

  if (source->size == 0) /* libblkid takes it for an error */
    return probed;
  if (paint_and_look (&picture, &probed) == -1) {
    const int error = errno;
    probed_free (&probed);
    probed.why = error == ELOOP
                     ? text ("there are too many partitions")
                     : text ("libblkid cannot look at it: %s",
                             error != 0 ? strerror (error) : "it failed");
  }
  if (picture.fd != -1)
    close (picture.fd);
  return probed;
}

void
probed_free (struct probed *probed)
{
  free (probed->type);
  free (probed->table);
  free (probed->partitions);
  free (probed->why);
  *probed = (struct probed){};
}
