#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# The kernel as a client: a virtual machine attaches the origin and a snapshot
# with nbd-client, each by several connections, and mounts both.  While files
# are overwritten and deleted on the origin, the snapshot is read again and
# again, past the page cache; it stays what it was.  Once with the file system
# frozen when the snapshot is taken, once unmounted, and once just in use.
# shellcheck source=functions.sh
. "$(dirname "$0")/functions.sh"
require nbdcopy python3
prepare_guest nbd-client mke2fs e2fsck

export FSSNAP_SOCKET=$dir/control
fssnap () { "$FSSNAP" "$@"; }
info () { fssnap info -o "$@"; }

# attach DEVICE EXPORT [OPTION]: in the guest, with four connections.
attach () {
  in_guest "nbd-client 10.0.2.2 $port $1 -N $2 -C 4 ${3:-}" >"$dir/said"
  [ "$(in_guest "blockdev --getsize64 $1")" = "$size" ] || fail "$1's size"
}

# The connections of a snapshot, which go some time after nbd-client -d.
await_clients () {
  local until=$((SECONDS + 20))
  while [ "$(info clients "$1")" != "$2" ]; do
    [ $SECONDS -lt $until ] || fail "$1 has $(info clients "$1") clients"
  done
}

size=$((32 << 20))
truncate -s $size "$dir/disk.img"
start_tcp_server "$dir/disk.img" snapshot=no control="$FSSNAP_SOCKET" \
  backing-store="$dir"
start_guest -nic user,model=virtio-net-pci,ipv6=off

# What the guest does more than once.
in_guest 'manifest () {
  (cd "$1" && find . -type f | sort | xargs md5sum && find . | sort);
}'
in_guest 'forget () { sync; echo 3 >/proc/sys/vm/drop_caches; }'
in_guest 'fill () {
  for i in 1 2 3 4 5 6; do
    mkdir -p "/live/$1.$i";
    for j in 1 2 3 4; do
      head -c $((i * j * 10007)) /dev/urandom >"/live/$1.$i/$j";
    done;
  done;
}'
# change ROUND: half of the files are overwritten in place, the others deleted
# or made anew.
in_guest 'change () {
  for file in /live/*/1 /live/*/3; do
    head -c 50000 /dev/urandom |
      dd of="$file" bs=7777 conv=notrunc 2>/dev/null;
  done;
  sync;
  rm -f /live/*/2;
  fill "round$1";
  rm -rf "/live/round$(($1 - 1))".*;
  sync;
}'
# watch: every round of it reads the files, and the device, as they are on the
# server, and tells of it in /tmp/rounds.
in_guest 'watch () {
  while [ ! -e /tmp/stop ]; do
    forget;
    manifest /before | cmp - /tmp/files >>/tmp/changed 2>&1;
    md5sum </dev/nbd1 | cmp - /tmp/device >>/tmp/changed 2>&1;
    echo >>/tmp/rounds;
  done;
}'
in_guest 'rounds () { wc -l </tmp/rounds; }'

attach /dev/nbd0 origin
in_guest 'mke2fs -q -t ext4 -b 4096 /dev/nbd0 && mount /dev/nbd0 /live'
in_guest 'fill first; fill second; manifest /live >/tmp/files; sync'

for how in frozen unmounted in-use; do
  options=ro
  case $how in
    frozen)
      in_guest 'fsfreeze --freeze /live'
      fssnap create --name $how >"$dir/said"
      in_guest 'fsfreeze --unfreeze /live'
      ;;
    unmounted)
      in_guest 'umount /live'
      fssnap create --name $how >"$dir/said"
      in_guest 'mount /dev/nbd0 /live'
      ;;
    in-use)
      in_guest 'sync'
      fssnap create --name $how >"$dir/said"
      options=ro,noload # the journal has to be replayed, which is a write
      ;;
  esac
  nbdcopy "nbd+unix:///snapshot/$how?socket=$socket" "$dir/$how.img"
  attach /dev/nbd1 snapshot/$how
  await_clients $how 4
  [ "$(in_guest 'cat /sys/block/nbd1/ro')" = 1 ] || fail "nbd1 is not read-only"
  ! guest "dd if=/dev/zero of=/dev/nbd1 bs=4k count=1 conv=fsync" >"$dir/said" ||
    fail "the snapshot was written to"

  in_guest "mount -o $options /dev/nbd1 /before"
  in_guest "rm -f /tmp/stop; : >/tmp/rounds;
    echo 2048 >/sys/block/nbd1/queue/read_ahead_kb;
    md5sum </dev/nbd1 >/tmp/device"
  device=$(md5sum <"$dir/$how.img")
  [ "$(in_guest 'cat /tmp/device')" = "$device" ] || fail "$how: what nbd1 reads"
  in_guest 'manifest /before | cmp - /tmp/files'
  in_guest 'watch & watcher=$!'
  for ((round = 1; round < 50; round++)); do
    in_guest "change $round"
    [ "$round" -lt 2 ] || [ "$(in_guest rounds)" -lt 1 ] || break
  done
  in_guest 'fstrim /live'
  in_guest 'echo >/tmp/stop; wait $watcher; [ ! -s /tmp/changed ] ||
    { cat /tmp/changed; false; }'
  in_guest 'forget; manifest /before | cmp - /tmp/files && umount /before'
  [ "$how" = in-use ] || in_guest 'e2fsck -fn /dev/nbd1' >"$dir/said"

  # The device as a whole goes, the last time.
  if [ "$how" = in-use ]; then
    in_guest 'umount /live; blkdiscard /dev/nbd0;
      mke2fs -q -F -t ext4 -b 1024 /dev/nbd0'
  else
    in_guest 'rm -rf /live/*; fill first; fill second;
      manifest /live >/tmp/files; sync'
  fi
  in_guest 'forget; md5sum </dev/nbd1 | cmp - /tmp/device'
  [ "$(nbdcopy "nbd+unix:///snapshot/$how?socket=$socket" - | md5sum)" = \
    "$device" ] || fail "$how: the snapshot changed"
  [ "$(info bytes-copied $how)" -gt 1000000 ] || fail "$how: nothing was copied"

  ! fssnap delete $how 2>"$dir/said" || fail "$how: deleted in use"
  in_guest 'nbd-client -d /dev/nbd1' >"$dir/said"
  await_clients $how 0
  fssnap delete $how
done

# In use, the snapshot was what a power failure leaves: the journal mends it.
status=0
e2fsck -fy "$dir/in-use.img" >"$dir/said" 2>&1 || status=$?
[ $status -le 1 ] || fail "in use: e2fsck: $(cat "$dir/said")"
e2fsck -fn "$dir/in-use.img" >"$dir/said" 2>&1 || fail "in use: $(cat "$dir/said")"

in_guest 'nbd-client -d /dev/nbd0' >"$dir/said"
stop_guest
stop_server
