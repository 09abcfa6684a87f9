#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# A store in use: snapshots that outlive restarts, kills and a move; a check
# between two servers; a damaged file; an origin written by someone else.
# shellcheck source=functions.sh
. "$(dirname "$0")/functions.sh"
require nbdcopy qemu-img qemu-io

control=$dir/control
store=$dir/store
elsewhere=$dir/elsewhere
export FSSNAP_SOCKET=$control TZ=UTC

# A sanitizer's runtime for the server only.
fssnap () { "$FSSNAP" "$@"; }

# refused TEXT ARGUMENT...: it fails, and says TEXT.
refused () {
  local message=$1 status=0
  shift
  fssnap "$@" >"$dir/out" 2>"$dir/err" || status=$?
  [ "$status" = 1 ] || fail "fssnap $*: status $status"
  grep -qF -e "$message" "$dir/err" ||
    fail "fssnap $*: said '$(cat "$dir/err")' instead of '$message'"
}

serve () { start_server "$dir/disk.img" store="$store" control="$control"; }

# The server has no chance to do anything about it.
kill_server () {
  kill -KILL "$server"
  wait "$server" 2>/dev/null || true
  server=
  rm -f "$socket"
}

# write PATTERN MEGABYTE COUNT: so many MiB of the origin.
write () { qemu-io -f raw -c "write -q -P $1 ${2}M ${3}M" -c flush "$live"; }

# remember NAME: what the origin holds, for is_kept.
remember () { cp --sparse=always "$dir/disk.img" "$dir/$1.img"; }

# is_kept NAME...: each snapshot is what was remembered, and so is the origin
# what was written to it.
is_kept () {
  local name
  for name; do
    qemu-img compare -q -f raw -F raw \
      "nbd+unix:///snapshot/$name?socket=$socket" "$dir/$name.img" ||
      fail "snapshot $name is not what it was"
  done
  nbdcopy "$live" - | cmp - "$dir/disk.img" ||
    fail "the origin is not what is in its file"
}

# names [OPTION...]: of what fssnap list has, oldest first.
names () {
  fssnap list "$@" | awk 'NR > 1 && $1 ~ /^[0-9]/ { print $2 }' | xargs
}

# whole NAME...: fssnap check finds nothing wrong, and these are kept.
whole () {
  fssnap check "$store" >"$dir/check" || fail "check: $(cat "$dir/check")"
  [ "$(awk '$NF == "kept" { print $2 }' "$dir/check" | xargs)" = "$*" ] ||
    fail "check: $(cat "$dir/check")"
}

make_image "$dir/disk.img"
mkdir "$elsewhere"

# The first start makes the store and takes a snapshot; more follow.
remember 1
serve
[ "$(fssnap info -o store)" = "$store" ] || fail "$(fssnap info)"
[ "$(names)" = - ] || fail "list: $(fssnap list)"
write 1 0 2
remember monday
fssnap create --name monday >"$dir/out"
write 2 1 8
remember tuesday
fssnap create --name tuesday -o durability=stable,bs="$elsewhere" >"$dir/out"
write 3 5 20
fssnap create --ephemeral --name scratch >"$dir/out"
write 4 30 2
is_kept 1 monday tuesday
[ "$(names)" = "- monday tuesday scratch" ] || fail "list: $(fssnap list)"
# Who only looks needs no server, and is not kept off by one.
[ "$(names --store="$store")" = "- monday tuesday scratch" ] ||
  fail "list --store: $(fssnap list --store="$store")"
refused "$store" check "$store"
status=0
run_nbdkit -U "$dir/refused" "$FSSNAP_PLUGIN" "$dir/1.img" store="$store" --run true \
  2>"$dir/err" || status=$?
[ "$status" = 1 ] || fail "a second server: status $status"
grep -qF "$store" "$dir/err" || fail "a second server: $(cat "$dir/err")"
stop_server

# All but the ephemeral one are there.
whole - monday tuesday
[ "$(names --store="$store")" = "- monday tuesday" ] ||
  fail "list --store: $(fssnap list --store="$store")"
compgen -G "$elsewhere/snapshot-3-*" >"$dir/out" || fail "nothing elsewhere"
serve
[ "$(names)" = "- monday tuesday" ] || fail "list: $(fssnap list)"
is_kept 1 monday tuesday
write 5 10 30
is_kept 1 monday tuesday

# kill -9, in the middle of writing.
qemu-io -f raw -c "write -q -P 6 40M 20M" "$live" >"$dir/out" 2>&1 &
writer=$!
until [ "$(fssnap info -o chunks-copied tuesday)" -gt 12000 ]; do
  kill -0 "$writer" 2>/dev/null || break
done
kill_server
wait "$writer" || true
whole - monday tuesday
grep -q 'not closed cleanly' "$dir/check" || fail "check: $(cat "$dir/check")"
serve
is_kept 1 monday tuesday

# Deleted is deleted, and its space is given back.
before=$(du -ks "$store" | cut -f 1)
fssnap delete 1
stop_server
whole monday tuesday
[ "$(du -ks "$store" | cut -f 1)" -lt "$before" ] || fail "no space is free"
! compgen -G "$store/snapshot-1-*" || fail "the file of 1 is there"

# A store that was moved is the same store.
mv "$store" "$dir/moved"
store=$dir/moved
serve
is_kept monday tuesday
stop_server

# A damaged file: said by check and by the server, and costs nobody else.
file=$(compgen -G "$store/snapshot-2-*")
cp --sparse=always -p "$file" "$dir/good"
printf '\377' | dd of="$file" bs=1 seek=4150 conv=notrunc status=none
status=0
fssnap check "$store" >"$dir/out" || status=$?
[ "$status" = 1 ] || fail "check: status $status: $(cat "$dir/out")"
grep -q "^problem: .*${file##*/}" "$dir/out" || fail "check: $(cat "$dir/out")"
serve
grep -q "snapshot 2 is broken: .*${file##*/}" "$dir/log" ||
  fail "the server did not name $file"
[ "$(fssnap info -o state monday)" = disabled ] || fail "$(fssnap info monday)"
is_kept tuesday
stop_server
cp --sparse=always -p "$dir/good" "$file"
whole monday tuesday
serve
is_kept monday tuesday
stop_server

# Somebody writes to the origin past the server: nothing in the store can be
# relied on, nothing is changed, and a new beginning is possible.
qemu-io -f raw -c "write -q -P 9 12M 1M" "$dir/disk.img"
serve
for name in monday tuesday; do
  [ "$(fssnap info -o state $name)" = disabled ] || fail "$(fssnap info $name)"
  fssnap info -o broken-reason $name | grep -q 'origin' ||
    fail "$(fssnap info $name)"
done
refused "delete" create --name wednesday
fssnap delete monday
fssnap delete tuesday
remember wednesday
fssnap create --name wednesday >"$dir/out"
write 10 0 60
is_kept wednesday
stop_server
whole wednesday
serve
is_kept wednesday
stop_server
! compgen -G "$elsewhere/*" || fail "what was elsewhere is still there"
