/* SPDX-License-Identifier: BSD-3-Clause */

#include "power-team.h"
#include "load.h"
#include "power-check.h"
#include "power-note.h"
#include "power-rpc.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct load load = { .pause = PTHREAD_RWLOCK_INITIALIZER,
                     .connecting = PTHREAD_RWLOCK_INITIALIZER,
                     .lock = PTHREAD_MUTEX_INITIALIZER };

struct thread {
  unsigned number;
  uint64_t random;
  struct nbd_handle *origin;
  int control;
};

void
load_has_gone (const char *what, const char *why)
{
  if (!load.may_die && !load.stopping)
    fail ("%s: %s", what, why != NULL ? why : "the server has gone");
  load.dead = true;
}

/* --- the origin ---------------------------------------------------------- */

/* True: there is one, and it is taken. */
static bool
take_unanswered (uint64_t *offset, uint64_t *length)
{
  pthread_mutex_lock (&load.lock);
  const bool any = load.unanswered_count > 0;
  if (any) {
    *offset = load.unanswered[--load.unanswered_count].offset;
    *length = load.unanswered[load.unanswered_count].length;
  }
  pthread_mutex_unlock (&load.lock);
  return any;
}

static void
note_unanswered (uint64_t offset, uint64_t length)
{
  pthread_mutex_lock (&load.lock);
  if (load.unanswered_count < THREADS)
    load.unanswered[load.unanswered_count++] = (struct range){ offset, length };
  pthread_mutex_unlock (&load.lock);
}

static void
choose_range (struct thread *thread, uint64_t *offset, uint64_t *length)
{
  const unsigned bits = 5 + (unsigned)random_below (&thread->random, 12);

  if (take_unanswered (offset, length))
    return;
  *length = 1 + random_below (&thread->random, UINT64_C (1) << bits);
  *offset = random_below (&thread->random, load.model->size);
  if (random_below (&thread->random, 2) == 0) {
    *offset = *offset / 4096 * 4096;
    *length = (*length + 4095) / 4096 * 4096;
  }
  if (*length > load.model->size - *offset)
    *length = load.model->size - *offset;
}

/* Trimming may have made it zeros, or not: the log has to know which. */
static bool
note_what_is (struct thread *thread, uint8_t *data, uint64_t offset,
              uint64_t length)
{
  if (nbd_pread (thread->origin, data, length, offset, 0) == -1)
    return false;
  note_end (note_begin (POWER_WRITE, false, CLIENT_INO, offset, length, data),
            (int64_t)length, 0);
  return true;
}

/* One request that changes a range of the origin; false: it failed.  DATA is
 * what it has then.
 */
static bool
change (struct thread *thread, uint64_t offset, uint64_t length, uint8_t *data)
{
  const unsigned kind = (unsigned)random_below (&thread->random, 10);
  const bool fua = random_below (&thread->random, 8) == 0;
  const uint32_t flag = fua ? LIBNBD_CMD_FLAG_FUA : 0;
  uint64_t serial;
  int r;

  if (kind < 7) {
    random_bytes (&thread->random, data, length);
    serial = note_begin (POWER_WRITE, fua, CLIENT_INO, offset, length, data);
    r = nbd_pwrite (thread->origin, data, length, offset, flag);
  }
  else if (kind < 9) {
    memset (data, 0, length);
    serial = note_begin (POWER_ZERO, fua, CLIENT_INO, offset, length, NULL);
    r = nbd_zero (thread->origin, length, offset,
                  flag | (kind == 7 ? LIBNBD_CMD_FLAG_NO_HOLE : 0));
  }
  else {
    serial = note_begin (POWER_ZERO, false, CLIENT_INO, offset, length, NULL);
    r = nbd_trim (thread->origin, length, offset, 0);
  }
  if (r == -1)
    return false;
  if (kind == 9 && !note_what_is (thread, data, offset, length))
    return false;
  note_end (serial, (int64_t)length, 0);
  return true;
}

