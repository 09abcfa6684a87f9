/* SPDX-License-Identifier: BSD-3-Clause */
/* The translation table of one snapshot: the chunks whose old content is
 * being copied aside, or is copied and still in memory.
 *
 * An entry, a translation, covers neighbouring chunks of one bitmap group,
 * so that a run is claimed, found and marked in one step.  It is
 *
 *   claimed   its owner reads the old content; nobody else may
 *   storing   DATA holds the old content, a flush job is on its way (in a
 *             store also without DATA: all zeros, for the index)
 *   lost      the old content could not be read; it stays for good
 *
 * and leaves the table when it is stored, or failed.  The table is a hash
 * of groups; each lock guards a stripe of it and is never held over I/O.
 * A chunk's hastrans bit is set only while a translation covers the chunk,
 * so under the stripe's lock "no bit and no translation" means nobody has
 * begun to copy it.
 */

#ifndef FSSNAP_TRANSTBL_H
#define FSSNAP_TRANSTBL_H

#include "bitmap.h"
#include "flusher.h"
#include "throttle.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

struct snapshot;

enum translation_state {
  TRANSLATION_CLAIMED,
  TRANSLATION_STORING,
  TRANSLATION_LOST,
};

struct translation {
  struct translation *next;     /* in its bucket; under the stripe's lock */
  enum translation_state state; /* set before it enters the table */
  bool settled;                 /* waiters go on; under the stripe's lock */
  int error;                    /* how it settled; under the stripe's lock */
  _Atomic unsigned users;       /* the table is one */

  /* Under the stripe's lock while claimed, then never changed. */
  uint64_t first; /* chunk */
  unsigned count; /* chunks, 1 to BITMAP_GROUP */
  const uint8_t *data;
  struct buffer *buffer; /* what DATA is in, or NULL; the last user's end
                            releases it */

  struct snapshot *snapshot; /* set at creation; for the flush job's end */
  bool merge;                /* set before it enters the table; likewise */
  uint64_t serial;           /* of its layer's, likewise */
  bool early;                /* its bits were set as it entered; likewise */
  struct flush_job job;      /* the flusher's while storing */
};

struct transtbl_stripe;

struct transtbl {
  struct translation **buckets; /* set at creation; each under its stripe */
  unsigned bucket_mask;         /* set at creation */
  struct transtbl_stripe *stripes;
};

/* A table meant for about ENTRIES translations.  0, or -1 with errno. */
int transtbl_init (struct transtbl *table, uint64_t entries);

/* Nobody may use the table any more; what is left in it goes too. */
void transtbl_free (struct transtbl *table);

/* A translation with one user, in no table yet.  NULL with errno. */
struct translation *translation_new (struct snapshot *snapshot);

/* One user fewer; the last one's frees it and releases its buffer. */
void translation_release (struct translation *translation);

enum claim {
  CLAIM_NOTHING, /* all the chunks have their bit set */
  CLAIM_OWNED,   /* the caller owns the run that TRANSLATION now covers */
  CLAIM_BUSY,    /* others own all that is left */
};

/* Claim the first run of those chunks of WANTED, bits of bitmap group GROUP,
 * that have no bit in HASTRANS and no owner; at most LIMIT of them.  OWNED:
 * TRANSLATION is in the table.  BUSY: *BUSY is one of the owners' translations,
 * with a user more for the caller.
 */
enum claim transtbl_claim (struct transtbl *table,
                           const struct bitmap *hastrans, uint64_t group,
                           uint64_t wanted, unsigned limit,
                           struct translation *translation,
                           struct translation **busy);

/* Set those bits of WANTED in FREE, of bitmap group GROUP, whose chunks have
 * no bit in HASTRANS, nor in FREE, and no translation: nobody has begun to
 * copy them.  Returns how many.
 */
unsigned transtbl_set_free (struct transtbl *table,
                            const struct bitmap *hastrans, struct bitmap *free,
                            uint64_t group, uint64_t wanted);

/* The chunks of bitmap group GROUP that have translations. */
uint64_t transtbl_held (struct transtbl *table, uint64_t group);

/* Put PIECES (linked by NEXT; storing or lost, within the claim, each with
 * one user that becomes the table's) in the place of a CLAIM, and set the
 * bits of MASK in its group.  The claim settles and leaves the table.
 */
void transtbl_publish (struct transtbl *table, struct translation *claim,
                       struct translation *pieces, struct bitmap *hastrans,
                       uint64_t mask);

/* A translation is stored, or failed with ERROR (an errno): set the bits
 * of MASK in its group, take it out of the table and let its waiters go on.
 */
void transtbl_remove (struct transtbl *table, struct translation *translation,
                      struct bitmap *hastrans, uint64_t mask, int error);

/* A translation is to stay where it is: in memory; it is lost, or will not be
 * stored because of ERROR.  Set the bits of MASK in its group; its waiters go
 * on.
 */
void transtbl_settle (struct transtbl *table, struct translation *translation,
                      struct bitmap *hastrans, uint64_t mask, int error);

/* Put a settled translation of what is lost into the table. */
void transtbl_add (struct transtbl *table, struct translation *translation);

/* Wait until TRANSLATION settles.  Returns how: 0 or its errno; ETIMEDOUT
 * after DEADLINE (CLOCK_MONOTONIC; NULL for none); ECANCELED once *CANCELLED is
 * true (whoever makes it so calls transtbl_wake).
 */
int transtbl_wait (struct transtbl *table, struct translation *translation,
                   const struct timespec *deadline,
                   const atomic_bool *cancelled);

void transtbl_wake (struct transtbl *table);

/* The translation that holds CHUNK, with a user more, or NULL.  *COUNT in:
 * how many chunks are asked for; out: for how many the answer holds (at
 * least 1, never past the group).  The chunks have their bit set.
 */
struct translation *transtbl_find (struct transtbl *table, uint64_t chunk,
                                   uint64_t *count);

#endif
