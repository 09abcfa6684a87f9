/* SPDX-License-Identifier: BSD-3-Clause */
/* Every call in turn goes wrong, with a store.
 *
 * A fixed script of servers that start, take snapshots, write, delete, end and
 * start again is run again and again; in the N-th run the N-th call that can
 * fail does, until a run is over before its N-th call.
 *
 *   a snapshot reads the exact bytes of its instant, or it is broken, or the
 *   read is an error; in the servers that follow too
 *   a write never fails
 *   what was not made, or deleted, is not there, in the servers that follow too
 *   what failed was logged
 *   in the end no file is left that the catalogue does not know
 */

#include "cmocka-all.h"
#include "call-hook.h"
#include "closing.h"
#include "fixture.h"
#include "image.h"
#include "nbdkit-stub.h"
#include "restore.h"
#include "scoped.h"
#include "scratch.h"
#include "store.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define CHUNK 512
#define SIZE ((uint64_t)80 * CHUNK + 77)
#define TAKEN 3

struct fault {
  const char *name;
  int error;
  uint64_t most;
  bool transient; /* nobody must notice */
  bool memory;    /* only that, or all but that */
};

static const struct fault faults[] = {
  { .name = "EIO", .error = EIO },
  { .name = "ENOSPC", .error = ENOSPC },
  { .name = "ENOMEM", .error = ENOMEM, .memory = true },
  { .name = "EINTR", .error = EINTR, .transient = true },
  { .name = "short", .most = 100, .transient = true },
};

static struct {
  struct fixture fixture;
  char path[256];
  const struct fault *fault;
  unsigned bad_call;
  atomic_bool over; /* nothing goes wrong any more */
  atomic_uint calls;
  atomic_bool hit;
  struct closing *closing;
  uint8_t origin[SIZE]; /* the model */
  struct {
    uint8_t bytes[SIZE];
    bool there;
  } taken[TAKEN];
} run;

static int step; /* of the script, for messages */

#define run_assert(condition)                                                  \
  do {                                                                         \
    if (!(condition)) {                                                        \
      call_hook_set (NULL);                                                    \
      messages_show ();                                                        \
      print_message ("%s at call %u, step %d\n", run.fault->name,              \
                     run.bad_call, step);                                      \
      assert_true (condition);                                                 \
    }                                                                          \
  } while (0)

static bool
can_go_wrong (const struct call_event *event)
{
  switch (event->call) {
  case CALL_WAIT:
    return false;
  case CALL_MEMORY:
    return run.fault->memory;
  case CALL_PREAD:
  case CALL_PWRITE:
  case CALL_PWRITEV:
    /* What the origin's writes do is another test's business. */
    return !run.fault->memory && !fixture_is_origin (&run.fixture, event->fd);
  default:
    return !run.fault->memory && !run.fault->transient
           && !fixture_is_origin (&run.fixture, event->fd);
  }
}

static struct call_verdict
go_wrong_in_turn (const struct call_event *event)
{
  if (atomic_load (&run.over) || !can_go_wrong (event)
      || atomic_fetch_add (&run.calls, 1) + 1 != run.bad_call)
    return (struct call_verdict){ 0 };
  atomic_store (&run.hit, true);
  return (struct call_verdict){ .error = run.fault->error,
                                .most = run.fault->most };
}

/* --- steps --------------------------------------------------------------- */

static bool
try_to_serve (void)
{
  struct fixture *f = &run.fixture;

  f->set = snapset_create (f->origin, &engine_sync, NULL, 16 << 20);
  if (f->set == NULL)
    return false;
  f->store = store_open (run.path);
  if (f->store != NULL)
    snapset_use_store (f->set, f->store);
  if (f->store != NULL && restore_snapshots (f->set) == 0
      && (run.closing = closing_create (f->set)) != NULL
      && store_start (f->store) == 0 && snapset_start (f->set) == 0)
    return true;
  closing_free (run.closing);
  run.closing = NULL;
  if (f->store != NULL)
    store_stop (f->store, 60);
  snapset_stop (f->set, 60);
  snapset_free (f->set);
  f->set = NULL;
  store_close (f->store);
  f->store = NULL;
  return false;
}

