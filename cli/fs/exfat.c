/* SPDX-License-Identifier: BSD-3-Clause */

#include "reader.h"

static int
read_exfat (struct reading *reading)
{
  return refuse (reading, "there is no reader for it yet");
}

const struct reader reader_exfat = {
  .name = "exfat",
  .types = (const char *const[]){ "exfat", NULL },
  .read = read_exfat,
};
