#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# ext2, ext3, ext4 of many kinds, filled and aged: the free space is what
# dumpe2fs says, and losing it does no harm; also when they were grown, shrunk
# and given other features.
set -eu

for tool in mke2fs dumpe2fs e2fsck python3; do
  command -v $tool >/dev/null || exit 77
done
dir=$(mktemp -d "${FSSNAP_TEST_DIR:-/dev/shm}/fs-ext.XXXXXX")
mounted=
leave() {
  if [ -n "$mounted" ]; then
    umount "$mounted" || umount -l "$mounted" || true
  fi
  rm -rf "$dir"
}
trap leave EXIT
trap 'exit 129' HUP INT TERM
image=$dir/image copy=$dir/copy mnt=$dir/mnt
mkdir "$mnt"

# Without root or a loop device mke2fs alone fills them, and nothing ages.
loop=no
truncate -s 4M "$image"
mke2fs -q -F -t ext4 "$image"
if mount -o loop "$image" "$mnt" 2>/dev/null; then
  umount "$mnt"
  loop=yes
fi

# Growing what is mounted takes CAP_SYS_RESOURCE, which is bit 24.
may_grow=$((0x$(sed -n 's/^CapEff:\s*//p' /proc/self/status) >> 24 & 1))

fail() {
  echo "FAILED: $kind, $size: $*"
  exit 1
}

attach() { # IMAGE [OPTION]
  mount -o "loop${2:+,$2}" "$1" "$mnt" || return 1
  mounted=$mnt
}

detach() {
  umount "$mnt"
  mounted=
}

sums() { # DIRECTORY
  (cd "$1" && find . -path ./lost+found -prune -o -type f -print0 | sort -z |
    xargs -0r sha1sum)
}

write_files() { # DIRECTORY NAME COUNT KIB
  for i in $(seq "$3"); do
    mkdir -p "$1/$2$((i % 7))/d"
    head -c $((RANDOM * $4 / 32 + RANDOM % 1024)) /dev/urandom \
      >"$1/$2$((i % 7))/d/$i" || return 0
  done
}

# About half of it used.  KIB: of the image.
fill() { # DIRECTORY KIB
  write_files "$1" a 40 $(($2 / 100))
  truncate -s 100M "$1/sparse"
  echo end | dd of="$1/sparse" bs=1k seek=4321 conv=notrunc status=none
  ln -s a1/d/1 "$1/link"
  ln -s "$(printf 'x%.0s' {1..200})" "$1/long-link"
}

age() {
  local i
  for i in $(seq 1 2 40); do
    rm -f "$mnt/a$((i % 7))/d/$i"
  done
  write_files "$mnt" b 60 $(($1 / 1000 + 1))
  for i in $(seq 1 3 60); do
    rm -f "$mnt/b$((i % 7))/d/$i"
  done
  # Fragmented: many files grow in turn.
  for i in 1 2 3 4 5 6; do
    for f in 1 2 3 4; do
      head -c 5000 /dev/urandom >>"$mnt/grow$f"
    done
    sync -f "$mnt"
  done
}

free_of() {
  dumpe2fs -h "$1" 2>/dev/null |
    awk '/^Free blocks:/ { f = $3 } /^Block size:/ { printf "%.0f\n", f * $3 }'
}

compare() {
  local out
  out=$(python3 "$LOSE_FREE" --type=ext4 "$image")
  [ "$(head -1 <<<"$out")" = "$(free_of "$image")" ] ||
    fail "free space: $out, but dumpe2fs says $(free_of "$image")"
}

# Whether what is made of FILE, twice as large, is good.
grows() { # FILE
  cp --sparse=always "$1" "$dir/grown"
  truncate -s $((size * 2))M "$dir/grown"
  # It insists on a check first.
  e2fsck -fy "$dir/grown" >"$dir/resize" 2>&1 &&
    resize2fs "$dir/grown" >"$dir/resize" 2>&1 &&
    e2fsck -fn "$dir/grown" >"$dir/resize" 2>&1
}

lose() { # OPTION...
  python3 "$LOSE_FREE" --type=ext4 "$@" "$image" "$copy" >/dev/null
  e2fsck -fn "$copy" >"$dir/fsck" 2>&1 || {
    cat "$dir/fsck"
    fail "lost free space with $*"
  }
  # resize2fs does not trust itself with bigalloc.
  if [ $# = 0 ] && [[ $kind != *bigalloc* ]] && ! grows "$copy"; then
    cat "$dir/resize"
    # 1.47.0 damages some with sparse_super2, whoever's they are.
    ! grows "$image" || fail "damaged when it was grown"
    echo "resize2fs damages the original, too"
  fi
  rm -f "$dir/grown"
  if [ $mountable = yes ]; then
    attach "$copy"
    sums "$mnt" >"$dir/sums-copy"
    # What is to be freed or written when it is used again.
    cp -r "$mnt/a2" "$mnt/again" 2>/dev/null || true
    detach
    cmp "$dir/sums" "$dir/sums-copy" || fail "files changed with $*"
    e2fsck -fn "$copy" >/dev/null 2>&1 || fail "used again after $*"
  fi
}

make() { # SIZE IN MIB, OPTIONS OF MKE2FS...
  size=$1 kind="${*:2}" mountable=no
  rm -f "$image" "$copy"
  truncate -s "$1M" "$image"
  rm -rf "$dir/tree"
  mkdir "$dir/tree"
  fill "$dir/tree" $(($1 * 1024 / 2))
  mke2fs -q -F "${@:2}" -d "$dir/tree" "$image" >"$dir/mke2fs" 2>&1 || {
    echo "not made: $kind, $size: $(tail -1 "$dir/mke2fs")"
    return 1
  }
  # mke2fs -d does not count what it writes as quota.
  case $kind in
  *quota*) e2fsck -fy "$image" >/dev/null 2>&1 || true ;;
  esac
  sums "$dir/tree" >"$dir/sums"
  compare
  # Not each kernel mounts each kind.
  if [ $loop = yes ] && attach "$image" 2>/dev/null; then
    mountable=yes
    age $(($1 * 1024 / 2))
    sums "$mnt" >"$dir/sums"
    detach
    compare
  fi
}

