/* SPDX-License-Identifier: BSD-3-Clause */

#include "cmocka-all.h"
#include "nbdkit-stub.h"
#include "report.h"
#include "scoped.h"

#include <errno.h>

static int
setup (void **state)
{
  (void)state;
  messages_clear ();
  return 0;
}

static void
error_is_logged_and_errno_stays (void **state)
{
  (void)state;
  errno = ENOSPC;
  report_error ("chunk %u: %m", 7u);
  assert_int_equal (errno, ENOSPC);
  assert_one_message ("chunk 7: No space left on device");
}

static void
first_error_is_kept (void **state)
{
  (void)state;
  report_begin ();
  report_error ("one %d", 1);
  report_error ("two");
  SCOPED_FREE char *text = report_end ();
  assert_string_equal (text, "one 1");
  assert_int_equal (messages_count (), 2);
}

static void
nothing_is_kept_of_nothing (void **state)
{
  (void)state;
  report_begin ();
  assert_null (report_end ());
}

static void
nothing_is_kept_before_and_after (void **state)
{
  (void)state;
  report_error ("before");
  report_begin ();
  assert_null (report_end ());
  report_error ("after");
  assert_null (report_end ());
  assert_int_equal (messages_count (), 2);
}

static void
beginning_again_forgets (void **state)
{
  (void)state;
  report_begin ();
  report_error ("one");
  report_begin ();
  report_error ("two");
  SCOPED_FREE char *text = report_end ();
  assert_string_equal (text, "two");
}

static void *
report_two (void *arg)
{
  (void)arg;
  report_begin ();
  report_error ("theirs");
  free (report_end ());
  return NULL;
}

static void
threads_keep_their_own (void **state)
{
  pthread_t thread;

  (void)state;
  report_begin ();
  pthread_create (&thread, NULL, report_two, NULL);
  pthread_join (thread, NULL);
  report_error ("ours");
  SCOPED_FREE char *text = report_end ();
  assert_string_equal (text, "ours");
}

#define TEST(name) cmocka_unit_test_setup (name, setup)

int
main (void)
{
  const struct CMUnitTest tests[] = {
    TEST (error_is_logged_and_errno_stays),
    TEST (first_error_is_kept),
    TEST (nothing_is_kept_of_nothing),
    TEST (nothing_is_kept_before_and_after),
    TEST (beginning_again_forgets),
    TEST (threads_keep_their_own),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
