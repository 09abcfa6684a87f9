#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Everything that can be said of the sources without running them.
set -u
cd "$(dirname "$0")/.." || exit
status=0

# say WHAT COMMAND...: what the command complains of is a failure.
say () {
  echo "lint: $1"
  shift
  "$@" || status=1
}

mapfile -t sources < <(find . -name 'build*' -prune -o -name '*.[ch]' -print)
mapfile -t shells < <(find . -name 'build*.sh' -print -o \
  -name 'build*' -prune -o -name '*.sh' -print -o -name '*.bash' -print)

# autoVariables: a writer that waits for memory is in the line by a link to
# its own stack, which it leaves before it returns.  varFuncNullUB: NULL is a
# pointer in glibc.  internalAstError: cppcheck 2.10 stumbles over ?: with
# compound literals.  unknownMacro: it does not know jansson's loops.
# returnDanglingLifetime: a method's result points to none of its call.
cppcheck_all () {
  cppcheck --quiet --error-exitcode=1 --std=c11 -j "$(nproc)" \
    --enable=warning,performance,portability --inline-suppr \
    --suppress=autoVariables:src/throttle.c --suppress=varFuncNullUB \
    --suppress=internalAstError \
    --suppress=unknownMacro:tests/fuzz/target.c \
    --suppress=returnDanglingLifetime:src/methods.c \
    -D_GNU_SOURCE -I include -I tests/support "${sources[@]}"
}

# The tests are left out: cmocka's asserts jump, which the analyzer does not
# know.  What is dropped here are colours, commands and counts.
clang_tidy () {
  sh scripts/build-clang.sh >/dev/null || return
  run-clang-tidy -quiet -p build-clang "$PWD/(src|cli|nbdkit)[^/]*" 2>/dev/null |
    sed 's/\x1b\[[0-9;]*m//g; /^clang-tidy/d'
  return "${PIPESTATUS[0]}"
}

# shellcheck disable=SC2317 # it is called
every_parameter () {
  local name missing=0
  while read -r name; do
    grep -q "^=item .*B<$name=" docs/nbdkit-fssnap-plugin.pod && continue
    echo "docs/nbdkit-fssnap-plugin.pod: there is no =item B<$name=>"
    missing=1
  done < <(sed -n 's/^ *P ("\([^"]*\)".*/\1/p' include/config.h)
  return $missing
}

say "clang-format" clang-format --dry-run -Werror "${sources[@]}"
say "cppcheck" cppcheck_all
say "clang-tidy" clang_tidy
say "shellcheck" shellcheck -x -P SCRIPTDIR -S warning "${shells[@]}" .ci/run
say "podchecker" podchecker -warnings -warnings docs/*.pod
say "every parameter is in the manual" every_parameter
exit $status
