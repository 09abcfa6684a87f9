#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# Set a build directory up if it is new, and build:
#   build.sh DIRECTORY [MESON-OPTION...]
set -eu
cd "$(dirname "$0")/.."
directory=$1
shift
[ -f "$directory/build.ninja" ] || meson setup "$directory" "$@"
ninja -C "$directory"
