#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# make demo, with the plugin under test.
# shellcheck source=functions.sh
. "$(dirname "$0")/functions.sh"
require nbdcopy nbdinfo qemu-img qemu-io mke2fs e2fsck debugfs python3
[ -z "${FSSNAP_PRELOAD:-}" ] || skip "the demo has no sanitizer"

TMPDIR=$dir ORIGIN='' bash "$FSSNAP_SOURCE/demo/demo.sh" >"$dir/out" ||
  fail "$(cat "$dir/out")"
tail -n 1 "$dir/out" | grep -q 'OK$' || fail "$(cat "$dir/out")"
[ -z "$(find "$dir" -name 'fssnap-demo-*')" ] || fail "the demo left files"
