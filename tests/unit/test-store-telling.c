/* SPDX-License-Identifier: BSD-3-Clause */
/* The store is told that snapshots break; and marks, when it does not answer.
 */

#include "cmocka-all.h"
#include "call-hook.h"
#include "fixture.h"
#include "image.h"
#include "nbdkit-stub.h"
#include "scoped.h"
#include "scratch.h"
#include "store.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define SIZE (UINT64_C (1) << 20)

static struct {
  char path[256];
  struct store *store;
  struct catalog_layer *records[3];
  sem_t told;
  atomic_uint times;
  struct catalog at_done; /* the catalogue when DONE was called last */
} here;

static char origin_name[] = "/dev/sdb", origin_identity[] = "wwid 1";

static const struct catalog_origin origin
    = { .path = origin_name, .identity = origin_identity, .size = SIZE };

static int
setup (void **state)
{
  (void)state;
  messages_clear ();
  snprintf (here.path, sizeof here.path, "%s", scratch_path ("store"));
  here.store = store_open (here.path);
  assert_non_null (here.store);
  assert_int_equal (store_begin (here.store, &origin), 0);
  for (unsigned i = 0; i < 3; i++) {
    const struct catalog_layer template = {
      .number = i + 1, .size = SIZE, .chunk_size = 4096, .cow_timeout = 60
    };
    here.records[i] = store_make (here.store, &template, here.path, 1);
    assert_non_null (here.records[i]);
    assert_int_equal (store_add (here.store, here.records[i]), 0);
  }
  sem_init (&here.told, 0, 0);
  atomic_store (&here.times, 0);
  return 0;
}

static void
remove_mark (const struct catalog_layer *record)
{
  char path[64], uuid[37];

  uuid_unparse_lower (record->uuid, uuid);
  snprintf (path, sizeof path, "/dev/shm/fssnap-%s", uuid);
  unlink (path);
}

static int
teardown (void **state)
{
  (void)state;
  call_hook_set (NULL);
  assert_int_equal (store_stop (here.store, 60), 0);
  for (unsigned i = 0; i < 3; i++)
    remove_mark (here.records[i]);
  store_close (here.store);
  catalog_free (&here.at_done);
  scratch_remove ();
  return 0;
}

/* What the catalogue on disk has of layer I. */
static const struct catalog_layer *
layer (unsigned i)
{
  catalog_free (&here.at_done);
  image_catalog (here.path, &here.at_done);
  const struct catalog_layer *l = here.at_done.layers;
  while (i-- > 0)
    l = l->next;
  return l;
}

static void
done (void *arg)
{
  atomic_fetch_add (&here.times, 1);
  if (arg != NULL)
    *(bool *)arg = layer (0)->broken_reason != NULL;
  sem_post (&here.told);
}

static void
tell (unsigned i, const char *why, void *arg)
{
  store_tell_broken (here.store, here.records[i], EIO, 1700000000, why, done,
                     arg);
}

static void
told_when_the_catalogue_says_so (void **state)
{
  bool on_disk = false;

  (void)state;
  assert_int_equal (store_start (here.store), 0);
  tell (0, "no space", &on_disk);
  sem_wait (&here.told);
  assert_true (on_disk);
  assert_string_equal (layer (0)->broken_reason, "no space");
  assert_int_equal (layer (0)->broken_errno, EIO);
  assert_int_equal (layer (0)->broken_time, 1700000000);
  assert_false (store_is_marked (here.records[0]));
  assert_int_equal (atomic_load (&here.times), 1);
}

/* At the start and at the end there is no thread. */
static void
told_without_the_thread (void **state)
{
  bool on_disk = false;

  (void)state;
  tell (0, "before", &on_disk);
  assert_int_equal (atomic_load (&here.times), 1);
  assert_true (on_disk);
  assert_int_equal (store_start (here.store), 0);
  assert_int_equal (store_stop (here.store, 60), 0);
  tell (1, "after", NULL);
  assert_int_equal (atomic_load (&here.times), 2);
  assert_string_equal (layer (1)->broken_reason, "after");
}

static void
stop_ends_when_all_is_told (void **state)
{
  (void)state;
  assert_int_equal (store_start (here.store), 0);
  for (unsigned i = 0; i < 3; i++)
    tell (i, "all", NULL);
  assert_int_equal (store_stop (here.store, 60), 0);
  assert_int_equal (atomic_load (&here.times), 3);
  for (unsigned i = 0; i < 3; i++)
    assert_non_null (layer (i)->broken_reason);
}

static enum call bad_call;

static struct call_verdict
one_fails (const struct call_event *event)
{
  return (struct call_verdict){ .error = event->call == bad_call ? EIO : 0 };
}

