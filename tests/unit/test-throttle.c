/* SPDX-License-Identifier: BSD-3-Clause */

#include "cmocka-all.h"
#include "call-hook.h"
#include "throttle.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>

/* A limit for so many buffers of so many bytes, a power of two. */
static uint64_t
room_for (unsigned buffers, uint64_t bytes)
{
  return buffers * (bytes + THROTTLE_ALLOWANCE);
}

static struct timespec
seconds_from_now (int seconds)
{
  struct timespec time;

  clock_gettime (CLOCK_MONOTONIC, &time);
  time.tv_sec += seconds;
  return time;
}

/* One thread that waits for a buffer. */
struct waiter {
  pthread_t thread;
  struct throttle *throttle;
  size_t bytes;
  atomic_bool cancelled;
  struct buffer *buffer;
  int err;
};

static sem_t waiting;

static struct call_verdict
tell_that_it_waits (const struct call_event *event)
{
  if (event->call == CALL_WAIT)
    sem_post (&waiting);
  return (struct call_verdict){ 0 };
}

static void *
wait_for_buffer (void *arg)
{
  struct waiter *waiter = arg;
  const struct timespec deadline = seconds_from_now (60);

  waiter->buffer = throttle_wait (waiter->throttle, waiter->bytes, &deadline,
                                  &waiter->cancelled);
  waiter->err = errno;
  return NULL;
}

/* Returns when it stands in line. */
static void
start_waiter (struct waiter *waiter, struct throttle *throttle, size_t bytes)
{
  *waiter = (struct waiter){ .throttle = throttle, .bytes = bytes };
  sem_init (&waiting, 0, 0);
  call_hook_set (tell_that_it_waits);
  pthread_create (&waiter->thread, NULL, wait_for_buffer, waiter);
  sem_wait (&waiting);
  throttle_held (throttle); /* has the lock: the waiter has let it go */
  call_hook_set (NULL);
}

static void
buffers_until_the_limit_then_eagain (void **state)
{
  struct throttle *throttle = throttle_create (room_for (3, 4096));
  struct buffer *buffers[3];

  (void)state;
  for (unsigned i = 0; i < 3; i++) {
    buffers[i] = throttle_try (throttle, 4096);
    assert_non_null (buffers[i]);
    assert_int_equal (buffers[i]->size, 4096);
  }
  assert_null (throttle_try (throttle, 1));
  assert_int_equal (errno, EAGAIN);
  buffer_release (buffers[0]);
  buffers[0] = throttle_try (throttle, 4096);
  assert_non_null (buffers[0]);
  for (unsigned i = 0; i < 3; i++)
    buffer_release (buffers[i]);
  throttle_free (throttle);
}

static void
sizes_are_powers_of_two (void **state)
{
  struct throttle *throttle = throttle_create (1 << 20);
  static const size_t sizes[][2]
      = { { 1, 1 },      { 2, 2 },         { 3, 4 },         { 512, 512 },
          { 513, 1024 }, { 65536, 65536 }, { 65537, 131072 } };

  (void)state;
  for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
    struct buffer *buffer = throttle_try (throttle, sizes[i][0]);
    assert_int_equal (buffer->size, sizes[i][1]);
    assert_int_equal (throttle_least (sizes[i][0]),
                      sizes[i][1] + THROTTLE_ALLOWANCE);
    buffer_release (buffer);
  }
  throttle_free (throttle);
}

static void
least_limit_is_enough_and_no_less_is (void **state)
{
  const uint64_t least = throttle_least (5000);
  struct throttle *enough = throttle_create (least);
  struct throttle *less = throttle_create (least - 1);
  struct buffer *buffer = throttle_try (enough, 5000);

  (void)state;
  assert_non_null (buffer);
  assert_int_equal (throttle_limit (enough), least);
  assert_null (throttle_try (less, 5000));
  buffer_release (buffer);
  throttle_free (enough);
  throttle_free (less);
}

static void
kept_buffers_make_room_for_other_sizes (void **state)
{
  struct throttle *throttle = throttle_create (room_for (4, 4096));
  struct buffer *small[4], *large;

  (void)state;
  for (unsigned i = 0; i < 4; i++)
    small[i] = throttle_try (throttle, 4096);
  for (unsigned i = 0; i < 4; i++)
    buffer_release (small[i]);
  assert_int_equal (throttle_held (throttle), room_for (4, 4096));

  large = throttle_try (throttle, 16384);
  assert_non_null (large);
  assert_true (throttle_held (throttle) <= room_for (4, 4096));
  buffer_release (large);
  throttle_free (throttle);
}

