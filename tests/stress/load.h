/* SPDX-License-Identifier: BSD-3-Clause */
/* What the programs that load a server at random have in common. */

#ifndef FSSNAP_TEST_LOAD_H
#define FSSNAP_TEST_LOAD_H

#include "server.h"

#include <stdbool.h>
#include <stdint.h>

#include <libnbd.h>

/* Threads that hold ranges, at most. */
#define HOLDERS_MAX 16

/* The one server, and what the choices of the run come from. */
extern struct server server;
extern uint64_t seed;

/* The end of the test: says why, and what the server said. */
__attribute__ ((noreturn, format (printf, 1, 2))) void fail (const char *format,
                                                             ...);

/* xorshift64*: fast, and the same everywhere.  The state is not 0. */
uint64_t random_next (uint64_t *state);
uint64_t random_below (uint64_t *state, uint64_t limit);

/* Set SEED from FSSNAP_SEED, or anew, print it, and return a state. */
uint64_t random_begin (void);

/* Hold a range against all others, as holder I.  One at a time, so nobody
 * waits in a circle.
 */
void hold (unsigned i, uint64_t offset, uint64_t length);
void let_go (unsigned i);

/* R is what libnbd returned. */
void nbd_must (int r, const char *what, uint64_t offset, uint64_t length);

void must_equal (const char *what, const uint8_t *is, const uint8_t *should,
                 uint64_t offset, uint64_t length);

/* LENGTH random bytes. */
void random_bytes (uint64_t *state, uint8_t *buf, uint64_t length);

/* Make a file of SIZE bytes with data, zeros and holes of all lengths, the
 * same as in IMAGE after this.
 */
void make_image (const char *path, uint8_t *image, uint64_t size,
                 uint64_t *state);

struct nbd_handle *connect_to (const char *export);

/* End the server, which must end well and not have been complained of by a
 * sanitizer.
 */
void stop_server (void);

#endif
