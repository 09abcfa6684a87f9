#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# ext2, ext3, ext4 that are not to be believed: each is refused, and the reason
# says why.  At the end anything is damaged, a little at a time.
set -eu

for tool in mke2fs debugfs tune2fs python3; do
  command -v $tool >/dev/null || exit 77
done
dir=$(mktemp -d "${FSSNAP_TEST_DIR:-/dev/shm}/fs-ext-damage.XXXXXX")
mounted=''
frozen=''
leave() {
  if [ -n "$frozen" ]; then
    fsfreeze -u "$frozen" || true
  fi
  if [ -n "$mounted" ]; then
    umount "$mounted" || umount -l "$mounted" || true
  fi
  rm -rf "$dir"
}
trap leave EXIT
trap 'exit 129' HUP INT TERM
image=$dir/image mnt=$dir/mnt
mkdir "$mnt" "$dir/tree"
for i in 1 2 3 4 5 6 7 8; do
  head -c $((i * 30000)) /dev/urandom >"$dir/tree/$i"
done

fail() {
  echo "FAILED: $*"
  exit 1
}

make() { # OPTION OF MKE2FS...
  rm -f "$image"
  truncate -s "${size:-20}M" "$image"
  mke2fs -q -F -d "$dir/tree" "$@" "$image"
}

found() {
  python3 "$LOSE_FREE" --type=ext4 "$image"
}

accepted() { # WHAT
  local out
  out=$(found)
  [ "${out%%$'\n'*}" -gt 0 ] || fail "$1: $out"
  echo "accepted: $1"
}

refused() { # WHAT WHY
  local out
  out=$(found)
  grep -q "^ext4 0 .*$2" <<<"$out" || fail "$1: $out"
  echo "refused: $1: $2"
}

change() { # WHAT VALUE
  debugfs -w -R "ssv $1 $2" "$image" 2>/dev/null
}

poke() { # OFFSET BYTES-AS-IN-PRINTF
  printf '%b' "$2" | dd of="$image" bs=1 seek="$1" conv=notrunc status=none
}

byte() { # OFFSET
  od -An -tu1 -j "$1" -N 1 "$image" | tr -d ' '
}

flip() { # OFFSET BIT
  poke "$1" "\\x$(printf %02x $(($(byte "$1") ^ (1 << $2))))"
}

bitmap_of() { # GROUP
  dumpe2fs "$image" 2>/dev/null |
    sed -n "/^Group $1:/,\$s/.*Block bitmap at \([0-9]*\).*/\1/p" | head -1
}

make -t ext4 -b 1024
accepted "as it is"
change state 3
refused "error flag" "marked as damaged"
make -t ext2 -b 1024
change state 0
refused "ext2 in use" "not unmounted cleanly"

make -t ext4 -b 1024
change feature_incompat 0x2c6
refused "recovery" "journal needs recovery"
for feature in incompat:0x80000000 ro_compat:0x80000000 compat:0x80000000 \
  ro_compat:0x80 incompat:0x1 incompat:0x1000; do
  make -t ext2 -b 1024
  change "feature_${feature%:*}" "${feature#*:}"
  refused "feature $feature" "unknown"
done

make -t ext4 -b 1024
flip $((1024 + 0x68)) 3 # a byte of the UUID
refused "superblock" "superblock's checksum"
make -t ext4 -b 1024
flip $((2 * 1024 + 12)) 0
refused "descriptor" "group 0: the descriptor's checksum"
make -t ext4 -b 1024
flip $(($(bitmap_of 1) * 1024 + 700)) 0
refused "bitmap" "group 1: the block bitmap's checksum"
make -t ext3 -b 1024
flip $(($(bitmap_of 1) * 1024 + 1000)) 0
refused "bitmap without checksum" "the descriptor says"
# Group 0's own block bitmap, and instead of it one that is free.
make -t ext3 -b 1024
block=$(bitmap_of 0)
flip $((block * 1024 + (block - 1) / 8)) $(((block - 1) % 8))
flip $((block * 1024 + 1000)) 0
refused "structures called free" "structures free"
size=21 make -t ext3 -b 1024
flip $(($(bitmap_of 2) * 1024 + 1023)) 7
refused "padding" "behind its end"
make -t ext3 -b 1024
change free_blocks_count 1
refused "free blocks" "the superblock says 1 blocks"
make -t ext3 -b 1024
truncate -s 19M "$image"
refused "cut off" "larger than what it is on"
make -t ext3 -b 1024
debugfs -w -R "set_block_group 1 block_bitmap 3" "$image" 2>/dev/null
refused "bitmap elsewhere" "not where it may be"
make -t ext4 -b 1024 -O ^metadata_csum,^uninit_bg
debugfs -w -R "set_block_group 1 inode_bitmap $(bitmap_of 0)" "$image" \
  2>/dev/null
