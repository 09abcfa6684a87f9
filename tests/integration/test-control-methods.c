/* SPDX-License-Identifier: BSD-3-Clause */
/* The methods' parameters: what they may be, what is said if they are not,
 * and that nothing has happened then.
 */

#include "control.h"

#include <errno.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define SIZE (1 << 20)
#define CHUNK 4096

/* A server without snapshots, and a connection to it. */
static struct control *
connection (struct fixture *f)
{
  make_image (f, SIZE);
  serve (f, "snapshot=no", NULL);
  return control_connect (f, NULL);
}

/* Call METHOD with PARAMS, with ' for ": refused, and nothing is changed. */
static void
refuse (struct control *c, const char *method, const char *params,
        const char *words)
{
  const char *before = listed (c, true);

  is_error (control_ask (c, quoted (c->f,
                                    "{'jsonrpc':'2.0','id':1,'method':'%s',"
                                    "'params':{%s}}",
                                    method, params)),
            BAD_PARAMS, NULL, words);
  assert_string_equal (listed (c, true), before);
}

static void
parameters_of_a_wrong_type_are_refused (void **state)
{
  static const struct {
    const char *method, *params, *words;
  } cases[] = {
    { "snapshot.create", "'name':1", "name" },
    { "snapshot.create", "'name':true", "name" },
    { "snapshot.create", "'name':['a']", "name" },
    { "snapshot.create", "'name':{}", "name" },
    { "snapshot.create", "'creating':1", "creating" },
    { "snapshot.create", "'creating':'true'", "creating" },
    { "snapshot.create", "'creating':null", "creating" },
    { "snapshot.create", "'options':1", "options" },
    { "snapshot.create", "'options':'chunksize=4k'", "options" },
    { "snapshot.create", "'options':[]", "options" },
    { "snapshot.create", "'options':null", "options" },
    { "snapshot.create", "'options':{'chunksize':4096.0}", "chunksize" },
    { "snapshot.create", "'options':{'chunksize':true}", "chunksize" },
    { "snapshot.create", "'options':{'chunksize':null}", "chunksize" },
    { "snapshot.create", "'options':{'maxsize':[]}", "maxsize" },
    { "snapshot.create", "'options':{'backing-store':{}}", "backing-store" },
    { "snapshot.info", "'snapshot':true", "snapshot" },
    { "snapshot.info", "'snapshot':null", "snapshot" },
    { "snapshot.info", "'snapshot':1.0", "snapshot" },
    { "snapshot.info", "'snapshot':[1]", "snapshot" },
    { "snapshot.info", "'snapshot':{}", "snapshot" },
    { "snapshot.delete", "'snapshot':false", "snapshot" },
    { "snapshot.delete", "'snapshot':1.5,'force':true", "snapshot" },
    { "snapshot.delete", "'snapshot':1,'force':1", "force" },
    { "snapshot.delete", "'snapshot':1,'force':'yes'", "force" },
    { "snapshot.delete", "'snapshot':1,'force':null", "force" },
    { "snapshot.create_done", "'snapshot':[]", "snapshot" },
    { "snapshot.set_free", "'snapshot':{},'ranges':[]", "snapshot" },
    { "snapshot.set_free", "'snapshot':1,'ranges':{}", "ranges" },
    { "snapshot.set_free", "'snapshot':1,'ranges':null", "ranges" },
    { "snapshot.set_free", "'snapshot':1,'ranges':4096", "ranges" },
    { "snapshot.set_free", "'snapshot':1,'ranges':[4096]", "ranges" },
    { "snapshot.set_free", "'snapshot':1,'ranges':[[0]]", "ranges" },
    { "snapshot.set_free", "'snapshot':1,'ranges':[[0,1,2]]", "ranges" },
    { "snapshot.set_free", "'snapshot':1,'ranges':[['0','4096']]", "ranges" },
    { "snapshot.set_free", "'snapshot':1,'ranges':[[0,4096.0]]", "ranges" },
    { "snapshot.set_free", "'snapshot':1,'ranges':[[true,1]]", "ranges" },
    { "snapshot.set_free", "'snapshot':1,'ranges':[{'0':1}]", "ranges" },
    { "snapshot.set_free", "'snapshot':1,'ranges':[null]", "ranges" },
    { "snapshot.list", "'all':1", "all" },
    { "snapshot.list", "'all':'true'", "all" },
    { "snapshot.list", "'all':null", "all" },
  };
  struct fixture *f = *state;
  struct control *c = connection (f);

  call (c, "snapshot.create", "{s:b}", "creating", 1);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    refuse (c, cases[i].method, cases[i].params, cases[i].words);
  assert_string_equal (string (info (c, 1), "state"), "creating");
  assert_int_equal (figure (c, 1, "chunks-free"), 0);
}

