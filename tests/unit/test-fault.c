/* SPDX-License-Identifier: BSD-3-Clause */
/* Every call in turn goes wrong.
 *
 * A fixed script of writes, zeros, trims, reads, freezes and deletions is run
 * again and again, while another thread clears away; in the N-th run the N-th
 * call that can fail does, until a run is over before its N-th call.  After
 * each step the whole origin, and at the end every snapshot, is compared with a
 * model:
 *
 *   a snapshot reads the exact bytes of its instant, or an error; never
 *   others
 *   break-snapshot: a write fails only if the call on the origin failed
 *   break-write: a write that failed has changed nothing, and the snapshot
 *   holds
 *   what was not made good was logged, once
 *   a deletion never fails, and of what is deleted nothing is left at the end
 */

#include "cmocka-all.h"
#include "call-hook.h"
#include "fixture.h"
#include "nbdkit-stub.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#define CHUNK 512

/* More than a bitmap group, and no multiple of anything. */
#define SIZE (80 * CHUNK + 777)

enum step_kind {
  FREEZE,
  WRITE,
  WRITE_FUA,
  ZERO,
  TRIM,
  FLUSH,
  READ_ORIGIN,
  READ_SNAPSHOTS,
  EXTENTS,
  DELETE, /* the OFFSET-th that was to be frozen */
  SETTLE, /* wait until all is cleared away */
};

struct step {
  enum step_kind kind;
  uint64_t offset, count;
};

static const struct step script[] = {
  { FREEZE, 0, 0 },
  { WRITE, 0, 1 },
  { WRITE, 3 * CHUNK - 100, 200 },
  { READ_SNAPSHOTS, 0, 0 },
  { WRITE, 60 * CHUNK, 8 * CHUNK },
  { ZERO, 5 * CHUNK + 10, 3 * CHUNK },
  { TRIM, 2 * CHUNK, 8 * CHUNK },
  { EXTENTS, 0, SIZE },
  { FREEZE, 0, 0 },
  { WRITE_FUA, 2 * CHUNK, 6 * CHUNK },
  { READ_ORIGIN, 0, SIZE },
  { WRITE, SIZE - 10, 10 },
  { FLUSH, 0, 0 },
  { READ_SNAPSHOTS, 0, 0 },
  { ZERO, 62 * CHUNK, 4 * CHUNK },
  { WRITE, 0, SIZE },
  { EXTENTS, 0, SIZE },
  { READ_SNAPSHOTS, 0, 0 },
  { FREEZE, 0, 0 },
  { WRITE, 20 * CHUNK, 30 * CHUNK },
  { DELETE, 1, 0 },
  { FREEZE, 0, 0 },
  { WRITE, 40 * CHUNK, 10 * CHUNK },
  { DELETE, 2, 0 },
  { SETTLE, 0, 0 },
  { READ_SNAPSHOTS, 0, 0 },
  { DELETE, 3, 0 },
  { WRITE, 0, SIZE },
  { SETTLE, 0, 0 },
  { EXTENTS, 0, SIZE },
  { READ_SNAPSHOTS, 0, 0 },
};

/* As many as the script freezes. */
#define SNAPSHOTS 4

/* What goes wrong. */
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

struct policy {
  enum on_error on_error;
  enum durability durability;
};

/* --- one run ------------------------------------------------------------ */

static struct {
  struct fixture fixture;
  const struct fault *fault;
  const struct policy *policy;
  unsigned bad_call;
  atomic_uint calls;
  atomic_bool hit;
  atomic_bool hit_origin_change; /* and what it hit was a write to it */

  uint8_t origin[SIZE]; /* the model */
  uint8_t frozen[SNAPSHOTS][SIZE];
  struct snapshot *snapshots[SNAPSHOTS]; /* NULL: not made, or deleted */
  unsigned freezes;
} run;

static bool
can_go_wrong (const struct call_event *event)
{
  switch (event->call) {
  case CALL_WAIT:
  case CALL_UNLINK:
  case CALL_FCNTL:
    return false;
  case CALL_MEMORY:
    return run.fault->memory;
  case CALL_PREAD:
  case CALL_PWRITE:
  case CALL_PWRITEV:
  case CALL_PWRITEV2:
    return !run.fault->memory;
  case CALL_FALLOCATE:
    return !run.fault->memory && run.fault->most == 0;
  default:
    return !run.fault->memory && !run.fault->transient;
  }
}

