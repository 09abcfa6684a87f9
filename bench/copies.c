/* SPDX-License-Identifier: BSD-3-Clause */
/* What copying alone takes: no NBD, no bitmaps, no one to wait for.
 *
 *   copies ORIGIN BACKING SIZE CHUNK COUNT ORDER THREADS
 *
 * THREADS threads copy COUNT chunks of CHUNK bytes each of the first SIZE
 * bytes of ORIGIN to the same place of BACKING, a new sparse file, in ORDER:
 * "random" or "sequential".  No chunk is copied twice.  Prints MiB/s.
 */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define THREADS_MAX 256

struct work {
  int origin, backing;
  uint64_t chunk, chunks, count;
  uint64_t step; /* from a chunk to the next, coprime to CHUNKS */
  _Atomic uint64_t next;
};

static _Noreturn void
fail (const char *what, const char *why)
{
  fprintf (stderr, "copies: %s: %s\n", what, why);
  exit (1);
}

static void *
run (void *arg)
{
  struct work *work = arg;
  uint8_t *data = malloc (work->chunk);
  uint64_t i;

  if (data == NULL)
    fail ("memory", strerror (errno));
  while ((i = atomic_fetch_add (&work->next, 1)) < work->count) {
    const uint64_t chunk
        = (uint64_t)((unsigned __int128)i * work->step % work->chunks);
    const off_t offset = (off_t)(chunk * work->chunk);
    if (pread (work->origin, data, work->chunk, offset) != (ssize_t)work->chunk
        || pwrite (work->backing, data, work->chunk, offset)
               != (ssize_t)work->chunk)
      fail ("copy", strerror (errno));
  }
  free (data);
  return NULL;
}

static uint64_t
parse (const char *text)
{
  char *end;
  const uint64_t number = strtoull (text, &end, 10);

  if (*text == '\0' || *end != '\0' || number == 0)
    fail (text, "not a number above zero");
  return number;
}

static bool
is_coprime (uint64_t a, uint64_t b)
{
  while (b != 0) {
    const uint64_t rest = a % b;
    a = b;
    b = rest;
  }
  return a == 1;
}

static double
seconds (void)
{
  struct timespec t;

  clock_gettime (CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

int
main (int argc, char **argv)
{
  pthread_t threads[THREADS_MAX];

  if (argc != 8)
    fail ("usage",
          "copies ORIGIN BACKING SIZE CHUNK COUNT random|sequential THREADS");
  const uint64_t size = parse (argv[3]), chunk = parse (argv[4]);
  struct work work = {
    .origin = open (argv[1], O_RDONLY | O_CLOEXEC),
    .backing = open (argv[2], O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600),
    .chunk = chunk,
    .chunks = size / chunk,
    .count = parse (argv[5]),
    .step = 1,
  };
  const uint64_t count = parse (argv[7]);

  if (work.origin == -1 || work.backing == -1
      || ftruncate (work.backing, (off_t)size) == -1)
    fail ("ORIGIN or BACKING", strerror (errno));
  if (work.count > work.chunks || count > THREADS_MAX)
    fail ("COUNT or THREADS", "too many");
  /* Steps of the golden section look random to who caches or reads ahead. */
  if (strcmp (argv[6], "random") == 0) {
    work.step = (uint64_t)((double)work.chunks * 0.6180339887) | 1;
    while (!is_coprime (work.step, work.chunks))
      work.step += 2;
  }

  const double begin = seconds ();
  for (uint64_t i = 0; i < count; i++) {
    const int err = pthread_create (&threads[i], NULL, run, &work);
    if (err != 0)
      fail ("thread", strerror (err));
  }
  for (uint64_t i = 0; i < count; i++)
    pthread_join (threads[i], NULL);
  printf ("%f\n",
          (double)(work.count * chunk) / (1 << 20) / (seconds () - begin));
  close (work.backing);
  close (work.origin);
  return 0;
}
