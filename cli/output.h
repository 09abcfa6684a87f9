/* SPDX-License-Identifier: BSD-3-Clause */
/* What the command writes: messages, text, tables, JSON.
 *
 * Strings come from the server, from files and from arguments, and must not
 * steer a terminal: all that is written here passes escape ().
 */

#ifndef FSSNAP_OUTPUT_H
#define FSSNAP_OUTPUT_H

#include <jansson.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

/* A new string with what could steer a terminal, or be taken for the end of a
 * line, as \n, \x1b and so on, and a backslash as two: printf %b undoes it.
 * Such are control characters, the marks that turn the direction of writing,
 * and bytes that are no UTF-8.
 */
char *escape (const char *string);

/* As asprintf; there is always a result. */
char *text (const char *format, ...) __attribute__ ((format (printf, 1, 2)));

/* "fssnap: MESSAGE", one line on standard error. */
void complain (const char *format, ...) __attribute__ ((format (printf, 1, 2)));
void complain_list (const char *format, va_list arguments)
    __attribute__ ((format (printf, 1, 0)));

/* Say that memory is out and end the program. */
void no_memory (void) __attribute__ ((noreturn));

/* A table with a line of titles, the columns as wide as they need. */
struct column {
  const char *title;
  bool right; /* numbers are set to the right */
};

struct table {
  const struct column *columns;
  size_t width; /* columns */
  size_t cells; /* filled so far, row by row */
  char **text;
};

/* Fill in the next cell.  CONTENT, from malloc, becomes the table's. */
void table_add (struct table *table, char *content);
void table_print (const struct table *table);
void table_free (struct table *table);

/* "KEY: VALUE" with the values from column WIDTH on. */
void print_pair (const char *key, size_t width, const char *value);

void print_line (const char *value);
void print_json (const json_t *value);

/* All is printed: have it written.  The command's exit status, after a message
 * if it is not STATUS_DONE.
 */
int finish_output (void);

#endif
