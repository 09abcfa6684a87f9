/* SPDX-License-Identifier: BSD-3-Clause */

#include "target.h"
#include "control.h"
#include "cow.h"
#include "reclaim.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* Milliseconds without a reply that are a hang. */
#define PATIENCE 60000

#define LINE_LIMIT ((size_t)1 << 20)
#define MEMORY (4 << 20)

/* Snapshots that may stay for the next lines to deal with. */
#define SNAPSHOTS_MAX 8

struct target {
  char directory[64], path[96];
  int fd;
  struct origin *origin;
  struct snapset *set;
  struct reclaim *reclaim;
  struct options options;
  struct methods methods;
  struct control *control;
};

/* What must come back for one line. */
struct expected {
  struct expected *next;
  json_t *id; /* of a request that is in order; NULL: any */
};

struct client {
  const struct target *target;
  int fd;
  char *line; /* sent, and not ended yet */
  size_t length, size;
  struct expected *first, **last;
  char *reply; /* come, and not looked at yet */
  size_t reply_length, reply_size;
};

/* For who reads what went wrong. */
static char last_line[4096];

static void __attribute__ ((noreturn, format (printf, 1, 2)))
die (const char *format, ...)
{
  va_list args;

  va_start (args, format);
  vfprintf (stderr, format, args);
  va_end (args);
  fprintf (stderr, "\nsent last: %s\n", last_line);
  abort ();
}

