/* SPDX-License-Identifier: BSD-3-Clause */
/* The wire: what is a line, a request, a reply. */

#include "control.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#define SIZE (1 << 20)

static const char list[]
    = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"snapshot.list\"}";

/* A server without snapshots, and a connection to it. */
static struct control *
connection (struct fixture *f)
{
  make_image (f, SIZE);
  serve (f, "snapshot=no", NULL);
  return control_connect (f, NULL);
}

static const json_t *
id_of (const json_t *reply)
{
  return json_object_get (reply, "id");
}

/* The server goes on, on this connection too, and nothing has changed. */
static void
assert_unimpressed (struct control *c)
{
  assert_string_equal (listed (c, true), "");
}

/* A line that is no request at all gets an error without an id. */
static void
refuse_bytes (struct control *c, const char *line, size_t length, int code,
              const char *words)
{
  assert_true (control_send (c, line, length));
  assert_true (control_send (c, "\n", 1));
  json_t *reply = control_reply (c);
  is_error (reply, code, NULL, words);
  assert_true (json_is_null (id_of (reply)));
}

static void
refuse (struct control *c, const char *line, int code, const char *words)
{
  refuse_bytes (c, line, strlen (line), code, words);
}

static void
what_is_not_json_is_refused (void **state)
{
  static const char *const lines[] = {
    "hello",
    "{",
    "}",
    "{'jsonrpc':'2.0','id':1,'method':'snapshot.list'",
    "{'jsonrpc':'2.0','id':1,'method':'snapshot.list'}}",
    "{'jsonrpc':'2.0','id':1,'method':'snapshot.list'} {}",
    "{'jsonrpc':'2.0','id':1,'method':'snapshot.list',}",
    "{'jsonrpc':'2.0' 'id':1}",
    "{jsonrpc:'2.0'}",
    "{'jsonrpc':'2.0','id':01,'method':'snapshot.list'}",
    "{'jsonrpc':'2.0','id':99999999999999999999,'method':'snapshot.list'}",
    "{'jsonrpc':'2.0','id':1e999,'method':'snapshot.list'}",
    "{'jsonrpc':'2.0','id':NaN,'method':'snapshot.list'}",
    "{'jsonrpc':'2.0','id':1,'method':'snapshot.\\x'}",
    "{'jsonrpc':'2.0','id':1,'method':'\\ud800'}",
    "{'jsonrpc':'2.0','id':1,'method':'\\u0000'}",
    "{'jsonrpc':'2.0','id':1,'method':'a\tb'}",
    "42",
    "'snapshot.list'",
    "null",
    "true",
    "GET / HTTP/1.1",
    "\xef\xbb\xbf{}", /* a byte order mark */
  };
  struct fixture *f = *state;
  struct control *c = connection (f);

  for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
    refuse (c, quoted (f, "%s", lines[i]), NOT_JSON, "not JSON");
  assert_unimpressed (c);
}

static void
bytes_that_are_no_text_are_refused (void **state)
{
  static const char *const bad[] = {
    "\xff",
    "\xc3\x28",
    "\xe2\x82",
    "\xed\xa0\x80",
    "\xf4\x90\x80\x80",
    "\x80",
    "\xc0\xaf",
    "\xf8\x88\x80\x80\x80",
  };
  struct fixture *f = *state;
  struct control *c = connection (f);

  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    refuse (c, bad[i], NOT_JSON, "not JSON");
    refuse (c,
            quoted (f, "{'jsonrpc':'2.0','id':1,'method':'%s.list'}", bad[i]),
            NOT_JSON, "not JSON");
  }
  assert_unimpressed (c);
}

static void
zero_bytes_are_refused (void **state)
{
  struct fixture *f = *state;
  struct control *c = connection (f);
  char line[sizeof list];

  refuse_bytes (c, "", 1, NOT_JSON, "not JSON");
  refuse_bytes (c, " \0 ", 3, NOT_JSON, "not JSON");
  /* one more byte after, instead of, or within what would do without */
  refuse_bytes (c, list, sizeof list, NOT_JSON, "not JSON");
  for (size_t i = 0; i < sizeof list - 1; i++) {
    memcpy (line, list, sizeof line);
    line[i] = '\0';
    refuse_bytes (c, line, sizeof line - 1, NOT_JSON, "not JSON");
  }
  assert_unimpressed (c);
}

