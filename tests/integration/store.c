/* SPDX-License-Identifier: BSD-3-Clause */

#include "store.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/inotify.h>
#include <unistd.h>

/* Seconds for a server under load, with a sanitizer. */
#define PATIENCE 60

/* --- starting and ending ------------------------------------------------- */

const char *
store_directory (struct fixture *f)
{
  return text (f, "%s/store", f->server.dir);
}

const char *
store_parameter (struct fixture *f)
{
  return text (f, "store=%s", store_directory (f));
}

struct world
new_world (struct fixture *f)
{
  return (struct world){ .f = f, .live = make_image (f, SIZE), .seed = 1 };
}

void
clear_log (struct fixture *f)
{
  if (truncate (f->server.log, 0) == -1)
    assert_int_equal (errno, ENOENT);
}

void
meet (struct world *w)
{
  w->c = control_connect (w->f, NULL);
  w->origin = connect_to (w->f, "");
}

static void
leave (struct world *w)
{
  control_close (w->c);
  while (w->f->handle_count > 0)
    nbd_close (w->f->handles[--w->f->handle_count]);
}

void
end (struct world *w, enum ending ending)
{
  static const char *const names[]
      = { "stopped", "killed", "killed while ending" };
  struct server *server = &w->f->server;

  print_message ("%s\n", names[ending]);
  switch (ending) {
  case STOPPED:
    leave (w);
    stop (w->f);
    return;
  case KILLED_WHILE_ENDING:
    kill (server->pid, SIGTERM);
    await_safety (w->f);
    break;
  case KILLED:
    break;
  }
  kill (server->pid, SIGKILL);
  server_wait (server);
  leave (w);
}

void
restart (struct world *w, enum ending ending)
{
  end (w, ending);
  open_store (w);
}

bool
has_level (const struct fixture *f, const char *level)
{
  const char *const *parameters = f->variant->parameters;

  for (; *parameters != NULL; parameters++)
    if (strncmp (*parameters, "durability=", 11) == 0)
      return strcmp (*parameters + 11, level) == 0;
  return false;
}

/* --- the catalogue ------------------------------------------------------- */

