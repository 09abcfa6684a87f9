#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Measure the plugin against nbdkit's file plugin and against itself.

    bench.py compare   beside nbdkit's file plugin, qemu-storage-daemon and
                       threads that only copy: all figures, a report with
                       tables and pictures in BENCH_OUT (docs/bench)
    bench.py check     the ratios that must hold, and whether they do; those
                       alone whose case has BENCH_ONLY in its title
    bench.py chunks    the table in docs/chunk-size.md
    bench.py creates   how long writes stall while a snapshot is created, on
                       an origin of 1 GiB and one of 64 TiB
    bench.py depths    first-touch writes, what they copy and what memory
                       the server takes with 1, 8 and 64 snapshots
    bench.py levels    first-touch writes with a snapshot in a store, at each
                       level of durability, on tmpfs and on a disk
    bench.py start     from the start of a server to its first reply, with an
                       origin of 1 TiB and 8 snapshots in a store
    bench.py candidates  what is kept of file systems by --candidates=auto,
                       what a backup reads then, how long it takes to find
                       out, and what is copied while the free space is filled

Every row's candidates run in turn, ROUNDS times over (BENCH_ROUNDS, 5) after
once to warm up, on the same origin of BENCH_SIZE MiB (1024) in BENCH_DIR
(/dev/shm); figures are medians.  FSSNAP_PLUGIN names the plugin
(build/nbdkit-fssnap-plugin.so).

BENCH_DIR needs room for three times BENCH_SIZE; for compare and check 5 GiB
more; for creates four times, and sparse files of 64 TiB, which tmpfs and XFS
have.  creates takes BENCH_CREATES (100) snapshots in each run.  What is
compiled needs cc and libnbd-dev.

levels and start measure in BENCH_DISK (/tmp) as well, which must not be a
tmpfs.  A run of levels takes BENCH_SECONDS (5) at most.  start copies
BENCH_CHUNKS (1000000) chunks of 4 KiB, for which it needs twice their room,
and empties the page cache of the machine if it is root.  candidates needs
root, /dev/fuse and loop devices, and measures the kinds of file systems whose
mkfs is there; FSSNAP names the command (build/cli/fssnap).  These three write
all they have measured to BENCH_JSON, if that is the name of a file.

To see that all of it runs, in about two minutes:

    export BENCH_ROUNDS=1 BENCH_SIZE=64 BENCH_CREATES=5 BENCH_SECONDS=1 \\
      BENCH_CHUNKS=80000
    for what in compare chunks creates depths levels start candidates; do
      bench/bench.py $what
    done
"""
import shutil
import signal
import sys
import tempfile

sys.dont_write_bytecode = True  # next to the sources

from candidates import candidates_found
from chunks import chunks
from common import BASE
from compare import check, compare
from creates import creates
from depths import depths
from levels import levels
from start import start_times


def main():
    """Run what the command line names."""
    what = {"compare": compare, "check": check, "chunks": chunks,
            "creates": creates, "depths": depths, "levels": levels,
            "start": start_times, "candidates": candidates_found}
    if len(sys.argv) != 2 or sys.argv[1] not in what:
        sys.exit(__doc__)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    directory = tempfile.mkdtemp(prefix="fssnap-bench-", dir=BASE)
    try:
        what[sys.argv[1]](directory)
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
