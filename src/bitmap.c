/* SPDX-License-Identifier: BSD-3-Clause */

#include "bitmap.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

int
bitmap_init (struct bitmap *bitmap, uint64_t bits)
{
  const uint64_t words = bits / BITMAP_GROUP + 1;

  if (words > SIZE_MAX / sizeof (uint64_t)) {
    errno = ENOMEM;
    return -1;
  }
  const size_t bytes = words * sizeof (uint64_t);
  /* NORESERVE: only the pages that are written count, and strict
   * accounting would refuse the bitmap of a large origin out of hand.
   */
  void *map = mmap (NULL, bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (map == MAP_FAILED) {
    errno = ENOMEM;
    return -1;
  }
  _Atomic uint64_t *used
      = calloc (words / BITMAP_PAGE_WORDS / 64 + 1, sizeof *used);
  if (used == NULL) {
    munmap (map, bytes);
    errno = ENOMEM;
    return -1;
  }
  *bitmap = (struct bitmap){
    .words = map, .used = used, .bits = bits, .mapped = bytes
  };
  return 0;
}

void
bitmap_free (struct bitmap *bitmap)
{
  if (bitmap->words != NULL)
    munmap ((void *)(uintptr_t)bitmap->words, bitmap->mapped);
  free ((void *)(uintptr_t)bitmap->used);
  *bitmap = (struct bitmap){ 0 };
}

uint64_t
bitmap_run (const struct bitmap *bitmap, uint64_t first, uint64_t count,
            bool *set)
{
  assert (count > 0 && first + count <= bitmap->bits);
  *set = bitmap_test (bitmap, first);

  uint64_t length = 0;
  while (length < count) {
    const unsigned bit = (first + length) % BITMAP_GROUP;
    uint64_t word = bitmap_group (bitmap, (first + length) / BITMAP_GROUP);
    /* From here on a one is a bit unlike the first. */
    word = (*set ? ~word : word) >> bit;
    if (word != 0) {
      length += (unsigned)__builtin_ctzll (word);
      break;
    }
    length += BITMAP_GROUP - bit;
  }
  return length == 0 ? 1 : length < count ? length : count;
}

uint64_t
bitmap_next_group (const struct bitmap *bitmap, uint64_t group)
{
  const uint64_t words = bitmap->bits / BITMAP_GROUP + 1;

  while (group < words) {
    const uint64_t page = group / BITMAP_PAGE_WORDS;
    const uint64_t used
        = atomic_load_explicit (&bitmap->used[page / 64], memory_order_relaxed)
          >> page % 64;
    if (used == 0)
      group = (page / 64 + 1) * 64 * BITMAP_PAGE_WORDS;
    else if (!(used & 1))
      group = (page + (unsigned)__builtin_ctzll (used)) * BITMAP_PAGE_WORDS;
    else if (bitmap_group (bitmap, group) != 0)
      return group;
    else
      group++;
  }
  return UINT64_MAX;
}

uint64_t
bitmap_weight (const struct bitmap *bitmap)
{
  uint64_t weight = 0;

  for (uint64_t group = bitmap_next_group (bitmap, 0); group != UINT64_MAX;
       group = bitmap_next_group (bitmap, group + 1))
    weight += (unsigned)__builtin_popcountll (bitmap_group (bitmap, group));
  return weight;
}
