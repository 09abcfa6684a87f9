/* SPDX-License-Identifier: BSD-3-Clause */
/* A look at, and a hand in, every call the core makes that can fail or
 * wait.  The linker sends those calls here (meson.build has the list).
 */

#ifndef FSSNAP_CALL_HOOK_H
#define FSSNAP_CALL_HOOK_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

enum call {
  CALL_OPEN, /* also openat */
  CALL_PREAD,
  CALL_PWRITE,
  CALL_PWRITEV,
  CALL_PWRITEV2,
  CALL_FALLOCATE,
  CALL_FTRUNCATE,
  CALL_FDATASYNC,
  CALL_LSEEK,
  CALL_FSTAT,
  CALL_FCNTL,
  CALL_UNLINK, /* also unlinkat */
  CALL_FSYNC,
  CALL_RENAME,
  CALL_RENAME2, /* with flags */
  CALL_MEMORY,  /* malloc, calloc, aligned_alloc, mmap; COUNT bytes */
  CALL_WAIT,    /* pthread_cond_wait and timedwait, their lock is held;
                   sem_clockwait; COUNT is 1 if there is a deadline */
};

struct call_event {
  enum call call;
  int fd; /* -1 if there is none */
  uint64_t offset, count;
};

/* What is to become of the call; all zeros: it goes on. */
struct call_verdict {
  int error;     /* fail with this errno */
  uint64_t most; /* transfer at most so many bytes; 0: no limit */
};

typedef struct call_verdict (*call_hook) (const struct call_event *event);

/* Ask HOOK before each call from now on, on the thread that makes it; NULL:
 * nobody.  What the hook itself calls asks nobody.
 */
void call_hook_set (call_hook hook);

/* On this thread, no hook is asked while this is true.  Volatile, since the
 * compiler knows that malloc does not look at it.
 */
extern _Thread_local volatile bool call_hook_off;

/* A condition variable that is watched, whatever the hook: does a thread
 * wait for it, and how often did one begin to?  Guarded by the mutex that it
 * is used with; CHANGED is signalled with it held.
 */
struct call_watch {
  pthread_cond_t *_Atomic cond; /* NULL: none; set while nobody uses it */
  pthread_cond_t changed;
  bool asleep;
  unsigned sleeps;
};
extern struct call_watch call_watch;

#endif
