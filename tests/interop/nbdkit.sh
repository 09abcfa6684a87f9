#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# nbdkit's own command line: --run, -r, --help, --dump-plugin, a bad value.
# shellcheck source=functions.sh
. "$(dirname "$0")/functions.sh"
require nbdkit nbdinfo

make_image "$dir/disk.img"
export dir

# The command's status is nbdkit's, and its variables lead to the server.
status=0
run_nbdkit -U - "$FSSNAP_PLUGIN" "$dir/disk.img" --run '
  nbdinfo --size "nbd+unix:///snapshot?socket=$unixsocket" >"$dir/size"
  exit 5' || status=$?
[ "$status" = 5 ] || fail "--run: status $status"
[ "$(cat "$dir/size")" = 67108864 ] || fail "--run: size $(cat "$dir/size")"

# -r: also the origin is read-only.
start_server -r "$dir/disk.img"
nbdinfo --is readonly "$live" || fail "-r: the origin is not read-only"
stop_server

# Without a snapshot there is no such export.
start_server "$dir/disk.img" snapshot=no
nbdinfo --size "$live" >"$dir/size"
! nbdinfo --size "$frozen" 2>"$dir/error" || fail "snapshot=no: there is one"
stop_server

# Every parameter is listed twice.
nbdkit "$FSSNAP_PLUGIN" --help >"$dir/help"
nbdkit "$FSSNAP_PLUGIN" --dump-plugin >"$dir/dump"
while read -r name; do
  grep -q "^$name=" "$dir/help" || fail "--help has no $name"
  grep -q "^fssnap_$name=" "$dir/dump" || fail "--dump-plugin has no $name"
done < <(sed -n 's/^ *P ("\([^"]*\)".*/\1/p' "$FSSNAP_SOURCE/include/config.h")
grep -q '^fssnap_chunksize=' "$dir/dump"

# A senseless value: status 1, one line that has it all.
status=0
nbdkit -U "$dir/refused" "$FSSNAP_PLUGIN" "$dir/disk.img" chunksize=3000 --run true \
  2>"$dir/error" || status=$?
[ "$status" = 1 ] || fail "chunksize=3000: status $status"
[ "$(wc -l <"$dir/error")" = 1 ] || fail "more than one line of error"
grep -q 'chunksize=3000: must be' "$dir/error" || fail "$(cat "$dir/error")"
