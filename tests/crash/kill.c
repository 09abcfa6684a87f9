/* SPDX-License-Identifier: BSD-3-Clause */
/* A server with a store is killed again and again, at any instant, and each
 * time started anew on what it left behind: every snapshot must be there and
 * be right, byte for byte, or be listed as broken where that is allowed.
 *
 * A round is one store.  Its server lives several lives; each begins with a
 * comparison of all that the store has with the model, goes on with a load of
 * writes, reads, creations and deletions, and ends as ending.h says.
 *
 * usage: kill [ROUNDS [LIVES]]
 * FSSNAP_SEED=N has the first round use N, the next N + 1 and so on: the same
 * choices, though threads meet differently each time.  FSSNAP_LONG=1 makes it
 * longer.  FSSNAP_KEEP=DIR keeps the files of what failed.
 */

#include "ask.h"
#include "crew.h"
#include "load.h"
#include "offline.h"
#include "story.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define PARAMETERS_MAX 16

static struct model *model;
static uint64_t size; /* of the origin */
static uint8_t *buf;  /* of that size */
static struct totals {
  unsigned lives, kills, starts_killed, told, ended;
  uint64_t compared, broken, blocked, bytes;
} totals;

/* What the server that ended cleanly had listed last, or NULL. */
static json_t *last_list;

static char texts[PARAMETERS_MAX][160];
static const char *parameters[PARAMETERS_MAX + 1];
static unsigned parameter_count;

__attribute__ ((format (printf, 1, 2))) static void
parameter (const char *format, ...)
{
  va_list args;

  if (parameter_count == PARAMETERS_MAX)
    abort ();
  va_start (args, format);
  vsnprintf (texts[parameter_count], sizeof texts[0], format, args);
  va_end (args);
  parameters[parameter_count] = texts[parameter_count];
  parameters[++parameter_count] = NULL;
}

#define ONE_OF(random, ...)                                                    \
  ((const char *const[]){ __VA_ARGS__ }[random_below (                         \
      random, sizeof ((const char *[]){ __VA_ARGS__ }) / sizeof (char *))])

/* How the server is started, this time.  LEVELS: as for the crew. */
static void
choose_parameters (uint64_t *random, unsigned life, unsigned levels)
{
  char text[512] = "";
  size_t length = 0;

  parameter_count = 0;
  parameter ("origin=%s/disk.img", server.dir);
  parameter ("store=%s/store", server.dir);
  parameter ("control=%s/c", server.dir);
  parameter ("cow-timeout=600");
  parameter ("io=%s", ONE_OF (random, "uring", "uring", "sync"));
  parameter ("max-memory=%s", ONE_OF (random, "1M", "2M", "8M", "64M"));
  parameter ("chunksize=%s", ONE_OF (random, "512", "4k", "4k", "64k"));
  if (levels == 1)
    parameter ("durability=async");
  else if (random_below (random, 2) == 0)
    parameter ("durability=%s", ONE_OF (random, "async", "written", "stable"));
  parameter ("snapshot=%s",
             random_below (random, 3) == 0 && !roster_may_have_unnamed ()
                 ? "yes"
                 : "no");
  for (unsigned i = 3; i < parameter_count; i++)
    length += (size_t)snprintf (text + length, sizeof text - length, " %s",
                                parameters[i]);
  story_add ("life %u:%s\n", life, text);
}

/* With snapshot=yes a server that lists none takes one; of an origin that
 * nobody writes meanwhile.
 */
static void
expect_first (void)
{
  if (strcmp (parameters[parameter_count - 1], "snapshot=yes") == 0
      && !roster_has_any () && !roster_may_have_unnamed ())
    roster_add ("", false, false, true);
}

/* --- comparisons --------------------------------------------------------- */

static void
read_origin_file (void)
{
  char path[128];
  uint64_t length = 0;

  snprintf (path, sizeof path, "%s/disk.img", server.dir);
  const int fd = open (path, O_RDONLY | O_CLOEXEC);
  while (fd != -1 && length < size) {
    const ssize_t r = pread (fd, buf + length, size - length, (off_t)length);
    if (r <= 0)
      break;
    length += (uint64_t)r;
  }
  close (fd);
  if (length != size)
    wrong ("%s: %s", path, strerror (errno));
}

