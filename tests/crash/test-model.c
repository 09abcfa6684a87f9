/* SPDX-License-Identifier: BSD-3-Clause */
/* A model that calls everything right would find nothing: what it must call
 * wrong.
 */

#include "model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SIZE 4096

struct world {
  struct model *model;
  uint8_t origin[SIZE]; /* 1 everywhere at first */
  uint8_t two[SIZE], three[SIZE], zeros[SIZE];
};

static int
set_up (void **state)
{
  struct world *w = calloc (1, sizeof *w);

  if (w == NULL)
    return -1;
  memset (w->origin, 1, SIZE);
  memset (w->two, 2, SIZE);
  memset (w->three, 3, SIZE);
  w->model = model_create (w->origin, SIZE);
  *state = w;
  return 0;
}

static int
tear_down (void **state)
{
  struct world *w = *state;

  model_free (w->model);
  free (w);
  return 0;
}

static void
assert_verdict (char *message, bool right, const char *file, int line)
{
  const bool good = message == NULL;

  if (good != right) {
    print_error ("%s\n", good ? "not called wrong" : message);
    _fail (file, line);
  }
  free (message);
}

#define right(call) assert_verdict (call, true, __FILE__, __LINE__)
#define is_wrong(call) assert_verdict (call, false, __FILE__, __LINE__)

/* The origin was written while the snapshot was taken; ENDS: and that was
 * answered.
 */
static struct frozen *
freeze_during (struct world *w, uint64_t offset, uint64_t length)
{
  struct change *change = model_begin (w->model, offset, length, w->two);
  struct frozen *frozen = frozen_begin (w->model);

  frozen_end (frozen);
  memcpy (w->origin + offset, w->two, length);
  model_end (w->model, change, w->two);
  return frozen;
}

static void
test_origin_byte (void **state)
{
  struct world *w = *state;

  right (model_check (w->model, w->origin, 0, SIZE));
  w->origin[100] = 2;
  is_wrong (model_check (w->model, w->origin, 0, SIZE));
  is_wrong (model_check (w->model, w->origin + 100, 100, 1));
  right (model_check (w->model, w->origin + 101, 101, SIZE - 101));
}

static void
test_origin_settled (void **state)
{
  struct world *w = *state;

  model_begin (w->model, 512, 1024, w->two);
  model_begin (w->model, 2048, 512, NULL);
  memset (w->origin + 512, 2, 700);
  memset (w->origin + 2048, 0, 3);
  right (model_settle (w->model, w->origin));
  right (model_check (w->model, w->origin, 0, SIZE));
  w->origin[512] = 1;
  is_wrong (model_settle (w->model, w->origin));
}

static void
test_origin_other_byte_settled (void **state)
{
  struct world *w = *state;

  model_begin (w->model, 512, 1024, w->two);
  w->origin[511] = 2;
  is_wrong (model_settle (w->model, w->origin));
}

static void
test_origin_neither_byte_settled (void **state)
{
  struct world *w = *state;

  model_begin (w->model, 512, 1024, w->two);
  w->origin[600] = 3;
  is_wrong (model_settle (w->model, w->origin));
}

static void
test_frozen_byte (void **state)
{
  struct world *w = *state;
  struct frozen *frozen = frozen_begin (w->model);
  uint8_t is[SIZE];

  frozen_end (frozen);
  memcpy (is, w->origin, SIZE);
  model_end (w->model, model_begin (w->model, 0, SIZE, w->two), w->two);
  right (frozen_check (frozen, is, 0, SIZE));
  is_wrong (frozen_check (frozen, w->two, 0, SIZE));
  is_wrong (frozen_check (frozen, w->zeros, 7, 1));
  is[SIZE - 1] = 2;
  is_wrong (frozen_check (frozen, is, 0, SIZE));
  frozen_free (frozen);
}

static void
test_change_is_in_or_not (void **state)
{
  struct world *w = *state;
  struct frozen *first = freeze_during (w, 0, 1000);
  struct frozen *second = freeze_during (w, 2000, 1000);
  uint8_t ones[SIZE];

  memset (ones, 1, SIZE);
  right (frozen_check (first, w->two, 0, 1000));
  right (frozen_check (second, ones, 2000, 1000));
  frozen_free (first);
  frozen_free (second);
}

static void
test_change_stays_in (void **state)
{
  struct world *w = *state;
  struct frozen *frozen = freeze_during (w, 0, 1000);

  right (frozen_check (frozen, w->two, 500, 1));
  right (frozen_check (frozen, w->two, 0, 1000));
  is_wrong (frozen_check (frozen, w->three, 0, 1));
  frozen_free (frozen);
}

static void
test_change_stays_out (void **state)
{
  struct world *w = *state;
  struct frozen *frozen = freeze_during (w, 0, 1000);
  const uint8_t one = 1;

  right (frozen_check (frozen, &one, 500, 1));
  is_wrong (frozen_check (frozen, w->two, 0, 1000));
  frozen_free (frozen);
}

