/* SPDX-License-Identifier: BSD-3-Clause */
/* A request is made as the grammar has it, each part with some probability
 * from a list of what is interesting instead.  One line in three is then
 * damaged as bytes are: changed, cut out, put in, doubled, cut off.
 */

#include "generate.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

uint64_t
below (uint64_t *state, uint64_t limit)
{
  *state ^= *state >> 12;
  *state ^= *state << 25;
  *state ^= *state >> 27;
  return (*state * UINT64_C (0x2545f4914f6cdd1d) >> 11) % limit;
}

#define PICK(state, list) list[below (state, sizeof list / sizeof *list)]

static const char *const methods[]
    = { "server.info",          "snapshot.create", "snapshot.create",
        "snapshot.create_done", "snapshot.delete", "snapshot.delete",
        "snapshot.info",        "snapshot.list",   "snapshot.set_free" };

static const char *const odd_texts[] = { "",
                                         "0",
                                         "1",
                                         "2",
                                         "-1",
                                         "x",
                                         "nightly",
                                         "4k",
                                         "\xc3\xa9",
                                         "a\nb",
                                         "%s%n%d",
                                         "snapshot",
                                         "9223372036854775808",
                                         "\"",
                                         "\\",
                                         "/" };

static const json_int_t odd_numbers[]
    = { 0,          1,         2,         3,       -1,       4095,    4096,
        4097,       512,       65536,     1048575, 1048576,  1048577, INT32_MAX,
        UINT32_MAX, INT64_MAX, INT64_MIN, 86400,   67108864, 266240 };

/* Any value at all. */
static json_t *
odd_value (uint64_t *state, unsigned depth)
{
  switch (below (state, depth < 3 ? 8 : 6)) {
  case 0:
    return json_null ();
  case 1:
    return json_boolean (below (state, 2));
  case 2:
    return json_real ((double)PICK (state, odd_numbers) / 7);
  case 3:
    return json_string (PICK (state, odd_texts));
  case 4:
  case 5:
    return json_integer (PICK (state, odd_numbers));
  case 6: {
    json_t *array = json_array ();
    for (uint64_t n = below (state, 4); n > 0; n--)
      json_array_append_new (array, odd_value (state, depth + 1));
    return array;
  }
  default: {
    json_t *object = json_object ();
    for (uint64_t n = below (state, 4); n > 0; n--)
      json_object_set_new (object, PICK (state, odd_texts),
                           odd_value (state, depth + 1));
    return object;
  }
  }
}

/* VALUE, mostly. */
static json_t *
mostly (uint64_t *state, json_t *value)
{
  if (below (state, 12) != 0)
    return value;
  json_decref (value);
  return odd_value (state, 0);
}

static json_t *
some_name (uint64_t *state)
{
  static const char *const names[] = { "a", "b", "nightly", "c-1", "D.e" };

  return json_string (PICK (state, names));
}

static json_t *
some_snapshot (uint64_t *state)
{
  return below (state, 4) == 0
             ? some_name (state)
             : json_integer (1 + (json_int_t)below (state, 10));
}

static json_t *
some_options (uint64_t *state, const char *directory)
{
  static const char *const chunks[] = { "512", "4k", "16k", "64k", "1M" };
  static const char *const durabilities[] = { "async", "written" };
  static const char *const on_errors[] = { "break-snapshot", "break-write" };
  json_t *options = json_object ();
  char path[128];

  if (below (state, 2) == 0)
    json_object_set_new (options, "chunksize",
                         mostly (state, json_string (PICK (state, chunks))));
  if (below (state, 4) == 0)
    json_object_set_new (
        options, "maxsize",
        mostly (state, json_integer (PICK (state, odd_numbers))));
  if (below (state, 6) == 0)
    json_object_set_new (options, "backfile-size",
                         mostly (state, json_string ("600k")));
  if (below (state, 6) == 0)
    json_object_set_new (
        options, "durability",
        mostly (state, json_string (PICK (state, durabilities))));
  if (below (state, 6) == 0)
    json_object_set_new (options, "on-error",
                         mostly (state, json_string (PICK (state, on_errors))));
  if (below (state, 8) == 0)
    json_object_set_new (options, "cow-timeout",
                         mostly (state, json_integer (60)));
  if (below (state, 3) == 0) {
    snprintf (path, sizeof path, "%s/store%u", directory,
              (unsigned)below (state, 20));
    json_object_set_new (options, "backing-store",
                         mostly (state, json_string (path)));
  }
  return options;
}

static json_t *
some_ranges (uint64_t *state)
{
  json_t *ranges = json_array ();

  for (uint64_t n = below (state, 6); n > 0; n--) {
    const json_int_t offset = (json_int_t)below (state, 1 << 20);
    json_t *range = json_array ();
    json_array_append_new (range, mostly (state, json_integer (offset)));
    json_array_append_new (
        range, mostly (state, json_integer ((json_int_t)below (
                                  state, (1 << 20) - (uint64_t)offset + 1))));
    json_array_append_new (ranges, mostly (state, range));
  }
  return ranges;
}

