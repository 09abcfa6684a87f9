/* SPDX-License-Identifier: BSD-3-Clause */
/* What a file system is read from: a file, an export of an NBD server, a part
 * of either.  Nothing is ever written.  For one thread at a time.
 */

#ifndef FSSNAP_SOURCE_H
#define FSSNAP_SOURCE_H

#include <stddef.h>
#include <stdint.h>

/* Bytes to read among others: at least one, no more than 32 MiB. */
struct span {
  void *buffer;
  size_t count;
  uint64_t offset;
};

struct source {
  uint64_t size; /* bytes, set at creation */

  /* COUNT bytes, at least one, from OFFSET on, which lie within the size.  0,
   * or -1 with errno.
   */
  int (*read) (struct source *source, void *buffer, size_t count,
               uint64_t offset);
  /* The same for COUNT spans, in any order and many at once, of which BASE
   * is added to the offsets.  NULL: one after the other is as good.
   */
  int (*read_spans) (struct source *source, const struct span *spans,
                     size_t count, uint64_t base);
  void (*close) (struct source *source); /* frees it, too */
};

/* The file or block device PATH; NULL with errno. */
struct source *source_of_file (const char *path);

/* An export, by its NBD URI; NULL after a message. */
struct source *source_of_nbd (const char *uri);

/* WHOLE, which becomes this source's, read in pieces of 64 KiB, of which the
 * last 32 are kept: for what answers slowly.  NULL with errno; WHOLE is closed
 * then.
 */
struct source *source_cached (struct source *whole);

/* SIZE bytes of WHOLE from OFFSET on, which must lie within it; WHOLE remains
 * the caller's and must live longer.  NULL with errno.
 */
struct source *source_part (struct source *whole, uint64_t offset,
                            uint64_t size);

/* COUNT bytes, or none, from OFFSET on.  0, or -1 with errno: ERANGE where
 * they do not lie within the source.
 */
int source_read (struct source *source, void *buffer, size_t count,
                 uint64_t offset);

/* What is scattered, faster than by one read for each: COUNT spans, where
 * neighbours in the source that are so in memory, too, become one.  0, or -1
 * with errno; which are read then is not known.
 */
int source_read_spans (struct source *source, const struct span *spans,
                       size_t count);

/* SOURCE may be NULL. */
void source_close (struct source *source);

#endif
