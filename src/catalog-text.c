/* SPDX-License-Identifier: BSD-3-Clause */
/* The text of a catalogue:
 *
 *   fssnap-catalog VERSION CRC LENGTH
 *
 * with the CRC32C, eight hexadecimal digits, of the LENGTH bytes of JSON that
 * follow this line; after them come only zeros, which are room to grow
 * (catalog.c).
 *
 * What is printed can be parsed: a catalogue that would be refused is not
 * written over one that is good.
 *
 * Strings that people or the system choose need not be UTF-8, as JSON is.
 * Each of their bytes that is no part of it is "%" and two hexadecimal
 * digits, and so is "%" itself.
 *
 * Keys that are not known here are ignored, and lost when it is written: a
 * later version may add what can be done without, and takes another number
 * for what cannot.
 */

#include "catalog.h"
#include "format.h"
#include "scoped.h"

#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define FIRST_LINE "fssnap-catalog %u %08" PRIx32 " %zu\n"
#define FIRST_WORD "fssnap-catalog "
#define FIRST_LINE_MAX 64 /* bytes */

#define NUMBER_MAX 999999999
#define CHUNK_MIN 512
#define CHUNK_MAX (64 << 20)
#define TIMEOUT_MAX 86400

/* A number: its key, where it is in its structure, and its bounds. */
struct number {
  const char *key;
  size_t offset;
  enum { UINT, U32, U64, I64 } type;
  int64_t least, most;
};

#define LAYER(field) offsetof (struct catalog_layer, field)
#define ORIGIN(field) offsetof (struct catalog_origin, field)

static const struct number layer_numbers[] = {
  { "number", LAYER (number), UINT, 1, NUMBER_MAX },
  { "created", LAYER (created), I64, INT64_MIN, INT64_MAX },
  { "size", LAYER (size), U64, 0, INT64_MAX },
  { "chunksize", LAYER (chunk_size), U64, CHUNK_MIN, CHUNK_MAX },
  { "maxsize", LAYER (maxsize), U64, 0, INT64_MAX },
  { "backfile-size", LAYER (backfile_size), U64, 0, INT64_MAX },
  { "cow-timeout", LAYER (cow_timeout), UINT, 0, TIMEOUT_MAX },
  {},
};

static const struct number counters[] = {
  { "copied", LAYER (copied), U64, 0, INT64_MAX },
  { "waits", LAYER (waits), U64, 0, INT64_MAX },
  { "flush-errors", LAYER (flush_errors), U64, 0, INT64_MAX },
  { "reads-origin", LAYER (reads_origin), U64, 0, INT64_MAX },
  { "reads-memory", LAYER (reads_memory), U64, 0, INT64_MAX },
  { "reads-backfile", LAYER (reads_backfile), U64, 0, INT64_MAX },
  { "reads-free", LAYER (reads_free), U64, 0, INT64_MAX },
  { "chunks-copied", LAYER (chunks_copied), U64, 0, INT64_MAX },
  { "chunks-free", LAYER (chunks_free), U64, 0, INT64_MAX },
  { "chunks-unreadable", LAYER (chunks_unreadable), U64, 0, INT64_MAX },
  {},
};

static const struct number origin_numbers[] = {
  { "size", ORIGIN (size), U64, 0, INT64_MAX },
  { "mtime", ORIGIN (mtime), I64, INT64_MIN, INT64_MAX },
  { "mtime-ns", ORIGIN (mtime_ns), I64, 0, 999999999 },
  { "first-mib-crc", ORIGIN (first_crc), U32, 0, UINT32_MAX },
  { "last-mib-crc", ORIGIN (last_crc), U32, 0, UINT32_MAX },
  { "sectors-written", ORIGIN (sectors_written), U64, 0, INT64_MAX },
  { "disk-sequence", ORIGIN (disk_sequence), U64, 0, INT64_MAX },
  {},
};

