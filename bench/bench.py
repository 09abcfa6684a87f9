#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Measure the plugin against nbdkit's file plugin and against itself.

    bench.py peers     the ratios that must hold
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

BENCH_DIR needs room for three times BENCH_SIZE; for creates four times, and
sparse files of 64 TiB, which tmpfs and XFS have.  creates takes BENCH_CREATES
(100) snapshots in each run.  creates and depths need cc and libnbd-dev.

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
    for what in peers chunks creates depths levels start candidates; do
      bench/bench.py $what
    done
"""
import os
import shutil
import statistics
import sys
import tempfile
import time

sys.dont_write_bytecode = True  # next to the sources

from candidates import candidates_found
from common import (BASE, PLUGIN, RANDOM_READ, RANDOM_WRITE, READ, SCATTERED,
                    WRITE, Server, fio, in_turn, make_origin, ratios)
from creates import creates
from depths import depths
from levels import levels
from start import start_times


def copied_aside(store):
    """MiB in the backing file, once the flusher has come to rest."""
    if not os.path.exists(store):
        return 0
    before = -1
    while (blocks := os.stat(store).st_blocks) != before:
        before = blocks
        time.sleep(0.1)
    return blocks / 2048


def once(directory, origin, arguments, export, load, copied_first):
    """One run of one candidate: MiB/s, and MiB copied aside."""
    store = os.path.join(directory, "store")
    if arguments[0] == "file":
        arguments = ["file", origin]
    else:
        arguments = [PLUGIN, origin, f"backing-store={store}", *arguments[1:]]
    with Server(directory, *arguments) as server:
        if copied_first:
            fio(server.socket, "", WRITE)
        rate = fio(server.socket, export, load)
        return rate, copied_aside(store)


def measure(directory, origin, candidates):
    """CANDIDATES: name -> arguments of once.  Medians, and the ratios of
    each to the first, pair by pair."""
    runs = in_turn({
        name: lambda arguments=arguments: once(directory, origin, *arguments)
        for name, arguments in candidates.items()})
    first = [rate for rate, _ in next(iter(runs.values()))]
    result = {}
    for name, values in runs.items():
        rates = [rate for rate, _ in values]
        ratio, least, most = ratios(rates, first)
        result[name] = {
            "rate": statistics.median(rates),
            "ratio": ratio,
            "least": least,
            "most": most,
            "copied": statistics.median(copied for _, copied in values),
        }
    return result


def peers(directory):
    """The ratios that must hold."""
    origin = make_origin(directory)
    none = ["fssnap", "snapshot=no"]
    rows = []
    for load in (RANDOM_WRITE, RANDOM_READ, WRITE, READ):
        rows.append((load, 0.97, {
            "nbdkit file": (["file"], "", load, False),
            "no snapshot": (none, "", load, False),
            "all copied": (["fssnap"], "", load, True),
        }))
    for load in (RANDOM_READ, READ):
        rows.append((f"snapshot: {load}", 0.95, {
            "nbdkit file": (["file"], "", load, False),
            "none copied": (["fssnap"], "snapshot", load, False),
            "all copied": (["fssnap"], "snapshot", load, True),
        }))
    for load in (SCATTERED, RANDOM_WRITE, WRITE):
        rows.append((f"first touch: {load}", 0.5, {
            "snapshot=no": (none, "", load, False),
            "async": (["fssnap"], "", load, False),
            "async, io=sync": (["fssnap", "io=sync"], "", load, False),
            "written": (["fssnap", "durability=written"], "", load, False),
        }))
    print("| load | candidate | MiB/s | ratio | spread | goal |")
    print("| --- | --- | ---: | ---: | --- | ---: |")
    for load, goal, candidates in rows:
        for name, r in measure(directory, origin, candidates).items():
            print(f"| {load} | {name} | {r['rate']:.0f} | {r['ratio']:.2f} "
                  f"| {r['least']:.2f} to {r['most']:.2f} | {goal} |",
                  flush=True)


def chunks(directory):
    """What the chunk size does to first-touch writes."""
    origin = make_origin(directory)
    sizes = ["4k", "8k", "16k", "64k", "256k", "1M"]
    print("| load | chunk | MiB/s | of 4k | copied, MiB |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for load in (SCATTERED, RANDOM_WRITE, WRITE):
        candidates = {size: (["fssnap", f"chunksize={size}"], "", load, False)
                      for size in sizes}
        for name, r in measure(directory, origin, candidates).items():
            print(f"| {load} | {name} | {r['rate']:.0f} | {r['ratio']:.2f} "
                  f"| {r['copied']:.0f} |", flush=True)


def main():
    """Run what the command line names."""
    what = {"peers": peers, "chunks": chunks, "creates": creates,
            "depths": depths, "levels": levels, "start": start_times,
            "candidates": candidates_found}
    if len(sys.argv) != 2 or sys.argv[1] not in what:
        sys.exit(__doc__)
    directory = tempfile.mkdtemp(prefix="fssnap-bench-", dir=BASE)
    try:
        what[sys.argv[1]](directory)
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
