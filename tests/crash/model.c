/* SPDX-License-Identifier: BSD-3-Clause */
/* A snapshot's model is the origin's from before it was asked for, and notes
 * of the changes that may be in it.  A change that no other one meets, in
 * that time, is in it or not as a whole: the first byte read that tells which
 * settles all of its bytes.  Where several meet, and where zeros are possible
 * besides, each byte is settled by itself.
 *
 * What is settled must also fit to one instant: no change in the snapshot may
 * have begun after another one had ended that is not in it.
 */

#include "model.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Of a snapshot being taken; then changes wait until it is.  Many more would
 * make the reads slow that settle them.
 */
#define NOTES_MAX 512

#define NEVER UINT64_MAX

struct change {
  struct change *next; /* under way; under the model's lock */
  _Atomic unsigned users;
  uint64_t begun; /* set at creation, as is what follows */
  uint64_t offset, length;
  uint8_t *data;          /* or NULL */
  _Atomic uint64_t ended; /* NEVER: not yet */
  _Atomic bool refused;
};

struct note {
  struct change *change;
  bool alone; /* no other note meets it */
  bool open;  /* not settled; what follows is of no meaning */
  bool in;
};

struct frozen {
  struct frozen *next; /* being taken; under the model's lock */
  struct model *model;

  /* Under the model's lock while it is being taken, then under LOCK. */
  pthread_mutex_t lock;
  bool unbounded; /* nobody waits for it */
  bool sealed;    /* no note is added any more */
  uint8_t *bytes; /* of the model, where DOUBT is 0 */
  uint8_t *doubt; /* notes that touch the byte and are not settled */
  struct note *notes;
  unsigned count;
};

struct model {
  uint64_t size;
  pthread_mutex_t lock;
  pthread_cond_t room; /* for notes */
  uint64_t clock;
  uint8_t *bytes;
  struct change *under_way;
  struct frozen *being_taken;
};

static void *
must (void *memory)
{
  if (memory == NULL)
    abort ();
  return memory;
}

__attribute__ ((format (printf, 1, 2))) static char *
message (const char *format, ...)
{
  char *text;
  va_list args;

  va_start (args, format);
  if (vasprintf (&text, format, args) == -1)
    abort ();
  va_end (args);
  return text;
}

/* The bytes that two ranges share: false if there are none. */
static bool
share (const struct change *change, uint64_t offset, uint64_t length,
       uint64_t *from, uint64_t *to)
{
  const uint64_t end = change->offset + change->length;

  *from = change->offset > offset ? change->offset : offset;
  *to = end < offset + length ? end : offset + length;
  return *from < *to;
}

/* --- the origin ---------------------------------------------------------- */

struct model *
model_create (const uint8_t *bytes, uint64_t size)
{
  struct model *model = must (calloc (1, sizeof *model));

  model->size = size;
  model->bytes = must (malloc (size));
  memcpy (model->bytes, bytes, size);
  pthread_mutex_init (&model->lock, NULL);
  pthread_cond_init (&model->room, NULL);
  return model;
}

static struct change *
new_change (uint64_t offset, uint64_t length, const uint8_t *data)
{
  struct change *change = must (calloc (1, sizeof *change));

  change->users = 1;
  change->offset = offset;
  change->length = length;
  change->ended = NEVER;
  if (data != NULL) {
    change->data = must (malloc (length));
    memcpy (change->data, data, length);
  }
  return change;
}

static void
release (struct change *change)
{
  if (atomic_fetch_sub (&change->users, 1) > 1)
    return;
  free (change->data);
  free (change);
}

void
model_free (struct model *model)
{
  while (model->under_way != NULL) {
    struct change *next = model->under_way->next;
    release (model->under_way);
    model->under_way = next;
  }
  pthread_mutex_destroy (&model->lock);
  pthread_cond_destroy (&model->room);
  free (model->bytes);
  free (model);
}

uint64_t
model_size (const struct model *model)
{
  return model->size;
}

uint64_t
model_now (struct model *model)
{
  pthread_mutex_lock (&model->lock);
  const uint64_t now = ++model->clock;
  pthread_mutex_unlock (&model->lock);
  return now;
}

static void
add_note (struct frozen *frozen, struct change *change)
{
  const unsigned n = frozen->count++;

  frozen->notes = must (
      reallocarray (frozen->notes, frozen->count, sizeof frozen->notes[0]));
  atomic_fetch_add (&change->users, 1);
  frozen->notes[n] = (struct note){ .change = change, .open = true };
  for (uint64_t i = 0; i < change->length; i++)
    if (frozen->doubt[change->offset + i] < 255)
      frozen->doubt[change->offset + i]++;
}

static bool
has_room (const struct model *model)
{
  for (struct frozen *f = model->being_taken; f != NULL; f = f->next)
    if (f->count >= NOTES_MAX && !f->unbounded)
      return false;
  return true;
}

