/* SPDX-License-Identifier: BSD-3-Clause */
/* A bitmap that many threads read and change without a lock.
 *
 * The bits of one word (BITMAP_GROUP of them) are changed together by one
 * atomic operation.  Memory is taken from the kernel when a page is first
 * written, so that a bitmap for 64 TiB costs nothing to make; which pages
 * were is kept too, so that looking for the few bits that are set in it
 * costs little.
 */

#ifndef FSSNAP_BITMAP_H
#define FSSNAP_BITMAP_H

#include <assert.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bits in a word. */
#define BITMAP_GROUP 64

/* Words whose first bit set is noted together: a page of them. */
#define BITMAP_PAGE_WORDS 512

struct bitmap {
  _Atomic uint64_t *words; /* set at creation; the words are atomic */
  _Atomic uint64_t *used;  /* a bit for each page of words that ever had a
                              bit; likewise */
  uint64_t bits;           /* set at creation */
  size_t mapped;           /* bytes of WORDS; set at creation */
};

/* Make a bitmap of BITS clear bits.  0, or -1 with errno (ENOMEM). */
int bitmap_init (struct bitmap *bitmap, uint64_t bits);

/* Also right for a bitmap that is all zeros or was freed before. */
void bitmap_free (struct bitmap *bitmap);

/* COUNT ones (1 to 64) from bit FIRST (0 to 63) of a word. */
static inline uint64_t
bitmap_mask (unsigned first, unsigned count)
{
  assert (count > 0 && first + count <= BITMAP_GROUP);
  return (UINT64_MAX >> (BITMAP_GROUP - count)) << first;
}

/* How many ones follow each other from the lowest one of MASK (not 0) on. */
static inline unsigned
bitmap_first_run (uint64_t mask)
{
  const uint64_t after = ~(mask >> __builtin_ctzll (mask));

  return after == 0 ? BITMAP_GROUP : (unsigned)__builtin_ctzll (after);
}

/* The word that holds bits GROUP * 64 to GROUP * 64 + 63.  Acquire: what
 * was done before a bit was set is seen by who sees the bit set.
 */
static inline uint64_t
bitmap_group (const struct bitmap *bitmap, uint64_t group)
{
  return atomic_load_explicit (&bitmap->words[group], memory_order_acquire);
}

/* Set the bits of MASK in the word GROUP.  Sequentially consistent: pairs
 * with the fence of the second look in view.c.
 */
static inline void
bitmap_set_group (struct bitmap *bitmap, uint64_t group, uint64_t mask)
{
  const uint64_t page = group / BITMAP_PAGE_WORDS;
  _Atomic uint64_t *used = &bitmap->used[page / 64];
  const uint64_t bit = UINT64_C (1) << page % 64;

  if (!(atomic_load_explicit (used, memory_order_relaxed) & bit))
    atomic_fetch_or_explicit (used, bit, memory_order_relaxed);
  atomic_fetch_or_explicit (&bitmap->words[group], mask, memory_order_seq_cst);
}

/* Clear them.  Sequentially consistent. */
static inline void
bitmap_clear_group (struct bitmap *bitmap, uint64_t group, uint64_t mask)
{
  atomic_fetch_and_explicit (&bitmap->words[group], ~mask,
                             memory_order_seq_cst);
}

/* The first word from GROUP on that has a bit, or UINT64_MAX.  Sees what
 * was set by who had finished before.
 */
uint64_t bitmap_next_group (const struct bitmap *bitmap, uint64_t group);

/* How many bits are set. */
uint64_t bitmap_weight (const struct bitmap *bitmap);

static inline bool
bitmap_test (const struct bitmap *bitmap, uint64_t bit)
{
  return bitmap_group (bitmap, bit / BITMAP_GROUP) >> (bit % BITMAP_GROUP) & 1;
}

/* How many bits from FIRST on, at most COUNT (at least 1), are as FIRST is;
 * *SET says which.  FIRST + COUNT is at most the bitmap's size.
 */
uint64_t bitmap_run (const struct bitmap *bitmap, uint64_t first,
                     uint64_t count, bool *set);

#endif
