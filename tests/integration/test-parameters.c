/* SPDX-License-Identifier: BSD-3-Clause */
/* The command line: what is refused and how that is said, what is listed,
 * and what becomes of files that were made before the server was up.
 */

#include "fixture.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define SIZE (1 << 20)

static const char *
plugin (void)
{
  return getenv ("FSSNAP_PLUGIN");
}

static const struct outcome *
try_parameter (struct fixture *f, const char *parameter)
{
  return run_nbdkit (f, "-U", "-", plugin (), text (f, "origin=%s", f->image),
                     parameter, "--run", "true", NULL);
}

/* One parameter, one bad value, one line. */
static void
bad_values_are_refused (void **state)
{
  static const struct {
    const char *name, *value, *allowed;
  } cases[] = {
    { "chunksize", "", "a power of two from 512 to 64M" },
    { "chunksize", "0", "a power of two from 512 to 64M" },
    { "chunksize", "511", "a power of two from 512 to 64M" },
    { "chunksize", "256", "a power of two from 512 to 64M" },
    { "chunksize", "513", "a power of two from 512 to 64M" },
    { "chunksize", "3k", "a power of two from 512 to 64M" },
    { "chunksize", "128M", "a power of two from 512 to 64M" },
    { "chunksize", "-4096", "a power of two from 512 to 64M" },
    { "chunksize", "4KiB", "a power of two from 512 to 64M" },
    { "chunksize", "0x1000", "a power of two from 512 to 64M" },
    { "chunksize", "4.5k", "a power of two from 512 to 64M" },
    { "chunksize", " 4k", "a power of two from 512 to 64M" },
    { "chunksize", "4096 ", "a power of two from 512 to 64M" },
    { "chunksize", "16E", "a power of two from 512 to 64M" },
    { "chunksize", "99999999999999999999", "a power of two from 512 to 64M" },
    { "maxsize", "", "whole number" },
    { "maxsize", "lots", "whole number" },
    { "maxsize", "-1", "whole number" },
    { "maxsize", "1.5G", "whole number" },
    { "maxsize", "99E", "whole number" },
    { "maxsize", "99999999999999999999", "whole number" },
    { "maxsize", "4095", "4096" },
    { "backfile-size", "", "whole number" },
    { "backfile-size", "big", "whole number" },
    { "backfile-size", "-1", "whole number" },
    { "backfile-size", "1MB", "whole number" },
    { "backfile-size", "4096", "at least" },
    { "max-memory", "", "whole number" },
    { "max-memory", "some", "whole number" },
    { "max-memory", "-64M", "whole number" },
    { "max-memory", "0", "1048576" },
    { "max-memory", "1048575", "1048576" },
    { "cow-timeout", "", "1 to 86400" },
    { "cow-timeout", "0", "1 to 86400" },
    { "cow-timeout", "-1", "1 to 86400" },
    { "cow-timeout", "86401", "1 to 86400" },
    { "cow-timeout", "1k", "1 to 86400" },
    { "cow-timeout", "20s", "1 to 86400" },
    { "cow-timeout", "2.5", "1 to 86400" },
    { "cow-timeout", "99999999999999999999", "1 to 86400" },
    { "snapshot", "", "yes|no" },
    { "snapshot", "maybe", "yes|no" },
    { "snapshot", "1", "yes|no" },
    { "snapshot", "YES", "yes|no" },
    { "snapshot", "yes|no", "yes|no" },
    { "durability", "", "async|written|stable" },
    { "durability", "stable", "store" },
    { "durability", "writ", "async|written|stable" },
    { "on-error", "", "break-snapshot|break-write" },
    { "on-error", "break", "break-snapshot|break-write" },
    { "on-error", "ignore", "break-snapshot|break-write" },
    { "io", "", "uring|sync" },
    { "io", "io_uring", "uring|sync" },
    { "io", "aio", "uring|sync" },
    { "backing-store", "", "a path" },
    { "backing-store", "/nonexistent/file", "No such file or directory" },
    { "chunk-size", "4k", "chunksize" },
    { "size", "1M", "no such parameter" },
    { "Origin", "x", "no such parameter" },
  };
  struct fixture *f = *state;

  make_image (f, SIZE);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const size_t before = f->kept_count;
    const char *given = text (f, "%s=%s", cases[i].name, cases[i].value);
    const struct outcome *o = try_parameter (f, given);
    if (strstr (o->err, cases[i].allowed) == NULL || o->status == 0)
      print_error ("with %s:\n", given);
    refused (o, given, cases[i].allowed);
    /* there are many */
    forget (f, before);
  }
}

static void
origin_is_required (void **state)
{
  struct fixture *f = *state;

  refused (run_nbdkit (f, "-U", "-", plugin (), "--run", "true", NULL),
           "origin=PATH", "block device or image file");
}

