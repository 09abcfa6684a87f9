#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# fssnap attach, detach, mount, umount: real devices, real file systems.
# shellcheck source=functions.sh
. "$(dirname "$0")/functions.sh"
require nbdfuse losetup mount mke2fs blockdev fsfreeze
[ "$(id -u)" = 0 ] || skip "mounting needs root"
[ -w /dev/fuse ] && [ -w /dev/loop-control ] ||
  skip "there is no /dev/fuse or no /dev/loop-control"

export FSSNAP_SOCKET=$dir/control FSSNAP_RUN=$dir/run
# No nbd of the machine's is touched.
export FSSNAP_TEST_SYS=$dir/sys
mnt=$dir/mnt
mkdir "$mnt"

# Whatever is left: by the kernel's word, not by the command's.
remove_all () {
  local device path
  umount "$mnt" 2>/dev/null
  umount "$dir/live" 2>/dev/null
  for path in /sys/block/loop*/loop/backing_file; do
    case $(cat "$path" 2>/dev/null) in
      "$dir"/*)
        device=${path#/sys/block/}
        losetup -d "/dev/${device%%/*}"
        ;;
    esac
  done
  for path in "$dir"/run/attached-*/; do umount -l "$path"; done
} 2>/dev/null
undo+=(remove_all)

fssnap () { "$FSSNAP_ATTACH" "$@"; }
# refused WORDS ARGUMENT...: it fails and says so.
refused () {
  local words=$1
  shift
  ! fssnap "$@" >"$dir/out" 2>"$dir/err" || fail "$* was not refused"
  grep -qF -e "$words" "$dir/err" || fail "$*: $(cat "$dir/err")"
}
nothing_left () {
  [ "$(fssnap attach --list)" = "Nothing is attached." ] || fail "left"
  ! grep -qs "^$dir/" /sys/block/loop*/loop/backing_file || fail "a loop device"
  ! grep -q " $dir/" /proc/self/mountinfo || fail "a mount"
  [ -z "$(find "$dir/run" -name 'attached-*')" ] || fail "files"
}
nbdfuse_pid () { sed -n 's/^ *"pid": \([0-9]*\),\{0,1\}$/\1/p' "$dir"/run/attached-*.json; }

# An image with ext4 whose journal is not empty: that of a mounted one.
truncate -s 96M "$dir/disk.img"
mke2fs -q -t ext4 "$dir/disk.img"
start_server "$dir/disk.img" snapshot=no control="$FSSNAP_SOCKET"
refused "there is no snapshot: take one" attach
nothing_left

# The origin is written through its device.
live=$(fssnap attach --origin)
mkdir "$dir/live"
mount "$live" "$dir/live"
head -c 3M /dev/urandom >"$dir/live/file"
sync -f "$dir/live"
echo "in the journal" >"$dir/live/late"
sync "$dir/live/late"
old=$(sum <"$dir/live/file")
refused "is mounted on $dir/live" detach --origin
"$FSSNAP" create --name one >/dev/null
head -c 3M /dev/urandom >"$dir/live/file"
sync -f "$dir/live"
[ "$(fssnap attach --origin)" = "$live" ] || fail "the origin, attached twice"

# A snapshot: the same path twice; frozen; read-only.
device=$(fssnap attach)
[ -b "$device" ] || fail "$device is no device"
[ "$(fssnap attach one)" = "$device" ] || fail "not the same path"
[ "$(fssnap attach snapshot/1)" = "$device" ] || fail "not the same path"
[ "$(blockdev --getro "$device")" = 1 ] || fail "$device can be written"
[ "$(sum <"$device")" = "$(sum_of_export "$frozen")" ] || fail "other bytes"
fssnap attach --list | grep -q "^1 *one *attached *$device" || fail "--list"
exec 7<"$device"
refused "is in use, by" detach 1
exec 7<&-
fssnap detach "$device"
"$FSSNAP" list --json | grep -q '"clients": 0' || fail "detach did not wait"
refused "is not attached" detach 1

