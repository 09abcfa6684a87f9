/* SPDX-License-Identifier: BSD-3-Clause */

#include "power-load.h"
#include "load.h"
#include "power-check.h"
#include "power-note.h"
#include "power-team.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define SERVERS_MAX 3

/* Requests that a server gets, at least and besides. */
#define REQUESTS_MIN 30
#define REQUESTS 150

/* When it is asked to end, this many are still to come. */
#define LATE_REQUESTS 20

/* Records, or barriers, after which it is killed, at most; and if it is to be
 * early, a part of them.
 */
#define RECORDS 3000
#define BARRIERS 400
#define EARLY 20

/* A snapshot that was there or not is there: from here on it is another. */
static unsigned
settle_one (struct snap *snap)
{
  struct model *model = load.model;
  const unsigned index = model_add (model, snap->name);
  struct snap *again = model->snaps[index];

  again->keeping = snap->keeping;
  again->ephemeral = snap->ephemeral;
  again->may_break = snap->may_break;
  again->number = snap->number;
  again->chunk_size = snap->chunk_size;
  again->created = snap->created;
  if (snap->content != NULL) {
    again->content = zalloc (model->size);
    memcpy (again->content, snap->content, model->size);
  }
  snap->again = again;
  return index;
}

/* After a server has listed what it found: that is what there is. */
static void
settle (const struct crash *crash, const struct seen *seen, unsigned count)
{
  load.live_count = 0;
  for (unsigned i = 0; i < count; i++) {
    struct snap *snap = load.model->snaps[i];
    const struct duty duty = model_duty (load.model, snap, crash);
    const bool either = duty.presence == EITHER;

    if (duty.presence == GONE)
      continue;
    if (!seen[i].listed) {
      model_mark (MARK_DELETED, i);
      continue;
    }
    const unsigned index = either ? settle_one (snap) : i;
    if (!seen[i].whole)
      model_mark (MARK_BROKEN, index);
    if (either)
      model_mark (MARK_MADE, index);
    if (load.live_count < SNAPSHOTS_MAX)
      load.live[load.live_count++] = index;
  }
}

/* All that the server must have is there.  False: it has gone. */
static bool
check_start (const struct crash *crash)
{
  const unsigned count = load.model->count;
  struct seen *seen = zalloc (count * sizeof *seen);
  uint64_t compared = 0;
  char *why = check_snapshots (load.model, crash, true, seen, &compared);

  if (why == NULL)
    settle (crash, seen, count);
  else
    load_has_gone (
        crash->power ? "started after a loss of power" : "started again", why);
  free (why);
  free (seen);
  return !load.dead;
}

/* All snapshots that are there, while nothing happens. */
static void
check_end (void)
{
  uint8_t *data = zalloc (load.model->size);

  for (unsigned i = 0; i < load.live_count && !load.dead; i++) {
    const struct snap *snap = load.model->snaps[load.live[i]];
    const bool may_fail = snap->may_break || snap->keeping != STABLE;
    char *why = NULL;

    if (snap->content == NULL)
      continue;
    if (check_read (snap->number, data, load.model->size))
      why = check_equal (snap->name, data, snap->content, load.model->size);
    else if (!may_fail)
      load_has_gone (snap->name, nbd_get_error ());
    if (why != NULL)
      fail ("at the end: %s", why);
  }
  free (data);
}

/* The server has ended in the middle of something: find out what there is. */
static void
look_at_rest (struct disk *disk)
{
  struct model *model = load.model;
  const int fd = open ("disk.img", O_RDONLY | O_CLOEXEC);

  if (fd == -1
      || pread (fd, model->origin, model->size, 0) != (ssize_t)model->size)
    fail ("disk.img: %s", strerror (errno));
  close (fd);
  note_end (note_begin (POWER_WRITE, false, CLIENT_INO, 0, model->size,
                        model->origin),
            (int64_t)model->size, 0);
  disk_read (disk, load.log);
  if (disk->open_count > 0)
    note_killed (disk, ".");
}

