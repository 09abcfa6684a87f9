/* SPDX-License-Identifier: BSD-3-Clause */

#include "cmocka-all.h"
#include "call-hook.h"
#include "transtbl.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>

/* Few buckets, so that groups share them. */
#define GROUPS 2000

struct fixture {
  struct transtbl table;
  struct bitmap hastrans;
};

static int
setup (void **state)
{
  static struct fixture fixture;

  assert_int_equal (transtbl_init (&fixture.table, 1), 0);
  assert_int_equal (bitmap_init (&fixture.hastrans, GROUPS * 64), 0);
  *state = &fixture;
  return 0;
}

static int
teardown (void **state)
{
  struct fixture *fixture = *state;

  call_hook_set (NULL);
  transtbl_free (&fixture->table);
  bitmap_free (&fixture->hastrans);
  return 0;
}

/* transtbl_claim with chunks counted from FIRST on instead of a mask. */
static enum claim
claim_chunks (struct transtbl *table, const struct bitmap *hastrans,
              uint64_t first, unsigned count, unsigned limit,
              struct translation *translation, struct translation **busy)
{
  return transtbl_claim (table, hastrans, first / BITMAP_GROUP,
                         bitmap_mask (first % BITMAP_GROUP, count), limit,
                         translation, busy);
}

/* Claim; NULL unless the caller owns it then.  The table's is one of its
 * two users.
 */
static struct translation *
claim (struct fixture *fixture, uint64_t first, unsigned count, unsigned limit)
{
  struct translation *translation = translation_new (NULL), *busy = NULL;

  if (claim_chunks (&fixture->table, &fixture->hastrans, first, count, limit,
                    translation, &busy)
      == CLAIM_OWNED)
    return translation;
  translation_release (busy);
  translation_release (translation);
  return NULL;
}

static void
drop (struct fixture *fixture, struct translation *translation)
{
  transtbl_remove (&fixture->table, translation, &fixture->hastrans, 0, 0);
  translation_release (translation);
}

static struct translation *
piece (uint64_t first, unsigned count, enum translation_state state,
       struct translation *next)
{
  struct translation *translation = translation_new (NULL);

  translation->first = first;
  translation->count = count;
  translation->state = state;
  translation->settled = state == TRANSLATION_LOST;
  translation->next = next;
  return translation;
}

static void
claim_takes_all_that_is_asked_for (void **state)
{
  struct fixture *fixture = *state;
  struct translation *t = claim (fixture, 70, 10, 64);

  assert_non_null (t);
  assert_int_equal (t->first, 70);
  assert_int_equal (t->count, 10);
  assert_int_equal (t->state, TRANSLATION_CLAIMED);
  drop (fixture, t);
}

static void
claim_is_of_whole_groups_at_most (void **state)
{
  struct fixture *fixture = *state;
  struct translation *t = claim (fixture, 64, 64, 64);

  assert_int_equal (t->first, 64);
  assert_int_equal (t->count, 64);
  drop (fixture, t);
}

static void
claim_keeps_within_the_limit (void **state)
{
  struct fixture *fixture = *state;
  struct translation *t = claim (fixture, 0, 64, 16);

  assert_int_equal (t->count, 16);
  drop (fixture, t);
}

static void
claim_skips_copied_chunks (void **state)
{
  struct fixture *fixture = *state;

  bitmap_set_group (&fixture->hastrans, 0, 0x0f | 0xf00);
  struct translation *t = claim (fixture, 0, 64, 64);
  assert_int_equal (t->first, 4);
  assert_int_equal (t->count, 4);
  drop (fixture, t);
}

static void
claim_skips_what_others_own (void **state)
{
  struct fixture *fixture = *state;
  struct translation *other = claim (fixture, 0, 8, 64);
  struct translation *t = claim (fixture, 4, 10, 64);

  assert_int_equal (t->first, 8);
  assert_int_equal (t->count, 6);
  drop (fixture, t);
  drop (fixture, other);
}

