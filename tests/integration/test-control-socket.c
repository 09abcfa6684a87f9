/* SPDX-License-Identifier: BSD-3-Clause */
/* The socket itself: how it comes and goes, and how the server ends while
 * clients are connected.
 */

#include "control.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define SIZE (1 << 20)

static const char list[]
    = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"snapshot.list\"}\n";

static const char *
plugin (void)
{
  return getenv ("FSSNAP_PLUGIN");
}

/* A server that only lives as long as COMMAND runs. */
static const struct outcome *
run_with (struct fixture *f, const char *path, const char *command)
{
  return run_nbdkit (f, "-U", "-", plugin (), f->image,
                     text (f, "control=%s", path), "--run", command, NULL);
}

/* An image that no other server has locked. */
static void
take_another_image (struct fixture *f)
{
  snprintf (f->image, sizeof f->image, "%s/other.img", f->server.dir);
  make_image (f, SIZE);
}

static bool
is_socket (const char *path)
{
  struct stat st;

  return lstat (path, &st) == 0 && S_ISSOCK (st.st_mode);
}

static bool
exists (const char *path)
{
  struct stat st;

  return lstat (path, &st) == 0;
}

/* Also not for the moment between two system calls: so the mask is another
 * then, and has to be as before afterwards.
 */
static void
nobody_else_may_use_the_socket (void **state)
{
  struct fixture *f = *state;

  make_image (f, SIZE);
  const struct outcome *without
      = run_nbdkit (f, "-U", "-", plugin (), f->image, "--run", "umask", NULL);
  const struct outcome *with
      = run_with (f, control_path (f),
                  text (f, "umask; stat -c %%a-%%u '%s'", control_path (f)));
  assert_int_equal (with->status, 0);
  assert_string_equal (
      with->out, text (f, "%s600-%u\n", without->out, (unsigned)geteuid ()));
}

/* In the child of a test, with no sign of life but the exit status. */
static int
ask_and_print (const char *path)
{
  struct sockaddr_un address = { .sun_family = AF_UNIX };
  const int fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  char reply[4096];

  snprintf (address.sun_path, sizeof address.sun_path, "%s", path);
  if (connect (fd, (const struct sockaddr *)&address, sizeof address) == -1
      || send (fd, list, sizeof list - 1, MSG_NOSIGNAL) == -1)
    return 1;
  const ssize_t r = recv (fd, reply, sizeof reply, 0);
  return r > 0 && write (STDOUT_FILENO, reply, (size_t)r) == r ? 0 : 1;
}

static void
the_socket_is_there_when_the_command_starts (void **state)
{
  struct fixture *f = *state;

  make_image (f, SIZE);
  for (unsigned i = 0; i < 10; i++) {
    char self[512] = "";
    assert_true (readlink ("/proc/self/exe", self, sizeof self - 1) > 0);
    const struct outcome *o = run_with (
        f, control_path (f),
        text (f, "env -u LD_PRELOAD '%s' --ask '%s'", self, control_path (f)));
    assert_int_equal (o->status, 0);
    assert_non_null (strstr (o->out, "\"snapnumber\":1"));
    assert_false (exists (control_path (f)));
  }
}

static void
the_socket_goes_with_the_server (void **state)
{
  struct fixture *f = *state;

  make_image (f, SIZE);
  serve (f, NULL);
  assert_true (is_socket (control_path (f)));
  stop (f);
  assert_false (exists (control_path (f)));
}

/* It is not the process that made the socket that serves it then. */
static void
the_socket_stays_with_a_server_in_the_background (void **state)
{
  struct fixture *f = *state;
  const char *pidfile = text (f, "%s/pid", f->server.dir);
  long pid = 0;

  make_image (f, SIZE);
  const struct outcome *o
      = run_nbdkit (f, "-U", f->server.socket, "-P", pidfile, plugin (),
                    f->image, text (f, "control=%s", control_path (f)), NULL);
  assert_int_equal (o->status, 0);
  struct control *c = control_connect (f, NULL);
  assert_string_equal (listed (c, true), "1");
  /* by now it has been written */
  FILE *file = fopen (pidfile, "re");
  assert_non_null (file);
  assert_int_equal (fscanf (file, "%ld", &pid), 1);
  fclose (file);
  assert_int_equal (number (call (c, "server.info", NULL), "pid"), pid);
  kill ((pid_t)pid, SIGTERM);
  assert_true (ends ((pid_t)pid, 10));
  assert_false (exists (control_path (f)));
}

static void
a_path_may_be_relative (void **state)
{
  struct fixture *f = *state;
  char before[512];

  make_image (f, SIZE);
  assert_non_null (getcwd (before, sizeof before));
  assert_int_equal (chdir (f->server.dir), 0);
  const struct outcome *o
      = run_with (f, "control", text (f, "test -S '%s'", control_path (f)));
  assert_int_equal (chdir (before), 0);
  assert_int_equal (o->status, 0);
  assert_false (exists (control_path (f)));
}

