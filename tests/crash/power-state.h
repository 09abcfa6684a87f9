/* SPDX-License-Identifier: BSD-3-Clause */
/* What a disk may hold after the power has gone, or the server was killed.
 *
 * What a barrier promises, and nothing else, is relied on:
 *
 *   fsync, fdatasync   all calls for the file that returned before it was
 *                      called are durable once it has returned: data, holes
 *                      and the size; the file's name is not
 *   a write with DSYNC is durable itself once it has returned, with the size
 *                      that it needs
 *   fsync of a directory  the same for the names in it
 *   mtime              is durable by fsync alone
 *
 * Of all other calls that were made before the power went, each sector of a
 * file has as many as it likes, in the order in which they were made; so has
 * the size, and so has a directory.  Sectors do not know of each other, nor
 * files, nor directories; but a size from before a file was cut has the
 * data from before, and one from after it has not.
 *
 * With ANY_ORDER any of the changes of a directory may be missing, whether
 * or not later ones are there, which no journalling file system does.
 *
 * When only the server is killed, every call that returned has happened, and
 * those under way may have.
 */

#ifndef FSSNAP_TEST_POWER_STATE_H
#define FSSNAP_TEST_POWER_STATE_H

#include "power-disk.h"

struct crash {
  uint64_t at; /* the place in the log */
  bool power;  /* else the server was killed */
  bool any_order;
  uint64_t random; /* what chooses among all states */
};

/* Make a state in the current directory, which is empty; the same for the
 * same CRASH.  What was chosen is said to SAY, unless that is NULL.
 */
void state_make (const struct disk *disk, const struct crash *crash, FILE *say);

/* The first byte that a file may not have at that place; NEVER: there is
 * none.  What sizes it may have is not asked.
 */
uint64_t state_wrong (const struct object *object, const struct crash *crash,
                      const uint8_t *data, uint64_t size);

#endif
