/* SPDX-License-Identifier: BSD-3-Clause */
/* Snapshots are taken and deleted, up to 64 at once and in any order, while
 * the origin is written and all of them are read.
 *
 * Each snapshot has its model.  Taking one takes a while, and writes go on
 * meanwhile: its model is the origin's from before, and what was being
 * written in that time is uncertain.  Of the uncertain bytes the first read
 * of the snapshot tells what they are, for good; but where only one write
 * was under way at a place, all of it or nothing of it must be in the
 * snapshot, since each request is either before its instant or after.
 *
 * A snapshot that is deleted by force reads as errors; a read that
 * succeeds nevertheless must be right.
 *
 * usage: chain OPERATIONS [PARAMETER=VALUE...]
 * FSSNAP_SEED=N repeats the choices of a run, FSSNAP_LONG=1 makes it longer.
 */

#include "load.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define SIZE ((2u << 20) + 12345) /* no multiple of anything */
#define LENGTH_MAX (200u << 10)
#define WRITERS 8
#define READERS 4
#define CHANGERS 2
#define SNAPSHOTS_MAX 64
#define WRITES_MAX 256 /* noted while a snapshot is taken */

/* A write that may be in a snapshot or not. */
struct noted {
  uint64_t offset, length;
  uint8_t *data; /* what it writes; NULL: that is not known */
};

struct snap {
  char name[16];   /* set when it is made, as is what follows */
  uint8_t *before; /* the origin's model from before it was taken */
  uint8_t *model;
  uint8_t *uncertain; /* each byte: how many writes noted touch it */
  struct noted notes[WRITES_MAX];
  unsigned note_count;

  /* Under LIVE_LOCK. */
  unsigned readers;
  bool dying;  /* no more readers */
  bool forced; /* it may be deleted under those it has */
};

static uint8_t *model; /* the origin's; under MODEL_LOCK to be copied */

static pthread_mutex_t model_lock = PTHREAD_MUTEX_INITIALIZER;
static struct noted under_way[WRITERS];   /* LENGTH 0: none */
static struct snap *being_made[CHANGERS]; /* or NULL */

static pthread_mutex_t live_lock = PTHREAD_MUTEX_INITIALIZER;
static struct snap *live[SNAPSHOTS_MAX];
static unsigned live_count, made, deleted, most;

static unsigned operations;
static _Atomic unsigned operations_begun;

struct thread {
  unsigned number;
  uint64_t random;
  struct nbd_handle *origin;
  int control;
  uint8_t *buf;
};

static void *
must (void *memory)
{
  if (memory == NULL)
    abort ();
  return memory;
}

/* --- the control socket -------------------------------------------------- */

static int
connect_control (void)
{
  struct sockaddr_un address = { .sun_family = AF_UNIX };
  const int fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

  snprintf (address.sun_path, sizeof address.sun_path, "%s/c", server.dir);
  if (connect (fd, (const struct sockaddr *)&address, sizeof address) == -1)
    fail ("%s: %s", address.sun_path, strerror (errno));
  return fd;
}

/* Send a request, and read the reply: true if it is a result. */
static bool
request (int fd, char *reply, size_t size, const char *method,
         const char *params)
{
  char text[512];
  size_t length = 0;
  const int n = snprintf (
      text, sizeof text,
      "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"%s\",\"params\":%s}\n",
      method, params);

  if (write (fd, text, (size_t)n) != n)
    fail ("%s: cannot be sent", method);
  do {
    const ssize_t r = read (fd, reply + length, size - 1 - length);
    if (r <= 0)
      fail ("%s: no reply", method);
    length += (size_t)r;
  } while (reply[length - 1] != '\n');
  reply[length] = '\0';
  return strstr (reply, "\"result\":") != NULL;
}

/* --- the origin ---------------------------------------------------------- */

