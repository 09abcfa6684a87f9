/* SPDX-License-Identifier: BSD-3-Clause */
/* A thread of the store's own writes the catalogue for snapshots that break,
 * since those who break them must not wait for it.  When it cannot be written
 * there is shared memory, which outlives the server but not the machine's
 * next start.
 */

#include "store-internal.h"
#include "report.h"
#include "scoped.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#define MARK "/dev/shm/fssnap-"

/* A snapshot that is to break. */
struct telling {
  struct telling *next;
  struct catalog_layer *record;
  int err;
  time_t when;
  char *why; /* or NULL */
  void (*done) (void *arg);
  void *arg;
};

static char *
mark_path (const struct catalog_layer *record)
{
  char uuid[37];
  char *path;

  uuid_unparse_lower (record->uuid, uuid);
  return asprintf (&path, MARK "%s", uuid) == -1 ? NULL : path;
}

void
store_remove_mark (const struct catalog_layer *record)
{
  SCOPED_FREE char *path = mark_path (record);

  if (path != NULL)
    unlink (path);
}

static void
tell (struct store *store, struct telling *telling)
{
  /* If it cannot be noted, a mark must do. */
  if (store_set_broken (store, telling->record, telling->err, telling->when,
                        telling->why != NULL ? telling->why : "no memory")
      == -1)
    store_mark_broken (store, telling->record);
  telling->done (telling->arg);
  free (telling->why);
  free (telling);
}

void
store_tell_broken (struct store *store, struct catalog_layer *record, int err,
                   time_t when, const char *why, void (*done) (void *arg),
                   void *arg)
{
  struct telling *telling = calloc (1, sizeof *telling);

  if (telling == NULL) {
    store_mark_broken (store, record);
    done (arg);
    return;
  }
  *telling = (struct telling){ .record = record,
                               .err = err,
                               .when = when,
                               .why = strdup (why),
                               .done = done,
                               .arg = arg };
  {
    SCOPED_LOCK (&store->tell_lock);
    if (store->running) {
      *store->tellings_end = telling;
      store->tellings_end = &telling->next;
      pthread_cond_broadcast (&store->changed);
      return;
    }
  }
  tell (store, telling);
}

void
store_mark_broken (struct store *store, const struct catalog_layer *record)
{
  SCOPED_FREE char *path = mark_path (record);
  const int fd
      = path == NULL
            ? -1
            : open (path, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);

  if (fd == -1) {
    report_error ("store %s does not answer, and %s cannot be made: if this "
                  "server is killed, do not use snapshot %u again: %m",
                  store->path, path != NULL ? path : "a mark", record->number);
    return;
  }
  close (fd);
  report_error ("store %s does not answer: that snapshot %u is broken is noted "
                "in %s alone, which a restart of the machine removes",
                store->path, record->number, path);
}

bool
store_is_marked (const struct catalog_layer *record)
{
  SCOPED_FREE char *path = mark_path (record);
  struct stat st;

  /* Anyone may make files there. */
  return path != NULL && lstat (path, &st) == 0
         && (st.st_uid == 0 || st.st_uid == geteuid ());
}

static struct telling *
next_telling (struct store *store)
{
  SCOPED_LOCK (&store->tell_lock);
  while (store->tellings == NULL && !store->stopping)
    pthread_cond_wait (&store->changed, &store->tell_lock);
  struct telling *telling = store->tellings;
  if (telling == NULL) {
    store->ended = true;
    store->running = false;
    pthread_cond_broadcast (&store->changed);
    return NULL;
  }
  store->tellings = telling->next;
  if (store->tellings == NULL)
    store->tellings_end = &store->tellings;
  return telling;
}

static void *
run (void *arg)
{
  struct store *store = arg;
  struct telling *telling;

  while ((telling = next_telling (store)) != NULL)
    tell (store, telling);
  return NULL;
}

int
store_start (struct store *store)
{
  char text[32];
  const int length = snprintf (text, sizeof text, "%jd\n", (intmax_t)getpid ());

  /* For people; the lock is what counts. */
  if (ftruncate (store->lock_file, 0) == -1
      || pwrite (store->lock_file, text, (size_t)length, 0) == -1)
    nbdkit_debug ("fssnap: store=%s: lock: %m", store->path);
  store->running = true;
  const int err = pthread_create (&store->thread, NULL, run, store);
  if (err != 0) {
    store->running = false;
    errno = err;
    report_error ("fssnap: cannot start the store's thread: %m");
    return -1;
  }
  store->started = true;
  return 0;
}

int
store_stop (struct store *store, unsigned timeout)
{
  struct timespec deadline;
  int err = 0;

  if (!store->started)
    return 0;
  clock_gettime (CLOCK_REALTIME, &deadline);
  deadline.tv_sec += timeout;
  pthread_mutex_lock (&store->tell_lock);
  store->stopping = true;
  pthread_cond_broadcast (&store->changed);
  while (!store->ended && err == 0)
    err = pthread_cond_timedwait (&store->changed, &store->tell_lock,
                                  &deadline);
  const bool ended = store->ended;
  pthread_mutex_unlock (&store->tell_lock);
  if (!ended)
    return -1;
  pthread_join (store->thread, NULL);
  store->started = false;
  return 0;
}
