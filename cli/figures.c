/* SPDX-License-Identifier: BSD-3-Clause */

#include "figures.h"
#include "output.h"
#include "scoped.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

char *
size_shown (json_int_t bytes)
{
  static const char suffixes[] = "kMGTPE";
  size_t i = 0;

  if (bytes < 1024)
    return text ("%" JSON_INTEGER_FORMAT, bytes);
  /* BYTES is in units that are 1024 times smaller than the suffix's.  What
   * would be rounded to 1024.0 of them is one of the next.
   */
  while (bytes >= 1024 * 1024 - 51) {
    bytes /= 1024;
    i++;
  }
  const json_int_t tenths = (bytes * 10 + 512) / 1024;
  return text ("%" JSON_INTEGER_FORMAT ".%d%c", tenths / 10, (int)(tenths % 10),
               suffixes[i]);
}

char *
age_shown (json_int_t seconds)
{
  const json_int_t minutes = seconds / 60, hours = minutes / 60;

  if (seconds < 0) /* the clock has been set back */
    return text ("0s");
  if (minutes == 0)
    return text ("%" JSON_INTEGER_FORMAT "s", seconds);
  if (hours == 0)
    return text ("%" JSON_INTEGER_FORMAT "m", minutes);
  if (hours < 24)
    return text ("%" JSON_INTEGER_FORMAT "h%02dm", hours, (int)(minutes % 60));
  return text ("%" JSON_INTEGER_FORMAT "d%02dh", hours / 24, (int)(hours % 24));
}

static char *
show_size (const json_t *value)
{
  const json_int_t bytes = json_integer_value (value);
  SCOPED_FREE char *size = size_shown (bytes);

  if (bytes < 1024)
    return text ("%s", size);
  return text ("%" JSON_INTEGER_FORMAT " (%s)", bytes, size);
}

static char *
show_limit (const json_t *value)
{
  return json_integer_value (value) == 0 ? text ("0 (no limit)")
                                         : show_size (value);
}

static char *
show_seconds (const json_t *value)
{
  return text ("%" JSON_INTEGER_FORMAT "s", json_integer_value (value));
}

static char *
show_time (const json_t *value)
{
  const time_t when = (time_t)json_integer_value (value);
  struct tm tm;
  char shown[64];

  if (localtime_r (&when, &tm) == NULL
      || strftime (shown, sizeof shown, "%Y-%m-%d %H:%M:%S %z", &tm) == 0)
    return figure_exact (value);
  return text ("%s", shown);
}

const struct figure snapshot_figures[] = {
  { "snapnumber", figure_exact },
  { "name", figure_exact },
  { "state", figure_exact },
  { "export", figure_exact },
  { "origin", figure_exact },
  { "store", figure_exact },
  { "ephemeral", figure_exact },
  { "size", show_size },
  { "createtime", show_time },
  { "backing-store", figure_exact },
  { "backing-store-len", show_size },
  { "maxsize", show_limit },
  { "chunksize", show_size },
  { "backfile-size", show_limit },
  { "durability", figure_exact },
  { "on-error", figure_exact },
  { "cow-timeout", show_seconds },
  { "clients", figure_exact },
  { "chunks-copied", figure_exact },
  { "chunks-lost", figure_exact },
  { "chunks-free", figure_exact },
  { "bytes-copied", show_size },
  { "bytes-in-memory", show_size },
  { "throttled-writers", figure_exact },
  { "waits", figure_exact },
  { "flush-errors", figure_exact },
  { "reads-origin", show_size },
  { "reads-memory", show_size },
  { "reads-backing-file", show_size },
  { "reads-zero", show_size },
  { "deleted", figure_exact },
  { "broken-reason", figure_exact },
  { "broken-errno", figure_exact },
  { "broken-time", show_time },
  { "blocked-by", figure_exact },
  { "highest", figure_exact },
  {},
};

const struct figure server_figures[] = {
  { "version", figure_exact },
  { "protocol", figure_exact },
  { "pid", figure_exact },
  { "origin", figure_exact },
  { "size", show_size },
  { "store", figure_exact },
  { "readonly", figure_exact },
  { "listen", figure_exact },
  { "snapshots", figure_exact },
  { "highest", figure_exact },
  { "max-memory", show_size },
  { "memory", show_size },
  { "throttled-writers", figure_exact },
  {},
};

static const struct figure *
find_figure (const struct figure *figures, const char *key)
{
  while (figures->key != NULL && strcmp (figures->key, key) != 0)
    figures++;
  return figures->key == NULL ? NULL : figures;
}

const char *
figure_key (const struct figure *figures, const char *given)
{
  /* Solaris names the file system by where it is mounted. */
  const char *key = strcmp (given, "mountpoint") == 0 ? "origin" : given;

  return find_figure (figures, key) == NULL ? NULL : key;
}

char *
figure_keys (const struct figure *figures)
{
  char *keys = text ("%s", figures->key);

  for (figures++; figures->key != NULL; figures++) {
    SCOPED_FREE char *before = keys;
    keys = text ("%s, %s", before, figures->key);
  }
  return keys;
}

/* A value that is not an array, or a whole array as JSON. */
static char *
exact_one (const json_t *value)
{
  if (json_is_null (value))
    return text ("%s", "");
  if (json_is_string (value))
    return text ("%s", json_string_value (value));
  char *exact = json_dumps (value, JSON_COMPACT | JSON_ENCODE_ANY);
  if (exact == NULL)
    no_memory ();
  return exact;
}

char *
figure_exact (const json_t *value)
{
  const json_t *element;
  size_t i;

  if (!json_is_array (value))
    return exact_one (value);
  char *all = text ("%s", "");
  json_array_foreach (value, i, element)
  {
    SCOPED_FREE char *before = all;
    SCOPED_FREE char *exact = exact_one (element);
    all = text ("%s%s%s", before, i == 0 ? "" : " ", exact);
  }
  return all;
}

char *
figure_shown (const struct figure *figures, const char *key,
              const json_t *value)
{
  const struct figure *figure = find_figure (figures, key);

  if (value == NULL || json_is_null (value)
      || (json_is_array (value) && json_array_size (value) == 0))
    return text ("-");
  if (figure != NULL && json_is_integer (value))
    return figure->show (value);
  return figure_exact (value);
}
