#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# fssnap create: what it asks for, what it prints.
# shellcheck source=functions.sh
. "$(dirname "$0")/functions.sh"
start_fake
cd "$dir"

answer '{"snapnumber":3,"export":"snapshot/3"}'
run 0 create
printed "snapshot/3"
asked snapshot.create '{"options":{}}'

run 0 create --name nightly
printed "snapshot/3"
asked snapshot.create '{"name":"nightly","options":{}}'

run 0 create --ephemeral
asked snapshot.create '{"ephemeral":true,"options":{}}'
run 0 create --name n --ephemeral -o durability=stable
asked snapshot.create '{"name":"n","ephemeral":true,"options":{"durability":"stable"}}'

# All options, in one list and in several; nothing is looked at here.
run 0 create -o chunksize=64k,maxsize=10G,backfile-size=2G,durability=written \
  -o on-error=break-write,cow-timeout=5 --name=n
printed "snapshot/3"
asked snapshot.create '{"name":"n","options":{"chunksize":"64k","maxsize":"10G","backfile-size":"2G","durability":"written","on-error":"break-write","cow-timeout":"5"}}'

# A path is made absolute; it need not exist.
for key in backing-store bs bf; do
  run 0 create -o $key=/var/tmp
  asked snapshot.create '{"options":{"backing-store":"/var/tmp"}}'
  run 0 create -o $key=some/where
  asked snapshot.create "{\"options\":{\"backing-store\":\"$dir/some/where\"}}"
done
run 0 create -o bs=.
asked snapshot.create "{\"options\":{\"backing-store\":\"$dir/.\"}}"
run 0 create -o bs=größe
asked snapshot.create "{\"options\":{\"backing-store\":\"$dir/größe\"}}"

# Two commas are one of the value; = is one.
run 0 create -o bs=/a,,b=c,maxsize=1
asked snapshot.create '{"options":{"backing-store":"/a,b=c","maxsize":"1"}}'
run 0 create -o bs=/,,,maxsize=1
asked snapshot.create '{"options":{"backing-store":"/,","maxsize":"1"}}'

# From a directory that is gone.
mkdir gone
cd gone
rmdir "$dir/gone"
run 0 create -o bs=/tmp
: >"$dir/asked"
run 1 create -o bs=x
said "backing-store=x: cannot find the directory to which this is relative: \
No such file or directory: give an absolute path"
[ ! -s "$dir/asked" ] || fail "the server was asked"
cd "$dir"

# What the server says is passed on.
refuse -32602 'chunksize=3k: must be a power of two from 512 to 64M'
run 1 create -o chunksize=3k
said "fssnap: chunksize=3k: must be a power of two from 512 to 64M"

# It has created one, and does not say which.
answer '{"snapnumber":3}'
run 1 create
said "$control: a snapshot has been created, but the server did not say which"

# The name cannot be printed: that is a failure, but there is a snapshot.
answer '{"export":"snapshot/3"}'
status=0
"$FSSNAP" create >/dev/full 2>err || status=$?
[ $status = 1 ] || fail ">/dev/full: status $status"
: >out
called=">/dev/full"
said "cannot write to standard output: No space left on device"
said "snapshot/3 has been created nevertheless"
