/* SPDX-License-Identifier: BSD-3-Clause */
/* fssnap check: is a store whole, and what will its next server make of it?
 *
 * Nothing is modified.  The lock is a shared one: it keeps a server from
 * starting meanwhile, but not another check, and can be had without the right
 * to write.
 */

#include "check.h"
#include "command.h"
#include "figures.h"
#include "output.h"
#include "scoped.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { OPTION_JSON = 'j' };

#define MARK "/dev/shm/fssnap-"

static const char *const severities[] = { "problem", "warning", "note" };

/* What is known of a layer in the end. */
struct outcome {
  const struct catalog_layer *layer;
  struct figures figures;
  bool broken, deleted; /* after the next start */
};

static void
set (json_t *object, const char *key, json_t *value)
{
  if (json_object_set_new (object, key, value) == -1)
    no_memory ();
}

static json_t *
number_json (uint64_t number)
{
  return json_integer ((json_int_t)number);
}

static json_t *
text_json (const char *string)
{
  json_t *json = json_string (string);
  SCOPED_FREE char *escaped = json == NULL ? escape (string) : NULL;

  return json == NULL ? json_string (escaped) : json;
}

void
check_found (struct check *check, enum severity severity, unsigned number,
             const char *file, const char *format, ...)
{
  json_t *finding = json_object ();
  char *what;
  va_list args;

  va_start (args, format);
  const int r = vasprintf (&what, format, args);
  va_end (args);
  if (r == -1)
    no_memory ();
  set (finding, "severity", json_string (severities[severity]));
  set (finding, "snapnumber",
       number == 0 ? json_null () : number_json (number));
  set (finding, "file", text_json (file));
  set (finding, "message", text_json (what));
  free (what);
  if (json_array_append_new (check->findings, finding) == -1)
    no_memory ();
  check->counts[severity]++;
}

/*----------------------------------------------------------------------*/

/* The process that has locked the store, as it says itself: from malloc. */
static char *
holder (int fd)
{
  char pid[32] = "";

  if (pread (fd, pid, sizeof pid - 1, 0) == -1)
    pid[0] = '\0';
  pid[strspn (pid, "0123456789")] = '\0';
  return text ("%s", *pid == '\0' ? "unknown" : pid);
}

/* Lock the store as long as *FD is open; -1: it has nothing to lock.  0, or
 * -1 after a message.
 */
