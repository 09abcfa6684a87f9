/* SPDX-License-Identifier: BSD-3-Clause */
/* The same checks on each engine, with real files. */

#include "cmocka-all.h"
#include "engine.h"
#include "fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#define DEPTH 8

struct setting {
  const struct engine_type *type;
  struct engine *engine;
  int fd;
  char path[32];
};

static struct setting uring = { .type = &engine_uring };
static struct setting sync_io = { .type = &engine_sync };

static int
setup (void **state)
{
  struct setting *setting = *state;

  setting->fd = unnamed_file (1 << 20, setting->path);
  setting->engine = setting->type->create (DEPTH);
  return 0;
}

static int
teardown (void **state)
{
  struct setting *setting = *state;

  if (setting->engine != NULL)
    setting->type->free (setting->engine);
  close (setting->fd);
  return 0;
}

/* The setting of a test; skips it where io_uring is refused. */
static struct setting *
get (void **state)
{
  struct setting *setting = *state;

  if (setting->engine == NULL && setting->type == &engine_uring)
    skip ();
  assert_non_null (setting->engine);
  return setting;
}

static void
make_request (struct engine_request *request, int fd, uint64_t offset,
              const void *data, size_t length)
{
  *request = (struct engine_request){
    .fd = fd,
    .offset = offset,
    .segments = 1,
    .result = -12345,
    .segment = { { .iov_base = (void *)(uintptr_t)data, .iov_len = length } },
  };
}

/* Reap until COUNT requests are done. */
static void
reap (struct setting *setting, unsigned count)
{
  while (count > 0) {
    struct engine_request *done = setting->type->reap (setting->engine);
    for (; done != NULL; done = done->next)
      count--;
  }
}

static void
write_reaches_the_file (void **state)
{
  struct setting *setting = get (state);
  struct engine_request request;
  char buf[8];

  make_request (&request, setting->fd, 1000, "content", 8);
  setting->type->submit (setting->engine, &request);
  reap (setting, 1);
  assert_int_equal (request.result, 8);
  assert_int_equal (pread (setting->fd, buf, 8, 1000), 8);
  assert_string_equal (buf, "content");
}

static void
segments_are_written_one_behind_the_other (void **state)
{
  struct setting *setting = get (state);
  static uint8_t data[ENGINE_SEGMENTS][100];
  uint8_t buf[sizeof data];
  struct engine_request request;

  make_request (&request, setting->fd, 5, NULL, 0);
  request.segments = ENGINE_SEGMENTS;
  for (unsigned i = 0; i < ENGINE_SEGMENTS; i++) {
    memset (data[i], (int)i + 1, sizeof data[i]);
    request.segment[i] = (struct iovec){ data[i], sizeof data[i] };
  }
  setting->type->submit (setting->engine, &request);
  reap (setting, 1);
  assert_int_equal (request.result, sizeof data);
  assert_int_equal (pread (setting->fd, buf, sizeof buf, 5), sizeof buf);
  assert_memory_equal (buf, data, sizeof data);
}

static void
depth_requests_at_a_time_many_times (void **state)
{
  struct setting *setting = get (state);
  struct engine_request requests[DEPTH];
  uint8_t data[DEPTH], byte;

  for (unsigned round = 0; round < 20; round++) {
    for (unsigned i = 0; i < DEPTH; i++) {
      data[i] = (uint8_t)(round * DEPTH + i);
      make_request (&requests[i], setting->fd, i * UINT64_C (4096), &data[i],
                    1);
      setting->type->submit (setting->engine, &requests[i]);
    }
    reap (setting, DEPTH);
    for (unsigned i = 0; i < DEPTH; i++) {
      assert_int_equal (requests[i].result, 1);
      assert_int_equal (pread (setting->fd, &byte, 1, i * 4096), 1);
      assert_int_equal (byte, data[i]);
    }
  }
}

static void
bad_descriptor_is_its_errno (void **state)
{
  struct setting *setting = get (state);
  struct engine_request bad, good;

  make_request (&bad, -1, 0, "x", 1);
  make_request (&good, setting->fd, 0, "x", 1);
  setting->type->submit (setting->engine, &bad);
  setting->type->submit (setting->engine, &good);
  reap (setting, 2);
  assert_int_equal (bad.result, -EBADF);
  assert_int_equal (good.result, 1);
}

