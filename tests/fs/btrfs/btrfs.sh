#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Free space of btrfs: as much as btrfs says, and nobody misses it.
set -eu
# shellcheck source=tests/fs/btrfs/functions.sh
. "$(dirname "$0")/functions.sh"

# The image without its free space is checked, mounted and read.
try() {
    local said=$1 kept free zero before=
    for zero in "" --zero; do
        # shellcheck disable=SC2086
        kept=$("$LOSE_FREE" $zero "$IMAGE" "$COPY")
        free=${kept%%$'\n'*}
        [ "$free" = "$(expected "$IMAGE")" ] ||
            fail "$said: $(expected "$IMAGE") free, but: $kept"
        btrfs check --check-data-csum "$COPY" >"$DIR/check" 2>&1 ||
            { cat "$DIR/check"; fail "$said: the copy is damaged"; }
        if can_mount; then
            # Both have one name: not at the same time.
            if [ -z "$before" ]; then
                mount -o loop,ro "$IMAGE" "$DIR/mnt"
                before=$(sums "$DIR/mnt")
                umount "$DIR/mnt"
            fi
            mount -o loop,ro "$COPY" "$DIR/mnt"
            [ "$(sums "$DIR/mnt")" = "$before" ] || fail "$said: files differ"
            umount "$DIR/mnt"
        fi
    done
    rm -f "$COPY"
    echo "$said: $free free"
}

# Files of all kinds, then half of them go, and more come.
age() {
    local i
    for i in $(seq 1 "$1"); do
        head -c $((RANDOM * RANDOM % 300000 + 1)) /dev/urandom >"$2/file$i"
        [ $((i % 15)) != 0 ] || sync -f "$2"
    done
    for i in $(seq 1 2 "$1"); do rm "$2/file$i"; done
    sync -f "$2"
    for i in $(seq 1 3 "$1"); do
        head -c $((RANDOM * 3 + 1)) /dev/urandom >"$2/again$i"
    done
}

seed() {
    mkdir -p "$DIR/seed/a/b"
    age 20 "$DIR/seed/a/b"
    seq 1 100000 >"$DIR/seed/text"
    ln -s text "$DIR/seed/link"
    truncate -s 50M "$DIR/seed/sparse"
}

# What only the kernel makes.
live() {
    local m=$DIR/mnt
    mount -o "loop,$1" "$IMAGE" "$m"
    age 30 "$m"
    btrfs subvolume create "$m/sub" >/dev/null
    age 30 "$m/sub"
    seq 1 200000 >"$m/sub/text"
    btrfs subvolume snapshot "$m/sub" "$m/snap" >/dev/null
    btrfs subvolume snapshot -r "$m/sub" "$m/gone" >/dev/null
    cp --reflink=always "$m/sub/text" "$m/reflink"
    dd if=/dev/urandom of="$m/reflink" bs=4k seek=20 count=5 conv=notrunc \
        status=none
    touch "$m/nocow"
    chattr +C "$m/nocow" 2>/dev/null || true
    fallocate -l 3M "$m/nocow"
    dd if=/dev/urandom of="$m/nocow" bs=64k seek=5 count=3 conv=notrunc \
        status=none
    ln -s sub/text "$m/link"
    truncate -s 40M "$m/sparse"
    sync -f "$m"
    btrfs subvolume delete "$m/gone" >/dev/null
    rm -f "$m"/sub/again*
    umount "$m"
}

# with OPTIONS COMMAND...: while it is mounted.
with() {
    mount -o "loop,$1" "$IMAGE" "$DIR/mnt"
    "${@:2}" >/dev/null
    umount "$DIR/mnt"
}

has_free_tree() {
    btrfs inspect-internal dump-super "$IMAGE" >"$DIR/dump"
    grep -q FREE_SPACE_TREE_VALID "$DIR/dump"
}

