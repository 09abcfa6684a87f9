#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Disks with partitions, and with what nobody reads.  Swap is what is on them:
# its free space is known to the byte.
set -eu
for tool in sfdisk mkswap python3; do
  command -v "$tool" >/dev/null || { echo "$tool is missing"; exit 77; }
done

dir=$(mktemp -d "${FSSNAP_TEST_DIR:-/dev/shm}/parts.XXXXXX")
trap 'rm -rf "$dir"' EXIT
trap 'exit 129' HUP INT TERM
image=$dir/image

fail () {
  echo "FAILED: $*"
  exit 1
}

new () { # SIZE
  rm -f "$image"
  truncate -s "$1" "$image"
}

table () { # ARGUMENTS...; the script is standard input
  sfdisk -q "$@" "$image" >"$dir/sfdisk" 2>&1 || fail "$(cat "$dir/sfdisk")"
}

swap_at () { # OFFSET SIZE
  if [ ! -e "$dir/swap.$2" ]; then
    truncate -s "$2" "$dir/swap.$2"
    mkswap -q "$dir/swap.$2" 2>/dev/null
  fi
  dd if="$dir/swap.$2" of="$image" bs=4096 count=1 seek="$1" \
    oflag=seek_bytes conv=notrunc status=none
}

patch () { # OFFSET BYTES
  # shellcheck disable=SC2059
  printf "$2" | dd of="$image" bs=1 seek="$1" conv=notrunc status=none
}

look () {
  timeout 30 "$FSSNAP" candidates --json "$image" >"$dir/out" \
    || fail "status $?: $(cat "$dir/out")"
}

# Lines of "NUMBER TYPE OFFSET FREE", and "kept" for what is.
found () {
  look
  python3 - "$dir/out" <<'END'
import json
import sys
for line in open(sys.argv[1]):
    what = json.loads(line).get("found")
    if what:
        print(what["partition"], what["type"], what["offset"],
              "kept" if what["kept-because"] else what["free"])
END
}

expect () { # LINES
  found >"$dir/found"
  diff "$dir/found" <(printf '%s' "${1:+$1$'\n'}") \
    || fail "${FUNCNAME[1]}: $(cat "$dir/out")"
}

kept () { # PATTERN
  look
  grep -q "\"kept-because\": *\"[^\"]*$1" "$dir/out" \
    || fail "not kept because of '$1': $(cat "$dir/out")"
  ! grep -q '"free": *\[\[' "$dir/out" || fail "something is free"
}

M=1048576
FREE=$((2 * M - 4096)) # of a swap space of 2 MiB

primary () {
  new 16M
  table -X dos <<<"start=2048 size=4096 type=82
start=8192 size=4096 type=83"
  swap_at $M $((2 * M))
  swap_at $((4 * M)) $((2 * M))
  expect "1 swap $M $FREE
2 swap $((4 * M)) $FREE"
}

# The tables lie where the chain says, not next to one another.
logical () { # SIZE COUNT STEP, in MiB
  local i script expected=""
  new "$1M"
  script="start=2048 size=2048 type=83
start=4096 type=5"
  for i in $(seq "$2"); do
    script+=$'\n'"start=$(((2 + i * $3) * 2048)) size=4096 type=83"
  done
  table -X dos <<<"$script"
  for i in $(seq "$2"); do
    swap_at $(((2 + i * $3) * M)) $((2 * M))
    expected+=$'\n'"$((4 + i)) swap $(((2 + i * $3) * M)) $FREE"
  done
  expect "1 unknown $M kept$expected"
}
logical_few () {
  logical 64 2 20
}
logical_many () {
  logical 200 25 7
}
logical_far () {
  logical 1000000 12 77777
}

loop () {
  logical 64 2 20
  # The link of the first table: back to itself.
  local i
  for i in 0x1ce 0x1de 0x1ee; do
    patch $((2 * M + i)) '\0\0\0\0\x05\0\0\0\0\0\0\0\0\x01\0\0'
  done
  kept 'too many partitions'
}

