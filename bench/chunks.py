# SPDX-License-Identifier: BSD-3-Clause
"""What the chunk size does to first-touch writes."""
import statistics

from common import (RANDOM_WRITE, SCATTERED, WRITE, fio, in_turn, make_origin,
                    ratios)
from peers import Fssnap

SIZES = ["4k", "8k", "16k", "64k", "256k", "1M"]  # compared to the first


def once(directory, origin, size, load):
    """One run: MiB/s, and MiB copied aside."""
    with Fssnap(directory, origin, f"chunksize={size}") as server:
        return fio(server.socket, "", load), server.copied() / (1 << 20)


def chunks(directory):
    """Print the table."""
    origin = make_origin(directory)
    print("| load | chunk | MiB/s | of 4k | copied, MiB |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for load in (SCATTERED, RANDOM_WRITE, WRITE):
        runs = in_turn({
            size: lambda size=size: once(directory, origin, size, load)
            for size in SIZES})
        base = [rate for rate, _ in runs[SIZES[0]]]
        for size, values in runs.items():
            rates, copied = zip(*values)
            print(f"| {load} | {size} | {statistics.median(rates):.0f} "
                  f"| {ratios(rates, base)[0]:.2f} "
                  f"| {statistics.median(copied):.0f} |", flush=True)
