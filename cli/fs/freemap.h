/* SPDX-License-Identifier: BSD-3-Clause */
/* Which bytes of a view are free, as extents.  For one thread at a time. */

#ifndef FSSNAP_FREEMAP_H
#define FSSNAP_FREEMAP_H

#include <stddef.h>
#include <stdint.h>

/* Extents beyond this many are not taken: they stay used.  16 bytes each, in
 * the command's memory.
 */
#define FREEMAP_MAX (UINT32_C (32) << 20)

struct extent {
  uint64_t offset, length; /* bytes; LENGTH is not 0 */
};

/* Zeros are an empty one. */
struct freemap {
  struct extent *extents;
  size_t count, room;
};

/* Add LENGTH bytes, or none, from OFFSET on; in any order, but in ascending
 * order neighbours become one extent at once.  OFFSET + LENGTH must not
 * overflow.  0, or -1 with errno ENOMEM.
 */
int freemap_add (struct freemap *map, uint64_t offset, uint64_t length);

/* Put in order: by offset, with neighbours and what overlaps made one. */
void freemap_settle (struct freemap *map);

/* Bytes in all extents of a settled map. */
uint64_t freemap_bytes (const struct freemap *map);

void freemap_free (struct freemap *map);

#endif
