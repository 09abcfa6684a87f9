/* SPDX-License-Identifier: BSD-3-Clause */
/* The store: the directory in which snapshots outlive the server.
 *
 * It is opened and locked by one server at a time.  What is true of its
 * snapshots is in its catalogue (catalog.h), which is replaced, on stable
 * storage, before anything is done that relies on it.  Each function that
 * changes it takes the store's lock and holds it over that I/O, so none is
 * for a thread that writes to the origin or reads a snapshot.
 *
 * Unless said otherwise functions return 0, or -1 with errno, reported: then
 * the catalogue is as it was.
 */

#ifndef FSSNAP_STORE_H
#define FSSNAP_STORE_H

#include "catalog.h"
#include "format.h"

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

struct store;

/* Open the store PATH, made if it is not there, and lock it.  NULL after
 * logging.
 */
struct store *store_open (const char *path);

/* Its thread must not be running. */
void store_close (struct store *store);

const char *store_path (const struct store *store);

/* The catalogue as it was found: for who brings the snapshots back, before
 * anything else runs.
 */
struct catalog *store_catalog (struct store *store);

/* The boot that this is; "" if the kernel does not say. */
const char *store_boot (const struct store *store);

/* From here on the store is in use, by a server of ORIGIN: what is found
 * like this after a crash was not closed cleanly.
 */
int store_begin (struct store *store, const struct catalog_origin *origin);

/* The store is not to be changed but by deleting, because of WHY; once all
 * its snapshots are deleted it is one for ORIGIN.
 */
int store_refuse (struct store *store, const char *why,
                  const struct catalog_origin *origin);

/* The thread that is told of broken snapshots.  STOP is -1 if it does not end
 * within TIMEOUT seconds: then the store may not be closed.
 */
int store_start (struct store *store);
int store_stop (struct store *store, unsigned timeout);

/* All of it is on stable storage, and ORIGIN is as the snapshots know it:
 * the store is closed cleanly.  Ephemeral snapshots end here.
 */
int store_end (struct store *store, const struct catalog_origin *origin);

/* A record for a new snapshot: what its files will be called is noted, so
 * that they are removed if nothing comes of it.  TEMPLATE has all but uuid
 * and files; its name is copied.  PLACE: a directory, or the first file.  NULL
 * with errno, reported.
 */
struct catalog_layer *store_make (struct store *store,
                                  const struct catalog_layer *template,
                                  const char *place, unsigned parts);

/* The absolute paths of a record's files: as many as it has parts.  To be
 * freed by catalog_free_names.  NULL with errno.
 */
char **store_paths (struct store *store, const struct catalog_layer *record);

/* The header of its files, for ORIGIN. */
struct format_header store_header (struct store *store,
                                   const struct catalog_layer *record,
                                   const char *origin);

/* Its files have been made. */
struct backfile;
void store_made (struct store *store, const struct backfile *backfile);

/* It enters the chain at the newest end, its creation not answered yet. */
int store_add (struct store *store, struct catalog_layer *record);

/* Nothing came of a record, which is freed, added or not. */
void store_cancel (struct store *store, struct catalog_layer *record);

/* Its creation is done and will be answered: CREATED, and whether someone
 * still says which of its chunks are free.
 */
int store_settle (struct store *store, struct catalog_layer *record,
                  time_t created, bool creating);

/* ANYWAY: what the catalogue says is as good as deleted; so it is, in the next
 * catalogue, also if this one cannot be written.
 */
int store_delete (struct store *store, struct catalog_layer *record,
                  bool anyway);

/* It has left the chain: its files may be emptied from here on. */
int store_drop (struct store *store, struct catalog_layer *record);

/* Remove the files of one that was dropped.  The record is freed. */
void store_remove (struct store *store, struct catalog_layer *record);

/* What was found out about a record when the store was opened. */
int store_set_broken (struct store *store, struct catalog_layer *record,
                      int err, time_t when, const char *why);

/* It is to break, because of ERR and WHY: DONE is called with ARG when the
 * catalogue says so, or has failed to; on the store's thread or, while that
 * does not run, from here.  Does not wait.
 */
void store_tell_broken (struct store *store, struct catalog_layer *record,
                        int err, time_t when, const char *why,
                        void (*done) (void *arg), void *arg);

/* The catalogue cannot say that it is broken: leave a mark in shared memory
 * for the next server on this machine.  Touches no file system but tmpfs.
 */
void store_mark_broken (struct store *store,
                        const struct catalog_layer *record);

/* Whether there is such a mark. */
bool store_is_marked (const struct catalog_layer *record);

/* All copies of all snapshots are, and will be, on stable storage. */
int store_set_stable (struct store *store);

#endif
