/* SPDX-License-Identifier: BSD-3-Clause */
/* Swap space of Linux: what was swapped out is of no use to whoever reads the
 * view, so all but the header is free.  The header fills the first page, whose
 * size is that of the machine which made it: the signature at the page's end
 * tells.  While the machine hibernates, another one stands there, and then the
 * pages are the machine's memory, which it wants back.
 */

#include "reader.h"

#include <endian.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define PAGE_MIN 4096
#define PAGE_MAX 65536
#define SIGNATURE 10 /* bytes, at the end of the page */
#define BAD_PAGES 1536

/* In the first page, from FIELDS on; behind them is padding up to BAD_PAGES. */
#define FIELDS 1024
struct fields {
  uint32_t version, last_page, bad_count;
};

/* Those of the kernel, of uswsusp, of older kernels, and of TuxOnIce. */
static const struct {
  const char *bytes;
  size_t length;
} images[] = {
  { "S1SUSPEND", 9 },
  { "S2SUSPEND", 9 },
  { "ULSUSPEND", 9 },
  { "LINHIB", 6 },
  { "\xed\xc3\x02\xe9\x98\x56\xe5\x0c", 8 },
};

#define N_IMAGES (sizeof images / sizeof images[0])

/* Set *PAGE to the page's size if the signature is at the end of one that is
 * SIZE bytes.
 */
static int
look_for_signature (struct reading *reading, uint32_t size, uint32_t *page)
{
  char signature[SIGNATURE];

  if (size > reading->source->size)
    return 0;
  if (reading_get (reading, "the signature", signature, SIGNATURE,
                   size - SIGNATURE)
      == -1)
    return -1;
  if (memcmp (signature, "SWAP-SPACE", SIGNATURE) == 0)
    return refuse (reading, "it is of version 0");
  for (size_t i = 0; i < N_IMAGES; i++)
    if (memcmp (signature, images[i].bytes, images[i].length) == 0)
      return refuse (reading, "a hibernated system is in it");
  if (memcmp (signature, "SWAPSPACE2", SIGNATURE) != 0)
    return 0;
  if (*page != 0)
    return refuse (reading,
                   "it has signatures for pages of %" PRIu32 " and of %" PRIu32
                   " bytes",
                   *page, size);
  *page = size;
  return 0;
}

static int
check_fields (struct reading *reading, const struct fields *fields,
              uint32_t page)
{
  const uint32_t version = le32toh (fields->version);
  const uint32_t bad = le32toh (fields->bad_count);

  if (be32toh (fields->version) == 1)
    return refuse (reading, "its header is big-endian");
  if (version != 1)
    return refuse (reading, "its version is %" PRIu32 ", not 1", version);
  if (fields->last_page == 0)
    return refuse (reading, "it has no pages");
  reading->size = ((uint64_t)le32toh (fields->last_page) + 1) * page;
  if (reading->size > reading->source->size)
    return refuse (reading,
                   "its header says %" PRIu64 " bytes, but there are %" PRIu64,
                   reading->size, reading->source->size);
  if (bad > (page - SIGNATURE - BAD_PAGES) / sizeof (uint32_t))
    return refuse (reading, "%" PRIu32 " bad pages do not fit its header", bad);
  return 0;
}

static int
compare (const void *a, const void *b)
{
  uint32_t x, y;

  memcpy (&x, a, sizeof x);
  memcpy (&y, b, sizeof y);
  return (x > y) - (x < y);
}

/* All pages but the first and the bad ones. */
static int
free_pages (struct reading *reading, uint32_t page, const uint32_t *bad,
            size_t bad_count)
{
  uint64_t next = 1;

  for (size_t i = 0; i < bad_count; i++) {
    const uint64_t number = bad[i];
    if (number == 0 || number >= reading->size / page)
      return refuse (reading, "bad page %" PRIu64 " is not one of its pages",
                     number);
    if (number >= next
        && reading_free (reading, next * page, (number - next) * page) == -1)
      return -1;
    next = number + 1;
  }
  return reading_free (reading, next * page, reading->size - next * page);
}

static int
read_swap (struct reading *reading)
{
  struct fields fields;
  uint32_t bad[PAGE_MAX / sizeof (uint32_t)];
  uint32_t page = 0;

  for (uint32_t size = PAGE_MIN; size <= PAGE_MAX; size *= 2)
    if (look_for_signature (reading, size, &page) == -1)
      return -1;
  if (page == 0)
    return refuse (reading, "it has no signature");
  if (reading_get (reading, "the header", &fields, sizeof fields, FIELDS) == -1
      || check_fields (reading, &fields, page) == -1)
    return -1;
  const size_t count = le32toh (fields.bad_count);
  if (reading_get (reading, "the list of bad pages", bad, count * sizeof bad[0],
                   BAD_PAGES)
      == -1)
    return -1;
  for (size_t i = 0; i < count; i++)
    bad[i] = le32toh (bad[i]);
  qsort (bad, count, sizeof bad[0], compare);
  return free_pages (reading, page, bad, count);
}

const struct reader reader_swap = {
  .name = "swap",
  .types = (const char *const[]){ "swap", "swsuspend", NULL },
  .read = read_swap,
};
