/* SPDX-License-Identifier: BSD-3-Clause */

#include "fake-engine.h"
#include "call-hook.h"
#include "scoped.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

/* As many as a test has snapshots at a time. */
#define ENGINES_MAX 64

struct engine {
  pthread_cond_t reapable;
  bool exists; /* under the lock of FAKE, as is what follows */
  bool woken;
  struct engine_request *done, *hanging;
};

static struct {
  pthread_mutex_t lock; /* guards all */
  pthread_cond_t submitted;
  fake_answer answer;
  bool gone, misused;
  unsigned count;
  struct fake_write writes[FAKE_WRITES_MAX];
  struct engine_request *hanging[FAKE_WRITES_MAX]; /* by index */
  struct engine engines[ENGINES_MAX];
} fake = { .lock = PTHREAD_MUTEX_INITIALIZER,
           .submitted = PTHREAD_COND_INITIALIZER };

/* Write the first COUNT bytes. */
static int64_t
do_write (const struct engine_request *request, uint64_t count)
{
  uint64_t done = 0;

  call_hook_off = true;
  for (unsigned i = 0; i < request->segments && done < count; i++) {
    size_t n = request->segment[i].iov_len;
    if (n > count - done)
      n = count - done;
    if (pwrite (request->fd, request->segment[i].iov_base, n,
                (off_t)(request->offset + done))
        != (ssize_t)n)
      break;
    done += n;
  }
  call_hook_off = false;
  return (int64_t)done;
}

static struct engine *
fake_create (unsigned depth)
{
  struct engine *engine = fake.engines;

  (void)depth;
  SCOPED_LOCK (&fake.lock);
  while (engine->exists)
    engine++;
  assert (engine < fake.engines + ENGINES_MAX);
  *engine
      = (struct engine){ .reapable = PTHREAD_COND_INITIALIZER, .exists = true };
  return engine;
}

static void
fake_free (struct engine *engine)
{
  SCOPED_LOCK (&fake.lock);
  assert (engine->done == NULL && engine->hanging == NULL);
  engine->exists = false;
  pthread_cond_broadcast (&fake.submitted);
}

static void
fake_submit (struct engine *engine, struct engine_request *request)
{
  size_t length = 0;

  for (unsigned i = 0; i < request->segments; i++)
    length += request->segment[i].iov_len;

  SCOPED_LOCK (&fake.lock);
  const unsigned index = fake.count++;
  if (index < FAKE_WRITES_MAX)
    fake.writes[index] = (struct fake_write){ request->fd, request->offset,
                                              length, request->segments };
  request->result
      = fake.answer != NULL ? fake.answer (request, length, index) : FAKE_WRITE;
  if (request->result == FAKE_HANG && !fake.gone) {
    request->next = engine->hanging;
    engine->hanging = request;
    if (index < FAKE_WRITES_MAX)
      fake.hanging[index] = request;
  }
  else {
    if (request->result > 0)
      request->result = do_write (request, (uint64_t)request->result);
    request->next = engine->done;
    engine->done = request;
  }
  pthread_cond_broadcast (&fake.submitted);
}

static struct engine_request *
fake_reap (struct engine *engine)
{
  struct engine_request *done;

  SCOPED_LOCK (&fake.lock);
  call_hook_off = true;
  while (engine->done == NULL && !engine->woken)
    pthread_cond_wait (&engine->reapable, &fake.lock);
  call_hook_off = false;
  engine->woken = false;
  done = engine->done;
  engine->done = NULL;
  return done;
}

static void
fake_wake (struct engine *engine)
{
  SCOPED_LOCK (&fake.lock);
  if (!engine->exists)
    fake.misused = true;
  engine->woken = true;
  pthread_cond_signal (&engine->reapable);
}

const struct engine_type engine_fake = {
  .name = "fake",
  .create = fake_create,
  .free = fake_free,
  .submit = fake_submit,
  .reap = fake_reap,
  .wake = fake_wake,
};

static struct engine *
refused_create (unsigned depth)
{
  (void)depth;
  errno = EPERM;
  return NULL;
}

const struct engine_type engine_refused
    = { .name = "refused", .create = refused_create };

void
fake_reset (fake_answer answer)
{
  SCOPED_LOCK (&fake.lock);
  fake.answer = answer;
  fake.count = 0;
  memset (fake.hanging, 0, sizeof fake.hanging);
  fake.gone = fake.misused = false;
}

void
fake_let_go (void)
{
  SCOPED_LOCK (&fake.lock);
  fake.gone = true;
  memset (fake.hanging, 0, sizeof fake.hanging);
  for (struct engine *engine = fake.engines;
       engine < fake.engines + ENGINES_MAX; engine++) {
    while (engine->hanging != NULL) {
      struct engine_request *request = engine->hanging;
      engine->hanging = request->next;
      request->result = do_write (request, UINT64_MAX);
      request->next = engine->done;
      engine->done = request;
    }
    if (engine->exists)
      pthread_cond_signal (&engine->reapable);
  }
}

/* Take a request out of those that hang; returns the engine it was in. */
static struct engine *
take_hanging (const struct engine_request *request)
{
  for (struct engine *engine = fake.engines;; engine++) {
    assert (engine < fake.engines + ENGINES_MAX);
    for (struct engine_request **p = &engine->hanging; *p != NULL;
         p = &(*p)->next)
      if (*p == request) {
        *p = request->next;
        return engine;
      }
  }
}

void
fake_end (unsigned index, int64_t result)
{
  SCOPED_LOCK (&fake.lock);
  struct engine_request *request = fake.hanging[index];
  assert (request != NULL);
  struct engine *engine = take_hanging (request);
  fake.hanging[index] = NULL;
  request->result = result > 0 ? do_write (request, (uint64_t)result) : result;
  request->next = engine->done;
  engine->done = request;
  pthread_cond_signal (&engine->reapable);
}

void
fake_wait (unsigned count)
{
  call_hook_off = true;
  pthread_mutex_lock (&fake.lock);
  while (fake.count < count)
    pthread_cond_wait (&fake.submitted, &fake.lock);
  pthread_mutex_unlock (&fake.lock);
  call_hook_off = false;
}

/* The lock is held. */
static bool
any_exists (void)
{
  for (unsigned i = 0; i < ENGINES_MAX; i++)
    if (fake.engines[i].exists)
      return true;
  return false;
}

void
fake_wait_freed (void)
{
  pthread_mutex_lock (&fake.lock);
  while (any_exists ())
    pthread_cond_wait (&fake.submitted, &fake.lock);
  pthread_mutex_unlock (&fake.lock);
}

bool
fake_was_misused (void)
{
  SCOPED_LOCK (&fake.lock);
  return fake.misused;
}

unsigned
fake_count (void)
{
  SCOPED_LOCK (&fake.lock);
  return fake.count;
}

struct fake_write
fake_write_at (unsigned index)
{
  SCOPED_LOCK (&fake.lock);
  assert (index < fake.count);
  return fake.writes[index];
}
