#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Measure the plugin against nbdkit's file plugin and against itself.

    bench.py peers     the ratios that must hold
    bench.py chunks    the table in docs/chunk-size.md

Every row's candidates run in turn, ROUNDS times over (BENCH_ROUNDS, 5), on
the same origin of BENCH_SIZE MiB (1024) in BENCH_DIR (/dev/shm); figures are
medians.  FSSNAP_PLUGIN names the plugin (build/nbdkit-fssnap-plugin.so).
"""
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
SIZE = int(os.environ.get("BENCH_SIZE", "1024"))
BASE = os.environ.get("BENCH_DIR", "/dev/shm")
PLUGIN = os.path.abspath(
    os.environ.get("FSSNAP_PLUGIN", "build/nbdkit-fssnap-plugin.so"))

LOADS = {
    "scattered 4 KiB writes, 3% of the device":
        ["--rw=randwrite", "--bs=4k", f"--io_size={SIZE * 3 // 100}m"],
    "4 KiB random writes, all of it": ["--rw=randwrite", "--bs=4k"],
    "4 KiB random reads": ["--rw=randread", "--bs=4k"],
    "1 MiB sequential writes": ["--rw=write", "--bs=1m"],
    "1 MiB sequential reads": ["--rw=read", "--bs=1m"],
}
SCATTERED, RANDOM_WRITE, RANDOM_READ, WRITE, READ = LOADS


def fio(socket, export, load):
    """Run one load at depth 32; MiB/s."""
    out = subprocess.run(
        ["fio", "--name=bench", "--ioengine=nbd", "--iodepth=32",
         f"--size={SIZE}m", "--output-format=json",
         f"--uri=nbd+unix:///{export}?socket={socket}", *LOADS[load]],
        check=True, capture_output=True, text=True).stdout
    job = json.loads(out[out.index("{"):])["jobs"][0]
    return (job["read"]["bw"] + job["write"]["bw"]) / 1024


class Server:
    """nbdkit on a socket in DIRECTORY, up once the socket is there."""

    def __init__(self, directory, *arguments):
        self.socket = os.path.join(directory, "socket")
        read, write = os.pipe()
        # The command runs when nbdkit serves, and for as long as it should.
        self.process = subprocess.Popen(
            ["nbdkit", "-U", self.socket, *arguments,
             "--run", f"echo up >&{write}; exec {write}>&-; read _"],
            stdin=subprocess.PIPE, pass_fds=[write],
            stdout=subprocess.DEVNULL)
        os.close(write)
        with os.fdopen(read) as pipe:
            if pipe.readline() != "up\n":
                sys.exit("nbdkit did not start")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()
        if os.path.exists(self.socket):
            os.unlink(self.socket)


def make_origin(directory):
    """Data that is not zeros, so that every chunk must be stored."""
    path = os.path.join(directory, "origin.img")
    block = os.urandom(1 << 20)
    with open(path, "wb") as f:
        for i in range(SIZE):
            f.write(i.to_bytes(8, "little") + block[8:])
    return path


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
    runs = {name: [] for name in candidates}
    for round_ in range(-1, ROUNDS):
        for name, arguments in candidates.items():
            run = once(directory, origin, *arguments)
            if round_ >= 0:  # the one before warms up
                runs[name].append(run)
    first = [rate for rate, _ in next(iter(runs.values()))]
    result = {}
    for name, values in runs.items():
        rates = [rate for rate, _ in values]
        ratios = [rate / base for rate, base in zip(rates, first)]
        result[name] = {
            "rate": statistics.median(rates),
            "ratio": statistics.median(ratios),
            "least": min(ratios),
            "most": max(ratios),
            "copied": statistics.median(copied for _, copied in values),
        }
    return result


def peers(directory, origin):
    """The ratios that must hold."""
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


def chunks(directory, origin):
    """What the chunk size does to first-touch writes."""
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
    what = {"peers": peers, "chunks": chunks}
    if len(sys.argv) != 2 or sys.argv[1] not in what:
        sys.exit(__doc__)
    directory = tempfile.mkdtemp(prefix="fssnap-bench-", dir=BASE)
    try:
        what[sys.argv[1]](directory, make_origin(directory))
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
