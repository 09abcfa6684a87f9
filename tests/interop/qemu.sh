#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# A virtual machine whose disk is the origin: it partitions it, makes file
# systems and fills them, while the host reads the snapshots with qemu-img.
# shellcheck source=../vm/functions.sh
. "$(dirname "$0")/../vm/functions.sh"
require qemu-img nbdcopy
prepare_guest sfdisk mke2fs e2fsck

export FSSNAP_SOCKET=$dir/control
uri () { echo "nbd+unix:///$1?socket=$socket"; }

# same NAME: by its export, and by what qemu-img makes a copy of it, the
# snapshot is what it was when it was taken.
same () {
  qemu-img convert -f raw -O qcow2 "$(uri "snapshot/$1")" "$dir/again.qcow2"
  qemu-img compare -q -f qcow2 -F raw "$dir/again.qcow2" "$dir/$1.img" ||
    fail "a copy of $1 is not what it was"
  qemu-img compare -q -f raw -F raw "$(uri "snapshot/$1")" "$dir/$1.img" ||
    fail "$1 is not what it was"
}

# take NAME
take () {
  "$FSSNAP" create --name "$1" >"$dir/said"
  qemu-img convert -f raw -O raw "$(uri "snapshot/$1")" "$dir/$1.img"
}

# meanwhile NAMES COMMAND: the guest does it, and until it is done, and once
# at least, the snapshots are read.
meanwhile () {
  local name rounds=0
  (in_guest "$2") &
  worker=$!
  while [ $rounds = 0 ] || kill -0 $worker 2>/dev/null; do
    for name in $1; do
      same "$name"
    done
    rounds=$((rounds + 1))
  done
  wait $worker || fail "the guest could not: $2"
}

truncate -s 128M "$dir/disk.img"
start_server "$dir/disk.img" snapshot=no control="$FSSNAP_SOCKET" \
  backing-store="$dir"
start_guest -drive "file=$live,format=raw,if=virtio,discard=unmap"
[ "$(in_guest 'blockdev --getsize64 /dev/vda')" = $((128 << 20)) ] ||
  fail "the size of the disk"

take empty
meanwhile empty 'printf "label: gpt\nsize=60MiB\nsize=60MiB\n" >/tmp/table;
  sfdisk -q /dev/vda </tmp/table &&
  mke2fs -q -t ext4 /dev/vda1 && mke2fs -q -t ext4 -b 1024 /dev/vda2 &&
  mount /dev/vda1 /live &&
  for i in 1 2 3 4 5 6 7 8; do
    head -c 2000000 /dev/urandom >/live/$i || break;
  done;
  (cd /live && md5sum 1 2 3 4 5 6 7 8) >/tmp/sums; sync'
in_guest 'fsfreeze --freeze /live'
take formatted
in_guest 'fsfreeze --unfreeze /live; umount /live'
sfdisk -q -l "$dir/formatted.img" >"$dir/said"
[ "$(grep -c '^/' "$dir/said")" = 2 ] || fail "partitions: $(cat "$dir/said")"

# The one overwritten as a file system is, the other made another.
meanwhile 'empty formatted' 'mount /dev/vda1 /live &&
  (cd /live && md5sum -c /tmp/sums) >/tmp/checked &&
  for i in 1 3 5 7; do
    head -c 3000000 /dev/urandom >/live/$i || break;
  done;
  rm /live/2 /live/4; sync; fstrim /live && umount /live &&
  e2fsck -fp /dev/vda1 >/dev/null &&
  blkdiscard /dev/vda2 && mke2fs -q -F -t ext4 -b 4096 /dev/vda2'
# Partitions gone, and another table.
meanwhile 'empty formatted' 'printf "label: dos\nsize=20MiB\n" >/tmp/table;
  sfdisk -q --wipe always --wipe-partitions always /dev/vda </tmp/table &&
  dd if=/dev/zero of=/dev/vda bs=1M seek=20 count=40 conv=fsync 2>/dev/null'
stop_guest
same empty
same formatted

# What the guest wrote first is in the copy, and whole.
offset=$(sfdisk -J "$dir/formatted.img" | sed -n 's/.*"start": *\([0-9]*\).*/\1/p' |
  head -n 1)
e2fsck -fn "$dir/formatted.img?offset=$((offset * 512))" >"$dir/said" 2>&1 ||
  fail "the first partition: $(cat "$dir/said")"
stop_server
