/* SPDX-License-Identifier: BSD-3-Clause */
/* Errors: logged by nbdkit, and told to who asked on the control socket. */

#ifndef FSSNAP_REPORT_H
#define FSSNAP_REPORT_H

/* Log what went wrong, one line without its end.  errno stays as it is. */
void report_error (const char *format, ...)
    __attribute__ ((format (printf, 1, 2)));

/* From here to report_end, keep what this thread reports. */
void report_begin (void);

/* The first error reported since report_begin, to be freed by the caller;
 * NULL if there was none, or no memory for it.
 */
char *report_end (void);

#endif
