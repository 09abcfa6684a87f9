/* SPDX-License-Identifier: BSD-3-Clause */

#include "view-uri.h"
#include "output.h"
#include "scoped.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* URI, of a server, with the path EXPORT. */
static char *
with_export (const char *uri, const char *export)
{
  const char *host = strstr (uri, "://");

  if (host == NULL)
    return NULL;
  const size_t path = (size_t)(host - uri) + 3 + strcspn (host + 3, "/?");
  const char *query = strchr (uri + path, '?');
  return text ("%.*s/%s%s", (int)path, uri, export, query != NULL ? query : "");
}

/* One of those that the server listens on: the nearest. */
static const char *
choose (const json_t *listen)
{
  const char *first = json_string_value (json_array_get (listen, 0));
  const json_t *uri;
  size_t i;

  json_array_foreach (listen, i, uri)
  {
    if (strncmp (json_string_value (uri), "nbd+unix", 8) == 0)
      return json_string_value (uri);
  }
  return first;
}

char *
view_uri (struct client *client, json_int_t number)
{
  json_auto_t *info = client_request (client, "server.info", json_object ());
  const char *uri = choose (json_object_get (info, "listen"));
  SCOPED_FREE char *export
      = number == 0 ? text ("%s", "") : text ("snapshot/%jd", (intmax_t)number);

  return uri != NULL ? with_export (uri, export) : NULL;
}
