/* SPDX-License-Identifier: BSD-3-Clause */

#include "cmocka-all.h"
#include "fake-engine.h"
#include "fixture.h"
#include "flusher.h"
#include "nbdkit-stub.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <string.h>
#include <unistd.h>

#define PIECE 4096

struct job {
  struct flush_job job;
  sem_t ended;
  unsigned times; /* DONE was called */
  int error;      /* and with what */
  unsigned turn;  /* as the how many-eth of all */
  uint8_t data[PIECE];
};

static struct {
  struct flusher *flusher;
  int fd;
  char path[32];
  atomic_bool cancelled;
  atomic_uint turns;
} here;

static void
done (struct flush_job *flush_job, int error)
{
  struct job *job = (struct job *)flush_job;

  job->times++;
  job->error = error;
  job->turn = atomic_fetch_add (&here.turns, 1);
  sem_post (&job->ended);
}

static int
setup (void **state)
{
  (void)state;
  messages_clear ();
  fake_reset (NULL);
  here.fd = unnamed_file (1 << 20, here.path);
  here.flusher = flusher_create (&engine_fake, NULL, SIZE_MAX);
  atomic_store (&here.cancelled, false);
  atomic_store (&here.turns, 0);
  return 0;
}

static int
teardown (void **state)
{
  (void)state;
  fake_let_go ();
  const int r = flusher_stop (here.flusher, 60);
  if (r == 0)
    flusher_free (here.flusher);
  close (here.fd);
  return r;
}

/* COUNT jobs of a PIECE each, of neighbours, linked. */
static void
make_jobs (struct job *jobs, unsigned count)
{
  for (unsigned i = 0; i < count; i++) {
    memset (&jobs[i], 0, sizeof jobs[i]);
    sem_init (&jobs[i].ended, 0, 0);
    memset (jobs[i].data, (int)i + 1, PIECE);
    jobs[i].job = (struct flush_job){
      .next = i + 1 < count ? &jobs[i + 1].job : NULL,
      .fd = here.fd,
      .offset = i * (uint64_t)PIECE,
      .data = jobs[i].data,
      .length = PIECE,
      .cancelled = &here.cancelled,
      .done = done,
    };
  }
}

static void
wait_for (struct job *jobs, unsigned count)
{
  for (unsigned i = 0; i < count; i++)
    sem_wait (&jobs[i].ended);
}

/* Jobs that are queued before the thread runs are one batch. */
static void
run_batch (struct job *jobs, unsigned count)
{
  flusher_submit (here.flusher, &jobs[0].job);
  assert_int_equal (flusher_start (here.flusher), 0);
  wait_for (jobs, count);
}

static void
assert_written (const struct job *job)
{
  uint8_t buf[PIECE];

  assert_int_equal (job->error, 0);
  assert_int_equal (job->times, 1);
  assert_int_equal (
      pread (here.fd, buf, job->job.length, (off_t)job->job.offset),
      job->job.length);
  assert_memory_equal (buf, job->job.data, job->job.length);
}

static void
job_is_written (void **state)
{
  static struct job job;

  (void)state;
  make_jobs (&job, 1);
  assert_int_equal (flusher_start (here.flusher), 0);
  flusher_submit (here.flusher, &job.job);
  wait_for (&job, 1);
  assert_written (&job);
}

static void
submit_of_nothing_is_allowed (void **state)
{
  (void)state;
  flusher_submit (here.flusher, NULL);
  assert_int_equal (flusher_start (here.flusher), 0);
}

static void
neighbours_become_one_write (void **state)
{
  static struct job jobs[8];

  (void)state;
  make_jobs (jobs, 8);
  run_batch (jobs, 8);
  for (unsigned i = 0; i < 8; i++)
    assert_written (&jobs[i]);
  assert_int_equal (fake_count (), 1);
  assert_int_equal (fake_write_at (0).length, 8 * PIECE);
  assert_int_equal (fake_write_at (0).segments, 8);
}

