#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# FAT that is damaged, or in use: each kind is refused, and says why.
set -eu

for tool in mkfs.fat mcopy python3; do
    command -v $tool > /dev/null || exit 77
done
export MTOOLS_SKIP_CHECK=1 MTOOLSRC=/dev/null

dir=$(mktemp -d "${FSSNAP_TEST_DIR:-/dev/shm}/fat.XXXXXX")
trap 'rm -rf "$dir"' EXIT
trap 'exit 129' HUP INT TERM
cd "$dir"

# Image $1 of $2 KiB, by mkfs.fat with the rest.
make()
{
    local image=$1 size=$2
    shift 2
    truncate -s "${size}K" "$image"
    mkfs.fat "$@" "$image" > log 2>&1
    mmd -i "$image" ::/sub ::/sub/deeper
    for n in 1 2 3 4 5; do
        head -c $((n * 9000)) /dev/urandom > file
        mcopy -i "$image" file "::/sub/file $n"
        mcopy -i "$image" file "::/sub/deeper/$n"
    done
    mdel -i "$image" "::/sub/file 3"
}

# Image $1 with the bytes $3 from $2 on is refused with the words $4.
refused()
{
    cp --sparse=always "$1" bad
    printf '%b' "$3" | dd of=bad bs=1 seek=$(($2)) conv=notrunc status=none
    "$LOSE_FREE" --type=vfat bad > out
    grep -q "$4" out || {
        echo "$1: $3 at $2: not \"$4\", but: $(cat out)" >&2
        exit 1
    }
    grep -q '^0$' out
}

make i12 1440 -F 12
make i16 16384 -F 16 -s 4 -R 4
make i32 40000 -F 32 -s 1
make one 16384 -F 16 -s 4 -R 4 -f 1
fat32=$((32 * 512))

refused i16 510 '\0\0' 'no signature'
refused i16 11 '\0\3' 'cannot be'
refused i16 13 '\3' 'cannot be'
refused i16 21 '\1' 'medium'
refused i16 19 '\377\377' 'larger'
refused i16 22 '\1\0' 'too small'
refused i12 0x25 '\1' 'not unmounted'
refused i16 0x25 '\1' 'not unmounted'
refused i32 0x41 '\1' 'not unmounted'
refused i32 0x2a '\1' 'newer version'
refused i32 0x2c '\3' 'backup boot sector differs'
refused i32 512 X 'FSINFO has no signature'
refused i32 $((512 + 488)) '\1\2' 'FSINFO has'
refused i32 0x28 '\201' 'backup'
refused i16 $((4 * 512)) '\360' 'copies of the FAT differ'
refused one $((4 * 512)) '\360' 'begin with the medium'
refused one $((4 * 512 + 3)) '\177' 'not unmounted'
refused one $((4 * 512 + 3)) '\277' 'had errors'
refused one $((4 * 512 + 4)) '\0\0' 'free or bad'
refused one $((4 * 512 + 4)) '\2\0' 'two owners'
refused one $((4 * 512 + 4)) '\377\177' 'does not exist'
refused one $((4 * 512 + 8000)) '\377\377' 'belong to no file'
refused i32 $((fat32 + 7)) '\7' 'copies of the FAT differ'

"$FUZZ" --weak vfat i12 1000
"$FUZZ" --weak vfat i16 1000
"$FUZZ" --weak vfat i32 1000
"$FUZZ" --weak vfat one 1000