static void
freed_memory_above_what_is_kept_goes_back (void **state)
{
  struct throttle *throttle = throttle_create (64 << 20);
  struct buffer *buffers[32];

  (void)state;
  for (unsigned i = 0; i < 32; i++)
    buffers[i] = throttle_try (throttle, 1 << 20);
  for (unsigned i = 0; i < 32; i++)
    buffer_release (buffers[i]);
  assert_true (throttle_held (throttle) <= 4 << 20);
  throttle_free (throttle);
}

static void
buffer_comes_back_with_its_last_user (void **state)
{
  struct throttle *throttle = throttle_create (room_for (1, 4096));
  struct buffer *buffer = throttle_try (throttle, 4096);

  (void)state;
  buffer_use (buffer);
  buffer_release (buffer);
  assert_null (throttle_try (throttle, 4096));
  buffer_release (buffer);
  buffer = throttle_try (throttle, 4096);
  assert_non_null (buffer);
  buffer_release (buffer);
  throttle_free (throttle);
}

static void
waiter_gets_what_is_given_back (void **state)
{
  struct throttle *throttle = throttle_create (room_for (1, 4096));
  struct buffer *buffer = throttle_try (throttle, 4096);
  struct waiter waiter;

  (void)state;
  start_waiter (&waiter, throttle, 4096);
  buffer_release (buffer);
  pthread_join (waiter.thread, NULL);
  assert_non_null (waiter.buffer);
  buffer_release (waiter.buffer);
  throttle_free (throttle);
}

static void
nobody_overtakes_a_large_waiter (void **state)
{
  struct throttle *throttle = throttle_create (room_for (8, 4096));
  struct buffer *buffers[8];
  struct waiter large;

  (void)state;
  for (unsigned i = 0; i < 8; i++)
    buffers[i] = throttle_try (throttle, 4096);
  start_waiter (&large, throttle, 16384);
  for (unsigned i = 0; i < 3; i++) {
    buffer_release (buffers[i]);
    assert_null (throttle_try (throttle, 4096)); /* though there is room */
    assert_int_equal (errno, EAGAIN);
  }
  for (unsigned i = 3; i < 8; i++)
    buffer_release (buffers[i]);
  pthread_join (large.thread, NULL);
  assert_non_null (large.buffer);
  buffer_release (large.buffer);
  throttle_free (throttle);
}

static void
line_is_served_in_order (void **state)
{
  struct throttle *throttle = throttle_create (room_for (1, 4096));
  struct buffer *buffer = throttle_try (throttle, 4096);
  struct waiter waiters[3];

  (void)state;
  for (unsigned i = 0; i < 3; i++)
    start_waiter (&waiters[i], throttle, 4096);
  for (unsigned i = 0; i < 3; i++) {
    buffer_release (buffer);
    pthread_join (waiters[i].thread, NULL); /* the others still wait */
    buffer = waiters[i].buffer;
    assert_non_null (buffer);
  }
  buffer_release (buffer);
  throttle_free (throttle);
}

static void
who_stood_behind_one_that_gave_up_is_served (void **state)
{
  struct throttle *throttle = throttle_create (room_for (4, 4096));
  struct buffer *buffers[3];
  struct waiter large, small;

  (void)state;
  for (unsigned i = 0; i < 3; i++)
    buffers[i] = throttle_try (throttle, 4096);
  start_waiter (&large, throttle, 16384);
  start_waiter (&small, throttle, 4096); /* would fit */
  atomic_store (&large.cancelled, true);
  throttle_wake (throttle);
  pthread_join (large.thread, NULL);
  pthread_join (small.thread, NULL);
  assert_null (large.buffer);
  assert_int_equal (large.err, ECANCELED);
  assert_non_null (small.buffer);
  buffer_release (small.buffer);
  for (unsigned i = 0; i < 3; i++)
    buffer_release (buffers[i]);
  throttle_free (throttle);
}

static void
last_in_line_can_give_up (void **state)
{
  struct throttle *throttle = throttle_create (room_for (1, 4096));
  struct buffer *buffer = throttle_try (throttle, 4096);
  struct waiter first, last, later;

  (void)state;
  start_waiter (&first, throttle, 4096);
  start_waiter (&last, throttle, 4096);
  atomic_store (&last.cancelled, true);
  throttle_wake (throttle);
  pthread_join (last.thread, NULL);
  assert_null (last.buffer);
  start_waiter (&later, throttle, 4096);
  buffer_release (buffer);
  pthread_join (first.thread, NULL);
  assert_non_null (first.buffer);
  buffer_release (first.buffer);
  pthread_join (later.thread, NULL);
  assert_non_null (later.buffer);
  buffer_release (later.buffer);
  throttle_free (throttle);
}

