/* SPDX-License-Identifier: BSD-3-Clause */
/* One snapshot: what it is, what it has kept, and whether it still holds.
 */

#ifndef FSSNAP_SNAPSHOT_H
#define FSSNAP_SNAPSHOT_H

#include "backfile.h"
#include "bell.h"
#include "bitmap.h"
#include "catalog.h"
#include "commit.h"
#include "flusher.h"
#include "policy.h"
#include "stripes.h"
#include "throttle.h"
#include "transtbl.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

/* Seconds that a write waits for the store to note that the snapshot is
 * broken, after which a mark elsewhere must do.  Much longer than a store
 * takes that works, and short beside the wait that may have been before.
 */
#define SNAPSHOT_TELL_PATIENCE 2

struct snapshot_options {
  const char *name;    /* or NULL; at creation only */
  const void *creator; /* not NULL: it stays in creation until this one says
                          otherwise; at creation only */
  uint64_t chunk_size; /* bytes, a power of two */
  uint64_t maxsize;    /* bytes that may be copied; 0: no limit */
  const char *backing_store;  /* at creation only */
  bool ephemeral;             /* it is not to outlive the server */
  uint64_t backfile_size;     /* bytes a backing file may have; 0: no limit */
  enum durability durability; /* STABLE: only in a store */
  enum on_error on_error;     /* BREAK_WRITE only with WRITTEN: a write that has
                                 gone through cannot be failed any more */
  unsigned cow_timeout;       /* seconds a write may wait for the store */
};

/* What the snapshots of an origin have in common; it outlives them. */
struct snapshot_shared {
  const struct engine_type *engine;
  const struct engine_type *fallback; /* or NULL; as for flusher_create */
  struct throttle *throttle;
  struct bell *bell;       /* rung when there may be something to clear away */
  _Atomic uint64_t *moves; /* see resolve.h */
  struct store *store;     /* or NULL */
};

/* Bytes read of a snapshot, by where they were; a stripe of the counters. */
struct snapshot_reads {
  _Atomic uint64_t origin, memory, backfile, free;
} __attribute__ ((aligned (64)));

struct snapshot {
  /* Set at creation. */
  unsigned number;
  char *name;                      /* or NULL */
  struct snapshot_options options; /* but for what is of creation only */
  uint64_t size;                   /* bytes, the origin's at its instant */
  unsigned chunk_shift;
  uint64_t run_limit; /* bytes copied in one step, a multiple of chunks */
  const struct snapshot_shared *shared;
  struct flusher *flusher; /* its own: a store that hangs is no one else's */
  struct backfile *backfile;
  struct catalog_layer *record; /* what the store has of it, or NULL */
  struct commit *commit;        /* with a record only */

  /* The chain's: snapset.h says who may do what. */
  time_t created; /* set when it enters the chain */
  struct snapshot *older;
  _Atomic (struct snapshot *) newer; /* release when linked, acquire */
  atomic_bool deleted;   /* it is listed no more, reads of it fail */
  bool leaving;          /* it is about to be deleted: nobody finds it */
  const void *creator;   /* who is creating it still, or NULL */
  unsigned clients;      /* that have it open */
  unsigned pins;         /* others that keep it from being freed */
  struct snapshot *next; /* among those that left the chain */

  /* Of reclaim.c, its thread's alone. */
  uint64_t tidied; /* the set's deletions when it last was */
  uint64_t merged; /* the same, when it last was merged into the older one */
  bool merging;    /* and that is not all stored yet */
  bool dropped;    /* the store knows that it has left the chain */
  enum { GRACE_NONE, GRACE_AWAITED, GRACE_PASSED } grace;

  struct bitmap hastrans;   /* atomic; set only as transtbl.h says */
  struct bitmap free;       /* atomic; chunks that are no candidates */
  struct bitmap unreadable; /* atomic; chunks that are lost; set by the
                               flusher's thread, or inside the gate */
  atomic_bool has_free;     /* FREE has bits; set before the first */
  struct transtbl table;

  _Atomic uint64_t copied; /* bytes counted against maxsize */
  _Atomic unsigned lost;   /* runs of chunks that could not be read */

  _Atomic int copy_error; /* why the last copy failed that did */

  _Atomic int level;       /* enum durability: what is done now; changed with
                              the gate held as the writer, never lowered */
  _Atomic uint64_t early;  /* jobs whose bits were set before */
  _Atomic uint64_t serial; /* of the translations that were to be stored */
  bool unindexed;          /* the index does not have all bits; closing.c's */

  /* Figures for people. */
  struct snapshot_reads reads[STRIPES];
  _Atomic uint64_t in_memory;    /* bytes on their way to the backing file */
  _Atomic uint64_t waits;        /* of writers, for what is this snapshot's */
  _Atomic unsigned throttled;    /* writers that wait for memory now */
  _Atomic uint64_t flush_errors; /* copies that could not be written */

  /* Jobs queued or begun, and one until nobody needs it. */
  _Atomic uint64_t pending;

  atomic_bool retired; /* writes need not wait for it: it is broken, or not
                          the one that they copy into */
  atomic_bool failing; /* it breaks as soon as the store knows; likewise */
  atomic_bool broken;  /* once true it stays so */
  atomic_bool gone;    /* nobody needs what it holds; likewise */
  bool absent;         /* broken for now, since its file, or the right
                          origin, is not there: what it needs must be kept
                          for it; set before it enters the chain */
  atomic_bool telling; /* the store is being told; else it may be freed */
  pthread_mutex_t lock;
  pthread_cond_t changed; /* BROKEN became true, EARLY 0, TELLING false */
  char *why;        /* under LOCK, as is what follows; NULL unless failing */
  int broken_errno; /* or 0 */
  time_t broken_at;
  struct flush_job discard; /* the flusher's once it is gone */
};

