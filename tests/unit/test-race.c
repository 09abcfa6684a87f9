/* SPDX-License-Identifier: BSD-3-Clause */
/* What a writer sees of a chunk that moves from one layer to another just
 * then.  Has a resolve.c of its own, to be able to stop between two looks.
 */
#include "cmocka-all.h"
#include "bitmap.h"

static bool hooked_test (const struct bitmap *bitmap, uint64_t bit);
#define bitmap_test hooked_test
#include "../../src/resolve.c"
#undef bitmap_test

#include "call-hook.h"
#include "fake-engine.h"
#include "fixture.h"
#include "nbdkit-stub.h"
#include "scoped.h"
#include <errno.h>
#include <sched.h>

#define CHUNK 4096
static struct fixture here;
static bool armed; /* at the first look at one of the two */
static struct snapshot *m, *d2;

static bool
hooked_test (const struct bitmap *bitmap, uint64_t bit)
{
  const bool set = bitmap_test (bitmap, bit);

  if (!armed || (bitmap != &m->hastrans && bitmap != &d2->hastrans))
    return set;
  armed = false;
  fixture_reclaim (&here); /* D2 is merged into M, all but chunk 9 */
  while (!bitmap_test (&m->hastrans, 5))
    sched_yield ();
  /* As if some other snapshot had been deleted just before. */
  atomic_fetch_add (&here.set->deletions, 1);
  while (bitmap_test (&d2->hastrans, 5)) {
    bell_ring (&here.set->bell);
    sched_yield ();
  }
  return set;
}

static int fd_m = -1;
static uint64_t bad;
static int64_t
fail_one (const struct engine_request *request, size_t length, unsigned index)
{
  (void)length;
  (void)index;
  return request->fd == fd_m && request->offset <= bad
                 && bad < request->offset + length
             ? -ENOSPC
             : FAKE_WRITE;
}

static void
write_sees_a_chunk_that_moves_to_an_older_layer (void **state)
{
  (void)state;
  fake_reset (fail_one);
  here = (struct fixture){ .engine = &engine_fake };
  fixture_open (&here);
  struct snapshot *o = fixture_freeze (&here);
  m = fixture_freeze (&here);
  assert_int_equal (fixture_write (&here, 0, CHUNK, 7), 0);
  fixture_drain (m);
  d2 = fixture_freeze (&here);
  assert_int_equal (fixture_write (&here, 5 * CHUNK, CHUNK, 7), 0);
  assert_int_equal (fixture_write (&here, 9 * CHUNK, CHUNK, 7), 0);
  fixture_drain (d2);
  backfile_locate (m->backfile, 9 * CHUNK, &fd_m, &bad);
  fixture_delete (&here, m);
  fixture_delete (&here, d2);
  assert_ptr_equal (here.set->target, o);
  assert_frozen (&here, o);
  armed = true;
  assert_int_equal (fixture_write (&here, 5 * CHUNK, CHUNK, 8), 0);
  assert_false (armed);
  assert_reads (&here, o, here.old, 5 * CHUNK, CHUNK);
  fixture_close (&here);
}

int
main (void)
{
  const struct CMUnitTest tests[]
      = { cmocka_unit_test (write_sees_a_chunk_that_moves_to_an_older_layer) };
  return cmocka_run_group_tests (tests, NULL, NULL);
}
