/* SPDX-License-Identifier: BSD-3-Clause */
/* What is fuzzed: the core with a small origin and a control socket, in this
 * process; and clients that know what must come back for what they send.
 *
 * Whatever is not as it must be ends the program, after a message that has
 * what was sent last.
 */

#ifndef FSSNAP_FUZZ_TARGET_H
#define FSSNAP_FUZZ_TARGET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ORIGIN_SIZE (1 << 20)

struct target;
struct client;

/* With a directory for all its files. */
struct target *target_start (void);

/* End it; nothing is left of what it had. */
void target_stop (struct target *target);

/* Where its files may be made. */
const char *target_directory (const struct target *target);

/* Write to the origin as an NBD client does. */
void target_write (struct target *target, uint64_t offset, uint64_t count);

/* The lists are well-formed and of one mind with the rest.  Deletes what is
 * more than a few snapshots.
 */
void target_check (struct target *target);

struct client *client_connect (struct target *target);

/* Vanish, whatever is under way. */
void client_close (struct client *client);

/* Whether the bytes may be sent: they make no files outside the directory. */
bool client_may_send (const struct client *client, const char *bytes,
                      size_t count);

/* Send bytes, in pieces that SEED chooses (0: at once).  Lines must not be
 * longer than allowed.
 */
void client_send (struct client *client, const char *bytes, size_t count,
                  uint64_t seed);

/* Get a reply for each request that was sent, and see that it is one. */
void client_expect (struct client *client);

/* Send a line that is too long; the connection is closed then. */
void client_send_too_much (struct client *client);

#endif
