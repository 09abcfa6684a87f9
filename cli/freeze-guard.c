/* SPDX-License-Identifier: BSD-3-Clause */
/* Writers to a frozen file system sleep, and nothing wakes them but a thaw:
 * no signal does, and the end of who froze it neither.  So it is not the
 * command that freezes, but this process, which has nothing else to do and
 * nothing to wait for but the command's word, its end, and the deadline:
 *
 *   what happens to the command     what the guard does
 *   ------------------------------  -----------------------------------------
 *   it has its snapshot             thaws when told
 *   it ends, by kill -9 too         thaws at once: its connection ends
 *   it is stopped, or waits for a   thaws at the deadline
 *   server that hangs
 *   FIFREEZE takes long             thaws as soon as that returns
 *
 * The one who froze is the one who thaws, so there is no moment at which it is
 * not known whether there is something to thaw.  If the guard itself is killed
 * the command thaws, see freeze.c.
 *
 * Nothing here may need the file system that is frozen.  So no memory is
 * allocated, nothing is printed, all that is in memory is locked there, and
 * no descriptor but those of the mount points and the connection is used.
 */

#include "freeze-guard.h"

#include <errno.h>
#include <linux/fs.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

int64_t
now_ms (void)
{
  struct timespec now;

  clock_gettime (CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void
thaw (struct mount_point *mount_point)
{
  int r;

  do
    r = ioctl (mount_point->fd, FITHAW, 0);
  while (r == -1 && errno == EINTR);
  mount_point->error = r == -1 ? errno : 0;
  mount_point->thawed_at = now_ms ();
  mount_point->state = r == -1 ? NOT_THAWED : THAWED;
}

int
thaw_all (struct mount_points *mount_points)
{
  int error = 0;

  for (size_t i = mount_points->count; i > 0; i--) {
    struct mount_point *mount_point = &mount_points->at[i - 1];

    if (mount_point->state != FROZEN && mount_point->state != FREEZING)
      continue;
    thaw (mount_point);
    if (mount_point->error != 0)
      error = mount_point->error;
  }
  return error;
}

/* What the command says within TIMEOUT milliseconds (-1: however long it
 * takes); 0: it has gone; -1: nothing.
 */
static int
hear (int fd, int timeout)
{
  struct pollfd poll_fd = { .fd = fd, .events = POLLIN };
  char byte = 0;

  if (poll (&poll_fd, 1, timeout) == 0)
    return -1;
  return recv (fd, &byte, 1, 0) == 1 ? byte : 0;
}

static void
say (int fd, int what)
{
  const char byte = (char)what;

  /* There is room for it, or nobody to hear it. */
  send (fd, &byte, 1, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* Milliseconds that may pass yet. */
static int
time_left (const struct mount_points *mount_points, unsigned seconds)
{
  const int64_t left
      = mount_points->at[0].frozen_at + (int64_t)seconds * 1000 - now_ms ();

  return left > 0 ? (int)left : 0;
}

/* Freeze all, or as many as that goes well with. */
static bool
freeze_all (int fd, struct mount_points *mount_points)
{
  for (size_t i = 0; i < mount_points->count; i++) {
    struct mount_point *mount_point = &mount_points->at[i];

    if (hear (fd, 0) != -1) /* it can only have gone */
      return false;
    mount_point->frozen_at = now_ms ();
    mount_point->state = FREEZING;
    if (ioctl (mount_point->fd, FIFREEZE, 0) == -1) {
      mount_point->error = errno;
      mount_point->state = NOT_FROZEN;
      return false;
    }
    mount_point->state = FROZEN;
  }
  return true;
}

void
guard (int fd, struct mount_points *mount_points, unsigned seconds)
{
  sigset_t all;

  /* A terminal's signals are for the command; so is a hang-up. */
  sigfillset (&all);
  sigprocmask (SIG_SETMASK, &all, NULL);
  setsid ();
  for (int i = 0; i <= 2; i++)
    close (i);
  mlockall (MCL_CURRENT | MCL_FUTURE); /* as well as that goes */

  if (hear (fd, -1) != GUARD_FREEZE)
    _exit (0);
  /* What is written now need not be written while writers wait. */
  for (size_t i = 0; i < mount_points->count; i++)
    syncfs (mount_points->at[i].fd);
  const bool frozen = freeze_all (fd, mount_points);
  if (frozen)
    say (fd, GUARD_FROZEN);
  const int heard = frozen ? hear (fd, time_left (mount_points, seconds)) : 0;
  thaw_all (mount_points);
  say (fd, !frozen ? GUARD_FAILED : heard == -1 ? GUARD_LATE : GUARD_THAWED);
  _exit (0);
}
