/* SPDX-License-Identifier: BSD-3-Clause */
/* Commits go in rounds, one at a time for each snapshot.  What comes while a
 * round is under way waits for the next, and all that waits goes together:
 *
 *   gather      the units of the index that get bits, each composed afresh:
 *               the bits there are, and those of the round
 *   data sync   stable: of the files that got data
 *   write       the units
 *   index sync  stable: of the files of the units
 *   end         each translation hears of its own units
 *
 * So however many writes wait, they share two barriers; and at level written
 * the more copies come, the more of them share one write of a unit.
 *
 * A unit is one sector, which disks write whole or not at all; a crash leaves
 * it as it was before the round or after.  What a round that failed may have
 * left in a unit are bits of chunks whose data are written, and which nobody
 * has overwritten on the origin: they are right.
 *
 * A barrier that failed is told once what it failed for; whatever had been
 * begun before may be lost with it, and fails too, also in later rounds.
 *
 * The bits that a deleted layer gives back stay in the index until their unit
 * is written again.  Nobody needs those chunks, nor ever will (reclaim.c).
 */

#include "commit.h"
#include "scoped.h"
#include "storefile.h"

#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

/* Units in a round.  A round of scattered chunks writes as many; beyond a
 * few disks' queues full of them, larger rounds only let the first wait for
 * the last.
 */
#define ROUND_UNITS 256

/* At most half full, a power of two. */
#define HASH_SIZE 1024

struct unit {
  struct flush_job job; /* first: a job is cast back */
  struct commit *commit;
  struct index_place place;
  int error;
  uint64_t words[FORMAT_UNIT_GROUPS];
  uint8_t sector[FORMAT_SECTOR];
};

/* A barrier for one file of the backing file. */
struct barrier {
  struct flush_job job; /* first */
  struct commit *commit;
  bool data, index; /* it has got some in this round */
};

struct commit {
  struct commit_of of; /* set at creation */

  pthread_mutex_t lock;      /* guards what follows */
  bool busy;                 /* a round is under way, or called for */
  struct flush_job *pending; /* of translations that wait */
  struct flush_job **pending_end;
  uint64_t added; /* translations, ever */

  /* The flusher's thread's. */
  struct flush_job call;      /* calls for a round; who made BUSY true */
  struct flush_job *waiting;  /* pending ones, taken over */
  uint64_t ended;             /* translations, ever */
  struct commit_sweep *sweep; /* or NULL */

  /* The round's. */
  struct flush_job *round;
  bool stable;
  int error;        /* of a barrier */
  uint64_t suspect; /* translations up to this one had been begun by then */
  unsigned units, outstanding;
  struct unit *unit;        /* ROUND_UNITS of them */
  uint16_t hash[HASH_SIZE]; /* of units: index and one, 0: none */
  struct barrier barriers[];
};

static void begin_round (struct flush_job *job, int error);

struct commit *
commit_create (const struct commit_of *of)
{
  const unsigned parts = of->backfile->parts;
  struct commit *commit
      = calloc (1, sizeof *commit + parts * sizeof commit->barriers[0]);

  if (commit == NULL
      || (commit->unit = malloc (ROUND_UNITS * sizeof commit->unit[0]))
             == NULL) {
    free (commit);
    return NULL;
  }
  commit->of = *of;
  commit->pending_end = &commit->pending;
  pthread_mutex_init (&commit->lock, NULL);
  return commit;
}

void
commit_free (struct commit *commit)
{
  if (commit == NULL)
    return;
  pthread_mutex_destroy (&commit->lock);
  free (commit->unit);
  free (commit);
}

static struct translation *
translation_of (struct flush_job *job)
{
  return (struct translation *)((char *)job
                                - offsetof (struct translation, job));
}

/* Have a round begin, once all is added that is done by now. */
static void
call_round (struct commit *commit)
{
  {
    SCOPED_LOCK (&commit->lock);
    if (commit->busy)
      return;
    commit->busy = true;
  }
  commit->call = (struct flush_job){ .done = begin_round, .urgent = true };
  flusher_submit (commit->of.flusher, &commit->call);
}

void
commit_add (struct commit *commit, struct translation *translation)
{
  struct flush_job *job = &translation->job;

  {
    SCOPED_LOCK (&commit->lock);
    job->next = NULL;
    *commit->pending_end = job;
    commit->pending_end = &job->next;
    commit->added++;
  }
  call_round (commit);
}

