/* SPDX-License-Identifier: BSD-3-Clause */
/* fssnap mount: the file system of a snapshot, in such a way that nothing is
 * written, a journal that was not empty included.
 */

#include "attachments.h"
#include "figures.h"
#include "kernel-facts.h"
#include "output.h"
#include "run-program.h"
#include "scoped.h"

#include <blkid.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/btrfs.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/ioctl.h>
#include <sys/utsname.h>
#include <unistd.h>

/* Those that are not here are mounted with "ro" alone. */
static const struct {
  const char *type, *options;
} known[] = {
  { "ext3", "ro,noload" },           { "ext4", "ro,noload" },
  { "xfs", "ro,norecovery,nouuid" }, { "f2fs", "ro,norecovery" },
  { "nilfs2", "ro,norecovery" },
};

/* What cannot be mounted, and what to do with it. */
static const struct {
  const char *type, *what, *tool;
} containers[] = {
  { "crypto_LUKS", "an encrypted volume", "cryptsetup open --readonly" },
  { "LVM2_member", "a physical volume of LVM", "vgimportclone" },
  { "linux_raid_member", "a part of a RAID", "mdadm --assemble --readonly" },
  { "swap", "swap space", NULL },
};

/* --- what is on it ----------------------------------------------------------
 */

static void
probe_free (blkid_probe *probe)
{
  blkid_free_probe (*probe);
}

#define SCOPED_PROBE __attribute__ ((cleanup (probe_free))) blkid_probe

/* The type of what fills DEVICE from OFFSET on, SIZE bytes (0: to its end);
 * from malloc; NULL if it is not known.
 */
static char *
type_of (const char *device, int64_t offset, int64_t size)
{
  SCOPED_PROBE probe = blkid_new_probe ();
  const char *type;
  FILE *file = fopen (device, "re");
  char *result = NULL;

  if (probe != NULL && file != NULL
      && blkid_probe_set_device (probe, fileno (file), offset, size) == 0
      && blkid_probe_enable_superblocks (probe, 1) == 0
      && blkid_probe_set_superblocks_flags (probe, BLKID_SUBLKS_TYPE) == 0
      && blkid_do_safeprobe (probe) == 0
      && blkid_probe_lookup_value (probe, "TYPE", &type, NULL) == 0)
    result = text ("%s", type);
  if (file != NULL)
    fclose (file);
  return result;
}

struct part {
  int64_t offset, size; /* bytes */
};

/* Tell of the partitions, or find number WANTED and fill in PART.  The number
 * of them, 0 for none.
 */
static int
partitions (const char *device, int wanted, struct part *part)
{
  SCOPED_PROBE probe = blkid_new_probe_from_filename (device);

  if (probe == NULL || blkid_probe_enable_superblocks (probe, 0) != 0
      || blkid_probe_enable_partitions (probe, 1) != 0)
    return 0;
  blkid_partlist list = blkid_probe_get_partitions (probe);
  const int n = list != NULL ? blkid_partlist_numof_partitions (list) : 0;
  for (int i = 0; i < n; i++) {
    blkid_partition one = blkid_partlist_get_partition (list, i);
    const int number = blkid_partition_get_partno (one);
    const int64_t offset = 512 * blkid_partition_get_start (one);
    const int64_t size = 512 * blkid_partition_get_size (one);

    if (number == wanted)
      *part = (struct part){ offset, size };
    if (wanted == 0) {
      SCOPED_FREE char *type = type_of (device, offset, size);
      SCOPED_FREE char *shown = size_shown (size);
      complain ("  --partition=%d   %s, %s", number, shown,
                type != NULL ? type : "not known");
    }
  }
  return n;
}

/* --- how to mount it --------------------------------------------------------
 */

/* rescue= came with Linux 5.9. */
static const char *
btrfs_options (void)
{
  struct utsname kernel;
  int major = 0, minor = 0;

  if (uname (&kernel) == 0)
    sscanf (kernel.release, "%d.%d", &major, &minor);
  return major > 5 || (major == 5 && minor >= 9) ? "ro,rescue=nologreplay"
                                                 : "ro,nologreplay";
}

/* The kernel keeps in mind which btrfs it saw on which device.  What it saw on
 * this one, before that had its number, is gone.  A btrfs of the same UUID on
 * another device, the origin's, is not ours to forget: before Linux 6.7 it
 * may be in the way.
 */
