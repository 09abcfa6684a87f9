/* SPDX-License-Identifier: BSD-3-Clause */
/* One thread accepts connections, each connection has a thread of its own:
 * a request may take as long as a store takes to make files, and deleting a
 * snapshot on a healthy store must not wait for that.  What must not be
 * done twice at a time is the core's to know (snapset.h).
 *
 * Nothing here waits for one thing alone: every wait ends when QUIT becomes
 * readable, which it does when the server ends.
 */

#include "control.h"
#include "report.h"
#include "scoped.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* A request's line, its end included.  Room for some ten thousand ranges in
 * snapshot.set_free; whoever has more sends several.
 */
#define LINE_LIMIT ((size_t)1 << 20)

/* The part of a line that is read at a time. */
#define READ_SIZE ((size_t)16 << 10)

/* How long a connection waits that cannot be accepted yet: nobody tells when
 * a descriptor has become free.
 */
#define RETRY_MS 100

/* Each is a thread of ours; administrators do not need many. */
#define CONNECTIONS_MAX 32

struct control {
  const struct methods *context; /* set at creation, as is what follows */
  char *path;
  struct stat socket; /* what PATH is, while it is ours */
  int listener;
  int quit; /* an eventfd */
  pthread_t thread;
  bool running; /* of who starts and stops it */

  pthread_mutex_t lock;
  pthread_cond_t ended;
  unsigned threads; /* under LOCK: the acceptor and the connections */
};

struct connection {
  struct control *control;
  int fd;
  char *line; /* LENGTH bytes that came and are no whole line */
  size_t length, size;
};

/* --- the socket ------------------------------------------------------------
 */

/* Whether a server listens on what is there: then it is not ours to remove.
 */
static bool
is_in_use (const struct sockaddr_un *address)
{
  const int fd
      = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  const bool used
      = connect (fd, (const struct sockaddr *)address, sizeof *address) == 0
        || errno != ECONNREFUSED;

  close (fd);
  return used;
}

static int
bind_to (int fd, const struct sockaddr_un *address)
{
  /* Nobody can connect in between binding and changing the mode. */
  const mode_t mask = umask (0177);
  const int r = bind (fd, (const struct sockaddr *)address, sizeof *address);
  const int err = errno;

  umask (mask);
  errno = err;
  return r;
}

/* Bind and listen.  0, or -1 after logging. */
static int
listen_on (struct control *control, const char *path)
{
  struct sockaddr_un address = { .sun_family = AF_UNIX };
  struct stat st;

  if (strlen (path) >= sizeof address.sun_path) {
    report_error ("control=%s: the path of a socket has at most %zu bytes",
                  path, sizeof address.sun_path - 1);
    return -1;
  }
  memcpy (address.sun_path, path, strlen (path));
  if (lstat (path, &st) == 0) {
    if (!S_ISSOCK (st.st_mode)) {
      report_error ("control=%s: is there already, and not a socket", path);
      return -1;
    }
    if (is_in_use (&address)) {
      report_error ("control=%s: another server listens there", path);
      return -1;
    }
    unlink (path);
  }
  if (bind_to (control->listener, &address) == -1
      || lstat (path, &control->socket) == -1
      || listen (control->listener, CONNECTIONS_MAX) == -1) {
    report_error ("control=%s: cannot make the socket: %m", path);
    return -1;
  }
  return 0;
}

struct control *
control_create (const char *path, const struct methods *context)
{
  struct control *control = calloc (1, sizeof *control);
  pthread_condattr_t attr;

  if (control == NULL || (control->path = strdup (path)) == NULL) {
    report_error ("no memory for the control socket: %m");
    free (control);
    return NULL;
  }
  control->context = context;
  pthread_mutex_init (&control->lock, NULL);
  pthread_condattr_init (&attr);
  pthread_condattr_setclock (&attr, CLOCK_MONOTONIC);
  pthread_cond_init (&control->ended, &attr);
  pthread_condattr_destroy (&attr);
  control->quit = eventfd (0, EFD_CLOEXEC | EFD_NONBLOCK);
  control->listener
      = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (control->quit == -1 || control->listener == -1)
    report_error ("control=%s: cannot make the socket: %m", path);
  else if (listen_on (control, path) == 0)
    return control;
  control_free (control);
  return NULL;
}

void
control_free (struct control *control)
{
  struct stat st;

  if (control == NULL)
    return;
  /* Unless someone else's socket is there by now. */
  if (control->socket.st_ino != 0 && lstat (control->path, &st) == 0
      && st.st_ino == control->socket.st_ino
      && st.st_dev == control->socket.st_dev)
    unlink (control->path);
  if (control->listener != -1)
    close (control->listener);
  if (control->quit != -1)
    close (control->quit);
  pthread_cond_destroy (&control->ended);
  pthread_mutex_destroy (&control->lock);
  free (control->path);
  free (control);
}

