#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Free space of XFS is lost, and nothing else: what is left is clean, and all
# files are what they were.  Frozen, too.
# shellcheck source-path=SCRIPTDIR
. "$(dirname "$0")/common.sh"
here=$(dirname "$0")
files=300
[ -z "${FSSNAP_LONG:-}" ] || files=6000

sums ()
{
    (cd "$dir/mnt" && find . -type f -exec sha256sum {} + | sort
     find . -printf '%y %p %l %s %m\n' | sort)
}

# What xfs_db counts in the btree, which is without the AGFL's blocks.
compare_counts ()
{
    local image=$1 block counted dblocks fdblocks ag
    block=$(field "$image" "sb 0" blocksize)
    dblocks=$(field "$image" "sb 0" dblocks)
    fdblocks=$(field "$image" "sb 0" fdblocks)
    counted=$(xfs_db -r -c "freesp -s" "$image" 2>/dev/null \
                  | sed -n 's/total free blocks //p')
    for ag in $(seq 0 $(($(field "$image" "sb 0" agcount) - 1))); do
        counted=$((counted - $(field "$image" "agf $ag" flcount)))
    done
    [ $((counted * block)) = "$free" ] \
        || fail "$free bytes are free, but xfs_db says $((counted * block))"
    [ $(((dblocks * block - free) * 100)) \
          -le $(((dblocks - fdblocks) * block * 105)) ] \
        || fail "too much is kept: $free, $dblocks, $fdblocks"
}

# lose IMAGE [--zero]; the files must be as in $dir/sums.
lose ()
{
    free_of "${@:2}" "$1" "$dir/copy"
    compare_counts "$1"
    if [ -z "$frozen_image" ]; then
        xfs_repair -n "$dir/copy" >"$dir/repair" 2>&1 \
            || fail "xfs_repair: $(cat "$dir/repair")"
    fi
    "$mountable" || return 0
    mount -o loop,ro,norecovery,nouuid "$dir/copy" "$dir/mnt"
    sums >"$dir/sums.copy"
    umount "$dir/mnt"
    cmp "$dir/sums" "$dir/sums.copy" || fail "files have changed"
}

# A frozen one is mounted as it is, which replays its log; then it is checked.
replay ()
{
    mount -o loop,nouuid "$dir/copy" "$dir/mnt"
    sums >"$dir/sums.copy"
    umount "$dir/mnt"
    cmp "$dir/sums" "$dir/sums.copy" || fail "files have changed by replaying"
    xfs_repair -n "$dir/copy" >"$dir/repair" 2>&1 \
        || fail "xfs_repair after replaying: $(cat "$dir/repair")"
}

freeze ()
{
    fsfreeze -f "$dir/mnt"
    frozen=yes
    cp --sparse=always "$dir/image" "$dir/frozen"
    sums >"$dir/sums"
    fsfreeze -u "$dir/mnt"
    frozen=
}

# Thousands of free extents of one block: the btrees have interior nodes.
fragment ()
{
    "$here/log.py" fragment "$dir/mnt" 28000
    sync -f "$dir/mnt"
}

check_fragmented ()
{
    local root
    for root in bnolevel cntlevel; do
        [ "$(field "$dir/image" "agf 0" $root)" -ge 3 ] \
            || fail "$root is $(field "$dir/image" "agf 0" $root)"
    done
}

log_place ()
{
    local start
    start=$(field "$dir/image" "sb 0" logstart)
    xfs_db -r -c "convert fsblock $start byte" "$dir/image" \
        | sed 's/.*(\(.*\)).*/\1/'
    echo $(($(field "$dir/image" "sb 0" logblocks) \
                * $(field "$dir/image" "sb 0" blocksize)))
}

