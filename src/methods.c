/* SPDX-License-Identifier: BSD-3-Clause */
/* Each method checks its parameters, all of them, before it does anything:
 * a request that gets an error has changed nothing.
 *
 * What the core refuses it reports (report.h), and that text is the error's
 * message; what kind of error it is, errno says.
 */

#include "methods.h"
#include "listeners.h"
#include "lookup.h"
#include "report.h"
#include "scoped.h"
#include "store.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* What changes its meaning in the protocol changes this. */
#define PROTOCOL 1

/* One request. */
struct call {
  const struct methods *context;
  const void *connection;
  json_t *params; /* an object, or NULL */
  json_t **error;
};

/* A string, also if it is not UTF-8, as the name of a file may be. */
static json_t *
text_json (const char *text)
{
  json_t *json = json_string (text);
  char *copy;

  if (json != NULL || (copy = strdup (text)) == NULL)
    return json;
  for (char *p = copy; *p != '\0'; p++)
    if ((unsigned char)*p >= 0x80)
      *p = '?';
  json = json_string (copy);
  free (copy);
  return json;
}

static json_t *
error_json (enum method_error code, int err, const char *format, va_list args)
{
  SCOPED_FREE char *text = NULL;

  if (vasprintf (&text, format, args) == -1) {
    text = NULL;
    return NULL;
  }
  json_t *error
      = json_pack ("{s:i, s:o}", "code", code, "message", text_json (text));
  const char *name = err != 0 ? strerrorname_np (err) : NULL;
  if (error != NULL && name != NULL)
    json_object_set_new (error, "data", json_pack ("{s:s}", "errno", name));
  return error;
}

json_t *
methods_error (enum method_error code, int err, const char *format, ...)
{
  va_list args;

  va_start (args, format);
  json_t *error = error_json (code, err, format, args);
  va_end (args);
  return error;
}

/* The request fails: NULL, for the caller to return. */
__attribute__ ((format (printf, 4, 5))) static json_t *
fail (const struct call *call, enum method_error code, int err,
      const char *format, ...)
{
  va_list args;

  va_start (args, format);
  *call->error = error_json (code, err, format, args);
  va_end (args);
  return NULL;
}

/* It fails with what has been reported since report_begin, and errno. */
static json_t *
fail_reported (const struct call *call, enum method_error code)
{
  const int err = code == METHOD_PARAMS ? 0 : errno;
  SCOPED_FREE char *text = report_end ();

  return fail (call, code, err, "%s", text != NULL ? text : strerror (err));
}

/* No parameters but those named, a list that ends with NULL. */
static bool
only_params (const struct call *call, const char *const *names)
{
  const char *key;
  json_t *value;

  json_object_foreach (call->params, key, value)
  {
    unsigned i = 0;
    while (names[i] != NULL && strcmp (names[i], key) != 0)
      i++;
    if (names[i] == NULL) {
      fail (call, METHOD_PARAMS, 0, "there is no parameter %s here", key);
      return false;
    }
  }
  return true;
}

#define ONLY_PARAMS(call, ...)                                                 \
  only_params (call, (const char *const[]){ __VA_ARGS__, NULL })

/* A parameter that is true or false, by default false. */
static bool
get_flag (const struct call *call, const char *key, bool *flag)
{
  const json_t *value = json_object_get (call->params, key);

  *flag = json_is_true (value);
  if (value == NULL || json_is_boolean (value))
    return true;
  fail (call, METHOD_PARAMS, 0, "%s: must be true or false", key);
  return false;
}

/* Room for an integer as text. */
#define NUMBER_TEXT 24

/* A string, or an integer, whose text is then in BUF.  NULL: neither. */
static const char *
get_text (const json_t *value, char buf[NUMBER_TEXT])
{
  if (!json_is_integer (value))
    return json_string_value (value);
  snprintf (buf, NUMBER_TEXT, "%" JSON_INTEGER_FORMAT,
            json_integer_value (value));
  return buf;
}

