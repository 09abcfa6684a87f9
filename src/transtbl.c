/* SPDX-License-Identifier: BSD-3-Clause */

#include "transtbl.h"
#include "scoped.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <semaphore.h>

/* More stripes than there are threads at work in an ordinary server. */
#define LOCK_STRIPES 64

/* A quarter of a pointer for each translation that fits into memory; the
 * bounds keep a table small beside the smallest max-memory.
 */
#define BUCKETS_MIN 256
#define BUCKETS_MAX 16384

/* Who waits for a translation, on the stack of the thread that does.  Each has
 * a semaphore of its own: a condition variable would have all of a stripe's
 * woken, to queue for the lock.
 */
struct transtbl_waiter {
  struct transtbl_waiter *next;          /* under the stripe's lock */
  const struct translation *translation; /* set at creation */
  sem_t wake;   /* look at what follows, or whether you are cancelled */
  bool settled; /* under the lock, like ERROR; it is in no list any more */
  int error;
};

struct transtbl_stripe {
  pthread_mutex_t lock;
  struct transtbl_waiter *waiters; /* under the lock */
} __attribute__ ((aligned (64)));

int
transtbl_init (struct transtbl *table, uint64_t entries)
{
  unsigned buckets = BUCKETS_MIN;
  pthread_mutexattr_t attr;

  while (buckets < BUCKETS_MAX && buckets < entries / 4)
    buckets *= 2;
  *table = (struct transtbl){ .bucket_mask = buckets - 1 };
  table->buckets = calloc (buckets, sizeof *table->buckets);
  table->stripes = aligned_alloc (64, LOCK_STRIPES * sizeof *table->stripes);
  if (table->buckets == NULL || table->stripes == NULL) {
    free (table->buckets);
    free (table->stripes);
    *table = (struct transtbl){ 0 };
    errno = ENOMEM;
    return -1;
  }
  /* Held for moments: who wants one spins. */
  pthread_mutexattr_init (&attr);
  pthread_mutexattr_settype (&attr, PTHREAD_MUTEX_ADAPTIVE_NP);
  for (unsigned i = 0; i < LOCK_STRIPES; i++) {
    table->stripes[i].waiters = NULL;
    pthread_mutex_init (&table->stripes[i].lock, &attr);
  }
  pthread_mutexattr_destroy (&attr);
  return 0;
}

void
transtbl_free (struct transtbl *table)
{
  if (table->buckets == NULL)
    return;
  for (unsigned i = 0; i <= table->bucket_mask; i++)
    while (table->buckets[i] != NULL) {
      struct translation *translation = table->buckets[i];
      table->buckets[i] = translation->next;
      translation_release (translation);
    }
  for (unsigned i = 0; i < LOCK_STRIPES; i++)
    pthread_mutex_destroy (&table->stripes[i].lock);
  free (table->stripes);
  free (table->buckets);
  *table = (struct transtbl){ 0 };
}

struct translation *
translation_new (struct snapshot *snapshot)
{
  struct translation *translation = calloc (1, sizeof *translation);

  if (translation == NULL)
    return NULL;
  translation->snapshot = snapshot;
  atomic_init (&translation->users, 1);
  return translation;
}

static void
translation_use (struct translation *translation)
{
  atomic_fetch_add_explicit (&translation->users, 1, memory_order_relaxed);
}

void
translation_release (struct translation *translation)
{
  if (translation == NULL
      || atomic_fetch_sub_explicit (&translation->users, 1,
                                    memory_order_acq_rel)
             != 1)
    return;
  if (translation->buffer != NULL)
    buffer_release (translation->buffer);
  free (translation);
}

/* Spread groups over the buckets; neighbouring groups go apart. */
static unsigned
bucket_of (const struct transtbl *table, uint64_t group)
{
  return (unsigned)(group * UINT64_C (0x9e3779b97f4a7c15) >> 40)
         & table->bucket_mask;
}

static struct transtbl_stripe *
stripe_of (const struct transtbl *table, unsigned bucket)
{
  return &table->stripes[bucket % LOCK_STRIPES];
}

static uint64_t
group_of (const struct translation *translation)
{
  return translation->first / BITMAP_GROUP;
}

static uint64_t
mask_of (const struct translation *translation)
{
  return bitmap_mask (translation->first % BITMAP_GROUP, translation->count);
}

/* The chunks of a group that have translations, and one that has some of
 * WANTED.  The stripe's lock is held.
 */
