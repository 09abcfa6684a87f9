/* SPDX-License-Identifier: BSD-3-Clause */
/* Lines for a server to deal with: requests in order, requests that are
 * almost so, and what is none.
 */

#ifndef FSSNAP_FUZZ_GENERATE_H
#define FSSNAP_FUZZ_GENERATE_H

#include <stddef.h>
#include <stdint.h>

/* A number below LIMIT; the same sequence for the same *STATE. */
uint64_t below (uint64_t *state, uint64_t limit);

/* One line, or some, each with its end, to be freed by the caller; DIRECTORY
 * is where backing files may be.  *LENGTH is how many bytes.
 */
char *generate (uint64_t *state, const char *directory, size_t *length);

#endif
