/* SPDX-License-Identifier: BSD-3-Clause */
/* Whether a server that has been started after a crash serves what it must.
 */

#ifndef FSSNAP_TEST_POWER_CHECK_H
#define FSSNAP_TEST_POWER_CHECK_H

#include "power-model.h"

struct nbd_handle;

/* What the server has of a snapshot. */
struct seen {
  bool listed, whole;
  unsigned number;
};

/* Connect to an export; NULL: the server is not there, or does not let us. */
struct nbd_handle *check_connect (const char *export);

/* Read a snapshot of that number.  False: it cannot be read. */
bool check_read (unsigned number, uint8_t *data, uint64_t size);

/* Compare all snapshots with the model.  SEEN: for each of the model's.  If
 * LEARN, what is not known of them in the model is taken from there.  NULL;
 * or what is wrong, to be freed.  *COMPARED is increased.
 */
char *check_snapshots (struct model *model, const struct crash *crash,
                       bool learn, struct seen *seen, uint64_t *compared);

/* The first byte that is wrong, and the byte. */
char *check_equal (const char *what, const uint8_t *is, const uint8_t *should,
                   uint64_t size);

/* A message to be freed. */
__attribute__ ((format (printf, 1, 2))) char *say (const char *format, ...);

#endif
