/* SPDX-License-Identifier: BSD-3-Clause */
/* A real nbdkit with the plugin just built, for the length of a test.
 *
 * The socket listens before the server starts (it is handed over as systemd
 * would), so nobody polls for it.  The server dies with the test.
 */

#ifndef FSSNAP_TEST_SERVER_H
#define FSSNAP_TEST_SERVER_H

#include <stdbool.h>
#include <sys/types.h>

struct server {
  pid_t pid;
  char dir[64];    /* the test's own, empty at first, removed at the end */
  char socket[96]; /* in DIR */
  char log[96];    /* what the server prints on stderr, in DIR */
};

/* Make the directory below $FSSNAP_TEST_DIR (default /dev/shm).  Aborts the
 * test on failure.
 */
void server_prepare (struct server *server);

/* Start nbdkit with PARAMETERS, a list that ends with NULL; what begins
 * with '-' goes before the plugin.  Returns at once: the first connection
 * waits for it, or fails if it did not come up.
 */
void server_start (struct server *server, const char *const *parameters);

/* The URI of an export, in a buffer of the thread for each of its last 8
 * calls.
 */
const char *server_uri (const struct server *server, const char *export);

/* How often TEXT occurs in the log so far. */
unsigned server_logged (const struct server *server, const char *text);

/* SIGTERM, and wait for the end.  The wait status. */
int server_stop (struct server *server);

/* Wait for a server that ends by itself.  The wait status. */
int server_wait (struct server *server);

/* Kill it if it still runs, and remove the directory and all in it. */
void server_clean_up (struct server *server);

#endif
