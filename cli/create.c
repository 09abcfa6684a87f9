/* SPDX-License-Identifier: BSD-3-Clause */
/* fssnap create */

#include "client.h"
#include "comma-list.h"
#include "command.h"
#include "free-space.h"
#include "freeze.h"
#include "output.h"
#include "scoped.h"
#include "view-uri.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
  OPTION_CANDIDATES = 'c',
  OPTION_EPHEMERAL = 'e',
  OPTION_FREEZE = 'f',
  OPTION_FREEZE_TIMEOUT = 't',
  OPTION_NAME = 'n',
};

/* What --candidates asks for. */
struct candidates {
  bool looked_for;
  const struct reader *reader; /* NULL: whatever fits */
};

/* What -o can set, and as what the server knows it.  bs and bf are from
 * Solaris.
 */
static const struct {
  const char *given, *key;
} keys[] = {
  { "backing-store", "backing-store" },
  { "bs", "backing-store" },
  { "bf", "backing-store" },
  { "backfile-size", "backfile-size" },
  { "chunksize", "chunksize" },
  { "cow-timeout", "cow-timeout" },
  { "durability", "durability" },
  { "maxsize", "maxsize" },
  { "on-error", "on-error" },
};

#define N_KEYS (sizeof keys / sizeof keys[0])

static const char *
find_key (const char *given)
{
  for (size_t i = 0; i < N_KEYS; i++)
    if (strcmp (keys[i].given, given) == 0)
      return keys[i].key;

  SCOPED_FREE char *all = text ("%s", keys[0].given);
  for (size_t i = 1; i < N_KEYS; i++) {
    SCOPED_FREE char *before = all;
    all = text ("%s, %s", before, keys[i].given);
  }
  usage_error (&command_create, "-o %s: there is no such option; there are: %s",
               given, all);
}

/* The server's directory is not ours.  It need not exist, so it is not looked
 * at.
 */
static char *
absolute_path (const char *path)
{
  if (*path == '/')
    return text ("%s", path);
  SCOPED_FREE char *directory = getcwd (NULL, 0);
  if (directory == NULL) {
    complain ("backing-store=%s: cannot find the directory to which this is "
              "relative: %s: give an absolute path",
              path, strerror (errno));
    exit (STATUS_FAILED);
  }
  return text ("%s/%s", directory, path);
}

/* A JSON string of an argument, WHAT. */
static json_t *
json_argument (const char *what, const char *argument)
{
  json_t *string = json_string (argument);

  if (string == NULL)
    usage_error (&command_create, "%s=%s: must be UTF-8", what, argument);
  return string;
}

static void
set (json_t *object, const char *key, json_t *value)
{
  if (json_object_set_new (object, key, value) == -1)
    no_memory ();
}

/* KEY=VALUE */
static void
take_option (json_t *options, char *item)
{
  char *value = strchr (item, '=');

  if (*item == '\0')
    usage_error (&command_create, "-o: there is nothing before or after a "
                                  "comma; two commas stand for one in a value");
  if (value != NULL)
    *value++ = '\0';
  const char *key = find_key (item);
  if (value == NULL || *value == '\0')
    usage_error (&command_create, "-o %s: must be %s=VALUE", item, item);
  if (json_object_get (options, key) != NULL)
    usage_error (&command_create, "-o %s=%s: %s is given twice", item, value,
                 key);

  SCOPED_FREE char *sent = strcmp (key, "backing-store") == 0
                               ? absolute_path (value)
                               : text ("%s", value);
  set (options, key, json_argument (key, sent));
}

static struct candidates
take_candidates (const char *argument)
{
  if (strcmp (argument, "all") == 0)
    return (struct candidates){};
  return (struct candidates){
    .looked_for = true,
    .reader = type_argument (&command_create, "--candidates", argument),
  };
}

/* The seconds of --freeze-timeout. */
static unsigned
take_timeout (const char *argument)
{
  char *end;

  errno = 0;
  const unsigned long seconds = strtoul (argument, &end, 10);
  if (*argument < '0' || *argument > '9' || *end != '\0' || errno != 0
      || seconds == 0 || seconds > FREEZE_SECONDS_MAX)
    usage_error (&command_create,
                 "--freeze-timeout=%s: must be a number of seconds from 1 to "
                 "%d",
                 argument, FREEZE_SECONDS_MAX);
  return (unsigned)seconds;
}

static json_t *
parse (struct invocation *invocation, struct candidates *candidates,
       struct freeze *freeze)
{
  SCOPED_COMMA_LIST list = {};
  json_t *params = json_object ();
  json_t *options = json_object ();
  int option;

  while ((option = command_option (invocation)) != -1) {
    if (option == OPTION_NAME)
      set (params, "name", json_argument ("--name", optarg));
    else if (option == OPTION_CANDIDATES)
      *candidates = take_candidates (optarg);
    else if (option == OPTION_FREEZE)
      freeze_add (freeze, optarg);
    else if (option == OPTION_FREEZE_TIMEOUT)
      freeze->seconds = take_timeout (optarg);
    else if (option == OPTION_EPHEMERAL)
      set (params, "ephemeral", json_true ());
    else
      comma_list_add (&list, optarg);
  }
  if (optind < invocation->argc)
    usage_error (&command_create,
                 "'%s': create takes options only; a name is given with "
                 "--name",
                 invocation->argv[optind]);
  for (size_t i = 0; i < list.n; i++)
    take_option (options, list.items[i]);
  set (params, "options", options);
  return params;
}

