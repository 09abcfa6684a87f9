#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# nbdcopy, with several connections: out of the snapshot, into the origin.
# shellcheck source=functions.sh
. "$(dirname "$0")/functions.sh"
require nbdcopy

make_image "$dir/before.img"
head -c 64M /dev/urandom >"$dir/after.img"
before=$(sum <"$dir/before.img")

for chunksize in 512 4k 64k; do
  cp --sparse=always "$dir/before.img" "$dir/disk.img"
  start_server "$dir/disk.img" chunksize=$chunksize

  # Both at once.
  nbdcopy --connections=4 "$dir/after.img" "$live" &
  writer=$!
  nbdcopy --connections=4 "$frozen" "$dir/during.img"
  wait "$writer"
  cmp "$dir/during.img" "$dir/before.img"

  nbdcopy "$frozen" "$dir/snapshot.img"
  cmp "$dir/snapshot.img" "$dir/before.img"
  [ "$(disk_usage "$dir/snapshot.img")" -lt 17000 ] ||
    fail "the copy takes $(disk_usage "$dir/snapshot.img") KiB: not sparse"
  [ "$(sum_of_export "$frozen")" = "$before" ] || fail "read to a pipe differs"
  nbdcopy "$live" "$dir/live.img"
  cmp "$dir/live.img" "$dir/after.img"
  stop_server
  cmp "$dir/disk.img" "$dir/after.img"
  rm -f "$dir/snapshot.img" "$dir/during.img" "$dir/live.img"
done
