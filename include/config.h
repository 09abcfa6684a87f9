/* SPDX-License-Identifier: BSD-3-Clause */
/* The plugin's parameters. */

#ifndef FSSNAP_CONFIG_H
#define FSSNAP_CONFIG_H

#include "engine.h"
#include "options.h"

#include <stdbool.h>
#include <stdint.h>

struct config {
  char *origin;        /* absolute path */
  char *control;       /* absolute path, or NULL */
  char *store;         /* likewise */
  uint64_t max_memory; /* bytes */
  bool snapshot_at_start;
  bool find_free; /* in what the snapshot at start keeps */
  bool max_memory_given;
  const struct engine_type *engine;
  const struct engine_type *fallback; /* NULL if IO was chosen */
  struct options options;             /* of the snapshot at start; the
                                         defaults of those to come */
};

/* Name, what it takes, default, meaning; in the order of the manual. */
#define CONFIG_PARAMETERS(P)                                                   \
  P ("origin", "PATH", "required",                                             \
     "the block device or image file to serve and freeze")                     \
  P ("snapshot", "yes|no", "yes", "freeze the origin at start")                \
  P ("candidates", "all|auto", "all",                                          \
     "what the snapshot at start keeps: auto leaves out free space")           \
  P ("chunksize", "SIZE", "4k",                                                \
     "unit of copying, a power of two from 512 to 64M")                        \
  P ("backing-store", "PATH", "the store, $TMPDIR or /var/tmp",                \
     "where copies go: a directory, or a new file")                            \
  P ("store", "DIR", "none",                                                   \
     "where snapshots outlive the server; a directory, made if absent")        \
  P ("backfile-size", "SIZE", "0",                                             \
     "split the backing file into files of at most this; 0: one file")         \
  P ("maxsize", "SIZE", "0", "limit on the bytes copied; 0: none")             \
  P ("max-memory", "SIZE", "64M, or two chunks",                               \
     "limit on copies waiting in memory")                                      \
  P ("durability", "async|written|stable", "async; with a store: written",     \
     "where a copy must be before the origin is overwritten")                  \
  P ("on-error", "break-snapshot|break-write", "break-snapshot",               \
     "what gives way when a copy fails")                                       \
  P ("cow-timeout", "SECONDS", "20",                                           \
     "longest that a write waits for the backing store, 1 to 86400")           \
  P ("io", "uring|sync", "uring, or sync if refused",                          \
     "how the backing file is written")                                        \
  P ("control", "PATH", "none",                                                \
     "a socket to be made, for taking and deleting snapshots at run time")

#define CONFIG_HELP_LINE(name, takes, standard, meaning)                       \
  name "=" takes "  (default: " standard ")\n    " meaning "\n"

/* For nbdkit --help. */
#define CONFIG_HELP CONFIG_PARAMETERS (CONFIG_HELP_LINE)

/* The defaults. */
void config_init (struct config *config);
void config_free (struct config *config);

/* Take one parameter.  0, or -1 after one message. */
int config_set (struct config *config, const char *key, const char *value);

/* All are taken: fill in what depends on the rest, refuse what does not go
 * together.  0, or -1 after one message.
 */
int config_check (struct config *config);

/* Print the parameters for nbdkit --dump-plugin. */
void config_dump (void);

#endif