/* The parameter that says which snapshot: a number or a name, as text. */
static const char *
get_who (const struct call *call, char buf[NUMBER_TEXT])
{
  const char *who = get_text (json_object_get (call->params, "snapshot"), buf);

  if (who == NULL)
    fail (call, METHOD_PARAMS, 0, "snapshot: must be a number or a name");
  return who;
}

static json_t *
no_such (const struct call *call, const char *who)
{
  return fail (call, METHOD_NO_SNAPSHOT, ENOENT, "there is no snapshot %s",
               who);
}

/* --- what is said of a snapshot ------------------------------------------ */

static const char *
state_of (const struct snapshot *snapshot, const struct snapshot_status *status)
{
  if (snapshot_is_deleted (snapshot) || snapshot_is_given_up (snapshot))
    return "disabled";
  if (status->creating)
    return "creating";
  return status->clients > 0 ? "active" : "idle";
}

static void
set_number (json_t *object, const char *key, uint64_t number)
{
  json_object_set_new (object, key, json_integer ((json_int_t)number));
}

/* NULL is null. */
static void
set_text (json_t *object, const char *key, const char *text)
{
  json_object_set_new (object, key,
                       text != NULL ? text_json (text) : json_null ());
}

static void
set_reads (json_t *object, const struct snapshot *snapshot)
{
  uint64_t origin = 0, memory = 0, backfile = 0, zero = 0;

  for (unsigned i = 0; i < STRIPES; i++) {
    const struct snapshot_reads *reads = &snapshot->reads[i];
    origin += atomic_load (&reads->origin);
    memory += atomic_load (&reads->memory);
    backfile += atomic_load (&reads->backfile);
    zero += atomic_load (&reads->free);
  }
  set_number (object, "reads-origin", origin);
  set_number (object, "reads-memory", memory);
  set_number (object, "reads-backing-file", backfile);
  set_number (object, "reads-zero", zero);
}

static void
set_broken (json_t *object, struct snapshot *snapshot)
{
  SCOPED_LOCK (&snapshot->lock);
  const bool broken = snapshot_is_given_up (snapshot);
  const char *name = strerrorname_np (snapshot->broken_errno);

  set_text (object, "broken-reason",
            broken && snapshot->why != NULL ? snapshot->why
            : broken                        ? "no memory"
                                            : NULL);
  set_text (object, "broken-errno", broken ? name : NULL);
  json_object_set_new (object, "broken-time",
                       broken ? json_integer (snapshot->broken_at)
                              : json_null ());
}

/* The snapshot is pinned. */
static json_t *
snapshot_json (const struct methods *context, struct snapshot *snapshot)
{
  struct snapset *set = context->set;
  const struct snapshot_options *options = &snapshot->options;
  const struct snapshot_status status = snapset_status (set, snapshot);
  json_t *o = json_object ();
  char export[32];

  snprintf (export, sizeof export, "snapshot/%u", snapshot->number);
  set_number (o, "snapnumber", snapshot->number);
  set_text (o, "name", snapshot->name);
  set_text (o, "state", state_of (snapshot, &status));
  set_text (o, "export", export);
  set_text (o, "origin", origin_path (set->origin));
  set_text (o, "store",
            snapshot->record != NULL ? store_path (set->shared.store) : NULL);
  json_object_set_new (o, "ephemeral", json_boolean (options->ephemeral));
  set_number (o, "size", snapshot->size);
  set_number (o, "createtime", (uint64_t)snapshot->created);
  set_text (o, "backing-store", backfile_name (snapshot->backfile));
  set_number (o, "backing-store-len", backfile_allocated (snapshot->backfile));
  set_number (o, "maxsize", options->maxsize);
  set_number (o, "chunksize", options->chunk_size);
  set_number (o, "backfile-size", options->backfile_size);
  set_text (o, "durability", policy_durability (options->durability));
  set_text (o, "on-error", policy_on_error (options->on_error));
  set_number (o, "cow-timeout", options->cow_timeout);
  set_number (o, "clients", status.clients);
  set_number (o, "chunks-copied", bitmap_weight (&snapshot->hastrans));
  set_number (o, "chunks-lost", atomic_load (&snapshot->lost));
  set_number (
      o, "chunks-free",
      atomic_load (&snapshot->has_free) ? bitmap_weight (&snapshot->free) : 0);
  set_number (o, "bytes-copied", atomic_load (&snapshot->copied));
  set_number (o, "bytes-in-memory", atomic_load (&snapshot->in_memory));
  set_number (o, "throttled-writers", atomic_load (&snapshot->throttled));
  set_number (o, "waits", atomic_load (&snapshot->waits));
  set_number (o, "flush-errors", atomic_load (&snapshot->flush_errors));
  set_reads (o, snapshot);
  json_object_set_new (o, "deleted",
                       json_boolean (snapshot_is_deleted (snapshot)));
  set_broken (o, snapshot);
  json_object_set_new (o, "blocked-by",
                       status.blocked_by != 0 ? json_integer (status.blocked_by)
                                              : json_null ());
  set_number (o, "highest", snapset_highest (set));
  return o;
}