#define must(condition)                                                        \
  do                                                                           \
    if (!(condition))                                                          \
      die ("%s:%d: %s: %s", __FILE__, __LINE__, #condition, strerror (errno)); \
  while (0)

/* --- the server ----------------------------------------------------------
 */

struct target *
target_start (void)
{
  const char *base = getenv ("FSSNAP_TEST_DIR");
  struct target *target = calloc (1, sizeof *target);
  char origin[32];

  must (target != NULL);
  snprintf (target->directory, sizeof target->directory,
            "%s/fssnap-fuzz-XXXXXX", base != NULL ? base : "/dev/shm");
  must (mkdtemp (target->directory) != NULL);
  snprintf (target->path, sizeof target->path, "%s/control", target->directory);
  target->fd = open (target->directory, O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
  must (target->fd != -1);
  must (ftruncate (target->fd, ORIGIN_SIZE) == 0);
  snprintf (origin, sizeof origin, "/proc/self/fd/%d", target->fd);

  options_init (&target->options);
  must (options_set (&target->options, "backing-store", target->directory)
        == 1);
  must (options_check (&target->options) == 0);
  must ((target->origin = origin_open (origin)) != NULL);
  must ((target->set
         = snapset_create (target->origin, &engine_sync, NULL, MEMORY))
        != NULL);
  must ((target->reclaim = reclaim_create (target->set)) != NULL);
  target->methods = (struct methods){ .set = target->set,
                                      .defaults = &target->options,
                                      .control = target->path };
  must ((target->control = control_create (target->path, &target->methods))
        != NULL);
  must (snapset_start (target->set) == 0);
  must (reclaim_start (target->reclaim) == 0);
  must (control_start (target->control) == 0);
  return target;
}

const char *
target_directory (const struct target *target)
{
  return target->directory;
}

void
target_write (struct target *target, uint64_t offset, uint64_t count)
{
  static uint8_t value;
  char *buf = malloc (count);

  must (buf != NULL);
  memset (buf, ++value, count);
  /* The only failure there may be is asked for by a snapshot's options. */
  if (cow_begin_write (target->set, offset, count) == 0) {
    must (origin_write (target->origin, buf, count, offset, false) == 0);
    cow_end_write (target->set);
  }
  free (buf);
}

/* --- what must come back -------------------------------------------------
 */

static void
expect_reply (struct client *client, json_t *id)
{
  struct expected *expected = calloc (1, sizeof *expected);

  must (expected != NULL);
  expected->id = id != NULL ? json_incref (id) : NULL;
  *client->last = expected;
  client->last = &expected->next;
}

static bool
is_request (const json_t *request)
{
  const json_t *id = json_object_get (request, "id");
  const json_t *params = json_object_get (request, "params");
  const char *version
      = json_string_value (json_object_get (request, "jsonrpc"));

  return version != NULL && strcmp (version, "2.0") == 0
         && json_is_string (json_object_get (request, "method"))
         && (id == NULL || json_is_string (id) || json_is_number (id)
             || json_is_null (id))
         && (params == NULL || json_is_object (params));
}

/* A line has been sent. */
static void
expect_for (struct client *client, const char *line, size_t length)
{
  size_t blank = 0;

  while (blank < length
         && (line[blank] == ' ' || line[blank] == '\t' || line[blank] == '\r'))
    blank++;
  if (blank == length)
    return;
  snprintf (last_line, sizeof last_line, "%.*s", (int)length, line);
  json_t *request = json_loadb (line, length, JSON_REJECT_DUPLICATES, NULL);
  if (!is_request (request))
    expect_reply (client, NULL);
  else if (json_object_get (request, "id") != NULL)
    expect_reply (client, json_object_get (request, "id"));
  json_decref (request);
}

/* Whether a request, if it is one, makes no file outside. */
static bool
stays_inside (const struct target *target, const char *line, size_t length)
{
  json_t *request = json_loadb (line, length, 0, NULL);
  const char *store = json_string_value (json_object_get (
      json_object_get (json_object_get (request, "params"), "options"),
      "backing-store"));
  const size_t n = strlen (target->directory);
  const bool inside = store == NULL || *store != '/'
                      || (strncmp (store, target->directory, n) == 0
                          && (store[n] == '/' || store[n] == '\0')
                          && strstr (store, "..") == NULL);

  json_decref (request);
  return inside;
}

bool
client_may_send (const struct client *client, const char *bytes, size_t count)
{
  while (count > 0) {
    const char *end = memchr (bytes, '\n', count);
    const size_t n = end != NULL ? (size_t)(end - bytes) : count;
    if (n >= LINE_LIMIT / 2 || !stays_inside (client->target, bytes, n))
      return false;
    bytes += end != NULL ? n + 1 : n;
    count -= end != NULL ? n + 1 : n;
  }
  return true;
}

/* --- a client ------------------------------------------------------------
 */

struct client *
client_connect (struct target *target)
{
  struct sockaddr_un address = { .sun_family = AF_UNIX };
  struct client *client = calloc (1, sizeof *client);

  must (client != NULL);
  client->target = target;
  client->last = &client->first;
  client->fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  memcpy (address.sun_path, target->path, strlen (target->path));
  must (connect (client->fd, (const struct sockaddr *)&address, sizeof address)
        == 0);
  return client;
}

static void
drop_expected (struct client *client)
{
  struct expected *expected = client->first;

  client->first = expected->next;
  if (client->first == NULL)
    client->last = &client->first;
  json_decref (expected->id);
  free (expected);
}

void
client_close (struct client *client)
{
  close (client->fd);
  while (client->first != NULL)
    drop_expected (client);
  free (client->line);
  free (client->reply);
  free (client);
}

/* Add to TEXT, which has LENGTH bytes. */
static void
append (char **text, size_t *length, size_t *size, const char *bytes,
        size_t count)
{
  if (*size - *length < count) {
    *size = 2 * *size + count;
    *text = realloc (*text, *size);
    must (*text != NULL);
  }
  memcpy (*text + *length, bytes, count);
  *length += count;
}

static void
await (const struct client *client, short events)
{
  struct pollfd pollfd = { .fd = client->fd, .events = events };

  if (poll (&pollfd, 1, PATIENCE) != 1)
    die ("the server hangs");
}

/* Take what there is of replies, so that the server never waits for us. */
static bool
receive (struct client *client, bool wait)
{
  char bytes[16384];

  if (wait)
    await (client, POLLIN);
  const ssize_t r = recv (client->fd, bytes, sizeof bytes, MSG_DONTWAIT);
  if (r > 0)
    append (&client->reply, &client->reply_length, &client->reply_size, bytes,
            (size_t)r);
  return r > 0;
}

static void
send_piece (struct client *client, const char *bytes, size_t count)
{
  while (count > 0) {
    await (client, POLLOUT | POLLIN);
    while (receive (client, false))
      ;
    const ssize_t r
        = send (client->fd, bytes, count, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (r == -1 && errno != EAGAIN)
      die ("the connection is closed: %s", strerror (errno));
    if (r > 0) {
      bytes += r;
      count -= (size_t)r;
    }
  }
}

void
client_send (struct client *client, const char *bytes, size_t count,
             uint64_t seed)
{
  const char *line, *end;

  append (&client->line, &client->length, &client->size, bytes, count);
  for (line = client->line;
       (end
        = memchr (line, '\n', client->length - (size_t)(line - client->line)))
       != NULL;
       line = end + 1)
    expect_for (client, line, (size_t)(end - line));
  client->length -= (size_t)(line - client->line);
  memmove (client->line, line, client->length);

  while (count > 0) {
    size_t piece = seed == 0 ? count : 1 + (seed >> 8) % 64;
    if (piece > count)
      piece = count;
    send_piece (client, bytes, piece);
    bytes += piece;
    count -= piece;
    seed = seed * UINT64_C (6364136223846793005) + (seed != 0);
  }
}

/* --- a reply -------------------------------------------------------------
 */

static void
check_error (const json_t *error)
{
  const json_t *code = json_object_get (error, "code");
  const char *message = json_string_value (json_object_get (error, "message"));
  const json_t *data = json_object_get (error, "data");
  const char *name = json_string_value (json_object_get (data, "errno"));
  const json_int_t n = json_integer_value (code);

  if (!json_is_integer (code) || message == NULL || *message == '\0'
      || json_object_size (error) != (data != NULL ? 3u : 2u)
      || (data != NULL && (name == NULL || *name != 'E')))
    die ("not an error object");
  if (!(n >= 1 && n <= 5) && n != -32700 && !(n <= -32600 && n >= -32602))
    die ("error %" JSON_INTEGER_FORMAT " for a request: %s", n, message);
}

static void
check_reply (struct client *client, const json_t *reply)
{
  const struct expected *expected = client->first;
  const char *version = json_string_value (json_object_get (reply, "jsonrpc"));
  const json_t *id = json_object_get (reply, "id");
  const json_t *result = json_object_get (reply, "result");
  const json_t *error = json_object_get (reply, "error");

  if (expected == NULL)
    die ("a reply that nothing was asked for");
  if (version == NULL || strcmp (version, "2.0") != 0 || id == NULL
      || json_object_size (reply) != 3
      || !(json_is_object (result) != json_is_object (error)))
    die ("not a reply");
  if (expected->id != NULL ? !json_equal (id, expected->id)
                           : result != NULL || json_is_object (id))
    die ("a reply to another request");
  if (error != NULL)
    check_error (error);
  if (expected->id != NULL && error != NULL
      && json_integer_value (json_object_get (error, "code")) <= -32603)
    die ("a request that is in order is not served");
}

/* The next reply; the caller's. */
static json_t *
next_reply (struct client *client)
{
  json_error_t error;
  char *end;

  while (client->reply_length == 0
         || (end = memchr (client->reply, '\n', client->reply_length)) == NULL)
    if (!receive (client, true))
      die ("the connection is closed instead of a reply");
  const size_t length = (size_t)(end - client->reply);
  json_t *reply
      = json_loadb (client->reply, length, JSON_REJECT_DUPLICATES, &error);
  if (reply == NULL)
    die ("%s in the reply %.*s", error.text, (int)length, client->reply);
  client->reply_length -= length + 1;
  memmove (client->reply, end + 1, client->reply_length);
  check_reply (client, reply);
  drop_expected (client);
  return reply;
}

void
client_expect (struct client *client)
{
  while (client->first != NULL)
    json_decref (next_reply (client));
}

void
client_send_too_much (struct client *client)
{
  char *spaces = malloc (LINE_LIMIT + 65536);
  char byte;

  must (spaces != NULL);
  client_expect (client);
  memset (spaces, ' ', LINE_LIMIT + 65536);
  for (size_t sent = 0; sent < LINE_LIMIT + 65536;) {
    await (client, POLLOUT);
    const ssize_t r
        = send (client->fd, spaces + sent, LINE_LIMIT + 65536 - sent,
                MSG_NOSIGNAL | MSG_DONTWAIT);
    if (r == -1 && errno != EAGAIN)
      break;
    sent += r > 0 ? (size_t)r : 0;
  }
  free (spaces);
  expect_reply (client, NULL);
  json_decref (next_reply (client));
  await (client, POLLIN);
  if (recv (client->fd, &byte, 1, 0) > 0)
    die ("the connection goes on after a line that is too long");
}

/* --- what there is -------------------------------------------------------
 */

/* Send a request with these parameters. */
static void __attribute__ ((format (printf, 3, 4)))
request (struct client *client, const char *method, const char *params, ...)
{
  va_list args;
  char *inside, *line;

  va_start (args, params);
  must (vasprintf (&inside, params, args) != -1);
  va_end (args);
  const int n = asprintf (&line,
                          "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"%s\","
                          "\"params\":{%s}}\n",
                          method, inside);
  must (n != -1);
  client_send (client, line, (size_t)n, 0);
  free (line);
  free (inside);
}

/* The result of a call that must succeed; the caller's. */
static json_t *
call (struct client *client, const char *method, const char *params)
{
  request (client, method, "%s", params);
  json_t *reply = next_reply (client);
  json_t *result = json_object_get (reply, "result");
  if (result == NULL)
    die ("%s {%s} fails", method, params);
  json_incref (result);
  json_decref (reply);
  return result;
}

static json_int_t
figure (const json_t *object, const char *key)
{
  const json_t *value = json_object_get (object, key);

  if (!json_is_integer (value) || json_integer_value (value) < 0)
    die ("%s is not a figure", key);
  return json_integer_value (value);
}

static void
check_snapshot (const json_t *snapshot)
{
  const char *state = json_string_value (json_object_get (snapshot, "state"));
  const json_int_t chunk = figure (snapshot, "chunksize");
  const json_int_t size = figure (snapshot, "size");
  const json_int_t chunks = (size + chunk - 1) / chunk;

  if (size != ORIGIN_SIZE || figure (snapshot, "snapnumber") == 0 || chunk < 512
      || (chunk & (chunk - 1)) != 0 || figure (snapshot, "clients") != 0
      || figure (snapshot, "chunks-copied") > chunks
      || figure (snapshot, "chunks-free") > chunks || state == NULL)
    die ("snapshot %" JSON_INTEGER_FORMAT " is not in order",
         figure (snapshot, "snapnumber"));
}

static void
check_list (const json_t *list)
{
  const json_t *a, *b;
  size_t i, j;

  json_array_foreach (list, i, a)
  {
    check_snapshot (a);
    for (j = 0; j < i; j++) {
      b = json_array_get (list, j);
      const char *name = json_string_value (json_object_get (a, "name"));
      const char *other = json_string_value (json_object_get (b, "name"));
      if (figure (a, "snapnumber") == figure (b, "snapnumber")
          || (name != NULL && other != NULL && strcmp (name, other) == 0))
        die ("two snapshots have the same number or name");
    }
  }
}

/* Delete the snapshots that are listed until KEEP are left. */
static void
delete_snapshots (struct client *client, const json_t *list, size_t keep)
{
  const size_t count = json_array_size (list);

  /* Any of them, but not in the order in which they were taken; the same
   * one may come up twice.
   */
  for (size_t i = 0; count > keep && i < count - keep; i++) {
    const json_t *snapshot = json_array_get (list, (i * 7 + 3) % count);
    request (client, "snapshot.delete",
             "\"snapshot\":%" JSON_INTEGER_FORMAT ",\"force\":true",
             figure (snapshot, "snapnumber"));
    client_expect (client);
  }
}

void
target_check (struct target *target)
{
  struct client *client = client_connect (target);
  json_t *result = call (client, "snapshot.list", "");
  const json_t *list = json_object_get (result, "snapshots");

  if (!json_is_array (list))
    die ("there is no list");
  check_list (list);
  if (json_array_size (list) > SNAPSHOTS_MAX)
    delete_snapshots (client, list, SNAPSHOTS_MAX / 2);
  json_decref (result);

  result = call (client, "snapshot.list", "\"all\":true");
  const json_t *snapshot;
  size_t i;
  json_array_foreach (json_object_get (result, "snapshots"), i, snapshot)
      check_snapshot (snapshot);
  json_decref (result);

  result = call (client, "server.info", "");
  if (figure (result, "memory") > MEMORY
      || figure (result, "size") != ORIGIN_SIZE
      || figure (result, "throttled-writers") != 0)
    die ("the server is not in order");
  json_decref (result);
  client_close (client);
}

/* Delete all, and wait until all is gone. */
static void
delete_all (struct target *target)
{
  struct client *client = client_connect (target);
  const char *which = "";
  size_t left;

  for (unsigned tries = 0;; tries++) {
    json_t *result = call (client, "snapshot.list", which);
    const json_t *list = json_object_get (result, "snapshots");
    left = json_array_size (list);
    if (left > 0 && *which == '\0')
      delete_snapshots (client, list, 0);
    json_decref (result);
    if (left == 0 && *which != '\0')
      break;
    if (left == 0)
      which = "\"all\":true";
    if (tries > 100000)
      die ("%zu snapshots do not go", left);
  }
  client_close (client);
}

void
target_stop (struct target *target)
{
  delete_all (target);
  must (control_stop (target->control, 60) == 0);
  must (reclaim_stop (target->reclaim, 60) == 0);
  must (snapset_stop (target->set, 60) == 0);
  control_free (target->control);
  reclaim_free (target->reclaim);
  snapset_free (target->set);
  origin_close (target->origin);
  options_free (&target->options);
  close (target->fd);
  if (rmdir (target->directory) == -1)
    die ("files are left in %s: %s", target->directory, strerror (errno));
  free (target);
}
