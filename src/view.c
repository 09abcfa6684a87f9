/* SPDX-License-Identifier: BSD-3-Clause */
/* The way of a snapshot read.
 *
 * A piece of a snapshot is in the first layer, from the snapshot itself to
 * the newest, that has a translation for it; if none has, it is on the
 * origin.  The origin is read without keeping writers out, and then the
 * same question is asked again, of the chain as it is by then: a writer
 * sets the bit, in whatever snapshot is the newest, before it overwrites
 * the origin, so a piece that no layer has even now was read before any
 * overwrite.  If a layer has it now, it is read from there.
 *
 * The same look again finds a layer that broke: a writer that gives up
 * marks the layer before it overwrites, and a layer's space is freed only
 * after it is marked.  So what was read while every layer on the way was
 * whole is right.
 *
 * A translated chunk is in the translation table or else in the backing
 * file: it leaves the table only after it was written.
 */

#include "view.h"

#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <string.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

/* Extents looked up for one answer.  An answer may stop short of what was
 * asked; without a limit a fragmented file costs a million seeks.
 */
#define EXTENTS_MAX 4096

/* Where a piece of a snapshot is. */
struct place {
  struct snapshot *layer; /* who has it, or NULL: the origin */
  uint64_t length;        /* bytes for which that holds */
};

static struct snapshot *
newer (struct snapshot *layer)
{
  return atomic_load_explicit (&layer->newer, memory_order_acquire);
}

/* Find the first COUNT bytes (1 or more) at OFFSET, or as many of them as
 * are in one place.
 */
static struct place
find_place (struct snapshot *snapshot, uint64_t offset, uint64_t count)
{
  struct place place = { .length = count };

  for (struct snapshot *layer = snapshot; layer != NULL;
       layer = newer (layer)) {
    bool translated;

    if (offset >= layer->size)
      continue; /* the origin had shrunk when this one was taken */
    if (place.length > layer->size - offset)
      place.length = layer->size - offset;
    const unsigned shift = layer->chunk_shift;
    const uint64_t first = offset >> shift;
    const uint64_t chunks = ((offset + place.length - 1) >> shift) - first + 1;
    const uint64_t run
        = bitmap_run (&layer->hastrans, first, chunks, &translated);
    const uint64_t length = ((first + run) << shift) - offset;
    if (place.length > length)
      place.length = length;
    if (translated) {
      place.layer = layer;
      break;
    }
  }
  return place;
}

/* Are all layers on the way to PLACE whole?  0, or -1 with errno (EIO),
 * logged.
 */
static int
check_whole (struct snapshot *snapshot, struct place place, uint64_t offset)
{
  for (struct snapshot *layer = snapshot; layer != NULL;
       layer = newer (layer)) {
    if (snapshot_is_broken (layer)) {
      nbdkit_error ("snapshot %u: offset %" PRIu64
                    " cannot be read: snapshot %u is broken",
                    snapshot->number, offset, layer->number);
      errno = EIO;
      return -1;
    }
    if (layer == place.layer)
      break;
  }
  return 0;
}

/* The second look.  What is at OFFSET was read as PLACE says: for how many
 * bytes was that right?  0: none, find their place again.  -1 with errno,
 * logged: a layer on the way is broken.
 */
static int64_t
look_again (struct snapshot *snapshot, struct place place, uint64_t offset)
{
  /* The read before, the looks after.  Pairs with the order of the bit, or
   * the mark, and the overwrite in the writer.
   */
  atomic_thread_fence (memory_order_seq_cst);

  if (check_whole (snapshot, place, offset) == -1)
    return -1;
  if (place.layer != NULL)
    return (int64_t)place.length;
  const struct place now = find_place (snapshot, offset, place.length);
  return now.layer == NULL ? (int64_t)now.length : 0;
}

/* The translation that holds OFFSET of a layer, or NULL if the backing file
 * does; *LENGTH in: bytes asked for, out: for how many the answer holds.
 */
static struct translation *
find_translation (struct snapshot *layer, uint64_t offset, uint64_t *length)
{
  const unsigned shift = layer->chunk_shift;
  const uint64_t first = offset >> shift;
  uint64_t chunks = ((offset + *length - 1) >> shift) - first + 1;
  struct translation *translation
      = transtbl_find (&layer->table, first, &chunks);
  const uint64_t found = ((first + chunks) << shift) - offset;

  if (*length > found)
    *length = found;
  return translation;
}

