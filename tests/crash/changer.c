/* SPDX-License-Identifier: BSD-3-Clause */
/* The hands that take and delete snapshots. */

#include "hand.h"
#include "ask.h"
#include "load.h"
#include "story.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Some of the options, the others are as the server was started. */
static json_t *
choose_options (struct hand *hand, bool *may_break)
{
  static const char *const levels[] = { "async", "written", "stable" };
  static const unsigned chunk_sizes[]
      = { 512, 1024, 4096, 4096, 4096, 16384, 65536, 262144 };
  const unsigned chunk_size = chunk_sizes[dice (hand, 8)];
  json_t *options = json_pack ("{s:i}", "chunksize", (int)chunk_size);
  const uint64_t groups = model_size (hand->model) / 64 / chunk_size + 1;
  const bool break_write = hand->temper.levels > 1 && dice (hand, 6) == 0;
  char path[128];

  unsigned level = dice (hand, hand->temper.levels);
  if (break_write && level == LEVEL_ASYNC)
    level = LEVEL_WRITTEN;
  if (dice (hand, 4) != 0)
    json_object_set_new (options, "durability", json_string (levels[level]));
  if (break_write)
    json_object_set_new (options, "on-error", json_string ("break-write"));
  else
    json_object_set_new (options, "on-error", json_string ("break-snapshot"));
  *may_break = dice (hand, hand->temper.limits ? 2 : 16) == 0;
  if (*may_break)
    json_object_set_new (
        options, "maxsize",
        json_integer ((256 << 10) + (int)dice (hand, 1 << 20)));
  if (*may_break && break_write)
    *may_break = false; /* writes fail instead */
  if (dice (hand, 4) == 0)
    json_object_set_new (
        options, "backfile-size",
        json_integer ((64 << 10)
                      + 64 * (json_int_t)chunk_size
                            * (json_int_t)(2 + groups / (1 + dice (hand, 8)))));
  if (dice (hand, 4) == 0) {
    static _Atomic unsigned serial;
    if (dice (hand, 2) == 0)
      snprintf (path, sizeof path, "%s/elsewhere", server.dir);
    else
      snprintf (path, sizeof path, "%s/elsewhere/file%u", server.dir,
                atomic_fetch_add (&serial, 1));
    json_object_set_new (options, "backing-store", json_string (path));
  }
  return options;
}

/* What the creator of ENTRY knows to be free. */
static bool
set_free (struct hand *hand, int control, struct entry *entry)
{
  const uint64_t chunk_size = (uint64_t)ask_number (entry->facts, "chunksize");
  const uint64_t size = model_size (hand->model);
  uint64_t offset, length;
  json_t *result;

  choose_range (hand, &offset, &length);
  const enum answer answer
      = ask (control, MOMENT_SET_FREE, "snapshot.set_free",
             json_pack ("{s:i, s:[[I, I]]}", "snapshot", (int)entry->number,
                        "ranges", (json_int_t)offset, (json_int_t)length),
             &result);
  if (answer == ANSWER_ERROR && !ending_has_begun ())
    wrong ("set_free: %s", ask_text (result, "message"));
  json_decref (result);
  const uint64_t end = offset + length == size
                           ? size
                           : (offset + length) / chunk_size * chunk_size;
  offset = (offset + chunk_size - 1) / chunk_size * chunk_size;
  if (offset < end)
    frozen_set_free (entry->frozen, offset, end - offset);
  return answer == ANSWER_RESULT;
}

static void
finish (struct hand *hand, int control, struct entry *entry)
{
  json_t *result;

  for (unsigned i = dice (hand, 4); i > 0; i--)
    if (!set_free (hand, control, entry))
      return;
  roster_finish (entry);
  const enum answer answer
      = ask (control, MOMENT_FINISH, "snapshot.create_done",
             json_pack ("{s:i}", "snapshot", (int)entry->number), &result);
  if (answer == ANSWER_RESULT)
    roster_finished (entry);
  else if (answer == ANSWER_ERROR && !ending_has_begun ())
    wrong ("create_done: %s", ask_text (result, "message"));
  json_decref (result);
}

