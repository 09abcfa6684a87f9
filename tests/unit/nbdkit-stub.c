/* SPDX-License-Identifier: BSD-3-Clause */

#include "cmocka-all.h"
#include "nbdkit-stub.h"
#include "call-hook.h"
#include "scoped.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#define MESSAGES_MAX 1024

/* Messages beyond the room are counted only. */
struct messages {
  unsigned count;
  char text[MESSAGES_MAX][512];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct messages errors, debugs; /* under LOCK */

static void
keep (struct messages *messages, const char *format, va_list args)
{
  const int err = errno;

  pthread_mutex_lock (&lock);
  if (messages->count < MESSAGES_MAX) {
    errno = err; /* for %m */
    vsnprintf (messages->text[messages->count],
               sizeof messages->text[messages->count], format, args);
  }
  messages->count++;
  pthread_mutex_unlock (&lock);
  errno = err;
}

void
nbdkit_error (const char *format, ...)
{
  va_list args;

  va_start (args, format);
  keep (&errors, format, args);
  va_end (args);
}

void
nbdkit_debug (const char *format, ...)
{
  va_list args;

  va_start (args, format);
  keep (&debugs, format, args);
  va_end (args);
}

static pthread_cond_t ending = PTHREAD_COND_INITIALIZER;
static bool ends; /* under LOCK */

_Thread_local bool watched_for_the_end;

int
nbdkit_nanosleep (unsigned seconds, unsigned nanoseconds)
{
  (void)seconds;
  (void)nanoseconds;
  watched_for_the_end = true;
  call_hook_off = true;
  pthread_mutex_lock (&lock);
  while (!ends)
    pthread_cond_wait (&ending, &lock);
  pthread_mutex_unlock (&lock);
  call_hook_off = false;
  errno = ESHUTDOWN;
  return -1;
}

void
server_runs (void)
{
  SCOPED_LOCK (&lock);
  ends = false;
}

void
server_ends (void)
{
  SCOPED_LOCK (&lock);
  ends = true;
  pthread_cond_broadcast (&ending);
}

void
messages_clear (void)
{
  SCOPED_LOCK (&lock);
  errors.count = debugs.count = 0;
}

unsigned
messages_count (void)
{
  SCOPED_LOCK (&lock);
  return errors.count;
}

static unsigned
with (const struct messages *messages, const char *text)
{
  unsigned n = 0;

  SCOPED_LOCK (&lock);
  for (unsigned i = 0; i < messages->count && i < MESSAGES_MAX; i++)
    n += strstr (messages->text[i], text) != NULL;
  return n;
}

unsigned
messages_with (const char *text)
{
  return with (&errors, text);
}

unsigned
debugs_with (const char *text)
{
  return with (&debugs, text);
}

void
messages_show (void)
{
  SCOPED_LOCK (&lock);
  for (unsigned i = 0; i < errors.count && i < MESSAGES_MAX; i++)
    print_message ("logged: %s\n", errors.text[i]);
}

void
assert_messages (const char *file, int line, unsigned count,
                 const char *const *texts)
{
  if (messages_count () != count) {
    messages_show ();
    print_message ("%u messages instead of %u\n", messages_count (), count);
    _fail (file, line);
  }
  for (; *texts != NULL; texts++)
    if (messages_with (*texts) == 0) {
      messages_show ();
      print_message ("no message with \"%s\"\n", *texts);
      _fail (file, line);
    }
}

/* As nbdkit does it, its message included. */
int64_t
nbdkit_parse_size (const char *text)
{
  static const char suffixes[] = "bkmgtpe";
  char *end;
  int shift = 0;

  errno = 0;
  const long long size = strtoll (text, &end, 10);
  if (end == text || size < 0 || errno != 0)
    goto bad;
  if (*end == 's' || *end == 'S')
    shift = 9;
  else if (*end != '\0') {
    const char *suffix = strchr (suffixes, *end | 0x20);
    if (suffix == NULL)
      goto bad;
    shift = 10 * (int)(suffix - suffixes);
  }
  if ((*end != '\0' && end[1] != '\0') || size > INT64_MAX >> shift)
    goto bad;
  return size << shift;

bad:
  nbdkit_error ("could not parse size string (%s)", text);
  return -1;
}

char *
nbdkit_absolute_path (const char *path)
{
  SCOPED_FREE char *directory = NULL;
  char *absolute;

  if (path == NULL || *path == '\0') {
    nbdkit_error ("cannot convert null or empty path to an absolute path");
    return NULL;
  }
  if (*path == '/')
    return strdup (path);
  directory = getcwd (NULL, 0);
  if (directory == NULL || asprintf (&absolute, "%s/%s", directory, path) == -1)
    return NULL;
  return absolute;
}

int
nbdkit_add_extent (struct nbdkit_extents *extents, uint64_t offset,
                   uint64_t length, uint32_t type)
{
  const unsigned n = extents->count;

  assert (length > 0);
  if (n > 0) {
    assert (extents->extent[n - 1].offset + extents->extent[n - 1].length
            == offset);
    if (extents->extent[n - 1].type == type) {
      extents->extent[n - 1].length += length;
      return 0;
    }
  }
  assert (n < STUB_EXTENTS_MAX);
  extents->extent[n].offset = offset;
  extents->extent[n].length = length;
  extents->extent[n].type = type;
  extents->count++;
  return 0;
}

void
assert_extent_at (const char *file, int line,
                  const struct nbdkit_extents *extents, unsigned i,
                  uint64_t offset, uint64_t length, uint32_t type)
{
  if (i < extents->count && extents->extent[i].offset == offset
      && extents->extent[i].length == length && extents->extent[i].type == type)
    return;
  for (unsigned k = 0; k < extents->count; k++)
    print_message ("extent %u: %" PRIu64 " + %" PRIu64 ", type %" PRIu32 "\n",
                   k, extents->extent[k].offset, extents->extent[k].length,
                   extents->extent[k].type);
  print_message ("expected %u: %" PRIu64 " + %" PRIu64 ", type %" PRIu32 "\n",
                 i, offset, length, type);
  _fail (file, line);
}
