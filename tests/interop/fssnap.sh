#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# The fssnap command with a real server: snapshots come and go while it runs.
# shellcheck source=functions.sh
. "$(dirname "$0")/functions.sh"
require nbdcopy nbdinfo qemu-io python3

control=$dir/control
export FSSNAP_SOCKET=$control dir TZ=UTC

# A sanitizer's runtime for the server only.
fssnap () { "$FSSNAP" "$@"; }

# refused STATUS TEXT ARGUMENT...: it fails so, and says TEXT.
refused () {
  local expected=$1 message=$2 status=0
  shift 2
  fssnap "$@" >"$dir/out" 2>"$dir/err" || status=$?
  [ "$status" = "$expected" ] || fail "fssnap $*: status $status"
  [ ! -s "$dir/out" ] || fail "fssnap $*: printed $(cat "$dir/out")"
  grep -qF -e "$message" "$dir/err" ||
    fail "fssnap $*: said '$(cat "$dir/err")' instead of '$message'"
}

uri () { echo "nbd+unix:///$1?socket=$socket"; }

# Write PATTERN to MEGABYTE of the origin.
write () { qemu-io -f raw -c "write -q -P $1 ${2}M 1M" -c flush "$live"; }

# same EXPORT FILE
same () { nbdcopy "$(uri "$1")" - | cmp - "$2" || fail "$1 is not $2"; }

# hold EXPORT: a client that has it open until let_go.
hold () {
  coproc client { exec qemu-io -r -f raw "$(uri "$1")" 2>&1; }
  # shellcheck disable=SC2154 # coproc sets it
  holder=$client_PID
  undo+=('[ -z "$holder" ] || kill -KILL "$holder"')
  ask "read 0 512" "read 512/512 bytes"
}

# ask COMMAND TEXT: the client answers with TEXT.
ask () {
  local line=
  echo "$1" >&"${client[1]}"
  until [[ $line == *"$2"* ]]; do
    read -r -t 60 -u "${client[0]}" line || fail "$1: no '$2'"
  done
}
let_go () {
  echo quit >&"${client[1]}"
  wait "$holder" || true # it remembers that a read failed
  holder=
}

is () { [ "$(fssnap info -o "$1" "$2")" = "$3" ]; }

make_image "$dir/disk.img"
cp --sparse=always "$dir/disk.img" "$dir/1.img"
start_server "$dir/disk.img" snapshot=no control="$control" \
  backing-store="$dir"

