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

#define MEMORY_DEFAULT (UINT64_C (64) << 20)

static int
set_path (const char *key, const char *value, char **path)
{
  if (*path != NULL) {
    report_error ("%s=%s: given twice, the first was %s", key, value, *path);
    return -1;
  }
  if (*value == '\0')
    return options_refuse (key, value, "a path");
  *path = nbdkit_absolute_path (value);
  return *path == NULL ? -1 : 0;
}

static int
set_io (struct config *config, const char *key, const char *value)
{
  const int r = options_parse_word (key, value, "uring|sync");

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
  };
  options_init (&config->options);
}

void
config_free (struct config *config)
{
  free (config->origin);
  free (config->control);
  free (config->store);
  options_free (&config->options);
  config_init (config);
}

static int
set_backing_store (struct config *config, const char *key, const char *value)
{
  char *path = NULL;

  if (config->options.backing_store != NULL) {
    report_error ("%s=%s: given twice, the first was %s", key, value,
                  config->options.backing_store);
    return -1;
  }
  if (set_path (key, value, &path) == -1)
    return -1;
  const int r = options_set (&config->options, key, path);
  free (path);
  return r == -1 ? -1 : 0;
}

int
config_set (struct config *config, const char *key, const char *value)
{
  int r;

  if (strcmp (key, "origin") == 0)
    return set_path (key, value, &config->origin);
  if (strcmp (key, "control") == 0)
    return set_path (key, value, &config->control);
  if (strcmp (key, "store") == 0)
    return set_path (key, value, &config->store);
  if (strcmp (key, "backing-store") == 0)
    return set_backing_store (config, key, value);
  if (strcmp (key, "max-memory") == 0) {
    config->max_memory_given = true;
    return options_parse_size (key, value, &config->max_memory);
  }
  if (strcmp (key, "io") == 0)
    return set_io (config, key, value);
  if (strcmp (key, "candidates") == 0) {
    r = options_parse_word (key, value, "all|auto");
    config->find_free = r == 1;
    return r == -1 ? -1 : 0;
  }
  if (strcmp (key, "snapshot") == 0) {
    r = options_parse_word (key, value, "yes|no");
    config->snapshot_at_start = r == 0;
    return r == -1 ? -1 : 0;
  }
  r = options_set (&config->options, key, value);
  if (r != 0)
    return r == -1 ? -1 : 0;

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
  if (set_backing_store (config, "backing-store", directory) == -1)
    return -1;
  /* Anything else would pass for the name of a new file. */
  if (stat (config->options.backing_store, &st) == -1
      || !S_ISDIR (st.st_mode)) {
    report_error ("TMPDIR=%s: must be a directory; or set backing-store=",
                  directory);
    return -1;
  }
  return 0;
}

/* In a store snapshots survive kill -9, unless asked otherwise. */
static int
check_durability (struct config *config)
{
  struct options *options = &config->options;

  if (config->store == NULL
      && options->snapshot.durability == DURABILITY_STABLE) {
    report_error ("durability=stable: needs a store that outlives the server "
                  "(store=DIR)");
    return -1;
  }
  if (config->store != NULL && !options->durability_given)
    options->snapshot.durability = DURABILITY_WRITTEN;
  return options_check (options);
}

int
config_check (struct config *config)
{
  const uint64_t least = options_least_memory (&config->options);

  if (config->origin == NULL) {
    report_error ("origin=PATH is missing: say which block device or image "
                  "file to serve");
    return -1;
  }
  if (check_durability (config) == -1)
    return -1;
  if (!config->max_memory_given && config->max_memory < least)
    config->max_memory = least;
  if (config->max_memory < least) {
    report_error ("max-memory=%" PRIu64 ": must be at least %" PRIu64
                  " with chunksize=%" PRIu64,
                  config->max_memory, least,
                  config->options.snapshot.chunk_size);
    return -1;
  }
  if (config->options.backing_store != NULL)
    return 0;
  return config->store != NULL
             ? set_backing_store (config, "backing-store", config->store)
             : default_store (config);
}

void
config_dump (void)
{
#define CONFIG_DUMP_LINE(name, takes, standard, meaning)                       \
  "fssnap_" name "=" takes " (default: " standard ")\n"
  fputs (CONFIG_PARAMETERS (CONFIG_DUMP_LINE), stdout);
}