static void
mark_when_it_cannot_be_noted (void **state)
{
  static const enum call kinds[]
      = { CALL_OPEN, CALL_PWRITE, CALL_FSYNC, CALL_RENAME2 };

  (void)state;
  bad_call = CALL_RENAME2;
  call_hook_set (one_fails);
  for (unsigned i = 2; i < 4; i++) {
    bad_call = kinds[i];
    tell (i - 2, "full", NULL);
    assert_true (store_is_marked (here.records[i - 2]));
  }
  call_hook_set (NULL);
  assert_null (layer (0)->broken_reason);
  assert_int_equal (atomic_load (&here.times), 2);
  assert_false (store_is_marked (here.records[2]));
}

/* Nothing but the mark can be made; and not even that. */
static void
told_even_if_nothing_can_be_done (void **state)
{
  (void)state;
  bad_call = CALL_OPEN;
  call_hook_set (one_fails);
  tell (0, "nothing works", NULL);
  call_hook_set (NULL);
  assert_int_equal (atomic_load (&here.times), 1);
  assert_false (store_is_marked (here.records[0]));
  assert_int_equal (messages_with ("do not use snapshot 1 again"), 1);
}

static void
told_without_memory (void **state)
{
  (void)state;
  bad_call = CALL_MEMORY;
  call_hook_set (one_fails);
  tell (0, "no memory", NULL);
  call_hook_set (NULL);
  assert_int_equal (atomic_load (&here.times), 1);
}

static void
mark_goes_when_it_is_noted (void **state)
{
  (void)state;
  store_mark_broken (here.store, here.records[0]);
  store_mark_broken (here.store, here.records[0]);
  assert_true (store_is_marked (here.records[0]));
  assert_int_equal (messages_with ("/dev/shm/fssnap-"), 2);
  tell (0, "later", NULL);
  assert_false (store_is_marked (here.records[0]));
}

static void
mark_goes_with_the_snapshot (void **state)
{
  struct catalog_layer *record = here.records[2];
  struct catalog_layer copy = *record;

  (void)state;
  store_mark_broken (here.store, record);
  assert_int_equal (store_delete (here.store, record, false), 0);
  assert_int_equal (store_drop (here.store, record), 0);
  assert_true (store_is_marked (record));
  store_remove (here.store, record);
  here.records[2] = here.records[0];
  assert_false (store_is_marked (&copy));
}

/* --- a store that hangs -------------------------------------------------- */

static sem_t hangs, goes_on;

static struct call_verdict
rename_hangs (const struct call_event *event)
{
  if (event->call == CALL_RENAME2) {
    sem_post (&hangs);
    sem_wait (&goes_on);
  }
  return (struct call_verdict){ 0 };
}

static void
telling_a_store_that_hangs_waits_for_nothing (void **state)
{
  (void)state;
  sem_init (&hangs, 0, 0);
  sem_init (&goes_on, 0, 0);
  assert_int_equal (store_start (here.store), 0);
  call_hook_set (rename_hangs);
  tell (0, "first", NULL);
  sem_wait (&hangs);
  tell (1, "second", NULL);
  store_mark_broken (here.store, here.records[0]);
  store_mark_broken (here.store, here.records[1]);
  assert_int_equal (atomic_load (&here.times), 0);
  assert_int_equal (store_stop (here.store, 0), -1);
  call_hook_set (NULL);
  sem_post (&goes_on);
  assert_int_equal (store_stop (here.store, 60), 0);
  assert_int_equal (atomic_load (&here.times), 2);
  assert_string_equal (layer (0)->broken_reason, "first");
  assert_string_equal (layer (1)->broken_reason, "second");
  assert_false (store_is_marked (here.records[0]));
  assert_false (store_is_marked (here.records[1]));
}

static void *
tell_all (void *arg)
{
  const unsigned i = (unsigned)(uintptr_t)arg;

  for (unsigned n = 0; n < 20; n++)
    tell (i, "many", NULL);
  return NULL;
}

static void
many_tell_at_once (void **state)
{
  pthread_t threads[3];

  (void)state;
  assert_int_equal (store_start (here.store), 0);
  for (uintptr_t i = 0; i < 3; i++)
    pthread_create (&threads[i], NULL, tell_all, (void *)i);
  for (unsigned i = 0; i < 3; i++)
    pthread_join (threads[i], NULL);
  for (unsigned i = 0; i < 60; i++)
    sem_wait (&here.told);
  for (unsigned i = 0; i < 3; i++)
    assert_non_null (layer (i)->broken_reason);
}

#define TEST(name) cmocka_unit_test_setup_teardown (name, setup, teardown)

int
main (void)
{
  const struct CMUnitTest tests[] = {
    TEST (told_when_the_catalogue_says_so),
    TEST (told_without_the_thread),
    TEST (stop_ends_when_all_is_told),
    TEST (mark_when_it_cannot_be_noted),
    TEST (told_even_if_nothing_can_be_done),
    TEST (told_without_memory),
    TEST (mark_goes_when_it_is_noted),
    TEST (mark_goes_with_the_snapshot),
    TEST (telling_a_store_that_hangs_waits_for_nothing),
    TEST (many_tell_at_once),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
