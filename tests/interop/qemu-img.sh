#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# QEMU as a client: info, convert, compare, writes, a qcow2 overlay.
# shellcheck source=functions.sh
. "$(dirname "$0")/functions.sh"
require qemu-img qemu-io

make_image "$dir/before.img"
cp --sparse=always "$dir/before.img" "$dir/disk.img"
start_server "$dir/disk.img"

same () {
  qemu-img compare -q -f "$1" -F raw "$2" "$3" || fail "$2 is not $3"
}

for uri in "$live" "$frozen"; do
  qemu-img info -f raw --output=json "$uri" | grep -q '"virtual-size": 67108864' ||
    fail "info of $uri"
  same raw "$uri" "$dir/before.img"
done

# The origin changes in every way QEMU has.
qemu-io -f raw -c 'write -q -P 1 0 1M' -c 'write -q -P 2 -f 9999 3' \
  -c 'write -q -z 2M 1M' -c 'write -q -z -u 3M 1M' -c 'discard -q 16M 1M' \
  -c 'write -q -P 3 63M 1M' -c flush "$live"
qemu-io -f raw -c 'read -q -P 1 0 9999' -c 'read -q -P 2 9999 3' \
  -c 'read -q -P 0 2M 2M' -c 'read -q -P 3 63M 1M' "$live" >"$dir/out"
[ ! -s "$dir/out" ] || fail "the origin is not what was written: $(cat "$dir/out")"
same raw "$frozen" "$dir/before.img"

# A snapshot is not written to.
! qemu-io -f raw -c 'write -q 0 512' "$frozen" >"$dir/out" 2>&1 ||
  fail "a write to the snapshot went through: $(cat "$dir/out")"

# Holes stay holes, in qcow2 and in raw.
qemu-img convert -f raw -O qcow2 "$frozen" "$dir/copy.qcow2"
same qcow2 "$dir/copy.qcow2" "$dir/before.img"
qemu-img convert -f raw -O raw "$frozen" "$dir/copy.img"
cmp "$dir/copy.img" "$dir/before.img"
for copy in "$dir/copy.qcow2" "$dir/copy.img"; do
  [ "$(disk_usage "$copy")" -lt 18000 ] ||
    fail "$copy takes $(disk_usage "$copy") KiB"
done

# A writable overlay on the snapshot, as for a trial run of a machine.
qemu-img create -q -f qcow2 -F raw -b "$frozen" "$dir/overlay.qcow2"
same qcow2 "$dir/overlay.qcow2" "$dir/before.img"
qemu-io -c 'write -q -P 7 20M 1M' "$dir/overlay.qcow2"
qemu-io -c 'read -q -P 7 20M 1M' "$dir/overlay.qcow2" >"$dir/out"
[ ! -s "$dir/out" ] || fail "the overlay does not hold what was written"
qemu-io -f raw -c 'write -q -P 9 40M 1M' -c flush "$live"
qemu-io -c 'read -q -P 0 40M 1M' "$dir/overlay.qcow2" >"$dir/out"
[ ! -s "$dir/out" ] || fail "the overlay sees the origin's change"
same raw "$frozen" "$dir/before.img"
stop_server
