/* SPDX-License-Identifier: BSD-3-Clause */
/* The way of a write.
 *
 * The bit of a chunk in HASTRANS of the target, the layer that writes copy
 * into (see snapset.c), is the permission to overwrite it: it is set when
 * the old content is as durable as asked.  A write comes through
 * when all its chunks have their bits; until then, inside the gate, it
 * claims runs of chunks that nobody owns, reads their old content and hands
 * them to the flusher:
 *
 *   async    a run gets its bits when it is in the translation table
 *   written  a run gets its bits when the flusher has written it
 *
 * What a write must wait for (room in memory, another owner, the flusher)
 * it waits for outside the gate, and then looks at everything afresh: a
 * snapshot may have been taken meanwhile.  While it waits it owns no claim
 * that is not on its way to the flusher, so writes that overlap cannot wait
 * for each other in a circle.  Whoever waits for a layer's store or memory
 * goes on when that layer is retired: broken, or not the target any more.
 * A layer that is given up is failing until its store knows (snapshot.c); until
 * then nothing is copied into it and nothing overwritten that it does not have.
 *
 * What goes wrong                 break-snapshot           break-write
 * ------------------------------  -----------------------  -----------------
 * the old content is unreadable   the chunk is lost: its   write fails, EIO
 *                                 reads fail, others hold
 * maxsize reached                 snapshot broken          ENOSPC
 * no memory                       snapshot broken          ENOMEM
 * waited longer than cow_timeout  snapshot broken          EIO
 * the flusher cannot write        snapshot broken          that errno
 *
 * In the left column the write goes on at once, since a broken snapshot
 * wants no copies; in the right column the bits stay clear and the origin
 * is not touched, so the snapshot still reads what it always did.
 */

#include "cow.h"
#include "copy.h"
#include "lookup.h"
#include "resolve.h"

#include <errno.h>

/* One write on its way through cow_begin_write. */
struct cow_write {
  uint64_t offset, count;    /* bytes of the origin */
  struct snapshot *snapshot; /* the target, when it last looked */
  uint64_t tried;            /* chunks of it before this one were kept, or
                                had an owner, when it last looked */
  bool waited;               /* DEADLINE is set */
  uint64_t breaks;           /* the set's memory_breaks at that time */
  struct timespec deadline;
  struct buffer *buffer;    /* memory for the next run, or NULL */
  size_t want;              /* bytes of memory to wait for, or 0 */
  struct translation *busy; /* the owner to wait for, or NULL */
};

/* The caller owns CLAIM, but its chunks were being copied before, which
 * failed and was logged: fail like that instead of trying for ever.
 */
static int
fail_again (struct snapshot *snapshot, struct translation *claim)
{
  const int err = atomic_load (&snapshot->copy_error);

  copy_give_back (snapshot, claim, err);
  errno = err;
  return -1;
}

/* Copy a claim for a write, whose buffer it uses up. */
static int
copy_for (struct snapset *set, struct snapshot *snapshot,
          struct cow_write *write, struct translation *claim)
{
  struct buffer *buffer = write->buffer;
  struct copy copy = { .set = set,
                       .snapshot = snapshot,
                       .claim = claim,
                       .buffer = buffer,
                       .offset = write->offset };

  write->buffer = NULL;
  const int r = copy_claim (&copy);
  const int err = errno;
  buffer_release (buffer);
  errno = err;
  return r;
}

/* Have memory for a run of up to BYTES.  0; 1 if the write has to wait for
 * it; -1 with errno if the write has failed.
 */
static int
have_buffer (struct snapshot *snapshot, struct cow_write *write, size_t bytes)
{
  /* What it has may be from before a snapshot with larger chunks. */
  if (write->buffer != NULL
      && write->buffer->size >= snapshot->options.chunk_size)
    return 0;
  if (write->buffer != NULL)
    buffer_release (write->buffer);
  if (bytes > snapshot->run_limit)
    bytes = snapshot->run_limit;
  write->buffer = throttle_try (snapshot->shared->throttle, bytes);
  if (write->buffer != NULL)
    return 0;
  if (errno == EAGAIN) {
    write->want = bytes;
    return 1;
  }
  return copy_failed (snapshot, write->offset, errno, "no memory for the copy");
}

/* Copy what is left to copy of COUNT chunks from FIRST on, within a group.
 * 0: done, or owned by others (then WRITE's busy is one of them), or the
 * snapshot broke.  1: the write has to wait for memory.  -1 with errno: it
 * has failed.
 */
static int
copy_group (struct snapset *set, struct snapshot *snapshot,
            struct cow_write *write, uint64_t first, unsigned count)
{
  const uint64_t group = first / BITMAP_GROUP;
  const uint64_t mask = bitmap_mask (first % BITMAP_GROUP, count);
  uint64_t left;