static void
serve (void)
{
  messages_clear ();
  call_hook_set (go_wrong_in_turn);
  const bool r = try_to_serve ();
  call_hook_set (NULL);
  if (!r) {
    run_assert (atomic_load (&run.hit) && !run.fault->transient);
    run_assert (messages_count () > 0);
    run_assert (try_to_serve ());
  }
  /* Threads of the test's own, whose memory shall not fail. */
  server_runs ();
  fixture_reclaim (&run.fixture);
}

static void
take (unsigned i, enum durability durability, bool with_free)
{
  static const char me;
  char name[8];
  struct snapshot_options *options = &run.fixture.options;

  snprintf (name, sizeof name, "s%u", i);
  options->name = name;
  options->durability = durability;
  options->creator = with_free ? &me : NULL;
  call_hook_set (go_wrong_in_turn);
  struct snapshot *s = snapset_freeze (run.fixture.set, options);
  if (s == NULL) {
    run_assert (atomic_load (&run.hit) && !run.fault->transient);
    run_assert (messages_count () > 0);
    call_hook_set (NULL);
    return;
  }
  memcpy (run.taken[i].bytes, run.origin, SIZE);
  run.taken[i].there = true;
  if (with_free) {
    snapshot_set_free (s, 20 * CHUNK, 10 * CHUNK);
    memset (run.taken[i].bytes + 20 * CHUNK, 0, 10 * CHUNK);
    if (snapset_finish (run.fixture.set, name, &me) == -1) {
      run_assert (atomic_load (&run.hit) && messages_count () > 0);
      /* To be abandoned, as when the connection goes. */
      snapset_abandon (run.fixture.set, &me);
      run.taken[i].there = false;
    }
  }
  call_hook_set (NULL);
  snapset_unpin (run.fixture.set, s);
}

static void
write_some (unsigned first, unsigned count, uint8_t value)
{
  call_hook_set (go_wrong_in_turn);
  const int r = fixture_write (&run.fixture, first * (uint64_t)CHUNK,
                               count * (uint64_t)CHUNK, value);
  call_hook_set (NULL);
  run_assert (r == 0);
  memset (run.origin + first * CHUNK, value, count * CHUNK);
}

static void
check (void)
{
  static uint8_t buf[SIZE];

  for (unsigned i = 0; i < TAKEN; i++) {
    char name[8];

    snprintf (name, sizeof name, "s%u", i);
    struct snapshot *s = snapset_find (run.fixture.set, name);
    run_assert ((s != NULL) == run.taken[i].there);
    if (s == NULL)
      continue;
    if (view_read (run.fixture.set, s, buf, SIZE, 0) == 0)
      run_assert (memcmp (buf, run.taken[i].bytes, SIZE) == 0);
    else
      run_assert (atomic_load (&run.hit) && !run.fault->transient);
  }
}

static void delete (unsigned i)
{
  char name[8];
  unsigned number;

  if (!run.taken[i].there)
    return;
  snprintf (name, sizeof name, "s%u", i);
  call_hook_set (go_wrong_in_turn);
  const int r = snapset_delete (run.fixture.set, name, true, NULL, &number);
  call_hook_set (NULL);
  if (r == -1)
    run_assert (atomic_load (&run.hit) && messages_count () > 0);
  run.taken[i].there = r == -1;
}

static void
settle (void)
{
  call_hook_off = true; /* of the test's own calls */
  call_hook_set (go_wrong_in_turn);
  fixture_settle (&run.fixture);
  call_hook_set (NULL);
  call_hook_off = false;
}

static void
end (bool clean)
{
  struct fixture *f = &run.fixture;

  assert_int_equal (reclaim_stop (f->reclaim, 60), 0);
  reclaim_free (f->reclaim);
  f->reclaim = NULL;
  call_watch.cond = NULL;
  if (clean) {
    assert_int_equal (closing_start (run.closing), 0);
    call_hook_set (go_wrong_in_turn);
    server_ends ();
    assert_int_equal (closing_finish (run.closing, 60), 0);
    call_hook_set (NULL);
  }
  closing_free (run.closing);
  run.closing = NULL;
  fixture_end (f, false);
}

