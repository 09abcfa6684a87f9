/* SPDX-License-Identifier: BSD-3-Clause */
/* The store itself: how it is made, who may have it, what is said of it. */

#include "store.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* Run nbdkit on the image and PARAMETER, to its end. */
static const struct outcome *
try_store (struct fixture *f, const char *parameter)
{
  return run_nbdkit (f, "-U", "-", getenv ("FSSNAP_PLUGIN"),
                     text (f, "origin=%s", f->image), parameter, "--run",
                     "true", NULL);
}

static mode_t
mode_of (const char *path)
{
  struct stat st;

  assert_int_equal (lstat (path, &st), 0);
  return st.st_mode & 07777;
}

/* --- making one ---------------------------------------------------------- */

static void
it_is_made_for_its_owner_alone (void **state)
{
  struct world w = new_world (*state);
  const mode_t mask = umask (0);

  serve_store (&w, NULL);
  umask (mask);
  const char *directory = store_directory (w.f);
  assert_int_equal (mode_of (directory), 0700);
  assert_int_equal (mode_of (part_of (w.f, 1, 0)), 0600);
  assert_int_equal (mode_of (text (w.f, "%s/catalog", directory)), 0600);
  assert_int_equal (mode_of (text (w.f, "%s/lock", directory)), 0600);
}

/* Whoever made it has said who may look. */
static void
a_directory_that_is_there_stays_as_it_is (void **state)
{
  struct world w = new_world (*state);

  assert_int_equal (mkdir (store_directory (w.f), 0755), 0);
  assert_int_equal (chmod (store_directory (w.f), 0755), 0);
  serve_store (&w, NULL);
  assert_int_equal (mode_of (store_directory (w.f)), 0755);
}

static void
its_parent_is_not_made (void **state)
{
  struct fixture *f = *state;

  make_image (f, SIZE);
  const char *directory = text (f, "%s/absent/store", f->server.dir);
  refused (try_store (f, text (f, "store=%s", directory)), directory,
           "No such file or directory");
  assert_int_equal (access (text (f, "%s/absent", f->server.dir), F_OK), -1);
}

static void
a_file_is_no_store (void **state)
{
  struct fixture *f = *state;
  const uint8_t *content = make_image (f, SIZE);
  const char *file = text (f, "%s/file", f->server.dir);

  copy_file (f->image, file);
  refused (try_store (f, text (f, "store=%s", file)), file, "directory");
  file_is (file, 0, content, SIZE);
}

static void
it_must_be_writable (void **state)
{
  struct fixture *f = *state;

  become_nobody (f);
  make_image (f, SIZE);
  assert_int_equal (mkdir (store_directory (f), 0700), 0);
  assert_int_equal (chmod (store_directory (f), 0500), 0);
  refused (try_store (f, store_parameter (f)), store_directory (f),
           "Permission denied");
  assert_int_equal (chmod (store_directory (f), 0700), 0);
}

static void
it_must_be_readable (void **state)
{
  struct fixture *f = *state;

  become_nobody (f);
  make_image (f, SIZE);
  assert_int_equal (mkdir (store_directory (f), 0700), 0);
  assert_int_equal (chmod (store_directory (f), 0300), 0);
  refused (try_store (f, store_parameter (f)), store_directory (f),
           "Permission denied");
  assert_int_equal (chmod (store_directory (f), 0700), 0);
}

static void
one_is_made_where_others_may_not_write (void **state)
{
  struct fixture *f = *state;

  become_nobody (f);
  make_image (f, SIZE);
  const char *parent = text (f, "%s/parent", f->server.dir);
  assert_int_equal (mkdir (parent, 0500), 0);
  refused (try_store (f, text (f, "store=%s/store", parent)), parent,
           "Permission denied");
}

static void
it_needs_a_name (void **state)
{
  struct fixture *f = *state;

  make_image (f, SIZE);
  refused (try_store (f, "store="), "store=");
}

static void
there_is_one_at_most (void **state)
{
  struct fixture *f = *state;

  make_image (f, SIZE);
  const char *second = text (f, "store=%s/second", f->server.dir);
  refused (run_nbdkit (f, "-U", "-", getenv ("FSSNAP_PLUGIN"),
                       text (f, "origin=%s", f->image), store_parameter (f),
                       second, "--run", "true", NULL),
           second, "twice");
  assert_int_equal (access (store_directory (f), F_OK), -1);
}