  while ((left = mask & ~bitmap_group (&snapshot->hastrans, group)) != 0
         && (left &= ~resolve_kept (set, group, left)) != 0
         && !atomic_load (&snapshot->failing)) {
    struct translation *busy = NULL;
    int r = have_buffer (snapshot, write,
                         (size_t)bitmap_first_run (left)
                             << snapshot->chunk_shift);
    if (r != 0 || write->buffer == NULL)
      return r;
    struct translation *claim = translation_new (snapshot);
    if (claim == NULL)
      return copy_failed (snapshot, write->offset, ENOMEM,
                          "no memory for the copy");
    size_t limit = write->buffer->size >> snapshot->chunk_shift;
    if (limit > count)
      limit = count;

    switch (transtbl_claim (&snapshot->table, &snapshot->hastrans, group, left,
                            (unsigned)limit, claim, &busy)) {
    case CLAIM_OWNED:
      if (claim->first < write->tried
          && snapshot->options.on_error == ON_ERROR_BREAK_WRITE)
        r = fail_again (snapshot, claim);
      else
        r = copy_for (set, snapshot, write, claim);
      write->tried = claim->first + claim->count;
      break;
    case CLAIM_BUSY:
      if (write->busy == NULL)
        write->busy = busy;
      else
        translation_release (busy);
      translation_release (claim);
      return 0;
    case CLAIM_NOTHING:
      break;
    }
    translation_release (claim);
    if (r == -1)
      return -1;
  }
  return 0;
}

/* How much of the origin anyone wants kept, in bytes.  Inside the gate. */
static uint64_t
size_to_keep (struct snapset *set)
{
  const uint64_t newest = snapset_newest (set)->size;

  return newest < set->target->size ? newest : set->target->size;
}

/* The same for the whole write. */
static int
copy_range (struct snapset *set, struct snapshot *snapshot,
            struct cow_write *write)
{
  const uint64_t size = size_to_keep (set);
  const uint64_t end = write->offset + write->count < size
                           ? write->offset + write->count
                           : size;
  if (write->snapshot != snapshot) {
    write->snapshot = snapshot;
    write->tried = 0;
    write->waited = false;
  }
  if (write->offset >= end)
    return 0; /* the origin has grown: nothing of this is anyone's */

  const uint64_t last = (end - 1) >> snapshot->chunk_shift;
  uint64_t chunk = write->offset >> snapshot->chunk_shift;
  while (chunk <= last) {
    uint64_t next = (chunk / BITMAP_GROUP + 1) * BITMAP_GROUP;
    if (next > last + 1)
      next = last + 1;
    const int r
        = copy_group (set, snapshot, write, chunk, (unsigned)(next - chunk));
    if (r != 0)
      return r;
    chunk = next;
    if (write->tried < chunk)
      write->tried = chunk;
  }
  return 0;
}

/* Until when the write may wait for the store, counted from its first wait
 * for it.
 */
static const struct timespec *
deadline (const struct snapshot *snapshot, struct cow_write *write)
{
  if (!write->waited) {
    clock_gettime (CLOCK_MONOTONIC, &write->deadline);
    write->deadline.tv_sec += snapshot->options.cow_timeout;
    write->waited = true;
  }
  return &write->deadline;
}

/* Wait for the owner of a chunk.  One who still reads the origin waits for
 * nothing but the origin, and that is not the store's time.
 */
static int
wait_for_owner (struct snapshot *snapshot, struct cow_write *write)
{
  struct translation *busy = write->busy;

  /* Others may need the memory while we need none. */
  if (write->buffer != NULL)
    buffer_release (write->buffer);
  write->buffer = NULL;
  const bool claimed = busy->state == TRANSLATION_CLAIMED;
  int err = transtbl_wait (&snapshot->table, busy,
                           claimed ? NULL : deadline (snapshot, write),
                           &snapshot->retired);
  write->busy = NULL;
  translation_release (busy);
  if (claimed && err != 0) {
    /* What the owner could not copy need not be what this write needs. */
    write->tried = 0;
    err = 0;
  }
  return err;
}

/* The write has waited for memory for as long as it may.  Whose copies are
 * in the way?  If they are another snapshot's, whose store must be hanging,
 * that one is given up instead of the target.  True: the write may wait once
 * more, for the memory that this gives, or that another write got so.
 */
static bool
break_memory_holder (struct snapset *set, const struct snapshot *target,
                     struct cow_write *write)
{
  bool other = true;

  /* Writes wait together: one of them acts for all. */
  if (atomic_compare_exchange_strong (&set->memory_breaks, &write->breaks,
                                      write->breaks + 1)) {
    struct snapshot *holder = snapset_memory_holder (set);
    other = holder != NULL && holder != target
            && holder->options.on_error == ON_ERROR_BREAK_SNAPSHOT;
    if (other)
      snapshot_break (holder, EIO,
                      "backing store %s: its copies held max-memory for as "
                      "long as cow-timeout allows",
                      backfile_name (holder->backfile));
    if (other && snapshot_is_failing (holder))
      snapshot_await_break (holder);
    if (holder != NULL)
      snapset_unpin (set, holder);
  }
  write->waited = !other;
  return other;
}

