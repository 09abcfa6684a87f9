/* SPDX-License-Identifier: BSD-3-Clause */
/* The life of a job:
 *
 *   queued    in the list QUEUE, under the lock
 *   batched   in the array BATCH, sorted by file and offset
 *   begun     part of a write: one engine request for neighbours in BATCH
 *   done      DONE was called, once; the flusher forgets it
 *
 * A write that the kernel cut short goes on where it stopped; EINTR goes
 * again at once, and so does EAGAIN, ENGINE_TRIES times; no progress at all is
 * EIO. If a write of several jobs fails, the jobs it had finished are done, and
 * the others go again each by itself, so that only those fail that cannot be
 * written.
 *
 * Jobs that nobody waits for come one by one, thousands a second.  Waking
 * the thread for each would cost the writer more than the copy, so after
 * such a job the thread naps before it goes on, and finds many.
 *
 * Why a batch is sorted: writers touch neighbouring chunks from different
 * threads, so neighbours arrive near to each other but in no order.
 */

#include "flusher.h"
#include "helpers.h"
#include "report.h"
#include "scoped.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

/* Writes under way at a time.  Enough to keep a disk's queue full; more
 * only makes the wait after a cancel longer.
 */
#define DEPTH 64

/* Jobs sorted together.  A full batch of single chunks fills the depth
 * some times over, sorting it takes well under the time of one write each.
 */
#define BATCH 1024

/* Bytes that one merged write may reach before it takes no more jobs. */
#define WRITE_LIMIT ((size_t)1 << 20)

/* How long the thread naps.  On two cores, 4 KiB first-touch writes over a
 * whole tmpfs device were 4% (io_uring) and 13% (pwritev) faster with half a
 * millisecond than with none, and no faster with two milliseconds; a nap is
 * short beside what fills max-memory.
 */
#define NAP_NS 500000

/* Queued bytes that end a nap: a small part of what max-memory usually is,
 * and as much as a batch needs to be worth its system calls.
 */
#define NAP_BYTES ((size_t)256 << 10)

/* Queued bytes at which helpers join in: single chunks of as much are a full
 * batch, so the thread has one in hand and the next waits.  Far less, and what
 * would have been merged is not: see docs/bench/log.md.
 */
#define BEHIND_BYTES ((size_t)4 << 20)

struct write {
  struct engine_request request; /* first: an engine hands it back */
  struct write *next;            /* among the idle ones */
  struct flush_job *jobs;        /* those not finished, in file order */
  size_t done;                   /* bytes of the first of them */
  unsigned tries;                /* EAGAINs since there was progress */
  size_t bytes;                  /* of all the jobs it had */
};

struct flusher {
  const struct engine_type *type;     /* final once STARTED is true */
  const struct engine_type *fallback; /* set at creation */
  size_t most;                        /* bytes under way; set at creation */
  struct engine *engine;              /* set before STARTED is true, freed
                                         under the lock with ENDED */
  pthread_t thread;

  pthread_mutex_t lock;   /* guards what follows, as far as AWAKE */
  pthread_cond_t changed; /* STARTED or ENDED became true */
  bool started, ended;
  atomic_bool stopping; /* read without the lock, too */
  bool helpers_ended;
  int start_error;
  bool asleep; /* the thread waits in the engine, or is about to */
  struct flush_job *queue;
  struct flush_job **queue_end;
  _Atomic size_t queued; /* bytes that came since the queue was empty; read
                            without the lock, too */
  bool hurry;            /* no time to nap */
  pthread_cond_t awake;  /* HURRY became true */

  bool running;            /* of who starts and stops it */
  struct helpers *helpers; /* set before STARTED is true; or NULL */

  /* The thread's own. */
  bool stop_seen, napped;
  bool helpers_asked; /* to stop */
  unsigned urgent;    /* jobs that someone waits for, taken and not done */
  struct flush_job *batch[BATCH];
  unsigned batch_next, batch_count;
  struct flush_job *alone; /* to go again by themselves */
  struct write writes[DEPTH];
  struct write *idle;
  unsigned under_way;
  size_t under_way_bytes; /* as the writes were when they began */
};

