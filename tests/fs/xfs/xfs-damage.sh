#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# What is damaged, unknown or in the middle of something is refused.
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/common.sh"
here=$(dirname "$0")
rounds=500

# changes_at WHY OFFSET SIZE CRC-AT AT HEX...: with the right checksum.
changes_at ()
{
    what="at $2: ${*:5}"
    cp --sparse=always "$dir/image" "$dir/copy"
    "$here/patch.py" "$dir/copy" "${@:2}"
    refused "$dir/copy" "$1"
}

# changes WHY AT HEX...: in the superblock.
changes ()
{
    changes_at "$1" 0 512 224 "${@:2}"
}

# breaks WHY OFFSET: a byte there becomes another.
breaks ()
{
    what="byte $2"
    cp --sparse=always "$dir/image" "$dir/copy"
    printf '\xa7' | dd of="$dir/copy" bs=1 seek="$2" conv=notrunc status=none
    refused "$dir/copy" "$1"
}

what="a mounted one"
make "$dir/image" 320M -b size=1024 -m rmapbt=1 || skip "mkfs.xfs fails"
if mount -o loop "$dir/image" "$dir/mnt"; then
    "$here/fill.py" "$dir/mnt" 150
    sync -f "$dir/mnt"
    cp --sparse=always "$dir/image" "$dir/copy"
    refused "$dir/copy" "the log needs recovery"
    # Its other refusals come after that of the log.
    umount "$dir/mnt"
fi
free_of "$dir/image"

changes "not made completely" 126 01
changes "unknown features" 212 40000005
changes "unknown features" 216 0000020b
changes "unknown features" 100 b6a5
changes "needs xfs_repair" 216 0000001b
changes "it is of version 3" 100 b4a3
changes "it is larger" 8 0000000000060000 84 00018000
changes "blocks of 3000" 4 00000bb8
changes "log is out of bounds" 96 7fffffff
changes "superblock counts" 144 00000000000003e8

group=$((80 << 20))
agf=$((group + 512))
changes_at "AGF count free blocks" $agf 512 216 52 000003e8
changes_at "longest free extent" $agf 512 216 56 00000007
changes_at "AGFL's bounds" $agf 512 216 48 00000001
changes_at "its AGF is another's" $agf 512 216 8 00000002
changes_at "another number of blocks" $agf 512 216 60 00000077
changes_at "levels" $agf 512 216 28 0000000a
changes_at "its AGI is none" $((group + 1024)) 512 312 4 00000002
# The free list has a block that is in use.
root=$(field "$dir/image" "agf 1" cntroot)
first=$(field "$dir/image" "agf 1" flfirst)
changes_at "used for two things" $((group + 1536)) 512 32 \
           $((36 + 4 * first)) "$(printf %08x "$root")"
tree=$((group + $(field "$dir/image" "agf 1" bnoroot) * 1024))
changes_at "not in its parent" $tree 1024 52 12 00000009
changes_at "another level" $tree 1024 52 4 0005
changes_at "belongs elsewhere" $tree 1024 52 51 07
changes_at "its key\|differ\|not in order" $tree 1024 52 56 0000ffff

breaks "superblock's checksum" 300
breaks "AGF's checksum" $((512 + 300))
breaks "AGI's checksum" $((1024 + 400))
breaks "AGFL is not" $((1536 + 100))
breaks "wrong checksum" $((tree + 900))

what="interior nodes"
cp --sparse=always "$dir/image" "$dir/flat"
make "$dir/image" 320M -b size=1024 -d agcount=2 || fail "mkfs"
if mount -o loop "$dir/image" "$dir/mnt"; then
    "$here/log.py" fragment "$dir/mnt" 28000
    umount "$dir/mnt"
    free_of "$dir/image"
    for which in bno cnt; do
        [ "$(field "$dir/image" "agf 0" ${which}level)" = 3 ] \
            || fail "${which}level is not 3"
        root=$(($(field "$dir/image" "agf 0" ${which}root) * 1024))
        # The second key, its block (the first, or none), the number of keys, the level.
        changes_at "does not begin with its key" $root 1024 52 64 00000007
        first=$(od -An -tx1 -j $((root + 696)) -N 4 "$dir/image" | tr -d ' ')
        changes_at "wrong neighbours" $root 1024 52 700 "$first"
        changes_at "out of bounds" $root 1024 52 700 7fffffff
        changes_at "number of keys" $root 1024 52 6 0051
        changes_at "is not in its parent" $root 1024 52 6 0001
        changes_at "of another level" $root 1024 52 4 0001
    done
    what="fuzz, interior nodes"
    "$FUZZ" xfs "$dir/image" "$rounds"
fi
mv "$dir/flat" "$dir/image"

what="a truncated one"
cp --sparse=always "$dir/image" "$dir/copy"
truncate -s 319M "$dir/copy"
refused "$dir/copy" "it is larger"

what="an external log"
truncate -s 64M "$dir/log"
make "$dir/copy" 320M -l logdev="$dir/log" || fail "mkfs"
refused "$dir/copy" "another device"

what="fuzz, version 5"
"$FUZZ" xfs "$dir/image" "$rounds"
what="fuzz, version 4"
if make "$dir/image" 320M -m crc=0 -b size=1024 2>/dev/null; then
    # Without checksums: two btrees that agree must do.
    "$FUZZ" xfs "$dir/image" "$rounds"
fi