struct change *
model_begin (struct model *model, uint64_t offset, uint64_t length,
             const uint8_t *data)
{
  struct change *change = new_change (offset, length, data);

  pthread_mutex_lock (&model->lock);
  while (!has_room (model))
    pthread_cond_wait (&model->room, &model->lock);
  change->begun = ++model->clock;
  change->next = model->under_way;
  model->under_way = change;
  for (struct frozen *f = model->being_taken; f != NULL; f = f->next)
    add_note (f, change);
  pthread_mutex_unlock (&model->lock);
  return change;
}

static void
take_out (struct model *model, struct change *change)
{
  struct change **link = &model->under_way;

  while (*link != change)
    link = &(*link)->next;
  *link = change->next;
  change->ended = ++model->clock;
}

void
model_end (struct model *model, struct change *change, const uint8_t *is)
{
  pthread_mutex_lock (&model->lock);
  memcpy (model->bytes + change->offset, is, change->length);
  take_out (model, change);
  pthread_mutex_unlock (&model->lock);
  release (change);
}

void
model_refused (struct model *model, struct change *change)
{
  pthread_mutex_lock (&model->lock);
  change->refused = true;
  take_out (model, change);
  pthread_mutex_unlock (&model->lock);
  release (change);
}

/* MAY[i] becomes true where CHANGE would have made it so. */
static void
allow (const struct change *change, const uint8_t *is, uint64_t offset,
       uint64_t length, uint8_t *may)
{
  uint64_t from, to;

  if (change->refused || !share (change, offset, length, &from, &to))
    return;
  for (uint64_t i = from; i < to; i++)
    may[i - offset]
        |= is[i - offset]
           == (change->data != NULL ? change->data[i - change->offset] : 0);
}

/* What to say of the bytes that MAY does not allow; NULL: there are none. */
static char *
complain (const uint8_t *may, const uint8_t *is, const uint8_t *should,
          const uint8_t *origin, uint64_t offset, uint64_t length)
{
  uint64_t first = length, last = 0, wrong = 0, zeros = 0, newer = 0;

  for (uint64_t i = 0; i < length; i++)
    if (!may[i]) {
      if (wrong++ == 0)
        first = i;
      last = i;
      zeros += is[i] == 0;
      newer += origin != NULL && is[i] == origin[i];
    }
  if (wrong == 0)
    return NULL;
  return message ("of %" PRIu64 " bytes at %" PRIu64 ", %" PRIu64
                  " are wrong, from offset %" PRIu64 " (is %02x, should be "
                  "%02x) to %" PRIu64 "; %" PRIu64
                  " of these are zero, %" PRIu64 " as on the origin",
                  length, offset, wrong, offset + first, is[first],
                  should[first], offset + last, zeros, newer);
}

char *
model_settle (struct model *model, const uint8_t *is)
{
  uint8_t *may = must (malloc (model->size));

  pthread_mutex_lock (&model->lock);
  for (uint64_t i = 0; i < model->size; i++)
    may[i] = is[i] == model->bytes[i];
  while (model->under_way != NULL) {
    struct change *change = model->under_way;
    allow (change, is, 0, model->size, may);
    model->under_way = change->next;
    release (change);
  }
  char *wrong = complain (may, is, model->bytes, NULL, 0, model->size);
  memcpy (model->bytes, is, model->size);
  pthread_mutex_unlock (&model->lock);
  free (may);
  return wrong;
}

char *
model_check (struct model *model, const uint8_t *is, uint64_t offset,
             uint64_t length)
{
  uint8_t *may = must (malloc (length));

  pthread_mutex_lock (&model->lock);
  for (uint64_t i = 0; i < length; i++)
    may[i] = is[i] == model->bytes[offset + i];
  char *wrong = complain (may, is, model->bytes + offset, NULL, offset, length);
  pthread_mutex_unlock (&model->lock);
  free (may);
  return wrong;
}

/* --- snapshots ----------------------------------------------------------- */

struct frozen *
frozen_begin (struct model *model)
{
  struct frozen *frozen = must (calloc (1, sizeof *frozen));

  frozen->model = model;
  frozen->bytes = must (malloc (model->size));
  frozen->doubt = must (calloc (1, model->size));
  pthread_mutex_init (&frozen->lock, NULL);
  pthread_mutex_lock (&model->lock);
  memcpy (frozen->bytes, model->bytes, model->size);
  for (struct change *c = model->under_way; c != NULL; c = c->next)
    add_note (frozen, c);
  frozen->next = model->being_taken;
  model->being_taken = frozen;
  pthread_mutex_unlock (&model->lock);
  return frozen;
}

void
frozen_unanswered (struct frozen *frozen)
{
  struct model *model = frozen->model;

  pthread_mutex_lock (&model->lock);
  frozen->unbounded = true;
  pthread_cond_broadcast (&model->room);
  pthread_mutex_unlock (&model->lock);
}

void
frozen_end (struct frozen *frozen)
{
  struct model *model = frozen->model;
  struct frozen **link = &model->being_taken;

  pthread_mutex_lock (&model->lock);
  while (*link != frozen)
    link = &(*link)->next;
  *link = frozen->next;
  pthread_cond_broadcast (&model->room);
  pthread_mutex_unlock (&model->lock);
}

