/* SPDX-License-Identifier: BSD-3-Clause */
/* The life of a deleted snapshot, as a layer that nobody can name:
 *
 *   needed    older snapshots read some of it: that stays, the rest is
 *             punched out of its backing file, once, when its last copies
 *             have been stored, and again after each deletion
 *   merged    two such layers that are neighbours become one: what the
 *             newer one holds is copied into the older one, so that however
 *             many are taken and deleted again while an old one stays, no
 *             more layers remain than there are snapshots, and one
 *   dropped   nobody needs it: out of the chain, its space is given back
 *   freed     when no reader and no writer can still be on his way to it
 *             (grace.h), its space has been given back, and no client has
 *             it open
 *
 * Why a reader of an older snapshot never gets a hole that was punched: a
 * chunk is punched only if a layer between the nearest snapshot that could
 * want it and this one has it, so whoever looks for it afresh finds it
 * there; and he looks again after he has read (view.c), past no move that
 * was announced meanwhile (resolve.h).
 *
 * Only this thread takes layers out of the chain.  So the pointers to older
 * layers that it follows stay good without a lock, and it holds none over
 * I/O.  A store that hangs here holds up nothing but other clearing away.
 */

#include "reclaim.h"
#include "copy.h"
#include "report.h"
#include "resolve.h"
#include "scoped.h"
#include "store.h"

#include <errno.h>
#include <time.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

/* Bytes merged in one step: large enough for a disk, and small beside
 * max-memory, which the writers want.
 */
#define MERGE_STEP ((size_t)256 << 10)

/* Groups given back at a time: readers who are looking for something then
 * look again.
 */
#define GIVE_BACK_GROUPS 256

/* A layer is not merged into one whose chunks are more than 16 times as
 * large: each of its chunks would take that much space there.
 */
#define MERGE_GROWTH_SHIFT 4

/* Seconds to wait for memory before the merge is left for another time. */
#define MERGE_PATIENCE 60

struct reclaim {
  struct snapset *set;
  pthread_t thread;
  bool running; /* of who starts and stops it */
  atomic_bool stop;

  pthread_mutex_t lock;
  pthread_cond_t changed;
  bool ended; /* under LOCK */

  bool in_grace; /* the thread's: a period runs */
};

struct reclaim *
reclaim_create (struct snapset *set)
{
  struct reclaim *reclaim = calloc (1, sizeof *reclaim);
  pthread_condattr_t attr;

  if (reclaim == NULL) {
    report_error ("no memory for clearing away snapshots: %m");
    return NULL;
  }
  reclaim->set = set;
  pthread_mutex_init (&reclaim->lock, NULL);
  pthread_condattr_init (&attr);
  pthread_condattr_setclock (&attr, CLOCK_MONOTONIC);
  pthread_cond_init (&reclaim->changed, &attr);
  pthread_condattr_destroy (&attr);
  return reclaim;
}

void
reclaim_free (struct reclaim *reclaim)
{
  if (reclaim == NULL)
    return;
  pthread_cond_destroy (&reclaim->changed);
  pthread_mutex_destroy (&reclaim->lock);
  free (reclaim);
}

/* Which of a layer's chunks, BITS of a group, an older snapshot needs. */
static uint64_t
needed_chunks (struct snapshot *layer, uint64_t group, uint64_t bits)
{
  uint64_t needed = 0;

  for (; bits != 0; bits &= bits - 1) {
    const unsigned bit = (unsigned)__builtin_ctzll (bits);
    const uint64_t chunk = group * BITMAP_GROUP + bit;
    if (resolve_is_wanted (layer->older, chunk << layer->chunk_shift,
                           snapshot_bytes (layer, chunk, 1)))
      needed |= UINT64_C (1) << bit;
  }
  return needed;
}

/* Or the thread is to end. */
static bool
is_needed (struct reclaim *reclaim, struct snapshot *layer)
{
  for (uint64_t group = bitmap_next_group (&layer->hastrans, 0);
       group != UINT64_MAX;
       group = bitmap_next_group (&layer->hastrans, group + 1))
    if (atomic_load (&reclaim->stop)
        || needed_chunks (layer, group, bitmap_group (&layer->hastrans, group))
               != 0)
      return true;
  return false;
}

