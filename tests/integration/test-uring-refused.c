/* SPDX-License-Identifier: BSD-3-Clause */
/* A container that forbids io_uring, as Docker's does: the default falls
 * back to pwrite, io=uring says why it can't.
 */

#include "server.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <libnbd.h>

#define SIZE 65536

/* From here on, for us and the servers we start. */
static int
refuse_uring (void **state)
{
  struct sock_filter filter[] = {
    BPF_STMT (BPF_LD | BPF_W | BPF_ABS, offsetof (struct seccomp_data, nr)),
    BPF_JUMP (BPF_JMP | BPF_JEQ | BPF_K, __NR_io_uring_setup, 0, 1),
    BPF_STMT (BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
    BPF_STMT (BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const struct sock_fprog program
      = { .len = sizeof filter / sizeof filter[0], .filter = filter };

  (void)state;
  if (prctl (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == -1
      || prctl (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == -1) {
    perror ("seccomp");
    exit (77);
  }
  return 0;
}

static struct server server;
static char origin[160];

static int
set_up (void **state)
{
  const char *path = origin + strlen ("origin=");
  char block[SIZE];

  (void)state;
  server_prepare (&server);
  snprintf (origin, sizeof origin, "origin=%s/disk.img", server.dir);
  const int fd = open (path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  memset (block, 'o', sizeof block);
  assert_int_equal (write (fd, block, sizeof block), sizeof block);
  close (fd);
  return 0;
}

static int
tear_down (void **state)
{
  (void)state;
  server_clean_up (&server);
  return 0;
}

static void
the_default_falls_back (void **state)
{
  const char *const parameters[] = { "-v", origin, NULL };
  struct nbd_handle *live = nbd_create (), *frozen = nbd_create ();
  char new[SIZE], old[SIZE], read[SIZE];

  (void)state;
  memset (new, 'n', sizeof new);
  memset (old, 'o', sizeof old);
  server_start (&server, parameters);
  assert_int_equal (nbd_connect_uri (live, server_uri (&server, "")), 0);
  assert_int_equal (nbd_connect_uri (frozen, server_uri (&server, "snapshot")),
                    0);
  assert_int_equal (nbd_pwrite (live, new, sizeof new, 0, 0), 0);
  assert_int_equal (nbd_pread (frozen, read, sizeof read, 0, 0), 0);
  assert_memory_equal (read, old, sizeof old);
  assert_int_equal (server_logged (&server, "io=uring is refused here"), 1);
  nbd_close (live);
  nbd_close (frozen);
  assert_int_equal (server_stop (&server), 0);
}

static void
asked_for_it_is_an_error (void **state)
{
  const char *const parameters[] = { origin, "io=uring", NULL };

  (void)state;
  server_start (&server, parameters);
  const int status = server_wait (&server);
  assert_true (WIFEXITED (status));
  assert_int_equal (WEXITSTATUS (status), 1);
  assert_int_equal (
      server_logged (&server,
                     "io=uring is refused here: Operation not permitted"),
      1);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test_setup_teardown (the_default_falls_back, set_up, tear_down),
    cmocka_unit_test_setup_teardown (asked_for_it_is_an_error, set_up,
                                     tear_down),
  };

  return cmocka_run_group_tests (tests, refuse_uring, NULL);
}