struct flusher *
flusher_create (const struct engine_type *type,
                const struct engine_type *fallback, size_t most)
{
  struct flusher *flusher = calloc (1, sizeof *flusher);
  pthread_condattr_t attr;

  if (flusher == NULL)
    return NULL;
  flusher->type = type;
  flusher->fallback = fallback;
  flusher->most = type->write != NULL ? most / 2 : most;
  pthread_mutex_init (&flusher->lock, NULL);
  pthread_condattr_init (&attr);
  pthread_condattr_setclock (&attr, CLOCK_MONOTONIC);
  pthread_cond_init (&flusher->changed, &attr);
  pthread_cond_init (&flusher->awake, &attr);
  pthread_condattr_destroy (&attr);
  flusher->queue_end = &flusher->queue;
  for (unsigned i = 0; i < DEPTH; i++) {
    flusher->writes[i].next = flusher->idle;
    flusher->idle = &flusher->writes[i];
  }
  return flusher;
}

void
flusher_free (struct flusher *flusher)
{
  if (flusher == NULL)
    return;
  assert (!flusher->running);
  helpers_free (flusher->helpers);
  pthread_cond_destroy (&flusher->changed);
  pthread_cond_destroy (&flusher->awake);
  pthread_mutex_destroy (&flusher->lock);
  free (flusher);
}

/* Give the helpers, of what they may do, what someone waits for and, when the
 * flusher is behind, all.  Returns what is left.
 */
static struct flush_job *
hand_out (struct flusher *flusher, struct flush_job *jobs)
{
  const bool behind
      = atomic_load_explicit (&flusher->queued, memory_order_relaxed)
        >= BEHIND_BYTES;
  struct flush_job **at = &jobs;

  while (*at != NULL) {
    struct flush_job *job = *at;
    struct flush_job *next = job->next;

    if (job->anywhere && (job->urgent || behind)
        && helpers_submit (flusher->helpers, job))
      *at = next;
    else
      at = &job->next;
  }
  return jobs;
}

void
flusher_submit (struct flusher *flusher, struct flush_job *jobs)
{
  size_t bytes = 0;
  bool urgent = false;

  /* Who asks to stop finds all that comes later in the queue. */
  if (flusher->helpers != NULL && !atomic_load (&flusher->stopping))
    jobs = hand_out (flusher, jobs);
  struct flush_job **end = &jobs;
  if (jobs == NULL)
    return;
  while (*end != NULL) {
    bytes += (*end)->length;
    urgent |= (*end)->urgent;
    end = &(*end)->next;
  }
  {
    SCOPED_LOCK (&flusher->lock);
    *flusher->queue_end = jobs;
    flusher->queue_end = end;
    flusher->queued += bytes;
    if (!flusher->hurry && (urgent || flusher->queued >= NAP_BYTES)) {
      flusher->hurry = true;
      pthread_cond_signal (&flusher->awake);
    }
    /* Under the lock: the engine is freed under it. */
    if (flusher->asleep)
      flusher->type->wake (flusher->engine);
    flusher->asleep = false;
  }
}

/* Let jobs gather, unless someone waits for them. */
static void
nap (struct flusher *flusher)
{
  struct timespec deadline;
  int err = 0;

  clock_gettime (CLOCK_MONOTONIC, &deadline);
  deadline.tv_nsec += NAP_NS;
  if (deadline.tv_nsec >= 1000000000) {
    deadline.tv_nsec -= 1000000000;
    deadline.tv_sec++;
  }
  SCOPED_LOCK (&flusher->lock);
  flusher->asleep = false;
  while (!flusher->hurry && !flusher->stopping && err == 0)
    err = pthread_cond_timedwait (&flusher->awake, &flusher->lock, &deadline);
}

