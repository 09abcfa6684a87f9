/* SPDX-License-Identifier: BSD-3-Clause */

#include "reader.h"

static int
read_ntfs (struct reading *reading)
{
  return refuse (reading, "there is no reader for it yet");
}

const struct reader reader_ntfs = {
  .name = "ntfs",
  .types = (const char *const[]){ "ntfs", NULL },
  .read = read_ntfs,
};
