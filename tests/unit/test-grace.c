/* SPDX-License-Identifier: BSD-3-Clause */
/* Grace periods, and the bell that says when to ask about them. */

#include "cmocka-all.h"
#include "bell.h"
#include "call-hook.h"
#include "grace.h"

#include <assert.h>
#include <semaphore.h>

static struct bell bell;
static struct grace grace;

static int
setup (void **state)
{
  (void)state;
  bell_init (&bell);
  grace_init (&grace, &bell);
  return 0;
}

static int
teardown (void **state)
{
  (void)state;
  call_hook_set (NULL);
  bell_destroy (&bell);
  return 0;
}

/* --- the bell ----------------------------------------------------------- */

static void
rung_before_it_ends_the_next_wait (void **state)
{
  (void)state;
  bell_ring (&bell);
  bell_wait (&bell);
  assert_false (bell.rung);
}

static void
rung_often_it_ends_one_wait (void **state)
{
  (void)state;
  for (unsigned i = 0; i < 3; i++)
    bell_ring (&bell);
  bell_wait (&bell);
  assert_false (bell.rung); /* another wait would be one */
}

static sem_t waits;

static struct call_verdict
tell_that_it_waits (const struct call_event *event)
{
  if (event->call == CALL_WAIT)
    sem_post (&waits);
  return (struct call_verdict){ 0 };
}

static void *
wait_for_it (void *arg)
{
  (void)arg;
  bell_wait (&bell);
  return NULL;
}

static void
rung_it_wakes_who_waits (void **state)
{
  pthread_t thread;

  (void)state;
  sem_init (&waits, 0, 0);
  call_hook_set (tell_that_it_waits);
  pthread_create (&thread, NULL, wait_for_it, NULL);
  sem_wait (&waits);
  bell_ring (&bell);
  pthread_join (thread, NULL);
  sem_destroy (&waits);
}

/* --- periods ------------------------------------------------------------ */

static void
period_passes_at_once_when_nobody_is_inside (void **state)
{
  (void)state;
  for (unsigned i = 0; i < 5; i++) {
    grace_begin (&grace);
    assert_true (grace_passed (&grace));
  }
}

static void
period_waits_for_who_was_inside (void **state)
{
  (void)state;
  for (unsigned i = 0; i < 5; i++) {
    const unsigned token = grace_enter (&grace);
    grace_begin (&grace);
    assert_false (grace_passed (&grace));
    assert_false (grace_passed (&grace));
    grace_leave (&grace, token);
    assert_true (grace_passed (&grace));
  }
}

static void
period_waits_for_the_last_of_several (void **state)
{
  unsigned tokens[3];

  (void)state;
  for (unsigned i = 0; i < 3; i++)
    tokens[i] = grace_enter (&grace);
  grace_begin (&grace);
  for (unsigned i = 0; i < 3; i++) {
    assert_false (grace_passed (&grace));
    grace_leave (&grace, tokens[i]);
  }
  assert_true (grace_passed (&grace));
}

/* Who enters all the time keeps no period from passing. */
static void
period_passes_though_others_have_entered_since (void **state)
{
  (void)state;
  const unsigned before = grace_enter (&grace);
  grace_begin (&grace);
  const unsigned after = grace_enter (&grace);
  grace_leave (&grace, before);
  /* It may be one more turn: it is not known that he came later. */
  if (!grace_passed (&grace)) {
    const unsigned later = grace_enter (&grace);
    grace_leave (&grace, after);
    assert_true (grace_passed (&grace));
    grace_leave (&grace, later);
  }
  else
    grace_leave (&grace, after);
}

/* The reason for the second turn: he has looked at the turn, and counts
 * himself only when it is over.
 */
