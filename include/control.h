/* SPDX-License-Identifier: BSD-3-Clause */
/* The control socket: JSON-RPC 2.0, one object a line, as described in
 * docs/control-protocol.md.  Here are the socket, the connections and the
 * envelope; what the methods do is in methods.h.
 */

#ifndef FSSNAP_CONTROL_H
#define FSSNAP_CONTROL_H

#include "methods.h"

struct control;

/* Make the socket and listen: who connects waits until control_start.  A
 * socket that a server left behind is replaced, one that a server listens on
 * is not.  CONTEXT outlives it.  NULL after logging.
 */
struct control *control_create (const char *path,
                                const struct methods *context);

/* Serve, in threads of its own.  0, or -1 after logging. */
int control_start (struct control *control);

/* Close all connections and end the threads.  0, or -1 if one did not end
 * within TIMEOUT seconds, since a store hangs: then nothing that it uses may
 * be freed.
 */
int control_stop (struct control *control, unsigned timeout);

/* Remove the socket. */
void control_free (struct control *control);

#endif
