/* SPDX-License-Identifier: BSD-3-Clause */

#include "client.h"
#include "find-socket.h"
#include "output.h"
#include "scoped.h"

#include <ctype.h>
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* The longest reply that is believed to be one.  A snapshot takes about a
 * kilobyte in a list.
 */
#define REPLY_MAX ((size_t)64 << 20)

/* What an NBD server sends first. */
#define NBD_GREETING "NBDMAGIC"

static int
connect_to (int fd, const char *path)
{
  struct sockaddr_un address = { .sun_family = AF_UNIX };
  int r;

  memcpy (address.sun_path, path, strlen (path)); /* client_open has looked */
  do
    r = connect (fd, (const struct sockaddr *)&address, sizeof address);
  while (r == -1 && errno == EINTR);
  return r;
}

/* ERR is what connect said. */
static void
cannot_connect (const char *path, int err)
{
  const char *reason = strerror (err);

  if (err == ENOENT || err == ECONNREFUSED)
    complain ("cannot connect to %s: %s: is the server running "
              "(nbdkit fssnap ... control=%s)?",
              path, reason, path);
  else if (err == EACCES)
    complain ("cannot connect to %s: %s: only root and the user whom the "
              "server runs as may",
              path, reason);
  else
    complain ("cannot connect to %s: %s", path, reason);
}

int
client_open (struct client *client, const char *path)
{
  const size_t longest = sizeof ((struct sockaddr_un *)NULL)->sun_path - 1;

  client->path = path != NULL ? text ("%s", path) : find_socket ();
  if (client->path == NULL)
    return -1;
  if (strlen (client->path) > longest) {
    complain ("%s: too long for the path of a socket, which has at most %zu "
              "bytes: give a shorter one, for example from its directory",
              client->path, longest);
    return -1;
  }
  client->fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (client->fd == -1) {
    complain ("cannot make a socket: %s", strerror (errno));
    return -1;
  }
  if (connect_to (client->fd, client->path) == -1) {
    cannot_connect (client->path, errno);
    return -1;
  }
  return 0;
}

void
client_close (struct client *client)
{
  if (client->fd != -1)
    close (client->fd);
  free (client->path);
  free (client->buffer);
}

/* A server that has hung up may have said why: that is for who reads. */
static int
send_all (const struct client *client, const char *bytes, size_t count)
{
  while (count > 0) {
    const ssize_t r = send (client->fd, bytes, count, MSG_NOSIGNAL);

    if (r >= 0) {
      bytes += r;
      count -= (size_t)r;
    }
    else if (errno == EPIPE || errno == ECONNRESET)
      return 0;
    else if (errno != EINTR) {
      complain ("cannot send to %s: %s", client->path, strerror (errno));
      return -1;
    }
  }
  return 0;
}

static int
send_request (struct client *client, const char *method, json_t *params)
{
  json_auto_t *request
      = json_pack ("{s:s, s:I, s:s, s:o}", "jsonrpc", "2.0", "id", ++client->id,
                   "method", method, "params", params);
  SCOPED_FREE char *line
      = request == NULL ? NULL : json_dumps (request, JSON_COMPACT);

  if (line == NULL)
    no_memory ();
  SCOPED_FREE char *with_end = text ("%s\n", line);
  return send_all (client, with_end, strlen (with_end));
}

static int
hung_up (const struct client *client)
{
  complain ("the server at %s hung up before it answered: its log may say "
            "why, and 'fssnap list' what has been done",
            client->path);
  return -1;
}

static int
make_room (struct client *client)
{
  if (client->used < client->size)
    return 0;
  if (client->size >= REPLY_MAX) {
    complain ("%s: the answer is longer than %zu MiB: is this the control "
              "socket of nbdkit fssnap?",
              client->path, REPLY_MAX >> 20);
    return -1;
  }
  const size_t size = client->size == 0 ? 4096 : 2 * client->size;
  char *grown = realloc (client->buffer, size);
  if (grown == NULL)
    no_memory ();
  client->buffer = grown;
  client->size = size;
  return 0;
}

