#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# ext4 that the kernel grows while it is mounted: then the free space found is
# what dumpe2fs says, and losing it does no harm.  In a virtual machine, as it
# takes a privilege that containers lack.
# shellcheck source=functions.sh
. "$(dirname "$0")/functions.sh"
require mke2fs dumpe2fs debugfs e2fsck python3
prepare_guest resize2fs

export FSSNAP
kinds=(
  "-t ext4"
  "-t ext4 -b 1024 -O ^flex_bg"
  "-t ext4 -b 1024 -O ^resize_inode"
  "-t ext4 -b 1024 -O meta_bg,^resize_inode"
  "-t ext4 -b 1024 -O ^metadata_csum,uninit_bg"
  "-t ext3 -b 1024"
)
drives=()
for i in "${!kinds[@]}"; do
  truncate -s 400M "$dir/disk$i"
  # shellcheck disable=SC2086 # a list of options
  mke2fs -q -F ${kinds[i]} "$dir/disk$i" 64M 2>"$dir/mke2fs" ||
    fail "mke2fs ${kinds[i]}: $(cat "$dir/mke2fs")"
  drives+=(-drive "file=$dir/disk$i,format=raw,if=virtio,cache=unsafe")
done
start_guest "${drives[@]}"
in_guest 'fill () {
  for i in 1 2 3 4 5 6 7 8; do
    mkdir -p "/live/$1.$i";
    for j in 1 2 3 4 5; do
      head -c $((i * j * 20011)) /dev/urandom >"/live/$1.$i/$j" || return;
    done;
  done;
}'
# To 200 MiB with files before and after, then to the end.
in_guest 'grow () {
  mount -t ext4 "$1" /live && fill before && sync &&
    resize2fs "$1" 200M && fill between && rm -r /live/before.3 && sync &&
    resize2fs "$1" && fill after && rm -r /live/between.5 /live/after.1 &&
    umount /live;
}'

free_of () {
  dumpe2fs -h "$1" 2>/dev/null |
    awk '/^Free blocks:/ { f = $3 } /^Block size:/ { printf "%.0f\n", f * $3 }'
}

blocks_of () {
  dumpe2fs -h "$1" 2>/dev/null |
    awk '/^Block count:/ { n = $3 } /^Block size:/ { printf "%.0f\n", n * $3 }'
}

files_of () { # IMAGE DIRECTORY
  mkdir "$2"
  debugfs -R "rdump / $2" "$1" >/dev/null 2>&1
}

letters=({a..z})
for i in "${!kinds[@]}"; do
  in_guest "grow /dev/vd${letters[i]}" >"$dir/grown"
done
stop_guest
for i in "${!kinds[@]}"; do
  image=$dir/disk$i copy=$dir/copy
  [ "$(blocks_of "$image")" = $((400 << 20)) ] || fail "${kinds[i]}: not grown"
  python3 "$FSSNAP_SOURCE/tests/fs/lose-free.py" --type=ext4 "$image" "$copy" \
    >"$dir/lost"
  [ "$(head -n 1 "$dir/lost")" = "$(free_of "$image")" ] ||
    fail "${kinds[i]}: $(cat "$dir/lost"), dumpe2fs says $(free_of "$image")"
  e2fsck -fn "$copy" >"$dir/fsck" 2>&1 ||
    fail "${kinds[i]}: without its free space: $(cat "$dir/fsck")"
  files_of "$image" "$dir/files"
  files_of "$copy" "$dir/files-copy"
  [ "$(find "$dir/files" -type f | wc -l)" -ge 100 ] ||
    fail "${kinds[i]}: the files are not there"
  diff -r "$dir/files" "$dir/files-copy" || fail "${kinds[i]}: files changed"
  rm -rf "$dir/files" "$dir/files-copy" "$image" "$copy"
done
