/* SPDX-License-Identifier: BSD-3-Clause */

#include "reader.h"

static int
read_btrfs (struct reading *reading)
{
  return refuse (reading, "there is no reader for it yet");
}

const struct reader reader_btrfs = {
  .name = "btrfs",
  .types = (const char *const[]){ "btrfs", NULL },
  .read = read_btrfs,
};