# Nothing yet; the server tells of itself.
[ "$(fssnap list)" = "There are no snapshots." ] || fail "list: $(fssnap list)"
[ "$(fssnap info -o origin,size,snapshots,readonly)" = "$dir/disk.img
67108864
0
false" ] || fail "info: $(fssnap info)"
[ "$(fssnap info -o pid)" = "$server" ] || fail "pid: $(fssnap info)"
listen=$(fssnap info -o listen)
[ "$(nbdinfo --size "$listen")" = 67108864 ] || fail "listen: $listen"
fssnap info | grep -q '^size:  *67108864 (64.0M)$' || fail "$(fssnap info)"

# A backing store with a name, relative to where the command runs.
mkdir "$dir/store"
first=$(cd "$dir/store" && fssnap create -o bs=its.file,durability=written)
[ "$first" = snapshot/1 ] || fail "the first: $first"
[ -f "$dir/store/its.file" ] || fail "there is no store/its.file"
is backing-store 1 "$dir/store/its.file" || fail "$(fssnap info 1)"
fssnap delete "$first"
# The store lets go of it soon.
until [ ! -e "$dir/store/its.file" ]; do
  fssnap list --all >"$dir/list"
  [ $SECONDS -lt 120 ] || fail "the backing file is still there"
done

# Two moments, each kept.
[ "$(fssnap create)" = snapshot/1 ] || fail "create"
write 1 0
cp --sparse=always "$dir/disk.img" "$dir/2.img"
[ "$(fssnap create --name nightly -o chunksize=64k,maxsize=1G)" = snapshot/2 ] ||
  fail "create --name"
write 2 0
write 3 8
for name in snapshot/1:1 snapshot/2:2 snapshot/nightly:2 snapshot:2; do
  same "${name%:*}" "$dir/${name#*:}.img"
done

# What there is, for people and for programs.
fssnap list >"$dir/list"
awk 'NR > 1 { print $1, $2, $3 }' "$dir/list" >"$dir/rows"
printf '%s\n' '1 - idle' '2 nightly idle' | cmp - "$dir/rows" ||
  fail "list: $(cat "$dir/list")"
fssnap list --json | python3 -c '
import json, sys
first, second = json.load(sys.stdin)["snapshots"]
assert first["snapnumber"] == 1 and first["name"] is None, first
assert second["name"] == "nightly" and second["chunksize"] == 65536, second
assert second["bytes-copied"] >= 1 << 20, second'
[ "$(fssnap info -o snapnumber,name,export,chunksize,maxsize nightly)" = "2
nightly
snapshot/2
65536
1073741824" ] || fail "info: $(fssnap info nightly)"
# Every key that the manual has is told, and no other.
fssnap info --json 1 | python3 -c '
import json, sys; print(*json.load(sys.stdin), sep="\n")' | sort >"$dir/told"
"$FSSNAP" info -o '?' 1 2>&1 | sed -n 's/.*there are: //p' |
  sed 's/, /\n/g' | sort | diff - "$dir/told" || fail "the keys of a snapshot"
fssnap info --json | python3 -c '
import json, sys; print(*json.load(sys.stdin), sep="\n")' | sort >"$dir/told"
"$FSSNAP" info -o '?' 2>&1 | sed -n 's/.*there are: //p' |
  sed 's/, /\n/g' | sort | diff - "$dir/told" || fail "the keys of the server"

# Wrong, and the server says why.
refused 1 "there is no snapshot 9" delete 9
refused 1 "'fssnap list' says which there are" info weekly
refused 1 "nightly" create --name nightly
refused 1 "name" create --name 5
refused 1 "chunksize=3k: must be a power of two from 512 to 64M" \
  create -o chunksize=3k
refused 1 "cow-timeout=soon" create -o cow-timeout=soon
refused 1 "$dir/none/x" create -o bs="$dir/none/x"
refused 1 "$socket is where the server speaks NBD" -s "$socket" list
[ "$(fssnap info -o snapshots)" = 2 ] || fail "something has been created"

# In use.
hold snapshot/nightly
is state,clients nightly $'active\n1' || fail "$(fssnap info nightly)"
refused 1 "with --force it is deleted all the same" delete nightly
same snapshot/nightly "$dir/2.img"
# 1 still needs what 2 keeps.
fssnap delete --force nightly
refused 1 "there is no snapshot" info nightly
ask "read 0 512" "read failed"
same snapshot/1 "$dir/1.img"
[ "$(fssnap list | awk 'NR > 1 { print $1 }')" = 1 ] || fail "$(fssnap list)"
fssnap list --all | grep -q '^ *2  .* disabled (deleted) ' ||
  fail "$(fssnap list --all)"
# The number is taken until the client has gone.
[ "$(fssnap create)" = snapshot/3 ] || fail "create while 2 is held"
fssnap delete 3
let_go

# One that breaks: the list says so, info says why.
[ "$(fssnap create --name small -o maxsize=4k)" != "" ]
write 4 20
write 5 21
is state small disabled || fail "$(fssnap info small)"
[ -n "$(fssnap info -o broken-reason small)" ] || fail "$(fssnap info small)"
fssnap list | grep -q ' small  *disabled (broken) ' || fail "$(fssnap list)"
fssnap list | grep -q '^ *1  *-  *idle (.* is broken) ' || fail "$(fssnap list)"
fssnap delete small
fssnap delete 1

# A tab, with a real server.
if [ -r /usr/share/bash-completion/bash_completion ]; then
  fssnap create --name weekly >"$dir/out"
  mkdir "$dir/bin"
  ln -s "$FSSNAP" "$dir/bin/fssnap"
  printf '%s\n' ". /usr/share/bash-completion/bash_completion" \
    ". '$FSSNAP_SOURCE/cli/completion/fssnap.bash'" >"$dir/rc"
  echo "tab fssnap delete we" |
    PATH=$dir/bin:$PATH python3 "$FSSNAP_SOURCE/tests/cli/complete.py" \
      "$dir/rc" >"$dir/out"
  [ "$(cat "$dir/out")" = "fssnap delete weekly " ] ||
    fail "completion: $(cat "$dir/out")"
fi
stop_server
refused 1 "is the server running (nbdkit fssnap ... control=$control)?" list

# nbdkit --run: the socket is there before the command.
status=0
FSSNAP_SOCKET='' run_nbdkit -U - "$FSSNAP_PLUGIN" "$dir/disk.img" \
  control="$dir/control" --run '
    LD_PRELOAD= "$FSSNAP" -s "$dir/control" create --name run &&
    LD_PRELOAD= "$FSSNAP" -s "$dir/control" list >"$dir/list" &&
    exit 5' >"$dir/out" || status=$?
[ "$status" = 5 ] || fail "--run: status $status"
[ "$(cat "$dir/out")" = snapshot/2 ] || fail "--run: $(cat "$dir/out")"

# A server that was killed: its socket says so.
start_server "$dir/disk.img" control="$control"
[ "$(fssnap info -o snapshots)" = 1 ] || fail "the one of the start"
kill -KILL "$server"
wait "$server" || true
server=
refused 1 "cannot connect to $control: Connection refused: is the server" list