/* A server that cannot come up, with a snapshot taken already. */
static void
a_start_that_fails_does_no_harm (void **state)
{
  struct world w = new_world (*state);
  const char *control = text (w.f, "control=%s/absent/c", w.f->server.dir);

  for (unsigned i = 0; i < 2; i++) {
    refused (run_nbdkit (w.f, "-U", "-", getenv ("FSSNAP_PLUGIN"),
                         text (w.f, "origin=%s", w.f->image),
                         store_parameter (w.f), control, "--run", "true", NULL),
             control + strlen ("control="));
    serve_store (&w, NULL);
    assert_string_equal (listed (w.c, true), "1");
    snapshot_is (&w, 1, pattern (w.f, 1, 0, SIZE));
    overwrite (&w, i * 100000, 50000);
    end (&w, STOPPED);
  }
  open_store (&w);
  snapshot_is (&w, 1, pattern (w.f, 1, 0, SIZE));
  assert_int_equal (files_like (store_directory (w.f), "snapshot-"), 1);
}

/* Errors of what comes after the plugin is ready. */
static void
a_socket_in_use_does_no_harm (void **state)
{
  struct world w = new_world (*state);
  const char *taken = text (w.f, "%s/absent/socket", w.f->server.dir);

  serve_store (&w, NULL);
  overwrite_anywhere (&w);
  end (&w, STOPPED);
  const struct outcome *o = run_nbdkit (
      w.f, "-U", taken, getenv ("FSSNAP_PLUGIN"),
      text (w.f, "origin=%s", w.f->image), store_parameter (w.f), NULL);
  assert_true (WIFEXITED (o->status));
  assert_int_not_equal (WEXITSTATUS (o->status), 0);
  open_store (&w);
  snapshot_is (&w, 1, pattern (w.f, 1, 0, SIZE));
  origin_is_live (&w);
}

/* --- one server at a time ------------------------------------------------ */

/* What a second server says when it is given the store as DIRECTORY.  It has
 * an origin of its own, or the origin's lock would keep it off.
 */
static void
second_is_refused (struct fixture *f, const char *directory)
{
  const char *other = text (f, "%s/other.img", f->server.dir);

  if (access (other, F_OK) == -1)
    copy_file (f->image, other);
  const struct outcome *o = run_nbdkit (
      f, "-U", "-", getenv ("FSSNAP_PLUGIN"), text (f, "origin=%s", other),
      text (f, "store=%s", directory), "--run", "true", NULL);
  refused (o, directory);
  assert_true (has_words (o->err, "use"));
}

static void
a_second_server_is_refused (void **state)
{
  struct world w = new_world (*state);

  serve_store (&w, NULL);
  overwrite_anywhere (&w);
  const struct inventory *before = inventory (w.f, store_directory (w.f));
  second_is_refused (w.f, store_directory (w.f));
  unchanged (before, true);
  /* the first one is none the worse for it */
  overwrite_anywhere (&w);
  snapshot_is (&w, 1, pattern (w.f, 1, 0, SIZE));
  origin_is_live (&w);
  restart (&w, STOPPED);
  snapshot_is (&w, 1, pattern (w.f, 1, 0, SIZE));
}

static void
another_way_to_it_is_refused_too (void **state)
{
  struct world w = new_world (*state);
  const char *way = text (w.f, "%s/way", w.f->server.dir);

  serve_store (&w, NULL);
  assert_int_equal (symlink (store_directory (w.f), way), 0);
  second_is_refused (w.f, way);
}

/* Also while the first one waits for its last client. */
static void
a_server_that_ends_still_has_it (void **state)
{
  struct world w = new_world (*state);

  serve_store (&w, NULL);
  origin_is_live (&w); /* it does not wait for who has just come */
  kill (w.f->server.pid, SIGTERM);
  await_safety (w.f);
  second_is_refused (w.f, store_directory (w.f));
  end (&w, KILLED);
}

