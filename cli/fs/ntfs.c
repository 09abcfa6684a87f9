/* SPDX-License-Identifier: BSD-3-Clause */
/* NTFS, by libntfs-3g.
 *
 * $Bitmap has a bit for each cluster, and no checksum.  But each use of a
 * cluster is also in a record of $MFT, as a run of an attribute there: the
 * files', the directories', and those of the file system's own structures,
 * $MFT, its mirror, the log and $Bitmap among them.  So all of $MFT is read,
 * and if any run has a cluster that $Bitmap calls free nothing is believed.
 * This also tells a volume that was written while it was frozen.
 *
 * What the log has to say is not replayed: it must be clean.  The copy of the
 * boot sector lies behind the last cluster and so is never free.
 */

#include "ntfs-io.h"
#include "reader.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <ntfs-3g/attrib.h>
#include <ntfs-3g/inode.h>
#include <ntfs-3g/logfile.h>
#include <ntfs-3g/logging.h>
#include <ntfs-3g/mst.h>
#include <ntfs-3g/volume.h>

/* What is read at once: a multiple of every size that a record may have. */
#define PIECE (UINT32_C (1) << 20)
#define RECORD_MAX (UINT32_C (64) << 10)

/* $MFT, its mirror, $LogFile, $Volume, $AttrDef, the root, $Bitmap, $Boot and
 * $BadClus: without them there is no NTFS.
 */
#define SYSTEM_RECORDS 9

/* Flags of a volume that is in order. */
#define FLAGS_HARMLESS                                                         \
  (VOLUME_RESIZE_LOG_FILE | VOLUME_UPGRADE_ON_MOUNT | VOLUME_MOUNTED_ON_NT4    \
   | VOLUME_DELETE_USN_UNDERWAY | VOLUME_REPAIR_OBJECT_ID                      \
   | VOLUME_MODIFIED_BY_CHKDSK)

/* One volume while it is read. */
struct volume {
  struct reading *reading;
  ntfs_volume *vol;
  uint64_t clusters;
  uint64_t cluster_size;
  unsigned char *piece; /* PIECE bytes */
};

/* The first error that the library has reported; it has one handler for all
 * of the process.
 */
static char said[160];

__attribute__ ((format (printf, 6, 0))) static int
hear (const char *function, const char *file, int line, u32 level, void *data,
      const char *format, va_list arguments)
{
  (void)function;
  (void)file;
  (void)line;
  (void)data;
  const u32 errors
      = NTFS_LOG_LEVEL_ERROR | NTFS_LOG_LEVEL_PERROR | NTFS_LOG_LEVEL_CRITICAL;

  if (said[0] == 0 && (level & errors) != 0) {
    vsnprintf (said, sizeof said, format, arguments);
    said[strcspn (said, "\n")] = 0;
  }
  return 0;
}

/* WHAT is what could not be done. */
static int
refuse_said (struct reading *reading, const char *what)
{
  if (said[0] != 0)
    return refuse (reading, "%s: %s", what, said);
  return refuse (reading, "%s: %s", what, strerror (errno));
}

/* --- is it in order? -------------------------------------------------------
 */

static int
check_volume (struct volume *v)
{
  const ntfs_volume *vol = v->vol;
  const unsigned flags = le16toh (vol->flags);

  if (vol->nr_clusters <= 0 || vol->cluster_size == 0
      || __builtin_mul_overflow ((uint64_t)vol->nr_clusters,
                                 (uint64_t)vol->cluster_size, &v->reading->size)
      || v->reading->size > v->reading->source->size)
    return refuse (v->reading, "%" PRId64 " clusters are more than there are",
                   (int64_t)vol->nr_clusters);
  v->clusters = (uint64_t)vol->nr_clusters;
  v->cluster_size = vol->cluster_size;
  if (!(vol->major_ver == 1 && vol->minor_ver == 2)
      && !(vol->major_ver == 3 && vol->minor_ver <= 1))
    return refuse (v->reading, "its version is %u.%u", vol->major_ver,
                   vol->minor_ver);
  if ((flags & le16toh (VOLUME_IS_DIRTY)) != 0)
    return refuse (v->reading, "it is marked as dirty");
  if ((flags & le16toh (VOLUME_CHKDSK_UNDERWAY)) != 0)
    return refuse (v->reading, "it is being checked");
  if ((flags & ~(unsigned)le16toh (FLAGS_HARMLESS)) != 0)
    return refuse (v->reading, "it has unknown flags (0x%x)", flags);
  if (vol->mft_record_size < 256 || vol->mft_record_size > RECORD_MAX
      || (vol->mft_record_size & (vol->mft_record_size - 1)) != 0)
    return refuse (v->reading, "its records have %" PRIu32 " bytes",
                   (uint32_t)vol->mft_record_size);
  return 0;
}

