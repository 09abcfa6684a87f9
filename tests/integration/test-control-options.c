/* SPDX-License-Identifier: BSD-3-Clause */
/* The options of snapshot.create: what they may be, what goes together, and
 * what is said if it does not.
 */

#include "control.h"

#include <unistd.h>

#define SIZE (1 << 20)

/* A server without snapshots, and a connection to it. */
static struct control *
connection (struct fixture *f)
{
  make_image (f, SIZE);
  serve (f, "snapshot=no", NULL);
  return control_connect (f, NULL);
}

/* Call METHOD with PARAMS, with ' for ": refused, and nothing is changed. */
static void
refuse (struct control *c, const char *method, const char *params,
        const char *words)
{
  const char *before = listed (c, true);

  is_error (control_ask (c, quoted (c->f,
                                    "{'jsonrpc':'2.0','id':1,'method':'%s',"
                                    "'params':{%s}}",
                                    method, params)),
            BAD_PARAMS, NULL, words);
  assert_string_equal (listed (c, true), before);
}

static void
options_are_taken (void **state)
{
  static const struct {
    const char *params, *key;
    json_int_t expected;
  } cases[] = {
    { "'chunksize':512", "chunksize", 512 },
    { "'chunksize':'512'", "chunksize", 512 },
    { "'chunksize':'8k'", "chunksize", 8192 },
    { "'chunksize':'1M'", "chunksize", 1 << 20 },
    { "'maxsize':0", "maxsize", 0 },
    { "'maxsize':4096", "maxsize", 4096 },
    { "'maxsize':'10G'", "maxsize", 10737418240 },
    { "'maxsize':9223372036854775807", "maxsize", INT64_MAX },
    { "'backfile-size':0", "backfile-size", 0 },
    { "'backfile-size':'1M'", "backfile-size", 1 << 20 },
    { "'backfile-size':266240", "backfile-size", 266240 }, /* the least */
    { "'cow-timeout':1", "cow-timeout", 1 },
    { "'cow-timeout':'86400'", "cow-timeout", 86400 },
    { "'chunksize':'64k','maxsize':65536", "maxsize", 65536 },
    { "'maxsize':65536,'chunksize':'64k'", "chunksize", 65536 },
  };
  struct fixture *f = *state;
  struct control *c = connection (f);

  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const json_t *reply = control_ask (
        c, quoted (f,
                   "{'jsonrpc':'2.0','id':1,'method':'snapshot.create',"
                   "'params':{'options':{%s}}}",
                   cases[i].params));
    const json_t *result = json_object_get (reply, "result");
    if (result == NULL || number (result, cases[i].key) != cases[i].expected)
      fail_msg ("with %s", cases[i].params);
    call (c, "snapshot.delete", "{s:i}", "snapshot", 1);
  }
}

static void
durability_and_on_error_go_together (void **state)
{
  static const struct {
    const char *params, *durability, *on_error;
  } cases[] = {
    { "", "async", "break-snapshot" },
    { "'durability':'async'", "async", "break-snapshot" },
    { "'durability':'written'", "written", "break-snapshot" },
    { "'on-error':'break-snapshot'", "async", "break-snapshot" },
    { "'on-error':'break-write'", "written", "break-write" },
    { "'on-error':'break-write','durability':'written'", "written",
      "break-write" },
    { "'on-error':'break-snapshot','durability':'written'", "written",
      "break-snapshot" },
  };
  struct fixture *f = *state;
  struct control *c = connection (f);

  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const json_t *result
        = json_object_get (control_ask (c, quoted (f,
                                                   "{'jsonrpc':'2.0','id':1,"
                                                   "'method':'snapshot.create',"
                                                   "'params':{'options':{%s}}}",
                                                   cases[i].params)),
                           "result");
    assert_string_equal (string (result, "durability"), cases[i].durability);
    assert_string_equal (string (result, "on-error"), cases[i].on_error);
  }
}