static const struct flag {
  const char *key;
  size_t offset;
} layer_flags[] = {
  { "pending", LAYER (pending) },
  { "creating", LAYER (creating) },
  { "ephemeral", LAYER (ephemeral) },
  { "deleted", LAYER (deleted) },
  {},
};

/*----------------------------------------------------------------------*/
/* Strings. */

/* How many bytes the first character has; 0: it is no UTF-8. */
static size_t
utf8_length (const unsigned char *s)
{
  static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
  const size_t length = *s < 0x80   ? 1
                        : *s < 0xc0 ? 0
                        : *s < 0xe0 ? 2
                        : *s < 0xf0 ? 3
                        : *s < 0xf8 ? 4
                                    : 0;

  if (length < 2)
    return length;
  uint32_t c = *s & (0x7fU >> length);
  for (size_t i = 1; i < length; i++) {
    if ((s[i] & 0xc0) != 0x80)
      return 0;
    c = c << 6 | (s[i] & 0x3fU);
  }
  return c < least[length] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000)
             ? 0
             : length;
}

/* NULL: no memory. */
static json_t *
encode (const char *string)
{
  const unsigned char *s = (const unsigned char *)string;
  SCOPED_FREE char *encoded = malloc (3 * strlen (string) + 1);
  char *end = encoded;

  if (encoded == NULL)
    return NULL;
  while (*s != '\0') {
    const size_t length = *s == '%' ? 0 : utf8_length (s);
    memcpy (end, s, length);
    end += length;
    s += length;
    if (length == 0)
      end += sprintf (end, "%%%02X", *s++);
  }
  *end = '\0';
  return json_string (encoded);
}

static int
hex_digit (char c)
{
  if (c >= '0' && c <= '9')
    return c - '0';
  if (c >= 'A' && c <= 'F')
    return c - 'A' + 10;
  return -1;
}

/* A string from malloc, or NULL and a *FAULT. */
static char *
decode (const json_t *json, const char *key, const char **fault)
{
  const char *s = json_string_value (json);

  *fault = key;
  if (s == NULL)
    return NULL;
  char *string = strdup (s), *end = string;
  if (string == NULL) {
    *fault = catalog_no_memory;
    return NULL;
  }
  while (*s != '\0') {
    if (*s != '%') {
      *end++ = *s++;
      continue;
    }
    const int high = hex_digit (s[1]);
    const int low = high == -1 ? -1 : hex_digit (s[2]);
    if (low == -1 || (high == 0 && low == 0)) {
      free (string);
      return NULL;
    }
    *end++ = (char)(high << 4 | low);
    s += 3;
  }
  *end = '\0';
  *fault = NULL;
  return string;
}

static const char *
take_string (const json_t *object, const char *key, char **string)
{
  const char *fault;

  *string = decode (json_object_get (object, key), key, &fault);
  return fault;
}

/*----------------------------------------------------------------------*/
/* From JSON. */

static const char *
take_numbers (const json_t *object, const struct number *numbers, void *to)
{
  for (const struct number *n = numbers; n->key != NULL; n++) {
    const json_t *json = json_object_get (object, n->key);
    const json_int_t value = json_integer_value (json);
    char *field = (char *)to + n->offset;

    if (!json_is_integer (json) || value < n->least || value > n->most)
      return n->key;
    if (n->type == UINT)
      *(unsigned *)field = (unsigned)value;
    else if (n->type == U32)
      *(uint32_t *)field = (uint32_t)value;
    else if (n->type == U64)
      *(uint64_t *)field = (uint64_t)value;
    else
      *(int64_t *)field = value;
  }
  return NULL;
}

static const char *
take_bool (const json_t *object, const char *key, bool *value)
{
  const json_t *json = json_object_get (object, key);

  if (!json_is_boolean (json))
    return key;
  *value = json_is_true (json);
  return NULL;
}

static const char *
take_uuid (const json_t *object, const char *key, uuid_t uuid)
{
  const char *text = json_string_value (json_object_get (object, key));

  return text == NULL || uuid_parse (text, uuid) == -1 ? key : NULL;
}

