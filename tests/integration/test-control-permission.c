/* SPDX-License-Identifier: BSD-3-Clause */
/* Who may use the control socket, if the file's mode does not keep them off.
 */

#include "control.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define SIZE (1 << 20)

/* One that no server here runs as, and that need not exist. */
#define STRANGER 65533

static const char request[]
    = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"snapshot.create\"}\n";

/* In the child.  What ends up in OUT is for the test to judge. */
static void
ask (const char *path, int out)
{
  struct sockaddr_un address = { .sun_family = AF_UNIX };
  const int fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  char reply[4096];
  ssize_t r;

  snprintf (address.sun_path, sizeof address.sun_path, "%s", path);
  if (connect (fd, (const struct sockaddr *)&address, sizeof address) == -1) {
    dprintf (out, "connect: %s", strerrorname_np (errno));
    return;
  }
  /* A server that has closed the connection already has replied first. */
  (void)!send (fd, request, sizeof request - 1, MSG_NOSIGNAL);
  shutdown (fd, SHUT_WR);
  while ((r = recv (fd, reply, sizeof reply, 0)) > 0)
    (void)!write (out, reply, (size_t)r);
  dprintf (out, "end");
}

/* All that the server says to USER who wants a snapshot, and "end". */
static const char *
said_to (struct fixture *f, uid_t user)
{
  char *said = scratch (f, 8192);
  int status, pair[2];
  size_t n = 0;
  ssize_t r;

  assert_int_equal (pipe (pair), 0);
  const pid_t pid = fork ();
  assert_int_not_equal (pid, -1);
  if (pid == 0) {
    if (setgroups (0, NULL) == 0 && setresgid (user, user, user) == 0
        && setresuid (user, user, user) == 0)
      ask (control_path (f), pair[1]);
    _exit (0);
  }
  close (pair[1]);
  while (n < 8191 && (r = read (pair[0], said + n, 8191 - n)) > 0)
    n += (size_t)r;
  close (pair[0]);
  assert_int_equal (waitpid (pid, &status, 0), pid);
  assert_int_equal (status, 0);
  return said;
}

/* As an administrator may do who wants to let others in. */
static void
open_the_way (struct fixture *f)
{
  assert_int_equal (chmod (f->server.dir, 0777), 0);
  assert_int_equal (chmod (control_path (f), 0777), 0);
}

static void
assert_refused_to (struct fixture *f, uid_t user)
{
  const char *said = said_to (f, user);
  const char *end = strchr (said, '\n');

  assert_non_null (end);
  assert_string_equal (end, "\nend");
  json_t *reply = json_loads (said, JSON_DISABLE_EOF_CHECK, NULL);
  is_error (reply, NOT_ALLOWED, "EPERM", "only root");
  assert_true (json_is_null (json_object_get (reply, "id")));
  json_decref (reply);
  await_log (&f->server, text (f, "of user %u", (unsigned)user), 20);
}

static void
assert_allowed_to (struct fixture *f, uid_t user)
{
  const char *said = said_to (f, user);

  if (strstr (said, "\"result\"") == NULL)
    fail_msg ("to user %u: %s", (unsigned)user, said);
}

static void
the_mode_keeps_others_off (void **state)
{
  struct fixture *f = *state;

  make_image (f, SIZE);
  serve (f, "snapshot=no", NULL);
  assert_int_equal (chmod (f->server.dir, 0777), 0);
  assert_string_equal (said_to (f, STRANGER), "connect: EACCES");
  assert_allowed_to (f, 0);
}

static void
others_are_refused_although_the_mode_lets_them (void **state)
{
  struct fixture *f = *state;

  make_image (f, SIZE);
  serve (f, "snapshot=no", NULL);
  open_the_way (f);
  assert_refused_to (f, STRANGER);
  assert_refused_to (f, 1);
  assert_int_equal (server_logged (&f->server, "the control socket refused"),
                    2);
  /* and have changed nothing */
  struct control *c = control_connect (f, NULL);
  assert_string_equal (listed (c, true), "");
}

/* However many try: no place is taken by them. */
static void
who_is_refused_takes_no_connection (void **state)
{
  struct fixture *f = *state;

  make_image (f, SIZE);
  serve (f, "snapshot=no", NULL);
  open_the_way (f);
  for (unsigned i = 0; i < 40; i++)
    assert_refused_to (f, STRANGER);
  assert_allowed_to (f, 0);
}

/* nbdkit -u: the socket is made before it becomes that user. */
static void
a_server_that_gives_up_root_serves_root_and_its_user (void **state)
{
  const struct passwd *nobody = getpwnam ("nobody");
  struct fixture *f = *state;

  if (nobody == NULL) {
    print_message ("there is no user nobody here\n");
    skip ();
  }
  make_image (f, SIZE);
  assert_int_equal (chmod (f->server.dir, 0777), 0);
  serve (f, "--user=nobody", "snapshot=no",
         text (f, "backing-store=%s", f->server.dir), NULL);
  assert_allowed_to (f, 0);
  assert_string_equal (said_to (f, nobody->pw_uid), "connect: EACCES");
  open_the_way (f);
  assert_allowed_to (f, nobody->pw_uid);
  assert_refused_to (f, STRANGER);
  struct control *c = control_connect (f, NULL);
  assert_string_equal (listed (c, true), "1 2");
  stop (f);
  /* As it is in a directory that its user may write to. */
  assert_int_equal (access (control_path (f), F_OK), -1);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    fixture_test (the_mode_keeps_others_off),
    fixture_test (others_are_refused_although_the_mode_lets_them),
    fixture_test (who_is_refused_takes_no_connection),
    fixture_test (a_server_that_gives_up_root_serves_root_and_its_user),
  };

  if (geteuid () != 0) {
    fprintf (stderr, "only root can become another user\n");
    return 77;
  }
  return cmocka_run_group_tests_name ("control-permission", tests, NULL, NULL);
}
