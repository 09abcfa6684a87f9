/* SPDX-License-Identifier: BSD-3-Clause */
/* Entering counts the thread in the counter of the current turn.  A turn
 * ends by making the other counter the current one and waiting until the
 * first has run empty; as nobody new enters it, it does.
 *
 * A thread may look at the turn, be held up, and count itself in a counter
 * whose turn is over.  If that is after we found the counter empty, all it
 * does comes after what was unlinked before; if it is earlier, the second
 * turn of the period waits for it: that is what it is for.
 */

#include "grace.h"

#include <assert.h>
#include <string.h>

void
grace_init (struct grace *grace, struct bell *bell)
{
  memset (grace, 0, sizeof *grace);
  grace->bell = bell;
}

unsigned
grace_enter (struct grace *grace)
{
  const unsigned stripe = stripe_of_thread ();
  const unsigned turn = atomic_load (&grace->turn) & 1;

  /* Sequentially consistent: before every look at the chain.  Pairs with
   * the unlinking that came before the loads in is_empty.
   */
  atomic_fetch_add (&grace->stripe[stripe].inside[turn], 1);
  return stripe << 1 | turn;
}

void
grace_leave (struct grace *grace, unsigned token)
{
  /* Sequentially consistent, with AWAITED: either we see that someone
   * waits, or he sees us gone.
   */
  atomic_fetch_sub (&grace->stripe[token >> 1].inside[token & 1], 1);
  if (atomic_load (&grace->awaited))
    bell_ring (grace->bell);
}

static bool
is_empty (struct grace *grace, unsigned turn)
{
  for (unsigned i = 0; i < STRIPES; i++)
    if (atomic_load (&grace->stripe[i].inside[turn]) != 0)
      return false;
  return true;
}

void
grace_begin (struct grace *grace)
{
  assert (grace->turns_left == 0);
  grace->turns_left = 2;
  atomic_fetch_add (&grace->turn, 1);
  atomic_store (&grace->awaited, true);
}

bool
grace_passed (struct grace *grace)
{
  while (grace->turns_left > 0) {
    if (!is_empty (grace, ~atomic_load (&grace->turn) & 1))
      return false;
    grace->turns_left--;
    if (grace->turns_left > 0)
      atomic_fetch_add (&grace->turn, 1);
  }
  atomic_store (&grace->awaited, false);
  return true;
}
