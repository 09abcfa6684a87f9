/* SPDX-License-Identifier: BSD-3-Clause */
/* What is on a disk, by libblkid: a file system, partitions, or something that
 * nobody here reads.
 */

#ifndef FSSNAP_PROBE_H
#define FSSNAP_PROBE_H

#include "source.h"

#include <stddef.h>
#include <stdint.h>

struct partition {
  unsigned number;
  uint64_t offset, size; /* bytes, within the disk */
};

struct probed {
  char *type;  /* "ext4", "LVM2_member"; NULL: libblkid knows none */
  char *table; /* "gpt", "dos"; NULL: it is not partitioned */
  struct partition *partitions; /* without extended ones; none overlap */
  size_t count;
  char *why; /* why it was not looked at, or is not believed; or NULL */
};

/* Look.  The result is to be freed; WHY says so where that was not possible.
 */
struct probed probe (struct source *source);

void probed_free (struct probed *probed);

#endif
