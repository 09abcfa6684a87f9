/* SPDX-License-Identifier: BSD-3-Clause */
/* The methods of the control socket, see docs/control-protocol.md. */

#ifndef FSSNAP_METHODS_H
#define FSSNAP_METHODS_H

#include "options.h"
#include "snapset.h"

#include <jansson.h>

/* What the methods work on. */
struct methods {
  struct snapset *set;
  const struct options *defaults; /* of new snapshots */
  const char *control;            /* the socket's path */
};

enum method_error {
  METHOD_PARSE = -32700,
  METHOD_REQUEST = -32600,
  METHOD_UNKNOWN = -32601,
  METHOD_PARAMS = -32602,
  METHOD_MEMORY = -32603,
  METHOD_NO_SNAPSHOT = 1,
  METHOD_BUSY,
  METHOD_EXISTS,
  METHOD_STATE,
  METHOD_FAILED,
  METHOD_TOO_MANY,
  METHOD_FORBIDDEN,
};

/* Carry out METHOD for a CONNECTION (any pointer that tells it from the
 * others) with PARAMS, an object or NULL.  The result, or NULL; then
 * *ERROR is the error object, NULL for want of memory.  No locks may be
 * held; may take as long as a store takes to make files.
 */
json_t *methods_call (const struct methods *context, const void *connection,
                      const char *method, json_t *params, json_t **error);

/* The error object for CODE with a message; ERR is an errno or 0.  NULL for
 * want of memory.
 */
json_t *methods_error (enum method_error code, int err, const char *format, ...)
    __attribute__ ((format (printf, 3, 4)));

/* The connection is gone: delete what it was creating. */
void methods_disconnect (const struct methods *context, const void *connection);

#endif
