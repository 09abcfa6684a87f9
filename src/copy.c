/* SPDX-License-Identifier: BSD-3-Clause */

#include "copy.h"
#include "commit.h"
#include "report.h"
#include "resolve.h"
#include "view.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

/* Runs of chunks that one snapshot may lose before it is given up.  Each
 * stays in the translation table for good, so there must be a limit; a disk
 * with that many unreadable places is beyond a snapshot's help.
 */
#define LOST_MAX 4096

int
copy_failed (struct snapshot *snapshot, uint64_t offset, int err,
             const char *what)
{
  if (snapshot->options.on_error == ON_ERROR_BREAK_SNAPSHOT) {
    snapshot_break (snapshot, err, "write at offset %" PRIu64 ": %s: %s",
                    offset, what, strerror (err));
    return 0;
  }
  report_error ("snapshot %u: write at offset %" PRIu64
                " of the origin fails: %s: %s",
                snapshot->number, offset, what, strerror (err));
  errno = err;
  return -1;
}

/* A copy could not be written. */
static void
store_failed (struct snapshot *snapshot, const struct translation *translation,
              int error)
{
  const uint64_t offset = translation->first << snapshot->chunk_shift;
  const size_t length = translation->job.length;

  atomic_fetch_add (&snapshot->flush_errors, 1);
  if (translation->merge) {
    report_error ("backing store %s: write of %zu bytes at offset %" PRIu64
                  ": %s; they stay where they are, in the backing file of a "
                  "snapshot that was deleted",
                  backfile_name (snapshot->backfile), length, offset,
                  strerror (error));
    return;
  }
  if (snapshot->options.on_error == ON_ERROR_BREAK_SNAPSHOT) {
    snapshot_break (
        snapshot, error,
        "backing store %s: write of %zu bytes at offset %" PRIu64 ": %s",
        backfile_name (snapshot->backfile), length, offset, strerror (error));
    return;
  }
  atomic_store (&snapshot->copy_error, error);
  report_error ("snapshot %u: backing store %s: write of %zu bytes at "
                "offset %" PRIu64 ": %s; writes to the origin that need "
                "it fail",
                snapshot->number, backfile_name (snapshot->backfile), length,
                offset, strerror (error));
}

static struct translation *
translation_of (struct flush_job *job)
{
  return (struct translation *)((char *)job
                                - offsetof (struct translation, job));
}

/* A translation is stored and, if need be, in the index.  Any thread. */
static void
stored (struct flush_job *job, int error)
{
  struct translation *translation = translation_of (job);
  struct snapshot *snapshot = translation->snapshot;
  struct transtbl *table = &snapshot->table;
  const size_t length = job->length;
  const bool early = translation->early;
  const bool lost = translation->state == TRANSLATION_LOST;
  const uint64_t mask = error != 0 || early
                            ? 0
                            : bitmap_mask (translation->first % BITMAP_GROUP,
                                           translation->count);

  atomic_fetch_sub (&snapshot->in_memory, length);
  if (error != 0 && error != ECANCELED)
    store_failed (snapshot, translation, error);
  if (error != 0)
    snapshot_uncount (snapshot, length);
  if (error == ECANCELED && !atomic_load (&snapshot->gone))
    /* The server ends.  The snapshot stays right as long as it is there. */
    transtbl_settle (table, translation, &snapshot->hastrans, 0, ESHUTDOWN);
  else if (lost && error == 0) {
    bitmap_set_group (&snapshot->unreadable, translation->first / BITMAP_GROUP,
                      mask);
    transtbl_settle (table, translation, &snapshot->hastrans, mask, 0);
  }
  else
    transtbl_remove (table, translation, &snapshot->hastrans, mask, error);
  if (early && snapshot->commit != NULL)
    snapshot_early_ended (snapshot);
  snapshot_job_ended (snapshot);
}

/* A translation's data is written, if it has any.  Any thread. */
static void
written (struct flush_job *job, int error)
{
  struct translation *translation = translation_of (job);
  struct snapshot *snapshot = translation->snapshot;

  /* At level async the index is written at the end; merged ones alone are
   * not early there.
   */
  if (error == 0 && snapshot->commit != NULL && !translation->early
      && atomic_load (&snapshot->level) >= DURABILITY_WRITTEN) {
    job->done = stored;
    commit_add (snapshot->commit, translation);
  }
  else
    stored (job, error);
}

void
copy_give_back (struct snapshot *snapshot, struct translation *claim, int err)
{
  atomic_store (&snapshot->copy_error, err);
  transtbl_remove (&snapshot->table, claim, &snapshot->hastrans, 0, err);
}

