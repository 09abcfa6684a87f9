#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# fssnap info: of a snapshot, of the server, for people and for programs.
# shellcheck source=functions.sh
. "$(dirname "$0")/functions.sh"
start_fake

# As in docs/control-protocol.md.
whole='{"snapnumber":3,"name":"nightly","state":"active","export":"snapshot/3",
"origin":"/dev/sdb","store":"/var/lib/fssnap","ephemeral":false,
"size":1073741824,"createtime":1790000000,"backing-store":"/var/tmp",
"backing-store-len":12345344,"maxsize":0,
"chunksize":4096,"backfile-size":0,"durability":"async",
"on-error":"break-snapshot","cow-timeout":20,"clients":1,
"chunks-copied":3010,"chunks-lost":0,"chunks-free":0,
"bytes-copied":12328960,"bytes-in-memory":0,
"throttled-writers":0,"waits":0,"flush-errors":0,
"reads-origin":8192,"reads-memory":0,"reads-backing-file":4096,
"reads-zero":0,"deleted":false,"broken-reason":null,
"broken-errno":null,"broken-time":null,"blocked-by":null,"highest":5,
"from-the-future":{"a":[1,null]}}'
whole=${whole//$'\n'/}
answer "$whole"

run 0 info nightly
asked snapshot.info '{"snapshot":"nightly"}'
printed 'snapnumber:         3
name:               nightly
state:              active
export:             snapshot/3
origin:             /dev/sdb
store:              /var/lib/fssnap
ephemeral:          false
size:               1073741824 (1.0G)
createtime:         2026-09-21 14:13:20 +0000
backing-store:      /var/tmp
backing-store-len:  12345344 (11.8M)
maxsize:            0 (no limit)
chunksize:          4096 (4.0k)
backfile-size:      0 (no limit)
durability:         async
on-error:           break-snapshot
cow-timeout:        20s
clients:            1
chunks-copied:      3010
chunks-lost:        0
chunks-free:        0
bytes-copied:       12328960 (11.8M)
bytes-in-memory:    0
throttled-writers:  0
waits:              0
flush-errors:       0
reads-origin:       8192 (8.0k)
reads-memory:       0
reads-backing-file: 4096 (4.0k)
reads-zero:         0
deleted:            false
broken-reason:      -
broken-errno:       -
broken-time:        -
blocked-by:         -
highest:            5
from-the-future:    {"a":[1,null]}'
TZ=Asia/Kolkata run 0 info snapshot/nightly
asked snapshot.info '{"snapshot":"nightly"}'
grep -q '^createtime:  *2026-09-21 19:43:20 +0530$' "$dir/out" || fail "TZ"

run 0 info --json 3
silent
python3 - "$dir/out" "$whole" <<'EOF'
import json, sys
assert json.load(open(sys.argv[1])) == json.loads(sys.argv[2])
EOF

# -o: values only, in the order asked; those of Solaris, too.
run 0 info -o state,snapnumber -o broken-reason,createtime,maxsize 3
printed 'active
3

1790000000
0'
run 0 info -o snapnumber,state,mountpoint,backing-store,backing-store-len,maxsize,createtime,chunksize 3
printed '3
active
/dev/sdb
/var/tmp
12345344
0
1790000000
4096'
run 0 info -o size,size 3
printed $'1073741824\n1073741824'
run 0 info --json -o waits,mountpoint 3
printed '{
  "waits": 0,
  "mountpoint": "/dev/sdb"
}'

# Each key that there is can be asked for, and is in the manual.
! "$FSSNAP" info -o '?' 3 2>"$dir/err" || fail "-o ?: is a key"
mapfile -t keys < <(sed -n 's/.*there are: //p' "$dir/err" | sed 's/, /\n/g')
[ ${#keys[@]} = 36 ] || fail "${#keys[@]} keys: ${keys[*]}"
for key in "${keys[@]}"; do
  run 0 info -o "$key" 3
  silent
  grep -q "^=item.*B<$key>" "$FSSNAP_SOURCE/docs/fssnap.pod" ||
    fail "the manual has no $key"
done

# The server itself.
server_whole='{"version":"0.1.0","protocol":1,"pid":4711,"origin":"/dev/sdb",
"size":1073741824,"store":null,"readonly":false,
"listen":["nbd+unix:///?socket=/run/nbd.sock","nbd://localhost:10809"],
"snapshots":2,"highest":5,"max-memory":67108864,"memory":1048576,
"throttled-writers":0}'
answer "${server_whole//$'\n'/}"
run 0 info
asked server.info '{}'
printed 'version:           0.1.0
protocol:          1
pid:               4711
origin:            /dev/sdb
size:              1073741824 (1.0G)
store:             -
readonly:          false
listen:            nbd+unix:///?socket=/run/nbd.sock nbd://localhost:10809
snapshots:         2
highest:           5
max-memory:        67108864 (64.0M)
memory:            1048576 (1.0M)
throttled-writers: 0'
run 0 info -o listen,max-memory
printed $'nbd+unix:///?socket=/run/nbd.sock nbd://localhost:10809\n67108864'
! "$FSSNAP" info -o '?' 2>"$dir/err" || fail "-o ?: is a key"
mapfile -t keys < <(sed -n 's/.*there are: //p' "$dir/err" | sed 's/, /\n/g')
[ ${#keys[@]} = 13 ] || fail "${#keys[@]} keys: ${keys[*]}"
for key in "${keys[@]}"; do
  run 0 info -o "$key"
  grep -q "^=item.*B<$key>" "$FSSNAP_SOURCE/docs/fssnap.pod" ||
    fail "the manual has no $key"
done
answer '{"listen":[],"size":"much"}'
run 0 info
printed $'listen: -\nsize:   much'

# A server that does not tell what is asked for.
run 1 info -o version
said "the server does not tell 'version': it is of another version"

# A time that no calendar has.
answer '{"createtime":9223372036854775807}'
run 0 info 3
printed 'createtime: 9223372036854775807'

refuse 1 'there is no snapshot 9'
run 1 info 9
said "fssnap: there is no snapshot 9"
said "fssnap: 'fssnap list' says which there are"
refuse -32601 'there is no method server.info'
run 1 info
said "fssnap: there is no method server.info"
