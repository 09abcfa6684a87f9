/* SPDX-License-Identifier: BSD-3-Clause */

#include "cmocka-all.h"
#include "bitmap.h"

#include <errno.h>
#include <pthread.h>

static void
set_bit (struct bitmap *bitmap, uint64_t bit)
{
  bitmap_set_group (bitmap, bit / BITMAP_GROUP,
                    bitmap_mask (bit % BITMAP_GROUP, 1));
}

static void
new_bits_are_clear (void **state)
{
  struct bitmap bitmap;

  (void)state;
  assert_int_equal (bitmap_init (&bitmap, 1000), 0);
  for (uint64_t bit = 0; bit < 1000; bit++)
    assert_false (bitmap_test (&bitmap, bit));
  bitmap_free (&bitmap);
}

static void
setting_a_bit_sets_no_other (void **state)
{
  struct bitmap bitmap;

  (void)state;
  for (uint64_t set = 0; set < 130; set++) {
    assert_int_equal (bitmap_init (&bitmap, 130), 0);
    set_bit (&bitmap, set);
    for (uint64_t bit = 0; bit < 130; bit++)
      assert_int_equal (bitmap_test (&bitmap, bit), bit == set);
    bitmap_free (&bitmap);
  }
}

static void
mask_has_the_bits_asked_for (void **state)
{
  (void)state;
  for (unsigned first = 0; first < 64; first++)
    for (unsigned count = 1; count <= 64 - first; count++) {
      const uint64_t mask = bitmap_mask (first, count);
      for (unsigned bit = 0; bit < 64; bit++)
        assert_int_equal (mask >> bit & 1, bit >= first && bit < first + count);
    }
}

static void
first_run_ends_at_the_first_zero (void **state)
{
  (void)state;
  assert_int_equal (bitmap_first_run (1), 1);
  assert_int_equal (bitmap_first_run (0xf0), 4);
  assert_int_equal (bitmap_first_run (0xf7), 3);
  assert_int_equal (bitmap_first_run (UINT64_C (1) << 63), 1);
  assert_int_equal (bitmap_first_run (UINT64_MAX << 1), 63);
  assert_int_equal (bitmap_first_run (UINT64_MAX), 64);
}

/* What bitmap_run says, found bit by bit. */
static uint64_t
slow_run (const struct bitmap *bitmap, uint64_t first, uint64_t count)
{
  uint64_t n = 1;

  while (n < count
         && bitmap_test (bitmap, first + n) == bitmap_test (bitmap, first))
    n++;
  return n;
}

static void
run_is_found_across_words (void **state)
{
  enum { BITS = 64 * 5 + 7 };
  struct bitmap bitmap;
  uint64_t random = 1;
  bool set;

  (void)state;
  assert_int_equal (bitmap_init (&bitmap, BITS), 0);
  for (uint64_t bit = 0; bit < BITS; bit += 1 + (random >> 60) * 9) {
    const uint64_t end = bit + (random >> 33) % 100;
    for (; bit < end && bit < BITS; bit++)
      set_bit (&bitmap, bit);
    random = random * UINT64_C (6364136223846793005) + 1442695040888963407;
  }
  for (uint64_t first = 0; first < BITS; first++)
    for (uint64_t count = 1; first + count <= BITS; count++) {
      assert_int_equal (bitmap_run (&bitmap, first, count, &set),
                        slow_run (&bitmap, first, count));
      assert_int_equal (set, bitmap_test (&bitmap, first));
    }
  bitmap_free (&bitmap);
}

static void
run_of_all_bits (void **state)
{
  struct bitmap bitmap;
  bool set;

  (void)state;
  assert_int_equal (bitmap_init (&bitmap, 256), 0);
  assert_int_equal (bitmap_run (&bitmap, 0, 256, &set), 256);
  assert_false (set);
  for (uint64_t group = 0; group < 4; group++)
    bitmap_set_group (&bitmap, group, UINT64_MAX);
  assert_int_equal (bitmap_run (&bitmap, 0, 256, &set), 256);
  assert_true (set);
  assert_int_equal (bitmap_run (&bitmap, 255, 1, &set), 1);
  assert_true (set);
  bitmap_free (&bitmap);
}

static void
bitmap_of_64_tib_takes_memory_where_set_only (void **state)
{
  const uint64_t bits = (UINT64_C (64) << 40) / 4096;
  struct bitmap bitmap;
  bool set;

  (void)state;
  assert_int_equal (bitmap_init (&bitmap, bits), 0);
  set_bit (&bitmap, bits - 1);
  assert_true (bitmap_test (&bitmap, bits - 1));
  assert_int_equal (bitmap_run (&bitmap, bits - 65, 65, &set), 64);
  assert_false (set);
  bitmap_free (&bitmap);
}

static void
bitmap_that_cannot_be_is_refused (void **state)
{
  struct bitmap bitmap;

  (void)state;
  errno = 0;
  assert_int_equal (bitmap_init (&bitmap, UINT64_MAX), -1);
  assert_int_equal (errno, ENOMEM);
}

static void
free_of_nothing_is_allowed (void **state)
{
  struct bitmap bitmap = { 0 };

  (void)state;
  bitmap_free (&bitmap);
  assert_int_equal (bitmap_init (&bitmap, 1), 0);
  bitmap_free (&bitmap);
  bitmap_free (&bitmap);
}

#define SETTERS 4
#define SHARED_BITS (64 * 200)

struct setter {
  struct bitmap *bitmap;
  unsigned remainder;
};

/* Every SETTERS-th bit, so that all threads meet in every word. */
static void *
set_own_bits (void *arg)
{
  const struct setter *setter = arg;

  for (uint64_t bit = setter->remainder; bit < SHARED_BITS; bit += SETTERS)
    set_bit (setter->bitmap, bit);
  return NULL;
}

