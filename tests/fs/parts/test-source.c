/* SPDX-License-Identifier: BSD-3-Clause */
/* Sources: parts and kept pieces read as the whole does. */

#include "cmocka-all.h"
#include "source.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PIECE 65536
#define SIZE (40 * PIECE + 1234)

static unsigned char content[SIZE];
static char path[] = "/tmp/test-source.XXXXXX";

/* One that fails at will, and counts. */
struct fake {
  struct source source;
  size_t reads, closed;
  uint64_t bad; /* the byte that cannot be read; SIZE: there is none */
};

static int
read_fake (struct source *source, void *buffer, size_t count, uint64_t offset)
{
  struct fake *fake = (struct fake *)source;

  fake->reads++;
  assert_true (count > 0);
  assert_true (offset + count <= source->size);
  if (fake->bad >= offset && fake->bad < offset + count) {
    errno = EIO;
    return -1;
  }
  memcpy (buffer, content + offset, count);
  return 0;
}

static void
close_fake (struct source *source)
{
  ((struct fake *)source)->closed++;
}

static struct fake
new_fake (uint64_t size)
{
  return (struct fake){
    .source = { .size = size, .read = read_fake, .close = close_fake },
    .bad = SIZE,
  };
}

/* SOURCE has what is in content from BASE on. */
static void
check (struct source *source, size_t base, size_t offset, size_t count)
{
  static unsigned char buffer[SIZE + 1];

  buffer[count] = 0x77;
  assert_int_equal (source_read (source, buffer, count, offset), 0);
  assert_memory_equal (buffer, content + base + offset, count);
  assert_int_equal (buffer[count], 0x77);
}

static void
check_bounds (struct source *source)
{
  char c[2];

  assert_int_equal (source_read (source, c, 0, source->size), 0);
  errno = 0;
  assert_int_equal (source_read (source, c, 1, source->size), -1);
  assert_int_equal (errno, ERANGE);
  assert_int_equal (source_read (source, c, 0, source->size + 1), -1);
  assert_int_equal (source_read (source, c, 1, UINT64_MAX), -1);
  assert_int_equal (source_read (source, c, SIZE_MAX, 1), -1);
  assert_int_equal (errno, ERANGE);
}

static void
check_all (struct source *source, size_t base)
{
  static const size_t edges[]
      = { 0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE - 7 };
  const size_t n = sizeof edges / sizeof edges[0];

  for (size_t i = 0; i < n; i++)
    for (size_t j = 0; j < n; j++) {
      const size_t count
          = edges[j] < source->size ? edges[j] : (size_t)source->size;
      check (source, base, (size_t)source->size - count, count);
      if (edges[i] + count <= source->size)
        check (source, base, edges[i], count);
    }
  for (unsigned i = 0; i < 3000; i++) {
    const size_t offset = (size_t)random () % (size_t)source->size;
    const size_t most = (size_t)source->size - offset;
    check (source, base, offset, (size_t)random () % (most + 1) % (3 * PIECE));
  }
  check_bounds (source);
}

static void
test_file (void **state)
{
  (void)state;
  struct source *source = source_of_file (path);

  assert_non_null (source);
  assert_int_equal (source->size, SIZE);
  check_all (source, 0);
  assert_int_equal (truncate (path, 100), 0);
  char c;
  assert_int_equal (source_read (source, &c, 1, 100), -1);
  assert_int_equal (errno, EIO);
  source_close (source);
  assert_null (source_of_file ("/does/not/exist"));
  assert_int_equal (errno, ENOENT);
  source_close (NULL);
}

static void
test_cached (void **state)
{
  (void)state;
  static const uint64_t sizes[] = { 1, 511, PIECE - 1, PIECE, PIECE + 1, SIZE };

  for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
    struct fake fake = new_fake (sizes[i]);
    struct source *source = source_cached (&fake.source);
    assert_non_null (source);
    check_all (source, 0);
    source_close (source);
    assert_int_equal (fake.closed, 1);
  }
}

static void
test_cached_keeps (void **state)
{
  (void)state;
  struct fake fake = new_fake (SIZE);
  struct source *source = source_cached (&fake.source);

  for (size_t i = 0; i < 32; i++)
    check (source, 0, i * PIECE + 5, 10);
  assert_int_equal (fake.reads, 32);
  for (size_t i = 0; i < 32; i++)
    check (source, 0, i * PIECE + 77, 10);
  assert_int_equal (fake.reads, 32);
  check (source, 0, 32 * PIECE, 10); /* instead of piece 0 */
  check (source, 0, PIECE, 10);
  assert_int_equal (fake.reads, 33);
  check (source, 0, 0, 10);
  assert_int_equal (fake.reads, 34);
  source_close (source);
}

