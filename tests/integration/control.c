/* SPDX-License-Identifier: BSD-3-Clause */

#include "control.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* Seconds for a server under load, with a sanitizer. */
#define PATIENCE 60

const char *
control_path (struct fixture *f)
{
  return text (f, "%s/control", f->server.dir);
}

void
await_server (struct fixture *f)
{
  struct nbd_handle *nbd = nbd_create ();

  assert_non_null (nbd);
  ok (nbd_set_opt_mode (nbd, true));
  ok (nbd_connect_unix (nbd, f->server.socket));
  ok (nbd_opt_abort (nbd));
  nbd_close (nbd);
}

static void
release (void *what)
{
  struct control *c = what;

  control_close (c);
  free (c->text);
  free (c);
}

struct control *
control_connect (struct fixture *f, const char *path)
{
  struct sockaddr_un address = { .sun_family = AF_UNIX };
  struct control *c = calloc (1, sizeof *c);

  assert_non_null (c);
  c->f = f;
  c->fd = -1;
  keep (f, c, release);
  snprintf (address.sun_path, sizeof address.sun_path, "%s",
            path != NULL ? path : control_path (f));
  c->fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (connect (c->fd, (const struct sockaddr *)&address, sizeof address) == -1)
    fail_msg ("%s: %s", address.sun_path, strerror (errno));
  return c;
}

void
control_close (struct control *c)
{
  if (c->fd != -1)
    close (c->fd);
  c->fd = -1;
}

static void
await (const struct control *c, short events)
{
  struct pollfd pollfd = { .fd = c->fd, .events = events };

  if (poll (&pollfd, 1, PATIENCE * 1000) != 1)
    fail_msg ("the control socket keeps silent");
}