static uint64_t
owned_chunks (const struct transtbl *table, unsigned bucket, uint64_t group,
              uint64_t wanted, struct translation **owner)
{
  uint64_t owned = 0;

  for (struct translation *t = table->buckets[bucket]; t != NULL; t = t->next)
    if (group_of (t) == group) {
      owned |= mask_of (t);
      if (mask_of (t) & wanted)
        *owner = t;
    }
  return owned;
}

enum claim
transtbl_claim (struct transtbl *table, const struct bitmap *hastrans,
                uint64_t group, uint64_t wanted, unsigned limit,
                struct translation *translation, struct translation **busy)
{
  const unsigned bucket = bucket_of (table, group);
  struct translation *owner = NULL;

  SCOPED_LOCK (&stripe_of (table, bucket)->lock);
  wanted &= ~bitmap_group (hastrans, group);
  if (wanted == 0)
    return CLAIM_NOTHING;
  const uint64_t owned = owned_chunks (table, bucket, group, wanted, &owner);
  if ((wanted & ~owned) == 0) {
    translation_use (owner);
    *busy = owner;
    return CLAIM_BUSY;
  }

  wanted &= ~owned;
  const unsigned start = (unsigned)__builtin_ctzll (wanted);
  const unsigned run = bitmap_first_run (wanted);
  translation->state = TRANSLATION_CLAIMED;
  translation->first = group * BITMAP_GROUP + start;
  translation->count = run < limit ? run : limit;
  translation_use (translation);
  translation->next = table->buckets[bucket];
  table->buckets[bucket] = translation;
  return CLAIM_OWNED;
}

unsigned
transtbl_set_free (struct transtbl *table, const struct bitmap *hastrans,
                   struct bitmap *free, uint64_t group, uint64_t wanted)
{
  const unsigned bucket = bucket_of (table, group);
  struct translation *owner = NULL;

  SCOPED_LOCK (&stripe_of (table, bucket)->lock);
  wanted &= ~bitmap_group (hastrans, group) & ~bitmap_group (free, group)
            & ~owned_chunks (table, bucket, group, wanted, &owner);
  if (wanted != 0)
    bitmap_set_group (free, group, wanted);
  return (unsigned)__builtin_popcountll (wanted);
}

uint64_t
transtbl_held (struct transtbl *table, uint64_t group)
{
  const unsigned bucket = bucket_of (table, group);
  struct translation *owner = NULL;

  SCOPED_LOCK (&stripe_of (table, bucket)->lock);
  return owned_chunks (table, bucket, group, 0, &owner);
}

/* The stripe's lock is held. */
static void
take_out (struct transtbl *table, unsigned bucket,
          struct translation *translation)
{
  struct translation **p = &table->buckets[bucket];

  while (*p != translation)
    p = &(*p)->next;
  *p = translation->next;
  translation->next = NULL;
}

/* The stripe's lock is held. */
static void
settle (struct transtbl_stripe *stripe, struct translation *translation,
        int error)
{
  struct transtbl_waiter **at = &stripe->waiters;

  translation->settled = true;
  translation->error = error;
  while (*at != NULL) {
    struct transtbl_waiter *waiter = *at;
    if (waiter->translation != translation) {
      at = &waiter->next;
      continue;
    }
    *at = waiter->next;
    waiter->error = error;
    waiter->settled = true;
    sem_post (&waiter->wake);
  }
}

void
transtbl_publish (struct transtbl *table, struct translation *claim,
                  struct translation *pieces, struct bitmap *hastrans,
                  uint64_t mask)
{
  const uint64_t group = group_of (claim);
  const unsigned bucket = bucket_of (table, group);
  struct transtbl_stripe *stripe = stripe_of (table, bucket);

  {
    SCOPED_LOCK (&stripe->lock);
    assert (claim->state == TRANSLATION_CLAIMED);
    take_out (table, bucket, claim);
    while (pieces != NULL) {
      struct translation *next = pieces->next;
      assert (pieces->state != TRANSLATION_CLAIMED);
      assert ((mask_of (pieces) & ~mask_of (claim)) == 0);
      pieces->next = table->buckets[bucket];
      table->buckets[bucket] = pieces;
      pieces = next;
    }
    bitmap_set_group (hastrans, group, mask);
    settle (stripe, claim, 0);
  }
  translation_release (claim);
}

void
transtbl_remove (struct transtbl *table, struct translation *translation,
                 struct bitmap *hastrans, uint64_t mask, int error)
{
  const uint64_t group = group_of (translation);
  const unsigned bucket = bucket_of (table, group);
  struct transtbl_stripe *stripe = stripe_of (table, bucket);

