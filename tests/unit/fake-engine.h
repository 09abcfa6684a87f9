/* SPDX-License-Identifier: BSD-3-Clause */
/* An engine whose writes end as a test wants. */

#ifndef FSSNAP_FAKE_ENGINE_H
#define FSSNAP_FAKE_ENGINE_H

#include "engine.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

extern const struct engine_type engine_fake;

/* One that cannot be made: EPERM. */
extern const struct engine_type engine_refused;

/* A write of LENGTH bytes (0: a sync), the INDEX-th (from 0) since
 * fake_reset, asks how it ends: with -errno, after so many bytes, or as below.
 * Called on the flusher's thread.
 */
#define FAKE_WRITE INT64_MAX      /* all of it */
#define FAKE_HANG (INT64_MAX - 1) /* not before fake_let_go; then all of it */
typedef int64_t (*fake_answer) (const struct engine_request *request,
                                size_t length, unsigned index);

/* Forget the past; ANSWER for the writes to come, NULL: all are written. */
void fake_reset (fake_answer answer);

/* Let what hangs go on, and everything after it. */
void fake_let_go (void);

/* Let the INDEX-th, which hangs, end like this, and no other. */
void fake_end (unsigned index, int64_t result);

/* Wait until COUNT writes were submitted since fake_reset. */
void fake_wait (unsigned count);

/* Wait until there is no engine any more. */
void fake_wait_freed (void);

/* Whether someone woke it when it did not exist. */
bool fake_was_misused (void);

/* What was submitted since fake_reset. */
#define FAKE_WRITES_MAX 4096
struct fake_write {
  int fd;
  uint64_t offset;
  size_t length;
  unsigned segments; /* 0: a sync */
};
unsigned fake_count (void);
struct fake_write fake_write_at (unsigned index);

#endif