static void
waiting_ends_at_the_deadline (void **state)
{
  struct throttle *throttle = throttle_create (room_for (1, 4096));
  struct buffer *buffer = throttle_try (throttle, 4096);
  const struct timespec now = seconds_from_now (0);
  const atomic_bool cancelled = false;

  (void)state;
  assert_null (throttle_wait (throttle, 4096, &now, &cancelled));
  assert_int_equal (errno, ETIMEDOUT);
  buffer_release (buffer);
  buffer = throttle_try (throttle, 4096); /* it is out of the line */
  assert_non_null (buffer);
  buffer_release (buffer);
  throttle_free (throttle);
}

static void
wait_with_room_does_not_wait (void **state)
{
  struct throttle *throttle = throttle_create (room_for (1, 4096));
  const struct timespec past = { 0 };
  const atomic_bool cancelled = true;
  struct buffer *buffer = throttle_wait (throttle, 4096, &past, &cancelled);

  (void)state;
  assert_non_null (buffer);
  buffer_release (buffer);
  throttle_free (throttle);
}

static struct call_verdict
refuse_memory (const struct call_event *event)
{
  return (struct call_verdict){ .error
                                = event->call == CALL_MEMORY ? ENOMEM : 0 };
}

static void
no_memory_is_enomem_and_gives_the_room_back (void **state)
{
  struct throttle *throttle = throttle_create (room_for (1, 4096));
  const struct timespec past = { 0 };
  const atomic_bool cancelled = false;

  (void)state;
  call_hook_set (refuse_memory);
  errno = 0;
  struct buffer *tried = throttle_try (throttle, 4096);
  const int try_err = errno;
  errno = 0;
  struct buffer *waited = throttle_wait (throttle, 4096, &past, &cancelled);
  const int wait_err = errno;
  call_hook_set (NULL);

  assert_null (tried);
  assert_int_equal (try_err, ENOMEM);
  assert_null (waited);
  assert_int_equal (wait_err, ENOMEM);
  assert_int_equal (throttle_held (throttle), 0);
  tried = throttle_try (throttle, 4096);
  assert_non_null (tried);
  buffer_release (tried);
  throttle_free (throttle);
}

#define USERS 6
#define ROUNDS 300

struct user {
  struct throttle *throttle;
  unsigned seed;
  bool exceeded, refused;
};

/* Buffers of all sizes, from 1 byte to half of the limit. */
static void *
take_and_give (void *arg)
{
  struct user *user = arg;
  const struct timespec deadline = seconds_from_now (60);
  const atomic_bool cancelled = false;

  for (unsigned i = 0; i < ROUNDS; i++) {
    const size_t bytes = (size_t)1 << rand_r (&user->seed) % 17;
    struct buffer *buffer
        = i % 3 == 0 ? throttle_try (user->throttle, bytes) : NULL;
    if (buffer == NULL)
      buffer = throttle_wait (user->throttle, bytes, &deadline, &cancelled);
    if (throttle_held (user->throttle) > throttle_limit (user->throttle))
      user->exceeded = true;
    if (buffer == NULL) {
      user->refused = true;
      continue;
    }
    buffer->data[0] = (uint8_t)i;
    buffer->data[bytes - 1] = (uint8_t)i;
    buffer_release (buffer);
  }
  return NULL;
}

static void
limit_holds_and_all_are_served_under_load (void **state)
{
  struct throttle *throttle = throttle_create (room_for (2, 65536));
  pthread_t threads[USERS];
  struct user users[USERS];

  (void)state;
  for (unsigned i = 0; i < USERS; i++) {
    users[i] = (struct user){ .throttle = throttle, .seed = i };
    pthread_create (&threads[i], NULL, take_and_give, &users[i]);
  }
  for (unsigned i = 0; i < USERS; i++) {
    pthread_join (threads[i], NULL);
    assert_false (users[i].exceeded);
    assert_false (users[i].refused);
  }
  throttle_free (throttle); /* asserts that all is back */
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (buffers_until_the_limit_then_eagain),
    cmocka_unit_test (sizes_are_powers_of_two),
    cmocka_unit_test (least_limit_is_enough_and_no_less_is),
    cmocka_unit_test (kept_buffers_make_room_for_other_sizes),
    cmocka_unit_test (freed_memory_above_what_is_kept_goes_back),
    cmocka_unit_test (buffer_comes_back_with_its_last_user),
    cmocka_unit_test (waiter_gets_what_is_given_back),
    cmocka_unit_test (nobody_overtakes_a_large_waiter),
    cmocka_unit_test (line_is_served_in_order),
    cmocka_unit_test (who_stood_behind_one_that_gave_up_is_served),
    cmocka_unit_test (last_in_line_can_give_up),
    cmocka_unit_test (waiting_ends_at_the_deadline),
    cmocka_unit_test (wait_with_room_does_not_wait),
    cmocka_unit_test (no_memory_is_enomem_and_gives_the_room_back),
    cmocka_unit_test (limit_holds_and_all_are_served_under_load),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
