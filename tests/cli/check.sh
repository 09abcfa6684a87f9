#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# fssnap check: stores that are whole, stores that are not, and how.
# shellcheck source=functions.sh
. "$(dirname "$0")/functions.sh"
cd "$dir"
store=$dir/store
one=snapshot-1-11111111 # 16 KiB of header and index, 1 MiB of data
two=snapshot-2-22222222

# make ARGUMENT...: a store, instead of the one there is
make () {
  rm -rf "$store"
  "$MAKE_STORE" "$store" "$@" || fail "make-store $*"
}
make_two () { make layer name=a copied=0-5 layer copied=7; }

# poke FILE OFFSET HEX: other bytes
poke () {
  printf '%b' "$(sed 's/../\\x&/g' <<<"$3")" |
    dd of="$store/$1" bs=1 seek="$2" conv=notrunc status=none
}

# finds STATUS LINE...: exactly these findings
finds () {
  local status=$1
  shift
  run "$status" check "$store"
  silent
  grep -E '^(problem|warning|note): ' out >found || true
  printf '%s\n' "$@" | sed '/^$/d' >expected
  diff expected found || fail "$called: not these findings"
}

# next_start WORD...: what becomes of the snapshots
next_start () {
  [ "$(awk '$1 ~ /^[0-9]+$/ { print $NF }' out | xargs)" = "$*" ] ||
    fail "$called: $(cat out)"
}

# --- whole ---------------------------------------------------------------

make_two
finds 0 ''
next_start kept kept
[ "$(awk '$1 == 1 { print $2, $3, $5 }' out)" = 'a 1 6' ] || fail "$(cat out)"
grep -qE "^$store: 2 layers, closed cleanly; whole, 0 warnings; [0-9.]*[kMGTPE]? free on its file system$" \
  out || fail "$(cat out)"

run 0 check --json "$store"
silent
python3 - out "$store" <<'PYTHON'
import json, sys
r = json.load(open(sys.argv[1]))
assert list(r) == ["store", "clean", "problems", "warnings", "findings",
                   "snapshots", "bytes-free"], list(r)
assert r["store"] == sys.argv[2] and r["clean"] is True
assert r["problems"] == r["warnings"] == 0 and r["findings"] == []
a, b = r["snapshots"]
assert list(a) == ["snapnumber", "name", "deleted", "next-start", "files",
                   "bytes-allocated", "chunks-copied", "chunks-lost",
                   "chunks-free"], list(a)
assert (a["snapnumber"], a["name"], a["chunks-copied"]) == (1, "a", 6)
assert (b["snapnumber"], b["name"], b["chunks-copied"]) == (2, None, 1)
assert a["files"][0]["file"] == "snapshot-1-11111111"
assert 24576 <= a["files"][0]["bytes-allocated"] == a["bytes-allocated"]
PYTHON

# Every table, several files, sizes of all kinds.
make layer size=0 layer size=1 copied=0 free=0 unreadable=0 \
  layer size=20M chunksize=512 backfile-size=5M copied=0+9000-20000+40959 \
  free=1-3 unreadable=5 \
  layer size=1G chunksize=64M layer size=1T copied=200000000-200001000 \
  layer chunksize=64k size=100G backfile-size=10G copied=1600000
finds 0 ''
next_start kept kept kept kept kept kept
[ "$(awk '$1 ~ /^[0-9]+$/ { print $3, $5 }' out | xargs)" = \
  '1 0 1 1 5 11004 1 0 1 1001 11 1' ] || fail "$(cat out)"
run 0 check --json "$store"
[ "$(sed -n 's/.*"chunks-lost": \([0-9]*\).*/\1/p' out | xargs)" = \
  '0 1 1 0 0 0' ] || fail "$(cat out)"
[ "$(sed -n 's/.*"chunks-free": \([0-9]*\).*/\1/p' out | xargs)" = \
  '0 1 3 0 0 0' ] || fail "$(cat out)"

# Files elsewhere; a relative path to the store; nothing is modified.
mkdir elsewhere
make layer file="$dir/elsewhere/file" size=20M backfile-size=5M copied=1
list_all () { find "$store" elsewhere -printf '%p %s %T@ %C@ %i\n' | sort; }
list_all >before
finds 0 ''
run 0 check ./store
list_all >after
diff before after || fail "something was modified"
rm elsewhere/file.1
finds 1 "problem: snapshot 1: $dir/elsewhere/file.1: is missing"
next_start broken
rm -r elsewhere