static void
keys_must_not_be_given_twice (void **state)
{
  struct fixture *f = *state;
  struct control *c = connection (f);

  refuse (c,
          quoted (f, "{'jsonrpc':'2.0','id':1,'id':2,"
                     "'method':'snapshot.create'}"),
          NOT_JSON, "duplicate");
  refuse (c,
          quoted (f, "{'jsonrpc':'2.0','id':1,'method':'snapshot.list',"
                     "'method':'snapshot.create'}"),
          NOT_JSON, "duplicate");
  refuse (c,
          quoted (f, "{'jsonrpc':'2.0','id':1,'method':'snapshot.create',"
                     "'params':{'name':'a','name':'b'}}"),
          NOT_JSON, "duplicate");
  refuse (c,
          quoted (f, "{'jsonrpc':'2.0','id':1,'method':'snapshot.create',"
                     "'params':{'options':{'maxsize':1,'maxsize':0}}}"),
          NOT_JSON, "duplicate");
  assert_unimpressed (c);
}

static void
deep_nesting_is_refused (void **state)
{
  struct fixture *f = *state;
  struct control *c = connection (f);
  const size_t depth = 200000;
  char *line = scratch (f, 8 * depth);

  memset (line, '[', depth);
  refuse (c, line, NOT_JSON, "not JSON");
  memset (line + depth, ']', depth);
  refuse (c, line, NOT_JSON, "not JSON");
  for (size_t i = 0; i < 100000; i++)
    memcpy (line + 5 * i, "{\"a\":", 5);
  line[5 * 100000] = '\0';
  refuse (c, line, NOT_JSON, "not JSON");
  assert_unimpressed (c);
}

static void
other_json_is_no_request (void **state)
{
  static const struct {
    const char *line, *words;
  } cases[] = {
    { "{}", "jsonrpc" },
    { "{'id':1,'method':'snapshot.create'}", "jsonrpc" },
    { "{'jsonrpc':'1.0','id':1,'method':'snapshot.create'}", "jsonrpc" },
    { "{'jsonrpc':2.0,'id':1,'method':'snapshot.create'}", "jsonrpc" },
    { "{'jsonrpc':'2.0\\u00a0','id':1,'method':'snapshot.create'}", "jsonrpc" },
    { "{'jsonrpc':null,'id':1,'method':'snapshot.create'}", "jsonrpc" },
    { "{'jsonrpc':'2.0','id':1}", "method" },
    { "{'jsonrpc':'2.0','id':1,'method':1}", "method" },
    { "{'jsonrpc':'2.0','id':1,'method':null}", "method" },
    { "{'jsonrpc':'2.0','id':1,'method':['snapshot.create']}", "method" },
    { "{'jsonrpc':'2.0','id':1,'method':'snapshot.create','params':[]}",
      "params" },
    { "{'jsonrpc':'2.0','id':1,'method':'snapshot.create','params':null}",
      "params" },
    { "{'jsonrpc':'2.0','id':1,'method':'snapshot.create','params':'x'}",
      "params" },
  };
  struct fixture *f = *state;
  struct control *c = connection (f);

  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    json_t *reply = control_ask (c, quoted (f, "%s", cases[i].line));
    is_error (reply, NOT_A_REQUEST, NULL, cases[i].words);
    /* the id, where there is one */
    assert_int_equal (json_integer_value (id_of (reply)), i > 0);
  }
  assert_unimpressed (c);
}

static void
ids_must_be_simple (void **state)
{
  static const char *const ids[] = { "{}", "[]", "{'id':1}", "[1]" };
  struct fixture *f = *state;
  struct control *c = connection (f);

  for (size_t i = 0; i < sizeof ids / sizeof *ids; i++)
    refuse (c,
            quoted (f, "{'jsonrpc':'2.0','id':%s,'method':'snapshot.create'}",
                    ids[i]),
            NOT_A_REQUEST, "id");
  is_error (control_ask (c, quoted (f, "{'jsonrpc':'2.0','id':true,"
                                       "'method':'snapshot.create'}")),
            NOT_A_REQUEST, NULL, "id");
  assert_unimpressed (c);
}

