/* SPDX-License-Identifier: BSD-3-Clause */

#include "fixture.h"
#include "faultfs.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/inotify.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ARGUMENTS_MAX 32

/* What goes with a test. */
struct kept {
  void *what;
  void (*release) (void *what);
};

/* What a signal that ends the program has to clean up. */
static struct fixture *current;

/* The server's log, for who looks why a test has failed. */
static void
show_log (const struct fixture *f)
{
  char line[512];
  FILE *log = fopen (f->server.log, "re");

  if (log == NULL)
    return;
  while (fgets (line, sizeof line, log) != NULL)
    fputs (line, stderr);
  fclose (log);
}

/* Servers that went into the background are children of this process, for
 * it is a subreaper.
 */
static void
end_children (void)
{
  char path[64];
  pid_t pid;

  snprintf (path, sizeof path, "/proc/self/task/%ld/children", (long)getpid ());
  FILE *children = fopen (path, "re");
  while (children != NULL && fscanf (children, "%d", &pid) == 1) {
    kill (pid, SIGKILL);
    waitpid (pid, NULL, 0);
  }
  if (children != NULL)
    fclose (children);
}

static void
let_go (struct fixture *f)
{
  if (getenv ("FSSNAP_TEST_LOG") != NULL)
    show_log (f);
  for (unsigned i = 0; i < f->handle_count; i++)
    nbd_close (f->handles[i]);
  f->handle_count = 0;
  /* First the store: a server that waits for it cannot even be killed. */
  if (f->faults != NULL)
    faultfs_unmount (f->faults);
  f->faults = NULL;
  if (f->server.pid > 0) {
    kill (f->server.pid, SIGKILL);
    server_wait (&f->server);
  }
  end_children ();
  if (f->mount[0] != '\0')
    umount2 (f->mount, MNT_DETACH);
  f->mount[0] = '\0';
  server_clean_up (&f->server);
}

static void
on_signal (int signal)
{
  /* A second one shall find nothing to do. */
  struct fixture *f = current;
  current = NULL;
  if (f != NULL)
    let_go (f);
  _exit (128 + signal);
}

__attribute__ ((constructor)) static void
choose_tests (void)
{
  cmocka_set_test_filter (getenv ("FSSNAP_TEST_ONLY"));
}

int
fixture_set_up (void **state)
{
  const struct variant *variant = *state;
  struct fixture *f = calloc (1, sizeof *f);

  if (f == NULL)
    return -1;
  f->variant = variant;
  if (variant != NULL && variant->directory != NULL)
    setenv ("FSSNAP_TEST_DIR", variant->directory, 1);
  prctl (PR_SET_CHILD_SUBREAPER, 1);
  signal (SIGTERM, on_signal);
  signal (SIGINT, on_signal);
  signal (SIGPIPE, SIG_IGN);
  server_prepare (&f->server);
  current = f;
  snprintf (f->image, sizeof f->image, "%s/disk.img", f->server.dir);
  *state = f;
  return 0;
}

void
forget (struct fixture *f, size_t count)
{
  while (f->kept_count > count) {
    const struct kept *last = &f->kept[--f->kept_count];
    last->release (last->what);
  }
}

int
fixture_tear_down (void **state)
{
  struct fixture *f = *state;

  let_go (f);
  current = NULL;
  forget (f, 0);
  free (f->kept);
  free (f);
  return 0;
}

int
run_variants (const char *group, const struct CMUnitTest *tests,
              size_t test_count, const struct variant *variants,
              size_t variant_count)
{
  struct CMUnitTest *all = calloc (test_count * variant_count, sizeof *all);
  size_t n = 0;
  char *name;

  if (all == NULL)
    return 1;
  for (size_t v = 0; v < variant_count; v++)
    for (size_t t = 0; t < test_count; t++, n++) {
      if (asprintf (&name, "%s [%s]", tests[t].name, variants[v].name) == -1)
        return 1;
      all[n] = tests[t];
      all[n].name = name;
      /* cmocka hands it on as the test's state; nobody changes it. */
      all[n].initial_state = (void *)(uintptr_t)&variants[v];
    }
  const int failures = _cmocka_run_group_tests (group, all, n, NULL, NULL);
  while (n > 0)
    free ((void *)(uintptr_t)all[--n].name);
  free (all);
  return failures;
}

