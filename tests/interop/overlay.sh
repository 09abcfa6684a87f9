#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Writable clones of a snapshot: qcow2 overlays over its export.  One is
# written by qemu-io, one mounted by a virtual machine; the origin is written
# meanwhile.  Each sees the frozen data and its own writes.  Nothing can be
# committed into the snapshot.
# shellcheck source=../vm/functions.sh
. "$(dirname "$0")/../vm/functions.sh"
require qemu-img qemu-io nbdcopy mke2fs debugfs
prepare_guest e2fsck

export FSSNAP_SOCKET=$dir/control
snapshot="nbd+unix:///snapshot/1?socket=$socket"

# io FILE|URI OPTION... : qemu-io's commands, which say nothing if all is well.
io () {
  qemu-io "$@" >"$dir/said" 2>&1 || fail "qemu-io $*: $(cat "$dir/said")"
  [ ! -s "$dir/said" ] || fail "qemu-io $*: $(cat "$dir/said")"
}
still () {
  qemu-img compare -q -f raw -F raw "$snapshot" "$dir/before.img" ||
    fail "the snapshot changed: $*"
}
overlay () {
  qemu-img create -q -f qcow2 -b "$snapshot" -F raw "$dir/$1.qcow2"
}

# A file system with a file of known content.
truncate -s 64M "$dir/disk.img"
head -c 5000000 /dev/urandom >"$dir/known"
mke2fs -q -t ext4 "$dir/disk.img"
debugfs -w -R "write $dir/known known" "$dir/disk.img" >"$dir/said" 2>&1
known=$(md5sum <"$dir/known")
cp --sparse=always "$dir/disk.img" "$dir/before.img"
start_server "$dir/disk.img" snapshot=no control="$FSSNAP_SOCKET" \
  backing-store="$dir"
[ "$("$FSSNAP" create)" = snapshot/1 ] || fail "the number of the snapshot"

# The overlay written by qemu-io.
overlay trial
cp --sparse=always "$dir/before.img" "$dir/trial.img"
for change in '-P 1 0 3M' '-P 2 7777777 999' '-z 30M 4M'; do
  io -c "write -q $change" "$dir/trial.qcow2"
  io -f raw -c "write -q $change" "$dir/trial.img"
done
io -f raw -c 'write -q -P 9 0 64M' -c flush "$live"
qemu-img compare -q -f qcow2 -F raw "$dir/trial.qcow2" "$dir/trial.img" ||
  fail "the overlay is not the snapshot and its own writes"
still "after writes to the overlay and the origin"

# Committing would write to the snapshot.
! qemu-img commit "$dir/trial.qcow2" >"$dir/said" 2>&1 || fail "committed"
grep -qi 'read.only' "$dir/said" || fail "commit: $(cat "$dir/said")"
! qemu-img commit -b "$snapshot" "$dir/trial.qcow2" >"$dir/said" 2>&1 ||
  fail "committed by name"
grep -qi 'read.only' "$dir/said" || fail "commit -b: $(cat "$dir/said")"
still "after the commit"
qemu-img compare -q -f qcow2 -F raw "$dir/trial.qcow2" "$dir/trial.img" ||
  fail "the overlay changed with the commit"

# Another is a virtual machine's disk, while the origin is written on.
overlay clone
start_guest -drive "file=$dir/clone.qcow2,format=qcow2,if=virtio"
in_guest 'mount /dev/vda /live && md5sum </live/known' >"$dir/said"
[ "$(cat "$dir/said")" = "$known" ] || fail "in the guest: $(cat "$dir/said")"
(in_guest 'for i in 1 2 3 4 5 6 7 8; do
    head -c 1000000 /dev/urandom >/live/new.$i || break;
  done;
  dd if=/dev/zero of=/live/known bs=100k count=9 conv=notrunc 2>/dev/null;
  md5sum /live/* 2>/dev/null >/tmp/sums; sync;
  umount /live && e2fsck -fn /dev/vda >/dev/null') &
worker=$!
pattern=10
while kill -0 $worker 2>/dev/null; do
  io -f raw -c "write -q -P $pattern $((pattern % 60))M 4M" -c flush "$live"
  still "with pattern $pattern"
  pattern=$((pattern % 255 + 1))
done
wait $worker || fail "the guest's work on its overlay"
in_guest 'echo 3 >/proc/sys/vm/drop_caches;
  mount /dev/vda /live && md5sum -c /tmp/sums >/tmp/checked ||
  cat /tmp/checked'
stop_guest
still "after the guest"

# Made independent of the snapshot, it outlives it.
qemu-img convert -f qcow2 -O raw "$dir/clone.qcow2" "$dir/clone.img"
qemu-img rebase -b '' "$dir/clone.qcow2"
# qemu-img does not wait until the server has seen it go; the server does.
"$FSSNAP" delete 1
qemu-img compare -q -f qcow2 -F raw "$dir/clone.qcow2" "$dir/clone.img" ||
  fail "rebased, the overlay is another"
e2fsck -fn "$dir/clone.img" >"$dir/said" 2>&1 || fail "$(cat "$dir/said")"
# One that is not is refused, and does not show zeros.
! qemu-img info --backing-chain "$dir/trial.qcow2" >"$dir/said" 2>&1 ||
  fail "a snapshot that is gone: $(cat "$dir/said")"
stop_server
