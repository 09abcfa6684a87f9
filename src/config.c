/* SPDX-License-Identifier: BSD-3-Clause */

#include "config.h"
#include "report.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#define CHUNK_MIN 512
#define CHUNK_MAX (UINT64_C (64) << 20)

/* Small chunks copy little more than what is written; runs make up for them
 * on large writes.  The measurements are in docs/chunk-size.md.
 */
#define CHUNK_DEFAULT 4096

/* Below this the server's threads would wait for each other all the time. */
#define MEMORY_MIN (UINT64_C (1) << 20)
#define MEMORY_DEFAULT (UINT64_C (64) << 20)

/* Shorter than the 30 seconds after which Linux resets a SCSI disk. */
#define TIMEOUT_DEFAULT 20
#define TIMEOUT_MAX 86400

static int
refuse (const char *key, const char *value, const char *allowed)
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

static int
set_size (const char *key, const char *value, uint64_t *size)
{
  if (!parse_size (value, size))
    return refuse (key, value,
                   "a size: a whole number of bytes, or one with a suffix "
                   "of k, M, G, T (such as 512M)");
  return 0;
}

/* One of the words that are separated by '|' in WORDS: its index. */
static int
set_word (const char *key, const char *value, const char *words)
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
  return refuse (key, value, words);
}

static int
set_path (const char *key, const char *value, char **path)
{
  if (*path != NULL) {
    report_error ("%s=%s: given twice, the first was %s", key, value, *path);
    return -1;
  }
  if (*value == '\0')
    return refuse (key, value, "a path");
  *path = nbdkit_absolute_path (value);
  return *path == NULL ? -1 : 0;
}

static int
set_chunksize (struct config *config, const char *key, const char *value)
{
  uint64_t size;

  if (!parse_size (value, &size) || size < CHUNK_MIN || size > CHUNK_MAX
      || (size & (size - 1)) != 0)
    return refuse (key, value, "a power of two from 512 to 64M");
  config->snapshot.chunk_size = size;
  return 0;
}

static int
set_timeout (struct config *config, const char *key, const char *value)
{
  uint64_t seconds;

  if (strspn (value, "0123456789") != strlen (value)
      || !parse_size (value, &seconds) || seconds < 1 || seconds > TIMEOUT_MAX)
    return refuse (key, value, "a number of seconds from 1 to 86400");
  config->snapshot.cow_timeout = (unsigned)seconds;
  return 0;
}

static int
set_io (struct config *config, const char *key, const char *value)
{
  const int r = set_word (key, value, "uring|sync");

  if (r == -1)
    return -1;
  config->engine = r == 0 ? &engine_uring : &engine_sync;
  config->fallback = NULL;
  return 0;
}

void
config_init (struct config *config)
{
  *config = (struct config){
    .max_memory = MEMORY_DEFAULT,
    .snapshot_at_start = true,
    .engine = &engine_uring,
    .fallback = &engine_sync,
    .snapshot = {
      .chunk_size = CHUNK_DEFAULT,
      .durability = DURABILITY_ASYNC,
      .on_error = ON_ERROR_BREAK_SNAPSHOT,
      .cow_timeout = TIMEOUT_DEFAULT,
    },
  };
}

void
config_free (struct config *config)
{
  free (config->origin);
  free (config->backing_store);
  config_init (config);
}

