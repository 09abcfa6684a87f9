# SPDX-License-Identifier: BSD-3-Clause
# shellcheck shell=bash disable=SC2034
# What the tests of the command share; sourced.  $FSSNAP is the command,
# $FSSNAP_HERE is one that looks for sockets in ./run.
set -eu
# shellcheck source=../interop/functions.sh
. "$FSSNAP_SOURCE/tests/interop/functions.sh"
require python3

export TZ=UTC
unset FSSNAP_SOCKET
control=$dir/control
: >"$dir/asked"

run_fake () {
  exec python3 "$FSSNAP_SOURCE/tests/cli/fake-server.py" "$dir/pid" \
    "$control" "$dir/script" "$dir/asked"
}

# Start the fake server, which does what the test has put into $dir/script.
start_fake () {
  start "$dir/pid" run_fake
  server=$started
  disown "$server" # no word of it when it is killed
  export FSSNAP_SOCKET=$control
}

# What it does for each client: STEP...
script () { printf '%s\n' "$@" >"$dir/script"; }

# It answers a request with the result JSON.
answer () {
  script read "send {\"jsonrpc\":\"2.0\",\"id\":@ID@,\"result\":$1}"
}

# It answers with an error: CODE MESSAGE
refuse () {
  script read "send {\"jsonrpc\":\"2.0\",\"id\":@ID@,\"error\":{\"code\":$1,\"message\":\"$2\"}}"
}

# run STATUS ARGUMENT...: the command, which has to end with STATUS; what it
# writes is in $dir/out and $dir/err.
run () {
  local expected=$1 status=0
  shift
  called="fssnap $*"
  "$FSSNAP" "$@" >"$dir/out" 2>"$dir/err" </dev/null || status=$?
  [ "$status" = "$expected" ] ||
    fail "$called: status $status instead of $expected: $(cat "$dir/err")"
}

# It printed exactly TEXT, and no message.
printed () {
  [ "$(cat "$dir/out")" = "$1" ] ||
    fail "$called: printed '$(cat "$dir/out")' instead of '$1'"
  silent
}
silent () { [ ! -s "$dir/err" ] || fail "$called: said '$(cat "$dir/err")'"; }

# It printed nothing, and there is a message with TEXT.
said () {
  [ ! -s "$dir/out" ] || fail "$called: printed '$(cat "$dir/out")'"
  grep -qF -e "$1" "$dir/err" ||
    fail "$called: said '$(cat "$dir/err")' instead of '$1'"
}

# What the server was asked last: METHOD PARAMS
asked () {
  local line
  line=$(tail -n 1 "$dir/asked")
  [ "$line" = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"$1\",\"params\":$2}" ] ||
    fail "$called: asked '$line' instead of $1 $2"
}

# run_usage ARGUMENT...: refused by the command itself, which says how to go
# on; the server is asked nothing.
run_usage () {
  : >"$dir/asked"
  run 2 "$@"
  said "--help' says what there is"
  [ ! -s "$dir/asked" ] || fail "$called: asked '$(cat "$dir/asked")'"
}