static void
missing_parameters_are_refused (void **state)
{
  static const char *const methods[]
      = { "snapshot.info", "snapshot.delete", "snapshot.create_done",
          "snapshot.set_free" };
  struct fixture *f = *state;
  struct control *c = connection (f);

  call (c, "snapshot.create", "{s:b}", "creating", 1);
  for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
    refuse (c, methods[i], "", "snapshot");
    call_fails (c, BAD_PARAMS, methods[i], NULL);
  }
  refuse (c, "snapshot.set_free", "'snapshot':1", "ranges");
}

static void
unknown_parameters_are_refused (void **state)
{
  static const struct {
    const char *method, *params, *words;
  } cases[] = {
    { "server.info", "'verbose':true", "verbose" },
    { "snapshot.create", "'chunksize':4096", "chunksize" },
    { "snapshot.create", "'Name':'x'", "Name" },
    { "snapshot.create", "'snapshot':1", "snapshot" },
    { "snapshot.create", "'':1", "" },
    { "snapshot.create", "'options':{'chunk-size':4096}", "chunk-size" },
    { "snapshot.create", "'options':{'origin':'/dev/null'}", "origin" },
    { "snapshot.create", "'options':{'max-memory':'1G'}", "max-memory" },
    { "snapshot.create", "'options':{'io':'sync'}", "io" },
    { "snapshot.create", "'options':{'name':'x'}", "name" },
    { "snapshot.create", "'options':{'snapshot':'no'}", "snapshot" },
    { "snapshot.create", "'options':{'control':'/x'}", "control" },
    { "snapshot.create", "'options':{'':''}", "" },
    { "snapshot.info", "'snapshot':1,'all':true", "all" },
    { "snapshot.delete", "'snapshot':1,'Force':true", "Force" },
    { "snapshot.create_done", "'snapshot':1,'force':true", "force" },
    { "snapshot.set_free", "'snapshot':1,'ranges':[],'free':1", "free" },
    { "snapshot.list", "'snapshot':1", "snapshot" },
  };
  struct fixture *f = *state;
  struct control *c = connection (f);

  call (c, "snapshot.create", "{s:b}", "creating", 1);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    refuse (c, cases[i].method, cases[i].params, cases[i].words);
  assert_string_equal (string (info (c, 1), "state"), "creating");
}

/* --- names ---------------------------------------------------------------
 */

#define SIXTY_FOUR                                                             \
  "0123456789abcdef0123456789ABCDEF0123456789.-_.-_0123456789abcdef"

static void
names_are_taken (void **state)
{
  static const char *const names[]
      = { "a", "A-b_c.d", "0a", "2026-11-22", "1.", "x..", SIXTY_FOUR };
  struct fixture *f = *state;
  struct control *c = connection (f);

  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    const json_t *s = call (c, "snapshot.create", "{s:s}", "name", names[i]);
    assert_string_equal (string (s, "name"), names[i]);
    assert_string_equal (
        string (call (c, "snapshot.info", "{s:s}", "snapshot", names[i]),
                "name"),
        names[i]);
  }
  assert_true (is_null (call (c, "snapshot.create", "{s:n}", "name"), "name"));
}