static void
no_bit_is_lost_between_threads (void **state)
{
  pthread_t threads[SETTERS];
  struct setter setters[SETTERS];
  struct bitmap bitmap;
  bool set;

  (void)state;
  assert_int_equal (bitmap_init (&bitmap, SHARED_BITS), 0);
  for (unsigned i = 0; i < SETTERS; i++) {
    setters[i] = (struct setter){ &bitmap, i };
    pthread_create (&threads[i], NULL, set_own_bits, &setters[i]);
  }
  for (unsigned i = 0; i < SETTERS; i++)
    pthread_join (threads[i], NULL);
  assert_int_equal (bitmap_run (&bitmap, 0, SHARED_BITS, &set), SHARED_BITS);
  assert_true (set);
  bitmap_free (&bitmap);
}

static void
clearing_bits_clears_no_others (void **state)
{
  struct bitmap bitmap;

  (void)state;
  assert_int_equal (bitmap_init (&bitmap, 130), 0);
  for (unsigned group = 0; group < 2; group++)
    bitmap_set_group (&bitmap, group, UINT64_MAX);
  bitmap_clear_group (&bitmap, 1, 0xf0);
  for (uint64_t bit = 0; bit < 128; bit++)
    assert_int_equal (bitmap_test (&bitmap, bit), bit < 68 || bit >= 72);
  bitmap_free (&bitmap);
}

static void
next_group_finds_each_that_has_a_bit (void **state)
{
  static const uint64_t groups[] = { 0, 1, 511, 512, 40000, 64 * 512 * 3 };
  const uint64_t last = groups[5];
  struct bitmap bitmap;
  uint64_t group = 0;

  (void)state;
  assert_int_equal (bitmap_init (&bitmap, (last + 1) * 64), 0);
  assert_true (bitmap_next_group (&bitmap, 0) == UINT64_MAX);
  for (unsigned i = 0; i < 6; i++)
    bitmap_set_group (&bitmap, groups[i], 1);
  for (unsigned i = 0; i < 6; i++, group++) {
    group = bitmap_next_group (&bitmap, group);
    assert_int_equal (group, groups[i]);
  }
  assert_true (bitmap_next_group (&bitmap, group) == UINT64_MAX);
  assert_true (bitmap_next_group (&bitmap, UINT64_MAX) == UINT64_MAX);
  bitmap_free (&bitmap);
}

static void
next_group_passes_over_what_was_cleared (void **state)
{
  struct bitmap bitmap;

  (void)state;
  assert_int_equal (bitmap_init (&bitmap, 1000), 0);
  bitmap_set_group (&bitmap, 3, 6);
  bitmap_set_group (&bitmap, 7, 1);
  bitmap_clear_group (&bitmap, 3, 2);
  assert_int_equal (bitmap_next_group (&bitmap, 0), 3);
  bitmap_clear_group (&bitmap, 3, 4);
  assert_int_equal (bitmap_next_group (&bitmap, 0), 7);
  bitmap_free (&bitmap);
}

static void
weight_is_the_number_of_bits (void **state)
{
  struct bitmap bitmap;

  (void)state;
  assert_int_equal (bitmap_init (&bitmap, 1 << 20), 0);
  assert_int_equal (bitmap_weight (&bitmap), 0);
  for (uint64_t bit = 0; bit < 1 << 20; bit += 1000)
    set_bit (&bitmap, bit);
  assert_int_equal (bitmap_weight (&bitmap), 1049);
  set_bit (&bitmap, 0);
  assert_int_equal (bitmap_weight (&bitmap), 1049);
  bitmap_clear_group (&bitmap, 0, 1);
  assert_int_equal (bitmap_weight (&bitmap), 1048);
  bitmap_free (&bitmap);
}

/* A few bits of 64 TiB in chunks of 512 bytes: neither looked for word by
 * word, which would take minutes, nor by touching every page.
 */
static void
few_bits_of_very_many_are_found (void **state)
{
  const uint64_t bits = UINT64_C (1) << 37;
  struct bitmap bitmap;

  (void)state;
  assert_int_equal (bitmap_init (&bitmap, bits), 0);
  set_bit (&bitmap, bits / 3);
  set_bit (&bitmap, bits - 1);
  assert_int_equal (bitmap_next_group (&bitmap, 0), bits / 3 / 64);
  assert_int_equal (bitmap_next_group (&bitmap, bits / 3 / 64 + 1),
                    (bits - 1) / 64);
  assert_int_equal (bitmap_weight (&bitmap), 2);
  bitmap_free (&bitmap);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (new_bits_are_clear),
    cmocka_unit_test (setting_a_bit_sets_no_other),
    cmocka_unit_test (mask_has_the_bits_asked_for),
    cmocka_unit_test (first_run_ends_at_the_first_zero),
    cmocka_unit_test (run_is_found_across_words),
    cmocka_unit_test (run_of_all_bits),
    cmocka_unit_test (bitmap_of_64_tib_takes_memory_where_set_only),
    cmocka_unit_test (bitmap_that_cannot_be_is_refused),
    cmocka_unit_test (free_of_nothing_is_allowed),
    cmocka_unit_test (no_bit_is_lost_between_threads),
    cmocka_unit_test (clearing_bits_clears_no_others),
    cmocka_unit_test (next_group_finds_each_that_has_a_bit),
    cmocka_unit_test (next_group_passes_over_what_was_cleared),
    cmocka_unit_test (weight_is_the_number_of_bits),
    cmocka_unit_test (few_bits_of_very_many_are_found),
  };

  return cmocka_run_group_tests (tests, NULL, NULL);
}
