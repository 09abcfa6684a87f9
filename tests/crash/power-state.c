/* SPDX-License-Identifier: BSD-3-Clause */

#include "power-state.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* How the calls are chosen that a file has had.  The one-sided ones find
 * most: everything of one file and nothing of another.
 */
enum taste {
  TASTE_ALL,
  TASTE_NONE,
  TASTE_SECTORS, /* each sector for itself */
  TASTE_OPS,     /* each call for itself */
  TASTE_UNTIL,   /* those before some place, none after */
  TASTE_SINCE,   /* those after it, none before */
};
#define TASTES 6

/* How a state is made. */
struct maker {
  const struct crash *crash;
  uint64_t random; /* the state of the choice */
  FILE *say;

  /* What the objects have in common. */
  enum { EACH, ALIKE, ODD_ONES } mood;
  enum taste taste;
  uint64_t place;
};

/* How the calls are chosen of one object. */
struct choice {
  const struct crash *crash;
  uint64_t synced, data_synced; /* places; calls that had returned then are
                                   durable, with the mtime and without */
  enum taste taste;
  uint64_t place;  /* of TASTE_UNTIL and TASTE_SINCE */
  unsigned odds;   /* of 1000 */
  uint64_t random; /* the state of the choice */
};

__attribute__ ((noreturn)) static void
die (const char *what)
{
  perror (what);
  abort ();
}

/* splitmix64: good from the first number on, whatever the seed. */
static uint64_t
draw (uint64_t *random)
{
  uint64_t z = *random += UINT64_C (0x9e3779b97f4a7c15);

  z = (z ^ (z >> 30)) * UINT64_C (0xbf58476d1ce4e5b9);
  z = (z ^ (z >> 27)) * UINT64_C (0x94d049bb133111eb);
  return z ^ (z >> 31);
}

static uint64_t
below (uint64_t *random, uint64_t limit)
{
  return draw (random) % limit;
}

/* --- which calls ---------------------------------------------------------- */

/* It may have changed something by now. */
static bool
happened (const struct op *op, uint64_t at)
{
  return op->begin < at && !(op->end < at && op->result < 0);
}

static bool
durable (const struct op *op, const struct choice *choice)
{
  if (op->end >= choice->crash->at)
    return false;
  return !choice->crash->power || op->dsync || op->end < choice->data_synced;
}

static void
find_barriers (const struct object *object, struct choice *choice)
{
  for (unsigned i = 0; i < object->barrier_count; i++) {
    const struct barrier *barrier = &object->barriers[i];
    if (barrier->end >= choice->crash->at)
      continue;
    if (barrier->begin > choice->data_synced)
      choice->data_synced = barrier->begin;
    if (!barrier->data_only && barrier->begin > choice->synced)
      choice->synced = barrier->begin;
  }
}

/* Whether a call that is not durable is there, by the file's taste; not for
 * TASTE_SECTORS.
 */
static bool
wanted (const struct op *op, const struct choice *choice)
{
  uint64_t own = choice->random ^ (op->begin * 2 + 1);

  switch (choice->taste) {
  case TASTE_ALL:
    return true;
  case TASTE_OPS:
    return below (&own, 1000) < choice->odds;
  case TASTE_UNTIL:
    return op->begin < choice->place;
  case TASTE_SINCE:
    return op->begin >= choice->place;
  default:
    return false;
  }
}

/* Of COUNT calls, in their order, all that happened and are taken into
 * account are the first so many.  LOWER: up to the last that is durable.
 */
static unsigned
choose (struct op *const *op, unsigned count, unsigned lower,
        struct choice *choice)
{
  unsigned n = lower;

  if (choice->taste == TASTE_SECTORS)
    return below (&choice->random, 1000) < choice->odds
               ? lower + (unsigned)below (&choice->random, count - lower + 1)
               : lower;
  for (unsigned i = lower; i < count; i++)
    if (wanted (op[i], choice))
      n = i + 1;
  return n;
}

/* Those of OP that happened, in TO; *LOWER: up to the last durable one. */
static unsigned
select_ops (struct op *const *op, unsigned count, const struct choice *choice,
            struct op **to, unsigned *lower)
{
  unsigned n = 0;

  *lower = 0;
  for (unsigned i = 0; i < count && op[i]->begin < choice->crash->at; i++) {
    if (!happened (op[i], choice->crash->at))
      continue;
    to[n++] = op[i];
    if (durable (op[i], choice))
      *lower = n;
  }
  return n;
}

/* A place before AT, rather near than far: what is not durable yet is near.
 */
