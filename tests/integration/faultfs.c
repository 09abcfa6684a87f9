/* SPDX-License-Identifier: BSD-3-Clause */
/* One thread in the child serves both the kernel's requests and the test's
 * commands, so that nothing here needs a lock, and a command that was
 * answered is in force for all that comes after.
 *
 * The kernel sends the writes of one file one after the other: while one
 * is held, no other write of that file comes here.
 */

#define FUSE_USE_VERSION 314

#include "faultfs.h"

#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define NODES_MAX 4096
#define HELD_MAX 64
#define AWAIT_SECONDS 20

enum command_code {
  COMMAND_SET,
  COMMAND_REFUSE_EXCHANGE,
  COMMAND_RELEASE,
  COMMAND_AWAIT,
  COMMAND_SEEN
};

struct command {
  enum command_code code;
  enum faultfs_call call;
  struct faultfs_rule rule;
  unsigned count;
};

struct faultfs {
  pid_t pid;
  int control; /* commands there, one unsigned back for each */
  char *directory;
};

/* From here on: the child's own. */

/* A file.  Its inode number is its index here + 2, and never used again. */
struct node {
  char name[64]; /* "" once unlinked */
  int fd;        /* of a file in memory; -1: nobody can open it any more */
  unsigned opens;
};

/* A call that the kernel waits for. */
struct held {
  fuse_req_t req;
  enum faultfs_call call;
  const char *name;
  int fd;
  off_t offset;
  size_t size;
  char *data; /* of a write */
};

static struct {
  struct node nodes[NODES_MAX];
  unsigned node_count;
  struct faultfs_rule rules[FAULTFS_CALLS];
  unsigned seen[FAULTFS_CALLS];
  struct held held[HELD_MAX];
  unsigned held_count;
  bool no_exchange;
  unsigned awaited; /* the test waits for so many held; 0: it does not */
  int control;
} fs;

static struct node *
node_of (fuse_ino_t ino)
{
  return &fs.nodes[ino - 2];
}

static struct node *
find (const char *name)
{
  for (unsigned i = 0; i < fs.node_count; i++)
    if (fs.nodes[i].name[0] != '\0' && strcmp (fs.nodes[i].name, name) == 0)
      return &fs.nodes[i];
  return NULL;
}

/* It may be the last thing that keeps the file in memory that has gone. */
static void
free_unused (struct node *node)
{
  if (node->name[0] != '\0' || node->opens > 0 || node->fd == -1)
    return;
  close (node->fd);
  node->fd = -1;
}

static void
attributes (fuse_ino_t ino, struct stat *st)
{
  memset (st, 0, sizeof *st);
  if (ino == FUSE_ROOT_ID) {
    st->st_mode = S_IFDIR | 0755;
    st->st_nlink = 2;
  }
  else {
    fstat (node_of (ino)->fd, st);
    st->st_mode = S_IFREG | 0600;
    st->st_nlink = node_of (ino)->name[0] != '\0';
  }
  st->st_ino = ino;
  st->st_uid = getuid ();
  st->st_gid = getgid ();
}

static struct fuse_entry_param
entry_of (const struct node *node)
{
  struct fuse_entry_param entry = { .ino = (fuse_ino_t)(node - fs.nodes) + 2 };

  attributes (entry.ino, &entry.attr);
  return entry;
}

/* With it the kernel makes EIO of a short answer to a write of io_uring (and
 * aio), while one to pwrite is a short write; fuse_get_res_by_io does that.
 */
static void
fs_init (void *opaque, struct fuse_conn_info *conn)
{
  (void)opaque;
  conn->want &= ~(unsigned)FUSE_CAP_ASYNC_DIO;
}

static void
fs_lookup (fuse_req_t req, fuse_ino_t parent, const char *name)
{
  const struct node *node = find (name);

  (void)parent;
  if (node == NULL) {
    fuse_reply_err (req, ENOENT);
    return;
  }
  const struct fuse_entry_param entry = entry_of (node);
  fuse_reply_entry (req, &entry);
}

static void
fs_getattr (fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
  struct stat st;

  (void)fi;
  attributes (ino, &st);
  fuse_reply_attr (req, &st, 0);
}

static void
fs_setattr (fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set,
            struct fuse_file_info *fi)
{
  if ((to_set & FUSE_SET_ATTR_SIZE)
      && ftruncate (node_of (ino)->fd, attr->st_size) == -1) {
    fuse_reply_err (req, errno);
    return;
  }
  fs_getattr (req, ino, fi);
}

/* Every close would send a flush, and nothing gets the closing process out
 * of waiting for that.
 */
static void
open_as (struct fuse_file_info *fi)
{
  fi->direct_io = 1;
  fi->noflush = 1;
}

