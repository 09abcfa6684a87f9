/* SPDX-License-Identifier: BSD-3-Clause */
/* An origin that is a block device: a loop device, where one can be had.  It
 * is known by the file behind it, whatever its number.
 */

#include "store.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* A device that lets go of its file when nobody has it open any more, however
 * this program ends.
 */
struct device {
  int fd;
  char path[32];
};

/* Attach a file to a free device.  False if that cannot be had here. */
static bool
attach (struct device *device, const char *file)
{
  const int fd = open (file, O_RDWR | O_CLOEXEC);
  struct loop_config config
      = { .fd = (uint32_t)fd, .info.lo_flags = LO_FLAGS_AUTOCLEAR };
  const int control = open ("/dev/loop-control", O_RDWR | O_CLOEXEC);

  assert_int_not_equal (fd, -1);
  /* What sysfs says is behind it. */
  snprintf ((char *)config.info.lo_file_name, LO_NAME_SIZE, "%s", file);
  device->fd = -1;
  for (unsigned i = 0; control != -1 && device->fd == -1 && i < 16; i++) {
    const int number = ioctl (control, LOOP_CTL_GET_FREE);
    if (number == -1)
      break;
    snprintf (device->path, sizeof device->path, "/dev/loop%d", number);
    device->fd = open (device->path, O_RDWR | O_CLOEXEC);
    /* Someone else may be faster. */
    if (device->fd != -1 && ioctl (device->fd, LOOP_CONFIGURE, &config) == -1) {
      close (device->fd);
      device->fd = -1;
    }
  }
  if (control != -1)
    close (control);
  close (fd);
  return device->fd != -1;
}

static void
detach (struct device *device)
{
  close (device->fd);
  device->fd = -1;
}

static void
release_device (void *what)
{
  struct device *device = what;

  if (device->fd != -1)
    detach (device);
  free (device);
}

/* A device on a new image, at FILE, is the origin. */
static struct world
device_world (struct fixture *f, struct device **device, const char **file)
{
  struct world w = new_world (f);

  *file = text (f, "%s", f->image);
  *device = calloc (1, sizeof **device);
  assert_non_null (*device);
  (*device)->fd = -1;
  keep (f, *device, release_device);
  if (!attach (*device, *file)) {
    print_message ("there is no loop device to be had\n");
    skip ();
  }
  snprintf (f->image, sizeof f->image, "%s", (*device)->path);
  return w;
}

/* Have the file behind another device, which is the origin from then on. */
static void
attach_again (struct world *w, struct device *device, const char *file)
{
  detach (device);
  assert_true (attach (device, file));
  snprintf (w->f->image, sizeof w->f->image, "%s", device->path);
}

static void
write_at (int fd, const void *bytes, size_t count, uint64_t offset)
{
  assert_int_equal (pwrite (fd, bytes, count, (off_t)offset), count);
  assert_int_equal (fsync (fd), 0);
}

/* By the kernel's count, since the device's number was used first. */
static unsigned long long
sectors_written (struct fixture *f, const struct device *device)
{
  FILE *file
      = fopen (text (f, "/sys/block/%s/stat", name_in (device->path)), "re");
  unsigned long long count;

  assert_non_null (file);
  assert_int_equal (fscanf (file, "%*u %*u %*u %*u %*u %*u %llu", &count), 1);
  fclose (file);
  return count;
}

static void
its_snapshots_come_back (void **state)
{
  struct device *device;
  const char *file;
  struct world w = device_world (*state, &device, &file);
  const uint8_t *then = remember (&w);

  open_store (&w);
  create (w.c);
  for (enum ending ending = 0; ending < ENDINGS; ending++) {
    overwrite_anywhere (&w);
    restart (&w, ending);
    snapshot_is (&w, 1, then);
    overwrite_anywhere (&w);
    snapshot_is (&w, 1, then);
    origin_is_live (&w);
  }
}

/* Loop devices are numbered as they come; each counts what was ever written
 * to it, to whatever file.
 */