static uint64_t
choose_place (uint64_t at, uint64_t *random)
{
  const uint64_t back
      = below (random, UINT64_C (1) << (1 + below (random, 11)));

  return back < at ? at - back : 0;
}

static struct choice
begin_choice (const struct object *object, struct maker *maker)
{
  static const unsigned odds[] = { 50, 300, 500, 700, 950 };
  struct choice choice
      = { .crash = maker->crash, .random = draw (&maker->random) };
  const enum taste own = (enum taste)below (&choice.random, TASTES);

  find_barriers (object, &choice);
  choice.odds = odds[below (&choice.random, sizeof odds / sizeof *odds)];
  choice.taste = maker->mood == EACH ? own : maker->taste;
  choice.place = maker->mood == EACH
                     ? choose_place (maker->crash->at, &choice.random)
                     : maker->place;
  if (maker->mood == ODD_ONES && below (&choice.random, 4) == 0)
    choice.taste = maker->taste == TASTE_ALL ? TASTE_NONE : TASTE_ALL;
  return choice;
}

/* --- files ---------------------------------------------------------------- */

/* What a write has written by now, at most. */
static uint64_t
length_of (const struct op *op, uint64_t at)
{
  return op->kind == POWER_WRITE && op->end < at ? (uint64_t)op->result
                                                 : op->length;
}

static uint64_t
size_after (const struct op *op, uint64_t size, uint64_t at)
{
  const uint64_t end = op->offset + length_of (op, at);

  if (op->kind == POWER_TRUNCATE)
    return op->offset;
  if (op->kind != POWER_ZERO && end > size)
    return end;
  return size;
}

/* What a call makes of a sector. */
static void
change_sector (const struct op *op, uint64_t number, uint64_t at, uint8_t *data)
{
  const uint64_t start = number * SECTOR;
  uint64_t from = op->offset, to = op->offset + length_of (op, at);

  if (op->kind == POWER_TRUNCATE)
    to = NEVER;
  if (from < start)
    from = start;
  if (to > start + SECTOR)
    to = start + SECTOR;
  if (from >= to)
    return;
  if (op->kind == POWER_WRITE)
    memcpy (data + (from - start), op->data + (from - op->offset), to - from);
  else
    memset (data + (from - start), 0, to - from);
}

static void
first_content (const struct object *object, uint64_t number, uint8_t *data)
{
  const uint64_t start = number * SECTOR;

  memset (data, 0, SECTOR);
  if (start < object->size)
    memcpy (data, object->initial + start,
            object->size - start < SECTOR ? object->size - start : SECTOR);
}

/* The calls that can change the size of a file. */
static unsigned
size_ops (const struct object *object, const struct crash *crash,
          struct op **op)
{
  uint64_t size = object->size;
  unsigned n = 0;

  for (unsigned i = 0; i < object->op_count; i++) {
    if (!happened (object->ops[i], crash->at))
      continue;
    const uint64_t after = size_after (object->ops[i], size, crash->at);
    if (after != size || object->ops[i]->kind == POWER_TRUNCATE)
      op[n++] = object->ops[i];
    size = after;
  }
  return n;
}

/* Choose a size; *LAST is the number of the last call that it knows of, and
 * one; 0: of none.
 */
static uint64_t
choose_size (const struct object *object, struct choice *choice, unsigned *last)
{
  struct op **op = zalloc (object->op_count * sizeof (struct op *));
  const uint64_t at = choice->crash->at;
  unsigned lower;
  const unsigned changes = size_ops (object, choice->crash, op);
  const unsigned n = select_ops (op, changes, choice, op, &lower);
  const unsigned chosen = choose (op, n, lower, choice);
  uint64_t size = object->size;

  *last = 0;
  for (unsigned i = 0; i < chosen; i++) {
    size = size_after (op[i], size, at);
    *last = op[i]->number + 1;
  }
  free (op);
  return size;
}

/* How many calls a sector has had, where its file's size knows of those up to
 * LAST: a cut is in both or in none.
 */
static unsigned
choose_sector (struct op *const *op, unsigned count, unsigned lower,
               unsigned last, struct choice *choice)
{
  unsigned low = lower, high = count;

  for (unsigned i = 0; i < count; i++) {
    if (op[i]->kind != POWER_TRUNCATE)
      continue;
    if (op[i]->number < last && low < i + 1)
      low = i + 1;
    else if (i < high && op[i]->number >= last)
      high = i;
  }
  return choose (op, high > low ? high : low, low, choice);
}

