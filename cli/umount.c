/* SPDX-License-Identifier: BSD-3-Clause */
/* fssnap umount */

#include "attachments.h"
#include "kernel-facts.h"
#include "output.h"
#include "run-program.h"
#include "scoped.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The path as the mount table has it. */
static char *
absolute (const char *directory)
{
  char *real = realpath (directory, NULL);
  SCOPED_FREE char *here = getcwd (NULL, 0);

  if (real != NULL)
    return real;
  /* The file system in it may not answer any more. */
  return *directory == '/' || here == NULL ? text ("%s", directory)
                                           : text ("%s/%s", here, directory);
}

struct source {
  const char *directory;
  char *device;
};

static bool
take_source (void *context, const char *directory, const char *source)
{
  struct source *wanted = context;

  if (strcmp (directory, wanted->directory) != 0)
    return false;
  wanted->device = text ("%s", source);
  return true;
}

/* Unmount, and free the loop device if it was made for the partition. */
static int
unmount (const struct attachment *attachment, const char *directory)
{
  const char *const argv[] = { "umount", directory, NULL };
  struct source source = { directory, NULL };

  each_mount (take_source, &source);
  SCOPED_FREE char *device = source.device;
  if (program_run (argv, NULL) != 0) {
    SCOPED_FREE char *hint
        = text ("'fuser -vm %s' says who uses it", directory);
    complain ("%s is not unmounted; %s", directory, hint);
    return -1;
  }
  SCOPED_FREE char *left = attachment_mounts (attachment);
  if (device == NULL || strcmp (device, fact (attachment, "path")) == 0
      || !attachment_has_device (attachment, device)
      || strstr (left, directory) != NULL)
    return 0;
  return loop_free (device);
}

static int
unmount_all (const struct attachment *attachment)
{
  SCOPED_FREE char *mounts = attachment_mounts (attachment);
  char *state = NULL;

  if (*mounts == '\0') {
    SCOPED_FREE char *title = attachment_title (attachment);
    complain ("%s is attached, but not mounted; 'fssnap detach' undoes that",
              title);
    return -1;
  }
  for (const char *directory = strtok_r (mounts, "\n", &state);
       directory != NULL; directory = strtok_r (NULL, "\n", &state))
    if (unmount (attachment, directory) == -1)
      return -1;
  return 0;
}

static int
detach_if_ours (struct attachment *attachment)
{
  SCOPED_FREE char *left = attachment_mounts (attachment);

  if (*left != '\0'
      || !json_is_true (json_object_get (attachment->facts, "for-mount")))
    return STATUS_DONE;
  return attachment_remove (attachment) == 0 ? STATUS_DONE : STATUS_FAILED;
}

static int
run (struct invocation *invocation)
{
  SCOPED_ATTACHMENTS attachments = ATTACHMENTS_INIT;
  bool several;

  while (command_option (invocation) != -1)
    ;
  const char *what = snapshot_operand (invocation);
  if (what == NULL)
    usage_error (&command_umount,
                 "what? Give the directory, or a snapshot's number or name");
  const char *socket = invocation->socket != NULL ? invocation->socket
                                                  : getenv ("FSSNAP_SOCKET");

  programs_begin ();
  if (attachments_open (&attachments) == -1)
    return STATUS_FAILED;
  struct attachment *attachment = attachments_find (
      &attachments, what, socket != NULL && *socket != '\0' ? socket : NULL,
      &several);
  if (several)
    return STATUS_FAILED;
  if (attachment != NULL)
    return unmount_all (attachment) == 0 ? detach_if_ours (attachment)
                                         : STATUS_FAILED;
  SCOPED_FREE char *directory = absolute (what);
  attachment = attachments_mounted (&attachments, directory);
  if (attachment == NULL) {
    complain ("%s is neither a snapshot that is attached nor a directory with "
              "one; 'fssnap attach --list' says what there is",
              what);
    return STATUS_FAILED;
  }
  return unmount (attachment, directory) == 0 ? detach_if_ours (attachment)
                                              : STATUS_FAILED;
}

static const struct option options[] = {
  COMMON_LONG,
  {},
};

const struct command command_umount = {
  .name = "umount",
  .arguments = "SNAPSHOT | DIR",
  .summary = "Unmount a snapshot and detach it again",
  .help = "",
  .short_options = COMMON_SHORT,
  .long_options = options,
  .run = run,
};
