/* SPDX-License-Identifier: BSD-3-Clause */
/* cmocka, with what it wants included before it. */

#ifndef FSSNAP_CMOCKA_ALL_H
#define FSSNAP_CMOCKA_ALL_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#endif
