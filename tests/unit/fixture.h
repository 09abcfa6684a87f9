/* SPDX-License-Identifier: BSD-3-Clause */
/* An origin with known content, a flusher and a chain, for one test.
 *
 * All its files have no names, so that nothing is left behind whatever
 * happens to the test; but for a store, which is in the scratch directory.
 */

#ifndef FSSNAP_FIXTURE_H
#define FSSNAP_FIXTURE_H

#include "cow.h"
#include "lookup.h"
#include "origin.h"
#include "reclaim.h"
#include "snapset.h"
#include "view.h"

#include <stdbool.h>
#include <stdint.h>

struct fixture {
  /* What fixture_open needs, or 0 for: 1 MiB, engine_sync, 64 MiB. */
  uint64_t size;
  const struct engine_type *engine;
  uint64_t memory;
  const char *in_store;   /* the store's directory; 0: it has none */
  const uint8_t *content; /* what the origin holds at first; 0: old_byte */

  /* What it makes. */
  int fd;       /* the origin's file, past all that is tested */
  uint8_t *old; /* SIZE bytes: what the origin holds at first */
  char path[32];
  struct origin *origin;
  struct store *store; /* or NULL */
  struct snapset *set;
  struct reclaim *reclaim;         /* NULL until fixture_reclaim */
  struct snapshot_options options; /* for fixture_freeze: 4 KiB chunks */
};

/* The directory for the files of tests. */
const char *test_directory (void);

/* A new file of SIZE bytes (a hole) without a name, and what to open to
 * have it once more, a path in PATH.
 */
int unnamed_file (uint64_t size, char path[32]);

/* The byte that an origin has at OFFSET at first (never 0). */
uint8_t old_byte (uint64_t offset);

void fixture_open (struct fixture *fixture);

/* Ends all threads and frees everything.  A store is left as by kill -9. */
void fixture_close (struct fixture *fixture);

/* The two halves of fixture_open: the origin, and a server of it, with what
 * is in the store; and the end of the server alone.  CLEAN: as by SIGTERM, but
 * then nobody else may be at work.
 */
void fixture_make_origin (struct fixture *fixture);
void fixture_serve (struct fixture *fixture);
void fixture_end (struct fixture *fixture, bool clean);

/* The end and, with the same origin, another server. */
void fixture_restart (struct fixture *fixture, bool clean);

/* The snapshot of that number, not deleted, or NULL. */
struct snapshot *fixture_find (struct fixture *fixture, unsigned number);

/* Start clearing away; one fixture at a time. */
void fixture_reclaim (struct fixture *fixture);

/* Wait until all is cleared away that can be: the thread sleeps, what it and
 * others gave to flushers is done, and nothing of that woke it.  Nobody else
 * may be at work, and no store may hang.
 */
void fixture_settle (struct fixture *fixture);

/* Layers in the chain, and those that left it and are not freed yet. */
unsigned fixture_layers (struct fixture *fixture);
unsigned fixture_dropped (struct fixture *fixture);

struct snapshot *fixture_freeze (struct fixture *fixture);

/* Delete one that is there; by force, if clients have it open. */
void fixture_delete (struct fixture *fixture, struct snapshot *snapshot);

/* Write COUNT bytes of VALUE through copy-on-write.  0, or -1 with errno. */
int fixture_write (struct fixture *fixture, uint64_t offset, uint64_t count,
                   uint8_t value);

/* Wait until SNAPSHOT's flusher has taken all that was queued before. */
void fixture_pass (struct snapshot *snapshot);

/* Wait until the flusher has done all that was queued for SNAPSHOT. */
void fixture_drain (struct snapshot *snapshot);

/* Whether the call is about the origin's file. */
bool fixture_is_origin (const struct fixture *fixture, int fd);

/* SNAPSHOT reads as EXPECTED (which begins at offset 0) in this range. */
#define assert_reads(fixture, snapshot, expected, offset, count)               \
  assert_reads_at (__FILE__, __LINE__, fixture, snapshot, expected, offset,    \
                   count)
void assert_reads_at (const char *file, int line, struct fixture *fixture,
                      struct snapshot *snapshot, const uint8_t *expected,
                      uint64_t offset, uint64_t count);

/* All of SNAPSHOT reads as the origin was at first. */
#define assert_frozen(fixture, snapshot)                                       \
  assert_reads (fixture, snapshot, (fixture)->old, 0, (fixture)->size)

#endif
