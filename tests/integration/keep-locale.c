/* SPDX-License-Identifier: BSD-3-Clause */
/* Preloaded into a sanitized nbdkit.  With the sanitizer's runtime before
 * all else nbdkit, also with its own plugins, hangs in exit once it used
 * strerror: a destructor of libp11-kit calls freelocale, and that waits for
 * a lock of libc.  A locale less freed at the end is no loss.
 */

#include <locale.h>

__attribute__ ((visibility ("default"))) void
freelocale (locale_t locale)
{
  (void)locale;
}