static void
jobs_are_sorted_before_they_are_merged (void **state)
{
  static struct job jobs[8];
  static const uint64_t order[8] = { 5, 2, 7, 0, 1, 6, 3, 4 };

  (void)state;
  make_jobs (jobs, 8);
  for (unsigned i = 0; i < 8; i++)
    jobs[i].job.offset = order[i] * PIECE;
  run_batch (jobs, 8);
  for (unsigned i = 0; i < 8; i++)
    assert_written (&jobs[i]);
  assert_int_equal (fake_count (), 1);
}

static void
gaps_are_not_bridged (void **state)
{
  static struct job jobs[4];

  (void)state;
  make_jobs (jobs, 4);
  jobs[2].job.offset += PIECE;
  jobs[3].job.offset += PIECE;
  run_batch (jobs, 4);
  for (unsigned i = 0; i < 4; i++)
    assert_written (&jobs[i]);
  assert_int_equal (fake_count (), 2);
  assert_int_equal (fake_write_at (0).length, 2 * PIECE);
  assert_int_equal (fake_write_at (1).length, 2 * PIECE);
}

static void
files_are_kept_apart (void **state)
{
  static struct job jobs[2];
  char path[32];
  const int other = unnamed_file (1 << 20, path);
  uint8_t buf[PIECE];

  (void)state;
  make_jobs (jobs, 2);
  jobs[1].job.fd = other;
  run_batch (jobs, 2);
  assert_int_equal (fake_count (), 2);
  assert_written (&jobs[0]);
  assert_int_equal (pread (other, buf, PIECE, PIECE), PIECE);
  assert_memory_equal (buf, jobs[1].data, PIECE);
  close (other);
}

static void
merged_writes_have_limits (void **state)
{
  static struct job jobs[ENGINE_SEGMENTS + 10];

  (void)state;
  make_jobs (jobs, ENGINE_SEGMENTS + 10);
  run_batch (jobs, ENGINE_SEGMENTS + 10);
  assert_int_equal (fake_count (), 2);
  assert_int_equal (fake_write_at (0).segments, ENGINE_SEGMENTS);
  assert_int_equal (fake_write_at (1).segments, 10);
  for (unsigned i = 0; i < ENGINE_SEGMENTS + 10; i++)
    assert_written (&jobs[i]);
}

static void
more_jobs_than_a_batch_holds (void **state)
{
  enum { COUNT = 3000 };
  static struct job jobs[COUNT];

  (void)state;
  make_jobs (jobs, COUNT);
  for (unsigned i = 0; i < COUNT; i++) {
    jobs[i].job.length = 128;
    jobs[i].job.offset = (COUNT - 1 - i) * UINT64_C (256);
  }
  run_batch (jobs, COUNT);
  for (unsigned i = 0; i < COUNT; i++)
    assert_written (&jobs[i]);
}

static int64_t
a_thousand_and_seven_bytes (const struct engine_request *request, size_t length,
                            unsigned index)
{
  (void)request;
  (void)index;
  return length < 1007 ? FAKE_WRITE : 1007;
}

static void
short_writes_go_on_where_they_stopped (void **state)
{
  static struct job jobs[3];

  (void)state;
  fake_reset (a_thousand_and_seven_bytes);
  make_jobs (jobs, 3);
  run_batch (jobs, 3);
  for (unsigned i = 0; i < 3; i++)
    assert_written (&jobs[i]);
  assert_int_equal (fake_count (), (3 * PIECE + 1006) / 1007);
  assert_int_equal (fake_write_at (1).offset, 1007);
  assert_int_equal (fake_write_at (1).length, 3 * PIECE - 1007);
}

static int64_t
first_job_only (const struct engine_request *request, size_t length,
                unsigned index)
{
  (void)request;
  (void)length;
  return index == 0 ? PIECE : FAKE_HANG;
}

static void
finished_jobs_of_a_short_write_do_not_wait_for_the_rest (void **state)
{
  static struct job jobs[2];

  (void)state;
  fake_reset (first_job_only);
  make_jobs (jobs, 2);
  flusher_submit (here.flusher, &jobs[0].job);
  assert_int_equal (flusher_start (here.flusher), 0);
  wait_for (&jobs[0], 1);
  fake_wait (2);
  assert_int_equal (jobs[1].times, 0);
  fake_let_go ();
  wait_for (&jobs[1], 1);
  assert_written (&jobs[0]);
  assert_written (&jobs[1]);
}