int
config_set (struct config *config, const char *key, const char *value)
{
  struct snapshot_options *options = &config->snapshot;
  int r;

  if (strcmp (key, "origin") == 0)
    return set_path (key, value, &config->origin);
  if (strcmp (key, "backing-store") == 0)
    return set_path (key, value, &config->backing_store);
  if (strcmp (key, "chunksize") == 0)
    return set_chunksize (config, key, value);
  if (strcmp (key, "backfile-size") == 0)
    return set_size (key, value, &options->backfile_size);
  if (strcmp (key, "maxsize") == 0)
    return set_size (key, value, &options->maxsize);
  if (strcmp (key, "max-memory") == 0) {
    config->max_memory_given = true;
    return set_size (key, value, &config->max_memory);
  }
  if (strcmp (key, "cow-timeout") == 0)
    return set_timeout (config, key, value);
  if (strcmp (key, "io") == 0)
    return set_io (config, key, value);
  if (strcmp (key, "snapshot") == 0) {
    r = set_word (key, value, "yes|no");
    config->snapshot_at_start = r == 0;
    return r == -1 ? -1 : 0;
  }
  if (strcmp (key, "durability") == 0) {
    r = set_word (key, value, "async|written");
    options->durability = r == 1 ? DURABILITY_WRITTEN : DURABILITY_ASYNC;
    config->durability_given = true;
    return r == -1 ? -1 : 0;
  }
  if (strcmp (key, "on-error") == 0) {
    r = set_word (key, value, "break-snapshot|break-write");
    options->on_error = r == 1 ? ON_ERROR_BREAK_WRITE : ON_ERROR_BREAK_SNAPSHOT;
    return r == -1 ? -1 : 0;
  }

#define CONFIG_NAME(name, takes, standard, meaning) " " name
  report_error ("%s=%s: there is no such parameter; allowed are:%s", key, value,
                CONFIG_PARAMETERS (CONFIG_NAME));
  return -1;
}

/* A backing store of our own choice. */
static int
default_store (struct config *config)
{
  const char *directory = getenv ("TMPDIR");
  struct stat st;

  if (directory == NULL || *directory == '\0')
    directory = "/var/tmp";
  config->backing_store = nbdkit_absolute_path (directory);
  if (config->backing_store == NULL)
    return -1;
  /* Anything else would pass for the name of a new file. */
  if (stat (config->backing_store, &st) == -1 || !S_ISDIR (st.st_mode)) {
    report_error ("TMPDIR=%s: must be a directory; or set backing-store=",
                  directory);
    return -1;
  }
  return 0;
}

int
config_check (struct config *config)
{
  struct snapshot_options *options = &config->snapshot;
  const uint64_t least_part = backfile_least_part (options->chunk_size);
  uint64_t least_memory = 2 * throttle_least (options->chunk_size);

  if (config->origin == NULL) {
    report_error ("origin=PATH is missing: say which block device or image "
                  "file to serve");
    return -1;
  }
  if (options->maxsize > 0 && options->maxsize < options->chunk_size) {
    report_error ("maxsize=%" PRIu64 ": must be 0 (no limit) or at least the "
                  "chunk size, %" PRIu64,
                  options->maxsize, options->chunk_size);
    return -1;
  }
  if (options->backfile_size > 0 && options->backfile_size < least_part) {
    report_error ("backfile-size=%" PRIu64 ": must be 0 (one file) or at "
                  "least %" PRIu64 " with chunksize=%" PRIu64,
                  options->backfile_size, least_part, options->chunk_size);
    return -1;
  }
  if (least_memory < MEMORY_MIN)
    least_memory = MEMORY_MIN;
  if (!config->max_memory_given && config->max_memory < least_memory)
    config->max_memory = least_memory;
  if (config->max_memory < least_memory) {
    report_error ("max-memory=%" PRIu64 ": must be at least %" PRIu64
                  " with chunksize=%" PRIu64,
                  config->max_memory, least_memory, options->chunk_size);
    return -1;
  }
  if (options->on_error == ON_ERROR_BREAK_WRITE) {
    /* A write that has gone through cannot be made to fail any more. */
    if (config->durability_given && options->durability == DURABILITY_ASYNC) {
      report_error ("durability=async: must be written with "
                    "on-error=break-write, since a write can only be made to "
                    "fail before it is done");
      return -1;
    }
    options->durability = DURABILITY_WRITTEN;
  }
  if (config->backing_store == NULL && default_store (config) == -1)
    return -1;
  options->backing_store = config->backing_store;
  return 0;
}

void
config_dump (void)
{
#define CONFIG_DUMP_LINE(name, takes, standard, meaning)                       \
  "fssnap_" name "=" takes " (default: " standard ")\n"
  fputs (CONFIG_PARAMETERS (CONFIG_DUMP_LINE), stdout);
}
