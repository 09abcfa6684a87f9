/* SPDX-License-Identifier: BSD-3-Clause */

#include "output.h"
#include "source.h"

#include <errno.h>
#include <libnbd.h>
#include <stdlib.h>

/* What every server takes. */
#define REQUEST_MAX (UINT32_C (32) << 20)

struct nbd {
  struct source source;
  struct nbd_handle *handle;
};

static int
read_nbd (struct source *source, void *buffer, size_t count, uint64_t offset)
{
  const struct nbd *nbd = (const struct nbd *)source;
  char *next = buffer;

  while (count > 0) {
    const size_t n = count < REQUEST_MAX ? count : REQUEST_MAX;
    if (nbd_pread (nbd->handle, next, n, offset, 0) == -1) {
      errno = nbd_get_errno () != 0 ? nbd_get_errno () : EIO;
      return -1;
    }
    next += n;
    offset += n;
    count -= n;
  }
  return 0;
}

static void
close_nbd (struct source *source)
{
  struct nbd *nbd = (struct nbd *)source;

  nbd_shutdown (nbd->handle, 0);
  nbd_close (nbd->handle);
  free (nbd);
}

struct source *
source_of_nbd (const char *uri)
{
  struct nbd *nbd = malloc (sizeof *nbd);
  struct nbd_handle *handle = nbd_create ();
  int64_t size = -1;

  if (nbd == NULL || handle == NULL || nbd_connect_uri (handle, uri) == -1
      || (size = nbd_get_size (handle)) == -1) {
    complain ("%s: %s", uri, nbd == NULL ? "no memory" : nbd_get_error ());
    nbd_close (handle);
    free (nbd);
    return NULL;
  }
  nbd->source = (struct source){ .size = (uint64_t)size,
                                 .read = read_nbd,
                                 .close = close_nbd };
  nbd->handle = handle;
  return &nbd->source;
}