static json_t *
some_params (uint64_t *state, const char *method, const char *directory)
{
  json_t *params = json_object ();

  if (strcmp (method, "snapshot.create") == 0) {
    if (below (state, 3) == 0)
      json_object_set_new (params, "name", mostly (state, some_name (state)));
    if (below (state, 2) == 0)
      json_object_set_new (params, "creating",
                           mostly (state, json_boolean (below (state, 2))));
    if (below (state, 2) == 0)
      json_object_set_new (params, "options",
                           mostly (state, some_options (state, directory)));
  }
  else if (strcmp (method, "snapshot.list") == 0) {
    if (below (state, 2) == 0)
      json_object_set_new (params, "all", mostly (state, json_true ()));
  }
  else if (strcmp (method, "server.info") != 0)
    json_object_set_new (params, "snapshot",
                         mostly (state, some_snapshot (state)));
  if (strcmp (method, "snapshot.delete") == 0 && below (state, 2) == 0)
    json_object_set_new (params, "force",
                         mostly (state, json_boolean (below (state, 2))));
  if (strcmp (method, "snapshot.set_free") == 0)
    json_object_set_new (params, "ranges", mostly (state, some_ranges (state)));
  if (below (state, 30) == 0)
    json_object_set_new (params, PICK (state, odd_texts), odd_value (state, 0));
  return params;
}

static json_t *
some_request (uint64_t *state, const char *directory)
{
  const char *method = PICK (state, methods);
  json_t *request = json_object ();

  if (below (state, 40) != 0)
    json_object_set_new (request, "jsonrpc",
                         mostly (state, json_string ("2.0")));
  if (below (state, 15) != 0)
    json_object_set_new (
        request, "id",
        mostly (state, json_integer ((json_int_t)below (state, 1000))));
  if (below (state, 40) != 0)
    json_object_set_new (request, "method",
                         below (state, 20) == 0 ? odd_value (state, 0)
                                                : json_string (method));
  if (below (state, 10) != 0)
    json_object_set_new (
        request, "params",
        mostly (state, some_params (state, method, directory)));
  return request;
}

/* --- damage --------------------------------------------------------------
 */

struct text {
  char *bytes;
  size_t length;
};

/* Put COUNT bytes in at AT. */
static void
insert (struct text *text, size_t at, const char *bytes, size_t count)
{
  char *longer = malloc (text->length + count + 1);

  if (longer == NULL)
    abort ();
  memcpy (longer, text->bytes, at);
  memcpy (longer + at, bytes, count);
  memcpy (longer + at + count, text->bytes + at, text->length - at);
  free (text->bytes);
  text->bytes = longer;
  text->length += count;
}

static void
insert_token (uint64_t *state, struct text *text, size_t at)
{
  static const struct {
    const char *bytes;
    size_t count;
  } tokens[] = {
    { "\"", 1 },        { "{", 1 },
    { "}", 1 },         { "[", 1 },
    { "]", 1 },         { ",", 1 },
    { ":", 1 },         { "\\", 1 },
    { "\n", 1 },        { "\r\n", 2 },
    { "\0", 1 },        { "\\u0000", 6 },
    { "\\ud800", 6 },   { "\xff", 1 },
    { "\xc3", 1 },      { "null", 4 },
    { "true", 4 },      { "1e999", 5 },
    { "-0", 2 },        { " ", 1 },
    { "\t", 1 },        { "\xef\xbb\xbf", 3 },
    { "\"id\":7,", 7 }, { "99999999999999999999", 20 },
  };
  const size_t i = below (state, sizeof tokens / sizeof *tokens);

  insert (text, at, tokens[i].bytes, tokens[i].count);
}

/* Two of the same, one after the other. */
static void
double_part (uint64_t *state, struct text *text, size_t at)
{
  const size_t count = below (state, text->length - at + 1);
  char *part = malloc (count + 1);

  if (part == NULL)
    abort ();
  memcpy (part, text->bytes + at, count);
  insert (text, at, part, count);
  free (part);
}

static void
nest (struct text *text, size_t at)
{
  char brackets[3000];

  memset (brackets, '[', sizeof brackets);
  insert (text, at, brackets, sizeof brackets);
}

static void
damage (uint64_t *state, struct text *text)
{
  const size_t at = below (state, text->length + 1);

  switch (below (state, 16)) {
  case 0:
  case 1:
  case 2:
    if (at < text->length)
      text->bytes[at] = (char)below (state, 256);
    break;
  case 3:
  case 4:
    if (at < text->length)
      text->bytes[at] ^= (char)(1 << below (state, 8));
    break;
  case 5:
    text->length = at;
    break;
  case 6:
  case 7: {
    size_t count = below (state, 20);
    if (count > text->length - at)
      count = text->length - at;
    memmove (text->bytes + at, text->bytes + at + count,
             text->length - at - count);
    text->length -= count;
    break;
  }
  case 8:
    double_part (state, text, at);
    break;
  case 9:
    if (below (state, 20) == 0)
      nest (text, at);
    break;
  default:
    insert_token (state, text, at);
  }
}

char *
generate (uint64_t *state, const char *directory, size_t *length)
{
  json_t *request = some_request (state, directory);
  struct text text = { .bytes = json_dumps (request, JSON_COMPACT) };

  json_decref (request);
  if (text.bytes == NULL)
    abort ();
  text.length = strlen (text.bytes);
  if (below (state, 100) == 0) {
    text.length = below (state, text.length + 1);
    for (size_t i = 0; i < text.length; i++)
      text.bytes[i] = (char)below (state, 256);
  }
  if (below (state, 3) == 0)
    for (uint64_t n = 1 + below (state, 4); n > 0; n--)
      damage (state, &text);
  insert (&text, text.length, "\n", 1);
  *length = text.length;
  return text.bytes;
}
