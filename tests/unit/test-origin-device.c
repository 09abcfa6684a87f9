/* SPDX-License-Identifier: BSD-3-Clause */
/* The origin as a block device: a loop device, where one can be had. */

#include "cmocka-all.h"
#include "fixture.h"
#include "nbdkit-stub.h"
#include "origin.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define SIZE (1 << 20)

static struct {
  int file; /* behind the device */
  int loop;
  char device[32];
} here;

/* Attach the file to a free loop device that lets go of it when nobody has
 * it open any more, however this program ends.  False if that cannot be.
 */
static bool
attach (void)
{
  struct loop_config config
      = { .fd = (uint32_t)here.file, .info.lo_flags = LO_FLAGS_AUTOCLEAR };
  const int control = open ("/dev/loop-control", O_RDWR | O_CLOEXEC);

  for (unsigned attempt = 0; control != -1 && attempt < 16; attempt++) {
    const int number = ioctl (control, LOOP_CTL_GET_FREE);
    if (number == -1)
      break;
    snprintf (here.device, sizeof here.device, "/dev/loop%d", number);
    here.loop = open (here.device, O_RDWR | O_CLOEXEC);
    if (here.loop != -1 && ioctl (here.loop, LOOP_CONFIGURE, &config) == 0) {
      close (control);
      return true;
    }
    /* Someone else was faster, or it cannot be had at all. */
    if (here.loop != -1)
      close (here.loop);
  }
  if (control != -1)
    close (control);
  return false;
}

static void
device_is_read_and_written (void **state)
{
  struct origin *origin = origin_open (here.device);
  char buf[5];

  (void)state;
  assert_non_null (origin);
  assert_int_equal (origin_size (origin), SIZE);
  assert_false (origin_can_extents (origin));
  assert_int_equal (origin_write (origin, "hello", 5, SIZE - 5, true), 0);
  assert_int_equal (origin_read (origin, buf, 5, SIZE - 5), 0);
  assert_memory_equal (buf, "hello", 5);
  assert_int_equal (origin_flush (origin), 0);
  assert_int_equal (pread (here.file, buf, 5, SIZE - 5), 5);
  assert_memory_equal (buf, "hello", 5);
  origin_close (origin);
}

static void
device_is_data (void **state)
{
  struct origin *origin = origin_open (here.device);
  uint64_t length;
  bool hole;

  (void)state;
  assert_int_equal (origin_extent (origin, SIZE, 0, &length, &hole), 0);
  assert_false (hole);
  assert_int_equal (length, SIZE);
  origin_close (origin);
}

static void
zero_of_part_of_a_sector_is_left_to_the_caller (void **state)
{
  struct origin *origin = origin_open (here.device);

  (void)state;
  assert_int_equal (origin_zero (origin, 100, 0, true, false), -1);
  assert_int_equal (errno, EOPNOTSUPP);
  assert_int_equal (origin_zero (origin, 512, 100, true, false), -1);
  assert_int_equal (errno, EOPNOTSUPP);
  assert_true (origin_can_fast_zero (origin));
  assert_no_message ();
  origin_close (origin);
}

static void
zero_of_sectors (void **state)
{
  struct origin *origin = origin_open (here.device);
  uint8_t buf[4096];

  (void)state;
  memset (buf, 7, sizeof buf);
  assert_int_equal (origin_write (origin, buf, sizeof buf, 0, false), 0);
  if (origin_zero (origin, 1024, 512, true, false) == -1) {
    assert_int_equal (errno, EOPNOTSUPP);
    origin_close (origin);
    skip ();
  }
  assert_int_equal (origin_read (origin, buf, sizeof buf, 0), 0);
  for (unsigned i = 0; i < sizeof buf; i++)
    assert_int_equal (buf[i], i >= 512 && i < 1536 ? 0 : 7);
  origin_close (origin);
}

static void
trim_leaves_what_is_not_a_whole_sector (void **state)
{
  struct origin *origin = origin_open (here.device);
  uint8_t buf[4096];

  (void)state;
  memset (buf, 7, sizeof buf);
  assert_int_equal (origin_write (origin, buf, sizeof buf, 0, false), 0);
  assert_int_equal (origin_trim (origin, 3000, 100, false), 0);
  assert_int_equal (origin_trim (origin, 10, 4000, false), 0);
  assert_int_equal (origin_read (origin, buf, sizeof buf, 0), 0);
  for (unsigned i = 0; i < 512; i++)
    assert_int_equal (buf[i], 7);
  for (unsigned i = 3072; i < sizeof buf; i++)
    assert_int_equal (buf[i], 7);
  assert_no_message ();
  origin_close (origin);
}

static void
device_that_is_claimed_is_refused (void **state)
{
  const int claim = open (here.device, O_RDONLY | O_EXCL | O_CLOEXEC);

  (void)state;
  assert_int_not_equal (claim, -1);
  assert_null (origin_open (here.device));
  assert_one_message ("origin=", here.device, "in use");
  close (claim);
}

static void
device_is_claimed_while_it_is_open (void **state)
{
  struct origin *origin = origin_open (here.device);

  (void)state;
  assert_non_null (origin);
  assert_null (origin_open (here.device));
  assert_one_message ("origin=", here.device, "in use");
  origin_close (origin);
  origin = origin_open (here.device);
  assert_non_null (origin);
  origin_close (origin);
}

static int
setup (void **state)
{
  (void)state;
  messages_clear ();
  return 0;
}

#define TEST(name) cmocka_unit_test_setup (name, setup)

int
main (void)
{
  const struct CMUnitTest tests[] = {
    TEST (device_is_read_and_written),
    TEST (device_is_data),
    TEST (zero_of_part_of_a_sector_is_left_to_the_caller),
    TEST (zero_of_sectors),
    TEST (trim_leaves_what_is_not_a_whole_sector),
    TEST (device_that_is_claimed_is_refused),
    TEST (device_is_claimed_while_it_is_open),
  };
  char path[32];

  here.file = unnamed_file (SIZE, path);
  if (!attach ()) {
    fprintf (stderr, "no loop device can be had here: %s\n", strerror (errno));
    return 77;
  }
  const int failed = cmocka_run_group_tests (tests, NULL, NULL);
  close (here.loop);
  return failed;
}