static bool
changes (enum call call)
{
  return call == CALL_PWRITE || call == CALL_PWRITEV2 || call == CALL_FALLOCATE
         || call == CALL_FDATASYNC;
}

static struct call_verdict
go_wrong_in_turn (const struct call_event *event)
{
  if (!can_go_wrong (event)
      || atomic_fetch_add (&run.calls, 1) + 1 != run.bad_call)
    return (struct call_verdict){ 0 };
  atomic_store (&run.hit_origin_change,
                changes (event->call)
                    && fixture_is_origin (&run.fixture, event->fd));
  atomic_store (&run.hit, true);
  return (struct call_verdict){ .error = run.fault->error,
                                .most = run.fault->most };
}

/* Where a run went wrong for the test. */
#define run_assert(condition)                                                  \
  do {                                                                         \
    if (!(condition)) {                                                        \
      call_hook_set (NULL);                                                    \
      messages_show ();                                                        \
      print_message ("%s at call %u, step %d\n", run.fault->name,              \
                     run.bad_call, step_number);                               \
      assert_true (condition);                                                 \
    }                                                                          \
  } while (0)

static int step_number;

/* How many bytes of BUF are neither as in A nor as in B. */
static uint64_t
strangers (const uint8_t *buf, const uint8_t *a, const uint8_t *b,
           uint64_t count)
{
  uint64_t n = 0;

  for (uint64_t i = 0; i < count; i++)
    n += buf[i] != a[i] && buf[i] != b[i];
  return n;
}

/* After a step that should have made WANTED of the range, and did if DONE:
 * MAY_HALF says that anything between the old and that is right too.
 */
static void
check_origin (const struct step *step, const uint8_t *wanted, bool done,
              bool may_half)
{
  static uint8_t now[SIZE];
  const uint64_t end = step->offset + step->count;

  call_hook_off = true;
  run_assert (pread (run.fixture.fd, now, SIZE, 0) == SIZE);
  call_hook_off = false;
  run_assert (memcmp (now, run.origin, step->offset) == 0);
  run_assert (memcmp (now + end, run.origin + end, SIZE - end) == 0);
  if (may_half)
    run_assert (strangers (now + step->offset, run.origin + step->offset,
                           wanted, step->count)
                == 0);
  else
    run_assert (memcmp (now + step->offset,
                        done ? wanted : run.origin + step->offset, step->count)
                == 0);
  memcpy (run.origin, now, SIZE);
}

static void
check_freeze (void)
{
  const unsigned i = run.freezes++;
  struct snapshot *snapshot
      = snapset_freeze (run.fixture.set, &run.fixture.options);

  run.snapshots[i] = snapshot;
  if (snapshot == NULL) {
    run_assert (atomic_load (&run.hit));
    run_assert (messages_count () >= 1);
    return;
  }
  snapset_unpin (run.fixture.set, snapshot);
  memcpy (run.frozen[i], run.origin, SIZE);
}

/* Write, or write zeros, as the plugin does. */
static void
check_write (const struct step *step)
{
  static uint8_t wanted[SIZE];
  const bool zero = step->kind == ZERO, fua = step->kind == WRITE_FUA;
  const bool hit_before = atomic_load (&run.hit);

  memset (wanted, zero ? 0 : 0x80 + step_number, step->count);
  if (cow_begin_write (run.fixture.set, step->offset, step->count) == -1) {
    run_assert (run.policy->on_error == ON_ERROR_BREAK_WRITE);
    run_assert (!hit_before && atomic_load (&run.hit));
    run_assert (!run.fault->transient);
    check_origin (step, wanted, false, false);
    return;
  }
  int r = -1;
  errno = EOPNOTSUPP;
  if (zero)
    r = origin_zero (run.fixture.origin, step->count, step->offset, true,
                     false);
  if (r == -1 && errno == EOPNOTSUPP)
    r = origin_write (run.fixture.origin, wanted, step->count, step->offset,
                      fua);
  cow_end_write (run.fixture.set);
  if (r == -1) {
    run_assert (!hit_before && atomic_load (&run.hit_origin_change));
    run_assert (!run.fault->transient);
  }
  check_origin (step, wanted, r == 0, r == -1);
}

