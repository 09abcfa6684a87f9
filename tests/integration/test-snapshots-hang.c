/* SPDX-License-Identifier: BSD-3-Clause */
/* Taking and deleting snapshots while a store hangs: whose affair that is,
 * and whose it is not.
 */

#include "control.h"
#include "faultfs.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define SIZE (8 << 20)
#define CHUNK 4096

/* What a machine under load may add to what takes no time, in seconds. */
#define SLACK 8

static const struct faultfs_rule hold = { .fault = FAULTFS_HOLD };

/* A server without snapshots, a file system that hangs on demand, one that
 * does not, and who uses them.
 */
struct world {
  struct fixture *f;
  struct control *c;
  struct nbd_handle *origin;
  uint8_t *old, *live; /* SIZE bytes: what the origin had and has */
  const char *bad, *good;
};

static struct world
begin (struct fixture *f, const char *more)
{
  struct world w = { .f = f, .old = make_image (f, SIZE) };

  w.live = scratch (f, SIZE);
  memcpy (w.live, w.old, SIZE);
  w.bad = text (f, "%s/bad", f->server.dir);
  w.good = text (f, "%s/good", f->server.dir);
  assert_int_equal (mkdir (w.bad, 0700), 0);
  assert_int_equal (mkdir (w.good, 0700), 0);
  f->faults = faultfs_mount (w.bad);
  assert_non_null (f->faults);
  serve (f, "snapshot=no", more, NULL);
  w.c = control_connect (f, NULL);
  w.origin = connect_to (f, "");
  return w;
}

static int
create_in (struct world *w, const char *store)
{
  return (int)number (call (w->c, "snapshot.create", "{s:{s:s}}", "options",
                            "backing-store", store),
                      "snapnumber");
}

static void
overwrite (struct world *w, unsigned seed, uint64_t offset, size_t count)
{
  memcpy (w->live + offset, pattern (w->f, seed, offset, count), count);
  ok (nbd_pwrite (w->origin, w->live + offset, count, offset, 0));
}

/* Writers that all have to wait for the memory that the store holds. */
struct writers {
  struct nbd_handle *nbd;
  int64_t cookies[8];
};

/* Each overwrites a part of the image. */
static struct writers
start_writers (struct world *w)
{
  struct writers writers = { .nbd = connect_to (w->f, "") };

  memcpy (w->live, pattern (w->f, 7, 0, SIZE), SIZE);
  for (unsigned i = 0; i < 8; i++) {
    writers.cookies[i]
        = nbd_aio_pwrite (writers.nbd, w->live + i * (SIZE / 8), SIZE / 8,
                          i * (SIZE / 8), NBD_NULL_COMPLETION, 0);
    ok (writers.cookies[i]);
  }
  while (nbd_aio_get_direction (writers.nbd) & LIBNBD_AIO_DIRECTION_WRITE)
    ok (nbd_poll (writers.nbd, -1));
  return writers;
}

/* They come through. */
static void
await_writers (struct writers *writers)
{
  for (unsigned i = 0; i < 8; i++) {
    int done;
    while ((done = nbd_aio_command_completed (writers->nbd,
                                              (uint64_t)writers->cookies[i]))
           == 0)
      ok (nbd_poll (writers->nbd, SLACK * 1000));
    assert_int_equal (done, 1);
  }
}

static unsigned
still_waiting (struct writers *writers)
{
  return (unsigned)nbd_aio_in_flight (writers->nbd);
}

/* Delete a snapshot, which is done at once. */
static void
delete_at_once (struct world *w, int snapnumber)
{
  const double began = now ();

  call (w->c, "snapshot.delete", "{s:i, s:b}", "snapshot", snapnumber, "force",
        1);
  const double took = now () - began;
  print_message ("deleted after %.3f s\n", took);
  assert_true (took < 1);
}

/* --- deleting ------------------------------------------------------------
 */

static void
deletion_lets_waiting_writers_go (void **state)
{
  struct fixture *f = *state;
  struct world w = begin (f, "max-memory=1M");

  assert_int_equal (create_in (&w, w.bad), 1);
  faultfs_set (f->faults, FAULTFS_WRITE, hold);
  struct writers writers = start_writers (&w);
  assert_true (faultfs_await_held (f->faults, 1));
  while (figure (w.c, 1, "throttled-writers") == 0)
    ;
  assert_int_equal (still_waiting (&writers), 8);
  delete_at_once (&w, 1);
  const double began = now ();
  await_writers (&writers);
  assert_true (now () - began < SLACK);
  reads_as (w.origin, 0, w.live, SIZE);
  /* It is gone when its store lets go of it. */
  assert_string_equal (listed (w.c, false), "");
  assert_string_equal (listed (w.c, true), "1");
  faultfs_release (f->faults);
  await_listed (w.c, true, "");
  assert_int_equal (server_logged (&f->server, "broken"), 0);
}

