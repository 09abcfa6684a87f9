/* SPDX-License-Identifier: BSD-3-Clause */

#include "roster.h"
#include "ask.h"
#include "load.h"
#include "story.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ENTRIES_MAX 64

static struct model *model;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Under LOCK, as is what follows; in the order of their instants as far as
 * that is known.
 */
static struct entry *entries[ENTRIES_MAX];
static unsigned count;

/* Until when those were frozen that were deleted and may have been broken:
 * older ones may be blocked by them.
 */
static uint64_t mark;

void
roster_init (struct model *of)
{
  model = of;
  mark = 0;
}

/* Its creation is answered, or never will be.  LOCK is not needed. */
static void
end_creation (struct entry *entry)
{
  if (entry->answered != 0)
    return;
  frozen_end (entry->frozen);
  entry->answered = model_now (model);
}

static void
free_entry (struct entry *entry)
{
  end_creation (entry);
  frozen_free (entry->frozen);
  json_decref (entry->facts);
  free (entry);
}

void
roster_clear (void)
{
  while (count > 0)
    free_entry (entries[--count]);
}

struct entry *
roster_add (const char *name, bool ephemeral, bool may_break, bool finished)
{
  struct entry *entry = calloc (1, sizeof *entry);

  if (entry == NULL)
    abort ();
  snprintf (entry->name, sizeof entry->name, "%s", name);
  entry->ephemeral = ephemeral;
  entry->may_break = may_break;
  entry->finished = finished;
  entry->asked = model_now (model);
  entry->frozen = frozen_begin (model);
  pthread_mutex_lock (&lock);
  if (count == ENTRIES_MAX)
    abort ();
  entries[count++] = entry;
  pthread_mutex_unlock (&lock);
  return entry;
}

static enum level
level_of (const json_t *facts)
{
  static const char *const words[] = { "async", "written", "stable" };
  const char *word = ask_text (facts, "durability");

  for (unsigned i = 0; i < 3 && word != NULL; i++)
    if (strcmp (word, words[i]) == 0)
      return (enum level)i;
  wrong ("durability is %s", word != NULL ? word : "nothing");
}

/* What is known of it by what the server says, for the first time. */
static void
learn (struct entry *entry, const json_t *facts)
{
  const char *name = ask_text (facts, "name");

  if (strcmp (name != NULL ? name : "", entry->name) != 0)
    wrong ("a snapshot '%s' has become '%s'", entry->name,
           name != NULL ? name : "");
  entry->number = (unsigned)ask_number (facts, "snapnumber");
  entry->level = level_of (facts);
  entry->facts = json_deep_copy (facts);
  for (unsigned i = 0; i < count; i++)
    if (entries[i] != entry && entries[i]->number == entry->number
        && entries[i]->created && !entries[i]->deleting)
      wrong ("two snapshots have the number %u", entry->number);
}

void
roster_created (struct entry *entry, const json_t *answer)
{
  pthread_mutex_lock (&lock);
  end_creation (entry);
  learn (entry, answer);
  entry->created = entry->finished;
  pthread_mutex_unlock (&lock);
}

void
roster_finish (struct entry *entry)
{
  pthread_mutex_lock (&lock);
  entry->finished = true;
  pthread_mutex_unlock (&lock);
}

void
roster_finished (struct entry *entry)
{
  pthread_mutex_lock (&lock);
  entry->created = true;
  pthread_mutex_unlock (&lock);
}

static void
remove_entry (struct entry *entry)
{
  unsigned i = 0;

  while (entries[i] != entry)
    i++;
  memmove (entries + i, entries + i + 1,
           (count - i - 1) * sizeof (struct entry *));
  count--;
}

/* As far as is known. */
static bool
may_be_broken (const struct entry *entry)
{
  return entry->may_break || entry->broken
         || (entry->killed
             && (entry->facts == NULL || entry->level == LEVEL_ASYNC));
}

/* Reads of older ones may fail for good. */
static void
leave_mark (const struct entry *entry)
{
  if (may_be_broken (entry) && entry->answered > mark)
    mark = entry->answered;
}

void
roster_drop (struct entry *entry)
{
  pthread_mutex_lock (&lock);
  leave_mark (entry);
  remove_entry (entry);
  pthread_mutex_unlock (&lock);
  free_entry (entry);
}

static bool
can_be_read (const struct entry *entry)
{
  return entry->created && !entry->deleting;
}

unsigned
roster_count (void)
{
  unsigned n = 0;

  pthread_mutex_lock (&lock);
  for (unsigned i = 0; i < count; i++)
    n += can_be_read (entries[i]);
  pthread_mutex_unlock (&lock);
  return n;
}

