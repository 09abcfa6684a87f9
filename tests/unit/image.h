/* SPDX-License-Identifier: BSD-3-Clause */
/* What a crash leaves: the store and the origin as they are at an instant,
 * to be looked at, by another server, while the first goes on.
 */

#ifndef FSSNAP_IMAGE_H
#define FSSNAP_IMAGE_H

#include "fixture.h"

struct image {
  char store[256]; /* a directory in the scratch directory */
  uint64_t size;
  uint8_t *origin; /* SIZE bytes */
};

/* Take one.  From any thread, also in a hook; nothing that is in the store's
 * directory may be changing meanwhile.
 */
struct image *image_take (const struct fixture *fixture);
void image_free (struct image *image);

/* The files go too, before the scratch directory does. */
void image_remove (struct image *image);

/* A server that starts with what an image has, the origin being the one, and
 * as, it knew; REBOOTED: on a machine that was restarted meanwhile.  To be
 * closed by fixture_close.  The image is used up, but not freed.
 */
void image_serve (struct image *image, struct fixture *fixture, bool rebooted);

/* The catalogue of a store, to be freed by catalog_free. */
void image_catalog (const char *store, struct catalog *catalog);

/* Put another one in its place. */
void image_set_catalog (const char *store, const struct catalog *catalog);

#endif
