/* SPDX-License-Identifier: BSD-3-Clause */

#include "cmocka-all.h"
#include "fixture.h"
#include "call-hook.h"
#include "closing.h"
#include "nbdkit-stub.h"
#include "restore.h"
#include "scoped.h"
#include "store.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <semaphore.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

const char *
test_directory (void)
{
  const char *directory = getenv ("FSSNAP_TEST_DIR");

  return directory != NULL ? directory : "/dev/shm";
}

int
unnamed_file (uint64_t size, char path[32])
{
  const int fd = open (test_directory (), O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);

  assert_int_not_equal (fd, -1);
  assert_int_equal (ftruncate (fd, (off_t)size), 0);
  snprintf (path, 32, "/proc/self/fd/%d", fd);
  return fd;
}

uint8_t
old_byte (uint64_t offset)
{
  return (uint8_t)(1 + (offset * UINT64_C (0x9e3779b97f4a7c15) >> 40) % 255);
}

void
fixture_make_origin (struct fixture *fixture)
{
  if (fixture->size == 0)
    fixture->size = 1 << 20;
  if (fixture->engine == NULL)
    fixture->engine = &engine_sync;
  if (fixture->memory == 0)
    fixture->memory = 64 << 20;
  fixture->fd = unnamed_file (fixture->size, fixture->path);
  fixture->old = malloc (fixture->size);
  if (fixture->content != NULL)
    memcpy (fixture->old, fixture->content, fixture->size);
  else
    for (uint64_t i = 0; i < fixture->size; i++)
      fixture->old[i] = old_byte (i);
  assert_int_equal (pwrite (fixture->fd, fixture->old, fixture->size, 0),
                    fixture->size);

  messages_clear ();
  fixture->origin = origin_open (fixture->path);
  assert_non_null (fixture->origin);
}

void
fixture_serve (struct fixture *fixture)
{
  fixture->set = snapset_create (fixture->origin, fixture->engine, NULL,
                                 fixture->memory);
  assert_non_null (fixture->set);
  if (fixture->in_store != NULL) {
    fixture->store = store_open (fixture->in_store);
    if (fixture->store == NULL)
      messages_show ();
    assert_non_null (fixture->store);
    snapset_use_store (fixture->set, fixture->store);
    assert_int_equal (restore_snapshots (fixture->set), 0);
    assert_int_equal (store_start (fixture->store), 0);
  }
  assert_int_equal (snapset_start (fixture->set), 0);
  if (fixture->options.chunk_size == 0)
    fixture->options.chunk_size = 4096;
  if (fixture->options.cow_timeout == 0)
    fixture->options.cow_timeout = 60;
  if (fixture->options.backing_store == NULL)
    fixture->options.backing_store
        = fixture->in_store != NULL ? fixture->in_store : test_directory ();
}

void
fixture_open (struct fixture *fixture)
{
  fixture_make_origin (fixture);
  fixture_serve (fixture);
}

static void
end_cleanly (struct fixture *fixture)
{
  struct closing *closing = closing_create (fixture->set);

  assert_non_null (closing);
  server_runs ();
  assert_int_equal (closing_start (closing), 0);
  server_ends ();
  assert_int_equal (closing_finish (closing, 60), 0);
  closing_free (closing);
}

/* Marks are for the next server on this machine; there is none. */
static void
remove_marks (struct store *store)
{
  char path[64], uuid[37];

  for (const struct catalog_layer *l = store_catalog (store)->layers; l != NULL;
       l = l->next) {
    uuid_unparse_lower (l->uuid, uuid);
    snprintf (path, sizeof path, "/dev/shm/fssnap-%s", uuid);
    unlink (path);
  }
}

void
fixture_end (struct fixture *fixture, bool clean)
{
  if (fixture->reclaim != NULL)
    assert_int_equal (reclaim_stop (fixture->reclaim, 60), 0);
  reclaim_free (fixture->reclaim);
  fixture->reclaim = NULL;
  call_watch.cond = NULL;
  if (clean)
    end_cleanly (fixture);
  assert_int_equal (snapset_stop (fixture->set, 60), 0);
  if (fixture->store != NULL)
    assert_int_equal (store_stop (fixture->store, 60), 0);
  snapset_free (fixture->set);
  fixture->set = NULL;
  store_close (fixture->store);
  fixture->store = NULL;
}

void
fixture_restart (struct fixture *fixture, bool clean)
{
  fixture_end (fixture, clean);
  fixture_serve (fixture);
}

void
fixture_close (struct fixture *fixture)
{
  if (fixture->set != NULL) {
    if (fixture->store != NULL)
      remove_marks (fixture->store);
    fixture_end (fixture, false);
  }
  origin_close (fixture->origin);
  free (fixture->old);
  close (fixture->fd);
}

struct snapshot *
fixture_find (struct fixture *fixture, unsigned number)
{
  char who[16];

  snprintf (who, sizeof who, "%u", number);
  return snapset_find (fixture->set, who);
}

struct snapshot *
fixture_freeze (struct fixture *fixture)
{
  struct snapshot *snapshot = snapset_freeze (fixture->set, &fixture->options);

  assert_non_null (snapshot);
  snapset_unpin (fixture->set, snapshot);
  return snapshot;
}