static void
empty_origin_is_refused (void **state)
{
  struct fixture *f = *state;

  refused (
      run_nbdkit (f, "-U", "-", plugin (), "origin=", "--run", "true", NULL),
      "origin=", "a path");
}

static void
second_origin_is_refused (void **state)
{
  struct fixture *f = *state;

  make_image (f, SIZE);
  refused (try_parameter (f, "origin=/dev/null"), "origin=/dev/null", "twice",
           f->image);
}

static void
second_backing_store_is_refused (void **state)
{
  struct fixture *f = *state;

  make_image (f, SIZE);
  refused (run_nbdkit (f, "-U", "-", plugin (), text (f, "origin=%s", f->image),
                       "backing-store=/tmp", "backing-store=/var/tmp", "--run",
                       "true", NULL),
           "backing-store=/var/tmp", "twice");
}

/* A write that has gone through cannot fail any more. */
static void
async_with_break_write_is_refused (void **state)
{
  struct fixture *f = *state;

  make_image (f, SIZE);
  refused (run_nbdkit (f, "-U", "-", plugin (), text (f, "origin=%s", f->image),
                       "durability=async", "on-error=break-write", "--run",
                       "true", NULL),
           "durability=async", "written", "on-error=break-write");
}

static void
too_little_memory_for_the_chunks_is_refused (void **state)
{
  struct fixture *f = *state;

  make_image (f, SIZE);
  refused (run_nbdkit (f, "-U", "-", plugin (), text (f, "origin=%s", f->image),
                       "chunksize=64M", "max-memory=64M", "--run", "true",
                       NULL),
           "max-memory=67108864", "at least", "chunksize=67108864");
}

static void
too_many_backing_files_are_refused (void **state)
{
  struct fixture *f = *state;

  make_image (f, SIZE);
  assert_int_equal (truncate (f->image, UINT64_C (1) << 30), 0);
  refused (run_nbdkit (f, "-U", "-", plugin (), text (f, "origin=%s", f->image),
                       "backfile-size=1M", "--run", "true", NULL),
           "backfile-size=1048576", "at least");
}

static void
good_values_are_taken (void **state)
{
  static const char *const parameters[] = {
    "chunksize=512",
    "chunksize=1M",
    "maxsize=0",
    "maxsize=4096",
    "maxsize=1T",
    "backfile-size=0",
    "backfile-size=1M",
    "max-memory=1M",
    "max-memory=1G",
    "cow-timeout=1",
    "cow-timeout=86400",
    "snapshot=yes",
    "snapshot=no",
    "durability=async",
    "durability=written",
    "on-error=break-snapshot",
    "on-error=break-write",
    "io=uring",
    "io=sync",
    "backing-store=/tmp",
  };
  struct fixture *f = *state;

  make_image (f, SIZE);
  for (size_t i = 0; i < sizeof parameters / sizeof *parameters; i++) {
    const struct outcome *o = try_parameter (f, parameters[i]);
    if (o->status != 0 || o->err[0] != '\0')
      fail_msg ("%s: wait status 0x%x: %s", parameters[i], o->status, o->err);
  }
}

static const char *const names[] = {
  "origin",      "snapshot",   "chunksize",  "backing-store",
  "maxsize",     "max-memory", "durability", "backfile-size",
  "cow-timeout", "io",         "on-error",
};

static void
help_lists_all_parameters (void **state)
{
  struct fixture *f = *state;
  const struct outcome *o = run_nbdkit (f, plugin (), "--help", NULL);

  assert_int_equal (o->status, 0);
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (strstr (o->out, text (f, "\n%s=", names[i])) == NULL)
      fail_msg ("%s= is not in --help:\n%s", names[i], o->out);
}

static void
dump_plugin_lists_all_parameters (void **state)
{
  struct fixture *f = *state;
  const struct outcome *o = run_nbdkit (f, plugin (), "--dump-plugin", NULL);

  assert_int_equal (o->status, 0);
  assert_non_null (strstr (o->out, "\nname=fssnap\n"));
  assert_non_null (strstr (o->out, "\nmagic_config_key=origin\n"));
  assert_non_null (strstr (o->out, "\nmax_thread_model=parallel\n"));
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (strstr (o->out, text (f, "\nfssnap_%s=", names[i])) == NULL)
      fail_msg ("%s is not in --dump-plugin:\n%s", names[i], o->out);
}

/* Backing files. */

static unsigned
files_in (const char *directory)
{
  DIR *dir = opendir (directory);
  unsigned n = 0;

  assert_non_null (dir);
  while (readdir (dir) != NULL)
    n++;
  closedir (dir);
  return n - 2;
}

