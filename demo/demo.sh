#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Show what fssnap does:  make demo
# or serve a device or image of one's own:  make demo ORIGIN=/path
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
FSSNAP_PLUGIN=${FSSNAP_PLUGIN:-$root/build/nbdkit-fssnap-plugin.so}
FSSNAP=${FSSNAP:-$root/build/cli/fssnap}
for file in "$FSSNAP_PLUGIN" "$FSSNAP"; do
  [ -f "$file" ] || { echo "No $file: run make" >&2; exit 1; }
done
PATH=$PATH:/usr/sbin:/sbin

dir=$(mktemp -d "${TMPDIR:-/var/tmp}/fssnap-demo-XXXXXX")
socket=$dir/socket
live="nbd+unix:///?socket=$socket"
frozen="nbd+unix:///snapshot?socket=$socket"
export FSSNAP_SOCKET=$dir/control
server=
writer=

clean_up () {
  [ -z "$writer" ] || kill "$writer" 2>/dev/null || true
  [ -z "$server" ] || kill -KILL "$server" 2>/dev/null || true
  rm -rf "$dir"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# serve PATH [PARAMETER...]: start a server and wait until it listens, which
# is when it writes its pid, here into a pipe.
serve () {
  rm -f "$dir/pid" "$socket"
  mkfifo "$dir/pid"
  exec 3<>"$dir/pid"
  nbdkit -f -U "$socket" -P "$dir/pid" "$FSSNAP_PLUGIN" \
    "control=$FSSNAP_SOCKET" "$@" 3>&- &
  server=$!
  while kill -0 "$server" 2>/dev/null; do
    read -r -n 1 -t 1 -u 3 _ || continue
    exec 3>&-
    return 0
  done
  wait "$server" || true # its message is on the terminal
  server=
  exit 1
}

# --- make demo ORIGIN=/path -------------------------------------------------

attach_commands () {
  cat <<END

$1 is served, frozen as of now, until Ctrl-C.  In another terminal:

  # what there is
  nbdinfo --list '$live'

  # back the snapshot up
  nbdcopy '$frozen' backup.img
  qemu-img convert -p -f raw -O qcow2 '$frozen' backup.qcow2

  # take another snapshot, see what there is, delete the first
  export FSSNAP_SOCKET='$FSSNAP_SOCKET'
  $FSSNAP create --name another
  $FSSNAP list
  $FSSNAP delete 1

  # work on the live device, as a file
  mkdir live; nbdfuse live/device '$live'
  # and, elsewhere, on the snapshot
  mkdir before; nbdfuse -r before/device '$frozen'
END
  [ "$(id -u)" != 0 ] || cat <<END

  # as kernel devices (needs the nbd module and the package nbd-client)
  nbd-client -unix '$socket' /dev/nbd0 -N origin
  nbd-client -unix '$socket' /dev/nbd1 -N snapshot
  nbd-client -d /dev/nbd0; nbd-client -d /dev/nbd1
END
  cat <<END

Write to it through the server only; what bypasses it is not copied.
END
}

stop_asked () {
  [ $((stops += 1)) = 1 ] || exit 130
  kill "$server" 2>/dev/null || true
  echo
  echo "Ending, as soon as the last client has gone (Ctrl-C again: at once)."
}

if [ -n "${ORIGIN:-}" ]; then
  stops=0
  serve "origin=$ORIGIN"
  trap stop_asked INT TERM HUP
  attach_commands "$ORIGIN"
  # A signal ends wait, not the server.
  while kill -0 "$server" 2>/dev/null; do
    status=0
    wait "$server" || status=$?
  done
  server=
  exit "$status"
fi

# --- make demo --------------------------------------------------------------

say () { printf '\n== %s\n' "$*"; }
sum () { sha256sum | cut -c 1-64; }

# make_image FILE LETTER TREE...: an ext4 file system of these and random data
make_image () {
  local image=$1 letter=$2 tree=$dir/tree
  shift 2
  mkdir "$tree"
  echo "$letter" >"$tree/letter.txt"
  head -c 48M /dev/urandom >"$tree/random.bin"
  cp -r "$@" "$tree"
  truncate -s 256M "$image"
  mke2fs -q -t ext4 -b 4096 -d "$tree" "$image"
  echo "$(basename "$image"): 256 MiB of ext4 with" \
    "$(find "$tree" -type f | wc -l) files," \
    "$(du -sh "$tree" | cut -f 1) in them"
  rm -rf "$tree"
}

# How the bytes of two files differ, in chunks of 4 KiB.
difference () {
  python3 - "$1" "$2" <<'END'
import sys
total = chunks = 0
with open(sys.argv[1], "rb") as a, open(sys.argv[2], "rb") as b:
    while old := a.read(4096):
        total += 1
        chunks += old != b.read(4096)
print(f"{chunks} of {total} chunks of 4 KiB differ")
END
}

letter () { debugfs -R 'cat letter.txt' "$1" 2>/dev/null; }

say "Two file systems: one to live with, one to overwrite it by"
make_image "$dir/before.img" "the old letter" "$root/src" "$root/include" \
  /usr/include/linux
make_image "$dir/after.img" "the NEW letter" "$root/docs" \
  /usr/include/asm-generic
cp --sparse=always "$dir/before.img" "$dir/disk.img"
before=$(sum <"$dir/before.img")
echo "sha256 of before.img: $before"

say "nbdkit fssnap disk.img   (a copy of before.img, frozen at start)"
serve "$dir/disk.img" "backing-store=$dir/copies"
nbdinfo --list "$live" | grep -E 'export=|description|is_read_only' |
  sed -e 's/^\t/    /' -e "s|$dir/||"
echo "Stored so far by copy-on-write: $(du -k "$dir/copies" | cut -f 1) KiB"

say "Overwrite the origin through the server, while the snapshot is read"
{
  # One small request after another: a busy origin, not a quick copy.
  nbdcopy --connections=1 --requests=1 --request-size=4096 \
    "$dir/after.img" "$live"
  qemu-io -f raw -c 'write -q -P 0x55 200M 20M' -c 'write -q -z 10M 5M' \
    -c 'write -q -P 0xaa 1234567 89' -c flush "$live"
} &
writer=$!
reads=0
while [ "$reads" = 0 ] || kill -0 "$writer" 2>/dev/null; do
  during=$(nbdcopy "$frozen" - | sum)
  [ "$during" = "$before" ] || { echo "WRONG: $during"; exit 1; }
  reads=$((reads + 1))
done
wait "$writer"
writer=
echo "Written: all of after.img, then a pattern, zeros and 89 stray bytes."
echo "Full reads of the snapshot meanwhile: $reads; all of them had the"
echo "sha256 of snapshot:   $during"

say "What became of the origin"
nbdcopy "$live" "$dir/origin-now.img"
difference "$dir/before.img" "$dir/origin-now.img"
echo "sha256 of the origin: $(sum <"$dir/origin-now.img")"
echo "Stored by copy-on-write: $(du -k "$dir/copies" | cut -f 1) KiB"

say "What became of the snapshot"
nbdcopy "$frozen" "$dir/snapshot.img"
after=$(sum <"$dir/snapshot.img")
echo "sha256 of nbdcopy's copy: $after"
[ "$after" = "$before" ]
echo "qemu-img compare: $(qemu-img compare -f raw -F raw "$dir/before.img" "$frozen")"
cmp "$dir/before.img" "$dir/snapshot.img"
echo "e2fsck -fn: $(e2fsck -fn "$dir/snapshot.img" 2>/dev/null | tail -n 1 |
  sed "s|$dir/||")"
