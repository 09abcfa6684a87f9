#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# fssnap create --freeze: file systems that are written to all the time are
# clean in every snapshot; and whatever happens to the command, or to the
# server, nothing stays frozen.
# shellcheck source=functions.sh
. "$(dirname "$0")/functions.sh"
require nbdfuse losetup mount mke2fs e2fsck fsfreeze dumpe2fs python3
[ "$(id -u)" = 0 ] || skip "mounting and freezing need root"
[ -w /dev/fuse ] && [ -w /dev/loop-control ] ||
  skip "there is no /dev/fuse or no /dev/loop-control"
rounds=5
[ -z "${FSSNAP_LONG:-}" ] || rounds=50
control=$dir/control

# mount_device NAME TYPE DEVICE: in $dir/NAME, thawed whatever happens.
mount_device () {
  mkdir -p "$dir/$1"
  mount -t "$2" "$3" "$dir/$1"
  undo+=("umount '$dir/$1' 2>/dev/null || umount -l '$dir/$1' 2>/dev/null")
  undo+=("fsfreeze -u '$dir/$1' 2>/dev/null")
}

# attach FILE: as $loop
attach () {
  loop=$(losetup --show -f "$1")
  undo+=("losetup -d $loop 2>/dev/null")
}

# frozen_for DIR: the command said how long.
frozen_for () {
  grep -qxE "fssnap: $1 was frozen for [0-9]+ ms" "$dir/err" ||
    fail "not said that $1 was frozen: $(cat "$dir/err")"
}

# run STATUS ARGUMENT...: fssnap create.
run () {
  local expected=$1 status=0
  shift
  timeout 60 "$FSSNAP" create "$@" >"$dir/out" 2>"$dir/err" </dev/null ||
    status=$?
  [ "$status" = "$expected" ] ||
    fail "create $*: status $status instead of $expected: $(cat "$dir/err")"
}
said () {
  grep -qF -e "$1" "$dir/err" ||
    fail "said '$(cat "$dir/err")' instead of '$1'"
}

# The file system on DIR can be written to within SECONDS.
thawed () {
  local begin=$SECONDS
  touch "$1/thawed" &
  wait $!
  [ $((SECONDS - begin)) -le "$2" ] || fail "$1 was frozen too long"
}

# Write, overwrite, rename and delete files in DIR until it says STOP.
keep_writing () {
  local i=0
  while [ ! -e "$1/STOP" ]; do
    i=$((i + 1))
    head -c $((i % 50))k /dev/zero | tr '\0' x >"$1/f$((i % 97))" || return 0
    mv -f "$1/f$((i % 97))" "$1/g$((i % 53))"
    mkdir -p "$1/d$((i % 11))"
    ln -f "$1/g$((i % 53))" "$1/d$((i % 11))/l$((i % 13))"
    [ $((i % 7)) != 0 ] || rm -f "$1/d$((i % 11))/l"*
    [ $((i % 40)) != 0 ] || sync -f "$1"
  done
}

check_ext4 () {
  e2fsck -fn "$1" >"$dir/check" 2>&1 || fail "e2fsck: $(cat "$dir/check")"
  # A feature if the journal would have to be replayed.
  dumpe2fs -h "$1" >"$dir/check" 2>/dev/null
  ! grep -q needs_recovery "$dir/check" || fail "the journal needs recovery"
}
# A frozen XFS keeps its log dirty on purpose, so that mounting a copy looks
# for deleted files that were open: but there is nothing in it except the
# superblock's counters.
check_xfs () {
  xfs_logprint -t "$1" >"$dir/check" 2>&1 || fail "xfs_logprint"
  ! grep -E '^(INO|QUOT|EFI|EFD|RUI|CUI|BUI)|start blkno:' "$dir/check" |
    grep -v 'start blkno:0x0 ' || fail "there is more in the log"
  grep -q 'start blkno:0x0 ' "$dir/check" || fail "the log is not understood"
  attach "$1"
  mkdir -p "$dir/copy"
  undo+=("umount '$dir/copy' 2>/dev/null")
  mount -t xfs -o nouuid "$loop" "$dir/copy"
  umount "$dir/copy"
  losetup -d "$loop"
  xfs_repair -n "$1" >"$dir/check" 2>&1 || fail "xfs_repair: $(cat "$dir/check")"
}

