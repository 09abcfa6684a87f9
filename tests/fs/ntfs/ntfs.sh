#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# The reader of NTFS against what mkntfs makes and ntfs-3g fills.
set -eu
for tool in mkntfs ntfs-3g ntfsfix ntfsinfo python3; do
  command -v "$tool" >/dev/null || { echo "$tool is missing"; exit 77; }
done
if [ "$(id -u)" != 0 ] || [ ! -c /dev/fuse ]; then
  echo "no root, or no FUSE"
  exit 77
fi

# Leaks within libntfs-3g are not ours.
export ASAN_OPTIONS=detect_leaks=0
dir=$(mktemp -d "${FSSNAP_TEST_DIR:-/dev/shm}/ntfs.XXXXXX")
mnt=$dir/mnt
mkdir "$mnt"
clean_up () {
  mountpoint -q "$mnt" && umount "$mnt"
  rm -rf "$dir"
}
trap clean_up EXIT
trap 'exit 129' HUP INT TERM

fail () {
  echo "FAILED: $*"
  exit 1
}

# The FUSE process ends, and writes, a little after umount.
mounted () {
  timeout 30 ntfs-3g -o "$2" "$1" "$mnt"
}
unmounted () {
  for _ in $(seq 200); do
    ! umount "$mnt" 2>/dev/null || break
    sleep 0.05
  done
  ! mountpoint -q "$mnt" || fail "$mnt is busy"
  for _ in $(seq 200); do
    pgrep -f "ntfs-3g .* $mnt\$" >/dev/null || return 0
    sleep 0.05
  done
  fail "ntfs-3g does not end"
}

fill () {
  local i
  mkdir "$mnt/many" "$mnt/few"
  for i in $(seq "$1"); do
    head -c $((RANDOM * $2 / 100)) /dev/urandom >"$mnt/many/file $i"
    head -c $((RANDOM % 700)) /dev/urandom >"$mnt/few/small-$i"
  done
  truncate -s 1M "$mnt/sparse"
  echo end >>"$mnt/sparse"
}

age () {
  local i
  for i in $(seq 1 2 "$1"); do
    rm "$mnt/many/file $i"
  done
  # In pieces, between what remained.
  for i in $(seq "$1"); do
    head -c 5000 /dev/urandom >>"$mnt/many/grown$((i % 5))"
  done
}

sums () {
  (cd "$mnt" && find . -type f -print0 | sort -z | xargs -0 sha256sum)
}

check_copy () {
  ntfsfix -n "$1" >"$dir/fix" 2>&1 || fail "ntfsfix: $(cat "$dir/fix")"
  mounted "$1" ro
  sums >"$dir/after"
  unmounted
  cmp "$dir/before" "$dir/after" || fail "a file has changed"
}

try () { # SIZE CLUSTER FILES SCALE
  local free size
  rm -f "$dir/image"
  truncate -s "$1" "$dir/image"
  mkntfs -F -Q -q -c "$2" "$dir/image" >/dev/null 2>&1 || fail "mkntfs $1 $2"
  mounted "$dir/image" rw
  fill "$3" "$4"
  unmounted
  mounted "$dir/image" rw
  age "$3"
  sums >"$dir/before"
  sync
  free=$(df -B1 --output=avail "$mnt" | tail -1)
  unmounted
  python3 "$LOSE_FREE" "$dir/image" "$dir/copy" >"$dir/out"
  cat "$dir/out"
  size=$(sed -n 1p "$dir/out")
  [ "$size" -eq "$free" ] || fail "$1 $2: $size bytes are free; df: $free"
  check_copy "$dir/copy"
  python3 "$LOSE_FREE" --zero "$dir/image" "$dir/copy" >/dev/null
  check_copy "$dir/copy"
}

refused () { # IMAGE PATTERN
  "$FSSNAP" candidates --json --type=ntfs "$1" >"$dir/out" 2>&1
  grep -q "\"kept-because\": *\"[^\"]*$2" "$dir/out" \
    || fail "not refused with '$2': $(cat "$dir/out")"
  ! grep -q '"free": *\[\[' "$dir/out" || fail "$2: something is free"
}

# Write the bytes, as printf has them, at an offset.
patch () {
  # shellcheck disable=SC2059
  printf "$3" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}

try 3M 512 10 30
try 16M 4096 40 60
try 40M 65536 20 60
if [ -n "${FSSNAP_LONG:-}" ]; then
  for cluster in 512 1024 2048 4096 8192 16384 32768 65536 131072; do
    try 300M $cluster 150 200
    try 64M $cluster 50 30
  done
  for cluster in 524288 1048576 2097152; do
    try 1G $cluster 150 200
  done
  try 2G 4096 2000 1000
fi