/* --- what is at the path already -----------------------------------------
 */

static void
a_socket_left_behind_is_replaced (void **state)
{
  struct fixture *f = *state;

  make_image (f, SIZE);
  for (unsigned i = 0; i < 3; i++) {
    serve (f, NULL);
    assert_string_equal (listed (control_connect (f, NULL), true), "1");
    kill (f->server.pid, SIGKILL);
    server_wait (&f->server);
    assert_true (is_socket (control_path (f)));
  }
  serve (f, NULL);
  stop (f);
  assert_false (exists (control_path (f)));
}

static void
a_socket_in_use_is_left_alone (void **state)
{
  struct fixture *f = *state;

  make_image (f, SIZE);
  serve (f, NULL);
  struct control *c = control_connect (f, NULL);
  take_another_image (f);
  for (unsigned i = 0; i < 3; i++)
    refused (run_with (f, control_path (f), "true"), control_path (f),
             "another server listens there");
  assert_string_equal (listed (c, true), "1");
  assert_string_equal (listed (control_connect (f, NULL), true), "1");
}

static void
refuse_as_no_socket (struct fixture *f)
{
  refused (run_with (f, control_path (f), "true"), control_path (f),
           "not a socket");
}

static void
what_is_no_socket_is_left_alone (void **state)
{
  struct fixture *f = *state;
  const char *path = control_path (f);
  const char *image = text (f, "%s", f->image);
  const uint8_t *content = make_image (f, SIZE);

  refused (run_with (f, image, "true"), image, "not a socket");
  file_is (image, 0, content, SIZE);

  assert_int_equal (mkdir (path, 0700), 0);
  refuse_as_no_socket (f);
  assert_int_equal (rmdir (path), 0);

  assert_int_equal (mkfifo (path, 0600), 0);
  refuse_as_no_socket (f);
  assert_int_equal (unlink (path), 0);

  /* also a link to nowhere, which nothing is made behind */
  assert_int_equal (symlink ("elsewhere", path), 0);
  refuse_as_no_socket (f);
  assert_false (exists (text (f, "%s/elsewhere", f->server.dir)));
  assert_int_equal (unlink (path), 0);
}

/* A path of LENGTH bytes in the test's directory. */
static const char *
long_path (struct fixture *f, size_t length)
{
  char *path = scratch (f, length + 1);
  const int n = snprintf (path, length, "%s/", f->server.dir);

  memset (path + n, 'c', length - (size_t)n);
  return path;
}

static void
a_path_may_be_as_long_as_a_sockets (void **state)
{
  struct fixture *f = *state;
  const size_t most = sizeof ((struct sockaddr_un){ 0 }).sun_path - 1;
  const char *longest = long_path (f, most), *longer = long_path (f, most + 1);

  make_image (f, SIZE);
  assert_int_equal (
      run_with (f, longest, text (f, "test -S '%s'", longest))->status, 0);
  assert_false (exists (longest));
  refused (run_with (f, longer, "true"), longer, "at most 107 bytes");
  assert_false (exists (longest));
}

static void
the_directory_must_exist (void **state)
{
  struct fixture *f = *state;
  const char *path = text (f, "%s/missing/control", f->server.dir);

  make_image (f, SIZE);
  refused (run_with (f, path, "true"), path, "No such file or directory");
}

/* A server that does not come up leaves no socket. */
static void
the_socket_goes_if_the_server_cannot_start (void **state)
{
  struct fixture *f = *state;
  const char *control = text (f, "control=%s", control_path (f));

  make_image (f, SIZE);
  /* nbdkit finds that after the plugin is ready */
  const struct outcome *o
      = run_nbdkit (f, "-U", text (f, "%s/missing/socket", f->server.dir),
                    plugin (), f->image, control, NULL);
  assert_int_not_equal (o->status, 0);
  assert_false (exists (control_path (f)));
  o = run_nbdkit (f, "-f", "-U", "-", "-P",
                  text (f, "%s/missing/pid", f->server.dir), plugin (),
                  f->image, control, NULL);
  assert_int_not_equal (o->status, 0);
  assert_false (exists (control_path (f)));
  /* and the plugin before the socket is made */
  o = run_nbdkit (f, "-U", "-", plugin (), f->image, control,
                  "backing-store=/missing/file", NULL);
  assert_int_not_equal (o->status, 0);
  assert_false (exists (control_path (f)));
}

