# SPDX-License-Identifier: BSD-3-Clause
# shellcheck shell=bash disable=SC2034 # who includes it uses more
# What both tests of XFS need: a directory with a place to mount at, and the
# end of all that, whatever happens.
set -eu

skip ()
{
    echo "$*" >&2
    exit 77
}

fail ()
{
    echo "FAILED ($what): $*" >&2
    exit 1
}

[ "$(id -u)" = 0 ] || skip "not root"
for tool in mkfs.xfs xfs_db xfs_repair xfs_io fsfreeze; do
    command -v "$tool" >/dev/null || skip "there is no $tool"
done
[ -e /dev/loop-control ] || skip "there are no loop devices"
: "${FSSNAP:?}" "${LOSE_FREE:?}" "${FUZZ:?}"
what=nothing
frozen=
dir=$(mktemp -d "${FSSNAP_TEST_DIR:-/dev/shm}/xfs.XXXXXX")
mkdir "$dir/mnt"

cleanup ()
{
    [ -z "$frozen" ] || fsfreeze -u "$dir/mnt" || :
    umount "$dir/mnt" 2>/dev/null || :
    rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 129' HUP INT TERM

# make IMAGE SIZE OPTIONS...: whether this mkfs can
make ()
{
    local image=$1 size=$2
    shift 2
    rm -f "$image"
    truncate -s "$size" "$image"
    mkfs.xfs -q "$@" "$image" 2>"$dir/mkfs.err"
}

# The free bytes that are found; it must not be refused.
free_of ()
{
    "$LOSE_FREE" "$@" >"$dir/found" || fail "lose-free"
    read -r type free size why < <(tail -n 1 "$dir/found")
    if [ "$type" != xfs ] || [ -n "$why" ]; then
        fail "refused: $why ($size)"
    fi
    [ "$free" -gt 0 ] || fail "nothing is free"
}

# refused IMAGE WHY
refused ()
{
    "$LOSE_FREE" --type=xfs "$1" >"$dir/found" || fail "lose-free"
    grep -q "^xfs 0 .*$2" "$dir/found" \
        || fail "not refused with '$2': $(cat "$dir/found")"
}

field ()
{
    xfs_db -r -c "$2" -c "p $3" "$1" 2>/dev/null | sed 's/.* = //'
}