static void
other_names_are_refused (void **state)
{
  static const char *const names[] = { "",    "1",    "007",   "-a",
                                       ".a",  "_a",   "a/b",   "..",
                                       "a b", "a\\n", " a",    "\\u00e9",
                                       "a,b", "a:",   "a\\\\", SIXTY_FOUR "x" };
  struct fixture *f = *state;
  struct control *c = connection (f);

  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    refuse (c, "snapshot.create", text (f, "'name':'%s'", names[i]),
            "cannot be called");
}

static void
a_name_is_given_once (void **state)
{
  struct fixture *f = *state;
  struct control *c = connection (f);

  call (c, "snapshot.create", "{s:s}", "name", "a");
  call_fails (c, EXISTS, "snapshot.create", "{s:s}", "name", "a");
  call (c, "snapshot.create", "{s:s}", "name", "A");
  call (c, "snapshot.delete", "{s:s}", "snapshot", "a");
  call (c, "snapshot.create", "{s:s}", "name", "a");
  assert_string_equal (listed (c, false), "2 1");
}

static void
snapshots_go_by_number_or_name (void **state)
{
  static const char *const other[] = { "2",
                                       "01",
                                       " 1",
                                       "1 ",
                                       "+1",
                                       "0",
                                       "-1",
                                       "",
                                       "one",
                                       "Nightly",
                                       "snapshot/1",
                                       "4294967297",
                                       "18446744073709551617" };
  struct fixture *f = *state;
  struct control *c = connection (f);

  call (c, "snapshot.create", "{s:s}", "name", "nightly");
  for (unsigned i = 0; i < 3; i++) {
    const json_t *s = i == 0 ? info (c, 1)
                             : call (c, "snapshot.info", "{s:s}", "snapshot",
                                     i == 1 ? "1" : "nightly");
    assert_int_equal (number (s, "snapnumber"), 1);
  }
  for (size_t i = 0; i < sizeof other / sizeof *other; i++) {
    const json_t *error = call_fails (c, NO_SNAPSHOT, "snapshot.info", "{s:s}",
                                      "snapshot", other[i]);
    assert_string_equal (string (error, "message"),
                         text (f, "there is no snapshot %s", other[i]));
    call_fails (c, NO_SNAPSHOT, "snapshot.delete", "{s:s, s:b}", "snapshot",
                other[i], "force", 1);
  }
  call_fails (c, NO_SNAPSHOT, "snapshot.info", "{s:I}", "snapshot",
              (json_int_t)4294967297);
  call_fails (c, NO_SNAPSHOT, "snapshot.info", "{s:i}", "snapshot", -1);
}

/* --- set_free and create_done --------------------------------------------
 */

/* Chunks freed by one range in a fresh snapshot of SIZE + 100 bytes. */
static json_int_t
freed (struct control *c, uint64_t offset, uint64_t length)
{
  const int n = (int)number (
      call (c, "snapshot.create", "{s:b}", "creating", 1), "snapnumber");
  const json_t *result
      = call (c, "snapshot.set_free", "{s:i, s:[[I, I]]}", "snapshot", n,
              "ranges", (json_int_t)offset, (json_int_t)length);
  const json_int_t chunks = number (result, "chunks");

  assert_int_equal (figure (c, n, "chunks-free"), chunks);
  call (c, "snapshot.delete", "{s:i}", "snapshot", n);
  return chunks;
}