# Many small files, of which every other goes.
pieces() {
    python3 - "$1" <<'END'
import os
import sys

for i in range(3000):
    with open(f"{sys.argv[1]}/piece{i}", "wb") as f:
        f.write(os.urandom(4096 + i % 5 * 4096))
os.sync()
for i in range(0, 3000, 2):
    os.unlink(f"{sys.argv[1]}/piece{i}")
END
}

# Files that are in the tree, beside their names.
inline() {
    local i
    for i in $(seq 1 400); do
        head -c $((i * 5)) /dev/urandom >"$1/inline$i"
    done
}

seed
make 200M -d single -m single -r "$DIR/seed"
try "single"
make 300M -d single -m dup -r "$DIR/seed"
try "dup"
btrfstune -f -u "$IMAGE" >/dev/null
btrfstune -f -m "$IMAGE" >/dev/null
try "with other names"
make 120M --mixed -n 4k -r "$DIR/seed"
try "mixed"

if can_mount; then
    make 600M -n 4k -d single -m dup
    live defaults
    try "4k nodes, snapshots"
    # shellcheck disable=SC2086
    make 600M -n 64k -m single $GROUP_TREE
    live compress=zstd
    try "64k nodes,$GROUP_TREE compressed"
    make 300M --mixed -R ^free-space-tree -O ^no-holes,^skinny-metadata
    live space_cache=v1,nodatacow
    try "old features, old cache of free space"
    make 400M -d dup -m dup
    live compress=lzo,autodefrag
    truncate -s 450M "$IMAGE"
    mount -o loop "$IMAGE" "$DIR/mnt"
    btrfs filesystem resize max "$DIR/mnt" >/dev/null
    umount "$DIR/mnt"
    try "data in two copies, grown"

    make 500M -m dup
    live defaults
    with defaults btrfs balance start --full-balance "$DIR/mnt"
    try "balanced"
    with defaults btrfs balance start -dusage=90 -musage=90 "$DIR/mnt"
    try "balanced by usage"
    with defaults btrfs filesystem resize 380m "$DIR/mnt"
    try "shrunk"
    truncate -s 700M "$IMAGE"
    with defaults btrfs filesystem resize max "$DIR/mnt"
    try "shrunk, then grown"

    # So many pieces that the free space tree has bitmaps; runs go on from one
    # to the next.
    make 600M
    with defaults pieces "$DIR/mnt"
    btrfs inspect-internal dump-tree -t 10 "$IMAGE" >"$DIR/dump"
    grep -q FREE_SPACE_BITMAP "$DIR/dump" || fail "no bitmaps"
    try "bitmaps of free space"
    with max_inline=2048 inline "$DIR/mnt"
    btrfs inspect-internal dump-tree -t 5 "$IMAGE" >"$DIR/dump"
    grep -q "inline extent data" "$DIR/dump" || fail "no inline files"
    try "inline files"

    # The old cache becomes the tree; then there is neither.
    make 300M -m dup -R ^free-space-tree
    live space_cache=v1
    with space_cache=v2 age 30 "$DIR/mnt"
    has_free_tree || fail "no free space tree"
    try "the old cache became a tree"
    btrfs check --clear-space-cache v2 "$IMAGE" >/dev/null 2>&1
    with nospace_cache age 10 "$DIR/mnt"
    ! has_free_tree || fail "there is a free space tree"
    try "no cache any more"
fi

if [ -n "${FSSNAP_LONG-}" ]; then
    for nodes in 4k 8k 16k 32k 64k; do
        for metadata in single dup; do
            for features in block-group-tree ^no-holes ^extref mixed-bg; do
                data=single
                [ "$features" != mixed-bg ] || data=$metadata
                make 500M -n "$nodes" -d "$data" -m "$metadata" \
                    -O "$features" 2>/dev/null || continue
                ! can_mount || live defaults
                try "$nodes $metadata $features"
            done
        done
    done
    for round in $(seq 1 10); do
        make 2G -m dup
        mount -o loop "$IMAGE" "$DIR/mnt"
        age 1500 "$DIR/mnt"
        umount "$DIR/mnt"
        try "aged, round $round"
    done
fi
