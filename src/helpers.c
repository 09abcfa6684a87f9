/* SPDX-License-Identifier: BSD-3-Clause */
/* A helper may hang in a write for as long as the store does.  So it never has
 * more in its hands than the one job it writes: the queue belongs to all, and
 * the flusher's thread, which does not hang, ends what is cancelled in it.
 *
 * The threads are joined, not detached: nbdkit unloads the plugin when it
 * ends, and with it the code that a thread leaves by.  One that had nothing to
 * do for a while is joined when its slot is needed again, or at the end.
 */

#include "helpers.h"
#include "scoped.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Threads at most.  With 16 threads of nbdkit that wait and 4 processors, two
 * to six make no difference (docs/bench/log.md).
 */
#define HELPERS_MAX 4

/* How long a thread with nothing to do stays: longer than the pauses of a busy
 * origin.  Seconds.
 */
#define IDLE_TIME 2

enum slot { SLOT_FREE, SLOT_RUNNING, SLOT_ENDED };

struct helper {
  struct helpers *helpers; /* set before the thread starts */
  pthread_t thread;        /* under the lock, unless the slot is free */
  sem_t work;              /* JOB was given to it, or it is to stop */
  enum slot slot;          /* under the lock, as is what follows */
  struct helper *next;     /* among the idle ones */
  struct flush_job *job;   /* or NULL */
};

struct helpers {
  engine_write *write; /* set at creation, as is what follows */
  size_t most;
  void (*ended) (void *arg);
  void *arg;

  pthread_mutex_t lock; /* guards what follows */
  struct flush_job *queue, **queue_end;
  unsigned running;    /* threads */
  struct helper *idle; /* those that wait for work, the last to do so first */
  unsigned under_way;  /* jobs that are being written */
  size_t under_way_bytes;
  bool stopping;
  struct helper helper[HELPERS_MAX];
};

struct helpers *
helpers_create (engine_write *write, size_t most, void (*ended) (void *arg),
                void *arg)
{
  struct helpers *helpers = calloc (1, sizeof *helpers);
  pthread_mutexattr_t attr;

  if (helpers == NULL)
    return NULL;
  helpers->write = write;
  helpers->most = most;
  helpers->ended = ended;
  helpers->arg = arg;
  helpers->queue_end = &helpers->queue;
  /* Held for moments by many threads: those who want it spin. */
  pthread_mutexattr_init (&attr);
  pthread_mutexattr_settype (&attr, PTHREAD_MUTEX_ADAPTIVE_NP);
  pthread_mutex_init (&helpers->lock, &attr);
  pthread_mutexattr_destroy (&attr);
  for (unsigned i = 0; i < HELPERS_MAX; i++)
    sem_init (&helpers->helper[i].work, 0, 0);
  return helpers;
}

void
helpers_free (struct helpers *helpers)
{
  if (helpers == NULL)
    return;
  assert (helpers->running == 0 && helpers->queue == NULL);
  for (unsigned i = 0; i < HELPERS_MAX; i++) {
    if (helpers->helper[i].slot == SLOT_ENDED)
      pthread_join (helpers->helper[i].thread, NULL);
    sem_destroy (&helpers->helper[i].work);
  }
  pthread_mutex_destroy (&helpers->lock);
  free (helpers);
}

/* Write all of a job.  0 or an errno. */
static int
write_all (const struct helpers *helpers, const struct flush_job *job)
{
  /* iovec has no const; writing does not change the data. */
  struct iovec rest
      = { .iov_base = (void *)(uintptr_t)job->data, .iov_len = job->length };
  unsigned tries = 0;

  while (rest.iov_len > 0) {
    const int64_t r = helpers->write (job->fd, &rest, 1,
                                      job->offset + job->length - rest.iov_len);
    if (r == 0 || (r == -EAGAIN && ++tries > ENGINE_TRIES))
      return EIO;
    if (r < 0 && r != -EINTR && r != -EAGAIN)
      return (int)-r;
    if (r < 0)
      continue;
    tries = 0;
    rest.iov_base = (uint8_t *)rest.iov_base + r;
    rest.iov_len -= (size_t)r;
  }
  return 0;
}

/* The lock is held, here and in the functions below up to "run". */

static bool
may_begin (const struct helpers *helpers)
{
  return helpers->under_way == 0 || helpers->under_way_bytes < helpers->most;
}

static void
begin (struct helpers *helpers, const struct flush_job *job)
{
  helpers->under_way++;
  helpers->under_way_bytes += job->length;
}

/* The first of the queue, if it may begin. */
static struct flush_job *
take (struct helpers *helpers)
{
  struct flush_job *job = helpers->queue;

  if (job == NULL || !may_begin (helpers))
    return NULL;
  helpers->queue = job->next;
  if (helpers->queue == NULL)
    helpers->queue_end = &helpers->queue;
  job->next = NULL;
  begin (helpers, job);
  return job;
}

