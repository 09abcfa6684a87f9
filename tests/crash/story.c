/* SPDX-License-Identifier: BSD-3-Clause */

#include "story.h"
#include "load.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define STORY_MAX 8192

static char story[STORY_MAX];
static pthread_mutex_t story_lock = PTHREAD_MUTEX_INITIALIZER;

static void
add (const char *format, va_list args)
{
  const size_t length = strlen (story);

  vsnprintf (story + length, STORY_MAX - length, format, args);
}

void
story_begin (const char *format, ...)
{
  va_list args;

  pthread_mutex_lock (&story_lock);
  story[0] = '\0';
  va_start (args, format);
  add (format, args);
  va_end (args);
  pthread_mutex_unlock (&story_lock);
}

void
story_add (const char *format, ...)
{
  FILE *log = fopen (server.log, "ae");
  va_list args;

  pthread_mutex_lock (&story_lock);
  const size_t length = strlen (story);
  va_start (args, format);
  add (format, args);
  va_end (args);
  if (log != NULL)
    fprintf (log, "\n--- %s", story + length);
  pthread_mutex_unlock (&story_lock);
  if (log != NULL)
    fclose (log);
}

/* How the server ended, if it did: that may be the reason. */
static void
say_end (void)
{
  const int fd = (int)syscall (SYS_pidfd_open, server.pid, 0);
  struct pollfd pollfd = { .fd = fd, .events = POLLIN };
  siginfo_t end = { 0 };

  if (poll (&pollfd, 1, 1000) == 1
      && waitid (P_PID, (id_t)server.pid, &end, WEXITED | WNOWAIT) == 0)
    printf ("The server has ended: %s %d\n",
            end.si_code == CLD_EXITED ? "exit status" : "signal",
            end.si_status);
  close (fd);
}

void
wrong (const char *format, ...)
{
  static pthread_mutex_t once = PTHREAD_MUTEX_INITIALIZER;
  const char *keep = getenv ("FSSNAP_KEEP");
  char why[2048], command[512];
  va_list args;

  pthread_mutex_lock (&once); /* and never let go */
  va_start (args, format);
  vsnprintf (why, sizeof why, format, args);
  va_end (args);
  if (server.pid > 0)
    say_end ();
  if (keep != NULL) {
    if (server.pid > 0)
      kill (server.pid, SIGSTOP);
    snprintf (command, sizeof command, "cp -a %s '%s'", server.dir, keep);
    (void)!system (command);
  }
  pthread_mutex_lock (&story_lock);
  fail ("%s\n%s", why, story);
}
