/* SPDX-License-Identifier: BSD-3-Clause */
/* What a store that was not closed is good for: snapshots that are async are
 * lost with their server, those that are written with the machine; both say
 * so.  To the server another boot is another boot id in the catalogue.
 */

#include "store.h"

#include <signal.h>

static void
boot (struct world *w)
{
  lose_power (w->f);
  open_store (w);
}

static int
create_at (struct world *w, const char *level)
{
  return create_as (w, text (w->f, "'options':{'durability':'%s'}", level));
}

/* One of that level, in the state that ENDING leaves. */
static const uint8_t *
one_ended (struct world *w, const char *level, enum ending ending)
{
  const uint8_t *then = remember (w);

  open_store (w);
  create_at (w, level);
  overwrite_anywhere (w);
  end (w, ending);
  return then;
}

/* It is broken, and stays so; a new one can be had. */
static void
is_lost (struct world *w, const char *why)
{
  static const enum ending endings[] = { STOPPED, KILLED };

  snapshot_is_broken (w, 1, why);
  log_says (w->f, "snapshot 1", why);
  const uint8_t *second = remember (w);
  assert_int_equal (create_at (w, "written"), 2);
  overwrite_anywhere (w);
  const json_t *before = info (w->c, 1);
  for (unsigned i = 0; i < 2; i++) {
    restart (w, endings[i]);
    same_figures (before, info (w->c, 1),
                  "broken-reason broken-errno broken-time durability");
    snapshot_is_broken (w, 1, why);
    snapshot_is (w, 2, second);
  }
  delete (w, 1);
  restart (w, STOPPED);
  assert_string_equal (listed (w->c, true), "2");
  snapshot_is (w, 2, second);
}

static void
async_is_lost_by_a_kill (void **state)
{
  struct world w = new_world (*state);

  one_ended (&w, "async", KILLED);
  open_store (&w);
  is_lost (&w, "async");
}

/* Even if it has copied nothing yet that anyone knows of. */
static void
async_is_lost_by_a_kill_at_once (void **state)
{
  struct world w = new_world (*state);

  open_store (&w);
  create_at (&w, "async");
  restart (&w, KILLED);
  is_lost (&w, "async");
}

static void
async_is_lost_with_the_machine (void **state)
{
  struct world w = new_world (*state);

  one_ended (&w, "async", KILLED);
  boot (&w);
  is_lost (&w, "async");
}

static void
written_is_lost_with_the_machine (void **state)
{
  struct world w = new_world (*state);

  one_ended (&w, "written", KILLED);
  boot (&w);
  is_lost (&w, "written");
}

static void
survives_the_machine (struct fixture *f, const char *level, enum ending ending)
{
  struct world w = new_world (f);
  const uint8_t *then = one_ended (&w, level, ending);

  boot (&w);
  snapshot_is (&w, 1, then);
  overwrite_anywhere (&w);
  snapshot_is (&w, 1, then);
  /* no more than it was asked to be */
  assert_string_equal (string (info (w.c, 1), "durability"), level);
  end (&w, STOPPED);
  boot (&w);
  snapshot_is (&w, 1, then);
}

static void
stable_outlives_the_machine (void **state)
{
  survives_the_machine (*state, "stable", KILLED);
}

static void
async_that_was_stopped_outlives_the_machine (void **state)
{
  survives_the_machine (*state, "async", STOPPED);
}

static void
written_that_was_stopped_outlives_the_machine (void **state)
{
  survives_the_machine (*state, "written", STOPPED);
}

/* All are made stable when the server is told to end. */
static void
async_that_was_ending_outlives_the_machine (void **state)
{
  survives_the_machine (*state, "async", KILLED_WHILE_ENDING);
}

static void
written_that_was_ending_outlives_the_machine (void **state)
{
  survives_the_machine (*state, "written", KILLED_WHILE_ENDING);
}

/* The next server does not begin with what the last one ended with. */
static void
a_restart_is_async_again (void **state)
{
  struct world w = new_world (*state);

  one_ended (&w, "async", KILLED_WHILE_ENDING);
  open_store (&w);
  overwrite_anywhere (&w);
  restart (&w, KILLED);
  is_lost (&w, "async");
}

/* A store that was closed, and opened by a server that wrote nothing. */
static void
opening_it_makes_it_unclean (void **state)
{
  struct world w = new_world (*state);

  one_ended (&w, "written", STOPPED);
  open_store (&w);
  end (&w, KILLED);
  boot (&w);
  is_lost (&w, "written");
}

/* Each goes by its own level: the newer ones outlive the older ones. */
static void
each_goes_by_its_level (void **state)
{
  struct world w = new_world (*state);
  const uint8_t *then[4];

  open_store (&w);
  const char *const levels[] = { "async", "written", "stable" };
  for (int i = 1; i <= 3; i++) {
    then[i] = remember (&w);
    create_at (&w, levels[i - 1]);
    overwrite_anywhere (&w);
  }
  restart (&w, KILLED);
  snapshot_is_broken (&w, 1, "async");
  snapshot_is (&w, 2, then[2]);
  snapshot_is (&w, 3, then[3]);
  overwrite_anywhere (&w);
  end (&w, KILLED);
  boot (&w);
  snapshot_is_broken (&w, 1, "async");
  snapshot_is_broken (&w, 2, "written");
  snapshot_is (&w, 3, then[3]);
  origin_is_live (&w);
}

/* A server that could not be told of the end by SIGTERM, but by SIGINT. */
static void
sigint_is_as_good (void **state)
{
  struct world w = new_world (*state);
  const uint8_t *then = remember (&w);

  open_store (&w);
  create_at (&w, "async");
  overwrite_anywhere (&w);
  kill (w.f->server.pid, SIGINT);
  await_safety (w.f);
  end (&w, KILLED);
  boot (&w);
  snapshot_is (&w, 1, then);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    fixture_test (async_is_lost_by_a_kill),
    fixture_test (async_is_lost_by_a_kill_at_once),
    fixture_test (async_is_lost_with_the_machine),
    fixture_test (written_is_lost_with_the_machine),
    fixture_test (stable_outlives_the_machine),
    fixture_test (async_that_was_stopped_outlives_the_machine),
    fixture_test (written_that_was_stopped_outlives_the_machine),
    fixture_test (async_that_was_ending_outlives_the_machine),
    fixture_test (written_that_was_ending_outlives_the_machine),
    fixture_test (a_restart_is_async_again),
    fixture_test (opening_it_makes_it_unclean),
    fixture_test (each_goes_by_its_level),
    fixture_test (sigint_is_as_good),
  };

  return cmocka_run_group_tests_name ("store-boot", tests, NULL, NULL);
}
