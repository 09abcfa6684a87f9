/* SPDX-License-Identifier: BSD-3-Clause */

#include "comma-list.h"
#include "output.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static char *
new_item (struct comma_list *list, size_t room)
{
  char **grown = realloc (list->items, (list->n + 1) * sizeof *grown);
  char *item = malloc (room);

  if (grown == NULL || item == NULL)
    no_memory ();
  list->items = grown;
  list->items[list->n++] = item;
  return item;
}

void
comma_list_add (struct comma_list *list, const char *argument)
{
  const char *s = argument;
  bool separated;

  do {
    char *end = new_item (list, strlen (s) + 1);

    separated = false;
    for (; *s != '\0' && !separated; s++) {
      if (s[0] == ',' && s[1] == ',')
        s++;
      else
        separated = s[0] == ',';
      if (!separated)
        *end++ = *s;
    }
    *end = '\0';
  } while (separated);
}

void
comma_list_free (struct comma_list *list)
{
  for (size_t i = 0; i < list->n; i++)
    free (list->items[i]);
  free (list->items);
}