static void
another_number_is_no_change (void **state)
{
  struct device *device, first;
  const char *file;
  struct world w = device_world (*state, &device, &file);
  const uint8_t *then = remember (&w);
  const char *other = text (w.f, "%s/other", w.f->server.dir);

  copy_file (file, other);
  open_store (&w);
  create (w.c);
  overwrite_anywhere (&w);
  end (&w, STOPPED);
  detach (device);
  /* It takes the number; where ours goes then, more has been written. */
  assert_true (attach (&first, other));
  assert_true (attach (device, other));
  while (sectors_written (w.f, device) <= sectors_written (w.f, &first))
    write_at (device->fd, then, SIZE, 0);
  attach_again (&w, device, file);
  detach (&first);
  open_store (&w);
  snapshot_is (&w, 1, then);
  origin_is_live (&w);
}

static void
another_file_behind_it_is_refused (void **state)
{
  struct device *device;
  const char *file;
  struct world w = device_world (*state, &device, &file);
  struct fixture *f = w.f;
  const uint8_t *then = remember (&w);
  const char *other = text (f, "%s/other", f->server.dir);

  for (enum ending ending = STOPPED; ending <= KILLED; ending++) {
    if (ending == STOPPED) {
      open_store (&w);
      create (w.c);
    }
    overwrite_anywhere (&w);
    end (&w, ending);
    put_back (file, other);
    attach_again (&w, device, other);
    const struct inventory *before = inventory (f, store_directory (f));
    open_store (&w);
    snapshot_is_broken (&w, 1, "origin", "not the one", file, other);
    call_fails (w.c, FAILED, "snapshot.create", NULL);
    end (&w, STOPPED);
    unchanged (before, true);
    attach_again (&w, device, file);
    open_store (&w);
    snapshot_is (&w, 1, then);
  }
}

/* Anywhere: neither is there a time of change, nor is it near the ends. */
static void
one_that_was_written_is_refused (void **state)
{
  struct device *device;
  struct fixture *f = *state;
  const char *file = f->image;
  const uint8_t *then;
  struct world w;

  w = device_world (f, &device, &file);
  then = remember (&w);
  assert_int_equal (truncate (file, 8 << 20), 0);
  attach_again (&w, device, file);
  open_store (&w);
  create (w.c);
  overwrite_anywhere (&w);
  end (&w, STOPPED);
  /* reading it is no change */
  open_store (&w);
  snapshot_is (&w, 1, then);
  end (&w, STOPPED);
  write_at (device->fd, "new", 3, 4 << 20);
  const struct inventory *before = inventory (f, store_directory (f));
  open_store (&w);
  snapshot_is_broken (&w, 1, "origin", "written");
  end (&w, STOPPED);
  unchanged (before, true);
}

static void
one_that_was_resized_is_refused (void **state)
{
  struct device *device;
  const char *file;
  struct world w = device_world (*state, &device, &file);

  open_store (&w);
  create (w.c);
  end (&w, STOPPED);
  assert_int_equal (truncate (file, 2 * SIZE), 0);
  assert_int_equal (ioctl (device->fd, LOOP_SET_CAPACITY, 0), 0);
  open_store (&w);
  snapshot_is_broken (&w, 1, "origin", "resized");
}

/* The file that was served goes behind a device: it is another origin now. */
static void
the_file_and_its_device_are_two (void **state)
{
  struct device *device;
  const char *file;
  struct world w = device_world (*state, &device, &file);
  const uint8_t *then = remember (&w);

  open_store (&w);
  create (w.c);
  overwrite_anywhere (&w);
  end (&w, STOPPED);
  const struct timespec mtime = file_time (file);
  snprintf (w.f->image, sizeof w.f->image, "%s", file);
  open_store (&w);
  snapshot_is_broken (&w, 1, "origin", "not the one");
  end (&w, STOPPED);
  set_file_time (file, mtime);
  snprintf (w.f->image, sizeof w.f->image, "%s", device->path);
  open_store (&w);
  snapshot_is (&w, 1, then);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    fixture_test (its_snapshots_come_back),
    fixture_test (another_number_is_no_change),
    fixture_test (another_file_behind_it_is_refused),
    fixture_test (one_that_was_written_is_refused),
    fixture_test (one_that_was_resized_is_refused),
    fixture_test (the_file_and_its_device_are_two),
  };

  return cmocka_run_group_tests_name ("store-device", tests, NULL, NULL);
}