/* Chunks of a group that nobody needs. */
struct unneeded {
  uint64_t group, mask;
};

/* Punch a run of chunks, if it is one, out of a layer's backing file. */
static void
punch_run (struct snapshot *layer, uint64_t first, uint64_t count)
{
  if (count > 0
      && backfile_punch (layer->backfile, first << layer->chunk_shift,
                         snapshot_bytes (layer, first, count))
             == -1)
    nbdkit_debug ("fssnap: deleted snapshot %u: backing store %s: no holes "
                  "can be punched: %m",
                  layer->number, backfile_name (layer->backfile));
}

/* Give the chunks of COUNT groups, in their order, back. */
static void
give_back (struct snapshot *layer, const struct unneeded *groups,
           unsigned count)
{
  uint64_t first = 0, length = 0; /* a run of chunks to be punched */

  resolve_announce_move (layer->shared);
  for (unsigned i = 0; i < count; i++)
    bitmap_clear_group (&layer->hastrans, groups[i].group, groups[i].mask);
  for (unsigned i = 0; i < count; i++)
    for (uint64_t left = groups[i].mask; left != 0;) {
      const unsigned bit = (unsigned)__builtin_ctzll (left);
      const unsigned run = bitmap_first_run (left);
      const uint64_t chunk = groups[i].group * BITMAP_GROUP + bit;

      if (chunk != first + length) {
        punch_run (layer, first, length);
        first = chunk;
        length = 0;
      }
      length += run;
      left &= ~bitmap_mask (bit, run);
    }
  punch_run (layer, first, length);
}

/* Give back what of a layer nobody needs, while something is needed. */
static void
punch_unneeded (struct reclaim *reclaim, struct snapshot *layer)
{
  struct unneeded groups[GIVE_BACK_GROUPS];
  unsigned count = 0;

  for (uint64_t group = bitmap_next_group (&layer->hastrans, 0);
       group != UINT64_MAX && !atomic_load (&reclaim->stop);
       group = bitmap_next_group (&layer->hastrans, group + 1)) {
    const uint64_t bits = bitmap_group (&layer->hastrans, group);
    /* What is lost stays in the table, so its bits stay too: a translation
     * without a bit is one that is about to be stored.
     */
    const uint64_t unneeded = bits & ~needed_chunks (layer, group, bits)
                              & ~transtbl_held (&layer->table, group);

    if (unneeded != 0)
      groups[count++] = (struct unneeded){ group, unneeded };
    if (count == GIVE_BACK_GROUPS) {
      give_back (layer, groups, count);
      count = 0;
    }
  }
  if (count > 0)
    give_back (layer, groups, count);
}

/* Copy COUNT chunks of a group of INTO, from FIRST on, those that it does
 * not have.  False: that failed, or the thread is to end.
 */
static bool
merge_group (struct reclaim *reclaim, struct snapshot *into, uint64_t first,
             unsigned count)
{
  const uint64_t group = first / BITMAP_GROUP;
  const uint64_t wanted = bitmap_mask (first % BITMAP_GROUP, count);
  struct timespec deadline;
  size_t bytes = (size_t)count << into->chunk_shift;

  if (bytes > MERGE_STEP)
    bytes = MERGE_STEP;
  if (bytes > into->run_limit)
    bytes = into->run_limit;
  if (bytes < into->options.chunk_size)
    bytes = into->options.chunk_size;
  clock_gettime (CLOCK_MONOTONIC, &deadline);
  deadline.tv_sec += MERGE_PATIENCE;
  while (!atomic_load (&reclaim->stop)) {
    struct translation *busy = NULL, *claim = translation_new (into);
    struct buffer *buffer = throttle_wait (into->shared->throttle, bytes,
                                           &deadline, &reclaim->stop);
    enum claim claimed = CLAIM_NOTHING;
    int r = -1;

    if (claim != NULL && buffer != NULL) {
      struct copy copy = { .set = reclaim->set,
                           .snapshot = into,
                           .claim = claim,
                           .buffer = buffer,
                           .merge = true };
      claimed = transtbl_claim (&into->table, &into->hastrans, group, wanted,
                                (unsigned)(buffer->size >> into->chunk_shift),
                                claim, &busy);
      r = claimed == CLAIM_OWNED ? copy_claim (&copy) : 0;
    }
    if (buffer != NULL)
      buffer_release (buffer);
    translation_release (busy);
    translation_release (claim);
    if (r == -1)
      return false;
    if (claimed != CLAIM_OWNED)
      return true; /* it has them, or is about to */
  }
  return false;
}

