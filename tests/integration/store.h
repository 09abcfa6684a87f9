/* SPDX-License-Identifier: BSD-3-Clause */
/* A world (world.h) whose snapshots are in a store: its server ends, in one
 * way or another, and starts again; meanwhile its files are looked at and
 * spoiled.
 */

#ifndef FSSNAP_TEST_STORE_H
#define FSSNAP_TEST_STORE_H

#include "catalog.h"
#include "files.h"
#include "world.h"

/* --- starting and ending ------------------------------------------------- */

/* The store's directory, and its parameter; nobody has made it. */
const char *store_directory (struct fixture *f);
const char *store_parameter (struct fixture *f);

/* An image; no server yet. */
struct world new_world (struct fixture *f);

/* Start the server, with a store and the variant's parameters; what there was
 * in its log is gone.
 */
#define serve_store(w, ...)                                                    \
  (clear_log ((w)->f), serve ((w)->f, store_parameter ((w)->f), __VA_ARGS__),  \
   meet (w))
#define open_store(w) serve_store (w, "snapshot=no", NULL)

void clear_log (struct fixture *f);

/* Connect to a server that has just started. */
void meet (struct world *w);

/* How a server ends. */
enum ending {
  STOPPED,            /* SIGTERM, nobody is connected */
  KILLED,             /* SIGKILL */
  KILLED_WHILE_ENDING /* SIGTERM, and SIGKILL once all is safe; a client that
                         stays keeps it from ending by itself */
};
#define ENDINGS 3

void end (struct world *w, enum ending ending);

/* It has got SIGTERM: wait until the catalogue says that all is safe. */
void await_safety (struct fixture *f);

/* end and open_store. */
void restart (struct world *w, enum ending ending);

/* Whether the variant has durability=LEVEL. */
bool has_level (const struct fixture *f, const char *level);

/* --- snapshots ----------------------------------------------------------- */

/* snapshot.create with the members of an object, as for json_pack but with
 * ' for each ", as in "'name':'nightly','options':{'chunksize':512}".  Its
 * number.
 */
int create_as (struct world *w, const char *members);

/* A snapshot reads as CONTENT does, SIZE bytes of it. */
#define snapshot_is(w, number, content)                                        \
  assert_snapshot (w, number, content, __FILE__, __LINE__)
void assert_snapshot (struct world *w, int number, const uint8_t *content,
                      const char *file, int line);

/* The origin is what was written to it, as a client sees it and in itself. */
#define origin_is_live(w) assert_origin (w, __FILE__, __LINE__)
void assert_origin (struct world *w, const char *file, int line);

/* A snapshot is listed as disabled, reads as errors, and all of the words
 * are in its reason, in any case.
 */
#define snapshot_is_broken(w, number, ...)                                     \
  assert_broken (w, number, (const char *const[]){ __VA_ARGS__, NULL },        \
                 __FILE__, __LINE__)
void assert_broken (struct world *w, int number, const char *const *words,
                    const char *file, int line);

/* Ask until it is disabled: who breaks it is not always who waits for that. */
void await_broken (struct world *w, int number);

/* What is different in two objects of snapshot.info among KEYS, with a space
 * between each two: none may be.
 */
#define same_figures(before, after, keys)                                      \
  assert_figures (before, after, keys, __FILE__, __LINE__)
void assert_figures (const json_t *before, const json_t *after,
                     const char *keys, const char *file, int line);

/* Those that are what they were after any ending; and after a clean one. */
#define KEPT_FIGURES                                                           \
  "snapnumber name state export origin size createtime backing-store "         \
  "maxsize chunksize backfile-size durability on-error cow-timeout "           \
  "chunks-copied chunks-lost chunks-free bytes-copied deleted broken-reason "  \
  "broken-errno broken-time blocked-by ephemeral store"
#define CLEANLY_KEPT_FIGURES                                                   \
  KEPT_FIGURES                                                                 \
  " waits flush-errors reads-origin reads-memory reads-backing-file "          \
  "reads-zero"

/* A line of the server's log since it started has all of the words. */
#define log_says(f, ...)                                                       \
  assert_logged (f, (const char *const[]){ __VA_ARGS__, NULL }, __FILE__,      \
                 __LINE__)
void assert_logged (struct fixture *f, const char *const *words,
                    const char *file, int line);

/* Whether TEXT has WORDS, in any case. */
bool has_words (const char *text, const char *words);

/* --- what is in the store ------------------------------------------------ */

/* Its catalogue, which goes with the test; the server may run. */
const struct catalog *read_catalog (struct fixture *f);

/* Change it while no server runs. */
void edit_catalog (struct fixture *f,
                   void (*edit) (struct catalog *catalog, void *arg),
                   void *arg);

/* As if the machine had gone down since a server used it. */
void lose_power (struct fixture *f);

/* The layer of a snapshot that is listed. */
struct catalog_layer *layer_of (struct fixture *f,
                                const struct catalog *catalog, int number);

/* The path of a part of its backing file; what comes after the last '/' in a
 * path.
 */
const char *part_of (struct fixture *f, int number, unsigned part);
const char *name_in (const char *path);

#endif
