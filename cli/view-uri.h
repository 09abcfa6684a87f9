/* SPDX-License-Identifier: BSD-3-Clause */
/* Where a view can be read. */

#ifndef FSSNAP_VIEW_URI_H
#define FSSNAP_VIEW_URI_H

#include "client.h"

/* The NBD URI of snapshot NUMBER, or of the origin for 0: over a Unix socket if
 * the server has one.  From malloc; NULL if it listens nowhere, or did not
 * say.
 */
char *view_uri (struct client *client, json_int_t number);

#endif