void
frozen_set_free (struct frozen *frozen, uint64_t offset, uint64_t length)
{
  struct change *zeros = new_change (offset, length, NULL);

  add_note (frozen, zeros);
  release (zeros);
}

/* No more notes: which ones does no other meet? */
static void
seal (struct frozen *frozen)
{
  for (unsigned n = 0; n < frozen->count; n++) {
    struct note *note = &frozen->notes[n];
    const struct change *change = note->change;

    note->alone = change->data != NULL;
    for (uint64_t i = 0; i < change->length && note->alone; i++)
      note->alone = frozen->doubt[change->offset + i] == 1;
  }
  frozen->sealed = true;
}

/* Settle a note that is alone by what was read, if that tells.  NULL, or
 * what is wrong.
 */
static char *
settle_note (struct frozen *frozen, struct note *note, const uint8_t *is,
             uint64_t offset, uint64_t length, bool *settled)
{
  const struct change *change = note->change;
  uint64_t from, to;

  if (!note->open || !note->alone
      || !share (change, offset, length, &from, &to))
    return NULL;
  const size_t n = to - from;
  const bool in = !change->refused
                  && memcmp (is + (from - offset),
                             change->data + (from - change->offset), n)
                         == 0;
  const bool out = memcmp (is + (from - offset), frozen->bytes + from, n) == 0;
  if (in && out)
    return NULL;
  if (!in && !out)
    return message ("has neither all nor nothing of a %schange of %" PRIu64
                    " bytes at %" PRIu64 " (read %" PRIu64 " at %" PRIu64 ")",
                    change->refused ? "refused " : "", change->length,
                    change->offset, length, offset);
  if (in)
    memcpy (frozen->bytes + change->offset, change->data, change->length);
  memset (frozen->doubt + change->offset, 0, change->length);
  note->open = false;
  note->in = in;
  *settled = true;
  return NULL;
}

/* Is there an instant that all that is settled fits to? */
static char *
check_instant (const struct frozen *frozen)
{
  const struct change *in = NULL, *out = NULL;

  for (unsigned n = 0; n < frozen->count; n++) {
    const struct note *note = &frozen->notes[n];
    const struct change *change = note->change;

    if (note->open || change->refused)
      continue;
    if (note->in && (in == NULL || change->begun > in->begun))
      in = change;
    if (!note->in && (out == NULL || change->ended < out->ended))
      out = change;
  }
  if (in == NULL || out == NULL || in->begun < out->ended)
    return NULL;
  return message ("has the change of %" PRIu64 " bytes at %" PRIu64
                  ", but not an earlier one of %" PRIu64 " at %" PRIu64,
                  in->length, in->offset, out->length, out->offset);
}

/* What is not alone is settled in this range. */
static void
settle_range (struct frozen *frozen, uint64_t offset, uint64_t length)
{
  for (unsigned n = 0; n < frozen->count; n++) {
    const struct note *note = &frozen->notes[n];
    uint64_t from, to;
    if (!note->alone && share (note->change, offset, length, &from, &to))
      memset (frozen->doubt + from, 0, to - from);
  }
}

/* Compare, and settle what several notes meet in. */
static char *
settle_bytes (struct frozen *frozen, const uint8_t *is, uint64_t offset,
              uint64_t length)
{
  struct model *model = frozen->model;
  uint8_t *should = frozen->bytes + offset;
  const uint8_t *doubt = frozen->doubt + offset;

  if (memcmp (is, should, length) != 0) {
    uint8_t *may = must (calloc (1, length));
    for (unsigned n = 0; n < frozen->count; n++)
      if (frozen->notes[n].open)
        allow (frozen->notes[n].change, is, offset, length, may);
    for (uint64_t i = 0; i < length; i++)
      may[i] = is[i] == should[i] || (may[i] && doubt[i] > 0);
    pthread_mutex_lock (&model->lock);
    char *wrong
        = complain (may, is, should, model->bytes + offset, offset, length);
    pthread_mutex_unlock (&model->lock);
    free (may);
    if (wrong != NULL)
      return wrong;
    memcpy (should, is, length);
  }
  settle_range (frozen, offset, length);
  return NULL;
}

char *
frozen_check (struct frozen *frozen, const uint8_t *is, uint64_t offset,
              uint64_t length)
{
  bool settled = false;
  char *wrong = NULL;

  pthread_mutex_lock (&frozen->lock);
  if (!frozen->sealed)
    seal (frozen);
  for (unsigned n = 0; n < frozen->count && wrong == NULL; n++)
    wrong
        = settle_note (frozen, &frozen->notes[n], is, offset, length, &settled);
  if (wrong == NULL)
    wrong = settle_bytes (frozen, is, offset, length);
  if (wrong == NULL && settled)
    wrong = check_instant (frozen);
  pthread_mutex_unlock (&frozen->lock);
  return wrong;
}

void
frozen_free (struct frozen *frozen)
{
  for (unsigned n = 0; n < frozen->count; n++)
    release (frozen->notes[n].change);
  pthread_mutex_destroy (&frozen->lock);
  free (frozen->notes);
  free (frozen->bytes);
  free (frozen->doubt);
  free (frozen);
}