/* With the same writers, and a newer snapshot that is in no trouble: it has
 * the memory that the deleted one gives back.
 */
static void
deletion_leaves_a_newer_snapshot_whole (void **state)
{
  struct fixture *f = *state;
  struct world w = begin (f, "max-memory=1M");

  assert_int_equal (create_in (&w, w.bad), 1);
  faultfs_set (f->faults, FAULTFS_WRITE, hold);
  struct writers writers = start_writers (&w);
  assert_true (faultfs_await_held (f->faults, 1));
  while (figure (w.c, 1, "throttled-writers") == 0)
    ;
  assert_int_equal (create_in (&w, w.good), 2);
  assert_int_equal (still_waiting (&writers), 8);
  struct nbd_handle *reader = connect_to (f, "snapshot/2");
  reads_as (reader, 0, w.old, SIZE);
  delete_at_once (&w, 1);
  await_writers (&writers);
  reads_as (reader, 0, w.old, SIZE);
  reads_as (w.origin, 0, w.live, SIZE);
  assert_string_equal (string (info (w.c, 2), "state"), "active");
  faultfs_release (f->faults);
  await_listed (w.c, true, "2");
  reads_as (reader, 0, w.old, SIZE);
  assert_int_equal (server_logged (&f->server, "broken"), 0);
}

/* Nobody waits for the memory of one whose copies fit. */
static void
an_older_snapshot_outlives_one_whose_store_hangs (void **state)
{
  struct fixture *f = *state;
  struct world w = begin (f, NULL);

  assert_int_equal (create_in (&w, w.good), 1);
  overwrite (&w, 2, 0, SIZE / 4);
  assert_int_equal (create_in (&w, w.bad), 2);
  faultfs_set (f->faults, FAULTFS_WRITE, hold);
  overwrite (&w, 3, 0, SIZE / 2);
  assert_true (faultfs_await_held (f->faults, 1));
  delete_at_once (&w, 2);
  struct nbd_handle *reader = connect_to (f, "snapshot/1");
  reads_as (reader, 0, w.old, SIZE);
  overwrite (&w, 4, 0, SIZE);
  reads_as (reader, 0, w.old, SIZE);
  faultfs_release (f->faults);
  reads_as (reader, 0, w.old, SIZE);
  delete_at_once (&w, 1);
  ok (nbd_shutdown (reader, 0));
  await_listed (w.c, true, "");
}

/* The store does not even take requests. */
static void
deletion_does_not_touch_a_stopped_store (void **state)
{
  struct fixture *f = *state;
  struct world w = begin (f, "max-memory=1M");

  assert_int_equal (create_in (&w, w.bad), 1);
  assert_int_equal (create_in (&w, text (f, "%s/named", w.bad)), 2);
  kill (faultfs_pid (f->faults), SIGSTOP);
  struct writers writers = start_writers (&w);
  delete_at_once (&w, 1);
  delete_at_once (&w, 2);
  await_writers (&writers);
  reads_as (w.origin, 0, w.live, SIZE);
  assert_int_equal (create_in (&w, w.good), 1);
  kill (faultfs_pid (f->faults), SIGCONT);
  await_listed (w.c, true, "1");
}

static bool
says_something (struct control *c)
{
  struct pollfd pollfd = { .fd = c->fd, .events = POLLIN };

  return poll (&pollfd, 1, SLACK * 1000) == 1;
}

/* Who wants to see what is wrong is not to be stuck too. */
static void
a_stopped_store_can_be_looked_at (void **state)
{
  struct fixture *f = *state;
  struct world w = begin (f, NULL);

  assert_int_equal (create_in (&w, w.bad), 1);
  assert_int_equal (create_in (&w, w.good), 2);
  kill (faultfs_pid (f->faults), SIGSTOP);
  control_request (w.c, "snapshot.list", NULL);
  const bool answered = says_something (w.c);
  kill (faultfs_pid (f->faults), SIGCONT);
  control_reply (w.c);
  assert_true (answered);
}

/* --- creating ------------------------------------------------------------
 */