/* The ranges of a snapshot's model that a write may have changed or not. */
static void
note (struct snap *snap, const struct noted *write)
{
  for (uint64_t i = 0; i < write->length; i++)
    if (snap->uncertain[write->offset + i] < 255)
      snap->uncertain[write->offset + i]++;
  if (snap->note_count == WRITES_MAX || write->data == NULL)
    return;
  struct noted *copy = &snap->notes[snap->note_count++];
  *copy = *write;
  copy->data = must (malloc (write->length));
  memcpy (copy->data, write->data, write->length);
}

static void
begin_change (const struct thread *thread, const struct noted *write)
{
  pthread_mutex_lock (&model_lock);
  under_way[thread->number] = *write;
  for (unsigned i = 0; i < CHANGERS; i++)
    if (being_made[i] != NULL)
      note (being_made[i], write);
  pthread_mutex_unlock (&model_lock);
}

static void
end_change (const struct thread *thread, const struct noted *write,
            const uint8_t *data)
{
  pthread_mutex_lock (&model_lock);
  memcpy (model + write->offset, data, write->length);
  under_way[thread->number].length = 0;
  pthread_mutex_unlock (&model_lock);
}

static void
choose_range (struct thread *thread, uint64_t *offset, uint64_t *length)
{
  const unsigned bits = 1 + (unsigned)random_below (&thread->random, 18);
  uint64_t limit = UINT64_C (1) << bits;

  if (limit > LENGTH_MAX)
    limit = LENGTH_MAX;
  *length = 1 + random_below (&thread->random, limit);
  *offset = random_below (&thread->random, SIZE);
  if (random_below (&thread->random, 4) == 0) {
    *offset = *offset / 4096 * 4096;
    *length = (*length + 4095) / 4096 * 4096;
  }
  if (*length > SIZE - *offset)
    *length = SIZE - *offset;
}

static void
change_origin (struct thread *thread)
{
  const unsigned choice = (unsigned)random_below (&thread->random, 10);
  uint64_t offset, length;

  choose_range (thread, &offset, &length);
  hold (thread->number, offset, length);
  struct noted write = { offset, length, thread->buf };
  if (choice == 0) {
    nbd_must (nbd_pread (thread->origin, thread->buf, length, offset, 0),
              "read", offset, length);
    must_equal ("origin", thread->buf, model + offset, offset, length);
    let_go (thread->number);
    return;
  }
  if (choice < 7) {
    random_bytes (&thread->random, thread->buf, length);
    begin_change (thread, &write);
    nbd_must (nbd_pwrite (thread->origin, thread->buf, length, offset, 0),
              "write", offset, length);
  }
  else if (choice < 9) {
    memset (thread->buf, 0, length);
    begin_change (thread, &write);
    nbd_must (nbd_zero (thread->origin, length, offset,
                        choice == 7 ? LIBNBD_CMD_FLAG_NO_HOLE : 0),
              "zero", offset, length);
  }
  else {
    /* Byte by byte as before or zeros, and from then on it stays so. */
    write.data = NULL;
    begin_change (thread, &write);
    nbd_must (nbd_trim (thread->origin, length, offset, 0), "trim", offset,
              length);
    nbd_must (nbd_pread (thread->origin, thread->buf, length, offset, 0),
              "read", offset, length);
  }
  end_change (thread, &write, thread->buf);
  let_go (thread->number);
}

static void *
run_writer (void *arg)
{
  while (atomic_fetch_add (&operations_begun, 1) < operations)
    change_origin (arg);
  return NULL;
}

/* --- snapshots ----------------------------------------------------------- */

static void
free_snap (struct snap *snap)
{
  for (unsigned i = 0; i < snap->note_count; i++)
    free (snap->notes[i].data);
  free (snap->before);
  free (snap->model);
  free (snap->uncertain);
  free (snap);
}

/* A write that no other met is in the snapshot with all of its bytes, or
 * with none.
 */
static void
check_note (const struct snap *snap, const struct noted *write)
{
  const uint8_t *is = snap->model + write->offset;

  for (uint64_t i = 0; i < write->length; i++)
    if (snap->uncertain[write->offset + i] != 1)
      return;
  if (memcmp (is, write->data, write->length) != 0
      && memcmp (is, snap->before + write->offset, write->length) != 0)
    fail ("snapshot %s has a part of the write of %" PRIu64
          " bytes at %" PRIu64,
          snap->name, write->length, write->offset);
}

