# SPDX-License-Identifier: BSD-3-Clause
"""How long writes to the origin stall while a snapshot is created.

64 random 4 KiB writes are always in flight, within the first BENCH_SIZE MiB,
which hold data; the rest of the origin is a hole.  nbdkit has 64 threads, so
that all of them can be at the gate.  Meanwhile snapshots are created, one
after the other.  The older of two is deleted soon after the newer one was
created: there is always one, and nearly every write is a first touch, which
has to copy.  That makes writes slower than without a snapshot, always, and
so is no part of the stall.

For each creation, the longest time that any of the writes took that were in
flight at some moment between the request and its reply; the same of the
deletion; and for comparison the same of as long a time without either.
"""
import array
import bisect
import math
import os
import statistics
import subprocess
import tempfile
import time

from common import (CREATES, PLUGIN, SIZE, Control, Server,
                    build_random_writes, in_turn, make_origin, ratios)

DEPTH = 64
ORIGINS = {"1 GiB": max(1 << 30, SIZE << 20), "64 TiB": 64 << 40}

# Seconds between two things that are measured: many times what a write takes.
PAUSE = 0.03

REQUEST = "create: the request"
STALL = "create: longest write"
CALM = "neither: longest write"
DELETION = "delete: the request"
DELETION_STALL = "delete: longest write"


def timed(function, *arguments, **keywords):
    """What the function returned, and when it ran, as random-writes.c tells
    the time."""
    begin = time.monotonic_ns()
    result = function(*arguments, **keywords)
    return result, (begin, time.monotonic_ns())


def create_and_delete(control):
    """What is measured -> when it ran, CREATES times each."""
    times = {STALL: [], CALM: [], DELETION_STALL: []}
    older = control.call("snapshot.create")
    time.sleep(1)  # let the writes come to their speed
    for _ in range(CREATES):
        newer, created = timed(control.call, "snapshot.create")
        time.sleep(PAUSE)
        _, calm = timed(time.sleep, (created[1] - created[0]) / 1e9)
        time.sleep(PAUSE)
        _, deleted = timed(control.call, "snapshot.delete",
                           snapshot=older["snapnumber"])
        time.sleep(PAUSE)
        older = newer
        times[STALL].append(created)
        # It sleeps too long, never too short.
        times[CALM].append((calm[0], calm[0] + created[1] - created[0]))
        times[DELETION_STALL].append(deleted)
    return times


def longest(begins, ends, most, window):
    """The longest of the writes that were in flight in WINDOW; MOST: of all
    writes."""
    begin, end = window
    result = None
    i = bisect.bisect_left(ends, begin)
    while i < len(ends) and ends[i] - most <= end:
        if begins[i] <= end:
            result = max(result or 0, ends[i] - begins[i])
        i += 1
    if result is None:
        raise RuntimeError("no write was in flight")
    return result


def once(directory, origin, program):
    """One run: what is measured -> nanoseconds, CREATES of them; and how
    many writes there were in a second."""
    path = os.path.join(directory, "control")
    with Server(directory, "-t", str(DEPTH), PLUGIN, origin, "snapshot=no",
                f"backing-store={directory}", f"control={path}") as server, \
            Control(path) as control, \
            subprocess.Popen(
                [program, f"nbd+unix:///?socket={server.socket}",
                 str(SIZE << 20), str(DEPTH), "0"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writes:
        times = create_and_delete(control)
        out, _ = writes.communicate()
        if writes.returncode != 0:
            raise RuntimeError("random-writes failed")
    records = array.array("Q", out)
    begins, ends = records[0::2], records[1::2]
    most = max(end - begin for begin, end in zip(begins, ends))
    result = {name: [longest(begins, ends, most, window) for window in windows]
              for name, windows in times.items()}
    result[REQUEST] = [end - begin for begin, end in times[STALL]]
    result[DELETION] = [end - begin for begin, end in times[DELETION_STALL]]
    return result, len(ends) * 1e9 / (ends[-1] - begins[0])


def percentile(values, share):
    """The value that SHARE of the values do not exceed."""
    return sorted(values)[math.ceil(share * len(values)) - 1]


def creates(directory):
    """Print the table."""
    with tempfile.TemporaryDirectory(prefix="fssnap-bench-") as programs:
        program = build_random_writes(programs)
        origins = {name: make_origin(directory, length)
                   for name, length in ORIGINS.items()}
        runs = in_turn({
            name: lambda origin=origin: once(directory, origin, program)
            for name, origin in origins.items()})
    smallest = next(iter(ORIGINS))
    print(f"Milliseconds of {CREATES} in a run; medians of the runs, and the "
          "worst of all.\n")
    print(f"| what | origin | p50 | p99 | max | worst | p50, of {smallest}'s "
          "| spread |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |")
    for what in (REQUEST, STALL, CALM, DELETION, DELETION_STALL):
        base = [percentile(run[what], 0.5) for run, _ in runs[smallest]]
        for name, values in runs.items():
            p50, p99, most = (
                [percentile(run[what], share) for run, _ in values]
                for share in (0.5, 0.99, 1))
            ratio = ratios(p50, base)
            print(f"| {what} | {name} "
                  + "".join(f"| {figure(figures) / 1e6:.2f} "
                            for figure, figures in (
                                (statistics.median, p50),
                                (statistics.median, p99),
                                (statistics.median, most), (max, most)))
                  + f"| {ratio[0]:.2f} | {ratio[1]:.2f} to {ratio[2]:.2f} |")
    print()
    for name, values in runs.items():
        rate = statistics.median(rate for _, rate in values)
        print(f"{name}: {rate:.0f} writes a second")
