/* SPDX-License-Identifier: BSD-3-Clause */
/* What the kernel says of processes, mounts and loop devices. */

#ifndef FSSNAP_KERNEL_FACTS_H
#define FSSNAP_KERNEL_FACTS_H

#include <stdbool.h>
#include <sys/types.h>

/* Tests have some of their own. */
const char *sys_directory (void);
const char *dev_directory (void);

/* When the process was started, in the kernel's ticks, or 0 if there is none
 * or it has ended: with the pid it stands for one process only.
 */
long long process_start (pid_t pid);

/* The first line of a file, or NULL; from malloc. */
char *first_line (const char *path);

/* Call TAKE with each mount, the last one first, until that says true, which
 * is the result.
 */
bool each_mount (bool (*take) (void *context, const char *directory,
                               const char *source),
                 void *context);

/* The loop devices on FILE, with a newline after each; from malloc. */
char *loops_on (const char *file);

/* The processes that have the file or the block device open, as "dd (4711)",
 * with commas between; NULL if none that one can see; from malloc.
 */
char *users_of (const char *path);

#endif
