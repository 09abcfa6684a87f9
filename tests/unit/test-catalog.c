/* SPDX-License-Identifier: BSD-3-Clause */
/* What a catalogue may hold, and its text.  test-catalog-file.c has its
 * files.
 */

#include "cmocka-all.h"
#include "call-hook.h"
#include "catalog.h"
#include "catalog-example.h"
#include "format.h"
#include "scoped.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int
setup (void **state)
{
  struct catalog *catalog = malloc (sizeof *catalog);

  example_catalog (catalog);
  *state = catalog;
  return 0;
}

static int
teardown (void **state)
{
  catalog_free (*state);
  free (*state);
  return 0;
}

static char *
print (const struct catalog *catalog, size_t *length)
{
  char *why;
  char *text = catalog_print (catalog, length, &why);

  if (text == NULL)
    fail_msg ("not printed: %s", why);
  assert_null (why);
  return text;
}

static void
assert_parsed (const char *text, size_t length, struct catalog *catalog)
{
  char *why;

  if (catalog_parse (text, length, catalog, &why) != 0)
    fail_msg ("refused: %s", why);
  assert_null (why);
}

static void
assert_refused (const char *text, size_t length, const char *expected)
{
  struct catalog catalog;
  char *why;

  assert_int_equal (catalog_parse (text, length, &catalog, &why), -1);
  assert_non_null (why);
  if (strstr (why, expected) == NULL)
    fail_msg ("refused with \"%s\", not \"%s\"", why, expected);
  free (why);
}

/* It cannot be written either. */
static void
assert_not_printed (const struct catalog *catalog, const char *expected)
{
  size_t length;
  char *why;

  assert_null (catalog_print (catalog, &length, &why));
  assert_non_null (why);
  if (strstr (why, expected) == NULL)
    fail_msg ("not printed for \"%s\", not \"%s\"", why, expected);
  free (why);
}

/* The text with other JSON in it, to be freed. */
static char *
text_of (const char *json, size_t *length)
{
  char *text;
  const size_t n = strlen (json);
  const int r = asprintf (&text, "fssnap-catalog 1 %08x %zu\n%s",
                          format_crc (0, json, n), n, json);

  assert_int_not_equal (r, -1);
  *length = (size_t)r;
  return text;
}

static void
assert_json_refused (const json_t *object, const char *expected)
{
  SCOPED_FREE char *json = json_dumps (object, JSON_ENCODE_ANY);
  size_t length;
  SCOPED_FREE char *text = text_of (json, &length);

  assert_refused (text, length, expected);
}

static json_t *
example_json (const struct catalog *catalog)
{
  size_t length;
  SCOPED_FREE char *text = print (catalog, &length);
  json_t *object = json_loads (strchr (text, '\n'), 0, NULL);

  assert_non_null (object);
  return object;
}

static void
same_text_again (const struct catalog *catalog)
{
  size_t length, length_again;
  SCOPED_FREE char *text = print (catalog, &length);
  struct catalog read;

  assert_parsed (text, length, &read);
  SCOPED_FREE char *again = print (&read, &length_again);
  catalog_free (&read);
  assert_int_equal (length, length_again);
  assert_memory_equal (text, again, length);
}

static void
new_store_has_nothing (void **state)
{
  struct catalog catalog, other;

  (void)state;
  catalog_init (&catalog);
  catalog_init (&other);
  assert_null (catalog.layers);
  assert_null (catalog.origin.path);
  assert_false (catalog.clean);
  assert_int_equal (catalog.generation, 0);
  assert_int_not_equal (uuid_compare (catalog.store, other.store), 0);
  same_text_again (&catalog);
  catalog_free (&catalog);
  catalog_free (&other);
}

static void
all_of_it_comes_back (void **state)
{
  const struct catalog *catalog = *state;
  size_t length;
  SCOPED_FREE char *text = print (catalog, &length);
  struct catalog read;

  memset (&read, 0xff, sizeof read);
  assert_parsed (text, length, &read);
  assert_same_catalog (&read, catalog);
  catalog_free (&read);
  same_text_again (catalog);
}

static void
text_is_for_people_too (void **state)
{
  size_t length;
  SCOPED_FREE char *text = print (*state, &length);

  assert_memory_equal (text, "fssnap-catalog 1 ", 17);
  assert_int_equal (text[length - 1], '\n');
  assert_int_equal (strlen (text), length);
  assert_non_null (strstr (text, "\n \"clean\": true,\n"));
  assert_non_null (strstr (text, "\"durability\": \"written\",\n"));
}

