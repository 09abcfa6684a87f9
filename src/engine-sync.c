/* SPDX-License-Identifier: BSD-3-Clause */
/* The engine for machines that refuse io_uring: a thread does the writes,
 * one after another.  It is not the flusher's own, which must be able to
 * drop what is queued behind a write that hangs.
 */

#include "engine.h"
#include "scoped.h"

#include <errno.h>
#include <stdbool.h>
#include <unistd.h>

struct engine {
  pthread_t thread;       /* set at creation */
  pthread_mutex_t lock;   /* guards what follows */
  pthread_cond_t to_do;   /* there is something to write, or to stop */
  pthread_cond_t changed; /* something is done, or someone called wake */
  struct engine_request *queue, **queue_end;
  struct engine_request *done;
  bool woken, stop;
};

int64_t
engine_write_now (int fd, const struct iovec *segment, unsigned segments,
                  uint64_t offset)
{
  const ssize_t r = pwritev (fd, segment, (int)segments, (off_t)offset);

  return r == -1 ? -errno : r;
}

/* The next to write, once there is one; NULL: the end. */
static struct engine_request *
take (struct engine *engine)
{
  SCOPED_LOCK (&engine->lock);
  while (engine->queue == NULL && !engine->stop)
    pthread_cond_wait (&engine->to_do, &engine->lock);
  struct engine_request *request = engine->queue;
  if (request != NULL) {
    engine->queue = request->next;
    if (engine->queue == NULL)
      engine->queue_end = &engine->queue;
  }
  return request;
}

static void *
run (void *arg)
{
  struct engine *engine = arg;
  struct engine_request *request;

  while ((request = take (engine)) != NULL) {
    if (request->segments == 0)
      request->result = fdatasync (request->fd) == -1 ? -errno : 0;
    else
      request->result = engine_write_now (request->fd, request->segment,
                                          request->segments, request->offset);

    SCOPED_LOCK (&engine->lock);
    request->next = engine->done;
    engine->done = request;
    pthread_cond_signal (&engine->changed);
  }
  return NULL;
}

static struct engine *
sync_create (unsigned depth)
{
  struct engine *engine = calloc (1, sizeof *engine);

  (void)depth; /* never more than one under way, the others wait */
  if (engine == NULL)
    return NULL;
  pthread_mutex_init (&engine->lock, NULL);
  pthread_cond_init (&engine->to_do, NULL);
  pthread_cond_init (&engine->changed, NULL);
  engine->queue_end = &engine->queue;
  const int err = pthread_create (&engine->thread, NULL, run, engine);
  if (err != 0) {
    free (engine);
    errno = err;
    return NULL;
  }
  return engine;
}

static void
sync_free (struct engine *engine)
{
  {
    SCOPED_LOCK (&engine->lock);
    engine->stop = true;
    pthread_cond_signal (&engine->to_do);
  }
  pthread_join (engine->thread, NULL);
  pthread_cond_destroy (&engine->changed);
  pthread_cond_destroy (&engine->to_do);
  pthread_mutex_destroy (&engine->lock);
  free (engine);
}

static void
sync_submit (struct engine *engine, struct engine_request *request)
{
  SCOPED_LOCK (&engine->lock);
  request->next = NULL;
  *engine->queue_end = request;
  engine->queue_end = &request->next;
  pthread_cond_signal (&engine->to_do);
}

static struct engine_request *
sync_reap (struct engine *engine)
{
  SCOPED_LOCK (&engine->lock);
  while (engine->done == NULL && !engine->woken)
    pthread_cond_wait (&engine->changed, &engine->lock);
  engine->woken = false;
  struct engine_request *done = engine->done;
  engine->done = NULL;
  return done;
}

static void
sync_wake (struct engine *engine)
{
  SCOPED_LOCK (&engine->lock);
  engine->woken = true;
  pthread_cond_signal (&engine->changed);
}

const struct engine_type engine_sync = {
  .name = "sync",
  .create = sync_create,
  .free = sync_free,
  .submit = sync_submit,
  .reap = sync_reap,
  .wake = sync_wake,
  .write = engine_write_now,
};
