/* SPDX-License-Identifier: BSD-3-Clause */

#include "power-rpc.h"
#include "load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define REPLY_MAX (256u << 10)

int
rpc_connect (void)
{
  struct sockaddr_un address = { .sun_family = AF_UNIX };
  const int fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

  snprintf (address.sun_path, sizeof address.sun_path, "%s/control",
            server.dir);
  if (connect (fd, (const struct sockaddr *)&address, sizeof address) == -1) {
    close (fd);
    return -1;
  }
  return fd;
}

/* A line, to be freed; NULL: there is no more. */
static char *
read_line (int fd)
{
  char *text = malloc (REPLY_MAX);
  size_t length = 0;

  do {
    const ssize_t r
        = text == NULL ? -1 : read (fd, text + length, REPLY_MAX - length);
    if (r <= 0 || length + (size_t)r == REPLY_MAX) {
      free (text);
      return NULL;
    }
    length += (size_t)r;
  } while (text[length - 1] != '\n');
  text[length - 1] = '\0';
  return text;
}

json_t *
rpc (int fd, const char *method, json_t *params, char **why)
{
  json_t *request = json_pack ("{s:s, s:i, s:s}", "jsonrpc", "2.0", "id", 1,
                               "method", method);
  json_t *result = NULL;

  if (params != NULL)
    json_object_set_new (request, "params", params);
  char *line = json_dumps (request, JSON_COMPACT);
  json_decref (request);
  *why = NULL;
  const ssize_t length = (ssize_t)strlen (line);
  line[length] = '\n'; /* for its zero byte */
  const bool sent
      = send (fd, line, (size_t)length + 1, MSG_NOSIGNAL) == length + 1;
  free (line);
  char *text = sent ? read_line (fd) : NULL;
  if (text == NULL)
    return NULL;
  json_t *reply = json_loads (text, 0, NULL);
  if (reply == NULL)
    fail ("%s: no reply: %s", method, text);
  free (text);
  result = json_object_get (reply, "result");
  if (result == NULL)
    *why = strdup (rpc_text (json_object_get (reply, "error"), "message"));
  json_incref (result);
  json_decref (reply);
  return result;
}

int64_t
rpc_number (const json_t *object, const char *key)
{
  return json_integer_value (json_object_get (object, key));
}

const char *
rpc_text (const json_t *object, const char *key)
{
  return json_string_value (json_object_get (object, key));
}
