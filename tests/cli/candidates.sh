#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# fssnap create --candidates: what the server is told of free space, and what
# becomes of it when something goes wrong with looking for it.
# shellcheck source=functions.sh
. "$(dirname "$0")/functions.sh"
require nbdkit mkswap
FSSNAP=$FSSNAP_STRIPES

reply () { echo "send {\"jsonrpc\":\"2.0\",\"id\":@ID@,\"result\":$1}"; }
created=$(reply '{"snapnumber":3,"export":"snapshot/3"}')
info=$(reply "{\"listen\":[\"$live\"]}")
freed=$(reply '{"chunks":1}')

# methods METHOD...: what it was asked since the last time, in ids from 1 on.
methods () {
  local all
  all=$(python3 -c '
import json, sys
for i, line in enumerate(open(sys.argv[1]), 1):
    request = json.loads(line)
    if len(line) > 1 << 20 or request["id"] != i:
        sys.exit(f"request {i}: {len(line)} bytes, id {request['"'id'"']}")
    print(request["method"])' "$dir/asked" | tr '\n' ' ')
  [ "$all" = "$* " ] || fail "$called: asked $all instead of $*"
}
# again STEP...
again () {
  : >"$dir/asked"
  script "$@"
}
told () {
  [ "$(cat "$dir/out")" = snapshot/3 ] ||
    fail "$called: printed '$(cat "$dir/out")'"
  grep -qF -e "$1" "$dir/err" ||
    fail "$called: said '$(cat "$dir/err")' instead of '$1'"
}

# The view.  nbdkit's file plugin takes any name of an export for its file.
truncate -s 100M "$dir/disk.img"
mkswap -q "$dir/disk.img" 2>/dev/null
start "$dir/pid" nbdkit -f -r -U "$socket" -P "$dir/pid" file "$dir/disk.img"
undo+=("kill $started")
rm "$dir/pid"
start_fake

# Without it, or with all of the disk, one request does it.
again read "$created"
run 0 create --candidates=all
printed snapshot/3
asked snapshot.create '{"options":{}}'

# 12800 stripes are told in requests of 4096 at most.
for type in auto swap; do
  again read "$created" read "$info" read "$freed" read "$freed" read "$freed" \
    read "$freed" read "$(reply '{}')"
  run 0 create --candidates=$type
  told "fssnap: swap: 50.0M of 100.0M are free"
  methods snapshot.create server.info snapshot.set_free snapshot.set_free \
    snapshot.set_free snapshot.set_free snapshot.create_done
done
python3 - "$dir/asked" <<'END' || fail "what is told is not what is free"
import json, sys
requests = [json.loads(line) for line in open(sys.argv[1])]
assert requests[0]["params"] == {"options": {}, "creating": True}
assert requests[-1]["params"] == {"snapshot": 3}
ranges = []
for request in requests[2:-1]:
    assert request["params"].keys() == {"snapshot", "ranges"}
    assert request["params"]["snapshot"] == 3
    assert len(request["params"]["ranges"]) <= 4096
    ranges += request["params"]["ranges"]
assert ranges == [[at, 4096] for at in range(4096, 100 << 20, 8192)]
END

# Another type is not found there: all is kept.  A type is not a guess.
again read "$created" read "$info" read "$(reply '{}')"
run 0 create --candidates=ext4
told "is kept: "
methods snapshot.create server.info snapshot.create_done
: >"$dir/asked"
run_usage create --candidates=minix
said "--candidates=minix: must be auto, "
run_usage create --candidates=
said "--candidates=: must be auto, "

# The server refuses what it is told: no snapshot, so no snapshot.create_done.
again read "$created" read "$info" read \
  'send {"jsonrpc":"2.0","id":@ID@,"error":{"code":-32602,"message":"ranges: no"}}'
run 1 create --candidates=auto
said "fssnap: ranges: no"
methods snapshot.create server.info snapshot.set_free
# It refuses to take it at all; to finish it; it hangs up.
again read \
  'send {"jsonrpc":"2.0","id":@ID@,"error":{"code":-32602,"message":"no room"}}'
run 1 create --candidates=auto
said "fssnap: no room"
methods snapshot.create
again read "$created" read "$info" read "$freed" read "$freed" read "$freed" \
  read "$freed" read \
  'send {"jsonrpc":"2.0","id":@ID@,"error":{"code":4,"message":"it is gone"}}'
run 1 create --candidates=auto
said "fssnap: it is gone"
again read "$created" read "$info" read
run 1 create --candidates=auto
said "hung up before it answered"

# Whatever happens to who looks, there is a snapshot, which keeps all.
for how in killed ends; do
  again read "$created" read "$info" read "$(reply '{}')"
  STRIPES=$how run 0 create --candidates=auto
  told "what it had not found yet is kept"
  methods snapshot.create server.info snapshot.create_done
done
if [ -z "${FSSNAP_SANITIZED:-}" ]; then
  again read "$created" read "$info" read "$(reply '{}')"
  STRIPES=memory run 0 create --candidates=auto
  told "swap: all of 100.0M is kept: there is an end to the memory"
  methods snapshot.create server.info snapshot.create_done
fi

# Nothing to look at: the server listens nowhere, or is not reached.
again read "$created" read "$(reply '{"listen":[]}')" read "$(reply '{}')"
run 0 create --candidates=auto
told "the server listens nowhere"
methods snapshot.create server.info snapshot.create_done
again read "$created" \
  read "$(reply "{\"listen\":[\"nbd+unix:///?socket=$dir/none\"]}")" \
  read "$(reply '{}')"
run 0 create --candidates=auto
told "what it had not found yet is kept"
methods snapshot.create server.info snapshot.create_done

# The command is killed while it looks: nothing of it stays.
rm -f "$dir/fifo"
mkfifo "$dir/fifo"
again read "$created" read "$info" read "tell $dir/fifo" wait
"$FSSNAP" create --candidates=auto >"$dir/out" 2>"$dir/err" &
command=$!
read -r <"$dir/fifo"
children=$(cat /proc/$command/task/$command/children)
kill -KILL $command
wait $command 2>/dev/null || true
for child in $children; do
  timeout 10 tail -f -s 0.05 --pid="$child" /dev/null ||
    fail "what looks for free space goes on"
done
