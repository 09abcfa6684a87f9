/* SPDX-License-Identifier: BSD-3-Clause */
/* What is going on, for who reads of a failure. */

#ifndef FSSNAP_TEST_STORY_H
#define FSSNAP_TEST_STORY_H

/* Forget all, and begin with this. */
void story_begin (const char *format, ...)
    __attribute__ ((format (printf, 1, 2)));

/* Go on; the server's log gets it too. */
void story_add (const char *format, ...)
    __attribute__ ((format (printf, 1, 2)));

/* The end of the test: says why, the story, and what the server said.  With
 * FSSNAP_KEEP=DIR all of the server's files are copied there.
 */
__attribute__ ((noreturn, format (printf, 1, 2))) void
wrong (const char *format, ...);

#endif