static void
fs_create (fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
           struct fuse_file_info *fi)
{
  (void)parent;
  (void)mode;
  if (fs.node_count == NODES_MAX || strlen (name) >= sizeof fs.nodes[0].name) {
    fuse_reply_err (req, ENOSPC);
    return;
  }
  struct node *node = &fs.nodes[fs.node_count];
  node->fd = memfd_create (name, MFD_CLOEXEC);
  if (node->fd == -1) {
    fuse_reply_err (req, errno);
    return;
  }
  snprintf (node->name, sizeof node->name, "%s", name);
  node->opens = 1;
  fs.node_count++;
  open_as (fi);
  const struct fuse_entry_param entry = entry_of (node);
  fuse_reply_create (req, &entry, fi);
}

static void
fs_open (fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
  node_of (ino)->opens++;
  open_as (fi);
  fuse_reply_open (req, fi);
}

static void
fs_release (fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
  (void)fi;
  node_of (ino)->opens--;
  free_unused (node_of (ino));
  fuse_reply_err (req, 0);
}

static void
fs_unlink (fuse_req_t req, fuse_ino_t parent, const char *name)
{
  struct node *node = find (name);

  (void)parent;
  if (node != NULL) {
    node->name[0] = '\0';
    free_unused (node);
  }
  fuse_reply_err (req, node != NULL ? 0 : ENOENT);
}

static void
fs_rename (fuse_req_t req, fuse_ino_t parent, const char *name,
           fuse_ino_t new_parent, const char *new_name, unsigned flags)
{
  struct node *node = find (name), *other = find (new_name);

  (void)parent;
  (void)new_parent;
  if (fs.no_exchange && (flags & RENAME_EXCHANGE)) {
    fuse_reply_err (req, EINVAL);
    return;
  }
  if (node == NULL || ((flags & RENAME_EXCHANGE) && other == NULL)) {
    fuse_reply_err (req, ENOENT);
    return;
  }
  if (other != NULL && (flags & RENAME_NOREPLACE)) {
    fuse_reply_err (req, EEXIST);
    return;
  }
  if (other != NULL) {
    snprintf (other->name, sizeof other->name, "%s",
              flags & RENAME_EXCHANGE ? name : "");
    free_unused (other);
  }
  snprintf (node->name, sizeof node->name, "%s", new_name);
  fuse_reply_err (req, 0);
}

static void
fs_readdir (fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
            struct fuse_file_info *fi)
{
  char buf[4096];
  size_t used = 0;

  (void)ino;
  (void)fi;
  if (size > sizeof buf)
    size = sizeof buf;
  for (unsigned i = (unsigned)offset; i < fs.node_count; i++) {
    struct stat st;

    if (fs.nodes[i].name[0] == '\0')
      continue;
    attributes (i + 2, &st);
    const size_t n = fuse_add_direntry (req, buf + used, size - used,
                                        fs.nodes[i].name, &st, (off_t)i + 1);
    if (n > size - used)
      break;
    used += n;
  }
  fuse_reply_buf (req, buf, used);
}

static void
fs_fallocate (fuse_req_t req, fuse_ino_t ino, int mode, off_t offset,
              off_t length, struct fuse_file_info *fi)
{
  (void)fi;
  const int r = fallocate (node_of (ino)->fd, mode, offset, length);
  fuse_reply_err (req, r == -1 ? errno : 0);
}

static void
fs_lseek (fuse_req_t req, fuse_ino_t ino, off_t offset, int whence,
          struct fuse_file_info *fi)
{
  (void)fi;
  const off_t r = lseek (node_of (ino)->fd, offset, whence);
  if (r == -1)
    fuse_reply_err (req, errno);
  else
    fuse_reply_lseek (req, r);
}

static void
answer (const struct held *h)
{
  if (h->call == FAULTFS_SYNC) {
    fuse_reply_err (h->req, 0);
    return;
  }
  char *buf = h->call == FAULTFS_READ ? malloc (h->size) : h->data;
  const ssize_t r = buf == NULL ? -1
                    : h->call == FAULTFS_READ
                        ? pread (h->fd, buf, h->size, h->offset)
                        : pwrite (h->fd, buf, h->size, h->offset);

  if (r == -1)
    fuse_reply_err (h->req, errno);
  else if (h->call == FAULTFS_READ)
    fuse_reply_buf (h->req, buf, (size_t)r);
  else
    fuse_reply_write (h->req, (size_t)r);
  free (buf);
}

