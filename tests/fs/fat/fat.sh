#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# FAT of all kinds: filled and aged by mtools, then without its free space.
set -eu

for tool in mkfs.fat fsck.fat mcopy mdel minfo python3; do
    command -v $tool > /dev/null || exit 77
done
export MTOOLS_SKIP_CHECK=1 MTOOLSRC=/dev/null LC_ALL=C

dir=$(mktemp -d "${FSSNAP_TEST_DIR:-/dev/shm}/fat.XXXXXX")
trap 'rm -rf "$dir"' EXIT
trap 'exit 129' HUP INT TERM
cd "$dir"

fail()
{
    echo "$what: $*" >&2
    exit 1
}

# Files of many sizes, of at most $1 bytes in all, in "tree".
make_tree()
{
    python3 - "$1" << 'END'
import os, random, sys
left, number = int(sys.argv[1]), 0
random.seed(left)
while left > 0 and number < 60:
    size = min(left, random.choice([0, 1, 511, 512, 5000, 70000, left // 9]))
    name = f"tree/{'a directory/' * (number % 3)}file {number} of {size}"
    os.makedirs(os.path.dirname(name), exist_ok=True)
    with open(name, "wb") as f:
        f.write(random.randbytes(size))
    left, number = left - size, number + 1
END
}

# Fill image i, remove half, and write some again; the reference is "want".
age()
{
    rm -rf tree want
    mkdir tree
    make_tree "$1"
    mcopy -i i -s tree ::/one
    find tree -type f -name '*[02468] of *' | while read -r name; do
        mdel -i i "::/one${name#tree}"
        rm "$name"
    done
    mcopy -i i -s tree ::/two
    mkdir want
    cp -r tree want/one
    cp -r tree want/two
}

same()
{
    rm -rf got
    mkdir got
    mcopy -i "$1" -s -n ::/one ::/two got/ || fail "$1 cannot be read"
    diff -r want got > /dev/null || fail "files of $1 differ"
}

# Bytes in clusters of image i that have the value 0, counted without fssnap.
free_by_fsck()
{
    fsck.fat -n -v i > log || fail "fsck.fat: $(cat log)"
    sed -n 's/^i: .* files, \([0-9]*\)\/\([0-9]*\) clusters$/\1 \2/p' log |
        awk -v size="$(sed -n 's/^ *\([0-9]*\) bytes per cluster$/\1/p' log)" \
            '{ printf "%.0f\n", ($2 - $1) * size }'
}

# Image i, of $1 KiB, by mkfs.fat with the rest, filled with $2 bytes.
try()
{
    local size=$1 bytes=$2
    shift 2
    what="mkfs.fat $* of $size KiB"
    rm -f i copy
    truncate -s "${size}K" i
    mkfs.fat "$@" i > log 2>&1 || fail "$(cat log)"
    age "$bytes"
    same i
    for option in "" --zero; do
        # The largest one is sparse, and is to remain so.
        [ -n "$option" ] || [ "$size" -lt 1000000 ] || continue
        "$LOSE_FREE" --type=vfat ${option:+"$option"} i copy > out
        read -r free < out
        [ "$free" = "$(free_by_fsck)" ] ||
            fail "$free bytes free, not $(free_by_fsck): $(cat out)"
        fsck.fat -n copy > log || fail "fsck.fat: $(cat log)"
        same copy
    done
}

try 1440 700000 -F 12
try 160 60000 -F 12 -f 1 -r 64
try 8192 4000000 -F 12 -s 8
try 16384 9000000 -F 16 -s 1
try 16384 9000000 -F 16 -S 4096 -s 1
try 60000 20000000 -F 16 -s 16
try 40000 20000000 -F 32 -s 1
try 70000 8000000 -F 32 -s 1 -b 9
try 67108864 20000000 -F 32 -s 64
if [ -n "${FSSNAP_LONG-}" ]; then
    for size in 200 1001 4085 33333 65525 70001; do
        for options in "-S 512" "-S 1024 -s 2" "-S 2048 -f 1" "-a -R 40"; do
            # shellcheck disable=SC2086
            try $size $((size * 300)) $options
        done
    done
fi
