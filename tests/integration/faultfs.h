/* SPDX-License-Identifier: BSD-3-Clause */
/* A file system, over FUSE, whose reads, writes and syncs fail, stop short,
 * take long or hang on command: a backing store or origin in trouble.
 *
 * It keeps its files in memory, and runs in a child process, so that a test
 * can hang it, stop it and talk to it.  Reads and writes bypass the page
 * cache: each reaches it as the server made it.
 */

#ifndef FSSNAP_TEST_FAULTFS_H
#define FSSNAP_TEST_FAULTFS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct faultfs;

/* SYNC: of a file, or of the directory. */
enum faultfs_call { FAULTFS_READ, FAULTFS_WRITE, FAULTFS_SYNC };
#define FAULTFS_CALLS 3

enum faultfs_fault {
  FAULTFS_PASS,  /* none */
  FAULTFS_FAIL,  /* with ERROR */
  FAULTFS_SHORT, /* do AMOUNT bytes at most */
  FAULTFS_SLOW,  /* take AMOUNT microseconds, one call after the other */
  FAULTFS_HOLD,  /* do not answer before faultfs_release */
};

/* What happens to calls that touch LENGTH bytes from OFFSET of a file on (0:
 * all calls), if its name begins with FILE: SKIP of them pass, TIMES (0: all)
 * that follow go wrong.  A sync touches all of the file; the directory's name
 * is ".".
 */
struct faultfs_rule {
  enum faultfs_fault fault;
  char file[16];
  int error;
  unsigned amount;
  unsigned skip, times;
  uint64_t offset, length;
};

/* Mount one on DIRECTORY; NULL with errno if that cannot be done here.
 * Connections and other descriptors that are open now stay open in it.
 */
struct faultfs *faultfs_mount (const char *directory);

/* What is held fails with EIO, or as the kernel says. */
void faultfs_unmount (struct faultfs *fs);

/* Replace the rule for a call.  What is held stays held. */
void faultfs_set (struct faultfs *fs, enum faultfs_call call,
                  struct faultfs_rule rule);

/* It cannot exchange two files from now on, as many cannot. */
void faultfs_refuse_exchange (struct faultfs *fs);

/* Answer all that is held, as if nothing had been, and hold no more. */
void faultfs_release (struct faultfs *fs);

/* Wait until COUNT calls are held.  False after 20 seconds. */
bool faultfs_await_held (struct faultfs *fs, unsigned count);

/* Calls that came so far. */
unsigned faultfs_seen (struct faultfs *fs, enum faultfs_call call);

/* The child, for SIGSTOP: then calls are not even received. */
pid_t faultfs_pid (const struct faultfs *fs);

#endif
