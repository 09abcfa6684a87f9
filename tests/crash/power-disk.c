/* SPDX-License-Identifier: BSD-3-Clause */

#include "power-disk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

__attribute__ ((noreturn)) static void
die (const char *what)
{
  perror (what);
  abort ();
}

void *
zalloc (uint64_t n)
{
  void *p = calloc (1, n > 0 ? n : 1);

  if (p == NULL)
    die ("calloc");
  return p;
}

void *
one_more (void *array, unsigned count, uint64_t size)
{
  /* Powers of two: there is room but where COUNT is one. */
  if (count > 0 && (count & (count - 1)) != 0)
    return array;
  void *p = realloc (array, (count == 0 ? 1 : 2 * (uint64_t)count) * size);
  if (p == NULL)
    die ("realloc");
  return p;
}

/* --- what there was ------------------------------------------------------- */

static struct object *
new_object (struct disk *disk, uint64_t ino, const char *name)
{
  struct object *object = zalloc (sizeof *object);

  object->ino = ino;
  object->name = name != NULL && *name != '\0' ? strdup (name) : NULL;
  object->next = disk->objects;
  disk->objects = object;
  return object;
}

static void
read_all (int fd, void *buf, uint64_t count, off_t offset)
{
  uint8_t *p = buf;

  while (count > 0) {
    const ssize_t r = pread (fd, p, count, offset);
    if (r <= 0)
      die ("read");
    p += r;
    offset += r;
    count -= (uint64_t)r;
  }
}

static struct object *
scan_file (struct disk *disk, int fd, const char *name, const struct stat *st)
{
  struct object *object = new_object (disk, st->st_ino, name);

  object->size = (uint64_t)st->st_size;
  object->mtime = st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec;
  object->initial = zalloc (object->size);
  read_all (fd, object->initial, object->size, 0);
  return object;
}

/* The descriptor is closed. */
static struct object *
scan_directory (struct disk *disk, int fd, const char *name,
                const struct stat *st)
{
  struct object *object = new_object (disk, st->st_ino, name);
  DIR *directory = fdopendir (fd);
  const struct dirent *found;

  if (directory == NULL)
    die (name);
  object->directory = true;
  while ((found = readdir (directory)) != NULL) {
    struct stat entry_st;
    if (strcmp (found->d_name, ".") == 0 || strcmp (found->d_name, "..") == 0)
      continue;
    const int entry = openat (fd, found->d_name, O_RDONLY | O_NOFOLLOW);
    if (entry == -1 || fstat (entry, &entry_st) == -1)
      die (found->d_name);
    object->entries = one_more (object->entries, object->entry_count,
                                sizeof *object->entries);
    struct entry *e = &object->entries[object->entry_count++];
    e->name = strdup (found->d_name);
    if (S_ISDIR (entry_st.st_mode))
      e->object = scan_directory (disk, entry, e->name, &entry_st);
    else {
      e->object = scan_file (disk, entry, e->name, &entry_st);
      close (entry);
    }
  }
  closedir (directory);
  return object;
}