/* The old content of a run: which of its chunks are what. */
struct old_content {
  uint64_t zero; /* chunks of the run that need no data, a bit each: all
                    zeros, or wanted by nobody */
  uint64_t lost; /* that could not be read */
  uint64_t kept; /* that are another layer's meanwhile: no copies */
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
read_one_by_one (const struct copy *copy)
{
  struct snapshot *snapshot = copy->snapshot;
  const struct translation *claim = copy->claim;
  uint64_t lost = 0;

  for (unsigned i = 0; i < claim->count; i++) {
    const uint64_t chunk = claim->first + i;
    const uint64_t length = snapshot_bytes (snapshot, chunk, 1);
    const uint64_t offset = chunk << snapshot->chunk_shift;

    if (origin_read_quiet (copy->set->origin,
                           copy->buffer->data
                               + ((uint64_t)i << snapshot->chunk_shift),
                           length, offset)
        == 0)
      continue;
    report_error ("snapshot %u: origin %s: the old content of %" PRIu64
                  " bytes at offset %" PRIu64 " cannot be read: %m%s",
                  snapshot->number, origin_path (copy->set->origin), length,
                  offset,
                  snapshot->options.on_error == ON_ERROR_BREAK_SNAPSHOT
                      ? "; they read as errors in the snapshot from now on"
                      : "; the write to the origin fails");
    lost |= UINT64_C (1) << i;
  }
  return lost;
}

/* Read the old content of the claim into the buffer.  0, or an errno if it
 * cannot be read for a merge.
 */
static int
read_old (const struct copy *copy, struct old_content *old)
{
  struct snapshot *snapshot = copy->snapshot;
  const struct translation *claim = copy->claim;
  const unsigned shift = claim->first % BITMAP_GROUP;
  const uint64_t all = bitmap_mask (0, claim->count);
  const uint64_t offset = claim->first << snapshot->chunk_shift;
  const uint64_t bytes = snapshot_bytes (snapshot, claim->first, claim->count);
  uint8_t *data = copy->buffer->data;

  *old = (struct old_content){ 0 };
  if (copy->merge) {
    if (view_read_layer (copy->set, snapshot, data, bytes, offset) == -1)
      return errno;
  }
  else {
    old->zero = resolve_unwanted (copy->set, claim->first / BITMAP_GROUP,
                                  all << shift)
                >> shift;
    if (old->zero == all)
      return 0;
    if (origin_read_quiet (copy->set->origin, data, bytes, offset) == -1)
      old->lost = read_one_by_one (copy) & ~old->zero;
    /* A deleted layer may have got chunks of the claim since that was made:
     * one was merged into it, or has stored what it had begun.  Other writes
     * need no copy of ours then and may have overwritten what we read.  The
     * read before, the look after: pairs with the order of the bit and the
     * overwrite.
     */
    atomic_thread_fence (memory_order_seq_cst);
    old->kept
        = resolve_kept (copy->set, claim->first / BITMAP_GROUP, all << shift)
          >> shift;
    old->zero &= ~old->kept;
    old->lost &= ~old->kept;
  }
  for (unsigned i = 0; i < claim->count; i++)
    if (!((old->lost | old->zero | old->kept) >> i & 1)
        && is_zero (data + ((uint64_t)i << snapshot->chunk_shift),
                    snapshot_bytes (snapshot, claim->first + i, 1)))
      old->zero |= UINT64_C (1) << i;
  return 0;
}

/* What a claim turns into: pieces for the table, jobs for the flusher. */
struct pieces {
  struct translation *list;
  struct flush_job *jobs;
  uint64_t job_count;
  uint64_t bytes; /* to store */
  unsigned lost;
};

/* Whether the index is to be written before the bits are set, so that what
 * needs no data must pass the flusher too.
 */
static bool
is_noted (const struct copy *copy)
{
  return copy->snapshot->commit != NULL && !copy->early;
}

static void
free_pieces (struct pieces *pieces)
{
  while (pieces->list != NULL) {
    struct translation *next = pieces->list->next;
    translation_release (pieces->list);
    pieces->list = next;
  }
}

enum piece {
  PIECE_NONE, /* nothing is to be kept, or noted */
  PIECE_DATA,
  PIECE_ZERO, /* to be noted in the index */
  PIECE_LOST,
};

/* Add chunks I to END - 1 of a claim as one piece.  False: no memory. */
static bool
add_piece (const struct copy *copy, unsigned i, unsigned end, enum piece kind,
           struct pieces *pieces)
{
  struct snapshot *snapshot = copy->snapshot;
  struct buffer *buffer = copy->buffer;
  struct translation *piece = translation_new (snapshot);

