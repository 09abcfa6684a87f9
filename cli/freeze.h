/* SPDX-License-Identifier: BSD-3-Clause */
/* Freeze mounted file systems while a snapshot of their disk is taken, and
 * thaw them whatever happens to the command.
 */

#ifndef FSSNAP_FREEZE_H
#define FSSNAP_FREEZE_H

#include "client.h"

#include <stddef.h>
#include <sys/types.h>

#define FREEZE_SECONDS 10
#define FREEZE_SECONDS_MAX 3600

struct mount_points; /* shared with the guard; see freeze-guard.h */

struct freeze {
  const char **paths; /* as given; the array is from malloc */
  size_t count;
  unsigned seconds; /* until the guard thaws by itself */
  struct mount_points *shared;
  pid_t guard;
  int fd; /* to the guard, -1 if there is none */
};

#define FREEZE_INIT                                                            \
  {                                                                            \
    .seconds = FREEZE_SECONDS, .fd = -1                                        \
  }
#define SCOPED_FREEZE __attribute__ ((cleanup (freeze_close))) struct freeze

/* One more file system: the one mounted on PATH, which must stay. */
void freeze_add (struct freeze *freeze, const char *path);

/* Open the mount points and start the guard.  Before there is a client: the
 * guard must not hold its connection.  0, or -1 after a message.
 */
int freeze_prepare (struct freeze *freeze);

/* Ask CLIENT's server whether it could go on while these are frozen; WRITES is
 * what it is going to write to beside what it says, or NULL.  0, or -1 after
 * a message: it could not.
 */
int freeze_look (const struct freeze *freeze, struct client *client,
                 const char *writes);

/* Freeze them, in order.  0, or -1 after a message: none is frozen.  From here
 * on until freeze_end messages are held back.  freeze->fd becomes readable
 * if they do not stay frozen.
 */
int freeze_start (struct freeze *freeze);

/* Thaw them, in reverse, and say how long each was frozen.  0, or -1 after a
 * message if one was not frozen all the time since freeze_start.
 */
int freeze_end (struct freeze *freeze);

/* Nothing is frozen after this. */
void freeze_close (struct freeze *freeze);

#endif
