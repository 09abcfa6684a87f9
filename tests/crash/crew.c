/* SPDX-License-Identifier: BSD-3-Clause */

#include "crew.h"
#include "hand.h"
#include "load.h"
#include "story.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define WRITERS 5
#define READERS 2
#define CHANGERS 2
#define CREW (WRITERS + READERS + CHANGERS)

/* Of one request. */
#define LENGTH_MAX (200u << 10)

/* Seconds until a thread is said to hang. */
#define PATIENCE 240

struct deeds deeds;

static struct hand crew[CREW];
static _Atomic bool stopping;
static pthread_mutex_t deeds_lock = PTHREAD_MUTEX_INITIALIZER;

bool
crew_is_over (void)
{
  return stopping || ending_has_begun ();
}

void
crew_count (uint64_t *deed)
{
  pthread_mutex_lock (&deeds_lock);
  ++*deed;
  pthread_mutex_unlock (&deeds_lock);
}

unsigned
dice (struct hand *hand, unsigned sides)
{
  return (unsigned)random_below (&hand->random, sides);
}

void
choose_range (struct hand *hand, uint64_t *offset, uint64_t *length)
{
  const uint64_t size = model_size (hand->model);
  const unsigned bits = 1 + dice (hand, 18);
  uint64_t limit = UINT64_C (1) << bits;

  if (limit > LENGTH_MAX)
    limit = LENGTH_MAX;
  *length = 1 + random_below (&hand->random, limit);
  *offset = random_below (&hand->random, size);
  if (dice (hand, 4) == 0) {
    *offset = *offset / 4096 * 4096;
    *length = (*length + 4095) / 4096 * 4096;
  }
  if (*length > size - *offset)
    *length = size - *offset;
}

struct nbd_handle *
crew_connect (const char *export, bool may_fail)
{
  struct nbd_handle *nbd = nbd_create ();

  if (nbd == NULL)
    abort ();
  if (nbd_add_meta_context (nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) == -1
      || nbd_connect_uri (nbd, server_uri (&server, export)) == -1) {
    if (!may_fail && !ending_has_begun ())
      wrong ("connect to '%s': %s", export, nbd_get_error ());
    nbd_close (nbd);
    return NULL;
  }
  return nbd;
}

/* --- the origin ---------------------------------------------------------- */

/* A request has failed: its errno, if the server said so and may. */
static bool
is_refusal (const char *what, uint64_t offset, uint64_t length)
{
  /* on-error=break-write, at a limit. */
  if (nbd_get_errno () == ENOSPC)
    return true;
  if (!ending_has_begun ())
    wrong ("%s of %" PRIu64 " bytes at %" PRIu64 ": %s", what, length, offset,
           nbd_get_error ());
  return false;
}

/* Write DATA, or zeros if it is NULL.  False: the server has gone. */
static bool
write_origin (struct hand *hand, struct nbd_handle *nbd, uint64_t offset,
              uint64_t length, bool zero)
{
  const uint32_t fua = dice (hand, 20) == 0 ? LIBNBD_CMD_FLAG_FUA : 0;
  const uint32_t hole = dice (hand, 2) == 0 ? LIBNBD_CMD_FLAG_NO_HOLE : 0;

  if (zero)
    memset (hand->buf, 0, length);
  else
    random_bytes (&hand->random, hand->buf, length);
  struct change *change = model_begin (hand->model, offset, length, hand->buf);
  moment_passed (MOMENT_WRITE);
  const int r = zero ? nbd_zero (nbd, length, offset, hole | fua)
                     : nbd_pwrite (nbd, hand->buf, length, offset, fua);
  if (r != -1)
    model_end (hand->model, change, hand->buf);
  else if (is_refusal (zero ? "zero" : "write", offset, length))
    model_refused (hand->model, change);
  else
    return false;
  moment_passed (MOMENT_WRITTEN);
  return true;
}

static bool
trim_origin (struct hand *hand, struct nbd_handle *nbd, uint64_t offset,
             uint64_t length)
{
  struct change *change = model_begin (hand->model, offset, length, NULL);

  moment_passed (MOMENT_WRITE);
  if ((nbd_trim (nbd, length, offset, 0) == -1
       || nbd_pread (nbd, hand->buf, length, offset, 0) == -1)
      && !is_refusal ("trim", offset, length))
    return false;
  model_end (hand->model, change, hand->buf);
  return true;
}

static bool
read_origin (struct hand *hand, struct nbd_handle *nbd, uint64_t offset,
             uint64_t length)
{
  if (nbd_pread (nbd, hand->buf, length, offset, 0) == -1) {
    if (!ending_has_begun ())
      wrong ("read of the origin: %s", nbd_get_error ());
    return false;
  }
  char *why = model_check (hand->model, hand->buf, offset, length);
  if (why != NULL)
    wrong ("origin: %s", why);
  return true;
}