static int
check_log_of (struct volume *v, ntfs_inode *inode)
{
  RESTART_PAGE_HEADER *restart = NULL;
  ntfs_attr *log = ntfs_attr_open (inode, AT_DATA, AT_UNNAMED, 0);

  if (log == NULL)
    return refuse_said (v->reading, "the log cannot be opened");
  const bool known = ntfs_check_logfile (log, &restart);
  const bool clean = known && ntfs_is_logfile_clean (log, restart);
  free (restart);
  ntfs_attr_close (log);
  if (!known)
    return refuse_said (v->reading, "the log is not understood");
  return clean ? 0 : refuse (v->reading, "the log needs to be replayed");
}

static int
check_log (struct volume *v)
{
  ntfs_inode *inode = ntfs_inode_open (v->vol, FILE_LogFile);

  if (inode == NULL)
    return refuse_said (v->reading, "the log cannot be opened");
  const int r = check_log_of (v, inode);
  ntfs_inode_close (inode);
  return r;
}

static int
check_hibernation (struct volume *v)
{
  errno = 0;
  if (ntfs_volume_check_hiberfile (v->vol, 0) == 0)
    return 0;
  if (errno == EPERM)
    return refuse (v->reading, "Windows is hibernated on it");
  return refuse_said (v->reading, "hiberfil.sys cannot be read");
}

/* What ATTRIBUTE has must be on the disk, in clusters that there are; what is
 * missing would read as zeros.
 */
static int
check_attribute (struct volume *v, ntfs_attr *attribute, const char *what)
{
  uint64_t clusters = 0;

  if (attribute == NULL)
    return refuse (v->reading, "there is no %s", what);
  if (!NAttrNonResident (attribute))
    return attribute->data_size <= (s64)v->vol->mft_record_size
               ? 0
               : refuse (v->reading, "%s is larger than its record", what);
  if (NAttrSparse (attribute) || NAttrCompressed (attribute)
      || NAttrEncrypted (attribute))
    return refuse (v->reading, "%s is sparse, compressed or encrypted", what);
  if (ntfs_attr_map_whole_runlist (attribute) != 0)
    return refuse_said (v->reading, what);
  for (const runlist_element *run = attribute->rl; run->length != 0; run++) {
    if (run->lcn < 0 || run->length < 0
        || (uint64_t)run->length > v->clusters - clusters
        || (uint64_t)run->lcn > v->clusters - (uint64_t)run->length)
      return refuse (v->reading, "%s has clusters that do not exist", what);
    clusters += (uint64_t)run->length;
  }
  if (attribute->data_size < 0
      || (uint64_t)attribute->data_size > clusters * v->cluster_size
      || attribute->initialized_size > attribute->data_size)
    return refuse (v->reading, "%s is larger than its clusters", what);
  return 0;
}

/* --- $Bitmap ---------------------------------------------------------------
 */

/* Piece has the bits of COUNT clusters from FIRST on. */
static int
take_bits (struct volume *v, uint64_t first, uint64_t count)
{
  for (uint64_t i = 0; i < count;) {
    const unsigned char byte = v->piece[i / 8];
    if (i % 8 == 0 && byte == 0xff) {
      i += 8;
      continue;
    }
    uint64_t end = i;
    while (end < count
           && (end % 8 == 0 && end + 8 <= count && v->piece[end / 8] == 0))
      end += 8;
    while (end < count && (v->piece[end / 8] >> end % 8 & 1) == 0)
      end++;
    if (reading_free (v->reading, (first + i) * v->cluster_size,
                      (end - i) * v->cluster_size)
        == -1)
      return -1;
    i = end + 1; /* where it is set, or behind the last one */
  }
  return 0;
}