static void
chunks_that_lie_wholly_in_a_range_are_free (void **state)
{
  struct fixture *f = *state;

  make_image (f, SIZE + 100);
  serve (f, "snapshot=no", NULL);
  struct control *c = control_connect (f, NULL);
  assert_int_equal (freed (c, 0, 0), 0);
  assert_int_equal (freed (c, 0, CHUNK), 1);
  assert_int_equal (freed (c, 0, CHUNK - 1), 0);
  assert_int_equal (freed (c, 1, CHUNK), 0);
  assert_int_equal (freed (c, 1, 2 * CHUNK - 1), 1);
  assert_int_equal (freed (c, 5 * CHUNK, 100 * CHUNK + 7), 100);
  assert_int_equal (freed (c, SIZE, 99), 0);
  assert_int_equal (freed (c, SIZE, 100), 1); /* the last one is short */
  assert_int_equal (freed (c, SIZE + 1, 99), 0);
  assert_int_equal (freed (c, SIZE + 100, 0), 0);
  assert_int_equal (freed (c, 0, SIZE + 100), SIZE / CHUNK + 1);
}

static void
chunks_become_free_once (void **state)
{
  struct fixture *f = *state;
  struct control *c = connection (f);

  call (c, "snapshot.create", "{s:b}", "creating", 1);
  const json_t *result = call (
      c, "snapshot.set_free", "{s:i, s:[[i, i], [i, i], [i, i]]}", "snapshot",
      1, "ranges", 0, 4 * CHUNK, 2 * CHUNK, 4 * CHUNK, 9 * CHUNK, CHUNK);
  assert_int_equal (number (result, "chunks"), 7);
  result = call (c, "snapshot.set_free", "{s:i, s:[[i, i]]}", "snapshot", 1,
                 "ranges", 0, 8 * CHUNK);
  assert_int_equal (number (result, "chunks"), 2);
  result
      = call (c, "snapshot.set_free", "{s:i, s:[]}", "snapshot", 1, "ranges");
  assert_int_equal (number (result, "chunks"), 0);
  assert_int_equal (figure (c, 1, "chunks-free"), 9);
}

static void
copied_chunks_do_not_become_free (void **state)
{
  struct fixture *f = *state;
  const uint8_t *old = make_image (f, SIZE);

  serve (f, "snapshot=no", NULL);
  struct control *c = control_connect (f, NULL);
  call (c, "snapshot.create", "{s:b}", "creating", 1);
  ok (nbd_pwrite (connect_to (f, ""), pattern (f, 2, 0, 2 * CHUNK), 2 * CHUNK,
                  CHUNK, 0));
  const json_t *result = call (c, "snapshot.set_free", "{s:i, s:[[i, i]]}",
                               "snapshot", 1, "ranges", 0, 4 * CHUNK);
  assert_int_equal (number (result, "chunks"), 2);
  reads_as (connect_to (f, "snapshot"), CHUNK, old + CHUNK, 2 * CHUNK);
}

/* One bad range, and none of them is taken. */
static void
ranges_beyond_the_end_are_refused (void **state)
{
  static const char *const ranges[] = {
    "[0,1048577]",
    "[1048576,1]",
    "[1048577,0]",
    "[-1,4096]",
    "[0,-1]",
    "[4096,9223372036854775807]",
    "[9223372036854775807,9223372036854775807]",
    "[-9223372036854775808,0]",
  };
  struct fixture *f = *state;
  struct control *c = connection (f);

  call (c, "snapshot.create", "{s:b}", "creating", 1);
  for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
    refuse (c, "snapshot.set_free",
            text (f, "'snapshot':1,'ranges':[[0,65536],%s]", ranges[i]),
            "number 1 ");
    refuse (c, "snapshot.set_free",
            text (f, "'snapshot':1,'ranges':[%s,[0,65536]]", ranges[i]),
            "number 0 ");
  }
  assert_int_equal (figure (c, 1, "chunks-free"), 0);
}

