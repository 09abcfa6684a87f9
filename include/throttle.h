/* SPDX-License-Identifier: BSD-3-Clause */
/* The throttle: the memory that holds old content on its way to backing
 * files, handed out in buffers, never more than its limit.
 *
 * Who finds no room waits in line; the line is served in order, so that a
 * large request is not overtaken for ever by small ones.  Buffers come in
 * powers of two, each counted with an allowance for the structures that go
 * with it; a few that are free are kept, since memory just used is faster
 * than fresh memory.
 */

#ifndef FSSNAP_THROTTLE_H
#define FSSNAP_THROTTLE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

struct throttle;

struct buffer {
  struct throttle *throttle; /* set at creation */
  struct buffer *next;       /* among the free ones; under the lock */
  size_t size;               /* bytes, a power of two; set at creation */
  _Atomic unsigned users;
  uint8_t data[];
};

/* Bytes counted for each buffer besides its size: struct buffer and the
 * translation that points to it, with malloc's own words.
 */
#define THROTTLE_ALLOWANCE 320

/* A throttle of LIMIT bytes, or NULL with errno. */
struct throttle *throttle_create (uint64_t limit);

/* All buffers must be back. */
void throttle_free (struct throttle *throttle);

/* Bytes. */
uint64_t throttle_limit (const struct throttle *throttle);

/* The least limit under which a buffer of BYTES can ever be had. */
uint64_t throttle_least (uint64_t bytes);

/* A buffer of at least BYTES (1 or more, throttle_least (BYTES) within the
 * limit) with one user; NULL with errno EAGAIN if there is no room or
 * others are waiting, ENOMEM.
 */
struct buffer *throttle_try (struct throttle *throttle, size_t bytes);

/* The same, but wait for room until DEADLINE (CLOCK_MONOTONIC).  NULL with
 * errno ETIMEDOUT, ENOMEM, or ECANCELED once *CANCELLED is true (whoever
 * makes it so calls throttle_wake).
 */
struct buffer *throttle_wait (struct throttle *throttle, size_t bytes,
                              const struct timespec *deadline,
                              const atomic_bool *cancelled);

/* Let everyone who waits look at their CANCELLED. */
void throttle_wake (struct throttle *throttle);

/* One user more; one fewer, the last one's gives the buffer back. */
void buffer_use (struct buffer *buffer);
void buffer_release (struct buffer *buffer);

/* Bytes handed out; and with those that are kept for the next user.  For
 * tests and statistics.
 */
uint64_t throttle_used (struct throttle *throttle);
uint64_t throttle_held (struct throttle *throttle);

#endif
