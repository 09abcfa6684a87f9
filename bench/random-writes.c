/* SPDX-License-Identifier: BSD-3-Clause */
/* 4 KiB random writes to an NBD export, and when each began and ended.
 *
 *   random-writes URI RANGE DEPTH COUNT
 *
 * Keeps DEPTH writes in flight at multiples of 4 KiB below RANGE bytes until
 * COUNT have begun or, if COUNT is 0, until standard input ends.  Then
 * prints two native 64-bit integers for each, in the order in which they
 * ended: the nanoseconds of CLOCK_MONOTONIC at its beginning and its end.
 *
 * What fio logs of a write is its time in milliseconds, which is too coarse
 * to tell whether it was in flight during a request of half of one.
 */

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <libnbd.h>

#define BLOCK 4096

/* Writes that are recorded: minutes of them.  The pages come as they are
 * needed, so that nothing is ever moved while time is taken.
 */
#define RECORDS_MAX ((size_t)1 << 26)

struct record {
  uint64_t begin, end;
};

struct slot {
  struct load *load;
  struct slot *next; /* among the free ones */
  uint64_t begin;
};

struct load {
  struct nbd_handle *nbd;
  uint64_t blocks; /* in the range */
  uint64_t count;  /* or 0 */
  uint64_t begun;
  uint64_t random;
  bool stopping;
  unsigned in_flight;
  struct slot *free;
  struct record *records; /* in the order of the ends */
  size_t recorded;
};

static _Noreturn void
fail (const char *what, const char *why)
{
  fprintf (stderr, "random-writes: %s: %s\n", what, why);
  exit (1);
}

static uint64_t
now (void)
{
  struct timespec t;

  clock_gettime (CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* The same sequence in each run (xorshift64). */
static uint64_t
next_random (struct load *load)
{
  load->random ^= load->random << 13;
  load->random ^= load->random >> 7;
  load->random ^= load->random << 17;
  return load->random;
}

static int
ended (void *data, int *error)
{
  struct slot *slot = data;
  struct load *load = slot->load;

  if (*error != 0)
    fail ("write", strerror (*error));
  if (load->recorded == RECORDS_MAX)
    fail ("records", strerror (ENOSPC));
  load->records[load->recorded++]
      = (struct record){ .begin = slot->begin, .end = now () };
  slot->next = load->free;
  load->free = slot;
  load->in_flight--;
  return 1;
}

static void
begin_one (struct load *load)
{
  static uint8_t block[BLOCK];
  struct slot *slot = load->free;

  block[0] = 1; /* not zeros */
  load->free = slot->next;
  load->in_flight++;
  load->begun++;
  const uint64_t offset = next_random (load) % load->blocks * BLOCK;
  slot->begin = now ();
  if (nbd_aio_pwrite (
          load->nbd, block, sizeof block, offset,
          (nbd_completion_callback){ .callback = ended, .user_data = slot }, 0)
      == -1)
    fail ("write", nbd_get_error ());
}

/* Wait until something can be done, and do it. */
static void
turn (struct load *load)
{
  const unsigned direction = nbd_aio_get_direction (load->nbd);
  struct pollfd fds[2] = {
    { .fd = nbd_aio_get_fd (load->nbd) },
    { .fd = load->count == 0 && !load->stopping ? STDIN_FILENO : -1,
      .events = POLLIN },
  };
  int r = 0;

  if (direction & LIBNBD_AIO_DIRECTION_READ)
    fds[0].events |= POLLIN;
  if (direction & LIBNBD_AIO_DIRECTION_WRITE)
    fds[0].events |= POLLOUT;
  if (poll (fds, 2, -1) == -1 && errno != EINTR)
    fail ("poll", strerror (errno));
  if (fds[1].revents != 0)
    load->stopping = true;
  if (fds[0].revents & ~POLLOUT)
    r = nbd_aio_notify_read (load->nbd);
  else if (fds[0].revents != 0)
    r = nbd_aio_notify_write (load->nbd);
  if (r == -1)
    fail ("connection", nbd_get_error ());
}

static uint64_t
parse (const char *text)
{
  char *end;
  const uint64_t number = strtoull (text, &end, 10);

  if (*text == '\0' || *end != '\0')
    fail (text, "not a number");
  return number;
}

int
main (int argc, char **argv)
{
  if (argc != 5)
    fail ("usage", "random-writes URI RANGE DEPTH COUNT");
  struct load load = { .nbd = nbd_create (),
                       .blocks = parse (argv[2]) / BLOCK,
                       .count = parse (argv[4]),
                       .random = 88172645463325252 };
  const uint64_t depth = parse (argv[3]);
  struct slot *slots = calloc (depth, sizeof *slots);

  load.records
      = mmap (NULL, RECORDS_MAX * sizeof *load.records, PROT_READ | PROT_WRITE,
              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (slots == NULL || load.records == MAP_FAILED || depth == 0
      || load.blocks == 0)
    fail ("RANGE or DEPTH", "none, or no memory");
  if (load.nbd == NULL || nbd_connect_uri (load.nbd, argv[1]) == -1)
    fail (argv[1], nbd_get_error ());
  for (uint64_t i = 0; i < depth; i++) {
    slots[i] = (struct slot){ .load = &load, .next = load.free };
    load.free = &slots[i];
  }

  while (!load.stopping || load.in_flight > 0) {
    while (!load.stopping && load.free != NULL) {
      begin_one (&load);
      if (load.begun == load.count)
        load.stopping = true;
    }
    if (load.in_flight > 0)
      turn (&load);
  }
  if (fwrite (load.records, sizeof *load.records, load.recorded, stdout)
          != load.recorded
      || fflush (stdout) == EOF)
    fail ("standard output", strerror (errno));
  nbd_close (load.nbd);
  free (slots);
  return 0;
}
