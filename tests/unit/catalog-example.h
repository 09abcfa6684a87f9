/* SPDX-License-Identifier: BSD-3-Clause */
/* A catalogue with some of everything, for tests. */

#ifndef FSSNAP_CATALOG_EXAMPLE_H
#define FSSNAP_CATALOG_EXAMPLE_H

#include "catalog.h"

/* Two layers, of which the older one is broken, and files. */
void example_catalog (struct catalog *catalog);

/* All fields of all of it are the same. */
void assert_same_catalog (const struct catalog *a, const struct catalog *b);

#endif