/* Wait for the server.  0, or -1 if there is something else to do. */
static int
wait_for_bytes (const struct client *client)
{
  struct pollfd fds[] = { { .fd = client->fd, .events = POLLIN },
                          { .fd = client->interrupt, .events = POLLIN } };

  if (client->interrupt == -1)
    return 0;
  while (poll (fds, 2, -1) == -1 && errno == EINTR)
    ;
  return fds[1].revents != 0 ? -1 : 0;
}

/* Receive some bytes.  0, or -1 after a message or an interruption. */
static int
receive (struct client *client)
{
  ssize_t r;

  if (make_room (client) == -1 || wait_for_bytes (client) == -1)
    return -1;
  do
    r = recv (client->fd, client->buffer + client->used,
              client->size - client->used, 0);
  while (r == -1 && errno == EINTR);
  if (r == 0 || (r == -1 && errno == ECONNRESET))
    return hung_up (client);
  if (r == -1) {
    complain ("cannot receive from %s: %s", client->path, strerror (errno));
    return -1;
  }
  client->used += (size_t)r;
  return 0;
}

/* nbdkit's other socket is easily taken for this one, and neither side of it
 * would say anything for want of a newline.
 */
static bool
is_nbd (const struct client *client)
{
  const size_t length = strlen (NBD_GREETING);

  return client->used >= length
         && memcmp (client->buffer, NBD_GREETING, length) == 0;
}

/* Receive the next line.  It is the first TAKEN bytes of the buffer, its end
 * included.  0, or -1 after a message.
 */
static int
next_line (struct client *client)
{
  size_t looked_at = 0;

  client->used -= client->taken;
  if (client->taken > 0)
    memmove (client->buffer, client->buffer + client->taken, client->used);
  client->taken = 0;
  for (;;) {
    const char *end = client->used == looked_at
                          ? NULL
                          : memchr (client->buffer + looked_at, '\n',
                                    client->used - looked_at);

    if (end != NULL) {
      client->taken = (size_t)(end - client->buffer) + 1;
      return 0;
    }
    looked_at = client->used;
    if (receive (client) == -1)
      return -1;
    if (is_nbd (client)) {
      complain ("%s is where the server speaks NBD; its control socket is "
                "the one of control=PATH",
                client->path);
      return -1;
    }
  }
}

/* The reply is not as the protocol has it. */
static json_t *
strange (const struct client *client, const char *how)
{
  complain ("%s: the answer is not one of nbdkit fssnap (%s): is this its "
            "control socket?",
            client->path, how);
  return NULL;
}

/* The server's own words are complete. */
static json_t *
refused (struct client *client, const json_t *error)
{
  const json_t *code = json_object_get (error, "code");
  const char *message = json_string_value (json_object_get (error, "message"));

  if (!json_is_integer (code) || message == NULL)
    return strange (client, "its error has no code and message");
  client->error_code = json_integer_value (code);
  complain ("%s", message);
  return NULL;
}

static bool
is_blank (const struct client *client)
{
  for (size_t i = 0; i < client->taken; i++)
    if (!isspace ((unsigned char)client->buffer[i]))
      return false;
  return true;
}

/* What the line says in answer to the last request: the result, or NULL after
 * a message.
 */
static json_t *
understand (struct client *client)
{
  json_error_t why;
  json_auto_t *reply = json_loadb (client->buffer, client->taken, 0, &why);

  if (reply == NULL)
    return strange (client, why.text);
  const json_t *id = json_object_get (reply, "id");
  const json_t *error = json_object_get (reply, "error");
  json_t *result = json_object_get (reply, "result");

  /* A server that refuses the connection, or cannot read the request, does
   * not know the id.
   */
  if (error != NULL && json_is_null (id))
    return refused (client, error);
  if (!json_is_integer (id) || json_integer_value (id) != client->id)
    return strange (client, "its id is not the request's");
  if (error != NULL)
    return refused (client, error);
  if (!json_is_object (result))
    return strange (client, "it has no result");
  return json_incref (result);
}

json_t *
client_request (struct client *client, const char *method, json_t *params)
{
  client->error_code = 0;
  if (send_request (client, method, params) == -1)
    return NULL;
  do {
    if (next_line (client) == -1)
      return NULL;
  } while (is_blank (client));
  return understand (client);
}