static void
claim_of_copied_chunks_is_nothing (void **state)
{
  struct fixture *fixture = *state;
  struct translation *t = translation_new (NULL), *busy = NULL;

  bitmap_set_group (&fixture->hastrans, 1, UINT64_MAX);
  assert_int_equal (
      claim_chunks (&fixture->table, &fixture->hastrans, 64, 64, 64, t, &busy),
      CLAIM_NOTHING);
  assert_null (busy);
  translation_release (t);
}

static void
claim_of_owned_chunks_names_an_owner (void **state)
{
  struct fixture *fixture = *state;
  struct translation *owner = claim (fixture, 10, 20, 64);
  struct translation *elsewhere = claim (fixture, 40, 2, 64);
  struct translation *t = translation_new (NULL), *busy = NULL;

  assert_int_equal (
      claim_chunks (&fixture->table, &fixture->hastrans, 15, 5, 64, t, &busy),
      CLAIM_BUSY);
  assert_ptr_equal (busy, owner);
  assert_int_equal (owner->users, 3);
  translation_release (busy);
  translation_release (t);
  drop (fixture, elsewhere);
  drop (fixture, owner);
}

static void
what_was_given_back_can_be_claimed_again (void **state)
{
  struct fixture *fixture = *state;

  drop (fixture, claim (fixture, 0, 64, 64));
  struct translation *t = claim (fixture, 0, 64, 64);
  assert_non_null (t);
  assert_int_equal (t->count, 64);
  drop (fixture, t);
}

static void
publish_replaces_the_claim_and_sets_the_bits (void **state)
{
  struct fixture *fixture = *state;
  struct translation *t = claim (fixture, 64, 8, 64);
  struct translation *stored = piece (66, 2, TRANSLATION_STORING, NULL);
  uint64_t count = 8;

  transtbl_publish (&fixture->table, t, stored, &fixture->hastrans,
                    bitmap_mask (0, 8));
  assert_true (t->settled);
  assert_int_equal (t->users, 1);
  translation_release (t);
  assert_int_equal (bitmap_group (&fixture->hastrans, 1), 0xff);

  assert_null (transtbl_find (&fixture->table, 64, &count));
  assert_int_equal (count, 2);
  count = 8;
  struct translation *found = transtbl_find (&fixture->table, 66, &count);
  assert_ptr_equal (found, stored);
  assert_int_equal (count, 2);
  translation_release (found);
  count = 8;
  found = transtbl_find (&fixture->table, 67, &count);
  assert_ptr_equal (found, stored);
  assert_int_equal (count, 1);
  translation_release (found);
  count = 4;
  assert_null (transtbl_find (&fixture->table, 68, &count));
  assert_int_equal (count, 4);
  transtbl_remove (&fixture->table, stored, &fixture->hastrans, 0, 0);
}

static void
find_ends_with_the_group (void **state)
{
  struct fixture *fixture = *state;
  uint64_t count = 1000;

  bitmap_set_group (&fixture->hastrans, 1, UINT64_MAX);
  assert_null (transtbl_find (&fixture->table, 100, &count));
  assert_int_equal (count, 28);
}

static void
find_never_answers_for_the_claims_around (void **state)
{
  struct fixture *fixture = *state;
  uint64_t count = 64;

  bitmap_set_group (&fixture->hastrans, 0, bitmap_mask (0, 8));
  struct translation *t = claim (fixture, 8, 8, 64);
  assert_null (transtbl_find (&fixture->table, 0, &count));
  assert_int_equal (count, 8);
  drop (fixture, t);
}

static void
remove_sets_bits_and_takes_it_out (void **state)
{
  struct fixture *fixture = *state;
  struct translation *t = claim (fixture, 0, 2, 64);
  struct translation *stored = piece (0, 2, TRANSLATION_STORING, NULL);
  uint64_t count = 2;

  transtbl_publish (&fixture->table, t, stored, &fixture->hastrans, 0);
  translation_release (t);
  assert_int_equal (bitmap_group (&fixture->hastrans, 0), 0);
  transtbl_remove (&fixture->table, stored, &fixture->hastrans, 3, 0);
  assert_int_equal (bitmap_group (&fixture->hastrans, 0), 3);
  assert_null (transtbl_find (&fixture->table, 0, &count));
}