static int64_t
interrupted_at_first (const struct engine_request *request, size_t length,
                      unsigned index)
{
  (void)request;
  (void)length;
  return index == 0 ? -EINTR : index == 1 ? -EAGAIN : FAKE_WRITE;
}

static void
interrupted_writes_are_repeated (void **state)
{
  static struct job jobs[2];

  (void)state;
  fake_reset (interrupted_at_first);
  make_jobs (jobs, 2);
  run_batch (jobs, 2);
  assert_written (&jobs[0]);
  assert_written (&jobs[1]);
  assert_int_equal (fake_count (), 3);
}

static int64_t
no_progress (const struct engine_request *request, size_t length,
             unsigned index)
{
  (void)request;
  (void)length;
  (void)index;
  return 0;
}

static void
no_progress_is_eio (void **state)
{
  static struct job jobs[2];

  (void)state;
  fake_reset (no_progress);
  make_jobs (jobs, 2);
  run_batch (jobs, 2);
  assert_int_equal (jobs[0].error, EIO);
  assert_int_equal (jobs[1].error, EIO);
  assert_int_equal (jobs[0].times, 1);
  assert_int_equal (jobs[1].times, 1);
}

static int64_t
always_again (const struct engine_request *request, size_t length,
              unsigned index)
{
  (void)request;
  (void)length;
  (void)index;
  return -EAGAIN;
}

/* What io_uring says of a store that writes nothing. */
static void
eagain_without_end_is_eio (void **state)
{
  static struct job jobs[2];

  (void)state;
  fake_reset (always_again);
  make_jobs (jobs, 2);
  run_batch (jobs, 2);
  assert_int_equal (jobs[0].error, EIO);
  assert_int_equal (jobs[1].error, EIO);
  assert_int_equal (jobs[0].times, 1);
  assert_int_equal (jobs[1].times, 1);
}

static int64_t
bad_third_piece (const struct engine_request *request, size_t length,
                 unsigned index)
{
  (void)index;
  return request->offset <= 2 * PIECE && request->offset + length > 2 * PIECE
             ? -ENOSPC
             : FAKE_WRITE;
}

static void
only_the_job_that_cannot_be_written_fails (void **state)
{
  static struct job jobs[5];

  (void)state;
  fake_reset (bad_third_piece);
  make_jobs (jobs, 5);
  run_batch (jobs, 5);
  for (unsigned i = 0; i < 5; i++)
    if (i != 2)
      assert_written (&jobs[i]);
  assert_int_equal (jobs[2].error, ENOSPC);
  assert_int_equal (jobs[2].times, 1);
}

static int64_t
short_then_bad (const struct engine_request *request, size_t length,
                unsigned index)
{
  if (index == 0)
    return PIECE + 100;
  return bad_third_piece (request, length, index);
}

static void
error_after_a_short_write_spares_what_was_finished (void **state)
{
  static struct job jobs[4];

  (void)state;
  fake_reset (short_then_bad);
  make_jobs (jobs, 4);
  run_batch (jobs, 4);
  assert_written (&jobs[0]);
  assert_written (&jobs[1]);
  assert_int_equal (jobs[2].error, ENOSPC);
  assert_written (&jobs[3]);
  for (unsigned i = 1; i < fake_count (); i++)
    assert_true (fake_write_at (i).offset >= PIECE); /* the first is done */
}

static void
cancelled_jobs_are_not_begun (void **state)
{
  static struct job jobs[3];

  (void)state;
  make_jobs (jobs, 3);
  atomic_store (&here.cancelled, true);
  run_batch (jobs, 3);
  for (unsigned i = 0; i < 3; i++) {
    assert_int_equal (jobs[i].error, ECANCELED);
    assert_int_equal (jobs[i].times, 1);
  }
  assert_int_equal (fake_count (), 0);
}