static void
forget_btrfs (const char *device)
{
  struct btrfs_ioctl_vol_args args = {};
  const int control = open ("/dev/btrfs-control", O_RDWR | O_CLOEXEC);

  if (control == -1)
    return;
  snprintf (args.name, sizeof args.name, "%s", device);
  ioctl (control, BTRFS_IOC_FORGET_DEV, &args); /* or there is nothing */
  close (control);
}

static bool
kernel_has (const char *type)
{
  const char *const modprobe[] = { "modprobe", "-q", type, NULL };
  char line[256];
  bool found = false;

  if (program_exists ("modprobe"))
    program_run (modprobe, NULL);
  FILE *from = fopen ("/proc/filesystems", "re");
  while (from != NULL && fgets (line, sizeof line, from) != NULL) {
    const char *name = strchr (line, '\t');
    found |= name != NULL && strncmp (name + 1, type, strlen (type)) == 0
             && name[1 + strlen (type)] == '\n';
  }
  if (from != NULL)
    fclose (from);
  return found;
}

/* The options for TYPE, which may become another name of it. */
static const char *
options_of (const char **type)
{
  for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
    if (strcmp (known[i].type, *type) == 0)
      return known[i].options;
  if (strcmp (*type, "btrfs") == 0)
    return btrfs_options ();
  if (strcmp (*type, "ntfs") == 0 && kernel_has ("ntfs3"))
    *type = "ntfs3";
  else if (strcmp (*type, "ntfs") == 0) {
    *type = "ntfs-3g";
    return "ro,norecover";
  }
  return "ro";
}

static bool
can_mount (const char *device, const char *type)
{
  if (type == NULL) {
    complain ("%s: there is no file system that is known", device);
    return false;
  }
  for (size_t i = 0; i < sizeof containers / sizeof containers[0]; i++) {
    if (strcmp (containers[i].type, type) != 0)
      continue;
    complain (
        "%s: it holds %s and no file system%s%s", device, containers[i].what,
        containers[i].tool == NULL ? "" : "; 'fssnap attach' it, and see: ",
        containers[i].tool == NULL ? "" : containers[i].tool);
    return false;
  }
  return true;
}

struct place {
  const char *directory, *device;
};

static bool
is_there (void *context, const char *directory, const char *source)
{
  const struct place *place = context;
  return strcmp (directory, place->directory) == 0
         && strcmp (source, place->device) == 0;
}

static int
mount_device (const char *device, const char *directory)
{
  SCOPED_FREE char *found = type_of (device, 0, 0);
  const char *type = found;

  if (!can_mount (device, found))
    return -1;
  const char *options = options_of (&type);
  const char *const argv[]
      = { "mount", "-t", type, "-o", options, device, directory, NULL };
  struct place place = { directory, device };
  if (strcmp (type, "btrfs") == 0)
    forget_btrfs (device);
  if (program_run (argv, NULL) != 0) {
    complain ("%s (%s) is not mounted on %s; the kernel's log may say why "
              "('dmesg'), also if the kernel has no %s",
              device, type, directory, type);
    if (strcmp (type, "btrfs") == 0)
      complain ("if the origin's file system is in its way, which has the same "
                "UUID: unmount that, run 'btrfs device scan --forget', and try "
                "again");
    return -1;
  }
  /* btrfs knows a file system by its UUID, and may take the origin's. */
  if (strcmp (type, "btrfs") != 0 || each_mount (is_there, &place))
    return 0;
  const char *const undo[] = { "umount", directory, NULL };
  program_run (undo, NULL);
  complain ("%s: this kernel has mounted another btrfs with the same UUID in "
            "its place, so it is unmounted again: unmount that one first",
            device);
  return -1;
}

/* A loop device of one partition, from malloc; NULL after a message. */
static char *
partition_device (const struct attachment *attachment, const struct part *part)
{
  const char *nbd = fact (attachment, "nbd");
  SCOPED_FREE char *disk = attachment_disk (attachment);
  SCOPED_FREE char *offset = text ("--offset=%jd", (intmax_t)part->offset);
  SCOPED_FREE char *size = text ("--sizelimit=%jd", (intmax_t)part->size);
  const char *const argv[] = { "losetup",
                               "--find",
                               "--show",
                               offset,
                               size,
                               "--read-only",
                               *nbd != '\0' ? nbd : disk,
                               NULL };
  return program_line (argv);
}