static const char *
make_store (struct fixture *f)
{
  const char *store = text (f, "%s/store", f->server.dir);

  assert_int_equal (mkdir (store, 0700), 0);
  return store;
}

static void
file_exists_while_serving (void **state)
{
  struct fixture *f = *state;
  const char *store = make_store (f);
  struct stat st;

  make_image (f, SIZE);
  start (f, text (f, "backing-store=%s/back", store), NULL);
  connect_to (f, "");
  assert_int_equal (stat (text (f, "%s/back", store), &st), 0);
  assert_int_equal (st.st_mode & 07777, 0600);
  assert_int_equal (files_in (store), 1);
  stop (f);
  assert_int_equal (files_in (store), 0);
}

/* Each at most as large as asked, together as large as the origin. */
static void
file_is_split (void **state)
{
  struct fixture *f = *state;
  const char *store = make_store (f);
  struct stat st;

  const uint8_t *old = make_image (f, SIZE);
  start (f, text (f, "backing-store=%s/back", store), "backfile-size=300k",
         NULL);
  struct nbd_handle *origin = connect_to (f, "");
  ok (nbd_pwrite (origin, pattern (f, 2, 0, SIZE), SIZE, 0, 0));
  assert_int_equal (files_in (store), 4);
  for (unsigned i = 0; i < 4; i++) {
    const char *name = i == 0 ? text (f, "%s/back", store)
                              : text (f, "%s/back.%u", store, i);
    assert_int_equal (stat (name, &st), 0);
    assert_in_range (st.st_size, 1, 300 << 10);
  }
  reads_as (connect_to (f, "snapshot"), 0, old, SIZE);
  stop (f);
  assert_int_equal (files_in (store), 0);
}

static void
existing_file_is_refused_and_left_alone (void **state)
{
  struct fixture *f = *state;
  const uint8_t *content = make_image (f, SIZE);
  const char *file = text (f, "%s/precious", f->server.dir);

  assert_int_equal (link (f->image, file), 0);
  refused (try_parameter (f, text (f, "backing-store=%s", file)),
           text (f, "backing-store=%s", file), "exists");
  file_is (file, 0, content, SIZE);
}