# --- headers -------------------------------------------------------------

make_two
poke $one 0 00
finds 1 "problem: snapshot 1: $one: is no backing file of fssnap"
next_start broken kept
poke $one 0 46
finds 0 ''
poke $one 300 01
finds 1 "problem: snapshot 1: $one: has a damaged header (checksum)"
make_two
poke $two 8 02
finds 1 "problem: snapshot 2: $two: is of format 2; this fssnap knows 1" \
  "note: snapshot 1: $one: its snapshot can be read only where it has copies itself, since snapshot 2 is broken"
next_start kept broken

# One in place of another.
make layer layer deleted copied=1
cp "$store/$two" "$store/$one"
finds 1 "problem: snapshot 1: $one: belongs to another snapshot (number 2)"
ln -f "$store/$two" "$store/$one"
finds 1 "problem: snapshot 1: $one: belongs to another snapshot (number 2)" \
  "problem: snapshot 2: $two: is the same file as $one"
make layer size=20M backfile-size=5M
mv "$store/$one.1" "$store/x"
mv "$store/$one.2" "$store/$one.1"
mv "$store/x" "$store/$one.2"
finds 1 "problem: snapshot 1: $one.1: is part 3 of 5, not part 2 of 5" \
  "problem: snapshot 1: $one.2: is part 2 of 5, not part 3 of 5"
make layer
mkdir other
mv "$store/$one" other/
make layer size=2M
mv other/$one "$store/"
finds 1 "problem: snapshot 1: $one: is of an origin of 1048576 bytes, not 2097152"
cp "$store/$one" other/
make layer chunksize=512
mv other/$one "$store/"
finds 1 "problem: snapshot 1: $one: has chunks of 4096 bytes, not 512"

# --- files ---------------------------------------------------------------

make_two
size=$(stat -c %s "$store/$one")
truncate -s $((size - 1)) "$store/$one"
finds 1 "problem: snapshot 1: $one: has $((size - 1)) bytes instead of $size: it is cut off"
truncate -s $((size + 1)) "$store/$one"
finds 1 "problem: snapshot 1: $one: has $((size + 1)) bytes instead of $size"
truncate -s 511 "$store/$one"
finds 1 "problem: snapshot 1: $one: has 511 bytes, too few for a header"
make_two
truncate -s 5000 "$store/$one"
finds 1 "problem: snapshot 1: $one: has 5000 bytes instead of $size: it is cut off"
rm "$store/$one"
finds 1 "problem: snapshot 1: $one: is missing"
mkfifo "$store/$one"
finds 1 "problem: snapshot 1: $one: is no regular file"
rm "$store/$one"
mkdir "$store/$one"
finds 1 "problem: snapshot 1: $one: is no regular file"
rmdir "$store/$one"
ln -s $two "$store/$one"
finds 1 "problem: snapshot 1: $one: cannot be opened: it is a symbolic link"

# --- the index -----------------------------------------------------------

make_two
poke $one $((4096 + 100)) 01
finds 1 "problem: snapshot 1: $one: the index of copied chunks is damaged: 1 of 1 units, the first is unit 0 at byte 4096"
next_start broken kept
grep -qF '; 1 problem, 0 warnings;' out || fail "$(cat out)"
make layer free=1
poke $one $((8192 + 511)) 01
finds 1 "problem: snapshot 1: $one: the index of free chunks is damaged: 1 of 1 units, the first is unit 0 at byte 8192"
make layer unreadable=1
poke $one $((12288 + 0)) 01
finds 1 "problem: snapshot 1: $one: the index of unreadable chunks is damaged: 1 of 1 units, the first is unit 0 at byte 12288"
make layer copied=1 free=1 unreadable=1
for table in 4096 8192 12288; do
  poke $one $table ffffffff
done
run 1 check "$store"
[ "$(grep -c '^problem: ' out)" = 3 ] || fail "$(cat out)"

# A unit where there was none; one that belongs elsewhere; many.
make layer size=1G copied=0-3839+100000
poke $one $((4096 + 512)) 01
finds 1 "problem: snapshot 1: $one: the index of copied chunks is damaged: 1 of 69 units, the first is unit 1 at byte 4608"
dd if="$store/$one" of="$store/$one" bs=512 skip=8 seek=9 count=1 \
  conv=notrunc status=none
