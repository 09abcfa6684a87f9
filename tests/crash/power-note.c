/* SPDX-License-Identifier: BSD-3-Clause */

#include "power-note.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static int log_fd = -1; /* set before there are threads */

__attribute__ ((noreturn)) static void
die (const char *what)
{
  perror (what);
  abort ();
}

static void
open_log (const char *path, int flags)
{
  if (log_fd != -1)
    close (log_fd);
  log_fd = open (path, O_WRONLY | O_APPEND | O_CLOEXEC | flags, 0600);
  if (log_fd == -1)
    die (path);
}

void
note_begin_log (const char *path)
{
  open_log (path, O_CREAT | O_TRUNC);
}

void
note_go_on (const char *path)
{
  open_log (path, 0);
}

static void
append (struct power_record *record, const void *payload, uint64_t length)
{
  static char padding[8];
  const uint64_t rest = -length % 8;
  const struct iovec iov[] = { { record, sizeof *record },
                               { (void *)(uintptr_t)payload, length },
                               { padding, rest } };

  record->bytes = (uint32_t)(sizeof *record + length + rest);
  if (writev (log_fd, iov, 3) != (ssize_t)record->bytes)
    die ("the log");
}

void
note_mark (uint64_t what, uint64_t which)
{
  struct power_record record
      = { .op = POWER_MARK, .offset = what, .length = which };

  append (&record, NULL, 0);
}

uint64_t
note_begin (enum power_op op, bool dsync, uint64_t ino, uint64_t offset,
            uint64_t length, const void *data)
{
  static _Atomic uint64_t serials;
  struct power_record record = { .op = (uint8_t)op,
                                 .dsync = dsync,
                                 .ino = ino,
                                 .offset = offset,
                                 .length = length };

  /* No server has process number 0. */
  record.serial = atomic_fetch_add (&serials, 1);
  append (&record, data, data != NULL ? length : 0);
  return record.serial;
}

static void
end_call (uint64_t serial, int64_t result, uint64_t made, int64_t mtime)
{
  struct power_record record = {
    .ended = 1, .serial = serial, .result = result, .made = made, .mtime = mtime
  };

  append (&record, NULL, 0);
}

void
note_end (uint64_t serial, int64_t result, int64_t mtime)
{
  end_call (serial, result, 0, mtime);
}

/* --- what was under way --------------------------------------------------- */

/* For nftw, which hands nothing on. */
static uint64_t sought;
static char found[PATH_MAX];

static int
see (const char *path, const struct stat *st, int type, struct FTW *ftw)
{
  (void)type;
  (void)ftw;
  if (st->st_ino != sought)
    return 0;
  strcpy (found, path);
  return 1;
}

/* A descriptor of the file or directory below ROOT; -1: it has no name. */
static int
open_inode (const char *root, uint64_t ino)
{
  sought = ino;
  if (nftw (root, see, 16, FTW_PHYS) != 1)
    return -1;
  return open (found, O_RDONLY | O_CLOEXEC);
}

/* The inode that a name means; 0: none. */
static uint64_t
inode_of (int directory, const char *name)
{
  struct stat st;

  return fstatat (directory, name, &st, AT_SYMLINK_NOFOLLOW) == 0 ? st.st_ino
                                                                  : 0;
}

static void
settle_names (const struct op *op, int directory)
{
  const uint64_t now = inode_of (directory, op->name);
  bool done;

  switch (op->kind) {
  case POWER_CREATE:
  case POWER_MKDIR:
    done = now != 0;
    break;
  case POWER_EXCHANGE:
    done = now == op->length;
    break;
  default:
    done = now == 0;
    break;
  }
  end_call (op->serial, done ? 0 : -1, done ? now : 0, 0);
}

/* What is there is what was written. */
static void
note_content (const struct op *op, int fd, const struct stat *st)
{
  const uint64_t size = (uint64_t)st->st_size;
  const uint64_t length
      = size - op->offset < op->length ? size - op->offset : op->length;
  uint8_t *data = malloc (length);

  if (data == NULL
      || pread (fd, data, length, (off_t)op->offset) != (ssize_t)length)
    die ("read");
  note_end (note_begin (POWER_WRITE, false, op->object->ino, op->offset, length,
                        data),
            (int64_t)length,
            st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec);
  free (data);
}

static void
settle_data (const struct op *op, int fd)
{
  struct stat st;

  if (fstat (fd, &st) == -1)
    die ("fstat");
  const uint64_t size = (uint64_t)st.st_size;
  const int64_t mtime = st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
  switch (op->kind) {
  case POWER_TRUNCATE:
    note_end (op->serial, size == op->offset ? 0 : -1, mtime);
    break;
  case POWER_EXTEND:
    note_end (op->serial, size >= op->offset + op->length ? 0 : -1, mtime);
    break;
  default: /* a part of it may be there */
    if (size > op->offset)
      note_content (op, fd, &st);
    note_end (op->serial, -1, mtime);
    break;
  }
}

void
note_killed (struct disk *disk, const char *root)
{
  for (unsigned i = 0; i < disk->open_count; i++) {
    const struct op *op = disk->open[i];
    const bool changes = op->kind < POWER_DATASYNC || op->kind >= POWER_CREATE;
    const int fd = changes ? open_inode (root, op->object->ino) : -1;

    if (fd == -1)
      note_end (op->serial, -1, 0);
    else if (op->kind >= POWER_CREATE)
      settle_names (op, fd);
    else
      settle_data (op, fd);
    if (fd != -1)
      close (fd);
  }
}
