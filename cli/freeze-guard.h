/* SPDX-License-Identifier: BSD-3-Clause */
/* The process that freezes, and thaws. */

#ifndef FSSNAP_FREEZE_GUARD_H
#define FSSNAP_FREEZE_GUARD_H

#include <stddef.h>
#include <stdint.h>

/* What is known of a mount point.  The guard writes it before it says so, and
 * is the only one to do so while it lives.
 */
struct mount_point {
  int fd; /* set at creation, never changed */
  enum { NOT_FROZEN, FREEZING, FROZEN, THAWED, NOT_THAWED } state;
  int error;                    /* why it is NOT_FROZEN or NOT_THAWED, or 0 */
  int64_t frozen_at, thawed_at; /* milliseconds of CLOCK_MONOTONIC */
};

struct mount_points {
  size_t count;
  struct mount_point at[];
};

/* What is said on the connection to the guard, a packet of one byte each.  Its
 * end says that the other one has gone.
 */
enum {
  GUARD_FREEZE = 'f', /* to it: begin */
  GUARD_FROZEN = 'z', /* from it: all are frozen */
  GUARD_THAW = 't',   /* to it: the snapshot is taken */
  GUARD_THAWED = 'w', /* from it: they are thawed, as asked */
  GUARD_FAILED = 'e', /* from it: one cannot be frozen, so none is */
  GUARD_LATE = 'l',   /* from it: nobody asked in time, they are thawed */
};

/* Be the guard on the connection FD. */
void guard (int fd, struct mount_points *mount_points, unsigned seconds)
    __attribute__ ((noreturn));

/* Thaw all that are frozen, or may be, in reverse.  The first one's error, or
 * 0.
 */
int thaw_all (struct mount_points *mount_points);

/* Milliseconds of CLOCK_MONOTONIC. */
int64_t now_ms (void);

#endif