struct entry *
roster_read (uint64_t *random)
{
  struct entry *entry = NULL;

  pthread_mutex_lock (&lock);
  if (count > 0)
    entry = entries[random_below (random, count)];
  if (entry != NULL && !can_be_read (entry))
    entry = NULL;
  if (entry != NULL)
    entry->readers++;
  pthread_mutex_unlock (&lock);
  return entry;
}

void
roster_release (struct entry *entry)
{
  pthread_mutex_lock (&lock);
  const bool last = --entry->readers == 0 && entry->gone;
  pthread_mutex_unlock (&lock);
  if (last)
    free_entry (entry);
}

struct entry *
roster_begin_delete (uint64_t *random, bool force, bool unnamed)
{
  struct entry *entry = NULL;

  pthread_mutex_lock (&lock);
  if (count > 0)
    entry = entries[random_below (random, count)];
  if (entry != NULL
      && (!can_be_read (entry) || (entry->readers > 0 && !force)
          || (entry->name[0] == '\0') != unnamed))
    entry = NULL;
  if (entry != NULL) {
    entry->deleting = true;
    entry->forced = force;
  }
  pthread_mutex_unlock (&lock);
  return entry;
}

void
roster_end_delete (struct entry *entry, bool done)
{
  pthread_mutex_lock (&lock);
  if (done) {
    leave_mark (entry);
    remove_entry (entry);
    entry->gone = true;
  }
  else
    entry->deleting = entry->forced = false;
  const bool last = done && entry->readers == 0;
  pthread_mutex_unlock (&lock);
  if (last)
    free_entry (entry);
}

/* LOCK is held.  A newer one broke, or may have. */
static bool
may_be_blocked (const struct entry *entry)
{
  if (entry->asked < mark)
    return true;
  for (unsigned i = 0; i < count; i++)
    if (entries[i] != entry
        && (entries[i]->answered == 0 || entries[i]->answered > entry->asked)
        && may_be_broken (entries[i]))
      return true;
  return false;
}

bool
roster_is_forced (struct entry *entry)
{
  pthread_mutex_lock (&lock);
  const bool forced = entry->forced;
  pthread_mutex_unlock (&lock);
  return forced;
}

bool
roster_may_fail (struct entry *entry)
{
  pthread_mutex_lock (&lock);
  const bool may
      = entry->forced || may_be_broken (entry) || may_be_blocked (entry);
  pthread_mutex_unlock (&lock);
  return may || ending_has_begun ();
}

void
roster_ended (enum outcome outcome)
{
  unsigned i = 0;

  while (i < count) {
    struct entry *entry = entries[i];

    end_creation (entry);
    entry->listed = false;
    if (!entry->finished || entry->ephemeral) {
      leave_mark (entry);
      remove_entry (entry);
      free_entry (entry);
      continue;
    }
    entry->killed |= outcome != OUTCOME_ENDED;
    entry->lost |= outcome == OUTCOME_KILLED;
    i++;
  }
}

bool
roster_has_any (void)
{
  for (unsigned i = 0; i < count; i++)
    if (entries[i]->created && !entries[i]->deleting)
      return true;
  return false;
}

bool
roster_may_have_unnamed (void)
{
  for (unsigned i = 0; i < count; i++)
    if (entries[i]->name[0] == '\0'
        && (!entries[i]->created || entries[i]->deleting))
      return true;
  return false;
}

struct entry *
roster_at (unsigned i)
{
  return i < count ? entries[i] : NULL;
}

/* --- what the server lists ----------------------------------------------- */

static bool
has_name (const struct entry *entry, const json_t *item)
{
  const char *name = ask_text (item, "name");

  return strcmp (name != NULL ? name : "", entry->name) == 0;
}

/* Of those whose number is not known, if NUMBER is 0. */
static struct entry *
find (const json_t *item, unsigned number)
{
  for (unsigned i = 0; i < count; i++)
    if (entries[i]->number == number && has_name (entries[i], item))
      return entries[i];
  return NULL;
}

/* What never changes. */
static void
compare_facts (const json_t *is, const json_t *was)
{
  static const char *const keys[]
      = { "snapnumber",    "name",          "export",     "origin",
          "size",          "createtime",    "maxsize",    "chunksize",
          "backfile-size", "backing-store", "durability", "on-error",
          "cow-timeout",   "ephemeral",     "store" };

  for (unsigned i = 0; i < sizeof keys / sizeof keys[0]; i++) {
    const json_t *a = json_object_get (is, keys[i]);
    const json_t *b = json_object_get (was, keys[i]);
    if (a != b && !json_equal (a, b))
      wrong ("snapshot %d: %s was %s and is %s",
             (int)ask_number (is, "snapnumber"), keys[i],
             json_dumps (b, JSON_ENCODE_ANY), json_dumps (a, JSON_ENCODE_ANY));
  }
}

