/* SPDX-License-Identifier: BSD-3-Clause */
/* fssnap info */

#include "client.h"
#include "comma-list.h"
#include "command.h"
#include "figures.h"
#include "output.h"
#include "scoped.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { OPTION_JSON = 'j', OPTION_KEYS = 'o' };

static void
check_keys (const struct comma_list *keys, const struct figure *figures)
{
  for (size_t i = 0; i < keys->n; i++) {
    if (figure_key (figures, keys->items[i]) != NULL)
      continue;
    SCOPED_FREE char *all = figure_keys (figures);
    usage_error (&command_info, "-o %s: there is no such key; there are: %s",
                 keys->items[i], all);
  }
}

/* Every figure, the server's order. */
static void
print_all (const struct figure *figures, json_t *result)
{
  size_t width = 0;
  const char *key;
  json_t *value;

  json_object_foreach (result, key, value)
  {
    if (strlen (key) + 2 > width)
      width = strlen (key) + 2;
  }
  json_object_foreach (result, key, value)
  {
    SCOPED_FREE char *shown = figure_shown (figures, key, value);
    print_pair (key, width, shown);
  }
}

/* The figures that KEYS asks for, under the names it has for them, in its
 * order.  NULL after a message.
 */
static json_t *
choose (const json_t *result, const struct figure *figures,
        const struct comma_list *keys)
{
  json_auto_t *chosen = json_object ();

  for (size_t i = 0; i < keys->n; i++) {
    const char *given = keys->items[i];
    json_t *value = json_object_get (result, figure_key (figures, given));

    if (value == NULL) {
      complain ("the server does not tell '%s': it is of another version",
                given);
      return NULL;
    }
    if (json_object_set (chosen, given, value) == -1)
      no_memory ();
  }
  return json_incref (chosen);
}

static int
print_info (json_t *result, const struct figure *figures,
            const struct comma_list *keys, bool json)
{
  json_auto_t *chosen
      = keys->n > 0 ? choose (result, figures, keys) : json_incref (result);

  if (chosen == NULL)
    return STATUS_FAILED;
  if (json)
    print_json (chosen);
  else if (keys->n == 0)
    print_all (figures, chosen);
  else
    for (size_t i = 0; i < keys->n; i++) {
      SCOPED_FREE char *value
          = figure_exact (json_object_get (chosen, keys->items[i]));
      print_line (value);
    }
  return finish_output ();
}

static int
run (struct invocation *invocation)
{
  SCOPED_CLIENT client = CLIENT_INIT;
  SCOPED_COMMA_LIST keys = {};
  bool json = false;
  int option;

  while ((option = command_option (invocation)) != -1) {
    if (option == OPTION_JSON)
      json = true;
    else
      comma_list_add (&keys, optarg);
  }
  const char *snapshot = snapshot_operand (invocation);
  const struct figure *figures
      = snapshot == NULL ? server_figures : snapshot_figures;
  check_keys (&keys, figures);

  if (client_open (&client, invocation->socket) == -1)
    return STATUS_FAILED;
  json_auto_t *result
      = snapshot == NULL
            ? client_request (&client, "server.info", json_object ())
            : client_request (&client, "snapshot.info",
                              json_pack ("{s:s}", "snapshot", snapshot));
  if (result != NULL)
    return print_info (result, figures, &keys, json);
  if (client.error_code == CODE_NO_SNAPSHOT)
    complain (HINT_LIST);
  return STATUS_FAILED;
}

static const struct option options[] = {
  COMMON_LONG,
  { "json", no_argument, NULL, OPTION_JSON },
  {},
};

const struct command command_info = {
  .name = "info",
  .arguments = "[--json] [-o KEY,...] [SNAPSHOT]",
  .summary = "Tell all of a snapshot, or of the server if none is given",
  .help = "      --json          for programs\n"
          "  -o KEY,...          the values of these keys only, one a line, as "
          "numbers\n",
  .short_options = COMMON_SHORT "o:",
  .long_options = options,
  .run = run,
};
