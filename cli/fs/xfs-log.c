/* SPDX-License-Identifier: BSD-3-Clause */
/* The log is a ring of blocks of 512 bytes, each of which begins with the
 * number of the round ("cycle") in which it was written.  Its head is where the
 * number goes down.  Unmounting writes a record that says so as the last one.
 *
 * A frozen file system has everything in its place, but its log is dirty by
 * intent, so that mounting a copy looks for files that were deleted while open:
 * from the tail on it has the superblock, some times over, and nothing else.
 * That is accepted; replaying it changes nothing that is looked at here.  The
 * rest of the log is not looked at, except around the head, where up to eight
 * records may have been under way.
 */

#include "xfs.h"

#include <endian.h>
#include <isa-l/crc.h>
#include <stdlib.h>
#include <string.h>

#define WINDOW (XLOG_ICLOGS * (XLOG_RECORD_MAX / XLOG_BLOCK))
#define DIRTY "the log needs recovery (is it mounted, and not frozen?)"

struct log {
  struct xfs *xfs;
  uint64_t offset;       /* bytes */
  uint32_t blocks;       /* of 512 bytes, like all here */
  uint32_t head;         /* where the next record goes */
  uint32_t cycle;        /* of the blocks before the head */
  uint32_t cycle_behind; /* of those from the head on */
  uint32_t before;       /* blocks of RING before the head */
  uint32_t ring_blocks;
  uint8_t *ring; /* what is around the head */
};

struct record {
  const struct xlog_record *head;
  uint32_t headers; /* blocks */
  uint32_t length;  /* bytes behind them */
  uint32_t end;     /* in RING, blocks */
};

static uint32_t
cycle_of (const uint8_t *block)
{
  uint32_t words[2];

  memcpy (words, block, sizeof words);
  return be32toh (words[0]) == XLOG_MAGIC ? be32toh (words[1])
                                          : be32toh (words[0]);
}

static int
read_cycle (const struct log *log, uint32_t block, uint32_t *cycle)
{
  uint8_t data[XLOG_BLOCK];

  if (reading_get (log->xfs->reading, "the log", data, sizeof data,
                   log->offset + (uint64_t)block * XLOG_BLOCK)
      == -1)
    return -1;
  *cycle = cycle_of (data);
  return 0;
}

static int
find_head (struct log *log)
{
  uint32_t low = 0, high = log->blocks - 1, last, cycle;

  if (read_cycle (log, 0, &log->cycle) == -1
      || read_cycle (log, high, &last) == -1)
    return -1;
  log->cycle_behind = last;
  if (last == log->cycle && last != 0) {
    /* The round has just come to its end. */
    log->head = 0;
    log->cycle_behind = last;
    return 0;
  }
  if (log->cycle == 0 || last != log->cycle - 1)
    return refuse (log->xfs->reading, "the log's cycles are not in order");
  while (high - low > 1) {
    const uint32_t middle = low + (high - low) / 2;
    if (read_cycle (log, middle, &cycle) == -1)
      return -1;
    if (cycle == log->cycle)
      low = middle;
    else
      high = middle;
  }
  log->head = high;
  return 0;
}

static uint32_t
block_at (const struct log *log, uint32_t index)
{
  return (uint32_t)(((uint64_t)log->head + log->blocks - log->before + index)
                    % log->blocks);
}

static uint32_t
cycle_at (const struct log *log, uint32_t index)
{
  return block_at (log, index) < log->head ? log->cycle : log->cycle_behind;
}

static int
read_piece (const struct log *log, uint32_t index, uint32_t count)
{
  return reading_get (
      log->xfs->reading, "the log", log->ring + (size_t)index * XLOG_BLOCK,
      (size_t)count * XLOG_BLOCK,
      log->offset + (uint64_t)block_at (log, index) * XLOG_BLOCK);
}