static const char *
take_files (const json_t *object, char ***files, unsigned *parts)
{
  const json_t *array = json_object_get (object, "files");
  const size_t count = json_array_size (array);
  const char *fault;

  if (count < 1 || count > CATALOG_PARTS_MAX)
    return "files";
  *files = calloc (count, sizeof **files);
  if (*files == NULL)
    return catalog_no_memory;
  for (; *parts < count; ++*parts) {
    (*files)[*parts] = decode (json_array_get (array, *parts), "files", &fault);
    if (fault != NULL)
      return fault;
  }
  return NULL;
}

static const char *
take_policy (const json_t *object, const char *key,
             int (*parse) (const char *word), int *value)
{
  const char *word = json_string_value (json_object_get (object, key));

  *value = word == NULL ? -1 : parse (word);
  return *value == -1 ? key : NULL;
}

static const char *
take_policies (const json_t *object, struct catalog_layer *layer)
{
  int durability = 0, level = 0, on_error = 0;
  const char *fault = take_policy (object, "durability",
                                   policy_parse_durability, &durability);

  if (fault == NULL)
    fault = take_policy (object, "level", policy_parse_durability, &level);
  if (fault == NULL)
    fault = take_policy (object, "on-error", policy_parse_on_error, &on_error);
  layer->durability = (enum durability)durability;
  layer->level = (enum durability)level;
  layer->on_error = (enum on_error)on_error;
  return fault;
}

static const char *
take_broken (const json_t *object, struct catalog_layer *layer)
{
  const json_t *broken = json_object_get (object, "broken");
  const json_t *err = json_object_get (broken, "errno");
  const json_t *time = json_object_get (broken, "time");

  if (json_is_null (broken))
    return NULL;
  if (!json_is_integer (err) || json_integer_value (err) < 0
      || json_integer_value (err) > INT_MAX || !json_is_integer (time))
    return "broken";
  layer->broken_errno = (int)json_integer_value (err);
  layer->broken_time = json_integer_value (time);
  return take_string (broken, "reason", &layer->broken_reason);
}

static const char *
take_name (const json_t *object, char **name)
{
  if (json_is_null (json_object_get (object, "name")))
    return NULL;
  return take_string (object, "name", name);
}

static const char *
take_layer (const json_t *object, struct catalog_layer *layer)
{
  const char *fault = take_uuid (object, "uuid", layer->uuid);

  if (fault == NULL)
    fault = take_numbers (object, layer_numbers, layer);
  for (const struct flag *f = layer_flags; fault == NULL && f->key != NULL; f++)
    fault = take_bool (object, f->key, (bool *)((char *)layer + f->offset));
  if (fault == NULL)
    fault = take_policies (object, layer);
  if (fault == NULL)
    fault
        = take_numbers (json_object_get (object, "counters"), counters, layer);
  if (fault == NULL)
    fault = take_name (object, &layer->name);
  if (fault == NULL)
    fault = take_broken (object, layer);
  if (fault == NULL)
    fault = take_files (object, &layer->files, &layer->parts);
  return fault;
}

static const char *
take_layers (const json_t *object, struct catalog_layer **list)
{
  const json_t *array = json_object_get (object, "layers"), *item;
  struct catalog_layer **last = list;
  size_t i;

  if (!json_is_array (array))
    return "layers";
  json_array_foreach (array, i, item)
  {
    *last = calloc (1, sizeof **last);
    if (*last == NULL)
      return catalog_no_memory;
    const char *fault = take_layer (item, *last);
    if (fault != NULL)
      return fault;
    last = &(*last)->next;
  }
  return NULL;
}

static const char *
take_file_lists (const json_t *object, const char *key,
                 struct catalog_files **list)
{
  const json_t *array = json_object_get (object, key), *item;
  struct catalog_files **last = list;
  size_t i;