bool
private_mounts (void)
{
  return unshare (CLONE_NEWNS) == 0
         && mount (NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0;
}

void
keep (struct fixture *f, void *what, void (*release) (void *what))
{
  struct kept *kept
      = reallocarray (f->kept, f->kept_count + 1, sizeof *f->kept);

  assert_non_null (kept);
  f->kept = kept;
  f->kept[f->kept_count++] = (struct kept){ what, release };
}

void *
scratch (struct fixture *f, size_t bytes)
{
  void *p = calloc (1, bytes > 0 ? bytes : 1);

  assert_non_null (p);
  keep (f, p, free);
  return p;
}

const char *
text (struct fixture *f, const char *format, ...)
{
  char *p = scratch (f, 512);
  va_list args;

  va_start (args, format);
  const int n = vsnprintf (p, 512, format, args);
  va_end (args);
  assert_in_range (n, 0, 511);
  return p;
}

uint8_t *
pattern (struct fixture *f, unsigned seed, uint64_t offset, size_t count)
{
  uint8_t *p = scratch (f, count);

  for (size_t i = 0; i < count; i++) {
    uint64_t x = (offset + i) * UINT64_C (0x9e3779b97f4a7c15)
                 + seed * UINT64_C (0xbf58476d1ce4e5b9);
    x ^= x >> 29;
    x *= UINT64_C (0x94d049bb133111eb);
    p[i] = (uint8_t)(1 + (x >> 32) % 255);
  }
  return p;
}

uint8_t *
make_image (struct fixture *f, uint64_t size)
{
  uint8_t *content = pattern (f, 1, 0, size);
  FILE *file = fopen (f->image, "we");

  assert_non_null (file);
  assert_int_equal (fwrite (content, 1, size, file), size);
  assert_int_equal (fclose (file), 0);
  f->size = size;
  return content;
}

void
start (struct fixture *f, ...)
{
  const char *parameters[ARGUMENTS_MAX];
  unsigned n = 0;
  va_list args;

  parameters[n++] = text (f, "origin=%s", f->image);
  for (unsigned i = 0; f->variant != NULL && f->variant->parameters[i] != NULL;
       i++)
    parameters[n++] = f->variant->parameters[i];
  va_start (args, f);
  do {
    assert_true (n < ARGUMENTS_MAX);
    parameters[n] = va_arg (args, const char *);
  } while (parameters[n++] != NULL);
  va_end (args);
  server_start (&f->server, parameters);
}

void
stop (struct fixture *f)
{
  while (f->handle_count > 0)
    nbd_close (f->handles[--f->handle_count]);
  assert_int_equal (server_stop (&f->server), 0);
}

struct nbd_handle *
new_handle (struct fixture *f)
{
  struct nbd_handle *nbd = nbd_create ();

  assert_non_null (nbd);
  assert_true (f->handle_count < sizeof f->handles / sizeof *f->handles);
  f->handles[f->handle_count++] = nbd;
  return nbd;
}

struct nbd_handle *
connect_to (struct fixture *f, const char *export)
{
  struct nbd_handle *nbd = new_handle (f);

  ok (nbd_add_meta_context (nbd, LIBNBD_CONTEXT_BASE_ALLOCATION));
  ok (nbd_set_full_info (nbd, true));
  ok (nbd_set_export_name (nbd, export));
  ok (nbd_connect_unix (nbd, f->server.socket));
  return nbd;
}

void
assert_ok (bool good, const char *call, const char *file, int line)
{
  if (!good) {
    print_error ("%s: %s\n", call, nbd_get_error ());
    _fail (file, line);
  }
}

void
assert_fails (bool failed, int err, const char *call, const char *file,
              int line)
{
  const int got = nbd_get_errno ();

  if (failed && got == err)
    return;
  print_error ("%s: must fail with %s, but %s\n", call, strerror (err),
               failed ? strerror (got) : "succeeded");
  _fail (file, line);
}

static void
assert_same (const uint8_t *got, const uint8_t *expected, uint64_t offset,
             size_t count, const char *file, int line)
{
  for (size_t i = 0; i < count; i++)
    if (got[i] != expected[i]) {
      print_error ("byte %" PRIu64 " is 0x%02x, expected 0x%02x\n", offset + i,
                   got[i], expected[i]);
      _fail (file, line);
    }
}

void
assert_reads (struct nbd_handle *nbd, uint64_t offset, const uint8_t *expected,
              size_t count, const char *file, int line)
{
  uint8_t *got = malloc (count);

  /* Requests of more than that are refused. */
  for (size_t at = 0, n; at < count; at += n) {
    n = count - at < 32 << 20 ? count - at : 32 << 20;
    if (nbd_pread (nbd, got + at, n, offset + at, 0) == -1) {
      free (got);
      print_error ("read of %zu bytes at %" PRIu64 ": %s\n", n, offset + at,
                   nbd_get_error ());
      _fail (file, line);
    }
  }
  if (memcmp (got, expected, count) != 0)
    assert_same (got, expected, offset, count, file, line);
  free (got);
}

void
assert_file (const char *path, uint64_t offset, const uint8_t *expected,
             size_t count, const char *file, int line)
{
  uint8_t *got = malloc (count);
  const int fd = open (path, O_RDONLY | O_CLOEXEC);
  const ssize_t r = pread (fd, got, count, (off_t)offset);

  close (fd);
  if (r != (ssize_t)count) {
    print_error ("%s: read of %zu bytes at %" PRIu64 ": %zd\n", path, count,
                 offset, r);
    _fail (file, line);
  }
  if (memcmp (got, expected, count) != 0)
    assert_same (got, expected, offset, count, file, line);
  free (got);
}

double
now (void)
{
  struct timespec t;

  clock_gettime (CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

void
await_log (const struct server *server, const char *words, unsigned seconds)
{
  const double end = now () + seconds;
  const int fd = inotify_init1 (IN_CLOEXEC | IN_NONBLOCK);
  struct pollfd pollfd = { .fd = fd, .events = POLLIN };
  char events[4096];

  assert_int_not_equal (fd, -1);
  assert_int_not_equal (inotify_add_watch (fd, server->log, IN_MODIFY), -1);
  while (server_logged (server, words) == 0) {
    const double left = end - now ();
    if (left < 0 || poll (&pollfd, 1, (int)(left * 1000) + 1) == 0)
      break;
    (void)!read (fd, events, sizeof events);
  }
  close (fd);
  if (server_logged (server, words) == 0)
    fail_msg ("not in the log after %u s: %s", seconds, words);
}

bool
ends (pid_t pid, unsigned seconds)
{
  const int fd = (int)syscall (SYS_pidfd_open, pid, 0);
  struct pollfd pollfd = { .fd = fd, .events = POLLIN };

  assert_int_not_equal (fd, -1);
  const int r = poll (&pollfd, 1, (int)seconds * 1000);
  close (fd);
  return r == 1;
}

struct wanted {
  const char *name;
  char *found;
};

static int
see_export (void *opaque, const char *name, const char *text_of_it)
{
  struct wanted *wanted = opaque;

  if (strcmp (name, wanted->name) == 0)
    snprintf (wanted->found, 512, "%s", text_of_it);
  return 0;
}

const char *
description (struct fixture *f, const char *export)
{
  struct wanted wanted = { .name = export, .found = scratch (f, 512) };
  struct nbd_handle *nbd = nbd_create ();

  assert_non_null (nbd);
  ok (nbd_set_opt_mode (nbd, true));
  ok (nbd_connect_unix (nbd, f->server.socket));
  ok (nbd_opt_list (nbd, (nbd_list_callback){ .callback = see_export,
                                              .user_data = &wanted }));
  ok (nbd_opt_abort (nbd));
  nbd_close (nbd);
  return wanted.found;
}

struct collected {
  uint64_t offset, end;
  struct extent *extents;
  unsigned count, max;
};

static int
see_extents (void *opaque, const char *context, uint64_t offset,
             uint32_t *entries, size_t nr_entries, int *error)
{
  struct collected *c = opaque;

  (void)context;
  (void)error;
  if (offset != c->offset)
    return -1;
  for (size_t i = 0; i + 1 < nr_entries && c->offset < c->end; i += 2) {
    uint64_t length = entries[i];
    if (length > c->end - c->offset)
      length = c->end - c->offset;
    struct extent *last = &c->extents[c->count - 1];
    if (c->count > 0 && last->flags == entries[i + 1])
      last->length += length;
    else if (c->count == c->max)
      return -1;
    else
      c->extents[c->count++] = (struct extent){ .offset = c->offset,
                                                .length = length,
                                                .flags = entries[i + 1] };
    c->offset += length;
  }
  return 0;
}

unsigned
extents_of (struct nbd_handle *nbd, uint64_t offset, uint64_t count,
            struct extent *extents, unsigned max)
{
  struct collected c = {
    .offset = offset, .end = offset + count, .extents = extents, .max = max
  };

  while (c.offset < c.end) {
    const uint64_t before = c.offset;
    ok (nbd_block_status (
        nbd, c.end - c.offset, c.offset,
        (nbd_extent_callback){ .callback = see_extents, .user_data = &c }, 0));
    assert_true (c.offset > before);
  }
  return c.count;
}

/* In the child: become nbdkit.  A server that comes up although it should
 * not is ended by the alarm.
 */
static void
exec_nbdkit (const char *out, const char *err, char *const *argv)
{
  const char *preload = getenv ("FSSNAP_PRELOAD");
  const int in = open ("/dev/null", O_RDONLY);

  dup2 (in, STDIN_FILENO);
  dup2 (open (out, O_WRONLY | O_CREAT | O_TRUNC, 0600), STDOUT_FILENO);
  dup2 (open (err, O_WRONLY | O_CREAT | O_TRUNC, 0600), STDERR_FILENO);
  if (preload != NULL && *preload != '\0')
    setenv ("LD_PRELOAD", preload, 1);
  alarm (20);
  execvp (argv[0], argv);
  _exit (127);
}

static void
slurp (const char *path, char *buf, size_t size)
{
  FILE *file = fopen (path, "re");

  assert_non_null (file);
  buf[fread (buf, 1, size - 1, file)] = '\0';
  fclose (file);
}

const struct outcome *
run_nbdkit (struct fixture *f, ...)
{
  const char *out = text (f, "%s/out", f->server.dir);
  const char *err = text (f, "%s/err", f->server.dir);
  struct outcome *outcome = scratch (f, sizeof *outcome);
  const char *argv[ARGUMENTS_MAX] = { "nbdkit" };
  unsigned n = 1;
  va_list args;

  va_start (args, f);
  do {
    assert_true (n < ARGUMENTS_MAX);
    argv[n] = va_arg (args, const char *);
  } while (argv[n++] != NULL);
  va_end (args);
  /* For "-U -" nbdkit makes a directory, which one that is refused leaves. */
  if (strcmp (argv[1], "-U") == 0 && strcmp (argv[2], "-") == 0)
    argv[2] = text (f, "%s/nbd.%u", f->server.dir, f->runs++);

  const pid_t pid = fork ();
  assert_int_not_equal (pid, -1);
  if (pid == 0)
    exec_nbdkit (out, err, (char *const *)(uintptr_t)argv);
  assert_int_equal (waitpid (pid, &outcome->status, 0), pid);
  slurp (out, outcome->out, sizeof outcome->out);
  slurp (err, outcome->err, sizeof outcome->err);
  return outcome;
}

void
assert_refused (const struct outcome *outcome, const char *const *words,
                const char *file, int line)
{
  const char *newline = strchr (outcome->err, '\n');
  bool good = WIFEXITED (outcome->status) && WEXITSTATUS (outcome->status) == 1
              && newline != NULL && newline[1] == '\0';

  for (; good && *words != NULL; words++)
    if (strstr (outcome->err, *words) == NULL) {
      print_error ("missing: %s\n", *words);
      good = false;
    }
  if (!good) {
    print_error ("wait status 0x%x, stderr:\n%s", outcome->status,
                 outcome->err);
    _fail (file, line);
  }
}