bool
control_send (struct control *c, const void *bytes, size_t count)
{
  const char *p = bytes;

  while (count > 0) {
    await (c, POLLOUT);
    const ssize_t r = send (c->fd, p, count, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (r == -1 && (errno == EPIPE || errno == ECONNRESET))
      return false;
    if (r == -1 && (errno == EAGAIN || errno == EINTR))
      continue;
    assert_true (r > 0);
    p += r;
    count -= (size_t)r;
  }
  return true;
}

/* False: there is no more. */
static bool
receive (struct control *c)
{
  if (c->used > 0) {
    memmove (c->text, c->text + c->used, c->length - c->used);
    c->length -= c->used;
    c->used = 0;
  }
  if (c->size - c->length < 4096) {
    c->size = 2 * c->size + 65536;
    c->text = realloc (c->text, c->size);
    assert_non_null (c->text);
  }
  await (c, POLLIN);
  const ssize_t r = recv (c->fd, c->text + c->length, c->size - c->length, 0);
  assert_true (r >= 0 || errno == ECONNRESET);
  if (r > 0)
    c->length += (size_t)r;
  return r > 0;
}

const char *
control_line (struct control *c)
{
  size_t seen = 0;

  for (;;) {
    char *start = c->text + c->used;
    char *end = c->length - c->used > seen
                    ? memchr (start + seen, '\n', c->length - c->used - seen)
                    : NULL;
    if (end != NULL) {
      *end = '\0';
      c->used = (size_t)(end + 1 - c->text);
      return start;
    }
    seen = c->length - c->used;
    if (!receive (c)) {
      assert_int_equal (seen, 0);
      return NULL;
    }
  }
}

void
control_finish (struct control *c)
{
  assert_int_equal (shutdown (c->fd, SHUT_WR), 0);
  while (control_line (c) != NULL)
    ;
  control_close (c);
}

static void
release_json (void *what)
{
  json_decref (what);
}

/* Whether it has an id and either a result or a whole error. */
static bool
is_reply (const json_t *reply)
{
  const char *version = json_string_value (json_object_get (reply, "jsonrpc"));
  const json_t *error = json_object_get (reply, "error");

  if (version == NULL || strcmp (version, "2.0") != 0
      || json_object_get (reply, "id") == NULL || json_object_size (reply) != 3)
    return false;
  return json_object_get (reply, "result") != NULL
         || (json_is_integer (json_object_get (error, "code"))
             && json_is_string (json_object_get (error, "message")));
}

json_t *
control_reply (struct control *c)
{
  const char *line = control_line (c);
  json_error_t error;

  if (line == NULL) {
    fail_msg ("the server has closed the connection");
    return NULL;
  }
  json_t *reply = json_loads (line, JSON_REJECT_DUPLICATES, &error);
  if (!is_reply (reply))
    fail_msg ("not a reply: %.200s", line);
  keep (c->f, reply, release_json);
  return reply;
}

json_t *
control_ask (struct control *c, const char *line)
{
  control_send (c, line, strlen (line));
  control_send (c, "\n", 1);
  return control_reply (c);
}

const char *
quoted (struct fixture *f, const char *format, ...)
{
  char *p = scratch (f, 512);
  va_list args;

  va_start (args, format);
  const int n = vsnprintf (p, 512, format, args);
  va_end (args);
  assert_in_range (n, 0, 511);
  for (char *quote = p; (quote = strchr (quote, '\'')) != NULL;)
    *quote = '"';
  return p;
}

static void
send_request (struct control *c, const char *method, const char *format,
              va_list args)
{
  json_error_t error;
  json_t *request = json_pack ("{s:s, s:i, s:s}", "jsonrpc", "2.0", "id",
                               ++c->serial, "method", method);

  if (format != NULL) {
    json_t *params = json_vpack_ex (&error, 0, format, args);
    if (params == NULL)
      fail_msg ("json_pack: %s", error.text);
    json_object_set_new (request, "params", params);
  }
  char *line = json_dumps (request, JSON_COMPACT);
  assert_non_null (line);
  assert_true (control_send (c, line, strlen (line)));
  assert_true (control_send (c, "\n", 1));
  free (line);
  json_decref (request);
}

void
control_request (struct control *c, const char *method, const char *format, ...)
{
  va_list args;

  va_start (args, format);
  send_request (c, method, format, args);
  va_end (args);
}

/* The reply to the last request. */
static json_t *
get_reply (struct control *c)
{
  json_t *reply = control_reply (c);

  assert_int_equal (json_integer_value (json_object_get (reply, "id")),
                    c->serial);
  return reply;
}

json_t *
call_result (struct control *c, const char *file, int line, const char *method,
             const char *format, ...)
{
  va_list args;

  va_start (args, format);
  send_request (c, method, format, args);
  va_end (args);
  json_t *reply = get_reply (c);
  json_t *result = json_object_get (reply, "result");
  if (result == NULL) {
    print_error ("%s: %s\n", method,
                 json_string_value (json_object_get (
                     json_object_get (reply, "error"), "message")));
    _fail (file, line);
  }
  return result;
}

json_t *
call_error (struct control *c, int code, const char *file, int line,
            const char *method, const char *format, ...)
{
  va_list args;

  va_start (args, format);
  send_request (c, method, format, args);
  va_end (args);
  const json_t *reply = get_reply (c);
  json_t *error = json_object_get (reply, "error");
  if (json_integer_value (json_object_get (error, "code")) != code) {
    char *got = json_dumps (reply, JSON_COMPACT);
    print_error ("%s: must fail with %d, but: %s\n", method, code, got);
    free (got);
    _fail (file, line);
  }
  return error;
}

json_t *
assert_error (json_t *reply, int code, const char *err, const char *words,
              const char *file, int line)
{
  json_t *error = json_object_get (reply, "error");
  const char *message = json_string_value (json_object_get (error, "message"));
  const char *name = json_string_value (
      json_object_get (json_object_get (error, "data"), "errno"));

  if (message != NULL
      && json_integer_value (json_object_get (error, "code")) == code
      && strstr (message, words) != NULL && (name == NULL) == (err == NULL)
      && (err == NULL || strcmp (name, err) == 0))
    return error;
  char *got = json_dumps (reply, JSON_COMPACT);
  print_error ("must be %d, %s, '%s', but is: %s\n", code,
               err != NULL ? err : "no errno", words, got);
  free (got);
  _fail (file, line);
  return NULL;
}

static const json_t *
member (const json_t *object, const char *key)
{
  const json_t *value = json_object_get (object, key);

  if (value == NULL)
    fail_msg ("there is no %s", key);
  return value;
}

json_int_t
number (const json_t *object, const char *key)
{
  const json_t *value = member (object, key);

  if (!json_is_integer (value))
    fail_msg ("%s is not an integer", key);
  return json_integer_value (value);
}

const char *
string (const json_t *object, const char *key)
{
  const json_t *value = member (object, key);

  if (!json_is_string (value))
    fail_msg ("%s is not a string", key);
  return json_string_value (value);
}

bool
is_null (const json_t *object, const char *key)
{
  return json_is_null (member (object, key));
}

bool
truth (const json_t *object, const char *key)
{
  const json_t *value = member (object, key);

  if (!json_is_boolean (value))
    fail_msg ("%s is not a boolean", key);
  return json_is_true (value);
}

json_t *
info (struct control *c, int snapnumber)
{
  return call (c, "snapshot.info", "{s:i}", "snapshot", snapnumber);
}

json_int_t
figure (struct control *c, int snapnumber, const char *key)
{
  return number (info (c, snapnumber), key);
}

void
await_figure (struct control *c, int snapnumber, const char *key,
              json_int_t wanted)
{
  const double end = now () + PATIENCE;
  const size_t kept = c->f->kept_count;
  json_int_t got;

  while ((got = figure (c, snapnumber, key)) != wanted) {
    if (now () > end)
      fail_msg ("%s is %lld, not %lld", key, got, wanted);
    forget (c->f, kept);
  }
}

int
create (struct control *c)
{
  return (int)number (call (c, "snapshot.create", NULL), "snapnumber");
}

const char *
listed (struct control *c, bool all)
{
  const json_t *result = call (c, "snapshot.list", "{s:b}", "all", (int)all);
  const json_t *list = member (result, "snapshots");
  char *numbers = scratch (c->f, 512);
  const json_t *snapshot;
  size_t i, n = 0;

  json_array_foreach (list, i, snapshot) n
      += (size_t)snprintf (numbers + n, n < 512 ? 512 - n : 0, "%s%lld",
                           i > 0 ? " " : "", number (snapshot, "snapnumber"));
  assert_true (n < 512);
  return numbers;
}

void
await_listed (struct control *c, bool all, const char *wanted)
{
  const double end = now () + PATIENCE;
  const size_t kept = c->f->kept_count;
  const char *got;

  while (strcmp (got = listed (c, all), wanted) != 0) {
    if (now () > end)
      fail_msg ("listed are '%s', not '%s'", got, wanted);
    forget (c->f, kept);
  }
}
