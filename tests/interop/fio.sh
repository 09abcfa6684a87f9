#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# fio writes the origin all over and verifies it; the snapshot stays.
# shellcheck source=functions.sh
. "$(dirname "$0")/functions.sh"
require fio nbdcopy
fio --enghelp 2>/dev/null | grep -q nbd || skip "this fio has no engine nbd"

head -c 64M /dev/urandom >"$dir/before.img"
before=$(sum <"$dir/before.img")
cd "$dir" # fio leaves its verify state where it runs

for parameters in '' 'durability=written io=sync max-memory=1M'; do
  cp "$dir/before.img" "$dir/disk.img"
  # shellcheck disable=SC2086 # a list
  start_server "$dir/disk.img" $parameters
  fio --name=origin --ioengine=nbd --uri="$live" --size=64M --rw=randrw \
    --bsrange=512-64k --bs_unaligned --iodepth=32 --numjobs=1 \
    --verify=crc32c --verify_fatal=1 --minimal >"$dir/fio.out" 2>&1 &
  writer=$!
  reads=0
  while [ $reads = 0 ] || kill -0 "$writer" 2>/dev/null; do
    [ "$(sum_of_export "$frozen")" = "$before" ] || fail "the snapshot changed"
    reads=$((reads + 1))
  done
  wait "$writer" || fail "fio: $(cat "$dir/fio.out")"
  [ "$(sum_of_export "$frozen")" = "$before" ] || fail "the snapshot changed"
  [ "$(sum_of_export "$live")" != "$before" ] || fail "the origin did not change"
  stop_server
done