/* --- the wire -------------------------------------------------------------
 */

/* Wait until FD (-1: none) is ready for EVENTS, for at most TIMEOUT
 * milliseconds (-1: any time).  False: the server ends.
 */
static bool
await (const struct control *control, int fd, short events, int timeout)
{
  struct pollfd fds[]
      = { { .fd = control->quit, .events = POLLIN }, { fd, events, 0 } };

  while (poll (fds, 2, timeout) == -1)
    if (errno != EINTR)
      return false;
  return fds[0].revents == 0;
}

/* False: the client is gone, or the server ends. */
static bool
send_all (const struct connection *connection, const char *text, size_t length)
{
  while (length > 0) {
    const ssize_t r = send (connection->fd, text, length, MSG_NOSIGNAL);

    if (r > 0) {
      text += r;
      length -= (size_t)r;
    }
    else if (r == -1 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
      if (!await (connection->control, connection->fd, POLLOUT, -1))
        return false;
    }
    else if (r == 0 || errno != EINTR)
      return false;
  }
  return true;
}

/* Send a reply to the request with ID: RESULT, or ERROR if that is NULL;
 * takes them over.  False: the connection is to end.
 */
static bool
reply (const struct connection *connection, json_t *id, json_t *result,
       json_t *error)
{
  json_t *object = json_pack ("{s:s}", "jsonrpc", "2.0");
  char *text = NULL;
  bool sent = false;

  if (result == NULL && error == NULL)
    error = methods_error (METHOD_MEMORY, ENOMEM, "no memory");
  json_object_set (object, "id", id != NULL ? id : json_null ());
  if (result != NULL)
    json_object_set (object, "result", result);
  else
    json_object_set (object, "error", error);
  json_decref (result);
  json_decref (error);
  if (object != NULL)
    text = json_dumps (object, JSON_COMPACT | JSON_ENSURE_ASCII);
  json_decref (object);
  if (text != NULL)
    sent = send_all (connection, text, strlen (text))
           && send_all (connection, "\n", 1);
  free (text);
  return sent;
}

/* What is wrong with a request, or NULL. */
static const char *
malformed (const json_t *request)
{
  const json_t *id = json_object_get (request, "id");
  const json_t *params = json_object_get (request, "params");
  const char *version
      = json_string_value (json_object_get (request, "jsonrpc"));

  if (json_is_array (request))
    return "a request is one object; batches are not served";
  if (!json_is_object (request))
    return "a request is an object";
  if (version == NULL || strcmp (version, "2.0") != 0)
    return "jsonrpc: must be \"2.0\"";
  if (!json_is_string (json_object_get (request, "method")))
    return "method: must be a string";
  if (id != NULL && !json_is_string (id) && !json_is_number (id)
      && !json_is_null (id))
    return "id: must be a string, a number or null";
  if (params != NULL && !json_is_object (params))
    return "params: must be an object; parameters go by their names";
  return NULL;
}

/* Carry out what a line asks for.  False: the connection is to end. */
static bool
serve_line (const struct connection *connection, const char *line,
            size_t length)
{
  json_error_t parse_error;
  json_t *error = NULL;
  bool go_on = true;

  if (strspn (line, " \t\r") == length)
    return true;
  json_t *request
      = json_loadb (line, length, JSON_REJECT_DUPLICATES, &parse_error);
  if (request == NULL)
    return reply (
        connection, NULL, NULL,
        methods_error (METHOD_PARSE, 0, "not JSON: %s", parse_error.text));
  json_t *id = json_object_get (request, "id");
  const char *wrong = malformed (request);
  if (wrong != NULL)
    go_on = reply (connection,
                   json_is_object (id) || json_is_array (id) ? NULL : id, NULL,
                   methods_error (METHOD_REQUEST, 0, "%s", wrong));
  else {
    json_t *result
        = methods_call (connection->control->context, connection,
                        json_string_value (json_object_get (request, "method")),
                        json_object_get (request, "params"), &error);
    if (id != NULL)
      go_on = reply (connection, id, result, error);
    else {
      json_decref (result);
      json_decref (error);
    }
  }
  json_decref (request);
  return go_on;
}

static bool
too_long (const struct connection *connection)
{
  reply (connection, NULL, NULL,
         methods_error (METHOD_PARSE, 0, "a line has at most %zu bytes",
                        LINE_LIMIT));
  return false;
}

/* Serve the whole lines that have come.  False: the connection is to end. */
static bool
serve_lines (struct connection *connection)
{
  size_t start = 0;
  char *end;

  while ((end
          = memchr (connection->line + start, '\n', connection->length - start))
         != NULL) {
    const size_t length = (size_t)(end - connection->line) - start;
    if (length >= LINE_LIMIT)
      return too_long (connection);
    *end = '\0';
    if (!serve_line (connection, connection->line + start, length))
      return false;
    start += length + 1;
  }
  connection->length -= start;
  memmove (connection->line, connection->line + start, connection->length);
  return connection->length < LINE_LIMIT || too_long (connection);
}

