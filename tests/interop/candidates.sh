#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Snapshots without the free space: of a half-empty ext4, by the server at its
# start and by the command, in a store too; and a command that misbehaves.
# shellcheck source=functions.sh
. "$(dirname "$0")/functions.sh"
require mke2fs debugfs e2fsck nbdcopy nbdinfo qemu-img qemu-io

export FSSNAP_SOCKET=$dir/control FSSNAP_COMMAND=$FSSNAP
disk=$dir/disk.img

mkdir "$dir/files"
for i in 1 2 3 4 5 6 7 8; do
  head -c 2M /dev/urandom >"$dir/files/$i"
done
truncate -s 64M "$disk"
mke2fs -q -t ext4 -b 4096 -d "$dir/files" "$disk"

# What a snapshot reads as: the image with zeros for what is free.
"$(dirname "$0")/../fs/lose-free.py" --zero "$disk" "$dir/kept.img" >"$dir/found"
e2fsck -fn "$dir/kept.img" >/dev/null 2>&1
free=$(head -n 1 "$dir/found")
[ "$free" -gt $((24 << 20)) ] || fail "only $free bytes are free"

figure () { "$FSSNAP" info -o "$1" "$2"; }

# is_lean NUMBER: it has what is kept, and no more is moved than that.
is_lean () {
  local uri="nbd+unix:///snapshot/$1?socket=$socket" data
  [ "$(figure chunks-free "$1")" = $((free / 4096)) ] ||
    fail "snapshot $1: $(figure chunks-free "$1") chunks are free"
  qemu-img compare -q -f raw -F raw "$uri" "$dir/kept.img" ||
    fail "snapshot $1 is not the image without what is free"
  data=$(nbdinfo --map --totals "$uri" | awk '$3 == 0 { print $1 }')
  [ "$data" -le $(((64 << 20) - free)) ] || fail "snapshot $1: $data are data"
  nbdcopy "$uri" "$dir/copy.img"
  [ $((512 * $(stat -c %b "$dir/copy.img"))) -le $(((65 << 20) - free)) ] ||
    fail "nbdcopy moved $(stat -c %b "$dir/copy.img") blocks"
  e2fsck -fn "$dir/copy.img" >/dev/null 2>&1 || fail "snapshot $1: e2fsck"
}

# says TEXT FILE
says () { grep -qF -e "$1" "$2" || fail "'$1' is not in: $(cat "$2")"; }

# Taken at the start, and kept in a store over a kill.
serve () { start_server "$disk" store="$dir/store" control="$FSSNAP_SOCKET" "$@"; }
serve candidates=auto
is_lean 1

# Taken by the command, by name or not.
"$FSSNAP" create --candidates=auto >"$dir/out" 2>"$dir/err"
says snapshot/2 "$dir/out"
says "ext4: " "$dir/err"
says "are free" "$dir/err"
is_lean 2
"$FSSNAP" create --candidates=ext4 --name=named 2>"$dir/err"
is_lean 3
"$FSSNAP" create --candidates=xfs 2>"$dir/err"
says "xfs: all of 64.0M is kept: " "$dir/err"
[ "$(figure chunks-free 4)" = 0 ] || fail "free space of no XFS"
status=0
"$FSSNAP" create --candidates=ext5 2>"$dir/err" || status=$?
[ "$status" = 2 ] || fail "--candidates=ext5: status $status"
says "--candidates=ext5: must be auto," "$dir/err"

# What is free is not copied before it is overwritten; of what is not, all is.
"$FSSNAP" delete 4
before=$(figure bytes-copied 3)
"$FSSNAP" candidates --json "$disk" |
  sed -n 's/^{"free":\[\[\([0-9]*\),\([0-9]*\)\].*/\1 \2/p' >"$dir/first"
read -r offset length <"$dir/first"
qemu-io -f raw -c "write -q -P 7 $offset $length" "$live"
[ "$(figure bytes-copied 3)" = "$before" ] || fail "free space was copied"
qemu-io -f raw -c "write -q -P 7 0 8192" "$live"
[ "$(figure bytes-copied 3)" = $((before + 8192)) ] ||
  fail "used space was not copied"
is_lean 3
is_lean 1

kill -KILL "$server"
wait "$server" 2>/dev/null || true
rm -f "$socket"
serve
for i in 1 2 3; do is_lean $i; done
stop_server

# A file system in use has a journal to recover: all is kept, and it is said.
cp "$dir/kept.img" "$disk"
debugfs -w -R "feature needs_recovery" "$disk" >/dev/null 2>&1
rm -r "$dir/store"
: >"$dir/log"
serve candidates=auto
says "candidates=auto: ext4: all is kept: " "$dir/log"
[ "$(figure chunks-free 1)" = 0 ] || fail "free space of a dirty file system"
"$FSSNAP" create --candidates=auto 2>"$dir/err"
says "ext4: all of 64.0M is kept: " "$dir/err"
stop_server

# A command that misbehaves leaves what it said before, if that makes sense.
# misbehaves TEXT SCRIPT FREE: TEXT is logged, FREE chunks are free.
misbehaves () {
  printf '#!/bin/sh\n%s\n' "$2" >"$dir/command"
  chmod +x "$dir/command"
  : >"$dir/log"
  FSSNAP_COMMAND=$dir/command start_server "$disk" control="$FSSNAP_SOCKET" \
    candidates=auto
  says "$1" "$dir/log"
  [ "$(figure chunks-free 1)" = "$3" ] ||
    fail "$(figure chunks-free 1) chunks are free, not $3"
  stop_server
}
misbehaves "did not finish" 'echo "{\"free\":[[0,8192]]}"; kill -SEGV $$' 2
misbehaves "did not finish" 'echo "{\"free\":[[0,8192"; exit 0' 0
misbehaves "did not finish" 'exec >&-; exec sleep 1000' 0
misbehaves "did not finish" 'exec tr "\0" y </dev/zero' 0
misbehaves "swap: all is kept: x" 'echo "{\"free\":[[-1,4096],[1,-1],[5],7,[67108864,4096],[9223372036854775807,9223372036854775807],[4096,4096]]}"
echo "[]"; echo "{\"found\":{\"type\":\"swap\",\"kept-because\":\"x\"}}"
echo "{\"done\":true}"' 1
FSSNAP_COMMAND=$dir/none start_server "$disk" candidates=auto
says "candidates=auto: cannot run $dir/none: No such file or directory; all is kept" "$dir/log"
stop_server
