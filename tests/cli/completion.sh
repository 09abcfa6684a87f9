#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# What a tab makes of a command line, in a real bash.
# shellcheck source=functions.sh
. "$(dirname "$0")/functions.sh"
library=/usr/share/bash-completion/bash_completion
[ -r $library ] || skip "bash-completion is not installed"
start_fake
cd "$dir"

mkdir bin paths 'paths/a dir'
: >paths/file
ln -s "$FSSNAP" bin/fssnap
export PATH=$dir/bin:$PATH

# write_rc MORE: what the bash reads at its start.
write_rc () {
  printf '%s\n' ". $library" ". '$FSSNAP_SOURCE/cli/completion/fssnap.bash'" \
    "unset FSSNAP_SOCKET" "$@" >rc
}

# becomes: the standard input has lines "KEY LINE|RESULT"; check them all.
becomes () {
  cat >cases
  sed 's/|.*//' cases |
    LD_PRELOAD='' timeout 60 python3 "$FSSNAP_SOURCE/tests/cli/complete.py" rc >results
  sed 's/^[^|]*|//' cases >expected
  diff expected results || fail "the completions are not as expected"
}

control_json='{"snapshots":[{"snapnumber":1,"name":null},{"snapnumber":3,"name":"nightly"},{"name":"before.upgrade_2","snapnumber":12},{"snapnumber":"5","name":"$(touch bad)"},{"snapnumber":6,"name":"`touch bad`"},{"snapnumber":7,"name":"a b"}]}'
answer "$control_json"

# Commands, options.
write_rc "FSSNAP_SOCKET=control; export FSSNAP_SOCKET"
becomes <<'EOF'
all fssnap |fssnap attach candidates check create delete detach info list mount umount 
tab fssnap cr|fssnap create 
tab fssnap -s control del|fssnap -s control delete 
all fssnap -|fssnap --help --socket= --version -s 
tab fssnap --so|fssnap --socket=
all fssnap create |fssnap create --candidates= --ephemeral --freeze-timeout= --freeze= --help --name= --socket= -o -s 
tab fssnap create --n|fssnap create --name=
all fssnap list --|fssnap list --all --help --json --socket= --store= 
all fssnap delete -|fssnap delete --force --help --socket= -s 
all fssnap info --|fssnap info --help --json --socket= 
all fssnap check -|fssnap check --help --json 
tab fssnap check pa|fssnap check paths/
tab fssnap check pa |fssnap check pa 
tab fssnap list --store pa|fssnap list --store paths/
tab fssnap list --store=pa|fssnap list --store=paths/
tab fssnap create --candidates=x|fssnap create --candidates=xfs 
all fssnap candidates --type=e|fssnap candidates --type=exfat ext4 
tab fssnap create --freeze pa|fssnap create --freeze paths/
tab fssnap create --freeze=pa|fssnap create --freeze=paths/
tab fssnap candidates pa|fssnap candidates paths/
all fssnap mount |fssnap mount 1 12 3 6 7 before.upgrade_2 nightly 
tab fssnap mount ni|fssnap mount nightly 
tab fssnap mount nightly pa|fssnap mount nightly paths/
tab fssnap destroy |fssnap destroy 
tab fssnap create --name |fssnap create --name 
tab fssnap create --name=|fssnap create --name=
EOF

# Snapshots, by the server that the line means; one operand only.
becomes <<'EOF'
all fssnap delete |fssnap delete 1 12 3 6 7 before.upgrade_2 nightly 
tab fssnap delete ni|fssnap delete nightly 
tab fssnap delete --force be|fssnap delete --force before.upgrade_2 
tab fssnap info --json ni|fssnap info --json nightly 
tab fssnap info -o state ni|fssnap info -o state nightly 
tab fssnap info nightly ni|fssnap info nightly ni
tab fssnap -s none info ni|fssnap -s none info ni
tab fssnap --socket=none info ni|fssnap --socket=none info ni
tab fssnap info --socket none ni|fssnap info --socket none ni
tab fssnap info -snone ni|fssnap info -snone ni
tab fssnap --socket=control info ni|fssnap --socket=control info nightly 
EOF
[ ! -e bad ] || fail "a name was carried out"

# Options of create and info: items of a list, values, paths.
becomes <<'EOF'
tab fssnap create -o chu|fssnap create -o chunksize=
tab fssnap create -o chunksize=4k,max|fssnap create -o chunksize=4k,maxsize=
all fssnap create -o chunksize=4k,b|fssnap create -o chunksize=4k,backfile-size= 4k,backing-store= 4k,bf= 4k,bs= 
tab fssnap create -o durability=w|fssnap create -o durability=written 
all fssnap create -o maxsize=1,on-error=|fssnap create -o maxsize=1,on-error=break-snapshot break-write 
tab fssnap create -o bs=paths/f|fssnap create -o bs=paths/file 
tab fssnap create -o maxsize=1,backing-store=pat|fssnap create -o maxsize=1,backing-store=paths/
tab fssnap create -o bf=paths/a|fssnap create -o bf=paths/a\ dir/
tab fssnap info -o sna|fssnap info -o snapnumber
tab fssnap info -o state,backing-store-|fssnap info -o state,backing-store-len
tab fssnap list -o |fssnap list -o 
tab fssnap -s contr|fssnap -s control 
tab fssnap list --socket pat|fssnap list --socket paths/
tab fssnap list --socket=contr|fssnap list --socket=control 
EOF

# Where = does not part words.
write_rc "export FSSNAP_SOCKET=control; COMP_WORDBREAKS=\${COMP_WORDBREAKS//=/}"
becomes <<'EOF'
tab fssnap create -o chunksize=4k,max|fssnap create -o chunksize=4k,maxsize=
all fssnap create -o maxsize=1,on-error=|fssnap create -o maxsize=1,on-error=break-snapshot maxsize=1,on-error=break-write 
tab fssnap create -o bs=paths/f|fssnap create -o bs=paths/file 
tab fssnap list --socket=contr|fssnap list --socket=control 
tab fssnap --socket=control delete ni|fssnap --socket=control delete nightly 
EOF

# Its keys are those of the command.
keys_of () {
  "$FSSNAP" "$@" 2>&1 | sed -n 's/.*there are: //p' | tr -d ,
}
items_of () {
  # shellcheck disable=SC2016 # for the inner shell
  bash -c '. "$1"; compopt () { :; }; cur=; "$2"; echo "${COMPREPLY[@]}"' \
    - "$FSSNAP_SOURCE/cli/completion/fssnap.bash" "$1"
}
sorted () { tr ' ' '\n' | sort | tr '\n' ' '; }
[ "$(keys_of create -o x | sorted)" = \
  "$(items_of _fssnap_create_option | tr -d = | sorted)" ] ||
  fail "create has not the keys $(items_of _fssnap_create_option)"
[ "$(echo "$(keys_of info -o x 1)" mountpoint | sorted)" = \
  "$(items_of _fssnap_info_option | sorted)" ] ||
  fail "info has not the keys $(items_of _fssnap_info_option)"

# Without a server, with one that hangs up, or says nothing: no word.
write_rc "export FSSNAP_SOCKET=none"
becomes <<'EOF'
all fssnap delete |fssnap delete 
EOF
write_rc "export FSSNAP_SOCKET=control"
for step in read wait; do
  script $step
  becomes <<'EOF'
all fssnap delete |fssnap delete 
EOF
done
