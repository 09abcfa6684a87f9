/* SPDX-License-Identifier: BSD-3-Clause */
/* The engine for machines that refuse io_uring: submit does the write. */

#include "engine.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct engine {
  int event;                   /* set at creation */
  struct engine_request *done; /* the flusher's thread only */
};

static struct engine *
sync_create (unsigned depth)
{
  struct engine *engine = calloc (1, sizeof *engine);

  (void)depth; /* never more than one under way */
  if (engine == NULL)
    return NULL;
  engine->event = eventfd (0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (engine->event == -1) {
    free (engine);
    return NULL;
  }
  return engine;
}

static void
sync_free (struct engine *engine)
{
  close (engine->event);
  free (engine);
}

static void
sync_submit (struct engine *engine, struct engine_request *request)
{
  const ssize_t r = pwritev (request->fd, request->segment,
                             (int)request->segments, (off_t)request->offset);

  request->result = r == -1 ? -errno : r;
  request->next = engine->done;
  engine->done = request;
}

static struct engine_request *
sync_reap (struct engine *engine)
{
  struct engine_request *done = engine->done;

  engine->done = NULL;
  if (done == NULL) {
    struct pollfd pollfd = { .fd = engine->event, .events = POLLIN };
    uint64_t count;

    if (poll (&pollfd, 1, -1) == 1)
      (void)!read (engine->event, &count, sizeof count);
  }
  return done;
}

static void
sync_wake (struct engine *engine)
{
  const uint64_t one = 1;

  (void)!write (engine->event, &one, sizeof one);
}

const struct engine_type engine_sync = {
  .name = "sync",
  .create = sync_create,
  .free = sync_free,
  .submit = sync_submit,
  .reap = sync_reap,
  .wake = sync_wake,
};