static void
strings_need_not_be_utf8 (void **state)
{
  static const char *const strings[] = {
    "/%",
    "/%%41",
    "/100%",
    "/\x01\x1f\x7f\t\n\"\\",
    "/\xff",
    "/\xc3\xa4",
    "/\xc3",
    "/\xa4\xc3",
    "/\xc0\x80",
    "/\xc1\xbf",
    "/\xe0\x80\x80",
    "/\xe0\x9f\xbf",
    "/\xe2\x82\xac",
    "/\xe2\x82",
    "/\xed\xa0\x80",
    "/\xed\xbf\xbf",
    "/\xef\xbf\xbf",
    "/\xf0\x8f\xbf\xbf",
    "/\xf0\x9f\x98\x80",
    "/\xf4\x8f\xbf\xbf",
    "/\xf4\x90\x80\x80",
    "/\xf8\x88\x80\x80\x80",
    "/\xfe",
  };
  struct catalog *catalog = *state;
  char all[257] = "/";

  for (unsigned i = 1; i < 256; i++)
    all[i] = (char)i;
  for (unsigned i = 0; i <= sizeof strings / sizeof strings[0]; i++) {
    const char *string
        = i < sizeof strings / sizeof strings[0] ? strings[i] : all;
    struct catalog read;
    size_t length;
    free (catalog->layers->files[0]);
    catalog->layers->files[0] = strdup (string);
    free (catalog->layers->broken_reason);
    catalog->layers->broken_reason = strdup (string);
    free (catalog->origin.path);
    catalog->origin.path = strdup (string);
    free (catalog->origin.identity);
    catalog->origin.identity = strdup (string);
    SCOPED_FREE char *text = print (catalog, &length);
    assert_parsed (text, length, &read);
    assert_same_catalog (&read, catalog);
    catalog_free (&read);
  }
}

static void
wrong_escapes_are_refused (void **state)
{
  static const char *const strings[]
      = { "/%", "/%4", "/%00", "/%fF", "/%Gg", "/%4%41", "/a\\u0000b" };
  size_t length;
  SCOPED_FREE char *text = print (*state, &length);
  char *json = strchr (text, '\n');
  const char *at = strstr (json, "\"/origin.img\"");

  assert_non_null (at);
  for (unsigned i = 0; i < sizeof strings / sizeof strings[0]; i++) {
    SCOPED_FREE char *changed = NULL;
    size_t n;
    assert_int_not_equal (asprintf (&changed, "%.*s\"%s%s", (int)(at - json),
                                    json, strings[i], at + 12),
                          -1);
    SCOPED_FREE char *wrong = text_of (changed, &n);
    assert_refused (wrong, n, i == 6 ? "\\u0000" : "(path)");
  }
}

static void
every_damaged_bit_is_seen (void **state)
{
  size_t length;
  SCOPED_FREE char *text = print (*state, &length);

  for (size_t bit = 0; bit < 8 * length; bit++) {
    text[bit / 8] ^= (char)(1U << bit % 8);
    assert_refused (text, length, "");
    text[bit / 8] ^= (char)(1U << bit % 8);
  }
}

static void
every_cut_is_seen (void **state)
{
  size_t length;
  SCOPED_FREE char *text = print (*state, &length);

  for (size_t n = 0; n < length; n++) {
    /* Of exactly this length, so that a read behind it is seen. */
    SCOPED_FREE char *cut = malloc (n + (n == 0));
    memcpy (cut, text, n);
    assert_refused (cut, n, n > 64 ? "is damaged (cut off)" : "");
  }
}

static void
zeros_behind_mean_nothing (void **state)
{
  size_t length;
  SCOPED_FREE char *text = print (*state, &length);
  SCOPED_FREE char *longer = calloc (1, length + 5000);
  struct catalog read;

  memcpy (longer, text, length);
  assert_parsed (longer, length + 5000, &read);
  assert_same_catalog (&read, *state);
  catalog_free (&read);
  longer[length + 4999] = ' ';
  assert_refused (longer, length + 5000, "bytes behind its end");
  assert_parsed (longer, length + 4999, &read);
  catalog_free (&read);
  longer[length] = '\n';
  assert_refused (longer, length + 4999, "bytes behind its end");
}

