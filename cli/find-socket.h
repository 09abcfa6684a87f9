/* SPDX-License-Identifier: BSD-3-Clause */
/* Which control socket is meant when the command line does not say. */

#ifndef FSSNAP_FIND_SOCKET_H
#define FSSNAP_FIND_SOCKET_H

/* The path in $FSSNAP_SOCKET, else of the only socket in the usual directory;
 * from malloc.  NULL after a message.
 */
char *find_socket (void);

#endif