  if (!json_is_array (array))
    return key;
  json_array_foreach (array, i, item)
  {
    *last = calloc (1, sizeof **last);
    if (*last == NULL)
      return catalog_no_memory;
    const char *fault = take_uuid (item, "uuid", (*last)->uuid);
    if (fault == NULL)
      fault = take_files (item, &(*last)->files, &(*last)->parts);
    if (fault != NULL)
      return fault;
    last = &(*last)->next;
  }
  return NULL;
}

static const char *
take_origin (const json_t *object, struct catalog_origin *origin)
{
  const json_t *json = json_object_get (object, "origin");

  if (json_is_null (json))
    return NULL;
  const char *fault = take_numbers (json, origin_numbers, origin);
  if (fault == NULL)
    fault = take_string (json, "identity", &origin->identity);
  if (fault == NULL)
    fault = take_string (json, "path", &origin->path);
  return fault;
}

static const char *
take_boot (const json_t *object, char boot[37])
{
  const char *text = json_string_value (json_object_get (object, "boot"));

  if (text == NULL || strlen (text) > 36)
    return "boot";
  memcpy (boot, text, strlen (text) + 1);
  return NULL;
}

static const char *
take_catalog (const json_t *object, struct catalog *catalog)
{
  const json_t *generation = json_object_get (object, "generation");
  const char *fault = take_uuid (object, "store", catalog->store);

  if (fault == NULL
      && (!json_is_integer (generation) || json_integer_value (generation) < 0))
    fault = "generation";
  catalog->generation = (uint64_t)json_integer_value (generation);
  if (fault == NULL)
    fault = take_bool (object, "clean", &catalog->clean);
  if (fault == NULL)
    fault = take_boot (object, catalog->boot);
  if (fault == NULL)
    fault = take_origin (object, &catalog->origin);
  if (fault == NULL)
    fault = take_layers (object, &catalog->layers);
  if (fault == NULL)
    fault = take_file_lists (object, "making", &catalog->making);
  if (fault == NULL)
    fault = take_file_lists (object, "removing", &catalog->removing);
  return fault == NULL ? catalog_check (catalog) : fault;
}

/* Say so in *WHY. */
static int __attribute__ ((format (printf, 2, 3)))
refuse (char **why, const char *format, ...)
{
  va_list args;

  va_start (args, format);
  if (vasprintf (why, format, args) == -1)
    *why = NULL;
  va_end (args);
  return -1;
}

/* Find the JSON by the first line. */
static int
find_json (const char *text, size_t length, const char **json,
           size_t *json_length, char **why)
{
  char line[FIRST_LINE_MAX + 1] = "", again[FIRST_LINE_MAX + 1];
  unsigned version;
  uint32_t crc;

  memcpy (line, text, length < FIRST_LINE_MAX ? length : FIRST_LINE_MAX);
  if (strncmp (line, FIRST_WORD, strlen (FIRST_WORD)) != 0
      || sscanf (line + strlen (FIRST_WORD), "%9u", &version) != 1)
    return refuse (why, "is no catalogue of fssnap");
  if (version != CATALOG_VERSION)
    return refuse (why, "is of format %u; this fssnap knows %u", version,
                   CATALOG_VERSION);
  if (sscanf (line, FIRST_WORD "%9u %8" SCNx32 " %9zu", &version, &crc,
              json_length)
      != 3)
    return refuse (why, "is damaged (first line)");
  /* There is one way to write it. */
  const int n
      = snprintf (again, sizeof again, FIRST_LINE, version, crc, *json_length);
  if (strncmp (line, again, (size_t)n) != 0)
    return refuse (why, "is damaged (first line)");
  if (*json_length > length - (size_t)n)
    return refuse (why, "is damaged (cut off)");
  *json = text + n;
  if (format_crc (0, *json, *json_length) != crc)
    return refuse (why, "is damaged (checksum)");
  for (const char *p = *json + *json_length; p < text + length; p++)
    if (*p != '\0')
      return refuse (why, "is damaged (bytes behind its end)");
  return 0;
}

