#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# Build with clang, in build-clang, for its warnings and for clang-tidy.
# What nbdkit's NBDKIT_REGISTER_PLUGIN defines has no prototype; gcc knows
# that it comes from a system header.
set -eu
CC=clang sh "$(dirname "$0")/build.sh" build-clang \
  -Dc_args=-Wno-missing-prototypes
