/* SPDX-License-Identifier: BSD-3-Clause */
/* The command's side of freezing: see freeze-guard.c for the other one.
 *
 *   fault                            what is said           the snapshot
 *   -------------------------------  ---------------------  ----------------
 *   cannot be frozen, is already     why                    is not taken
 *   the server's files are on it     which                  is not taken
 *   the deadline passes              how to find out why    is not kept
 *   somebody else thaws it           that                   is not kept
 *   the guard is killed              that; the command      is not kept
 *                                    thaws
 *   the command is killed            nothing; the guard     is deleted by the
 *                                    thaws                  server
 *
 * A snapshot is not kept by hanging up before snapshot.create_done: so it is
 * the server who deletes it, even if it hangs now.
 */

#include "freeze.h"
#include "freeze-guard.h"
#include "output.h"
#include "scoped.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

void
freeze_add (struct freeze *freeze, const char *path)
{
  const char **grown
      = realloc (freeze->paths, (freeze->count + 1) * sizeof freeze->paths[0]);

  if (grown == NULL)
    no_memory ();
  freeze->paths = grown;
  freeze->paths[freeze->count++] = path;
}

static size_t
shared_size (size_t count)
{
  return sizeof (struct mount_points) + count * sizeof (struct mount_point);
}

/* --- before -----------------------------------------------------------------
 */

/* Freezing a directory freezes the file system that it is on: where the disk
 * is not mounted that would be another one.
 */
