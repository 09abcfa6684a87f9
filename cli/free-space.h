/* SPDX-License-Identifier: BSD-3-Clause */
/* What of a snapshot that is being created is free space: find out, and tell
 * the server.
 */

#ifndef FSSNAP_FREE_SPACE_H
#define FSSNAP_FREE_SPACE_H

#include "client.h"
#include "command.h"
#include "fs/candidates.h"

/* The reader of what OPTION says is there, NULL for "auto"; another word ends
 * the program.
 */
const struct reader *type_argument (const struct command *command,
                                    const char *option, const char *type);

/* Read the view URI in a process of its own, tell the server what is free in
 * snapshot NUMBER, which CLIENT is creating, and write what was found to
 * standard error.  Whatever goes wrong with the reading, the snapshot keeps
 * more than it had to, and that is all.  0, or -1 after a message if the
 * server refused it.
 */
int free_space_tell (struct client *client, json_int_t number, const char *uri,
                     const struct reader *only);

#endif