/* Read what is around the head, and see whether it is what it should be. */
static int
read_ring (struct log *log)
{
  log->before = log->blocks / 2 < WINDOW ? log->blocks / 2 : WINDOW;
  log->ring_blocks = 2 * log->before;
  log->ring = malloc ((size_t)log->ring_blocks * XLOG_BLOCK);
  if (log->ring == NULL)
    return refuse (log->xfs->reading, "no memory");
  const uint32_t to_end = log->blocks - block_at (log, 0);
  const uint32_t first = to_end < log->ring_blocks ? to_end : log->ring_blocks;
  if (read_piece (log, 0, first) == -1
      || (first < log->ring_blocks
          && read_piece (log, first, log->ring_blocks - first) == -1))
    return -1;
  for (uint32_t i = 0; i < log->ring_blocks; i++)
    if (cycle_of (log->ring + (size_t)i * XLOG_BLOCK) != cycle_at (log, i))
      return refuse (log->xfs->reading, DIRTY);
  return 0;
}

/* --- records ---------------------------------------------------------------
 */

static uint32_t
sum (const void *data, size_t count, uint32_t crc)
{
  /* libisal says nothing of const, but does not write. */
  union {
    const void *given;
    uint8_t *taken;
  } p = { data };

  return crc32_iscsi (p.taken, (int)count, crc);
}

static bool
is_summed (const struct record *record, size_t head_size)
{
  const uint8_t *data = (const void *)record->head;
  struct xlog_record head;

  memcpy (&head, data, sizeof head);
  head.crc = 0;
  uint32_t crc = sum (&head, head_size, UINT32_MAX);
  for (uint32_t i = 1; i < record->headers; i++)
    crc = sum (data + (size_t)i * XLOG_BLOCK, sizeof (struct xlog_more), crc);
  crc = sum (data + (size_t)record->headers * XLOG_BLOCK, record->length, crc);
  return le32toh (record->head->crc) == ~crc;
}

/* The record at INDEX of the ring; it must end before the head. */
static int
get_record (const struct log *log, uint32_t index, struct record *record)
{
  const struct xlog_record *head
      = (const void *)(log->ring + (size_t)index * XLOG_BLOCK);
  const uint32_t size = be32toh (head->size), length = be32toh (head->length);
  const uint32_t version = be32toh (head->version);

  record->head = head;
  record->length = length;
  record->headers = version == 2 && size > XLOG_HEADER_COVERS
                        ? (size + XLOG_HEADER_COVERS - 1) / XLOG_HEADER_COVERS
                        : 1;
  if (be32toh (head->magic) != XLOG_MAGIC || (version != 1 && version != 2)
      || be32toh (head->cycle) != cycle_at (log, index)
      || be64toh (head->lsn)
             != ((uint64_t)cycle_at (log, index) << 32 | block_at (log, index))
      || size > XLOG_RECORD_MAX || length == 0 || length > XLOG_RECORD_MAX
      || memcmp (head->uuid, log->xfs->super.uuid, sizeof head->uuid) != 0)
    return refuse (log->xfs->reading, "a record of the log is not in order");
  record->end
      = index + record->headers + (length + XLOG_BLOCK - 1) / XLOG_BLOCK;
  if (record->end > log->before)
    return refuse (log->xfs->reading, DIRTY);
  return 0;
}

static int
check_sum (const struct log *log, const struct record *record)
{
  if (is_summed (record, sizeof *record->head)
      || is_summed (record, XLOG_RECORD_32BIT))
    return 0;
  return refuse (log->xfs->reading, "a record of the log has a wrong checksum");
}

static int
find_last_record (const struct log *log, struct record *record)
{
  for (uint32_t i = log->before; i-- > 0;) {
    uint32_t magic;
    memcpy (&magic, log->ring + (size_t)i * XLOG_BLOCK, sizeof magic);
    if (be32toh (magic) != XLOG_MAGIC)
      continue;
    if (get_record (log, i, record) == -1)
      return -1;
    return record->end == log->before ? 0 : refuse (log->xfs->reading, DIRTY);
  }
  return refuse (log->xfs->reading, DIRTY);
}

