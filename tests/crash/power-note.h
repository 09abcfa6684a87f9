/* SPDX-License-Identifier: BSD-3-Clause */
/* What the test itself writes into the log.  Any thread. */

#ifndef FSSNAP_TEST_POWER_NOTE_H
#define FSSNAP_TEST_POWER_NOTE_H

#include "power-disk.h"

/* Make a new log, or go on with the one there is. */
void note_begin_log (const char *path);
void note_go_on (const char *path);

/* That something has happened. */
void note_mark (uint64_t what, uint64_t which);

/* As if a server had begun, or ended, a call for a file.  DATA only of
 * POWER_WRITE.  DSYNC: it will be durable when it has ended.
 */
uint64_t note_begin (enum power_op op, bool dsync, uint64_t ino,
                     uint64_t offset, uint64_t length, const void *data);
void note_end (uint64_t serial, int64_t result, int64_t mtime);

/* The server has been killed: say what became of the calls that were under
 * way, by what is now below ROOT.  DISK has read the whole log, and reads on
 * after this.
 */
void note_killed (struct disk *disk, const char *root);

#endif
