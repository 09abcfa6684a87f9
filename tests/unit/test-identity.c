/* SPDX-License-Identifier: BSD-3-Clause */

#include "cmocka-all.h"
#include "call-hook.h"
#include "fixture.h"
#include "format.h"
#include "identity.h"
#include "nbdkit-stub.h"
#include "scoped.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SIZE ((uint64_t)3 << 20)

static struct {
  int fd;
  char path[32];
  struct origin *origin;
  struct catalog_origin then, now;
} here;

static void
free_figures (struct catalog_origin *figures)
{
  free (figures->path);
  free (figures->identity);
  *figures = (struct catalog_origin){ 0 };
}

static void
open_origin (uint64_t size)
{
  here.fd = unnamed_file (size, here.path);
  here.origin = origin_open (here.path);
  assert_non_null (here.origin);
}

static void
close_origin (void)
{
  origin_close (here.origin);
  close (here.fd);
}

static int
setup (void **state)
{
  (void)state;
  messages_clear ();
  open_origin (SIZE);
  return 0;
}

static int
teardown (void **state)
{
  (void)state;
  call_hook_set (NULL);
  close_origin ();
  free_figures (&here.then);
  free_figures (&here.now);
  return 0;
}

static void
take (struct catalog_origin *figures)
{
  free_figures (figures);
  assert_int_equal (identity_take (here.origin, true, figures), 0);
}

/* What is said of it now; TEXT is NULL: nothing is. */
#define assert_compared(clean, text)                                           \
  assert_compared_at (__FILE__, __LINE__, clean, false, text)
static void
assert_compared_at (const char *file, int line, bool clean, bool rebooted,
                    const char *text)
{
  SCOPED_FREE char *why
      = identity_compare (&here.then, &here.now, clean, rebooted);
  bool right = why == NULL;

  if (text != NULL)
    right = why != NULL && strstr (why, text) != NULL;
  if (right)
    return;
  print_message ("%s\n", why != NULL ? why : "nothing is said");
  _fail (file, line);
}

static void
figures_of_a_file (void **state)
{
  struct stat st;

  (void)state;
  assert_int_equal (pwrite (here.fd, "first", 5, 0), 5);
  assert_int_equal (pwrite (here.fd, "last", 4, (off_t)SIZE - 4), 4);
  take (&here.now);
  assert_int_equal (fstat (here.fd, &st), 0);
  assert_string_equal (here.now.path, here.path);
  assert_int_equal (here.now.size, SIZE);
  assert_int_equal (here.now.mtime, st.st_mtim.tv_sec);
  assert_int_equal (here.now.mtime_ns, st.st_mtim.tv_nsec);
  assert_non_null (strstr (here.now.identity, "inode"));

  static uint8_t mib[1 << 20];
  assert_int_equal (pread (here.fd, mib, sizeof mib, 0), sizeof mib);
  assert_int_equal (here.now.first_crc, format_crc (0, mib, sizeof mib));
  assert_int_equal (
      pread (here.fd, mib, sizeof mib, (off_t)(SIZE - sizeof mib)), sizeof mib);
  assert_int_equal (here.now.last_crc, format_crc (0, mib, sizeof mib));
  assert_no_message ();
}

static void
same_is_same (void **state)
{
  (void)state;
  take (&here.then);
  take (&here.now);
  assert_compared (true, NULL);
  assert_compared (false, NULL);
}

static void
small_and_empty_origins (void **state)
{
  static const uint64_t sizes[] = { 0, 1, 512, (1 << 20) - 1, 1 << 20 };

  (void)state;
  for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
    close_origin ();
    open_origin (sizes[i]);
    take (&here.then);
    take (&here.now);
    assert_int_equal (here.now.size, sizes[i]);
    assert_compared (true, NULL);
  }
  assert_no_message ();
}

static void
nothing_recorded_is_no_difference (void **state)
{
  (void)state;
  take (&here.now);
  assert_compared (true, NULL);
  assert_compared (false, NULL);
}

static void
copy_is_another_one (void **state)
{
  (void)state;
  take (&here.then);
  const int fd = here.fd;
  origin_close (here.origin);
  open_origin (SIZE);
  close (fd);
  take (&here.now);
  assert_compared (true, "not the one");
  assert_compared (false, "not the one");
  assert_compared (false, here.then.path);
}

/* It may be called something else, though. */
static void
other_name_is_the_same (void **state)
{
  (void)state;
  take (&here.then);
  free (here.then.path);
  here.then.path = strdup ("/elsewhere");
  take (&here.now);
  assert_compared (true, NULL);
}

static void
other_size_counts_after_a_clean_end (void **state)
{
  (void)state;
  take (&here.then);
  take (&here.now);
  here.now.size += 512;
  assert_compared (true, "resized");
  assert_compared (false, NULL);
  here.now.size -= 1024;
  assert_compared (true, "resized");
}