/* The origin as the server that has ended left it. */
static void
settle_origin (void)
{
  read_origin_file ();
  char *why = model_settle (model, buf);
  if (why != NULL)
    wrong ("origin after the end: %s", why);
}

static void
compare_origin (void)
{
  struct nbd_handle *nbd = crew_connect ("", false);

  if (nbd_pread (nbd, buf, size, 0, 0) == -1)
    wrong ("read of the origin: %s", nbd_get_error ());
  char *why = model_check (model, buf, 0, size);
  if (why != NULL)
    wrong ("origin after the start: %s", why);
  nbd_close (nbd);
}

/* Of a snapshot that a newer one blocks, what can be read must be right; of
 * a broken one nothing can.
 */
static void
compare_snapshot (struct entry *entry, uint64_t *random)
{
  const uint64_t step = 4096 << random_below (random, 12);
  char export[32];

  snprintf (export, sizeof export, "snapshot/%u", entry->number);
  struct nbd_handle *nbd = crew_connect (export, entry->broken);
  if (nbd == NULL)
    return;
  for (uint64_t at = 0; at < size; at += step) {
    const uint64_t length = size - at < step ? size - at : step;
    const bool done = crew_read (nbd, entry, buf, at, length);
    if (done ? entry->broken : !entry->broken && !entry->blocked)
      wrong ("snapshot %u%s, %" PRIu64 " bytes at %" PRIu64 ": %s",
             entry->number, entry->broken ? ", which is broken" : "", length,
             at, done ? "can be read" : nbd_get_error ());
    totals.bytes += done ? length : 0;
  }
  if (!entry->broken && !entry->blocked && !crew_map (nbd, entry, 0, size))
    wrong ("block status of snapshot %u: %s", entry->number, nbd_get_error ());
  totals.compared++;
  totals.broken += entry->broken;
  totals.blocked += entry->blocked;
  nbd_close (nbd);
}

/* What does not change by an end in peace and a new start.  Of a broken one
 * not much is known.
 */
static void
compare_counters_of (const json_t *is, const json_t *was)
{
  static const char *const keys[]
      = { "broken-reason", "broken-errno",       "broken-time",
          "blocked-by",    "bytes-copied",       "waits",
          "flush-errors",  "reads-origin",       "reads-memory",
          "reads-zero",    "reads-backing-file", "chunks-copied",
          "chunks-lost",   "chunks-free" };
  const bool broken = ask_text (is, "broken-reason") != NULL;
  const unsigned count = broken ? 4 : sizeof keys / sizeof keys[0];

  for (unsigned k = 0; k < count; k++) {
    const json_t *a = json_object_get (is, keys[k]);
    const json_t *b = json_object_get (was, keys[k]);
    /* The write that a copy was for may not have had to wait for it. */
    if (strcmp (keys[k], "chunks-copied") == 0
        && json_integer_value (a) > json_integer_value (b))
      continue;
    if (!json_equal (a, b))
      wrong ("snapshot %d: %s was %s and is %s",
             (int)ask_number (is, "snapnumber"), keys[k],
             json_dumps (b, JSON_ENCODE_ANY), json_dumps (a, JSON_ENCODE_ANY));
  }
}

static void
compare_counters (const json_t *now)
{
  for (size_t i = 0; i < json_array_size (now); i++)
    for (size_t j = 0; j < json_array_size (last_list); j++) {
      const json_t *is = json_array_get (now, i);
      const json_t *was = json_array_get (last_list, j);
      if (ask_number (is, "snapnumber") == ask_number (was, "snapnumber"))
        compare_counters_of (is, was);
    }
}

static json_t *
get_list (void)
{
  const int control = ask_connect ();
  json_t *result;

  if (ask (control, MOMENT_NONE, "snapshot.list", NULL, &result)
      != ANSWER_RESULT)
    wrong ("snapshot.list: %s", ask_text (result, "message"));
  json_t *list = json_incref (json_object_get (result, "snapshots"));
  json_decref (result);
  close (control);
  return list;
}