static void
change_origin (struct thread *thread)
{
  static _Thread_local uint8_t data[128 << 10];
  uint64_t offset, length;

  choose_range (thread, &offset, &length);
  /* Sectors are torn as a whole: nobody else works on them. */
  const uint64_t first = offset / SECTOR * SECTOR;
  hold (thread->number, first, offset + length + SECTOR - first);
  pthread_rwlock_rdlock (&load.pause);
  if (change (thread, offset, length, data))
    memcpy (load.model->origin + offset, data, length);
  else {
    load_has_gone ("a change of the origin", nbd_get_error ());
    note_unanswered (offset, length);
  }
  pthread_rwlock_unlock (&load.pause);
  let_go (thread->number);
}

static void
flush_origin (struct thread *thread)
{
  const uint64_t serial
      = note_begin (POWER_SYNC, false, CLIENT_INO, 0, 0, NULL);

  if (nbd_flush (thread->origin, 0) == 0)
    note_end (serial, 0, 0);
  else
    load_has_gone ("a flush", nbd_get_error ());
}

/* --- snapshots ------------------------------------------------------------ */

/* Some of it is free, says its creator, and then that it is done. */
static json_t *
finish (struct thread *thread, unsigned index, const struct snap *snap,
        char **why)
{
  const uint64_t size = load.model->size;
  const uint64_t offset = random_below (&thread->random, size);

  json_t *result
      = rpc (thread->control, "snapshot.set_free",
             json_pack ("{s:s, s:[[I,I]]}", "snapshot", snap->name, "ranges",
                        (json_int_t)offset, (json_int_t)(size - offset) / 2),
             why);
  if (result == NULL)
    return NULL;
  json_decref (result);
  model_mark (MARK_FINISHING, index);
  return rpc (thread->control, "snapshot.create_done",
              json_pack ("{s:s}", "snapshot", snap->name), why);
}

/* Ask for it; the reply, or NULL. */
static json_t *
create (struct thread *thread, unsigned index, struct snap *snap, bool quiet,
        bool in_steps)
{
  json_t *params = json_pack ("{s:s, s:o}", "name", snap->name, "options",
                              load_options (load.plan, &thread->random, snap));
  char *why;

  if (in_steps)
    json_object_set_new (params, "creating", json_true ());
  if (snap->ephemeral)
    json_object_set_new (params, "ephemeral", json_true ());
  if (quiet)
    pthread_rwlock_wrlock (&load.pause);
  /* What was not answered may have happened. */
  if (quiet && !load.dead) {
    snap->content = zalloc (load.model->size);
    memcpy (snap->content, load.model->origin, load.model->size);
  }
  if (!in_steps)
    model_mark (MARK_FINISHING, index);
  json_t *result = rpc (thread->control, "snapshot.create", params, &why);
  if (quiet)
    pthread_rwlock_unlock (&load.pause);
  if (result != NULL && in_steps) {
    json_decref (result);
    result = finish (thread, index, snap, &why);
  }
  if (result == NULL)
    load_has_gone ("snapshot.create", why);
  free (why);
  return result;
}

/* The first read tells what is in it, if that was not known. */
static void
learn (struct snap *snap)
{
  uint8_t *data = zalloc (load.model->size);
  char *why = NULL;
  bool good;

  pthread_rwlock_rdlock (&load.connecting);
  good = !load.stopping && check_read (snap->number, data, load.model->size);
  pthread_rwlock_unlock (&load.connecting);
  if (!good) {
    if (!snap->may_break)
      load_has_gone ("the first read of a snapshot", nbd_get_error ());
  }
  else if (snap->content == NULL) {
    snap->content = data;
    return;
  }
  else
    why = check_equal (snap->name, data, snap->content, load.model->size);
  free (data);
  if (why != NULL)
    fail ("just made: %s", why);
}

