#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# A file system in use: ext4 on a loop device on nbdfuse on the origin.  It
# is written to, frozen, changed; in the snapshot every file is as it was.
# shellcheck source=functions.sh
. "$(dirname "$0")/functions.sh"
require nbdfuse losetup mount mke2fs e2fsck
[ "$(id -u)" = 0 ] || skip "mounting needs root"
[ -w /dev/fuse ] && [ -w /dev/loop-control ] ||
  skip "there is no /dev/fuse or no /dev/loop-control"

# as_file NAME URI [OPTION...]: the export as the file $dir/NAME/disk.
as_file () {
  local name=$1 uri=$2
  shift 2
  mkdir -p "$dir/$name"
  undo+=("umount '$dir/$name' 2>/dev/null")
  start "$dir/$name.pid" nbdfuse "$@" -P "$dir/$name.pid" "$dir/$name/disk" \
    "$uri"
}

# mount_export NAME URI [OPTION...]: its file system in $dir/NAME.fs.
mount_export () {
  local name=$1 uri=$2 read_only=() options=rw
  shift 2
  if [ "$name" = before ]; then
    read_only=(-r)
    # The journal would have to be replayed: a write.
    options=ro,noload
  fi
  as_file "$name" "$uri" ${read_only[@]+"${read_only[@]}"}
  loop=$(losetup --show -f ${read_only[@]+"${read_only[@]}"} "$dir/$name/disk")
  undo+=("losetup -d $loop 2>/dev/null")
  mkdir -p "$dir/$name.fs"
  mount -t ext4 -o $options "$loop" "$dir/$name.fs"
  undo+=("umount '$dir/$name.fs' 2>/dev/null")
}

# unmount_export NAME LOOP-DEVICE.  Lazily: udev may have the device open for
# a moment longer; stop_server waits for the end of it.
unmount_export () {
  umount "$dir/$1.fs"
  losetup -d "$2"
  umount -l "$dir/$1"
}

# Every file: its name, kind, mode, owner, time and content.
manifest () {
  (cd "$1" && find . -printf '%p %y %m %U %T@ %l\n' | sort &&
    find . -type f -print0 | sort -z | xargs -0 sha256sum)
}

truncate -s 128M "$dir/disk.img"
mke2fs -q -t ext4 "$dir/disk.img"

# Before: files through the server, then the end of it.
start_server "$dir/disk.img" snapshot=no
mount_export live "$live"
cp -r "$FSSNAP_SOURCE/src" "$FSSNAP_SOURCE/include" "$dir/live.fs"
for i in 1 2 3 4 5 6 7 8; do
  mkdir "$dir/live.fs/d$i"
  head -c ${i}M /dev/urandom >"$dir/live.fs/d$i/random"
  ln -s random "$dir/live.fs/d$i/link"
  truncate -s 10M "$dir/live.fs/d$i/sparse"
done
manifest "$dir/live.fs" >"$dir/old"
unmount_export live "$loop"
stop_server

# Frozen here.
start_server "$dir/disk.img"
mount_export live "$live"
live_loop=$loop
rm -r "$dir/live.fs/src" "$dir/live.fs/d1"
mv "$dir/live.fs/d2" "$dir/live.fs/moved"
head -c 3M /dev/urandom >"$dir/live.fs/d3/random"
echo "one more line" >>"$dir/live.fs/d4/random"
truncate -s 1000 "$dir/live.fs/d5/random"
chmod 700 "$dir/live.fs/d6"
head -c 40M /dev/urandom >"$dir/live.fs/new"
sync -f "$dir/live.fs"
manifest "$dir/live.fs" >"$dir/new"
! cmp -s "$dir/old" "$dir/new" || fail "nothing was changed"

# The origin is still mounted and in use.
mount_export before "$frozen"
manifest "$dir/before.fs" >"$dir/seen"
diff "$dir/old" "$dir/seen" || fail "the snapshot's files are not the old ones"
unmount_export before "$loop"

unmount_export live "$live_loop"
stop_server

# And the origin has the new ones, on disk.
e2fsck -fn "$dir/disk.img" >/dev/null 2>&1 || fail "e2fsck of the origin"
start_server "$dir/disk.img" snapshot=no
mount_export live "$live"
manifest "$dir/live.fs" >"$dir/seen"
diff "$dir/new" "$dir/seen" || fail "the origin's files are not the new ones"
unmount_export live "$loop"
stop_server
