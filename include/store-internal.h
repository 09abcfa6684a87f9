/* SPDX-License-Identifier: BSD-3-Clause */
/* What a store is made of: for its three sources alone.
 *
 *   store.c           the directory: opening, locking, closing
 *   store-records.c   what becomes of one snapshot in the catalogue
 *   store-telling.c   snapshots that break: its thread, and marks elsewhere
 */

#ifndef FSSNAP_STORE_INTERNAL_H
#define FSSNAP_STORE_INTERNAL_H

#include "store.h"

#include <pthread.h>

struct store {
  char *path; /* set at creation, as are the next three */
  int directory, lock_file;
  char boot[37];

  pthread_mutex_t lock; /* guards the catalogue, and is held while it is
                           written; the records' links and flags too */
  struct catalog catalog;
  char *refused;                /* why it may not be changed, or NULL */
  struct catalog_origin origin; /* whose it will be then */

  pthread_mutex_t tell_lock; /* guards what follows */
  pthread_cond_t changed;
  struct telling *tellings, **tellings_end;
  bool running, stopping, ended;

  pthread_t thread; /* of who starts and stops it */
  bool started;
};

/* Write the catalogue.  LOCK is held.  0, or -1 with errno, reported. */
int store_save (struct store *store);

/* Whether the store takes a new snapshot; it may have to begin for that.  LOCK
 * is held.  0, or -1 with errno, reported.
 */
int store_check_accepts (struct store *store);

/* A layer's files, for the lists of those that are no layer's.  NULL with
 * errno.
 */
struct catalog_files *store_files_of (const struct catalog_layer *record);

/* Give a file that root has made to the owner of the directory, as whom the
 * server may be about to run.
 */
void store_own (const struct store *store, int fd);

/* Whether the catalogue has a file of that name.  LOCK is held. */
bool store_is_listed (const struct store *store, const char *name);

/* Remove the names of a layer's files.  They may be gone already, or not be
 * its own.  LOCK is held.  0, or -1 after logging if one is still there.
 */
int store_remove_files (struct store *store, char *const *files, unsigned parts,
                        const uuid_t uuid);

/* A mark is of no use any more. */
void store_remove_mark (const struct catalog_layer *record);

#endif