static void
job_without_data_is_just_called (void **state)
{
  static struct job job;

  (void)state;
  make_jobs (&job, 1);
  job.job = (struct flush_job){ .done = done };
  run_batch (&job, 1);
  assert_int_equal (job.error, 0);
  assert_int_equal (job.times, 1);
  assert_int_equal (fake_count (), 0);
}

static void
job_without_data_between_others (void **state)
{
  static struct job jobs[3];

  (void)state;
  make_jobs (jobs, 3);
  jobs[1].job.length = 0;
  jobs[1].job.data = NULL;
  jobs[2].job.offset = PIECE;
  run_batch (jobs, 3);
  assert_written (&jobs[0]);
  assert_int_equal (jobs[1].error, 0);
  assert_written (&jobs[2]);
}

static int64_t
first_piece_hangs (const struct engine_request *request, size_t length,
                   unsigned index)
{
  (void)length;
  (void)index;
  return request->offset == 0 ? FAKE_HANG : FAKE_WRITE;
}

static void
hanging_write_holds_up_no_other (void **state)
{
  static struct job jobs[200];

  (void)state;
  fake_reset (first_piece_hangs);
  make_jobs (jobs, 200);
  jobs[0].job.next = NULL;
  assert_int_equal (flusher_start (here.flusher), 0);
  flusher_submit (here.flusher, &jobs[0].job);
  fake_wait (1);
  for (unsigned i = 1; i < 200; i++) {
    jobs[i].job.next = NULL;
    flusher_submit (here.flusher, &jobs[i].job);
    wait_for (&jobs[i], 1);
    assert_written (&jobs[i]);
  }
  assert_int_equal (jobs[0].times, 0);
  fake_let_go ();
  wait_for (&jobs[0], 1);
  assert_written (&jobs[0]);
}

static int64_t
all_hang (const struct engine_request *request, size_t length, unsigned index)
{
  (void)request;
  (void)length;
  (void)index;
  return FAKE_HANG;
}

static void
stop_waits_for_what_has_begun_and_cancels_the_rest (void **state)
{
  /* More than can be under way: no two are neighbours. */
  static struct job jobs[100];
  unsigned written = 0, cancelled = 0;

  (void)state;
  fake_reset (all_hang);
  make_jobs (jobs, 100);
  for (unsigned i = 0; i < 100; i++)
    jobs[i].job.offset *= 2;
  flusher_submit (here.flusher, &jobs[0].job);
  assert_int_equal (flusher_start (here.flusher), 0);
  fake_wait (64);
  assert_int_equal (flusher_stop (here.flusher, 0), -1);
  fake_let_go ();
  assert_int_equal (flusher_stop (here.flusher, 60), 0);
  for (unsigned i = 0; i < 100; i++) {
    assert_int_equal (jobs[i].times, 1);
    if (jobs[i].error == 0) {
      assert_written (&jobs[i]);
      written++;
    }
    else {
      assert_int_equal (jobs[i].error, ECANCELED);
      cancelled++;
    }
  }
  assert_true (written >= 64);
  assert_int_equal (written + cancelled, 100);
}

static void
jobs_queued_behind_a_stop_are_cancelled (void **state)
{
  static struct job begun, queued;

  (void)state;
  fake_reset (all_hang);
  make_jobs (&begun, 1);
  make_jobs (&queued, 1);
  queued.job.offset = 8 * PIECE;
  assert_int_equal (flusher_start (here.flusher), 0);
  flusher_submit (here.flusher, &begun.job);
  fake_wait (1);
  assert_int_equal (flusher_stop (here.flusher, 0), -1);
  flusher_submit (here.flusher, &queued.job);
  wait_for (&queued, 1);
  assert_int_equal (queued.error, ECANCELED);
  fake_let_go ();
  wait_for (&begun, 1);
  assert_written (&begun);
}

static void
stop_without_start_is_allowed (void **state)
{
  (void)state;
  assert_int_equal (flusher_stop (here.flusher, 0), 0);
}

