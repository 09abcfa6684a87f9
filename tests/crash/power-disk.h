/* SPDX-License-Identifier: BSD-3-Clause */
/* A disk: what was on it at first, and what the log (power-log.h) says that
 * happened to it since.  One thread at a time.
 *
 * A place in the log is a number of records, those before it.
 */

#ifndef FSSNAP_TEST_POWER_DISK_H
#define FSSNAP_TEST_POWER_DISK_H

#include "power-log.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define NEVER UINT64_MAX

/* What disks write whole or not at all. */
#define SECTOR 512

/* A call, but for barriers. */
struct op {
  enum power_op kind;
  uint64_t serial;
  uint64_t begin, end; /* places; END is NEVER: it did not return */
  int64_t result;      /* negative: it failed */
  bool dsync;
  uint64_t offset, length;
  const uint8_t *data;        /* of a write */
  int64_t mtime;              /* of the file when it had returned */
  const char *name, *to_name; /* in a directory */
  struct object *object;      /* what it changes */
  struct object *made;        /* by a creation */
  unsigned number;            /* among those of the object, from 0 on */
};

struct barrier {
  bool data_only;
  uint64_t begin, end;
};

struct entry {
  char *name;
  struct object *object;
};

/* What of a file's ops touches a sector. */
struct sector {
  unsigned count;
  struct op **op;
};

struct object {
  struct object *next; /* the one found or made before */
  uint64_t ino;
  bool directory;
  char *name; /* the first one it had, for people; or NULL */

  /* At first. */
  uint8_t *initial; /* of a file */
  uint64_t size;    /* its length */
  int64_t mtime;
  struct entry *entries; /* of a directory */
  unsigned entry_count;

  struct op **ops; /* in the order in which they began */
  unsigned op_count;
  struct barrier *barriers; /* that succeeded */
  unsigned barrier_count;
  struct sector *sectors; /* made by disk_index */
  uint64_t sector_count;
};

struct mark {
  uint64_t place; /* it is there for those who are behind it */
  uint64_t what, which;
};

struct disk {
  struct object *objects; /* the last one found or made */
  struct object *root;
  uint64_t length; /* records */
  struct mark *marks;
  unsigned mark_count;

  /* While the log is read. */
  char **texts; /* what was read of it; all the rest points there */
  unsigned text_count;
  uint64_t bytes;   /* of the log that have been read */
  struct op **open; /* have not returned */
  unsigned open_count;
  const struct power_record **records; /* all of them, for people */
};

/* Look at all files below a directory: they are what the disk has at first.
 * Aborts if it cannot.
 */
struct disk *disk_scan (const char *root);

void disk_free (struct disk *disk);

/* A file that is not on the disk, but the log speaks of. */
void disk_add (struct disk *disk, uint64_t ino, const char *name,
               const uint8_t *data, uint64_t size);

/* Read what has been added to the log since. */
void disk_read (struct disk *disk, const char *log);

/* No more is read: get ready to be asked what a sector may hold. */
void disk_index (struct disk *disk);

/* The object that an inode number means now; NULL: none. */
struct object *disk_find (const struct disk *disk, uint64_t ino);

/* The file of that name in the root; NULL: none at first. */
struct object *disk_file (const struct disk *disk, const char *name);

/* What is different below two directories, to be freed; NULL: nothing is. */
char *disk_compare (const char *a, const char *b);

/* The log from FROM up to AT, as text. */
void disk_print (const struct disk *disk, uint64_t from, uint64_t at,
                 FILE *out);

/* N bytes, zeroed, or abort. */
void *zalloc (uint64_t n);

/* Room for one more at ARRAY[COUNT], of SIZE bytes each, or abort. */
void *one_more (void *array, unsigned count, uint64_t size);

#endif
