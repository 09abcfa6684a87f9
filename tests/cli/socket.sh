#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Which socket is meant, and what is said if it cannot be connected to.
# shellcheck source=functions.sh
. "$(dirname "$0")/functions.sh"

cd "$dir"
FSSNAP=$FSSNAP_HERE
hint="say which with -s PATH or in \$FSSNAP_SOCKET"

# A socket that nobody listens on any more.
leave_socket () {
  python3 -c 'import socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])' \
    "$1"
}

# None is named: no directory, nothing in it, things that are no sockets.
run 1 list
said "there is no control socket in run (No such file or directory): start a \
server (nbdkit fssnap ... control=run/NAME), or $hint"
mkdir run
run 1 list
said "there is no control socket in run: start a server"
: >run/file
mkfifo run/fifo
mkdir run/directory
ln -s nowhere run/link
run 1 list
said "there is no control socket in run: start a server"

# The only one is taken, whatever else is there.
start_fake
unset FSSNAP_SOCKET
answer '{"snapshots":[]}'
ln -s "$control" run/only
run 0 list
printed "There are no snapshots."

# More than one: all are named, none is taken.
leave_socket run/other
: >asked
run 1 list
said "there is more than one control socket: $hint: run/"
said "run/only"
said "run/other"
[ ! -s asked ] || fail "the server was asked"

# -s comes first, before or after the command, and the last one counts.
for arguments in '-s control list' 'list -s control' '--socket=control list' \
  'list --socket control' '-s none list -s control' '-scontrol list --json'; do
  # shellcheck disable=SC2086 # a list
  FSSNAP_SOCKET=none run 0 $arguments
  silent
done
FSSNAP_SOCKET=control run 0 list
printed "There are no snapshots."
FSSNAP_SOCKET='' run 1 list
said "there is more than one control socket"

# It is there, but.
run 1 list -s run/other
said "cannot connect to run/other: Connection refused: is the server running \
(nbdkit fssnap ... control=run/other)?"
run 1 list -s run/file
said "cannot connect to run/file: Connection refused"
run 1 list -s run/file/x
said "cannot connect to run/file/x: Not a directory"
long=$(printf '%0108d' 0)
run 1 list -s "$long"
said "$long: too long for the path of a socket, which has at most 107 bytes"
run 1 list -s "${long:1}"
said "cannot connect to ${long:1}: No such file or directory"
# Not for others.
if [ "$(id -u)" = 0 ]; then
  chmod 711 "$dir"
  chmod 600 control
  cp "$FSSNAP" fssnap
  chmod 755 fssnap
  status=0
  setpriv --reuid=65534 --regid=65534 --clear-groups \
    ./fssnap list -s control 2>err >out || status=$?
  [ $status = 1 ] || fail "another user: status $status"
  said "cannot connect to control: Permission denied: only root and the user \
whom the server runs as may"
  chmod 700 run
  setpriv --reuid=65534 --regid=65534 --clear-groups ./fssnap list 2>err >out ||
    status=$?
  said "there is no control socket in run (Permission denied): start a server"
fi
