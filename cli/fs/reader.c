/* SPDX-License-Identifier: BSD-3-Clause */

#include "reader.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void
refuse_because (struct reading *reading, const char *format, ...)
{
  va_list arguments;

  if (reading->why != NULL)
    return;
  va_start (arguments, format);
  if (vasprintf (&reading->why, format, arguments) == -1)
    reading->why = NULL;
  va_end (arguments);
}

int
reading_get (struct reading *reading, const char *what, void *buffer,
             size_t count, uint64_t offset)
{
  if (source_read (reading->source, buffer, count, offset) == 0)
    return 0;
  if (errno == ERANGE)
    return refuse (reading, "%s should be at %" PRIu64 ", behind the end", what,
                   offset);
  return refuse (reading, "%s at %" PRIu64 " cannot be read: %s", what, offset,
                 strerror (errno));
}

int
reading_free (struct reading *reading, uint64_t offset, uint64_t length)
{
  if (offset > reading->size || length > reading->size - offset
      || reading->size > reading->source->size)
    return refuse (reading,
                   "%" PRIu64 " free bytes at %" PRIu64 " do not lie within it",
                   length, offset);
  if (freemap_add (reading->free, offset, length) == -1)
    return refuse (reading, "no memory");
  return 0;
}