/* Fill in a sector as chosen.  True: it is not as new as it could be. */
static bool
make_sector (const struct object *object, uint64_t number, unsigned last,
             struct choice *choice, uint8_t *data)
{
  const struct sector *sector = &object->sectors[number];
  struct op **op = zalloc (sector->count * sizeof (struct op *));
  unsigned lower;
  const unsigned n = select_ops (sector->op, sector->count, choice, op, &lower);
  const unsigned chosen = choose_sector (op, n, lower, last, choice);

  first_content (object, number, data);
  for (unsigned i = 0; i < chosen; i++)
    change_sector (op[i], number, choice->crash->at, data);
  free (op);
  return chosen < n;
}

static void
write_file (int fd, const uint8_t *data, uint64_t size)
{
  static const uint8_t zeros[SECTOR];

  if (ftruncate (fd, (off_t)size) == -1)
    die ("ftruncate");
  for (uint64_t i = 0; i < size; i += SECTOR) {
    const uint64_t n = size - i < SECTOR ? size - i : SECTOR;
    if (memcmp (data + i, zeros, n) != 0
        && pwrite (fd, data + i, n, (off_t)i) != (ssize_t)n)
      die ("pwrite");
  }
}

/* A time that the file may show: that of the last call that fsync knows of,
 * or of a later one.
 */
static int64_t
choose_mtime (const struct object *object, struct choice *choice)
{
  int64_t mtime = object->mtime;

  for (unsigned i = 0; i < object->op_count; i++) {
    const struct op *op = object->ops[i];
    /* They did not end in the order in which they began. */
    if (op->end >= choice->crash->at || op->result < 0 || op->mtime <= mtime)
      continue;
    if (!choice->crash->power || op->end < choice->synced
        || choice->taste == TASTE_ALL
        || (choice->taste != TASTE_NONE && below (&choice->random, 2) == 0))
      mtime = op->mtime;
  }
  return mtime;
}

static const char *const taste_names[]
    = { "all", "none", "sectors", "calls", "until", "since" };

static void
make_file (int at, const char *name, const struct object *object,
           struct choice *choice, FILE *say)
{
  const int fd = openat (at, name, O_WRONLY | O_CREAT | O_EXCL, 0600);
  unsigned last;
  const uint64_t size = choose_size (object, choice, &last);
  uint8_t *data = zalloc (size + SECTOR);
  uint64_t old = 0;

  if (fd == -1)
    die (name);
  for (uint64_t i = 0; i < object->sector_count && i * SECTOR < size; i++)
    old += make_sector (object, i, last, choice, data + i * SECTOR);
  write_file (fd, data, size);
  free (data);
  const int64_t mtime = choose_mtime (object, choice);
  const struct timespec times[]
      = { { .tv_nsec = UTIME_OMIT },
          { .tv_sec = mtime / 1000000000, .tv_nsec = mtime % 1000000000 } };
  if (mtime != 0 && futimens (fd, times) == -1)
    die ("futimens");
  close (fd);
  if (say != NULL)
    fprintf (say,
             "%s: inode %" PRIx64 ", made by %s (%u of 1000, place %" PRIu64
             "); durable before %" PRIu64 "; %" PRIu64 " bytes, %" PRIu64
             " sectors not as new as they could be\n",
             name, object->ino, taste_names[choice->taste], choice->odds,
             choice->place, choice->data_synced, size, old);
}

/* --- directories ---------------------------------------------------------- */

/* The names while they are put together. */
struct names {
  struct name {
    const char *name;
    struct object *object;
  } * entry;
  unsigned count;
};

static struct name *
find_name (const struct names *names, const char *name)
{
  for (unsigned i = 0; i < names->count; i++)
    if (strcmp (names->entry[i].name, name) == 0)
      return &names->entry[i];
  return NULL;
}

static void
set_name (struct names *names, const char *name, struct object *object)
{
  struct name *entry = find_name (names, name);

  if (entry == NULL) {
    names->entry = one_more (names->entry, names->count, sizeof *names->entry);
    entry = &names->entry[names->count++];
    entry->name = name;
  }
  entry->object = object;
}

static void
remove_name (struct names *names, const char *name)
{
  struct name *entry = find_name (names, name);

  if (entry != NULL)
    *entry = names->entry[--names->count];
}

/* What a call does to the names; nothing, where what it begins with is not
 * there.
 */
static void
change_names (struct names *names, const struct op *op)
{
  static struct object no_file, no_directory = { .directory = true };
  struct name *entry = find_name (names, op->name);
  struct name *to = find_name (names, op->to_name);

  if (op->kind == POWER_CREATE && op->name[0] != '\0')
    /* Killed before the test could learn what it made? */
    set_name (names, op->name, op->made != NULL ? op->made : &no_file);
  else if (op->kind == POWER_MKDIR)
    set_name (names, op->name, op->made != NULL ? op->made : &no_directory);
  else if (op->kind == POWER_UNLINK)
    remove_name (names, op->name);
  else if (op->kind == POWER_RENAME && entry != NULL) {
    struct object *object = entry->object;
    remove_name (names, op->name);
    set_name (names, op->to_name, object);
  }
  else if (op->kind == POWER_EXCHANGE && entry != NULL && to != NULL) {
    struct object *object = entry->object;
    entry->object = to->object;
    to->object = object;
  }
}

