/* SPDX-License-Identifier: BSD-3-Clause */
/* The records, and what of them is true. */

#include "attachments.h"
#include "kernel-facts.h"
#include "output.h"
#include "run-program.h"
#include "scoped.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

const char *
fact (const struct attachment *attachment, const char *key)
{
  const char *value
      = json_string_value (json_object_get (attachment->facts, key));
  return value != NULL ? value : "";
}

json_int_t
fact_number (const struct attachment *attachment, const char *key)
{
  return json_integer_value (json_object_get (attachment->facts, key));
}

void
set_fact (struct attachment *attachment, const char *key, json_t *value)
{
  if (json_object_set_new (attachment->facts, key, value) == -1)
    no_memory ();
}

char *
attachment_log (const struct attachment *attachment)
{
  return text ("%s.log", attachment->base);
}

char *
attachment_disk (const struct attachment *attachment)
{
  return text ("%s/disk", attachment->base);
}

char *
attachment_title (const struct attachment *attachment)
{
  const json_int_t number = fact_number (attachment, "snapnumber");
  return number == 0 ? text ("the origin")
                     : text ("snapshot %" JSON_INTEGER_FORMAT, number);
}

int
attachment_save (const struct attachment *attachment)
{
  SCOPED_FREE char *path = text ("%s.json", attachment->base);
  SCOPED_FREE char *new = text ("%s.new", attachment->base);

  if (json_dump_file (attachment->facts, new, JSON_INDENT (2)) == 0
      && rename (new, path) == 0)
    return 0;
  complain ("cannot write %s: %s", path, strerror (errno));
  unlink (new);
  return -1;
}

/* --- what is true -----------------------------------------------------------
 */

/* A record's process KEY, if it is that one that runs; or 0. */
static pid_t
process_of (const struct attachment *attachment, const char *key,
            const char *start)
{
  const pid_t pid = (pid_t)fact_number (attachment, key);
  const long long since = process_start (pid);

  return since != 0 && since == fact_number (attachment, start) ? pid : 0;
}

bool
attachment_has_server (const struct attachment *attachment)
{
  return process_of (attachment, "server-pid", "server-start") != 0;
}

static bool
same_directory (void *context, const char *directory, const char *source)
{
  (void)source;
  return strcmp (context, directory) == 0;
}

static bool
is_mounted (char *directory)
{
  return each_mount (same_directory, directory);
}

/* What the loop devices are on: nbdfuse's file or nbd-client's device. */
static char *
backing (const struct attachment *attachment)
{
  const char *nbd = fact (attachment, "nbd");
  return *nbd != '\0' ? text ("%s", nbd) : attachment_disk (attachment);
}

/* The pid of the client that the kernel's nbd device has, from malloc; NULL if
 * it has none.
 */
static char *
nbd_client_of (const struct attachment *attachment)
{
  const char *name = strrchr (fact (attachment, "nbd"), '/');

  if (name == NULL)
    return NULL;
  SCOPED_FREE char *path = text ("%s/block%s/pid", sys_directory (), name);
  return first_line (path);
}

/* Does the kernel's nbd device still have the client that was given to it? */
static bool
has_nbd (const struct attachment *attachment)
{
  SCOPED_FREE char *pid = nbd_client_of (attachment);

  return pid != NULL && strcmp (pid, fact (attachment, "nbd-pid")) == 0;
}

/* Was it killed while it connected the device, which has a client now?  That
 * may as well be another's, who has taken it since.
 */
static bool
may_have_nbd (const struct attachment *attachment)
{
  SCOPED_FREE char *pid = nbd_client_of (attachment);

  return pid != NULL && *fact (attachment, "nbd-pid") == '\0';
}

static bool
has_line (const char *lines, const char *line)
{
  const size_t length = strlen (line);

  for (; *lines != '\0'; lines += strcspn (lines, "\n") + 1)
    if (strncmp (lines, line, length) == 0 && lines[length] == '\n')
      return true;
  return false;
}

bool
attachment_has_device (const struct attachment *attachment, const char *device)
{
  SCOPED_FREE char *on = backing (attachment);
  SCOPED_FREE char *loops = loops_on (on);

  return has_line (loops, device)
         || (has_nbd (attachment)
             && strcmp (fact (attachment, "nbd"), device) == 0);
}

bool
attachment_is_whole (const struct attachment *attachment)
{
  const char *path = fact (attachment, "path");
  SCOPED_FREE char *disk = attachment_disk (attachment);

  if (*fact (attachment, "nbd") != '\0')
    return has_nbd (attachment);
  return process_of (attachment, "pid", "start") != 0
         && is_mounted (attachment->base)
         && (strcmp (path, disk) == 0
             || attachment_has_device (attachment, path));
}

