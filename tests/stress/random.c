/* SPDX-License-Identifier: BSD-3-Clause */
/* Many clients change and read the origin and read its snapshot, all at
 * once, at random; a model in memory knows what each must find.
 *
 * The snapshot's model is the image at start, and anyone may check any part
 * of it at any time.  The origin's model is exact where a client holds the
 * range it works on, which it does in the first three quarters of the
 * image: writers of neighbouring ranges then meet in chunks, but not in
 * bytes.  In the last quarter nobody holds anything, so that the same bytes
 * are overwritten at once from several sides; there only the snapshot has
 * an answer that is right.
 *
 * Half of the work is in a window that moves over the image, to have many
 * clients at chunks that have just been, or are just being, copied.
 *
 * usage: random ROUNDS OPERATIONS [PARAMETER=VALUE...]
 * FSSNAP_SEED=N repeats the choices of a run.
 */

#include "load.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CLIENTS 12
#define SIZE ((16u << 20) + 12345) /* no multiple of anything */
#define HELD (SIZE / 4 * 3)        /* from here on nobody holds a range */
#define LENGTH_MAX (768u << 10)
#define WINDOW (256u << 10)
#define PIECE (1u << 20) /* of a comparison of the whole */

static uint8_t *initial; /* the image at start; the snapshot's model */
static uint8_t *model;   /* the origin's; each byte under its range's hold */

static unsigned operations;
static _Atomic unsigned operations_begun;

static struct client {
  unsigned number;
  uint64_t random;
  struct nbd_handle *origin, *snapshot;
  uint8_t *buf;
} clients[CLIENTS];

/* Where and how much: small more often than large. */
static void
choose_range (struct client *client, uint64_t *offset, uint64_t *length)
{
  const unsigned bits = 1 + (unsigned)random_below (&client->random, 20);
  uint64_t limit = UINT64_C (1) << bits;

  if (limit > LENGTH_MAX)
    limit = LENGTH_MAX;
  *length = 1 + random_below (&client->random, limit);
  if (random_below (&client->random, 2) == 0)
    *offset = random_below (&client->random, SIZE);
  else
    *offset = ((uint64_t)operations_begun * SIZE / operations
               + random_below (&client->random, WINDOW))
              % SIZE;
  /* Whole blocks now and then, as file systems write. */
  if (random_below (&client->random, 4) == 0) {
    *offset = *offset / 4096 * 4096;
    *length = (*length + 4095) / 4096 * 4096;
  }
  if (*length > SIZE - *offset)
    *length = SIZE - *offset;
}

static void
write_origin (struct client *client, uint64_t offset, uint64_t length,
              bool exact)
{
  const uint32_t flags
      = random_below (&client->random, 16) == 0 ? LIBNBD_CMD_FLAG_FUA : 0;
  uint64_t random = random_next (&client->random);

  random_bytes (&random, client->buf, length);
  nbd_must (nbd_pwrite (client->origin, client->buf, length, offset, flags),
            "write", offset, length);
  if (exact)
    memcpy (model + offset, client->buf, length);
}

static void
zero_origin (struct client *client, uint64_t offset, uint64_t length,
             bool exact)
{
  uint32_t flags = 0;

  if (random_below (&client->random, 2) == 0)
    flags |= LIBNBD_CMD_FLAG_NO_HOLE;
  if (random_below (&client->random, 8) == 0)
    flags |= LIBNBD_CMD_FLAG_FAST_ZERO;
  if (nbd_zero (client->origin, length, offset, flags) == -1) {
    if (!(flags & LIBNBD_CMD_FLAG_FAST_ZERO) || nbd_get_errno () != ENOTSUP)
      nbd_must (-1, "zero", offset, length);
    return;
  }
  if (exact)
    memset (model + offset, 0, length);
}

/* What was trimmed reads as before or as zeros, byte by byte; from then on
 * it stays so.
 */
static void
trim_origin (struct client *client, uint64_t offset, uint64_t length,
             bool exact)
{
  nbd_must (nbd_trim (client->origin, length, offset, 0), "trim", offset,
            length);
  if (!exact)
    return;
  nbd_must (nbd_pread (client->origin, client->buf, length, offset, 0), "read",
            offset, length);
  for (uint64_t i = 0; i < length; i++)
    if (client->buf[i] != 0 && client->buf[i] != model[offset + i])
      fail ("trimmed: offset %" PRIu64 " reads %02x, neither 0 nor %02x",
            offset + i, client->buf[i], model[offset + i]);
  memcpy (model + offset, client->buf, length);
}

static void
read_origin (struct client *client, uint64_t offset, uint64_t length,
             bool exact)
{
  nbd_must (nbd_pread (client->origin, client->buf, length, offset, 0), "read",
            offset, length);
  if (exact)
    must_equal ("origin", client->buf, model + offset, offset, length);
}

static void
read_snapshot (struct client *client, uint64_t offset, uint64_t length)
{
  nbd_must (nbd_pread (client->snapshot, client->buf, length, offset, 0),
            "snapshot read", offset, length);
  must_equal ("snapshot", client->buf, initial + offset, offset, length);
}