static void
check_trim (const struct step *step)
{
  static const uint8_t zeros[SIZE];
  const uint64_t end = step->offset + step->count;
  uint64_t length;

  snapset_enter (run.fixture.set);
  for (uint64_t offset = step->offset; offset < end; offset += length)
    if (cow_is_kept (run.fixture.set, offset, end - offset, &length)
        && origin_trim (run.fixture.origin, length, offset, false) == -1)
      run_assert (atomic_load (&run.hit_origin_change));
  snapset_leave (run.fixture.set);
  check_origin (step, zeros, true, true);
}

/* False if it was an error. */
static bool
check_snapshot (unsigned i, uint64_t offset, uint64_t count)
{
  static uint8_t buf[SIZE];

  if (view_read (run.fixture.set, run.snapshots[i], buf, count, offset) == 0) {
    run_assert (memcmp (buf, run.frozen[i] + offset, count) == 0);
    return true;
  }
  run_assert (atomic_load (&run.hit));
  run_assert (!run.fault->transient);
  return false;
}

/* What is called a hole must be zeros. */
static void
check_extents (unsigned i, const struct step *step)
{
  static const uint8_t zeros[SIZE];
  struct nbdkit_extents extents = { 0 };

  if (view_extents (run.fixture.set, run.snapshots[i], step->count,
                    step->offset, false, &extents)
      == -1) {
    run_assert (atomic_load (&run.hit));
    run_assert (!run.fault->transient);
  }
  for (unsigned k = 0; k < extents.count; k++)
    if (extents.extent[k].type & NBDKIT_EXTENT_ZERO)
      run_assert (memcmp (run.frozen[i] + extents.extent[k].offset, zeros,
                          extents.extent[k].length)
                  == 0);
}

static void
check_delete (unsigned i)
{
  char who[16];
  unsigned number;

  if (run.snapshots[i] == NULL)
    return;
  snprintf (who, sizeof who, "%u", run.snapshots[i]->number);
  run_assert (snapset_delete (run.fixture.set, who, false, NULL, &number) == 0);
  run.snapshots[i] = NULL;
}

static void
check_step (const struct step *step)
{
  static uint8_t buf[SIZE];

  switch (step->kind) {
  case FREEZE:
    check_freeze ();
    break;
  case WRITE:
  case WRITE_FUA:
  case ZERO:
    check_write (step);
    break;
  case TRIM:
    check_trim (step);
    break;
  case FLUSH:
    run_assert (origin_flush (run.fixture.origin) == 0
                || atomic_load (&run.hit_origin_change));
    break;
  case READ_ORIGIN:
    if (origin_read (run.fixture.origin, buf, step->count, step->offset) == 0)
      run_assert (memcmp (buf, run.origin + step->offset, step->count) == 0);
    else
      run_assert (atomic_load (&run.hit) && !run.fault->transient);
    break;
  case READ_SNAPSHOTS:
    for (unsigned i = 0; i < SNAPSHOTS; i++)
      if (run.snapshots[i] != NULL)
        (void)check_snapshot (i, 0, SIZE);
    break;
  case EXTENTS:
    for (unsigned i = 0; i < SNAPSHOTS; i++)
      if (run.snapshots[i] != NULL)
        check_extents (i, step);
    break;
  case DELETE:
    check_delete ((unsigned)step->offset);
    break;
  case SETTLE:
    call_hook_off = true; /* of the test's own calls */
    fixture_settle (&run.fixture);
    call_hook_off = false;
    break;
  }
}

/* How many messages say what went wrong, and not that a read found out: by
 * the mark, or by the file whose space was being given back.
 */
static unsigned
causes_logged (void)
{
  unsigned n = messages_count () - messages_with ("cannot be read: snapshot")
               - messages_with ("its old content was unreadable");
  char read[256], lseek[256];

  snprintf (read, sizeof read, "store %s: read of", test_directory ());
  snprintf (lseek, sizeof lseek, "store %s: lseek of", test_directory ());
  for (unsigned i = 0; i < SNAPSHOTS; i++)
    if (run.snapshots[i] != NULL && snapshot_is_broken (run.snapshots[i]))
      return n - messages_with (read) - messages_with (lseek);
  return n;
}