/* C begins to create a snapshot that hangs. */
static void
begin_hanging (struct world *w, struct control *c, bool creating)
{
  faultfs_set (w->f->faults, FAULTFS_WRITE, hold);
  control_request (c, "snapshot.create", "{s:s, s:b, s:{s:s}}", "name", "slow",
                   "creating", (int)creating, "options", "backing-store",
                   w->bad);
  assert_true (faultfs_await_held (w->f->faults, 1));
}

static void
a_creation_that_hangs_is_its_clients_alone (void **state)
{
  struct fixture *f = *state;
  struct world w = begin (f, NULL);
  struct control *stuck = control_connect (f, NULL);

  begin_hanging (&w, stuck, false);
  /* It does not exist yet; its number and name are spoken for. */
  assert_string_equal (listed (w.c, true), "");
  overwrite (&w, 2, 0, SIZE / 2);
  assert_int_equal (create_in (&w, w.good), 2);
  call_fails (w.c, EXISTS, "snapshot.create", "{s:s}", "name", "slow");
  call_fails (w.c, NO_SNAPSHOT, "snapshot.info", "{s:s}", "snapshot", "slow");
  uint8_t *second = scratch (f, SIZE);
  memcpy (second, w.live, SIZE);
  overwrite (&w, 3, 0, SIZE);
  reads_as (connect_to (f, "snapshot/2"), 0, second, SIZE);
  assert_int_equal (create_in (&w, w.good), 3);
  delete_at_once (&w, 3);
  await_listed (w.c, true, "2");

  uint8_t *first = scratch (f, SIZE);
  memcpy (first, w.live, SIZE);
  faultfs_release (f->faults);
  const json_t *result = json_object_get (control_reply (stuck), "result");
  assert_int_equal (number (result, "snapnumber"), 1);
  /* Its instant is when it is done, not when it was asked for. */
  overwrite (&w, 4, 0, SIZE);
  reads_as (connect_to (f, "snapshot/1"), 0, first, SIZE);
  reads_as (connect_to (f, "snapshot/2"), 0, second, SIZE);
  assert_string_equal (listed (w.c, false), "2 1");
}

static void
who_goes_while_a_creation_hangs_leaves_nothing (void **state)
{
  struct fixture *f = *state;
  struct world w = begin (f, NULL);
  struct control *gone = control_connect (f, NULL);

  begin_hanging (&w, gone, true);
  control_close (gone);
  assert_string_equal (listed (w.c, true), "");
  faultfs_release (f->faults);
  await_log (&f->server, "snapshot 1 is deleted: whoever was creating it",
             SLACK);
  await_listed (w.c, true, "");
  assert_int_equal (create_in (&w, w.bad), 1);
}

static void
who_is_killed_while_a_creation_hangs_leaves_nothing (void **state)
{
  struct fixture *f = *state;
  struct world w = begin (f, NULL);
  struct control *its = control_connect (f, NULL);

  begin_hanging (&w, its, true);
  const pid_t client = fork ();
  if (client == 0) {
    pause ();
    _exit (0);
  }
  control_close (its);
  kill (client, SIGKILL);
  assert_int_equal (waitpid (client, NULL, 0), client);
  faultfs_release (f->faults);
  await_log (&f->server, "snapshot 1 is deleted: whoever was creating it",
             SLACK);
  await_listed (w.c, true, "");
}

/* The requests that follow wait, and are carried out in order. */
static void
requests_behind_one_that_hangs_wait (void **state)
{
  struct fixture *f = *state;
  struct world w = begin (f, NULL);
  struct control *stuck = control_connect (f, NULL);

  begin_hanging (&w, stuck, false);
  control_request (stuck, "snapshot.info", "{s:s}", "snapshot", "slow");
  control_request (stuck, "snapshot.delete", "{s:s}", "snapshot", "slow");
  control_request (stuck, "snapshot.info", "{s:s}", "snapshot", "slow");
  faultfs_release (f->faults);
  for (unsigned i = 0; i < 3; i++)
    assert_non_null (json_object_get (control_reply (stuck), "result"));
  is_error (control_reply (stuck), NO_SNAPSHOT, "ENOENT", "slow");
}

static void
a_store_that_hangs_and_then_fails_leaves_nothing (void **state)
{
  struct fixture *f = *state;
  struct world w = begin (f, NULL);
  struct control *stuck = control_connect (f, NULL);

  begin_hanging (&w, stuck, false);
  faultfs_unmount (f->faults);
  f->faults = NULL;
  const json_t *error = json_object_get (control_reply (stuck), "error");
  assert_int_equal (number (error, "code"), FAILED);
  assert_string_equal (listed (w.c, true), "");
  const json_t *s = call (w.c, "snapshot.create", "{s:s, s:{s:s}}", "name",
                          "slow", "options", "backing-store", w.good);
  assert_int_equal (number (s, "snapnumber"), 1);
}

