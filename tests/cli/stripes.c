/* SPDX-License-Identifier: BSD-3-Clause */
/* Stands for the reader of swap space, in a command of the tests' own: there,
 * every second 4 KiB are free; or $STRIPES says what happens to who reads.
 */

#include "reader.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STRIPE UINT64_C (4096)

static int
read_stripes (struct reading *reading)
{
  const char *what = getenv ("STRIPES");

  if (what != NULL && strcmp (what, "killed") == 0)
    kill (getpid (), SIGKILL);
  if (what != NULL && strcmp (what, "ends") == 0)
    _exit (0);
  if (what != NULL && strcmp (what, "memory") == 0) {
    /* More than it may take: it must not take the machine's. */
    for (void *all = NULL; (all = calloc (1, 1 << 28)) != NULL;)
      *(volatile char *)all = 1;
    return refuse (reading, "there is an end to the memory");
  }
  reading->size = reading->source->size;
  for (uint64_t at = STRIPE; at + STRIPE <= reading->size; at += 2 * STRIPE)
    if (reading_free (reading, at, STRIPE) == -1)
      return -1;
  return 0;
}

const struct reader reader_swap = {
  .name = "swap",
  .types = (const char *const[]){ "swap", NULL },
  .read = read_stripes,
};
