/* SPDX-License-Identifier: BSD-3-Clause */

#include "power-model.h"
#include "power-note.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct model *
model_create (uint64_t size)
{
  struct model *model = zalloc (sizeof *model);

  model->size = size;
  model->origin = zalloc (size);
  return model;
}

static void
forget_places (struct model *model)
{
  free (model->runs);
  free (model->ends);
  model->runs = model->ends = NULL;
  model->run_count = model->end_count = 0;
}

void
model_free (struct model *model)
{
  forget_places (model);
  for (unsigned i = 0; i < model->count; i++) {
    free (model->snaps[i]->content);
    free (model->snaps[i]);
  }
  free (model->snaps);
  free (model->origin);
  free (model);
}

unsigned
model_add (struct model *model, const char *name)
{
  struct snap *snap = zalloc (sizeof *snap);

  snprintf (snap->name, sizeof snap->name, "%s", name);
  for (unsigned i = 0; i < MARKS; i++)
    snap->at[i] = NEVER;
  model->snaps = one_more (model->snaps, model->count, sizeof (struct snap *));
  model->snaps[model->count] = snap;
  return model->count++;
}

void
model_mark (enum what what, unsigned snap)
{
  note_mark (what, snap);
}

void
model_learn (struct model *model, const struct disk *disk)
{
  forget_places (model);
  for (unsigned i = 0; i < disk->mark_count; i++) {
    const struct mark *mark = &disk->marks[i];
    if (mark->what == MARK_BEGINS) {
      model->runs
          = one_more (model->runs, model->run_count, sizeof *model->runs);
      model->runs[model->run_count++] = mark->place;
    }
    else if (mark->what == MARK_STOPS) {
      model->ends
          = one_more (model->ends, model->end_count, sizeof *model->ends);
      model->ends[model->end_count++] = mark->place;
    }
    else if (model->snaps[mark->which]->at[mark->what] == NEVER)
      model->snaps[mark->which]->at[mark->what] = mark->place;
  }
  model->begins = model->run_count > 0 ? model->runs[0] + 1 : 0;
}

bool
model_is_clean (const struct model *model, const struct crash *crash)
{
  bool clean = model->clean;
  uint64_t last = 0;

  for (unsigned i = 0; i < model->run_count; i++)
    if (model->runs[i] < crash->at) {
      last = model->runs[i];
      clean = false;
    }
  for (unsigned i = 0; i < model->end_count; i++)
    if (model->ends[i] < crash->at && model->ends[i] > last)
      clean = true;
  return clean;
}

struct duty
model_duty (const struct model *model, const struct snap *snap,
            const struct crash *crash)
{
  struct duty duty = { .presence = LISTED };
  bool is[MARKS];

  for (unsigned i = 0; i < MARKS; i++)
    is[i] = snap->at[i] < crash->at;
  const bool asked = is[MARK_FINISHING] || is[MARK_MADE];
  const bool again
      = snap->again != NULL && snap->again->at[MARK_MADE] < crash->at;
  if (!asked || again || is[MARK_DELETED] || snap->ephemeral)
    duty.presence = GONE;
  else if (!is[MARK_MADE] || is[MARK_DELETING])
    duty.presence = EITHER;

  if (is[MARK_BROKEN] || snap->may_break)
    duty.whole = false;
  else if (model_is_clean (model, crash))
    duty.whole = true;
  else
    duty.whole = snap->keeping >= (crash->power ? STABLE : WRITTEN);
  return duty;
}

struct model *
model_after (const struct model *model, const struct crash *crash,
             const uint8_t *origin)
{
  struct model *after = model_create (model->size);

  memcpy (after->origin, origin, model->size);
  after->clean = model_is_clean (model, crash);
  for (unsigned i = 0; i < model->count; i++) {
    const struct snap *snap = model->snaps[i];
    const struct duty duty = model_duty (model, snap, crash);
    if (duty.presence == GONE)
      continue;
    const unsigned index = model_add (after, snap->name);
    struct snap *same = after->snaps[index];
    *same = *snap;
    same->again = NULL;
    for (unsigned what = 0; what < MARKS; what++)
      same->at[what] = NEVER;
    if (snap->content != NULL) {
      same->content = zalloc (model->size);
      memcpy (same->content, snap->content, model->size);
    }
    /* Where this is not NEVER, load_record writes a mark. */
    same->at[MARK_FINISHING] = 0;
    if (duty.presence == LISTED)
      same->at[MARK_MADE] = 0;
    if (!duty.whole)
      same->at[MARK_BROKEN] = 0;
  }
  return after;
}
