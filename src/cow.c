/* SPDX-License-Identifier: BSD-3-Clause */
/* The way of a write.
 *
 * The bit of a chunk in HASTRANS is the permission to overwrite it: it is
 * set when its old content is as durable as asked.  A write comes through
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
 * for each other in a circle.
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

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

/* Runs of chunks that one snapshot may lose before it is given up.  Each
 * stays in the translation table for good, so there must be a limit; a disk
 * with that many unreadable places is beyond a snapshot's help.
 */
#define LOST_MAX 4096

/* One write on its way through cow_begin_write. */
struct cow_write {
  uint64_t offset, count;    /* bytes of the origin */
  struct snapshot *snapshot; /* the newest, when it last looked */
  uint64_t tried;            /* chunks of it before this one were kept, or
                                had an owner, when it last looked */
  bool waited;               /* DEADLINE is set */
  struct timespec deadline;
  struct buffer *buffer;    /* memory for the next run, or NULL */
  size_t want;              /* bytes of memory to wait for, or 0 */
  struct translation *busy; /* the owner to wait for, or NULL */
};

/* A fault that is not one chunk's.  0: the snapshot gave up, the write may
 * go on.  -1 with errno: the write has failed.
 */
static int
fail (struct snapshot *snapshot, const struct cow_write *write, int err,
      const char *what)
{
  if (snapshot->options.on_error == ON_ERROR_BREAK_SNAPSHOT) {
    snapshot_break (snapshot, "write at offset %" PRIu64 ": %s: %s",
                    write->offset, what, strerror (err));
    return 0;
  }
  nbdkit_error ("snapshot %u: write at offset %" PRIu64
                " of the origin fails: %s: %s",
                snapshot->number, write->offset, what, strerror (err));
  errno = err;
  return -1;
}

/* The flusher is done with a translation. */
static void
stored (struct flush_job *job, int error)
{
  struct translation *translation
      = (struct translation *)((char *)job
                               - offsetof (struct translation, job));
  struct snapshot *snapshot = translation->snapshot;
  const uint64_t offset = translation->first << snapshot->chunk_shift;
  uint64_t mask = 0;

  if (error == 0 && snapshot->options.durability == DURABILITY_WRITTEN)
    mask = bitmap_mask (translation->first % BITMAP_GROUP, translation->count);
  if (error != 0 && error != ECANCELED) {
    if (snapshot->options.on_error == ON_ERROR_BREAK_SNAPSHOT)
      snapshot_break (snapshot,
                      "backing store %s: write of %zu bytes at offset %" PRIu64
                      ": %s",
                      backfile_name (snapshot->backfile), job->length, offset,
                      strerror (error));
    else {
      atomic_store (&snapshot->copy_error, error);
      nbdkit_error ("snapshot %u: backing store %s: write of %zu bytes at "
                    "offset %" PRIu64 ": %s; writes to the origin that need "
                    "it fail",
                    snapshot->number, backfile_name (snapshot->backfile),
                    job->length, offset, strerror (error));
    }
  }
  if (error != 0)
    snapshot_uncount (snapshot, job->length);
  if (error == ECANCELED && !snapshot_is_broken (snapshot)) {
    /* The server ends.  The snapshot stays right as long as it is there. */
    transtbl_settle (&snapshot->table, translation, ESHUTDOWN);
    snapshot_job_ended (snapshot);
    return;
  }
  transtbl_remove (&snapshot->table, translation, &snapshot->hastrans, mask,
                   error);
  snapshot_job_ended (snapshot);
}

/* A claim cannot be copied, because of ERR. */
static void
give_back (struct snapshot *snapshot, struct translation *claim, int err)
{
  atomic_store (&snapshot->copy_error, err);
  transtbl_remove (&snapshot->table, claim, &snapshot->hastrans, 0, err);
}

/* The old content of a run: which of its chunks are what. */
struct old_content {
  uint64_t zero; /* chunks of the run that are all zeros, a bit each */
  uint64_t lost; /* that could not be read                           */
};

