/* SPDX-License-Identifier: BSD-3-Clause */
/* Copying a claimed run of chunks aside: read its old content, publish it in
 * the translation table, hand it to the flusher.
 */

#ifndef FSSNAP_COPY_H
#define FSSNAP_COPY_H

#include "snapset.h"

#include <stdbool.h>
#include <stdint.h>

struct copy {
  struct snapset *set;
  struct snapshot *snapshot; /* the layer to copy into */
  struct translation *claim; /* in its table, owned by the caller */
  struct buffer *buffer;     /* room for the claim; the caller's */
  uint64_t offset;           /* of the write it is for, for messages */
  bool merge; /* not for a write, but to have what newer layers hold */
  bool early; /* the bits are set before it is stored; copy_claim's */
};

/* A fault that is not one chunk's.  0: the snapshot gave up, the write at
 * OFFSET may go on.  -1 with errno: the write has failed.
 */
int copy_failed (struct snapshot *snapshot, uint64_t offset, int err,
                 const char *what);

/* Copy the claim's chunks.  0, or -1 with errno if the write has failed;
 * then, or if the snapshot broke, the claim is given back.
 *
 * To MERGE: maxsize does not count, since it is no new copy; the chunks get
 * their bits when they are stored, whatever the durability; whatever fails
 * breaks nothing, and is -1.
 */
int copy_claim (struct copy *copy);

/* The claim cannot be copied, because of ERR. */
void copy_give_back (struct snapshot *snapshot, struct translation *claim,
                     int err);

#endif