/* --- clearing away -------------------------------------------------------
 */

/* What is merged is stored a while after it is read, and the layer that it
 * comes from goes then.
 */
static void
layers_are_merged_however_slow_the_store (void **state)
{
  struct fixture *f = *state;
  struct world w = begin (f, NULL);

  assert_int_equal (create_in (&w, w.good), 1);
  overwrite (&w, 2, 0, SIZE / 4);
  for (unsigned i = 0; i < 2; i++) {
    assert_int_equal (create_in (&w, w.bad), 2);
    overwrite (&w, 3 + i, SIZE / 4 * (1 + i), SIZE / 4);
    await_figure (w.c, 2, "bytes-in-memory", 0);
    /* The second one's copies go into the first one's file. */
    if (i == 1)
      faultfs_set (f->faults, FAULTFS_WRITE, hold);
    call (w.c, "snapshot.delete", "{s:i}", "snapshot", 2);
  }
  assert_true (faultfs_await_held (f->faults, 1));
  for (unsigned i = 0; i < 100; i++)
    assert_string_equal (listed (w.c, true), "1 2 2");
  faultfs_release (f->faults);
  await_listed (w.c, true, "1 2");
  reads_as (connect_to (f, "snapshot/1"), 0, w.old, SIZE);
}

/* --- the end -------------------------------------------------------------
 */

static void
the_server_ends_although_a_creation_hangs (void **state)
{
  struct fixture *f = *state;
  struct world w = begin (f, "cow-timeout=1");
  struct control *stuck = control_connect (f, NULL);

  begin_hanging (&w, stuck, false);
  nbd_close (f->handles[--f->handle_count]);
  const double began = now ();
  kill (f->server.pid, SIGTERM);
  await_log (&f->server, "the backing store hangs: ending without it",
             1 + SLACK);
  print_message ("let go after %.1f s\n", now () - began);
  /* The kernel lets nobody out before the store answers. */
  faultfs_release (f->faults);
  assert_true (ends (f->server.pid, SLACK));
  assert_int_equal (server_wait (&f->server), 0);
}

static void
the_server_ends_although_a_deleted_ones_store_hangs (void **state)
{
  struct fixture *f = *state;
  struct world w = begin (f, "cow-timeout=1");

  assert_int_equal (create_in (&w, w.bad), 1);
  faultfs_set (f->faults, FAULTFS_WRITE, hold);
  overwrite (&w, 2, 0, SIZE / 4);
  assert_true (faultfs_await_held (f->faults, 1));
  delete_at_once (&w, 1);
  nbd_close (f->handles[--f->handle_count]);
  kill (f->server.pid, SIGTERM);
  await_log (&f->server, "the backing store hangs: ending without it",
             1 + SLACK);
  faultfs_release (f->faults);
  assert_true (ends (f->server.pid, SLACK));
  assert_int_equal (server_wait (&f->server), 0);
}

int
main (void)
{
  static const struct variant variants[] = {
    { .name = "uring", .parameters = { "io=uring" } },
    { .name = "sync", .parameters = { "io=sync" } },
  };
  const struct CMUnitTest tests[] = {
    fixture_test (deletion_lets_waiting_writers_go),
    fixture_test (deletion_leaves_a_newer_snapshot_whole),
    fixture_test (an_older_snapshot_outlives_one_whose_store_hangs),
    fixture_test (deletion_does_not_touch_a_stopped_store),
    fixture_test (a_stopped_store_can_be_looked_at),
    fixture_test (a_creation_that_hangs_is_its_clients_alone),
    fixture_test (who_goes_while_a_creation_hangs_leaves_nothing),
    fixture_test (who_is_killed_while_a_creation_hangs_leaves_nothing),
    fixture_test (requests_behind_one_that_hangs_wait),
    fixture_test (a_store_that_hangs_and_then_fails_leaves_nothing),
    fixture_test (layers_are_merged_however_slow_the_store),
    fixture_test (the_server_ends_although_a_creation_hangs),
    fixture_test (the_server_ends_although_a_deleted_ones_store_hangs),
  };

  if (!private_mounts () || access ("/dev/fuse", R_OK | W_OK) == -1) {
    fprintf (stderr, "no FUSE file systems can be mounted here\n");
    return 77;
  }
  return RUN_VARIANTS ("snapshots-hang", tests, variants);
}
