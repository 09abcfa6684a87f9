/* SPDX-License-Identifier: BSD-3-Clause */
/* What power-self and its toy agree on. */

#ifndef FSSNAP_TEST_POWER_SELF_H
#define FSSNAP_TEST_POWER_SELF_H

#define TOY_FILE "value"
#define TOY_SIZE 2048 /* bytes that it has at first */

/* Marks, with a number. */
enum { TOY_BEGINS, TOY_HAS };

#endif