/* What mkfs and xfs_repair write has no checksum. */
static bool
is_unmount (const struct record *record)
{
  const struct xlog_operation *operation
      = (const void *)((const uint8_t *)record->head
                       + (size_t)record->headers * XLOG_BLOCK);

  return be32toh (record->head->operations) == 1
         && operation->client == XLOG_CLIENT_LOG
         && operation->flags == XLOG_UNMOUNT;
}

/* --- frozen ----------------------------------------------------------------
 */

/* What the next operation has to be. */
enum state { START, HEAD, ITEM, SUPERBLOCK };

struct replay {
  const struct log *log;
  enum state state;
  uint32_t transaction;
  uint32_t first, count; /* chunks of the superblock that are logged */
};

/* The superblock, with nothing changed but its counters. */
static bool
is_superblock (const struct replay *replay, const uint8_t *data,
               uint32_t length)
{
  const struct xfs *xfs = replay->log->xfs;
  const uint32_t first = replay->first * XLOG_CHUNK;

  if (length != replay->count * XLOG_CHUNK)
    return false;
  for (uint32_t i = 0; i < length; i++) {
    const size_t at = first + i;
    if (data[i] != xfs->super_sector[at]
        && !(at >= offsetof (struct xfs_superblock, inodes)
             && at < offsetof (struct xfs_superblock, user_quota))
        && !(at >= offsetof (struct xfs_superblock, crc)
             && at < offsetof (struct xfs_superblock, sparse_alignment))
        && !(at >= offsetof (struct xfs_superblock, lsn)
             && at < offsetof (struct xfs_superblock, meta_uuid)))
      return false;
  }
  return true;
}

/* A buffer, which is the superblock, logged in one run of chunks. */
static bool
is_item (struct replay *replay, const uint8_t *data, uint32_t length)
{
  const struct xfs *xfs = replay->log->xfs;
  struct xlog_buffer buffer;

  if (length < sizeof buffer)
    return false;
  memcpy (&buffer, data, sizeof buffer);
  const uint32_t map = le32toh (buffer.map);
  if (le16toh (buffer.type) != XLOG_BUFFER || le16toh (buffer.size) != 2
      || (le16toh (buffer.flags) & XLOG_BUFFER_FLAGS) != 0
      || le16toh (buffer.sectors) != xfs->sector_size / XLOG_BLOCK
      || buffer.sector != 0 || map == 0)
    return false;
  replay->first = (uint32_t)__builtin_ctz (map);
  replay->count = (uint32_t)__builtin_popcount (map);
  return map >> replay->first == (UINT64_C (1) << replay->count) - 1
         && (replay->first + replay->count) * XLOG_CHUNK <= xfs->sector_size;
}

static bool
is_harmless (struct replay *replay, const struct xlog_operation *operation,
             const uint8_t *data)
{
  const uint32_t length = be32toh (operation->length);
  uint32_t magic;

  if (replay->state == START) {
    replay->transaction = operation->transaction;
    replay->state = HEAD;
    return operation->flags == XLOG_START && length == 0;
  }
  if (operation->transaction != replay->transaction)
    return false;
  if (replay->state == ITEM && operation->flags == XLOG_COMMIT) {
    replay->state = START;
    return length == 0;
  }
  if (operation->flags != 0)
    return false;
  if (replay->state == HEAD) {
    replay->state = ITEM;
    if (length != XLOG_TRANSACTION_SIZE)
      return false;
    /* Of the machine's byte order, like all items. */
    memcpy (&magic, data, sizeof magic);
    return le32toh (magic) == XLOG_TRANSACTION_MAGIC;
  }
  if (replay->state == ITEM) {
    replay->state = SUPERBLOCK;
    return is_item (replay, data, length);
  }
  replay->state = ITEM;
  return is_superblock (replay, data, length);
}

/* The first word of each block, which has the cycle instead, from the headers.
 */
