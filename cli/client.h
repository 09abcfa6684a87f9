/* SPDX-License-Identifier: BSD-3-Clause */
/* A connection to a server's control socket, see docs/control-protocol.md.
 *
 * Requests are made one after the other, each waits for its reply as long as
 * that takes: creating a snapshot may have to wait for a slow store, and only
 * the server knows how long.
 */

#ifndef FSSNAP_CLIENT_H
#define FSSNAP_CLIENT_H

#include <jansson.h>
#include <stddef.h>

/* Error codes of the protocol that the command has something to say to. */
enum {
  CODE_NO_SNAPSHOT = 1,
  CODE_BUSY = 2,
};

struct client {
  int fd;
  int interrupt; /* when this is readable, waiting for a reply ends; or -1 */
  char *path;
  json_int_t id;         /* of the last request */
  json_int_t error_code; /* with which the last request was refused, or 0 */
  char *buffer;          /* what was received */
  size_t size, used;     /* bytes allocated, bytes received */
  size_t taken;          /* bytes of lines that have been dealt with */
};

#define CLIENT_INIT                                                            \
  {                                                                            \
    .fd = -1, .interrupt = -1                                                  \
  }
#define SCOPED_CLIENT __attribute__ ((cleanup (client_close))) struct client

/* Connect to the socket PATH; if that is NULL to $FSSNAP_SOCKET; without that
 * to the only socket in the usual directory.  0, or -1 after a message.
 */
int client_open (struct client *client, const char *path);

/* Make a request.  PARAMS becomes the client's.  The result, an object, or
 * NULL after a message; also, without one, if it was interrupted.
 */
json_t *client_request (struct client *client, const char *method,
                        json_t *params);

void client_close (struct client *client);

#endif