static int
open_directory (const char *path)
{
  const int fd = open (path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

  if (fd == -1)
    fail_msg ("%s: %s", path, strerror (errno));
  return fd;
}

static void
release_catalog (void *what)
{
  catalog_free (what);
  free (what);
}

/* NULL: it cannot be read, as when it is being replaced. */
static struct catalog *
try_catalog (struct fixture *f)
{
  const int fd = open_directory (store_directory (f));
  struct catalog *catalog = calloc (1, sizeof *catalog);
  char *why = NULL;

  assert_non_null (catalog);
  const int r = catalog_read (fd, catalog, &why);
  close (fd);
  if (why != catalog_no_memory)
    free (why);
  if (r == 0)
    keep (f, catalog, release_catalog);
  else
    free (catalog);
  return r == 0 ? catalog : NULL;
}

/* Look at the catalogue each time that something changes in the store, until
 * it is as WANTED.
 */
static const struct catalog *
await_catalog (struct fixture *f, bool (*wanted) (const struct catalog *))
{
  const double limit = now () + PATIENCE;
  const int fd = inotify_init1 (IN_CLOEXEC | IN_NONBLOCK);
  struct pollfd pollfd = { .fd = fd, .events = POLLIN };
  const size_t kept = f->kept_count;
  const struct catalog *catalog;
  char events[4096];

  assert_int_not_equal (fd, -1);
  assert_int_not_equal (
      inotify_add_watch (fd, store_directory (f), IN_ALL_EVENTS), -1);
  while ((catalog = try_catalog (f)) == NULL || !wanted (catalog)) {
    forget (f, kept);
    const double left = limit - now ();
    if (left < 0 || poll (&pollfd, 1, (int)(left * 1000) + 1) == 0)
      fail_msg ("the catalogue does not become what it must");
    while (read (fd, events, sizeof events) > 0)
      ;
  }
  close (fd);
  return catalog;
}

static bool
is_anything (const struct catalog *catalog)
{
  (void)catalog;
  return true;
}

const struct catalog *
read_catalog (struct fixture *f)
{
  return await_catalog (f, is_anything);
}

static bool
is_safe (const struct catalog *catalog)
{
  const struct catalog_layer *layer;

  for (layer = catalog->layers; layer != NULL; layer = layer->next)
    if (layer->broken_reason == NULL && layer->level != DURABILITY_STABLE)
      return false;
  return true;
}

void
await_safety (struct fixture *f)
{
  await_catalog (f, is_safe);
}

void
edit_catalog (struct fixture *f,
              void (*edit) (struct catalog *catalog, void *arg), void *arg)
{
  const int fd = open_directory (store_directory (f));
  struct catalog catalog;
  char *why = NULL;

  if (catalog_read (fd, &catalog, &why) == -1)
    fail_msg ("the catalogue %s", why);
  edit (&catalog, arg);
  if (catalog_write (fd, &catalog, &why) == -1)
    fail_msg ("the catalogue %s", why);
  catalog_free (&catalog);
  close (fd);
}

static void
set_boot (struct catalog *catalog, void *arg)
{
  (void)arg;
  snprintf (catalog->boot, sizeof catalog->boot,
            "00000000-1111-2222-3333-444444444444");
}

void
lose_power (struct fixture *f)
{
  edit_catalog (f, set_boot, NULL);
}

struct catalog_layer *
layer_of (struct fixture *f, const struct catalog *catalog, int number)
{
  struct catalog_layer *layer;

  (void)f;
  for (layer = catalog->layers; layer != NULL; layer = layer->next)
    if (!layer->deleted && layer->number == (unsigned)number)
      return layer;
  fail_msg ("snapshot %d is not in the catalogue", number);
  return NULL;
}

const char *
part_of (struct fixture *f, int number, unsigned part)
{
  const struct catalog_layer *layer = layer_of (f, read_catalog (f), number);

  assert_in_range (part, 0, layer->parts - 1);
  const char *name = layer->files[part];
  return name[0] == '/' ? text (f, "%s", name)
                        : text (f, "%s/%s", store_directory (f), name);
}

const char *
name_in (const char *path)
{
  const char *slash = strrchr (path, '/');

  return slash != NULL ? slash + 1 : path;
}

/* --- snapshots ----------------------------------------------------------- */

static void
release_json (void *what)
{
  json_decref (what);
}

int
create_as (struct world *w, const char *members)
{
  json_t *params = json_loads (quoted (w->f, "{%s}", members),
                               JSON_REJECT_DUPLICATES, NULL);

  assert_non_null (params);
  keep (w->f, params, release_json);
  return (int)number (call (w->c, "snapshot.create", "O", params),
                      "snapnumber");
}

/* End the newest connection, to a snapshot.  It can be deleted afterwards,
 * which the server allows once it has seen that.
 */
static void
disconnect (struct world *w, int snapnumber)
{
  nbd_close (w->f->handles[--w->f->handle_count]);
  await_figure (w->c, snapnumber, "clients", 0);
}

void
assert_snapshot (struct world *w, int number, const uint8_t *content,
                 const char *file, int line)
{
  struct nbd_handle *nbd
      = connect_to (w->f, text (w->f, "snapshot/%d", number));

  assert_reads (nbd, 0, content, SIZE, file, line);
  disconnect (w, number);
}

void
assert_origin (struct world *w, const char *file, int line)
{
  assert_reads (w->origin, 0, w->live, SIZE, file, line);
  assert_file (w->f->image, 0, w->live, SIZE, file, line);
}

bool
has_words (const char *text_of_it, const char *words)
{
  return strcasestr (text_of_it, words) != NULL;
}

void
assert_broken (struct world *w, int number, const char *const *words,
               const char *file, int line)
{
  const json_t *it = info (w->c, number);
  const char *why = json_string_value (json_object_get (it, "broken-reason"));
  uint8_t byte;

  if (strcmp (string (it, "state"), "disabled") != 0 || why == NULL) {
    print_error ("snapshot %d is %s\n", number, string (it, "state"));
    _fail (file, line);
  }
  for (; *words != NULL; words++)
    if (!has_words (why, *words)) {
      print_error ("snapshot %d is broken because '%s', not '%s'\n", number,
                   why, *words);
      _fail (file, line);
    }
  const char *export = text (w->f, "snapshot/%d", number);
  assert_non_null (strstr (description (w->f, export), "BROKEN"));
  struct nbd_handle *nbd = connect_to (w->f, export);
  for (unsigned i = 0; i < 2; i++)
    assert_fails (nbd_pread (nbd, &byte, 1, i * (SIZE - 1), 0) == -1, EIO,
                  "a read of it", file, line);
  disconnect (w, number);
}

void
await_broken (struct world *w, int number)
{
  const double limit = now () + PATIENCE;
  const size_t kept = w->f->kept_count;

  while (strcmp (state_of (w, number), "disabled") != 0) {
    if (now () > limit)
      fail_msg ("snapshot %d does not break", number);
    forget (w->f, kept);
  }
}

void
assert_figures (const json_t *before, const json_t *after, const char *keys,
                const char *file, int line)
{
  char buf[512];
  char *rest = buf, *key;
  bool same = true;

  snprintf (buf, sizeof buf, "%s", keys);
  while ((key = strsep (&rest, " ")) != NULL) {
    const json_t *was = json_object_get (before, key);
    const json_t *is = json_object_get (after, key);

    if (was != NULL && json_equal (was, is))
      continue;
    char *was_text = json_dumps (was, JSON_ENCODE_ANY);
    char *is_text = json_dumps (is, JSON_ENCODE_ANY);
    print_error ("%s was %s and is %s\n", key, was_text, is_text);
    free (was_text);
    free (is_text);
    same = false;
  }
  if (!same)
    _fail (file, line);
}

static bool
line_has (const char *line, const char *const *words)
{
  for (; *words != NULL; words++)
    if (!has_words (line, *words))
      return false;
  return true;
}

void
assert_logged (struct fixture *f, const char *const *words, const char *file,
               int line)
{
  FILE *log = fopen (f->server.log, "re");
  char *row = NULL;
  size_t size = 0;
  bool found = false;

  assert_non_null (log);
  while (!found && getline (&row, &size, log) != -1)
    found = line_has (row, words);
  free (row);
  fclose (log);
  if (found)
    return;
  print_error ("not in the log, in one line:");
  for (; *words != NULL; words++)
    print_error (" '%s'", *words);
  print_error ("\n");
  _fail (file, line);
}
