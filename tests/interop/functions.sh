# SPDX-License-Identifier: BSD-3-Clause
# shellcheck shell=bash disable=SC2034
# What the scripts here share; sourced.  Each has a directory of its own,
# $dir; a server of its own, if it wants one; and leaves nothing behind.
set -eu
PATH=$PATH:/usr/sbin:/sbin

dir=$(mktemp -d "${FSSNAP_TEST_DIR:-/dev/shm}/fssnap-interop-XXXXXX")
socket=$dir/socket
live="nbd+unix:///?socket=$socket"
frozen="nbd+unix:///snapshot?socket=$socket"
server=

# Undone in reverse order by clean_up: "umount DIR", "losetup -d DEV", ...
undo=()

clean_up () {
  local status=$? i
  trap - EXIT
  for ((i = ${#undo[@]} - 1; i >= 0; i--)); do
    eval "${undo[i]}" || true
  done
  [ -z "$server" ] || kill -KILL "$server" 2>/dev/null || true
  if [ "$status" != 0 ] && [ -s "$dir/log" ]; then
    echo "The server's log:"
    cat "$dir/log"
  fi >&2
  rm -rf "$dir"
  exit "$status"
}
trap clean_up EXIT
trap 'exit 129' HUP INT TERM

fail () { echo "FAILED: $*" >&2; exit 1; }
skip () { echo "Skipped: $*" >&2; exit 77; }

# Every COMMAND must be there.
require () {
  local command
  for command; do
    command -v "$command" >/dev/null || skip "$command is not installed"
  done
}

run_nbdkit () { LD_PRELOAD=${FSSNAP_PRELOAD:-} nbdkit "$@"; }

# wait_for PID FILE: until FILE is there, as long as the process is.
wait_for () {
  local i
  for ((i = 0; i < 600; i++)); do
    [ ! -e "$2" ] || return 0
    kill -0 "$1" 2>/dev/null || break
    sleep 0.1
  done
  fail "$2 did not appear"
}

# start_server PARAMETER...: one at a time.
start_server () {
  rm -f "$dir/pid"
  LD_PRELOAD=${FSSNAP_PRELOAD:-} \
    nbdkit -f -U "$socket" -P "$dir/pid" "$FSSNAP_PLUGIN" "$@" \
    2>>"$dir/log" &
  server=$!
  wait_for "$server" "$dir/pid"
}

# Ends when the last client has gone.
stop_server () {
  local status=0
  kill "$server"
  wait "$server" || status=$?
  server=
  rm -f "$socket"
  [ $status = 0 ] || fail "the server ended with status $status"
}

sum () { sha256sum | cut -c 1-64; }
sum_of_export () { nbdcopy "$1" - | sum; }

# make_image FILE: 64 MiB: 8 of random data, 8 hole, 8 data, the rest hole,
# and a last sector of data.
make_image () {
  truncate -s 64M "$1"
  dd if=/dev/urandom of="$1" bs=1M count=8 conv=notrunc status=none
  dd if=/dev/urandom of="$1" bs=1M count=8 seek=16 conv=notrunc status=none
  dd if=/dev/urandom of="$1" bs=512 count=1 seek=131071 conv=notrunc \
    status=none
}

# Bytes of disk that a file takes, in KiB.
disk_usage () { du -k "$1" | cut -f 1; }
