/* SPDX-License-Identifier: BSD-3-Clause */

#include "call-hook.h"
#include "cmocka-all.h"
#include "helpers.h"
#include "nbdkit-stub.h"
#include "scoped.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <string.h>

#define PIECE 4096
#define JOBS 64

/* As many writes begin at a time. */
#define THREADS 4

struct job {
  struct flush_job job;
  sem_t ended;
  unsigned times; /* DONE was called */
  int error;      /* and with what */
  uint8_t data[PIECE];
};

static struct {
  struct helpers *helpers;
  atomic_bool cancelled;
  sem_t ended; /* the helpers have */
  struct job jobs[JOBS];

  pthread_mutex_t lock;   /* guards what follows */
  pthread_cond_t changed; /* COUNT grew, or HANG became false */
  const int64_t *answers; /* of the writes in turn, 0 to write all ... */
  unsigned count, answered;
  bool hang; /* do not end */
  uint8_t file[JOBS * PIECE];
} here = { .lock = PTHREAD_MUTEX_INITIALIZER,
           .changed = PTHREAD_COND_INITIALIZER };

/* What is left to be written of the file, with every write. */
#define ALL INT64_MAX

static int64_t
fake_write (int fd, const struct iovec *segment, unsigned segments,
            uint64_t offset)
{
  assert_int_equal (fd, 7);
  assert_int_equal (segments, 1);
  SCOPED_LOCK (&here.lock);
  const unsigned turn = here.count++;
  int64_t answer = turn < here.answered ? here.answers[turn] : ALL;

  call_hook_off = true;
  pthread_cond_broadcast (&here.changed);
  while (here.hang)
    pthread_cond_wait (&here.changed, &here.lock);
  call_hook_off = false;
  if (answer > (int64_t)segment->iov_len)
    answer = (int64_t)segment->iov_len;
  if (answer > 0)
    memcpy (here.file + offset, segment->iov_base, (size_t)answer);
  return answer;
}

/* Wait until COUNT writes have begun. */
static void
wait_for_writes (unsigned count)
{
  SCOPED_LOCK (&here.lock);
  while (here.count < count)
    pthread_cond_wait (&here.changed, &here.lock);
}

static void
hang (bool on)
{
  SCOPED_LOCK (&here.lock);
  here.hang = on;
  pthread_cond_broadcast (&here.changed);
}

static unsigned
writes (void)
{
  SCOPED_LOCK (&here.lock);
  return here.count;
}

static void
done (struct flush_job *flush_job, int error)
{
  struct job *job = (struct job *)flush_job;

  job->times++;
  job->error = error;
  sem_post (&job->ended);
}

static void
ended (void *arg)
{
  sem_post (arg);
}

static int
begin (size_t most)
{
  here.helpers = helpers_create (fake_write, most, ended, &here.ended);
  sem_init (&here.ended, 0, 0);
  atomic_store (&here.cancelled, false);
  memset (here.file, 0, sizeof here.file);
  here.count = here.answered = 0;
  here.hang = false;
  for (unsigned i = 0; i < JOBS; i++) {
    struct job *job = &here.jobs[i];
    *job = (struct job){ .job = { .fd = 7,
                                  .offset = i * (uint64_t)PIECE,
                                  .data = job->data,
                                  .length = PIECE,
                                  .anywhere = true,
                                  .cancelled = &here.cancelled,
                                  .done = done } };
    sem_init (&job->ended, 0, 0);
    memset (job->data, (int)i + 1, PIECE);
  }
  return here.helpers == NULL ? -1 : 0;
}

static int
setup (void **state)
{
  (void)state;
  messages_clear ();
  return begin (SIZE_MAX);
}

static int
setup_two_at_a_time (void **state)
{
  (void)state;
  return begin ((size_t)2 * PIECE);
}

static int
teardown (void **state)
{
  (void)state;
  call_hook_set (NULL);
  hang (false);
  if (!helpers_stop (here.helpers))
    sem_wait (&here.ended);
  helpers_free (here.helpers);
  return 0;
}

static void
submit (unsigned first, unsigned count)
{
  for (unsigned i = first; i < first + count; i++)
    assert_true (helpers_submit (here.helpers, &here.jobs[i].job));
}

/* They end once, with ERROR; and if that is 0, are written. */
static void
expect (unsigned first, unsigned count, int error)
{
  for (unsigned i = first; i < first + count; i++) {
    struct job *job = &here.jobs[i];
    sem_wait (&job->ended);
    assert_int_equal (job->times, 1);
    assert_int_equal (job->error, error);
    if (error == 0)
      assert_memory_equal (here.file + job->job.offset, job->data, PIECE);
  }
}

static void
answer (const int64_t *answers, unsigned count)
{
  here.answers = answers;
  here.answered = count;
}

static void
jobs_are_written (void **state)
{
  (void)state;
  submit (0, JOBS);
  expect (0, JOBS, 0);
  assert_int_equal (writes (), JOBS);
}