void
commit_sweep (struct commit *commit, struct commit_sweep *sweep)
{
  if (commit->sweep != NULL) {
    sweep->done (sweep, EBUSY); /* the store hangs, and that one still waits */
    return;
  }
  sweep->error = 0;
  sweep->last = !sweep->all;
  sweep->table = FORMAT_COPIED;
  sweep->group = 0;
  commit->sweep = sweep;
  {
    SCOPED_LOCK (&commit->lock);
    sweep->added = commit->added;
  }
  call_round (commit);
}

static const struct bitmap *
bitmap_of (const struct commit *commit, enum format_table table)
{
  return table == FORMAT_COPIED ? commit->of.hastrans : commit->of.unreadable;
}

/* Where in the hash the unit is, or would be. */
static uint16_t *
slot_of (struct commit *commit, const struct index_place *place)
{
  uint64_t key = (place->offset / FORMAT_SECTOR) << 8 | place->part;
  unsigned i
      = (unsigned)(key * UINT64_C (0x9e3779b97f4a7c15) >> 40) % HASH_SIZE;

  for (;; i = (i + 1) % HASH_SIZE) {
    const uint16_t at = commit->hash[i];
    if (at == 0
        || (commit->unit[at - 1].place.offset == place->offset
            && commit->unit[at - 1].place.part == place->part))
      return &commit->hash[i];
  }
}

/* The unit of the round that has a group's bits; a new one has those there
 * are.
 */
static struct unit *
unit_for (struct commit *commit, enum format_table table, uint64_t group)
{
  const struct index_place place
      = storefile_place (commit->of.backfile, table, group);
  uint16_t *slot = slot_of (commit, &place);

  if (*slot != 0)
    return &commit->unit[*slot - 1];
  assert (commit->units < ROUND_UNITS);
  struct unit *unit = &commit->unit[commit->units++];
  *slot = (uint16_t)commit->units;
  unit->commit = commit;
  unit->place = place;
  unit->error = 0;
  memset (unit->words, 0, sizeof unit->words);
  for (unsigned i = 0; i < place.groups; i++)
    unit->words[i] = bitmap_group (bitmap_of (commit, table), place.first + i);
  return unit;
}

/* What is lost is in the one table first, and that is enough: a crash may leave
 * one unit and not another.
 */
static enum format_table
table_of (const struct translation *translation)
{
  return translation->state == TRANSLATION_LOST ? FORMAT_UNREADABLE
                                                : FORMAT_COPIED;
}

static void
add_bits (struct commit *commit, enum format_table table,
          const struct translation *translation)
{
  const uint64_t group = translation->first / BITMAP_GROUP;
  struct unit *unit = unit_for (commit, table, group);

  unit->words[group - unit->place.first]
      |= bitmap_mask (translation->first % BITMAP_GROUP, translation->count);
}

/* Take what waits into the round, as far as there is room. */
static void
gather_translations (struct commit *commit)
{
  struct flush_job **end = &commit->round;

  for (unsigned part = 0; part < commit->of.backfile->parts; part++)
    commit->barriers[part].data = false;

  if (commit->waiting == NULL) {
    SCOPED_LOCK (&commit->lock);
    commit->waiting = commit->pending;
    commit->pending = NULL;
    commit->pending_end = &commit->pending;
  }
  while (commit->waiting != NULL && commit->units < ROUND_UNITS) {
    struct flush_job *job = commit->waiting;
    const struct translation *translation = translation_of (job);

    commit->waiting = job->next;
    job->next = NULL;
    if (translation->serial <= commit->suspect) {
      commit->ended++;
      job->done (job, EIO);
      continue;
    }
    *end = job;
    end = &job->next;
    add_bits (commit, table_of (translation), translation);
    if (job->length > 0)
      commit
          ->barriers[storefile_place (commit->of.backfile, FORMAT_COPIED,
                                      translation->first / BITMAP_GROUP)
                         .part]
          .data
          = true;
  }
}

/* The same for units that are to be written anyway; half of the room. */
static void
gather_sweep (struct commit *commit)
{
  struct commit_sweep *sweep = commit->sweep;

  while (sweep != NULL && !sweep->last && commit->units < ROUND_UNITS / 2) {
    sweep->group
        = bitmap_next_group (bitmap_of (commit, sweep->table), sweep->group);
    if (sweep->group != UINT64_MAX) {
      const struct unit *unit = unit_for (commit, sweep->table, sweep->group);
      sweep->group = unit->place.first + unit->place.groups;
    }
    else if (sweep->table == FORMAT_COPIED) {
      sweep->table = FORMAT_UNREADABLE;
      sweep->group = 0;
    }
    else
      sweep->last = true;
  }
}