static void
other_time_counts_after_a_clean_end (void **state)
{
  (void)state;
  take (&here.then);
  take (&here.now);
  here.now.mtime_ns ^= 1;
  assert_compared (true, "time of change");
  assert_compared (false, NULL);
  here.now.mtime_ns ^= 1;
  here.now.mtime--; /* also backwards */
  assert_compared (true, "time of change");
}

/* A write whose time somebody has put back. */
static void
other_content_counts_after_a_clean_end (void **state)
{
  static const struct {
    uint64_t offset;
    const char *text;
  } writes[] = { { 0, "first MiB" },
                 { (1 << 20) - 1, "first MiB" },
                 { SIZE - 1, "last MiB" },
                 { SIZE - (1 << 20), "last MiB" },
                 { 1 << 20, NULL } }; /* in the middle: nobody sees that */

  (void)state;
  for (unsigned i = 0; i < sizeof writes / sizeof writes[0]; i++) {
    take (&here.then);
    assert_int_equal (pwrite (here.fd, "!", 1, (off_t)writes[i].offset), 1);
    take (&here.now);
    here.now.mtime = here.then.mtime;
    here.now.mtime_ns = here.then.mtime_ns;
    assert_compared (true, writes[i].text);
    assert_compared (false, NULL);
    assert_int_equal (pwrite (here.fd, "", 1, (off_t)writes[i].offset), 1);
  }
}

static void
sectors_written_count_until_the_next_boot (void **state)
{
  (void)state;
  take (&here.then);
  take (&here.now);
  here.then.sectors_written = 100;
  here.now.sectors_written = 108;
  assert_compared (true, "8 sectors");
  assert_compared (false, NULL);
  assert_compared_at (__FILE__, __LINE__, true, true, NULL);
  here.now.sectors_written = 100;
  assert_compared (true, NULL);
  here.now.sectors_written = 108;
  here.now.disk_sequence++; /* it was away */
  assert_compared (true, NULL);
}

static struct call_verdict
reads_fail (const struct call_event *event)
{
  return (struct call_verdict){ .error = event->call == CALL_PREAD ? EIO : 0 };
}

/* A bad sector must not keep anyone from his snapshots. */
static void
unreadable_origin_is_compared_by_the_rest (void **state)
{
  (void)state;
  take (&here.then);
  call_hook_set (reads_fail);
  take (&here.now);
  call_hook_set (NULL);
  assert_compared (true, NULL);
  here.now.mtime++;
  assert_compared (true, "time of change");
}

static unsigned reads;

static struct call_verdict
count_reads (const struct call_event *event)
{
  reads += event->call == CALL_PREAD;
  return (struct call_verdict){ 0 };
}

static void
half_of_it_reads_nothing (void **state)
{
  (void)state;
  reads = 0;
  call_hook_set (count_reads);
  assert_int_equal (identity_take (here.origin, false, &here.now), 0);
  call_hook_set (NULL);
  assert_int_equal (reads, 0);
  assert_non_null (here.now.path);
  take (&here.then);
  assert_compared (false, NULL);
}

static unsigned bad_call, calls;

static struct call_verdict
no_memory (const struct call_event *event)
{
  return (struct call_verdict){
    .error = event->call == CALL_MEMORY && ++calls == bad_call ? ENOMEM : 0
  };
}

static void
no_memory_is_an_error_and_leaves_nothing (void **state)
{
  (void)state;
  for (bad_call = 1;; bad_call++) {
    calls = 0;
    messages_clear ();
    call_hook_set (no_memory);
    const int r = identity_take (here.origin, true, &here.now);
    call_hook_set (NULL);
    if (calls < bad_call) {
      assert_int_equal (r, 0);
      break;
    }
    assert_int_equal (r, -1);
    assert_null (here.now.path);
    assert_null (here.now.identity);
    assert_true (messages_count () > 0);
  }
  assert_true (bad_call > 2);
}

#define TEST(name) cmocka_unit_test_setup_teardown (name, setup, teardown)

int
main (void)
{
  const struct CMUnitTest tests[] = {
    TEST (figures_of_a_file),
    TEST (same_is_same),
    TEST (small_and_empty_origins),
    TEST (nothing_recorded_is_no_difference),
    TEST (copy_is_another_one),
    TEST (other_name_is_the_same),
    TEST (other_size_counts_after_a_clean_end),
    TEST (other_time_counts_after_a_clean_end),
    TEST (other_content_counts_after_a_clean_end),
    TEST (sectors_written_count_until_the_next_boot),
    TEST (unreadable_origin_is_compared_by_the_rest),
    TEST (half_of_it_reads_nothing),
    TEST (no_memory_is_an_error_and_leaves_nothing),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