/* A server has just been started. */
static void
compare_all (uint64_t *random, bool bytes)
{
  struct entry *entry;

  /* This waits for it. */
  nbd_close (crew_connect ("", false));
  json_t *list = get_list ();
  roster_match (list);
  offline_compare (list);
  if (json_array_size (list) == 0
      && strcmp (parameters[parameter_count - 1], "snapshot=yes") == 0)
    wrong ("no snapshot was taken at the start");
  compare_counters (list);
  json_decref (list);
  json_decref (last_list);
  last_list = NULL;
  compare_origin ();
  for (unsigned i = 0; bytes && (entry = roster_at (i)) != NULL; i++)
    compare_snapshot (entry, random);
}

/* --- lives --------------------------------------------------------------- */

static uint64_t
microseconds (void)
{
  struct timespec t;

  clock_gettime (CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static void
start (void)
{
  const uint64_t before = microseconds ();

  server_start (&server, parameters);
  nbd_close (crew_connect ("", false));
  ending_started (microseconds () - before);
}

static void
one_life (uint64_t *random, unsigned number, unsigned levels)
{
  const struct temper temper = {
    .snapshots = 2 + (unsigned)random_below (random, 11),
    .levels = levels,
    .limits = random_below (random, 6) == 0,
    .pause = random_below (random, 2) == 0 ? 0 : 1u << random_below (random, 18)
  };

  choose_parameters (random, number, levels);
  totals.lives++;
  while (random_below (random, 4) == 0) {
    expect_first ();
    ending_at_start (parameters, random);
    json_decref (last_list);
    last_list = NULL;
    roster_ended (OUTCOME_TOLD);
    settle_origin ();
    offline_check (true);
    totals.starts_killed++;
  }
  const enum manner manner = ending_choose (random);
  expect_first ();
  start ();
  compare_all (random, random_below (random, 4) != 0);
  crew_start (model, random, &temper);
  ending_await ();
  crew_join (manner != MANNER_KILL && manner != MANNER_TERM_KILL);
  if (manner == MANNER_CLEAN)
    last_list = get_list ();
  const enum outcome outcome = ending_finish ();
  totals.kills += outcome == OUTCOME_KILLED;
  totals.told += outcome == OUTCOME_TOLD;
  totals.ended += outcome == OUTCOME_ENDED;
  settle_origin ();
  roster_ended (outcome);
  offline_check (outcome != OUTCOME_ENDED);
}

/* Nothing is in a directory but files called so.  EMPTY: and empty ones: in the
 * instant between the making of a file and the first write to it a kill leaves
 * one that cannot be told from a user's.
 */
static void
must_be_empty (const char *name, const char *const *but, bool empty)
{
  char path[128];
  const struct dirent *file;
  struct stat st;

  snprintf (path, sizeof path, "%s/%s", server.dir, name);
  DIR *dir = opendir (path);
  while (dir != NULL && (file = readdir (dir)) != NULL) {
    unsigned i = 0;
    while (but[i] != NULL && strcmp (but[i], file->d_name) != 0)
      i++;
    if (but[i] == NULL
        && !(empty && fstatat (dirfd (dir), file->d_name, &st, 0) == 0
             && st.st_size == 0))
      wrong ("%s/%s was left behind", path, file->d_name);
  }
  if (dir == NULL)
    wrong ("%s: %s", path, strerror (errno));
  closedir (dir);
}

/* The last life: all is deleted, and nothing is left of it. */
static void
delete_all (uint64_t *random, unsigned number, unsigned levels)
{
  struct entry *entry;
  json_t *result;

  choose_parameters (random, number, levels);
  expect_first ();
  ending_choose (random);
  start ();
  compare_all (random, true);
  const int control = ask_connect ();
  while ((entry = roster_at (0)) != NULL) {
    if (ask (control, MOMENT_NONE, "snapshot.delete",
             json_pack ("{s:i, s:b}", "snapshot", (int)entry->number, "force",
                        1),
             &result)
        != ANSWER_RESULT)
      wrong ("delete: %s", ask_text (result, "message"));
    json_decref (result);
    roster_drop (entry);
    for (unsigned i = 0; (entry = roster_at (i)) != NULL; i++)
      if (!entry->blocked)
        compare_snapshot (entry, random);
  }
  close (control);
  stop_server ();
  /* What a kill leaves is known, and cleared away. */
  if (server_logged (&server, "not in the catalogue") > 0)
    wrong ("files were left behind");
  must_be_empty ("store",
                 (const char *const[]){ ".", "..", "lock", "catalog",
                                        "catalog.spare", NULL },
                 false);
  must_be_empty ("elsewhere", (const char *const[]){ ".", "..", NULL }, true);
}

static void
one_round (uint64_t round_seed, unsigned lives)
{
  const char *given = getenv ("FSSNAP_TEST_DIR");
  uint64_t random = (round_seed + 1) * UINT64_C (0x9e3779b97f4a7c15) | 1;
  char path[128];

  for (unsigned i = 0; i < 8; i++)
    random_next (&random);
  seed = round_seed;
  if (given == NULL)
    setenv ("FSSNAP_TEST_DIR", ONE_OF (&random, "/dev/shm", "/tmp"), 1);
  server_prepare (&server);
  if (given == NULL)
    unsetenv ("FSSNAP_TEST_DIR");
  size = (1 << 20) << random_below (&random, 3);
  size += random_below (&random, size);
  if (random_below (&random, 3) == 0)
    size = size / 4096 * 4096;
  story_begin ("FSSNAP_SEED=%" PRIu64 " kill 1 %u: %" PRIu64 " bytes in %s\n",
               seed, lives, size, server.dir);
  buf = malloc (size);
  if (buf == NULL)
    abort ();
  snprintf (path, sizeof path, "%s/elsewhere", server.dir);
  if (mkdir (path, 0700) == -1)
    wrong ("%s: %s", path, strerror (errno));
  snprintf (path, sizeof path, "%s/disk.img", server.dir);
  make_image (path, buf, size, &random);
  model = model_create (buf, size);
  roster_init (model);

  const struct totals before = totals;
  /* A durable one makes all that are newer so. */
  const unsigned levels = 1 + (unsigned)random_below (&random, 3);
  for (unsigned life = 1; life <= lives; life++)
    one_life (&random, life, levels);
  delete_all (&random, lives + 1, levels);
  printf ("seed %" PRIu64 ": %u lives, %u killed, %" PRIu64 " compared\n", seed,
          lives, totals.kills - before.kills,
          totals.compared - before.compared);
  fflush (stdout);

  roster_clear ();
  model_free (model);
  json_decref (last_list);
  last_list = NULL;
  offline_forget ();
  free (buf);
  server_clean_up (&server);
}

int
main (int argc, char **argv)
{
  unsigned rounds = argc > 1 ? (unsigned)atoi (argv[1]) : 2;
  const unsigned lives = argc > 2 ? (unsigned)atoi (argv[2]) : 12;

  if (argc > 3 || rounds == 0 || lives == 0) {
    fprintf (stderr, "usage: kill [ROUNDS [LIVES]]\n");
    return 2;
  }
  if (getenv ("FSSNAP_LONG") != NULL)
    rounds *= 20;
  random_begin ();
  const uint64_t first = seed;
  for (unsigned round = 0; round < rounds; round++)
    one_round (first + round, lives);
  printf ("%u rounds, %u lives: %u killed under load, %u killed at the start, "
          "%u killed after SIGTERM, %u ended; %" PRIu64 " changes, %" PRIu64
          " snapshots taken, %" PRIu64 " deleted; %" PRIu64
          " compared (%" PRIu64 " broken, %" PRIu64 " blocked), %" PRIu64
          " bytes, wrong 0\n",
          rounds, totals.lives, totals.kills, totals.starts_killed, totals.told,
          totals.ended, deeds.changes, deeds.taken, deeds.deleted,
          totals.compared, totals.broken, totals.blocked, totals.bytes);
  return 0;
}
