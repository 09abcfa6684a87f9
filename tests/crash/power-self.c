/* SPDX-License-Identifier: BSD-3-Clause */
/* Whether power-record.c and power-state.c find what they are there to find:
 * a toy (power-toy.c) is recorded while it stores numbers, carefully or
 * carelessly.  What it said it has must be there in all states, whole, if it
 * was careful; if not, some state must show it.
 *
 * usage: power-self TOY RECORDER, as absolute paths
 */

#include "power-self.h"
#include "power-note.h"
#include "power-state.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define NUMBERS 20
#define STATES 1000

/* Where in the file the number is. */
enum shape { EVERYWHERE, FIRST_SECTOR, LAST_SECTOR }; /* not all zeros */

static const struct way {
  const char *name;
  enum shape shape;
  bool survives;           /* a loss of power */
  bool survives_any_order; /* and then changes of directories in any */
  bool survives_kill;
} ways[] = {
  { "careful", EVERYWHERE, true, true, true },
  { "no-data-sync", EVERYWHERE, false, false, true },
  { "no-name-sync", EVERYWHERE, false, false, true },
  { "exchange", EVERYWHERE, true, true, true },
  { "in-place", EVERYWHERE, false, false, false },
  { "sector", FIRST_SECTOR, true, true, true },
  { "sync-before", FIRST_SECTOR, false, false, true },
  { "dsync", FIRST_SECTOR, true, true, true },
  { "grow", LAST_SECTOR, true, true, true },
  { "grow-no-sync", LAST_SECTOR, false, false, true },
};

static char directory[128], world[160], states[160], log_file[160];

__attribute__ ((noreturn)) static void
die (const char *what)
{
  perror (what);
  exit (1);
}

static int
remove_one (const char *path, const struct stat *st, int type, struct FTW *ftw)
{
  (void)st;
  (void)type;
  (void)ftw;
  return remove (path);
}