static bool
is_mount_point (int fd)
{
  struct statx status;

  if (statx (fd, "", AT_EMPTY_PATH, 0, &status) == -1)
    return false;
  return (status.stx_attributes_mask & STATX_ATTR_MOUNT_ROOT) == 0
         || (status.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0;
}

static dev_t
device_of (int fd)
{
  struct stat status;

  return fstat (fd, &status) == 0 ? status.st_dev : 0;
}

/* The one with index I.  0, or -1 after a message. */
static int
open_mount_point (struct freeze *freeze, size_t i)
{
  const char *path = freeze->paths[i];
  const int fd = open (path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

  if (fd == -1) {
    complain ("--freeze=%s: %s", path, strerror (errno));
    return -1;
  }
  freeze->shared->at[freeze->shared->count++].fd = fd;
  if (!is_mount_point (fd)) {
    complain ("--freeze=%s: is no mount point: the file system that it lies "
              "on may be another one than is meant",
              path);
    return -1;
  }
  for (size_t j = 0; j < i; j++)
    if (device_of (freeze->shared->at[j].fd) == device_of (fd)) {
      complain ("--freeze=%s: is the same file system as %s", path,
                freeze->paths[j]);
      return -1;
    }
  return 0;
}

static int
start_guard (struct freeze *freeze)
{
  int ends[2];

  if (socketpair (AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == -1) {
    complain ("cannot make a socket: %s", strerror (errno));
    return -1;
  }
  freeze->guard = fork ();
  if (freeze->guard == 0) {
    close (ends[0]);
    guard (ends[1], freeze->shared, freeze->seconds);
  }
  close (ends[1]);
  freeze->fd = ends[0];
  if (freeze->guard != -1)
    return 0;
  complain ("cannot start a process: %s", strerror (errno));
  return -1;
}

int
freeze_prepare (struct freeze *freeze)
{
  void *shared
      = mmap (NULL, shared_size (freeze->count), PROT_READ | PROT_WRITE,
              MAP_SHARED | MAP_ANONYMOUS, -1, 0);

  if (shared == MAP_FAILED)
    no_memory ();
  freeze->shared = shared;
  for (size_t i = 0; i < freeze->count; i++)
    if (open_mount_point (freeze, i) == -1)
      return -1;
  return start_guard (freeze);
}

/* --- would the server be frozen, too? ---------------------------------------
 */

/* The device of the file system that PATH is on, or will be; 0 if that is not
 * known: the server's paths need not mean the same here.
 */
static dev_t
file_system_of (const char *path)
{
  SCOPED_FREE char *copy = text ("%s", path);
  struct stat status;

  if (stat (path, &status) == 0 || stat (dirname (copy), &status) == 0)
    return status.st_dev;
  return 0;
}

/* WHAT the server has at PATH (or NULL) must not be on what will be frozen.
 * 0, or -1 after a message.
 */
static int
must_be_elsewhere (const struct freeze *freeze, const char *what,
                   const char *path)
{
  if (path == NULL || *path != '/')
    return 0;
  const dev_t there = file_system_of (path);
  for (size_t i = 0; i < freeze->count; i++)
    if (there != 0 && there == device_of (freeze->shared->at[i].fd)) {
      complain ("--freeze=%s: the server's %s, %s, is on that file system: the "
                "server could not go on while it is frozen",
                freeze->paths[i], what, path);
      return -1;
    }
  return 0;
}

/* What is mounted should be what the server serves.  Through NBD, loop devices
 * and what is stacked on them that cannot be known; a disk of this machine it
 * is certainly not.
 */
static void
warn_of_device (const char *path, dev_t mounted, dev_t origin)
{
  SCOPED_FREE char *link
      = text ("/sys/dev/block/%u:%u", major (mounted), minor (mounted));
  SCOPED_FREE char *device = realpath (link, NULL);

  if (mounted == origin)
    complain ("warning: %s is mounted from the origin itself: the server does "
              "not see what is written there, and snapshots do not keep what "
              "is overwritten: mount what the server serves",
              path);
  else if (device != NULL && strstr (device, "/virtual/") == NULL)
    complain ("warning: %s is on %s, which is neither the server's origin nor "
              "served by it: is another file system meant?",
              path, strrchr (device, '/') + 1);
}

static void
look_at_devices (const struct freeze *freeze, const char *origin)
{
  struct stat status;

  if (origin == NULL || stat (origin, &status) == -1
      || !S_ISBLK (status.st_mode))
    return;
  for (size_t i = 0; i < freeze->count; i++) {
    const dev_t mounted = device_of (freeze->shared->at[i].fd);

    if (major (mounted) != 0) /* what btrfs says is no device */
      warn_of_device (freeze->paths[i], mounted, status.st_rdev);
  }
}

int
freeze_look (const struct freeze *freeze, struct client *client,
             const char *writes)
{
  json_auto_t *info = client_request (client, "server.info", json_object ());

  if (info == NULL)
    return -1;
  const char *origin = json_string_value (json_object_get (info, "origin"));
  struct stat status;
  /* A device's node is in /dev; the device is looked at below. */
  const bool is_file = origin != NULL && stat (origin, &status) == 0
                       && S_ISREG (status.st_mode);

  if (must_be_elsewhere (freeze, "origin", is_file ? origin : NULL) == -1
      || must_be_elsewhere (freeze, "store",
                            json_string_value (json_object_get (info, "store")))
             == -1
      || must_be_elsewhere (freeze, "backing store", writes) == -1)
    return -1;
  look_at_devices (freeze, origin);
  return 0;
}

/* --- the freezing -----------------------------------------------------------
 */

/* Standard error may be a file on what is frozen. */
static void
hold_messages (void)
{
  static char held[1 << 16];

  fflush (stderr);
  setvbuf (stderr, held, _IOFBF, sizeof held);
}

static void
release_messages (void)
{
  fflush (stderr);
  setvbuf (stderr, NULL, _IONBF, 0);
}

/* What the guard says; 0: it has gone. */
static int
hear_guard (const struct freeze *freeze)
{
  char byte;
  ssize_t r;

  do
    r = recv (freeze->fd, &byte, 1, 0);
  while (r == -1 && errno == EINTR);
  return r == 1 ? byte : 0;
}

static void
tell_guard (const struct freeze *freeze, char byte)
{
  /* It gets it, or has gone, and that will be heard. */
  send (freeze->fd, &byte, 1, MSG_NOSIGNAL);
}

static void
cannot_freeze (const char *path, int error)
{
  if (error == EBUSY)
    complain ("%s is frozen already, by somebody else, who has to thaw it",
              path);
  else if (error == EPERM)
    complain ("%s cannot be frozen: %s: only root may (CAP_SYS_ADMIN)", path,
              strerror (error));
  else if (error == EOPNOTSUPP || error == ENOTTY)
    complain ("%s cannot be frozen: its kind of file system does not have "
              "that",
              path);
  else
    complain ("%s cannot be frozen: %s", path, strerror (error));
}

static void
not_thawed (const char *path, int error)
{
  if (error == EINVAL)
    complain ("%s was thawed by somebody else before the snapshot was taken: "
              "it may not be consistent",
              path);
  else
    complain ("%s cannot be thawed: %s: try 'fsfreeze -u %s'", path,
              strerror (error), path);
}

/* What became of each.  -1 if one was not thawed as it should be. */
static int
report (const struct freeze *freeze)
{
  int r = 0;

  for (size_t i = 0; i < freeze->count; i++) {
    const struct mount_point *mount_point = &freeze->shared->at[i];

    if (mount_point->state == THAWED)
      complain ("%s was frozen for %jd ms", freeze->paths[i],
                (intmax_t)(mount_point->thawed_at - mount_point->frozen_at));
    else if (mount_point->state == NOT_FROZEN && mount_point->error != 0)
      cannot_freeze (freeze->paths[i], mount_point->error);
    else if (mount_point->state == NOT_THAWED)
      not_thawed (freeze->paths[i], mount_point->error);
    if (mount_point->state == NOT_THAWED)
      r = -1;
  }
  return r;
}

/* Only a kill -9 does that to the guard. */
static void
guard_has_gone (const struct freeze *freeze)
{
  thaw_all (freeze->shared);
  release_messages ();
  report (freeze);
  complain ("the process that guards what is frozen was killed: no snapshot is "
            "kept");
}

int
freeze_start (struct freeze *freeze)
{
  mlockall (MCL_CURRENT | MCL_FUTURE); /* as well as that goes */
  hold_messages ();
  tell_guard (freeze, GUARD_FREEZE);
  const int heard = hear_guard (freeze);
  if (heard == GUARD_FROZEN)
    return 0;
  munlockall ();
  if (heard == 0)
    guard_has_gone (freeze);
  else {
    release_messages ();
    report (freeze);
  }
  return -1;
}

int
freeze_end (struct freeze *freeze)
{
  tell_guard (freeze, GUARD_THAW);
  const int heard = hear_guard (freeze);
  munlockall ();
  if (heard == 0) {
    guard_has_gone (freeze);
    return -1;
  }
  release_messages ();
  const int r = report (freeze);
  if (heard == GUARD_LATE) {
    complain ("the snapshot was not there after %u s (--freeze-timeout), so "
              "what was frozen has been thawed, and no snapshot is kept: does "
              "the server hang, or have its backing store or its log there?",
              freeze->seconds);
    return -1;
  }
  if (r == -1)
    complain ("no snapshot is kept");
  return r;
}

void
freeze_close (struct freeze *freeze)
{
  if (freeze->fd != -1) {
    close (freeze->fd);
    while (freeze->guard > 0 && waitpid (freeze->guard, NULL, 0) == -1
           && errno == EINTR)
      ;
  }
  for (size_t i = 0; freeze->shared != NULL && i < freeze->shared->count; i++)
    close (freeze->shared->at[i].fd);
  if (freeze->shared != NULL)
    munmap (freeze->shared, shared_size (freeze->count));
  free (freeze->paths);
  *freeze = (struct freeze)FREEZE_INIT;
}
