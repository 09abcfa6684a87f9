/* SPDX-License-Identifier: BSD-3-Clause */
/* What a backing file in a store looks like: its header and its index, to
 * and from bytes.  docs/store-format.md says the same to people.  No I/O.
 *
 * A file is one part of a backing file: FORMAT_HEADER bytes of header, of
 * which the first sector is used; FORMAT_TABLES tables of index; the data.
 * A table has a bit for each chunk of the part, in units of a sector, each
 * with a checksum of its own, since a sector is what disks write whole.  A
 * unit that was never written is all zeros, or a hole, and means no bits.
 */

#ifndef FSSNAP_FORMAT_H
#define FSSNAP_FORMAT_H

#include <stdint.h>

#define FORMAT_VERSION 1
#define FORMAT_SECTOR 512
#define FORMAT_HEADER 4096

/* Groups of 64 chunks that a unit has the bits of. */
#define FORMAT_UNIT_GROUPS 60

enum format_table {
  FORMAT_COPIED,     /* the chunk's old content has been copied aside */
  FORMAT_FREE,       /* it is no candidate: it reads as zeros */
  FORMAT_UNREADABLE, /* the old content could not be read; COPIED is set too */
};
#define FORMAT_TABLES 3

#define FORMAT_NAME_MAX 64    /* bytes of a snapshot's name */
#define FORMAT_ORIGIN_MAX 255 /* bytes of the origin's path that are kept */

/* Never changed once the file is made. */
struct format_header {
  uint8_t store[16]; /* UUIDs */
  uint8_t layer[16];
  unsigned part, parts; /* this file is PART (from 0 on) of PARTS */
  uint64_t chunk_size;  /* bytes */
  uint64_t size;        /* bytes of the origin at the snapshot's instant */
  uint64_t first;       /* byte of the origin with which this part begins, a
                           multiple of 64 chunks */
  uint64_t length;      /* bytes of the origin in this part */
  unsigned number;      /* from here on for people */
  int64_t created;      /* seconds since 1970; when the file was made */
  char name[FORMAT_NAME_MAX + 1];
  char origin[FORMAT_ORIGIN_MAX + 1];
};

/* Where things are in a part. */
struct format_layout {
  uint64_t groups;      /* of 64 chunks, the last may be short */
  uint64_t units;       /* of each table */
  uint64_t table_bytes; /* a multiple of 4096 */
  uint64_t data;        /* where the data begin; a multiple of the chunk size
                           and of 4096 */
  uint64_t file_size;   /* DATA and LENGTH */
};

struct format_layout format_layout (uint64_t chunk_size, uint64_t length);

/* Bytes of the origin in each part but the last, so that no file has more than
 * FILE_SIZE bytes (0: one file for all SIZE bytes): a multiple of 64 chunks.
 * 0: no file can be so small.
 */
uint64_t format_span (uint64_t chunk_size, uint64_t size, uint64_t file_size);

/* Where in the file a unit is. */
uint64_t format_unit_offset (const struct format_layout *layout,
                             enum format_table table, uint64_t unit);

void format_encode_header (const struct format_header *header,
                           uint8_t sector[FORMAT_SECTOR]);

/* Check all that can be checked without knowing more, and take it.  0; or
 * -1 and *WHY (to be freed; NULL if there was no memory) says what is wrong,
 * as in "is no backing file of fssnap", "is of format 2; this fssnap knows
 * 1", "has a damaged header (checksum)".
 */
int format_decode_header (const uint8_t sector[FORMAT_SECTOR],
                          struct format_header *header, char **why);

/* What a unit is of. */
struct format_unit {
  uint8_t layer[16]; /* UUID */
  unsigned part;
  enum format_table table;
  uint64_t number; /* in its table, from 0 on */
};

void format_encode_unit (const struct format_unit *unit,
                         const uint64_t words[FORMAT_UNIT_GROUPS],
                         uint8_t sector[FORMAT_SECTOR]);

/* 1: WORDS has its bits; 0: it was never written; -1: it is damaged, or one
 * of something else.
 */
int format_decode_unit (const uint8_t sector[FORMAT_SECTOR],
                        const struct format_unit *unit,
                        uint64_t words[FORMAT_UNIT_GROUPS]);

/* The CRC32C (RFC 3720) of LENGTH bytes; with the CRC of what comes before
 * them, or 0.
 */
uint32_t format_crc (uint32_t crc, const void *data, uint64_t length);

#endif