# while_written TYPE SIZE MKFS...: many snapshots of a file system that is
# written to.
while_written () {
  local type=$1 size=$2 i snapshot writer live_loop
  shift 2
  rm -f "$dir/disk.img"
  truncate -s "$size" "$dir/disk.img"
  "$@" "$dir/disk.img" >/dev/null
  start_server "$dir/disk.img" control="$control" snapshot=no
  mkdir -p "$dir/fuse"
  undo+=("umount '$dir/fuse' 2>/dev/null")
  start "$dir/fuse.pid" nbdfuse -P "$dir/fuse.pid" "$dir/fuse/disk" "$live"
  attach "$dir/fuse/disk"
  live_loop=$loop
  mount_device "$type" "$type" "$live_loop"
  keep_writing "$dir/$type" &
  writer=$!
  for ((i = 0; i < rounds; i++)); do
    run 0 -s "$control" --freeze="$dir/$type" --candidates=auto
    frozen_for "$dir/$type"
    grep -v frozen "$dir/err" | sed "s/^fssnap: /$type: /" || true
    snapshot=$(cat "$dir/out")
    nbdcopy "nbd+unix:///$snapshot?socket=$socket" "$dir/copy.img"
    "check_$type" "$dir/copy.img"
    rm "$dir/copy.img"
    "$FSSNAP" -s "$control" delete "$snapshot"
  done
  kill -0 "$writer" || fail "it was not written any more"
  touch "$dir/$type/STOP"
  wait "$writer"
  umount "$dir/$type"
  losetup -d "$live_loop"
  umount -l "$dir/fuse"
  stop_server
  rm -f "$control"
}

while_written ext4 256M mke2fs -q -t ext4
if command -v mkfs.xfs >/dev/null && command -v xfs_logprint >/dev/null; then
  while_written xfs 512M mkfs.xfs -q -f
else
  echo "xfs is left out: there is no mkfs.xfs or xfsprogs" >&2
fi

# From here on a server that does what is wanted, and a file system that needs
# none: a server that hangs must not keep it from thawing.
for name in one two; do
  truncate -s 64M "$dir/$name.img"
  mke2fs -q -t ext4 "$dir/$name.img"
  attach "$dir/$name.img"
  mount_device "$name" ext4 "$loop"
done
one=$dir/one two=$dir/two

run_fake () {
  exec python3 "$FSSNAP_SOURCE/tests/cli/fake-server.py" "$dir/pid" \
    "$control" "$dir/script" "$dir/asked"
}
script () { printf '%s\n' "$@" >"$dir/script"; }
reply () { echo "send {\"jsonrpc\":\"2.0\",\"id\":@ID@,\"result\":$1}"; }
info=$(reply '{"origin":"/dev/null","store":null,"listen":[]}')
created=$(reply '{"snapnumber":3,"export":"snapshot/3"}')
: >"$dir/asked"
start "$dir/pid" run_fake
server=$started
export FSSNAP_SOCKET=$control

# What is asked, in which order.
script read "$info" read "$created" read "$(reply '{}')"
run 0 --freeze="$one" --name n
frozen_for "$one"
[ "$(cat "$dir/out")" = snapshot/3 ] || fail "printed $(cat "$dir/out")"
grep -o '"method".*' "$dir/asked" >"$dir/methods"
diff - "$dir/methods" <<'END' || fail "something else was asked"
"method":"server.info","params":{}}
"method":"snapshot.create","params":{"name":"n","options":{},"creating":true}}
"method":"snapshot.create_done","params":{"snapshot":3}}
END

# Two of them; the messages are in the order given.
run 0 --freeze="$two" --freeze "$one"
frozen_for "$one"
frozen_for "$two"
thawed "$one" 2
thawed "$two" 2

# Messages may go to what is frozen.
script read "$info" read \
  'send {"jsonrpc":"2.0","id":@ID@,"error":{"code":-32602,"message":"no room"}}'
status=0
timeout 8 "$FSSNAP" create --freeze="$one" 2>"$one/err" || status=$?
[ $status = 1 ] || fail "messages on the file system: status $status"
cp "$one/err" "$dir/err"
said "no room"
frozen_for "$one"

# A server that hangs: the deadline thaws, and the command ends.
script read "$info" read wait
run 1 --freeze="$one" --freeze="$two" --freeze-timeout=1
said "the snapshot was not there after 1 s (--freeze-timeout)"
frozen_for "$one"
frozen_for "$two"
thawed "$one" 2

# start_hanging OPTION...: the command, in $command, which has frozen $one and
# waits.
start_hanging () {
  rm -f "$dir/fifo"
  mkfifo "$dir/fifo"
  script read "$info" read "tell $dir/fifo" wait
  "$FSSNAP" create --freeze="$one" "$@" >"$dir/out" 2>"$dir/err" &
  command=$!
  read -r <"$dir/fifo"
  touch "$one/frozen" &
  toucher=$!
  # It waits in the kernel, or it was not stopped and ends.
  until grep -q '^State:.D' "/proc/$toucher/status" 2>/dev/null; do
    kill -0 $toucher 2>/dev/null || fail "$one is not frozen"
    sleep 0.02
  done
}

