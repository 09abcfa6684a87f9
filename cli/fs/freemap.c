/* SPDX-License-Identifier: BSD-3-Clause */

#include "freemap.h"

#include <errno.h>
#include <stdlib.h>

int
freemap_add (struct freemap *map, uint64_t offset, uint64_t length)
{
  struct extent *last = map->count > 0 ? &map->extents[map->count - 1] : NULL;

  if (length == 0)
    return 0;
  if (last != NULL && last->offset + last->length == offset) {
    last->length += length;
    return 0;
  }
  if (map->count == FREEMAP_MAX)
    return 0;
  if (map->extents == NULL || map->count == map->room) {
    const size_t room = map->room == 0 ? 1024 : 2 * map->room;
    struct extent *more = reallocarray (map->extents, room, sizeof *more);
    if (more == NULL)
      return -1;
    map->extents = more;
    map->room = room;
  }
  map->extents[map->count++] = (struct extent){ offset, length };
  return 0;
}

static int
compare (const void *a, const void *b)
{
  const struct extent *x = a, *y = b;

  return (x->offset > y->offset) - (x->offset < y->offset);
}

void
freemap_settle (struct freemap *map)
{
  size_t kept = 0;

  if (map->count == 0)
    return;
  qsort (map->extents, map->count, sizeof *map->extents, compare);
  for (size_t i = 1; i < map->count; i++) {
    struct extent *last = &map->extents[kept];
    const struct extent next = map->extents[i];
    const uint64_t end = last->offset + last->length;

    if (next.offset > end)
      map->extents[++kept] = next;
    else if (next.offset + next.length > end)
      last->length = next.offset + next.length - last->offset;
  }
  map->count = kept + 1;
}

uint64_t
freemap_bytes (const struct freemap *map)
{
  uint64_t bytes = 0;

  for (size_t i = 0; i < map->count; i++)
    bytes += map->extents[i].length;
  return bytes;
}

void
freemap_free (struct freemap *map)
{
  free (map->extents);
  *map = (struct freemap){};
}
