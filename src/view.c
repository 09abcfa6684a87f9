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
 * file: it leaves the table only after it was written.  And what a layer
 * newer than the snapshot has may be moved to an older one, or be given
 * back since an older one has it too; so a piece that was found there is
 * looked for again as well.
 *
 * No failure is logged before the second look: it may be one of a place
 * that has ceased to be the right one, such as a file emptied meanwhile.
 */

#include "view.h"
#include "report.h"
#include "resolve.h"

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

/* A deleted snapshot may have left the chain already, and its links be
 * stale: this comes before they are followed, and inside the grace period.
 * INSIDE: for the layers' own sake, deleted or not.
 */
static int
check_exists (const struct snapshot *snapshot, uint64_t offset, bool inside)
{
  if (inside || !snapshot_is_deleted (snapshot))
    return 0;
  report_error ("snapshot %u: offset %" PRIu64
                " cannot be read: the snapshot was deleted",
                snapshot->number, offset);
  errno = EIO;
  return -1;
}

/* Are all layers on the way to PLACE whole?  0, or -1 with errno (EIO),
 * logged.
 */
static int
check_whole (struct snapshot *snapshot, struct place place, uint64_t offset)
{
  for (struct snapshot *layer = snapshot; layer != NULL;
       layer = resolve_newer (layer)) {
    /* One that fails may have dropped what it could not store. */
    if (snapshot_is_given_up (layer)) {
      report_error ("snapshot %u: offset %" PRIu64
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
 * logged: a layer on the way is broken, or the snapshot was deleted.
 */
static int64_t
look_again (struct snapshot *snapshot, struct place place, uint64_t offset,
            bool inside)
{
  /* The read before, the looks after.  Pairs with the order of the bit, or
   * the mark, and the overwrite in the writer; and with the order of the
   * bit in an older layer and the hole in a newer one in reclaim.c.
   */
  atomic_thread_fence (memory_order_seq_cst);

  if (check_exists (snapshot, offset, inside) == -1)
    return -1;
  /* Of the way to where it is now: what has moved to an older layer may be
   * whole there, whatever became of those after that.
   */
  const struct place now = place.layer == snapshot
                               ? place
                               : resolve_find (snapshot, offset, place.length);
  if (check_whole (snapshot, now, offset) == -1)
    return -1;
  return now.layer == place.layer && now.free == place.free
             ? (int64_t)now.length
             : 0;
}

/* The translation that holds OFFSET of a layer, or NULL if the backing file
 * does; *LENGTH in: bytes asked for, out: for how many the answer holds.  What
 * has left the table does not come back, so a piece that is looked up group by
 * group can be read at once.
 */
static struct translation *
find_translation (struct snapshot *layer, uint64_t offset, uint64_t *length)
{
  const unsigned shift = layer->chunk_shift;
  const uint64_t first = offset >> shift;
  const uint64_t end = ((offset + *length - 1) >> shift) + 1;
  uint64_t chunks = end - first;
  struct translation *translation
      = transtbl_find (&layer->table, first, &chunks);
  uint64_t next = first + chunks;

  while (translation == NULL && next < end) {
    chunks = end - next;
    struct translation *other = transtbl_find (&layer->table, next, &chunks);
    if (other != NULL) {
      translation_release (other); /* of the next piece */
      break;
    }
    next += chunks;
  }
  const uint64_t found = (next << shift) - offset;
  if (*length > found)
    *length = found;
  return translation;
}

/* Count bytes read of SNAPSHOT. */
#define COUNT(snapshot, source, bytes)                                         \
  atomic_fetch_add_explicit (&(snapshot)->reads[stripe_of_thread ()].source,   \
                             bytes, memory_order_relaxed)

/* Read what LAYER has translations for.  0, or -1 with errno, not logged
 * (nobody knows yet whether that was the place): ENODATA if the old content
 * could not be read when it was to be copied.
 */
static int
read_layer (struct snapshot *snapshot, struct snapshot *layer, uint8_t *buf,
            uint64_t count, uint64_t offset)
{
  while (count > 0) {
    uint64_t length = count;
    struct translation *translation = find_translation (layer, offset, &length);
    int r = 0;

    if (translation == NULL) {
      r = backfile_read (layer->backfile, buf, length, offset);
      COUNT (snapshot, backfile, length);
    }
    else if (translation->state == TRANSLATION_LOST) {
      errno = ENODATA;
      r = -1;
    }
    else {
      memcpy (buf,
              translation->data + offset
                  - (translation->first << layer->chunk_shift),
              length);
      COUNT (snapshot, memory, length);
    }
    const int err = errno;
    translation_release (translation);
    errno = err;
    if (r == -1)
      return -1;
    buf += length;
    offset += length;
    count -= length;
  }
  return 0;
}

static int
read_place (struct snapset *set, struct snapshot *snapshot, struct place place,
            void *buf, uint64_t offset)
{
  if (place.free) {
    memset (buf, 0, place.length);
    COUNT (snapshot, free, place.length);
    return 0;
  }
  if (place.layer != NULL)
    return read_layer (snapshot, place.layer, buf, place.length, offset);
  COUNT (snapshot, origin, place.length);
  return origin_read_quiet (set->origin, buf, place.length, offset);
}

/* PLACE was the right one, and failed with errno. */
static int
failed (const struct snapset *set, const struct snapshot *snapshot,
        struct place place, uint64_t offset, const char *call)
{
  const int err = errno;

  if (place.layer == NULL)
    report_error ("snapshot %u: origin %s: %s of %" PRIu64 " bytes at %" PRIu64
                  ": %s",
                  snapshot->number, origin_path (set->origin), call,
                  place.length, offset, strerror (err));
  else if (err == ENODATA)
    report_error ("snapshot %u: offset %" PRIu64
                  " cannot be read: its old content was unreadable",
                  snapshot->number, offset);
  else
    report_error ("snapshot %u: backing store %s: %s of %" PRIu64
                  " bytes at %" PRIu64 ": %s",
                  snapshot->number, backfile_name (place.layer->backfile), call,
                  place.length, offset, strerror (err));
  errno = err == ENODATA ? EIO : err;
  return -1;
}

static int
read_inside (struct snapset *set, struct snapshot *snapshot, uint8_t *buf,
             uint64_t count, uint64_t offset, bool inside)
{
  while (count > 0) {
    if (check_exists (snapshot, offset, inside) == -1)
      return -1;
    const struct place place = resolve_find (snapshot, offset, count);
    const int r = read_place (set, snapshot, place, buf, offset);
    const int err = errno;
    const int64_t good = look_again (snapshot, place, offset, inside);
    if (good == -1)
      return -1;
    if (good == 0)
      continue;
    if (r == -1) {
      errno = err;
      return inside ? -1 : failed (set, snapshot, place, offset, "read");
    }
    buf += good;
    offset += (uint64_t)good;
    count -= (uint64_t)good;
  }
  return 0;
}

int
view_read (struct snapset *set, struct snapshot *snapshot, void *buf,
           uint64_t count, uint64_t offset)
{
  const unsigned token = grace_enter (&set->grace);
  const int r = read_inside (set, snapshot, buf, count, offset, false);
  const int err = errno;

  grace_leave (&set->grace, token);
  errno = err;
  return r;
}

int
view_read_layer (struct snapset *set, struct snapshot *layer, void *buf,
                 uint64_t count, uint64_t offset)
{
  return read_inside (set, layer, buf, count, offset, true);
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
    int r = 0;

    if (check_exists (snapshot, offset, false) == -1)
      return -1;
    struct place place = resolve_find (snapshot, offset, count);
    *length = place.length;
    if (place.free)
      *hole = true;
    else if (place.layer != NULL)
      r = layer_extent (place.layer, place.length, offset, length, hole);
    else
      r = origin_extent (set->origin, place.length, offset, length, hole);
    const int err = errno;
    if (r == 0)
      place.length = *length;
    good = look_again (snapshot, place, offset, false);
    if (good == -1)
      return -1;
    if (good > 0 && r == -1) {
      errno = err;
      return place.layer == NULL
                 ? -1
                 : failed (set, snapshot, place, offset, "lseek");
    }
  } while (good == 0);
  *length = (uint64_t)good;
  return 0;
}

static int
extents_inside (struct snapset *set, struct snapshot *snapshot, uint64_t count,
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

int
view_extents (struct snapset *set, struct snapshot *snapshot, uint64_t count,
              uint64_t offset, bool one, struct nbdkit_extents *extents)
{
  const unsigned token = grace_enter (&set->grace);
  const int r = extents_inside (set, snapshot, count, offset, one, extents);
  const int err = errno;

  grace_leave (&set->grace, token);
  errno = err;
  return r;
}
