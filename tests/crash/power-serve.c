/* SPDX-License-Identifier: BSD-3-Clause */

#include "power-load.h"
#include "load.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Of a snapshot's copies, in bytes; more than a chunk. */
#define LIMIT (100u << 10)

void
load_start_server (const struct plan *plan, const char *parameter,
                   uint64_t boot)
{
  const char *parameters[PARAMETERS_MAX + 8];
  char control[128], path[128];
  unsigned n = 0;

  snprintf (path, sizeof path, "%s/boot", server.dir);
  FILE *file = fopen (path, "we");
  if (file == NULL
      || fprintf (file, "00000000-0000-4000-8000-%012" PRIu64 "\n", boot) < 0
      || fclose (file) != 0)
    fail ("%s: %s", path, strerror (errno));
  setenv ("FSSNAP_POWER_BOOT", path, 1);
  setenv ("FSSNAP_POWER_ORIGIN", "/proc/self/cwd/disk.img", 1);
  snprintf (control, sizeof control, "control=%s/control", server.dir);
  /* The same for all copies, wherever they are. */
  parameters[n++] = "origin=/proc/self/cwd/disk.img";
  parameters[n++] = "store=/proc/self/cwd/store";
  parameters[n++] = control;
  parameters[n++] = "snapshot=no";
  parameters[n++] = "cow-timeout=600";
  for (unsigned i = 0; plan->parameters[i] != NULL; i++)
    parameters[n++] = plan->parameters[i];
  parameters[n++] = parameter;
  parameters[n] = NULL;
  server_start (&server, parameters);
}

struct json_t *
load_options (const struct plan *plan, uint64_t *random, struct snap *snap)
{
  static const char *const levels[] = { "async", "written", "stable" };
  json_t *options = json_object ();
  uint64_t chunk_size = 4096;

  snap->keeping = plan->standard;
  snap->may_break = plan->limits;
  if (plan->levels) {
    snap->keeping = (enum keeping)random_below (random, 3);
    json_object_set_new (options, "durability",
                         json_string (levels[snap->keeping]));
  }
  if (plan->chunks) {
    chunk_size = UINT64_C (512) << random_below (random, 8);
    json_object_set_new (options, "chunksize",
                         json_integer ((json_int_t)chunk_size));
  }
  if (plan->elsewhere && random_below (random, 2) == 0)
    json_object_set_new (options, "backing-store",
                         json_string ("/proc/self/cwd/elsewhere"));
  if (plan->limits && random_below (random, 2) == 0)
    json_object_set_new (
        options, "maxsize",
        json_integer ((json_int_t)(chunk_size + random_below (random, LIMIT))));
  return options;
}
