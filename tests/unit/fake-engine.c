/* SPDX-License-Identifier: BSD-3-Clause */

#include "fake-engine.h"
#include "call-hook.h"
#include "scoped.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <unistd.h>

/* One flusher at a time uses it. */
static struct engine {
  pthread_mutex_t lock; /* guards what follows */
  pthread_cond_t submitted, reapable;
  fake_answer answer;
  struct engine_request *done, *hanging;
  bool woken, gone, exists, misused;
  unsigned count;
  struct fake_write writes[FAKE_WRITES_MAX];
} fake = { .lock = PTHREAD_MUTEX_INITIALIZER,
           .submitted = PTHREAD_COND_INITIALIZER,
           .reapable = PTHREAD_COND_INITIALIZER };

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
  (void)depth;
  SCOPED_LOCK (&fake.lock);
  fake.exists = true;
  return &fake;
}

static void
fake_free (struct engine *engine)
{
  SCOPED_LOCK (&engine->lock);
  assert (engine->done == NULL && engine->hanging == NULL);
  engine->exists = false;
  pthread_cond_broadcast (&engine->submitted);
}

static void
fake_submit (struct engine *engine, struct engine_request *request)
{
  size_t length = 0;

  for (unsigned i = 0; i < request->segments; i++)
    length += request->segment[i].iov_len;

  SCOPED_LOCK (&engine->lock);
  const unsigned index = engine->count++;
  if (index < FAKE_WRITES_MAX)
    engine->writes[index] = (struct fake_write){ request->fd, request->offset,
                                                 length, request->segments };
  request->result = engine->answer != NULL
                        ? engine->answer (request, length, index)
                        : FAKE_WRITE;
  if (request->result == FAKE_HANG && !engine->gone) {
    request->next = engine->hanging;
    engine->hanging = request;
  }
  else {
    if (request->result > 0)
      request->result = do_write (request, (uint64_t)request->result);
    request->next = engine->done;
    engine->done = request;
  }
  pthread_cond_broadcast (&engine->submitted);
}

static struct engine_request *
fake_reap (struct engine *engine)
{
  struct engine_request *done;

  SCOPED_LOCK (&engine->lock);
  call_hook_off = true;
  while (engine->done == NULL && !engine->woken)
    pthread_cond_wait (&engine->reapable, &engine->lock);
  call_hook_off = false;
  engine->woken = false;
  done = engine->done;
  engine->done = NULL;
  return done;
}

static void
fake_wake (struct engine *engine)
{
  SCOPED_LOCK (&engine->lock);
  if (!engine->exists)
    engine->misused = true;
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
  fake.gone = fake.woken = fake.misused = false;
}

void
fake_let_go (void)
{
  SCOPED_LOCK (&fake.lock);
  fake.gone = true;
  while (fake.hanging != NULL) {
    struct engine_request *request = fake.hanging;
    fake.hanging = request->next;
    request->result = do_write (request, UINT64_MAX);
    request->next = fake.done;
    fake.done = request;
  }
  pthread_cond_signal (&fake.reapable);
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

void
fake_wait_freed (void)
{
  pthread_mutex_lock (&fake.lock);
  while (fake.exists)
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
