/* SPDX-License-Identifier: BSD-3-Clause */

#include "server.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define ARGUMENTS_MAX 64

static void
die (const char *what)
{
  perror (what);
  abort ();
}

void
server_prepare (struct server *server)
{
  const char *base = getenv ("FSSNAP_TEST_DIR");

  *server = (struct server){ 0 };
  snprintf (server->dir, sizeof server->dir, "%s/fssnap-test-XXXXXX",
            base != NULL ? base : "/dev/shm");
  if (mkdtemp (server->dir) == NULL)
    die (server->dir);
  snprintf (server->socket, sizeof server->socket, "%s/socket", server->dir);
  snprintf (server->log, sizeof server->log, "%s/log", server->dir);
}

static int
listen_on (const char *path)
{
  struct sockaddr_un address = { .sun_family = AF_UNIX };
  const int fd = socket (AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

  unlink (path);
  snprintf (address.sun_path, sizeof address.sun_path, "%s", path);
  if (fd == -1
      || bind (fd, (const struct sockaddr *)&address, sizeof address) == -1
      || listen (fd, 64) == -1)
    die (path);
  return fd;
}

/* In the child: become nbdkit.  Only what is safe after fork. */
static void
exec_nbdkit (const struct server *server, int listener, pid_t parent,
             char *const *argv)
{
  const char *preload = getenv ("FSSNAP_PRELOAD");
  char pid[32];
  const int log
      = open (server->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

  prctl (PR_SET_PDEATHSIG, SIGKILL);
  if (getppid () != parent || log == -1 || dup2 (log, STDERR_FILENO) == -1)
    _exit (126);
  /* The first descriptor that socket activation looks at. */
  if (listener == 3)
    fcntl (listener, F_SETFD, 0);
  else if (dup2 (listener, 3) == -1)
    _exit (126);
  snprintf (pid, sizeof pid, "%ld", (long)getpid ());
  setenv ("LISTEN_PID", pid, 1);
  setenv ("LISTEN_FDS", "1", 1);
  if (preload != NULL && *preload != '\0')
    setenv ("LD_PRELOAD", preload, 1);
  execvp (argv[0], argv);
  _exit (127);
}

void
server_start (struct server *server, const char *const *parameters)
{
  const char *plugin = getenv ("FSSNAP_PLUGIN");
  const char *argv[ARGUMENTS_MAX] = { "nbdkit", "-f" };
  unsigned n = 2;

  if (plugin == NULL) {
    fprintf (stderr, "FSSNAP_PLUGIN is not set: run this by meson test\n");
    abort ();
  }
  for (unsigned i = 0; parameters[i] != NULL; i++)
    if (parameters[i][0] == '-')
      argv[n++] = parameters[i];
  argv[n++] = plugin;
  for (unsigned i = 0; parameters[i] != NULL && n < ARGUMENTS_MAX - 1; i++)
    if (parameters[i][0] != '-')
      argv[n++] = parameters[i];

  const int listener = listen_on (server->socket);
  const pid_t parent = getpid ();
  server->pid = fork ();
  if (server->pid == -1)
    die ("fork");
  if (server->pid == 0)
    exec_nbdkit (server, listener, parent, (char *const *)(uintptr_t)argv);
  close (listener);
}

const char *
server_uri (const struct server *server, const char *export)
{
  static _Thread_local char buffers[8][256];
  static _Thread_local unsigned next;
  char *uri = buffers[next++ % 8];

  snprintf (uri, sizeof buffers[0], "nbd+unix:///%s?socket=%s", export,
            server->socket);
  return uri;
}

unsigned
server_logged (const struct server *server, const char *text)
{
  char *line = NULL;
  size_t size = 0;
  unsigned count = 0;
  FILE *f = fopen (server->log, "re");

  if (f == NULL)
    return 0;
  while (getline (&line, &size, f) != -1)
    count += strstr (line, text) != NULL;
  free (line);
  fclose (f);
  return count;
}

int
server_wait (struct server *server)
{
  int status;

  while (waitpid (server->pid, &status, 0) == -1)
    if (errno != EINTR)
      die ("waitpid");
  server->pid = 0;
  return status;
}

int
server_stop (struct server *server)
{
  kill (server->pid, SIGTERM);
  return server_wait (server);
}

static int
remove_one (const char *path, const struct stat *st, int type, struct FTW *ftw)
{
  (void)st;
  (void)type;
  (void)ftw;
  return remove (path);
}

void
server_clean_up (struct server *server)
{
  if (server->pid > 0) {
    kill (server->pid, SIGKILL);
    server_wait (server);
  }
  if (server->dir[0] != '\0')
    nftw (server->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
  server->dir[0] = '\0';
}