ok() {
  echo "ok: $kind, $size MiB, mounted: $mountable, $(free_of "$image") free"
}

try() { # SIZE IN MIB, OPTIONS OF MKE2FS...
  make "$@" || return 0
  lose
  lose --zero
  ok
}

change() { # COMMAND... that changes what was made
  kind="$kind; ${*//"$dir/"/}"
  # It is what these tools insist on.
  e2fsck -fy "$image" >"$dir/changed" 2>&1 || fail "a check before"
  "$@" >"$dir/changed" 2>&1 || {
    cat "$dir/changed"
    fail "not done"
  }
  # The kernel need not know the feature.
  mountable=no
  if [ $loop = yes ] && attach "$image" 2>/dev/null; then
    detach
    mountable=yes
  fi
  compare
  lose
  ok
}

# Under the kernel, and used on.
grow_mounted() { # SIZE IN MIB
  if [ $mountable = no ] || [ $may_grow = 0 ]; then
    echo "not grown while mounted: $kind"
    return 0
  fi
  size=$1 kind="$kind; grown to $1 while mounted"
  truncate -s "$1M" "$image"
  attach "$image" || fail "not mounted"
  resize2fs "$(findmnt -no SOURCE "$mnt")" >"$dir/changed" 2>&1 || {
    cat "$dir/changed"
    fail "not grown"
  }
  write_files "$mnt" "grown$1-" 30 100
  rm -rf "$mnt/grown$1-1"
  sums "$mnt" >"$dir/sums"
  detach
  compare
  lose
  ok
}

resize() { # SIZE IN MIB OF THE IMAGE, OPTIONS AND SIZE FOR RESIZE2FS...
  size=$1
  truncate -s "$1M" "$image"
  change resize2fs "${@:3}" "$image" ${2:+"$2"}
}

# Each way there and back.
resized() { # OPTIONS OF MKE2FS...
  make 64 "$@" || return 0
  resize 150 150M
  grow_mounted 512
  resize 512 300M
  grow_mounted 600
  resize 600 "" -M
  resize 600 ""
}

try 24 -t ext2 -b 1024
try 24 -t ext3 -b 4096
try 33 -t ext4 -b 1024
try 24 -t ext4 -b 2048 -O ^64bit,^metadata_csum,uninit_bg
try 150 -t ext4 -b 4096 -g 2048
try 50 -t ext4 -b 1024 -O bigalloc -C 16384
try 100 -t ext4 -b 4096 -O bigalloc -C 65536
try 60 -t ext4 -b 1024 -O meta_bg,^resize_inode,^flex_bg
try 60 -t ext4 -b 1024 -O sparse_super2,mmp
try 40 -t ext4 -b 1024 -O ^sparse_super,^resize_inode,^flex_bg
try 40 -t ext4 -O quota,project,orphan_file,inline_data,ea_inode,fast_commit

resized -t ext4
resized -t ext4 -b 1024 -O ^flex_bg
resized -t ext4 -b 1024 -O ^resize_inode
resized -t ext4 -b 1024 -O meta_bg,^resize_inode
resized -t ext3 -b 1024
# Not shrunk: resize2fs 1.47.0 then makes a wrong bitmap of it when it grows.
make 64 -t ext4 -b 1024 -O sparse_super2
resize 150 150M

make 40 -t ext4 -b 1024 -O ^64bit,^metadata_csum,uninit_bg
change tune2fs -O metadata_csum "$image"
change resize2fs -b "$image"
change tune2fs -O quota "$image"
change tune2fs -O ^has_journal "$image"
change tune2fs -j "$image"
change tune2fs -O metadata_csum_seed "$image"
change tune2fs -U random "$image"
change resize2fs -s "$image"
change tune2fs -O ^metadata_csum "$image"
change tune2fs -O ^quota "$image"

if [ -n "${FSSNAP_LONG:-}" ]; then
  for mib in 3 10 65 257 700; do
    for block in 1024 2048 4096; do
      for type in ext2 ext3 ext4; do
        try $mib -t $type -b $block
      done
      for options in ^has_journal ^64bit ^flex_bg ^extents,^64bit \
        meta_bg,^resize_inode meta_bg,^resize_inode,^sparse_super \
        sparse_super2 ^metadata_csum,^uninit_bg ^metadata_csum,uninit_bg \
        bigalloc bigalloc,^flex_bg bigalloc,meta_bg,^resize_inode \
        metadata_csum_seed,large_dir,casefold,encrypt,verity; do
        try $mib -t ext4 -b $block -O $options
      done
      try $mib -t ext4 -b $block -E packed_meta_blocks=1
      try $mib -t ext4 -b $block -O sparse_super2 -E num_backup_sb=1
      try $mib -t ext4 -b $block -g 256
      try $mib -t ext4 -b $block -E resize=10T
    done
  done
fi