/* LOCK is held.  QUIET: nothing changes meanwhile. */
static void
compare_state (struct entry *entry, const json_t *item, bool quiet)
{
  const char *state = ask_text (item, "state");
  const char *reason = ask_text (item, "broken-reason");
  const json_t *blocked = json_object_get (item, "blocked-by");
  const bool broken = reason != NULL;

  if (state == NULL
      || (quiet && strcmp (state, broken ? "disabled" : "idle") != 0))
    wrong ("snapshot %u is %s, and broken because of %s", entry->number, state,
           broken ? reason : "nothing");
  if (broken && !may_be_broken (entry))
    wrong ("snapshot %u is broken: %s", entry->number, reason);
  if (!broken
      && (entry->broken || (entry->lost && entry->level == LEVEL_ASYNC)))
    wrong ("snapshot %u was lost, and is %s", entry->number, state);
  if (json_is_integer (blocked) && !may_be_blocked (entry))
    wrong ("snapshot %u is blocked by %d", entry->number,
           (int)json_integer_value (blocked));
  entry->broken = broken;
  entry->blocked = json_is_integer (blocked);
}

void
roster_see (const json_t *list)
{
  const json_t *item;
  size_t i;

  pthread_mutex_lock (&lock);
  json_array_foreach (list, i, item)
  {
    struct entry *entry
        = find (item, (unsigned)ask_number (item, "snapnumber"));
    /* Others may have changed it since. */
    if (entry == NULL || !can_be_read (entry)
        || strcmp (ask_text (item, "state"), "creating") == 0)
      continue;
    compare_facts (item, entry->facts);
    compare_state (entry, item, false);
  }
  pthread_mutex_unlock (&lock);
}

/* Those before I are older: was that known otherwise?  And what an older one
 * reads through must be as durable as it is.
 */
static void
compare_order (struct entry *const *in_order, unsigned i)
{
  const struct entry *newer = in_order[i];

  for (unsigned j = 0; j < i; j++) {
    const struct entry *older = in_order[j];
    if (newer->answered < older->asked)
      wrong ("snapshot %u is listed before %u, and is newer", older->number,
             newer->number);
    if (newer->level < older->level && !older->broken)
      wrong ("snapshot %u is less durable than the older %u", newer->number,
             older->number);
  }
}

/* The one that is listed. */
static struct entry *
match (const json_t *item)
{
  const unsigned number = (unsigned)ask_number (item, "snapnumber");
  struct entry *entry = find (item, number);

  if (entry == NULL)
    entry = find (item, 0);
  if (entry == NULL || entry->listed) {
    const char *name = ask_text (item, "name");
    wrong ("snapshot %u (%s) is listed, and should not be", number,
           name != NULL ? name : "without a name");
  }
  end_creation (entry);
  if (entry->facts == NULL)
    learn (entry, item);
  compare_facts (item, entry->facts);
  entry->listed = true;
  return entry;
}

/* Those that were not listed need not be there. */
static void
drop_unlisted (void)
{
  unsigned i = 0;

  while (i < count) {
    struct entry *entry = entries[i];
    if (entry->listed) {
      i++;
      continue;
    }
    if (can_be_read (entry))
      wrong ("snapshot %u (%s) is not there any more", entry->number,
             entry->name);
    leave_mark (entry);
    remove_entry (entry);
    free_entry (entry);
  }
}

void
roster_match (const json_t *list)
{
  struct entry *in_order[ENTRIES_MAX];
  const unsigned n = (unsigned)json_array_size (list);

  pthread_mutex_lock (&lock);
  for (unsigned i = 0; i < n; i++)
    in_order[i] = match (json_array_get (list, i));
  drop_unlisted ();
  for (unsigned i = 0; i < n; i++) {
    in_order[i]->created = true;
    in_order[i]->deleting = in_order[i]->forced = false;
    compare_state (in_order[i], json_array_get (list, i), true);
  }
  for (unsigned i = 0; i < n; i++) {
    compare_order (in_order, i);
    in_order[i]->killed = in_order[i]->lost = false;
    entries[i] = in_order[i];
  }
  pthread_mutex_unlock (&lock);
}