  {
    SCOPED_LOCK (&stripe->lock);
    if (mask != 0)
      bitmap_set_group (hastrans, group, mask);
    take_out (table, bucket, translation);
    settle (stripe, translation, error);
  }
  translation_release (translation);
}

void
transtbl_settle (struct transtbl *table, struct translation *translation,
                 struct bitmap *hastrans, uint64_t mask, int error)
{
  const uint64_t group = group_of (translation);
  struct transtbl_stripe *stripe = stripe_of (table, bucket_of (table, group));

  SCOPED_LOCK (&stripe->lock);
  if (mask != 0)
    bitmap_set_group (hastrans, group, mask);
  settle (stripe, translation, error);
}

void
transtbl_add (struct transtbl *table, struct translation *translation)
{
  const unsigned bucket = bucket_of (table, group_of (translation));

  assert (translation->state == TRANSLATION_LOST && translation->settled);
  SCOPED_LOCK (&stripe_of (table, bucket)->lock);
  translation->next = table->buckets[bucket];
  table->buckets[bucket] = translation;
}

/* The stripe's lock is held. */
static void
take_waiter_out (struct transtbl_stripe *stripe,
                 const struct transtbl_waiter *waiter)
{
  struct transtbl_waiter **at = &stripe->waiters;

  while (*at != waiter)
    at = &(*at)->next;
  *at = waiter->next;
}

/* Wait for a while.  0: WAITER was woken; or an errno. */
static int
wait_awhile (struct transtbl_waiter *waiter, const struct timespec *deadline)
{
  static const struct timespec never = { .tv_sec = LONG_MAX };

  if (deadline == NULL)
    deadline = &never;
  while (sem_clockwait (&waiter->wake, CLOCK_MONOTONIC, deadline) == -1)
    if (errno != EINTR)
      return errno;
  return 0;
}

int
transtbl_wait (struct transtbl *table, struct translation *translation,
               const struct timespec *deadline, const atomic_bool *cancelled)
{
  const unsigned bucket = bucket_of (table, group_of (translation));
  struct transtbl_stripe *stripe = stripe_of (table, bucket);
  struct transtbl_waiter waiter = { .translation = translation };
  int err = 0;

  sem_init (&waiter.wake, 0, 0);
  pthread_mutex_lock (&stripe->lock);
  waiter.settled = translation->settled;
  waiter.error = translation->error;
  if (!waiter.settled) {
    waiter.next = stripe->waiters;
    stripe->waiters = &waiter;
  }
  while (!waiter.settled && err == 0) {
    pthread_mutex_unlock (&stripe->lock);
    /* Who cancels takes the lock after that, and finds the waiter. */
    err = atomic_load (cancelled) ? ECANCELED : wait_awhile (&waiter, deadline);
    /* Also if it has settled: who woke it is through with it then. */
    pthread_mutex_lock (&stripe->lock);
  }
  if (!waiter.settled)
    take_waiter_out (stripe, &waiter);
  else
    err = waiter.error;
  pthread_mutex_unlock (&stripe->lock);
  sem_destroy (&waiter.wake);
  return err;
}

void
transtbl_wake (struct transtbl *table)
{
  for (unsigned i = 0; i < LOCK_STRIPES; i++) {
    SCOPED_LOCK (&table->stripes[i].lock);
    for (struct transtbl_waiter *w = table->stripes[i].waiters; w != NULL;
         w = w->next)
      sem_post (&w->wake);
  }
}

struct translation *
transtbl_find (struct transtbl *table, uint64_t chunk, uint64_t *count)
{
  const uint64_t group = chunk / BITMAP_GROUP;
  const unsigned bucket = bucket_of (table, group);
  uint64_t limit = (group + 1) * BITMAP_GROUP - chunk;
  struct translation *found = NULL;

  if (limit > *count)
    limit = *count;
  SCOPED_LOCK (&stripe_of (table, bucket)->lock);
  for (struct translation *t = table->buckets[bucket]; t != NULL; t = t->next) {
    if (group_of (t) != group || t->first + t->count <= chunk)
      continue;
    if (t->first > chunk) {
      if (limit > t->first - chunk)
        limit = t->first - chunk;
      continue;
    }
    if (limit > t->first + t->count - chunk)
      limit = t->first + t->count - chunk;
    /* The caller saw a bit that was cleared since; he will look again. */
    if (t->state == TRANSLATION_CLAIMED)
      continue;
    translation_use (t);
    found = t;
  }
  *count = limit;
  return found;
}