/* Whatever it is, the reply has the same. */
static void
replies_have_the_requests_id (void **state)
{
  static const char *const ids[] = {
    "0",    "1",    "-1",
    "7.25", "1e30", "9223372036854775807",
    "''",   "'1'",  "'\\u00e9 \\ud83d\\ude00 \\n\\\\ \\\"'",
    "null",
  };
  struct fixture *f = *state;
  struct control *c = connection (f);

  for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
    json_t *expected
        = json_loads (quoted (f, "%s", ids[i]), JSON_DECODE_ANY, NULL);
    assert_non_null (expected);
    const json_t *good = control_ask (
        c, quoted (f, "{'jsonrpc':'2.0','id':%s,'method':'snapshot.list'}",
                   ids[i]));
    const json_t *bad = control_ask (
        c, quoted (f, "{'jsonrpc':'2.0','id':%s,'method':'x'}", ids[i]));
    const bool same = json_equal (id_of (good), expected)
                      && json_equal (id_of (bad), expected);
    json_decref (expected);
    if (!same)
      fail_msg ("id %s comes back as another", ids[i]);
  }
}

static void
batches_are_refused (void **state)
{
  struct fixture *f = *state;
  struct control *c = connection (f);

  refuse (c, "[]", NOT_A_REQUEST, "batches");
  refuse (c,
          quoted (f, "[{'jsonrpc':'2.0','id':1,'method':'snapshot.create'}]"),
          NOT_A_REQUEST, "batches");
  assert_unimpressed (c);
}

static void
other_methods_are_refused (void **state)
{
  static const char *const methods[]
      = { "",           "snapshot", "snapshot.",      "Snapshot.list",
          "rpc.create", "list",     " snapshot.list", "snapshot.list " };
  struct fixture *f = *state;
  struct control *c = connection (f);

  for (size_t i = 0; i < sizeof methods / sizeof *methods; i++)
    call_fails (c, NO_METHOD, methods[i], NULL);
}

/* What else is in a request is not ours to judge. */
static void
unknown_members_of_a_request_are_ignored (void **state)
{
  struct fixture *f = *state;
  struct control *c = connection (f);

  const json_t *reply
      = control_ask (c, quoted (f, "{'trace':[1],'jsonrpc':'2.0','id':5,"
                                   "'method':'snapshot.list'}"));
  assert_non_null (json_object_get (reply, "result"));
}

static void
blank_lines_are_ignored (void **state)
{
  struct fixture *f = *state;
  struct control *c = connection (f);
  static const char blank[] = "\n\n \n\t\n\r\n \t \r\n";

  control_send (c, blank, sizeof blank - 1);
  assert_non_null (json_object_get (control_ask (c, list), "result"));
  control_send (c, blank, sizeof blank - 1);
  assert_unimpressed (c);
}

static void
lines_may_end_as_on_dos (void **state)
{
  struct fixture *f = *state;
  struct control *c = connection (f);

  assert_non_null (
      json_object_get (control_ask (c, text (f, "%s\r", list)), "result"));
  assert_non_null (json_object_get (
      control_ask (c, text (f, " \t%s \t\r", list)), "result"));
}

static void
notifications_are_carried_out_and_not_answered (void **state)
{
  struct fixture *f = *state;
  struct control *c = connection (f);
  const char *create_it
      = quoted (f, "{'jsonrpc':'2.0','method':'snapshot.create',"
                   "'params':{'name':'quiet'}}\n"
                   "{'jsonrpc':'2.0','method':'snapshot.create',"
                   "'params':{'name':'quiet'}}\n"
                   "{'jsonrpc':'2.0','method':'no.such'}\n");

  control_send (c, create_it, strlen (create_it));
  /* The next reply is that to the next request. */
  assert_string_equal (listed (c, true), "1");
  assert_string_equal (string (info (c, 1), "name"), "quiet");
}

/* Without an id, and still an error: it cannot be told from a request. */
static void
malformed_notifications_are_answered (void **state)
{
  struct fixture *f = *state;
  struct control *c = connection (f);

  refuse (c, quoted (f, "{'jsonrpc':'2.0'}"), NOT_A_REQUEST, "method");
}

