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

# start PIDFILE COMMAND...: run it in the background, in $started, and wait
# until it is ready, which is when it writes its pid: into a pipe.
start () {
  local pipe=$1
  shift
  rm -f "$pipe"
  mkfifo "$pipe"
  exec 3<>"$pipe"
  "$@" 3>&- &
  started=$!
  while kill -0 "$started" 2>/dev/null; do
    read -r -n 1 -t 1 -u 3 _ || continue
    exec 3>&-
    return 0
  done
  fail "$2 did not start"
}

run_server () {
  LD_PRELOAD=${FSSNAP_PRELOAD:-} exec nbdkit "$@" 2>>"$dir/log"
}

# start_server PARAMETER...: one at a time.
start_server () {
  start "$dir/pid" run_server -f -U "$socket" -P "$dir/pid" "$FSSNAP_PLUGIN" \
    "$@"
  server=$started
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
