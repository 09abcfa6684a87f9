/* SPDX-License-Identifier: BSD-3-Clause */

#include "output.h"
#include "command.h"
#include "scoped.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void
no_memory (void)
{
  fputs ("fssnap: out of memory\n", stderr);
  exit (STATUS_FAILED);
}

/* Decode the character at S.  Its length in bytes, or 0 if it is no UTF-8;
 * too long a form of a character is none.
 */
static size_t
decode (const unsigned char *s, uint32_t *character)
{
  static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
  const size_t length = s[0] < 0x80             ? 1
                        : (s[0] & 0xe0) == 0xc0 ? 2
                        : (s[0] & 0xf0) == 0xe0 ? 3
                        : (s[0] & 0xf8) == 0xf0 ? 4
                                                : 0;

  if (length <= 1) {
    *character = s[0];
    return length;
  }
  uint32_t c = s[0] & (0x7fU >> length);
  for (size_t i = 1; i < length; i++) {
    if ((s[i] & 0xc0) != 0x80)
      return 0;
    c = c << 6 | (s[i] & 0x3f);
  }
  *character = c;
  return c < least[length] ? 0 : length;
}

/* Control characters, line separators, and what turns the direction or has no
 * width, so that one name could look like another.
 */
static bool
is_harmless (uint32_t c)
{
  if (c < 0x20 || (c >= 0x7f && c < 0xa0))
    return false;
  if ((c >= 0x200b && c <= 0x200f) || (c >= 0x2028 && c <= 0x202e)
      || (c >= 0x2060 && c <= 0x206f) || c == 0x061c || c == 0xfeff)
    return false;
  return true;
}

char *
escape (const char *string)
{
  static const char plain[] = "\\\n\r\t", named[] = "\\nrt";
  const unsigned char *s = (const unsigned char *)string;
  char *escaped = malloc (4 * strlen (string) + 1);
  char *end = escaped;

  if (escaped == NULL)
    no_memory ();
  while (*s != '\0') {
    uint32_t c = 0;
    const size_t length = decode (s, &c);
    const char *found = strchr (plain, *s);

    if (found != NULL) {
      *end++ = '\\';
      *end++ = named[found - plain];
      s++;
    }
    else if (length > 0 && is_harmless (c)) {
      memcpy (end, s, length);
      end += length;
      s += length;
    }
    else
      for (size_t i = 0; i < (length > 0 ? length : 1); i++)
        end += sprintf (end, "\\x%02x", *s++);
  }
  *end = '\0';
  return escaped;
}

static char *
text_list (const char *format, va_list arguments)
{
  char *result;

  if (vasprintf (&result, format, arguments) == -1)
    no_memory ();
  return result;
}

char *
text (const char *format, ...)
{
  va_list arguments;

  va_start (arguments, format);
  char *result = text_list (format, arguments);
  va_end (arguments);
  return result;
}

void
complain_list (const char *format, va_list arguments)
{
  SCOPED_FREE char *message = text_list (format, arguments);
  SCOPED_FREE char *escaped = escape (message);

  fprintf (stderr, "fssnap: %s\n", escaped);
}

void
complain (const char *format, ...)
{
  va_list arguments;

  va_start (arguments, format);
  complain_list (format, arguments);
  va_end (arguments);
}

/* How many columns ESCAPED takes, with one for each character. */
static size_t
columns_of (const char *escaped)
{
  size_t n = 0;

  for (; *escaped != '\0'; escaped++)
    n += (*escaped & 0xc0) != 0x80;
  return n;
}

static void
print_spaces (size_t n)
{
  printf ("%*s", (int)n, "");
}

void
table_add (struct table *table, char *content)
{
  char **grown = realloc (table->text, (table->cells + 1) * sizeof *grown);
  SCOPED_FREE char *raw = content;

  if (grown == NULL)
    no_memory ();
  table->text = grown;
  table->text[table->cells++] = escape (raw);
}

/* The titles are row 0, the cells follow. */
static const char *
cell (const struct table *table, size_t row, size_t column)
{
  return row == 0 ? table->columns[column].title
                  : table->text[(row - 1) * table->width + column];
}

static size_t
column_width (const struct table *table, size_t column)
{
  size_t widest = 0;

  for (size_t row = 0; row <= table->cells / table->width; row++) {
    const size_t n = columns_of (cell (table, row, column));
    if (n > widest)
      widest = n;
  }
  return widest;
}

void
table_print (const struct table *table)
{
  size_t *widths = calloc (table->width, sizeof *widths);

  if (widths == NULL)
    no_memory ();
  for (size_t column = 0; column < table->width; column++)
    widths[column] = column_width (table, column);
  for (size_t row = 0; row <= table->cells / table->width; row++) {
    for (size_t column = 0; column < table->width; column++) {
      const char *content = cell (table, row, column);
      const size_t room = widths[column] - columns_of (content);
      const bool last = column + 1 == table->width;

      if (table->columns[column].right)
        print_spaces (room);
      fputs (content, stdout);
      if (!last)
        print_spaces (2 + (table->columns[column].right ? 0 : room));
    }
    putchar ('\n');
  }
  free (widths);
}

void
table_free (struct table *table)
{
  for (size_t i = 0; i < table->cells; i++)
    free (table->text[i]);
  free (table->text);
}

void
print_pair (const char *key, size_t width, const char *value)
{
  SCOPED_FREE char *escaped_key = escape (key);
  SCOPED_FREE char *escaped_value = escape (value);
  const size_t used = columns_of (escaped_key) + 1;

  printf ("%s:", escaped_key);
  print_spaces (used < width ? width - used : 1);
  puts (escaped_value);
}

void
print_line (const char *value)
{
  char *escaped = escape (value);

  puts (escaped);
  free (escaped); /* no SCOPED_FREE, which the analyzer does not see here */
}

/* The one control character that jansson does not escape is DEL, and it can
 * be in a string only.
 */
static int
put_json (const char *piece, size_t length, void *unused)
{
  (void)unused;
  for (size_t i = 0; i < length; i++) {
    if (piece[i] == 0x7f)
      fputs ("\\u007f", stdout);
    else
      putchar (piece[i]);
  }
  return 0;
}

void
print_json (const json_t *value)
{
  if (json_dump_callback (value, put_json, NULL,
                          JSON_INDENT (2) | JSON_ENSURE_ASCII)
      == -1)
    no_memory ();
  putchar ('\n');
}

int
finish_output (void)
{
  errno = 0;
  if (fflush (stdout) == 0 && !ferror (stdout))
    return STATUS_DONE;
  /* When nobody reads any more there is nobody to tell either. */
  if (errno != EPIPE)
    complain ("cannot write to standard output: %s",
              strerror (errno != 0 ? errno : EIO));
  return STATUS_FAILED;
}
