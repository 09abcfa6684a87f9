#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# The reader of swap space.
set -eu
for tool in mkswap python3; do
  command -v "$tool" >/dev/null || { echo "$tool is missing"; exit 77; }
done

dir=$(mktemp -d "${FSSNAP_TEST_DIR:-/dev/shm}/swap.XXXXXX")
trap 'rm -rf "$dir"' EXIT
trap 'exit 129' HUP INT TERM

fail () {
  echo "FAILED: $*"
  exit 1
}

new () { # SIZE PAGE
  rm -f "$dir/image"
  truncate -s "$1" "$dir/image"
  mkswap -q --pagesize "$2" -L label "$dir/image" 2>/dev/null
}

is_free () { # BYTES, or a pattern of why not
  "$FSSNAP" candidates --json --type=swap "$dir/image" >"$dir/out"
  case $1 in
    [0-9]*) grep -q "\"free\": *$1,\"kept-because\": *null" "$dir/out" ;;
    *) grep -q "\"free\": *0,\"kept-because\": *\"[^\"]*$1" "$dir/out" ;;
  esac || fail "not '$1': $(cat "$dir/out")"
}

patch () { # OFFSET BYTES
  # shellcheck disable=SC2059
  printf "$2" | dd of="$dir/image" bs=1 seek="$1" conv=notrunc status=none
}

for page in 4096 8192 16384 32768 65536; do
  for pages in 11 100 1000; do
    new $((page * pages)) $page
    is_free $((page * (pages - 1)))
    python3 "$LOSE_FREE" "$dir/image" "$dir/copy" >/dev/null
    cmp -n $page "$dir/image" "$dir/copy" || fail "the header is lost"
    [ "$(blkid -p -o value -s TYPE "$dir/copy")" = swap ] || fail "no swap"
    # What is behind the last page is not its own.
    truncate -s +1M "$dir/image"
    is_free $((page * (pages - 1)))
    truncate -s $((page * (pages - 1))) "$dir/image"
    is_free 'its header says'
  done
done

# libblkid finds it, too; but not on what is too small to be sure.
new 1M 4096
"$FSSNAP" candidates "$dir/image" | grep -q 'too small' || fail "1M"
new 2M 4096
"$FSSNAP" candidates "$dir/image" | grep -q 'swap.*-$' || fail "not found"

# Bad pages, in any order, are not free.
new 1M 4096
patch 1032 '\x03\0\0\0'
patch 1536 '\x09\0\0\0\x07\0\0\0\x01\0\0\0'
is_free $((4096 * 252))
"$FSSNAP" candidates --json --type=swap "$dir/image" \
  | grep -q '\[8192,20480\],\[32768,4096\],\[40960,' || fail "bad pages"
patch 1536 '\x00'
is_free 'bad page 0 is not'
patch 1536 '\x00\x01'
is_free 'bad page 256 is not'
patch 1032 '\xff\xff\xff\xff'
is_free 'bad pages do not fit'

# What it must not touch.
for image in S1SUSPEND S2SUSPEND ULSUSPEND LINHIB0001; do
  new 2M 4096
  patch 4086 "$image"
  is_free 'a hibernated system'
  "$FSSNAP" candidates "$dir/image" | grep -q 'hibernated' || fail "$image"
done
new 1M 4096
patch 4086 'SWAP-SPACE'
is_free 'version 0'
new 1M 4096
patch 65526 'SWAPSPACE2'
is_free 'signatures for pages of 4096 and of 65536'
new 1M 4096
patch 1024 '\x02'
is_free 'version is 2'
patch 1024 '\x00\x00\x00\x01'
is_free 'big-endian'
new 1M 4096
patch 1028 '\x00\x00\x00\x00'
is_free 'no pages'
patch 1028 '\xff\xff\xff\xff'
is_free 'its header says 17592186044416 bytes'
for size in 0 1 511 4095 4096 65535; do
  rm -f "$dir/image"
  truncate -s $size "$dir/image"
  is_free 'no signature'
done

new 1M 4096
patch 1032 '\x03\0\0\0'
patch 1536 '\x09\0\0\0\x07\0\0\0\x01\0\0\0'
"$FUZZ" --weak swap "$dir/image" 20000
