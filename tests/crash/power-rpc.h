/* SPDX-License-Identifier: BSD-3-Clause */
/* A client of the control socket. */

#ifndef FSSNAP_TEST_POWER_RPC_H
#define FSSNAP_TEST_POWER_RPC_H

#include <jansson.h>
#include <stdint.h>

/* Connect to the server's "control"; -1: it is not there. */
int rpc_connect (void);

/* Send a request and read its reply.  PARAMS is used up.  The result, to be
 * given back; or NULL, then *WHY (to be freed) is the error's message, or
 * NULL if the server is not there any more.
 */
json_t *rpc (int fd, const char *method, json_t *params, char **why);

/* What an object has under a key; 0 or NULL if that is nothing. */
int64_t rpc_number (const json_t *object, const char *key);
const char *rpc_text (const json_t *object, const char *key);

#endif
