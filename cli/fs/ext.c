/* SPDX-License-Identifier: BSD-3-Clause */

#include "reader.h"

static int
read_ext (struct reading *reading)
{
  return refuse (reading, "there is no reader for it yet");
}

const struct reader reader_ext = {
  .name = "ext4",
  .types = (const char *const[]){ "ext2", "ext3", "ext4", NULL },
  .read = read_ext,
};
