# SPDX-License-Identifier: BSD-3-Clause
"""What durability costs: first-touch writes with a snapshot in a store.

Each write overwrites what has not been copied yet, at random, for
BENCH_SECONDS or until all of the origin is overwritten.  nbdkit has at least
as many threads as there are writes in flight, so that all of them can wait
for one barrier.  The origin is on the same file system as the store.
"""
import os
import shutil
import statistics
import sys

from common import (PLUGIN, SECONDS, SIZE, Control, Server, disk_directory,
                    file_system, in_turn, make_origin, ratios, run_fio, save,
                    settle, snapshots_of)

LEVELS = ["async", "written", "stable"]  # compared to the first
BLOCKS = [4, 64]  # KiB
DEPTHS = [1, 32]

# Threads that nbdkit has for a connection if it is not told how many.
THREADS = 16


def once(directory, origin, level, block, depth):
    """One run: MiB/s, and milliseconds that half and 99% of the writes took
    at most."""
    store = os.path.join(directory, "store")
    path = os.path.join(directory, "control")
    with Server(directory, "-t", str(max(depth, THREADS)), PLUGIN, origin,
                f"store={store}", f"durability={level}",
                f"control={path}") as server:
        write = run_fio(server.socket, "", "--rw=randwrite", f"--bs={block}k",
                        f"--iodepth={depth}", f"--size={SIZE}m",
                        f"--runtime={SECONDS}", "--lat_percentiles=1",
                        "--clat_percentiles=0")["write"]
        with Control(path) as control:
            snapshot, = snapshots_of(control, 1)
        if snapshot["durability"] != level or (
                snapshot["chunks-copied"] * snapshot["chunksize"]
                < write["io_bytes"]):
            sys.exit("not all that was overwritten has been copied")
    shutil.rmtree(store)
    settle(directory)
    percentile = write["lat_ns"]["percentile"]
    return (write["bw_bytes"] / (1 << 20), percentile["50.000000"] / 1e6,
            percentile["99.000000"] / 1e6)


def rows_of(directory, origin, block, depth):
    """What was measured of each level."""
    runs = in_turn({
        level: lambda level=level: once(directory, origin, level, block, depth)
        for level in LEVELS})
    base = [rate for rate, _, _ in runs[LEVELS[0]]]
    for level, values in runs.items():
        rates, p50, p99 = zip(*values)
        yield {"on": file_system(directory), "block": block << 10,
               "depth": depth, "level": level, "mib/s": rates, "p50-ms": p50,
               "p99-ms": p99, "ratio": ratios(rates, base)}


def levels(directory):
    """Print the table."""
    rows = []
    print("| on | first touch, at random | depth | durability | MiB/s "
          "| of async | spread | p50, ms | p99, ms |")
    print("| --- | --- | ---: | --- | ---: | ---: | --- | ---: | ---: |")
    with disk_directory() as disk:
        for place in (directory, disk):
            origin = make_origin(place)
            settle(place)
            for block in BLOCKS:
                for depth in DEPTHS:
                    for row in rows_of(place, origin, block, depth):
                        rows.append(row)
                        ratio, least, most = row["ratio"]
                        rate, p50, p99 = (
                            statistics.median(row[key])
                            for key in ("mib/s", "p50-ms", "p99-ms"))
                        print(f"| {row['on']} | {block} KiB | {depth} "
                              f"| {row['level']} | {rate:.1f} | {ratio:.3f} "
                              f"| {least:.3f} to {most:.3f} | {p50:.3f} "
                              f"| {p99:.3f} |", flush=True)
            os.unlink(origin)
    save(rows)