/* The whole outcome, with nothing going wrong any more. */
static void
check_outcome (void)
{
  const bool may_break = run.policy->on_error == ON_ERROR_BREAK_SNAPSHOT
                         && atomic_load (&run.hit) && !run.fault->transient;
  bool all_good = true;

  fixture_settle (&run.fixture);
  for (unsigned i = 0; i < SNAPSHOTS; i++)
    run_assert (may_break || run.snapshots[i] == NULL
                || !snapshot_is_broken (run.snapshots[i]));
  for (unsigned i = 0; i < SNAPSHOTS; i++)
    for (uint64_t offset = 0; run.snapshots[i] != NULL && offset < SIZE;
         offset += CHUNK)
      if (!check_snapshot (i, offset,
                           SIZE - offset < CHUNK ? SIZE - offset : CHUNK))
        all_good = false;
  run_assert (all_good || may_break);
  run_assert (all_good || messages_count () > 0);
  run_assert (causes_logged () <= 1);
  if (run.fault->transient || !atomic_load (&run.hit))
    run_assert (messages_count () == 0);

  for (unsigned i = 0; i < SNAPSHOTS; i++)
    check_delete (i);
  fixture_settle (&run.fixture);
  run_assert (fixture_layers (&run.fixture) == 0);
  run_assert (fixture_dropped (&run.fixture) == 0);
}

/* One run; false if it had no such call. */
static bool
run_once (void)
{
  run.fixture
      = (struct fixture){ .size = SIZE,
                          .memory = 1 << 20,
                          .options = { .chunk_size = CHUNK,
                                       .on_error = run.policy->on_error,
                                       .durability = run.policy->durability } };
  fixture_open (&run.fixture);
  memset (run.fixture.old + 7 * CHUNK, 0, 20 * CHUNK);
  assert_int_equal (pwrite (run.fixture.fd, run.fixture.old, SIZE, 0), SIZE);
  memcpy (run.origin, run.fixture.old, SIZE);
  memset (run.snapshots, 0, sizeof run.snapshots);
  run.freezes = 0;
  fixture_reclaim (&run.fixture);
  atomic_store (&run.calls, 0);
  atomic_store (&run.hit, false);
  atomic_store (&run.hit_origin_change, false);

  for (step_number = 0; step_number < (int)(sizeof script / sizeof script[0]);
       step_number++) {
    const struct step *step = &script[step_number];
    /* Creation makes no promise about calls that need no repeating there. */
    const bool asked = !(run.fault->transient && step->kind == FREEZE);
    call_hook_set (asked ? go_wrong_in_turn : NULL);
    check_step (step);
  }
  call_hook_set (NULL);
  check_outcome ();
  const bool hit = atomic_load (&run.hit);
  fixture_close (&run.fixture);
  return hit;
}

static void
every_call (void **state, enum on_error on_error, enum durability durability)
{
  const struct policy policy = { on_error, durability };

  run.fault = *state;
  run.policy = &policy;
  run.bad_call = 1;
  while (run_once ())
    run.bad_call++;
  assert_true (run.bad_call > 10); /* something did go wrong */
}

static void
break_snapshot_async (void **state)
{
  every_call (state, ON_ERROR_BREAK_SNAPSHOT, DURABILITY_ASYNC);
}

static void
break_snapshot_written (void **state)
{
  every_call (state, ON_ERROR_BREAK_SNAPSHOT, DURABILITY_WRITTEN);
}

static void
break_write_written (void **state)
{
  every_call (state, ON_ERROR_BREAK_WRITE, DURABILITY_WRITTEN);
}

static int
teardown (void **state)
{
  (void)state;
  call_hook_set (NULL);
  return 0;
}

#define POLICIES 3
#define FAULTS (sizeof faults / sizeof faults[0])

int
main (void)
{
  static const struct {
    const char *name;
    CMUnitTestFunction function;
  } policies[POLICIES] = {
    { "break_snapshot_async", break_snapshot_async },
    { "break_snapshot_written", break_snapshot_written },
    { "break_write_written", break_write_written },
  };
  struct CMUnitTest tests[POLICIES * FAULTS];
  char names[POLICIES * FAULTS][64];

  for (unsigned i = 0; i < POLICIES * FAULTS; i++) {
    const unsigned p = i / FAULTS, f = i % FAULTS;
    snprintf (names[i], sizeof names[i], "%s_%s_at_every_call",
              policies[p].name, faults[f].name);
    tests[i] = (struct CMUnitTest){
      .name = names[i],
      .test_func = policies[p].function,
      .teardown_func = teardown,
      .initial_state = (void *)(uintptr_t)&faults[f],
    };
  }
  return cmocka_run_group_tests (tests, NULL, NULL);
}
