/* SPDX-License-Identifier: BSD-3-Clause */

#include "output.h"
#include "source.h"

#include <errno.h>
#include <libnbd.h>
#include <stdbool.h>
#include <stdlib.h>

/* What every server takes. */
#define REQUEST_MAX (UINT32_C (32) << 20)

/* Requests that are on their way at once: more than servers have threads for
 * one connection, so that none of these waits for us.
 */
#define IN_FLIGHT 64

struct nbd {
  struct source source;
  struct nbd_handle *handle;
  size_t in_flight; /* of the requests of read_nbd_spans () */
  int error;        /* the first of theirs, or 0 */
  bool broken;      /* some never ended: their memory may be written to */
};

/* The errno of what just failed. */
static int
error_of (const struct nbd *nbd)
{
  if (nbd_aio_is_dead (nbd->handle) == 1)
    return ENOTCONN; /* libnbd says EINVAL from the second time on */
  return nbd_get_errno () != 0 ? nbd_get_errno () : EIO;
}

static int
read_nbd (struct source *source, void *buffer, size_t count, uint64_t offset)
{
  const struct nbd *nbd = (const struct nbd *)source;
  char *next = buffer;

  if (nbd->broken) {
    errno = EIO;
    return -1;
  }
  while (count > 0) {
    const size_t n = count < REQUEST_MAX ? count : REQUEST_MAX;
    if (nbd_pread (nbd->handle, next, n, offset, 0) == -1) {
      errno = error_of (nbd);
      return -1;
    }
    next += n;
    offset += n;
    count -= n;
  }
  return 0;
}

static int
request_ended (void *arg, int *error)
{
  struct nbd *nbd = arg;

  nbd->in_flight--;
  if (nbd->error == 0)
    nbd->error = *error;
  return 1; /* nobody asks for it again */
}

/* Until no more than COUNT requests are on their way. */
static void
wait_for_requests (struct nbd *nbd, size_t count)
{
  while (nbd->in_flight > count && !nbd->broken)
    if (nbd_poll (nbd->handle, -1) == -1 && nbd->in_flight > 0) {
      nbd->error = error_of (nbd);
      nbd->broken = true;
    }
}

static void
send_request (struct nbd *nbd, char *buffer, size_t count, uint64_t offset)
{
  const nbd_completion_callback ended
      = { .callback = request_ended, .user_data = nbd };

  wait_for_requests (nbd, IN_FLIGHT - 1);
  if (nbd->error != 0)
    return;
  nbd->in_flight++;
  if (nbd_aio_pread (nbd->handle, buffer, count, offset, ended, 0) == -1) {
    nbd->in_flight--;
    nbd->error = error_of (nbd);
  }
}

/* How many from the first on are one piece, in the source and in memory. */
static size_t
join (const struct span *spans, size_t count, size_t *length)
{
  size_t n = 1;

  *length = spans[0].count;
  while (n < count && spans[n].offset == spans[0].offset + *length
         && (char *)spans[n].buffer == (char *)spans[0].buffer + *length
         && spans[n].count <= REQUEST_MAX - *length)
    *length += spans[n++].count;
  return n;
}

static int
read_nbd_spans (struct source *source, const struct span *spans, size_t count,
                uint64_t base)
{
  struct nbd *nbd = (struct nbd *)source;
  size_t length;

  nbd->error = nbd->broken ? EIO : 0;
  for (size_t i = 0; i < count && nbd->error == 0;) {
    const size_t joined = join (spans + i, count - i, &length);
    send_request (nbd, spans[i].buffer, length, base + spans[i].offset);
    i += joined;
  }
  wait_for_requests (nbd, 0);
  errno = nbd->error;
  return nbd->error == 0 ? 0 : -1;
}

static void
close_nbd (struct source *source)
{
  struct nbd *nbd = (struct nbd *)source;

  if (!nbd->broken)
    nbd_shutdown (nbd->handle, 0);
  nbd_close (nbd->handle);
  free (nbd);
}

struct source *
source_of_nbd (const char *uri)
{
  struct nbd *nbd = calloc (1, sizeof *nbd);
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
                                 .read_spans = read_nbd_spans,
                                 .close = close_nbd };
  nbd->handle = handle;
  return &nbd->source;
}
