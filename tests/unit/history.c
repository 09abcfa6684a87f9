/* SPDX-License-Identifier: BSD-3-Clause */

#include "cmocka-all.h"
#include "history.h"
#include "nbdkit-stub.h"
#include "scoped.h"

#include <errno.h>
#include <string.h>

void
history_begin (struct history *history, struct fixture *fixture)
{
  *history = (struct history){ .fixture = fixture };
  history->now = malloc (fixture->size);
  assert_non_null (history->now);
  memcpy (history->now, fixture->old, fixture->size);
}

void
history_free (struct history *history)
{
  free (history->now);
  for (unsigned i = 0; i < HISTORY_MAX; i++)
    free (history->frozen[i]);
  *history = (struct history){ 0 };
}

struct snapshot *
history_freeze (struct history *history)
{
  struct snapshot *snapshot = fixture_freeze (history->fixture);
  const unsigned number = snapshot->number;

  assert_true (number < HISTORY_MAX);
  assert_null (history->frozen[number]);
  history->frozen[number] = malloc (history->fixture->size);
  assert_non_null (history->frozen[number]);
  memcpy (history->frozen[number], history->now, history->fixture->size);
  return snapshot;
}

void
history_write (struct history *history, uint64_t offset, uint64_t count,
               uint8_t value)
{
  const int r = fixture_write (history->fixture, offset, count, value);

  if (r == -1)
    messages_show ();
  assert_int_equal (r, 0);
  memset (history->now + offset, value, count);
}

void
history_delete (struct history *history, unsigned number)
{
  struct snapshot *snapshot = fixture_find (history->fixture, number);

  assert_non_null (snapshot);
  fixture_delete (history->fixture, snapshot);
  free (history->frozen[number]);
  history->frozen[number] = NULL;
}

void
assert_holds_at (const char *file, int line, const struct history *history,
                 struct fixture *fixture, unsigned number)
{
  struct snapshot *snapshot = fixture_find (fixture, number);

  if (snapshot == NULL || snapshot_is_broken (snapshot)) {
    messages_show ();
    print_message ("snapshot %u is %s\n", number,
                   snapshot == NULL ? "not there" : "broken");
    _fail (file, line);
    return;
  }
  assert_reads_at (file, line, fixture, snapshot, history->frozen[number], 0,
                   snapshot->size);
}

void
assert_history_at (const char *file, int line, const struct history *history,
                   struct fixture *fixture)
{
  for (unsigned number = 1; number < HISTORY_MAX; number++)
    if (history->frozen[number] != NULL)
      assert_holds_at (file, line, history, fixture, number);
    else if (fixture_find (fixture, number) != NULL) {
      messages_show ();
      print_message ("snapshot %u is there\n", number);
      _fail (file, line);
    }
}

void
assert_broken_at (const char *file, int line, struct fixture *fixture,
                  unsigned number, const char *text)
{
  struct snapshot *snapshot = fixture_find (fixture, number);
  uint8_t byte;

  if (snapshot == NULL || !snapshot_is_broken (snapshot)) {
    messages_show ();
    print_message ("snapshot %u is %s\n", number,
                   snapshot == NULL ? "not there" : "whole");
    _fail (file, line);
    return;
  }
  SCOPED_FREE char *why = snapshot_why_broken (snapshot);
  if (why == NULL || strstr (why, text) == NULL) {
    print_message ("snapshot %u: %s\n", number, why != NULL ? why : "-");
    _fail (file, line);
  }
  if (view_read (fixture->set, snapshot, &byte, 1, 0) == 0 || errno != EIO) {
    print_message ("snapshot %u can be read\n", number);
    _fail (file, line);
  }
}
