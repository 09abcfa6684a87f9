/* SPDX-License-Identifier: BSD-3-Clause */
/* fssnap: take, list and delete the snapshots of a running nbdkit fssnap.
 *
 * Here are the command line's first part and the table of commands; each
 * command is a file of its own.
 */

#include "command.h"
#include "output.h"
#include "scoped.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct command *const commands[] = {
  &command_create, &command_delete,     &command_list,  &command_info,
  &command_attach, &command_detach,     &command_mount, &command_umount,
  &command_check,  &command_candidates,
};

#define N_COMMANDS (sizeof commands / sizeof commands[0])

#define OPTION_VERSION 257

/* A descriptor of the standard ones that is closed would be the socket's next,
 * and what is printed would be sent to the server.  Opened the wrong way, so
 * that using it is still an error.
 */
static void
keep_standard_descriptors (void)
{
  for (int fd = 0; fd <= 2; fd++)
    if (fcntl (fd, F_GETFD) == -1
        && open ("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY) == -1)
      _exit (STATUS_FAILED);
}

static void
print_help (void)
{
  puts ("Usage: fssnap [-s PATH] COMMAND ...\n"
        "Take, list and delete snapshots of a running nbdkit fssnap.\n");
  for (size_t i = 0; i < N_COMMANDS; i++)
    printf ("  %-11s %s\n", commands[i]->name, commands[i]->summary);
  puts ("\n"
        "  -s, --socket=PATH   the server's control socket; default:\n"
        "                      $FSSNAP_SOCKET, or the only one in "
        "/run/fssnap\n"
        "      --help          this help, after a command: the command's\n"
        "      --version       the version\n"
        "\n"
        "See fssnap(8).");
}

static const struct command *
find_command (const char *name)
{
  SCOPED_FREE char *all = text ("%s", "");

  for (size_t i = 0; i < N_COMMANDS; i++) {
    if (strcmp (commands[i]->name, name) == 0)
      return commands[i];
    SCOPED_FREE char *before = all;
    all = text ("%s %s", before, commands[i]->name);
  }
  usage_error (NULL, "there is no command '%s'; there are:%s", name, all);
}

/* The options before the command.  The command's index, and in SOCKET what -s
 * says of it.
 */
static int
first_options (int argc, char **argv, const char **socket)
{
  static const struct option options[]
      = { COMMON_LONG, { "version", no_argument, NULL, OPTION_VERSION }, {} };
  int option;

  while ((option = getopt_long (argc, argv, "+" COMMON_SHORT, options, NULL))
         != -1) {
    switch (option) {
    case 's':
      *socket = socket_argument (NULL, optarg);
      break;
    case OPTION_HELP:
      print_help ();
      exit (finish_output ());
    case OPTION_VERSION:
      puts ("fssnap " FSSNAP_VERSION);
      exit (finish_output ());
    default:
      wrong_option (NULL);
    }
  }
  return optind;
}

int
main (int argc, char **argv)
{
  static char title[] = "fssnap";
  struct invocation invocation = {};

  keep_standard_descriptors ();
  /* What is printed to a pipe that nobody reads is an error to deal with:
   * a snapshot has been created by then.
   */
  signal (SIGPIPE, SIG_IGN);
  if (argc > 0)
    argv[0] = title;
  const int first = first_options (argc, argv, &invocation.socket);
  if (first >= argc)
    usage_error (NULL, "a command is missing");
  invocation.command = find_command (argv[first]);
  invocation.argc = argc - first;
  invocation.argv = argv + first;
  SCOPED_FREE char *name = text ("fssnap %s", argv[first]);
  invocation.argv[0] = name;
  optind = 0; /* start over, with the command's options */
  return invocation.command->run (&invocation);
}
