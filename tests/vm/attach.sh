#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# fssnap attach, mount, umount and detach with the kernel's nbd: the server is
# in the virtual machine too, on a Unix socket, and there is no nbdfuse.
# shellcheck source=functions.sh
. "$(dirname "$0")/functions.sh"
prepare_guest nbdkit nbd-client mke2fs "$FSSNAP" "$FSSNAP_PLUGIN"
start_guest

# refused WORDS COMMAND: in the guest; it fails and says so.
refused () {
  ! guest "$2" >"$dir/said" || fail "$2 was not refused"
  grep -qF -e "$1" "$dir/said" || fail "$2: $(cat "$dir/said")"
}
prints () {
  local said
  said=$(in_guest "$1")
  [ "$said" = "$2" ] || fail "$1: $said, not $2"
}
nothing_left () {
  prints 'fssnap attach --list' "Nothing is attached."
  prints 'ls /run/fssnap' attached.lock
  in_guest '[ ! -e /sys/block/nbd0/pid ] && [ ! -e /sys/block/nbd1/pid ]'
}
await () { in_guest "until $1; do usleep 20000; done"; }
start_server_there () {
  in_guest "rm -f /data/pid; LD_PRELOAD=${FSSNAP_PRELOAD:-} /host/nbdkit
    -f -U /data/socket -P /data/pid /host/${FSSNAP_PLUGIN##*/} /data/disk
    snapshot=no control=/data/control backing-store=/data
    >/data/log 2>&1 & server=\$!"
  await '[ -S /data/control ] && [ -s /data/pid ]'
}

# fssnap looks for programs by the path, where busybox has its own.
# shellcheck disable=SC2016 # the guest's
in_guest 'export PATH=/host:$PATH FSSNAP_SOCKET=/data/control;
  mkdir -p /run /data; mount -t tmpfs tmpfs /data;
  truncate -s 32M /data/disk;
  rmmod nbd; insmod /modules/nbd.ko nbds_max=2'
start_server_there

# The origin is written; the snapshot stays.
prints 'fssnap attach --origin' /dev/nbd0
in_guest 'mke2fs -q -t ext4 /dev/nbd0 && mount /dev/nbd0 /live &&
  head -c 3000000 /dev/urandom >/live/file; sync;
  md5sum </live/file >/data/sum'
in_guest 'fsfreeze --freeze /live; fssnap create --name one >/dev/null &&
  fsfreeze --unfreeze /live'
prints 'fssnap attach 1' /dev/nbd1
prints 'fssnap attach one' /dev/nbd1
prints 'fssnap attach --origin' /dev/nbd0
prints 'cat /sys/block/nbd0/ro' 0
prints 'cat /sys/block/nbd1/ro' 1
await '[ "$(fssnap info -o clients 1)" = 4 ]'
! guest 'dd if=/dev/zero of=/dev/nbd1 bs=4k count=1 conv=fsync' >"$dir/said" ||
  fail "the snapshot was written to"
in_guest 'md5sum </dev/nbd1 >/data/device;
  head -c 3000000 /dev/urandom >/live/file; echo text >/live/new; sync;
  echo 3 >/proc/sys/vm/drop_caches; md5sum </dev/nbd1 | cmp - /data/device'
in_guest 'fssnap mount 1 /before && md5sum </before/file | cmp - /data/sum &&
  [ ! -e /before/new ]'
refused "is mounted on /before" 'fssnap detach 1'
refused "is mounted on /live" 'fssnap detach --origin'
refused "snapshot 1" 'fssnap delete 1'

# There are but two devices.
in_guest 'fssnap create --name two >/dev/null'
refused "are all in use" 'fssnap attach two'
[ "$(in_guest 'fssnap attach --list' | wc -l)" = 3 ] || fail "left of two"

# It was attached before it was mounted, and stays so.
in_guest 'fssnap umount /before'
in_guest 'fssnap attach --list' | grep -q '^1 *one *attached */dev/nbd1 *-' ||
  fail "umount has detached it"
in_guest 'exec 4</dev/nbd1'
refused "is in use, by" 'fssnap detach 1'
in_guest 'exec 4<&-'
in_guest 'fssnap detach 1'
in_guest 'fssnap delete 1'
in_guest 'fssnap mount two /before && [ -e /before/new ] && fssnap umount two'
[ "$(in_guest 'fssnap attach --list' | wc -l)" = 2 ] || fail "still attached"

# Killed or interrupted at any time: what was connected can be found.
for signal in INT KILL; do
  for delay in 5 20 40 60 80 120; do
    in_guest "fssnap attach two >/data/out 2>&1 & usleep ${delay}000;
      kill -$signal \$! 2>/dev/null; wait \$!; true" >"$dir/said"
    await '! pidof nbd-client >/dev/null'
    if [ "$(in_guest 'ls -d /sys/block/nbd1/pid 2>/dev/null; true')" ]; then
      in_guest 'fssnap attach --list | grep -q /dev/nbd1'
      guest 'fssnap detach two' >"$dir/said" || {
        grep -q "nbd-client -d /dev/nbd1" "$dir/said" || fail "$(cat "$dir/said")"
        in_guest 'nbd-client -d /dev/nbd1' >"$dir/said"
        await '[ ! -e /sys/block/nbd1/pid ]'
      }
    fi
    [ "$(in_guest 'fssnap attach --list' | wc -l)" = 2 ] ||
      fail "$signal after $delay ms"
  done
done

in_guest 'umount /live && fssnap detach --origin'
nothing_left

prints 'fssnap attach two' /dev/nbd0
# The server is killed.
# shellcheck disable=SC2016
in_guest 'kill -KILL $server; wait $server; rm -f /data/socket /data/control;
  true' >"$dir/said"
in_guest 'fssnap attach --list >/data/out; cat /data/out' >"$dir/said"
grep -qE "server gone|damaged|Nothing" "$dir/said" || fail "$(cat "$dir/said")"
guest 'fssnap detach /dev/nbd0' >"$dir/said" || grep -q "is not attached" "$dir/said" ||
  fail "the server is gone: $(cat "$dir/said")"
nothing_left
in_guest 'rmmod nbd'
stop_guest