static void
only_the_creator_may_set_free_and_finish (void **state)
{
  struct fixture *f = *state;
  struct control *c = connection (f), *other = control_connect (f, NULL);

  call (c, "snapshot.create", "{s:b}", "creating", 1);
  call_fails (other, WRONG_STATE, "snapshot.set_free", "{s:i, s:[[i, i]]}",
              "snapshot", 1, "ranges", 0, CHUNK);
  call_fails (other, WRONG_STATE, "snapshot.create_done", "{s:i}", "snapshot",
              1);
  assert_string_equal (string (info (other, 1), "state"), "creating");
  assert_int_equal (figure (other, 1, "chunks-free"), 0);
}

static void
what_is_done_stays_as_it_is (void **state)
{
  struct fixture *f = *state;
  struct control *c = connection (f);

  call (c, "snapshot.create", "{s:b}", "creating", 1);
  const json_t *s = call (c, "snapshot.create_done", "{s:i}", "snapshot", 1);
  assert_string_equal (string (s, "state"), "idle");
  call_fails (c, WRONG_STATE, "snapshot.create_done", "{s:i}", "snapshot", 1);
  call_fails (c, WRONG_STATE, "snapshot.set_free", "{s:i, s:[[i, i]]}",
              "snapshot", 1, "ranges", 0, CHUNK);
  /* one made without "creating" is done at once */
  create (c);
  call_fails (c, WRONG_STATE, "snapshot.create_done", "{s:i}", "snapshot", 2);
  call_fails (c, NO_SNAPSHOT, "snapshot.create_done", "{s:i}", "snapshot", 3);
  call_fails (c, NO_SNAPSHOT, "snapshot.set_free", "{s:i, s:[]}", "snapshot", 3,
              "ranges");
}

static void
the_creator_may_delete_its_snapshot (void **state)
{
  struct fixture *f = *state;
  struct control *c = connection (f), *other = control_connect (f, NULL);

  call (c, "snapshot.create", "{s:b}", "creating", 1);
  const json_t *error
      = call_fails (other, BUSY, "snapshot.delete", "{s:i}", "snapshot", 1);
  assert_non_null (strstr (string (error, "message"), "being created"));
  call (c, "snapshot.delete", "{s:i}", "snapshot", 1);
  assert_string_equal (listed (c, false), "");
}

static void
a_snapshot_deleted_while_it_is_created_is_gone (void **state)
{
  struct fixture *f = *state;
  struct control *c = connection (f), *other = control_connect (f, NULL);

  call (c, "snapshot.create", "{s:b}", "creating", 1);
  call (other, "snapshot.delete", "{s:i, s:b}", "snapshot", 1, "force", 1);
  call_fails (c, NO_SNAPSHOT, "snapshot.create_done", "{s:i}", "snapshot", 1);
  /* its number is another's by now */
  create (other);
  call_fails (c, WRONG_STATE, "snapshot.create_done", "{s:i}", "snapshot", 1);
  control_finish (c);
  assert_string_equal (listed (other, false), "1");
  assert_int_equal (server_logged (&f->server, "went away"), 0);
}

/* --- server.info ---------------------------------------------------------
 */

static void
server_info_says_what_is_served (void **state)
{
  struct fixture *f = *state;
  struct control *c = connection (f);
  const json_t *s = call (c, "server.info", NULL);

  assert_int_equal (number (s, "protocol"), 1);
  assert_int_equal (number (s, "pid"), f->server.pid);
  assert_string_equal (string (s, "origin"), f->image);
  assert_int_equal (number (s, "size"), SIZE);
  assert_false (truth (s, "readonly"));
  assert_int_equal (number (s, "snapshots"), 0);
  assert_int_equal (number (s, "highest"), 0);
  assert_int_equal (number (s, "max-memory"), 64 << 20);
  assert_int_equal (number (s, "memory"), 0);
  assert_int_equal (number (s, "throttled-writers"), 0);
  assert_int_equal (strspn (string (s, "version"), "0123456789."),
                    strlen (string (s, "version")));
}

