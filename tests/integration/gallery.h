/* SPDX-License-Identifier: BSD-3-Clause */
/* Several snapshots in a store that was closed, for tests that spoil one's
 * file and look what that costs the others.
 */

#ifndef FSSNAP_TEST_GALLERY_H
#define FSSNAP_TEST_GALLERY_H

#include "store.h"

#define COUNT 3

/* Snapshots 1 to COUNT, and a good copy of each one's file.  Chunk by chunk
 * in turn, the first is kept by nobody, the next by 1 alone, then by 2, ...;
 * so each older one reads through all newer ones.
 */
struct gallery {
  struct world w;
  const uint8_t *content[COUNT + 1];
  const char *file[COUNT + 1], *good[COUNT + 1];
};

/* Where the I-th chunk is that a snapshot keeps; and of how many. */
#define KEPT_BY(snapnumber, i) (((i) * (COUNT + 1) + (snapnumber)) * CHUNK)
#define ROUNDS (SIZE / CHUNK / (COUNT + 1))

struct gallery make_gallery (struct fixture *f);

void all_are_exact (struct gallery *g);

/* It reads as it must where it keeps the chunks itself, and nowhere as
 * anything else.
 */
void is_blocked (struct gallery *g, int snapnumber, int by);

/* 2 is refused, by the name of its file and for this reason; 3 is served,
 * and 1 as far as it can be.
 */
void second_is_refused (struct gallery *g, const char *why);

/* 1 reads as it must, or not at all. */
void first_is_exact_or_fails (struct gallery *g);

/* Where in each one's file the index of copied chunks is. */
uint64_t index_of_copied (void);

#endif