refused "overlap" "overlap"
make -t ext4 -b 1024
journal=$(debugfs -R "blocks <8>" "$image" 2>/dev/null | awk '{ print $1 }')
poke $((journal * 1024 + 31)) '\x01'
refused "journal with a log" "journal is not empty"
make -t ext4 -b 1024
poke $((journal * 1024 + 35)) '\xfb'
refused "aborted journal" "aborted after an error"

size=8 make -t ext4 -O mmp
accepted "MMP"
mmp=$(debugfs -R "dump_mmp" "$image" 2>/dev/null |
  sed -n 's/^block_number: *//p')
poke $((mmp * 1024 + 4)) '\x01\x00\x00\x00'
refused "MMP in use" "MMP block is damaged"
size=8 make -t ext4 -O mmp,^metadata_csum
mmp=$(debugfs -R "dump_mmp" "$image" 2>/dev/null |
  sed -n 's/^block_number: *//p')
poke $((mmp * 1024 + 4)) '\x01\x00\x00\x00'
refused "MMP in use" "in use, says MMP"
poke $((mmp * 1024 + 4)) '\x50\x4d\x4d\xe2'
refused "MMP of fsck" "being checked"

rm -f "$image"
truncate -s 8M "$image"
mke2fs -q -F -O journal_dev "$image"
refused "journal device" "journal of another file system"

try_mounted() { # OPTION OF MKE2FS...
  make "$@"
  mount -o loop "$image" "$mnt" 2>/dev/null || return 0
  mounted=$mnt
  cp "$dir/tree/1" "$mnt/new"
  sync -f "$mnt"
  refused "mounted $*" "$expected"
  # An orphan: freed by the next mount.
  exec 9<"$mnt/8"
  rm "$mnt/8" "$mnt/3"
  fsfreeze -f "$mnt"
  frozen=$mnt
  if [ "$expected" = "journal needs recovery" ]; then
    accepted "frozen $*"
    python3 "$LOSE_FREE" --type=ext4 "$image" "$dir/copy" >/dev/null
  else
    refused "frozen $*" "$expected"
  fi
  fsfreeze -u "$mnt"
  frozen=
  exec 9<&-
  umount "$mnt"
  mounted=
  accepted "unmounted $*"
  [ -e "$dir/copy" ] || return 0
  mount -o loop "$dir/copy" "$mnt"
  mounted=$mnt
  cmp "$mnt/new" "$dir/tree/1" || fail "a file of the copy"
  cmp "$mnt/7" "$dir/tree/7" || fail "a file of the copy"
  umount "$mnt"
  mounted=
  e2fsck -fn "$dir/copy" >/dev/null 2>&1 || fail "the copy after orphans"
  rm "$dir/copy"
}

expected="journal needs recovery"
try_mounted -t ext4 -b 1024
try_mounted -t ext3
try_mounted -t ext4 -O orphan_file
expected="without a journal"
try_mounted -t ext2

# A little of everything.
rounds=${ROUNDS:-2000}
for options in "-b 1024" "-b 1024 -O bigalloc -C 8192" "-b 4096 -O ^64bit" \
  "-b 1024 -O meta_bg,^resize_inode,^flex_bg" "-b 1024 -O mmp"; do
  # shellcheck disable=SC2086 # several
  size=20 make -t ext4 $options
  "$FUZZ" ext4 "$image" "$rounds" || fail "fuzz, $options"
done
for options in "-t ext2 -b 1024" "-t ext3" \
  "-t ext4 -b 1024 -O ^metadata_csum,uninit_bg"; do
  # shellcheck disable=SC2086 # several
  size=20 make $options
  "$FUZZ" --weak ext4 "$image" "$rounds" || fail "fuzz, $options"
done