/* Copy from a translation in memory. */
static int
read_translation (const struct snapshot *layer,
                  const struct translation *translation, void *buf,
                  uint64_t length, uint64_t offset)
{
  if (translation->state == TRANSLATION_LOST) {
    nbdkit_error ("snapshot %u: offset %" PRIu64
                  " cannot be read: its old content was unreadable",
                  layer->number, offset);
    errno = EIO;
    return -1;
  }
  memcpy (buf,
          translation->data + offset
              - (translation->first << layer->chunk_shift),
          length);
  return 0;
}

/* Read what LAYER has translations for. */
static int
read_layer (struct snapshot *layer, uint8_t *buf, uint64_t count,
            uint64_t offset)
{
  while (count > 0) {
    uint64_t length = count;
    struct translation *translation = find_translation (layer, offset, &length);
    int r;

    if (translation != NULL)
      r = read_translation (layer, translation, buf, length, offset);
    else
      r = backfile_read (layer->backfile, buf, length, offset);
    translation_release (translation);
    if (r == -1)
      return -1;
    buf += length;
    offset += length;
    count -= length;
  }
  return 0;
}

int
view_read (struct snapset *set, struct snapshot *snapshot, void *buf,
           uint64_t count, uint64_t offset)
{
  uint8_t *p = buf;

  while (count > 0) {
    const struct place place = find_place (snapshot, offset, count);
    /* What is broken already has no space left to read from. */
    if (check_whole (snapshot, place, offset) == -1)
      return -1;
    const int r
        = place.layer != NULL
              ? read_layer (place.layer, p, place.length, offset)
              : origin_read_quiet (set->origin, p, place.length, offset);
    const int err = errno;
    const int64_t good = look_again (snapshot, place, offset);
    if (good == -1)
      return -1;
    if (good == 0)
      continue;
    if (r == -1) {
      if (place.layer == NULL)
        nbdkit_error ("snapshot %u: origin %s: read of %" PRIu64
                      " bytes at %" PRIu64 ": %s",
                      snapshot->number, origin_path (set->origin), place.length,
                      offset, strerror (err));
      errno = err;
      return -1;
    }
    p += good;
    offset += (uint64_t)good;
    count -= (uint64_t)good;
  }
  return 0;
}

/* One extent of what LAYER has translations for. */
static int
layer_extent (struct snapshot *layer, uint64_t count, uint64_t offset,
              uint64_t *length, bool *hole)
{
  *length = count;
  *hole = false;
  struct translation *translation = find_translation (layer, offset, length);
  if (translation == NULL)
    return backfile_extent (layer->backfile, *length, offset, length, hole);
  translation_release (translation);
  return 0;
}

/* One extent of a snapshot. */
static int
snapshot_extent (struct snapset *set, struct snapshot *snapshot, uint64_t count,
                 uint64_t offset, uint64_t *length, bool *hole)
{
  int64_t good;

  do {
    struct place place = find_place (snapshot, offset, count);
    if (check_whole (snapshot, place, offset) == -1)
      return -1;
    const int r
        = place.layer != NULL
              ? layer_extent (place.layer, place.length, offset, length, hole)
              : origin_extent (set->origin, place.length, offset, length, hole);
    if (r == -1)
      return -1;
    place.length = *length;
    good = look_again (snapshot, place, offset);
    if (good == -1)
      return -1;
  } while (good == 0);
  *length = (uint64_t)good;
  return 0;
}

int
view_extents (struct snapset *set, struct snapshot *snapshot, uint64_t count,
              uint64_t offset, bool one, struct nbdkit_extents *extents)
{
  const uint64_t end = offset + count;
  bool first_hole = false;

  for (unsigned i = 0; offset < end && i < EXTENTS_MAX; i++) {
    uint64_t length;
    bool hole;
    const int r = snapshot != NULL ? snapshot_extent (
                      set, snapshot, end - offset, offset, &length, &hole)
                                   : origin_extent (set->origin, end - offset,
                                                    offset, &length, &hole);
    if (r == -1)
      return -1;
    if (i == 0)
      first_hole = hole;
    else if (one && hole != first_hole)
      break;
    if (nbdkit_add_extent (extents, offset, length,
                           hole ? NBDKIT_EXTENT_HOLE | NBDKIT_EXTENT_ZERO : 0)
        == -1)
      return -1;
    offset += length;
  }
  return 0;
}
