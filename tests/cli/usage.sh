#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# The command line: help, version, what is wrong; without a server.
# shellcheck source=functions.sh
. "$(dirname "$0")/functions.sh"

export FSSNAP_SOCKET=$dir/none

run 0 --version
silent
grep -qE '^fssnap [0-9]+\.[0-9]+\.[0-9]+$' "$dir/out" || fail "--version"

# Every command is in the help, has a help of its own, and is in the manual
# with its options.
run 0 --help
silent
mapfile -t commands < <(sed -n 's/^  \([a-z][a-z]*\)  .*/\1/p' "$dir/out")
all="create delete list info attach detach mount umount check candidates"
[ "${commands[*]}" = "$all" ] || fail "${commands[*]}"
manual=$FSSNAP_SOURCE/docs/fssnap.pod
for command in "${commands[@]}"; do
  grep -q "^=item B<$command>" "$manual" || fail "the manual has no $command"
  run 0 "$command" --help
  silent
  grep -q "^Usage: fssnap $command " "$dir/out" || fail "$command --help"
  while read -r option; do
    grep -q "B<$option" "$manual" || fail "the manual has no $command $option"
  done < <(grep -o -e '--[a-z]*' "$dir/out")
  # Also where it is not the first, and with an option that is.
  run 0 -s x "$command" --help
  grep -q "^Usage: fssnap $command " "$dir/out" || fail "-s x $command --help"
  run_usage "$command" --nonsense
  said "fssnap $command: unrecognized option '--nonsense'"
  case $command in check | candidates) continue ;; esac
  run_usage "$command" --socket=
  said "--socket=: must be a path"
done
run_usage check --socket=x .
said "fssnap check: unrecognized option '--socket=x'"

run_usage
said "a command is missing"
run_usage -s x
said "a command is missing"
run_usage destroy
said "there is no command 'destroy'; there are: $all"
run_usage --nonsense list
said "fssnap: unrecognized option '--nonsense'"
run_usage -s
said "option requires an argument -- 's'"
run_usage -s '' list
said "--socket=: must be a path"
run_usage list --json=yes
said "doesn't allow an argument"

run_usage create nightly
said "'nightly': create takes options only; a name is given with --name"
run_usage create --name
said "requires an argument"
run_usage list 3
said "'3': list takes options only; 'fssnap info' tells of one snapshot"
run_usage delete
said "which snapshot? Give its number or name"
run_usage delete 1 2
said "'2': one snapshot can be given"
run_usage info 1 2
said "'2': one snapshot can be given"
run_usage delete $'\xff'
said "'\\xff': must be UTF-8"
run_usage info -- --json 2
said "'2': one snapshot can be given"

# create -o
options="backing-store, bs, bf, backfile-size, chunksize, cow-timeout, \
durability, maxsize, on-error"
run_usage create -o size=1
said "-o size: there is no such option; there are: $options"
run_usage create -o chunksize
said "-o chunksize: must be chunksize=VALUE"
run_usage create -o chunksize=
said "-o chunksize: must be chunksize=VALUE"
for list in '' ',chunksize=4k' 'chunksize=4k,'; do
  run_usage create -o "$list"
  said "-o: there is nothing before or after a comma"
done
run_usage create -o chunksize=4k -o chunksize=8k
said "-o chunksize=8k: chunksize is given twice"
run_usage create -o bs=/a,bf=/b
said "-o bf=/b: backing-store is given twice"
run_usage create -o chunksize=$'\xff'
said "chunksize=\\xff: must be UTF-8"
run_usage create --name $'\xe9t\xe9'
said "--name=\\xe9t\\xe9: must be UTF-8"

# info -o
run_usage info -o nonsense 3
said "-o nonsense: there is no such key; there are: snapnumber, name, state,"
run_usage info -o state,pid 3
said "-o pid: there is no such key; there are: snapnumber,"
run_usage info -o state
said "-o state: there is no such key; there are: version, protocol, pid,"
run_usage info -o '' 3
said "-o : there is no such key"

# The usage is right, there is no server.
run 1 list
said "cannot connect to $dir/none: No such file or directory: is the server \
running (nbdkit fssnap ... control=$dir/none)?"
