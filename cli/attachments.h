/* SPDX-License-Identifier: BSD-3-Clause */
/* What is attached: views of servers as local files and block devices.
 *
 * Each has a record, attached-ID.json in the runtime directory, which says what
 * was made: it is written before each step.  Whether that still is so is asked
 * of the kernel each time: a record is a place to look at, no more.
 *
 *   /run/fssnap/attached-ID.json   the record
 *   /run/fssnap/attached-ID.log    what nbdfuse or nbd-client had to say
 *   /run/fssnap/attached-ID/disk   the view as nbdfuse's file
 */

#ifndef FSSNAP_ATTACHMENTS_H
#define FSSNAP_ATTACHMENTS_H

#include "client.h"
#include "command.h"

#include <stdbool.h>
#include <stddef.h>

struct attachment {
  char *base;    /* path of the record, without .json */
  json_t *facts; /* the record */
};

struct attachments {
  char *directory;
  int lock; /* held as long as this is open */
  size_t n;
  struct attachment *all;
};

#define ATTACHMENTS_INIT                                                       \
  {                                                                            \
    .lock = -1                                                                 \
  }
#define SCOPED_ATTACHMENTS                                                     \
  __attribute__ ((cleanup (attachments_close))) struct attachments

/* Lock the runtime directory, which is made if need be, and read the records.
 * Those of which nothing is left are removed.  0, or -1 after a message.
 */
int attachments_open (struct attachments *attachments);
void attachments_close (struct attachments *attachments);

/* The one that WHAT means, a snapshot's number or name, a path, or NULL for the
 * origin; of the server with the control socket SOCKET if that is not NULL.
 * NULL if there is none, or after a message if there are several.
 */
struct attachment *attachments_find (struct attachments *attachments,
                                     const char *what, const char *socket,
                                     bool *several);

/* The one on whose device the file system in DIRECTORY is. */
struct attachment *attachments_mounted (struct attachments *attachments,
                                        const char *directory);

/* Facts: "" or 0 if there is none. */
const char *fact (const struct attachment *attachment, const char *key);
json_int_t fact_number (const struct attachment *attachment, const char *key);
void set_fact (struct attachment *attachment, const char *key, json_t *value);

/* Write the record: 0, or -1 after a message. */
int attachment_save (const struct attachment *attachment);

/* Paths; from malloc. */
char *attachment_log (const struct attachment *attachment);
char *attachment_disk (const struct attachment *attachment);

/* "snapshot 3" or "the origin"; from malloc. */
char *attachment_title (const struct attachment *attachment);

/* Does the server run that it was made from? */
bool attachment_has_server (const struct attachment *attachment);

/* Is all there that was made? */
bool attachment_is_whole (const struct attachment *attachment);

/* What of it is mounted: directories, the last one first, with a newline after
 * each; from malloc.
 */
char *attachment_mounts (const struct attachment *attachment);

/* Is DEVICE the attachment's, or a loop device on it? */
bool attachment_has_device (const struct attachment *attachment,
                            const char *device);

/* Undo it all, in the reverse order, and wait until it is gone, for the server
 * too.  What is in use is left alone.  0, or -1 after a message.
 */
int attachment_remove (struct attachment *attachment);

/* Make one of the snapshot WHAT (NULL: the only one) or of the origin, or find
 * the one there is.  NULL after a message, and nothing is left.
 */
struct attachment *attach (struct attachments *attachments, const char *socket,
                           const char *what, bool origin, bool for_mount);

/* Free the loop device on the attachment's, and wait for it. */
int loop_free (const char *device);

#endif
