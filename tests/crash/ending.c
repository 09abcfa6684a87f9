/* SPDX-License-Identifier: BSD-3-Clause */

#include "ending.h"
#include "load.h"
#include "story.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Seconds until a server that was told to end is said to hang. */
#define PATIENCE 120

/* The longest that a moment is waited for, microseconds. */
#define LOAD_MAX 400000

static const char *const moment_words[MOMENTS] = {
  "some time", "the start of write", "write",  "request for snapshot",
  "snapshot",  "set_free",           "finish", "request for deletion",
  "deletion",
};

static const char *const manner_words[MANNERS] = {
  "SIGKILL", "SIGTERM and SIGKILL",     "SIGTERM and SIGKILL without clients",
  "SIGTERM", "SIGTERM without clients",
};

static enum manner manner; /* set before threads look */
static enum moment awaited;
static unsigned delay; /* microseconds from the moment to the first signal */
static unsigned gap;   /* and from there to the second */

static _Atomic int left;   /* moments to pass */
static _Atomic bool begun; /* pairs with itself: set before the signal */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static bool sent;  /* under LOCK */
static bool taken; /* someone is about to send it; under LOCK */

static uint64_t typical_start = 50000;

/* From 0 to about LIMIT, of all magnitudes. */
static unsigned
some (uint64_t *random, unsigned limit)
{
  unsigned bits = 1;

  while (limit >> bits != 0)
    bits++;
  return (unsigned)random_below (
      random, UINT64_C (1) << random_below (random, bits + 1));
}

static void
pass_time (uint64_t microseconds)
{
  const struct timespec time
      = { .tv_sec = (time_t)(microseconds / 1000000),
          .tv_nsec = (long)(microseconds % 1000000) * 1000 };

  if (microseconds > 0)
    nanosleep (&time, NULL);
}

enum manner
ending_choose (uint64_t *random)
{
  /* Mostly the one that leaves least time. */
  static const enum manner manners[]
      = { MANNER_KILL,      MANNER_KILL,      MANNER_KILL, MANNER_KILL,
          MANNER_KILL,      MANNER_TERM_KILL, MANNER_KILL, MANNER_TERM_KILL,
          MANNER_IDLE_KILL, MANNER_TERM,      MANNER_CLEAN };
  static const unsigned most[MOMENTS] = { 1, 500, 500, 12, 10, 3, 3, 8, 8 };

  manner = manners[random_below (random, sizeof manners / sizeof manners[0])];
  awaited = (enum moment)random_below (random, MOMENTS);
  left = 1 + (int)random_below (random, most[awaited]);
  delay = some (random, 3000);
  gap = some (random, 60000);
  if (awaited == MOMENT_NONE) {
    delay = (unsigned)random_below (random, LOAD_MAX / 2);
    left = 0;
  }
  sent = taken = false;
  begun = false;
  story_add ("%s %u us after %s %d; then %u us\n", manner_words[manner], delay,
             moment_words[awaited], left, gap);
  return manner;
}

static bool
without_clients (void)
{
  return manner == MANNER_IDLE_KILL || manner == MANNER_CLEAN;
}

/* Send the first signal, once. */
static void
strike (void)
{
  pthread_mutex_lock (&lock);
  const bool mine = !taken;
  taken = true;
  pthread_mutex_unlock (&lock);
  if (!mine)
    return;
  pass_time (delay);
  if (!without_clients ()) {
    begun = true;
    kill (server.pid, manner == MANNER_KILL ? SIGKILL : SIGTERM);
  }
  pthread_mutex_lock (&lock);
  sent = true;
  pthread_cond_broadcast (&changed);
  pthread_mutex_unlock (&lock);
}

void
moment_passed (enum moment moment)
{
  if (moment == awaited && left > 0 && atomic_fetch_sub (&left, 1) == 1)
    strike ();
}

void
ending_await (void)
{
  struct timespec end;

  clock_gettime (CLOCK_REALTIME, &end);
  end.tv_nsec += LOAD_MAX * 1000L;
  end.tv_sec += end.tv_nsec / 1000000000;
  end.tv_nsec %= 1000000000;
  if (awaited == MOMENT_NONE)
    strike ();
  pthread_mutex_lock (&lock);
  while (!sent && !taken
         && pthread_cond_timedwait (&changed, &lock, &end) != ETIMEDOUT)
    ;
  pthread_mutex_unlock (&lock);
  strike ();
  pthread_mutex_lock (&lock);
  while (!sent)
    pthread_cond_wait (&changed, &lock);
  pthread_mutex_unlock (&lock);
  if (manner == MANNER_TERM || manner == MANNER_TERM_KILL)
    pass_time (gap);
  if (manner == MANNER_TERM_KILL)
    kill (server.pid, SIGKILL);
}

bool
ending_has_begun (void)
{
  return begun;
}

enum outcome
ending_finish (void)
{
  const pid_t pid = server.pid;

  if (without_clients ()) {
    begun = true;
    kill (pid, SIGTERM);
    if (manner == MANNER_IDLE_KILL) {
      pass_time (gap);
      kill (pid, SIGKILL);
    }
  }

  const int fd = (int)syscall (SYS_pidfd_open, pid, 0);
  struct pollfd pollfd = { .fd = fd, .events = POLLIN };
  const int r = poll (&pollfd, 1, PATIENCE * 1000);
  close (fd);
  if (r != 1)
    wrong ("the server does not end");
  const int status = server_wait (&server);
  if (server_logged (&server, "Sanitizer") > 0)
    wrong ("a sanitizer complained");
  if (WIFEXITED (status) && WEXITSTATUS (status) == 0 && manner != MANNER_KILL)
    return OUTCOME_ENDED;
  if (!WIFSIGNALED (status) || WTERMSIG (status) != SIGKILL
      || manner == MANNER_TERM || manner == MANNER_CLEAN)
    wrong ("the server ended with wait status %#x", (unsigned)status);
  return manner == MANNER_KILL ? OUTCOME_KILLED : OUTCOME_TOLD;
}

void
ending_at_start (const char *const *parameters, uint64_t *random)
{
  const unsigned time
      = (unsigned)random_below (random, 1 + typical_start * 5 / 4);

  story_add ("SIGKILL %u us after the start\n", time);
  begun = true;
  server_start (&server, parameters);
  pass_time (time);
  kill (server.pid, SIGKILL);
  const int status = server_wait (&server);
  if (!WIFSIGNALED (status) || WTERMSIG (status) != SIGKILL)
    wrong ("the server ended with wait status %#x", (unsigned)status);
}

void
ending_started (uint64_t microseconds)
{
  typical_start = (7 * typical_start + microseconds) / 8;
}