/* The first read of a new snapshot: learn what is uncertain. */
static void
learn (struct snap *snap)
{
  char export[64];

  snprintf (export, sizeof export, "snapshot/%s", snap->name);
  struct nbd_handle *nbd = connect_to (export);
  nbd_must (nbd_pread (nbd, snap->model, SIZE, 0, 0), "first read", 0, SIZE);
  nbd_close (nbd);
  for (uint64_t i = 0; i < SIZE; i++)
    if (snap->uncertain[i] == 0 && snap->model[i] != snap->before[i])
      fail ("snapshot %s: offset %" PRIu64 " is %02x and should be %02x",
            snap->name, i, snap->model[i], snap->before[i]);
  for (unsigned i = 0; i < snap->note_count; i++)
    check_note (snap, &snap->notes[i]);
}

static void
take_snapshot (struct thread *thread, unsigned changer)
{
  static const unsigned chunk_sizes[]
      = { 512, 1024, 4096, 4096, 4096, 16384, 65536, 262144 };
  static _Atomic unsigned serial;
  struct snap *snap = must (calloc (1, sizeof *snap));
  char params[256], reply[4096];

  snap->before = must (malloc (SIZE));
  snap->model = must (malloc (SIZE));
  snap->uncertain = must (calloc (1, SIZE));
  snprintf (snap->name, sizeof snap->name, "s%u",
            atomic_fetch_add (&serial, 1));
  snprintf (params, sizeof params,
            "{\"name\":\"%s\",\"options\":{\"chunksize\":%u%s}}", snap->name,
            chunk_sizes[random_below (&thread->random, 8)],
            random_below (&thread->random, 4) == 0
                ? ",\"durability\":\"written\""
                : "");

  pthread_mutex_lock (&model_lock);
  memcpy (snap->before, model, SIZE);
  for (unsigned i = 0; i < WRITERS; i++)
    if (under_way[i].length > 0)
      note (snap, &under_way[i]);
  being_made[changer] = snap;
  pthread_mutex_unlock (&model_lock);
  if (!request (thread->control, reply, sizeof reply, "snapshot.create",
                params))
    fail ("create: %s", reply);
  pthread_mutex_lock (&model_lock);
  being_made[changer] = NULL;
  pthread_mutex_unlock (&model_lock);
  learn (snap);

  pthread_mutex_lock (&live_lock);
  live[live_count++] = snap;
  made++;
  if (most < live_count)
    most = live_count;
  pthread_mutex_unlock (&live_lock);
}

/* Some live snapshot, with a reader more; NULL: there is none. */
static struct snap *
begin_reading (uint64_t *random)
{
  struct snap *snap = NULL;

  pthread_mutex_lock (&live_lock);
  if (live_count > 0) {
    snap = live[random_below (random, live_count)];
    if (snap->dying)
      snap = NULL;
    else
      snap->readers++;
  }
  pthread_mutex_unlock (&live_lock);
  return snap;
}

static void
end_reading (struct snap *snap)
{
  pthread_mutex_lock (&live_lock);
  const bool last = --snap->readers == 0 && snap->forced && snap->dying;
  pthread_mutex_unlock (&live_lock);
  if (last)
    free_snap (snap);
}

static bool
may_fail (struct snap *snap)
{
  pthread_mutex_lock (&live_lock);
  const bool forced = snap->forced;
  pthread_mutex_unlock (&live_lock);
  return forced;
}

