/* SPDX-License-Identifier: BSD-3-Clause */
/* Where server.info says that the server listens: each address is one that
 * libnbd gets in by, and there are no others.
 */

#include "control.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define SIZE (1 << 20)
#define PORT 10809

/* A network of this test's own, where all ports are free. */
static bool
private_network (void)
{
  struct ifreq request = { .ifr_name = "lo" };

  if (unshare (CLONE_NEWNET) == -1)
    return false;
  const int fd = socket (AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  bool up = fd != -1 && ioctl (fd, SIOCGIFFLAGS, &request) == 0;
  request.ifr_flags |= IFF_UP;
  up = up && ioctl (fd, SIOCSIFFLAGS, &request) == 0;
  close (fd);
  return up;
}

/* Return when PATH has been written and closed. */
static void
await_written (int inotify, const char *path)
{
  struct pollfd pollfd = { .fd = inotify, .events = POLLIN };
  char events[4096];

  while (access (path, F_OK) == -1) {
    assert_int_equal (poll (&pollfd, 1, 60000), 1);
    (void)!read (inotify, events, sizeof events);
  }
}

/* In the child: nbdkit with descriptors 3 and on to listen on. */
static void
exec_nbdkit (struct fixture *f, const char *pidfile, unsigned listeners,
             const char *const *options, pid_t parent)
{
  const char *preload = getenv ("FSSNAP_PRELOAD");
  const char *argv[16] = { "nbdkit", "-f", "-P", pidfile };
  unsigned n = 4;
  char pid[32], count[32];
  const int log
      = open (f->server.log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

  prctl (PR_SET_PDEATHSIG, SIGKILL);
  if (getppid () != parent || dup2 (log, STDERR_FILENO) == -1)
    _exit (126);
  while (*options != NULL)
    argv[n++] = *options++;
  argv[n++] = getenv ("FSSNAP_PLUGIN");
  argv[n++] = f->image;
  argv[n++] = text (f, "control=%s", control_path (f));
  argv[n] = NULL;
  if (listeners > 0) {
    snprintf (pid, sizeof pid, "%ld", (long)getpid ());
    snprintf (count, sizeof count, "%u", listeners);
    setenv ("LISTEN_PID", pid, 1);
    setenv ("LISTEN_FDS", count, 1);
  }
  if (preload != NULL && *preload != '\0')
    setenv ("LD_PRELOAD", preload, 1);
  execvp (argv[0], (char *const *)(uintptr_t)argv);
  _exit (127);
}

/* Start a server with nbdkit's OPTIONS, a list that ends with NULL, and
 * LISTENERS, COUNT of them, which this closes; a connection to it.
 */
static struct control *
serve_on (struct fixture *f, const char *const *options, const int *listeners,
          unsigned count)
{
  const char *pidfile = text (f, "%s/pid", f->server.dir);
  const int inotify = inotify_init1 (IN_CLOEXEC | IN_NONBLOCK);
  const pid_t parent = getpid ();

  make_image (f, SIZE);
  assert_int_not_equal (
      inotify_add_watch (inotify, f->server.dir, IN_CLOSE_WRITE | IN_CREATE),
      -1);
  f->server.pid = fork ();
  assert_int_not_equal (f->server.pid, -1);
  if (f->server.pid == 0) {
    for (unsigned i = 0; i < count; i++)
      if (fcntl (listeners[i], F_DUPFD, 100 + (int)i) != 100 + (int)i)
        _exit (126);
    for (unsigned i = 0; i < count; i++)
      dup2 (100 + (int)i, 3 + (int)i);
    for (unsigned i = 0; i < count; i++)
      close (100 + (int)i);
    exec_nbdkit (f, pidfile, count, options, parent);
  }
  for (unsigned i = 0; i < count; i++)
    close (listeners[i]);
  /* The control socket is there before that. */
  await_written (inotify, pidfile);
  close (inotify);
  return control_connect (f, NULL);
}

/* The addresses, of which there must be COUNT. */
static json_t *
addresses (struct control *c, size_t count)
{
  json_t *listen = json_object_get (call (c, "server.info", NULL), "listen");

  if (json_array_size (listen) != count) {
    char *got = json_dumps (listen, JSON_ENCODE_ANY);
    fail_msg ("%zu addresses, not %zu: %s", json_array_size (listen), count,
              got);
  }
  return listen;
}

/* The origin can be had by this address. */
static void
assert_leads_to_the_origin (struct fixture *f, const char *uri)
{
  struct nbd_handle *nbd = nbd_create ();

  assert_non_null (nbd);
  ok (nbd_connect_uri (nbd, uri));
  assert_int_equal (nbd_get_size (nbd), SIZE);
  reads_as (nbd, 0, pattern (f, 1, 0, SIZE), SIZE);
  nbd_close (nbd);
}

static void
assert_all_lead_to_the_origin (struct control *c, size_t count)
{
  const json_t *listen = addresses (c, count);

  for (size_t i = 0; i < count; i++)
    assert_leads_to_the_origin (c->f,
                                json_string_value (json_array_get (listen, i)));
}

static const char *
only_address (struct control *c)
{
  return json_string_value (json_array_get (addresses (c, 1), 0));
}

static void
a_unix_socket_is_named (void **state)
{
  struct fixture *f = *state;
  const char *options[] = { "-U", f->server.socket, NULL };
  struct control *c = serve_on (f, options, NULL, 0);

  assert_string_equal (only_address (c),
                       text (f, "nbd+unix:///?socket=%s", f->server.socket));
  assert_all_lead_to_the_origin (c, 1);
}

/* What a URI has to escape, and what it must not. */
static void
a_unix_socket_may_have_any_name (void **state)
{
  static const char *const names[]
      = { "a b%20?&=#+;,:@\"'<>", "\xc3\xa9\xff\n\\[]{}|^`~", "%", "-._~",
          "sock?socket=x" };
  struct fixture *f = *state;

  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    const char *path = text (f, "%s/%s", f->server.dir, names[i]);
    const char *options[] = { "-U", path, NULL };
    struct control *c = serve_on (f, options, NULL, 0);
    assert_all_lead_to_the_origin (c, 1);
    stop (f);
    unlink (text (f, "%s/pid", f->server.dir));
  }
}

/* All bytes of the longest path, most of them escaped. */
static void
a_unix_socket_may_have_a_long_name (void **state)
{
  struct fixture *f = *state;
  char path[sizeof ((struct sockaddr_un){ 0 }).sun_path];
  const int n = snprintf (path, sizeof path, "%s/", f->server.dir);

  memset (path + n, '%', sizeof path - 1 - (size_t)n);
  path[sizeof path - 1] = '\0';
  const char *options[] = { "-U", path, NULL };
  assert_all_lead_to_the_origin (serve_on (f, options, NULL, 0), 1);
}

static void
an_export_fits_in (void **state)
{
  struct fixture *f = *state;
  const char *options[] = { "-U", f->server.socket, NULL };
  struct control *c = serve_on (f, options, NULL, 0);
  const char *rest = strchr (only_address (c), '?');
  struct nbd_handle *nbd = new_handle (f);

  assert_non_null (rest);
  ok (nbd_connect_uri (nbd, text (f, "nbd+unix:///snapshot/1%s", rest)));
  assert_int_equal (nbd_is_read_only (nbd), 1);
}

static void
an_address_of_ipv4_is_named (void **state)
{
  const char *options[] = { "-i", "127.0.0.1", "-p", "10809", NULL };
  struct fixture *f = *state;
  struct control *c = serve_on (f, options, NULL, 0);

  assert_string_equal (only_address (c), "nbd://127.0.0.1:10809");
  assert_all_lead_to_the_origin (c, 1);
}

static void
an_address_of_ipv6_is_named (void **state)
{
  const char *options[] = { "-i", "::1", "-p", "10810", NULL };
  struct fixture *f = *state;
  struct control *c = serve_on (f, options, NULL, 0);

  assert_string_equal (only_address (c), "nbd://[::1]:10810");
  assert_all_lead_to_the_origin (c, 1);
}

static void
all_addresses_are_named_as_one (void **state)
{
  const char *options[] = { "-p", "10809", NULL };
  struct fixture *f = *state;
  struct control *c = serve_on (f, options, NULL, 0);

  assert_string_equal (only_address (c), "nbd://localhost:10809");
  assert_all_lead_to_the_origin (c, 1);
}

static int
listen_on (const void *address, socklen_t size)
{
  const struct sockaddr *any = address;
  const int fd = socket (any->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int one = 1;

  if (any->sa_family == AF_INET6)
    setsockopt (fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
  assert_int_equal (bind (fd, any, size), 0);
  assert_int_equal (listen (fd, 5), 0);
  return fd;
}

static int
listen_on_ipv4 (uint32_t host, uint16_t port)
{
  const struct sockaddr_in address = { .sin_family = AF_INET,
                                       .sin_port = htons (port),
                                       .sin_addr = { htonl (host) } };

  return listen_on (&address, sizeof address);
}

static int
listen_on_ipv6 (uint16_t port)
{
  const struct sockaddr_in6 address
      = { .sin6_family = AF_INET6, .sin6_port = htons (port) };

  return listen_on (&address, sizeof address);
}

static int
listen_on_unix (const char *path, bool in_the_file_system)
{
  struct sockaddr_un address = { .sun_family = AF_UNIX };
  char *p = address.sun_path + (in_the_file_system ? 0 : 1);

  memcpy (p, path, strlen (path));
  return listen_on (
      &address, (socklen_t)(offsetof (struct sockaddr_un, sun_path)
                            + (size_t)(p - address.sun_path) + strlen (path)));
}

static void
several_addresses_are_all_named (void **state)
{
  const char *options[] = { NULL };
  struct fixture *f = *state;
  const int listeners[] = {
    listen_on_ipv4 (INADDR_LOOPBACK, 10001),
    listen_on_unix (f->server.socket, true),
    listen_on_ipv4 (INADDR_LOOPBACK, 10002),
    listen_on_unix (text (f, "%s/other", f->server.dir), true),
  };

  assert_all_lead_to_the_origin (serve_on (f, options, listeners, 4), 4);
}

/* One of each kind, whatever is between them. */
static void
an_address_is_named_once (void **state)
{
  const char *options[] = { NULL };
  struct fixture *f = *state;
  const int listeners[] = {
    listen_on_ipv4 (INADDR_ANY, PORT),
    listen_on_unix (f->server.socket, true),
    listen_on_ipv6 (PORT),
  };

  assert_all_lead_to_the_origin (serve_on (f, options, listeners, 3), 2);
}

/* There is no URI for it. */
static void
a_socket_without_a_path_is_not_named (void **state)
{
  const char *options[] = { NULL };
  struct fixture *f = *state;
  const int listeners[] = {
    listen_on_unix (text (f, "fssnap-%ld", (long)getpid ()), false),
    listen_on_unix (f->server.socket, true),
  };

  assert_all_lead_to_the_origin (serve_on (f, options, listeners, 2), 1);
}

/* nbdkit -s: its one client is there already. */
static void
a_server_on_a_pipe_has_no_address (void **state)
{
  const char *options[] = { "-s", NULL };
  struct fixture *f = *state;
  int pair[2];

  assert_int_equal (socketpair (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair),
                    0);
  const int in = dup (STDIN_FILENO), out = dup (STDOUT_FILENO);
  fcntl (in, F_SETFD, FD_CLOEXEC);
  fcntl (out, F_SETFD, FD_CLOEXEC);
  dup2 (pair[1], STDIN_FILENO);
  dup2 (pair[1], STDOUT_FILENO);
  struct control *c = serve_on (f, options, NULL, 0);
  dup2 (in, STDIN_FILENO);
  dup2 (out, STDOUT_FILENO);
  close (in);
  close (out);
  close (pair[1]);
  addresses (c, 0);
  struct nbd_handle *nbd = new_handle (f);
  ok (nbd_connect_socket (nbd, pair[0]));
  create (c);
  addresses (c, 0);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    fixture_test (a_unix_socket_is_named),
    fixture_test (a_unix_socket_may_have_any_name),
    fixture_test (a_unix_socket_may_have_a_long_name),
    fixture_test (an_export_fits_in),
    fixture_test (an_address_of_ipv4_is_named),
    fixture_test (an_address_of_ipv6_is_named),
    fixture_test (all_addresses_are_named_as_one),
    fixture_test (several_addresses_are_all_named),
    fixture_test (an_address_is_named_once),
    fixture_test (a_socket_without_a_path_is_not_named),
    fixture_test (a_server_on_a_pipe_has_no_address),
  };

  if (!private_network ()) {
    fprintf (stderr, "no network of our own can be had here\n");
    return 77;
  }
  return cmocka_run_group_tests_name ("control-listen", tests, NULL, NULL);
}
