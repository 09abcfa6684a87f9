/* SPDX-License-Identifier: BSD-3-Clause */
/* A client of the control socket whose server may go away at any time. */

#ifndef FSSNAP_TEST_ASK_H
#define FSSNAP_TEST_ASK_H

#include "ending.h"

#include <jansson.h>

enum answer {
  ANSWER_RESULT,
  ANSWER_ERROR, /* with a code */
  ANSWER_NONE,  /* the connection has ended */
};

/* A connection, or -1 if the server is not there. */
int ask_connect (void);

/* Send a request with PARAMS, which are used up (NULL: none), and read the
 * answer: *RESULT is the result or the error, to be given back.  SENT passes
 * between the two.
 */
enum answer ask (int fd, enum moment sent, const char *method, json_t *params,
                 json_t **result);

/* What an object that came from the server has under a key. */
json_int_t ask_number (const json_t *object, const char *key);
const char *ask_text (const json_t *object, const char *key); /* or NULL */

#endif
