/* SPDX-License-Identifier: BSD-3-Clause */
/* What the parts of the recorder, a preloaded library, know of each other. */

#ifndef FSSNAP_TEST_POWER_RECORD_H
#define FSSNAP_TEST_POWER_RECORD_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

/* End the server: it did what cannot be recorded. */
__attribute__ ((format (printf, 1, 2), noreturn)) void
power_give_up (const char *format, ...);

/* Whether the file is one of those to be watched; then *INO. */
bool power_watched (int fd, uint64_t *ino);

/* What a path leads to. */
struct power_place {
  uint64_t directory; /* its inode */
  char name[NAME_MAX + 1];
  bool exists;
  uint64_t ino; /* of what is there */
};

/* False: it is none to be watched, or leads nowhere. */
bool power_locate (int at, const char *path, struct power_place *place);

/* The file to open instead of PATH: another boot's id, or PATH itself. */
const char *power_boot_path (const char *path);

#endif
