/* SPDX-License-Identifier: BSD-3-Clause */
/* The catalogue of a store: which layers there are, in which order, and
 * what is known of each.  A file, replaced as a whole at each change, so
 * that whoever reads it after a crash finds it as it was before or after.
 *
 * Nothing here locks.
 */

#ifndef FSSNAP_CATALOG_H
#define FSSNAP_CATALOG_H

#include "policy.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uuid/uuid.h>

#define CATALOG_VERSION 1
#define CATALOG_PARTS_MAX 256        /* files of a layer */
#define CATALOG_BYTES_MAX (64 << 20) /* of the file; a larger one is none */

/* A layer: a snapshot, or what remains of one for older ones' sake. */
struct catalog_layer {
  struct catalog_layer *next; /* the next newer one */
  uuid_t uuid;
  unsigned number;
  char *name;          /* or NULL */
  int64_t created;     /* seconds since 1970 */
  uint64_t size;       /* bytes of the origin at its instant */
  uint64_t chunk_size; /* this and what follows: as for snapshot_options */
  uint64_t maxsize;
  uint64_t backfile_size;
  unsigned cow_timeout;
  enum durability durability; /* as asked */
  enum on_error on_error;
  enum durability level; /* as kept now: more than asked while a server
                            ends */
  char **files;          /* of each part in turn: a name in the store, or an
                            absolute path */
  unsigned parts;        /* 1 or more */

  bool pending;   /* its creation has not been answered */
  bool creating;  /* its creator has not said that it is done */
  bool ephemeral; /* it is deleted when its server ends */
  bool deleted;
  char *broken_reason; /* NULL: it is whole */
  int broken_errno;    /* or 0 */
  int64_t broken_time;

  /* Counters, as they were when the store was last closed cleanly. */
  uint64_t copied, waits, flush_errors;
  uint64_t reads_origin, reads_memory, reads_backfile, reads_free;

  /* Bits in the tables of the index, likewise; not of a deleted one, from
   * which some are taken.  A sector that was lost is one that was never
   * written, to its checksum.
   */
  uint64_t chunks_copied, chunks_free, chunks_unreadable;
};

/* Files that are not a layer's yet, or not any more. */
struct catalog_files {
  struct catalog_files *next;
  uuid_t uuid; /* of the layer */
  char **files;
  unsigned parts;
};

/* The origin, as it was when this was written. */
struct catalog_origin {
  char *path;     /* NULL: none is recorded */
  char *identity; /* what tells it from another one, or "" */
  uint64_t size;  /* bytes; of no meaning unless the store was closed
                     cleanly, as is what follows */
  int64_t mtime, mtime_ns;
  uint32_t first_crc, last_crc; /* CRC32C of its first and last MiB */
  uint64_t sectors_written;     /* of a device, since the machine's start */
  uint64_t disk_sequence;       /* another one each time it is attached */
};

struct catalog {
  uuid_t store;
  uint64_t generation; /* one more each time it is written */
  bool clean;          /* the store was closed, and all of it is on stable
                          storage */
  char boot[37];       /* the boot in which it was opened last; "" if none */
  struct catalog_origin origin;
  struct catalog_layer *layers;   /* oldest first */
  struct catalog_files *making;   /* being made */
  struct catalog_files *removing; /* to be removed */
};

/* An empty catalogue of a new store. */
void catalog_init (struct catalog *catalog);
void catalog_free (struct catalog *catalog);
void catalog_free_layer (struct catalog_layer *layer);
void catalog_free_files (struct catalog_files *files);

/* A list of COUNT copied strings, and the end of one.  NULL with errno. */
char **catalog_copy_names (char *const *names, unsigned count);
void catalog_free_names (char **names, unsigned count);

/* What is wrong with a catalogue, a word or some, or NULL: the bounds of
 * numbers apart, which are those of its text.  One of them is
 * catalog_no_memory, to know it by its address.
 */
extern const char catalog_no_memory[];
const char *catalog_check (const struct catalog *catalog);

/* From and to bytes; to be freed.  -1 or NULL: *WHY, to be freed, says what
 * is wrong (it may be NULL, if there is no memory), as in "is damaged
 * (checksum)", "is of format 2; this fssnap knows 1"; nothing is left to be
 * freed but that.
 */
int catalog_parse (const char *text, size_t length, struct catalog *catalog,
                   char **why);
char *catalog_print (const struct catalog *catalog, size_t *length, char **why);

/* Read the catalogue of the store that DIRECTORY, a descriptor, is.  0, or -1
 * with errno and *WHY as above; ENOENT: there is none.
 */
int catalog_read (int directory, struct catalog *catalog, char **why);

/* Put CATALOG in its place: on stable storage when this returns 0.  It needs
 * no space if it is not longer than all before, so that a full disk does not
 * keep anyone from deleting.  -1 with errno and *WHY: the one before is still
 * there; but if it was the directory that could not be synced, a crash may
 * leave either.
 */
int catalog_write (int directory, const struct catalog *catalog, char **why);

#endif
