/* SPDX-License-Identifier: BSD-3-Clause */

#include "report.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

static _Thread_local bool keeping;
static _Thread_local char *kept;

void
report_error (const char *format, ...)
{
  const int err = errno;
  va_list args;
  char *text;

  va_start (args, format);
  errno = err; /* for %m */
  const int r = vasprintf (&text, format, args);
  va_end (args);
  if (r == -1) {
    nbdkit_error ("no memory for the message: %s", format);
    errno = err;
    return;
  }
  nbdkit_error ("%s", text);
  if (keeping && kept == NULL)
    kept = text;
  else
    free (text);
  errno = err;
}

void
report_begin (void)
{
  free (kept);
  kept = NULL;
  keeping = true;
}

char *
report_end (void)
{
  char *text = kept;

  kept = NULL;
  keeping = false;
  return text;
}