static void
first_line_is_written_in_one_way (void **state)
{
  static const char *const lines[] = {
    "fssnap-catalog  1 %08x %zu\n",  "fssnap-catalog 01 %08x %zu\n",
    "fssnap-catalog +1 %08x %zu\n",  "fssnap-catalog 1 %08X %zu\n",
    "fssnap-catalog 1 0x%06x %zu\n", "fssnap-catalog 1 %08x 0%zu\n",
    "fssnap-catalog 1 %08x  %zu\n",  "fssnap-catalog 1 %08x %zu \n",
    "fssnap-catalog 1 %08x %zu\r\n", "fssnap-catalog 1 %08x %zu ",
    "fssnap-catalog 1 %08x\n%zu\n",  "fssnap-catalog\t1 %08x %zu\n",
  };
  size_t length;
  SCOPED_FREE char *text = print (*state, &length);
  const char *json = strchr (text, '\n') + 1;
  const size_t n = strlen (json);

  for (unsigned i = 0; i < sizeof lines / sizeof lines[0]; i++) {
    char line[100];
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    snprintf (line, sizeof line, lines[i], format_crc (0, json, n), n);
#pragma GCC diagnostic pop
    if (strncmp (line, text, strlen (line)) == 0)
      continue; /* a checksum without letters is the same in capitals */
    SCOPED_FREE char *wrong = NULL;
    const int r = asprintf (&wrong, "%s%s", line, json);
    assert_refused (wrong, (size_t)r, "is ");
  }
}

static void
what_is_no_catalogue_is_said_to_be_none (void **state)
{
  static const char zeros[8192];

  (void)state;
  assert_refused ("", 0, "is no catalogue of fssnap");
  assert_refused (zeros, sizeof zeros, "is no catalogue of fssnap");
  assert_refused ("{}", 2, "is no catalogue of fssnap");
  assert_refused ("fssnap-catalog ", 15, "is no catalogue of fssnap");
}

static void
newer_version_is_named (void **state)
{
  static const char newer[] = "fssnap-catalog 2 sha256:1234\nanything";

  (void)state;
  assert_refused (newer, strlen (newer), "is of format 2; this fssnap knows 1");
}

static void
json_is_checked (void **state)
{
  static const char *const jsons[]
      = { "",
          "{",
          "[]",
          "7",
          "null",
          "{} {}",
          "{\"store\":1,\"store\":1}",
          "{\"generation\":99999999999999999999}" };

  (void)state;
  for (unsigned i = 0; i < sizeof jsons / sizeof jsons[0]; i++) {
    size_t length;
    SCOPED_FREE char *text = text_of (jsons[i], &length);
    assert_refused (text, length, "is damaged (");
  }
}

/* Deeper than any stack. */
static void
json_that_is_deep_is_refused (void **state)
{
  const size_t depth = 1000000;
  SCOPED_FREE char *json = malloc (depth + 1);
  size_t length;

  (void)state;
  memset (json, '[', depth);
  json[depth] = '\0';
  SCOPED_FREE char *text = text_of (json, &length);
  assert_refused (text, length, "is damaged (");
}

/* Go over all that is in OBJECT, a member of ROOT. */
static void
take_each_away (json_t *root, json_t *object)
{
  json_t *value;
  const char *key;
  size_t i;

  json_array_foreach (object, i, value)
  {
    take_each_away (root, value);
  }
  json_auto_t *all = json_is_object (object) ? json_copy (object) : NULL;
  json_object_foreach (all, key, value)
  {
    take_each_away (root, value);
    json_object_del (object, key);
    assert_json_refused (root, "is damaged (");
    json_object_set_new (object, key, json_real (1.5));
    assert_json_refused (root, "is damaged (");
    json_object_set (object, key, value);
  }
}

static void
every_key_must_be_there_and_of_its_type (void **state)
{
  json_auto_t *root = example_json (*state);

  take_each_away (root, root);
}

static void
unknown_keys_are_ignored (void **state)
{
  json_auto_t *root = example_json (*state);
  struct catalog read;
  size_t length;

  json_object_set_new (root, "later", json_pack ("[i,{}]", 1));
  json_object_set_new (json_array_get (json_object_get (root, "layers"), 0),
                       "later", json_true ());
  SCOPED_FREE char *json = json_dumps (root, 0);
  SCOPED_FREE char *text = text_of (json, &length);
  assert_parsed (text, length, &read);
  assert_same_catalog (&read, *state);
  catalog_free (&read);
}

