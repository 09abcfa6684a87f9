/* SPDX-License-Identifier: BSD-3-Clause */
/* Damaged partition tables.
 *
 *   fuzz-parts IMAGE SECONDS
 *
 * A few bytes are changed where tables are: in the first 20 KiB, the last 17
 * KiB, and the first sector of each MiB (logical partitions).  For half of the
 * GPTs the checksums are made right again.  A table that was changed may
 * describe another layout, so what is free may differ.  But the search must
 * come to an end, touch no memory that is not its own (build with a sanitizer),
 * and what it tells must lie within the partition that it was found in, in
 * order, and partitions must not overlap.  $FSSNAP_SEED repeats a run.
 */

#include "candidates.h"

#include <endian.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define HEAD (UINT64_C (20) << 10)
#define TAIL (UINT64_C (17) << 10)
#define CHANGES_MAX 6
#define PATIENCE 20 /* seconds a round may take */

static struct source *image;
static uint8_t *original, *data;
static uint64_t random_state, round_number, end_of_last, told;
static struct finding current;

static uint64_t
random_below (uint64_t n)
{
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return random_state % n;
}

__attribute__ ((noreturn)) static void
fail (const char *what)
{
  printf ("round %" PRIu64 ": %s\n", round_number, what);
  exit (1);
}

static int
read_data (struct source *source, void *buffer, size_t count, uint64_t offset)
{
  (void)source;
  memcpy (buffer, data + offset, count);
  return 0;
}

static void
found (void *arg, const struct finding *finding)
{
  (void)arg;
  if (finding->offset > image->size
      || finding->size > image->size - finding->offset)
    fail ("something reaches over the end of the disk");
  if (finding->offset < end_of_last)
    fail ("two things overlap");
  if (finding->why != NULL && finding->free != 0)
    fail ("something is kept, and free");
  current = *finding;
  end_of_last = finding->offset + finding->size;
}

static void
is_free (void *arg, const struct extent *extents, size_t count)
{
  uint64_t at = current.offset;

  (void)arg;
  if (current.why != NULL && count > 0)
    fail ("something is kept, and free");
  for (size_t i = 0; i < count; i++) {
    if (extents[i].offset < at || extents[i].length == 0
        || extents[i].length > end_of_last
        || extents[i].offset > end_of_last - extents[i].length)
      fail ("what is free is not within what was found");
    at = extents[i].offset + extents[i].length;
    told++;
  }
}

static uint32_t
crc (const uint8_t *bytes, size_t count)
{
  uint32_t value = UINT32_MAX;

  for (size_t i = 0; i < count; i++) {
    value ^= bytes[i];
    for (int bit = 0; bit < 8; bit++)
      value = value >> 1 ^ ((value & 1) != 0 ? UINT32_C (0xedb88320) : 0);
  }
  return ~value;
}

static void
put (uint8_t *at, uint32_t value)
{
  value = htole32 (value);
  memcpy (at, &value, sizeof value);
}

/* The header there, of entries of 16 KiB. */
static void
sum (uint64_t header, uint64_t entries)
{
  if (memcmp (data + header, "EFI PART", 8) != 0)
    return;
  put (data + header + 88, crc (data + entries, 16384));
  put (data + header + 16, 0);
  put (data + header + 16, crc (data + header, 92));
}

/* Undo all changes. */
static void
restore (void)
{
  const uint64_t mib = UINT64_C (1) << 20, size = image->size;

  memcpy (data, original, HEAD);
  memcpy (data + size - TAIL, original + size - TAIL, TAIL);
  for (uint64_t at = mib; at < size; at += mib)
    memcpy (data + at, original + at, 1024);
}

static void
change (void)
{
  static const uint8_t values[] = { 0, 1, 5, 0x7f, 0x82, 0xee, 0xff };
  const uint64_t mib = UINT64_C (1) << 20;

  for (uint64_t n = 1 + random_below (CHANGES_MAX); n > 0; n--) {
    uint64_t at;
    switch (random_below (5)) {
    case 0: /* an MBR's or logical partitions' entries */
      at = random_below (image->size / mib) * mib + 0x1be + random_below (66);
      break;
    case 1:
      at = 0x1be + random_below (66);
      break;
    case 2: /* the header, the first entries */
      at = 512 + random_below (92 + 512);
      break;
    case 3:
      at = random_below (HEAD);
      break;
    default:
      at = image->size - 1 - random_below (TAIL);
      break;
    }
    data[at] = random_below (2) == 0
                   ? values[random_below (sizeof values)]
                   : (uint8_t)(data[at] ^ 1U << random_below (8));
  }
  if (random_below (2) == 0) {
    sum (512, 1024);
    sum (image->size - 512, image->size - 512 - 16384);
  }
}

int
main (int argc, char **argv)
{
  const char *seed = getenv ("FSSNAP_SEED");
  const struct teller teller = { .found = found, .free = is_free };
  struct source changed = { .read = read_data };

  image = argc == 3 ? source_of_file (argv[1]) : NULL;
  if (image == NULL || image->size < 2 << 20) {
    fprintf (stderr, "usage: fuzz-parts IMAGE SECONDS\n");
    return 2;
  }
  if (image->size % (1 << 20) != 0)
    return 2;
  changed.size = image->size;
  original = malloc (image->size);
  data = malloc (image->size);
  if (original == NULL || data == NULL
      || source_read (image, original, image->size, 0) == -1)
    return 2;
  memcpy (data, original, image->size);
  random_state = seed != NULL ? strtoull (seed, NULL, 10)
                              : (uint64_t)time (NULL) << 20 | 1;
  printf ("FSSNAP_SEED=%" PRIu64 "\n", random_state);
  fflush (stdout);
  const time_t end = time (NULL) + (time_t)strtoul (argv[2], NULL, 10);
  for (; time (NULL) < end; round_number++) {
    restore ();
    if (round_number > 0)
      change ();
    end_of_last = 0;
    alarm (PATIENCE);
    candidates_find (&changed, NULL, &teller);
    alarm (0);
    if (round_number == 0 && told == 0)
      fail ("nothing is free as it is");
  }
  printf ("%" PRIu64 " rounds, %" PRIu64 " free extents\n", round_number, told);
  free (original);
  free (data);
  source_close (image);
  return 0;
}