/* Is nothing there of what was made? */
static bool
is_gone (const struct attachment *attachment)
{
  SCOPED_FREE char *on = backing (attachment);
  SCOPED_FREE char *loops = loops_on (on);

  return *loops == '\0' && !is_mounted (attachment->base)
         && process_of (attachment, "pid", "start") == 0
         && !has_nbd (attachment) && !may_have_nbd (attachment);
}

struct collected {
  const struct attachment *attachment;
  char *directories;
};

static bool
collect (void *context, const char *directory, const char *source)
{
  struct collected *collected = context;

  if (strncmp (source, "/dev/", 5) == 0
      && attachment_has_device (collected->attachment, source)) {
    SCOPED_FREE char *before = collected->directories;
    collected->directories = text ("%s%s\n", before, directory);
  }
  return false;
}

char *
attachment_mounts (const struct attachment *attachment)
{
  struct collected collected = { attachment, text ("%s", "") };

  each_mount (collect, &collected);
  return collected.directories;
}

/* --- all of them ------------------------------------------------------------
 */

static char *
runtime_directory (void)
{
  const char *own = getenv ("FSSNAP_RUN");
  const char *users = getenv ("XDG_RUNTIME_DIR");

  if (own != NULL && *own == '/')
    return text ("%s", own);
  if (own != NULL && *own != '\0')
    complain ("FSSNAP_RUN=%s: must be an absolute path", own);
  else if (geteuid () == 0)
    return text ("/run/fssnap");
  else if (users != NULL && *users == '/')
    return text ("%s/fssnap", users);
  else
    complain ("XDG_RUNTIME_DIR is not set, where a user's attachments are "
              "noted: set it, or FSSNAP_RUN, to a directory of yours");
  return NULL;
}

static void
forget (struct attachment *attachment)
{
  static const char *const ends[] = { ".log", ".pid", ".new", ".json" };

  rmdir (attachment->base);
  for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
    SCOPED_FREE char *path = text ("%s%s", attachment->base, ends[i]);
    unlink (path);
  }
}

static void
read_record (struct attachments *attachments, const char *name)
{
  const size_t length = strlen (name);

  if (strncmp (name, "attached-", 9) != 0 || length < 5
      || strcmp (name + length - 5, ".json") != 0)
    return;
  SCOPED_FREE char *path = text ("%s/%s", attachments->directory, name);
  struct attachment attachment = {
    .base = text ("%.*s", (int)strlen (path) - 5, path),
    .facts = json_load_file (path, 0, NULL),
  };
  if (attachment.facts == NULL)
    attachment.facts = json_object ();
  if (is_gone (&attachment)) {
    forget (&attachment);
    free (attachment.base);
    json_decref (attachment.facts);
    return;
  }
  struct attachment *grown
      = realloc (attachments->all, (attachments->n + 1) * sizeof *grown);
  if (grown == NULL)
    no_memory ();
  attachments->all = grown;
  grown[attachments->n++] = attachment;
}

