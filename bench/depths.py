# SPDX-License-Identifier: BSD-3-Clause
"""What the number of snapshots costs: first-touch writes, the bytes that
they copy, and the server's memory.

Before each snapshot but the first, a few scattered chunks are overwritten,
so that each has copies of its own; after the last, the load overwrites all
of the origin.  Only what the load copies is counted as copied.

Memory must stay below max-memory and two bits a chunk for each snapshot,
plus a constant, which is what the last column has: the peak of the resident
memory less these.  With no snapshot the peak is what nbdkit takes alone.
"""
import os
import statistics
import subprocess
import tempfile
import time

from common import (PLUGIN, RANDOM_WRITE, SIZE, WRITE, Control, Server,
                    build_random_writes, fio, in_turn, make_origin, ratios)

DEPTHS = [1, 8, 64, 0]  # the first is what the others are compared to
CHUNK = 4096

# Writes before each snapshot.
SCATTER = 256


def resident(pid, key):
    """VmRSS or VmHWM of a process, in MiB."""
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        for line in status:
            if line.startswith(key + ":"):
                return int(line.split()[1]) / 1024
    raise RuntimeError(f"no {key}")


def bytes_copied(control):
    """Of all snapshots together, once no copy is in memory any more."""
    while True:
        snapshots = control.call("snapshot.list")["snapshots"]
        for snapshot in snapshots:
            if snapshot["broken-reason"] is not None:
                raise RuntimeError(snapshot["broken-reason"])
        if not any(snapshot["bytes-in-memory"] for snapshot in snapshots):
            return sum(snapshot["bytes-copied"] for snapshot in snapshots)
        time.sleep(0.1)


def once(directory, origin, program, load, snapshots):
    """One run: MiB/s, MiB copied, MiB of memory at its peak, at rest, and
    at its peak less what is promised."""
    path = os.path.join(directory, "control")
    with Server(directory, PLUGIN, origin, "snapshot=no", f"chunksize={CHUNK}",
                f"backing-store={directory}", f"control={path}") as server, \
            Control(path) as control:
        for i in range(snapshots):
            if i > 0:
                subprocess.run(
                    [program, f"nbd+unix:///?socket={server.socket}",
                     str(SIZE << 20), "16", str(SCATTER)],
                    check=True, stdout=subprocess.DEVNULL)
            control.call("snapshot.create")
        before = bytes_copied(control)
        rate = fio(server.socket, "", load)
        copied = bytes_copied(control) - before
        server_info = control.call("server.info")
        pid = server_info["pid"]
        promised = (server_info["max-memory"]
                    + (SIZE << 20) // CHUNK * 2 // 8 * snapshots) / (1 << 20)
        peak = resident(pid, "VmHWM")
        return (rate, copied / (1 << 20), peak, resident(pid, "VmRSS"),
                peak - promised)


def depths(directory):
    """Print the table."""
    print("| load | snapshots | MiB/s | of 1 | spread | copied, MiB | of 1 "
          "| peak, MiB | at rest | above the promise |")
    print("| --- | ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: "
          "| ---: |")
    with tempfile.TemporaryDirectory(prefix="fssnap-bench-") as programs:
        program = build_random_writes(programs)
        origin = make_origin(directory)
        for load in (RANDOM_WRITE, WRITE):
            runs = in_turn({
                depth: lambda depth=depth: once(directory, origin, program,
                                                load, depth)
                for depth in DEPTHS})
            columns = {depth: list(zip(*values))
                       for depth, values in runs.items()}
            base = columns[DEPTHS[0]]
            for depth, column in columns.items():
                rate, copied, peak, rest, above = map(statistics.median, column)
                ratio = ratios(column[0], base[0])
                print(f"| {load} | {depth} | {rate:.0f} | {ratio[0]:.2f} "
                      f"| {ratio[1]:.2f} to {ratio[2]:.2f} | {copied:.1f} "
                      f"| {ratios(column[1], base[1])[0]:.4f} | {peak:.1f} "
                      f"| {rest:.1f} | {above:+.1f} |", flush=True)
