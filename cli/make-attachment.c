/* SPDX-License-Identifier: BSD-3-Clause */
/* Make a local device of a view.
 *
 * As root, where the kernel has nbd and there is an nbd-client: a /dev/nbdX.
 * Else nbdfuse makes a file of it, and root gets a loop device on that.  The
 * record is written before each step, so that what was begun can be found and
 * undone whatever happens in between.
 */

#include "attachments.h"
#include "kernel-facts.h"
#include "output.h"
#include "run-program.h"
#include "scoped.h"
#include "view-uri.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* Connections: few are enough to keep the server's threads at work. */
#define CONNECTIONS "4"

/* --- nbdfuse ----------------------------------------------------------------
 */

/* nbdfuse writes its pid when its file is there. */
static int
wait_for_nbdfuse (const char *pidfile, pid_t pid, const char *log)
{
  for (;;) {
    SCOPED_FREE char *written = first_line (pidfile);
    if (written != NULL)
      return 0;
    if (waitpid (pid, NULL, WNOHANG) == pid) {
      show_log (log);
      complain ("nbdfuse could not make a file of it; if the server wants "
                "TLS, it can only be read by hand, see nbdfuse(1)");
      return -1;
    }
    if (!pause_for (10)) {
      complain ("interrupted");
      return -1;
    }
  }
}

static int
check_nbdfuse (void)
{
  SCOPED_FREE char *fuse = text ("%s/fuse", dev_directory ());

  if (!program_exists ("nbdfuse")) {
    complain_missing ("nbdfuse");
    complain ("or, where the kernel has nbd ('modprobe nbd'): the package "
              "nbd-client");
    return -1;
  }
  if (access (fuse, R_OK | W_OK) == 0)
    return 0;
  complain ("%s: %s: nbdfuse needs it: 'modprobe fuse', or let the container "
            "have that device",
            fuse, strerror (errno));
  return -1;
}

/* The view as a file. */
static int
make_file (struct attachment *attachment, bool readonly)
{
  SCOPED_FREE char *disk = attachment_disk (attachment);
  SCOPED_FREE char *log = attachment_log (attachment);
  SCOPED_FREE char *pidfile = text ("%s.pid", attachment->base);
  /* It takes no option behind its operands. */
  const char *const reading[]
      = { "nbdfuse", "-r",    "-C", CONNECTIONS,
          "-P",      pidfile, disk, fact (attachment, "uri"),
          NULL };
  const char *const writing[] = {
    "nbdfuse", "-C", CONNECTIONS, "-P", pidfile, disk, fact (attachment, "uri"),
    NULL
  };

  if (check_nbdfuse () == -1)
    return -1;
  unlink (pidfile);
  if (mkdir (attachment->base, 0700) == -1 && errno != EEXIST) {
    complain ("cannot make the directory %s: %s", attachment->base,
              strerror (errno));
    return -1;
  }
  const pid_t pid = program_start (readonly ? reading : writing, log);
  if (pid == -1)
    return -1;
  set_fact (attachment, "pid", json_integer (pid));
  set_fact (attachment, "start", json_integer (process_start (pid)));
  set_fact (attachment, "path", json_string (disk));
  if (attachment_save (attachment) == -1)
    return -1;
  return wait_for_nbdfuse (pidfile, pid, log);
}

/* Direct: the loop device's cache is the only one, and not nbdfuse's file's
 * beside it.
 */
static int
make_loop (struct attachment *attachment, bool readonly)
{
  SCOPED_FREE char *disk = attachment_disk (attachment);
  const char *const argv[] = {
    "losetup", "--find",
    "--show",  "--direct-io=on",
    disk,      readonly ? "--read-only" : NULL,
    NULL,
  };
  SCOPED_FREE char *device = program_line (argv);

  if (device == NULL) {
    complain ("there is no loop device for it; 'modprobe loop' may help, or "
              "the container may not have /dev/loop-control");
    return -1;
  }
  set_fact (attachment, "path", json_string (device));
  return 0;
}

/* --- nbd-client -------------------------------------------------------------
 */

static bool
has_kernel_nbd (void)
{
  static const char *const modprobe[] = { "modprobe", "-q", "nbd", NULL };
  SCOPED_FREE char *module = text ("%s/module/nbd", sys_directory ());

  if (!program_exists ("nbd-client"))
    return false;
  if (access (module, F_OK) == -1 && program_exists ("modprobe"))
    program_run (modprobe, NULL);
  return access (module, F_OK) == 0;
}

