/* SPDX-License-Identifier: BSD-3-Clause */
/* Other programs, run with a vector of arguments and never by a shell. */

#ifndef FSSNAP_RUN_PROGRAM_H
#define FSSNAP_RUN_PROGRAM_H

#include <stdbool.h>
#include <sys/types.h>

/* From here on Ctrl-C, SIGTERM and SIGHUP do not end this process but what it
 * waits for: interrupted () says so, and there is time to undo.
 */
void programs_begin (void);
bool interrupted (void);

/* What is undone is not interrupted, nor are the programs that help. */
void programs_undo (void);

/* Is there such a program on the path? */
bool program_exists (const char *name);

/* "'NAME' is missing: install the package ..." */
void complain_missing (const char *name);

/* Run it to its end; what it prints goes to standard error, or to the file LOG
 * if that is not NULL.  Its exit status, or -1 after a message.
 */
int program_run (const char *const argv[], const char *log);

/* The same, but the first line it prints is returned, from malloc: NULL if it
 * failed, after a message.
 */
char *program_line (const char *const argv[]);

/* Start it as a process of its own that outlives this one, and print to LOG,
 * which does not grow without limit.  Its pid, or -1 after a message.
 */
pid_t program_start (const char *const argv[], const char *log);

/* Show what a program wrote to LOG. */
void show_log (const char *log);

/* Some milliseconds; false if they were interrupted. */
bool pause_for (unsigned milliseconds);

#endif
