#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# fssnap list --store: the same table, from a catalogue.
# shellcheck source=functions.sh
. "$(dirname "$0")/functions.sh"
cd "$dir"
store=$dir/store
now=$(date +%s)

# make ARGUMENT...: a store, instead of the one there is
make () {
  rm -rf "$store"
  "$MAKE_STORE" "$store" "$@" || fail "make-store $*"
}

make
run 0 list --store="$store"
printed "There are no snapshots."

make layer name=before-upgrade created=$((now - 187200)) bytes=1288490189 \
  layer number=7 broken="no room" created=$((now - 750)) \
  layer creating created=$((now + 100)) \
  layer number=7 deleted created=$((now + 100)) \
  layer pending created=$((now + 100)) file="$dir/elsewhere"
run 0 list --store="$store"
printed "NUMBER  NAME            STATE                 AGE  COPIED  CLIENTS  BACKING STORE
     1  before-upgrade  idle (7 is broken)  2d04h    1.2G        -  $store/snapshot-1-11111111
     7  -               disabled (broken)     12m       0        -  $store/snapshot-7-22222222
     3  -               creating               0s       0        -  $store/snapshot-3-33333333
     5  -               creating               0s       0        -  $dir/elsewhere"
run 0 list --store store --all
grep -qE "^     7  - +disabled \(deleted\) .*$store/snapshot-7-44444444$" out ||
  fail "$(cat out)"

# The counters are those of a clean end.
make unclean layer bytes=5000 created="$now"
run 0 list --store="$store"
[ "$(awk 'NR == 2 { print $5 }' out)" = - ] || fail "$(cat out)"

# JSON has what the server would say of it, as far as it is known.
make layer name=a size=20M chunksize=64k backfile-size=10M durability=stable \
  bytes=5000 ephemeral layer broken="no room"
run 0 list --json --store="$store"
silent
python3 - out "$store" <<'PYTHON'
import json, sys
r = json.load(open(sys.argv[1]))
assert list(r) == ["snapshots"]
a, b = r["snapshots"]
assert a == {
    "snapnumber": 1, "name": "a", "state": "idle", "export": "snapshot/1",
    "origin": "/dev/sdb", "store": sys.argv[2], "ephemeral": True,
    "size": 20 << 20, "createtime": 1700000000,
    "backing-store": sys.argv[2] + "/snapshot-1-11111111", "maxsize": 0,
    "chunksize": 65536, "backfile-size": 10 << 20, "durability": "stable",
    "on-error": "break-snapshot", "cow-timeout": 20, "clients": None,
    "bytes-copied": 5000, "waits": 0, "flush-errors": 0, "reads-origin": 0,
    "reads-memory": 0, "reads-backing-file": 0, "reads-zero": 0,
    "deleted": False, "broken-reason": None, "broken-errno": None,
    "broken-time": None, "blocked-by": 2}, a
assert (b["broken-reason"], b["broken-errno"], b["broken-time"], b["state"]) \
    == ("no room", "ENOSPC", 1700000000, "disabled"), b
PYTHON

# No server is asked, nor its lock.
export FSSNAP_SOCKET=$dir/none
run 0 list --store="$store"
silent

run 1 list --store="$dir"
said "$dir: is no store: there is no file catalog in it"
run 1 list --store="$dir/none"
said "$dir/none: cannot open the store: No such file or directory"
: >"$store/catalog"
run 1 list --store="$store"
said "$store/catalog is no catalogue of fssnap"
run_usage list --store=
said "--store=: must be a directory"
run_usage -s x list --store="$store"
said "--store=$store: is read without a server; leave either it or --socket out"