int
catalog_parse (const char *text, size_t length, struct catalog *catalog,
               char **why)
{
  const char *json = NULL;
  size_t json_length = 0;
  json_error_t error;

  *why = NULL;
  *catalog = (struct catalog){};
  if (find_json (text, length, &json, &json_length, why) == -1)
    return -1;
  json_auto_t *object
      = json_loadb (json, json_length, JSON_REJECT_DUPLICATES, &error);
  if (object == NULL)
    return json_error_code (&error) == json_error_out_of_memory
               ? -1
               : refuse (why, "is damaged (line %d: %s)", error.line + 1,
                         error.text);
  const char *fault = take_catalog (object, catalog);
  if (fault == NULL)
    return 0;
  catalog_free (catalog);
  return fault == catalog_no_memory ? -1
                                    : refuse (why, "is damaged (%s)", fault);
}

/*----------------------------------------------------------------------*/
/* To JSON.  Objects take what they are given, also if they fail; jansson
 * takes NULL for an object there was no memory for.
 */

static const char *
put (json_t *object, const char *key, json_t *value)
{
  return json_object_set_new (object, key, value) == -1 ? catalog_no_memory
                                                        : NULL;
}

static const char *
put_numbers (json_t *object, const struct number *numbers, const void *from)
{
  for (const struct number *n = numbers; n->key != NULL; n++) {
    const char *field = (const char *)from + n->offset;
    uint64_t bits;

    if (n->type == UINT)
      bits = *(const unsigned *)field;
    else if (n->type == U32)
      bits = *(const uint32_t *)field;
    else
      bits = *(const uint64_t *)field;
    if ((n->type == U64 && bits > INT64_MAX) || (int64_t)bits < n->least
        || (int64_t)bits > n->most)
      return n->key;
    if (put (object, n->key, json_integer ((int64_t)bits)) != NULL)
      return catalog_no_memory;
  }
  return NULL;
}

static const char *
put_uuid (json_t *object, const char *key, const uuid_t uuid)
{
  char text[37];

  uuid_unparse_lower (uuid, text);
  return put (object, key, json_string (text));
}

static const char *
put_files (json_t *object, char *const *files, unsigned parts)
{
  json_t *array = json_array ();

  for (unsigned i = 0; i < parts; i++)
    if (json_array_append_new (array, encode (files[i])) == -1) {
      json_decref (array);
      return catalog_no_memory;
    }
  return put (object, "files", array);
}

static const char *
put_broken (json_t *object, const struct catalog_layer *layer)
{
  if (layer->broken_reason == NULL)
    return put (object, "broken", json_null ());
  if (layer->broken_errno < 0)
    return "broken";
  return put (object, "broken",
              json_pack ("{s:o,s:i,s:I}", "reason",
                         encode (layer->broken_reason), "errno",
                         layer->broken_errno, "time",
                         (json_int_t)layer->broken_time));
}

static const char *
put_policies (json_t *object, const struct catalog_layer *layer)
{
  if (put (object, "durability",
           json_string (policy_durability (layer->durability)))
          != NULL
      || put (object, "level", json_string (policy_durability (layer->level)))
             != NULL
      || put (object, "on-error",
              json_string (policy_on_error (layer->on_error)))
             != NULL)
    return catalog_no_memory;
  return NULL;
}

static const char *
put_counters (json_t *object, const struct catalog_layer *layer)
{
  json_t *numbers = json_object ();
  const char *fault = put_numbers (numbers, counters, layer);

  if (fault == NULL)
    return put (object, "counters", numbers);
  json_decref (numbers);
  return fault;
}

