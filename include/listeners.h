/* SPDX-License-Identifier: BSD-3-Clause */
/* On which addresses this process listens for NBD clients. */

#ifndef FSSNAP_LISTENERS_H
#define FSSNAP_LISTENERS_H

/* Call FOUND with the NBD URI of each address that a stream socket of the
 * process listens on.  nbdkit does not say where it listens, but its sockets
 * are among our descriptors; so are ours, of which SKIP is one.  A port on
 * all addresses is two sockets, of IPv4 and of IPv6, with one URI.  Until
 * FOUND returns -1.  0, or -1 with errno.
 */
int listeners_find (const char *skip, int (*found) (void *arg, const char *uri),
                    void *arg);

#endif
