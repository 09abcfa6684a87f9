/* SPDX-License-Identifier: BSD-3-Clause */
/* What the core calls of nbdkit, for programs that are not nbdkit.  Messages
 * are put together, so that what they quote is looked at, and dropped.
 */

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

static void
drop (const char *format, va_list args)
{
  const int err = errno;
  char text[512];

  vsnprintf (text, sizeof text, format, args);
  errno = err;
}

void
nbdkit_error (const char *format, ...)
{
  va_list args;

  va_start (args, format);
  drop (format, args);
  va_end (args);
}

void
nbdkit_debug (const char *format, ...)
{
  va_list args;

  va_start (args, format);
  drop (format, args);
  va_end (args);
}

char *
nbdkit_absolute_path (const char *path)
{
  return strdup (path);
}

int
nbdkit_add_extent (struct nbdkit_extents *extents, uint64_t offset,
                   uint64_t length, uint32_t type)
{
  (void)extents;
  (void)offset;
  (void)length;
  (void)type;
  return 0;
}