/* Read what has come.  False: the connection is to end. */
static bool
receive (struct connection *connection)
{
  if (connection->size - connection->length < READ_SIZE) {
    const size_t size = connection->size + READ_SIZE + connection->size / 2;
    char *line = realloc (connection->line, size);
    if (line == NULL)
      return false;
    connection->line = line;
    connection->size = size;
  }
  const ssize_t r = recv (connection->fd, connection->line + connection->length,
                          READ_SIZE, 0);
  if (r == -1)
    return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
  connection->length += (size_t)r;
  return r > 0;
}

/* --- the threads ----------------------------------------------------------
 */

static void
thread_ended (struct control *control)
{
  SCOPED_LOCK (&control->lock);
  control->threads--;
  pthread_cond_signal (&control->ended);
}

static void
close_connection (struct connection *connection)
{
  close (connection->fd);
  free (connection->line);
  free (connection);
}

static void *
serve (void *arg)
{
  struct connection *connection = arg;
  struct control *control = connection->control;

  while (await (control, connection->fd, POLLIN, -1) && receive (connection)
         && serve_lines (connection))
    ;
  methods_disconnect (control->context, connection);
  close_connection (connection);
  thread_ended (control);
  return NULL;
}

/* Root and who runs the server may do this, nobody else. */
static bool
may_control (int fd)
{
  struct ucred peer;
  socklen_t size = sizeof peer;

  if (getsockopt (fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0
      && (peer.uid == 0 || peer.uid == geteuid ()))
    return true;
  report_error ("the control socket refused process %ld of user %ld",
                (long)peer.pid, (long)peer.uid);
  return false;
}

static int
start_thread (struct control *control, void *(*function) (void *), void *arg,
              pthread_t *thread, bool detached)
{
  pthread_attr_t attr;
  int err = EAGAIN;

  {
    SCOPED_LOCK (&control->lock);
    /* One is the acceptor. */
    if (control->threads > CONNECTIONS_MAX)
      return err;
    control->threads++;
  }
  pthread_attr_init (&attr);
  if (detached)
    pthread_attr_setdetachstate (&attr, PTHREAD_CREATE_DETACHED);
  err = pthread_create (thread, &attr, function, arg);
  pthread_attr_destroy (&attr);
  if (err != 0)
    thread_ended (control);
  return err;
}

/* False: for want of descriptors or memory the connection has to wait. */
static bool
accept_one (struct control *control)
{
  pthread_t thread;
  const int fd
      = accept4 (control->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
  struct connection *connection;

  if (fd == -1)
    return errno != EMFILE && errno != ENFILE && errno != ENOBUFS
           && errno != ENOMEM;
  connection = calloc (1, sizeof *connection);
  if (connection == NULL) {
    close (fd);
    return true;
  }
  connection->control = control;
  connection->fd = fd;
  if (!may_control (fd))
    reply (connection, NULL, NULL,
           methods_error (METHOD_FORBIDDEN, EPERM,
                          "only root and the server's own user may use the "
                          "control socket"));
  else if (start_thread (control, serve, connection, &thread, true) == 0)
    return true;
  else
    reply (connection, NULL, NULL,
           methods_error (METHOD_TOO_MANY, 0,
                          "there are %u connections already", CONNECTIONS_MAX));
  close_connection (connection);
  return true;
}

static void *
accept_all (void *arg)
{
  struct control *control = arg;

  while (await (control, control->listener, POLLIN, -1))
    if (!accept_one (control))
      await (control, -1, 0, RETRY_MS);
  thread_ended (control);
  return NULL;
}

int
control_start (struct control *control)
{
  const int err
      = start_thread (control, accept_all, control, &control->thread, false);

  if (err != 0) {
    errno = err;
    report_error ("cannot start the control socket's thread: %m");
    return -1;
  }
  control->running = true;
  return 0;
}

int
control_stop (struct control *control, unsigned timeout)
{
  struct timespec deadline;
  int err = 0;

  if (!control->running)
    return 0;
  clock_gettime (CLOCK_MONOTONIC, &deadline);
  deadline.tv_sec += timeout;
  eventfd_write (control->quit, 1);
  pthread_mutex_lock (&control->lock);
  while (control->threads > 0 && err == 0)
    err = pthread_cond_timedwait (&control->ended, &control->lock, &deadline);
  const bool ended = control->threads == 0;
  pthread_mutex_unlock (&control->lock);
  if (!ended)
    return -1;
  pthread_join (control->thread, NULL);
  control->running = false;
  return 0;
}
