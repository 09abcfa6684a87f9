/* SPDX-License-Identifier: BSD-3-Clause */
/* What the server tells of snapshots and of itself: the keys, and how their
 * values are shown.
 */

#ifndef FSSNAP_FIGURES_H
#define FSSNAP_FIGURES_H

#include <jansson.h>
#include <stdbool.h>
#include <time.h>

/* The keys of snapshot.info and of server.info; the last has no name. */
struct figure {
  const char *key;
  char *(*show) (const json_t *value); /* for people; not null */
};
extern const struct figure snapshot_figures[];
extern const struct figure server_figures[];

/* What a key that the user gives is called by the server: itself, or what it
 * is another word for; NULL if there is no such key.
 */
const char *figure_key (const struct figure *figures, const char *given);

/* All keys, with commas between; from malloc, as is what follows. */
char *figure_keys (const struct figure *figures);

/* A value as it is: bytes, seconds since 1970, "" for null, an array's
 * elements with spaces between.
 */
char *figure_exact (const json_t *value);

/* A value for people: its date, its size, "-" for null or none at all (NULL).
 * FIGURES need not have the key.
 */
char *figure_shown (const struct figure *figures, const char *key,
                    const json_t *value);

/* "11.8M", with the plugin's suffixes: powers of 1024. */
char *size_shown (json_int_t bytes);

/* "45s", "12m", "3h05m", "2d04h". */
char *age_shown (json_int_t seconds);

#endif