/* --- the methods --------------------------------------------------------- */

/* Once. */
static int
add_uri (void *arg, const char *uri)
{
  for (size_t i = 0; i < json_array_size (arg); i++)
    if (strcmp (json_string_value (json_array_get (arg, i)), uri) == 0)
      return 0;
  return json_array_append_new (arg, json_string (uri));
}

static json_t *
server_info (const struct call *call)
{
  struct snapset *set = call->context->set;
  json_t *listen = json_array (), *o = json_object ();
  uint64_t throttled = 0;
  size_t count = 0;

  if (!only_params (call, (const char *const[]){ NULL }))
    goto error;
  struct snapshot **list = snapset_list (set, false, &count);
  if (list == NULL
      || listeners_find (call->context->control, add_uri, listen) == -1) {
    fail (call, METHOD_FAILED, errno, "cannot look for the server's sockets");
    free (list);
    goto error;
  }
  for (size_t i = 0; i < count; i++) {
    throttled += atomic_load (&list[i]->throttled);
    snapset_unpin (set, list[i]);
  }
  free (list);

  const int64_t size = origin_size (set->origin);
  set_text (o, "version", FSSNAP_VERSION);
  set_number (o, "protocol", PROTOCOL);
  set_number (o, "pid", (uint64_t)getpid ());
  set_text (o, "origin", origin_path (set->origin));
  set_number (o, "size", size == -1 ? 0 : (uint64_t)size);
  set_text (o, "store",
            set->shared.store != NULL ? store_path (set->shared.store) : NULL);
  json_object_set_new (o, "readonly",
                       json_boolean (origin_is_readonly (set->origin)));
  json_object_set_new (o, "listen", listen);
  set_number (o, "snapshots", count);
  set_number (o, "highest", snapset_highest (set));
  set_number (o, "max-memory", throttle_limit (set->shared.throttle));
  set_number (o, "memory", throttle_used (set->shared.throttle));
  set_number (o, "throttled-writers", throttled);
  return o;

error:
  json_decref (listen);
  json_decref (o);
  return NULL;
}

/* Take the options of a request.  False: refused. */
static bool
take_options (const struct call *call, struct options *options)
{
  const bool durability_given = call->context->defaults->durability_given;
  const uint64_t memory = throttle_limit (call->context->set->shared.throttle);
  json_t *given = json_object_get (call->params, "options");
  const char *key;
  json_t *value;

  if (given != NULL && !json_is_object (given)) {
    fail (call, METHOD_PARAMS, 0, "options: must be an object");
    return false;
  }
  json_object_foreach (given, key, value)
  {
    char buf[NUMBER_TEXT];
    const char *text = get_text (value, buf);

    if (text == NULL) {
      fail (call, METHOD_PARAMS, 0, "%s: must be a string or an integer", key);
      return false;
    }
    report_begin ();
    const int r = options_set (options, key, text);
    if (r == -1) {
      fail_reported (call, METHOD_PARAMS);
      return false;
    }
    free (report_end ());
    if (r == 0) {
      fail (call, METHOD_PARAMS, 0, "a snapshot has no option %s", key);
      return false;
    }
  }
  /* There is nothing to survive. */
  if (options->snapshot.ephemeral && !options->durability_given
      && !durability_given)
    options->snapshot.durability = DURABILITY_ASYNC;
  report_begin ();
  if (options_check (options) == -1) {
    fail_reported (call, METHOD_PARAMS);
    return false;
  }
  free (report_end ());
  if (options_least_memory (options) > memory) {
    fail (call, METHOD_PARAMS, 0,
          "chunksize=%" PRIu64 ": needs a server with max-memory=%" PRIu64
          " or more",
          options->snapshot.chunk_size, options_least_memory (options));
    return false;
  }
  return true;
}

