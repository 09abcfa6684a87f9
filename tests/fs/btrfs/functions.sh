# SPDX-License-Identifier: BSD-3-Clause
# shellcheck shell=bash disable=SC2034
# What the tests of btrfs share: a directory that goes away, a mount, and what
# btrfs itself says of free space.

for tool in mkfs.btrfs btrfs losetup mount; do
    command -v "$tool" >/dev/null || { echo "no $tool"; exit 77; }
done

DIR=$(mktemp -d "${FSSNAP_TEST_DIR:-/dev/shm}/fssnap-btrfs.XXXXXX")
MOUNTS=()
clean_up() {
    local m
    for m in "${MOUNTS[@]}"; do
        umount "$m" 2>/dev/null || true
    done
    losetup -n -O NAME,BACK-FILE 2>/dev/null |
        awk -v dir="$DIR/" 'index($2, dir) == 1 { print $1 }' |
        xargs -r losetup -d 2>/dev/null || true
    rm -rf "$DIR"
}
trap clean_up EXIT
trap 'exit 129' HUP INT TERM
mkdir "$DIR/mnt" "$DIR/seed"
MOUNTS=("$DIR/mnt")
IMAGE=$DIR/image
COPY=$DIR/copy

can_mount() {
    [ "$(id -u)" = 0 ] && grep -qw btrfs /proc/filesystems
}

# make SIZE OPTION...
make() {
    rm -f "$IMAGE"
    truncate -s "$1" "$IMAGE"
    mkfs.btrfs -q "${@:2}" "$IMAGE" >/dev/null
}

# Older tools cannot make one.
GROUP_TREE=
truncate -s 200M "$IMAGE"
if mkfs.btrfs -q -O block-group-tree "$IMAGE" >/dev/null 2>&1; then
    GROUP_TREE=" -O block-group-tree"
fi

# What must be free: the device, without each copy of what block groups use,
# the front and the superblock's mirrors.
expected() {
    local size
    size=$(btrfs inspect-internal dump-super "$1" |
        awk '$1 == "dev_item.total_bytes" { print $2 }')
    { btrfs inspect-internal dump-tree -t extent "$1"
      btrfs inspect-internal dump-tree -t 11 "$1" 2>/dev/null || true; } |
        awk -v size="$size" '
            $1 == "block" && $2 == "group" && $3 == "used" {
                size -= $4 * ($0 ~ /DUP/ ? 2 : 1)
            }
            END {
                n = size; size -= 1048576
                if (total > 67108864) size -= 65536
                if (total > 274877906944) size -= 65536
                printf "%.0f\n", size
            }' total="$size" /dev/stdin
}

# What is in all files, and their names.
sums() {
    (cd "$1" && { find . -type f -print0 | sort -z | xargs -0r sha256sum
                  find . -printf '%p %y %s %l\n' | sort; } | sha256sum)
}

fail() {
    echo "$*"
    exit 1
}
