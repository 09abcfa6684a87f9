/* SPDX-License-Identifier: BSD-3-Clause */

#include "run-program.h"
#include "command.h"
#include "output.h"
#include "scoped.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* What a program that runs for months may write to its log. */
#define LOG_MAX ((rlim_t)64 << 10)

static const int signals[] = { SIGHUP, SIGINT, SIGTERM };
#define N_SIGNALS (sizeof signals / sizeof signals[0])

static volatile sig_atomic_t signalled;

static void
note_signal (int number)
{
  signalled = number;
}

static void
set_signals (void (*handler) (int))
{
  /* No SA_RESTART: what waits is to notice. */
  struct sigaction action = { .sa_handler = handler };

  sigemptyset (&action.sa_mask);
  for (size_t i = 0; i < N_SIGNALS; i++)
    sigaction (signals[i], &action, NULL);
}

void
programs_begin (void)
{
  const char *path = getenv ("PATH");
  SCOPED_FREE char *longer
      = text ("%s:/usr/sbin:/sbin", path != NULL ? path : "/usr/bin:/bin");

  if (setenv ("PATH", longer, 1) == -1)
    no_memory ();
  set_signals (note_signal);
}

bool
interrupted (void)
{
  return signalled != 0;
}

void
programs_undo (void)
{
  signalled = 0;
  set_signals (SIG_IGN); /* the programs inherit that */
}

bool
program_exists (const char *name)
{
  const char *path = getenv ("PATH");

  for (; path != NULL && *path != '\0'; path += *path == ':') {
    const size_t length = strcspn (path, ":");
    SCOPED_FREE char *file = text ("%.*s/%s", (int)length, path, name);
    struct stat st;

    if (stat (file, &st) == 0 && S_ISREG (st.st_mode)
        && access (file, X_OK) == 0)
      return true;
    path += length;
  }
  return false;
}

void
complain_missing (const char *name)
{
  static const char *const packages[][2] = {
    { "nbdfuse", "libnbd-bin" }, { "nbd-client", "nbd-client" },
    { "losetup", "mount" },      { "mount", "mount" },
    { "umount", "mount" },       { "fusermount3", "fuse3" },
  };
  const char *package = name;

  for (size_t i = 0; i < sizeof packages / sizeof packages[0]; i++)
    if (strcmp (packages[i][0], name) == 0)
      package = packages[i][1];
  complain ("the program %s is missing: install it (in Debian the package %s)",
            name, package);
}

bool
pause_for (unsigned milliseconds)
{
  const struct timespec time = { .tv_sec = milliseconds / 1000,
                                 .tv_nsec = milliseconds % 1000 * 1000000L };

  nanosleep (&time, NULL);
  return !interrupted ();
}

/* --- the child --------------------------------------------------------------
 */

/* As LIBC has it: the argument vector's strings are not written to. */
__attribute__ ((noreturn)) static void
become (const char *const argv[])
{
  union {
    const char *const *given;
    char *const *taken;
  } vector = { .given = argv };

  for (size_t i = 0; i < N_SIGNALS; i++) {
    struct sigaction action;
    sigaction (signals[i], NULL, &action);
    if (action.sa_handler != SIG_IGN)
      signal (signals[i], SIG_DFL);
  }
  signal (SIGPIPE, SIG_DFL);
  execvp (argv[0], vector.taken);
  _exit (127);
}

/* A file for what a program prints, or the null device. */
static int
open_log (const char *log)
{
  return open (log, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
}

static pid_t
begin (const char *const argv[], int out, int err)
{
  if (!program_exists (argv[0])) {
    complain_missing (argv[0]);
    return -1;
  }
  const pid_t child = fork ();
  if (child == 0) {
    const int in = open ("/dev/null", O_RDONLY | O_CLOEXEC);
    if (in == -1 || dup2 (in, 0) == -1 || dup2 (out, 1) == -1
        || dup2 (err, 2) == -1)
      _exit (126);
    become (argv);
  }
  if (child == -1)
    complain ("cannot start %s: %s", argv[0], strerror (errno));
  return child;
}

/* --- its parent -------------------------------------------------------------
 */

/* The exit status, or -1 if it was ended by a signal. */
static int
wait_for (pid_t child)
{
  int status;

  while (waitpid (child, &status, 0) == -1) {
    if (errno != EINTR)
      return -1;
    if (interrupted ())
      kill (child, SIGTERM);
  }
  return WIFEXITED (status) ? WEXITSTATUS (status) : -1;
}

int
program_run (const char *const argv[], const char *log)
{
  const int out = log != NULL ? open_log (log) : 2;

  if (out == -1) {
    complain ("%s: %s", log, strerror (errno));
    return -1;
  }
  const pid_t child = begin (argv, out, out);
  if (log != NULL)
    close (out);
  return child == -1 ? -1 : wait_for (child);
}

char *
program_line (const char *const argv[])
{
  SCOPED_FREE char *line = NULL;
  size_t size = 0;
  int ends[2];

  if (pipe2 (ends, O_CLOEXEC) == -1)
    no_memory ();
  const pid_t child = begin (argv, ends[1], 2);
  close (ends[1]);
  FILE *from = fdopen (ends[0], "r");
  if (from == NULL)
    no_memory ();
  const ssize_t n = child == -1 ? -1 : getline (&line, &size, from);
  fclose (from);
  if (child == -1 || wait_for (child) != 0 || n <= 0)
    return NULL;
  line[strcspn (line, "\n")] = '\0';
  return text ("%s", line);
}

pid_t
program_start (const char *const argv[], const char *log)
{
  const int out = open_log (log);

  if (out == -1) {
    complain ("%s: %s", log, strerror (errno));
    return -1;
  }
  if (!program_exists (argv[0])) {
    complain_missing (argv[0]);
    close (out);
    return -1;
  }
  const pid_t child = fork ();
  if (child == 0) {
    const struct rlimit limit = { LOG_MAX, LOG_MAX };
    const int in = open ("/dev/null", O_RDONLY | O_CLOEXEC);

    /* Of its own session: the terminal's Ctrl-C and hang-up are not for it. */
    setsid ();
    setrlimit (RLIMIT_FSIZE, &limit);
    signal (SIGXFSZ, SIG_IGN);
    if (in == -1 || dup2 (in, 0) == -1 || dup2 (out, 1) == -1
        || dup2 (out, 2) == -1 || chdir ("/") == -1)
      _exit (126);
    become (argv);
  }
  if (child == -1)
    complain ("cannot start %s: %s", argv[0], strerror (errno));
  close (out);
  return child;
}

void
show_log (const char *log)
{
  FILE *from = fopen (log, "re");
  SCOPED_FREE char *line = NULL;
  size_t size = 0;

  if (from == NULL)
    return;
  while (getline (&line, &size, from) != -1) {
    line[strcspn (line, "\n")] = '\0';
    complain ("%s", line);
  }
  fclose (from);
}