static json_t *
freeze (const struct call *call, struct options *options)
{
  const json_t *name = json_object_get (call->params, "name");
  bool creating;

  if (!ONLY_PARAMS (call, "name", "creating", "ephemeral", "options")
      || !get_flag (call, "creating", &creating)
      || !get_flag (call, "ephemeral", &options->snapshot.ephemeral)
      || !take_options (call, options))
    return NULL;
  if (name != NULL && !json_is_null (name) && !json_is_string (name))
    return fail (call, METHOD_PARAMS, 0, "name: must be a string");
  options->snapshot.name = json_string_value (name);
  options->snapshot.creator = creating ? call->connection : NULL;
  report_begin ();
  struct snapshot *snapshot
      = snapset_freeze (call->context->set, &options->snapshot);
  if (snapshot == NULL)
    return fail_reported (call, errno == ENOTUNIQ ? METHOD_EXISTS
                                : errno == EINVAL ? METHOD_PARAMS
                                                  : METHOD_FAILED);
  free (report_end ());
  json_t *result = snapshot_json (call->context, snapshot);
  snapset_unpin (call->context->set, snapshot);
  return result;
}

static json_t *
snapshot_create_call (const struct call *call)
{
  struct options options;

  if (options_copy (&options, call->context->defaults) == -1)
    return fail (call, METHOD_MEMORY, ENOMEM, "no memory");
  json_t *result = freeze (call, &options);
  options_free (&options);
  return result;
}

/* Check and, if TAKE, take the ranges of a request.  Returns the chunks
 * taken, or -1.
 */
static int64_t
each_range (const struct call *call, const json_t *ranges,
            struct snapshot *snapshot, bool take)
{
  int64_t taken = 0;

  for (size_t i = 0; i < json_array_size (ranges); i++) {
    const json_t *range = json_array_get (ranges, i);
    const json_t *first = json_array_get (range, 0);
    const json_t *second = json_array_get (range, 1);
    const json_int_t offset = json_integer_value (first);
    const json_int_t length = json_integer_value (second);

    if (json_array_size (range) != 2 || !json_is_integer (first)
        || !json_is_integer (second) || offset < 0 || length < 0
        || (uint64_t)offset > snapshot->size
        || (uint64_t)length > snapshot->size - (uint64_t)offset) {
      fail (call, METHOD_PARAMS, 0,
            "ranges: number %zu must be an offset and a length within the "
            "snapshot's %" PRIu64 " bytes",
            i, snapshot->size);
      return -1;
    }
    if (take)
      taken += (int64_t)snapshot_set_free (snapshot, (uint64_t)offset,
                                           (uint64_t)length);
  }
  return taken;
}

static json_t *
set_free (const struct call *call, struct snapshot *snapshot)
{
  const json_t *ranges = json_object_get (call->params, "ranges");

  if (!json_is_array (ranges))
    return fail (call, METHOD_PARAMS, 0,
                 "ranges: must be a list of pairs of an offset and a length");
  if (!snapset_is_creator (call->context->set, snapshot, call->connection))
    return fail (call, METHOD_STATE, EPERM,
                 "snapshot %u is not being created by this connection",
                 snapshot->number);
  if (each_range (call, ranges, snapshot, false) == -1)
    return NULL;
  return json_pack ("{s:I}", "chunks",
                    (json_int_t)each_range (call, ranges, snapshot, true));
}

static json_t *
info (const struct call *call, struct snapshot *snapshot)
{
  return snapshot_json (call->context, snapshot);
}

