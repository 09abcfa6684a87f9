/* SPDX-License-Identifier: BSD-3-Clause */
/* fssnap detach */

#include "attachments.h"
#include "output.h"
#include "run-program.h"
#include "scoped.h"

#include <stdlib.h>

static int
run (struct invocation *invocation)
{
  SCOPED_ATTACHMENTS attachments = ATTACHMENTS_INIT;
  bool origin = false, several;

  while (command_option (invocation) != -1)
    origin = true; /* there is but one */
  const char *what = snapshot_operand (invocation);
  if ((what != NULL) == origin)
    usage_error (&command_detach, "what? Give a snapshot's number or name, or "
                                  "the path, or --origin");
  const char *socket = invocation->socket != NULL ? invocation->socket
                                                  : getenv ("FSSNAP_SOCKET");

  programs_begin ();
  if (attachments_open (&attachments) == -1)
    return STATUS_FAILED;
  struct attachment *attachment = attachments_find (
      &attachments, what, socket != NULL && *socket != '\0' ? socket : NULL,
      &several);
  if (attachment == NULL && !several)
    complain ("%s is not attached; 'fssnap attach --list' says what is",
              what != NULL ? what : "the origin");
  return attachment != NULL && attachment_remove (attachment) == 0
             ? STATUS_DONE
             : STATUS_FAILED;
}

static const struct option options[] = {
  COMMON_LONG,
  { "origin", no_argument, NULL, 'O' },
  {},
};

const struct command command_detach = {
  .name = "detach",
  .arguments = "SNAPSHOT | PATH | --origin",
  .summary = "Undo an attach, and wait until it is gone",
  .help = "      --origin        the origin's\n",
  .short_options = COMMON_SHORT,
  .long_options = options,
  .run = run,
};