static void
submit_after_the_end_touches_no_engine (void **state)
{
  static struct job job;

  (void)state;
  make_jobs (&job, 1);
  assert_int_equal (flusher_start (here.flusher), 0);
  assert_int_equal (flusher_stop (here.flusher, 60), 0);
  flusher_submit (here.flusher, &job.job);
  assert_false (fake_was_misused ());
}

static void
second_stop_touches_no_engine_that_has_ended (void **state)
{
  static struct job job;

  (void)state;
  fake_reset (all_hang);
  make_jobs (&job, 1);
  assert_int_equal (flusher_start (here.flusher), 0);
  flusher_submit (here.flusher, &job.job);
  fake_wait (1);
  assert_int_equal (flusher_stop (here.flusher, 0), -1);
  fake_let_go ();
  fake_wait_freed ();
  assert_int_equal (flusher_stop (here.flusher, 60), 0);
  assert_false (fake_was_misused ());
}

static void
fallback_is_used_when_the_engine_is_refused (void **state)
{
  static struct job job;
  struct flusher *flusher
      = flusher_create (&engine_refused, &engine_fake, SIZE_MAX);

  (void)state;
  make_jobs (&job, 1);
  flusher_submit (flusher, &job.job);
  assert_int_equal (flusher_start (flusher), 0);
  wait_for (&job, 1);
  assert_written (&job);
  assert_int_equal (flusher_stop (flusher, 60), 0);
  flusher_free (flusher);
  assert_no_message ();
  assert_int_equal (debugs_with ("io=refused"), 1);
}

static void
refused_engine_without_fallback_is_an_error (void **state)
{
  struct flusher *flusher = flusher_create (&engine_refused, NULL, SIZE_MAX);

  (void)state;
  errno = 0;
  assert_int_equal (flusher_start (flusher), -1);
  assert_int_equal (errno, EPERM);
  assert_one_message ("io=refused", strerror (EPERM));
  flusher_free (flusher);
}

/* --- helpers ------------------------------------------------------------- */

/* The fake engine, with helpers whose writes go to the file when they may. */
static struct {
  struct engine_type type;
  atomic_uint begun;
  sem_t begins, goes_on;
  bool hang;
} helped;

static int64_t
help (int fd, const struct iovec *segment, unsigned segments, uint64_t offset)
{
  atomic_fetch_add (&helped.begun, 1);
  if (helped.hang) {
    sem_post (&helped.begins);
    sem_wait (&helped.goes_on);
  }
  return engine_write_now (fd, segment, segments, offset);
}

static int
setup_helped (void **state)
{
  setup (state);
  flusher_free (here.flusher);
  helped.type = engine_fake;
  helped.type.write = help;
  helped.hang = false;
  atomic_store (&helped.begun, 0);
  sem_init (&helped.begins, 0, 0);
  sem_init (&helped.goes_on, 0, 0);
  here.flusher = flusher_create (&helped.type, NULL, SIZE_MAX);
  return 0;
}

static void
make_jobs_for_helpers (struct job *jobs, unsigned count)
{
  make_jobs (jobs, count);
  for (unsigned i = 0; i < count; i++)
    jobs[i].job.urgent = jobs[i].job.anywhere = true;
}

static void
urgent_jobs_are_the_helpers (void **state)
{
  static struct job jobs[3];

  (void)state;
  make_jobs_for_helpers (jobs, 3);
  jobs[1].job.anywhere = false;
  assert_int_equal (flusher_start (here.flusher), 0);
  flusher_submit (here.flusher, &jobs[0].job);
  wait_for (jobs, 3);
  for (unsigned i = 0; i < 3; i++)
    assert_written (&jobs[i]);
  assert_int_equal (atomic_load (&helped.begun), 2);
  assert_int_equal (fake_count (), 1);
}