static void
restore_words (const struct record *record, uint8_t *data)
{
  const uint8_t *head = (const void *)record->head;

  for (uint32_t i = 0; i * XLOG_BLOCK < record->length; i++) {
    const uint32_t header = i / XLOG_CYCLES, word = i % XLOG_CYCLES;
    const size_t at = header == 0 ? offsetof (struct xlog_record, cycles)
                                  : header * (size_t)XLOG_BLOCK
                                        + offsetof (struct xlog_more, cycles);
    memcpy (data + (size_t)i * XLOG_BLOCK, head + at + word * sizeof (uint32_t),
            sizeof (uint32_t));
  }
}

static bool
replay_record (struct replay *replay, const struct record *record,
               const uint8_t *data)
{
  const uint32_t operations = be32toh (record->head->operations);
  uint32_t at = 0;

  for (uint32_t i = 0; i < operations; i++) {
    const struct xlog_operation *operation = (const void *)(data + at);
    if (record->length - at < sizeof *operation)
      return false;
    at += (uint32_t)sizeof *operation;
    if (be32toh (operation->length) > record->length - at
        || !is_harmless (replay, operation, data + at))
      return false;
    at += be32toh (operation->length);
  }
  return true;
}

static int
check_replay (struct replay *replay, uint32_t index, uint8_t *data)
{
  const struct log *log = replay->log;
  struct record record;

  for (; index < log->before; index = record.end) {
    if (get_record (log, index, &record) == -1
        || check_sum (log, &record) == -1)
      return -1;
    /* More than its headers have words for. */
    if (record.length > record.headers * XLOG_HEADER_COVERS
        || be32toh (record.head->format) != XLOG_FORMAT_LITTLE)
      return refuse (log->xfs->reading, DIRTY);
    memcpy (data,
            (const uint8_t *)record.head + (size_t)record.headers * XLOG_BLOCK,
            record.length);
    restore_words (&record, data);
    if (!replay_record (replay, &record, data))
      return refuse (log->xfs->reading, DIRTY);
  }
  if (replay->state != START)
    return refuse (log->xfs->reading, DIRTY);
  log->xfs->frozen = true;
  return 0;
}

/* LAST says where the tail is. */
static int
check_frozen (const struct log *log, const struct record *last)
{
  struct replay replay = { .log = log };
  const uint64_t tail = be64toh (last->head->tail_lsn);
  const uint32_t block = (uint32_t)tail;

  if (block >= log->blocks
      || tail >> 32 != (block < log->head ? log->cycle : log->cycle_behind))
    return refuse (log->xfs->reading, "the log's tail is not in order");
  const uint32_t distance
      = (uint32_t)(((uint64_t)log->head + log->blocks - block) % log->blocks);
  if (distance == 0 || distance > log->before)
    return refuse (log->xfs->reading, DIRTY);
  uint8_t *data = malloc (XLOG_RECORD_MAX + XLOG_BLOCK);
  if (data == NULL)
    return refuse (log->xfs->reading, "no memory");
  const int r = check_replay (&replay, log->before - distance, data);
  free (data);
  return r;
}

static int
check_end (const struct log *log)
{
  struct record last;

  if (find_last_record (log, &last) == -1)
    return -1;
  if (!is_unmount (&last))
    return check_frozen (log, &last);
  return last.head->crc == 0 ? 0 : check_sum (log, &last);
}

int
xfs_check_log (struct xfs *xfs)
{
  const uint64_t start
      = (uint64_t)xfs->log_ag * xfs->ag_blocks + xfs->log_start;
  const uint64_t blocks
      = (uint64_t)xfs->log_blocks * xfs->block_size / XLOG_BLOCK;
  struct log log = { .xfs = xfs,
                     .offset = start * xfs->block_size,
                     .blocks = (uint32_t)blocks };

  if (blocks > INT32_MAX)
    return refuse (xfs->reading, "the log is out of bounds");
  int r = find_head (&log);
  if (r == 0)
    r = read_ring (&log);
  if (r == 0)
    r = check_end (&log);
  free (log.ring);
  return r;
}
