/* SPDX-License-Identifier: BSD-3-Clause */
/* Clients of the control socket that come in numbers, do not behave, or go
 * away in the midst of something.
 */

#include "control.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SIZE (1 << 20)
#define CONNECTIONS_MAX 32

static const char list[]
    = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"snapshot.list\"}\n";

/* A server without snapshots, and a connection to it. */
static struct control *
connection (struct fixture *f)
{
  make_image (f, SIZE);
  serve (f, "snapshot=no", NULL);
  return control_connect (f, NULL);
}

static void
assert_refused_as_too_many (struct control *c)
{
  json_t *reply = control_reply (c);

  is_error (reply, TOO_MANY, NULL, "32");
  assert_true (json_is_null (json_object_get (reply, "id")));
  assert_null (control_line (c));
}

static void
thirty_two_connections_are_served (void **state)
{
  struct fixture *f = *state;
  struct control *c[CONNECTIONS_MAX] = { connection (f) };

  for (unsigned i = 1; i < CONNECTIONS_MAX; i++)
    c[i] = control_connect (f, NULL);
  for (unsigned i = 0; i < CONNECTIONS_MAX; i++)
    create (c[i]);
  for (unsigned i = 0; i < 3; i++)
    assert_refused_as_too_many (control_connect (f, NULL));
  /* and all the others are none the worse for it */
  for (unsigned i = 0; i < CONNECTIONS_MAX; i++)
    call (c[i], "snapshot.info", "{s:i}", "snapshot", (int)i + 1);
}

static void
a_connection_that_ends_makes_room (void **state)
{
  struct fixture *f = *state;
  struct control *c[CONNECTIONS_MAX] = { connection (f) };
  const char *line;

  for (unsigned i = 1; i < CONNECTIONS_MAX; i++)
    c[i] = control_connect (f, NULL);
  listed (c[CONNECTIONS_MAX - 1], false);
  for (unsigned i = 0; i < 50; i++) {
    struct control **one = &c[i % CONNECTIONS_MAX];
    if (i % 2 == 0)
      control_finish (*one);
    else
      control_close (*one);
    /* It ends a moment after it is seen to. */
    do {
      *one = control_connect (f, NULL);
      control_send (*one, list, sizeof list - 1);
      line = control_line (*one);
    } while (line != NULL && strstr (line, "\"result\"") == NULL);
    assert_non_null (line);
  }
}

/* Send requests until the server has taken none for half a second, since it
 * is stuck with its replies.
 */
