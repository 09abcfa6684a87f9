/* SPDX-License-Identifier: BSD-3-Clause */
/* A server that was told to end makes all copies stable at once, while its
 * clients are still there: what was on its way then is kept even if it is
 * killed before they have gone.
 */

#include "faulty.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

/* Then only what is stable is believed. */
static void
start_after_power_loss (struct world *w)
{
  lose_power (w->f);
  open_store (w);
}

static bool
all_are_stable (struct fixture *f)
{
  const struct catalog_layer *layer = read_catalog (f)->layers;

  while (layer != NULL && layer->level == DURABILITY_STABLE)
    layer = layer->next;
  return layer == NULL;
}

/* Copies that are in memory, since the store takes none, when SIGTERM comes.
 */
static void
copies_in_memory_are_kept (void **state)
{
  struct fixture *f = *state;
  struct world w = faulty_world (f);
  const uint8_t *then = remember (&w);

  open_store (&w);
  create (w.c);
  overwrite (&w, 0, SIZE / 4);
  await_figure (w.c, 1, "bytes-in-memory", 0);
  faultfs_set (
      f->faults, FAULTFS_WRITE,
      (struct faultfs_rule){ .fault = FAULTFS_HOLD, .file = "snapshot-" });
  overwrite (&w, SIZE / 4, SIZE / 2);
  assert_true (faultfs_await_held (f->faults, 1));
  assert_true (figure (w.c, 1, "bytes-in-memory") > 0);
  kill (f->server.pid, SIGTERM);
  /* No promise before it is true. */
  assert_false (all_are_stable (f));
  faultfs_release (f->faults);
  await_safety (f);
  end (&w, KILLED);
  start_after_power_loss (&w);
  snapshot_is (&w, 1, then);
  origin_is_live (&w);
}

/* A write that waits for its copies when SIGTERM comes; it is answered then.
 */
static void
a_write_that_waits_is_kept (void **state)
{
  struct fixture *f = *state;
  struct world w = faulty_world (f);
  const uint8_t *then = remember (&w), *new = pattern (f, 9, 0, SIZE);

  open_store (&w);
  create_as (&w, "'options':{'durability':'written'}");
  faultfs_set (
      f->faults, FAULTFS_WRITE,
      (struct faultfs_rule){ .fault = FAULTFS_HOLD, .file = "snapshot-" });
  /* So little goes out at once. */
  const int64_t cookie = nbd_aio_pwrite (w.origin, new, 16 * CHUNK, SIZE / 4,
                                         NBD_NULL_COMPLETION, 0);
  ok (cookie);
  assert_true (faultfs_await_held (f->faults, 1));
  kill (f->server.pid, SIGTERM);
  faultfs_release (f->faults);
  int completed;
  while ((completed = nbd_aio_command_completed (w.origin, (uint64_t)cookie))
         == 0)
    ok (nbd_poll (w.origin, -1));
  ok (completed);
  memcpy (w.live + SIZE / 4, new, 16 * CHUNK);
  await_safety (f);
  end (&w, KILLED);
  start_after_power_loss (&w);
  snapshot_is (&w, 1, then);
  origin_is_live (&w);
}

/* --- under load ---------------------------------------------------------- */

#define BIG ((size_t)32 << 20)
#define WRITERS 6
#define PIECE 65536

struct writer {
  pthread_t thread;
  const char *socket;
  unsigned number;
  _Atomic unsigned written; /* requests */
};

/* Write anywhere until the server is gone. */
static void *
write_on (void *arg)
{
  struct writer *writer = arg;
  struct nbd_handle *nbd = nbd_create ();
  uint64_t x = writer->number + 1;
  uint8_t *buf = malloc (PIECE);

  if (nbd != NULL && buf != NULL) {
    memset (buf, 0x80 + (int)writer->number, PIECE);
    bool connected = nbd_connect_unix (nbd, writer->socket) == 0;
    while (connected) {
      x = x * UINT64_C (6364136223846793005) + 1442695040888963407;
      connected
          = nbd_pwrite (nbd, buf, PIECE, (x >> 33) % (BIG - PIECE), 0) == 0;
      atomic_fetch_add (&writer->written, connected);
    }
  }
  free (buf);
  nbd_close (nbd);
  return NULL;
}

/* Written to by several while it is told to end. */
static void
end_under_load (struct world *w, unsigned round)
{
  static struct writer writers[WRITERS]; /* they may outlive a failure */
  struct fixture *f = w->f;

  for (unsigned i = 0; i < WRITERS; i++) {
    writers[i].socket = f->server.socket;
    writers[i].number = round * WRITERS + i;
    atomic_store (&writers[i].written, 0);
    assert_int_equal (
        pthread_create (&writers[i].thread, NULL, write_on, &writers[i]), 0);
  }
  /* Until they are at it, and copies are on their way. */
  for (unsigned i = 0; i < WRITERS; i++)
    while (atomic_load (&writers[i].written) < 1 + 4 * round)
      usleep (1000);
  kill (f->server.pid, SIGTERM);
  await_safety (f);
  end (w, KILLED);
  for (unsigned i = 0; i < WRITERS; i++)
    pthread_join (writers[i].thread, NULL);
}

static void
load_at_the_end_does_no_harm (void **state)
{
  struct fixture *f = *state;
  struct world w = faulty_world (f);
  const uint8_t *then = make_image (f, BIG);

  /* So that many copies wait. */
  faultfs_set (f->faults, FAULTFS_WRITE,
               (struct faultfs_rule){
                   .fault = FAULTFS_SLOW, .file = "snapshot-", .amount = 300 });
  open_store (&w);
  create (w.c);
  for (unsigned round = 0; round < 4; round++) {
    end_under_load (&w, round);
    start_after_power_loss (&w);
    reads_as (connect_to (f, "snapshot/1"), 0, then, BIG);
    restart (&w, STOPPED);
    reads_as (connect_to (f, "snapshot/1"), 0, then, BIG);
  }
}

int
main (void)
{
  static const struct variant variants[] = {
    { .name = "uring", .parameters = { "io=uring", "durability=async" } },
    { .name = "sync", .parameters = { "io=sync", "durability=async" } },
  };
  const struct CMUnitTest tests[] = {
    fixture_test (copies_in_memory_are_kept),
    fixture_test (a_write_that_waits_is_kept),
    fixture_test (load_at_the_end_does_no_harm),
  };

  if (!private_mounts () || access ("/dev/fuse", R_OK | W_OK) == -1)
    return 77;
  return RUN_VARIANTS ("store-ending", tests, variants);
}
