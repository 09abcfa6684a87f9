/* SPDX-License-Identifier: BSD-3-Clause */

#include "faulty.h"

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

struct world
faulty_world (struct fixture *f)
{
  struct world w = new_world (f);

  assert_int_equal (mkdir (store_directory (f), 0700), 0);
  f->faults = faultfs_mount (store_directory (f));
  assert_non_null (f->faults);
  return w;
}

void
hold_all (struct fixture *f)
{
  const struct faultfs_rule hold = { .fault = FAULTFS_HOLD };

  faultfs_set (f->faults, FAULTFS_WRITE, hold);
  faultfs_set (f->faults, FAULTFS_SYNC, hold);
}

void
hang_breaks (struct world *w)
{
  double began = now ();

  overwrite (w, 0, SIZE);
  const double took = now () - began;
  assert_true (took >= 0.9);
  assert_true (took < 1 + MARK + SLACK);
  assert_int_equal (server_logged (&w->f->server, "is broken and reads"), 1);
  snapshot_is_broken (w, 1, "cow-timeout");
  began = now ();
  overwrite_anywhere (w);
  assert_true (now () - began < SLACK);
  origin_is_live (w);
}

void
kill_and_release (struct world *w)
{
  struct server *server = &w->f->server;

  kill (server->pid, SIGKILL);
  faultfs_release (w->f->faults);
  assert_true (ends (server->pid, SLACK));
  end (w, KILLED);
}

static void
release_mark (void *what)
{
  unlink (what);
  free (what);
}

const char *
mark_of (struct fixture *f, int snapnumber)
{
  char uuid[UUID_STR_LEN];

  uuid_unparse_lower (layer_of (f, read_catalog (f), snapnumber)->uuid, uuid);
  const char *mark = text (f, "/dev/shm/fssnap-%s", uuid);
  keep (f, strdup (mark), release_mark);
  return mark;
}
