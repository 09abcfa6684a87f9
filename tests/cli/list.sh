#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# fssnap list: the table, JSON.
# shellcheck source=functions.sh
. "$(dirname "$0")/functions.sh"
start_fake

answer '{"snapshots":[]}'
run 0 list
printed "There are no snapshots."
asked snapshot.list '{"all":false}'
run 0 list --all
asked snapshot.list '{"all":true}'
run 0 list --json
printed '{
  "snapshots": []
}'

# snapshot NUMBER NAME STATE AGE COPIED MORE
now=$(date +%s)
snapshot () {
  echo "{\"snapnumber\":$1,\"name\":$2,\"state\":\"$3\"," \
    "\"createtime\":$((now - $4)),\"bytes-copied\":$5,\"clients\":${6:-0}," \
    "\"backing-store\":\"/var/tmp\"${7-}}"
}

# Every state, age and size; the columns are as wide as they need.
answer "{\"snapshots\":[$(snapshot 1 null idle 187200 1288490189),
$(snapshot 2 '"before-upgrade"' active 11130 12345344 12),
$(snapshot 3 '"a"' disabled 750 1024 0 ',"broken-reason":"no room"'),
$(snapshot 4 '"b"' disabled -100 1023 0 ',"deleted":true'),
$(snapshot 5 null idle -100 0 0 ',"blocked-by":3,"deleted":false,"broken-reason":null'),
$(snapshot 10 null creating -100 0)]}"
tr -d '\n' <"$dir/script" | sed 's/^read/read\n/' >"$dir/one-line"
cp "$dir/one-line" "$dir/script"
run 0 list
printed 'NUMBER  NAME            STATE                 AGE  COPIED  CLIENTS  BACKING STORE
     1  -               idle                2d04h    1.2G        0  /var/tmp
     2  before-upgrade  active              3h05m   11.8M       12  /var/tmp
     3  a               disabled (broken)     12m    1.0k        0  /var/tmp
     4  b               disabled (deleted)     0s    1023        0  /var/tmp
     5  -               idle (3 is broken)     0s       0        0  /var/tmp
    10  -               creating               0s       0        0  /var/tmp'

run 0 list --json
silent
python3 - "$dir/out" <<'EOF'
import json, sys
snapshots = json.load(open(sys.argv[1]))["snapshots"]
assert [s["snapnumber"] for s in snapshots] == [1, 2, 3, 4, 5, 10]
assert list(snapshots[0]) == ["snapnumber", "name", "state", "createtime",
                              "bytes-copied", "clients", "backing-store"]
assert snapshots[0]["name"] is None and snapshots[4]["blocked-by"] == 3
EOF

# Sizes are rounded to a tenth, never to 1024 of a unit.
while read -r bytes shown; do
  answer "{\"snapshots\":[$(snapshot 1 null idle 0 "$bytes")]}"
  run 0 list
  [ "$(awk 'NR == 2 { print $5 }' "$dir/out")" = "$shown" ] ||
    fail "$bytes: shown as $(cat "$dir/out")"
done <<'SIZES'
0 0
1023 1023
1024 1.0k
1075 1.0k
1076 1.1k
1048524 1023.9k
1048525 1.0M
1048576 1.0M
10995116277760 10.0T
9223372036854775807 8.0E
SIZES

# What a server does not tell is not made up.
answer '{"snapshots":[{"snapnumber":1},7]}'
run 0 list
printed 'NUMBER  NAME  STATE  AGE  COPIED  CLIENTS  BACKING STORE
     1  -     -        -       -        -  -
     -  -     -        -       -        -  -'
answer '{"list":[]}'
run 1 list
said "$control: the server's answer has no list of snapshots"
run 1 list --json
said "$control: the server's answer has no list of snapshots"
