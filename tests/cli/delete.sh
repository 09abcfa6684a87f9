#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# fssnap delete
# shellcheck source=functions.sh
. "$(dirname "$0")/functions.sh"
start_fake

answer '{"snapnumber":3}'
run 0 delete 3
printed ""
asked snapshot.delete '{"snapshot":"3","force":false}'
run 0 delete --force nightly
asked snapshot.delete '{"snapshot":"nightly","force":true}'
run 0 delete nightly --force
asked snapshot.delete '{"snapshot":"nightly","force":true}'
# As create prints it.
run 0 delete snapshot/3
asked snapshot.delete '{"snapshot":"3","force":false}'
# No number is too large to ask for.
run 0 delete 99999999999999999999
asked snapshot.delete '{"snapshot":"99999999999999999999","force":false}'

refuse 1 'there is no snapshot 9'
run 1 delete 9
said "fssnap: there is no snapshot 9"
said "fssnap: 'fssnap list' says which there are"

refuse 2 'snapshot 3 is in use: 1 connection has it open'
run 1 delete 3
said "fssnap: snapshot 3 is in use: 1 connection has it open"
said "fssnap: with --force it is deleted all the same, and who has it open gets \
errors"
run 1 delete --force 3
[ "$(wc -l <"$dir/err")" = 1 ] || fail "--force is recommended in addition"
