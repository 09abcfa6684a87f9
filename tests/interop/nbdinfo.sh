#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# What nbdinfo says of the exports: list, JSON, map, totals.
# shellcheck source=functions.sh
. "$(dirname "$0")/functions.sh"
require nbdinfo qemu-io python3

make_image "$dir/disk.img"
start_server "$dir/disk.img"

nbdinfo --list --json "$live" >"$dir/list.json"
python3 - "$dir/list.json" <<'END'
import json, sys
exports = {e["export-name"]: e for e in json.load(open(sys.argv[1]))["exports"]}
assert list(exports) == ["", "origin", "snapshot", "snapshot/1"], list(exports)
for name, export in exports.items():
    assert export["export-size"] == 64 << 20, name
    assert export["is_read_only"] == name.startswith("snapshot"), name
    assert export["can_multi_conn"] and export["can_cache"], name
    assert "base:allocation" in export["contexts"], name
    assert "disk.img" in export["description"], name
for name in "", "origin":
    for what in "can_flush", "can_fua", "can_trim", "can_zero":
        assert exports[name][what], (name, what)
END

# The snapshot's map is the origin's, and does not change.
expected='0 8388608 0
8388608 8388608 3
16777216 8388608 0
25165824 41938944 3
67104768 4096 0'
map () {
  nbdinfo --map "$1" | awk '{ print $1, $2, $3 }'
}
[ "$(map "$live")" = "$expected" ] || fail "map of the origin: $(map "$live")"
[ "$(map "$frozen")" = "$expected" ] || fail "map: $(map "$frozen")"
nbdinfo --map --totals "$frozen" | grep -q ' 75.0% *3' ||
  fail "totals: $(nbdinfo --map --totals "$frozen")"

# Data where the hole was, a hole where data were.
qemu-io -f raw -c 'write -q -P 1 8M 8M' -c 'write -q -z -u 0 8M' -c flush \
  "$live"
[ "$(map "$frozen")" = "$expected" ] || fail "map after: $(map "$frozen")"
[ "$(map "$live")" != "$expected" ] || fail "the origin did not change"

! nbdinfo "nbd+unix:///snapshot/2?socket=$socket" 2>/dev/null ||
  fail "there is a snapshot 2"
stop_server