# Killed in each way: thawed at once.
for signal in KILL TERM HUP; do
  start_hanging --freeze-timeout=40
  kill -$signal $command
  wait $command 2>/dev/null && fail "killed, and status 0"
  begin=$SECONDS
  wait $toucher
  [ $((SECONDS - begin)) -le 5 ] || fail "frozen long after SIG$signal"
done

# Stopped: thawed at the deadline; and no snapshot when it goes on.
start_hanging --freeze-timeout=2
kill -STOP $command
begin=$SECONDS
wait $toucher
[ $((SECONDS - begin)) -le 8 ] || fail "frozen too long while it was stopped"
kill -CONT $command
status=0
wait $command || status=$?
[ $status = 1 ] || fail "stopped: status $status"
said "no snapshot is kept"

# The guard is killed: the command thaws.
start_hanging --freeze-timeout=40
kill -KILL "$(cat /proc/$command/task/$command/children)"
begin=$SECONDS
wait $toucher
[ $((SECONDS - begin)) -le 5 ] || fail "frozen long after its guard's end"
status=0
wait $command || status=$?
[ $status = 1 ] || fail "without its guard: status $status"
said "was killed: no snapshot is kept"

# Somebody else thaws it.
start_hanging --freeze-timeout=2
fsfreeze -u "$one"
wait $toucher
status=0
wait $command || status=$?
[ $status = 1 ] || fail "thawed by somebody else: status $status"
said "$one was thawed by somebody else before the snapshot was taken"

# Somebody else has frozen it: that stays, and what was frozen before it is
# thawed.
fsfreeze -f "$one"
run 1 --freeze="$two" --freeze="$one"
said "$one is frozen already, by somebody else"
frozen_for "$two"
fsfreeze -u "$one" || fail "$one was thawed"
thawed "$two" 2

# What cannot be frozen, or should not.
: >"$dir/asked"
mkdir "$one/sub"
run 1 --freeze="$one/sub"
said "--freeze=$one/sub: is no mount point"
run 1 --freeze="$dir/none"
said "--freeze=$dir/none: No such file or directory"
run 1 --freeze="$dir/script"
said "--freeze=$dir/script: Not a directory"
run 1 --freeze="$one" --freeze="$one/../one"
said "is the same file system as $one"
[ ! -s "$dir/asked" ] || fail "the server was asked"
run 1 --freeze=/proc
said "/proc cannot be frozen: its kind of file system does not have that"
for seconds in 0 -1 1.5 4000 '' x; do
  run 2 --freeze="$one" --freeze-timeout="$seconds"
  said "must be a number of seconds from 1 to 3600"
done
if command -v setpriv >/dev/null; then
  status=0
  setpriv --inh-caps=-all --bounding-set=-all \
    "$FSSNAP" create --freeze="$one" 2>"$dir/err" >"$dir/out" || status=$?
  [ $status = 1 ] || fail "without capabilities: status $status"
  said "$one cannot be frozen: Operation not permitted: only root may"
fi

# The server's files are there.
for what in origin store; do
  echo >"$one/$what"
  script read "$(reply "{\"origin\":\"/dev/null\",\"$what\":\"$one/$what\"}")"
  run 1 --freeze="$one"
  said "the server's $what, $one/$what, is on that file system"
done
script read "$info"
run 1 --freeze="$one" -o bs="$one/new"
said "the server's backing store, $one/new, is on that file system"
script read "$(reply "{\"origin\":\"$loop\",\"store\":null}")" read "$created" \
  read "$(reply '{}')"
run 0 --freeze="$two"
said "warning: $two is mounted from the origin itself"
thawed "$one" 2
thawed "$two" 2

# A server that needs what is frozen, which it does not tell: it hangs in the
# middle of taking the snapshot; the deadline lets it go on, and no snapshot
# is left.
kill "$server"
wait "$server" 2>/dev/null || true
rm -f "$control" "$dir/pid"
make_image "$dir/disk.img"
mkdir "$one/backing-store"
start_server "$dir/disk.img" control="$control" snapshot=no \
  backing-store="$one/backing-store"
run 1 --freeze="$one" --freeze-timeout=1
said "the snapshot was not there after 1 s (--freeze-timeout)"
frozen_for "$one"
for ((i = 0; i < 100; i++)); do
  "$FSSNAP" -s "$control" list >"$dir/out"
  ! grep -q "There are no snapshots" "$dir/out" || break
  sleep 0.1
done
grep -q "There are no snapshots" "$dir/out" || fail "left: $(cat "$dir/out")"
[ -z "$(ls "$one/backing-store")" ] || fail "a backing file is left"
# It is as good as before.
run 0 --freeze="$two"
[ "$(cat "$dir/out")" = snapshot/1 ] || fail "printed $(cat "$dir/out")"
stop_server
