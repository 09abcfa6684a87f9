/* SPDX-License-Identifier: BSD-3-Clause */
/* The argument of -o: items with commas between. */

#ifndef FSSNAP_COMMA_LIST_H
#define FSSNAP_COMMA_LIST_H

#include <stddef.h>

struct comma_list {
  size_t n;
  char **items;
};

/* Add the items of ARGUMENT to LIST.  Two commas are one in an item, as QEMU
 * has it.
 */
void comma_list_add (struct comma_list *list, const char *argument);

void comma_list_free (struct comma_list *list);

#define SCOPED_COMMA_LIST                                                      \
  __attribute__ ((cleanup (comma_list_free))) struct comma_list

#endif