/* %2F and the like, in place. */
static void
decode (char *string)
{
  char *to = string;

  for (const char *from = string; *from != '\0'; to++) {
    if (from[0] == '%' && isxdigit ((unsigned char)from[1])
        && isxdigit ((unsigned char)from[2])) {
      const char digits[] = { from[1], from[2], '\0' };
      *to = (char)strtol (digits, NULL, 16);
      from += 3;
    }
    else
      *to = *from++;
  }
  *to = '\0';
}

struct address {
  char *host; /* or NULL and a socket */
  char *port;
  char *socket;
};

static void
address_free (struct address *address)
{
  free (address->host);
  free (address->port);
  free (address->socket);
}

/* False if it is of a kind that nbd-client does not have. */
static bool
read_uri (const char *uri, struct address *address)
{
  const char *socket = strstr (uri, "?socket=");

  if (strncmp (uri, "nbd+unix://", 11) == 0 && socket != NULL) {
    address->socket = text ("%s", socket + 8);
    decode (address->socket);
    return true;
  }
  if (strncmp (uri, "nbd://", 6) != 0)
    return false;
  const char *host = uri + 6;
  const bool bracket = *host == '[';
  host += bracket;
  const size_t length = strcspn (host, bracket ? "]" : ":/");
  const char *rest = host + length + bracket;
  address->host = text ("%.*s", (int)length, host);
  address->port = *rest == ':'
                      ? text ("%.*s", (int)strcspn (rest + 1, "/?"), rest + 1)
                      : text ("10809");
  return true;
}

/* Connect DEVICE.  1: it was not to be had. */
static int
connect_nbd (struct attachment *attachment, const struct address *address,
             const char *device, bool readonly)
{
  const json_int_t number = fact_number (attachment, "snapnumber");
  SCOPED_FREE char *log = attachment_log (attachment);
  SCOPED_FREE char *export
      = number == 0 ? text ("origin")
                    : text ("snapshot/%" JSON_INTEGER_FORMAT, number);
  const bool unix_socket = address->socket != NULL;
  const char *const argv[] = {
    "nbd-client",
    "-N",
    export,
    "-C",
    CONNECTIONS,
    unix_socket ? "-unix" : address->host,
    unix_socket ? address->socket : address->port,
    device,
    readonly ? "-readonly" : NULL,
    NULL,
  };
  return program_run (argv, log) == 0 ? 0 : 1;
}

/* Wait until the kernel has the client and the size. */
static int
wait_for_nbd (struct attachment *attachment, const char *device,
              const char *pidfile)
{
  for (int i = 0; i < 400; i++) {
    SCOPED_FREE char *pid = first_line (pidfile);
    uint64_t size = 0;
    const int fd = pid != NULL ? open (device, O_RDONLY | O_CLOEXEC) : -1;

    if (pid != NULL && strcmp (pid, fact (attachment, "nbd-pid")) != 0) {
      set_fact (attachment, "nbd-pid", json_string (pid));
      attachment_save (attachment);
    }
    if (fd != -1 && ioctl (fd, BLKGETSIZE64, &size) == -1)
      size = 0;
    if (fd != -1)
      close (fd);
    if (size > 0)
      return 0;
    if (!pause_for (25))
      break;
  }
  complain ("%s: nbd-client has connected it, but it did not come to be",
            device);
  return -1;
}

/* Interrupted, nbd-client may have connected the device, which was free before:
 * then it is to be undone.
 */
static bool
note_connected (struct attachment *attachment, const char *pidfile)
{
  SCOPED_FREE char *pid = first_line (pidfile);

  if (pid == NULL)
    return false;
  set_fact (attachment, "nbd-pid", json_string (pid));
  attachment_save (attachment);
  return true;
}

/* Try the devices that are free.  0, 1 if there is none or none would do, or
 * -1 after a message.
 */
