#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# System calls that fail or are interrupted.
# shellcheck source=functions.sh
. "$(dirname "$0")/functions.sh"
start_fake
answer '{"snapshots":[]}'

EINTR=4 EIO=5 ECONNRESET=104 EPIPE=32 EMFILE=24

# with CALL:ERRNO...: a command that they happen to.
preloaded () {
  LD_PRELOAD="${FSSNAP_PRELOAD:-} $CALL_FAILS" exec "$REAL_FSSNAP" "$@"
}
export -f preloaded
cat >"$dir/preloaded" <<'EOF'
#!/bin/bash
preloaded "$@"
EOF
chmod +x "$dir/preloaded"
with () { export FAIL_CALLS="$*"; }
export REAL_FSSNAP=$FSSNAP
FSSNAP=$dir/preloaded

# Interrupted at each call, more than once; and all in single bytes.
with connect:$EINTR connect:$EINTR send:$EINTR send:$EINTR recv:$EINTR \
  recv:$EINTR
run 0 list
printed "There are no snapshots."
asked snapshot.list '{"all":false}'

with socket:$EMFILE
run 1 list
said "cannot make a socket: Too many open files"
with connect:$EIO
run 1 list
said "cannot connect to $control: Input/output error"
with send:$EIO
run 1 list
said "cannot send to $control: Input/output error"
with recv:$EIO
run 1 list
said "cannot receive from $control: Input/output error"
with recv:$ECONNRESET
run 1 list
said "the server at $control hung up before it answered"

# What a server that hangs up has said is heard.
script 'send {"id":null,"error":{"code":6,"message":"too many connections"}}'
for errno in $EPIPE $ECONNRESET; do
  with send:$errno
  run 1 list
  said "fssnap: too many connections"
done

# The directory with the sockets.
cd "$dir"
mkdir run
export REAL_FSSNAP=$FSSNAP_HERE
unset FSSNAP_SOCKET
with readdir:$EIO
run 1 list
said "cannot read run: Input/output error"