static void
leave_idle (struct helper *helper)
{
  struct helper **at = &helper->helpers->idle;

  while (*at != NULL && *at != helper)
    at = &(*at)->next;
  if (*at != NULL)
    *at = helper->next;
}

/* Wait to be given a job.  NULL: there was none for too long, or there will be
 * none.
 */
static struct flush_job *
wait_for_job (struct helper *helper)
{
  struct helpers *helpers = helper->helpers;
  struct timespec deadline;
  bool late = false;

  clock_gettime (CLOCK_MONOTONIC, &deadline);
  deadline.tv_sec += IDLE_TIME;
  helper->next = helpers->idle;
  helpers->idle = helper;
  while (helper->job == NULL && !helpers->stopping && !late) {
    pthread_mutex_unlock (&helpers->lock);
    late = sem_clockwait (&helper->work, CLOCK_MONOTONIC, &deadline) == -1
           && errno == ETIMEDOUT;
    pthread_mutex_lock (&helpers->lock);
  }
  struct flush_job *job = helper->job;
  helper->job = NULL;
  if (job == NULL)
    leave_idle (helper);
  return job;
}

static void *
run (void *arg)
{
  struct helper *helper = arg;
  struct helpers *helpers = helper->helpers;

  pthread_mutex_lock (&helpers->lock);
  for (;;) {
    struct flush_job *job = helper->job;
    helper->job = NULL;
    if (job == NULL)
      job = take (helpers);
    if (job == NULL && !helpers->stopping)
      job = wait_for_job (helper);
    if (job == NULL)
      break;
    const size_t length = job->length;
    pthread_mutex_unlock (&helpers->lock);
    const int error
        = atomic_load (job->cancelled) ? ECANCELED : write_all (helpers, job);
    job->done (job, error);
    pthread_mutex_lock (&helpers->lock);
    helpers->under_way--;
    helpers->under_way_bytes -= length;
  }
  helper->slot = SLOT_ENDED;
  const bool last = --helpers->running == 0 && helpers->stopping;
  pthread_mutex_unlock (&helpers->lock);
  if (last)
    helpers->ended (helpers->arg);
  return NULL;
}

/* Give JOB to a thread that is started for it.  False: there may be no more. */
static bool
start (struct helpers *helpers, struct flush_job *job)
{
  struct helper *helper = helpers->helper;

  while (helper->slot == SLOT_RUNNING)
    if (++helper == helpers->helper + HELPERS_MAX)
      return false;
  if (helper->slot == SLOT_ENDED)
    pthread_join (helper->thread, NULL); /* it is on its way out */
  helper->helpers = helpers;
  helper->job = job;
  if (pthread_create (&helper->thread, NULL, run, helper) != 0) {
    helper->slot = SLOT_FREE;
    helper->job = NULL;
    return false;
  }
  helper->slot = SLOT_RUNNING;
  helpers->running++;
  return true;
}

bool
helpers_submit (struct helpers *helpers, struct flush_job *job)
{
  struct helper *helper = NULL;
  {
    SCOPED_LOCK (&helpers->lock);
    /* Who cancels does so before he takes the lock, in the function below. */
    if (helpers->stopping || atomic_load (job->cancelled))
      return false;
    if (may_begin (helpers) && helpers->queue == NULL) {
      helper = helpers->idle;
      job->next = NULL;
      if (helper != NULL) {
        helpers->idle = helper->next;
        helper->job = job;
      }
      if (helper != NULL || start (helpers, job)) {
        begin (helpers, job);
        job = NULL;
      }
      else if (helpers->running == 0)
        return false;
    }
    if (job != NULL) {
      job->next = NULL;
      *helpers->queue_end = job;
      helpers->queue_end = &job->next;
    }
  }
  if (helper != NULL)
    sem_post (&helper->work);
  return true;
}

/* Take all out of the queue.  The lock is held. */
static struct flush_job *
take_out (struct helpers *helpers)
{
  struct flush_job *jobs = helpers->queue;

  helpers->queue = NULL;
  helpers->queue_end = &helpers->queue;
  return jobs;
}

static void
fail_all (struct flush_job *jobs)
{
  while (jobs != NULL) {
    struct flush_job *next = jobs->next;
    jobs->next = NULL;
    jobs->done (jobs, ECANCELED);
    jobs = next;
  }
}

void
helpers_end_cancelled (struct helpers *helpers)
{
  struct flush_job *jobs = NULL;
  {
    SCOPED_LOCK (&helpers->lock);
    /* Jobs are cancelled together: they are of one snapshot. */
    if (helpers->queue != NULL && atomic_load (helpers->queue->cancelled))
      jobs = take_out (helpers);
  }
  fail_all (jobs);
}

bool
helpers_stop (struct helpers *helpers)
{
  struct flush_job *jobs;
  bool ended;
  {
    SCOPED_LOCK (&helpers->lock);
    helpers->stopping = true;
    ended = helpers->running == 0;
    jobs = take_out (helpers);
    for (struct helper *h = helpers->idle; h != NULL; h = h->next)
      sem_post (&h->work);
  }
  fail_all (jobs);
  return ended;
}