/* Leave out of snapshot NUMBER what is free.  0, or -1 after a message. */
static int
leave_out (struct client *client, json_int_t number,
           const struct reader *reader)
{
  SCOPED_FREE char *uri = view_uri (client, number);

  if (uri == NULL)
    complain ("the server listens nowhere, so its disk cannot be looked at: "
              "all of it is kept");
  return uri == NULL ? 0 : free_space_tell (client, number, uri, reader);
}

/* The snapshot CREATED is taken: say so, after leaving out what is asked for.
 * 0, or -1 after a message; the server deletes it then.
 */
static int
finish_creating (struct client *client, const json_t *created,
                 const struct candidates *candidates)
{
  const json_int_t number
      = json_integer_value (json_object_get (created, "snapnumber"));

  if (candidates->looked_for
      && leave_out (client, number, candidates->reader) == -1)
    return -1;
  json_auto_t *done = client_request (client, "snapshot.create_done",
                                      json_pack ("{s:I}", "snapshot", number));
  return done != NULL ? 0 : -1;
}

/* snapshot.create, while what is to be frozen is: its result, or NULL after a
 * message.
 */
static json_t *
create_frozen (struct client *client, json_t *params, struct freeze *freeze)
{
  const json_t *backing_store
      = json_object_get (json_object_get (params, "options"), "backing-store");

  if (freeze_look (freeze, client, json_string_value (backing_store)) == -1
      || freeze_start (freeze) == -1)
    return NULL;
  client->interrupt = freeze->fd;
  json_t *result
      = client_request (client, "snapshot.create", json_incref (params));
  client->interrupt = -1;
  const int frozen = freeze_end (freeze);
  /* They can be unmounted while the free space is looked for. */
  freeze_close (freeze);
  if (frozen == 0)
    return result;
  json_decref (result);
  return NULL;
}

static int
run (struct invocation *invocation)
{
  SCOPED_FREEZE freeze = FREEZE_INIT;
  SCOPED_CLIENT client = CLIENT_INIT;
  struct candidates candidates = {};
  json_auto_t *params = parse (invocation, &candidates, &freeze);
  /* Until it is known to be good, so that the server deletes it if not. */
  const bool creating = candidates.looked_for || freeze.count > 0;

  if ((freeze.count > 0 && freeze_prepare (&freeze) == -1)
      || client_open (&client, invocation->socket) == -1)
    return STATUS_FAILED;
  if (creating)
    set (params, "creating", json_true ());
  json_auto_t *result
      = freeze.count > 0
            ? create_frozen (&client, params, &freeze)
            : client_request (&client, "snapshot.create", json_incref (params));
  if (result == NULL
      || (creating && finish_creating (&client, result, &candidates) == -1))
    return STATUS_FAILED;
  const char *export = json_string_value (json_object_get (result, "export"));
  if (export == NULL) {
    complain ("%s: a snapshot has been created, but the server did not say "
              "which: 'fssnap list' does",
              client.path);
    return STATUS_FAILED;
  }
  print_line (export);
  const int status = finish_output ();
  if (status != STATUS_DONE)
    complain ("%s has been created nevertheless", export);
  return status;
}

static const struct option options[] = {
  COMMON_LONG,
  { "candidates", required_argument, NULL, OPTION_CANDIDATES },
  { "ephemeral", no_argument, NULL, OPTION_EPHEMERAL },
  { "freeze", required_argument, NULL, OPTION_FREEZE },
  { "freeze-timeout", required_argument, NULL, OPTION_FREEZE_TIMEOUT },
  { "name", required_argument, NULL, OPTION_NAME },
  {},
};

const struct command command_create = {
  .name = "create",
  .arguments = "[--name NAME] [--candidates TYPE] [--freeze DIR] "
               "[--ephemeral] [-o KEY=VALUE,...]",
  .summary = "Take a snapshot and print the name of its export",
  .help = "      --name=NAME     a name for it, beside its number\n"
          "      --candidates=all|auto|TYPE   what to keep: all (the "
          "default), or what\n"
          "                      the file system uses that is found, or is "
          "of that type\n"
          "      --freeze=DIR    freeze the file system mounted there "
          "meanwhile; several\n"
          "      --freeze-timeout=SECONDS     thaw it at the latest then (10)\n"
          "      --ephemeral     it is deleted when the server ends\n"
          "  -o KEY=VALUE,...    what is to differ from the server's own "
          "parameters:\n"
          "      backing-store=PATH (bs, bf)  directory or new file for what "
          "is copied\n"
          "      backfile-size=SIZE           split it into files of at most "
          "this\n"
          "      chunksize=SIZE               unit of copying\n"
          "      cow-timeout=SECONDS          longest wait for the backing "
          "store\n"
          "      durability=async|written|stable  where a copy must be before "
          "a write\n"
          "      maxsize=SIZE                 limit on the bytes copied\n"
          "      on-error=break-snapshot|break-write  what gives way\n",
  .short_options = COMMON_SHORT "o:",
  .long_options = options,
  .run = run,
};