static void
period_waits_for_who_enters_late_in_the_turn_before (void **state)
{
  (void)state;
  const unsigned keeper = grace_enter (&grace);
  const unsigned old_turn = keeper & 1;
  grace_begin (&grace);
  assert_false (grace_passed (&grace));
  grace_leave (&grace, keeper);
  assert_true (grace_passed (&grace));
  /* Now as grace_enter would have, with the turn from before. */
  atomic_fetch_add (&grace.stripe[0].inside[old_turn], 1);
  grace_begin (&grace);
  assert_false (grace_passed (&grace));
  grace_leave (&grace, 0 << 1 | old_turn);
  assert_true (grace_passed (&grace));
}

static void
leaving_rings_if_a_period_is_awaited (void **state)
{
  (void)state;
  unsigned token = grace_enter (&grace);
  grace_leave (&grace, token);
  assert_false (bell.rung);
  token = grace_enter (&grace);
  grace_begin (&grace);
  grace_leave (&grace, token);
  assert_true (bell.rung);
  assert_true (grace_passed (&grace));
  bell.rung = false;
  token = grace_enter (&grace);
  grace_leave (&grace, token);
  assert_false (bell.rung);
}

static void
entering_may_be_nested (void **state)
{
  (void)state;
  const unsigned outer = grace_enter (&grace);
  const unsigned inner = grace_enter (&grace);
  grace_begin (&grace);
  grace_leave (&grace, inner);
  assert_false (grace_passed (&grace));
  grace_leave (&grace, outer);
  assert_true (grace_passed (&grace));
}

static void *
leave_for (void *arg)
{
  grace_leave (&grace, *(unsigned *)arg);
  return NULL;
}

static void
another_thread_may_leave (void **state)
{
  pthread_t thread;
  unsigned token = grace_enter (&grace);

  (void)state;
  grace_begin (&grace);
  pthread_create (&thread, NULL, leave_for, &token);
  while (!grace_passed (&grace))
    bell_wait (&bell);
  pthread_join (thread, NULL);
}

/* --- all at once -------------------------------------------------------- */

#define READERS 4
#define PERIODS 3000

static _Atomic (unsigned *) current;
static atomic_bool enough;

static void *
read_current (void *arg)
{
  (void)arg;
  while (!atomic_load (&enough)) {
    const unsigned token = grace_enter (&grace);
    const unsigned *value = atomic_load (&current);
    for (unsigned i = 0; i < 10; i++)
      assert (*(volatile const unsigned *)value == 1);
    grace_leave (&grace, token);
  }
  return NULL;
}

/* What was replaced is spoilt when a period has passed. */
static void
nobody_is_on_his_way_to_what_was_unlinked (void **state)
{
  static unsigned values[2];
  pthread_t threads[READERS];

  (void)state;
  values[0] = 1;
  atomic_store (&current, &values[0]);
  atomic_store (&enough, false);
  for (unsigned i = 0; i < READERS; i++)
    pthread_create (&threads[i], NULL, read_current, NULL);
  for (unsigned i = 1; i < PERIODS; i++) {
    values[i % 2] = 1;
    atomic_store (&current, &values[i % 2]);
    grace_begin (&grace);
    while (!grace_passed (&grace))
      bell_wait (&bell);
    values[(i + 1) % 2] = 0;
  }
  atomic_store (&enough, true);
  for (unsigned i = 0; i < READERS; i++)
    pthread_join (threads[i], NULL);
}

#define TEST(name) cmocka_unit_test_setup_teardown (name, setup, teardown)

int
main (void)
{
  const struct CMUnitTest tests[] = {
    TEST (rung_before_it_ends_the_next_wait),
    TEST (rung_often_it_ends_one_wait),
    TEST (rung_it_wakes_who_waits),
    TEST (period_passes_at_once_when_nobody_is_inside),
    TEST (period_waits_for_who_was_inside),
    TEST (period_waits_for_the_last_of_several),
    TEST (period_passes_though_others_have_entered_since),
    TEST (period_waits_for_who_enters_late_in_the_turn_before),
    TEST (leaving_rings_if_a_period_is_awaited),
    TEST (entering_may_be_nested),
    TEST (another_thread_may_leave),
    TEST (nobody_is_on_his_way_to_what_was_unlinked),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
