/* SPDX-License-Identifier: BSD-3-Clause */
/* libblkid reads from a descriptor, and a view has none: it gets a picture of
 * it, a sparse file in memory which has what libblkid looks at.  That is
 * the beginning and the end (as strace shows: up to 4 MiB and 512 bytes from
 * the one, 2 MiB from the other), and what these point to: the first record of
 * NTFS's $MFT, and the chain of logical partitions.  Elsewhere the picture has
 * zeros, in which nobody finds more than there is.
 */

#include "probe.h"
#include "output.h"
#include "scoped.h"

#include <blkid/blkid.h>
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

/* As many as libblkid follows, and more than there may be. */
#define ROUNDS 256

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

static int
paint (struct picture *picture)
{
  unsigned char boot[SECTOR] = { 0 };
  char gpt[8];
  const uint64_t size = picture->source->size;

  picture->fd = memfd_create ("picture", MFD_CLOEXEC);
  if (picture->fd == -1 || ftruncate (picture->fd, (off_t)size) == -1
      || copy (picture, 0, EDGE) == -1
      || (size > EDGE
          && copy (picture, size - EDGE > EDGE ? size - EDGE : EDGE, EDGE)
                 == -1))
    return -1;
  picture->sector = SECTOR;
  if (size < 2 * PIECE)
    return 0;
  if (source_read (picture->source, boot, sizeof boot, 0) == -1
      || source_read (picture->source, gpt, sizeof gpt, 4096) == -1)
    return -1;
  if (memcmp (gpt, "EFI PART", sizeof gpt) == 0)
    picture->sector = 4096;
  return copy_mft (picture, boot);
}

static char *
value_of (blkid_probe pr, const char *name)
{
  const char *value;

  return blkid_probe_lookup_value (pr, name, &value, NULL) == 0
             ? text ("%s", value)
             : NULL;
}

/* Copy the tables of logical partitions; libblkid finds the next one in each.
 * True: there is a new one.  -1 with errno.
 */
static int
copy_tables (const struct picture *picture, blkid_partlist list,
             int *tables_known)
{
  int tables = 0;

  for (int i = 0; i < blkid_partlist_numof_partitions (list); i++) {
    blkid_partition partition = blkid_partlist_get_partition (list, i);
    const uint64_t start
        = (uint64_t)blkid_partition_get_start (partition) * SECTOR;
    const uint64_t size
        = (uint64_t)blkid_partition_get_size (partition) * SECTOR;
    tables++;
    /* A table of logical partitions is where an extended partition begins,
     * and behind each logical one.
     */
    if (copy (picture, start, TABLE) == -1
        || copy (picture, start + size, TABLE) == -1)
      return -1;
  }
  const bool more = tables > *tables_known;
  *tables_known = tables;
  return more;
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
    if (partition.offset > size || partition.size > size - partition.offset)
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

/* One look at the picture.  1: it lacks something, which it has now; 0; or
 * -1 with errno.
 */
static int
look (const struct picture *picture, blkid_probe pr, struct probed *probed,
      int *tables_known)
{
  int more = 0;

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
  if (r != 0)
    return 0;
  probed->type = value_of (pr, "TYPE");
  probed->table = value_of (pr, "PTTYPE");
  if (probed->table == NULL)
    return 0;
  blkid_partlist list = blkid_probe_get_partitions (pr);
  if (list == NULL)
    return -1;
  more = copy_tables (picture, list, tables_known);
  if (more == 0)
    take_partitions (probed, list, picture->source->size);
  return more;
}

static int
look_at_all (struct picture *picture, struct probed *probed)
{
  int tables_known = 0, r = 1;

  if (paint (picture) == -1)
    return -1;
  for (unsigned round = 0; r == 1 && round < ROUNDS; round++) {
    blkid_probe pr = blkid_new_probe ();
    if (pr == NULL) {
      errno = ENOMEM;
      return -1;
    }
    probed_free (probed);
    r = look (picture, pr, probed, &tables_known);
    blkid_free_probe (pr);
  }
  return r;
}

struct probed
probe (struct source *source)
{
  struct picture picture = { .source = source, .fd = -1 };
  struct probed probed = {};

  errno = 0;
  const int r = look_at_all (&picture, &probed);
  if (r != 0) {
    const int error = errno;
    probed_free (&probed);
    probed.why = r == 1 ? text ("there are too many partitions")
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