finds 1 "problem: snapshot 1: $one: the index of copied chunks is damaged: 1 of 69 units, the first is unit 1 at byte 4608"
yes | dd of="$store/$one" bs=512 seek=9 count=60 conv=notrunc \
  iflag=fullblock status=none
finds 1 "problem: snapshot 1: $one: the index of copied chunks is damaged: 60 of 69 units, the first is unit 1 at byte 4608"
make layer copied=1 beyond layer free=1
finds 1 "problem: snapshot 1: $one: the index of copied chunks has chunks behind the end: 1 of 1 units, the first is unit 0 at byte 4096"
make layer size=1000 unreadable=0 beyond
finds 1 "problem: snapshot 1: $one: the index of unreadable chunks has chunks behind the end: 1 of 1 units, the first is unit 0 at byte 12288"

# What was never written is no damage to it, but was counted.
make layer copied=1-3+100 free=4 unreadable=100
poke $one 4096 "$(printf '0%.0s' {1..1024})"
finds 1 "problem: snapshot 1: $one: a part of the index is missing: 1 copied, 1 free and 1 unreadable chunks; 4, 1 and 1 when the store was last closed"
next_start broken
make layer copied=1-3
"$MAKE_STORE" more layer copied=1-4
mv more/$one "$store/"
rm -r more
finds 0 ''
make layer deleted copied=1-3
poke $one 4096 "$(printf '0%.0s' {1..1024})"
finds 0 ''
make unclean layer copied=1-3
poke $one 4096 "$(printf '0%.0s' {1..1024})"
finds 1 "problem: snapshot 1: $one: a part of the index is missing: 0 copied, 0 free and 0 unreadable chunks; 3, 0 and 0 when the store was last closed"

# --- the catalogue -------------------------------------------------------

make_two
poke catalog 200 00
listed=("problem: $one: is part 1 of 1 of a backing file of snapshot 1"
  "problem: $two: is part 1 of 1 of a backing file of snapshot 2")
finds 1 "problem: catalog: is damaged (checksum)" "${listed[@]}"
run 1 list --store="$store"
said "$store/catalog is damaged (checksum)"
make_two
poke catalog 15 32
finds 1 "problem: catalog: is of format 2; this fssnap knows 1" "${listed[@]}"
rm "$store/catalog"
finds 1 "note: catalog: is missing: the store is new" "${listed[@]}"
rm "$store"/snapshot-*
finds 0 "note: catalog: is missing: the store is new"
rm "$store/lock"
finds 1 "warning: lock: is missing: nothing keeps a server from starting meanwhile" \
  "problem: catalog: is missing: this is no store"
make_two
rm "$store/catalog.spare"
finds 0 "warning: catalog.spare: is missing: the next change of the catalogue needs space for another one"
mkdir "$store/catalog.spare"
finds 1 "problem: catalog.spare: is no regular file: the catalogue cannot be changed"

# Files it does not list, or lists as left over.
make making=snapshot-7-77777777 removing=snapshot-8-88888888 layer
cp "$store/$one" "$store/copy"
mkdir "$store/dir"
mkdir "$store/lost+found"
: >"$store/notes"
finds 0 "note: snapshot-7-77777777: its snapshot was being made: the next start removes it" \
  "note: snapshot-8-88888888: its snapshot was being removed: the next start removes it" \
  "warning: copy: is part 1 of 1 of a backing file of snapshot 1, and not in the catalogue" \
  "warning: dir: is no file of the store, and not in the catalogue" \
  "warning: notes: is no file of the store, and not in the catalogue"
grep -qF '; whole, 3 warnings;' out || fail "$(cat out)"

# The catalogue and the files' number do not agree.
make layer size=20M backfile-size=5M
python3 - "$FSSNAP_SOURCE" "$store" <<'PYTHON'
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location(
    "reader", sys.argv[1] + "/tests/cli/second-reader.py")
reader = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reader)
path = sys.argv[2] + "/catalog"
catalog = reader.read_catalog(path)
catalog["layers"][0]["backfile-size"] = 6 << 20
text = json.dumps(catalog).encode()
with open(path, "wb") as f:
    f.write(b"fssnap-catalog 1 %08x %d\n" % (reader.crc32c(text), len(text)))
    f.write(text)