# Mounted, with the journal as it was; then without a trace.
fssnap mount one "$mnt"
[ "$(sum <"$mnt/file")" = "$old" ] || fail "the file is not the old one"
! touch "$mnt/new" 2>/dev/null || fail "written to a snapshot"
refused "is mounted on $mnt" detach 1
(cd "$mnt" && exec sleep 60) &
sleeper=$!
until [ "$(readlink /proc/$sleeper/cwd)" = "$mnt" ]; do sleep 0.02; done
refused "is not unmounted" umount "$mnt"
kill $sleeper
wait $sleeper || true
fssnap umount "$mnt"
"$FSSNAP" delete 1
refused "snapshot 1" mount 1 "$mnt"

# What was attached before stays attached.
"$FSSNAP" create --name two >/dev/null
fssnap attach >/dev/null
fssnap mount "$mnt"
fssnap umount two
fssnap attach --list | grep -q "two" || fail "umount has detached it"

# nbdfuse is killed: what is left is removed.
umount "$dir/live"
fssnap detach --origin
kill -KILL "$(nbdfuse_pid)"
until fssnap attach --list | grep -q damaged; do sleep 0.05; done
fssnap detach two
nothing_left

# Interrupted: nothing is left, whenever it was.
for delay in 0.01 0.03 0.06 0.1; do
  timeout -s INT $delay "$FSSNAP_ATTACH" attach >/dev/null 2>&1 || true
  fssnap attach --list >/dev/null
  [ -z "$(find "$dir/run" -name 'attached-*.json')" ] || fssnap detach two
  nothing_left
done

# The server dies.
fssnap mount two "$mnt"
kill -KILL "$server"
wait "$server" || true
server=
rm -f "$socket" "$FSSNAP_SOCKET"
fssnap attach --list | grep -q "server gone" || fail "--list: the server"
timeout 60 "$FSSNAP_ATTACH" umount "$mnt"
nothing_left

# Partitions.
if command -v sfdisk >/dev/null; then
  truncate -s 64M "$dir/parts.img"
  printf 'start=2048,size=40960\nstart=43008,size=81920\n' |
    sfdisk -q "$dir/parts.img"
  mke2fs -q -t ext4 -E offset=$((43008 * 512)) "$dir/parts.img" 40M
  start_server "$dir/parts.img" control="$FSSNAP_SOCKET"
  refused "--partition=2   40.0M, ext4" mount "$mnt"
  refused "it has no partition 3" mount --partition=3 "$mnt"
  nothing_left
  fssnap mount --partition=2 1 "$mnt"
  [ -d "$mnt/lost+found" ] || fail "not mounted"
  fssnap umount "$mnt"
  nothing_left
  stop_server
fi

# Other file systems.
for type in xfs btrfs vfat; do
  command -v mkfs.$type >/dev/null || continue
  modprobe -q $type 2>/dev/null || true
  grep -qw $type /proc/filesystems || continue
  rm -f "$dir/other.img"
  truncate -s 400M "$dir/other.img"
  mkfs.$type "$dir/other.img" >/dev/null
  start_server "$dir/other.img" control="$FSSNAP_SOCKET"
  mount "$(fssnap attach --origin)" "$dir/live"
  echo text >"$dir/live/file"
  sync -f "$dir/live"
  # Without it, what is only in the journal is not seen.
  fsfreeze -f "$dir/live"
  "$FSSNAP" create --name other >/dev/null
  fsfreeze -u "$dir/live"
  echo other >"$dir/live/file"
  sync -f "$dir/live"
  fssnap mount other "$mnt" || fail "$type"
  [ "$(cat "$mnt/file")" = text ] || fail "$type: the file"
  fssnap umount "$mnt"
  fssnap umount "$dir/live"
  fssnap detach --origin
  nothing_left
  stop_server
done

# Usage, and what is missing.
start_server "$dir/disk.img" control="$FSSNAP_SOCKET"
refused "one of a snapshot, --origin and --list" attach 1 --origin
refused "what? Give" detach
refused "where? Give a directory" mount
refused "must be a number from 1 on" mount --partition=0 1 "$mnt"
refused "give a directory that exists" mount 1 "$dir/none"
refused "is neither" umount "$dir"
refused "there is no snapshot 9" attach 9
mkdir "$dir/dev"
FSSNAP_TEST_DEV=$dir/dev refused "nbdfuse needs it" attach
nothing_left
stop_server
