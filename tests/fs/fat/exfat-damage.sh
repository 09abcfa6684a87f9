#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# exFAT that is damaged, or in use: each kind is refused, and says why.
set -eu

for tool in mkfs.exfat dump.exfat python3; do
    command -v $tool > /dev/null || exit 77
done

dir=$(mktemp -d "${FSSNAP_TEST_DIR:-/dev/shm}/exfat.XXXXXX")
trap 'rm -rf "$dir"' EXIT
trap 'exit 129' HUP INT TERM
cd "$dir"
truncate -s 16M i
mkfs.exfat -c 4K i > log

# The image with the bytes $2 from $1 on is refused with the words $3.
refused()
{
    cp --sparse=always i bad
    printf '%b' "$2" | dd of=bad bs=1 seek=$(($1)) conv=notrunc status=none
    "$LOSE_FREE" --type=exfat bad > out
    grep -q "$3" out || {
        echo "$2 at $1: not \"$3\", but: $(cat out)" >&2
        exit 1
    }
    [ "$(head -n 1 out)" = 0 ]
}

number()
{
    dump.exfat i | sed -n "s/^$1[^:]*:[^0-9]*\([0-9]*\)$/\1/p"
}

heap=$(($(number 'Cluster Heap Offset') * 512))
bitmap=$((heap + ($(number 'Bitmap start cluster') - 2) * 4096))
upcase=$((heap + ($(number 'Upcase table start') - 2) * 4096))
root=$((heap + ($(number 'Root Cluster') - 2) * 4096))

refused 3 X 'not exFAT'
refused 105 '\2' 'revision'
refused 106 '\1' 'TexFAT'
refused 110 '\2' 'TexFAT'
refused 106 '\2' 'not unmounted'
refused 106 '\4' 'failing medium'
refused 112 '\145' 'percent'
refused 100 XXX 'differs\|checksum'
refused 600 X 'boot region has a wrong checksum'
refused $((12 * 512 + 100)) XXX 'backup boot region differs'
refused 72 '\377\377\377' 'larger'
refused $bitmap '\0' 'marked as free'
refused $((bitmap + 20)) '\1' 'no owner'
refused $((upcase + 9)) X 'up-case'
refused $root '\0' 'has no'

"$FUZZ" exfat i 2000