/* Take one over CONTROL.  NULL: that was not answered. */
static struct entry *
create (struct hand *hand, int control, bool unnamed, bool creating)
{
  static _Atomic unsigned serial;
  char name[16] = "";
  bool may_break;
  json_t *options = choose_options (hand, &may_break), *result;
  json_t *params
      = json_pack ("{s:o, s:b}", "options", options, "creating", (int)creating);
  const bool ephemeral = dice (hand, 7) == 0;

  if (!unnamed) {
    snprintf (name, sizeof name, "s%u", atomic_fetch_add (&serial, 1));
    json_object_set_new (params, "name", json_string (name));
  }
  if (ephemeral)
    json_object_set_new (params, "ephemeral", json_true ());
  struct entry *entry = roster_add (name, ephemeral, may_break, !creating);
  const enum answer answer
      = ask (control, MOMENT_CREATE, "snapshot.create", params, &result);
  if (answer == ANSWER_RESULT) {
    roster_created (entry, result);
    crew_count (&deeds.taken);
    moment_passed (MOMENT_CREATED);
  }
  else if (answer == ANSWER_ERROR) {
    if (!ending_has_begun ())
      wrong ("create: %s", ask_text (result, "message"));
    roster_drop (entry);
  }
  else
    frozen_unanswered (entry->frozen);
  json_decref (result);
  return answer == ANSWER_RESULT ? entry : NULL;
}

/* One whose creator never says that it is done, and leaves some time. */
static void
create_unfinished (struct hand *hand)
{
  const unsigned i = dice (hand, UNFINISHED_MAX);

  if (hand->unfinished[i] != NULL) {
    struct entry *entry = hand->unfinished[i];
    hand->unfinished[i] = NULL;
    /* From the moment that the connection ends, its number is free. */
    roster_drop (entry);
    close (hand->creator[i]);
    return;
  }
  hand->creator[i] = ask_connect ();
  if (hand->creator[i] == -1)
    return;
  hand->unfinished[i] = create (hand, hand->creator[i], false, true);
  if (hand->unfinished[i] == NULL)
    close (hand->creator[i]);
}

static void
delete_one (struct hand *hand, bool unnamed)
{
  const bool force = dice (hand, 2) == 0;
  struct entry *entry = roster_begin_delete (&hand->random, force, unnamed);
  json_t *result;

  if (entry == NULL)
    return;
  const enum answer answer
      = ask (hand->control, MOMENT_DELETE, "snapshot.delete",
             json_pack ("{s:i, s:b}", "snapshot", (int)entry->number, "force",
                        (int)force),
             &result);
  if (answer == ANSWER_NONE)
    return;
  const char *err = ask_text (json_object_get (result, "data"), "errno");
  /* The server may not have seen yet that the last reader has gone. */
  if (answer == ANSWER_ERROR && !ending_has_begun ()
      && (force || err == NULL || strcmp (err, "EBUSY") != 0))
    wrong ("delete: %s", ask_text (result, "message"));
  json_decref (result);
  roster_end_delete (entry, answer == ANSWER_RESULT);
  if (answer == ANSWER_RESULT) {
    crew_count (&deeds.deleted);
    moment_passed (MOMENT_DELETED);
  }
}

static void
pause_some (struct hand *hand)
{
  const struct timespec time
      = { .tv_nsec = 1000L * (long)dice (hand, 1 + hand->temper.pause) };

  nanosleep (&time, NULL);
}

static void
list (struct hand *hand)
{
  json_t *result;

  if (ask (hand->control, MOMENT_NONE, "snapshot.list", NULL, &result)
      == ANSWER_RESULT)
    roster_see (json_object_get (result, "snapshots"));
  json_decref (result);
}

/* Those without names are the first one's alone: so there is never a doubt
 * which of them has a number.
 */
static void
change_snapshots (struct hand *hand)
{
  const bool unnamed = hand->first && dice (hand, 3) == 0;
  const unsigned choice = dice (hand, 16);

  if (choice == 0)
    create_unfinished (hand);
  else if (choice == 1 && hand->first)
    list (hand);
  else if (dice (hand, 2 * hand->temper.snapshots) < roster_count ())
    delete_one (hand, unnamed);
  else {
    const bool creating = dice (hand, 4) == 0;
    struct entry *entry = create (hand, hand->control, unnamed, creating);
    if (entry != NULL && creating)
      finish (hand, hand->control, entry);
  }
}

void *
changer_run (void *arg)
{
  struct hand *hand = arg;

  hand->control = ask_connect ();
  while (hand->control != -1 && !crew_is_over ()) {
    change_snapshots (hand);
    /* The first ones come at once. */
    if (hand->temper.pause > 0 && roster_count () >= hand->temper.snapshots / 2)
      pause_some (hand);
  }
  if (hand->control != -1)
    close (hand->control);
  for (unsigned i = 0; i < UNFINISHED_MAX; i++)
    if (hand->unfinished[i] != NULL) {
      close (hand->creator[i]);
      hand->unfinished[i] = NULL;
    }
  return NULL;
}
