/* SPDX-License-Identifier: BSD-3-Clause */
/* The same target for clang's libFuzzer: an input is what one client sends.
 *
 *   CC=clang meson setup build-fuzz -Db_sanitize=address -Db_lundef=false
 *   ninja -C build-fuzz tests/fuzz/libfuzzer
 *   build-fuzz/tests/fuzz/libfuzzer -dict=tests/fuzz/requests.dict CORPUS
 */

#include "target.h"

#include <stdlib.h>

static struct target *target;

int LLVMFuzzerTestOneInput (const uint8_t *data, size_t size);

static void
stop (void)
{
  target_stop (target);
}

int
LLVMFuzzerTestOneInput (const uint8_t *data, size_t size)
{
  static unsigned inputs;

  if (target == NULL) {
    target = target_start ();
    atexit (stop);
  }
  struct client *client = client_connect (target);
  if (client_may_send (client, (const char *)data, size)) {
    client_send (client, (const char *)data, size, 0);
    client_expect (client);
  }
  client_close (client);
  if (++inputs % 64 == 0)
    target_check (target);
  return 0;
}