/* With KEY of the layer so, it is refused for that. */
static void
assert_layer_key_refused (json_t *root, const char *key, json_t *value)
{
  json_t *layer = json_array_get (json_object_get (root, "layers"), 0);
  json_t *kept = json_incref (json_object_get (layer, key));

  assert_non_null (kept);
  json_object_set_new (layer, key, value);
  assert_json_refused (root, key);
  json_object_set_new (layer, key, kept);
}

static void
numbers_out_of_bounds_are_refused (void **state)
{
  static const struct {
    const char *key;
    json_int_t value;
  } cases[] = {
    { "number", 0 },
    { "number", -1 },
    { "number", 1000000000 },
    { "size", -1 },
    { "chunksize", 0 },
    { "chunksize", 256 },
    { "chunksize", 513 },
    { "chunksize", -512 },
    { "chunksize", 128 << 20 },
    { "maxsize", -1 },
    { "backfile-size", -1 },
    { "cow-timeout", -1 },
    { "cow-timeout", 86401 },
  };
  json_auto_t *root = example_json (*state);

  for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++)
    assert_layer_key_refused (root, cases[i].key,
                              json_integer (cases[i].value));
  json_t *generation = json_object_get (root, "generation");
  json_integer_set (generation, -1);
  assert_json_refused (root, "generation");
}

static void
words_must_be_known (void **state)
{
  json_auto_t *root = example_json (*state);

  assert_layer_key_refused (root, "durability", json_string ("safe"));
  assert_layer_key_refused (root, "level", json_string (""));
  assert_layer_key_refused (root, "on-error", json_string ("break"));
  assert_layer_key_refused (root, "uuid", json_string ("1234"));
}

static void
set_string (char **string, const char *value)
{
  free (*string);
  *string = strdup (value);
}

/* Neither parsed nor printed. */
static void
names_are_as_for_snapshots (void **state)
{
  static const char *const wrong[]
      = { "", "123", ".a", "-a", "_a", "a b", "a/b", "a\n", "\xc3\xa4", "a%" };
  static const char *const right[] = { "a", "1a", "A-b_c.d", "0x" };
  struct catalog *catalog = *state;
  char name[66];

  memset (name, 'x', 65);
  name[65] = '\0';
  set_string (&catalog->layers->name, name);
  assert_not_printed (catalog, "(name)");
  name[64] = '\0';
  set_string (&catalog->layers->name, name);
  same_text_again (catalog);
  for (unsigned i = 0; i < sizeof right / sizeof right[0]; i++) {
    set_string (&catalog->layers->name, right[i]);
    same_text_again (catalog);
  }
  json_auto_t *root = example_json (catalog);
  for (unsigned i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
    set_string (&catalog->layers->name, wrong[i]);
    assert_not_printed (catalog, "(name)");
    assert_layer_key_refused (root, "name", json_string (wrong[i]));
  }
}

static void
files_are_names_or_absolute_paths (void **state)
{
  static const char *const wrong[]
      = { "", ".", "..", "a/b", "../a", "catalog", "catalog.spare", "lock" };
  struct catalog *catalog = *state;
  json_auto_t *root = example_json (catalog);

  for (unsigned i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
    set_string (&catalog->layers->files[0], wrong[i]);
    assert_not_printed (catalog, "(files)");
    assert_layer_key_refused (root, "files", json_pack ("[s]", wrong[i]));
  }
  set_string (&catalog->layers->files[0], "/lock");
  same_text_again (catalog);

  SCOPED_FREE char *path = malloc (PATH_MAX + 1);
  memset (path, '/', PATH_MAX);
  path[PATH_MAX] = '\0';
  set_string (&catalog->layers->files[0], path);
  assert_not_printed (catalog, "(files)");
  path[PATH_MAX - 1] = '\0';
  set_string (&catalog->layers->files[0], path);
  same_text_again (catalog);
  set_string (&catalog->making->files[0], "a/b");
  assert_not_printed (catalog, "(making)");
  set_string (&catalog->making->files[0], "a");
  set_string (&catalog->removing->files[0], "lock");
  assert_not_printed (catalog, "(removing)");
}