/* Outside the gate: wait for an owner, for memory, or for the end of a
 * snapshot that is given up.  0: look again.  -1 with errno: the write has
 * failed.
 */
static int
wait_outside (struct snapset *set, struct snapshot *snapshot,
              struct cow_write *write)
{
  bool for_memory = false;
  int err = 0;

  if (snapshot_is_failing (snapshot)) {
    translation_release (write->busy);
    write->busy = NULL;
    snapshot_await_break (snapshot);
    return 0;
  }
  atomic_fetch_add_explicit (&snapshot->waits, 1, memory_order_relaxed);
  if (!write->waited)
    write->breaks = atomic_load (&set->memory_breaks);
  if (write->busy != NULL)
    err = wait_for_owner (snapshot, write);
  else {
    for_memory = true;
    atomic_fetch_add_explicit (&snapshot->throttled, 1, memory_order_relaxed);
    write->buffer
        = throttle_wait (snapshot->shared->throttle, write->want,
                         deadline (snapshot, write), &snapshot->retired);
    if (write->buffer == NULL)
      err = errno;
    atomic_fetch_sub_explicit (&snapshot->throttled, 1, memory_order_relaxed);
  }
  if (atomic_load (&snapshot->retired)) {
    write->snapshot = NULL; /* it may be gone, and another in its place */
    return 0;
  }
  if (err == ENOMEM && for_memory)
    return copy_failed (snapshot, write->offset, ENOMEM,
                        "no memory for the copy");
  if (err == ETIMEDOUT && for_memory
      && break_memory_holder (set, snapshot, write))
    return 0;
  if (err == ETIMEDOUT)
    return copy_failed (
        snapshot, write->offset, EIO,
        "waited for the backing store as long as cow-timeout allows");
  if (err == ESHUTDOWN)
    return copy_failed (snapshot, write->offset, err, "the server ends");
  if (err != 0 && err != ECANCELED
      && snapshot->options.on_error == ON_ERROR_BREAK_WRITE) {
    errno = err; /* logged where it happened */
    return -1;
  }
  return 0;
}

int
cow_begin_write (struct snapset *set, uint64_t offset, uint64_t count)
{
  struct cow_write write = { .offset = offset, .count = count };
  int r;

  if (atomic_load_explicit (&set->unwatched, memory_order_relaxed))
    snapset_watch (set);
  do {
    snapset_enter (set);
    struct snapshot *target = set->target;
    r = 0;
    if (target == NULL)
      break;
    r = copy_range (set, target, &write);
    if (r == 0 && write.busy == NULL && !snapshot_is_failing (target))
      break; /* all kept; or a layer broke, and nobody wants anything */
    /* The target may be deleted while this waits for something of it. */
    const unsigned token = grace_enter (&set->grace);
    snapset_leave (set);
    if (r != -1)
      r = wait_outside (set, target, &write);
    const int err = errno;
    grace_leave (&set->grace, token);
    errno = err;
  } while (r != -1);

  const int err = errno;
  if (write.buffer != NULL)
    buffer_release (write.buffer);
  translation_release (write.busy);
  errno = err;
  return r;
}

void
cow_end_write (struct snapset *set)
{
  snapset_leave (set);
}

bool
cow_is_kept (struct snapset *set, uint64_t offset, uint64_t count,
             uint64_t *length)
{
  struct snapshot *target = set->target;
  bool kept;

  *length = count;
  if (target == NULL || snapshot_is_broken (target)
      || offset >= size_to_keep (set))
    return true;
  if (count > size_to_keep (set) - offset)
    count = size_to_keep (set) - offset;

  const unsigned shift = target->chunk_shift;
  const uint64_t first = offset >> shift;
  const uint64_t chunks = ((offset + count - 1) >> shift) - first + 1;
  uint64_t run = bitmap_run (&target->hastrans, first, chunks, &kept);
  if (!kept) {
    /* Not here; but elsewhere, or free space?  A group at a time. */
    const uint64_t group = first / BITMAP_GROUP;
    const unsigned bit = first % BITMAP_GROUP;
    if (run > BITMAP_GROUP - bit)
      run = BITMAP_GROUP - bit;
    const uint64_t mask = bitmap_mask (bit, (unsigned)run);
    const uint64_t needless
        = resolve_kept (set, group, mask) | resolve_unwanted (set, group, mask);
    kept = needless >> bit & 1;
    run = bitmap_first_run (kept ? needless : mask & ~needless);
  }
  *length = ((first + run) << shift) - offset;
  if (*length > count)
    *length = count;
  return kept;
}
