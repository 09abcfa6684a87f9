/* SPDX-License-Identifier: BSD-3-Clause */

#include "power-probe.h"
#include "load.h"
#include "power-rpc.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WRITES 12
#define LENGTH_MAX (24u << 10)
#define NAME "probe"

struct prober {
  const struct model *model;
  const struct seen *seen;
  uint64_t *random;
  struct nbd_handle *origin;
  uint8_t *live;   /* the origin's content */
  uint8_t *own;    /* that of the snapshot taken here, or NULL */
  unsigned number; /* the snapshot's */
  uint8_t *data;   /* what was read */
};

static char *
compare (const struct prober *prober, const char *name, unsigned number,
         const uint8_t *content)
{
  const uint64_t size = prober->model->size;

  if (!check_read (number, prober->data, size))
    return say ("after the start and more writes: snapshot %s cannot be read: "
                "%s",
                name, nbd_get_error ());
  char *why = check_equal (name, prober->data, content, size);
  char *more
      = why != NULL ? say ("after the start and more writes: %s", why) : NULL;
  free (why);
  return more;
}

static char *
write_and_compare (const struct prober *prober)
{
  const struct model *model = prober->model;
  char *why = NULL;

  for (unsigned i = 0; i < WRITES; i++) {
    uint64_t length = 1 + random_below (prober->random, LENGTH_MAX);
    const uint64_t offset = random_below (prober->random, model->size);
    if (length > model->size - offset)
      length = model->size - offset;
    random_bytes (prober->random, prober->live + offset, length);
    if (nbd_pwrite (prober->origin, prober->live + offset, length, offset, 0)
        == -1)
      return say ("write after the start: %s", nbd_get_error ());
  }
  for (unsigned i = 0; i < model->count && why == NULL; i++) {
    const struct snap *snap = model->snaps[i];
    if (prober->seen[i].whole && snap->content != NULL && !snap->may_break)
      why = compare (prober, snap->name, prober->seen[i].number, snap->content);
  }
  if (why == NULL && prober->own != NULL)
    why = compare (prober, NAME, prober->number, prober->own);
  return why;
}

static char *
take (struct prober *prober, const struct plan *plan, int control)
{
  struct snap snap = { .name = NAME };
  char *why;

  json_t *result = rpc (control, "snapshot.create",
                        json_pack ("{s:s, s:o}", "name", NAME, "options",
                                   load_options (plan, prober->random, &snap)),
                        &why);
  if (result == NULL) {
    char *more = say ("cannot take a snapshot after the start: %s",
                      why != NULL ? why : "no reply");
    free (why);
    return more;
  }
  prober->number = (unsigned)rpc_number (result, "snapnumber");
  json_decref (result);
  if (!snap.may_break) {
    prober->own = zalloc (prober->model->size);
    memcpy (prober->own, prober->live, prober->model->size);
  }
  return NULL;
}

static char *delete (int control)
{
  char *why;

  json_t *result
      = rpc (control, "snapshot.delete",
             json_pack ("{s:s, s:b}", "snapshot", NAME, "force", 1), &why);
  json_decref (result);
  return result != NULL || why != NULL
             ? why
             : say ("no reply to snapshot.delete after the start");
}

static char *
run (struct prober *prober, const struct plan *plan)
{
  const int control = rpc_connect ();
  char *why = NULL;

  if (nbd_pread (prober->origin, prober->live, prober->model->size, 0, 0) == -1)
    return say ("the origin cannot be read: %s", nbd_get_error ());
  why = write_and_compare (prober);
  if (why == NULL)
    why = take (prober, plan, control);
  if (why == NULL)
    why = write_and_compare (prober);
  if (why == NULL)
    why = delete (control);
  free (prober->own);
  prober->own = NULL;
  if (why == NULL)
    why = write_and_compare (prober);
  close (control);
  return why;
}

char *
probe (const struct model *model, const struct plan *plan,
       const struct seen *seen, uint64_t *random)
{
  struct prober prober = { .model = model,
                           .seen = seen,
                           .random = random,
                           .origin = check_connect (""),
                           .live = zalloc (model->size),
                           .data = zalloc (model->size) };
  char *why = prober.origin != NULL
                  ? run (&prober, plan)
                  : say ("connect after the start: %s", nbd_get_error ());

  nbd_close (prober.origin);
  free (prober.live);
  free (prober.data);
  return why;
}