static void
server_info_counts_snapshots (void **state)
{
  struct fixture *f = *state;
  struct control *c = connection (f);

  for (unsigned i = 0; i < 3; i++)
    create (c);
  call (c, "snapshot.delete", "{s:i}", "snapshot", 3);
  call (c, "snapshot.delete", "{s:i}", "snapshot", 1);
  const json_t *s = call (c, "server.info", NULL);
  assert_int_equal (number (s, "snapshots"), 1);
  assert_int_equal (number (s, "highest"), 3);
  assert_int_equal (figure (c, 2, "highest"), 3);
}

static void
server_info_follows_the_origins_size (void **state)
{
  struct fixture *f = *state;
  struct control *c = connection (f);

  create (c);
  assert_int_equal (truncate (f->image, 3 * SIZE), 0);
  assert_int_equal (number (call (c, "server.info", NULL), "size"), 3 * SIZE);
  assert_int_equal (figure (c, 1, "size"), SIZE);
}

static void
server_info_says_if_the_origin_cannot_be_written (void **state)
{
  struct fixture *f = *state;

  make_image (f, SIZE);
  snprintf (f->mount, sizeof f->mount, "%s/ro", f->server.dir);
  assert_int_equal (mkdir (f->mount, 0700), 0);
  assert_int_equal (mount (f->server.dir, f->mount, NULL, MS_BIND, NULL), 0);
  assert_int_equal (
      mount (NULL, f->mount, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL), 0);
  snprintf (f->image, sizeof f->image, "%s/disk.img", f->mount);
  serve (f, NULL);
  struct control *c = control_connect (f, NULL);
  assert_true (truth (call (c, "server.info", NULL), "readonly"));
}

/* Bytes of a path that are no UTF-8 cannot be in JSON. */
static void
a_path_need_not_be_text (void **state)
{
  struct fixture *f = *state;

  snprintf (f->image, sizeof f->image, "%s/d\xff\xc3\xa9\"\\\n", f->server.dir);
  make_image (f, SIZE);
  serve (f, NULL);
  struct control *c = control_connect (f, NULL);
  const char *expected = text (f, "%s/d???\"\\\n", f->server.dir);
  assert_string_equal (string (call (c, "server.info", NULL), "origin"),
                       expected);
  assert_string_equal (string (info (c, 1), "origin"), expected);
}

static void
snapshots_say_when_they_were_taken (void **state)
{
  struct fixture *f = *state;
  const time_t before = time (NULL);
  struct control *c = connection (f);

  create (c);
  const json_int_t taken = figure (c, 1, "createtime");
  assert_true (taken >= before && taken <= time (NULL));
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    fixture_test (parameters_of_a_wrong_type_are_refused),
    fixture_test (missing_parameters_are_refused),
    fixture_test (unknown_parameters_are_refused),
    fixture_test (names_are_taken),
    fixture_test (other_names_are_refused),
    fixture_test (a_name_is_given_once),
    fixture_test (snapshots_go_by_number_or_name),
    fixture_test (chunks_that_lie_wholly_in_a_range_are_free),
    fixture_test (chunks_become_free_once),
    fixture_test (copied_chunks_do_not_become_free),
    fixture_test (ranges_beyond_the_end_are_refused),
    fixture_test (only_the_creator_may_set_free_and_finish),
    fixture_test (what_is_done_stays_as_it_is),
    fixture_test (the_creator_may_delete_its_snapshot),
    fixture_test (a_snapshot_deleted_while_it_is_created_is_gone),
    fixture_test (server_info_says_what_is_served),
    fixture_test (server_info_counts_snapshots),
    fixture_test (server_info_follows_the_origins_size),
    fixture_test (server_info_says_if_the_origin_cannot_be_written),
    fixture_test (a_path_need_not_be_text),
    fixture_test (snapshots_say_when_they_were_taken),
  };

  if (!private_mounts ()) {
    fprintf (stderr, "no mounts can be made here\n");
    return 77;
  }
  return cmocka_run_group_tests_name ("control-methods", tests, NULL, NULL);
}