struct disk *
disk_scan (const char *root)
{
  struct disk *disk = zalloc (sizeof *disk);
  const int fd = open (root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  struct stat st;

  if (fd == -1 || fstat (fd, &st) == -1)
    die (root);
  disk->root = scan_directory (disk, fd, ".", &st);
  return disk;
}

void
disk_add (struct disk *disk, uint64_t ino, const char *name,
          const uint8_t *data, uint64_t size)
{
  struct object *object = new_object (disk, ino, name);

  object->size = size;
  object->initial = zalloc (size);
  memcpy (object->initial, data, size);
}

struct object *
disk_find (const struct disk *disk, uint64_t ino)
{
  struct object *object = disk->objects;

  while (object != NULL && object->ino != ino)
    object = object->next;
  return object;
}

struct object *
disk_file (const struct disk *disk, const char *name)
{
  const struct object *root = disk->root;

  for (unsigned i = 0; i < root->entry_count; i++)
    if (strcmp (root->entries[i].name, name) == 0)
      return root->entries[i].object;
  return NULL;
}

/* --- what happened -------------------------------------------------------- */

static void
take_mark (struct disk *disk, const struct power_record *record)
{
  disk->marks = one_more (disk->marks, disk->mark_count, sizeof *disk->marks);
  disk->marks[disk->mark_count++] = (struct mark){ .place = disk->length,
                                                   .what = record->offset,
                                                   .which = record->length };
}

static bool
is_barrier (enum power_op kind)
{
  return kind == POWER_DATASYNC || kind == POWER_SYNC || kind == POWER_SYNC_ALL;
}

static void
take_begin (struct disk *disk, const struct power_record *record)
{
  struct op *op = zalloc (sizeof *op);

  *op = (struct op){ .kind = (enum power_op)record->op,
                     .serial = record->serial,
                     .begin = disk->length,
                     .end = NEVER,
                     .dsync = record->dsync != 0,
                     .offset = record->offset,
                     .length = record->length,
                     .object = disk_find (disk, record->ino) };
  disk->open = one_more (disk->open, disk->open_count, sizeof *disk->open);
  disk->open[disk->open_count++] = op;
  if (op->kind == POWER_WRITE)
    op->data = (const uint8_t *)record->payload;
  else if (op->kind >= POWER_CREATE) {
    op->name = record->payload;
    op->to_name = op->name + strlen (op->name) + 1;
  }
  if (is_barrier (op->kind))
    return;
  if (op->object == NULL) /* was there before, and is none of the disk's */
    op->object = new_object (disk, record->ino, NULL);
  struct object *object = op->object;
  object->ops = one_more (object->ops, object->op_count, sizeof *object->ops);
  op->number = object->op_count;
  object->ops[object->op_count++] = op;
}

static void
end_barrier (struct disk *disk, const struct op *op)
{
  for (struct object *object = disk->objects; object != NULL;
       object = object->next) {
    if (object != op->object && op->kind != POWER_SYNC_ALL)
      continue;
    object->barriers = one_more (object->barriers, object->barrier_count,
                                 sizeof *object->barriers);
    object->barriers[object->barrier_count++]
        = (struct barrier){ .data_only = op->kind == POWER_DATASYNC,
                            .begin = op->begin,
                            .end = op->end };
  }
}

static void
take_end (struct disk *disk, const struct power_record *record)
{
  unsigned i = 0;

  while (i < disk->open_count && disk->open[i]->serial != record->serial)
    i++;
  if (i == disk->open_count)
    die ("the log has an end without a beginning");
  struct op *op = disk->open[i];
  disk->open[i] = disk->open[--disk->open_count];
  op->end = disk->length;
  op->result = record->result;
  op->mtime = record->mtime;
  if (op->result >= 0
      && (op->kind == POWER_CREATE || op->kind == POWER_MKDIR)) {
    op->made = new_object (disk, record->made, op->name);
    op->made->directory = op->kind == POWER_MKDIR;
  }
  if (is_barrier (op->kind)) {
    if (op->result >= 0)
      end_barrier (disk, op);
    free (op);
  }
}

void
disk_read (struct disk *disk, const char *log)
{
  const int fd = open (log, O_RDONLY | O_CLOEXEC);
  struct stat st;

  if (fd == -1 || fstat (fd, &st) == -1)
    die (log);
  const uint64_t count = (uint64_t)st.st_size - disk->bytes;
  char *text = zalloc (count);
  disk->texts = one_more (disk->texts, disk->text_count, sizeof (char *));
  disk->texts[disk->text_count++] = text;
  read_all (fd, text, count, (off_t)disk->bytes);
  close (fd);
  for (uint64_t i = 0; i < count; disk->length++) {
    const struct power_record *record
        = (const struct power_record *)(const void *)(text + i);
    if (count - i < sizeof *record || record->bytes < sizeof *record
        || record->bytes > count - i)
      die ("the log has a part of a record");
    disk->records = one_more (disk->records, (unsigned)disk->length,
                              sizeof *disk->records);
    disk->records[disk->length] = record;
    if (record->op == POWER_MARK)
      take_mark (disk, record);
    else if (record->ended)
      take_end (disk, record);
    else
      take_begin (disk, record);
    i += record->bytes;
  }
  disk->bytes += count;
}

void
disk_free (struct disk *disk)
{
  /* All others are their object's. */
  for (unsigned i = 0; i < disk->open_count; i++)
    if (is_barrier (disk->open[i]->kind))
      free (disk->open[i]);
  while (disk->objects != NULL) {
    struct object *object = disk->objects;
    disk->objects = object->next;
    for (uint64_t i = 0; i < object->sector_count && object->sectors; i++)
      free (object->sectors[i].op);
    for (unsigned i = 0; i < object->op_count; i++)
      free (object->ops[i]);
    for (unsigned i = 0; i < object->entry_count; i++)
      free (object->entries[i].name);
    free (object->entries);
    free (object->sectors);
    free (object->ops);
    free (object->barriers);
    free (object->initial);
    free (object->name);
    free (object);
  }
  for (unsigned i = 0; i < disk->text_count; i++)
    free (disk->texts[i]);
  free (disk->texts);
  free (disk->records);
  free (disk->marks);
  free (disk->open);
  free (disk);
}

/* --- sectors -------------------------------------------------------------- */

static uint64_t
sectors_of (uint64_t bytes)
{
  return (bytes + SECTOR - 1) / SECTOR;
}

static void
index_op (struct object *object, struct op *op)
{
  uint64_t first = op->offset / SECTOR;
  uint64_t end = object->sector_count;
  const bool cut = op->kind == POWER_TRUNCATE;

  if (op->kind == POWER_EXTEND)
    return;
  if (!cut && sectors_of (op->offset + op->length) < end)
    end = sectors_of (op->offset + op->length);
  for (; first < end; first++) {
    struct sector *sector = &object->sectors[first];
    /* Where there is nothing yet, nothing is cut off. */
    if (cut && sector->count == 0 && first >= sectors_of (object->size))
      continue;
    sector->op = one_more (sector->op, sector->count, sizeof (struct op *));
    sector->op[sector->count++] = op;
  }
}

void
disk_index (struct disk *disk)
{
  for (struct object *o = disk->objects; o != NULL; o = o->next) {
    o->sector_count = o->directory ? 0 : sectors_of (o->size);
    for (unsigned i = 0; i < o->op_count; i++) {
      const uint64_t end = sectors_of (o->ops[i]->offset + o->ops[i]->length);
      if (o->ops[i]->kind == POWER_WRITE && end > o->sector_count)
        o->sector_count = end;
    }
    o->sectors = zalloc (o->sector_count * sizeof *o->sectors);
    for (unsigned i = 0; i < o->op_count; i++)
      index_op (o, o->ops[i]);
  }
}

/* --- comparing ------------------------------------------------------------ */

static const struct entry *
find_entry (const struct object *directory, const char *name)
{
  for (unsigned i = 0; i < directory->entry_count; i++)
    if (strcmp (directory->entries[i].name, name) == 0)
      return &directory->entries[i];
  return NULL;
}

__attribute__ ((format (printf, 1, 2))) static char *
text (const char *format, ...)
{
  char *p;
  va_list args;

  va_start (args, format);
  if (vasprintf (&p, format, args) == -1)
    die ("vasprintf");
  va_end (args);
  return p;
}

static char *
compare_files (const char *name, const struct object *a, const struct object *b)
{
  uint64_t i = 0;

  if (a->size != b->size)
    return text ("%s has %" PRIu64 " bytes and %" PRIu64, name, a->size,
                 b->size);
  while (i < a->size && a->initial[i] == b->initial[i])
    i++;
  return i == a->size ? NULL
                      : text ("%s: byte %" PRIu64 " is %02x and %02x", name, i,
                              a->initial[i], b->initial[i]);
}

static char *
compare_directories (const struct object *a, const struct object *b)
{
  char *difference = NULL;

  for (unsigned i = 0; i < b->entry_count; i++)
    if (find_entry (a, b->entries[i].name) == NULL)
      return text ("only the second has %s", b->entries[i].name);
  for (unsigned i = 0; i < a->entry_count && difference == NULL; i++) {
    const char *name = a->entries[i].name;
    const struct entry *other = find_entry (b, name);
    const struct object *object = a->entries[i].object;

    if (other == NULL || other->object->directory != object->directory)
      return text ("only the first has %s", name);
    difference = object->directory
                     ? compare_directories (object, other->object)
                     : compare_files (name, object, other->object);
  }
  return difference;
}

char *
disk_compare (const char *a, const char *b)
{
  struct disk *one = disk_scan (a), *other = disk_scan (b);
  char *difference = compare_directories (one->root, other->root);

  disk_free (one);
  disk_free (other);
  return difference;
}

/* --- for people ----------------------------------------------------------- */

static const char *
op_name (unsigned op)
{
  static const char *const names[]
      = { "write",  "zero",     "truncate", "extend", "fdatasync",
          "fsync",  "syncfs",   "create",   "mkdir",  "unlink",
          "rename", "exchange", "mark" };

  return op < sizeof names / sizeof *names ? names[op] : "?";
}

void
disk_print (const struct disk *disk, uint64_t from, uint64_t at, FILE *out)
{
  for (uint64_t i = from; i < at && i < disk->length; i++) {
    const struct power_record *r = disk->records[i];
    const struct object *object = disk_find (disk, r->ino);

    fprintf (out, "%" PRIu64 " %s%s%s %s", i, r->ended ? "  done: " : "",
             r->ino == 0 && r->ended ? "" : op_name (r->op),
             r->dsync ? " dsync" : "",
             object != NULL && object->name != NULL ? object->name : "-");
    if (r->op >= POWER_CREATE && r->op < POWER_MARK && !r->ended)
      fprintf (out, " %s %s", r->payload, r->payload + strlen (r->payload) + 1);
    else
      fprintf (out, " %" PRIu64 " %" PRIu64, r->offset, r->length);
    if (r->ended)
      fprintf (out, " = %" PRId64, r->result);
    fprintf (out, " #%" PRIx64 "\n", r->serial);
  }
}
