/* SPDX-License-Identifier: BSD-3-Clause */

#include "cmocka-all.h"
#include "catalog-example.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static char **
two_files (const char *first, const char *second)
{
  char **files = calloc (2, sizeof *files);

  files[0] = strdup (first);
  files[1] = strdup (second);
  return files;
}

static struct catalog_layer *
older_layer (void)
{
  struct catalog_layer *layer = malloc (sizeof *layer);

  *layer = (struct catalog_layer){
    .number = 1,
    .name = strdup ("before-upgrade"),
    .created = 1700000000,
    .size = (UINT64_C (1) << 40) + 12345,
    .chunk_size = 65536,
    .maxsize = UINT64_C (1) << 30,
    .backfile_size = UINT64_C (600) << 30,
    .cow_timeout = 20,
    .durability = DURABILITY_WRITTEN,
    .level = DURABILITY_STABLE,
    .on_error = ON_ERROR_BREAK_SNAPSHOT,
    .files = two_files ("snapshot-1-0f7c3a52", "snapshot-1-0f7c3a52.1"),
    .parts = 2,
    .ephemeral = true,
    .broken_reason = strdup ("snapshot 1: write of 4096 bytes: no space"),
    .broken_errno = ENOSPC,
    .broken_time = 1700000100,
    .copied = 1,
    .waits = 2,
    .flush_errors = 3,
    .reads_origin = 4,
    .reads_memory = 5,
    .reads_backfile = INT64_MAX,
    .reads_free = 7,
    .chunks_copied = 8,
    .chunks_free = 9,
    .chunks_unreadable = 10,
  };
  uuid_parse ("0f7c3a52-9a1e-4c5c-8a4e-0123456789ab", layer->uuid);
  return layer;
}

static struct catalog_layer *
newer_layer (void)
{
  struct catalog_layer *layer = malloc (sizeof *layer);

  *layer = (struct catalog_layer){
    .number = 3,
    .created = -1,
    .chunk_size = 512,
    .cow_timeout = 86400,
    .durability = DURABILITY_ASYNC,
    .level = DURABILITY_ASYNC,
    .on_error = ON_ERROR_BREAK_WRITE,
    .files = two_files ("/mnt/other/back file", "/mnt/other/r\xe4tsel"),
    .parts = 2,
    .pending = true,
    .creating = true,
  };
  uuid_parse ("11111111-2222-3333-4444-555555555555", layer->uuid);
  return layer;
}

static struct catalog_files *
files_of (const char *first, const char *second)
{
  struct catalog_files *files = calloc (1, sizeof *files);

  uuid_generate_random (files->uuid);
  files->files = two_files (first, second);
  files->parts = 2;
  return files;
}

void
example_catalog (struct catalog *catalog)
{
  catalog_init (catalog);
  catalog->generation = 42;
  catalog->clean = true;
  strcpy (catalog->boot, "6f0a9d4e-92ee-4b0c-a8b7-d0b6a35d6d20");
  catalog->origin = (struct catalog_origin){
    .path = strdup ("/origin.img"),
    .identity = strdup ("8:1 1234 1700000000.5"),
    .size = UINT64_C (1) << 40,
    .mtime = -7,
    .mtime_ns = 999999999,
    .first_crc = 0xffffffff,
    .last_crc = 1,
    .sectors_written = 11,
    .disk_sequence = 12,
  };
  catalog->layers = older_layer ();
  catalog->layers->next = newer_layer ();
  catalog->making = files_of ("snapshot-4-00000000", "snapshot-4-00000000.1");
  catalog->removing = files_of ("snapshot-2-99999999", "/tmp/gone");
  catalog->removing->next = files_of ("snapshot-5-99999999", "x");
}

static void
assert_same_text (const char *a, const char *b)
{
  assert_true ((a == NULL) == (b == NULL));
  if (a != NULL)
    assert_string_equal (a, b);
}

static void
assert_same_names (char *const *a, unsigned a_count, char *const *b,
                   unsigned b_count)
{
  assert_int_equal (a_count, b_count);
  for (unsigned i = 0; i < a_count; i++)
    assert_string_equal (a[i], b[i]);
}

static void
assert_same_layer (const struct catalog_layer *a, const struct catalog_layer *b)
{
  assert_int_equal (uuid_compare (a->uuid, b->uuid), 0);
  assert_int_equal (a->number, b->number);
  assert_same_text (a->name, b->name);
  assert_int_equal (a->created, b->created);
  assert_int_equal (a->size, b->size);
  assert_int_equal (a->chunk_size, b->chunk_size);
  assert_int_equal (a->maxsize, b->maxsize);
  assert_int_equal (a->backfile_size, b->backfile_size);
  assert_int_equal (a->cow_timeout, b->cow_timeout);
  assert_int_equal (a->durability, b->durability);
  assert_int_equal (a->on_error, b->on_error);
  assert_int_equal (a->level, b->level);
  assert_same_names (a->files, a->parts, b->files, b->parts);
  assert_int_equal (a->pending, b->pending);
  assert_int_equal (a->creating, b->creating);
  assert_int_equal (a->ephemeral, b->ephemeral);
  assert_int_equal (a->deleted, b->deleted);
  assert_same_text (a->broken_reason, b->broken_reason);
  assert_int_equal (a->broken_errno, b->broken_errno);
  assert_int_equal (a->broken_time, b->broken_time);
  assert_int_equal (a->copied, b->copied);
  assert_int_equal (a->waits, b->waits);
  assert_int_equal (a->flush_errors, b->flush_errors);
  assert_int_equal (a->reads_origin, b->reads_origin);
  assert_int_equal (a->reads_memory, b->reads_memory);
  assert_int_equal (a->reads_backfile, b->reads_backfile);
  assert_int_equal (a->reads_free, b->reads_free);
  assert_int_equal (a->chunks_copied, b->chunks_copied);
  assert_int_equal (a->chunks_free, b->chunks_free);
  assert_int_equal (a->chunks_unreadable, b->chunks_unreadable);
}

static void
assert_same_files (const struct catalog_files *a, const struct catalog_files *b)
{
  for (; a != NULL && b != NULL; a = a->next, b = b->next) {
    assert_int_equal (uuid_compare (a->uuid, b->uuid), 0);
    assert_same_names (a->files, a->parts, b->files, b->parts);
  }
  assert_ptr_equal (a, b);
}

void
assert_same_catalog (const struct catalog *a, const struct catalog *b)
{
  const struct catalog_layer *x = a->layers, *y = b->layers;

  assert_int_equal (uuid_compare (a->store, b->store), 0);
  assert_int_equal (a->generation, b->generation);
  assert_int_equal (a->clean, b->clean);
  assert_string_equal (a->boot, b->boot);
  assert_same_text (a->origin.path, b->origin.path);
  assert_same_text (a->origin.identity, b->origin.identity);
  assert_int_equal (a->origin.size, b->origin.size);
  assert_int_equal (a->origin.mtime, b->origin.mtime);
  assert_int_equal (a->origin.mtime_ns, b->origin.mtime_ns);
  assert_int_equal (a->origin.first_crc, b->origin.first_crc);
  assert_int_equal (a->origin.last_crc, b->origin.last_crc);
  assert_int_equal (a->origin.sectors_written, b->origin.sectors_written);
  assert_int_equal (a->origin.disk_sequence, b->origin.disk_sequence);
  for (; x != NULL && y != NULL; x = x->next, y = y->next)
    assert_same_layer (x, y);
  assert_ptr_equal (x, y);
  assert_same_files (a->making, b->making);
  assert_same_files (a->removing, b->removing);
}
