/* SPDX-License-Identifier: BSD-3-Clause */

#include "command.h"
#include "output.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void
wrong_option (const struct command *command)
{
  complain ("'fssnap%s%s --help' says what there is",
            command == NULL ? "" : " ", command == NULL ? "" : command->name);
  exit (STATUS_USAGE);
}

void
usage_error (const struct command *command, const char *format, ...)
{
  va_list arguments;

  va_start (arguments, format);
  complain_list (format, arguments);
  va_end (arguments);
  wrong_option (command);
}

const char *
socket_argument (const struct command *command, const char *argument)
{
  if (*argument == '\0')
    usage_error (command, "--socket=: must be a path");
  return argument;
}

static void
print_help (const struct command *command)
{
  printf ("Usage: fssnap %s%s%s%s\n%s.\n\n%s"
          "%s"
          "      --help          this help\n\n"
          "See fssnap(8).\n",
          command->name, command->offline ? "" : " [-s PATH]",
          *command->arguments == '\0' ? "" : " ", command->arguments,
          command->summary, command->help,
          command->offline
              ? ""
              : "  -s, --socket=PATH   the server's control socket\n");
}

int
command_option (struct invocation *invocation)
{
  const struct command *command = invocation->command;

  for (;;) {
    const int option
        = getopt_long (invocation->argc, invocation->argv,
                       command->short_options, command->long_options, NULL);
    switch (option) {
    case 's':
      invocation->socket = socket_argument (command, optarg);
      break;
    case OPTION_HELP:
      print_help (command);
      exit (finish_output ());
    case '?':
      wrong_option (command);
    default:
      return option;
    }
  }
}

const char *
snapshot_operand (const struct invocation *invocation)
{
  static const char prefix[] = "snapshot/";
  const char *operand = invocation->argv[optind];

  if (operand == NULL)
    return NULL;
  if (optind + 1 < invocation->argc)
    usage_error (invocation->command, "'%s': one snapshot can be given",
                 invocation->argv[optind + 1]);
  /* json_pack would take it for a lack of memory. */
  json_auto_t *string = json_string (operand);
  if (string == NULL)
    usage_error (invocation->command, "'%s': must be UTF-8", operand);
  if (strncmp (operand, prefix, strlen (prefix)) == 0)
    operand += strlen (prefix);
  return operand;
}