PYTHON
finds 1 "problem: snapshot 1: $one: the catalogue has 5 files for a snapshot of 20971520 bytes with backfile-size=6291456"

# --- what the next start makes of it -------------------------------------

lost_async="the store was not closed cleanly, and with durability=async copies are lost then"
lost_boot="the machine went down before the store was closed, and with durability=written copies may be lost then"
three="layer durability=async layer durability=written layer durability=stable"
# shellcheck disable=SC2086 # words
make $three
finds 0 ''
next_start kept kept kept
# shellcheck disable=SC2086
make unclean $three
finds 1 "problem: snapshot 1: $one: $lost_async"
next_start broken kept kept
grep -qF 'not closed cleanly; 1 problem' out || fail "$(cat out)"
# shellcheck disable=SC2086
make unclean boot=00000000-0000-0000-0000-000000000000 $three
finds 1 "problem: snapshot 1: $one: $lost_async" \
  "problem: snapshot 2: $two: $lost_boot"
next_start broken broken kept
make unclean boot=0 layer durability=async level=stable
finds 0 ''
make boot=0 layer layer durability=async
finds 0 ''

# The newer one is lost, and the older one goes through it.
make unclean layer durability=stable layer durability=async deleted
finds 1 "problem: snapshot 2: $two: $lost_async" \
  "note: snapshot 1: $one: its snapshot can be read only where it has copies itself, since snapshot 2 is broken"
next_start kept deleted

make layer creating layer pending layer ephemeral layer deleted creating
finds 0 "note: snapshot 1: $one: its snapshot was not finished: the next start deletes it" \
  "note: snapshot 2: $two: its snapshot was not finished: the next start deletes it" \
  "note: snapshot 3: snapshot-3-33333333: its snapshot is ephemeral: the next start deletes it"
next_start deleted deleted deleted deleted

# Of one that is broken the files do not matter.
make layer layer broken="$(printf 'no\033room')"
rm "$store/$two"
finds 0 "note: snapshot 2: $two: its snapshot is broken: no\\x1broom" \
  "note: snapshot 1: $one: its snapshot can be read only where it has copies itself, since snapshot 2 is broken"
next_start kept broken

# The mark of a store that hung.
mark=/dev/shm/fssnap-11111111-1111-1111-1111-111111111111
make layer
if (set -C && : >$mark) 2>/dev/null; then
  undo+=("rm -f $mark")
  finds 1 "problem: snapshot 1: $one: $mark says that it broke when its store hung"
  next_start broken
  rm -f $mark
  finds 0 ''
fi

# --- the lock ------------------------------------------------------------

make layer
hold () {
  exec python3 - "$dir/held" "$store/lock" <<'PYTHON'
import fcntl, os, signal, sys
f = open(sys.argv[2], "r+b")
fcntl.lockf(f, fcntl.LOCK_EX)
open(sys.argv[1], "wb").write(b"%d\n" % os.getpid())
signal.pause()
PYTHON
}
start "$dir/held" hold
holder=$started
disown "$holder"
undo+=("kill -KILL $holder 2>/dev/null")
run 1 check "$store"
said "$store: is in use by a server (process 4711), which knows best: 'fssnap list' asks it"
: >"$store/lock"
run 1 check "$store"
said "(process unknown)"
run 0 list --store="$store"
silent
kill -KILL "$holder"
# It is dead when its lock is gone, which is seen by trying.
until "$FSSNAP" check "$store" >out 2>err; do
  grep -q 'is in use' err || fail "$(cat err out)"
done

# --- the command line ----------------------------------------------------

run_usage check
said "which store? Give its directory"
run_usage check ''
said "which store? Give its directory"
run_usage check a b
said "'b': one store can be given"
run_usage -s x check a
said "--socket=x: no server is asked; leave it out"
run 1 check "$dir/none"
said "$dir/none: cannot open the store: No such file or directory"
run 1 check "$store/catalog"
said "$store/catalog: cannot open the store: Not a directory"
status=0
"$FSSNAP" check "$store" >/dev/full 2>err || status=$?
[ $status = 1 ] || fail ">/dev/full: status $status"
