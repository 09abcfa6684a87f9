/* SPDX-License-Identifier: BSD-3-Clause */
/* A file is known by its inode and its birth, which a copy of it does not
 * share; a device by what it says of itself, which no other says.  That it
 * was not written meanwhile: by its size, a file by its time of change, a
 * device by the kernel's count of sectors written since the machine started,
 * and by what is in its first and last MiB, where file systems and partition
 * tables keep what they change.  No more can be said without reading all.
 */

#include "identity.h"
#include "format.h"
#include "report.h"
#include "scoped.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define SAMPLE ((size_t)1 << 20)

/* In place of a checksum: a bad sector must not keep a server from starting. */
#define UNKNOWN 0

/* The first line of a file of a device's in sysfs, or NULL. */
static char *
read_line (unsigned major, unsigned minor, const char *name)
{
  char path[128], line[512];

  snprintf (path, sizeof path, "/sys/dev/block/%u:%u/%s", major, minor, name);
  FILE *f = fopen (path, "re");
  if (f == NULL)
    return NULL;
  const bool got = fgets (line, sizeof line, f) != NULL;
  fclose (f);
  if (!got)
    return NULL;
  line[strcspn (line, "\n")] = '\0';
  return line[0] == '\0' ? NULL : strdup (line);
}

/* What a block device says of itself, or "". */
static char *
device_identity (unsigned major, unsigned minor)
{
  /* A partition has nothing of its own, and its disk one up. */
  static const char *const names[] = { "dm/uuid",
                                       "md/uuid",
                                       "loop/backing_file",
                                       "wwid",
                                       "device/wwid",
                                       "device/serial",
                                       "serial",
                                       "../wwid",
                                       "../device/wwid",
                                       "../device/serial",
                                       "../serial" };
  SCOPED_FREE char *start = read_line (major, minor, "start");
  char *identity;

  for (unsigned i = 0; i < sizeof names / sizeof names[0]; i++) {
    SCOPED_FREE char *value = read_line (major, minor, names[i]);
    if (value == NULL)
      continue;
    if (asprintf (&identity, "%s %s%s%s", names[i], value,
                  start != NULL ? " start " : "", start != NULL ? start : "")
        == -1)
      return NULL;
    return identity;
  }
  return strdup ("");
}

/* How much was written to a device, and since it was attached for which time;
 * what is not known stays 0.
 */
static void
count_writes (unsigned major, unsigned minor, struct catalog_origin *figures)
{
  SCOPED_FREE char *stat = read_line (major, minor, "stat");
  SCOPED_FREE char *sequence = read_line (major, minor, "diskseq");

  if (sequence == NULL) /* a partition has its disk's */
    sequence = read_line (major, minor, "../diskseq");
  if (sequence == NULL || stat == NULL)
    return;
  figures->disk_sequence = strtoull (sequence, NULL, 10);
  /* Requests, merges, sectors and time of reads, then the same of writes. */
  if (sscanf (stat, "%*u %*u %*u %*u %*u %*u %" SCNu64,
              &figures->sectors_written)
      != 1)
    figures->sectors_written = 0;
}

static char *
file_identity (const struct statx *st)
{
  char *identity;

  if (asprintf (
          &identity, "inode %" PRIu64 " birth %jd.%09u", (uint64_t)st->stx_ino,
          (intmax_t)(st->stx_mask & STATX_BTIME ? st->stx_btime.tv_sec : 0),
          st->stx_mask & STATX_BTIME ? st->stx_btime.tv_nsec : 0)
      == -1)
    return NULL;
  return identity;
}

/* The checksum of COUNT bytes; UNKNOWN if they cannot be read. */
static int
sample (const struct origin *origin, uint64_t offset, uint64_t count,
        uint32_t *crc)
{
  SCOPED_FREE uint8_t *buf = malloc (SAMPLE);

  if (buf == NULL) {
    report_error ("no memory to look at the origin: %m");
    return -1;
  }
  *crc = UNKNOWN;
  if (origin_read_quiet (origin, buf, count, offset) == 0)
    *crc = format_crc (0, buf, count);
  return 0;
}

/* Unlike each other, as far as both are known. */
static bool
differ (uint32_t then, uint32_t now)
{
  return then != now && then != UNKNOWN && now != UNKNOWN;
}

static int
take_samples (const struct origin *origin, struct catalog_origin *figures)
{
  const uint64_t size = figures->size;
  const uint64_t count = size < SAMPLE ? size : SAMPLE;

  return sample (origin, 0, count, &figures->first_crc) == 0
                 && sample (origin, size - count, count, &figures->last_crc)
                        == 0
             ? 0
             : -1;
}

int
identity_take (const struct origin *origin, bool whole,
               struct catalog_origin *figures)
{
  const int64_t size = origin_size (origin);
  struct statx st;

  *figures = (struct catalog_origin){ .size = (uint64_t)size };
  if (size == -1)
    return -1;
  if (origin_stat (origin, &st) == -1)
    return -1;
  if (S_ISREG (st.stx_mode)) {
    figures->mtime = st.stx_mtime.tv_sec;
    figures->mtime_ns = st.stx_mtime.tv_nsec;
    figures->identity = file_identity (&st);
  }
  else {
    count_writes (st.stx_rdev_major, st.stx_rdev_minor, figures);
    figures->identity = device_identity (st.stx_rdev_major, st.stx_rdev_minor);
  }
  figures->path = strdup (origin_path (origin));
  if (figures->path == NULL || figures->identity == NULL)
    report_error ("origin %s: no memory to look what it is",
                  origin_path (origin));
  else if (!whole || take_samples (origin, figures) == 0)
    return 0;
  const int err = errno;
  free (figures->path);
  free (figures->identity);
  *figures = (struct catalog_origin){ 0 };
  errno = err;
  return -1;
}

__attribute__ ((format (printf, 1, 2))) static char *
say (const char *format, ...)
{
  va_list args;
  char *text;

  va_start (args, format);
  if (vasprintf (&text, format, args) == -1)
    text = strdup ("the origin has changed");
  va_end (args);
  return text;
}

char *
identity_compare (const struct catalog_origin *then,
                  const struct catalog_origin *now, bool clean, bool rebooted)
{
  if (then->path == NULL)
    return NULL; /* nothing is recorded: a new store */
  if (strcmp (then->identity, now->identity) != 0)
    return say ("the origin is not the one that the store's snapshots are of "
                "(%s): it was '%s' and is '%s'",
                then->path, then->identity, now->identity);
  if (!clean)
    return NULL;
  if (then->size != now->size)
    return say ("the origin was resized while no server watched: from %" PRIu64
                " to %" PRIu64 " bytes",
                then->size, now->size);
  if (then->mtime != now->mtime || then->mtime_ns != now->mtime_ns)
    return say ("the origin was written while no server watched: its time of "
                "change is not what it was");
  if (!rebooted && now->disk_sequence == then->disk_sequence
      && now->sectors_written > then->sectors_written)
    return say ("the origin was written while no server watched: %" PRIu64
                " sectors, by the kernel's count",
                now->sectors_written - then->sectors_written);
  if (differ (then->first_crc, now->first_crc)
      || differ (then->last_crc, now->last_crc))
    return say ("the origin was written while no server watched: its %s MiB "
                "is not what it was",
                differ (then->first_crc, now->first_crc) ? "first" : "last");
  return NULL;
}