# Go round in the log, and then on in small steps to its end: one of the frozen
# ones has records on both sides of it.
wrap ()
{
    local place cycle head blocks steps=0 chunk=64
    read -r -d '' -a place < <(log_place) || :
    blocks=$((place[1] / 512))
    "$here/log.py" churn "$dir/mnt" 3000 "$dir/image" "${place[@]}"
    while [ $((steps += 1)) -le 400 ]; do
        fsfreeze -f "$dir/mnt"
        frozen=yes
        free_of "$dir/image"
        read -r cycle head < <("$here/log.py" head "$dir/image" "${place[@]}")
        fsfreeze -u "$dir/mnt"
        frozen=
        [ "$head" -ge "$chunk" ] || break
    done
    [ "$cycle" -ge 3 ] || fail "the log has not gone round: $cycle"
    echo "cycle $cycle, head $head of $blocks after $steps times"
}

grow ()
{
    truncate -s 700M "$dir/image"
    losetup -c "$(findmnt -no SOURCE "$dir/mnt")"
    xfs_growfs "$dir/mnt" >/dev/null || fail "xfs_growfs"
    mkdir "$dir/mnt/grown"
    "$here/fill.py" "$dir/mnt/grown" "$files" 2
}

check_grown ()
{
    [ "$(field "$dir/image" "sb 0" dblocks)" = $((700 << 8)) ] \
        || fail "it has not grown"
}

# $meanwhile is done to it while it is mounted, then $check
meanwhile=:
check=:
try ()
{
    what=$*
    mountable=true
    frozen_image=
    if ! make "$dir/image" "$@"; then
        echo "mkfs.xfs cannot: $* ($(head -n 1 "$dir/mkfs.err"))"
        return 0
    fi
    if ! mount -o loop "$dir/image" "$dir/mnt" 2>/dev/null; then
        mountable=false
        echo "the kernel cannot mount: $*"
        lose "$dir/image"
        return 0
    fi
    "$here/fill.py" "$dir/mnt" "$files"
    "$meanwhile"
    exec 9>"$dir/mnt/open"
    head -c 100000 /dev/urandom >&9
    rm "$dir/mnt/open"
    freeze
    exec 9>&-
    umount "$dir/mnt"
    "$check"
    lose "$dir/image"
    lose "$dir/image" --zero
    frozen_image=yes
    lose "$dir/frozen"
    replay
}

# Version 4, which kernels no longer mount, gets its files from mkfs.
try_old ()
{
    what="$* (version 4)"
    mountable=false
    frozen_image=
    make "$dir/image" "$@" -m crc=0 -p "$dir/proto" || {
        echo "mkfs.xfs cannot: $what"
        return 0
    }
    if mount -o loop,ro "$dir/image" "$dir/mnt" 2>/dev/null; then
        mountable=true
        sums >"$dir/sums"
        umount "$dir/mnt"
    fi
    lose "$dir/image"
    lose "$dir/image" --zero
}

{
    echo /dev/null
    echo 0 0
    echo d--755 0 0
    for i in $(seq 100); do
        echo "file$i ---644 0 0 $0"
    done
    echo '$'
} >"$dir/proto"

try 320M -b size=4096 -m rmapbt=1,reflink=0
try 320M -b size=1024 -m reflink=1 -l su=32k
meanwhile=fragment check=check_fragmented
try 320M -b size=1024 -d agcount=2
meanwhile=wrap check=:
# mkfs.xfs would have it larger, as it takes longer to fill.
try 320M --unsupported -l size=10m
meanwhile=grow check=check_grown
try 320M -m rmapbt=1,reflink=1,bigtime=1,inobtcount=1 -i nrext64=1
meanwhile=: check=:
try_old 320M
try_old 320M -b size=512 -l version=1
try_old 320M -b size=1k -l lazy-count=0
if [ -n "${FSSNAP_LONG:-}" ]; then
    try 320M -b size=4096
    try 320M -b size=4096 -d agcount=1 -m finobt=0,reflink=0
    try 500M -b size=1024 -d agcount=17 -m rmapbt=1 -i sparse=1,nrext64=1
    try 500M -b size=4096 -s size=4096 -l su=256k
    try 1G -b size=2048 -m reflink=1,rmapbt=1,bigtime=1,inobtcount=1
    try 1G -b size=65536
    try 3G -b size=4096 -d su=64k,sw=4 -l su=64k
    try_old 1G -b size=65536 -s size=4096
    try_old 1G -l su=256k
fi