static void
options_that_are_not_allowed_are_refused (void **state)
{
  static const struct {
    const char *params, *words;
  } cases[] = {
    { "'chunksize':0", "power of two" },
    { "'chunksize':-4096", "power of two" },
    { "'chunksize':256", "power of two" },
    { "'chunksize':5000", "power of two" },
    { "'chunksize':134217728", "power of two" },
    { "'chunksize':''", "power of two" },
    { "'chunksize':'4 k'", "power of two" },
    { "'chunksize':'4k '", "power of two" },
    { "'chunksize':'+4096'", "power of two" },
    { "'chunksize':'0x1000'", "power of two" },
    { "'chunksize':'\\u0664k'", "power of two" },
    { "'maxsize':-1", "size" },
    { "'maxsize':'lots'", "size" },
    { "'maxsize':'16E'", "size" },
    { "'maxsize':'9223372036854775808'", "size" },
    { "'maxsize':'18446744073709551617'", "size" },
    { "'maxsize':4095", "at least the chunk size, 4096" },
    { "'maxsize':'32k','chunksize':'64k'", "at least the chunk size, 65536" },
    { "'backfile-size':-1", "size" },
    { "'backfile-size':1", "at least 266240" },
    { "'backfile-size':266239", "at least 266240" },
    { "'backfile-size':'1M','chunksize':'64k'", "chunksize=65536" },
    { "'cow-timeout':0", "seconds" },
    { "'cow-timeout':-1", "seconds" },
    { "'cow-timeout':86401", "seconds" },
    { "'cow-timeout':'1m'", "seconds" },
    { "'cow-timeout':'1s'", "seconds" },
    { "'durability':'stable'", "store" },
    { "'durability':'Async'", "async|written|stable" },
    { "'durability':''", "async|written|stable" },
    { "'durability':0", "async|written|stable" },
    { "'durability':'async|written|stable'", "async|written|stable" },
    { "'on-error':'break'", "break-snapshot|break-write" },
    { "'on-error':''", "break-snapshot|break-write" },
    { "'on-error':'break-write','durability':'async'", "break-write" },
    { "'durability':'async','on-error':'break-write'", "break-write" },
    { "'backing-store':'store'", "absolute path" },
    { "'backing-store':'./store'", "absolute path" },
    { "'backing-store':''", "absolute path" },
    { "'backing-store':7", "absolute path" },
    /* 64 MiB is what the server has for all */
    { "'chunksize':'64M'", "max-memory" },
    { "'chunksize':'32M'", "max-memory" },
  };
  struct fixture *f = *state;
  struct control *c = connection (f);

  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    refuse (c, "snapshot.create",
            text (f, "'name':'x','options':{%s}", cases[i].params),
            cases[i].words);
}

static void
defaults_are_the_servers (void **state)
{
  struct fixture *f = *state;

  make_image (f, SIZE);
  serve (f, "chunksize=8k", "maxsize=64k", "durability=written",
         "cow-timeout=7", "backfile-size=1M", NULL);
  struct control *c = control_connect (f, NULL);
  for (unsigned i = 0; i < 2; i++) {
    const json_t *s = i == 0 ? info (c, 1) : call (c, "snapshot.create", NULL);
    assert_int_equal (number (s, "chunksize"), 8192);
    assert_int_equal (number (s, "maxsize"), 65536);
    assert_int_equal (number (s, "backfile-size"), 1 << 20);
    assert_int_equal (number (s, "cow-timeout"), 7);
    assert_string_equal (string (s, "durability"), "written");
    assert_string_equal (string (s, "on-error"), "break-snapshot");
  }
  /* what does not go together with them is refused */
  refuse (c, "snapshot.create", "'options':{'chunksize':'128k'}",
          "maxsize=65536");
  const json_t *s
      = call (c, "snapshot.create", "{s:{s:s, s:i, s:i}}", "options",
              "chunksize", "128k", "maxsize", 0, "backfile-size", 0);
  assert_int_equal (number (s, "chunksize"), 131072);
  /* ... and a request changes none of them */
  s = call (c, "snapshot.create", NULL);
  assert_int_equal (number (s, "chunksize"), 8192);
}

static void
too_many_backing_files_are_refused (void **state)
{
  struct fixture *f = *state;

  make_image (f, SIZE);
  serve (f, "snapshot=no", "backfile-size=1M", NULL);
  struct control *c = control_connect (f, NULL);
  call (c, "snapshot.create", "{s:s}", "name", "a");
  assert_int_equal (truncate (f->image, 1 << 30), 0);
  /* Nothing failed that has an errno, and none of the request before. */
  control_ask (c, quoted (f, "{'jsonrpc':'2.0','id':'x','method':"
                             "'snapshot.create','params':{'name':'a'}}"));
  is_error (control_ask (c, quoted (f, "{'jsonrpc':'2.0','id':'x',"
                                       "'method':'snapshot.create'}")),
            BAD_PARAMS, NULL, "allowed are 256");
  assert_string_equal (listed (c, true), "1");
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    fixture_test (options_are_taken),
    fixture_test (durability_and_on_error_go_together),
    fixture_test (options_that_are_not_allowed_are_refused),
    fixture_test (defaults_are_the_servers),
    fixture_test (too_many_backing_files_are_refused),
  };

  return cmocka_run_group_tests_name ("control-options", tests, NULL, NULL);
}
