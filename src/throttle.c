/* SPDX-License-Identifier: BSD-3-Clause */
/* Accounting is under one lock that is never held over I/O or malloc.
 * A waiter's share is set aside for it by whoever gives memory back, so
 * that nobody can take it between the signal and its waking up.
 */

#include "throttle.h"
#include "scoped.h"

#include <assert.h>
#include <errno.h>

/* Free buffers kept for the next user: enough for the writes that are in
 * flight in an ordinary server (16 threads of 256 KiB), little enough not
 * to be missed by anyone else.
 */
#define KEEP_LIMIT (UINT64_C (4) << 20)

#define CLASSES 64

struct waiter {
  struct waiter *next;
  uint64_t charge;
  unsigned class;
  bool granted;          /* its charge is in USED */
  struct buffer *buffer; /* a kept one that came with the grant, or NULL */
  pthread_cond_t cond;
};

struct throttle {
  uint64_t limit; /* bytes; set at creation */

  pthread_mutex_t lock; /* guards all that follows */
  uint64_t used;        /* charged to buffers in use or set aside */
  uint64_t kept;        /* charged to free buffers */
  struct buffer *free[CLASSES];
  struct waiter *first;
  struct waiter **last;
};

static unsigned
size_class (size_t bytes)
{
  return bytes <= 1 ? 0 : 64 - (unsigned)__builtin_clzll (bytes - 1);
}

static uint64_t
class_charge (unsigned class)
{
  return (UINT64_C (1) << class) + THROTTLE_ALLOWANCE;
}

uint64_t
throttle_least (uint64_t bytes)
{
  return class_charge (size_class (bytes));
}

uint64_t
throttle_limit (const struct throttle *throttle)
{
  return throttle->limit;
}

struct throttle *
throttle_create (uint64_t limit)
{
  struct throttle *throttle = calloc (1, sizeof *throttle);
  if (throttle == NULL)
    return NULL;
  throttle->limit = limit;
  pthread_mutex_init (&throttle->lock, NULL);
  throttle->last = &throttle->first;
  return throttle;
}

/* Take the kept buffers of one class off the list, or all of them.  The
 * lock is held; the caller frees them without it.
 */
static struct buffer *
take_kept (struct throttle *throttle, unsigned class)
{
  struct buffer *list = throttle->free[class];

  throttle->free[class] = NULL;
  for (const struct buffer *b = list; b != NULL; b = b->next)
    throttle->kept -= class_charge (class);
  return list;
}

static void
free_list (struct buffer *list)
{
  while (list != NULL) {
    struct buffer *next = list->next;
    free (list);
    list = next;
  }
}

void
throttle_free (struct throttle *throttle)
{
  if (throttle == NULL)
    return;
  assert (throttle->used == 0 && throttle->first == NULL);
  for (unsigned class = 0; class < CLASSES; class ++)
    free_list (take_kept (throttle, class));
  pthread_mutex_destroy (&throttle->lock);
  free (throttle);
}

/* Set a buffer of CLASS aside.  False if there is no room.  *BUFFER is a
 * kept one, or NULL: then the caller allocates.  *SURPLUS is what it has
 * to free once the lock, which is held, is not.
 */
static bool
set_aside (struct throttle *throttle, unsigned class, struct buffer **buffer,
           struct buffer **surplus)
{
  const uint64_t charge = class_charge (class);

  *buffer = throttle->free[class];
  if (*buffer != NULL) {
    throttle->free[class] = (*buffer)->next;
    throttle->kept -= charge;
    throttle->used += charge;
    return true;
  }
  if (throttle->used + charge > throttle->limit)
    return false;
  /* Kept buffers of other sizes make room. */
  for (unsigned c = 0; c < CLASSES; c++) {
    if (throttle->used + throttle->kept + charge <= throttle->limit)
      break;
    struct buffer *list = take_kept (throttle, c);
    while (list != NULL) {
      struct buffer *next = list->next;
      list->next = *surplus;
      *surplus = list;
      list = next;
    }
  }
  throttle->used += charge;
  return true;
}

/* Serve the line from its head.  The lock is held. */
static void
serve (struct throttle *throttle, struct buffer **surplus)
{
  struct waiter *waiter;

  while ((waiter = throttle->first) != NULL
         && set_aside (throttle, waiter->class, &waiter->buffer, surplus)) {
    throttle->first = waiter->next;
    if (throttle->first == NULL)
      throttle->last = &throttle->first;
    waiter->granted = true;
    pthread_cond_signal (&waiter->cond);
  }
}