/* Copy what LAYER holds into the layer before it. */
static void
merge (struct reclaim *reclaim, struct snapshot *layer)
{
  struct snapshot *into = layer->older;

  nbdkit_debug ("fssnap: deleted snapshot %u is merged into %u", layer->number,
                into->number);
  for (uint64_t group = bitmap_next_group (&layer->hastrans, 0);
       group != UINT64_MAX;
       group = bitmap_next_group (&layer->hastrans, group + 1)) {
    uint64_t bits = bitmap_group (&layer->hastrans, group);

    while (bits != 0) {
      const unsigned bit = (unsigned)__builtin_ctzll (bits);
      const unsigned run = bitmap_first_run (bits);
      const uint64_t start = group * BITMAP_GROUP + bit;
      const uint64_t offset = start << layer->chunk_shift;
      uint64_t chunk = offset >> into->chunk_shift;
      uint64_t end = offset + snapshot_bytes (layer, start, run);

      /* What lies beyond is no older one's, so nobody needs it. */
      if (end > into->size)
        end = into->size;
      while (chunk << into->chunk_shift < end) {
        const uint64_t last = (end - 1) >> into->chunk_shift;
        uint64_t next = (chunk / BITMAP_GROUP + 1) * BITMAP_GROUP;
        if (next > last + 1)
          next = last + 1;
        if (!merge_group (reclaim, into, chunk, (unsigned)(next - chunk)))
          return;
        chunk = next;
      }
      bits &= ~bitmap_mask (bit, run);
    }
  }
}

/* Whether all is at rest that a deleted layer had still to store, and it is
 * not the target, so that nothing more comes.
 */
static bool
is_at_rest (struct snapset *set, struct snapshot *layer)
{
  if (!snapshot_is_deleted (layer) || snapshot_is_broken (layer)
      || !snapshot_is_drained (layer))
    return false;
  SCOPED_LOCK (&set->lock);
  return set->target != layer;
}

/* Take a layer out that was not needed when there had been DELETIONS. */
static void
drop (struct snapset *set, struct snapshot *layer, uint64_t deletions)
{
  {
    SCOPED_LOCK (&set->mutations);
    /* Else it may have been the target meanwhile, and hold something. */
    if (atomic_load (&set->deletions) != deletions || set->target == layer)
      return;
    resolve_announce_move (&set->shared);
    snapset_drop (set, layer);
  }
}

/* Give back what can be given back of a layer, and see if it can go. */
static void
tidy (struct reclaim *reclaim, struct snapshot *layer)
{
  struct snapset *set = reclaim->set;
  const uint64_t deletions = atomic_load (&set->deletions);
  struct snapshot *older = layer->older;

  if (!is_at_rest (set, layer))
    return;
  /* What is on its way into the older one counts when it is there. */
  if (layer->merging && older != NULL && !is_at_rest (set, older))
    return;
  layer->merging = false;
  if (layer->tidied != deletions) {
    if (!is_needed (reclaim, layer)) {
      drop (set, layer, deletions);
      return;
    }
    punch_unneeded (reclaim, layer);
    layer->tidied = deletions;
  }
  if (layer->merged == deletions || older == NULL || older->merging
      || !is_at_rest (set, older))
    return;
  layer->merged = deletions;
  if (older->chunk_shift > layer->chunk_shift + MERGE_GROWTH_SHIFT)
    return;
  merge (reclaim, layer);
  layer->merging = true;
  layer->tidied = 0; /* once more, when that is stored */
  bell_ring (&set->bell);
}

/* Take out what no snapshot is behind any more, or cannot be read past a
 * broken one.
 */
