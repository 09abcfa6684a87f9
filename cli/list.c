/* SPDX-License-Identifier: BSD-3-Clause */
/* fssnap list */

#include "client.h"
#include "command.h"
#include "figures.h"
#include "output.h"
#include "scoped.h"
#include "store.h"

#include <stdbool.h>
#include <time.h>

enum { OPTION_ALL = 'a', OPTION_JSON = 'j', OPTION_STORE = 'S' };

static const struct column columns[] = {
  { "NUMBER", true },         { "NAME", false },
  { "STATE", false },         { "AGE", true },
  { "COPIED", true },         { "CLIENTS", true },
  { "BACKING STORE", false },
};

/* What keeps it from being read is as important as the state. */
static char *
state_cell (const json_t *snapshot)
{
  SCOPED_FREE char *state = figure_shown (snapshot_figures, "state",
                                          json_object_get (snapshot, "state"));
  const json_t *blocked_by = json_object_get (snapshot, "blocked-by");

  if (json_is_true (json_object_get (snapshot, "deleted")))
    return text ("%s (deleted)", state);
  if (json_is_string (json_object_get (snapshot, "broken-reason")))
    return text ("%s (broken)", state);
  if (json_is_integer (blocked_by))
    return text ("%s (%" JSON_INTEGER_FORMAT " is broken)", state,
                 json_integer_value (blocked_by));
  return text ("%s", state);
}

static char *
cell (const json_t *snapshot, const char *key)
{
  return figure_shown (snapshot_figures, key, json_object_get (snapshot, key));
}

static void
add_row (struct table *table, const json_t *snapshot, time_t now)
{
  const json_t *createtime = json_object_get (snapshot, "createtime");
  const json_t *copied = json_object_get (snapshot, "bytes-copied");

  table_add (table, cell (snapshot, "snapnumber"));
  table_add (table, cell (snapshot, "name"));
  table_add (table, state_cell (snapshot));
  table_add (table, json_is_integer (createtime)
                        ? age_shown (now - json_integer_value (createtime))
                        : text ("-"));
  table_add (table, json_is_integer (copied)
                        ? size_shown (json_integer_value (copied))
                        : text ("-"));
  table_add (table, cell (snapshot, "clients"));
  table_add (table, cell (snapshot, "backing-store"));
}

static void
print_list (const json_t *snapshots)
{
  __attribute__ ((cleanup (table_free))) struct table table = {
    .columns = columns,
    .width = sizeof columns / sizeof columns[0],
  };
  const time_t now = time (NULL);
  const json_t *snapshot;
  size_t i;

  if (json_array_size (snapshots) == 0) {
    print_line ("There are no snapshots.");
    return;
  }
  json_array_foreach (snapshots, i, snapshot)
  {
    add_row (&table, snapshot, now);
  }
  table_print (&table);
}

/* The snapshots of the server, or NULL after a message. */
static json_t *
ask (const char *socket, bool all)
{
  SCOPED_CLIENT client = CLIENT_INIT;

  if (client_open (&client, socket) == -1)
    return NULL;
  json_t *result = client_request (&client, "snapshot.list",
                                   json_pack ("{s:b}", "all", (int)all));
  if (result != NULL
      && !json_is_array (json_object_get (result, "snapshots"))) {
    complain ("%s: the server's answer has no list of snapshots", client.path);
    json_decref (result);
    return NULL;
  }
  return result;
}

static int
run (struct invocation *invocation)
{
  bool all = false, json = false;
  const char *store = NULL;
  int option;

  while ((option = command_option (invocation)) != -1) {
    if (option == OPTION_ALL)
      all = true;
    else if (option == OPTION_JSON)
      json = true;
    else
      store = optarg;
  }
  if (optind < invocation->argc)
    usage_error (&command_list,
                 "'%s': list takes options only; 'fssnap info' tells of one "
                 "snapshot",
                 invocation->argv[optind]);
  if (store != NULL && *store == '\0')
    usage_error (&command_list, "--store=: must be a directory");
  if (store != NULL && invocation->socket != NULL)
    usage_error (&command_list,
                 "--store=%s: is read without a server; leave "
                 "either it or --socket out",
                 store);

  json_auto_t *result
      = store != NULL ? store_list (store, all) : ask (invocation->socket, all);
  if (result == NULL)
    return STATUS_FAILED;
  if (json)
    print_json (result);
  else
    print_list (json_object_get (result, "snapshots"));
  return finish_output ();
}

static const struct option options[] = {
  COMMON_LONG,
  { "all", no_argument, NULL, OPTION_ALL },
  { "json", no_argument, NULL, OPTION_JSON },
  { "store", required_argument, NULL, OPTION_STORE },
  {},
};

const struct command command_list = {
  .name = "list",
  .arguments = "[--json] [--all] [--store=DIR]",
  .summary = "List the snapshots, the oldest first",
  .help = "      --json          all of it, for programs\n"
          "      --all           also deleted ones that still exist\n"
          "      --store=DIR     those of a store, without asking its server\n",
  .short_options = COMMON_SHORT,
  .long_options = options,
  .run = run,
};