static void
layer_has_1_to_256_files (void **state)
{
  struct catalog *catalog = *state;
  struct catalog_layer *layer = catalog->layers;

  catalog_free_names (layer->files, layer->parts);
  layer->files = calloc (257, sizeof *layer->files);
  layer->parts = 257;
  for (int i = 0; i < 257; i++)
    assert_int_not_equal (asprintf (&layer->files[i], "part.%d", i), -1);
  assert_not_printed (catalog, "(files)");
  layer->parts = 0;
  assert_not_printed (catalog, "(files)");
  layer->parts = 256;
  same_text_again (catalog);
  json_auto_t *root = example_json (catalog);
  json_t *files = json_deep_copy (json_object_get (
      json_array_get (json_object_get (root, "layers"), 0), "files"));
  json_array_append_new (files, json_string ("one more"));
  assert_layer_key_refused (root, "files", files);
  assert_layer_key_refused (root, "files", json_array ());
  layer->parts = 257;
}

static void
nothing_is_there_twice (void **state)
{
  struct catalog *catalog = *state;
  struct catalog_layer *a = catalog->layers, *b = a->next;

  same_text_again (catalog);
  const unsigned number = b->number;
  b->number = a->number;
  assert_not_printed (catalog, "(a number twice)");
  b->deleted = true;
  same_text_again (catalog);
  b->deleted = false;
  b->number = number;

  set_string (&a->name, "same");
  set_string (&b->name, "same");
  assert_not_printed (catalog, "(a name twice)");
  a->deleted = true;
  same_text_again (catalog);
  a->deleted = false;
  set_string (&a->name, "other");
  same_text_again (catalog);

  uuid_t uuid;
  uuid_copy (uuid, b->uuid);
  uuid_copy (b->uuid, a->uuid);
  assert_not_printed (catalog, "(a layer twice)");
  uuid_copy (b->uuid, uuid);

  set_string (&b->files[0], a->files[0]);
  assert_not_printed (catalog, "(a file twice)");
  set_string (&b->files[0], catalog->making->files[0]);
  assert_not_printed (catalog, "(a file twice)");
  set_string (&b->files[0], catalog->removing->files[0]);
  assert_not_printed (catalog, "(a file twice)");
  set_string (&b->files[0], "of its own");
  same_text_again (catalog);
}

static void
twice_is_refused_too_when_it_is_read (void **state)
{
  json_auto_t *root = example_json (*state);
  json_t *layers = json_object_get (root, "layers");
  json_t *again = json_deep_copy (json_array_get (layers, 0));

  json_array_append_new (layers, again);
  assert_json_refused (root, "(a layer twice)");
  json_object_set_new (again, "uuid",
                       json_string ("00000000-0000-0000-0000-000000000001"));
  assert_json_refused (root, "(a number twice)");
  json_object_set_new (again, "number", json_integer (99));
  assert_json_refused (root, "(a name twice)");
  json_object_set_new (again, "name", json_null ());
  assert_json_refused (root, "(a file twice)");
}

/* As many as fit must not take the square of their time. */
static void
many_layers_are_compared_quickly (void **state)
{
  const unsigned count = 20000;
  struct catalog catalog;
  struct catalog_layer **last = &catalog.layers;

  (void)state;
  catalog_init (&catalog);
  for (unsigned i = 0; i < count; i++) {
    *last = calloc (1, sizeof **last);
    uuid_generate_random ((*last)->uuid);
    (*last)->number = i + 1;
    (*last)->chunk_size = 512;
    (*last)->deleted = i % 2;
    (*last)->parts = 1;
    (*last)->files = calloc (1, sizeof (char *));
    assert_int_not_equal (asprintf (&(*last)->files[0], "f%u", i), -1);
    last = &(*last)->next;
  }
  same_text_again (&catalog);
  catalog_free (&catalog);
}

static void
what_cannot_be_read_is_not_printed (void **state)
{
  struct catalog *catalog = *state;
  struct catalog_layer *layer = catalog->layers;

  layer->size = UINT64_C (1) << 63;
  assert_not_printed (catalog, "(size)");
  layer->size = 0;
  layer->chunk_size = 768;
  assert_not_printed (catalog, "(chunksize)");
  layer->chunk_size = 512;
  layer->number = 0;
  assert_not_printed (catalog, "(number)");
  layer->number = 999999999;
  layer->copied = UINT64_MAX;
  assert_not_printed (catalog, "(copied)");
  layer->copied = INT64_MAX;
  set_string (&layer->broken_reason, "it is");
  layer->broken_errno = -5;
  assert_not_printed (catalog, "(broken)");
  layer->broken_errno = INT_MAX;
  layer->broken_time = INT64_MIN;
  catalog->origin.mtime_ns = 1000000000;
  assert_not_printed (catalog, "(mtime-ns)");
  catalog->origin.mtime_ns = 0;
  catalog->generation = UINT64_C (1) << 63;
  assert_not_printed (catalog, "(generation)");
  catalog->generation = INT64_MAX;
  strcpy (catalog->boot, "a b");
  assert_not_printed (catalog, "(boot)");
  catalog->boot[0] = '\0';
  same_text_again (catalog);
}

