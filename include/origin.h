/* SPDX-License-Identifier: BSD-3-Clause */
/* The origin: the live block device or image file.
 *
 * Functions return 0, or -1 with errno after logging what failed where.
 * Every one may be called by many threads at once.  Nothing here knows of
 * snapshots: who writes passes cow.h first.
 */

#ifndef FSSNAP_ORIGIN_H
#define FSSNAP_ORIGIN_H

#include <stdbool.h>
#include <stdint.h>

struct origin;

/* Open PATH and keep others off it: a block device with O_EXCL, so that one
 * that is mounted or claimed is refused; a file with a lock that covers it
 * whole and that QEMU's tools honour too.  What cannot be written is
 * opened read-only.  NULL after logging.
 */
struct origin *origin_open (const char *path);
void origin_close (struct origin *origin);

const char *origin_path (const struct origin *origin);
bool origin_is_readonly (const struct origin *origin);

/* Whether zeroing is faster than writing zeros, and extents are known. */
bool origin_can_fast_zero (const struct origin *origin);
bool origin_can_extents (const struct origin *origin);
bool origin_is_rotational (const struct origin *origin);

/* Bytes, as of now; -1 with errno. */
int64_t origin_size (const struct origin *origin);

/* What the kernel says of it. */
struct statx;
int origin_stat (const struct origin *origin, struct statx *st);

/* All of COUNT bytes at OFFSET, or an error: EIO if the origin ends before.
 * QUIET reads are logged by the caller, who knows what they were for.
 */
int origin_read (const struct origin *origin, void *buf, uint64_t count,
                 uint64_t offset);
int origin_read_quiet (const struct origin *origin, void *buf, uint64_t count,
                       uint64_t offset);

/* FUA: on stable storage before it returns, here and below. */
int origin_write (const struct origin *origin, const void *buf, uint64_t count,
                  uint64_t offset, bool fua);
int origin_flush (const struct origin *origin);

/* A flush that may take long: *STEPS is counted up meanwhile. */
int origin_flush_slowly (const struct origin *origin, _Atomic unsigned *steps);

/* Give the range back to the device or file system where it can take it;
 * what reads there after is not defined.  The device's refusal is no error.
 */
int origin_trim (struct origin *origin, uint64_t count, uint64_t offset,
                 bool fua);

/* Make the range zeros, MAY_TRIM: if need be as a hole.  EOPNOTSUPP, not
 * logged, if that takes writing them.
 */
int origin_zero (struct origin *origin, uint64_t count, uint64_t offset,
                 bool may_trim, bool fua);

/* Ask the kernel to read ahead. */
int origin_cache (const struct origin *origin, uint64_t count, uint64_t offset);

/* What is at OFFSET: data or a *HOLE, and for how many bytes (at most COUNT,
 * 1 or more), *LENGTH.  A block device is data.
 */
int origin_extent (const struct origin *origin, uint64_t count, uint64_t offset,
                   uint64_t *length, bool *hole);

#endif