# What it must not believe.
try 16M 4096 40 60
record_at () { # of $MFT
  python3 - "$dir/image" "$1" <<'END'
import sys
with open(sys.argv[1], "rb") as f:
    boot = f.read(512)
cluster = 512 * boot[13]
print(int.from_bytes(boot[0x30:0x38], "little") * cluster
      + 1024 * int(sys.argv[2]))
END
}
find_attribute () { # RECORD TYPE: the offset of its first byte
  python3 - "$dir/image" "$(record_at "$1")" "$2" <<'END'
import sys
with open(sys.argv[1], "rb") as f:
    f.seek(int(sys.argv[2]))
    record = f.read(1024)
at = int.from_bytes(record[20:22], "little")
while int.from_bytes(record[at:at + 4], "little") != int(sys.argv[3], 0):
    at += int.from_bytes(record[at + 4:at + 8], "little")
print(int(sys.argv[2]) + at)
END
}
first_cluster () { # RECORD: of its $DATA
  ntfsinfo -v -i "$1" "$dir/image" 2>/dev/null \
    | awk '/\$DATA \(0x80\)/ { data = 1 }
           data && /Runlist:/ { getline; print strtonum ($2); exit }'
}
again () {
  cp "$dir/image" "$dir/bad"
}

# $Volume is in the mirror, too.
volume=$(find_attribute 3 0x70)
mirror=$(($(od -An -tu8 -j56 -N8 "$dir/image") * 4096 - $(record_at 0)))
volume_with () { # OFFSET BYTE PATTERN
  again
  patch "$dir/bad" $((volume + 24 + $1)) "$2"
  patch "$dir/bad" $((volume + 24 + $1 + mirror)) "$2"
  refused "$dir/bad" "$3"
}
volume_with 10 '\x01' 'marked as dirty'
volume_with 11 '\x40' 'being checked'
volume_with 10 '\x40' 'unknown flags'
volume_with 8 '\x04' 'version is 4.1'
again; patch "$dir/bad" "$(record_at 0)" 'BAAD'
refused "$dir/bad" 'libntfs-3g does not take it'
again; patch "$dir/bad" 3 'NTFT'
refused "$dir/bad" 'libntfs-3g does not take it'
again; truncate -s 10M "$dir/bad"
refused "$dir/bad" 'more than there are\|does not take it'

# A file's cluster that $Bitmap calls free.
bitmap=$(first_cluster 6)
[ -n "$bitmap" ] || fail "where is \$Bitmap?"
again; patch "$dir/bad" $((bitmap * 4096)) '\x00'
refused "$dir/bad" 'which .Bitmap calls free'

# A log that is not empty, and none.
log=$(first_cluster 2)
again; patch "$dir/bad" $((log * 4096)) 'RSTR'
refused "$dir/bad" 'the log'
again; patch "$dir/bad" "$(record_at 2)" 'BAAD'
refused "$dir/bad" '.'

# As Windows leaves it: VERSION CLIENTS FLAGS.
log_with () {
  again
  python3 - "$dir/bad" $((log * 4096)) "$@" <<'END'
import struct
import sys
image, at, major, clients, flags = sys.argv[1], *map(int, sys.argv[2:])
SIZE = 2 << 20
area = struct.pack("<QHHHHIHHQIHHII", 0x100000, 1, 0xffff if clients else 0,
                   0 if clients else 0xffff, flags, 67 - SIZE.bit_length(),
                   208, 48, SIZE, 64, 48, 64, 1, 0)
client = struct.pack("<QQHHH6xI", 0x100000, 0x100000, 0xffff, 0xffff, 0, 8)
client += "NTFS".encode("utf-16-le").ljust(128, b"\0")
page = bytearray(b"RSTR" + struct.pack("<HHQIIHHH", 30, 9, 0, 4096, 4096, 48,
                                       1 if major == 1 else 0, major))
page += bytes(48 - len(page)) + area + client
page += bytes(4096 - len(page))
struct.pack_into("<H", page, 30, 1)
for i in range(8):
    page[32 + 2 * i:34 + 2 * i] = page[512 * i + 510:512 * i + 512]
    struct.pack_into("<H", page, 512 * i + 510, 1)
with open(image, "r+b") as f:
    f.seek(at)
    f.write(page * 2)
END
}
log_with 1 1 0
refused "$dir/bad" 'the log needs to be replayed'
log_with 1 1 2
"$FSSNAP" candidates "$dir/bad" | grep -q 'ntfs.*-$' || fail "a clean log"
log_with 1 0 0
"$FSSNAP" candidates "$dir/bad" | grep -q 'ntfs.*-$' || fail "a closed log"
log_with 2 1 0 # fast startup, since Windows 8
refused "$dir/bad" 'the log'

# Hibernation.
again
mounted "$dir/bad" rw
{ printf hibr; head -c 8188 /dev/zero; } >"$mnt/hiberfil.sys"
unmounted
refused "$dir/bad" 'Windows is hibernated'
again
mounted "$dir/bad" rw
head -c 8192 /dev/zero >"$mnt/hiberfil.sys"
unmounted
"$FSSNAP" candidates "$dir/bad" | grep -q 'ntfs.*-$' || fail "an empty hiberfil.sys"

# Nothing of the library's may reach the terminal.
for image in "$dir/image" "$dir/bad" "$dir/fix" /dev/null; do
  "$FSSNAP" candidates --type=ntfs "$image" 2>&1 >/dev/null | tee "$dir/err"
  [ ! -s "$dir/err" ] || fail "it says something"
done

"$FUZZ" ntfs "$dir/image" 3000
rm -f "$dir/image"
truncate -s 2M "$dir/image"
mkntfs -F -Q -q -c 1024 "$dir/image" >/dev/null 2>&1
"$FUZZ" ntfs "$dir/image" 3000