/* One server's socket was removed by hand; another has the path now. */
static void
anothers_socket_is_not_removed (void **state)
{
  struct fixture *f = *state;

  make_image (f, SIZE);
  serve (f, "snapshot=no", NULL);
  struct server first = f->server;
  assert_int_equal (unlink (control_path (f)), 0);
  snprintf (f->server.socket, sizeof f->server.socket, "%s/socket2",
            f->server.dir);
  take_another_image (f);
  serve (f, NULL);
  kill (first.pid, SIGTERM);
  assert_int_equal (server_wait (&first), 0);
  assert_true (is_socket (control_path (f)));
  assert_string_equal (listed (control_connect (f, NULL), true), "1");
  stop (f);
  assert_false (exists (control_path (f)));
}

static void
a_file_that_took_its_place_is_not_removed (void **state)
{
  struct fixture *f = *state;

  make_image (f, SIZE);
  serve (f, NULL);
  assert_int_equal (unlink (control_path (f)), 0);
  const int fd
      = open (control_path (f), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  assert_int_not_equal (fd, -1);
  close (fd);
  stop (f);
  assert_true (exists (control_path (f)));
}

/* --- the end -------------------------------------------------------------
 */

static void
idle_clients_do_not_keep_the_server (void **state)
{
  struct fixture *f = *state;
  struct control *c[20];

  make_image (f, SIZE);
  serve (f, NULL);
  for (unsigned i = 0; i < 20; i++) {
    c[i] = control_connect (f, NULL);
    if (i % 2 == 0)
      listed (c[i], false);
    if (i % 3 == 0)
      control_send (c[i], list, i);
  }
  const double began = now ();
  kill (f->server.pid, SIGTERM);
  assert_true (ends (f->server.pid, 10));
  print_message ("ended after %.3f s\n", now () - began);
  assert_int_equal (server_wait (&f->server), 0);
  for (unsigned i = 0; i < 20; i++)
    assert_null (control_line (c[i]));
  assert_false (exists (control_path (f)));
}

static void
busy_clients_do_not_keep_the_server (void **state)
{
  struct fixture *f = *state;
  pid_t clients[4];

  make_image (f, SIZE);
  serve (f, NULL);
  for (unsigned i = 0; i < 4; i++) {
    struct control *c = control_connect (f, NULL);
    listed (c, false);
    clients[i] = fork ();
    if (clients[i] == 0) {
      while (control_send (c, list, sizeof list - 1)
             && control_line (c) != NULL)
        ;
      _exit (0);
    }
    control_close (c);
  }
  kill (f->server.pid, SIGTERM);
  assert_true (ends (f->server.pid, 10));
  assert_int_equal (server_wait (&f->server), 0);
  for (unsigned i = 0; i < 4; i++)
    assert_int_equal (waitpid (clients[i], NULL, 0), clients[i]);
}

/* However many come and go meanwhile. */
static void
the_server_can_end_at_any_moment (void **state)
{
  struct fixture *f = *state;

  make_image (f, SIZE);
  for (unsigned i = 0; i < 20; i++) {
    serve (f, NULL);
    struct control *c = control_connect (f, NULL);
    for (unsigned n = 0; n < i; n++)
      control_connect (f, NULL);
    control_request (c, "snapshot.create", "{s:b}", "creating", i % 2);
    control_request (c, "snapshot.delete", "{s:i}", "snapshot", 1);
    if (i % 3 == 0)
      control_close (c);
    kill (f->server.pid, SIGTERM);
    assert_true (ends (f->server.pid, 10));
    assert_int_equal (server_wait (&f->server), 0);
    assert_false (exists (control_path (f)));
  }
}

int
main (int argc, char **argv)
{
  const struct CMUnitTest tests[] = {
    fixture_test (nobody_else_may_use_the_socket),
    fixture_test (the_socket_is_there_when_the_command_starts),
    fixture_test (the_socket_goes_with_the_server),
    fixture_test (the_socket_stays_with_a_server_in_the_background),
    fixture_test (a_path_may_be_relative),
    fixture_test (a_socket_left_behind_is_replaced),
    fixture_test (a_socket_in_use_is_left_alone),
    fixture_test (what_is_no_socket_is_left_alone),
    fixture_test (a_path_may_be_as_long_as_a_sockets),
    fixture_test (the_directory_must_exist),
    fixture_test (the_socket_goes_if_the_server_cannot_start),
    fixture_test (anothers_socket_is_not_removed),
    fixture_test (a_file_that_took_its_place_is_not_removed),
    fixture_test (idle_clients_do_not_keep_the_server),
    fixture_test (busy_clients_do_not_keep_the_server),
    fixture_test (the_server_can_end_at_any_moment),
  };

  /* What a test has run by nbdkit. */
  if (argc == 3 && strcmp (argv[1], "--ask") == 0)
    return ask_and_print (argv[2]);
  return cmocka_run_group_tests_name ("control-socket", tests, NULL, NULL);
}
