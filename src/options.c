/* SPDX-License-Identifier: BSD-3-Clause */

#include "options.h"
#include "report.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK_MIN 512
#define CHUNK_MAX (UINT64_C (64) << 20)

/* Small chunks copy little more than what is written; runs make up for them
 * on large writes.  The measurements are in docs/chunk-size.md.
 */
#define CHUNK_DEFAULT 4096

/* Below this the server's threads would wait for each other all the time. */
#define MEMORY_MIN (UINT64_C (1) << 20)

/* Shorter than the 30 seconds after which Linux resets a SCSI disk. */
#define TIMEOUT_DEFAULT 20
#define TIMEOUT_MAX 86400

int
options_refuse (const char *key, const char *value, const char *allowed)
{
  report_error ("%s=%s: must be %s", key, value, allowed);
  return -1;
}

/* As nbdkit_parse_size, but without a message of its own, which would name
 * no parameter.
 */
static bool
parse_size (const char *value, uint64_t *size)
{
  static const char suffixes[] = "bkmgtpe";
  char *end;

  if (*value < '0' || *value > '9')
    return false;
  errno = 0;
  const uint64_t number = strtoull (value, &end, 10);
  if (errno != 0)
    return false;
  unsigned shift = 0;
  if (*end == 's' || *end == 'S') { /* sectors */
    shift = 9;
    end++;
  }
  else if (*end != '\0') {
    const char *suffix = strchr (suffixes, tolower ((unsigned char)*end));
    if (suffix == NULL)
      return false;
    shift = 10 * (unsigned)(suffix - suffixes);
    end++;
  }
  if (*end != '\0' || number > (uint64_t)INT64_MAX >> shift)
    return false;
  *size = number << shift;
  return true;
}

int
options_parse_size (const char *key, const char *value, uint64_t *size)
{
  if (!parse_size (value, size))
    return options_refuse (
        key, value,
        "a size: a whole number of bytes, or one with a suffix "
        "of k, M, G, T (such as 512M)");
  return 0;
}

/* One of the words that are separated by '|' in WORDS: its index. */
int
options_parse_word (const char *key, const char *value, const char *words)
{
  const size_t length = strlen (value);
  int i = 0;

  for (const char *word = words;; i++) {
    const size_t n = strcspn (word, "|");
    if (n == length && memcmp (word, value, n) == 0)
      return i;
    if (word[n] == '\0')
      break;
    word += n + 1;
  }
  return options_refuse (key, value, words);
}

static int
set_chunksize (struct options *options, const char *key, const char *value)
{
  uint64_t size;

  if (!parse_size (value, &size) || size < CHUNK_MIN || size > CHUNK_MAX
      || (size & (size - 1)) != 0)
    return options_refuse (key, value, "a power of two from 512 to 64M");
  options->snapshot.chunk_size = size;
  return 0;
}

static int
set_timeout (struct options *options, const char *key, const char *value)
{
  uint64_t seconds;

  if (strspn (value, "0123456789") != strlen (value)
      || !parse_size (value, &seconds) || seconds < 1 || seconds > TIMEOUT_MAX)
    return options_refuse (key, value, "a number of seconds from 1 to 86400");
  options->snapshot.cow_timeout = (unsigned)seconds;
  return 0;
}

static int
set_store (struct options *options, const char *key, const char *value)
{
  if (*value != '/')
    return options_refuse (key, value, "an absolute path");
  char *path = strdup (value);
  if (path == NULL) {
    report_error ("%s=%s: %m", key, value);
    return -1;
  }
  free (options->backing_store);
  options->backing_store = path;
  options->snapshot.backing_store = path;
  return 0;
}

void
options_init (struct options *options)
{
  *options = (struct options){
    .snapshot = {
      .chunk_size = CHUNK_DEFAULT,
      .durability = DURABILITY_ASYNC,
      .on_error = ON_ERROR_BREAK_SNAPSHOT,
      .cow_timeout = TIMEOUT_DEFAULT,
    },
  };
}

int
options_copy (struct options *options, const struct options *from)
{
  *options = *from;
  options->durability_given = false;
  options->backing_store = strdup (from->backing_store);
  options->snapshot.backing_store = options->backing_store;
  if (options->backing_store == NULL) {
    report_error ("no memory for the options of a snapshot: %m");
    return -1;
  }
  return 0;
}

void
options_free (struct options *options)
{
  free (options->backing_store);
  options_init (options);
}

int
options_set (struct options *options, const char *key, const char *value)
{
  struct snapshot_options *snapshot = &options->snapshot;
  int r;

  if (strcmp (key, "backing-store") == 0)
    r = set_store (options, key, value);
  else if (strcmp (key, "chunksize") == 0)
    r = set_chunksize (options, key, value);
  else if (strcmp (key, "backfile-size") == 0)
    r = options_parse_size (key, value, &snapshot->backfile_size);
  else if (strcmp (key, "maxsize") == 0)
    r = options_parse_size (key, value, &snapshot->maxsize);
  else if (strcmp (key, "cow-timeout") == 0)
    r = set_timeout (options, key, value);
  else if (strcmp (key, "durability") == 0) {
    r = policy_parse_durability (value);
    if (r == -1)
      return options_refuse (key, value, "async|written|stable");
    snapshot->durability = (enum durability)r;
    options->durability_given = true;
  }
  else if (strcmp (key, "on-error") == 0) {
    r = policy_parse_on_error (value);
    if (r == -1)
      return options_refuse (key, value, "break-snapshot|break-write");
    snapshot->on_error = (enum on_error)r;
  }
  else
    return 0;
  return r == -1 ? -1 : 1;
}

int
options_check (struct options *options)
{
  struct snapshot_options *snapshot = &options->snapshot;
  const uint64_t least_part = backfile_least_part (snapshot->chunk_size);

  if (snapshot->maxsize > 0 && snapshot->maxsize < snapshot->chunk_size) {
    report_error ("maxsize=%" PRIu64 ": must be 0 (no limit) or at least the "
                  "chunk size, %" PRIu64,
                  snapshot->maxsize, snapshot->chunk_size);
    return -1;
  }
  if (snapshot->backfile_size > 0 && snapshot->backfile_size < least_part) {
    report_error ("backfile-size=%" PRIu64 ": must be 0 (one file) or at "
                  "least %" PRIu64 " with chunksize=%" PRIu64,
                  snapshot->backfile_size, least_part, snapshot->chunk_size);
    return -1;
  }
  if (snapshot->on_error == ON_ERROR_BREAK_WRITE) {
    /* A write that has gone through cannot be made to fail any more. */
    if (options->durability_given && snapshot->durability == DURABILITY_ASYNC) {
      report_error ("durability=async: must be written or stable with "
                    "on-error=break-write, since a write can only be made to "
                    "fail before it is done");
      return -1;
    }
    if (snapshot->durability == DURABILITY_ASYNC)
      snapshot->durability = DURABILITY_WRITTEN;
  }
  return 0;
}

uint64_t
options_least_memory (const struct options *options)
{
  const uint64_t least = 2 * throttle_least (options->snapshot.chunk_size);

  return least > MEMORY_MIN ? least : MEMORY_MIN;
}
