/* SPDX-License-Identifier: BSD-3-Clause */

#include "reader.h"

static int
read_xfs (struct reading *reading)
{
  return refuse (reading, "there is no reader for it yet");
}

const struct reader reader_xfs = {
  .name = "xfs",
  .types = (const char *const[]){ "xfs", NULL },
  .read = read_xfs,
};