static void
requests_may_be_sent_without_waiting (void **state)
{
  enum { REQUESTS = 2000 };
  struct fixture *f = *state;
  struct control *c = connection (f);
  char *lines = scratch (f, REQUESTS * 64);
  size_t n = 0;

  for (int i = 0; i < REQUESTS; i++)
    n += (size_t)sprintf (lines + n,
                          "{\"jsonrpc\":\"2.0\",\"id\":%d,\"method\":\"%s\"}\n",
                          i, i % 3 == 0 ? "x" : "snapshot.list");
  assert_true (n < REQUESTS * 64);
  assert_true (control_send (c, lines, n));
  for (int i = 0; i < REQUESTS; i++) {
    const json_t *reply = control_reply (c);
    assert_int_equal (json_integer_value (id_of (reply)), i);
    assert_int_equal (json_object_get (reply, "error") != NULL, i % 3 == 0);
  }
}

/* Also when no more will come. */
static void
all_whole_lines_are_answered_before_the_end (void **state)
{
  struct fixture *f = *state;
  struct control *c = connection (f);

  for (unsigned i = 0; i < 100; i++)
    control_request (c, "snapshot.list", NULL);
  assert_true (control_send (c, list, sizeof list - 1)); /* no line */
  assert_int_equal (shutdown (c->fd, SHUT_WR), 0);
  for (int i = 1; i <= 100; i++)
    assert_int_equal (json_integer_value (id_of (control_reply (c))), i);
  assert_null (control_line (c));
}

static void
connections_do_not_mix (void **state)
{
  enum { CONNECTIONS = 5 };
  struct fixture *f = *state;
  struct control *first = connection (f), *c[CONNECTIONS];
  const char *lines[CONNECTIONS];
  size_t length = 0;

  for (int i = 0; i < CONNECTIONS; i++) {
    c[i] = control_connect (f, NULL);
    lines[i]
        = quoted (f, "{'jsonrpc':'2.0','id':%d,'method':'number.%d'}\n", i, i);
    length = strlen (lines[i]);
  }
  for (size_t at = 0; at < length; at++)
    for (int i = 0; i < CONNECTIONS; i++)
      assert_true (control_send (c[i], lines[i] + at, 1));
  for (int i = 0; i < CONNECTIONS; i++) {
    json_t *reply = control_reply (c[i]);
    assert_int_equal (json_integer_value (id_of (reply)), i);
    is_error (reply, NO_METHOD, NULL, text (f, "number.%d", i));
  }
  assert_unimpressed (first);
}

static void
half_a_request_holds_up_nobody (void **state)
{
  struct fixture *f = *state;
  struct control *half = connection (f), *other = control_connect (f, NULL);

  assert_true (control_send (half, list, 20));
  for (unsigned i = 0; i < 10; i++)
    assert_unimpressed (other);
  assert_true (control_send (half, list + 20, sizeof list - 1 - 20));
  assert_true (control_send (half, "\n", 1));
  assert_non_null (json_object_get (control_reply (half), "result"));
}

/* A request whose line has LENGTH bytes, its end included. */
static char *
long_line (struct fixture *f, size_t length)
{
  char *line = scratch (f, length + 1);

  memset (line, ' ', length);
  memcpy (line, list, sizeof list - 1);
  line[length - 1] = '\n';
  return line;
}

/* Pieces of many sizes: as a slow sender would. */
static bool
send_in_pieces (struct control *c, const char *line, size_t length)
{
  size_t at = 0;

  for (size_t piece = 1; at < length; piece = piece * 7 % 60013 + 1) {
    const size_t n = piece < length - at ? piece : length - at;
    if (!control_send (c, line + at, n))
      return false;
    at += n;
  }
  return true;
}

static void
lines_may_have_a_mebibyte (void **state)
{
  struct fixture *f = *state;
  struct control *c = connection (f);
  char *line = long_line (f, LINE_MAX_BYTES);

  for (unsigned i = 0; i < 2; i++) {
    assert_true (i == 0 ? control_send (c, line, LINE_MAX_BYTES)
                        : send_in_pieces (c, line, LINE_MAX_BYTES));
    assert_non_null (json_object_get (control_reply (c), "result"));
  }
  assert_unimpressed (c);
}