static void
test_half_a_change (void **state)
{
  struct world *w = *state;
  struct frozen *frozen = freeze_during (w, 0, 1000);
  uint8_t is[1000];

  memset (is, 1, 500);
  memset (is + 500, 2, 500);
  is_wrong (frozen_check (frozen, is, 0, 1000));
  frozen_free (frozen);
}

static void
test_refused_change_is_out (void **state)
{
  struct world *w = *state;
  struct change *change = model_begin (w->model, 0, 1000, w->two);
  struct frozen *frozen = frozen_begin (w->model);

  frozen_end (frozen);
  model_refused (w->model, change);
  is_wrong (frozen_check (frozen, w->two, 0, 1000));
  right (frozen_check (frozen, w->origin, 0, 1000));
  right (model_check (w->model, w->origin, 0, SIZE));
  frozen_free (frozen);
}

static void
test_changes_that_meet (void **state)
{
  struct world *w = *state;
  struct frozen *frozen = frozen_begin (w->model);
  uint8_t is[3] = { 1, 2, 3 };

  model_end (w->model, model_begin (w->model, 0, 1000, w->two), w->two);
  model_end (w->model, model_begin (w->model, 500, 1000, w->three), w->three);
  frozen_end (frozen);
  right (frozen_check (frozen, is, 600, 3));
  right (frozen_check (frozen, is, 600, 3));
  is_wrong (frozen_check (frozen, w->two, 600, 3));
  is_wrong (frozen_check (frozen, w->zeros, 700, 1));
  is_wrong (frozen_check (frozen, w->three, 499, 1));
  frozen_free (frozen);
}

/* What was read once stays so, also where it was as before. */
static void
test_bytes_as_before_stay (void **state)
{
  struct world *w = *state;
  struct frozen *frozen = frozen_begin (w->model);
  uint8_t ones[SIZE];

  memset (ones, 1, SIZE);
  model_end (w->model, model_begin (w->model, 0, 1000, w->two), w->two);
  model_end (w->model, model_begin (w->model, 500, 1000, w->three), w->three);
  frozen_end (frozen);
  right (frozen_check (frozen, ones, 600, 100));
  is_wrong (frozen_check (frozen, w->two, 650, 1));
  right (frozen_check (frozen, w->two, 700, 1));
  frozen_free (frozen);
}

static void
test_no_such_instant (void **state)
{
  struct world *w = *state;
  struct frozen *frozen = frozen_begin (w->model);
  const uint8_t one = 1;

  model_end (w->model, model_begin (w->model, 0, 100, w->two), w->two);
  model_end (w->model, model_begin (w->model, 200, 100, w->two), w->two);
  frozen_end (frozen);
  right (frozen_check (frozen, w->two, 200, 100));
  is_wrong (frozen_check (frozen, &one, 0, 1));
  frozen_free (frozen);
}

static void
test_free_range (void **state)
{
  struct world *w = *state;
  struct frozen *frozen = frozen_begin (w->model);

  frozen_end (frozen);
  frozen_set_free (frozen, 1024, 1024);
  right (frozen_check (frozen, w->zeros, 1024, 512));
  right (frozen_check (frozen, w->origin, 1536, 512));
  is_wrong (frozen_check (frozen, w->origin, 1024, 512));
  is_wrong (frozen_check (frozen, w->zeros, 1536, 512));
  is_wrong (frozen_check (frozen, w->zeros, 2048, 1));
  frozen_free (frozen);
}

static void
test_trim (void **state)
{
  struct world *w = *state;
  struct change *change = model_begin (w->model, 0, 1000, NULL);
  struct frozen *frozen = frozen_begin (w->model);
  uint8_t is[1000] = { 0 };

  frozen_end (frozen);
  memset (is + 500, 1, 500);
  model_end (w->model, change, is);
  right (model_check (w->model, is, 0, 1000));
  right (frozen_check (frozen, w->origin, 0, 100));
  right (frozen_check (frozen, w->zeros, 100, 100));
  is_wrong (frozen_check (frozen, w->zeros, 0, 100));
  is_wrong (frozen_check (frozen, w->two, 200, 1));
  frozen_free (frozen);
}

int
main (void)
{
#define TEST(name) cmocka_unit_test_setup_teardown (name, set_up, tear_down)
  const struct CMUnitTest tests[] = {
    TEST (test_origin_byte),
    TEST (test_origin_settled),
    TEST (test_origin_other_byte_settled),
    TEST (test_origin_neither_byte_settled),
    TEST (test_frozen_byte),
    TEST (test_change_is_in_or_not),
    TEST (test_change_stays_in),
    TEST (test_change_stays_out),
    TEST (test_half_a_change),
    TEST (test_refused_change_is_out),
    TEST (test_changes_that_meet),
    TEST (test_bytes_as_before_stay),
    TEST (test_no_such_instant),
    TEST (test_free_range),
    TEST (test_trim),
  };
  return cmocka_run_group_tests_name ("model", tests, NULL, NULL);
}