static void
it_is_free_after_a_kill (void **state)
{
  struct world w = new_world (*state);

  serve_store (&w, NULL);
  overwrite_anywhere (&w);
  end (&w, KILLED);
  serve_store (&w, NULL);
  assert_string_equal (listed (w.c, true), "1");
  snapshot_is (&w, 1, pattern (w.f, 1, 0, SIZE));
  second_is_refused (w.f, store_directory (w.f));
}

/* --- what is said -------------------------------------------------------- */

static void
server_and_snapshots_tell_of_it (void **state)
{
  struct world w = new_world (*state);

  serve_store (&w, NULL);
  const char *directory = store_directory (w.f);
  const json_t *server = call (w.c, "server.info", NULL);
  const json_t *snapshot = info (w.c, 1);
  assert_string_equal (string (server, "store"), directory);
  assert_string_equal (string (snapshot, "store"), directory);
  assert_string_equal (string (snapshot, "backing-store"), part_of (w.f, 1, 0));
  assert_string_equal (string (snapshot, "durability"), "written");
  assert_false (truth (snapshot, "ephemeral"));
}

static void
without_one_there_is_none (void **state)
{
  struct world w = new_world (*state);

  serve (w.f, "snapshot=yes", NULL);
  meet (&w);
  assert_true (is_null (call (w.c, "server.info", NULL), "store"));
  const json_t *snapshot = info (w.c, 1);
  assert_true (is_null (snapshot, "store"));
  assert_string_equal (string (snapshot, "durability"), "async");
}

