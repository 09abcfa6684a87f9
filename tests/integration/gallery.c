/* SPDX-License-Identifier: BSD-3-Clause */

#include "gallery.h"
#include "format.h"

#include <errno.h>

uint64_t
index_of_copied (void)
{
  const struct format_layout layout = format_layout (CHUNK, SIZE);

  return format_unit_offset (&layout, FORMAT_COPIED, 0);
}

static void
overwrite_what_is_kept_by (struct world *w, int snapnumber)
{
  for (unsigned i = 0; i < ROUNDS; i++)
    overwrite (w, KEPT_BY ((unsigned)snapnumber, i), CHUNK);
}

struct gallery
make_gallery (struct fixture *f)
{
  struct gallery g = { .w = new_world (f) };

  open_store (&g.w);
  for (int i = 1; i <= COUNT; i++) {
    g.content[i] = remember (&g.w);
    assert_int_equal (create (g.w.c), i);
    overwrite_what_is_kept_by (&g.w, i);
  }
  end (&g.w, STOPPED);
  for (int i = 1; i <= COUNT; i++) {
    g.file[i] = part_of (f, i, 0);
    g.good[i] = text (f, "%s/good.%d", f->server.dir, i);
    copy_file (g.file[i], g.good[i]);
  }
  return g;
}

void
all_are_exact (struct gallery *g)
{
  for (int i = 1; i <= COUNT; i++)
    snapshot_is (&g->w, i, g->content[i]);
  origin_is_live (&g->w);
}

void
is_blocked (struct gallery *g, int snapnumber, int by)
{
  struct nbd_handle *nbd
      = connect_to (g->w.f, text (g->w.f, "snapshot/%d", snapnumber));
  uint8_t buf[CHUNK];
  unsigned own = 0;

  assert_int_equal (figure (g->w.c, snapnumber, "blocked-by"), by);
  for (uint64_t at = 0; at < SIZE; at += CHUNK) {
    if (nbd_pread (nbd, buf, CHUNK, at, 0) == -1)
      assert_int_equal (nbd_get_errno (), EIO);
    else {
      assert_memory_equal (buf, g->content[snapnumber] + at, CHUNK);
      own++;
    }
  }
  assert_true (own >= ROUNDS);
  close_readers (&g->w);
}

void
second_is_refused (struct gallery *g, const char *why)
{
  const char *name = name_in (g->file[2]);

  log_says (g->w.f, name, why);
  assert_string_equal (listed (g->w.c, true), "1 2 3");
  snapshot_is_broken (&g->w, 2, name, why);
  is_blocked (g, 1, 2);
  snapshot_is (&g->w, 3, g->content[3]);
  origin_is_live (&g->w);
}

void
first_is_exact_or_fails (struct gallery *g)
{
  struct nbd_handle *nbd = connect_to (g->w.f, "snapshot/1");
  uint8_t buf[CHUNK];

  for (uint64_t at = 0; at < SIZE; at += CHUNK)
    if (nbd_pread (nbd, buf, CHUNK, at, 0) == -1)
      assert_int_equal (nbd_get_errno (), EIO);
    else
      assert_memory_equal (buf, g->content[1] + at, CHUNK);
  close_readers (&g->w);
}
