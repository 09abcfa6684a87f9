/* SPDX-License-Identifier: BSD-3-Clause */
/* A recorded load: servers, one after another in one boot, each ended or
 * killed, with clients that write the origin and take and delete snapshots.
 */

#ifndef FSSNAP_TEST_POWER_LOAD_H
#define FSSNAP_TEST_POWER_LOAD_H

#include "power-model.h"

#define PARAMETERS_MAX 32

/* How servers are run, and what snapshots are asked for. */
struct plan {
  const char *parameters[PARAMETERS_MAX]; /* of the test's own, then NULL */
  enum keeping standard;                  /* what they say of durability */

  /* Each snapshot has its own: */
  bool levels;    /* durability */
  bool chunks;    /* chunk size */
  bool elsewhere; /* directory, some of them */
  bool limits;    /* limit, so that some break */

  bool kills; /* all servers but the last are killed, at barriers */
};

/* Start a server on the current directory, which has the origin ("disk.img")
 * and the store ("store"), in the boot with the number BOOT, with the
 * parameters of the plan and PARAMETER, or NULL.
 */
void load_start_server (const struct plan *plan, const char *parameter,
                        uint64_t boot);

/* Options for a new snapshot, and what they ask for. */
struct json_t *load_options (const struct plan *plan, uint64_t *random,
                             struct snap *snap);

/* Load servers below the current directory, which the disk's state is of; it
 * is read then, and indexed, and the model knows what there is.  LOST: power
 * was lost before the first of them.
 */
void load_record (struct disk *disk, struct model *model,
                  const struct plan *plan, uint64_t boot, bool lost,
                  uint64_t *random);

#endif
