/* SPDX-License-Identifier: BSD-3-Clause */

#include "load.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

struct server server;
uint64_t seed;

/* Ranges that are held. */
static struct range {
  uint64_t offset, length;
} held[HOLDERS_MAX];
static pthread_mutex_t held_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t held_changed = PTHREAD_COND_INITIALIZER;

void
fail (const char *format, ...)
{
  static pthread_mutex_t once = PTHREAD_MUTEX_INITIALIZER;
  va_list args;
  char command[160];

  pthread_mutex_lock (&once); /* and never let go */
  va_start (args, format);
  vprintf (format, args);
  va_end (args);
  printf ("\nseed %" PRIu64 "; the server said:\n", seed);
  fflush (stdout);
  snprintf (command, sizeof command, "tail -20 %s", server.log);
  (void)!system (command);
  server_clean_up (&server);
  _exit (1);
}

uint64_t
random_next (uint64_t *state)
{
  *state ^= *state >> 12;
  *state ^= *state << 25;
  *state ^= *state >> 27;
  return *state * UINT64_C (2685821657736338717);
}

uint64_t
random_below (uint64_t *state, uint64_t limit)
{
  return (random_next (state) >> 11) % limit;
}

uint64_t
random_begin (void)
{
  const char *given = getenv ("FSSNAP_SEED");

  if (given != NULL)
    seed = strtoull (given, NULL, 10);
  else if (getentropy (&seed, sizeof seed) == -1)
    abort ();
  printf ("seed %" PRIu64 "\n", seed);
  fflush (stdout);
  return seed | 1;
}

void
random_bytes (uint64_t *state, uint8_t *buf, uint64_t length)
{
  for (uint64_t i = 0; i < length; i += 8) {
    const uint64_t word = random_next (state);
    memcpy (buf + i, &word, length - i < 8 ? length - i : 8);
  }
}

static bool
overlap (const struct range *a, const struct range *b)
{
  return a->length > 0 && b->length > 0 && a->offset < b->offset + b->length
         && b->offset < a->offset + a->length;
}

void
hold (unsigned holder, uint64_t offset, uint64_t length)
{
  const struct range range = { offset, length };
  bool free;

  pthread_mutex_lock (&held_lock);
  do {
    free = true;
    for (unsigned i = 0; i < HOLDERS_MAX && free; i++)
      free = !overlap (&held[i], &range);
    if (!free)
      pthread_cond_wait (&held_changed, &held_lock);
  } while (!free);
  held[holder] = range;
  pthread_mutex_unlock (&held_lock);
}

void
let_go (unsigned holder)
{
  pthread_mutex_lock (&held_lock);
  held[holder].length = 0;
  pthread_cond_broadcast (&held_changed);
  pthread_mutex_unlock (&held_lock);
}

void
nbd_must (int r, const char *what, uint64_t offset, uint64_t length)
{
  if (r == -1)
    fail ("%s of %" PRIu64 " bytes at %" PRIu64 ": %s", what, length, offset,
          nbd_get_error ());
}

void
must_equal (const char *what, const uint8_t *is, const uint8_t *should,
            uint64_t offset, uint64_t length)
{
  if (memcmp (is, should, length) == 0)
    return;
  uint64_t i = 0, wrong = 0;
  while (is[i] == should[i])
    i++;
  for (uint64_t j = i; j < length; j++)
    wrong += is[j] != should[j];
  fail ("%s: read %" PRIu64 " bytes at %" PRIu64 ": %" PRIu64
        " wrong from offset %" PRIu64 " on: %02x should be %02x",
        what, length, offset, wrong, offset + i, is[i], should[i]);
}

struct nbd_handle *
connect_to (const char *export)
{
  struct nbd_handle *nbd = nbd_create ();

  if (nbd == NULL || nbd_add_meta_context (nbd, "base:allocation") == -1
      || nbd_connect_uri (nbd, server_uri (&server, export)) == -1)
    fail ("connect: %s", nbd_get_error ());
  return nbd;
}

void
make_image (const char *path, uint8_t *image, uint64_t size, uint64_t *random)
{
  const int fd = open (path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  uint64_t offset = 0;

  if (fd == -1 || ftruncate (fd, (off_t)size) == -1)
    fail ("%s: %s", path, strerror (errno));
  memset (image, 0, size);
  while (offset < size) {
    uint64_t length = 1 + random_below (random, 200 << 10);
    const unsigned kind = (unsigned)random_below (random, 8);

    if (length > size - offset)
      length = size - offset;
    if (kind > 1)
      for (uint64_t i = 0; i < length; i++)
        image[offset + i] = (uint8_t)random_next (random);
    if (kind > 0
        && pwrite (fd, image + offset, length, (off_t)offset)
               != (ssize_t)length)
      fail ("%s: %s", path, strerror (errno));
    offset += length;
  }
  close (fd);
}

void
stop_server (void)
{
  const int status = server_stop (&server);

  if (!WIFEXITED (status) || WEXITSTATUS (status) != 0)
    fail ("the server ended with wait status %#x", (unsigned)status);
  if (server_logged (&server, "Sanitizer") > 0)
    fail ("a sanitizer complained");
}