static void
end_round (struct commit *commit)
{
  struct commit_sweep *sweep = commit->sweep;

  while (commit->round != NULL) {
    struct translation *translation = translation_of (commit->round);
    const uint64_t group = translation->first / BITMAP_GROUP;
    int error = commit->error;

    commit->round = commit->round->next;
    commit->ended++;
    if (error == 0)
      error = unit_for (commit, table_of (translation), group)->error;
    translation->job.done (&translation->job, error);
  }
  if (sweep != NULL) {
    for (unsigned i = 0; i < commit->units; i++)
      if (commit->unit[i].error != 0)
        sweep->error = commit->unit[i].error;
    if (commit->error != 0)
      sweep->error = commit->error;
    if (sweep->last && commit->ended >= sweep->added) {
      commit->sweep = NULL;
      sweep->done (sweep, sweep->error);
    }
  }
  bool more;
  {
    SCOPED_LOCK (&commit->lock);
    commit->busy = false;
    more = commit->pending != NULL;
  }
  if (more || commit->waiting != NULL || commit->sweep != NULL)
    call_round (commit);
}

/* Begin barriers for the files that got data, or index; each calls DONE.
 * False: none did.
 */
static bool
begin_barriers (struct commit *commit, bool index,
                void (*done) (struct flush_job *job, int error))
{
  struct flush_job *jobs = NULL;

  for (unsigned part = 0; part < commit->of.backfile->parts; part++) {
    struct barrier *barrier = &commit->barriers[part];
    bool *wanted = index ? &barrier->index : &barrier->data;

    if (!*wanted)
      continue;
    *wanted = false;
    barrier->commit = commit;
    barrier->job = (struct flush_job){
      .next = jobs,
      .fd = commit->of.backfile->part[part].fd,
      .sync = true,
      .urgent = true,
      .cancelled = commit->of.cancelled,
      .done = done,
    };
    jobs = &barrier->job;
    commit->outstanding++;
  }
  flusher_submit (commit->of.flusher, jobs);
  return jobs != NULL;
}

/* A barrier is through.  True: it was the round's last. */
static bool
barrier_ended (struct commit *commit, int error)
{
  if (error != 0) {
    commit->error = error;
    if (error != ECANCELED)
      commit->suspect = atomic_load (commit->of.serial);
  }
  return --commit->outstanding == 0;
}

static void
index_synced (struct flush_job *job, int error)
{
  struct commit *commit = ((struct barrier *)job)->commit;

  if (barrier_ended (commit, error))
    end_round (commit);
}

static void
unit_written (struct flush_job *job, int error)
{
  struct unit *unit = (struct unit *)job;
  struct commit *commit = unit->commit;

  unit->error = error;
  if (--commit->outstanding == 0
      && !(commit->stable && begin_barriers (commit, true, index_synced)))
    end_round (commit);
}

static void
write_units (struct commit *commit)
{
  struct flush_job *jobs = NULL;

  for (unsigned i = 0; i < commit->units; i++) {
    struct unit *unit = &commit->unit[i];

    format_encode_unit (&unit->place.unit, unit->words, unit->sector);
    unit->job = (struct flush_job){
      .next = jobs,
      .fd = unit->place.fd,
      .offset = unit->place.offset,
      .data = unit->sector,
      .length = sizeof unit->sector,
      .urgent = true,
      .cancelled = commit->of.cancelled,
      .done = unit_written,
    };
    jobs = &unit->job;
    commit->outstanding++;
    if (commit->stable)
      commit->barriers[unit->place.part].index = true;
  }
  if (jobs == NULL)
    end_round (commit); /* just a sweep that waits */
  flusher_submit (commit->of.flusher, jobs);
}

static void
data_synced (struct flush_job *job, int error)
{
  struct commit *commit = ((struct barrier *)job)->commit;

  if (!barrier_ended (commit, error))
    return;
  if (commit->error != 0)
    end_round (commit);
  else
    write_units (commit);
}

static void
begin_round (struct flush_job *job, int error)
{
  struct commit *commit
      = (struct commit *)((char *)job - offsetof (struct commit, call));

  (void)error; /* it needs no write: it is none */
  commit->error = 0;
  commit->units = 0;
  memset (commit->hash, 0, sizeof commit->hash);
  gather_sweep (commit);
  gather_translations (commit);
  /* A sweep alone needs no barrier: whoever asked for it has his own. */
  commit->stable = commit->round != NULL
                   && atomic_load (commit->of.level) == DURABILITY_STABLE;
  if (!(commit->stable && begin_barriers (commit, false, data_synced)))
    write_units (commit);
}
