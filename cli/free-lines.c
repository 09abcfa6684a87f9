/* SPDX-License-Identifier: BSD-3-Clause */

#include "free-lines.h"
#include "figures.h"
#include "output.h"
#include "scoped.h"

#include <jansson.h>
#include <stdlib.h>

static void
put (FILE *out, json_t *line)
{
  if (line == NULL)
    no_memory ();
  json_dumpf (line, out, JSON_COMPACT);
  putc ('\n', out);
  json_decref (line);
}

static void
put_found (void *arg, const struct finding *finding)
{
  put (arg,
       json_pack ("{s:{s:I, s:s, s:I, s:I, s:I, s:s?}}", "found", "partition",
                  (json_int_t)finding->partition, "type", finding->type,
                  "offset", (json_int_t)finding->offset, "size",
                  (json_int_t)finding->size, "free", (json_int_t)finding->free,
                  "kept-because", finding->why));
}

static void
put_free (void *arg, const struct extent *extents, size_t count)
{
  FILE *out = arg;

  for (size_t i = 0; i < count; i++)
    fprintf (out, "%s[%ju,%ju]%s",
             i % FREE_LINE_EXTENTS == 0 ? "{\"free\":[" : ",",
             (uintmax_t)extents[i].offset, (uintmax_t)extents[i].length,
             i % FREE_LINE_EXTENTS == FREE_LINE_EXTENTS - 1 || i + 1 == count
                 ? "]}\n"
                 : "");
}

int
free_lines_write (FILE *out, struct source *source, const struct reader *only)
{
  const struct teller teller
      = { .found = put_found, .free = put_free, .arg = out };

  candidates_find (source, only, &teller);
  put (out, json_pack ("{s:b}", "done", 1));
  return fflush (out) == 0 && !ferror (out) ? 0 : -1;
}

char *
finding_shown (const struct finding *finding)
{
  SCOPED_FREE char *size = size_shown ((json_int_t)finding->size);
  SCOPED_FREE char *free_space = size_shown ((json_int_t)finding->free);
  SCOPED_FREE char *place = finding->partition == 0
                                ? text ("%s", "")
                                : text ("partition %u: ", finding->partition);

  return finding->why != NULL ? text ("%s%s: all of %s is kept: %s", place,
                                      finding->type, size, finding->why)
                              : text ("%s%s: %s of %s are free", place,
                                      finding->type, free_space, size);
}
