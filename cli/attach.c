/* SPDX-License-Identifier: BSD-3-Clause */
/* fssnap attach */

#include "attachments.h"
#include "output.h"
#include "run-program.h"
#include "scoped.h"

#include <string.h>

enum { OPTION_LIST = 'l', OPTION_ORIGIN = 'O' };

static const struct column columns[] = {
  { "SNAPSHOT", false }, { "NAME", false },       { "STATE", false },
  { "PATH", false },     { "MOUNTED ON", false }, { "SERVER", false },
};

static void
add_row (struct table *table, const struct attachment *attachment)
{
  const json_int_t number = fact_number (attachment, "snapnumber");
  const char *name = fact (attachment, "name");
  const char *path = fact (attachment, "path");
  char *mounts = attachment_mounts (attachment);
  const size_t length = strlen (mounts);

  table_add (table, number == 0 ? text ("origin")
                                : text ("%" JSON_INTEGER_FORMAT, number));
  table_add (table, text ("%s", *name != '\0' ? name : "-"));
  table_add (table,
             text ("%s", !attachment_is_whole (attachment)    ? "damaged"
                         : attachment_has_server (attachment) ? "attached"
                                                              : "server gone"));
  table_add (table, text ("%s", *path != '\0' ? path : "-"));
  for (size_t i = 0; i + 1 < length; i++)
    if (mounts[i] == '\n')
      mounts[i] = ' ';
  table_add (table,
             length > 0 ? text ("%.*s", (int)length - 1, mounts) : text ("-"));
  table_add (table, text ("%s", fact (attachment, "control")));
  free (mounts);
}

static int
list (const struct attachments *attachments)
{
  __attribute__ ((cleanup (table_free))) struct table table = {
    .columns = columns,
    .width = sizeof columns / sizeof columns[0],
  };

  for (size_t i = 0; i < attachments->n; i++)
    add_row (&table, &attachments->all[i]);
  if (attachments->n == 0)
    print_line ("Nothing is attached.");
  else
    table_print (&table);
  return finish_output ();
}

static int
run (struct invocation *invocation)
{
  SCOPED_ATTACHMENTS attachments = ATTACHMENTS_INIT;
  bool only_list = false, origin = false;
  int option;

  while ((option = command_option (invocation)) != -1) {
    if (option == OPTION_LIST)
      only_list = true;
    else
      origin = true;
  }
  const char *what = snapshot_operand (invocation);
  if ((what != NULL) + origin + only_list > 1)
    usage_error (&command_attach, "one of a snapshot, --origin and --list can "
                                  "be given");

  programs_begin ();
  if (attachments_open (&attachments) == -1)
    return STATUS_FAILED;
  if (only_list)
    return list (&attachments);
  const struct attachment *attachment
      = attach (&attachments, invocation->socket, what, origin, false);
  if (attachment == NULL)
    return STATUS_FAILED;
  print_line (fact (attachment, "path"));
  return finish_output ();
}

static const struct option options[] = {
  COMMON_LONG,
  { "list", no_argument, NULL, OPTION_LIST },
  { "origin", no_argument, NULL, OPTION_ORIGIN },
  {},
};

const struct command command_attach = {
  .name = "attach",
  .arguments = "[SNAPSHOT | --origin | --list]",
  .summary = "Make a local block device of a snapshot and print its path",
  .help = "      --origin        of the origin, which can be written\n"
          "      --list          show what is attached\n",
  .short_options = COMMON_SHORT,
  .long_options = options,
  .run = run,
};