static int
read_bitmap (struct volume *v)
{
  ntfs_attr *bitmap = v->vol->lcnbmp_na;
  const uint64_t bytes = (v->clusters + 7) / 8;

  if (check_attribute (v, bitmap, "$Bitmap") == -1)
    return -1;
  if ((uint64_t)bitmap->initialized_size < bytes)
    return refuse (v->reading, "$Bitmap is too short");
  for (uint64_t at = 0; at < bytes; at += PIECE) {
    const uint64_t n = bytes - at < PIECE ? bytes - at : PIECE;
    const uint64_t rest = v->clusters - at * 8;
    if (ntfs_attr_pread (bitmap, (s64)at, (s64)n, v->piece) != (s64)n)
      return refuse_said (v->reading, "$Bitmap cannot be read");
    if (take_bits (v, at * 8, rest < n * 8 ? rest : n * 8) == -1)
      return -1;
  }
  return 0;
}

/* --- $MFT ------------------------------------------------------------------
 */

/* A record of $MFT; the fixup is done. */
struct record {
  uint64_t number;
  const unsigned char *data;
  uint32_t used; /* bytes */
};

static uint64_t
get (const unsigned char *data, unsigned bytes)
{
  uint64_t value = 0;

  for (unsigned i = bytes; i > 0; i--)
    value = value << 8 | data[i - 1];
  return value;
}

static int64_t
get_signed (const unsigned char *data, unsigned bytes)
{
  uint64_t value = get (data, bytes);

  if (bytes > 0 && bytes < 8 && (data[bytes - 1] & 0x80) != 0)
    value |= UINT64_MAX << 8 * bytes;
  return (int64_t)value;
}

/* $Bitmap was read in order, and so the free extents are in order. */
static bool
is_used (const struct volume *v, uint64_t offset, uint64_t length)
{
  const struct freemap *map = v->reading->free;
  size_t low = 0, high = map->count;

  while (low < high) { /* the first that ends behind OFFSET */
    const size_t middle = low + (high - low) / 2;
    const struct extent *e = &map->extents[middle];
    if (e->offset + e->length <= offset)
      low = middle + 1;
    else
      high = middle;
  }
  return low == map->count || map->extents[low].offset >= offset + length;
}

/* The runs of an attribute, from DATA on to END at most. */
static int
check_runs (struct volume *v, const struct record *record,
            const unsigned char *data, const unsigned char *end)
{
  int64_t cluster = 0, delta;

  while (data < end && *data != 0) {
    const unsigned length_bytes = *data & 15, delta_bytes = *data >> 4;
    if (length_bytes == 0 || length_bytes > 8 || delta_bytes > 8
        || (size_t)(end - data) <= length_bytes + delta_bytes)
      break;
    const int64_t length = get_signed (data + 1, length_bytes);
    delta = get_signed (data + 1 + length_bytes, delta_bytes);
    data += 1 + length_bytes + delta_bytes;
    if (length <= 0)
      return refuse (v->reading, "record %" PRIu64 " has a run of no clusters",
                     record->number);
    if (delta_bytes == 0)
      continue; /* sparse */
    if (__builtin_add_overflow (cluster, delta, &cluster) || cluster < -1)
      break;
    if (cluster == -1)
      continue; /* so did version 1.2 */
    if ((uint64_t)length > v->clusters
        || (uint64_t)cluster > v->clusters - (uint64_t)length)
      return refuse (v->reading,
                     "record %" PRIu64 " has clusters that do not exist",
                     record->number);
    if (!is_used (v, (uint64_t)cluster * v->cluster_size,
                  (uint64_t)length * v->cluster_size))
      return refuse (v->reading,
                     "record %" PRIu64 " uses a cluster which $Bitmap calls "
                     "free, near %" PRId64,
                     record->number, cluster);
  }
  return data < end && *data == 0
             ? 0
             : refuse (v->reading, "record %" PRIu64 " has damaged runs",
                       record->number);
}

/* One attribute, of LENGTH bytes. */
static int
check_runs_of (struct volume *v, const struct record *record,
               const unsigned char *attribute, uint32_t length)
{
  if (attribute[8] == 0)
    return 0; /* it is in the record */
  const uint32_t runs = length >= 64 ? (uint32_t)get (attribute + 32, 2) : 0;
  if (attribute[8] != 1 || runs < 64 || runs >= length)
    return refuse (v->reading, "record %" PRIu64 " has a damaged attribute",
                   record->number);
  return check_runs (v, record, attribute + runs, attribute + length);
}