  if (piece == NULL)
    return false;
  piece->merge = copy->merge;
  piece->early = copy->early;
  piece->serial = atomic_fetch_add (&snapshot->serial, 1) + 1;
  piece->first = copy->claim->first + i;
  piece->count = end - i;
  piece->next = pieces->list;
  pieces->list = piece;
  piece->state = kind == PIECE_LOST ? TRANSLATION_LOST : TRANSLATION_STORING;
  pieces->lost += kind == PIECE_LOST;
  if (kind == PIECE_LOST && !is_noted (copy)) {
    piece->settled = true;
    return true;
  }
  piece->job = (struct flush_job){
    .next = pieces->jobs,
    .urgent = !copy->early,
    .cancelled = &snapshot->gone,
    .done = written,
  };
  if (kind == PIECE_DATA) {
    piece->data = buffer->data + ((uint64_t)i << snapshot->chunk_shift);
    piece->buffer = buffer;
    buffer_use (buffer);
    piece->job.data = piece->data;
    piece->job.length = snapshot_bytes (snapshot, piece->first, piece->count);
    piece->job.anywhere = true;
  }
  backfile_locate (snapshot->backfile, piece->first << snapshot->chunk_shift,
                   &piece->job.fd, &piece->job.offset);
  pieces->jobs = &piece->job;
  pieces->job_count++;
  pieces->bytes += piece->job.length;
  return true;
}

/* What a chunk of a claim needs.  Zeros need no data: the hole in the backing
 * file is their copy.
 */
static enum piece
kind_of (const struct copy *copy, const struct old_content *old, unsigned i)
{
  if (old->kept >> i & 1)
    return PIECE_NONE;
  if (old->lost >> i & 1)
    return PIECE_LOST;
  if (old->zero >> i & 1)
    return is_noted (copy) ? PIECE_ZERO : PIECE_NONE;
  return PIECE_DATA;
}

/* Divide a claim into pieces of chunks that are alike.  False: no memory. */
static bool
make_pieces (const struct copy *copy, const struct old_content *old,
             struct pieces *pieces)
{
  const unsigned count = copy->claim->count;

  for (unsigned i = 0, end; i < count; i = end) {
    const enum piece kind = kind_of (copy, old, i);

    end = i + 1;
    while (end < count && kind_of (copy, old, end) == kind)
      end++;
    if (kind != PIECE_NONE && !add_piece (copy, i, end, kind, pieces))
      return false;
  }
  return true;
}

/* Read the claim's old content and make the pieces of it.  0, or an errno if
 * the write has failed, or ECANCELED if the snapshot broke.
 */
static int
prepare (const struct copy *copy, struct old_content *old,
         struct pieces *pieces)
{
  struct snapshot *snapshot = copy->snapshot;
  const int err = read_old (copy, old);

  if (err != 0)
    return err;
  if (old->lost != 0 && snapshot->options.on_error == ON_ERROR_BREAK_WRITE)
    return EIO; /* logged when it was read */
  if (!make_pieces (copy, old, pieces)) {
    if (copy->merge)
      return ENOMEM;
    return copy_failed (snapshot, copy->offset, ENOMEM,
                        "no memory for the copy")
                   == 0
               ? ECANCELED
               : ENOMEM;
  }
  if (atomic_fetch_add (&snapshot->lost, pieces->lost) + pieces->lost
      > LOST_MAX) {
    snapshot_break (snapshot, EIO,
                    "more than %d places on the origin cannot be read",
                    LOST_MAX);
    return ECANCELED;
  }
  if (copy->merge || snapshot_is_deleted (snapshot))
    snapshot_count_anyway (snapshot, pieces->bytes);
  else if (!snapshot_count (snapshot, pieces->bytes))
    return copy_failed (snapshot, copy->offset, ENOSPC, "maxsize is reached")
                   == 0
               ? ECANCELED
               : ENOSPC;
  return 0;
}

int
copy_claim (struct copy *copy)
{
  struct snapshot *snapshot = copy->snapshot;
  struct translation *claim = copy->claim;
  const unsigned shift = claim->first % BITMAP_GROUP;
  struct pieces pieces = { 0 };
  struct old_content old;
  uint64_t mask;

  copy->early
      = !copy->merge && atomic_load (&snapshot->level) == DURABILITY_ASYNC;
  const int err = prepare (copy, &old, &pieces);
  if (err != 0) {
    free_pieces (&pieces);
    copy_give_back (snapshot, claim, err);
    errno = err;
    return err == ECANCELED && !copy->merge ? 0 : -1;
  }
  if (copy->early)
    mask = bitmap_mask (shift, claim->count) & ~(old.kept << shift);
  else
    mask = is_noted (copy) ? 0 : (old.zero | old.lost) << shift;
  if (old.lost != 0 && !is_noted (copy))
    bitmap_set_group (&snapshot->unreadable, claim->first / BITMAP_GROUP,
                      old.lost << shift);
  atomic_fetch_add (&snapshot->in_memory, pieces.bytes);
  if (copy->early && snapshot->commit != NULL)
    atomic_fetch_add (&snapshot->early, pieces.job_count);
  transtbl_publish (&snapshot->table, claim, pieces.list, &snapshot->hastrans,
                    mask);
  snapshot_submit (snapshot, pieces.jobs, pieces.job_count);
  return 0;
}
