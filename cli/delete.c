/* SPDX-License-Identifier: BSD-3-Clause */
/* fssnap delete */

#include "client.h"
#include "command.h"
#include "output.h"

#include <stdbool.h>

enum { OPTION_FORCE = 'f' };

static int
run (struct invocation *invocation)
{
  SCOPED_CLIENT client = CLIENT_INIT;
  bool force = false;

  while (command_option (invocation) != -1)
    force = true; /* there is but one */
  const char *snapshot = snapshot_operand (invocation);
  if (snapshot == NULL)
    usage_error (&command_delete, "which snapshot? Give its number or name");

  if (client_open (&client, invocation->socket) == -1)
    return STATUS_FAILED;
  json_auto_t *result = client_request (
      &client, "snapshot.delete",
      json_pack ("{s:s, s:b}", "snapshot", snapshot, "force", (int)force));
  if (result != NULL)
    return STATUS_DONE;
  if (client.error_code == CODE_NO_SNAPSHOT)
    complain (HINT_LIST);
  if (client.error_code == CODE_BUSY && !force)
    complain ("with --force it is deleted all the same, and who has it open "
              "gets errors");
  return STATUS_FAILED;
}

static const struct option options[] = {
  COMMON_LONG,
  { "force", no_argument, NULL, OPTION_FORCE },
  {},
};

const struct command command_delete = {
  .name = "delete",
  .arguments = "[--force] SNAPSHOT",
  .summary = "Delete a snapshot, given by its number or name",
  .help = "      --force         also if clients have it open or it is being "
          "created\n",
  .short_options = COMMON_SHORT,
  .long_options = options,
  .run = run,
};
