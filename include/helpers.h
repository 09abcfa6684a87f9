/* SPDX-License-Identifier: BSD-3-Clause */
/* The flusher's helpers: threads that write one job each, for what cannot
 * wait for the flusher's own thread.
 *
 * A job that somebody waits for is done with two wakes: of the thread that
 * writes it and of who waits.  By way of the flusher and its engine there are
 * four.  And what comes faster than the flusher writes is written beside it.
 *
 * Threads are started as they are needed, and end when they have had nothing
 * to do for a while.
 */

#ifndef FSSNAP_HELPERS_H
#define FSSNAP_HELPERS_H

#include "engine.h"
#include "flusher.h"

#include <stdbool.h>
#include <stddef.h>

struct helpers;

/* Helpers without threads yet, that write with WRITE (see engine.h).  Once
 * writes of MOST bytes are under way no more are begun.  When they have ended,
 * ENDED is called with ARG, on a helper's thread.  NULL with errno.
 */
struct helpers *helpers_create (engine_write *write, size_t most,
                                void (*ended) (void *arg), void *arg);

/* Queue a job, which has data.  False: there is nobody to do it, or it was
 * cancelled; then it is still the caller's.  Never blocks on I/O.
 */
bool helpers_submit (struct helpers *helpers, struct flush_job *job);

/* Fail what is queued with ECANCELED, if it was cancelled. */
void helpers_end_cancelled (struct helpers *helpers);

/* Take no more jobs, and fail what is queued with ECANCELED.  True: nothing is
 * under way any more; else ENDED is called once that is so.
 */
bool helpers_stop (struct helpers *helpers);

/* Nobody may use them, and they must have ended. */
void helpers_free (struct helpers *helpers);

#endif
