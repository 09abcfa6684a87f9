/* SPDX-License-Identifier: BSD-3-Clause */
/* A reader against damaged file systems.
 *
 *   fuzz [--weak] [--mend] TYPE IMAGE ROUNDS
 *
 * Bytes that the reader reads are changed, a few at a time.  It must come to an
 * end, touch no memory that is not its own (build with a sanitizer), and
 * either refuse, with a reason, or call nothing free that is not free in the
 * image as it was.  With --weak the latter is not asked for: the format has no
 * checksums, and says that what is used is free when a bit of it is changed.
 * What is free must lie within the image even so.  With --mend, which is for
 * btrfs, the checksum of each block that is changed is made right, so that it
 * is not that which refuses it: the checks behind it are tried.
 *
 * $FSSNAP_SEED repeats a run; FSSNAP_LONG=1 makes it twenty times as long.
 */

#include "candidates.h"

#include <errno.h>
#include <inttypes.h>
#include <isa-l/crc.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define CHANGES_MAX 6
#define CHECKSUM_SIZE 4  /* the bytes of a crc32c, that begin a block; */
#define CHECKSUM_ROOM 32 /* it is of what comes behind these */
#define BLOCK_MAX 65536
#define READS_MAX 65536
#define PATIENCE 20 /* seconds a round may take */

static struct source *image; /* as it is */
static bool weak, mend;
static uint64_t random_state;

/* What was read, of which some is changed. */
static struct {
  uint64_t offset;
  size_t count;
} reads[READS_MAX];
static size_t read_count;
static bool noting;

static struct {
  uint64_t offset;
  uint8_t value;
} changes[CHANGES_MAX * (1 + CHECKSUM_SIZE)];
static size_t change_count;

static uint64_t
random_below (uint64_t n)
{
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return random_state % n;
}

/* To what was read of the image. */
static void
apply_changes (uint8_t *buffer, size_t count, uint64_t offset)
{
  for (size_t i = 0; i < change_count; i++)
    if (changes[i].offset >= offset && changes[i].offset - offset < count)
      buffer[changes[i].offset - offset] = changes[i].value;
}

static int
read_changed (struct source *source, void *buffer, size_t count,
              uint64_t offset)
{
  (void)source;
  if (noting && read_count < READS_MAX) {
    reads[read_count].offset = offset;
    reads[read_count++].count = count;
  }
  if (source_read (image, buffer, count, offset) == -1)
    return -1;
  apply_changes (buffer, count, offset);
  return 0;
}

static struct source changed = { .read = read_changed };

/* 0 with a settled map, or -1 with WHY. */
static int
run (const struct reader *reader, struct freemap *map, char **why)
{
  struct reading reading = { .source = &changed, .free = map };

  alarm (PATIENCE);
  const int r = reader->read (&reading);
  alarm (0);
  freemap_settle (map);
  *why = reading.why;
  return r;
}

static uint8_t
change_of (uint8_t old)
{
  static const uint8_t values[] = { 0, 1, 0x7f, 0x80, 0xff };

  switch (random_below (4)) {
  case 0:
    return values[random_below (sizeof values)];
  case 1:
    return (uint8_t)(old + (random_below (2) == 0 ? 1 : -1));
  case 2:
    return old ^ (uint8_t)(1 << random_below (8));
  default:
    return (uint8_t)random_below (256);
  }
}

/* Change the checksum of the block that was read as read R, too. */
static void
mend_block (size_t r)
{
  uint8_t block[BLOCK_MAX];
  const size_t count = reads[r].count;

  if (count <= CHECKSUM_ROOM || count > sizeof block
      || source_read (image, block, count, reads[r].offset) == -1)
    abort ();
  apply_changes (block, count, reads[r].offset);
  const uint32_t sum = ~crc32_iscsi (block + CHECKSUM_ROOM,
                                     (int)(count - CHECKSUM_ROOM), UINT32_MAX);
  for (unsigned i = 0; i < CHECKSUM_SIZE; i++) {
    changes[change_count].offset = reads[r].offset + i;
    changes[change_count++].value = (uint8_t)(sum >> 8 * i);
  }
}

/* A byte of read R behind the checksum.  Items are listed where a block begins,
 * and have their data where it ends; most of what is 0 is between.
 */
static uint64_t
choose_place (size_t r, uint8_t *old)
{
  const size_t length = reads[r].count - CHECKSUM_ROOM;
  uint64_t offset = 0;

  for (unsigned i = 0; i < 20; i++) {
    const size_t most
        = random_below (4) == 0 || length < 512 ? length : (size_t)512;
    offset = reads[r].offset + CHECKSUM_ROOM + random_below (most)
             + (random_below (2) == 0 ? 0 : length - most);
    if (source_read (image, old, 1, offset) == -1)
      abort ();
    if (*old != 0 || random_below (8) == 0)
      break;
  }
  return offset;
}