static int
lock (struct check *check, int *fd)
{
  struct flock shared = { .l_type = F_RDLCK, .l_whence = SEEK_SET };
  const char *path = check->store.path;

  *fd = openat (check->store.directory, "lock",
                O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (*fd == -1 && errno == ENOENT)
    return 0;
  if (*fd == -1) {
    complain ("%s/lock: cannot be opened: %s", path, strerror (errno));
    return -1;
  }
  if (fcntl (*fd, F_OFD_SETLK, &shared) == 0)
    return 0;
  if (errno == EAGAIN || errno == EACCES) {
    SCOPED_FREE char *pid = holder (*fd);
    complain ("%s: is in use by a server (process %s), which knows best: "
              "'fssnap list' asks it",
              path, pid);
  }
  else
    complain ("%s/lock: cannot be locked: %s", path, strerror (errno));
  close (*fd);
  return -1;
}

/* The boot that this is; "" if the kernel does not say. */
static void
read_boot (char boot[37])
{
  FILE *f = fopen ("/proc/sys/kernel/random/boot_id", "re");

  if (f == NULL || fgets (boot, 37, f) == NULL)
    boot[0] = '\0';
  if (f != NULL)
    fclose (f);
}

/* The mark that says that a layer is broken, when its store did not answer:
 * its name, from malloc, or NULL.
 */
static char *
find_mark (const struct catalog_layer *layer)
{
  char uuid[37];
  struct stat st;

  uuid_unparse_lower (layer->uuid, uuid);
  char *path = text (MARK "%s", uuid);
  /* Anyone may make files there. */
  if (lstat (path, &st) == 0 && (st.st_uid == 0 || st.st_uid == geteuid ()))
    return path;
  free (path);
  return NULL;
}

/* Whether it will be found broken for what a crash has left, after a finding.
 */
static bool
is_lost (struct check *check, const struct catalog_layer *layer)
{
  const struct catalog *catalog = &check->store.catalog;
  const char *file = layer->files[0];
  SCOPED_FREE char *mark = find_mark (layer);
  char boot[37];

  read_boot (boot);
  const bool rebooted = *boot == '\0' || strcmp (catalog->boot, boot) != 0;
  if (mark != NULL)
    check_found (check, PROBLEM, layer->number, file,
                 "%s says that it broke when its store hung", mark);
  else if (!catalog->clean && layer->level == DURABILITY_ASYNC)
    check_found (check, PROBLEM, layer->number, file,
                 "the store was not closed cleanly, and with durability=async "
                 "copies are lost then");
  else if (!catalog->clean && layer->level == DURABILITY_WRITTEN && rebooted)
    check_found (check, PROBLEM, layer->number, file,
                 "the machine went down before the store was closed, and with "
                 "durability=written copies may be lost then");
  else
    return false;
  return true;
}

/* Whether the next start deletes a layer, after a finding if that is news. */
static bool
is_deleted (struct check *check, const struct catalog_layer *layer)
{
  if (!layer->deleted && (layer->pending || layer->creating))
    check_found (check, NOTE, layer->number, layer->files[0],
                 "its snapshot was not finished: the next start deletes it");
  else if (!layer->deleted && layer->ephemeral)
    check_found (check, NOTE, layer->number, layer->files[0],
                 "its snapshot is ephemeral: the next start deletes it");
  return layer->deleted || layer->pending || layer->creating
         || layer->ephemeral;
}

/* What the next start makes of a layer, but for what it thinks of the origin.
 * The files of one that is broken may be gone, or emptied.
 */
static void
check_layer (struct check *check, struct outcome *outcome)
{
  const struct catalog_layer *layer = outcome->layer;

  outcome->deleted = is_deleted (check, layer);
  outcome->figures = check_space (check, layer);
  if (layer->broken_reason != NULL) {
    check_found (check, NOTE, layer->number, layer->files[0],
                 "its snapshot is broken: %s", layer->broken_reason);
    outcome->broken = true;
    return;
  }
  check_files (check, layer, &outcome->figures);
  outcome->broken = is_lost (check, layer) || !outcome->figures.whole;
}

static const char *
next_start (const struct outcome *outcome)
{
  return outcome->deleted ? "deleted" : outcome->broken ? "broken" : "kept";
}

/* Who has to be read through one that is broken. */
static void
check_order (struct check *check, const struct outcome *outcomes, size_t count)
{
  for (size_t i = 0; i < count; i++) {
    size_t j = i + 1;

    while (j < count && !outcomes[j].broken)
      j++;
    if (j < count && !outcomes[i].broken && !outcomes[i].deleted)
      check_found (check, NOTE, outcomes[i].layer->number,
                   outcomes[i].layer->files[0],
                   "its snapshot can be read only where it has copies itself, "
                   "since snapshot %u is broken",
                   outcomes[j].layer->number);
  }
}

static void
check_left (struct check *check, const struct catalog_files *files,
            const char *what)
{
  struct stat st;

  for (; files != NULL; files = files->next)
    for (unsigned i = 0; i < files->parts; i++)
      if (fstatat (check->store.directory, files->files[i], &st,
                   AT_SYMLINK_NOFOLLOW)
          == 0)
        check_found (check, NOTE, 0, files->files[i],
                     "its snapshot was being %s: the next start removes it",
                     what);
}

static bool
is_in (const char *name, char *const *names, unsigned count)
{
  for (unsigned i = 0; i < count; i++)
    if (strcmp (names[i], name) == 0)
      return true;
  return false;
}

static bool
is_listed (const struct catalog *catalog, const char *name)
{
  const struct catalog_files *const lists[]
      = { catalog->making, catalog->removing };

  for (const struct catalog_layer *l = catalog->layers; l != NULL; l = l->next)
    if (is_in (name, l->files, l->parts))
      return true;
  for (unsigned i = 0; i < 2; i++)
    for (const struct catalog_files *f = lists[i]; f != NULL; f = f->next)
      if (is_in (name, f->files, f->parts))
        return true;
  return false;
}

/* A file in the directory.  Without a catalogue (ONE) there should be no
 * backing files.
 */
static void
check_entry (struct check *check, const char *name, bool one)
{
  /* Every ext4 has a lost+found at its top. */
  static const char *const own[]
      = { ".", "..", "lock", "catalog", "catalog.spare", "lost+found" };
  bool backing;

  for (size_t i = 0; i < sizeof own / sizeof own[0]; i++)
    if (strcmp (name, own[i]) == 0)
      return;
  if (is_listed (&check->store.catalog, name))
    return;
  SCOPED_FREE char *what = check_stranger (check, name, &backing);
  check_found (check, backing && !one ? PROBLEM : WARNING, 0, name, "%s%s",
               what, one ? ", and not in the catalogue" : "");
}

/* Look for files that the catalogue does not list, if there is ONE.  0, or -1
 * after a message.
 */
static int
look_around (struct check *check, bool one)
{
  struct dirent **entries;
  const int count
      = scandirat (check->store.directory, ".", &entries, NULL, alphasort);

  if (count == -1) {
    complain ("%s: cannot be read: %s", check->store.path, strerror (errno));
    return -1;
  }
  for (int i = 0; i < count; i++) {
    check_entry (check, entries[i]->d_name, one);
    free (entries[i]);
  }
  free (entries);
  return 0;
}

/* A change must not need space. */
static void
check_spare (struct check *check)
{
  struct stat catalog, spare;
  const int directory = check->store.directory;

  if (fstatat (directory, "catalog", &catalog, AT_SYMLINK_NOFOLLOW) == -1)
    return;
  if (fstatat (directory, "catalog.spare", &spare, AT_SYMLINK_NOFOLLOW) == -1)
    check_found (check, WARNING, 0, "catalog.spare",
                 "is missing: the next change of the catalogue needs space "
                 "for another one");
  else if (!S_ISREG (spare.st_mode))
    check_found (check, PROBLEM, 0, "catalog.spare",
                 "is no regular file: the catalogue cannot be changed");
}

/*----------------------------------------------------------------------*/

static json_t *
outcome_json (const struct outcome *outcome)
{
  const struct catalog_layer *layer = outcome->layer;
  const struct figures *figures = &outcome->figures;
  const bool known = layer->broken_reason == NULL && figures->whole;
  json_t *object = json_object (), *files = json_array ();

  for (unsigned i = 0; i < layer->parts; i++) {
    json_t *file = json_object ();
    set (file, "file", text_json (layer->files[i]));
    set (file, "bytes-allocated", number_json (figures->file_bytes[i]));
    json_array_append_new (files, file);
  }
  set (object, "snapnumber", number_json (layer->number));
  set (object, "name",
       layer->name == NULL ? json_null () : json_string (layer->name));
  set (object, "deleted", json_boolean (layer->deleted));
  set (object, "next-start", json_string (next_start (outcome)));
  set (object, "files", files);
  set (object, "bytes-allocated", number_json (figures->bytes));
  set (object, "chunks-copied",
       known ? number_json (figures->copied) : json_null ());
  set (object, "chunks-lost",
       known ? number_json (figures->lost) : json_null ());
  set (object, "chunks-free",
       known ? number_json (figures->free) : json_null ());
  return object;
}

static uint64_t
free_space (const struct check *check)
{
  struct statvfs st;

  return fstatvfs (check->store.directory, &st) == -1
             ? 0
             : (uint64_t)st.f_bavail * st.f_frsize;
}

static void
print_as_json (const struct check *check, const struct outcome *outcomes,
               size_t count)
{
  json_auto_t *result = json_object ();
  json_t *snapshots = json_array ();

  for (size_t i = 0; i < count; i++)
    if (json_array_append_new (snapshots, outcome_json (&outcomes[i])) == -1)
      no_memory ();
  set (result, "store", text_json (check->store.path));
  set (result, "clean", json_boolean (check->store.catalog.clean));
  set (result, "problems", number_json (check->counts[PROBLEM]));
  set (result, "warnings", number_json (check->counts[WARNING]));
  set (result, "findings", json_incref (check->findings));
  set (result, "snapshots", snapshots);
  set (result, "bytes-free", number_json (free_space (check)));
  print_json (result);
}

static void
print_findings (const struct check *check)
{
  const json_t *finding;
  size_t i;

  json_array_foreach (check->findings, i, finding)
  {
    const json_t *number = json_object_get (finding, "snapnumber");
    SCOPED_FREE char *snapshot
        = json_is_null (number) ? text ("%s", "")
                                : text ("snapshot %" JSON_INTEGER_FORMAT ": ",
                                        json_integer_value (number));
    SCOPED_FREE char *line
        = text ("%s: %s%s: %s",
                json_string_value (json_object_get (finding, "severity")),
                snapshot, json_string_value (json_object_get (finding, "file")),
                json_string_value (json_object_get (finding, "message")));
    print_line (line);
  }
}

static void
print_outcomes (const struct outcome *outcomes, size_t count)
{
  static const struct column columns[]
      = { { "NUMBER", true },  { "NAME", false },  { "FILES", true },
          { "ON DISK", true }, { "COPIED", true }, { "NEXT START", false } };
  __attribute__ ((cleanup (table_free))) struct table table = {
    .columns = columns,
    .width = sizeof columns / sizeof columns[0],
  };

  for (size_t i = 0; i < count; i++) {
    const struct outcome *outcome = &outcomes[i];
    const struct catalog_layer *layer = outcome->layer;
    const bool known = layer->broken_reason == NULL && outcome->figures.whole;
    table_add (&table, text ("%u", layer->number));
    table_add (&table, text ("%s", layer->name == NULL ? "-" : layer->name));
    table_add (&table, text ("%u", layer->parts));
    table_add (&table, size_shown ((json_int_t)outcome->figures.bytes));
    table_add (&table,
               known ? text ("%" PRIu64, outcome->figures.copied) : text ("-"));
    table_add (&table, text ("%s", next_start (outcome)));
  }
  if (count > 0)
    table_print (&table);
}

static char *
counted (unsigned count, const char *what)
{
  return text ("%u %s%s", count, what, count == 1 ? "" : "s");
}

static void
print_summary (const struct check *check, size_t count)
{
  SCOPED_FREE char *space = size_shown ((json_int_t)free_space (check));
  SCOPED_FREE char *layers = counted ((unsigned)count, "layer");
  SCOPED_FREE char *problems = counted (check->counts[PROBLEM], "problem");
  SCOPED_FREE char *warnings = counted (check->counts[WARNING], "warning");
  SCOPED_FREE char *line = text (
      "%s: %s, %s; %s, %s; %s free on its file system", check->store.path,
      layers,
      check->store.catalog.clean ? "closed cleanly" : "not closed cleanly",
      check->counts[PROBLEM] == 0 ? "whole" : problems, warnings, space);

  print_line (line);
}

/* Check and print.  An exit status. */
static int
check_layers (struct check *check, bool json)
{
  size_t count = 0, i = 0;

  for (const struct catalog_layer *l = check->store.catalog.layers; l != NULL;
       l = l->next)
    count++;
  struct outcome *outcomes = calloc (count + 1, sizeof *outcomes);
  if (outcomes == NULL)
    no_memory ();
  for (const struct catalog_layer *l = check->store.catalog.layers; l != NULL;
       l = l->next) {
    outcomes[i].layer = l;
    check_layer (check, &outcomes[i++]);
  }
  check_order (check, outcomes, count);
  if (json)
    print_as_json (check, outcomes, count);
  else {
    print_findings (check);
    print_outcomes (outcomes, count);
    print_summary (check, count);
  }
  while (count > 0)
    free (outcomes[--count].figures.file_bytes);
  free (outcomes);
  const int status = finish_output ();
  return check->counts[PROBLEM] > 0 ? STATUS_FAILED : status;
}

/* Read the catalogue.  Whether there is a good one. */
static bool
check_catalog (struct check *check, bool locked)
{
  SCOPED_FREE char *why = NULL;

  if (catalog_read (check->store.directory, &check->store.catalog, &why) == 0)
    return true;
  if (errno != ENOENT)
    check_found (check, PROBLEM, 0, "catalog", "%s",
                 why != NULL ? why : strerror (errno));
  else if (locked)
    check_found (check, NOTE, 0, "catalog", "is missing: the store is new");
  else
    check_found (check, PROBLEM, 0, "catalog", "is missing: this is no store");
  return false;
}

/* The store is open and, if it has something to lock, locked.  An exit
 * status.
 */
static int
check_store (struct check *check, bool locked, bool json)
{
  if (!locked)
    check_found (check, WARNING, 0, "lock",
                 "is missing: nothing keeps a server from starting meanwhile");
  const bool found = check_catalog (check, locked);
  check_spare (check);
  check_left (check, check->store.catalog.making, "made");
  check_left (check, check->store.catalog.removing, "removed");
  if (look_around (check, found) == -1)
    return STATUS_FAILED;
  return check_layers (check, json);
}

static int
run (struct invocation *invocation)
{
  struct check check = { .store = STORE_INIT, .findings = json_array () };
  bool json = false;
  int fd, status = STATUS_FAILED;

  while (command_option (invocation) != -1)
    json = true;
  const char *path = invocation->argv[optind];
  if (path == NULL || *path == '\0')
    usage_error (&command_check, "which store? Give its directory");
  if (optind + 1 < invocation->argc)
    usage_error (&command_check, "'%s': one store can be given",
                 invocation->argv[optind + 1]);
  if (invocation->socket != NULL)
    usage_error (&command_check,
                 "--socket=%s: no server is asked; leave it "
                 "out",
                 invocation->socket);

  if (check.findings == NULL)
    no_memory ();
  if (store_open (&check.store, path) == 0 && lock (&check, &fd) == 0) {
    status = check_store (&check, fd != -1, json);
    if (fd != -1)
      close (fd);
  }
  while (check.seen != NULL) {
    struct seen *seen = check.seen;
    check.seen = seen->next;
    free (seen);
  }
  json_decref (check.findings);
  store_close (&check.store);
  return status;
}

static const struct option options[] = {
  { "help", no_argument, NULL, OPTION_HELP },
  { "json", no_argument, NULL, OPTION_JSON },
  {},
};

const struct command command_check = {
  .name = "check",
  .arguments = "[--json] DIR",
  .summary = "Look whether a store that no server uses is whole",
  .help = "      --json          all of it, for programs\n",
  .offline = true,
  .short_options = "",
  .long_options = options,
  .run = run,
};