static int
make_nbd (struct attachment *attachment, bool readonly)
{
  __attribute__ ((cleanup (address_free))) struct address address = {};
  SCOPED_FREE char *log = attachment_log (attachment);
  bool tried = false;
  int taken = 0;

  if (!has_kernel_nbd () || !read_uri (fact (attachment, "uri"), &address))
    return 1;
  for (int i = 0; i < 256 && !interrupted (); i++) {
    SCOPED_FREE char *device = text ("%s/nbd%d", dev_directory (), i);
    SCOPED_FREE char *block = text ("%s/block/nbd%d", sys_directory (), i);
    SCOPED_FREE char *pidfile = text ("%s/pid", block);

    if (access (block, F_OK) == -1)
      break;
    if (access (pidfile, F_OK) == 0) {
      taken++;
      continue;
    }
    if (access (device, R_OK) == -1)
      continue;
    tried = true;
    set_fact (attachment, "nbd", json_string (device));
    set_fact (attachment, "path", json_string (device));
    if (attachment_save (attachment) == -1)
      return -1;
    if (connect_nbd (attachment, &address, device, readonly) == 0)
      return wait_for_nbd (attachment, device, pidfile);
    if (interrupted () && note_connected (attachment, pidfile))
      return -1;
  }
  json_object_del (attachment->facts, "nbd");
  json_object_del (attachment->facts, "path");
  if (interrupted ()) {
    complain ("interrupted");
    return -1;
  }
  if (tried) {
    show_log (log);
    complain ("nbd-client failed; trying nbdfuse");
  }
  else if (taken > 0 && !program_exists ("nbdfuse")) {
    complain ("the kernel's nbd devices, %d, are all in use: detach one, or "
              "install nbdfuse (in Debian the package libnbd-bin), or, when "
              "none is in use, load the module anew with more ('rmmod nbd', "
              "'modprobe nbd nbds_max=64')",
              taken);
    return -1;
  }
  return 1;
}

/* --- the view ---------------------------------------------------------------
 */

static int
make_parts (struct attachment *attachment, bool readonly)
{
  const bool root = geteuid () == 0;
  const int r = root ? make_nbd (attachment, readonly) : 1;

  if (r != 1)
    return r;
  if (make_file (attachment, readonly) == -1)
    return -1;
  return root ? make_loop (attachment, readonly) : 0;
}

/* What is readable of the server's snapshots, and the one of that is meant.  A
 * new reference, or NULL after a message.
 */
static json_t *
only_snapshot (struct client *client)
{
  json_auto_t *result
      = client_request (client, "snapshot.list", json_object ());
  json_t *snapshots = json_object_get (result, "snapshots");
  const size_t n = json_array_size (snapshots);

  if (result == NULL)
    return NULL;
  if (n == 1)
    return json_incref (json_array_get (snapshots, 0));
  if (n == 0)
    complain ("there is no snapshot: take one with 'fssnap create'");
  else
    complain ("there are %zu snapshots: which one? " HINT_LIST, n);
  return NULL;
}

static json_t *
find_snapshot (struct client *client, const char *what)
{
  json_t *snapshot
      = what == NULL ? only_snapshot (client)
                     : client_request (client, "snapshot.info",
                                       json_pack ("{s:s}", "snapshot", what));

  if (snapshot == NULL && client->error_code == CODE_NO_SNAPSHOT)
    complain (HINT_LIST);
  if (snapshot == NULL
      || !json_is_string (json_object_get (snapshot, "broken-reason")))
    return snapshot;
  complain ("snapshot %" JSON_INTEGER_FORMAT " is broken and cannot be read: "
            "%s",
            json_integer_value (json_object_get (snapshot, "snapnumber")),
            json_string_value (json_object_get (snapshot, "broken-reason")));
  json_decref (snapshot);
  return NULL;
}

/* The facts that tell a view from all others. */
static json_t *
describe (struct client *client, const json_t *snapshot, bool *readonly)
{
  json_auto_t *info = client_request (client, "server.info", json_object ());
  const json_int_t pid = json_integer_value (json_object_get (info, "pid"));
  const json_int_t number
      = json_integer_value (json_object_get (snapshot, "snapnumber"));
  SCOPED_FREE char *uri = info != NULL ? view_uri (client, number) : NULL;
  SCOPED_FREE char *control = realpath (client->path, NULL);

  if (info == NULL)
    return NULL;
  if (uri == NULL) {
    complain ("the server listens nowhere (nbdkit -s), so nothing can connect "
              "to it: start it with -U SOCKET or a port");
    return NULL;
  }
  *readonly = number != 0 || json_is_true (json_object_get (info, "readonly"));
  const char *name = json_string_value (json_object_get (snapshot, "name"));
  json_t *facts = json_pack (
      "{s:s, s:s, s:I, s:s, s:I, s:I, s:I, s:I}", "control",
      control != NULL ? control : client->path, "uri", uri, "snapnumber",
      number, "name", name != NULL ? name : "", "createtime",
      json_integer_value (json_object_get (snapshot, "createtime")), "clients",
      json_integer_value (json_object_get (snapshot, "clients")), "server-pid",
      pid, "server-start", (json_int_t)process_start ((pid_t)pid));
  if (facts == NULL)
    no_memory ();
  return facts;
}

