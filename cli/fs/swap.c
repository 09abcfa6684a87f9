/* SPDX-License-Identifier: BSD-3-Clause */

#include "reader.h"

static int
read_swap (struct reading *reading)
{
  return refuse (reading, "there is no reader for it yet");
}

const struct reader reader_swap = {
  .name = "swap",
  .types = (const char *const[]){ "swap", NULL },
  .read = read_swap,
};