/* The names that a directory has. */
static struct names
choose_names (const struct object *object, struct choice *choice, FILE *say)
{
  struct op **op = zalloc (object->op_count * sizeof (struct op *));
  const bool any = choice->crash->power && choice->crash->any_order;
  struct names names = { 0 };
  unsigned lower;
  const unsigned n
      = select_ops (object->ops, object->op_count, choice, op, &lower);
  const unsigned chosen = any ? n : choose (op, n, lower, choice);

  for (unsigned i = 0; i < object->entry_count; i++)
    set_name (&names, object->entries[i].name, object->entries[i].object);
  for (unsigned i = 0; i < chosen; i++)
    if (!any || durable (op[i], choice) || below (&choice->random, 2) == 0)
      change_names (&names, op[i]);
  if (say != NULL)
    fprintf (say,
             "directory %s: %u of its %u changes, %u of them durable, by "
             "%s\n",
             object->name, chosen, n, lower,
             any ? "each for itself" : taste_names[choice->taste]);
  free (op);
  return names;
}

static void
make_directory (int at, const struct object *object, struct maker *maker)
{
  struct choice choice = begin_choice (object, maker);
  struct names names = choose_names (object, &choice, maker->say);

  for (unsigned i = 0; i < names.count; i++) {
    const struct name *entry = &names.entry[i];
    struct choice own = begin_choice (entry->object, maker);
    if (!entry->object->directory) {
      make_file (at, entry->name, entry->object, &own, maker->say);
      continue;
    }
    const int fd = mkdirat (at, entry->name, 0700) == -1
                       ? -1
                       : openat (at, entry->name, O_RDONLY | O_DIRECTORY);
    if (fd == -1)
      die (entry->name);
    make_directory (fd, entry->object, maker);
    close (fd);
  }
  free (names.entry);
}

void
state_make (const struct disk *disk, const struct crash *crash, FILE *say)
{
  const int fd = open (".", O_RDONLY | O_DIRECTORY);
  struct maker maker = { .crash = crash, .random = crash->random, .say = say };

  maker.mood = (unsigned)below (&maker.random, 3);
  maker.taste = maker.mood == ODD_ONES
                    ? (enum taste)below (&maker.random, TASTE_SECTORS)
                    : (enum taste)below (&maker.random, TASTES);
  maker.place = choose_place (crash->at, &maker.random);
  if (fd == -1)
    die (".");
  if (say != NULL)
    fprintf (say, "%s at %" PRIu64 " of %" PRIu64 "%s, random %" PRIu64 "\n",
             crash->power ? "power lost" : "killed", crash->at, disk->length,
             crash->any_order ? ", directories in any order" : "",
             crash->random);
  make_directory (fd, disk->root, &maker);
  close (fd);
}

/* --- what may be ---------------------------------------------------------- */

static bool
sector_may_be (const struct object *object, uint64_t number,
               const struct choice *choice, const uint8_t *data, uint64_t size)
{
  const struct sector *sector = &object->sectors[number];
  struct op **op = zalloc (sector->count * sizeof (struct op *));
  uint8_t content[SECTOR];
  unsigned lower;
  const unsigned n = select_ops (sector->op, sector->count, choice, op, &lower);
  bool may_be;

  first_content (object, number, content);
  for (unsigned i = 0; i < lower; i++)
    change_sector (op[i], number, choice->crash->at, content);
  may_be = memcmp (data, content, size) == 0;
  for (unsigned i = lower; i < n && !may_be; i++) {
    change_sector (op[i], number, choice->crash->at, content);
    may_be = memcmp (data, content, size) == 0;
  }
  free (op);
  return may_be;
}

uint64_t
state_wrong (const struct object *object, const struct crash *crash,
             const uint8_t *data, uint64_t size)
{
  struct choice choice = { .crash = crash };

  find_barriers (object, &choice);
  for (uint64_t i = 0; i < object->sector_count && i * SECTOR < size; i++) {
    const uint64_t left = size - i * SECTOR;
    if (!sector_may_be (object, i, &choice, data + i * SECTOR,
                        left < SECTOR ? left : SECTOR))
      return i * SECTOR;
  }
  return NEVER;
}