static void
read_only_descriptor_is_its_errno (void **state)
{
  struct setting *setting = get (state);
  const int fd = open (setting->path, O_RDONLY);
  struct engine_request request;

  assert_int_not_equal (fd, -1);
  make_request (&request, fd, 0, "x", 1);
  setting->type->submit (setting->engine, &request);
  reap (setting, 1);
  assert_int_equal (request.result, -EBADF);
  close (fd);
}

static void
full_device_is_enospc (void **state)
{
  struct setting *setting = get (state);
  const int fd = open ("/dev/full", O_WRONLY);
  struct engine_request request;

  if (fd == -1)
    skip ();
  make_request (&request, fd, 0, "x", 1);
  setting->type->submit (setting->engine, &request);
  reap (setting, 1);
  assert_int_equal (request.result, -ENOSPC);
  close (fd);
}

static void
wake_before_reap_is_not_lost (void **state)
{
  struct setting *setting = get (state);

  setting->type->wake (setting->engine);
  assert_null (setting->type->reap (setting->engine));
}

static void *
wake (void *arg)
{
  struct setting *setting = arg;

  setting->type->wake (setting->engine);
  return NULL;
}

static void
wake_ends_a_reap (void **state)
{
  struct setting *setting = get (state);

  for (unsigned i = 0; i < 50; i++) {
    pthread_t thread;
    pthread_create (&thread, NULL, wake, setting);
    assert_null (setting->type->reap (setting->engine));
    pthread_join (thread, NULL);
  }
}

static void
several_wakes_end_at_least_one_reap (void **state)
{
  struct setting *setting = get (state);

  for (unsigned i = 0; i < 3; i++)
    setting->type->wake (setting->engine);
  assert_null (setting->type->reap (setting->engine));
  setting->type->wake (setting->engine); /* and they do not swallow others */
  assert_null (setting->type->reap (setting->engine));
}

static void
wake_does_not_hide_what_is_done (void **state)
{
  struct setting *setting = get (state);
  struct engine_request request;

  setting->type->wake (setting->engine);
  make_request (&request, setting->fd, 0, "x", 1);
  setting->type->submit (setting->engine, &request);
  reap (setting, 1);
  assert_int_equal (request.result, 1);
}

static void
sync_has_no_bytes (void **state)
{
  struct setting *setting = get (state);
  struct engine_request request;

  make_request (&request, setting->fd, 0, NULL, 0);
  request.segments = 0;
  setting->type->submit (setting->engine, &request);
  reap (setting, 1);
  assert_int_equal (request.result, 0);
}

static void
sync_of_what_cannot_be_synced_is_its_errno (void **state)
{
  struct setting *setting = get (state);
  struct engine_request request;
  int ends[2];

  assert_int_equal (pipe (ends), 0);
  make_request (&request, ends[0], 0, NULL, 0);
  request.segments = 0;
  setting->type->submit (setting->engine, &request);
  reap (setting, 1);
  assert_int_equal (request.result, -EINVAL);
  close (ends[0]);
  close (ends[1]);
}

static void
syncs_among_writes (void **state)
{
  struct setting *setting = get (state);
  struct engine_request requests[DEPTH];
  char buf[DEPTH];

  for (unsigned i = 0; i < DEPTH; i++) {
    make_request (&requests[i], setting->fd, i, "x", 1);
    requests[i].segments = i % 2;
    setting->type->submit (setting->engine, &requests[i]);
  }
  reap (setting, DEPTH);
  for (unsigned i = 0; i < DEPTH; i++)
    assert_int_equal (requests[i].result, i % 2);
  assert_int_equal (pread (setting->fd, buf, DEPTH, 0), DEPTH);
  for (unsigned i = 0; i < DEPTH; i++)
    assert_int_equal (buf[i], i % 2 ? 'x' : '\0');
}

#define ON(setting, name)                                                      \
  {                                                                            \
#name "_" #setting, name, setup, teardown, &setting                        \
  }
#define TEST(name) ON (uring, name), ON (sync_io, name)

int
main (void)
{
  const struct CMUnitTest tests[] = {
    TEST (write_reaches_the_file),
    TEST (segments_are_written_one_behind_the_other),
    TEST (depth_requests_at_a_time_many_times),
    TEST (bad_descriptor_is_its_errno),
    TEST (read_only_descriptor_is_its_errno),
    TEST (full_device_is_enospc),
    TEST (sync_has_no_bytes),
    TEST (sync_of_what_cannot_be_synced_is_its_errno),
    TEST (syncs_among_writes),
    TEST (wake_before_reap_is_not_lost),
    TEST (wake_ends_a_reap),
    TEST (several_wakes_end_at_least_one_reap),
    TEST (wake_does_not_hide_what_is_done),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
