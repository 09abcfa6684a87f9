#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# What is printed: nothing that steers a terminal; and when it cannot be.
# shellcheck source=functions.sh
. "$(dirname "$0")/functions.sh"
start_fake

# No byte of it is a control character but the newline.
harmless () {
  ! LC_ALL=C grep -q '[[:cntrl:]]' "$1" || fail "$called: $(cat -v "$1")"
  ! LC_ALL=C grep -q $'\xc2[\x80-\x9f]' "$1" || fail "$called: $(cat -v "$1")"
}

# Control characters in every form; direction marks; what is harmless stays.
nasty='a\u001b[31mb\nc\rd\te\u007ff\u009bg\u202eh\u2028i\\jäk€l😀m\u200bn\ufeffo'
shown='a\x1b[31mb\nc\rd\te\x7ff\xc2\x9bg\xe2\x80\xaeh\xe2\x80\xa8i\\jäk€l😀m\xe2\x80\x8bn\xef\xbb\xbfo'
answer "{\"origin\":\"$nasty\",\"listen\":[\"$nasty\"],\"k\u001b\":1}"
run 0 info
harmless "$dir/out"
printed "origin: $shown
listen: $shown
k\\x1b:  1"
run 0 info -o origin
printed "$shown"
# printf takes it back.
[ "$(printf %b "$(cat "$dir/out")")" = "$(printf "${nasty/\\\\/\\\\}")" ] ||
  fail "printf %b makes $(printf %b "$(cat "$dir/out")") of it"
run 0 info --json
harmless "$dir/out"
python3 - "$dir/out" "\"$nasty\"" <<'EOF'
import json, sys
assert json.load(open(sys.argv[1]))["origin"] == json.loads(sys.argv[2])
EOF

answer "{\"snapshots\":[{\"snapnumber\":1,\"name\":\"$nasty\",\"state\":\"$nasty\",\"backing-store\":\"$nasty\"}]}"
run 0 list
harmless "$dir/out"
[ "$(wc -l <"$dir/out")" = 2 ] || fail "more than a line a snapshot"
answer "{\"export\":\"$nasty\"}"
run 0 create
printed "$shown"

refuse 5 "$nasty"
run 1 create
harmless "$dir/err"
said "fssnap: $shown"
script read 'send \u001b[31m'
run 1 create
harmless "$dir/err"
# Arguments, too.
run 2 delete $'\xc3\xe2\x82\xf0\x9f\x98\xc0\xaf\xed'
harmless "$dir/err"
said "'\\xc3\\xe2\\x82\\xf0\\x9f\\x98\\xc0\\xaf\\xed': must be UTF-8"
run 1 list -s $'\e]0;x\a'
said 'cannot connect to \x1b]0;x\x07: '

# Columns are counted in characters, not bytes.
answer '{"snapshots":[{"name":"äöü"},{"name":"abcd"}]}'
run 0 list
printed 'NUMBER  NAME  STATE  AGE  COPIED  CLIENTS  BACKING STORE
     -  äöü   -        -       -        -  -
     -  abcd  -        -       -        -  -'

# It cannot be written: a full disk, nothing there at all.
answer '{"snapshots":[]}'
for arguments in list 'list --json' --help 'list --help' --version; do
  called="$arguments"
  : >"$dir/out"
  status=0
  # shellcheck disable=SC2086 # a list
  "$FSSNAP" $arguments >/dev/full 2>"$dir/err" || status=$?
  [ $status = 1 ] || fail "$arguments >/dev/full: status $status"
  said "fssnap: cannot write to standard output: No space left on device"
  status=0
  # shellcheck disable=SC2086 # a list
  "$FSSNAP" $arguments >&- 2>"$dir/err" || status=$?
  [ $status = 1 ] || fail "$arguments >&-: status $status"
  said "fssnap: cannot write to standard output: Bad file descriptor"
done
"$FSSNAP" list <&- >"$dir/out" 2>&- || fail "without input and messages"
called="without input and messages"
: >"$dir/err"
printed "There are no snapshots."
: >"$dir/asked"
"$FSSNAP" list <&- >&- 2>&- && fail "without anything"
asked snapshot.list '{"all":false}'

# More than a buffer of it.
row='{"snapnumber":1,"backing-store":"'$(printf '%03000d' 0)'"}'
rows=$row
for _ in 1 2 3 4 5 6 7; do rows=$rows,$rows; done
answer "{\"snapshots\":[$rows]}"
status=0
"$FSSNAP" list >/dev/full 2>"$dir/err" || status=$?
[ $status = 1 ] || fail "long >/dev/full: status $status"
: >"$dir/out"
said "cannot write to standard output: No space left on device"

# Nobody reads any more: nobody to tell.  With a snapshot created there is.
mkfifo "$dir/pipe"
exec 4<>"$dir/pipe"
exec 5>"$dir/pipe"
exec 4>&-
status=0
"$FSSNAP" list >&5 2>"$dir/err" || status=$?
[ $status = 1 ] || fail "to a closed pipe: status $status"
called="to a closed pipe"
silent
answer '{"export":"snapshot/3"}'
status=0
"$FSSNAP" create >&5 2>"$dir/err" || status=$?
[ $status = 1 ] || fail "create to a closed pipe: status $status"
said "fssnap: snapshot/3 has been created nevertheless"
