/* SPDX-License-Identifier: BSD-3-Clause */
/* Losses of power, replayed: servers with a store are recorded under a load
 * (power-load.c), states that the disk may have had when the power went are
 * made of the records (power-state.c), and a server is started on each, in
 * another boot.  It must have what the durability of each snapshot promises
 * (power-model.c), byte for byte (power-check.c).  Some of the states are
 * those after the server alone was killed.
 *
 * A round records up to GENERATIONS logs, each of which begins with one of
 * the states of the log before.
 *
 * usage: power STATES [+WORD...] [PARAMETER=VALUE...]
 *   +levels +chunks +elsewhere +limits +kills   see struct plan
 *   +any-order                                  see struct crash
 * FSSNAP_SEED=N repeats the choices of a run, though threads meet differently
 * each time.  FSSNAP_LONG=1 makes it longer.  FSSNAP_KEEP=DIR keeps the state
 * of the disk of what failed, with the log as text, and what should be in the
 * snapshots.
 */

#include "load.h"
#include "power-load.h"
#include "power-probe.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define GENERATIONS 3
#define STATES 25     /* of a log */
#define WORKERS_MAX 3 /* processes, each with rounds of its own */
#define PATIENCE 120  /* seconds for a state, or for a log */
#define FIRST_WRITES 4
#define MESSAGES_MAX 10 /* of what is wrong, in full */

/* What the workers share. */
static struct shared {
  _Atomic unsigned rounds; /* begun */
  _Atomic unsigned states, killed, logs, wrong;
  _Atomic uint64_t records, compared, disabled;
} * shared;

static struct plan plan;
static bool any_order;
static unsigned rounds;

/* A state, for who wants to see it again. */
struct attempt {
  unsigned round, generation, number;
  const struct disk *disk;
  struct model *model;
  struct crash crash;
};

/* --- directories ---------------------------------------------------------- */

static int
remove_one (const char *path, const struct stat *st, int type, struct FTW *ftw)
{
  (void)st;
  (void)type;
  (void)ftw;
  return remove (path);
}