static void
what_was_cut_short_goes_on (void **state)
{
  static const int64_t answers[] = { 1, -EINTR, 4000, -EAGAIN, 50, ALL };

  (void)state;
  answer (answers, 6);
  submit (0, 1);
  expect (0, 1, 0);
  assert_int_equal (writes (), 6);
}

static void
errors_are_the_jobs_own (void **state)
{
  static const int64_t answers[] = { -ENOSPC, 0, ALL };

  (void)state;
  answer (answers, 3);
  submit (0, 1);
  expect (0, 1, ENOSPC);
  submit (1, 1);
  expect (1, 1, EIO);
  submit (2, 1);
  expect (2, 1, 0);
}

static void
eagain_is_not_repeated_for_ever (void **state)
{
  static int64_t answers[1000];

  (void)state;
  for (unsigned i = 0; i < 1000; i++)
    answers[i] = -EAGAIN;
  answer (answers, 1000);
  submit (0, 1);
  expect (0, 1, EIO);
  assert_in_range (writes (), 2, 999);
}

static void
what_waits_begins_when_a_thread_is_free (void **state)
{
  (void)state;
  hang (true);
  submit (0, JOBS);
  wait_for_writes (THREADS);
  assert_int_equal (writes (), THREADS);
  hang (false);
  expect (0, JOBS, 0);
}

static void
no_more_begin_than_may_be_under_way (void **state)
{
  (void)state;
  hang (true);
  submit (0, 3);
  wait_for_writes (2);
  /* The third would begin now; and this one with it. */
  submit (3, 1);
  assert_int_equal (writes (), 2);
  hang (false);
  expect (0, 4, 0);
}

static void
large_one_begins_alone (void **state)
{
  (void)state;
  teardown (state);
  begin (1);
  submit (0, 3);
  expect (0, 3, 0);
}

static void
what_is_cancelled_ends_while_others_hang (void **state)
{
  (void)state;
  hang (true);
  submit (0, THREADS + 3);
  wait_for_writes (THREADS);
  atomic_store (&here.cancelled, true);
  helpers_end_cancelled (here.helpers);
  expect (THREADS, 3, ECANCELED);
  assert_false (helpers_submit (here.helpers, &here.jobs[JOBS - 1].job));
  hang (false);
  expect (0, THREADS, 0);
}

static void
what_is_not_cancelled_stays (void **state)
{
  (void)state;
  hang (true);
  submit (0, THREADS + 3);
  wait_for_writes (THREADS);
  helpers_end_cancelled (here.helpers);
  hang (false);
  expect (0, THREADS + 3, 0);
}

static void
stop_waits_for_what_has_begun (void **state)
{
  (void)state;
  hang (true);
  submit (0, THREADS + 3);
  wait_for_writes (THREADS);
  assert_false (helpers_stop (here.helpers));
  expect (THREADS, 3, ECANCELED);
  assert_false (helpers_submit (here.helpers, &here.jobs[JOBS - 1].job));
  assert_int_equal (sem_trywait (&here.ended), -1);
  hang (false);
  expect (0, THREADS, 0);
  sem_wait (&here.ended);
  assert_true (helpers_stop (here.helpers));
}

static void
without_threads_stop_is_at_once (void **state)
{
  (void)state;
  assert_true (helpers_stop (here.helpers));
}

/* Nobody waits longer than this. */
static sem_t late;

static struct call_verdict
is_late (const struct call_event *event)
{
  if (event->call != CALL_WAIT)
    return (struct call_verdict){ 0 };
  sem_post (&late);
  return (struct call_verdict){ .error = ETIMEDOUT };
}

static void
threads_that_ended_are_replaced (void **state)
{
  (void)state;
  sem_init (&late, 0, 0);
  call_hook_set (is_late);
  for (unsigned i = 0; i < JOBS; i++) {
    submit (i, 1);
    expect (i, 1, 0);
    sem_wait (&late);
  }
  sem_destroy (&late);
}

int
main (void)
{
#define TEST(name) cmocka_unit_test_setup_teardown (name, setup, teardown)
  const struct CMUnitTest tests[] = {
    TEST (jobs_are_written),
    TEST (what_was_cut_short_goes_on),
    TEST (errors_are_the_jobs_own),
    TEST (eagain_is_not_repeated_for_ever),
    TEST (what_waits_begins_when_a_thread_is_free),
    cmocka_unit_test_setup_teardown (no_more_begin_than_may_be_under_way,
                                     setup_two_at_a_time, teardown),
    TEST (large_one_begins_alone),
    TEST (what_is_cancelled_ends_while_others_hang),
    TEST (what_is_not_cancelled_stays),
    TEST (stop_waits_for_what_has_begun),
    TEST (without_threads_stop_is_at_once),
    TEST (threads_that_ended_are_replaced),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