static void
existing_part_is_refused_and_left_alone (void **state)
{
  struct fixture *f = *state;
  const char *store = make_store (f);
  const char *part = text (f, "%s/back.2", store);

  make_image (f, SIZE);
  close (open (part, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
  refused (run_nbdkit (f, "-U", "-", plugin (), text (f, "origin=%s", f->image),
                       text (f, "backing-store=%s/back", store),
                       "backfile-size=300k", "--run", "true", NULL),
           part, "exists");
  assert_int_equal (files_in (store), 1);
  assert_int_equal (access (part, F_OK), 0);
}

/* A symbolic link to nowhere is no new file either. */
static void
dangling_link_is_refused (void **state)
{
  struct fixture *f = *state;
  const char *store = make_store (f);
  const char *file = text (f, "%s/link", store);

  make_image (f, SIZE);
  assert_int_equal (symlink (text (f, "%s/target", store), file), 0);
  refused (try_parameter (f, text (f, "backing-store=%s", file)),
           text (f, "backing-store=%s", file), "exists");
  assert_int_equal (files_in (store), 1);
}

/* The socket is made after the file. */
static void
file_does_not_survive_a_failed_start (void **state)
{
  struct fixture *f = *state;
  const char *store = make_store (f);

  make_image (f, SIZE);
  const struct outcome *o = run_nbdkit (
      f, "-f", "-U", text (f, "%s/missing/socket", f->server.dir), plugin (),
      text (f, "origin=%s", f->image), text (f, "backing-store=%s/back", store),
      "backfile-size=300k", NULL);
  assert_true (WIFEXITED (o->status));
  assert_int_not_equal (WEXITSTATUS (o->status), 0);
  assert_int_equal (files_in (store), 0);
}

static void
file_survives_run (void **state)
{
  struct fixture *f = *state;
  const char *store = make_store (f);

  make_image (f, SIZE);
  const struct outcome *o = run_nbdkit (
      f, "-U", "-", plugin (), text (f, "origin=%s", f->image),
      text (f, "backing-store=%s/back", store), "--run",
      text (f,
            "nbdinfo --size \"$uri\" && cd %s && ls | tr '\\n' ' ' && "
            "nbdsh -u \"$uri\" -c 'h.pwrite(b\"x\", 0)' >/dev/null 2>&1; "
            "ls %s",
            store, store),
      NULL);
  assert_true (WIFEXITED (o->status));
  assert_int_equal (WEXITSTATUS (o->status), 0);
  assert_string_equal (o->out, "1048576\nback back\n");
  assert_int_equal (files_in (store), 0);
}

static void
file_survives_going_into_the_background (void **state)
{
  struct fixture *f = *state;
  const char *store = make_store (f);
  const char *pidfile = text (f, "%s/pid", f->server.dir);
  const uint8_t *old = make_image (f, SIZE);
  long pid = 0;
  int status;

  const struct outcome *o
      = run_nbdkit (f, "-U", f->server.socket, "-P", pidfile, plugin (),
                    text (f, "origin=%s", f->image),
                    text (f, "backing-store=%s/back", store), NULL);
  assert_int_equal (o->status, 0);
  struct nbd_handle *origin = connect_to (f, "");
  ok (nbd_pwrite (origin, pattern (f, 2, 0, SIZE), SIZE, 0, 0));
  reads_as (connect_to (f, "snapshot"), 0, old, SIZE);
  assert_int_equal (files_in (store), 1);
  while (f->handle_count > 0)
    nbd_close (f->handles[--f->handle_count]);
  /* It serves, so the file is written. */
  FILE *file = fopen (pidfile, "re");
  assert_non_null (file);
  const int n = fscanf (file, "%ld", &pid);
  fclose (file);
  assert_int_equal (n, 1);
  assert_int_equal (kill ((pid_t)pid, SIGTERM), 0);
  assert_int_equal (waitpid ((pid_t)pid, &status, 0), pid);
  assert_int_equal (status, 0);
  assert_int_equal (files_in (store), 0);
}

/* Whether the server has a file in DIRECTORY open. */
static bool
keeps_a_file_in (struct fixture *f, const char *directory)
{
  char target[512];

  for (unsigned fd = 0; fd < 64; fd++) {
    const char *link = text (f, "/proc/%ld/fd/%u", (long)f->server.pid, fd);
    const ssize_t n = readlink (link, target, sizeof target - 1);
    target[n > 0 ? n : 0] = '\0';
    if (strncmp (target, directory, strlen (directory)) == 0)
      return true;
  }
  return false;
}

static void
directory_stays_empty (void **state)
{
  struct fixture *f = *state;
  const char *store = make_store (f);

  make_image (f, SIZE);
  start (f, text (f, "backing-store=%s", store), "backfile-size=300k", NULL);
  ok (nbd_pwrite (connect_to (f, ""), "x", 1, 0, 0));
  assert_int_equal (files_in (store), 0);
  assert_true (keeps_a_file_in (f, store));
  stop (f);
  assert_int_equal (files_in (store), 0);
}

static void
tmpdir_is_the_default_store (void **state)
{
  struct fixture *f = *state;
  const char *store = make_store (f);

  make_image (f, SIZE);
  setenv ("TMPDIR", store, 1);
  start (f, NULL);
  unsetenv ("TMPDIR");
  connect_to (f, "");
  assert_true (keeps_a_file_in (f, store));
  assert_int_equal (files_in (store), 0);
}

/* Refused or not used, but it is no name for a new file. */
static void
missing_tmpdir_does_not_become_a_file (void **state)
{
  struct fixture *f = *state;
  const char *missing = text (f, "%s/missing", f->server.dir);

  make_image (f, SIZE);
  setenv ("TMPDIR", missing, 1);
  const struct outcome *o
      = run_nbdkit (f, "-U", "-", plugin (), text (f, "origin=%s", f->image),
                    "--run", text (f, "test ! -e %s", missing), NULL);
  unsetenv ("TMPDIR");
  if (o->status != 0)
    refused (o, missing);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    fixture_test (bad_values_are_refused),
    fixture_test (origin_is_required),
    fixture_test (empty_origin_is_refused),
    fixture_test (second_origin_is_refused),
    fixture_test (second_backing_store_is_refused),
    fixture_test (async_with_break_write_is_refused),
    fixture_test (too_little_memory_for_the_chunks_is_refused),
    fixture_test (too_many_backing_files_are_refused),
    fixture_test (good_values_are_taken),
    fixture_test (help_lists_all_parameters),
    fixture_test (dump_plugin_lists_all_parameters),
    fixture_test (file_exists_while_serving),
    fixture_test (file_is_split),
    fixture_test (directory_stays_empty),
    fixture_test (existing_file_is_refused_and_left_alone),
    fixture_test (existing_part_is_refused_and_left_alone),
    fixture_test (dangling_link_is_refused),
    fixture_test (file_does_not_survive_a_failed_start),
    fixture_test (file_survives_run),
    fixture_test (file_survives_going_into_the_background),
    fixture_test (tmpdir_is_the_default_store),
    fixture_test (missing_tmpdir_does_not_become_a_file),
  };

  return cmocka_run_group_tests_name ("parameters", tests, NULL, NULL);
}
