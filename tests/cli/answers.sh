#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Answers that are late, strange, too long, of another kind of server, or do
# not come at all.
# shellcheck source=functions.sh
. "$(dirname "$0")/functions.sh"
start_fake

strange () {
  script "$2"
  [ -z "${3-}" ] || script "$2" "$3"
  run 1 list
  said "$control: the answer is not one of nbdkit fssnap ($1"
}
hung_up="the server at $control hung up before it answered: its log may say \
why, and 'fssnap list' what has been done"
good='{"jsonrpc":"2.0","id":@ID@,"result":{"snapshots":[]}}'

# The server hangs up: at once, after the request, in the middle.
script ''
sed -i d "$dir/script"
run 1 list
said "$hung_up"
script read
run 1 list
said "$hung_up"
script read 'bytes {"jsonrpc":"2.0","id":1,"resu'
run 1 list
said "$hung_up"
# A whole answer without an end of line is not one.
script read "bytes $good"
run 1 list
said "$hung_up"

# It hangs up without having read, and says why.
for error in '6,"message":"too many connections"' '7,"message":"not allowed"'; do
  script "send {\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":$error}}"
  run 1 list
  said "fssnap: $(echo "$error" | cut -d '"' -f 4)"
done

# Not JSON, not an answer, not to this request.
strange "'[' or '{' expected near 'what'" 'read' 'send what'
strange "unable to decode byte 0xff" read 'bytes {"id":"\xff"}\n'
strange '\\u0000 is not allowed' read 'send {"id":"\u0000"}'
strange "end of file expected near" read 'bytes {}\x00\n'
strange "its id is not the request's" read 'send []'
strange "its id is not the request's" read 'send {"result":{}}'
strange "its id is not the request's" read 'send {"id":2,"result":{}}'
strange "its id is not the request's" read 'send {"id":"1","result":{}}'
strange "its id is not the request's" read 'send {"id":null,"result":{}}'
strange "it has no result" read 'send {"id":@ID@}'
strange "it has no result" read 'send {"id":@ID@,"result":[]}'
strange "its error has no code and message" read 'send {"id":@ID@,"error":7}'
strange "its error has no code and message" read \
  'send {"id":@ID@,"error":{"code":"1","message":"x"}}'
strange "its error has no code and message" read \
  'send {"id":@ID@,"error":{"code":1,"message":{}}}'

# The other socket of nbdkit; it would wait for ever.
script 'bytes NBDMAGICIHAVEOPT\x00\x03' wait
run 1 list
said "$control is where the server speaks NBD; its control socket is the one \
of control=PATH"

# In pieces, with blank lines before, with more behind.
script read 'bytes \n \r\n{"jsonrpc":"2.0",' "bytes \"id\":@ID@,\"result\":" \
  'bytes {"snapshots":[]}}\n{"id":7}\n'
run 0 list
printed "There are no snapshots."

# A long one is no problem: 3 MiB.
long=$(printf '%03000d' 0)
python3 - "$dir/script" "$long" <<'EOF'
import json, sys
row = {"snapnumber": 1, "backing-store": "/" + sys.argv[2]}
with open(sys.argv[1], "w") as script:
    script.write("read\nsend " + json.dumps(
        {"id": 1, "result": {"snapshots": [row] * 1000}}) + "\n")
EOF
run 0 list
silent
[ "$(wc -l <"$dir/out")" = 1001 ] || fail "not all rows of a long answer"
[ "$(grep -c "/$long\$" "$dir/out")" = 1000 ] || fail "a long answer is cut"

# One without an end is.
script read 'fill 68000000' wait
run 1 list
said "$control: the answer is longer than 64 MiB: is this the control socket \
of nbdkit fssnap?"

# No memory beyond what the libraries take; sanitizers need more themselves.
if [ -z "${FSSNAP_PRELOAD:-}" ]; then
  (
    ulimit -v 100000
    run 1 list
    said "fssnap: out of memory"
  )
fi

# The answer takes its time, and the command is stopped meanwhile.
mkfifo "$dir/has-asked" "$dir/go"
script read "tell $dir/has-asked" "await $dir/go" "send $good"
"$FSSNAP" list >"$dir/out" 2>"$dir/err" &
command=$!
undo+=('[ -z "$command" ] || kill -KILL "$command"')
read -r _ <"$dir/has-asked"
kill -STOP "$command"
kill -CONT "$command"
echo >"$dir/go"
wait "$command" || fail "stopped and continued: $(cat "$dir/err")"
command=
called="stopped and continued"
printed "There are no snapshots."

# The server is killed in the middle of it.
script read "tell $dir/has-asked" wait
"$FSSNAP" create >"$dir/out" 2>"$dir/err" &
command=$!
read -r _ <"$dir/has-asked"
kill -KILL "$server"
server=
status=0
wait "$command" || status=$?
command=
called="a server that is killed"
[ "$status" = 1 ] || fail "$called: status $status"
said "$hung_up"