/* What the rule says of a call now. */
static enum faultfs_fault
fault_of (const struct held *h)
{
  struct faultfs_rule *rule = &fs.rules[h->call];
  const uint64_t start = (uint64_t)h->offset;

  fs.seen[h->call]++;
  if (rule->fault == FAULTFS_PASS
      || strncmp (h->name, rule->file, strlen (rule->file)) != 0
      || (rule->length > 0 && h->call != FAULTFS_SYNC
          && (start >= rule->offset + rule->length
              || start + h->size <= rule->offset)))
    return FAULTFS_PASS;
  if (rule->skip > 0) {
    rule->skip--;
    return FAULTFS_PASS;
  }
  const enum faultfs_fault fault = rule->fault;
  if (rule->times > 0 && --rule->times == 0)
    rule->fault = FAULTFS_PASS;
  return fault;
}

static void
reply_test (unsigned value)
{
  (void)!send (fs.control, &value, sizeof value, MSG_NOSIGNAL);
}

static void
hold (const struct held *h)
{
  if (fs.held_count == HELD_MAX)
    abort ();
  fs.held[fs.held_count++] = *h;
  if (fs.awaited > 0 && fs.held_count >= fs.awaited) {
    fs.awaited = 0;
    reply_test (1);
  }
}

/* A read or write has come in; its data are H's. */
static void
serve (struct held *h)
{
  const unsigned amount = fs.rules[h->call].amount;
  const int error = fs.rules[h->call].error;

  switch (fault_of (h)) {
  case FAULTFS_HOLD:
    hold (h);
    return;
  case FAULTFS_FAIL:
    fuse_reply_err (h->req, error);
    free (h->data);
    return;
  case FAULTFS_SHORT:
    if (h->size > amount)
      h->size = amount;
    break;
  case FAULTFS_SLOW:
    usleep (amount);
    break;
  case FAULTFS_PASS:
    break;
  }
  answer (h);
}

static void
fs_read (fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset,
         struct fuse_file_info *fi)
{
  struct held h = { .req = req,
                    .call = FAULTFS_READ,
                    .name = node_of (ino)->name,
                    .fd = node_of (ino)->fd,
                    .offset = offset,
                    .size = size };

  (void)fi;
  serve (&h);
}

static void
fs_write (fuse_req_t req, fuse_ino_t ino, const char *data, size_t size,
          off_t offset, struct fuse_file_info *fi)
{
  struct held h = { .req = req,
                    .call = FAULTFS_WRITE,
                    .name = node_of (ino)->name,
                    .fd = node_of (ino)->fd,
                    .offset = offset,
                    .size = size,
                    .data = malloc (size) };

  (void)fi;
  if (h.data == NULL)
    abort ();
  memcpy (h.data, data, size);
  serve (&h);
}

static void
fs_fsync (fuse_req_t req, fuse_ino_t ino, int datasync,
          struct fuse_file_info *fi)
{
  struct held h
      = { .req = req, .call = FAULTFS_SYNC, .name = node_of (ino)->name };

  (void)datasync;
  (void)fi;
  serve (&h);
}

static void
fs_fsyncdir (fuse_req_t req, fuse_ino_t ino, int datasync,
             struct fuse_file_info *fi)
{
  struct held h = { .req = req, .call = FAULTFS_SYNC, .name = "." };

  (void)ino;
  (void)datasync;
  (void)fi;
  serve (&h);
}

static const struct fuse_lowlevel_ops operations = {
  .init = fs_init,
  .lookup = fs_lookup,
  .getattr = fs_getattr,
  .setattr = fs_setattr,
  .create = fs_create,
  .open = fs_open,
  .release = fs_release,
  .read = fs_read,
  .write = fs_write,
  .unlink = fs_unlink,
  .rename = fs_rename,
  .readdir = fs_readdir,
  .fsync = fs_fsync,
  .fsyncdir = fs_fsyncdir,
  .fallocate = fs_fallocate,
  .lseek = fs_lseek,
};

/* A command of the test.  False: it has gone. */
static bool
obey (void)
{
  struct command command;

  if (recv (fs.control, &command, sizeof command, 0) != sizeof command)
    return false;
  switch (command.code) {
  case COMMAND_SET:
    fs.rules[command.call] = command.rule;
    break;
  case COMMAND_REFUSE_EXCHANGE:
    fs.no_exchange = true;
    break;
  case COMMAND_RELEASE:
    for (unsigned i = 0; i < FAULTFS_CALLS; i++)
      fs.rules[i].fault = FAULTFS_PASS;
    for (unsigned i = 0; i < fs.held_count; i++)
      answer (&fs.held[i]);
    fs.held_count = 0;
    break;
  case COMMAND_AWAIT:
    if (fs.held_count < command.count) {
      fs.awaited = command.count;
      return true;
    }
    break;
  case COMMAND_SEEN:
    reply_test (fs.seen[command.call]);
    return true;
  }
  reply_test (1);
  return true;
}