static int
check_attributes (struct volume *v, const struct record *record)
{
  uint32_t at = (uint32_t)get (record->data + 20, 2);

  while (at % 8 == 0 && at + 4 <= record->used) {
    const unsigned char *attribute = record->data + at;
    if (get (attribute, 4) == UINT32_MAX)
      return 0;
    if (record->used - at < 24)
      break;
    const uint32_t length = (uint32_t)get (attribute + 4, 4);
    if (length < 24 || length > record->used - at)
      break;
    if (check_runs_of (v, record, attribute, length) == -1)
      return -1;
    at += length;
  }
  return refuse (v->reading, "record %" PRIu64 " has damaged attributes",
                 record->number);
}

/* True: $MFT's bitmap says so.  It is asked only about records that are none;
 * where it ends, or cannot be read, they might be used.
 */
static bool
is_allocated (const struct volume *v, uint64_t number)
{
  unsigned char byte;

  return ntfs_attr_pread (v->vol->mftbmp_na, (s64)(number / 8), 1, &byte) != 1
         || (byte >> number % 8 & 1) != 0;
}

static int
check_record (struct volume *v, uint64_t number, unsigned char *data)
{
  const uint32_t size = v->vol->mft_record_size;
  const bool ours = memcmp (data, "FILE", 4) == 0;
  struct record record = { .number = number, .data = data };

  if (!ours || (get (data + 22, 2) & 1) == 0) {
    if (number < SYSTEM_RECORDS || (!ours && is_allocated (v, number)))
      return refuse (v->reading, "record %" PRIu64 " is damaged", number);
    return 0;
  }
  if (ntfs_mst_post_read_fixup ((NTFS_RECORD *)(void *)data, size) != 0)
    return refuse (v->reading, "record %" PRIu64 " was not written whole",
                   number);
  record.used = (uint32_t)get (data + 24, 4);
  if (record.used > size)
    return refuse (v->reading, "record %" PRIu64 " is too long", number);
  return check_attributes (v, &record);
}

static int
check_mft (struct volume *v)
{
  ntfs_attr *mft = v->vol->mft_na;
  const uint32_t record = v->vol->mft_record_size;

  if (check_attribute (v, mft, "$MFT") == -1
      || check_attribute (v, v->vol->mftbmp_na, "$MFT's bitmap") == -1)
    return -1;
  const uint64_t bytes = (uint64_t)mft->initialized_size / record * record;
  if (bytes / record < SYSTEM_RECORDS)
    return refuse (v->reading, "$MFT is too short");
  for (uint64_t at = 0; at < bytes; at += PIECE) {
    const uint64_t n = bytes - at < PIECE ? bytes - at : PIECE;
    if (ntfs_attr_pread (mft, (s64)at, (s64)n, v->piece) != (s64)n)
      return refuse_said (v->reading, "$MFT cannot be read");
    for (uint64_t i = 0; i < n; i += record)
      if (check_record (v, (at + i) / record, v->piece + i) == -1)
        return -1;
  }
  return 0;
}

/* ---------------------------------------------------------------------------
 */

static int
read_volume (struct volume *v)
{
  if (check_volume (v) == -1 || check_log (v) == -1
      || check_hibernation (v) == -1)
    return -1;
  v->piece = aligned_alloc (64, PIECE);
  if (v->piece == NULL)
    return refuse (v->reading, "no memory");
  const int r = read_bitmap (v) == -1 ? -1 : check_mft (v);
  free (v->piece);
  return r;
}

static int
read_ntfs (struct reading *reading)
{
  struct volume volume = { .reading = reading };

  said[0] = 0;
  ntfs_log_set_handler (hear);
  struct ntfs_device *device = ntfs_io_new (reading->source);
  if (device == NULL)
    return refuse (reading, "%s", strerror (errno));
  volume.vol = ntfs_device_mount (device, NTFS_MNT_RDONLY | NTFS_MNT_FORENSIC);
  if (volume.vol == NULL) {
    refuse_said (reading, "libntfs-3g does not take it");
    ntfs_device_free (device);
    return -1;
  }
  const int r = read_volume (&volume);
  ntfs_umount (volume.vol, FALSE);
  return r;
}

const struct reader reader_ntfs = {
  .name = "ntfs",
  .types = (const char *const[]){ "ntfs", NULL },
  .read = read_ntfs,
};