static void
lost_chunks_stay (void **state)
{
  struct fixture *fixture = *state;
  struct translation *t = claim (fixture, 0, 4, 64);
  uint64_t count = 4;

  transtbl_publish (&fixture->table, t, piece (1, 1, TRANSLATION_LOST, NULL),
                    &fixture->hastrans, 0xf);
  translation_release (t);
  struct translation *found = transtbl_find (&fixture->table, 1, &count);
  assert_non_null (found);
  assert_int_equal (found->state, TRANSLATION_LOST);
  translation_release (found);
}

static void
many_groups_share_the_buckets (void **state)
{
  struct fixture *fixture = *state;
  struct translation *claims[GROUPS];

  for (unsigned i = 0; i < GROUPS; i++) {
    claims[i] = claim (fixture, i * UINT64_C (64), 64, 64);
    assert_non_null (claims[i]);
  }
  for (unsigned i = 0; i < GROUPS; i++)
    assert_null (claim (fixture, i * UINT64_C (64) + i % 64, 1, 64));
  for (unsigned i = 0; i < GROUPS; i += 2)
    drop (fixture, claims[i]);
  for (unsigned i = 0; i < GROUPS; i += 2)
    drop (fixture, claim (fixture, i * UINT64_C (64), 64, 64));
  for (unsigned i = 1; i < GROUPS; i += 2)
    drop (fixture, claims[i]);
}

static sem_t waiting;

static struct call_verdict
tell_that_it_waits (const struct call_event *event)
{
  if (event->call == CALL_WAIT)
    sem_post (&waiting);
  return (struct call_verdict){ 0 };
}

struct waiter {
  pthread_t thread;
  struct transtbl *table;
  struct translation *translation;
  atomic_bool cancelled;
  int result;
};

static void *
wait_for_translation (void *arg)
{
  struct waiter *waiter = arg;
  struct timespec deadline;

  clock_gettime (CLOCK_MONOTONIC, &deadline);
  deadline.tv_sec += 60;
  waiter->result = transtbl_wait (waiter->table, waiter->translation, &deadline,
                                  &waiter->cancelled);
  translation_release (waiter->translation);
  return NULL;
}

/* A thread that waits for the owner of CHUNK, and does so by now. */
static void
start_waiter (struct waiter *waiter, struct fixture *fixture, uint64_t chunk)
{
  struct translation *t = translation_new (NULL);

  *waiter = (struct waiter){ .table = &fixture->table };
  assert_int_equal (claim_chunks (&fixture->table, &fixture->hastrans, chunk, 1,
                                  1, t, &waiter->translation),
                    CLAIM_BUSY);
  translation_release (t);
  sem_init (&waiting, 0, 0);
  call_hook_set (tell_that_it_waits);
  pthread_create (&waiter->thread, NULL, wait_for_translation, waiter);
  sem_wait (&waiting);
  call_hook_set (NULL);
}

static void
waiters_go_on_with_the_error (void **state)
{
  static const int errors[] = { 0, EIO, ENOSPC, ECANCELED };
  struct fixture *fixture = *state;

  for (unsigned i = 0; i < sizeof errors / sizeof errors[0]; i++) {
    struct translation *t = claim (fixture, 0, 4, 64);
    struct waiter a, b;
    start_waiter (&a, fixture, 0);
    start_waiter (&b, fixture, 3);
    transtbl_remove (&fixture->table, t, &fixture->hastrans, 0, errors[i]);
    pthread_join (a.thread, NULL);
    pthread_join (b.thread, NULL);
    assert_int_equal (a.result, errors[i]);
    assert_int_equal (b.result, errors[i]);
    translation_release (t);
  }
}

static void
waiters_for_a_claim_go_on_when_it_is_published (void **state)
{
  struct fixture *fixture = *state;
  struct translation *t = claim (fixture, 0, 4, 64);
  struct waiter waiter;

  start_waiter (&waiter, fixture, 0);
  transtbl_publish (&fixture->table, t, NULL, &fixture->hastrans, 0xf);
  pthread_join (waiter.thread, NULL);
  assert_int_equal (waiter.result, 0);
  translation_release (t);
}