/* Go to an empty directory of that name in the test's. */
static void
go_to_empty (const char *base, const char *name)
{
  char path[512];

  snprintf (path, sizeof path, "%s/%s", base, name);
  nftw (path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
  if (mkdir (path, 0700) == -1 || chdir (path) == -1)
    fail ("%s: %s", path, strerror (errno));
}

static void
keep_content (const struct attempt *attempt, const char *name,
              const uint8_t *content)
{
  FILE *file = content != NULL ? fopen (name, "we") : NULL;

  if (file != NULL) {
    fwrite (content, 1, attempt->model->size, file);
    fclose (file);
  }
}

/* Everything that is known of a state that went wrong. */
static void
keep (const struct attempt *attempt, const char *why)
{
  const char *directory = getenv ("FSSNAP_KEEP");
  char name[64], path[128];

  if (directory == NULL)
    return;
  mkdir (directory, 0700);
  snprintf (name, sizeof name, "%" PRIu64 "-%u-%u-%u", seed, attempt->round,
            attempt->generation, attempt->number);
  go_to_empty (directory, name);
  FILE *log = fopen ("log.txt", "we");
  FILE *text = fopen ("state.txt", "we");
  if (log == NULL || text == NULL || mkdir ("world", 0700) == -1
      || mkdir ("snapshots", 0700) == -1) {
    fail ("%s/%s: %s", directory, name, strerror (errno));
    return;
  }
  disk_print (attempt->disk, 0, attempt->disk->length, log);
  fclose (log);
  for (unsigned i = 0; i < attempt->model->count; i++) {
    snprintf (path, sizeof path, "snapshots/%s-%u",
              attempt->model->snaps[i]->name, i);
    keep_content (attempt, path, attempt->model->snaps[i]->content);
  }
  fprintf (text, "%s\n", why);
  (void)!chdir ("world");
  state_make (attempt->disk, &attempt->crash, text);
  fclose (text);
  snprintf (path, sizeof path, "cp %s/log ../server.log", server.dir);
  (void)!system (path);
}

/* What the server said. */
static void
print_server_log (void)
{
  FILE *log = fopen (server.log, "re");
  char line[512];

  while (log != NULL && fgets (line, sizeof line, log) != NULL)
    printf ("  %s", line);
  if (log != NULL)
    fclose (log);
}

static void
report (const struct attempt *attempt, const char *why)
{
  if (atomic_fetch_add (&shared->wrong, 1) >= MESSAGES_MAX)
    return;
  printf ("\nseed %" PRIu64 ", round %u, log %u, state %u: %s at %" PRIu64
          " of %" PRIu64 " records:\n%s\n",
          seed, attempt->round, attempt->generation, attempt->number,
          attempt->crash.power ? "power lost" : "killed", attempt->crash.at,
          attempt->disk->length, why);
  print_server_log ();
  fflush (stdout);
  keep (attempt, why);
}

/* --- one state ------------------------------------------------------------ */

/* Whether a record is of the KIND that a place is to be near to. */
static bool
is_near (const struct power_record *record, unsigned kind)
{
  const bool barrier
      = record->op >= POWER_DATASYNC && record->op <= POWER_SYNC_ALL;
  const bool name = record->op >= POWER_CREATE && record->op < POWER_MARK;

  /* While a barrier is under way all is open that it is for. */
  if (kind < 4)
    return record->op == POWER_DATASYNC && !record->ended;
  return kind < 6 ? name || barrier : record->op == POWER_MARK;
}

/* Just after one of the first writes of some server to the origin: it may have
 * relied on what the one before left.
 */
static uint64_t
choose_first (const struct disk *disk, const struct model *model,
              uint64_t *random)
{
  const uint64_t ino = disk_file (disk, "disk.img")->ino;
  uint64_t writes = 1 + random_below (random, FIRST_WRITES);
  uint64_t at = model->runs[random_below (random, model->run_count)] + 1;

  for (; at < disk->length && writes > 0; at++) {
    const struct power_record *record = disk->records[at];
    if (record->ended && record->ino == ino && record->op <= POWER_ZERO)
      writes--;
  }
  return at;
}

/* Near what makes a difference, more often than not. */
static uint64_t
choose_place (const struct disk *disk, const struct model *model,
              uint64_t *random)
{
  const uint64_t first = model->begins, count = disk->length - first + 1;
  const bool after_kill = plan.kills && random_below (random, 2) == 0;
  const unsigned kind = after_kill ? 8 : (unsigned)random_below (random, 10);

  for (unsigned tries = 0; kind < 8 && tries < 100; tries++) {
    const uint64_t at = first + random_below (random, count);
    if (at < disk->length && is_near (disk->records[at], kind))
      return at + random_below (random, 2); /* just before, or behind */
  }
  if (kind == 8)
    return choose_first (disk, model, random);
  return random_below (random, 2) == 0 ? disk->length
                                       : first + random_below (random, count);
}

/* The origin is one that the disk may have, by what the server did and by
 * what its clients were told.
 */
static char *
check_origin (const struct attempt *attempt)
{
  const uint64_t size = attempt->model->size;
  uint8_t *data = zalloc (size);
  struct nbd_handle *nbd = check_connect ("");
  char *why = NULL;

  if (nbd == NULL || nbd_pread (nbd, data, size, 0, 0) == -1)
    why = say ("the origin cannot be read: %s", nbd_get_error ());
  nbd_close (nbd);
  const struct object *const both[] = { disk_file (attempt->disk, "disk.img"),
                                        disk_find (attempt->disk, CLIENT_INO) };
  for (unsigned i = 0; i < 2 && why == NULL; i++) {
    const uint64_t wrong = state_wrong (both[i], &attempt->crash, data, size);
    if (wrong != NEVER)
      why = say ("the origin has at %" PRIu64 " what %s", wrong,
                 i == 0 ? "the disk may not have: the test is wrong"
                        : "its clients could not expect");
  }
  free (data);
  return why;
}

/* End the server, one way or another. */
static char *
end_server (bool kindly)
{
  if (!kindly) {
    kill (server.pid, SIGKILL);
    server_wait (&server);
    return NULL;
  }
  const int status = server_stop (&server);
  return WIFEXITED (status) && WEXITSTATUS (status) == 0
             ? NULL
             : say ("the server ended with wait status %#x", (unsigned)status);
}

static char *
start_and_check (const struct attempt *attempt, uint64_t boot,
                 const char *parameter, struct seen *seen)
{
  uint64_t compared = 0;

  load_start_server (&plan, parameter, boot);
  struct nbd_handle *nbd = check_connect ("");
  if (nbd == NULL)
    return say ("the server does not start: %s", nbd_get_error ());
  nbd_close (nbd);
  char *why = check_snapshots (attempt->model, &attempt->crash, false, seen,
                               &compared);
  shared->compared += compared;
  for (unsigned i = 0; i < attempt->model->count; i++)
    shared->disabled += seen[i].listed && !seen[i].whole;
  return why;
}

/* After a clean end all that was whole is. */
static char *
check_again (const struct attempt *attempt, uint64_t boot,
             const struct seen *before)
{
  const unsigned count = attempt->model->count;
  struct seen *seen = zalloc (count * sizeof *seen);
  char *why = start_and_check (attempt, boot, NULL, seen);

  for (unsigned i = 0; i < count && why == NULL; i++)
    if (before[i].whole && !seen[i].whole
        && !attempt->model->snaps[i]->may_break)
      why = say ("snapshot %s was whole after the start, and is not after a "
                 "clean end and another start",
                 attempt->model->snaps[i]->name);
  free (seen);
  return why;
}

static char *
check_state (const struct attempt *attempt, uint64_t boot, uint64_t *random)
{
  struct seen *seen = zalloc (attempt->model->count * sizeof *seen);
  const bool kindly = random_below (random, 3) == 0;
  char *why = start_and_check (
      attempt, boot, random_below (random, 4) > 0 ? "io=sync" : "io=uring",
      seen);

  if (why == NULL)
    why = check_origin (attempt);
  if (why == NULL && random_below (random, 3) == 0)
    why = probe (attempt->model, &plan, seen, random);
  char *end = end_server (kindly && why == NULL);
  if (why == NULL)
    why = end;
  if (why == NULL && kindly && random_below (random, 2) == 0) {
    why = check_again (attempt, boot + random_below (random, 2), seen);
    free (end_server (false));
  }
  free (seen);
  return why;
}

static void
try_state (struct attempt *attempt, uint64_t boot, uint64_t *random)
{
  alarm (PATIENCE);
  attempt->crash = (struct crash){ .at = choose_place (attempt->disk,
                                                       attempt->model, random),
                                   .power = random_below (random, 8) > 0,
                                   .any_order = any_order,
                                   .random = random_next (random) };
  go_to_empty (server.dir, "world");
  state_make (attempt->disk, &attempt->crash, NULL);
  truncate (server.log, 0);
  char *why = check_state (attempt, boot + attempt->crash.power, random);
  if (why == NULL && server_logged (&server, "Sanitizer") > 0)
    why = say ("a sanitizer complained: see the log");
  shared->states++;
  shared->killed += !attempt->crash.power;
  if (why != NULL)
    report (attempt, why);
  free (why);
}

/* --- one round ------------------------------------------------------------ */

/* What the recorder saw makes what is there. */
static void
check_log (const struct disk *disk)
{
  const struct crash end = { .at = disk->length };
  char world[128], state[128];

  snprintf (world, sizeof world, "%s/world", server.dir);
  snprintf (state, sizeof state, "%s/state", server.dir);
  go_to_empty (server.dir, "state");
  state_make (disk, &end, NULL);
  char *why = disk_compare (world, state);
  if (why != NULL)
    fail ("the log says that there is something else than what is there: %s",
          why);
}

static struct model *
make_world (uint64_t *random)
{
  const uint64_t size = (64 + random_below (random, 320)) * 1024
                        + random_below (random, 2) * 777;
  struct model *model = model_create (size);

  go_to_empty (server.dir, "world");
  make_image ("disk.img", model->origin, size, random);
  if (mkdir ("elsewhere", 0700) == -1
      || (random_below (random, 4) > 0 && mkdir ("store", 0700) == -1))
    fail ("mkdir: %s", strerror (errno));
  return model;
}

/* One log, and states made of it; returns the model of what goes on after
 * one more, which is in "world" then.
 */
static struct model *
run_generation (unsigned round, unsigned generation, struct model *model,
                uint64_t *random)
{
  const uint64_t boot = 10 * (uint64_t)generation;
  struct attempt attempt
      = { .round = round, .generation = generation, .model = model };

  alarm (PATIENCE);
  struct disk *disk = disk_scan (".");
  load_record (disk, model, &plan, boot, generation > 0, random);
  check_log (disk);
  shared->logs++;
  shared->records += disk->length;
  attempt.disk = disk;
  for (unsigned i = 0; i < STATES; i++) {
    attempt.number = i;
    try_state (&attempt, boot, random);
  }
  const struct crash crash = { .at = choose_place (disk, model, random),
                               .power = true,
                               .any_order = any_order,
                               .random = random_next (random) };
  go_to_empty (server.dir, "world");
  state_make (disk, &crash, NULL);
  struct object *origin = NULL;
  struct disk *next = disk_scan (".");
  origin = disk_file (next, "disk.img");
  struct model *after = model_after (model, &crash, origin->initial);
  disk_free (next);
  disk_free (disk);
  return after;
}

static void
run_round (unsigned round)
{
  uint64_t random = (seed + round) * UINT64_C (0x9e3779b97f4a7c15) | 1;

  for (unsigned i = 0; i < 10; i++)
    random_next (&random);
  server_prepare (&server);
  struct model *model = make_world (&random);
  for (unsigned i = 0; i < GENERATIONS; i++) {
    struct model *after = run_generation (round, i, model, &random);
    model_free (model);
    model = after;
  }
  model_free (model);
  (void)!chdir ("/");
  server_clean_up (&server);
}

static void
end_worker (int signal)
{
  if (signal == SIGALRM) {
    static const char text[] = "the server hangs\n";
    (void)!write (STDOUT_FILENO, text, sizeof text - 1);
  }
  server_clean_up (&server);
  _exit (1);
}

static pid_t
start_worker (void)
{
  const pid_t pid = fork ();

  if (pid != 0)
    return pid;
  prctl (PR_SET_PDEATHSIG, SIGTERM);
  signal (SIGALRM, end_worker);
  signal (SIGTERM, end_worker);
  signal (SIGINT, end_worker);
  for (unsigned round; (round = shared->rounds++) < rounds;)
    run_round (round);
  exit (0);
}

static void
run_workers (void)
{
  const long processors = sysconf (_SC_NPROCESSORS_ONLN);
  pid_t workers[WORKERS_MAX];
  unsigned count = 0;
  int status;

  while (count < WORKERS_MAX && (count == 0 || count + 1 < processors)
         && count < rounds)
    workers[count++] = start_worker ();
  for (unsigned i = 0; i < count; i++)
    if (waitpid (workers[i], &status, 0) != workers[i] || status != 0) {
      printf ("a worker ended with wait status %#x\n", (unsigned)status);
      shared->wrong++;
    }
}

/* --- parameters ----------------------------------------------------------- */

static bool
take_word (const char *word)
{
  const struct {
    const char *word;
    bool *set;
  } words[] = {
    { "+levels", &plan.levels }, { "+chunks", &plan.chunks },
    { "+limits", &plan.limits }, { "+elsewhere", &plan.elsewhere },
    { "+kills", &plan.kills },   { "+any-order", &any_order },
  };

  for (unsigned i = 0; i < sizeof words / sizeof *words; i++)
    if (strcmp (words[i].word, word) == 0)
      return *words[i].set = true;
  return false;
}

static bool
take_arguments (int argc, char **argv)
{
  unsigned n = 0;

  plan.standard = WRITTEN;
  for (int i = 2; i < argc; i++) {
    if (argv[i][0] == '+') {
      if (!take_word (argv[i]))
        return false;
      continue;
    }
    if (n == PARAMETERS_MAX - 1)
      return false;
    plan.parameters[n++] = argv[i];
    if (strcmp (argv[i], "durability=stable") == 0)
      plan.standard = STABLE;
    if (strcmp (argv[i], "durability=async") == 0)
      plan.standard = ASYNC;
  }
  return argc > 1;
}

/* The recorder comes behind a sanitizer. */
static void
set_preload (void)
{
  const char *recorder = getenv ("FSSNAP_POWER_RECORDER");
  const char *sanitizer = getenv ("FSSNAP_PRELOAD");
  char text[1024];

  if (recorder == NULL) {
    fprintf (stderr, "FSSNAP_POWER_RECORDER is not set: run this by meson "
                     "test\n");
    exit (2);
  }
  snprintf (text, sizeof text, "%s %s", sanitizer != NULL ? sanitizer : "",
            recorder);
  setenv ("FSSNAP_PRELOAD", text, 1);
}

int
main (int argc, char **argv)
{
  if (!take_arguments (argc, argv)) {
    fprintf (stderr, "usage: power STATES [+levels] [+chunks] [+elsewhere] "
                     "[+limits] [+kills] [+any-order] [PARAMETER=VALUE...]\n");
    return 2;
  }
  rounds = ((unsigned)atoi (argv[1]) + STATES * GENERATIONS - 1)
           / (STATES * GENERATIONS);
  if (getenv ("FSSNAP_LONG") != NULL)
    rounds *= 20;
  set_preload ();
  random_begin ();
  shared = mmap (NULL, sizeof *shared, PROT_READ | PROT_WRITE,
                 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED)
    return 1;
  run_workers ();
  printf ("%u states (%u of them of a killed server) of %u logs with %" PRIu64
          " records, %" PRIu64 " snapshots compared, %" PRIu64
          " disabled as they may be, wrong %u\n",
          shared->states, shared->killed, shared->logs, shared->records,
          shared->compared, shared->disabled, shared->wrong);
  return shared->wrong == 0 ? 0 : 1;
}
