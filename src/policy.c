/* SPDX-License-Identifier: BSD-3-Clause */

#include "policy.h"

#include <string.h>

static const char *const durabilities[] = { "async", "written", "stable" };
static const char *const on_errors[] = { "break-snapshot", "break-write" };

static int
find (const char *const *words, int count, const char *word)
{
  for (int i = 0; i < count; i++)
    if (strcmp (words[i], word) == 0)
      return i;
  return -1;
}

const char *
policy_durability (enum durability durability)
{
  return durabilities[durability];
}

const char *
policy_on_error (enum on_error on_error)
{
  return on_errors[on_error];
}

int
policy_parse_durability (const char *word)
{
  return find (durabilities, 3, word);
}

int
policy_parse_on_error (const char *word)
{
  return find (on_errors, 2, word);
}
