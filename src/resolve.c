/* SPDX-License-Identifier: BSD-3-Clause */

#include "resolve.h"

/* How many of COUNT bytes at OFFSET, which is within LAYER, have the same
 * answer in BITMAP; *SET is which.
 */
static uint64_t
run_of_bytes (const struct snapshot *layer, const struct bitmap *bitmap,
              uint64_t offset, uint64_t count, bool *set)
{
  const unsigned shift = layer->chunk_shift;
  const uint64_t first = offset >> shift;
  const uint64_t chunks = ((offset + count - 1) >> shift) - first + 1;
  const uint64_t run = bitmap_run (bitmap, first, chunks, set);
  const uint64_t length = ((first + run) << shift) - offset;

  return length < count ? length : count;
}

/* Once, from old to new. */
static struct place
walk (struct snapshot *snapshot, uint64_t offset, uint64_t count)
{
  struct place place = { .length = count };
  bool set;

  for (struct snapshot *layer = snapshot; layer != NULL;
       layer = resolve_newer (layer)) {
    if (offset >= layer->size)
      continue; /* the origin had shrunk when this one was taken */
    if (place.length > layer->size - offset)
      place.length = layer->size - offset;
    place.length
        = run_of_bytes (layer, &layer->hastrans, offset, place.length, &set);
    if (set) {
      place.layer = layer;
      break;
    }
  }
  return place;
}

struct place
resolve_find (struct snapshot *snapshot, uint64_t offset, uint64_t count)
{
  const _Atomic uint64_t *moves = snapshot->shared->moves;
  struct place place;
  uint64_t before;
  bool set;

  /* A deleted one is read for older ones, whose space need not be free. */
  if (atomic_load (&snapshot->has_free) && !snapshot_is_deleted (snapshot)) {
    count = run_of_bytes (snapshot, &snapshot->free, offset, count, &set);
    if (set)
      return (struct place){ .layer = snapshot, .free = true, .length = count };
  }
  do {
    before = atomic_load (moves);
    place = walk (snapshot, offset, count);
    /* What the snapshot itself has does not move. */
  } while (place.layer != snapshot && atomic_load (moves) != before);
  return place;
}

/* Whether all of a range that begins within LAYER has its bits. */
static bool
is_all_set (const struct snapshot *layer, const struct bitmap *bitmap,
            uint64_t offset, uint64_t length)
{
  bool set;

  if (length > layer->size - offset)
    length = layer->size - offset;
  return run_of_bytes (layer, bitmap, offset, length, &set) == length && set;
}

bool
resolve_is_wanted (struct snapshot *from, uint64_t offset, uint64_t length)
{
  for (struct snapshot *layer = from; layer != NULL; layer = layer->older) {
    if (snapshot_is_broken (layer) && !layer->absent)
      return false; /* nobody reads past it */
    if (offset >= layer->size)
      continue;
    if (is_all_set (layer, &layer->hastrans, offset, length))
      return false; /* nobody looks further than here */
    if (!snapshot_is_deleted (layer)
        && !(atomic_load (&layer->has_free)
             && is_all_set (layer, &layer->free, offset, length)))
      return true;
  }
  return false;
}

uint64_t
resolve_kept (struct snapset *set, uint64_t group, uint64_t mask)
{
  const struct snapshot *target = set->target;
  const struct snapshot *newest = snapset_newest (set);
  uint64_t kept = 0;

  if (newest == target && newest == set->last)
    return 0; /* as it mostly is */
  /* From the last to the newest, as chunks move: so none is missed. */
  for (const struct snapshot *layer = set->last; layer != newest->older;
       layer = layer->older) {
    if (snapshot_is_broken (layer))
      return mask;
    if (layer == target)
      continue;
    for (uint64_t left = mask & ~kept; left != 0; left &= left - 1) {
      const unsigned bit = (unsigned)__builtin_ctzll (left);
      const uint64_t offset = (group * BITMAP_GROUP + bit)
                              << target->chunk_shift;
      /* Its chunks are not smaller, so one has all of ours or nothing. */
      if (offset < layer->size
          && bitmap_test (&layer->hastrans, offset >> layer->chunk_shift))
        kept |= UINT64_C (1) << bit;
    }
  }
  return kept;
}

uint64_t
resolve_unwanted (struct snapset *set, uint64_t group, uint64_t mask)
{
  const struct snapshot *target = set->target;
  struct snapshot *newest = snapset_newest (set);
  uint64_t unwanted = 0;

  /* What is no free space in the newest is wanted by it. */
  if (newest == NULL || !atomic_load (&newest->has_free))
    return 0;
  for (uint64_t left = mask; left != 0; left &= left - 1) {
    const unsigned bit = (unsigned)__builtin_ctzll (left);
    const uint64_t chunk = group * BITMAP_GROUP + bit;
    if (!resolve_is_wanted (newest, chunk << target->chunk_shift,
                            snapshot_bytes (target, chunk, 1)))
      unwanted |= UINT64_C (1) << bit;
  }
  return unwanted;
}
