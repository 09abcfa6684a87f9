/* SPDX-License-Identifier: BSD-3-Clause */
/* Several clients send generated lines to the control socket, while the
 * origin is written, and vanish now and then.  No line may crash or hang the
 * server or leave anything behind; each request gets one reply, which is its
 * own.
 *
 * usage: requests LINES
 *
 * FSSNAP_SEED=N repeats a run as far as threads do; FSSNAP_LONG=1 makes it
 * twenty times as long.
 */

#include "generate.h"
#include "target.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define CLIENTS 4

/* Lines between one look at everything and the next. */
#define CHECK_EVERY 64

static uint64_t
choose_seed (void)
{
  const char *given = getenv ("FSSNAP_SEED");
  uint64_t seed;

  if (given != NULL)
    seed = strtoull (given, NULL, 10);
  else if (getentropy (&seed, sizeof seed) == -1)
    abort ();
  if (seed == 0)
    seed = 1;
  printf ("seed %" PRIu64 "\n", seed);
  fflush (stdout);
  return seed;
}

/* Send a line, mostly in one piece, and mostly wait for the reply. */
static void
send_line (uint64_t *state, struct target *target, struct client *client)
{
  size_t length;
  char *line = generate (state, target_directory (target), &length);

  if (client_may_send (client, line, length)) {
    client_send (client, line, length,
                 below (state, 10) == 0 ? below (state, UINT64_MAX) : 0);
    if (below (state, 4) != 0)
      client_expect (client);
  }
  free (line);
}

/* Go, with or without half a line, and come again. */
static struct client *
vanish (uint64_t *state, struct target *target, struct client *client)
{
  static const char half[] = "{\"jsonrpc\":\"2.0\",\"method\":\"server.info\"}";

  if (below (state, 3) == 0)
    client_expect (client);
  client_send (client, half, below (state, sizeof half), 0);
  client_close (client);
  return client_connect (target);
}

static void
run (uint64_t state, unsigned lines)
{
  struct target *target = target_start ();
  struct client *clients[CLIENTS];

  for (unsigned i = 0; i < CLIENTS; i++)
    clients[i] = client_connect (target);
  for (unsigned i = 0; i < lines; i++) {
    struct client **client = &clients[below (&state, CLIENTS)];
    send_line (&state, target, *client);
    if (below (&state, 8) == 0) {
      const uint64_t offset = below (&state, ORIGIN_SIZE);
      uint64_t count = 1 + below (&state, 100000);
      if (count > ORIGIN_SIZE - offset)
        count = ORIGIN_SIZE - offset;
      target_write (target, offset, count);
    }
    if (below (&state, 100) == 0)
      *client = vanish (&state, target, *client);
    if (below (&state, 4000) == 0) {
      client_send_too_much (*client);
      client_close (*client);
      *client = client_connect (target);
    }
    if (i % CHECK_EVERY == 0)
      target_check (target);
  }
  for (unsigned i = 0; i < CLIENTS; i++) {
    client_expect (clients[i]);
    client_close (clients[i]);
  }
  target_stop (target);
}

static unsigned
count_descriptors (void)
{
  DIR *dir = opendir ("/proc/self/fd");
  unsigned count = 0;

  if (dir == NULL)
    abort ();
  while (readdir (dir) != NULL)
    count++;
  closedir (dir);
  return count;
}

int
main (int argc, char **argv)
{
  if (argc != 2) {
    fprintf (stderr, "usage: requests LINES\n");
    return 2;
  }
  unsigned lines = (unsigned)atoi (argv[1]);
  if (getenv ("FSSNAP_LONG") != NULL)
    lines *= 20;
  const unsigned before = count_descriptors ();
  run (choose_seed (), lines);
  if (count_descriptors () == before)
    return 0;
  fprintf (stderr, "%u descriptors are left\n", count_descriptors () - before);
  return 1;
}
