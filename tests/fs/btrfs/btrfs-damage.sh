#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# A btrfs that is damaged or not understood is kept, and why is said.
set -eu
# shellcheck source=tests/fs/btrfs/functions.sh
. "$(dirname "$0")/functions.sh"

# refused WORDS: nothing is free, because of that.
refused() {
    local said
    said=$("$LOSE_FREE" --type=btrfs "$IMAGE")
    if [ "${said%%$'\n'*}" != 0 ] || [[ $said != *"$1"* ]]; then
        fail "not \"$1\" but: $said"
    fi
}

# poke OFFSET FORMAT VALUE: change what is BLOCK bytes at AT, and mend its
# checksum.
poke() {
    python3 - "$IMAGE" "$AT" "$BLOCK" "$@" <<'END'
import struct
import sys

table = list(range(256))
for _ in range(8):
    table = [crc >> 1 ^ (0x82f63b78 if crc & 1 else 0) for crc in table]

def crc32c(data):
    crc = 0xffffffff
    for byte in data:
        crc = crc >> 8 ^ table[crc & 255 ^ byte]
    return crc ^ 0xffffffff

at, size, offset = map(int, sys.argv[2:5])
with open(sys.argv[1], "r+b") as f:
    f.seek(at)
    block = bytearray(f.read(size))
    struct.pack_into("<" + sys.argv[5], block, offset, int(sys.argv[6], 0))
    struct.pack_into("<I", block, 0, crc32c(block[32:]))
    f.seek(at)
    f.write(block)
END
}

# item TREE TYPE: of the last item of that type in that tree's root leaf, the
# object, the offset, and where in the block its key and its data are.
item() {
    btrfs inspect-internal dump-tree -t "$1" "$IMAGE" |
        awk -v type="$2" '
            $1 == "item" && $5 == type {
                gsub("[()]", "")
                found = $4 " " $6 " " 101 + 25 * $2 " " 101 + $8
            }
            END { print found }'
}

# super OFFSET FORMAT VALUE WORDS: a superblock so changed is refused.
super() {
    cp --sparse=always "$DIR/good" "$IMAGE"
    AT=65536 BLOCK=4096 poke "$1" "$2" "$3"
    refused "$4"
}

# tree NAME OFFSET FORMAT VALUE WORDS: the root block of that tree.
tree() {
    local logical
    cp --sparse=always "$DIR/good" "$IMAGE"
    logical=$(btrfs inspect-internal dump-tree -t "$1" "$IMAGE" |
        awk '$1 == "leaf" || $1 == "node" { print $2; exit }')
    AT=$(btrfs-map-logical -l "$logical" "$IMAGE" |
        awk '$1 == "mirror" && $2 == 1 { print $6 }')
    BLOCK=16384 poke "$2" "$3" "$4"
    refused "$5"
}

make 200M -m dup
cp --sparse=always "$IMAGE" "$DIR/good"

super $((0x40)) B 0 "no superblock"
super $((0x30)) Q 1 "sizes are impossible"
super $((0x38)) Q 0x100000001 "a seed"
super $((0x38)) Q 5 "marked as damaged"
super $((0x48)) Q 1 "another transaction"
super $((0x60)) Q 65536 "the log needs to be replayed"
super $((0x78)) Q 4096 "the superblock says 4096"
super $((0x88)) Q 2 "on 2 devices"
super $((0x94)) I 12345 "sizes are impossible"
super $((0xa0)) I 4096 "too many"
super $((0xa0)) I 90 "too short"
super $((0xb4)) Q 0x13 "not known (0x10"
super $((0xbc)) Q 0x1341 "not known (0x1000"
super $((0xc4)) H 1 "not crc32c"
super $((0xc6)) B 9 "too many levels"
super $((0xc9)) Q 7 "on another device"
super $((0xd1)) Q 419430400 "there are only 209715200"
super $((0xd9)) Q 4096 "disagree on the device"

# A header's fields, and the first key's, of each tree.
for name in root chunk dev extent 10; do
    tree "$name" 32 Q 0 "another file system"
    tree "$name" 48 Q 4096 "another one"
    tree "$name" 64 Q 0 "another chunk tree"
    tree "$name" 80 Q 1 "another transaction"
    tree "$name" 88 Q 99 "another tree's"
    tree "$name" 96 I 0xffffffff "too many items"
    tree "$name" 96 I 0 ""
    tree "$name" 100 B 1 "another level"
    tree "$name" 101 Q 0xffffffffffffffff "out of order"
    tree "$name" 118 I 99 "overlap"