static void
drop_unreachable (struct snapset *set)
{
  bool reachable = false;

  SCOPED_LOCK (&set->mutations);
  for (struct snapshot *layer = set->oldest, *next; layer != NULL;
       layer = next) {
    next = resolve_newer (layer);
    if (snapshot_is_deleted (layer) && !reachable)
      snapset_drop (set, layer);
    else if (snapshot_is_broken (layer) && !layer->absent)
      reachable = false; /* and if deleted, it says so to the older ones */
    else if (!snapshot_is_deleted (layer))
      reachable = true;
  }
}

/* Give back what was dropped, once the store knows. */
static void
release_dropped (struct snapset *set)
{
  for (struct snapshot *s = set->dropped; s != NULL; s = s->next) {
    if (!s->dropped)
      s->dropped
          = s->record == NULL || store_drop (set->shared.store, s->record) == 0;
    if (s->dropped)
      snapshot_release (s);
  }
}

/* It has nothing left to do. */
static void
free_layer (struct snapset *set, struct snapshot *layer)
{
  struct catalog_layer *record = layer->record;

  if (flusher_stop (layer->flusher, MERGE_PATIENCE) == -1)
    return;
  snapshot_free (layer);
  if (record != NULL)
    store_remove (set->shared.store, record);
}

/* Free what was dropped, as far as nobody can be using it. */
static void
free_dropped (struct reclaim *reclaim)
{
  struct snapset *set = reclaim->set;
  bool fresh = false;

  if (reclaim->in_grace && grace_passed (&set->grace)) {
    reclaim->in_grace = false;
    for (struct snapshot *s = set->dropped; s != NULL; s = s->next)
      if (s->grace == GRACE_AWAITED)
        s->grace = GRACE_PASSED;
  }
  for (struct snapshot *s = set->dropped, *next; s != NULL; s = next) {
    next = s->next;
    fresh |= s->grace == GRACE_NONE;
    if (s->grace == GRACE_PASSED && snapshot_is_discarded (s)
        && !atomic_load (&s->telling) && snapset_forget (set, s))
      free_layer (set, s);
  }
  if (fresh && !reclaim->in_grace) {
    for (struct snapshot *s = set->dropped; s != NULL; s = s->next)
      if (s->grace == GRACE_NONE)
        s->grace = GRACE_AWAITED;
    grace_begin (&set->grace);
    reclaim->in_grace = true;
    bell_ring (&set->bell); /* it may have passed already */
  }
}

static struct snapshot *
oldest_of (struct snapset *set)
{
  SCOPED_LOCK (&set->lock);
  return set->oldest;
}

static void *
run (void *arg)
{
  struct reclaim *reclaim = arg;
  struct snapset *set = reclaim->set;

  while (!atomic_load (&reclaim->stop)) {
    drop_unreachable (set);
    for (struct snapshot *layer = oldest_of (set), *next; layer != NULL;
         layer = next) {
      next = resolve_newer (layer);
      tidy (reclaim, layer);
    }
    release_dropped (set);
    free_dropped (reclaim);
    bell_wait (&set->bell);
  }

  SCOPED_LOCK (&reclaim->lock);
  reclaim->ended = true;
  pthread_cond_signal (&reclaim->changed);
  return NULL;
}

int
reclaim_start (struct reclaim *reclaim)
{
  const int err = pthread_create (&reclaim->thread, NULL, run, reclaim);

  if (err != 0) {
    errno = err;
    report_error ("fssnap: cannot start the thread that clears away: %m");
    return -1;
  }
  reclaim->running = true;
  return 0;
}

int
reclaim_stop (struct reclaim *reclaim, unsigned timeout)
{
  struct timespec deadline;
  int err = 0;

  if (!reclaim->running)
    return 0;
  clock_gettime (CLOCK_MONOTONIC, &deadline);
  deadline.tv_sec += timeout;
  atomic_store (&reclaim->stop, true);
  bell_ring (&reclaim->set->bell);
  throttle_wake (reclaim->set->shared.throttle);
  pthread_mutex_lock (&reclaim->lock);
  while (!reclaim->ended && err == 0)
    err = pthread_cond_timedwait (&reclaim->changed, &reclaim->lock, &deadline);
  const bool ended = reclaim->ended;
  pthread_mutex_unlock (&reclaim->lock);
  if (!ended)
    return -1;
  pthread_join (reclaim->thread, NULL);
  reclaim->running = false;
  return 0;
}