/* Give CHARGE back, with the lock not held. */
static void
give_back (struct throttle *throttle, uint64_t charge)
{
  struct buffer *surplus = NULL;

  {
    SCOPED_LOCK (&throttle->lock);
    throttle->used -= charge;
    serve (throttle, &surplus);
  }
  free_list (surplus);
}

/* Turn what was set aside into a buffer with one user. */
static struct buffer *
make_buffer (struct throttle *throttle, unsigned class, struct buffer *buffer)
{
  if (buffer == NULL) {
    const size_t size = (size_t)1 << class;
    buffer = malloc (sizeof *buffer + size);
    if (buffer == NULL) {
      give_back (throttle, class_charge (class));
      errno = ENOMEM;
      return NULL;
    }
    buffer->throttle = throttle;
    buffer->size = size;
  }
  buffer->next = NULL;
  atomic_init (&buffer->users, 1);
  return buffer;
}

struct buffer *
throttle_try (struct throttle *throttle, size_t bytes)
{
  const unsigned class = size_class (bytes);
  struct buffer *buffer = NULL, *surplus = NULL;
  bool room;

  {
    SCOPED_LOCK (&throttle->lock);
    room = throttle->first == NULL
           && set_aside (throttle, class, &buffer, &surplus);
  }
  free_list (surplus);
  if (!room) {
    errno = EAGAIN;
    return NULL;
  }
  return make_buffer (throttle, class, buffer);
}

/* The lock is held. */
static void
leave_line (struct throttle *throttle, const struct waiter *waiter)
{
  struct waiter **p = &throttle->first;

  while (*p != waiter)
    p = &(*p)->next;
  *p = waiter->next;
  if (*p == NULL)
    throttle->last = p;
}

struct buffer *
throttle_wait (struct throttle *throttle, size_t bytes,
               const struct timespec *deadline, const atomic_bool *cancelled)
{
  struct waiter waiter = { .class = size_class (bytes) };
  struct buffer *surplus = NULL;
  pthread_condattr_t attr;
  int err = 0;

  pthread_condattr_init (&attr);
  pthread_condattr_setclock (&attr, CLOCK_MONOTONIC);
  pthread_cond_init (&waiter.cond, &attr);
  pthread_condattr_destroy (&attr);
  waiter.charge = class_charge (waiter.class);
  assert (waiter.charge <= throttle->limit);
  {
    SCOPED_LOCK (&throttle->lock);
    *throttle->last = &waiter;
    throttle->last = &waiter.next;
    serve (throttle, &surplus);
    while (!waiter.granted && err == 0) {
      if (atomic_load (cancelled))
        err = ECANCELED;
      else
        err = pthread_cond_timedwait (&waiter.cond, &throttle->lock, deadline);
    }
    if (!waiter.granted) {
      leave_line (throttle, &waiter);
      /* Who stood behind it may fit where it did not. */
      serve (throttle, &surplus);
    }
  }
  pthread_cond_destroy (&waiter.cond);
  free_list (surplus);
  if (!waiter.granted) {
    errno = err;
    return NULL;
  }
  return make_buffer (throttle, waiter.class, waiter.buffer);
}

void
throttle_wake (struct throttle *throttle)
{
  SCOPED_LOCK (&throttle->lock);
  for (struct waiter *w = throttle->first; w != NULL; w = w->next)
    pthread_cond_signal (&w->cond);
}

void
buffer_use (struct buffer *buffer)
{
  atomic_fetch_add_explicit (&buffer->users, 1, memory_order_relaxed);
}

void
buffer_release (struct buffer *buffer)
{
  /* Release: our use of the data is over.  Acquire: so is everyone's. */
  if (atomic_fetch_sub_explicit (&buffer->users, 1, memory_order_acq_rel) != 1)
    return;

  struct throttle *throttle = buffer->throttle;
  const unsigned class = size_class (buffer->size);
  const uint64_t charge = class_charge (class);
  struct buffer *surplus = NULL;
  {
    SCOPED_LOCK (&throttle->lock);
    throttle->used -= charge;
    if (throttle->kept + charge <= KEEP_LIMIT) {
      throttle->kept += charge;
      buffer->next = throttle->free[class];
      throttle->free[class] = buffer;
    }
    else {
      buffer->next = NULL;
      surplus = buffer;
    }
    serve (throttle, &surplus);
  }
  free_list (surplus);
}

uint64_t
throttle_used (struct throttle *throttle)
{
  SCOPED_LOCK (&throttle->lock);
  return throttle->used;
}

uint64_t
throttle_held (struct throttle *throttle)
{
  SCOPED_LOCK (&throttle->lock);
  return throttle->used + throttle->kept;
}
