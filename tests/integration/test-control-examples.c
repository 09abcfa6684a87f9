/* SPDX-License-Identifier: BSD-3-Clause */
/* What docs/control-protocol.md shows is what happens: its examples are
 * taken from the page, sent and compared.
 */

#include "control.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

/* The origin's size in the examples. */
#define SIZE 1073741824

#define EXAMPLES_MAX 32
#define LINE_SIZE 2048

struct example {
  char request[LINE_SIZE], reply[LINE_SIZE]; /* as on the wire */
};

struct page {
  char *text;
  struct example examples[EXAMPLES_MAX];
  unsigned count;
  char *open; /* while reading: what the next line may continue */
};

static const char to_server[] = "    → ", from_server[] = "    ← ";

static void
take_line (struct page *page, const char *line, size_t length)
{
  size_t indent = 7;

  if (strncmp (line, to_server, strlen (to_server)) == 0) {
    assert_true (page->count < EXAMPLES_MAX);
    page->open = page->examples[page->count++].request;
    indent = strlen (to_server);
  }
  else if (strncmp (line, from_server, strlen (from_server)) == 0) {
    page->open = page->examples[page->count - 1].reply;
    indent = strlen (from_server);
  }
  else if (strncmp (line, "       ", indent) != 0)
    page->open = NULL;
  if (page->open == NULL)
    return;
  assert_true (strlen (page->open) + length < LINE_SIZE);
  strncat (page->open, line + indent, length - indent);
}

static struct page *
read_page (struct fixture *f)
{
  const char *source = getenv ("FSSNAP_SOURCE");
  struct page *page = scratch (f, sizeof *page);
  struct stat st;

  assert_non_null (source);
  FILE *file = fopen (text (f, "%s/docs/control-protocol.md", source), "re");
  assert_non_null (file);
  assert_int_equal (fstat (fileno (file), &st), 0);
  page->text = scratch (f, (size_t)st.st_size + 1);
  assert_int_equal (fread (page->text, 1, (size_t)st.st_size, file),
                    st.st_size);
  fclose (file);

  const char *line = page->text;
  for (size_t n; *line != '\0'; line += n + (line[n] == '\n')) {
    n = strcspn (line, "\n");
    take_line (page, line, n);
  }
  return page;
}

/* The text with each WHAT replaced by WITH. */
static const char *
replace (struct fixture *f, const char *in, const char *what, const char *with)
{
  char *out = scratch (f, strlen (in) + 4096);
  const char *found;

  while ((found = strstr (in, what)) != NULL) {
    strncat (out, in, (size_t)(found - in));
    strcat (out, with);
    in = found + strlen (what);
  }
  strcat (out, in);
  return out;
}

static void
release_json (void *what)
{
  json_decref (what);
}

static json_t *
parse (struct fixture *f, const char *line)
{
  json_error_t error;
  json_t *json = json_loads (line, JSON_REJECT_DUPLICATES, &error);

  if (json == NULL)
    fail_msg ("%s in: %s", error.text, line);
  keep (f, json, release_json);
  return json;
}

/* The example whose request has WORDS in it. */
static const struct example *
find (const struct page *page, const char *words)
{
  for (unsigned i = 0; i < page->count; i++)
    if (strstr (page->examples[i].request, words) != NULL)
      return &page->examples[i];
  fail_msg ("no example with %s", words);
  return NULL;
}