static void
test_cached_errors (void **state)
{
  (void)state;
  struct fake fake = new_fake (SIZE);
  struct source *source = source_cached (&fake.source);
  char buffer[100];

  fake.bad = PIECE + 3;
  check (source, 0, 0, 10);
  assert_int_equal (source_read (source, buffer, 100, PIECE - 50), -1);
  assert_int_equal (errno, EIO);
  assert_int_equal (source_read (source, buffer, 1, PIECE + 9), -1);
  check (source, 0, 0, PIECE);
  fake.bad = SIZE; /* what failed is not kept */
  check (source, 0, PIECE - 50, 100);
  source_close (source);
}

static void
test_part (void **state)
{
  (void)state;
  static const size_t offsets[] = { 0, 1, 512, PIECE, SIZE - 1 };
  struct fake fake = new_fake (SIZE);

  for (size_t i = 0; i < sizeof offsets / sizeof offsets[0]; i++)
    for (size_t size = 1; size <= SIZE - offsets[i]; size = size * 7 + 1) {
      struct source *part = source_part (&fake.source, offsets[i], size);
      assert_non_null (part);
      assert_int_equal (part->size, size);
      check_all (part, offsets[i]);
      source_close (part);
    }
  assert_int_equal (fake.closed, 0);
}

static void
test_part_of_nothing (void **state)
{
  (void)state;
  struct fake fake = new_fake (SIZE);
  struct source *part = source_part (&fake.source, SIZE, 0);

  check_bounds (part);
  source_close (part);
}

/* Spans of SOURCE, which has what is in content from BASE on. */
static void
check_spans (struct source *source, size_t base)
{
  static unsigned char buffer[6][PIECE];
  struct span spans[6];

  for (size_t i = 0; i < 6; i++)
    spans[i] = (struct span){ buffer[i], i == 3 ? 7 : PIECE,
                              i < 3 ? i * PIECE : (8 - i) * PIECE + 11 };
  memset (buffer, 0x77, sizeof buffer);
  assert_int_equal (source_read_spans (source, spans, 6), 0);
  for (size_t i = 0; i < 6; i++)
    assert_memory_equal (buffer[i], content + base + spans[i].offset,
                         spans[i].count);
  assert_int_equal (buffer[3][7], 0x77);
  assert_int_equal (source_read_spans (source, spans, 0), 0);
  spans[4].offset = source->size - PIECE + 1;
  errno = 0;
  assert_int_equal (source_read_spans (source, spans, 6), -1);
  assert_int_equal (errno, ERANGE);
  spans[4].offset = UINT64_MAX;
  assert_int_equal (source_read_spans (source, spans, 6), -1);
}

static void
test_spans (void **state)
{
  (void)state;
  struct fake fake = new_fake (SIZE);
  struct source *cached = source_cached (&fake.source);
  struct source *part = source_part (cached, 100, SIZE - 200);
  struct source *file = source_of_file (path);
  char buffer[100];
  const struct span span = { buffer, sizeof buffer, 50 };

  check_spans (cached, 0);
  check_spans (part, 100);
  check_spans (file, 0);
  fake.bad = 160;
  assert_int_equal (source_read_spans (part, &span, 1), -1);
  assert_int_equal (errno, EIO);
  source_close (part);
  source_close (cached);
  source_close (file);
}

static int
set_up (void **state)
{
  (void)state;
  for (size_t i = 0; i < SIZE; i++)
    content[i] = (unsigned char)random ();
  const int fd = mkstemp (path);
  if (fd == -1 || write (fd, content, SIZE) != SIZE)
    return -1;
  return close (fd);
}

static int
tear_down (void **state)
{
  (void)state;
  return unlink (path);
}

int
main (void)
{
  const struct CMUnitTest tests[] = {
    cmocka_unit_test (test_cached),
    cmocka_unit_test (test_cached_keeps),
    cmocka_unit_test (test_cached_errors),
    cmocka_unit_test (test_part),
    cmocka_unit_test (test_part_of_nothing),
    cmocka_unit_test (test_spans),
    cmocka_unit_test (test_file), /* which shortens it */
  };

  return cmocka_run_group_tests (tests, set_up, tear_down);
}
