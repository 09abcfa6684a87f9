/* SPDX-License-Identifier: BSD-3-Clause */
/* What a server did to its files, in the order in which it happened: a file
 * of records that the recorder in the server (power-record.c) and the test
 * append to.  Each record goes out by one write with O_APPEND, so that the
 * order in the file is the one in which all of them were written, whichever
 * thread or process they are from.
 *
 * A call has two records: one before it is made, with all that it is to do,
 * and one after it has returned.  So whoever cuts the log anywhere knows of
 * each call whether it had been made, and whether it had returned.
 */

#ifndef FSSNAP_TEST_POWER_LOG_H
#define FSSNAP_TEST_POWER_LOG_H

#include <stdint.h>

enum power_op {
  POWER_WRITE,    /* payload: the bytes */
  POWER_ZERO,     /* the bytes become zeros, the size stays as it is */
  POWER_TRUNCATE, /* OFFSET: the new size */
  POWER_EXTEND,   /* the size becomes OFFSET and LENGTH at least */
  POWER_DATASYNC, /* fdatasync */
  POWER_SYNC,     /* fsync, of a file or a directory */
  POWER_SYNC_ALL, /* syncfs */

  /* In directory INO; OFFSET and LENGTH are the inodes that the names mean
   * before, 0 for none.
   */
  POWER_CREATE, /* payload: the name, "" for none */
  POWER_MKDIR,
  POWER_UNLINK,
  POWER_RENAME,   /* payload: the old name, the new one */
  POWER_EXCHANGE, /* payload: both names */

  POWER_MARK, /* the test's: OFFSET and LENGTH as it likes; has no end */
};

struct power_record {
  uint32_t bytes; /* of it all, a multiple of 8 */
  uint8_t op;     /* enum power_op */
  uint8_t ended;  /* 0: about to be called; 1: it has returned */
  uint8_t dsync;  /* a write that returns only when it is durable */
  uint8_t unused;
  uint64_t serial; /* of the call, the same in both records */
  uint64_t ino;    /* of the file or, where there are names, the directory */
  uint64_t offset, length; /* bytes */

  /* Once it has returned. */
  int64_t result; /* negative: it failed */
  uint64_t made;  /* the inode made, by POWER_CREATE and POWER_MKDIR */
  int64_t mtime;  /* of the file, nanoseconds since 1970 */

  char payload[]; /* names end with a zero byte; zeros fill it up */
};

#endif
