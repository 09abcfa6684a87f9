/* SPDX-License-Identifier: BSD-3-Clause */
/* What the core calls of nbdkit, for programs that are not nbdkit, and what
 * it said through them.
 */

#ifndef FSSNAP_NBDKIT_STUB_H
#define FSSNAP_NBDKIT_STUB_H

#include <stdbool.h>
#include <stdint.h>

/* Forget what was said. */
void messages_clear (void);

/* How many errors were logged; how many of them, or of the debug messages,
 * contain TEXT.
 */
unsigned messages_count (void);
unsigned messages_with (const char *text);
unsigned debugs_with (const char *text);

/* Print the errors, for who has to find out why a test failed. */
void messages_show (void);

/* Exactly one error was logged, and it contains each of the texts. */
#define assert_one_message(...)                                                \
  assert_messages (__FILE__, __LINE__, 1,                                      \
                   (const char *const[]){ __VA_ARGS__, NULL })
#define assert_no_message()                                                    \
  assert_messages (__FILE__, __LINE__, 0, (const char *const[]){ NULL })
void assert_messages (const char *file, int line, unsigned count,
                      const char *const *texts);

/* nbdkit_nanosleep returns when the server ends, and not before. */
void server_runs (void);
void server_ends (void);

/* This thread is one that called it: it ends the server. */
extern _Thread_local bool watched_for_the_end;

/* Extents as nbdkit keeps them: neighbours of one type are one. */
#define STUB_EXTENTS_MAX 64

struct nbdkit_extents {
  unsigned count;
  struct {
    uint64_t offset, length;
    uint32_t type;
  } extent[STUB_EXTENTS_MAX];
};

/* Extent I is as said. */
#define assert_extent(extents, i, offset, length, type)                        \
  assert_extent_at (__FILE__, __LINE__, extents, i, offset, length, type)
void assert_extent_at (const char *file, int line,
                       const struct nbdkit_extents *extents, unsigned i,
                       uint64_t offset, uint64_t length, uint32_t type);

#endif
