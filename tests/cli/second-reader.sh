#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# docs/store-format.md is enough to read a store: second-reader.py, written
# from it, finds what fssnap finds, and what was put there.
# shellcheck source=functions.sh
. "$(dirname "$0")/functions.sh"
cd "$dir"
store=$dir/store

# make ARGUMENT...: a store, instead of the one there is
make () {
  rm -rf "$store"
  "$MAKE_STORE" "$store" "$@" || fail "make-store $*"
}

# compare: both readers, and the list; what they say is in first and second
compare () {
  local status=0
  "$FSSNAP" check --json "$store" >first 2>err || status=$?
  [ "$status" -le 1 ] && [ ! -s err ] || fail "check: $status: $(cat err)"
  "$FSSNAP" list --all --json --store="$store" >list
  python3 "$FSSNAP_SOURCE/tests/cli/second-reader.py" "$store" \
    compare first list >second || fail "$(cat first second)"
}

# says TEXT: the second reader
says () { [ "$(cat second)" = "$1" ] || fail "said $(cat second)"; }

make
compare
says '[]'
make layer copied=0-5+9 free=7 unreadable=9+11
compare
says '[{"snapnumber": 1, "deleted": false, "refused": null, "copied": [[0, 5], [9, 9], [11, 11]], "free": [[7, 7]], "unreadable": [[9, 9], [11, 11]]}]'

# Sizes, parts, places of all kinds.
make layer size=0 layer size=1 copied=0 free=0 unreadable=0 \
  layer size=20M chunksize=512 backfile-size=5M copied=0+9000-20000+40959 \
  free=1-3 unreadable=5 deleted \
  layer size=1G chunksize=64M copied=3+15 name=x \
  layer size=100G copied=0+3839-3840+25000000-25001000 file="$dir/elsewhere" \
  layer chunksize=64k size=100G backfile-size=10G copied=1600000 creating
compare
[ "$(python3 -c 'import json, sys
print([s["copied"] for s in json.load(open("second"))])')" = \
  '[[], [[0, 0]], [[0, 0], [5, 5], [9000, 20000], [40959, 40959]], [[3, 3], [15, 15]], [[0, 0], [3839, 3840], [25000000, 25001000]], [[1600000, 1600000]]]' ] ||
  fail "$(cat second)"

# The two agree on what a crash leaves.
for boot in '' boot=00000000-0000-0000-0000-000000000000; do
  # shellcheck disable=SC2086 # no word, or one
  make unclean $boot layer durability=async copied=1 \
    layer durability=written copied=2 layer durability=stable copied=3 \
    layer broken=why
  compare
done

# They agree on damage: each byte of header and index in turn, in steps, and
# the catalogue.
make layer copied=1-200 free=3 layer unreadable=7
cp -r store good
file=store/snapshot-1-11111111
for at in 0 7 8 12 16 31 32 48 52 56 64 72 80 88 96 104 112 116 120 128 191 \
  192 446 447 511 4096 4100 4102 4104 4112 4120 4128 4607 8192 8703; do
  printf '\x5a' | dd of=$file bs=1 seek=$at conv=notrunc status=none
  compare
  grep -q '"next-start": "broken"' first || fail "byte $at: $(cat first)"
  cp good/snapshot-1-11111111 store/
done
for at in 512 4095 4608 8191 8704 16383 16384; do # which mean nothing
  printf '\x5a' | dd of=$file bs=1 seek=$at conv=notrunc status=none
  compare
  [ "$(grep -c '"next-start": "kept"' first)" = 2 ] ||
    fail "byte $at: $(cat first)"
  cp good/snapshot-1-11111111 store/
done

# What is no catalogue to the one is none to the other.
for at in 0 14 15 16 17 25 26 30 100 1000; do
  printf '\x5a' | dd of=store/catalog bs=1 seek=$at conv=notrunc status=none
  ! "$FSSNAP" list --store=store >/dev/null 2>&1 || fail "byte $at: a list"
  ! python3 "$FSSNAP_SOURCE/tests/cli/second-reader.py" store \
    >/dev/null 2>&1 || fail "byte $at: read"
  cp good/catalog store/
done
compare