static int
mount_partition (const struct attachment *attachment, int number,
                 const char *directory)
{
  const char *path = fact (attachment, "path");
  struct part part = { 0, 0 };

  const int n = partitions (path, number, &part);
  if (part.size == 0) {
    if (n == 0)
      complain ("%s: it has no partitions: leave --partition=%d out", path,
                number);
    else
      complain ("%s: it has no partition %d; these are there:", path, number);
    partitions (path, 0, &part);
    return -1;
  }
  SCOPED_FREE char *device = partition_device (attachment, &part);
  if (device == NULL)
    return -1;
  if (mount_device (device, directory) == 0 && !interrupted ())
    return 0;
  programs_undo ();
  loop_free (device);
  return -1;
}

static int
mount_it (const struct attachment *attachment, int partition,
          const char *directory)
{
  const char *path = fact (attachment, "path");

  if (partition > 0)
    return mount_partition (attachment, partition, directory);
  SCOPED_FREE char *type = type_of (path, 0, 0);
  struct part part;
  if (type == NULL && partitions (path, -1, &part) > 0) {
    complain ("%s: it has partitions: say which one:", path);
    partitions (path, 0, &part);
    return -1;
  }
  return mount_device (path, directory);
}

/* --- the command ------------------------------------------------------------
 */

static int
partition_argument (const char *argument)
{
  char *end;
  const long number = strtol (argument, &end, 10);

  if (*argument < '0' || *argument > '9' || *end != '\0' || number < 1
      || number > 1024)
    usage_error (&command_mount, "--partition=%s: must be a number from 1 on",
                 argument);
  return (int)number;
}

/* The snapshot, or NULL, and the directory. */
static const char *
operands (struct invocation *invocation, const char **directory)
{
  const int n = invocation->argc - optind;

  if (n < 1 || n > 2)
    usage_error (&command_mount, "%s",
                 n < 1 ? "where? Give a directory"
                       : "give a snapshot and a directory, no more");
  *directory = invocation->argv[invocation->argc - 1];
  if (n == 1)
    return NULL;
  invocation->argc--; /* the rest is as with other commands */
  return snapshot_operand (invocation);
}

static char *
mount_point (const char *directory)
{
  char *real = realpath (directory, NULL);
  struct stat st;

  if (real == NULL || stat (real, &st) == -1) {
    complain ("%s: %s: give a directory that exists", directory,
              strerror (errno));
    free (real);
    return NULL;
  }
  if (S_ISDIR (st.st_mode))
    return real;
  complain ("%s is no directory", directory);
  free (real);
  return NULL;
}

static int
run (struct invocation *invocation)
{
  SCOPED_ATTACHMENTS attachments = ATTACHMENTS_INIT;
  const char *directory;
  int partition = 0;

  while (command_option (invocation) != -1)
    partition = partition_argument (optarg); /* there is but one */
  const char *what = operands (invocation, &directory);
  if (geteuid () != 0) {
    complain ("only root can mount: try sudo; 'fssnap attach' makes a file of "
              "it without root");
    return STATUS_FAILED;
  }
  SCOPED_FREE char *real = mount_point (directory);
  if (real == NULL)
    return STATUS_FAILED;

  programs_begin ();
  if (attachments_open (&attachments) == -1)
    return STATUS_FAILED;
  struct attachment *attachment
      = attach (&attachments, invocation->socket, what, false, true);
  if (attachment == NULL)
    return STATUS_FAILED;
  if (mount_it (attachment, partition, real) == 0)
    return STATUS_DONE;
  programs_undo ();
  SCOPED_FREE char *mounts = attachment_mounts (attachment);
  if (*mounts == '\0'
      && json_is_true (json_object_get (attachment->facts, "for-mount")))
    attachment_remove (attachment);
  return STATUS_FAILED;
}

static const struct option options[] = {
  COMMON_LONG,
  { "partition", required_argument, NULL, 'p' },
  {},
};

const struct command command_mount = {
  .name = "mount",
  .arguments = "[--partition=P] [SNAPSHOT] DIR",
  .summary = "Mount the file system of a snapshot, read-only",
  .help = "      --partition=P   that of partition number P\n",
  .short_options = COMMON_SHORT,
  .long_options = options,
  .run = run,
};
