/* SPDX-License-Identifier: BSD-3-Clause */
/* What every integration test stands on: a server in a directory of its
 * own, an image, connections to it.  All of it goes with the test, also
 * when that fails or is killed by a timeout.
 *
 * What goes wrong in here fails the test that is running.
 *
 * For who looks why: FSSNAP_TEST_ONLY=PATTERN runs some of a program's tests,
 * FSSNAP_TEST_LOG=1 shows the servers' logs.
 */

#ifndef FSSNAP_TEST_FIXTURE_H
#define FSSNAP_TEST_FIXTURE_H

#include "server.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <libnbd.h>

struct faultfs;

/* One way to run a test: parameters for the server, and where it is. */
struct variant {
  const char *name;          /* for people */
  const char *parameters[6]; /* ends with NULL */
  const char *directory;     /* NULL: $FSSNAP_TEST_DIR or /dev/shm */
};

struct fixture {
  const struct variant *variant; /* NULL: none */
  struct server server;
  char image[128];        /* the origin, in the server's directory */
  uint64_t size;          /* bytes of it, as made */
  char mount[96];         /* a file system of this test, or "" */
  struct faultfs *faults; /* mounted there, or NULL */
  struct nbd_handle *handles[32];
  unsigned handle_count;
  struct kept *kept;
  size_t kept_count;
  unsigned runs; /* of nbdkit by run_nbdkit, that need a socket */
};

/* For cmocka: *STATE is a variant or NULL before, a fixture after. */
int fixture_set_up (void **state);
int fixture_tear_down (void **state);

#define fixture_test(f)                                                        \
  cmocka_unit_test_setup_teardown (f, fixture_set_up, fixture_tear_down)

/* Run each of TESTS as each of VARIANTS.  What main returns. */
int run_variants (const char *group, const struct CMUnitTest *tests,
                  size_t test_count, const struct variant *variants,
                  size_t variant_count);

#define RUN_VARIANTS(group, tests, variants)                                   \
  run_variants (group, tests, sizeof tests / sizeof *tests, variants,          \
                sizeof variants / sizeof *variants)

/* Get a mount namespace, so that no mount outlives this process.  Before
 * the first thread; false if this cannot be had here.
 */
bool private_mounts (void);

/* WHAT goes with the test, by RELEASE. */
void keep (struct fixture *f, void *what, void (*release) (void *what));

/* Release now what was kept since there were COUNT. */
void forget (struct fixture *f, size_t count);

/* Memory that goes with the test. */
void *scratch (struct fixture *f, size_t bytes);
const char *text (struct fixture *f, const char *format, ...)
    __attribute__ ((format (printf, 2, 3)));

/* COUNT bytes, none of them zero, told apart by where they are (OFFSET on)
 * and by SEED.
 */
uint8_t *pattern (struct fixture *f, unsigned seed, uint64_t offset,
                  size_t count);

/* Make f->image of SIZE bytes of the pattern 1; returns its content. */
uint8_t *make_image (struct fixture *f, uint64_t size);

/* Start f->server on f->image with the variant's parameters and those
 * given, a list that ends with NULL.
 */
void start (struct fixture *f, ...) __attribute__ ((sentinel));

/* End it, closing all connections: it must end well. */
void stop (struct fixture *f);

/* A connection to an export. */
struct nbd_handle *connect_to (struct fixture *f, const char *export);

/* A handle for the test to connect by itself. */
struct nbd_handle *new_handle (struct fixture *f);

/* The call must succeed, or fail with ERR (an errno). */
#define ok(call) assert_ok ((call) != -1, #call, __FILE__, __LINE__)
#define fails(call, err)                                                       \
  assert_fails ((call) == -1, err, #call, __FILE__, __LINE__)
void assert_ok (bool good, const char *call, const char *file, int line);
void assert_fails (bool failed, int err, const char *call, const char *file,
                   int line);

/* COUNT bytes at OFFSET of an export, or of a file, are as EXPECTED. */
#define reads_as(nbd, offset, expected, count)                                 \
  assert_reads (nbd, offset, expected, count, __FILE__, __LINE__)
#define file_is(path, offset, expected, count)                                 \
  assert_file (path, offset, expected, count, __FILE__, __LINE__)
void assert_reads (struct nbd_handle *nbd, uint64_t offset,
                   const uint8_t *expected, size_t count, const char *file,
                   int line);
void assert_file (const char *path, uint64_t offset, const uint8_t *expected,
                  size_t count, const char *file, int line);

/* Wait until TEXT is in the server's log; SECONDS at most. */
void await_log (const struct server *server, const char *words,
                unsigned seconds);

/* Whether PID ends within SECONDS. */
bool ends (pid_t pid, unsigned seconds);

/* The description of an export as NBD_OPT_LIST has it, "" if there is no
 * such export.
 */
const char *description (struct fixture *f, const char *export);

/* One extent of base:allocation. */
struct extent {
  uint64_t offset, length;
  uint64_t flags;
};

/* The extents of COUNT bytes from OFFSET on, like neighbours joined, cut at
 * the end.  Returns how many.
 */
unsigned extents_of (struct nbd_handle *nbd, uint64_t offset, uint64_t count,
                     struct extent *extents, unsigned max);

/* Seconds since some point; only differences mean something. */
double now (void);

/* nbdkit, run to its end, at most 20 seconds: how it ended and what it
 * printed.  ARGV after "nbdkit"; NULL ends it.
 */
struct outcome {
  int status; /* of wait */
  char out[16384];
  char err[8192];
};
const struct outcome *run_nbdkit (struct fixture *f, ...)
    __attribute__ ((sentinel));

/* Exit status 1 and one line on stderr, with all the words in it. */
#define refused(outcome, ...)                                                  \
  assert_refused (outcome, (const char *const[]){ __VA_ARGS__, NULL },         \
                  __FILE__, __LINE__)
void assert_refused (const struct outcome *outcome, const char *const *words,
                     const char *file, int line);

#endif