static void
take_snapshot (struct thread *thread)
{
  const bool in_steps = random_below (&thread->random, 6) == 0;
  const bool quiet = !in_steps && random_below (&thread->random, 2) == 0;
  char name[16];

  pthread_mutex_lock (&load.lock);
  snprintf (name, sizeof name, "s%u", load.names++);
  const unsigned index = model_add (load.model, name);
  struct snap *snap = load.model->snaps[index];
  pthread_mutex_unlock (&load.lock);
  snap->ephemeral = random_below (&thread->random, 10) == 0;
  json_t *result = create (thread, index, snap, quiet, in_steps);
  if (result == NULL)
    return;
  model_mark (MARK_MADE, index);
  snap->number = (unsigned)rpc_number (result, "snapnumber");
  snap->created = rpc_number (result, "createtime");
  snap->chunk_size = (uint64_t)rpc_number (result, "chunksize");
  json_decref (result);
  learn (snap);
  pthread_mutex_lock (&load.lock);
  if (load.live_count < SNAPSHOTS_MAX)
    load.live[load.live_count++] = index;
  pthread_mutex_unlock (&load.lock);
}

static void
delete_snapshot (struct thread *thread)
{
  unsigned index = 0;
  char *why;

  pthread_mutex_lock (&load.lock);
  const bool any = load.live_count > 0;
  if (any) {
    const uint64_t i = random_below (&thread->random, load.live_count);
    index = load.live[i];
    load.live[i] = load.live[--load.live_count];
  }
  const struct snap *snap = any ? load.model->snaps[index] : NULL;
  pthread_mutex_unlock (&load.lock);
  if (!any)
    return;
  /* By force: the server may not have seen yet that we have closed it. */
  model_mark (MARK_DELETING, index);
  json_t *result = rpc (
      thread->control, "snapshot.delete",
      json_pack ("{s:s, s:b}", "snapshot", snap->name, "force", 1), &why);
  if (result != NULL)
    model_mark (MARK_DELETED, index);
  else
    load_has_gone ("snapshot.delete", why);
  free (why);
  json_decref (result);
}

/* --- all of them ---------------------------------------------------------- */

/* Of snapshots: now one is taken, now one is deleted. */
static void
change_snapshots (struct thread *thread)
{
  pthread_mutex_lock (&load.lock);
  const unsigned live = load.live_count;
  pthread_mutex_unlock (&load.lock);

  /* The others may be about to add one, too. */
  if (live < SNAPSHOTS_MAX - THREADS
      && random_below (&thread->random, 8) >= live)
    take_snapshot (thread);
  else
    delete_snapshot (thread);
}

static void
end_server (void)
{
  pthread_rwlock_wrlock (&load.connecting);
  load.stopping = true;
  kill (server.pid, SIGTERM);
  pthread_rwlock_unlock (&load.connecting);
}

static void *
run_thread (void *arg)
{
  struct thread *thread = arg;
  unsigned request;

  while (!load.dead && (request = load.begun++) < load.requests) {
    /* First what was not answered. */
    const uint64_t choice
        = request < THREADS ? 100 : random_below (&thread->random, 100);

    if (request + 1 == load.stop_at)
      end_server ();
    if (choice < 12 && !load.stopping)
      change_snapshots (thread);
    else if (choice < 20)
      flush_origin (thread);
    else
      change_origin (thread);
  }
  return NULL;
}

void
load_run_threads (uint64_t *random)
{
  struct thread all[THREADS];
  pthread_t threads[THREADS];

  for (unsigned i = 0; i < THREADS; i++) {
    all[i].number = i;
    all[i].random = random_next (random) | 1;
    all[i].origin = check_connect ("");
    all[i].control = rpc_connect ();
    if (all[i].origin == NULL || all[i].control == -1)
      load_has_gone ("connect", NULL);
  }
  for (unsigned i = 0; i < THREADS; i++)
    if (pthread_create (&threads[i], NULL, run_thread, &all[i]) != 0)
      fail ("pthread_create");
  for (unsigned i = 0; i < THREADS; i++)
    pthread_join (threads[i], NULL);
  for (unsigned i = 0; i < THREADS; i++) {
    nbd_close (all[i].origin);
    if (all[i].control != -1)
      close (all[i].control);
  }
}