static void
wait_for_what_has_settled_returns_at_once (void **state)
{
  struct fixture *fixture = *state;
  struct translation *t = claim (fixture, 0, 4, 64);
  const struct timespec past = { 0 };
  const atomic_bool cancelled = true;

  transtbl_remove (&fixture->table, t, &fixture->hastrans, 0, EIO);
  assert_int_equal (transtbl_wait (&fixture->table, t, &past, &cancelled), EIO);
  translation_release (t);
}

static void
wait_ends_at_the_deadline (void **state)
{
  struct fixture *fixture = *state;
  struct translation *t = claim (fixture, 0, 4, 64);
  const struct timespec past = { 0 };
  const atomic_bool cancelled = false;

  assert_int_equal (transtbl_wait (&fixture->table, t, &past, &cancelled),
                    ETIMEDOUT);
  drop (fixture, t);
}

static void
wait_ends_when_cancelled (void **state)
{
  struct fixture *fixture = *state;
  struct translation *t = claim (fixture, 0, 4, 64);
  struct waiter waiter;

  start_waiter (&waiter, fixture, 0);
  atomic_store (&waiter.cancelled, true);
  transtbl_wake (&fixture->table);
  pthread_join (waiter.thread, NULL);
  assert_int_equal (waiter.result, ECANCELED);
  drop (fixture, t);
}

static void
last_user_gives_the_buffer_back (void **state)
{
  struct throttle *throttle = throttle_create (1 << 20);
  struct buffer *buffer = throttle_try (throttle, 4096);
  struct translation *t = translation_new (NULL);

  (void)state;
  t->buffer = buffer;
  buffer_use (buffer);
  translation_release (t);
  assert_int_equal (buffer->users, 1);
  buffer_release (buffer);
  throttle_free (throttle); /* asserts that all is back */
}

static struct call_verdict
refuse_memory (const struct call_event *event)
{
  return (struct call_verdict){ .error
                                = event->call == CALL_MEMORY ? ENOMEM : 0 };
}

static void
no_memory_is_enomem (void **state)
{
  struct transtbl table;

  (void)state;
  call_hook_set (refuse_memory);
  errno = 0;
  const int r = transtbl_init (&table, 100);
  const int err = errno;
  struct translation *t = translation_new (NULL);
  call_hook_set (NULL);
  assert_int_equal (r, -1);
  assert_int_equal (err, ENOMEM);
  assert_null (t);
  transtbl_free (&table); /* right for what was not made */
}

#define CLAIMERS 4
#define CLAIMED_CHUNKS (64 * 300)

struct claimer {
  struct fixture *fixture;
  _Atomic unsigned char *owners; /* of each chunk */
  unsigned seed;
};

/* Claim everything in odd steps; chunks are copied once they are owned. */
static void *
claim_all (void *arg)
{
  struct claimer *claimer = arg;
  struct fixture *fixture = claimer->fixture;
  const atomic_bool cancelled = false;
  struct timespec deadline;
  uint64_t chunk = 0;

  clock_gettime (CLOCK_MONOTONIC, &deadline);
  deadline.tv_sec += 60;
  while (chunk < CLAIMED_CHUNKS) {
    struct translation *t = translation_new (NULL), *busy = NULL;
    const unsigned left = 64 - chunk % 64;
    const unsigned count = 1 + (unsigned)(chunk + claimer->seed) % left;
    switch (claim_chunks (&fixture->table, &fixture->hastrans, chunk, count, 7,
                          t, &busy)) {
    case CLAIM_OWNED:
      for (unsigned i = 0; i < t->count; i++)
        atomic_fetch_add (&claimer->owners[t->first + i], 1);
      transtbl_remove (&fixture->table, t, &fixture->hastrans,
                       bitmap_mask ((unsigned)(t->first % 64), t->count), 0);
      break;
    case CLAIM_BUSY:
      (void)!transtbl_wait (&fixture->table, busy, &deadline, &cancelled);
      translation_release (busy);
      break;
    case CLAIM_NOTHING:
      chunk += count;
    }
    translation_release (t);
  }
  return NULL;
}