static bool
is_zero (const uint8_t *data, uint64_t length)
{
  return data[0] == 0 && memcmp (data, data + 1, length - 1) == 0;
}

/* After a run could not be read in one piece: find the chunks that can't.
 * Returns their bits.
 */
static uint64_t
read_one_by_one (struct snapset *set, struct snapshot *snapshot,
                 const struct translation *claim, uint8_t *data)
{
  uint64_t lost = 0;

  for (unsigned i = 0; i < claim->count; i++) {
    const uint64_t chunk = claim->first + i;
    const uint64_t length = snapshot_bytes (snapshot, chunk, 1);
    const uint64_t offset = chunk << snapshot->chunk_shift;

    if (origin_read_quiet (set->origin,
                           data + ((uint64_t)i << snapshot->chunk_shift),
                           length, offset)
        == 0)
      continue;
    nbdkit_error ("snapshot %u: origin %s: the old content of %" PRIu64
                  " bytes at offset %" PRIu64 " cannot be read: %m%s",
                  snapshot->number, origin_path (set->origin), length, offset,
                  snapshot->options.on_error == ON_ERROR_BREAK_SNAPSHOT
                      ? "; they read as errors in the snapshot from now on"
                      : "; the write to the origin fails");
    lost |= UINT64_C (1) << i;
  }
  return lost;
}

static struct old_content
read_old (struct snapset *set, struct snapshot *snapshot,
          const struct translation *claim, uint8_t *data)
{
  const uint64_t bytes = snapshot_bytes (snapshot, claim->first, claim->count);
  struct old_content old = { 0 };

  if (origin_read_quiet (set->origin, data, bytes,
                         claim->first << snapshot->chunk_shift)
      == -1)
    old.lost = read_one_by_one (set, snapshot, claim, data);
  for (unsigned i = 0; i < claim->count; i++)
    if (!(old.lost >> i & 1)
        && is_zero (data + ((uint64_t)i << snapshot->chunk_shift),
                    snapshot_bytes (snapshot, claim->first + i, 1)))
      old.zero |= UINT64_C (1) << i;
  return old;
}

/* What a claim turns into: pieces for the table, jobs for the flusher. */
struct pieces {
  struct translation *list;
  struct flush_job *jobs;
  uint64_t job_count;
  uint64_t bytes; /* to store */
  unsigned lost;
};

static void
free_pieces (struct pieces *pieces)
{
  while (pieces->list != NULL) {
    struct translation *next = pieces->list->next;
    translation_release (pieces->list);
    pieces->list = next;
  }
}

/* Add chunks I to END - 1 of a claim as one piece.  False: no memory. */
static bool
add_piece (struct snapshot *snapshot, const struct translation *claim,
           struct buffer *buffer, unsigned i, unsigned end, bool lost,
           struct pieces *pieces)
{
  struct translation *piece = translation_new (snapshot);

  if (piece == NULL)
    return false;
  piece->first = claim->first + i;
  piece->count = end - i;
  piece->next = pieces->list;
  pieces->list = piece;
  if (lost) {
    piece->state = TRANSLATION_LOST;
    piece->settled = true;
    pieces->lost++;
    return true;
  }
  piece->state = TRANSLATION_STORING;
  piece->data = buffer->data + ((uint64_t)i << snapshot->chunk_shift);
  piece->buffer = buffer;
  buffer_use (buffer);
  piece->job = (struct flush_job){
    .next = pieces->jobs,
    .data = piece->data,
    .length = snapshot_bytes (snapshot, piece->first, piece->count),
    .urgent = snapshot->options.durability >= DURABILITY_WRITTEN,
    .cancelled = &snapshot->broken,
    .done = stored,
  };
  backfile_locate (snapshot->backfile, piece->first << snapshot->chunk_shift,
                   &piece->job.fd, &piece->job.offset);
  pieces->jobs = &piece->job;
  pieces->job_count++;
  pieces->bytes += piece->job.length;
  return true;
}