/* What nobody waits for is the thread's, unless too much waits already. */
static void
helpers_join_in_when_the_thread_is_behind (void **state)
{
  enum { MUCH = (4 << 20) / PIECE };
  static struct job hanging[100], waiting[MUCH], more;

  (void)state;
  fake_reset (all_hang);
  make_jobs (hanging, 100);
  for (unsigned i = 0; i < 100; i++)
    hanging[i].job.offset *= 2; /* no neighbours: more than may begin */
  make_jobs_for_helpers (waiting, MUCH);
  for (unsigned i = 0; i < MUCH; i++) {
    waiting[i].job.urgent = false;
    waiting[i].job.offset = 0;
  }
  make_jobs_for_helpers (&more, 1);
  more.job.urgent = false;
  more.job.offset = 1 << 19;

  assert_int_equal (flusher_start (here.flusher), 0);
  flusher_submit (here.flusher, &hanging[0].job);
  fake_wait (64);
  flusher_submit (here.flusher, &waiting[0].job);
  flusher_submit (here.flusher, &more.job);
  wait_for (&more, 1);
  assert_written (&more);
  assert_int_equal (waiting[0].times, 0);
  assert_int_equal (atomic_load (&helped.begun), 1);
  fake_let_go ();
  wait_for (hanging, 100);
  wait_for (waiting, MUCH);
  assert_int_equal (atomic_load (&helped.begun), 1);
}

static void
stop_waits_for_helpers (void **state)
{
  static struct job job, late;

  (void)state;
  helped.hang = true;
  make_jobs_for_helpers (&job, 1);
  make_jobs_for_helpers (&late, 1);
  assert_int_equal (flusher_start (here.flusher), 0);
  flusher_submit (here.flusher, &job.job);
  sem_wait (&helped.begins);
  assert_int_equal (flusher_stop (here.flusher, 0), -1);
  flusher_submit (here.flusher, &late.job);
  wait_for (&late, 1);
  assert_int_equal (late.error, ECANCELED);
  assert_int_equal (job.times, 0);
  sem_post (&helped.goes_on);
  assert_int_equal (flusher_stop (here.flusher, 60), 0);
  assert_written (&job);
}

/* All helpers hang: what they cannot begin is cancelled all the same. */
static void
what_helpers_cannot_begin_can_be_cancelled (void **state)
{
  static struct job jobs[20], call;
  unsigned begun = 0;

  (void)state;
  helped.hang = true;
  make_jobs_for_helpers (jobs, 20);
  make_jobs (&call, 1);
  call.job.length = 0;
  assert_int_equal (flusher_start (here.flusher), 0);
  flusher_submit (here.flusher, &jobs[0].job);
  sem_wait (&helped.begins);
  atomic_store (&here.cancelled, true);
  flusher_submit (here.flusher, &call.job);
  wait_for (&call, 1);
  for (unsigned i = 0; i < 20; i++)
    sem_post (&helped.goes_on);
  wait_for (jobs, 20);
  for (unsigned i = 0; i < 20; i++)
    if (jobs[i].error == 0)
      begun++;
    else
      assert_int_equal (jobs[i].error, ECANCELED);
  assert_int_equal (begun, atomic_load (&helped.begun));
  assert_in_range (begun, 1, 19);
}

/* --- syncs --------------------------------------------------------------- */

static void
make_sync (struct job *job)
{
  make_jobs (job, 1);
  job->job = (struct flush_job){
    .fd = here.fd,
    .sync = true,
    .cancelled = &here.cancelled,
    .done = done,
  };
}

static void
sync_is_a_request_of_its_own (void **state)
{
  static struct job jobs[3];

  (void)state;
  make_jobs (jobs, 3);
  make_sync (&jobs[1]);
  jobs[0].job.next = &jobs[1].job;
  jobs[1].job.next = &jobs[2].job;
  jobs[1].job.offset = PIECE; /* between the two */
  run_batch (jobs, 3);
  for (unsigned i = 0; i < 3; i++) {
    assert_int_equal (jobs[i].error, 0);
    assert_int_equal (jobs[i].times, 1);
  }
  assert_int_equal (fake_count (), 3);
  unsigned syncs = 0;
  for (unsigned i = 0; i < 3; i++) {
    syncs += fake_write_at (i).segments == 0;
    assert_int_equal (fake_write_at (i).fd, here.fd);
  }
  assert_int_equal (syncs, 1);
}

static int64_t
full (const struct engine_request *request, size_t length, unsigned index)
{
  (void)request;
  (void)length;
  (void)index;
  return -ENOSPC;
}

