/* SPDX-License-Identifier: BSD-3-Clause */
/* The commands, and what they share of the command line. */

#ifndef FSSNAP_COMMAND_H
#define FSSNAP_COMMAND_H

#include <getopt.h>
#include <stdbool.h>
#include <stddef.h>

enum {
  STATUS_DONE = 0,
  STATUS_FAILED = 1,
  STATUS_USAGE = 2, /* the command line is wrong, nothing was asked for */
};

struct invocation;

struct command {
  const char *name;
  const char *arguments; /* what follows the name in the synopsis */
  const char *summary;   /* one line, no full stop */
  const char *help;      /* the lines of its own options; may be "" */
  bool offline;          /* asks no server, and has no -s */
  const char *short_options;
  const struct option *long_options;
  int (*run) (struct invocation *invocation); /* an exit status */
};

/* One call of a command.  ARGV[0] is a title for getopt's messages. */
struct invocation {
  const struct command *command;
  const char *socket; /* the last -s, or NULL */
  int argc;
  char **argv;
};

extern const struct command command_attach;
extern const struct command command_candidates;
extern const struct command command_check;
extern const struct command command_create;
extern const struct command command_delete;
extern const struct command command_detach;
extern const struct command command_info;
extern const struct command command_list;
extern const struct command command_mount;
extern const struct command command_umount;

/* Every command that is not offline has these: they begin its short and its
 * long options.
 */
#define OPTION_HELP 256
#define COMMON_SHORT "s:"
#define COMMON_LONG                                                            \
  { "socket", required_argument, NULL, 's' },                                  \
  {                                                                            \
    "help", no_argument, NULL, OPTION_HELP                                     \
  }

/* The next option of the command's own, as getopt_long, or -1 after the last.
 * Those that all have are dealt with here; a wrong one ends the program.
 */
int command_option (struct invocation *invocation);

/* The one operand, a snapshot's number or name, or NULL if it is missing.
 * "snapshot/3", as create prints it, means the same as "3".
 */
const char *snapshot_operand (const struct invocation *invocation);

/* What to do when there is no such snapshot. */
#define HINT_LIST "'fssnap list' says which there are"

/* The argument of -s. */
const char *socket_argument (const struct command *command,
                             const char *argument);

/* getopt has complained of an option: end the program. */
void wrong_option (const struct command *command) __attribute__ ((noreturn));

/* The command line is wrong: say so and end the program.  COMMAND is NULL if
 * it is none's.
 */
void usage_error (const struct command *command, const char *format, ...)
    __attribute__ ((noreturn, format (printf, 2, 3)));

#endif
