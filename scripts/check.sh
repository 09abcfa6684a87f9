#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Build, lint and test.  The last line printed is "N passed, M failed,
# K skipped", over all runs; the status is 0 if nothing failed.
#   check.sh check       everything; the sanitizer runs in their short form
#   check.sh check-asan  unit, stress, fuzz and fs tests, long, with ASan, UBSan
#   check.sh check-tsan  unit, stress and fuzz tests, long, with TSan
#   check.sh check-long  everything in long form, no sanitizer
set -u
cd "$(dirname "$0")/.." || exit

logs=build/check-logs # of this run; one JSON object a line, as meson's
rm -rf "$logs"
mkdir -p "$logs"

# result NAME OK|FAIL: what is not a test of meson's counts as one too.
result () {
  printf '{"name": "%s", "result": "%s"}\n' "$1" "$2" >>"$logs/steps.json"
}

# step NAME COMMAND...
step () {
  local name=$1
  shift
  echo "== $name"
  if "$@"; then
    result "$name" OK
  else
    result "$name" FAIL
    return 1
  fi
}

aslr=() # a command before meson test

# run_tests DIRECTORY MESON-TEST-ARGUMENT...
run_tests () {
  local directory=$1 log=$1/meson-logs/testlog.json
  shift
  echo "== tests in $directory"
  rm -f "$log"
  "${aslr[@]}" meson test -C "$directory" --no-rebuild --print-errorlogs "$@"
  # A run without tests, or without a log, has tested nothing.
  if [ -s "$log" ]; then
    cp "$log" "$logs/$directory.json"
  else
    result "tests in $directory" FAIL
  fi
}

# sanitized DIRECTORY WHICH SLOWER SUITES...: build it and run the tests of the
# suites, with that many times the timeout.  The address space of gcc 12's TSan
# does not fit every kernel's ASLR.
sanitized () {
  setarch -R true 2>/dev/null && local aslr=(setarch -R)
  local directory=$1 which=$2 slower=$3
  shift 3
  step "build with $which" sh scripts/build.sh "$directory" \
    -Db_sanitize="$which" -Db_lundef=false || return
  run_tests "$directory" "${@/#/--suite=}" --timeout-multiplier "$slower"
}

# What has threads, and what reads what anybody may have written.
asan=(unit stress fuzz fs)
tsan=(unit stress fuzz)

plain () {
  step "build with gcc" sh scripts/build.sh build || return
  run_tests build "$@"
}

# A server with a data race ends there and then, and its test with it.
export TSAN_OPTIONS=${TSAN_OPTIONS:-halt_on_error=1:suppressions=$PWD/tests/tsan-suppressions}

case $1 in
  check)
    plain
    step "build with clang" sh scripts/build-clang.sh
    step "lint" bash scripts/lint.sh
    sanitized build-asan address,undefined 5 "${asan[@]}"
    sanitized build-tsan thread 5 "${tsan[@]}"
    ;;
  check-asan)
    FSSNAP_LONG=1 sanitized build-asan address,undefined 50 "${asan[@]}" ;;
  check-tsan) FSSNAP_LONG=1 sanitized build-tsan thread 50 "${tsan[@]}" ;;
  check-long) FSSNAP_LONG=1 plain --timeout-multiplier 20 ;;
  *) echo "check.sh: no '$1'" >&2; exit 1 ;;
esac

echo
python3 scripts/summary.py "$logs"/*.json | tee "$logs/summary"
grep -q ' 0 failed,' "$logs/summary"