static void
delete_snapshot (struct thread *thread)
{
  const bool force = random_below (&thread->random, 2) == 0;
  char params[64], reply[4096];
  struct snap *snap = NULL;

  pthread_mutex_lock (&live_lock);
  if (live_count > 0) {
    snap = live[random_below (&thread->random, live_count)];
    if (snap->dying || (snap->readers > 0 && !force))
      snap = NULL;
    else {
      snap->dying = true;
      snap->forced = force;
      snap->readers++; /* ours */
    }
  }
  pthread_mutex_unlock (&live_lock);
  if (snap == NULL)
    return;

  snprintf (params, sizeof params, "{\"snapshot\":\"%s\",\"force\":%s}",
            snap->name, force ? "true" : "false");
  const bool done = request (thread->control, reply, sizeof reply,
                             "snapshot.delete", params);
  /* The server may not have seen yet that the last reader has gone. */
  if (!done && (force || strstr (reply, "\"EBUSY\"") == NULL))
    fail ("delete: %s", reply);
  pthread_mutex_lock (&live_lock);
  if (done) {
    unsigned i = 0;
    while (live[i] != snap)
      i++;
    live[i] = live[--live_count];
    deleted++;
    snap->forced = true; /* the last one frees it */
  }
  else
    snap->dying = false;
  pthread_mutex_unlock (&live_lock);
  end_reading (snap);
}

static void *
run_changer (void *arg)
{
  struct thread *thread = arg;

  while (operations_begun < operations) {
    pthread_mutex_lock (&live_lock);
    const unsigned count = live_count;
    pthread_mutex_unlock (&live_lock);
    /* Sometimes many, sometimes few. */
    const unsigned aim
        = operations_begun % (operations / 2 + 1) < operations / 3 ? 128 : 4;
    if (count + CHANGERS < SNAPSHOTS_MAX
        && random_below (&thread->random, aim) >= count / 2)
      take_snapshot (thread, thread->number % CHANGERS);
    else
      delete_snapshot (thread);
  }
  return NULL;
}

struct extents_check {
  const struct snap *snap;
  uint64_t offset;
  bool bad;
};

/* What is called zero is zero. */
static int
check_extents (void *opaque, const char *context, uint64_t offset,
               uint32_t *entries, size_t count, int *error)
{
  struct extents_check *check = opaque;

  (void)context;
  (void)error;
  check->offset = offset;
  for (size_t i = 0; i + 1 < count; i += 2) {
    for (uint32_t j = 0; (entries[i + 1] & 2) && j < entries[i]; j++)
      check->bad |= check->offset + j < SIZE
                    && check->snap->model[check->offset + j] != 0;
    check->offset += entries[i];
  }
  return 0;
}

/* Read or map a part of a snapshot.  False: it was deleted. */
static bool
read_part (struct thread *thread, struct nbd_handle *nbd, struct snap *snap)
{
  struct extents_check check = { .snap = snap };
  uint64_t offset, length;

  choose_range (thread, &offset, &length);
  if (random_below (&thread->random, 8) == 0) {
    if (nbd_block_status (nbd, length, offset,
                          (nbd_extent_callback){ .callback = check_extents,
                                                 .user_data = &check },
                          0)
        == -1)
      goto failed;
    if (check.bad)
      fail ("block status of %s: %" PRIu64 " bytes at %" PRIu64
            " call data zeros",
            snap->name, length, offset);
    return true;
  }
  if (nbd_pread (nbd, thread->buf, length, offset, 0) == -1)
    goto failed;
  must_equal (snap->name, thread->buf, snap->model + offset, offset, length);
  return true;

failed:
  if (!may_fail (snap))
    nbd_must (-1, snap->name, offset, length);
  return false;
}

static void
read_snapshot (struct thread *thread, struct snap *snap)
{
  struct nbd_handle *nbd = must (nbd_create ());
  char export[64];

  snprintf (export, sizeof export, "snapshot/%s", snap->name);
  if (nbd_add_meta_context (nbd, "base:allocation") == -1
      || nbd_connect_uri (nbd, server_uri (&server, export)) == -1) {
    if (!may_fail (snap))
      fail ("connect to %s: %s", export, nbd_get_error ());
  }
  else
    for (unsigned i = 0; i < 20 && read_part (thread, nbd, snap); i++)
      ;
  nbd_close (nbd);
}

static void *
run_reader (void *arg)
{
  struct thread *thread = arg;

  while (operations_begun < operations) {
    struct snap *snap = begin_reading (&thread->random);
    if (snap == NULL) {
      sched_yield ();
      continue;
    }
    read_snapshot (thread, snap);
    end_reading (snap);
  }
  return NULL;
}

