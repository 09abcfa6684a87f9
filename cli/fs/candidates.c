/* SPDX-License-Identifier: BSD-3-Clause */

#include "candidates.h"
#include "output.h"
#include "probe.h"
#include "scoped.h"

#include <stdlib.h>
#include <string.h>

static const struct reader *const readers[] = {
  &reader_btrfs, &reader_exfat, &reader_ext, &reader_fat,
  &reader_ntfs,  &reader_swap,  &reader_xfs,
};

/* On what is no larger than a floppy disk libblkid looks for no RAID. */
#define TINY 1474560

#define N_READERS (sizeof readers / sizeof readers[0])

const struct reader *
reader_of (const char *name)
{
  for (size_t i = 0; i < N_READERS; i++) {
    if (strcmp (readers[i]->name, name) == 0)
      return readers[i];
    for (const char *const *type = readers[i]->types; *type != NULL; type++)
      if (strcmp (*type, name) == 0)
        return readers[i];
  }
  return NULL;
}

static void
tell_kept (const struct teller *teller, struct finding finding, uint64_t size,
           const char *why)
{
  finding.size = size;
  finding.why = why;
  teller->found (teller->arg, &finding);
}

/* FINDING says where SOURCE begins, and what is in it. */
static void
read_one (struct source *source, const struct reader *reader,
          struct finding finding, const struct teller *teller)
{
  struct freemap map = {};
  struct reading reading = { .source = source, .free = &map };

  if (reader->read (&reading) == -1) {
    tell_kept (teller, finding, source->size,
               reading.why != NULL ? reading.why : "no memory");
    free (reading.why);
    freemap_free (&map);
    return;
  }
  freemap_settle (&map);
  finding.size = reading.size;
  finding.free = freemap_bytes (&map);
  for (size_t i = 0; i < map.count; i++)
    map.extents[i].offset += finding.offset;
  teller->found (teller->arg, &finding);
  teller->free (teller->arg, map.extents, map.count);
  freemap_free (&map);
}

/* By what libblkid says. */
static void
read_probed (struct source *source, const struct probed *probed,
             struct finding finding, const struct teller *teller)
{
  const struct reader *reader
      = probed->type != NULL ? reader_of (probed->type) : NULL;

  finding.type = probed->type != NULL ? probed->type : "unknown";
  if (probed->why != NULL)
    tell_kept (teller, finding, source->size, probed->why);
  /* A boot sector, exFAT's for one, looks like a table without partitions. */
  else if (probed->type != NULL && probed->table != NULL && probed->count > 0)
    tell_kept (teller, finding, source->size,
               "there is a partition table, too");
  else if (source->size <= TINY)
    tell_kept (teller, finding, source->size,
               "it is too small to be sure of what it is");
  else if (probed->type == NULL)
    tell_kept (teller, finding, source->size, "nothing known is there");
  else if (reader == NULL)
    tell_kept (teller, finding, source->size,
               "its free space is not told from the rest");
  else
    read_one (source, reader, finding, teller);
}

static void
read_partition (struct source *whole, const struct partition *partition,
                const struct teller *teller)
{
  const struct finding finding
      = { .partition = partition->number, .offset = partition->offset };
  struct source *source
      = source_part (whole, partition->offset, partition->size);

  if (source == NULL)
    no_memory ();
  struct probed probed = probe (source);
  /* A table within a partition is a virtual machine's: not looked into. */
  read_probed (source, &probed, finding, teller);
  probed_free (&probed);
  source_close (source);
}

void
candidates_find (struct source *source, const struct reader *only,
                 const struct teller *teller)
{
  if (only != NULL) {
    read_one (source, only, (struct finding){ .type = only->name }, teller);
    return;
  }
  struct probed probed = probe (source);
  if (probed.type == NULL && probed.table != NULL && probed.why == NULL)
    for (size_t i = 0; i < probed.count; i++)
      read_partition (source, &probed.partitions[i], teller);
  else
    read_probed (source, &probed, (struct finding){}, teller);
  probed_free (&probed);
}
