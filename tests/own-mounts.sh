#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# Run a test that mounts in a mount namespace of its own:
#   own-mounts.sh COMMAND...
# Other tests take copies of all the mounts there are into theirs, and as long
# as such a copy is there a file system that was unmounted still is in use: its
# journal is not empty, its loop device is not free.
if [ "$(id -u)" = 0 ] && unshare --mount true 2>/dev/null; then
  exec unshare --mount --propagation private "$@"
fi
exec "$@"