static void *
run_writer (void *arg)
{
  struct hand *hand = arg;
  struct nbd_handle *nbd = crew_connect ("", false);
  uint64_t offset, length;
  bool going = nbd != NULL;

  /* Once SIGTERM was sent, they still try. */
  while (going && !stopping) {
    choose_range (hand, &offset, &length);
    const unsigned choice = dice (hand, 20);
    hold (hand->number, offset, length);
    if (choice < 2)
      going = read_origin (hand, nbd, offset, length);
    else if (choice < 4)
      going = trim_origin (hand, nbd, offset, length);
    else if (choice < 7)
      going = write_origin (hand, nbd, offset, length, true);
    else
      going = write_origin (hand, nbd, offset, length, false);
    let_go (hand->number);
    if (going && dice (hand, 50) == 0 && nbd_flush (nbd, 0) == -1)
      going = is_refusal ("flush", 0, 0);
    crew_count (&deeds.changes);
  }
  nbd_close (nbd);
  return NULL;
}

/* --- reading snapshots --------------------------------------------------- */

bool
crew_read (struct nbd_handle *nbd, struct entry *entry, uint8_t *buf,
           uint64_t offset, uint64_t length)
{
  if (nbd_pread (nbd, buf, length, offset, 0) == -1)
    return false;
  char *why = frozen_check (entry->frozen, buf, offset, length);
  if (why != NULL)
    wrong ("snapshot %u (%s): %s", entry->number, entry->name, why);
  return true;
}

struct extents {
  struct entry *entry;
  uint64_t offset, end;
};

/* What is called zero must read as zeros. */
static int
see_extents (void *opaque, const char *context, uint64_t offset,
             uint32_t *entries, size_t n, int *error)
{
  struct extents *extents = opaque;

  (void)context;
  (void)offset;
  (void)error;
  for (size_t i = 0; i + 1 < n && extents->offset < extents->end; i += 2) {
    uint64_t length = entries[i];
    if (length > extents->end - extents->offset)
      length = extents->end - extents->offset;
    if (entries[i + 1] & LIBNBD_STATE_ZERO) {
      uint8_t *zeros = calloc (1, length);
      if (zeros == NULL)
        abort ();
      char *why = frozen_check (extents->entry->frozen, zeros, extents->offset,
                                length);
      free (zeros);
      if (why != NULL)
        wrong ("snapshot %u (%s), said to be zero: %s", extents->entry->number,
               extents->entry->name, why);
    }
    extents->offset += length;
  }
  return 0;
}

bool
crew_map (struct nbd_handle *nbd, struct entry *entry, uint64_t offset,
          uint64_t length)
{
  struct extents extents = { entry, offset, offset + length };

  while (extents.offset < extents.end)
    if (nbd_block_status (nbd, extents.end - extents.offset, extents.offset,
                          (nbd_extent_callback){ .callback = see_extents,
                                                 .user_data = &extents },
                          0)
        == -1)
      return false;
  return true;
}

static void
read_snapshot (struct hand *hand, struct entry *entry)
{
  char export[32];

  if (entry->name[0] != '\0' && dice (hand, 2) == 0)
    snprintf (export, sizeof export, "snapshot/%s", entry->name);
  else
    snprintf (export, sizeof export, "snapshot/%u", entry->number);
  struct nbd_handle *nbd = crew_connect (export, true);
  bool going = nbd != NULL;
  if (!going && !roster_may_fail (entry))
    wrong ("connect to '%s': %s", export, nbd_get_error ());
  if (roster_is_forced (entry))
    going = false;
  for (unsigned i = 0; i < 20 && going && !crew_is_over (); i++) {
    uint64_t offset, length;

    choose_range (hand, &offset, &length);
    going = dice (hand, 8) == 0
                ? crew_map (nbd, entry, offset, length)
                : crew_read (nbd, entry, hand->buf, offset, length);
    if (!going && !roster_may_fail (entry))
      wrong ("snapshot %u (%s), %" PRIu64 " bytes at %" PRIu64 ": %s",
             entry->number, entry->name, length, offset, nbd_get_error ());
  }
  nbd_close (nbd);
}

static void *
run_reader (void *arg)
{
  struct hand *hand = arg;

  while (!crew_is_over ()) {
    struct entry *entry = roster_read (&hand->random);
    if (entry == NULL) {
      sched_yield ();
      continue;
    }
    read_snapshot (hand, entry);
    roster_release (entry);
  }
  return NULL;
}

/* --- all of them --------------------------------------------------------- */

void
crew_start (struct model *model, uint64_t *random, const struct temper *temper)
{
  stopping = false;
  for (unsigned i = 0; i < CREW; i++) {
    struct hand *hand = &crew[i];
    *hand = (struct hand){ .number = i,
                           .first = i == WRITERS + READERS,
                           .model = model,
                           .temper = *temper,
                           .random = random_next (random) | 1 };
    hand->buf = malloc (model_size (model));
    if (hand->buf == NULL
        || pthread_create (&hand->thread, NULL,
                           i < WRITERS             ? run_writer
                           : i < WRITERS + READERS ? run_reader
                                                   : changer_run,
                           hand)
               != 0)
      abort ();
  }
}

void
crew_join (bool early)
{
  struct timespec end;

  if (early)
    stopping = true;
  clock_gettime (CLOCK_REALTIME, &end);
  end.tv_sec += PATIENCE;
  for (unsigned i = 0; i < CREW; i++) {
    if (pthread_timedjoin_np (crew[i].thread, NULL, &end) != 0)
      wrong ("a request was not answered");
    free (crew[i].buf);
  }
}