/* --- all of it ------------------------------------------------------------
 */

/* Compare every live snapshot as a whole. */
static void
compare_all (uint8_t *buf)
{
  for (unsigned i = 0; i < live_count; i++) {
    char export[64];
    snprintf (export, sizeof export, "snapshot/%s", live[i]->name);
    struct nbd_handle *nbd = connect_to (export);
    nbd_must (nbd_pread (nbd, buf, SIZE, 0, 0), live[i]->name, 0, SIZE);
    must_equal (live[i]->name, buf, live[i]->model, 0, SIZE);
    nbd_close (nbd);
  }
}

/* Delete what is left, and wait until nothing of it is. */
static void
delete_all (struct thread *thread)
{
  char *reply = must (malloc (1 << 20));

  while (live_count > 0) {
    delete_snapshot (thread);
    if (live_count % 8 == 0)
      compare_all (thread->buf);
  }
  /* Each round asks the server, which is kept from nothing by that. */
  for (unsigned i = 0;; i++) {
    if (!request (thread->control, reply, 1 << 20, "snapshot.list",
                  "{\"all\":true}"))
      fail ("list: %s", reply);
    if (strstr (reply, "\"snapshots\":[]") != NULL)
      break;
    if (i == 100000)
      fail ("deleted snapshots are still there: %s", reply);
  }
  free (reply);
}

static void
start_server (char **extra, uint64_t *random)
{
  const char *parameters[32] = { 0 };
  char origin[128], store[128], control[128];
  unsigned n = 0;

  server_prepare (&server);
  snprintf (origin, sizeof origin, "origin=%s/disk.img", server.dir);
  snprintf (store, sizeof store, "backing-store=%s", server.dir);
  snprintf (control, sizeof control, "control=%s/c", server.dir);
  make_image (origin + strlen ("origin="), model, SIZE, random);
  parameters[n++] = origin;
  parameters[n++] = store;
  parameters[n++] = control;
  parameters[n++] = "snapshot=no";
  while (*extra != NULL && n < 31)
    parameters[n++] = *extra++;
  server_start (&server, parameters);
}

static void
run_all (uint64_t *random)
{
  static struct thread all[WRITERS + READERS + CHANGERS];
  pthread_t threads[WRITERS + READERS + CHANGERS];
  const unsigned count = WRITERS + READERS + CHANGERS;

  /* The first NBD connection waits for the server. */
  for (unsigned i = 0; i < count; i++) {
    all[i].number = i;
    all[i].random = random_next (random) | 1;
    all[i].buf = must (malloc (SIZE));
    all[i].origin = connect_to ("");
    all[i].control = connect_control ();
  }
  for (unsigned i = 0; i < count; i++)
    if (pthread_create (&threads[i], NULL,
                        i < WRITERS             ? run_writer
                        : i < WRITERS + READERS ? run_reader
                                                : run_changer,
                        &all[i])
        != 0)
      fail ("pthread_create");
  for (unsigned i = 0; i < count; i++)
    pthread_join (threads[i], NULL);
  printf ("%u snapshots taken, %u deleted, at most %u at a time\n", made,
          deleted, most);
  compare_all (all[0].buf);
  delete_all (&all[0]);
  for (unsigned i = 0; i < count; i++) {
    nbd_close (all[i].origin);
    close (all[i].control);
    free (all[i].buf);
  }
}

int
main (int argc, char **argv)
{
  if (argc < 2) {
    fprintf (stderr, "usage: chain OPERATIONS [PARAMETER=VALUE...]\n");
    return 2;
  }
  operations = (unsigned)atoi (argv[1]);
  if (getenv ("FSSNAP_LONG") != NULL)
    operations *= 20;
  uint64_t random = random_begin ();
  model = must (malloc (SIZE));
  start_server (argv + 2, &random);
  run_all (&random);
  stop_server ();
  server_clean_up (&server);
  free (model);
  return 0;
}