/* A few, each with its block's checksum. */
static void
choose_mended_changes (void)
{
  const size_t count = 1 + random_below (3);
  size_t of[3];

  change_count = 0;
  for (size_t i = 0; i < count; i++) {
    uint8_t old = 0;
    of[i] = random_below (read_count);
    changes[i].offset = choose_place (of[i], &old);
    changes[i].value = change_of (old);
  }
  change_count = count;
  for (size_t i = 0; i < count; i++)
    mend_block (of[i]);
}

static void
choose_changes (void)
{
  const size_t count = 1 + random_below (CHANGES_MAX);

  change_count = 0;
  for (size_t i = 0; i < count; i++) {
    const size_t r = random_below (read_count);
    /* What begins a structure matters more than what is in it. */
    const size_t most = random_below (3) == 0 ? reads[r].count : 256;
    const uint64_t offset
        = reads[r].offset
          + random_below (most < reads[r].count ? most : reads[r].count);
    uint8_t old;
    if (source_read (image, &old, 1, offset) == -1)
      abort ();
    changes[i].offset = offset;
    changes[i].value = change_of (old);
  }
  change_count = count;
}

__attribute__ ((noreturn)) static void
fail (uint64_t round, const char *what)
{
  printf ("round %" PRIu64 ": %s; changed:", round, what);
  for (size_t i = 0; i < change_count; i++)
    printf (" %" PRIu64 "=%02x", changes[i].offset, changes[i].value);
  printf ("\n");
  exit (1);
}

/* All of PART is in WHOLE; both are settled. */
static bool
is_within (const struct freemap *part, const struct freemap *whole)
{
  size_t w = 0;

  for (size_t i = 0; i < part->count; i++) {
    const struct extent *e = &part->extents[i];
    while (w < whole->count
           && whole->extents[w].offset + whole->extents[w].length <= e->offset)
      w++;
    if (w == whole->count || whole->extents[w].offset > e->offset
        || whole->extents[w].offset + whole->extents[w].length
               < e->offset + e->length)
      return false;
  }
  return true;
}

static void
try_one (uint64_t round, const struct reader *reader,
         const struct freemap *original, uint64_t *accepted)
{
  struct freemap map = {};
  char *why;

  if (mend)
    choose_mended_changes ();
  else
    choose_changes ();
  const struct freemap all
      = { .extents = &(struct extent){ 0, changed.size }, .count = 1 };
  if (run (reader, &map, &why) == 0) {
    ++*accepted;
    if (!is_within (&map, weak ? &all : original))
      fail (round, "something is called free that is not");
  }
  else if (why == NULL)
    fail (round, "refused without a reason");
  free (why);
  freemap_free (&map);
}

int
main (int argc, char **argv)
{
  const char *seed = getenv ("FSSNAP_SEED");
  struct freemap original = {};
  uint64_t accepted = 0;
  char *why;

  for (; argc > 4; argc--, argv++) {
    if (strcmp (argv[1], "--weak") == 0)
      weak = true;
    else if (strcmp (argv[1], "--mend") == 0)
      mend = true;
    else
      break;
  }
  if (argc != 4) {
    fprintf (stderr, "usage: fuzz [--weak] [--mend] TYPE IMAGE ROUNDS\n");
    return 2;
  }
  const struct reader *reader = reader_of (argv[1]);
  image = source_of_file (argv[2]);
  if (reader == NULL || image == NULL) {
    fprintf (stderr, "%s or %s: %s\n", argv[1], argv[2], strerror (errno));
    return 2;
  }
  uint64_t rounds = strtoull (argv[3], NULL, 10);
  if (getenv ("FSSNAP_LONG") != NULL)
    rounds *= 20;
  changed.size = image->size;
  random_state = seed != NULL ? strtoull (seed, NULL, 10)
                              : (uint64_t)time (NULL) << 20 | 1;
  printf ("FSSNAP_SEED=%" PRIu64 "\n", random_state);
  fflush (stdout);
  noting = true;
  if (run (reader, &original, &why) == -1) {
    printf ("refused as it is: %s\n", why);
    return 1;
  }
  noting = false;
  for (uint64_t i = 0; i < rounds; i++)
    try_one (i, reader, &original, &accepted);
  printf ("%" PRIu64 " rounds, %" PRIu64 " accepted\n", rounds, accepted);
  freemap_free (&original);
  source_close (image);
  return 0;
}