/* Do ACTION with the snapshot that the request names, pinned. */
static json_t *
with_snapshot (const struct call *call,
               json_t *(*action) (const struct call *call,
                                  struct snapshot *snapshot))
{
  char buf[NUMBER_TEXT];
  const char *who = get_who (call, buf);

  if (who == NULL)
    return NULL;
  struct snapshot *snapshot = snapset_pin (call->context->set, who);
  if (snapshot == NULL)
    return no_such (call, who);
  json_t *result = action (call, snapshot);
  snapset_unpin (call->context->set, snapshot);
  return result;
}

static json_t *
snapshot_set_free_call (const struct call *call)
{
  return ONLY_PARAMS (call, "snapshot", "ranges")
             ? with_snapshot (call, set_free)
             : NULL;
}

static json_t *
snapshot_create_done_call (const struct call *call)
{
  char buf[NUMBER_TEXT];
  const char *who;

  if (!ONLY_PARAMS (call, "snapshot") || (who = get_who (call, buf)) == NULL)
    return NULL;
  report_begin ();
  if (snapset_finish (call->context->set, who, call->connection) == -1)
    return fail_reported (call,
                          errno == ENOENT ? METHOD_NO_SNAPSHOT : METHOD_STATE);
  free (report_end ());
  return with_snapshot (call, info);
}

static json_t *
snapshot_info_call (const struct call *call)
{
  return ONLY_PARAMS (call, "snapshot") ? with_snapshot (call, info) : NULL;
}

static json_t *
snapshot_delete_call (const struct call *call)
{
  char buf[NUMBER_TEXT];
  const char *who;
  unsigned number;
  bool force;

  if (!ONLY_PARAMS (call, "snapshot", "force")
      || !get_flag (call, "force", &force)
      || (who = get_who (call, buf)) == NULL)
    return NULL;
  report_begin ();
  if (snapset_delete (call->context->set, who, force, call->connection, &number)
      == -1)
    return fail_reported (call, errno == ENOENT  ? METHOD_NO_SNAPSHOT
                                : errno == EBUSY ? METHOD_BUSY
                                                 : METHOD_FAILED);
  free (report_end ());
  return json_pack ("{s:I}", "snapnumber", (json_int_t)number);
}

static json_t *
snapshot_list_call (const struct call *call)
{
  struct snapset *set = call->context->set;
  size_t count;
  bool all;

  if (!ONLY_PARAMS (call, "all") || !get_flag (call, "all", &all))
    return NULL;
  struct snapshot **list = snapset_list (set, all, &count);
  if (list == NULL)
    return NULL;
  json_t *snapshots = json_array ();
  for (size_t i = 0; i < count; i++) {
    json_array_append_new (snapshots, snapshot_json (call->context, list[i]));
    snapset_unpin (set, list[i]);
  }
  free (list);
  return json_pack ("{s:o}", "snapshots", snapshots);
}

static const struct {
  const char *name;
  json_t *(*function) (const struct call *call);
} methods[] = {
  { "server.info", server_info },
  { "snapshot.create", snapshot_create_call },
  { "snapshot.create_done", snapshot_create_done_call },
  { "snapshot.delete", snapshot_delete_call },
  { "snapshot.info", snapshot_info_call },
  { "snapshot.list", snapshot_list_call },
  { "snapshot.set_free", snapshot_set_free_call },
};

#define N_METHODS (sizeof methods / sizeof methods[0])

json_t *
methods_call (const struct methods *context, const void *connection,
              const char *method, json_t *params, json_t **error)
{
  const struct call call = { .context = context,
                             .connection = connection,
                             .params = params,
                             .error = error };

  size_t i = 0;

  *error = NULL;
  while (i < N_METHODS && strcmp (methods[i].name, method) != 0)
    i++;
  if (i == N_METHODS)
    return fail (&call, METHOD_UNKNOWN, 0, "there is no method %s", method);
  return methods[i].function (&call);
}

void
methods_disconnect (const struct methods *context, const void *connection)
{
  snapset_abandon (context->set, connection);
}
