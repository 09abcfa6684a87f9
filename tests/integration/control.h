/* SPDX-License-Identifier: BSD-3-Clause */
/* A client of the control socket, and what tests say with it.  What goes
 * wrong in here fails the test that is running; nothing waits for ever.
 */

#ifndef FSSNAP_TEST_CONTROL_H
#define FSSNAP_TEST_CONTROL_H

#include "fixture.h"

#include <jansson.h>

/* The codes of docs/control-protocol.md. */
enum {
  NOT_JSON = -32700,
  NOT_A_REQUEST = -32600,
  NO_METHOD = -32601,
  BAD_PARAMS = -32602,
  NO_SNAPSHOT = 1,
  BUSY = 2,
  EXISTS = 3,
  WRONG_STATE = 4,
  FAILED = 5,
  TOO_MANY = 6,
  NOT_ALLOWED = 7,
};

/* The most that a request's line may have, its end included. */
#define LINE_MAX_BYTES ((size_t)1 << 20)

/* One connection; it goes with the test. */
struct control {
  struct fixture *f;
  int fd;     /* -1: closed */
  int serial; /* the id of the last call */
  char *text; /* LENGTH bytes that came, USED of them have been looked at */
  size_t length, used, size;
};

/* Where serve has the server make its socket. */
const char *control_path (struct fixture *f);

/* start, with a control socket; it is there when this returns. */
#define serve(f, ...)                                                          \
  (start (f, text (f, "control=%s", control_path (f)), __VA_ARGS__),           \
   await_server (f))

/* Return when the server takes NBD connections. */
void await_server (struct fixture *f);

/* Connect to a socket; control_path if PATH is NULL. */
struct control *control_connect (struct fixture *f, const char *path);
void control_close (struct control *c);

/* Send bytes as they are.  False: the server has closed the connection. */
bool control_send (struct control *c, const void *bytes, size_t count);

/* Say that no request follows; wait for the server to close the connection.
 */
void control_finish (struct control *c);

/* The next line that comes, without its end, good until the one after it;
 * NULL: the server has closed the connection.
 */
const char *control_line (struct control *c);

/* The next line, which is a reply as JSON-RPC has it, and is the test's. */
json_t *control_reply (struct control *c);

/* Send a request's line, whose end this adds, and get the reply. */
json_t *control_ask (struct control *c, const char *line);

/* A text with each ' made a ", as JSON has them; at most 511 bytes. */
const char *quoted (struct fixture *f, const char *format, ...)
    __attribute__ ((format (printf, 2, 3)));

/* Send a request with parameters as json_pack takes them, or NULL; its
 * reply is another's to get.
 */
void control_request (struct control *c, const char *method, const char *format,
                      ...);

/* Call a method: the result, or the error. */
#define call(c, ...) call_result (c, __FILE__, __LINE__, __VA_ARGS__)
#define call_fails(c, code, ...)                                               \
  call_error (c, code, __FILE__, __LINE__, __VA_ARGS__)
json_t *call_result (struct control *c, const char *file, int line,
                     const char *method, const char *format, ...);
json_t *call_error (struct control *c, int code, const char *file, int line,
                    const char *method, const char *format, ...);

/* REPLY is an error with CODE, with this errno (NULL: none), and with WORDS
 * in its message.  Returns the error.
 */
#define is_error(reply, code, err, words)                                      \
  assert_error (reply, code, err, words, __FILE__, __LINE__)
json_t *assert_error (json_t *reply, int code, const char *err,
                      const char *words, const char *file, int line);

/* What an object has under a key; it must have it. */
json_int_t number (const json_t *object, const char *key);
const char *string (const json_t *object, const char *key);
bool is_null (const json_t *object, const char *key);
bool truth (const json_t *object, const char *key);

/* snapshot.info of a snapshot by number, and one figure of it. */
json_t *info (struct control *c, int snapnumber);
json_int_t figure (struct control *c, int snapnumber, const char *key);

/* Ask until a figure is as wanted: it changes as soon as something else
 * does that no client can wait for.
 */
void await_figure (struct control *c, int snapnumber, const char *key,
                   json_int_t wanted);

/* snapshot.create without parameters; its number. */
int create (struct control *c);

/* The numbers that snapshot.list has, as in "1 3 2". */
const char *listed (struct control *c, bool all);

/* Ask until snapshot.list has just these. */
void await_listed (struct control *c, bool all, const char *wanted);

#endif
