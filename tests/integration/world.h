/* SPDX-License-Identifier: BSD-3-Clause */
/* A server without snapshots, and what tests of taking and deleting them do
 * with it.
 */

#ifndef FSSNAP_TEST_WORLD_H
#define FSSNAP_TEST_WORLD_H

#include "control.h"

#define SIZE (1 << 20)
#define CHUNK 4096

struct world {
  struct fixture *f;
  struct control *c;
  struct nbd_handle *origin;
  uint8_t *live; /* SIZE bytes that the origin has */
  unsigned seed;
};

struct world begin (struct fixture *f);

/* Overwrite with what was not there before. */
void overwrite (struct world *w, uint64_t offset, size_t count);

/* Bytes that are put anywhere, in any length; the same with every run. */
void overwrite_anywhere (struct world *w);

/* What the origin has now, to be compared with a snapshot later. */
uint8_t *remember (const struct world *w);

/* The path of the I-th store; a snapshot that has its file there, its
 * number; whether there is such a file.
 */
const char *store (struct fixture *f, int i);
int create_in_store (struct world *w, int i);
bool has_store (struct world *w, int i);

/* Begin to create a snapshot; its number. */
int begin_creating (struct world *w);

void delete (struct world *w, int snapnumber);
void force_deletion (struct world *w, int snapnumber);

const char *state_of (struct world *w, int snapnumber);

/* What snapshot.list, with those that are deleted, has of a number. */
const json_t *entry (struct world *w, int snapnumber);

/* End all connections but the first one, to the origin. */
void close_readers (struct world *w);

#endif