static void
every_chunk_has_one_owner (void **state)
{
  static _Atomic unsigned char owners[CLAIMED_CHUNKS];
  struct fixture *fixture = *state;
  struct claimer claimers[CLAIMERS];
  pthread_t threads[CLAIMERS];

  for (unsigned i = 0; i < CLAIMERS; i++) {
    claimers[i] = (struct claimer){ fixture, owners, i * 13 };
    pthread_create (&threads[i], NULL, claim_all, &claimers[i]);
  }
  for (unsigned i = 0; i < CLAIMERS; i++)
    pthread_join (threads[i], NULL);
  for (unsigned i = 0; i < CLAIMED_CHUNKS; i++)
    assert_int_equal (owners[i], 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown (name, setup, teardown)

/* --- free space --------------------------------------------------------- */

static void
what_nobody_has_begun_to_copy_can_be_set_free (void **state)
{
  struct fixture *fixture = *state;
  struct bitmap free_chunks;

  assert_int_equal (bitmap_init (&free_chunks, GROUPS * 64), 0);
  bitmap_set_group (&fixture->hastrans, 1, 0x0f);
  struct translation *t = claim (fixture, 64 + 8, 4, 64);
  assert_int_equal (transtbl_set_free (&fixture->table, &fixture->hastrans,
                                       &free_chunks, 1, 0xffff),
                    8);
  assert_int_equal (bitmap_group (&free_chunks, 1), 0xf0f0);
  /* Those that are free are not counted again. */
  assert_int_equal (transtbl_set_free (&fixture->table, &fixture->hastrans,
                                       &free_chunks, 1, 0x1ffff),
                    1);
  assert_int_equal (bitmap_group (&free_chunks, 0), 0);
  drop (fixture, t);
  /* What was given back, uncopied, can be. */
  assert_int_equal (transtbl_set_free (&fixture->table, &fixture->hastrans,
                                       &free_chunks, 1, 0xf00),
                    4);
  bitmap_free (&free_chunks);
}

static void
held_are_the_chunks_of_a_group_that_have_translations (void **state)
{
  struct fixture *fixture = *state;

  assert_int_equal (transtbl_held (&fixture->table, 0), 0);
  bitmap_set_group (&fixture->hastrans, 0, 1); /* in the backing file */
  struct translation *claimed = claim (fixture, 4, 4, 64);
  struct translation *other = claim (fixture, 40, 8, 64);
  struct translation *elsewhere = claim (fixture, 64, 64, 64);
  transtbl_publish (&fixture->table, other,
                    piece (42, 2, TRANSLATION_LOST, NULL), &fixture->hastrans,
                    UINT64_C (0xff) << 40);
  assert_int_equal (transtbl_held (&fixture->table, 0),
                    UINT64_C (3) << 42 | 0xf0);
  assert_true (transtbl_held (&fixture->table, 1) == UINT64_MAX);
  assert_int_equal (transtbl_held (&fixture->table, 2), 0);
  translation_release (other);
  drop (fixture, claimed);
  drop (fixture, elsewhere);
  assert_int_equal (transtbl_held (&fixture->table, 0), UINT64_C (3) << 42);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    TEST (claim_takes_all_that_is_asked_for),
    TEST (claim_is_of_whole_groups_at_most),
    TEST (claim_keeps_within_the_limit),
    TEST (claim_skips_copied_chunks),
    TEST (claim_skips_what_others_own),
    TEST (claim_of_copied_chunks_is_nothing),
    TEST (claim_of_owned_chunks_names_an_owner),
    TEST (what_was_given_back_can_be_claimed_again),
    TEST (publish_replaces_the_claim_and_sets_the_bits),
    TEST (find_ends_with_the_group),
    TEST (find_never_answers_for_the_claims_around),
    TEST (remove_sets_bits_and_takes_it_out),
    TEST (lost_chunks_stay),
    TEST (many_groups_share_the_buckets),
    TEST (waiters_go_on_with_the_error),
    TEST (waiters_for_a_claim_go_on_when_it_is_published),
    TEST (wait_for_what_has_settled_returns_at_once),
    TEST (wait_ends_at_the_deadline),
    TEST (wait_ends_when_cancelled),
    TEST (last_user_gives_the_buffer_back),
    TEST (no_memory_is_enomem),
    TEST (every_chunk_has_one_owner),
    TEST (what_nobody_has_begun_to_copy_can_be_set_free),
    TEST (held_are_the_chunks_of_a_group_that_have_translations),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