static void
failed_sync_has_its_errno_and_is_not_repeated (void **state)
{
  static struct job job;

  (void)state;
  fake_reset (full);
  make_sync (&job);
  run_batch (&job, 1);
  assert_int_equal (job.error, ENOSPC);
  assert_int_equal (job.times, 1);
  assert_int_equal (fake_count (), 1);
}

static int64_t
interrupted_often (const struct engine_request *request, size_t length,
                   unsigned index)
{
  (void)request;
  (void)length;
  return index < 3 ? -EINTR : FAKE_WRITE;
}

static void
interrupted_sync_is_repeated (void **state)
{
  static struct job job;

  (void)state;
  fake_reset (interrupted_often);
  make_sync (&job);
  run_batch (&job, 1);
  assert_int_equal (job.error, 0);
  assert_int_equal (job.times, 1);
  assert_int_equal (fake_count (), 4);
}

static void
sync_that_is_always_to_come_again_is_eio (void **state)
{
  static struct job job;

  (void)state;
  fake_reset (always_again);
  make_sync (&job);
  run_batch (&job, 1);
  assert_int_equal (job.error, EIO);
  assert_int_equal (job.times, 1);
}

static void
cancelled_sync_is_not_begun (void **state)
{
  static struct job job;

  (void)state;
  atomic_store (&here.cancelled, true);
  make_sync (&job);
  run_batch (&job, 1);
  assert_int_equal (job.error, ECANCELED);
  assert_int_equal (fake_count (), 0);
}

static void
hanging_sync_holds_up_no_write_and_ends_a_stop (void **state)
{
  static struct job sync, job;

  (void)state;
  fake_reset (all_hang);
  make_sync (&sync);
  make_jobs (&job, 1);
  assert_int_equal (flusher_start (here.flusher), 0);
  flusher_submit (here.flusher, &sync.job);
  fake_wait (1);
  flusher_submit (here.flusher, &job.job);
  fake_wait (2);
  fake_end (1, FAKE_WRITE);
  wait_for (&job, 1);
  assert_written (&job);
  assert_int_equal (sync.times, 0);
  assert_int_equal (flusher_stop (here.flusher, 0), -1);
  fake_end (0, FAKE_WRITE);
  wait_for (&sync, 1);
  assert_int_equal (sync.error, 0);
}

/* A job that queues a sync, and that one a write: as commit.c does. */
static struct {
  struct job first, sync, last;
} relay;

static void
relay_on (struct flush_job *flush_job, int error)
{
  struct job *next = flush_job == &relay.first.job ? &relay.sync : &relay.last;

  flusher_submit (here.flusher, &next->job);
  done (flush_job, error);
}

static void
jobs_may_queue_others_when_they_end (void **state)
{
  (void)state;
  make_jobs (&relay.first, 1);
  make_sync (&relay.sync);
  make_jobs (&relay.last, 1);
  relay.first.job.done = relay.sync.job.done = relay_on;
  run_batch (&relay.first, 1);
  wait_for (&relay.sync, 1);
  wait_for (&relay.last, 1);
  assert_true (relay.first.turn < relay.last.turn);
  assert_written (&relay.last);
  assert_int_equal (fake_count (), 3);
  assert_int_equal (fake_write_at (1).segments, 0);
}

/* What is queued by a job that ends because of a stop ends too. */
static void
jobs_queued_while_it_stops_are_cancelled (void **state)
{
  (void)state;
  fake_reset (all_hang);
  make_jobs (&relay.first, 1);
  make_sync (&relay.sync);
  make_jobs (&relay.last, 1);
  relay.first.job.done = relay.sync.job.done = relay_on;
  flusher_submit (here.flusher, &relay.first.job);
  assert_int_equal (flusher_start (here.flusher), 0);
  fake_wait (1);
  assert_int_equal (flusher_stop (here.flusher, 0), -1);
  fake_end (0, FAKE_WRITE);
  wait_for (&relay.first, 1);
  wait_for (&relay.sync, 1);
  wait_for (&relay.last, 1);
  assert_int_equal (relay.first.error, 0);
  assert_int_equal (relay.sync.error, ECANCELED);
  assert_int_equal (relay.last.error, ECANCELED);
  assert_int_equal (fake_count (), 1);
}