/* Divide a claim into pieces of chunks that are alike.  Zeros need none:
 * the hole in the backing file is their copy.  False: no memory.
 */
static bool
make_pieces (struct snapshot *snapshot, const struct translation *claim,
             struct buffer *buffer, const struct old_content *old,
             struct pieces *pieces)
{
  for (unsigned i = 0, end; i < claim->count; i = end) {
    const bool lost = old->lost >> i & 1;

    end = i + 1;
    if (old->zero >> i & 1)
      continue;
    while (end < claim->count && !(old->zero >> end & 1)
           && (old->lost >> end & 1) == lost)
      end++;
    if (!add_piece (snapshot, claim, buffer, i, end, lost, pieces))
      return false;
  }
  return true;
}

/* The caller owns CLAIM: read its old content into BUFFER and make the
 * pieces of it.  0, or an errno if the write has failed, or ECANCELED if
 * the snapshot broke.
 */
static int
prepare (struct snapset *set, struct snapshot *snapshot,
         const struct cow_write *write, const struct translation *claim,
         struct buffer *buffer, struct old_content *old, struct pieces *pieces)
{
  *old = read_old (set, snapshot, claim, buffer->data);
  if (old->lost != 0 && snapshot->options.on_error == ON_ERROR_BREAK_WRITE)
    return EIO; /* logged when it was read */
  if (!make_pieces (snapshot, claim, buffer, old, pieces))
    return fail (snapshot, write, ENOMEM, "no memory for the copy") == 0
               ? ECANCELED
               : ENOMEM;
  if (atomic_fetch_add (&snapshot->lost, pieces->lost) + pieces->lost
      > LOST_MAX) {
    snapshot_break (
        snapshot, "more than %d places on the origin cannot be read", LOST_MAX);
    return ECANCELED;
  }
  if (!snapshot_count (snapshot, pieces->bytes))
    return fail (snapshot, write, ENOSPC, "maxsize is reached") == 0 ? ECANCELED
                                                                     : ENOSPC;
  return 0;
}

/* The caller owns CLAIM: copy its chunks into WRITE's buffer and publish
 * them.  0, or -1 with errno if the write has failed; then, or if the
 * snapshot broke, the claim is given back.
 */
static int
copy_claim (struct snapset *set, struct snapshot *snapshot,
            struct cow_write *write, struct translation *claim)
{
  const unsigned shift = claim->first % BITMAP_GROUP;
  struct buffer *buffer = write->buffer;
  struct pieces pieces = { 0 };
  struct old_content old;

  write->buffer = NULL;
  const int err = prepare (set, snapshot, write, claim, buffer, &old, &pieces);
  if (err == 0) {
    const uint64_t kept = snapshot->options.durability == DURABILITY_ASYNC
                              ? bitmap_mask (shift, claim->count)
                              : (old.zero | old.lost) << shift;
    transtbl_publish (&snapshot->table, claim, pieces.list, &snapshot->hastrans,
                      kept);
    snapshot_submit (snapshot, pieces.jobs, pieces.job_count);
  }
  else {
    free_pieces (&pieces);
    give_back (snapshot, claim, err);
  }
  buffer_release (buffer);
  errno = err;
  return err == 0 || err == ECANCELED ? 0 : -1;
}

/* The caller owns CLAIM, but its chunks were being copied before, which
 * failed and was logged: fail like that instead of trying for ever.
 */