struct extents_check {
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
      check->bad |= check->offset + j < SIZE && initial[check->offset + j] != 0;
    check->offset += entries[i];
  }
  return 0;
}

static void
map_snapshot (struct client *client, uint64_t offset, uint64_t length)
{
  struct extents_check check = { 0 };

  nbd_must (nbd_block_status (client->snapshot, length, offset,
                              (nbd_extent_callback){ .callback = check_extents,
                                                     .user_data = &check },
                              0),
            "block status", offset, length);
  if (check.bad)
    fail ("block status of %" PRIu64 " bytes at %" PRIu64 " calls data zeros",
          length, offset);
}

static void
one_operation (struct client *client)
{
  const unsigned choice = (unsigned)random_below (&client->random, 100);
  uint64_t offset, length;

  choose_range (client, &offset, &length);
  if (choice < 35) {
    read_snapshot (client, offset, length);
    return;
  }
  if (choice < 40) {
    map_snapshot (client, offset, length);
    return;
  }
  if (choice < 42) {
    nbd_must (nbd_flush (client->origin, 0), "flush", 0, 0);
    return;
  }

  const bool exact = offset < HELD;
  if (exact && length > HELD - offset)
    length = HELD - offset;
  if (exact)
    hold (client->number, offset, length);
  if (choice < 70)
    write_origin (client, offset, length, exact);
  else if (choice < 78)
    zero_origin (client, offset, length, exact);
  else if (choice < 85)
    trim_origin (client, offset, length, exact);
  else
    read_origin (client, offset, length, exact);
  if (exact)
    let_go (client->number);
}

/* All of the snapshot, while the others go on. */
static void
compare_snapshot (struct client *client)
{
  for (uint64_t offset = 0; offset < SIZE; offset += PIECE)
    read_snapshot (client, offset,
                   SIZE - offset < PIECE ? SIZE - offset : PIECE);
}

static void *
run_client (void *arg)
{
  struct client *client = arg;
  unsigned i;

  while ((i = atomic_fetch_add (&operations_begun, 1)) < operations)
    if (operations > 4 && i % (operations / 4) == operations / 8)
      compare_snapshot (client);
    else
      one_operation (client);
  return NULL;
}

static void
compare_origin (struct client *client)
{
  for (uint64_t offset = 0; offset < HELD; offset += PIECE)
    read_origin (client, offset, HELD - offset < PIECE ? HELD - offset : PIECE,
                 true);
}

static void
one_round (uint64_t *random, char **extra)
{
  pthread_t threads[CLIENTS];
  const char *parameters[32] = { 0 };
  char origin[128], store[128];
  unsigned n = 0;

  server_prepare (&server);
  snprintf (origin, sizeof origin, "origin=%s/disk.img", server.dir);
  snprintf (store, sizeof store, "backing-store=%s", server.dir);
  make_image (origin + strlen ("origin="), initial, SIZE, random);
  memcpy (model, initial, SIZE);
  parameters[n++] = origin;
  parameters[n++] = store;
  while (*extra != NULL && n < 31)
    parameters[n++] = *extra++;
  server_start (&server, parameters);

  operations_begun = 0;
  for (unsigned i = 0; i < CLIENTS; i++) {
    clients[i].number = i;
    clients[i].random = random_next (random) | 1;
    clients[i].origin = connect_to ("");
    clients[i].snapshot = connect_to ("snapshot");
  }
  for (unsigned i = 0; i < CLIENTS; i++)
    if (pthread_create (&threads[i], NULL, run_client, &clients[i]) != 0)
      fail ("pthread_create");
  for (unsigned i = 0; i < CLIENTS; i++)
    pthread_join (threads[i], NULL);
  compare_snapshot (&clients[0]);
  compare_origin (&clients[0]);
  for (unsigned i = 0; i < CLIENTS; i++) {
    nbd_close (clients[i].origin);
    nbd_close (clients[i].snapshot);
  }
  stop_server ();
  server_clean_up (&server);
}

static void
allocate (void)
{
  initial = malloc (SIZE);
  model = malloc (SIZE);
  if (initial == NULL || model == NULL)
    abort ();
  for (unsigned i = 0; i < CLIENTS; i++) {
    clients[i].buf = malloc (PIECE);
    if (clients[i].buf == NULL)
      abort ();
  }
}

int
main (int argc, char **argv)
{
  const char *longer = getenv ("FSSNAP_LONG");

  if (argc < 3) {
    fprintf (stderr, "usage: random ROUNDS OPERATIONS [PARAMETER=VALUE...]\n");
    return 2;
  }
  unsigned rounds = (unsigned)atoi (argv[1]);
  operations = (unsigned)atoi (argv[2]);
  if (longer != NULL)
    rounds *= 20;
  uint64_t random = random_begin ();
  allocate ();
  for (unsigned round = 0; round < rounds; round++)
    one_round (&random, argv + 3);
  for (unsigned i = 0; i < CLIENTS; i++)
    free (clients[i].buf);
  free (initial);
  free (model);
  return 0;
}
