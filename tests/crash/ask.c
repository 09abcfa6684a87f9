/* SPDX-License-Identifier: BSD-3-Clause */

#include "ask.h"
#include "load.h"
#include "story.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

/* Seconds until a server is said to hang. */
#define PATIENCE 120

int
ask_connect (void)
{
  const struct timeval patience = { .tv_sec = PATIENCE };
  struct sockaddr_un address = { .sun_family = AF_UNIX };
  const int fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

  snprintf (address.sun_path, sizeof address.sun_path, "%s/c", server.dir);
  setsockopt (fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  if (connect (fd, (const struct sockaddr *)&address, sizeof address) == -1) {
    if (!ending_has_begun ())
      wrong ("%s: %s", address.sun_path, strerror (errno));
    close (fd);
    return -1;
  }
  return fd;
}

/* The line that answers, or NULL. */
static char *
read_line (int fd, const char *method)
{
  size_t length = 0, size = 0;
  char *line = NULL;

  do {
    if (size - length < 4096) {
      size += 65536;
      line = realloc (line, size);
      if (line == NULL)
        abort ();
    }
    const ssize_t r = recv (fd, line + length, size - length - 1, 0);
    if (r == -1 && (errno == EAGAIN || errno == EWOULDBLOCK))
      wrong ("no answer to %s", method);
    if (r <= 0) {
      if (!ending_has_begun ())
        wrong ("%s: the server has closed the connection", method);
      free (line);
      return NULL;
    }
    length += (size_t)r;
  } while (line[length - 1] != '\n');
  line[length - 1] = '\0';
  return line;
}

enum answer
ask (int fd, enum moment sent, const char *method, json_t *params,
     json_t **result)
{
  json_t *request
      = json_pack ("{s:s, s:i, s:s, s:o}", "jsonrpc", "2.0", "id", 1, "method",
                   method, "params", params != NULL ? params : json_object ());
  char *text = json_dumps (request, JSON_COMPACT);
  char *line = NULL;

  *result = NULL;
  if (request == NULL || text == NULL || asprintf (&line, "%s\n", text) == -1)
    abort ();
  json_decref (request);
  free (text);
  const size_t length = strlen (line);
  const ssize_t r = send (fd, line, length, MSG_NOSIGNAL);
  free (line);
  if (r != (ssize_t)length) {
    if (!ending_has_begun ())
      wrong ("%s cannot be sent: %s", method, strerror (errno));
    return ANSWER_NONE;
  }
  moment_passed (sent);

  line = read_line (fd, method);
  if (line == NULL)
    return ANSWER_NONE;
  json_t *reply = json_loads (line, JSON_REJECT_DUPLICATES, NULL);
  *result = json_incref (json_object_get (reply, "result"));
  const enum answer answer = *result != NULL ? ANSWER_RESULT : ANSWER_ERROR;
  if (*result == NULL)
    *result = json_incref (json_object_get (reply, "error"));
  if (*result == NULL)
    wrong ("%s: not an answer: %s", method, line);
  json_decref (reply);
  free (line);
  return answer;
}

json_int_t
ask_number (const json_t *object, const char *key)
{
  const json_t *value = json_object_get (object, key);

  if (!json_is_integer (value))
    wrong ("a snapshot's %s is not an integer", key);
  return json_integer_value (value);
}

const char *
ask_text (const json_t *object, const char *key)
{
  return json_string_value (json_object_get (object, key));
}