static void
set_number (const char *variable, uint64_t number)
{
  char text[32];

  snprintf (text, sizeof text, "%" PRIu64, number);
  setenv (variable, text, 1);
}

/* How long a server lives, and how it ends. */
static void
choose_end (uint64_t *random, bool last)
{
  const bool early = random_below (random, 3) == 0;
  const bool at_sync = load.plan->kills || random_below (random, 2) == 0;
  const uint64_t most = at_sync ? BARRIERS : RECORDS;
  uint64_t number = 0;

  load.requests = REQUESTS_MIN + (unsigned)random_below (random, REQUESTS);
  load.may_die = !last && (load.plan->kills || random_below (random, 2) == 0);
  load.stop_at
      = random_below (random, 2) == 0 ? load.requests - LATE_REQUESTS : 0;
  load.begun = 0;
  load.stopping = load.dead = false;
  if (load.may_die)
    number = 1 + random_below (random, early ? most / EARLY : most);
  set_number ("FSSNAP_POWER_KILL", at_sync ? 0 : number);
  set_number ("FSSNAP_POWER_KILL_SYNC", at_sync ? number : 0);
}

static void
run_server (struct disk *disk, uint64_t boot, bool lost, uint64_t *random,
            bool last)
{
  disk_read (disk, load.log);
  model_learn (load.model, disk);
  const struct crash before = { .at = disk->length, .power = lost };

  choose_end (random, last);
  model_mark (MARK_BEGINS, 0);
  load_start_server (load.plan, "io=sync", boot);
  struct nbd_handle *first = check_connect ("");
  if (first == NULL)
    load_has_gone ("the server does not start", nbd_get_error ());
  nbd_close (first);
  if (!load.dead && check_start (&before))
    load_run_threads (random);
  if (!load.dead && !load.stopping)
    check_end ();
  const int status = load.dead ? server_wait (&server) : server_stop (&server);
  if (WIFEXITED (status) && WEXITSTATUS (status) == 0)
    model_mark (MARK_STOPS, 0);
  else if (load.may_die && WIFSIGNALED (status) && WTERMSIG (status) == SIGKILL)
    look_at_rest (disk);
  else
    fail ("the server ended with wait status %#x", (unsigned)status);
  look_at_rest (disk);
}

/* What is known of snapshots from the log before is in this one too. */
static void
note_what_was (const struct model *model)
{
  for (unsigned i = 0; i < model->count; i++)
    for (unsigned what = 0; what < MARKS; what++)
      if (model->snaps[i]->at[what] != NEVER) {
        model_mark ((enum what)what, i);
        model->snaps[i]->at[what] = NEVER;
      }
}

void
load_record (struct disk *disk, struct model *model, const struct plan *plan,
             uint64_t boot, bool lost, uint64_t *random)
{
  const uint64_t servers
      = plan->kills ? SERVERS_MAX : 1 + random_below (random, SERVERS_MAX);
  char log[128], root[128];

  snprintf (log, sizeof log, "%s/power.log", server.dir);
  snprintf (root, sizeof root, "%s/world", server.dir);
  load.model = model;
  load.plan = plan;
  load.log = log;
  load.unanswered_count = 0;
  note_begin_log (log);
  note_what_was (model);
  disk_add (disk, CLIENT_INO, "(client)", model->origin, model->size);
  setenv ("FSSNAP_POWER_LOG", log, 1);
  setenv ("FSSNAP_POWER_ROOT", root, 1);
  for (uint64_t i = 0; i < servers; i++)
    run_server (disk, boot, lost && i == 0, random, i + 1 == servers);
  unsetenv ("FSSNAP_POWER_LOG"); /* nor is anyone killed without it */
  disk_read (disk, log);
  disk_index (disk);
  model_learn (model, disk);
}