static unsigned
files_there (void)
{
  DIR *dir = opendir (run.path);
  const struct dirent *entry;
  unsigned n = 0;

  assert_non_null (dir);
  while ((entry = readdir (dir)) != NULL)
    n += entry->d_name[0] != '.';
  closedir (dir);
  return n;
}

static void
check_files (void)
{
  struct catalog catalog;
  unsigned files = 3;

  image_catalog (run.path, &catalog);
  run_assert (catalog.making == NULL && catalog.removing == NULL);
  for (const struct catalog_layer *l = catalog.layers; l != NULL; l = l->next)
    files += l->parts;
  catalog_free (&catalog);
  run_assert (files_there () == files);
}

static void
tear_down (void)
{
  call_hook_set (NULL);
  call_hook_off = false;
  closing_free (run.closing);
  run.closing = NULL;
  if (run.fixture.origin != NULL)
    fixture_close (&run.fixture);
  run.fixture.origin = NULL;
  scratch_remove ();
}

#define STEP(what)                                                             \
  do {                                                                         \
    step++;                                                                    \
    what;                                                                      \
  } while (0)

/* One run; false if it had no such call. */
static bool
run_once (void)
{
  run.fixture
      = (struct fixture){ .size = SIZE, .options = { .chunk_size = CHUNK } };
  snprintf (run.path, sizeof run.path, "%s", scratch_path ("store"));
  fixture_make_origin (&run.fixture);
  run.fixture.options.backing_store = run.path;
  run.fixture.options.cow_timeout = 60;
  memcpy (run.origin, run.fixture.old, SIZE);
  memset (run.taken, 0, sizeof run.taken);
  atomic_store (&run.calls, 0);
  atomic_store (&run.hit, false);
  atomic_store (&run.over, false);
  step = 0;

  STEP (serve ());
  STEP (take (0, DURABILITY_WRITTEN, false));
  STEP (write_some (0, 30, 1));
  STEP (take (1, DURABILITY_STABLE, true));
  STEP (write_some (10, 30, 2));
  STEP (take (2, DURABILITY_ASYNC, false));
  STEP (write_some (5, 60, 3));
  STEP (check ());
  STEP (delete (1));
  STEP (settle ());
  STEP (check ());
  STEP (end (true));
  STEP (serve ());
  STEP (check ());
  STEP (write_some (0, 80, 4));
  STEP (check ());
  STEP (delete (0));
  STEP (settle ());
  STEP (end (false));
  STEP (serve ());
  STEP (check ());
  STEP (write_some (0, 80, 5));
  STEP (settle ());
  STEP (end (true));

  const bool hit = atomic_load (&run.hit);
  if (run.fault->transient || !hit)
    run_assert (messages_count () == 0);
  atomic_store (&run.over, true);
  STEP (serve ());
  STEP (check ());
  STEP (settle ());
  STEP (end (true));
  check_files ();
  tear_down ();
  return hit;
}

static void
every_call (void **state)
{
  const char *given = getenv ("FSSNAP_CALL");

  tear_down (); /* what a test before has left that failed */
  run.fault = *state;
  for (unsigned call = given != NULL ? (unsigned)atoi (given) : 1;; call++) {
    run.bad_call = call;
    if (!run_once () || given != NULL)
      break;
  }
  if (given == NULL)
    print_message ("%s: %u calls\n", run.fault->name, atomic_load (&run.calls));
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    { "EIO", every_call, NULL, NULL, (void *)(uintptr_t)&faults[0] },
    { "ENOSPC", every_call, NULL, NULL, (void *)(uintptr_t)&faults[1] },
    { "ENOMEM", every_call, NULL, NULL, (void *)(uintptr_t)&faults[2] },
    { "EINTR", every_call, NULL, NULL, (void *)(uintptr_t)&faults[3] },
    { "short", every_call, NULL, NULL, (void *)(uintptr_t)&faults[4] },
  };

  const int r = cmocka_run_group_tests (tests, NULL, NULL);
  tear_down ();
  return r;
}
