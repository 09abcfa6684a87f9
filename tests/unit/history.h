/* SPDX-License-Identifier: BSD-3-Clause */
/* What snapshots must read: a model of a fixture's, which goes on when the
 * server ends and another one starts.
 */

#ifndef FSSNAP_HISTORY_H
#define FSSNAP_HISTORY_H

#include "fixture.h"

#define HISTORY_MAX 100 /* numbers */

struct history {
  struct fixture *fixture;      /* whose it is */
  uint8_t *now;                 /* what the origin holds */
  uint8_t *frozen[HISTORY_MAX]; /* what each snapshot does, or NULL */
};

/* The fixture has been opened and has no snapshots. */
void history_begin (struct history *history, struct fixture *fixture);
void history_free (struct history *history);

/* As the fixture's functions. */
struct snapshot *history_freeze (struct history *history);
void history_write (struct history *history, uint64_t offset, uint64_t count,
                    uint8_t value);
void history_delete (struct history *history, unsigned number);

/* Snapshot NUMBER, or all there are, and no others, are there in FIXTURE and
 * read as they must.
 */
#define assert_history(history, fixture)                                       \
  assert_history_at (__FILE__, __LINE__, history, fixture)
void assert_history_at (const char *file, int line,
                        const struct history *history, struct fixture *fixture);
#define assert_holds(history, fixture, number)                                 \
  assert_holds_at (__FILE__, __LINE__, history, fixture, number)
void assert_holds_at (const char *file, int line, const struct history *history,
                      struct fixture *fixture, unsigned number);

/* It is there and broken, because of what has TEXT in it; and is not read. */
#define assert_broken(fixture, number, text)                                   \
  assert_broken_at (__FILE__, __LINE__, fixture, number, text)
void assert_broken_at (const char *file, int line, struct fixture *fixture,
                       unsigned number, const char *text);

#endif