/* Memory that runs out at the Nth call for it, jansson's too. */
static int left;

static struct call_verdict
no_memory_left (const struct call_event *event)
{
  return (struct call_verdict){
    .error = event->call == CALL_MEMORY && left-- == 0 ? ENOMEM : 0
  };
}

static void *
jansson_malloc (size_t size)
{
  return left-- == 0 ? NULL : malloc (size);
}

static void
memory_runs_out (int calls)
{
  left = calls;
  json_set_alloc_funcs (jansson_malloc, free);
  call_hook_set (no_memory_left);
}

static void
memory_is_back (void)
{
  call_hook_set (NULL);
  json_set_alloc_funcs (malloc, free);
}

static void
no_memory_for_the_text (void **state)
{
  size_t length;
  char *text, *why;
  int n = 0;

  for (;; n++) {
    memory_runs_out (n);
    text = catalog_print (*state, &length, &why);
    memory_is_back ();
    if (text != NULL && left >= 0)
      break;
    if (text == NULL)
      assert_null (why);
    free (text);
  }
  assert_in_range (n, 50, 100000);
  free (text);
}

static void
no_memory_for_the_catalogue (void **state)
{
  size_t length;
  SCOPED_FREE char *text = print (*state, &length);
  struct catalog catalog;
  char *why;
  int n = 0;

  for (;; n++) {
    memory_runs_out (n);
    const int r = catalog_parse (text, length, &catalog, &why);
    memory_is_back ();
    if (r == 0 && left >= 0)
      break;
    if (r == 0) /* it could do without */
      assert_same_catalog (&catalog, *state);
    else
      free (why);
    catalog_free (&catalog);
  }
  assert_in_range (n, 50, 100000);
  catalog_free (&catalog);
}

static void
names_are_copied (void **state)
{
  static char a[] = "a", b[] = "b";
  char *const names[] = { a, b };
  char **copy = catalog_copy_names (names, 2);

  (void)state;
  assert_string_equal (copy[0], "a");
  assert_string_equal (copy[1], "b");
  assert_ptr_not_equal (copy[1], b);
  catalog_free_names (copy, 2);
  copy = catalog_copy_names (NULL, 0);
  assert_non_null (copy);
  catalog_free_names (copy, 0);
  catalog_free_names (NULL, 0);
  catalog_free_layer (NULL);
  catalog_free_files (NULL);
}

#define TEST(name) cmocka_unit_test_setup_teardown (name, setup, teardown)

int
main (void)
{
  const struct CMUnitTest tests[] = {
    TEST (new_store_has_nothing),
    TEST (all_of_it_comes_back),
    TEST (text_is_for_people_too),
    TEST (strings_need_not_be_utf8),
    TEST (wrong_escapes_are_refused),
    TEST (every_damaged_bit_is_seen),
    TEST (every_cut_is_seen),
    TEST (zeros_behind_mean_nothing),
    TEST (first_line_is_written_in_one_way),
    TEST (what_is_no_catalogue_is_said_to_be_none),
    TEST (newer_version_is_named),
    TEST (json_is_checked),
    TEST (json_that_is_deep_is_refused),
    TEST (every_key_must_be_there_and_of_its_type),
    TEST (unknown_keys_are_ignored),
    TEST (numbers_out_of_bounds_are_refused),
    TEST (words_must_be_known),
    TEST (names_are_as_for_snapshots),
    TEST (files_are_names_or_absolute_paths),
    TEST (layer_has_1_to_256_files),
    TEST (nothing_is_there_twice),
    TEST (twice_is_refused_too_when_it_is_read),
    TEST (many_layers_are_compared_quickly),
    TEST (what_cannot_be_read_is_not_printed),
    TEST (no_memory_for_the_text),
    TEST (no_memory_for_the_catalogue),
    TEST (names_are_copied),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