static void
refuse_length (struct fixture *f, size_t length, bool pieces)
{
  struct control *c = control_connect (f, NULL);
  const char *line = long_line (f, length);

  /* The server need not take all of it. */
  if (pieces)
    send_in_pieces (c, line, length);
  else
    control_send (c, line, length);
  json_t *reply = control_reply (c);
  is_error (reply, NOT_JSON, NULL, "1048576");
  assert_true (json_is_null (id_of (reply)));
  assert_null (control_line (c));
}

static void
longer_lines_end_the_connection (void **state)
{
  static const size_t lengths[]
      = { LINE_MAX_BYTES + 1, LINE_MAX_BYTES + 2, LINE_MAX_BYTES + 5000,
          LINE_MAX_BYTES + 100000, 8 * LINE_MAX_BYTES };
  struct fixture *f = *state;
  struct control *other = connection (f);

  for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
    refuse_length (f, lengths[i], false);
    refuse_length (f, lengths[i], true);
  }
  assert_unimpressed (other);
}

/* The limit is of one line, not of all that comes at once. */
static void
many_lines_may_have_more_than_a_mebibyte (void **state)
{
  struct fixture *f = *state;
  struct control *c = connection (f);
  const size_t length = LINE_MAX_BYTES / 2 - 1;
  const char *line = long_line (f, length);

  for (unsigned i = 0; i < 5; i++)
    assert_true (control_send (c, line, length));
  for (unsigned i = 0; i < 5; i++)
    assert_non_null (json_object_get (control_reply (c), "result"));
}

/* Each of these is six bytes of the reply and two of the request. */
static void
replies_may_have_more_than_a_mebibyte (void **state)
{
  enum { COUNT = 400000 };
  struct fixture *f = *state;
  struct control *c = connection (f);
  char *name = scratch (f, 2 * COUNT + 1);

  for (size_t i = 0; i < COUNT; i++)
    memcpy (name + 2 * i, "\xc3\xa9", 2);
  const char *request = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"";
  control_send (c, request, strlen (request));
  control_send (c, name, 2 * COUNT);
  control_send (c, "\"}\n", 3);
  is_error (control_reply (c), NO_METHOD, NULL, name);
  assert_unimpressed (c);
}

/* What they quote may be more than one. */
static void
replies_are_one_line (void **state)
{
  struct fixture *f = *state;
  struct control *c = connection (f);

  json_t *reply = control_ask (
      c, quoted (f, "{'jsonrpc':'2.0','id':'a\\nb','method':'c\\nd\\r\\ne'}"));
  is_error (reply, NO_METHOD, NULL, "c\nd\r\ne");
  assert_string_equal (json_string_value (id_of (reply)), "a\nb");
  assert_unimpressed (c);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    fixture_test (what_is_not_json_is_refused),
    fixture_test (bytes_that_are_no_text_are_refused),
    fixture_test (zero_bytes_are_refused),
    fixture_test (keys_must_not_be_given_twice),
    fixture_test (deep_nesting_is_refused),
    fixture_test (other_json_is_no_request),
    fixture_test (ids_must_be_simple),
    fixture_test (replies_have_the_requests_id),
    fixture_test (batches_are_refused),
    fixture_test (other_methods_are_refused),
    fixture_test (unknown_members_of_a_request_are_ignored),
    fixture_test (blank_lines_are_ignored),
    fixture_test (lines_may_end_as_on_dos),
    fixture_test (notifications_are_carried_out_and_not_answered),
    fixture_test (malformed_notifications_are_answered),
    fixture_test (requests_may_be_sent_without_waiting),
    fixture_test (all_whole_lines_are_answered_before_the_end),
    fixture_test (connections_do_not_mix),
    fixture_test (half_a_request_holds_up_nobody),
    fixture_test (lines_may_have_a_mebibyte),
    fixture_test (longer_lines_end_the_connection),
    fixture_test (many_lines_may_have_more_than_a_mebibyte),
    fixture_test (replies_may_have_more_than_a_mebibyte),
    fixture_test (replies_are_one_line),
  };

  return cmocka_run_group_tests_name ("control", tests, NULL, NULL);
}