static const char *
put_layer (json_t *object, const struct catalog_layer *layer)
{
  const char *fault = put_uuid (object, "uuid", layer->uuid);

  if (fault == NULL)
    fault
        = put (object, "name",
               layer->name == NULL ? json_null () : json_string (layer->name));
  if (fault == NULL)
    fault = put_numbers (object, layer_numbers, layer);
  if (fault == NULL)
    fault = put_policies (object, layer);
  if (fault == NULL)
    fault = put_files (object, layer->files, layer->parts);
  for (const struct flag *f = layer_flags; fault == NULL && f->key != NULL; f++)
    fault
        = put (object, f->key,
               json_boolean (*(const bool *)((const char *)layer + f->offset)));
  if (fault == NULL)
    fault = put_broken (object, layer);
  if (fault == NULL)
    fault = put_counters (object, layer);
  return fault;
}

static const char *
put_layers (json_t *object, const struct catalog_layer *layer)
{
  json_t *array = json_array ();
  const char *fault = put (object, "layers", array);

  for (; fault == NULL && layer != NULL; layer = layer->next) {
    json_t *item = json_object ();
    fault = put_layer (item, layer);
    if (json_array_append_new (array, item) == -1)
      fault = catalog_no_memory;
  }
  return fault;
}

static const char *
put_file_lists (json_t *object, const char *key,
                const struct catalog_files *files)
{
  json_t *array = json_array ();
  const char *fault = put (object, key, array);

  for (; fault == NULL && files != NULL; files = files->next) {
    json_t *item = json_object ();
    fault = put_uuid (item, "uuid", files->uuid);
    if (fault == NULL)
      fault = put_files (item, files->files, files->parts);
    if (json_array_append_new (array, item) == -1)
      fault = catalog_no_memory;
  }
  return fault;
}

static const char *
put_origin (json_t *object, const struct catalog_origin *origin)
{
  if (origin->path == NULL)
    return put (object, "origin", json_null ());
  json_t *json = json_object ();
  const char *fault = put (object, "origin", json);
  if (fault == NULL)
    fault = put (json, "path", encode (origin->path));
  if (fault == NULL)
    fault = put (json, "identity",
                 encode (origin->identity == NULL ? "" : origin->identity));
  if (fault == NULL)
    fault = put_numbers (json, origin_numbers, origin);
  return fault;
}

static const char *
put_catalog (json_t *object, const struct catalog *catalog)
{
  const char *fault = catalog_check (catalog);

  if (fault == NULL)
    fault = put_uuid (object, "store", catalog->store);
  if (fault == NULL)
    fault = put (object, "generation",
                 json_integer ((json_int_t)catalog->generation));
  if (fault == NULL)
    fault = put (object, "clean", json_boolean (catalog->clean));
  if (fault == NULL)
    fault = put (object, "boot", json_string (catalog->boot));
  if (fault == NULL)
    fault = put_origin (object, &catalog->origin);
  if (fault == NULL)
    fault = put_layers (object, catalog->layers);
  if (fault == NULL)
    fault = put_file_lists (object, "making", catalog->making);
  if (fault == NULL)
    fault = put_file_lists (object, "removing", catalog->removing);
  return fault;
}

char *
catalog_print (const struct catalog *catalog, size_t *length, char **why)
{
  json_auto_t *object = json_object ();
  char *text;

  *why = NULL;
  const char *fault = put_catalog (object, catalog);
  if (fault == catalog_no_memory)
    return NULL;
  if (fault != NULL) {
    refuse (why, "cannot hold this (%s)", fault);
    return NULL;
  }
  SCOPED_FREE char *json = json_dumps (object, JSON_INDENT (1));
  if (json == NULL)
    return NULL;
  const size_t json_length = strlen (json) + 1;
  if (json_length > CATALOG_BYTES_MAX - FIRST_LINE_MAX) {
    refuse (why, "cannot be so large (%zu bytes)", json_length);
    return NULL;
  }
  json[json_length - 1] = '\n';
  const uint32_t crc = format_crc (0, json, json_length);
  const int n = asprintf (&text, FIRST_LINE "%.*s", CATALOG_VERSION, crc,
                          json_length, (int)json_length, json);
  if (n == -1)
    return NULL;
  *length = (size_t)n;
  return text;
}
