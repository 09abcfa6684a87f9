/* SPDX-License-Identifier: BSD-3-Clause */
/* A directory for a test that needs files with names.  It is removed, with
 * all that is in it, by scratch_remove and, if that is not reached, when the
 * program ends, also by abort.
 */

#ifndef FSSNAP_SCRATCH_H
#define FSSNAP_SCRATCH_H

/* The directory, made by the first call. */
const char *scratch_directory (void);

/* The path of NAME in it, good until the next few calls. */
const char *scratch_path (const char *name);

/* How many files are in it. */
unsigned scratch_files (void);

void scratch_remove (void);

#endif