static void
stuff (struct control *c)
{
  struct pollfd pollfd = { .fd = c->fd, .events = POLLOUT };

  while (poll (&pollfd, 1, 500) == 1) {
    const ssize_t r
        = send (c->fd, list, sizeof list - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    assert_true (r > 0 || errno == EAGAIN);
  }
}

static void
who_never_reads_holds_up_nobody (void **state)
{
  struct fixture *f = *state;
  struct control *c = connection (f), *deaf = control_connect (f, NULL);

  call (c, "snapshot.create", NULL);
  stuff (deaf);
  for (unsigned i = 0; i < 10; i++)
    create (c);
  control_close (deaf);
  for (unsigned i = 0; i < 10; i++)
    create (c);
}

static void
who_never_reads_does_not_keep_the_server_from_ending (void **state)
{
  struct fixture *f = *state;
  struct control *c = connection (f), *deaf = control_connect (f, NULL);

  call (c, "snapshot.create", NULL);
  stuff (deaf);
  kill (f->server.pid, SIGTERM);
  assert_true (ends (f->server.pid, 10));
  assert_int_equal (server_wait (&f->server), 0);
  assert_int_equal (server_logged (&f->server, "hangs"), 0);
}

/* Seconds of processor time that the server has used. */
static double
server_time (const struct fixture *f)
{
  struct timespec used;
  clockid_t clock;

  assert_int_equal (clock_getcpuclockid (f->server.pid, &clock), 0);
  assert_int_equal (clock_gettime (clock, &used), 0);
  return (double)used.tv_sec + (double)used.tv_nsec / 1e9;
}

/* Who comes then waits until there are some again, and so does the server,
 * without running in circles.
 */
static void
descriptors_may_run_out (void **state)
{
  struct fixture *f = *state;
  struct control *c = connection (f);
  struct rlimit before, none;

  listed (c, true); /* the server has accepted it */
  assert_int_equal (prlimit (f->server.pid, RLIMIT_NOFILE, NULL, &before), 0);
  none = before;
  none.rlim_cur = 3;
  assert_int_equal (prlimit (f->server.pid, RLIMIT_NOFILE, &none, NULL), 0);
  const double used = server_time (f);
  struct control *waiting = control_connect (f, NULL);
  control_request (waiting, "snapshot.list", NULL);
  struct pollfd pollfd = { .fd = waiting->fd, .events = POLLIN };
  assert_int_equal (poll (&pollfd, 1, 1000), 0);
  assert_true (server_time (f) - used < 0.3);
  const json_t *error = call_fails (c, FAILED, "snapshot.create", NULL);
  assert_string_equal (string (json_object_get (error, "data"), "errno"),
                       "EMFILE");
  call_fails (c, FAILED, "server.info", NULL);
  assert_string_equal (listed (c, true), "");
  assert_int_equal (prlimit (f->server.pid, RLIMIT_NOFILE, &before, NULL), 0);
  assert_non_null (json_object_get (control_reply (waiting), "result"));
}

static void
who_reads_late_gets_all_replies (void **state)
{
  enum { REQUESTS = 3000 };
  struct fixture *f = *state;
  struct control *c = connection (f);

  for (unsigned i = 0; i < 20; i++)
    create (c);
  const int first = c->serial + 1;
  const pid_t sender = fork ();
  if (sender == 0) {
    for (unsigned i = 0; i < REQUESTS; i++)
      control_request (c, "snapshot.list", NULL);
    _exit (0);
  }
  for (int i = 0; i < REQUESTS; i++) {
    const size_t kept = f->kept_count;
    const json_t *reply = control_reply (c);
    assert_int_equal (json_integer_value (json_object_get (reply, "id")),
                      first + i);
    forget (f, kept);
  }
  assert_int_equal (waitpid (sender, NULL, 0), sender);
}

static void
who_goes_after_half_a_line_leaves_nothing (void **state)
{
  static const char half[]
      = "{\"jsonrpc\":\"2.0\",\"method\":\"snapshot.create\"}";
  struct fixture *f = *state;
  struct control *c = connection (f);

  for (unsigned i = 0; i < 2 * CONNECTIONS_MAX; i++) {
    struct control *gone = control_connect (f, NULL);
    control_send (gone, half, i < CONNECTIONS_MAX ? sizeof half - 1 : 10);
    control_finish (gone);
  }
  assert_string_equal (listed (c, true), "");
}

/* Requests are carried out, whether or not anyone reads the replies. */
static void
who_goes_without_the_reply_has_made_a_snapshot (void **state)
{
  struct fixture *f = *state;
  struct control *c = connection (f);
  struct control *gone = control_connect (f, NULL);

  control_request (gone, "snapshot.create", NULL);
  control_close (gone);
  await_listed (c, false, "1");
}

/* --- while a snapshot is being created -----------------------------------
 */

static const char *
store (struct fixture *f, int i)
{
  return text (f, "%s/store%d", f->server.dir, i);
}

/* C creates a snapshot with a backing file called store(I). */
static int
begin_creating (struct control *c, int i)
{
  return (int)number (call (c, "snapshot.create", "{s:b, s:{s:s}}", "creating",
                            1, "options", "backing-store", store (c->f, i)),
                      "snapnumber");
}

static void
assert_abandoned (struct control *c, int snapnumber)
{
  await_log (&c->f->server,
             text (c->f, "snapshot %d is deleted: whoever was creating it",
                   snapnumber),
             20);
  await_listed (c, true, "");
}

static void
who_goes_while_creating_leaves_nothing (void **state)
{
  struct fixture *f = *state;
  struct control *c = connection (f), *gone = control_connect (f, NULL);

  assert_int_equal (begin_creating (gone, 1), 1);
  assert_int_equal (access (store (f, 1), F_OK), 0);
  ok (nbd_pwrite (connect_to (f, ""), pattern (f, 2, 0, SIZE), SIZE, 0, 0));
  control_close (gone);
  assert_abandoned (c, 1);
  assert_int_equal (access (store (f, 1), F_OK), -1);
  assert_int_equal (create (c), 1);
}

static void
who_is_killed_while_creating_leaves_nothing (void **state)
{
  struct fixture *f = *state;
  struct control *c = connection (f), *its = control_connect (f, NULL);

  assert_int_equal (begin_creating (its, 1), 1);
  const pid_t client = fork ();
  if (client == 0) {
    pause ();
    _exit (0);
  }
  control_close (its); /* the client's is the last one */
  assert_string_equal (string (info (c, 1), "state"), "creating");
  kill (client, SIGKILL);
  assert_int_equal (waitpid (client, NULL, 0), client);
  assert_abandoned (c, 1);
  assert_int_equal (access (store (f, 1), F_OK), -1);
}

static void
who_goes_loses_all_that_is_not_done (void **state)
{
  struct fixture *f = *state;
  struct control *c = connection (f), *gone = control_connect (f, NULL);
  struct control *other = control_connect (f, NULL);

  begin_creating (gone, 1);
  begin_creating (gone, 2);
  begin_creating (other, 3);
  begin_creating (gone, 4);
  call (gone, "snapshot.create_done", "{s:i}", "snapshot", 2);
  control_finish (gone);
  await_listed (c, true, "2 3");
  assert_int_equal (server_logged (&f->server, "whoever was creating"), 2);
  assert_string_equal (string (info (c, 2), "state"), "idle");
  assert_string_equal (string (info (c, 3), "state"), "creating");
  assert_int_equal (access (store (f, 1), F_OK), -1);
  assert_int_equal (access (store (f, 2), F_OK), 0);
  assert_int_equal (access (store (f, 3), F_OK), 0);
  assert_int_equal (access (store (f, 4), F_OK), -1);
}

/* That someone reads it already does not keep it. */
static void
who_goes_takes_a_snapshot_from_its_readers (void **state)
{
  struct fixture *f = *state;
  struct control *c = connection (f), *gone = control_connect (f, NULL);
  uint8_t byte;

  begin_creating (gone, 1);
  struct nbd_handle *reader = connect_to (f, "snapshot/1");
  ok (nbd_pread (reader, &byte, 1, 0, 0));
  control_finish (gone);
  assert_string_equal (listed (c, false), "");
  fails (nbd_pread (reader, &byte, 1, 0, 0), EIO);
  /* the number is its readers' as long as they stay */
  assert_int_equal (create (c), 2);
  ok (nbd_shutdown (reader, 0));
  await_listed (c, true, "2");
  assert_int_equal (create (c), 1);
}

static void
older_snapshots_outlive_one_that_is_abandoned (void **state)
{
  struct fixture *f = *state;
  const uint8_t *old = make_image (f, SIZE);

  serve (f, NULL);
  struct control *gone = control_connect (f, NULL);
  struct nbd_handle *origin = connect_to (f, "");
  begin_creating (gone, 2);
  ok (nbd_pwrite (origin, pattern (f, 2, 0, SIZE / 2), SIZE / 2, 0, 0));
  control_finish (gone);
  ok (nbd_pwrite (origin, pattern (f, 3, 0, SIZE), SIZE, 0, 0));
  reads_as (connect_to (f, "snapshot/1"), 0, old, SIZE);
}

/* Whatever the server does with it by then. */
static void
a_snapshot_being_created_goes_with_the_server (void **state)
{
  struct fixture *f = *state;
  struct control *c = connection (f);

  begin_creating (c, 1);
  stop (f);
  assert_int_equal (access (store (f, 1), F_OK), -1);
  assert_null (control_line (c));
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    fixture_test (thirty_two_connections_are_served),
    fixture_test (a_connection_that_ends_makes_room),
    fixture_test (who_never_reads_holds_up_nobody),
    fixture_test (who_never_reads_does_not_keep_the_server_from_ending),
    fixture_test (descriptors_may_run_out),
    fixture_test (who_reads_late_gets_all_replies),
    fixture_test (who_goes_after_half_a_line_leaves_nothing),
    fixture_test (who_goes_without_the_reply_has_made_a_snapshot),
    fixture_test (who_goes_while_creating_leaves_nothing),
    fixture_test (who_is_killed_while_creating_leaves_nothing),
    fixture_test (who_goes_loses_all_that_is_not_done),
    fixture_test (who_goes_takes_a_snapshot_from_its_readers),
    fixture_test (older_snapshots_outlive_one_that_is_abandoned),
    fixture_test (a_snapshot_being_created_goes_with_the_server),
  };

  return cmocka_run_group_tests_name ("control-clients", tests, NULL, NULL);
}