#define SUBMITTERS 4
#define EACH 400

static void *
submit_many (void *arg)
{
  struct job *jobs = arg;

  for (unsigned i = 0; i < EACH; i++)
    flusher_submit (here.flusher, &jobs[i].job);
  return NULL;
}

static void
many_threads_submit (void **state)
{
  static struct job jobs[SUBMITTERS][EACH];
  pthread_t threads[SUBMITTERS];

  (void)state;
  assert_int_equal (flusher_start (here.flusher), 0);
  for (unsigned t = 0; t < SUBMITTERS; t++) {
    make_jobs (jobs[t], EACH);
    for (unsigned i = 0; i < EACH; i++) {
      jobs[t][i].job.next = NULL;
      jobs[t][i].job.length = 128;
      jobs[t][i].job.offset = (i * SUBMITTERS + t) * UINT64_C (128);
    }
    pthread_create (&threads[t], NULL, submit_many, jobs[t]);
  }
  for (unsigned t = 0; t < SUBMITTERS; t++) {
    wait_for (jobs[t], EACH);
    pthread_join (threads[t], NULL);
    for (unsigned i = 0; i < EACH; i++)
      assert_written (&jobs[t][i]);
  }
}

#define TEST(name) cmocka_unit_test_setup_teardown (name, setup, teardown)

int
main (void)
{
  const struct CMUnitTest tests[] = {
    TEST (job_is_written),
    TEST (submit_of_nothing_is_allowed),
    TEST (neighbours_become_one_write),
    TEST (jobs_are_sorted_before_they_are_merged),
    TEST (gaps_are_not_bridged),
    TEST (files_are_kept_apart),
    TEST (merged_writes_have_limits),
    TEST (more_jobs_than_a_batch_holds),
    TEST (short_writes_go_on_where_they_stopped),
    TEST (finished_jobs_of_a_short_write_do_not_wait_for_the_rest),
    TEST (interrupted_writes_are_repeated),
    TEST (no_progress_is_eio),
    TEST (eagain_without_end_is_eio),
    TEST (only_the_job_that_cannot_be_written_fails),
    TEST (error_after_a_short_write_spares_what_was_finished),
    TEST (cancelled_jobs_are_not_begun),
    TEST (job_without_data_is_just_called),
    TEST (job_without_data_between_others),
    TEST (hanging_write_holds_up_no_other),
    TEST (stop_waits_for_what_has_begun_and_cancels_the_rest),
    TEST (jobs_queued_behind_a_stop_are_cancelled),
    TEST (stop_without_start_is_allowed),
    TEST (submit_after_the_end_touches_no_engine),
    TEST (second_stop_touches_no_engine_that_has_ended),
    TEST (fallback_is_used_when_the_engine_is_refused),
    TEST (refused_engine_without_fallback_is_an_error),
    cmocka_unit_test_setup_teardown (urgent_jobs_are_the_helpers, setup_helped,
                                     teardown),
    cmocka_unit_test_setup_teardown (helpers_join_in_when_the_thread_is_behind,
                                     setup_helped, teardown),
    cmocka_unit_test_setup_teardown (stop_waits_for_helpers, setup_helped,
                                     teardown),
    cmocka_unit_test_setup_teardown (what_helpers_cannot_begin_can_be_cancelled,
                                     setup_helped, teardown),
    TEST (sync_is_a_request_of_its_own),
    TEST (failed_sync_has_its_errno_and_is_not_repeated),
    TEST (interrupted_sync_is_repeated),
    TEST (sync_that_is_always_to_come_again_is_eio),
    TEST (cancelled_sync_is_not_begun),
    TEST (hanging_sync_holds_up_no_write_and_ends_a_stop),
    TEST (jobs_may_queue_others_when_they_end),
    TEST (jobs_queued_while_it_stops_are_cancelled),
    TEST (many_threads_submit),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