static int
take_lock (struct attachments *attachments)
{
  SCOPED_FREE char *path = text ("%s/attached.lock", attachments->directory);

  attachments->lock = open (path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (attachments->lock != -1 && flock (attachments->lock, LOCK_EX) == 0)
    return 0;
  complain ("cannot lock %s: %s", path, strerror (errno));
  return -1;
}

int
attachments_open (struct attachments *attachments)
{
  const struct dirent *entry;

  attachments->directory = runtime_directory ();
  if (attachments->directory == NULL)
    return -1;
  if (mkdir (attachments->directory, geteuid () == 0 ? 0755 : 0700) == -1
      && errno != EEXIST) {
    complain ("cannot make the directory %s: %s", attachments->directory,
              strerror (errno));
    return -1;
  }
  /* The mount table has no links in its paths. */
  char *real = realpath (attachments->directory, NULL);
  if (real != NULL) {
    free (attachments->directory);
    attachments->directory = real;
  }
  if (take_lock (attachments) == -1)
    return -1;
  DIR *directory = opendir (attachments->directory);
  while (directory != NULL && (entry = readdir (directory)) != NULL)
    read_record (attachments, entry->d_name);
  if (directory != NULL)
    closedir (directory);
  return 0;
}

void
attachments_close (struct attachments *attachments)
{
  for (size_t i = 0; i < attachments->n; i++) {
    free (attachments->all[i].base);
    json_decref (attachments->all[i].facts);
  }
  free (attachments->all);
  free (attachments->directory);
  if (attachments->lock != -1)
    close (attachments->lock);
}

static bool
is_meant (const struct attachment *attachment, const char *what)
{
  const json_int_t number = fact_number (attachment, "snapnumber");
  SCOPED_FREE char *digits = text ("%" JSON_INTEGER_FORMAT, number);

  if (what == NULL)
    return number == 0;
  return (number != 0 && strcmp (what, digits) == 0)
         || (*what != '\0' && strcmp (what, fact (attachment, "name")) == 0)
         || strcmp (what, fact (attachment, "path")) == 0;
}

struct attachment *
attachments_find (struct attachments *attachments, const char *what,
                  const char *socket, bool *several)
{
  SCOPED_FREE char *real = socket != NULL ? realpath (socket, NULL) : NULL;
  struct attachment *found = NULL;

  *several = false;
  for (size_t i = 0; i < attachments->n; i++) {
    struct attachment *attachment = &attachments->all[i];
    const char *control = fact (attachment, "control");

    if (!is_meant (attachment, what)
        || (socket != NULL && strcmp (control, socket) != 0
            && (real == NULL || strcmp (control, real) != 0)))
      continue;
    if (found != NULL) {
      complain ("%s is attached from several servers: say which by its path, "
                "or the server with -s; 'fssnap attach --list' shows them",
                what != NULL ? what : "the origin");
      *several = true;
      return NULL;
    }
    found = attachment;
  }
  return found;
}

struct mounted {
  struct attachments *attachments;
  const char *directory;
  struct attachment *found;
};

/* The first is the one on top. */
static bool
look_mounted (void *context, const char *directory, const char *source)
{
  struct mounted *mounted = context;

  if (strcmp (directory, mounted->directory) != 0)
    return false;
  for (size_t i = 0; i < mounted->attachments->n; i++)
    if (attachment_has_device (&mounted->attachments->all[i], source))
      mounted->found = &mounted->attachments->all[i];
  return true;
}

struct attachment *
attachments_mounted (struct attachments *attachments, const char *directory)
{
  struct mounted mounted = { attachments, directory, NULL };

  each_mount (look_mounted, &mounted);
  return mounted.found;
}

/* --- removing ---------------------------------------------------------------
 */

/* Wait up to two seconds, which is for udev and such to have had their look.
 * False if it is in use, after a message.
 */
static bool
not_in_use (const char *path, const char *title)
{
  SCOPED_FREE char *users = users_of (path);

  for (int i = 0; users != NULL && i < 20 && pause_for (100); i++) {
    free (users);
    users = users_of (path);
  }
  if (users == NULL)
    return true;
  complain ("%s: %s is in use, by %s: end that and try again", path, title,
            users);
  return false;
}

/* Is it mounted or otherwise claimed?  After a message. */
static bool
is_claimed (const char *device, const char *title)
{
  const int fd = open (device, O_RDONLY | O_EXCL | O_CLOEXEC);

  if (fd != -1)
    close (fd);
  if (fd != -1 || errno != EBUSY)
    return false;
  complain ("%s: %s is in use by the kernel (mounted, or part of another "
            "device): have it released, and try again",
            device, title);
  return true;
}

int
loop_free (const char *device)
{
  const char *name = strrchr (device, '/');
  const char *const argv[] = { "losetup", "-d", device, NULL };

  if (name == NULL || is_claimed (device, "the loop device")
      || !not_in_use (device, "the loop device"))
    return -1;
  SCOPED_FREE char *path = text ("/sys/block%s/loop/backing_file", name);
  if (program_run (argv, NULL) != 0)
    return -1;
  /* Who has it open still, keeps it. */
  for (int i = 0; i < 200; i++) {
    SCOPED_FREE char *file = first_line (path);
    if (file == NULL)
      return 0;
    if (!pause_for (25))
      break;
  }
  complain ("%s is released when who uses it ends: try again then", device);
  return -1;
}

static int
free_loops (const struct attachment *attachment)
{
  SCOPED_FREE char *on = backing (attachment);
  SCOPED_FREE char *loops = loops_on (on);
  char *state = NULL;

  for (const char *loop = strtok_r (loops, "\n", &state); loop != NULL;
       loop = strtok_r (NULL, "\n", &state))
    if (loop_free (loop) == -1)
      return -1;
  return 0;
}

/* The kernel would not mind that it is in use, nor that it is not written. */
static int
free_nbd (const struct attachment *attachment)
{
  const char *nbd = fact (attachment, "nbd");
  const char *const argv[] = { "nbd-client", "-d", nbd, NULL };
  SCOPED_FREE char *log = attachment_log (attachment);

  if (may_have_nbd (attachment)) {
    complain ("%s: an attach was killed while it connected this: if nothing "
              "else has connected it since, run 'nbd-client -d %s', and try "
              "again",
              nbd, nbd);
    return -1;
  }
  if (!has_nbd (attachment))
    return 0;
  if (is_claimed (nbd, "the device") || !not_in_use (nbd, "the device"))
    return -1;
  const int fd = open (nbd, O_WRONLY | O_CLOEXEC);
  if (fd != -1) {
    if (fsync (fd) == -1)
      complain ("%s: not all that was written has arrived: %s", nbd,
                strerror (errno));
    close (fd);
  }
  if (program_run (argv, log) != 0)
    show_log (log);
  for (int i = 0; i < 400 && has_nbd (attachment); i++)
    if (!pause_for (25))
      break;
  if (!has_nbd (attachment))
    return 0;
  complain ("%s is still connected: try 'nbd-client -d %s'", nbd, nbd);
  return -1;
}

static int
unmount_fuse (const struct attachment *attachment)
{
  const char *const as_root[] = { "umount", attachment->base, NULL };
  const char *const as_user[] = { "fusermount3", "-u", attachment->base, NULL };
  SCOPED_FREE char *disk = attachment_disk (attachment);

  if (!is_mounted (attachment->base))
    return 0;
  if (!not_in_use (disk, "the file"))
    return -1;
  if (program_run (geteuid () == 0 ? as_root : as_user, NULL) == 0
      || !is_mounted (attachment->base))
    return 0;
  complain ("%s is still mounted: see who uses it with 'fuser -vm %s'",
            attachment->base, attachment->base);
  return -1;
}

/* nbdfuse ends by itself when its file is unmounted; if its server does not
 * answer it may not, and there is nothing to lose any more.
 */
static int
end_nbdfuse (const struct attachment *attachment)
{
  for (int i = 0; i < 600; i++) {
    const pid_t pid = process_of (attachment, "pid", "start");
    if (pid == 0)
      return 0;
    if (i == 200)
      kill (pid, SIGTERM);
    if (i == 400)
      kill (pid, SIGKILL);
    if (!pause_for (25))
      break;
  }
  complain ("nbdfuse (%" JSON_INTEGER_FORMAT ") does not end",
            fact_number (attachment, "pid"));
  return -1;
}

/* The clients of the snapshot as the server has them; -1: not known. */
static json_int_t
clients_of (struct client *client, const struct attachment *attachment)
{
  json_auto_t *result
      = client_request (client, "snapshot.list", json_pack ("{s:b}", "all", 1));
  const json_t *snapshot;
  size_t i;

  json_array_foreach (json_object_get (result, "snapshots"), i, snapshot)
  {
    if (json_integer_value (json_object_get (snapshot, "snapnumber"))
            == fact_number (attachment, "snapnumber")
        && json_integer_value (json_object_get (snapshot, "createtime"))
               == fact_number (attachment, "createtime"))
      return json_integer_value (json_object_get (snapshot, "clients"));
  }
  return -1;
}

/* The server takes a moment to see that its client has gone, and would call
 * the snapshot busy.  There may be other clients of it, who stay.
 */
static void
wait_for_server (struct client *client, const struct attachment *attachment,
                 json_int_t before)
{
  const json_int_t wanted = before - fact_number (attachment, "connections");

  for (int i = 0; i < 200; i++)
    if (clients_of (client, attachment) <= (wanted > 0 ? wanted : 0)
        || !pause_for (25))
      return;
}

int
attachment_remove (struct attachment *attachment)
{
  SCOPED_CLIENT client = CLIENT_INIT;
  SCOPED_FREE char *mounts = attachment_mounts (attachment);
  json_int_t before = -1;

  if (*mounts != '\0') {
    SCOPED_FREE char *title = attachment_title (attachment);
    complain ("%s is busy: it is mounted on %.*s: 'fssnap umount' that first",
              title, (int)strcspn (mounts, "\n"), mounts);
    return -1;
  }
  if (fact_number (attachment, "connections") > 0
      && attachment_has_server (attachment)
      && client_open (&client, fact (attachment, "control")) == 0)
    before = clients_of (&client, attachment);
  if (free_loops (attachment) == -1 || free_nbd (attachment) == -1
      || unmount_fuse (attachment) == -1 || end_nbdfuse (attachment) == -1)
    return -1;
  if (before > 0)
    wait_for_server (&client, attachment, before);
  forget (attachment);
  return 0;
}