static int
fail_again (struct snapshot *snapshot, struct translation *claim)
{
  const int err = atomic_load (&snapshot->copy_error);

  give_back (snapshot, claim, err);
  errno = err;
  return -1;
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
  write->buffer = throttle_try (snapshot->throttle, bytes);
  if (write->buffer != NULL)
    return 0;
  if (errno == EAGAIN) {
    write->want = bytes;
    return 1;
  }
  return fail (snapshot, write, errno, "no memory for the copy");
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
  const uint64_t mask = bitmap_mask (first % BITMAP_GROUP, count);
  uint64_t left;

  while (
      (left = mask & ~bitmap_group (&snapshot->hastrans, first / BITMAP_GROUP))
          != 0
      && !snapshot_is_broken (snapshot)) {
    struct translation *busy = NULL;
    int r = have_buffer (snapshot, write,
                         (size_t)bitmap_first_run (left)
                             << snapshot->chunk_shift);
    if (r != 0 || write->buffer == NULL)
      return r;
    struct translation *claim = translation_new (snapshot);
    if (claim == NULL)
      return fail (snapshot, write, ENOMEM, "no memory for the copy");
    size_t limit = write->buffer->size >> snapshot->chunk_shift;
    if (limit > count)
      limit = count;

    switch (transtbl_claim (&snapshot->table, &snapshot->hastrans, first, count,
                            (unsigned)limit, claim, &busy)) {
    case CLAIM_OWNED:
      if (claim->first < write->tried
          && snapshot->options.on_error == ON_ERROR_BREAK_WRITE)
        r = fail_again (snapshot, claim);
      else
        r = copy_claim (set, snapshot, write, claim);
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

/* The same for the whole write. */
static int
copy_range (struct snapset *set, struct snapshot *snapshot,
            struct cow_write *write)
{
  const uint64_t end = write->offset + write->count < snapshot->size
                           ? write->offset + write->count
                           : snapshot->size;
  if (write->snapshot != snapshot) {
    write->snapshot = snapshot;
    write->tried = 0;
  }
  if (write->offset >= end)
    return 0; /* the origin has grown: nothing of this is the snapshot's */

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
                           &snapshot->broken);
  write->busy = NULL;
  translation_release (busy);
  if (claimed && err != 0) {
    /* What the owner could not copy need not be what this write needs. */
    write->tried = 0;
    err = 0;
  }
  return err;
}

/* Outside the gate: wait for an owner, or else for memory.  0: look again.
 * -1 with errno: the write has failed.
 */
static int
wait_outside (struct snapshot *snapshot, struct cow_write *write)
{
  int err = 0;

  if (write->busy != NULL)
    err = wait_for_owner (snapshot, write);
  else {
    write->buffer
        = throttle_wait (snapshot->throttle, write->want,
                         deadline (snapshot, write), &snapshot->broken);
    if (write->buffer == NULL)
      err = errno;
    if (err == ENOMEM)
      return fail (snapshot, write, ENOMEM, "no memory for the copy");
  }
  if (err == ETIMEDOUT)
    return fail (snapshot, write, EIO,
                 "waited for the backing store as long as cow-timeout allows");
  if (err == ESHUTDOWN)
    return fail (snapshot, write, err, "the server ends");
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

  do {
    snapset_enter (set);
    struct snapshot *snapshot = snapset_newest (set);
    r = 0;
    if (snapshot == NULL)
      break;
    r = copy_range (set, snapshot, &write);
    if (r == 0 && write.busy == NULL)
      break; /* all kept; or the snapshot broke, and wants nothing */
    snapset_leave (set);
    if (r != -1)
      r = wait_outside (snapshot, &write);
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
  struct snapshot *snapshot = snapset_newest (set);
  bool kept;

  *length = count;
  if (snapshot == NULL || snapshot_is_broken (snapshot)
      || offset >= snapshot->size)
    return true;
  if (count > snapshot->size - offset)
    count = snapshot->size - offset;

  const uint64_t first = offset >> snapshot->chunk_shift;
  const uint64_t chunks
      = ((offset + count - 1) >> snapshot->chunk_shift) - first + 1;
  const uint64_t run = bitmap_run (&snapshot->hastrans, first, chunks, &kept);
  *length = ((first + run) << snapshot->chunk_shift) - offset;
  if (*length > count)
    *length = count;
  return kept;
}