# sfdisk makes it for sectors of 512 bytes only, before util-linux 2.39.
write_gpt () { # SECTOR, then START SIZE in MiB
  python3 - "$image" "$@" <<'END'
import os
import sys
import zlib
image, sector = sys.argv[1], int(sys.argv[2])
numbers = [int(n) * 1048576 // sector for n in sys.argv[3:]]
last = os.stat(image).st_size // sector - 1
entries = b""
for i in range(0, len(numbers), 2):
    entries += bytes([0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e,
                      0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4])
    entries += os.urandom(16)
    entries += numbers[i].to_bytes(8, "little")
    entries += (numbers[i] + numbers[i + 1] - 1).to_bytes(8, "little")
    entries += bytes(80)
entries += bytes(128 * 128 - len(entries))
space = 16384 // sector
disk = os.urandom(16)
with open(image, "r+b") as f:
    f.seek(0x1be)
    f.write(bytes([0, 0, 2, 0, 0xee, 255, 255, 255, 1, 0, 0, 0])
            + last.to_bytes(4, "little") + bytes(48) + b"\x55\xaa")
    for mine, other, at in (1, last, 2), (last, 1, last - space):
        def header(crc):
            return (b"EFI PART\0\0\1\0" + (92).to_bytes(4, "little")
                    + crc.to_bytes(4, "little") + bytes(4)
                    + b"".join(n.to_bytes(8, "little") for n in
                               (mine, other, 2 + space, last - space - 1))
                    + disk + at.to_bytes(8, "little")
                    + (128).to_bytes(4, "little") * 2
                    + zlib.crc32(entries).to_bytes(4, "little"))
        f.seek(mine * sector)
        f.write(header(zlib.crc32(header(0))))
        f.seek(at * sector)
        f.write(entries)
END
}

gpt () { # SECTOR
  new 64M
  if [ "$1" = 512 ]; then
    table -X gpt <<<"start=2048 size=4096
start=61440 size=4096 name=other
start=67584 size=4096"
  else
    write_gpt "$1" 1 2 30 2 33 2
  fi
  swap_at $M $((2 * M))
  swap_at $((30 * M)) $((2 * M))
  expect "1 swap $M $FREE
2 swap $((30 * M)) $FREE
3 unknown $((33 * M)) kept"
}
gpt_512 () {
  gpt 512
}
gpt_4096 () {
  gpt 4096
}

gpt_second () { # the first table is lost
  gpt 512
  patch 512 'no table'
  expect "1 swap $M $FREE
2 swap $((30 * M)) $FREE
3 unknown $((33 * M)) kept"
}

gpt_many () {
  local i script="" expected=""
  new 300M
  for i in $(seq 32); do
    script+="start=$((i * 4096)) size=4096"$'\n'
    expected+="$i swap $((i * 2 * M)) $FREE"$'\n'
  done
  table -X gpt <<<"$script"
  for i in $(seq 32); do
    swap_at $((i * 2 * M)) $((2 * M))
  done
  expect "${expected%$'\n'}"
}

# The MBR has partitions besides, which others may use.
hybrid () {
  gpt 512
  patch $((0x1ce)) '\0\0\0\0\x83\0\0\0\0\x08\0\0\0\x10\0\0'
  expect "1 swap $M $FREE
2 swap $((30 * M)) $FREE
3 unknown $((33 * M)) kept"
}
hybrid_differs () {
  gpt 512
  patch $((0x1ce)) '\0\0\0\0\x83\0\0\0\0\x08\0\0\0\x08\0\0'
  kept 'another partition where the GPT has partition 1'
  # Where the GPT has none.
  gpt 512
  patch $((0x1ce)) '\0\0\0\0\x83\0\0\0\0\x40\0\0\0\x08\0\0'
  expect "1 swap $M $FREE
2 swap $((30 * M)) $FREE
3 unknown $((33 * M)) kept"
}

gpt_no_mbr () {
  gpt 512
  patch $((0x1c2)) '\0'
  kept 'nothing known'
}

gpt_lost () { # both tables
  gpt 512
  patch $((512 + 60)) '\x77'
  patch $((64 * M - 512 + 60)) '\x77'
  expect ""
}

gpt_overlap () {
  new 64M
  write_gpt 512 1 2 2 2 33 2
  swap_at $M $((2 * M))
  swap_at $((2 * M)) $((2 * M))
  kept 'partitions 1 and 2 overlap'
}

gpt_grown () { # the second table is not at the end any more
  gpt 512
  truncate -s 100M "$image"
  expect "1 swap $M $FREE
2 swap $((30 * M)) $FREE
3 unknown $((33 * M)) kept"
}

table_in_partition () { # a virtual machine's disk
  primary
  cp "$image" "$dir/inner"
  new 64M
  table -X dos <<<"start=2048 size=32768 type=83
start=40960 size=4096 type=82"
  dd if="$dir/inner" of="$image" bs=1M seek=1 conv=notrunc status=none
  swap_at $((20 * M)) $((2 * M))
  expect "1 unknown $M kept
2 swap $((20 * M)) $FREE"
}

overlap () {
  primary
  # The second begins within the first.
  patch $((0x1ce + 8)) '\0\x0c\0\0'
  kept 'partitions 1 and 2 overlap'
}

beyond () {
  primary
  patch $((0x1ce + 12)) '\0\0\x01\0'
  kept 'not within the disk'
}

empty () {
  new 16M
  table <<<"label: dos"
  swap_at $((5 * M)) $M
  expect ""
  new 16M
  table <<<"label: gpt"
  swap_at $((5 * M)) $M
  expect ""
}

tiny () {
  local size
  for size in 0 1 511 512 513 4095 4096 4097 65537; do
    new $size
    kept 'too small'
    head -c $size /dev/urandom >"$image"
    look
    ! grep -q '"free": *\[\[' "$dir/out" || fail "random bytes are free"
  done
}

# Signatures of what is kept, at these offsets.
luks () {
  new 16M
  patch 0 'LUKS\xba\xbe\x00\x01'
  kept '.'
}
lvm () {
  new 16M
  python3 - "$image" <<'END'
import sys
def crc(data):
    value = 0xf597a6cf
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0xedb88320 if value & 1 else 0)
    return value
rest = (32).to_bytes(4, "little") + b"LVM2 001" + b"a" * 32
rest += bytes(512 - 20 - len(rest))
with open(sys.argv[1], "r+b") as f:
    f.seek(512)
    f.write(b"LABELONE" + (1).to_bytes(8, "little")
            + crc(rest).to_bytes(4, "little") + rest)
END
  kept '.'
  grep -q LVM2_member "$dir/out" || fail "libblkid sees no LVM"
}
raid () { # version 0.90 is at the end; a swap space shines through
  new 16M
  swap_at 0 $((16 * M))
  patch $((16 * M - 65536)) '\xfc\x4e\x2b\xa9\0\0\0\0\x5a\0\0\0'
  kept '.'
  patch $((16 * M - 65536)) '\0\0\0\0\0\0\0\0\0\0\0\0'
  expect "0 swap 0 $((16 * M - 4096))"
}