/* By how many connections more the server has it open than it had.  It may take
 * it a moment to have them all, if all are to be had.
 */
static json_int_t
more_connections (struct client *client, const struct attachment *attachment)
{
  json_auto_t *now = client_request (
      client, "snapshot.info",
      json_pack ("{s:I}", "snapshot", fact_number (attachment, "snapnumber")));

  return json_integer_value (json_object_get (now, "clients"))
         - fact_number (attachment, "clients");
}

static void
count_connections (struct client *client, struct attachment *attachment)
{
  if (fact_number (attachment, "snapnumber") == 0)
    return;
  json_int_t more = more_connections (client, attachment);
  for (int i = 0; i < 20 && more < atoi (CONNECTIONS) && pause_for (25); i++)
    more = more_connections (client, attachment);
  set_fact (attachment, "connections", json_integer (more < 1 ? 1 : more));
}

static struct attachment *
make_new (struct attachments *attachments, struct client *client,
          struct attachment new, bool readonly)
{
  struct attachment *grown
      = realloc (attachments->all, (attachments->n + 1) * sizeof *grown);
  if (grown == NULL)
    no_memory ();
  attachments->all = grown;
  struct attachment *attachment = &grown[attachments->n++];
  *attachment = new;
  if (attachment_save (attachment) == 0
      && make_parts (attachment, readonly) == 0 && !interrupted ()) {
    count_connections (client, attachment);
    if (attachment_save (attachment) == 0)
      return attachment;
  }
  programs_undo ();
  attachment_remove (attachment);
  return NULL;
}

/* The attachment of the same view, if there is one.  -1 if what is there is in
 * the way, after a message.
 */
static int
find_same (struct attachments *attachments, const struct attachment *new,
           struct attachment **same)
{
  *same = NULL;
  for (size_t i = 0; i < attachments->n; i++) {
    struct attachment *old = &attachments->all[i];
    SCOPED_FREE char *title = attachment_title (old);

    if (strcmp (old->base, new->base) != 0)
      continue;
    if (attachment_is_whole (old)
        && fact_number (old, "createtime") == fact_number (new, "createtime")
        && fact_number (old, "server-start")
               == fact_number (new, "server-start")) {
      *same = old;
      return 0;
    }
    complain ("what is left of an earlier attachment of %s is removed", title);
    if (attachment_remove (old) == 0)
      return 0;
    complain ("%s cannot be attached anew before that is gone: 'fssnap attach "
              "--list' shows it",
              title);
    return -1;
  }
  return 0;
}

struct attachment *
attach (struct attachments *attachments, const char *socket, const char *what,
        bool origin, bool for_mount)
{
  SCOPED_CLIENT client = CLIENT_INIT;
  struct attachment *same;
  bool readonly = true;

  if (client_open (&client, socket) == -1)
    return NULL;
  json_auto_t *snapshot
      = origin ? json_object () : find_snapshot (&client, what);
  struct attachment new = {
    .facts = snapshot != NULL ? describe (&client, snapshot, &readonly) : NULL,
  };
  if (new.facts == NULL)
    return NULL;
  new.base = text ("%s/attached-%" JSON_INTEGER_FORMAT "-%" JSON_INTEGER_FORMAT,
                   attachments->directory, fact_number (&new, "server-pid"),
                   fact_number (&new, "snapnumber"));
  if (find_same (attachments, &new, &same) == 0 && same == NULL) {
    set_fact (&new, "for-mount", json_boolean (for_mount));
    return make_new (attachments, &client, new, readonly);
  }
  free (new.base);
  json_decref (new.facts);
  /* Who asks for it to be attached wants it to stay. */
  if (same != NULL && !for_mount) {
    set_fact (same, "for-mount", json_false ());
    attachment_save (same);
  }
  return same;
}
