/* SPDX-License-Identifier: BSD-3-Clause */

#include "world.h"

#include <unistd.h>

struct world
begin (struct fixture *f)
{
  struct world w = { .f = f, .live = make_image (f, SIZE), .seed = 1 };

  serve (f, "snapshot=no", NULL);
  w.c = control_connect (f, NULL);
  w.origin = connect_to (f, "");
  return w;
}

void
overwrite (struct world *w, uint64_t offset, size_t count)
{
  const size_t kept = w->f->kept_count;

  memcpy (w->live + offset, pattern (w->f, ++w->seed, offset, count), count);
  forget (w->f, kept);
  ok (nbd_pwrite (w->origin, w->live + offset, count, offset, 0));
}

uint8_t *
remember (const struct world *w)
{
  uint8_t *copy = scratch (w->f, SIZE);

  memcpy (copy, w->live, SIZE);
  return copy;
}

const char *
store (struct fixture *f, int i)
{
  return text (f, "%s/store%d", f->server.dir, i);
}

int
create_in_store (struct world *w, int i)
{
  return (int)number (call (w->c, "snapshot.create", "{s:{s:s}}", "options",
                            "backing-store", store (w->f, i)),
                      "snapnumber");
}

bool
has_store (struct world *w, int i)
{
  return access (store (w->f, i), F_OK) == 0;
}

void delete (struct world *w, int snapnumber)
{
  call (w->c, "snapshot.delete", "{s:i}", "snapshot", snapnumber);
}

void
force_deletion (struct world *w, int snapnumber)
{
  const json_t *result = call (w->c, "snapshot.delete", "{s:i, s:b}",
                               "snapshot", snapnumber, "force", 1);

  assert_int_equal (number (result, "snapnumber"), snapnumber);
}

const char *
state_of (struct world *w, int snapnumber)
{
  return string (info (w->c, snapnumber), "state");
}

void
overwrite_anywhere (struct world *w)
{
  for (unsigned i = 0; i < 12; i++) {
    const uint64_t x = (w->seed + 1) * UINT64_C (0x9e3779b97f4a7c15);
    const size_t count = 1 + (x >> 20) % 60000;
    overwrite (w, (x >> 40) % (SIZE - count), count);
  }
}

int
begin_creating (struct world *w)
{
  return (int)number (call (w->c, "snapshot.create", "{s:b}", "creating", 1),
                      "snapnumber");
}

const json_t *
entry (struct world *w, int snapnumber)
{
  const json_t *list = json_object_get (
      call (w->c, "snapshot.list", "{s:b}", "all", 1), "snapshots");
  const json_t *snapshot;
  size_t i;

  json_array_foreach (list, i, snapshot)
  {
    if (number (snapshot, "snapnumber") == snapnumber)
      return snapshot;
  }
  fail_msg ("snapshot %d is not listed", snapnumber);
  return NULL;
}

void
close_readers (struct world *w)
{
  while (w->f->handle_count > 1)
    nbd_close (w->f->handles[--w->f->handle_count]);
}