raid_with_table () {
  primary
  patch $((16 * M - 65536)) '\xfc\x4e\x2b\xa9\0\0\0\0\x5a\0\0\0'
  kept '.'
}

raid_in_partition () { # libblkid looks for none below 1.44 MB
  new 16M
  table -X dos <<<"start=2048 size=8192"
  swap_at $M $((4 * M))
  expect "1 swap $M $((4 * M - 4096))"
  patch $((5 * M - 65536)) '\xfc\x4e\x2b\xa9\0\0\0\0\x5a\0\0\0'
  expect "1 linux_raid_member $M kept"
}

ambivalent () { # the first sector of XFS, which mkswap did not wipe
  if ! command -v mkfs.xfs >/dev/null; then
    echo "mkfs.xfs is missing"
    return
  fi
  truncate -s 300M "$dir/xfs"
  mkfs.xfs -q "$dir/xfs"
  new 16M
  swap_at 0 $((16 * M))
  dd if="$dir/xfs" of="$image" bs=512 count=1 conv=notrunc status=none
  kept 'more than one thing'
}

ambivalent_partition () { # the others are read
  [ -e "$dir/xfs" ] || return 0
  primary
  dd if="$dir/xfs" of="$image" bs=512 count=1 seek=2048 conv=notrunc \
    status=none
  expect "1 unknown $M kept
2 swap $((4 * M)) $FREE"
}

table_and_type () {
  primary
  dd if="$dir/swap.$((2 * M))" of="$image" bs=1024 skip=1 seek=1 count=3 \
    conv=notrunc status=none
  kept 'there is a partition table, too'
}

fuzz () {
  logical 32 3 8
  "$FUZZ_PARTS" "$image" "${FSSNAP_LONG:+10}5"
  gpt 512
  "$FUZZ_PARTS" "$image" "${FSSNAP_LONG:+10}5"
}

all=(primary logical_few logical_many logical_far loop gpt_512 gpt_4096
  gpt_second gpt_many gpt_no_mbr gpt_lost gpt_overlap gpt_grown hybrid
  hybrid_differs overlap beyond empty tiny luks lvm raid
  raid_with_table raid_in_partition ambivalent
  ambivalent_partition table_in_partition table_and_type fuzz)
[ $# -gt 0 ] || set -- "${all[@]}"
for one; do
  echo "$one"
  "$one"
done
