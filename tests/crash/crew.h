/* SPDX-License-Identifier: BSD-3-Clause */
/* The threads that load a server until it ends: some change the origin, some
 * read snapshots, some take and delete them.
 */

#ifndef FSSNAP_TEST_CREW_H
#define FSSNAP_TEST_CREW_H

#include "model.h"
#include "roster.h"

#include <stdbool.h>
#include <stdint.h>

#include <libnbd.h>

/* What came of it, of all crews together. */
struct deeds {
  uint64_t changes, taken, deleted;
};
extern struct deeds deeds;

/* A connection to an export; NULL: the server has gone, or, if MAY_FAIL, does
 * not let us.
 */
struct nbd_handle *crew_connect (const char *export, bool may_fail);

/* Read LENGTH bytes of a snapshot at OFFSET, or ask which of them are zeros,
 * and compare.  False: that failed, with libnbd's message.
 */
bool crew_read (struct nbd_handle *nbd, struct entry *entry, uint8_t *buf,
                uint64_t offset, uint64_t length);
bool crew_map (struct nbd_handle *nbd, struct entry *entry, uint64_t offset,
               uint64_t length);

/* How they are to be. */
struct temper {
  unsigned snapshots; /* that are to be there, about */
  unsigned levels;    /* of those asked for: from the first on */
  bool limits;        /* many with maxsize */
  unsigned pause; /* between creations and deletions, microseconds at most */
};

void crew_start (struct model *model, uint64_t *random,
                 const struct temper *temper);

/* They end by themselves when the server does; EARLY: do not wait for that.
 * Returns when all have.
 */
void crew_join (bool early);

#endif