void
fixture_delete (struct fixture *fixture, struct snapshot *snapshot)
{
  char who[16];
  unsigned number = 0;

  snprintf (who, sizeof who, "%u", snapshot->number);
  assert_int_equal (snapset_delete (fixture->set, who, true, NULL, &number), 0);
}

void
fixture_reclaim (struct fixture *fixture)
{
  call_watch.cond = &fixture->set->bell.cond;
  call_watch.asleep = false;
  call_watch.sleeps = 0;
  fixture->reclaim = reclaim_create (fixture->set);
  assert_non_null (fixture->reclaim);
  assert_int_equal (reclaim_start (fixture->reclaim), 0);
}

/* Ring, and wait until the thread has gone round and sleeps again; returns
 * how often it has by then.
 */
static unsigned
one_round (struct bell *bell)
{
  const bool off = call_hook_off;

  call_hook_off = true;
  pthread_mutex_lock (&bell->lock);
  bell->rung = true;
  pthread_cond_signal (&bell->cond);
  while (!call_watch.asleep || bell->rung)
    pthread_cond_wait (&call_watch.changed, &bell->lock);
  const unsigned sleeps = call_watch.sleeps;
  pthread_mutex_unlock (&bell->lock);
  call_hook_off = off;
  return sleeps;
}

/* Drain all layers.  What it pins meanwhile it unpins without ringing. */
static void
drain_all (struct snapset *set)
{
  size_t count;
  SCOPED_FREE struct snapshot **list = snapset_list (set, true, &count);

  assert (list != NULL);
  for (size_t i = 0; i < count; i++)
    fixture_drain (list[i]);
  SCOPED_LOCK (&set->lock);
  for (size_t i = 0; i < count; i++)
    list[i]->pins--;
}

void
fixture_settle (struct fixture *fixture)
{
  struct bell *bell = &fixture->set->bell;
  bool rests;

  do {
    const unsigned sleeps = one_round (bell);
    drain_all (fixture->set);
    SCOPED_LOCK (&bell->lock);
    rests = call_watch.asleep && !bell->rung && call_watch.sleeps == sleeps;
  } while (!rests);
}

unsigned
fixture_layers (struct fixture *fixture)
{
  unsigned n = 0;

  SCOPED_LOCK (&fixture->set->lock);
  for (const struct snapshot *s = fixture->set->last; s != NULL; s = s->older)
    n++;
  return n;
}

unsigned
fixture_dropped (struct fixture *fixture)
{
  unsigned n = 0;

  SCOPED_LOCK (&fixture->set->lock);
  for (const struct snapshot *s = fixture->set->dropped; s != NULL; s = s->next)
    n++;
  return n;
}

/* Memory of the test, which no hook shall refuse. */
static uint8_t *
allocate (uint64_t bytes)
{
  const bool off = call_hook_off;

  call_hook_off = true;
  uint8_t *memory = malloc (bytes);
  call_hook_off = off;
  assert (memory != NULL);
  return memory;
}

int
fixture_write (struct fixture *fixture, uint64_t offset, uint64_t count,
               uint8_t value)
{
  SCOPED_FREE uint8_t *buf = allocate (count);

  memset (buf, value, count);
  if (cow_begin_write (fixture->set, offset, count) == -1)
    return -1;
  const int r = origin_write (fixture->origin, buf, count, offset, false);
  cow_end_write (fixture->set);
  return r;
}

struct mark {
  struct flush_job job;
  sem_t passed;
};

static void
pass (struct flush_job *job, int error)
{
  (void)error;
  sem_post (&((struct mark *)job)->passed);
}

void
fixture_pass (struct snapshot *snapshot)
{
  struct mark mark = { .job = { .done = pass } };

  sem_init (&mark.passed, 0, 0);
  flusher_submit (snapshot->flusher, &mark.job);
  sem_wait (&mark.passed);
  sem_destroy (&mark.passed);
}

void
fixture_drain (struct snapshot *snapshot)
{
  bool ended;

  do {
    ended = atomic_load (&snapshot->pending) <= !atomic_load (&snapshot->gone);
    fixture_pass (snapshot);
  } while (!ended);
}

bool
fixture_is_origin (const struct fixture *fixture, int fd)
{
  struct stat ours, theirs;

  return fd != -1 && fstat (fixture->fd, &ours) == 0 && fstat (fd, &theirs) == 0
         && ours.st_ino == theirs.st_ino && ours.st_dev == theirs.st_dev;
}

void
assert_reads_at (const char *file, int line, struct fixture *fixture,
                 struct snapshot *snapshot, const uint8_t *expected,
                 uint64_t offset, uint64_t count)
{
  SCOPED_FREE uint8_t *buf = allocate (count);

  memset (buf, 0, count);
  if (view_read (fixture->set, snapshot, buf, count, offset) == -1) {
    messages_show ();
    print_message ("read of %" PRIu64 " at %" PRIu64 ": %s\n", count, offset,
                   strerror (errno));
    _fail (file, line);
  }
  for (uint64_t i = 0; i < count; i++)
    if (buf[i] != expected[offset + i]) {
      print_message ("byte %" PRIu64 " is 0x%02x, not 0x%02x\n", offset + i,
                     buf[i], expected[offset + i]);
      _fail (file, line);
    }
}
