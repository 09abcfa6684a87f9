/* SPDX-License-Identifier: BSD-3-Clause */
/* Little-endian numbers that lie anywhere. */

#ifndef FSSNAP_BYTES_H
#define FSSNAP_BYTES_H

#include <stdint.h>

static inline uint32_t
number16 (const uint8_t *p)
{
  return p[0] | (uint32_t)p[1] << 8;
}

static inline uint32_t
number32 (const uint8_t *p)
{
  return number16 (p) | number16 (p + 2) << 16;
}

static inline uint64_t
number64 (const uint8_t *p)
{
  return number32 (p) | (uint64_t)number32 (p + 4) << 32;
}

#endif
