/* SPDX-License-Identifier: BSD-3-Clause */

#include "reader.h"

static int
read_fat (struct reading *reading)
{
  return refuse (reading, "there is no reader for it yet");
}

const struct reader reader_fat = {
  .name = "vfat",
  .types = (const char *const[]){ "vfat", NULL },
  .read = read_fat,
};