echo "letter.txt on the origin:    $(letter "$dir/origin-now.img")"
echo "letter.txt in the snapshot:  $(letter "$dir/snapshot.img")"
[ "$(letter "$dir/snapshot.img")" = "the old letter" ]

say "fssnap: another snapshot of the origin as it is now, the first one deleted"
"$FSSNAP" create --name now -o "backing-store=$dir,chunksize=64k"
"$FSSNAP" delete 1
qemu-io -f raw -c 'write -q -P 0x11 0 16M' "$live"
"$FSSNAP" list | sed "s|$dir|.|"
now=$(nbdcopy "nbd+unix:///snapshot/now?socket=$socket" - | sum)
echo "sha256 of snapshot/now: $now"
[ "$now" = "$(sum <"$dir/origin-now.img")" ]
[ ! -e "$dir/copies" ]
echo "The first one's backing file is gone."
kill "$server"
wait "$server" || true

# As roughly as can be: it is not asked to end.
kill_server () {
  kill -KILL "$server"
  wait "$server" 2>/dev/null || true
  server=
}

say "nbdkit fssnap disk.img store=store   (snapshots that outlive the server)"
serve "$dir/disk.img" "store=$dir/store"
"$FSSNAP" create --name kept
kept=$(nbdcopy "$live" - | sum)
qemu-io -f raw -c 'write -q -P 0x22 8M 32M' "$live"
kill_server
echo "Overwritten, and the server killed.  fssnap check store:"
"$FSSNAP" check "$dir/store" | sed "s|$dir/||"
serve "$dir/disk.img" "store=$dir/store"
again=$(nbdcopy "nbd+unix:///snapshot/kept?socket=$socket" - | sum)
echo "sha256 of the origin when the snapshot was taken: $kept"
echo "sha256 of snapshot/kept, from the next server:    $again"
[ "$again" = "$kept" ]
kill_server
say "The origin was overwritten; the snapshot is, byte for byte, as before. OK"