static void
its_path_is_absolute (void **state)
{
  struct world w = new_world (*state);
  const int here = open (".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

  assert_int_not_equal (here, -1);
  assert_int_equal (chdir (w.f->server.dir), 0);
  serve (w.f, "store=store", NULL);
  assert_int_equal (fchdir (here), 0);
  close (here);
  meet (&w);
  assert_string_equal (string (call (w.c, "server.info", NULL), "store"),
                       store_directory (w.f));
}

static void
its_files_tell_their_snapshots (void **state)
{
  struct world w = new_world (*state);
  const char *directory = store_directory (w.f);

  open_store (&w);
  assert_int_equal (files_like (directory, "snapshot-"), 0);
  for (int i = 1; i <= 3; i++) {
    assert_int_equal (create (w.c), i);
    const char *name = name_in (part_of (w.f, i, 0));
    const char *beginning = text (w.f, "snapshot-%d-", i);
    assert_int_equal (strncmp (name, beginning, strlen (beginning)), 0);
    assert_int_equal (strlen (name), strlen (beginning) + 8);
    assert_int_equal (files_like (directory, "snapshot-"), i);
  }
}

static void
each_durability_can_be_had (void **state)
{
  static const char *const levels[] = { "async", "written", "stable" };
  struct world w = new_world (*state);

  open_store (&w);
  for (int i = 0; i < 3; i++) {
    const uint8_t *then = remember (&w);
    const int snapnumber = create_as (
        &w, text (w.f, "'options':{'durability':'%s'}", levels[i]));
    assert_string_equal (string (info (w.c, snapnumber), "durability"),
                         levels[i]);
    overwrite_anywhere (&w);
    snapshot_is (&w, snapnumber, then);
  }
}

/* Older ones read through newer ones, which must last as long as they do. */
static void
durability_is_at_least_that_of_older_ones (void **state)
{
  struct world w = new_world (*state);

  open_store (&w);
  const struct {
    const char *asked, *got;
  } levels[] = { { "async", "async" },    { "written", "written" },
                 { "async", "written" },  { "stable", "stable" },
                 { "written", "stable" }, { "async", "stable" } };
  for (unsigned i = 0; i < sizeof levels / sizeof *levels; i++) {
    const int snapnumber = create_as (
        &w, text (w.f, "'options':{'durability':'%s'}", levels[i].asked));
    assert_string_equal (string (info (w.c, snapnumber), "durability"),
                         levels[i].got);
  }
}

static void
ephemeral_must_be_true_or_false (void **state)
{
  struct world w = new_world (*state);

  open_store (&w);
  call_fails (w.c, BAD_PARAMS, "snapshot.create", "{s:s}", "ephemeral", "yes");
  call_fails (w.c, BAD_PARAMS, "snapshot.create", "{s:i}", "ephemeral", 1);
  assert_string_equal (listed (w.c, true), "");
  assert_int_equal (create_as (&w, "'ephemeral':true"), 1);
  assert_true (truth (info (w.c, 1), "ephemeral"));
  assert_int_equal (create_as (&w, "'ephemeral':false"), 2);
  assert_false (truth (info (w.c, 2), "ephemeral"));
}

/* Requests that cannot be had leave nothing behind. */
static void
a_creation_that_fails_leaves_nothing (void **state)
{
  struct world w = new_world (*state);
  const char *absent = text (w.f, "%s/absent/x", w.f->server.dir);

  open_store (&w);
  const struct inventory *before = inventory (w.f, store_directory (w.f));
  json_t *error = call_fails (w.c, FAILED, "snapshot.create", "{s:{s:s}}",
                              "options", "backing-store", absent);
  assert_non_null (strstr (string (error, "message"), absent));
  unchanged (before, false);
  assert_null (read_catalog (w.f)->layers);
  assert_null (read_catalog (w.f)->making);
  assert_int_equal (create (w.c), 1);
}

/* What a user names may be there, and his. */
static void
a_file_that_is_there_is_not_taken (void **state)
{
  struct world w = new_world (*state);
  const char *file = text (w.f, "%s/precious", w.f->server.dir);
  const uint8_t *content = remember (&w);

  copy_file (w.f->image, file);
  open_store (&w);
  overwrite_anywhere (&w);
  for (unsigned i = 0; i < 2; i++) {
    const json_t *error
        = call_fails (w.c, FAILED, "snapshot.create", "{s:{s:s}}", "options",
                      "backing-store", file);
    assert_non_null (strstr (string (error, "message"), file));
    assert_true (has_words (string (error, "message"), "exists"));
    file_is (file, 0, content, SIZE);
    restart (&w, i == 0 ? STOPPED : KILLED);
  }
  file_is (file, 0, content, SIZE);
  assert_string_equal (listed (w.c, true), "");
}

/* Nor one that another snapshot has. */
static void
a_backing_file_is_not_taken_twice (void **state)
{
  struct world w = new_world (*state);
  const char *file = text (w.f, "%s/its.own", w.f->server.dir);
  const uint8_t *then = remember (&w);

  open_store (&w);
  create_as (&w, text (w.f, "'options':{'backing-store':'%s'}", file));
  overwrite_anywhere (&w);
  call_fails (w.c, FAILED, "snapshot.create", "{s:{s:s}}", "options",
              "backing-store", file);
  snapshot_is (&w, 1, then);
  restart (&w, KILLED);
  assert_string_equal (listed (w.c, true), "1");
  snapshot_is (&w, 1, then);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    fixture_test (it_is_made_for_its_owner_alone),
    fixture_test (a_directory_that_is_there_stays_as_it_is),
    fixture_test (its_parent_is_not_made),
    fixture_test (a_file_is_no_store),
    fixture_test (it_must_be_writable),
    fixture_test (it_must_be_readable),
    fixture_test (one_is_made_where_others_may_not_write),
    fixture_test (it_needs_a_name),
    fixture_test (there_is_one_at_most),
    fixture_test (a_start_that_fails_does_no_harm),
    fixture_test (a_socket_in_use_does_no_harm),
    fixture_test (a_second_server_is_refused),
    fixture_test (another_way_to_it_is_refused_too),
    fixture_test (a_server_that_ends_still_has_it),
    fixture_test (it_is_free_after_a_kill),
    fixture_test (server_and_snapshots_tell_of_it),
    fixture_test (without_one_there_is_none),
    fixture_test (its_path_is_absolute),
    fixture_test (its_files_tell_their_snapshots),
    fixture_test (each_durability_can_be_had),
    fixture_test (durability_is_at_least_that_of_older_ones),
    fixture_test (ephemeral_must_be_true_or_false),
    fixture_test (a_creation_that_fails_leaves_nothing),
    fixture_test (a_file_that_is_there_is_not_taken),
    fixture_test (a_backing_file_is_not_taken_twice),
  };

  return cmocka_run_group_tests_name ("store", tests, NULL, NULL);
}