static void
make_sparse_image (struct fixture *f)
{
  const int fd = open (f->image, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

  assert_int_not_equal (fd, -1);
  assert_int_equal (ftruncate (fd, SIZE), 0);
  close (fd);
}

/* A file system without room. */
static const char *
full_directory (struct fixture *f)
{
  static const char zeros[65536];

  snprintf (f->mount, sizeof f->mount, "%s/full", f->server.dir);
  assert_int_equal (mkdir (f->mount, 0700), 0);
  assert_int_equal (mount ("tmpfs", f->mount, "tmpfs", 0, "size=64k"), 0);
  const int fd = open (text (f, "%s/filler", f->mount),
                       O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  assert_int_not_equal (fd, -1);
  assert_int_equal (write (fd, zeros, sizeof zeros), sizeof zeros);
  close (fd);
  return f->mount;
}

/* Snapshots 1 and 2, the latter called nightly and open. */
static void
errors_are_as_shown (void **state)
{
  struct fixture *f = *state;
  const struct page *page = read_page (f);
  unsigned seen = 0;

  make_sparse_image (f);
  const char *full = full_directory (f);
  serve (f, "snapshot=no", NULL);
  struct control *c = control_connect (f, NULL);
  create (c);
  call (c, "snapshot.create", "{s:s}", "name", "nightly");
  connect_to (f, "snapshot/nightly");

  for (unsigned i = 0; i < page->count; i++) {
    const struct example *example = &page->examples[i];
    if (strstr (example->reply, "\"error\"") == NULL)
      continue;
    json_t *expected = parse (f, replace (f, example->reply, "/full", full));
    json_t *reply
        = control_ask (c, replace (f, example->request, "/full", full));
    if (!json_equal (expected, reply)) {
      char *got = json_dumps (reply, JSON_COMPACT | JSON_PRESERVE_ORDER);
      fail_msg ("%s\nis answered\n%s\nand not\n%s", example->request, got,
                example->reply);
    }
    seen++;
  }
  assert_true (seen >= 9);
  assert_string_equal (listed (c, true), "1 2");
}

/* What can be the same in a test is; all else is of the same type. */
static bool
is_as_shown (const char *key, const json_t *shown, const json_t *got)
{
  static const char *const same[]
      = { "snapnumber", "name",       "export",        "state",
          "protocol",   "chunks",     "durability",    "on-error",
          "readonly",   "deleted",    "size",          "clients",
          "id",         "blocked-by", "broken-reason", "max-memory" };

  for (size_t i = 0; i < sizeof same / sizeof *same; i++)
    if (strcmp (key, same[i]) == 0)
      return json_equal (shown, got);
  return json_typeof (shown) == json_typeof (got)
         || (json_is_boolean (shown) && json_is_boolean (got));
}

/* WHOLE: it has no keys that are not shown. */
static void
compare (const json_t *shown, const json_t *got, bool whole)
{
  const char *key;
  json_t *value;

  if (whole)
    json_object_foreach ((json_t *)(uintptr_t)got, key, value)
    {
      if (json_object_get (shown, key) == NULL)
        fail_msg ("%s is not shown", key);
    }
  json_object_foreach ((json_t *)(uintptr_t)shown, key, value)
  {
    const json_t *other = json_object_get (got, key);
    if (other == NULL || !is_as_shown (key, value, other)) {
      char *dump = json_dumps (got, JSON_COMPACT);
      fail_msg ("%s is not as shown in %s", key, dump);
    }
    if (json_is_object (value))
      compare (value, other, whole);
    else if (json_is_array (value)
             && json_is_object (json_array_get (value, 0)))
      for (size_t i = 0; i < json_array_size (value); i++)
        compare (json_array_get (value, i), json_array_get (other, i), whole);
  }
}

/* Send the example's request; the reply is as shown. */
static void
try_example (struct control *c, const struct page *page, const char *words)
{
  static const char more[] = ",…";
  const struct example *example = find (page, words);
  const json_t *shown = parse (c->f, replace (c->f, example->reply, more, ""));

  compare (shown, control_ask (c, example->request),
           strstr (example->reply, more) == NULL);
}

static void
results_are_as_shown (void **state)
{
  struct fixture *f = *state;
  const struct page *page = read_page (f);

  make_sparse_image (f);
  serve (f, "snapshot=no", NULL);
  struct control *c = control_connect (f, NULL);
  for (unsigned i = 0; i < 5; i++)
    create (c);
  for (int i = 3; i <= 5; i++)
    call (c, "snapshot.delete", "{s:i}", "snapshot", i);

  try_example (c, page, "\"server.info\"");
  try_example (c, page, "\"chunksize\":\"64k\"");
  call (c, "snapshot.delete", "{s:i}", "snapshot", 3);
  call (c, "snapshot.create", "{s:b, s:s, s:{s:s}}", "creating", 1, "name",
        "nightly", "options", "chunksize", "64k");
  try_example (c, page, "\"snapshot.set_free\"");
  try_example (c, page, "\"id\":4,\"method\":\"snapshot.create_done\"");
  call (c, "snapshot.delete", "{s:i}", "snapshot", 2);
  try_example (c, page, "\"snapshot.list\"");
  connect_to (f, "snapshot/nightly");
  try_example (c, page, "\"snapshot.info\"");
  try_example (c, page, "\"snapshot\":3,\"force\":true");
}

/* No key of snapshot.info is without a line in the table below it. */
static void
all_keys_are_explained (void **state)
{
  struct fixture *f = *state;
  const struct page *page = read_page (f);
  const char *key;
  json_t *value;

  make_sparse_image (f);
  serve (f, NULL);
  const char *table = strstr (page->text, "| key | what |");
  assert_non_null (table);
  json_t *result = info (control_connect (f, NULL), 1);
  json_object_foreach (result, key, value)
  {
    static const char *const range[]
        = { "chunksize", "backfile-size", "durability", "on-error" };
    bool explained = strstr (table, text (f, "`%s`", key)) != NULL;
    for (unsigned i = 0; i < 4; i++)
      explained |= strcmp (key, range[i]) == 0; /* `maxsize` … `cow-timeout` */
    if (!explained)
      fail_msg ("%s is not explained", key);
  }
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    fixture_test (errors_are_as_shown),
    fixture_test (results_are_as_shown),
    fixture_test (all_keys_are_explained),
  };

  if (!private_mounts ()) {
    fprintf (stderr, "no mounts can be made here\n");
    return 77;
  }
  return cmocka_run_group_tests_name ("control-examples", tests, NULL, NULL);
}