/* By file, then by offset. */
static int
compare_jobs (const void *a, const void *b)
{
  const struct flush_job *x = *(struct flush_job *const *)a;
  const struct flush_job *y = *(struct flush_job *const *)b;

  if (x->fd != y->fd)
    return x->fd < y->fd ? -1 : 1;
  return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* A job ends: its owner may free it. */
static void
finish (struct flusher *flusher, struct flush_job *job, int error)
{
  flusher->urgent -= job->urgent;
  job->done (job, error);
}

/* The helpers have nothing under way any more, nor will they. */
static void
helpers_have_ended (void *arg)
{
  struct flusher *flusher = arg;

  SCOPED_LOCK (&flusher->lock);
  flusher->helpers_ended = true;
  flusher->asleep = false;
  flusher->type->wake (flusher->engine);
}

static void
stop_helpers (struct flusher *flusher)
{
  flusher->helpers_asked = true;
  if (flusher->helpers == NULL || helpers_stop (flusher->helpers)) {
    SCOPED_LOCK (&flusher->lock);
    flusher->helpers_ended = true;
  }
}

/* All that had begun has ended, and no more will begin. */
static bool
has_stopped (struct flusher *flusher)
{
  if (!flusher->stop_seen || flusher->under_way > 0)
    return false;
  SCOPED_LOCK (&flusher->lock);
  return flusher->helpers_ended && flusher->queue == NULL;
}

/* Take up to a batch of jobs from the queue; the batch before is used up.
 * False if there are none: then the thread counts as asleep.  Once the
 * flusher stops they end here.
 */
static bool
fill_batch (struct flusher *flusher)
{
  assert (flusher->batch_next == flusher->batch_count);
  flusher->batch_next = flusher->batch_count = 0;
  {
    SCOPED_LOCK (&flusher->lock);
    while (flusher->queue != NULL && flusher->batch_count < BATCH) {
      struct flush_job *job = flusher->queue;
      flusher->queue = job->next;
      job->next = NULL;
      flusher->urgent += job->urgent;
      flusher->batch[flusher->batch_count++] = job;
    }
    if (flusher->queue == NULL) {
      flusher->queue_end = &flusher->queue;
      flusher->queued = 0;
      flusher->hurry = false;
    }
    flusher->stop_seen = flusher->stopping;
    flusher->asleep = flusher->batch_count == 0;
  }
  if (flusher->stop_seen && !flusher->helpers_asked)
    stop_helpers (flusher);
  if (flusher->stop_seen)
    while (flusher->batch_next < flusher->batch_count) {
      struct flush_job *job = flusher->batch[flusher->batch_next++];
      finish (flusher, job, ECANCELED);
    }
  else
    qsort (flusher->batch, flusher->batch_count, sizeof flusher->batch[0],
           compare_jobs);
  return flusher->batch_count > 0;
}

/* Describe what is left of a write's jobs to the engine, and begin it. */
static void
begin (struct flusher *flusher, struct write *write)
{
  struct engine_request *request = &write->request;
  size_t skip = write->done;

  request->fd = write->jobs->fd;
  request->offset = write->jobs->offset + skip;
  request->segments = 0;
  for (struct flush_job *job = write->jobs; job != NULL && !job->sync;
       job = job->next) {
    /* iovec has no const; writing does not change the data. */
    request->segment[request->segments++]
        = (struct iovec){ .iov_base = (uint8_t *)(uintptr_t)job->data + skip,
                          .iov_len = job->length - skip };
    skip = 0;
  }
  flusher->type->submit (flusher->engine, request);
}

/* Jobs that need nothing of the engine end here. */
static bool
ended_early (struct flusher *flusher, struct flush_job *job)
{
  const bool call = job->length == 0 && !job->sync;

  if (!call && !atomic_load (job->cancelled))
    return false;
  finish (flusher, job, call ? 0 : ECANCELED);
  return true;
}

/* A write to use, if there is one and not too much is under way. */
static bool
may_begin (const struct flusher *flusher)
{
  return flusher->idle != NULL
         && (flusher->under_way == 0
             || flusher->under_way_bytes < flusher->most);
}

static struct write *
take_idle (struct flusher *flusher, struct flush_job *job)
{
  struct write *write = flusher->idle;

  flusher->idle = write->next;
  flusher->under_way++;
  write->jobs = job;
  write->done = 0;
  write->tries = 0;
  return write;
}

static void
count_bytes (struct flusher *flusher, struct write *write, size_t bytes)
{
  write->bytes = bytes;
  flusher->under_way_bytes += bytes;
}

/* Begin as many writes as the depth allows: first the jobs that go alone,
 * then the batch, neighbours together.
 */
static void
begin_writes (struct flusher *flusher)
{
  while (may_begin (flusher) && flusher->alone != NULL) {
    struct flush_job *job = flusher->alone;
    flusher->alone = job->next;
    job->next = NULL;
    if (ended_early (flusher, job))
      continue;
    struct write *write = take_idle (flusher, job);
    count_bytes (flusher, write, job->length);
    begin (flusher, write);
  }

  while (may_begin (flusher) && flusher->batch_next < flusher->batch_count) {
    struct flush_job *job = flusher->batch[flusher->batch_next++];
    if (ended_early (flusher, job))
      continue;
    struct write *write = take_idle (flusher, job);
    size_t length = job->length;
    unsigned segments = 1;
    while (!job->sync && flusher->batch_next < flusher->batch_count
           && segments < ENGINE_SEGMENTS && length < WRITE_LIMIT
           && flusher->under_way_bytes + length < flusher->most) {
      struct flush_job *next = flusher->batch[flusher->batch_next];
      if (next->fd != job->fd || next->offset != job->offset + job->length
          || next->length == 0)
        break;
      job->next = next;
      job = next;
      length += job->length;
      segments++;
      flusher->batch_next++;
    }
    count_bytes (flusher, write, length);
    begin (flusher, write);
  }
}

/* End what waits to begin, if that has been cancelled: all that a store
 * that hangs keeps from beginning holds memory.
 */
static void
end_cancelled (struct flusher *flusher)
{
  while (flusher->alone != NULL) {
    struct flush_job *job = flusher->alone;
    struct flush_job *next = job->next;
    if (!ended_early (flusher, job))
      break;
    flusher->alone = next;
  }
  while (flusher->batch_next < flusher->batch_count
         && ended_early (flusher, flusher->batch[flusher->batch_next]))
    flusher->batch_next++;
  if (flusher->helpers != NULL)
    helpers_end_cancelled (flusher->helpers);
}

/* Take BYTES more off a write's jobs; the finished ones are done. */
static void
advance (struct flusher *flusher, struct write *write, size_t bytes)
{
  write->done += bytes;
  while (write->jobs != NULL && write->done >= write->jobs->length) {
    struct flush_job *job = write->jobs;
    write->done -= job->length;
    write->jobs = job->next;
    job->next = NULL;
    finish (flusher, job, 0);
  }
}

/* The engine is done with a write: see how far it came. */
static void
complete (struct flusher *flusher, struct write *write)
{
  int64_t result = write->request.result;
  struct flush_job *jobs;

  if (result > 0) {
    advance (flusher, write, (size_t)result);
    write->tries = 0;
  }
  if (result == -EAGAIN && ++write->tries > ENGINE_TRIES)
    result = -EIO;
  if (result == 0 && write->jobs->sync) {
    finish (flusher, write->jobs, 0);
    write->jobs = NULL;
  }
  if (write->jobs != NULL
      && (result > 0 || result == -EINTR || result == -EAGAIN)) {
    begin (flusher, write);
    return;
  }

  jobs = write->jobs;
  write->jobs = NULL;
  write->next = flusher->idle;
  flusher->idle = write;
  flusher->under_way--;
  flusher->under_way_bytes -= write->bytes;
  if (jobs == NULL)
    return;
  if (jobs->next == NULL) {
    finish (flusher, jobs, result == 0 ? EIO : (int)-result);
    return;
  }
  struct flush_job **end = &jobs;
  while (*end != NULL)
    end = &(*end)->next;
  *end = flusher->alone;
  flusher->alone = jobs;
}

/* The fallback is for good, not for one run: the refusal comes from the
 * kernel's or the container's settings.
 */
static int
make_engine (struct flusher *flusher)
{
  flusher->engine = flusher->type->create (DEPTH);
  if (flusher->engine == NULL && flusher->fallback != NULL) {
    nbdkit_debug ("fssnap: io=%s is refused here (%m), using io=%s",
                  flusher->type->name, flusher->fallback->name);
    flusher->type = flusher->fallback;
    flusher->engine = flusher->type->create (DEPTH);
  }
  if (flusher->engine == NULL)
    return errno;
  if (flusher->type->write == NULL)
    return 0;
  flusher->helpers = helpers_create (flusher->type->write, flusher->most,
                                     helpers_have_ended, flusher);
  if (flusher->helpers != NULL)
    return 0;
  const int err = errno;
  flusher->type->free (flusher->engine);
  return err;
}

static void *
run (void *arg)
{
  struct flusher *flusher = arg;
  const int error = make_engine (flusher);

  {
    SCOPED_LOCK (&flusher->lock);
    flusher->started = true;
    flusher->start_error = error;
    pthread_cond_signal (&flusher->changed);
  }
  if (error != 0)
    return NULL;

  for (;;) {
    begin_writes (flusher);
    end_cancelled (flusher);
    /* Look for more before waiting, also when no more may begin: what hangs
     * must not hold up what comes after and needs no write.
     */
    if (flusher->batch_next == flusher->batch_count && fill_batch (flusher))
      continue;
    if (has_stopped (flusher))
      break;
    if (flusher->under_way > 0 && flusher->urgent == 0 && !flusher->napped) {
      flusher->napped = true;
      nap (flusher);
      continue;
    }
    flusher->napped = false;
    /* What waits to begin may be cancelled from here on: whoever does that
     * wakes the engine, or did it before and this finds it.
     */
    if (flusher->batch_next < flusher->batch_count) {
      {
        SCOPED_LOCK (&flusher->lock);
        flusher->asleep = true;
      }
      end_cancelled (flusher);
      if (flusher->batch_next == flusher->batch_count)
        continue;
    }
    struct engine_request *done = flusher->type->reap (flusher->engine);
    if (done != NULL) {
      /* What they lead to may queue more: no need to be woken for that. */
      SCOPED_LOCK (&flusher->lock);
      flusher->asleep = false;
    }
    while (done != NULL) {
      struct engine_request *next = done->next;
      complete (flusher, (struct write *)done);
      done = next;
    }
  }
  {
    SCOPED_LOCK (&flusher->lock);
    flusher->ended = true;
    flusher->asleep = false; /* nobody to wake any more */
    flusher->type->free (flusher->engine);
    pthread_cond_signal (&flusher->changed);
  }
  return NULL;
}

int
flusher_start (struct flusher *flusher)
{
  const int err = pthread_create (&flusher->thread, NULL, run, flusher);

  if (err != 0) {
    errno = err;
    report_error ("fssnap: cannot start the flusher's thread: %m");
    return -1;
  }
  pthread_mutex_lock (&flusher->lock);
  while (!flusher->started)
    pthread_cond_wait (&flusher->changed, &flusher->lock);
  pthread_mutex_unlock (&flusher->lock);
  if (flusher->start_error != 0) {
    pthread_join (flusher->thread, NULL);
    errno = flusher->start_error;
    report_error ("fssnap: io=%s is refused here: %m", flusher->type->name);
    return -1;
  }
  flusher->running = true;
  return 0;
}

void
flusher_ask_to_stop (struct flusher *flusher)
{
  if (!flusher->running)
    return;
  SCOPED_LOCK (&flusher->lock);
  flusher->stopping = true;
  flusher->asleep = false;
  pthread_cond_signal (&flusher->awake);
  if (!flusher->ended)
    flusher->type->wake (flusher->engine);
}

int
flusher_await_stop (struct flusher *flusher, const struct timespec *deadline)
{
  int err = 0;

  if (!flusher->running)
    return 0;
  pthread_mutex_lock (&flusher->lock);
  while (!flusher->ended && err == 0)
    err = pthread_cond_timedwait (&flusher->changed, &flusher->lock, deadline);
  const bool ended = flusher->ended;
  pthread_mutex_unlock (&flusher->lock);
  if (!ended)
    return -1;
  pthread_join (flusher->thread, NULL);
  flusher->running = false;
  return 0;
}

int
flusher_stop (struct flusher *flusher, unsigned timeout)
{
  struct timespec deadline;

  clock_gettime (CLOCK_MONOTONIC, &deadline);
  deadline.tv_sec += timeout;
  flusher_ask_to_stop (flusher);
  return flusher_await_stop (flusher, &deadline);
}