static void
remove_tree (const char *path)
{
  nftw (path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void
clean_up (void)
{
  remove_tree (directory);
}

/* The number that the file in the current directory has; -1: no number. */
static int64_t
stored (enum shape shape)
{
  static uint64_t content[(NUMBERS + 1) * SECTOR / sizeof (uint64_t)];
  const int fd = open (TOY_FILE, O_RDONLY);
  const ssize_t size = fd == -1 ? 0 : read (fd, content, sizeof content);
  ssize_t from = 0, to = size;

  if (fd != -1)
    close (fd);
  if (size < SECTOR)
    return -1;
  if (shape == FIRST_SECTOR)
    to = SECTOR;
  if (shape == LAST_SECTOR) {
    while (to > SECTOR && content[to / 8 - 1] == 0)
      to -= SECTOR;
    from = to - SECTOR;
  }
  for (ssize_t i = from / 8; i < to / 8; i++)
    if (content[i] != content[from / 8])
      return -1;
  return (int64_t)content[from / 8];
}

/* The toy's file before it begins: number 0. */
static void
make_world (void)
{
  static const uint8_t zeros[TOY_SIZE];

  if (mkdir (world, 0700) == -1 || chdir (world) == -1)
    die (world);
  const int fd = open (TOY_FILE, O_WRONLY | O_CREAT, 0600);
  if (fd == -1 || write (fd, zeros, TOY_SIZE) != TOY_SIZE)
    die (TOY_FILE);
  close (fd);
}

static void
run_toy (const char *toy, const char *recorder, const char *way)
{
  char count[16];
  int status;

  snprintf (count, sizeof count, "%d", NUMBERS);
  const pid_t pid = fork ();
  if (pid == -1)
    die ("fork");
  if (pid == 0) {
    setenv ("LD_PRELOAD", recorder, 1);
    setenv ("FSSNAP_POWER_LOG", log_file, 1);
    setenv ("FSSNAP_POWER_ROOT", world, 1);
    execl (toy, toy, way, count, log_file, (char *)NULL);
    _exit (127);
  }
  if (waitpid (pid, &status, 0) == -1 || status != 0) {
    fprintf (stderr, "%s %s: wait status %#x\n", toy, way, (unsigned)status);
    exit (1);
  }
}

/* What it may have at that place, from *LOW to *HIGH. */
static void
allowed (const struct disk *disk, uint64_t at, int64_t *low, int64_t *high)
{
  *low = *high = 0;
  for (unsigned i = 0; i < disk->mark_count; i++)
    if (disk->marks[i].place < at)
      *(disk->marks[i].what == TOY_HAS ? low : high)
          = (int64_t)disk->marks[i].which;
}

/* Whether a state is as it may be. */
static bool
is_good (const struct disk *disk, const struct crash *crash, enum shape shape)
{
  int64_t low, high;

  if (mkdir (states, 0700) == -1 || chdir (states) == -1)
    die (states);
  state_make (disk, crash, NULL);
  const int64_t number = stored (shape);
  remove_tree (states);
  allowed (disk, crash->at, &low, &high);
  return number >= low && number <= high;
}

/* Whether the disk at the end is what the toy left. */
static bool
is_complete (const struct disk *disk)
{
  const struct crash end = { .at = disk->length };
  bool same = true;

  if (mkdir (states, 0700) == -1 || chdir (states) == -1)
    die (states);
  state_make (disk, &end, NULL);
  char *difference = disk_compare (world, states);
  if (difference != NULL) {
    printf ("%s\n", difference);
    same = false;
  }
  free (difference);
  remove_tree (states);
  return same;
}

/* How many of the states are not as they may be. */
static unsigned
count_bad (const struct disk *disk, bool power, bool any_order,
           enum shape shape)
{
  unsigned bad = 0;

  for (unsigned i = 0; i < STATES; i++) {
    const struct crash crash = { .at = i * (disk->length + 1) / STATES,
                                 .power = power,
                                 .any_order = any_order,
                                 .random = i * UINT64_C (7919) };
    bad += !is_good (disk, &crash, shape);
  }
  return bad;
}

static bool
try_way (const struct way *way, const char *toy, const char *recorder)
{
  make_world ();
  struct disk *disk = disk_scan (world);
  note_begin_log (log_file);
  run_toy (toy, recorder, way->name);
  disk_read (disk, log_file);
  disk_index (disk);
  const bool complete = is_complete (disk);
  const unsigned lost = count_bad (disk, true, false, way->shape);
  const unsigned any = count_bad (disk, true, true, way->shape);
  const unsigned killed = count_bad (disk, false, false, way->shape);
  remove_tree (world);
  disk_free (disk);
  printf ("%s: of %d states bad after a loss of power: %u, with directories "
          "in any order: %u; after a kill: %u\n",
          way->name, STATES, lost, any, killed);
  return complete && (lost == 0) == way->survives
         && (any == 0) == way->survives_any_order
         && (killed == 0) == way->survives_kill;
}

int
main (int argc, char **argv)
{
  bool good = true;

  if (argc != 3) {
    fprintf (stderr, "usage: power-self TOY RECORDER\n");
    return 2;
  }
  const char *base = getenv ("FSSNAP_TEST_DIR");
  snprintf (directory, sizeof directory, "%s/fssnap-power-XXXXXX",
            base != NULL ? base : "/dev/shm");
  if (mkdtemp (directory) == NULL)
    die (directory);
  atexit (clean_up);
  snprintf (world, sizeof world, "%s/world", directory);
  snprintf (states, sizeof states, "%s/state", directory);
  snprintf (log_file, sizeof log_file, "%s/log", directory);
  for (unsigned i = 0; i < sizeof ways / sizeof *ways; i++)
    if (!try_way (&ways[i], argv[1], argv[2])) {
      printf ("%s: that is not what was to be found\n", ways[i].name);
      good = false;
    }
  return good ? 0 : 1;
}
