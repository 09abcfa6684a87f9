/* SPDX-License-Identifier: BSD-3-Clause */
/* fssnap candidates */

#include "command.h"
#include "figures.h"
#include "free-lines.h"
#include "free-space.h"
#include "output.h"
#include "scoped.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { OPTION_JSON = 'j', OPTION_TYPE = 't' };

static const struct column columns[] = {
  { "PARTITION", true }, { "TYPE", false }, { "OFFSET", true },
  { "SIZE", true },      { "FREE", true },  { "KEPT BECAUSE", false },
};

static void
add_row (void *arg, const struct finding *finding)
{
  struct table *table = arg;

  table_add (table, finding->partition == 0 ? text ("-")
                                            : text ("%u", finding->partition));
  table_add (table, text ("%s", finding->type));
  table_add (table, text ("%ju", (uintmax_t)finding->offset));
  table_add (table, size_shown ((json_int_t)finding->size));
  table_add (table, size_shown ((json_int_t)finding->free));
  table_add (table, text ("%s", finding->why != NULL ? finding->why : "-"));
}

static void
ignore_extents (void *arg, const struct extent *extents, size_t count)
{
  (void)arg;
  (void)extents;
  (void)count;
}

static void
show_table (struct source *source, const struct reader *only)
{
  struct table table
      = { .columns = columns, .width = sizeof columns / sizeof columns[0] };
  const struct teller teller
      = { .found = add_row, .free = ignore_extents, .arg = &table };

  candidates_find (source, only, &teller);
  table_print (&table);
  table_free (&table);
}

/* A file, or an NBD URI; NULL after a message. */
static struct source *
open_source (const char *name)
{
  struct source *source;

  if (strncmp (name, "nbd", 3) == 0 && strstr (name, "://") != NULL) {
    source = source_of_nbd (name);
    return source != NULL ? source_cached (source) : NULL;
  }
  source = source_of_file (name);
  if (source == NULL)
    complain ("%s: %s", name, strerror (errno));
  return source;
}

static int
run (struct invocation *invocation)
{
  const struct reader *only = NULL;
  bool json = false;
  int option;

  while ((option = command_option (invocation)) != -1) {
    if (option == OPTION_JSON)
      json = true;
    else
      only = type_argument (invocation->command, "--type", optarg);
  }
  const char *operand = invocation->argv[optind];
  if (operand == NULL || invocation->argv[optind + 1] != NULL)
    usage_error (invocation->command,
                 "one file, device or NBD URI must be given");
  struct source *source = open_source (operand);
  if (source == NULL)
    return STATUS_FAILED;
  if (json)
    free_lines_write (stdout, source, only);
  else
    show_table (source, only);
  source_close (source);
  return finish_output ();
}

static const struct option options[] = {
  { "help", no_argument, NULL, OPTION_HELP },
  { "json", no_argument, NULL, OPTION_JSON },
  { "type", required_argument, NULL, OPTION_TYPE },
  {},
};

const struct command command_candidates = {
  .name = "candidates",
  .arguments = "[--json] [--type=TYPE] FILE|URI",
  .summary = "Show what of a disk a snapshot with --candidates would keep",
  .help = "      --json          lines of JSON, with all free space\n"
          "      --type=TYPE     what is on it, if that is known better\n",
  .offline = true,
  .short_options = "",
  .long_options = options,
  .run = run,
};
