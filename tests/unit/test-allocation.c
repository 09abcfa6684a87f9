/* SPDX-License-Identifier: BSD-3-Clause */
/* What a command says of free space, however it behaves.  The command is a
 * script: its text is what each test gives.
 */

#include "allocation.h"
#include "cmocka-all.h"
#include "fixture.h"
#include "nbdkit-stub.h"
#include "scratch.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>

#define FREE "echo '{\"free\":[[4096,8192]]}'\n"
#define DONE "echo '{\"done\":true}'\n"

static struct fixture here;
static struct snapshot *snapshot;

static int
setup (void **state)
{
  (void)state;
  messages_clear ();
  here = (struct fixture){ 0 };
  fixture_open (&here);
  snapshot = fixture_freeze (&here);
  return 0;
}

static int
teardown (void **state)
{
  (void)state;
  fixture_close (&here);
  unsetenv ("FSSNAP_COMMAND");
  scratch_remove ();
  return 0;
}

/* Chunks that are free after a command of this TEXT, which has PATIENCE
 * seconds.
 */
static uint64_t
free_after (const char *text, unsigned patience)
{
  const char *path = scratch_path ("command");
  FILE *file = fopen (path, "we");
  assert_non_null (file);
  fprintf (file, "#!/bin/sh\n%s", text);
  assert_int_equal (fclose (file), 0);
  assert_int_equal (chmod (path, 0700), 0);
  setenv ("FSSNAP_COMMAND", path, 1);
  allocation_leave_out (snapshot, here.path, patience);
  return bitmap_weight (&snapshot->free);
}

static void
what_it_says_is_taken (void **state)
{
  (void)state;
  assert_int_equal (free_after (FREE DONE, 60), 2);
  assert_no_message ();
}

static void
it_gets_the_path (void **state)
{
  (void)state;
  assert_int_equal (
      free_after ("[ \"$1 $2 $3\" = \"candidates --json --\" ] && "
                  "[ $# = 4 ] && [ -n \"$4\" ] || exit 1\n" FREE DONE,
                  60),
      2);
}

static void
it_hangs (void **state)
{
  struct timespec begin, end;

  (void)state;
  clock_gettime (CLOCK_MONOTONIC, &begin);
  assert_int_equal (free_after (FREE "exec sleep 1000\n", 1), 2);
  clock_gettime (CLOCK_MONOTONIC, &end);
  assert_in_range (end.tv_sec - begin.tv_sec, 0, 30);
  assert_one_message ("did not finish in time; what it had not found is kept");
}

static void
it_ends_early (void **state)
{
  (void)state;
  assert_int_equal (free_after (FREE "exit 1\n", 60), 2);
  assert_one_message ("did not finish");
}

static void
nonsense_is_ignored (void **state)
{
  (void)state;
  assert_int_equal (
      free_after ("echo '{\"free\":[[-1,4096],[1048576,4096],[0],7,"
                  "[4096,9223372036854775807],[8192,4096]]}'\n"
                  "echo '[]'\necho nonsense\n" DONE,
                  60),
      1);
}

static void
a_line_without_end (void **state)
{
  (void)state;
  assert_int_equal (free_after (FREE "exec tr '\\0' y </dev/zero\n", 60), 2);
  assert_one_message ("did not finish");
}

static void
what_is_kept_is_said (void **state)
{
  (void)state;
  assert_int_equal (
      free_after ("echo '{\"found\":{\"partition\":2,\"type\":\"xfs\",\"kept-"
                  "because\":\"its log is dirty\"}}'\n" DONE,
                  60),
      0);
  assert_one_message ("partition 2: xfs: all is kept: its log is dirty");
}

static void
there_is_none (void **state)
{
  (void)state;
  setenv ("FSSNAP_COMMAND", "/nonexistent/fssnap", 1);
  allocation_leave_out (snapshot, here.path, 60);
  assert_int_equal (bitmap_weight (&snapshot->free), 0);
  assert_one_message ("cannot run /nonexistent/fssnap: No such file");
}

int
main (void)
{
#define TEST(f) cmocka_unit_test_setup_teardown (f, setup, teardown)
  const struct CMUnitTest tests[] = {
    TEST (what_it_says_is_taken),
    TEST (it_gets_the_path),
    TEST (it_hangs),
    TEST (it_ends_early),
    TEST (nonsense_is_ignored),
    TEST (a_line_without_end),
    TEST (what_is_kept_is_said),
    TEST (there_is_none),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