done

# The free space tree, by itself.
cp --sparse=always "$DIR/good" "$IMAGE"
read -r begin length key data <<<"$(item 10 FREE_SPACE_INFO)"
tree 10 "$data" I 99 "but says 99"
tree 10 $((data + 4)) I 1 "is impossible"
tree 10 $((data + 4)) I 2 "not known (0x2"
tree 10 "$key" Q $((begin + 4096)) "lacks block group $begin"
tree 10 $((key + 8)) B 197 "an item of type 197"
tree 10 $((key + 9)) Q $((length + 4096)) "lacks block group $begin"
cp --sparse=always "$DIR/good" "$IMAGE"
read -r _ length key _ <<<"$(item 10 FREE_SPACE_EXTENT)"
tree 10 $((key + 9)) Q $((length - 4096)) "disagree on block group"
tree 10 $((key + 9)) Q $((length + 4096)) "is impossible"
tree 10 $((key + 9)) Q $((length - 1)) "is impossible"

# An extent that has moved within its block group: all counts are as before.
# Without a free space tree that is valid nobody can tell.
for name in a b c; do head -c 300000 /dev/urandom >"$DIR/seed/$name"; done
make 200M -m dup -r "$DIR/seed"
cp --sparse=always "$IMAGE" "$DIR/good"
read -r begin length key _ <<<"$(item extent EXTENT_ITEM)"
tree extent "$key" Q $((begin + 4096)) "disagree on block group"
cp --sparse=always "$DIR/good" "$IMAGE"
AT=65536 BLOCK=4096 poke $((0xb4)) Q 1
said=$("$LOSE_FREE" --type=btrfs "$IMAGE")
[ "${said%%$'\n'*}" = "$(expected "$DIR/good")" ] || fail "not valid: $said"

cp "$DIR/good" "$IMAGE"
printf x | dd of="$IMAGE" bs=1 seek=$((65536 + 300)) conv=notrunc status=none
refused "superblock's checksum is wrong"
truncate -s 150M "$DIR/good"
cp "$DIR/good" "$IMAGE"
refused "there are only"

for kind in xxhash sha256 blake2; do
    make 200M --csum "$kind"
    refused "not crc32c"
done

if can_mount; then
    # Two devices, then striped over one.
    truncate -s 300M "$DIR/one" "$DIR/two"
    one=$(losetup -f --show "$DIR/one")
    two=$(losetup -f --show "$DIR/two")
    mkfs.btrfs -q -f -d raid1 -m raid1 "$one" "$two" >/dev/null || true
    losetup -d "$one" "$two"
    IMAGE=$DIR/one refused "on 2 devices"
    rm -f "$DIR/one" "$DIR/two"
    make 1G
    mount -o loop "$IMAGE" "$DIR/mnt"
    if btrfs balance start -f -dconvert=raid0 "$DIR/mnt" >/dev/null 2>&1; then
        umount "$DIR/mnt"
        refused "neither single nor dup"
    else
        umount "$DIR/mnt"
    fi

    # While it is mounted: with a log, and frozen, without one.
    make 300M
    mount -o loop,commit=300 "$IMAGE" "$DIR/mnt"
    head -c 1M /dev/urandom >"$DIR/mnt/a"
    sync -f "$DIR/mnt"
    head -c 1M /dev/urandom >"$DIR/mnt/b"
    sync "$DIR/mnt/b"
    refused "the log needs to be replayed"
    fsfreeze -f "$DIR/mnt"
    said=$("$LOSE_FREE" "$IMAGE" "$COPY")
    want=$(expected "$IMAGE")
    fsfreeze -u "$DIR/mnt"
    umount "$DIR/mnt"
    [ "${said%%$'\n'*}" = "$want" ] || fail "frozen: $want, but: $said"
    btrfs check --check-data-csum "$COPY" >/dev/null 2>&1 ||
        fail "frozen: the copy is damaged"
fi

# What is changed is noticed, by its checksum or else by what it says.
make 130M --mixed -n 4k -r "$DIR/seed"
"$FUZZ" btrfs "$IMAGE" 1500
"$FUZZ" --mend btrfs "$IMAGE" 50000
# shellcheck disable=SC2086
make 200M -n 16k -m dup -r "$DIR/seed" $GROUP_TREE
"$FUZZ" btrfs "$IMAGE" 1500
"$FUZZ" --mend btrfs "$IMAGE" 50000