/* A snapshot of an origin of SIZE bytes, in no chain yet, whose copies go to
 * BACKFILE, which is its own from here on, also if this fails.  RECORD: what
 * the store has of it, or NULL.  NULL with errno after logging.
 */
struct snapshot *snapshot_create (const struct snapshot_options *options,
                                  unsigned number, uint64_t size,
                                  struct backfile *backfile,
                                  struct catalog_layer *record,
                                  const struct snapshot_shared *shared);

/* Nobody may use it, its flusher must not be running. */
void snapshot_free (struct snapshot *snapshot);

static inline bool
snapshot_is_broken (const struct snapshot *snapshot)
{
  return atomic_load (&snapshot->broken);
}

static inline bool
snapshot_is_deleted (const struct snapshot *snapshot)
{
  return atomic_load (&snapshot->deleted);
}

/* To who reads it and who looks at it a failing one is broken already. */
static inline bool
snapshot_is_given_up (const struct snapshot *snapshot)
{
  return atomic_load (&snapshot->failing);
}

/* Why it was given up, to be freed by the caller; NULL if it was not. */
char *snapshot_why_broken (struct snapshot *snapshot);

/* The snapshot is given up, but the store does not know yet: what it does not
 * have yet must not be overwritten.
 */
static inline bool
snapshot_is_failing (const struct snapshot *snapshot)
{
  return atomic_load (&snapshot->failing) && !snapshot_is_broken (snapshot);
}

/* Give the snapshot up because of ERR, an errno.  Once it is broken nobody
 * waits for it any more and every read fails that could miss something; the
 * space is freed when the flusher comes to it.  That is when this returns or,
 * in a store, when the store knows.  Logged, the first time only.  Callable
 * from any thread with no lock of ours held but the gate as a reader.
 */
void snapshot_break (struct snapshot *snapshot, int err, const char *format,
                     ...) __attribute__ ((format (printf, 3, 4)));

/* Wait until a failing snapshot is broken: seconds at most, as the store is
 * not waited for any longer.  Not inside the gate.
 */
void snapshot_await_break (struct snapshot *snapshot);

/* It was found to be broken when the store was opened: say so, and no more;
 * before it is in a chain.
 */
void snapshot_set_broken (struct snapshot *snapshot, int err, time_t when,
                          const char *why);

/* One that is absent will not come back, because of WHY: have the store note
 * it; and wait for that, or make a mark if it is not done when DEADLINE comes.
 */
void snapshot_give_up (struct snapshot *snapshot, const char *why);
void snapshot_await_given_up (struct snapshot *snapshot,
                              const struct timespec *deadline);

/* Let writers that wait for something of this snapshot's look again. */
void snapshot_wake (struct snapshot *snapshot);

/* Nobody needs what the snapshot holds: drop the copies that are still in
 * memory, and give the space back when its flusher comes to it.  Never
 * blocks.
 */
void snapshot_release (struct snapshot *snapshot);

/* All that was copied is in the backing file, or nobody needs it. */
static inline bool
snapshot_is_drained (const struct snapshot *snapshot)
{
  return atomic_load (&snapshot->pending) <= 1;
}

/* ... and its space has been given back. */
static inline bool
snapshot_is_discarded (const struct snapshot *snapshot)
{
  return atomic_load (&snapshot->pending) == 0;
}

/* Wait until all copies are stored whose bits were set before; no more may
 * begin.  0, or -1 with errno: DEADLINE (CLOCK_MONOTONIC) came first, or it
 * broke.
 */
int snapshot_await_early (struct snapshot *snapshot,
                          const struct timespec *deadline);
void snapshot_early_ended (struct snapshot *snapshot);

/* Count BYTES against maxsize, whatever the limit, or give them back.
 * Plain counting returns false if the limit would be passed.
 */
bool snapshot_count (struct snapshot *snapshot, uint64_t bytes);
void snapshot_count_anyway (struct snapshot *snapshot, uint64_t bytes);
void snapshot_uncount (struct snapshot *snapshot, uint64_t bytes);

/* LENGTH bytes at OFFSET, within its size, hold nothing worth keeping: the
 * chunks that lie wholly in there, and that nobody has begun to copy, are
 * free from here on.  Returns how many that were not free already.
 */
uint64_t snapshot_set_free (struct snapshot *snapshot, uint64_t offset,
                            uint64_t length);

/* Queue COUNT linked jobs; each one's done ends with snapshot_job_ended. */
void snapshot_submit (struct snapshot *snapshot, struct flush_job *jobs,
                      uint64_t count);
void snapshot_job_ended (struct snapshot *snapshot);

/* Chunks and bytes.  The last chunk may be short. */
static inline uint64_t
snapshot_chunks (const struct snapshot *snapshot)
{
  return (snapshot->size + snapshot->options.chunk_size - 1)
         >> snapshot->chunk_shift;
}

/* Bytes of COUNT chunks from FIRST on. */
static inline uint64_t
snapshot_bytes (const struct snapshot *snapshot, uint64_t first, uint64_t count)
{
  const uint64_t start = first << snapshot->chunk_shift;
  const uint64_t bytes = count << snapshot->chunk_shift;

  return bytes < snapshot->size - start ? bytes : snapshot->size - start;
}

#endif
