/* SPDX-License-Identifier: BSD-3-Clause */
/* The io_uring engine.  Submissions collect in the ring until reap, so
 * that a batch costs one system call.  An eventfd that the ring always
 * polls turns wake into a completion.
 *
 * The kernel goes on with a short write to a file by itself, and says EAGAIN
 * when that makes no progress (seen with Linux 6.18).
 */

#include "engine.h"

#include <assert.h>
#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct engine {
  struct io_uring ring; /* the flusher's thread only */
  int event;            /* set at creation */
  bool polling;         /* the poll of EVENT is in the ring */
};

/* Newer kernels do less work between threads when told that one thread
 * owns the ring; older ones answer EINVAL to what they do not know.
 */
static int
open_ring (struct io_uring *ring, unsigned entries)
{
  static const unsigned flags[] = {
    IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN
        | IORING_SETUP_COOP_TASKRUN,
    IORING_SETUP_COOP_TASKRUN,
    0,
  };
  int r = -EINVAL;

  for (unsigned i = 0; r == -EINVAL && i < sizeof flags / sizeof *flags; i++) {
    struct io_uring_params params = { .flags = flags[i] };
    r = io_uring_queue_init_params (entries, ring, &params);
  }
  return r;
}

static struct engine *
uring_create (unsigned depth)
{
  struct engine *engine = calloc (1, sizeof *engine);
  int err;

  if (engine == NULL)
    return NULL;
  engine->event = eventfd (0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (engine->event == -1) {
    err = errno;
    goto error;
  }
  /* One entry more, for the poll. */
  err = -open_ring (&engine->ring, depth + 1);
  if (err != 0) {
    close (engine->event);
    goto error;
  }
  return engine;

error:
  free (engine);
  errno = err;
  return NULL;
}

static void
uring_free (struct engine *engine)
{
  io_uring_queue_exit (&engine->ring);
  close (engine->event);
  free (engine);
}

static struct io_uring_sqe *
next_sqe (struct engine *engine)
{
  struct io_uring_sqe *sqe = io_uring_get_sqe (&engine->ring);

  /* DEPTH + 1 entries, and the caller keeps within DEPTH. */
  assert (sqe != NULL);
  return sqe;
}

static void
uring_submit (struct engine *engine, struct engine_request *request)
{
  struct io_uring_sqe *sqe = next_sqe (engine);

  if (request->segments == 0)
    io_uring_prep_fsync (sqe, request->fd, IORING_FSYNC_DATASYNC);
  else if (request->segments == 1)
    io_uring_prep_write (sqe, request->fd, request->segment[0].iov_base,
                         (unsigned)request->segment[0].iov_len,
                         request->offset);
  else
    io_uring_prep_writev (sqe, request->fd, request->segment, request->segments,
                          request->offset);
  io_uring_sqe_set_data (sqe, request);
}

static struct engine_request *
uring_reap (struct engine *engine)
{
  struct engine_request *done = NULL;
  struct io_uring_cqe *cqe;
  unsigned head, seen = 0;
  uint64_t count;

  if (!engine->polling) {
    struct io_uring_sqe *sqe = next_sqe (engine);
    io_uring_prep_poll_add (sqe, engine->event, POLLIN);
    io_uring_sqe_set_data (sqe, NULL);
    engine->polling = true;
  }
  /* EINTR, EAGAIN and EBUSY leave in the ring what was not taken: it goes
   * with the next call.
   */
  io_uring_submit_and_wait (&engine->ring, 1);
  io_uring_for_each_cqe (&engine->ring, head, cqe)
  {
    struct engine_request *request = io_uring_cqe_get_data (cqe);

    seen++;
    if (request == NULL) {
      engine->polling = false;
      (void)!read (engine->event, &count, sizeof count);
      continue;
    }
    request->result = cqe->res;
    request->next = done;
    done = request;
  }
  io_uring_cq_advance (&engine->ring, seen);
  return done;
}

static void
uring_wake (struct engine *engine)
{
  const uint64_t one = 1;

  (void)!write (engine->event, &one, sizeof one);
}

const struct engine_type engine_uring = {
  .name = "uring",
  .create = uring_create,
  .free = uring_free,
  .submit = uring_submit,
  .reap = uring_reap,
  .wake = uring_wake,
  .write = engine_write_now,
};
