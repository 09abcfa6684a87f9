#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# exFAT: filled and aged by its FUSE driver, then without its free space.
set -eu

for tool in mkfs.exfat fsck.exfat dump.exfat mount.exfat-fuse losetup; do
    command -v $tool > /dev/null || exit 77
done
[ "$(id -u)" = 0 ] && [ -e /dev/fuse ] && losetup -f > /dev/null 2>&1 || exit 77

dir=$(mktemp -d "${FSSNAP_TEST_DIR:-/dev/shm}/exfat.XXXXXX")
loop=
down()
{
    mountpoint -q "$dir/m" && umount "$dir/m"
    [ -z "$loop" ] || losetup -d "$loop"
    loop=
}
trap 'down || true; rm -rf "$dir"' EXIT
trap 'exit 129' HUP INT TERM
cd "$dir"
mkdir m

fail()
{
    echo "$what: $*" >&2
    exit 1
}

up()
{
    loop=$(losetup -f --show "$1")
    mount.exfat-fuse "$loop" m > log 2>&1 || fail "$(cat log)"
}

sums()
{
    (cd m && find . -type f -exec sha256sum {} + | sort -k 2)
}

# Fill what is mounted with about $1 bytes, remove half, write some again.
age()
{
    mkdir -p m/a/b/c
    for n in $(seq 40); do
        head -c $(($1 * n / 820)) /dev/urandom > "m/a/file $n"
    done
    rm m/a/*[02468]
    for n in $(seq 15); do
        head -c $(($1 * n / 300)) /dev/urandom > "m/a/b/a longer name $n"
        : > "m/a/b/c/empty $n"
    done
    cat m/a/file* > m/all || true # a fragmented one
    rm -r m/a/b/c
}

# Image i, of $1 MiB, by mkfs.exfat with the rest, filled with $2 bytes.
try()
{
    local size=$1 bytes=$2
    shift 2
    what="mkfs.exfat $* of $size MiB"
    rm -f i copy
    truncate -s "${size}M" i
    mkfs.exfat "$@" i > log 2>&1 || fail "$(cat log)"
    up i
    age "$bytes"
    sums > want
    down
    fsck.exfat -n i > log 2>&1 || fail "$(cat log)"
    expected=$(dump.exfat i | awk -F: '/^Cluster size/ { size = $2 }
                                       /^Free Clusters/ { printf "%.0f\n", $2 * size }')
    for option in "" --zero; do
        [ -n "$option" ] || [ "$size" -lt 1000 ] || continue
        "$LOSE_FREE" ${option:+"$option"} i copy > out
        read -r free < out
        [ "$free" = "$expected" ] ||
            fail "$free bytes free, not $expected: $(cat out)"
        fsck.exfat -n copy > log 2>&1 || fail "$(cat log)"
        up copy
        sums > got
        down
        cmp want got || fail "files of the copy differ"
    done
}

try 16 4000000
try 8 2000000 -c 512
try 40 8000000 -c 32K
if [ -n "${FSSNAP_LONG-}" ]; then
    try 102400 60000000
    for cluster in 1K 4K 8K 64K 128K 4M; do
        try 500 200000000 -c $cluster
    done
fi