static void
serve_all (struct fuse_session *session)
{
  struct pollfd pollfds[2]
      = { { .fd = fuse_session_fd (session), .events = POLLIN },
          { .fd = fs.control, .events = POLLIN } };
  struct fuse_buf buf = { 0 };

  while (!fuse_session_exited (session)) {
    if (poll (pollfds, 2, -1) == -1 && errno != EINTR)
      break;
    if (pollfds[1].revents != 0 && !obey ())
      break;
    if (pollfds[0].revents != 0) {
      const int r = fuse_session_receive_buf (session, &buf);
      if (r == -EINTR || r == -EAGAIN)
        continue;
      if (r <= 0)
        break;
      fuse_session_process_buf (session, &buf);
    }
  }
  free (buf.mem);
}

static _Noreturn void
run_child (const char *directory, pid_t parent)
{
  char *argv[] = { strdup ("faultfs"), NULL };
  struct fuse_args args = FUSE_ARGS_INIT (1, argv);

  /* The test's end closes the control socket too; this is for a test that
   * left that end to someone else.
   */
  prctl (PR_SET_PDEATHSIG, SIGTERM);
  signal (SIGTERM, SIG_DFL);
  signal (SIGINT, SIG_IGN);
  if (getppid () != parent)
    _exit (1);
  struct fuse_session *session
      = fuse_session_new (&args, &operations, sizeof operations, NULL);
  if (session == NULL || fuse_session_mount (session, directory) == -1) {
    reply_test (0);
    _exit (1);
  }
  reply_test (1);
  serve_all (session);
  /* Not fuse_session_unmount: the test unmounts. */
  _exit (0);
}

/* From here on: the test's side. */

static unsigned
ask (const struct faultfs *faultfs, const struct command *command)
{
  unsigned reply = 0;

  if (send (faultfs->control, command, sizeof *command, MSG_NOSIGNAL) == -1
      || recv (faultfs->control, &reply, sizeof reply, 0) != sizeof reply)
    return 0;
  return reply;
}

static void
must (const struct faultfs *faultfs, const struct command *command)
{
  if (ask (faultfs, command) != 1) {
    fprintf (stderr, "faultfs does not answer\n");
    abort ();
  }
}

struct faultfs *
faultfs_mount (const char *directory)
{
  const struct timeval patience = { .tv_sec = AWAIT_SECONDS };
  struct faultfs *faultfs = calloc (1, sizeof *faultfs);
  const pid_t parent = getpid ();
  unsigned mounted = 0;
  int pair[2];

  if (faultfs == NULL
      || socketpair (AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == -1) {
    free (faultfs);
    return NULL;
  }
  faultfs->pid = fork ();
  if (faultfs->pid == 0) {
    close (pair[0]);
    fs.control = pair[1];
    run_child (directory, parent);
  }
  close (pair[1]);
  faultfs->control = pair[0];
  faultfs->directory = strdup (directory);
  setsockopt (pair[0], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  if (faultfs->pid == -1 || faultfs->directory == NULL
      || recv (pair[0], &mounted, sizeof mounted, 0) != sizeof mounted
      || !mounted) {
    faultfs_unmount (faultfs);
    errno = ENODEV;
    return NULL;
  }
  return faultfs;
}

void
faultfs_unmount (struct faultfs *faultfs)
{
  if (faultfs->pid > 0) {
    kill (faultfs->pid, SIGKILL);
    waitpid (faultfs->pid, NULL, 0);
  }
  umount2 (faultfs->directory, MNT_DETACH);
  close (faultfs->control);
  free (faultfs->directory);
  free (faultfs);
}

void
faultfs_set (struct faultfs *faultfs, enum faultfs_call call,
             struct faultfs_rule rule)
{
  must (faultfs, &(const struct command){
                     .code = COMMAND_SET, .call = call, .rule = rule });
}

void
faultfs_refuse_exchange (struct faultfs *faultfs)
{
  must (faultfs, &(const struct command){ .code = COMMAND_REFUSE_EXCHANGE });
}

void
faultfs_release (struct faultfs *faultfs)
{
  must (faultfs, &(const struct command){ .code = COMMAND_RELEASE });
}

bool
faultfs_await_held (struct faultfs *faultfs, unsigned count)
{
  return ask (faultfs,
              &(const struct command){ .code = COMMAND_AWAIT, .count = count })
         == 1;
}

unsigned
faultfs_seen (struct faultfs *faultfs, enum faultfs_call call)
{
  return ask (faultfs,
              &(const struct command){ .code = COMMAND_SEEN, .call = call });
}

pid_t
faultfs_pid (const struct faultfs *faultfs)
{
  return faultfs->pid;
}
