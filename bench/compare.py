# SPDX-License-Identifier: BSD-3-Clause
"""The comparison with the peers, and the ratios that must hold.

A case is a load, run against several candidates; a goal is a ratio of two
candidates of a case, round by round.  The limit is what a server could do
that copies before it writes and does one thing at a time: 1 / (1 / F + 1 / C),
with F what nbdkit's file plugin does under the load and C what threads can
copy that do nothing else (copies.c).
"""
import dataclasses
import functools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile

from common import ROUNDS, SIZE, build_program, in_turn, make_origin, ratios
from counts import counted
from peers import File, Fssnap, Qemu
from report import write_report

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

# Threads that nbdkit has for a connection if it is not told how many.
THREADS = 16


@dataclasses.dataclass(frozen=True)
class Load:
    """What fio does to an export of SIZE bytes."""
    name: str
    kind: str
    block: int
    size: int = SIZE * MIB
    total: int = SIZE * MIB
    depth: int = 32
    connections: int = 1

    def run(self, server, export=""):
        """MiB/s, and the microseconds that half and 99% took at most."""
        share = self.size // self.connections
        out = subprocess.run(
            ["fio", "--name=bench", "--ioengine=nbd", "--output-format=json",
             f"--uri=nbd+unix:///{export}?socket={server.socket}",
             f"--rw={self.kind}", f"--bs={self.block}",
             f"--iodepth={self.depth}", f"--size={share}",
             f"--offset_increment={share}", f"--numjobs={self.connections}",
             f"--io_size={self.total // self.connections}",
             "--group_reporting=1", "--lat_percentiles=1",
             "--clat_percentiles=0"],
            check=True, capture_output=True, text=True).stdout
        job = json.loads(out[out.index("{"):])["jobs"][0]
        job = job["read" if "read" in self.kind else "write"]
        if job["io_bytes"] != self.total:
            sys.exit(f"{self}: {job['io_bytes']} bytes")
        percentile = job["lat_ns"]["percentile"]
        return {"mib/s": job["bw_bytes"] / MIB,
                "p50-us": percentile["50.000000"] / 1000,
                "p99-us": percentile["99.000000"] / 1000}


SCATTERED = Load("scattered 4 KiB writes", "randwrite", 4 * KIB,
                 size=4 * GIB, total=64 * MIB)
WRITE_4K = Load("4 KiB random writes", "randwrite", 4 * KIB)
WRITE_64K = Load("64 KiB random writes", "randwrite", 64 * KIB)
WRITE_1M = Load("1 MiB sequential writes", "write", MIB)
READ_4K = Load("4 KiB random reads", "randread", 4 * KIB)
READ_1M = Load("1 MiB sequential reads", "read", MIB)

# Half of an origin's 64 KiB blocks, so that half is copied whatever the
# chunks of the candidates are.
HALF = dataclasses.replace(WRITE_64K, total=SIZE * MIB // 2)


def write_little(server):
    """What a snapshot copies before the next is taken, when there are
    several: 100 chunks somewhere."""
    writes = []
    for _ in range(100):
        offset = random.randrange(SIZE * MIB // 4096) * 4096
        writes += ["-c", f"aio_write -q -P 1 {offset} 4k"]
    subprocess.run(["qemu-io", "-f", "raw",
                    f"nbd+unix:///?socket={server.socket}", *writes],
                   check=True)



@dataclasses.dataclass(frozen=True)
class Candidate:
    """A server, and what happens to it before the load."""
    make: object
    arguments: tuple = ()
    before: Load = None
    export: str = ""
    beside: Load = None  # runs against the origin meanwhile

    def start(self, directory, origin):
        """The server."""
        return self.make(directory, origin, *self.arguments)


@dataclasses.dataclass(frozen=True)
class Goal:
    """CANDIDATE's figure is to be WANTED times that of AGAINST: at least, or
    at most if it is a latency."""
    candidate: str
    against: str
    wanted: float
    figure: str = "mib/s"

    def holds(self, ratio):
        """Whether RATIO is what is wanted."""
        if self.figure.endswith("us") or self.figure == "copied":
            return ratio <= self.wanted
        return ratio >= self.wanted


@dataclasses.dataclass(frozen=True)
class Case:
    """GROUP and LOAD name it."""
    group: str
    load: Load
    candidates: dict
    goals: tuple = ()
    rounds: int = ROUNDS


def fssnap(*arguments, **more):
    """A candidate of ours; ARGUMENTS are the plugin's."""
    snapshots = {key: more.pop(key) for key in ("count", "times", "between")
                 if key in more}
    return Candidate(functools.partial(Fssnap, **snapshots),
                     arguments=arguments, **more)


FILE, QEMU, NONE = Candidate(File), Candidate(Qemu), fssnap(count=0)
ORIGIN = {
    "nbdkit file": FILE,
    "no snapshot": NONE,
    "all copied": fssnap(before=WRITE_1M),
}
FIRST_TOUCH = {
    "nbdkit file": FILE,
    "copies alone": None,
    "qemu-storage-daemon": QEMU,
    "no snapshot": NONE,
    "async": fssnap(),
    "written": fssnap("durability=written"),
    "async, io=sync": fssnap("io=sync"),
    "written, io=sync": fssnap("durability=written", "io=sync"),
    "stable": fssnap("durability=stable"),
}
LATENCY = {name: FIRST_TOUCH[name] for name in
           ("qemu-storage-daemon", "async", "written", "stable")}
SHARES = {"none": None, "half": HALF, "all": WRITE_1M}
DEPTHS = (1, 8, 64)


def snapshot_reads(before, beside=None):
    """The candidates whose snapshots are read after BEFORE."""
    more = {"before": before, "beside": beside}
    return {
        "nbdkit file": Candidate(File, beside=beside),
        "qemu-storage-daemon": Candidate(Qemu, export="snapshot", **more),
        "fssnap": fssnap(export="snapshot", **more),
    }


# The goals that are closest to 1: what differs most is one run from another,
# by the memory that they get.
MORE_ROUNDS = 3 * ROUNDS


def again(load):
    """What can be done more than once is, as it takes moments."""
    return dataclasses.replace(load, total=max(load.size, GIB))


def cases():
    """Those with goals, then the others."""
    for load in (WRITE_4K, WRITE_64K, WRITE_1M, READ_4K, READ_1M):
        yield Case("origin", again(load), ORIGIN,
                   (Goal("no snapshot", "nbdkit file", 0.98),
                    Goal("all copied", "nbdkit file", 0.97)), MORE_ROUNDS)
    for load, times in ((SCATTERED, 5), (WRITE_4K, 2.5), (WRITE_64K, 1.5),
                        (WRITE_1M, 1.5)):
        goals = (Goal("async", "qemu-storage-daemon", times),
                 Goal("async", "the limit", 0.85),
                 Goal("written", "async", 0.8))
        if load is SCATTERED:
            goals += (Goal("async", "no snapshot", 0.6),
                      Goal("async", "bytes written", 1.05, "copied"))
        yield Case("first touch", load, FIRST_TOUCH, goals)
    yield Case("first touch", dataclasses.replace(SCATTERED, depth=1), LATENCY,
               (Goal("async", "qemu-storage-daemon", 0.5, "p99-us"),
                Goal("written", "qemu-storage-daemon", 0.5, "p99-us")))
    for share, before in SHARES.items():
        for load in (READ_4K, READ_1M):
            yield Case(f"snapshot, {share} copied", again(load),
                       snapshot_reads(before),
                       (Goal("fssnap", "nbdkit file", 0.95),
                        Goal("fssnap", "qemu-storage-daemon", 1.2)),
                       MORE_ROUNDS)
    yield Case("first touch", WRITE_4K,
               {f"{count} snapshots": fssnap(count=count, times=DEPTHS[-1],
                                             between=write_little)
                for count in DEPTHS},
               (Goal(f"{DEPTHS[-1]} snapshots", f"{DEPTHS[0]} snapshots",
                     0.9),))

    few = dataclasses.replace(WRITE_4K, depth=1, total=min(SIZE, 64) * MIB)
    many = dataclasses.replace(WRITE_4K, connections=4)
    shown = {name: FIRST_TOUCH[name] for name in
             ("nbdkit file", "copies alone", "qemu-storage-daemon", "async",
              "written")}
    for load in (few, many):
        yield Case("origin", load, ORIGIN)
        yield Case("first touch", load, shown,
                   (Goal("async", "the limit", 0.85),
                    Goal("written", "async", 0.8)))
    for load in (dataclasses.replace(READ_4K, depth=1,
                                     total=min(SIZE, 64) * MIB),
                 dataclasses.replace(READ_4K, connections=4)):
        yield Case("snapshot, half copied", load, snapshot_reads(HALF))
    for load in (READ_4K, READ_1M):
        yield Case("snapshot, half copied, while the origin is written", load,
                   snapshot_reads(HALF, beside=WRITE_4K))


class Beside:
    """A load that runs for as long as this is open; or none, if it is
    None."""

    def __init__(self, load, server):
        self.process = None
        if load is not None:
            self.process = subprocess.Popen(
                ["fio", "--name=beside", "--ioengine=nbd",
                 f"--uri=nbd+unix:///?socket={server.socket}",
                 f"--rw={load.kind}", f"--bs={load.block}",
                 f"--size={load.size}", "--iodepth=4", "--time_based",
                 "--runtime=3600", "--rate=32m"],
                stdout=subprocess.DEVNULL)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process is not None:
            self.process.terminate()
            self.process.wait()


class Bench:
    """The files and programs of a run, in a directory of its own."""

    def __init__(self, directory, programs):
        self.directory = directory
        self.origins = {}
        self.copies = build_program(programs, "copies.c", "-pthread")

    def origin(self, size):
        """One of SIZE bytes."""
        if size not in self.origins:
            self.origins[size] = make_origin(self.directory, data=size // MIB)
        return self.origins[size]

    def copy_alone(self, load):
        """The copies of a load, by threads that do nothing else."""
        backing = os.path.join(self.directory, "copies")
        rate = subprocess.run(
            [self.copies, self.origin(load.size), backing, str(load.size),
             str(load.block), str(load.total // load.block),
             "random" if "rand" in load.kind else "sequential",
             str(min(load.depth, THREADS) * load.connections)],
            check=True, capture_output=True, text=True).stdout
        os.unlink(backing)
        return {"mib/s": float(rate)}

    def once(self, load, candidate):
        """One run of one candidate."""
        if candidate is None:
            return self.copy_alone(load)
        with candidate.start(self.directory, self.origin(load.size)) as server:
            if candidate.before is not None:
                candidate.before.run(server)
            with Beside(candidate.beside, server):
                result = load.run(server, candidate.export)
            result["copied"] = server.copied() / load.total
        return result

    def measure(self, case):
        """Candidate -> figure -> its value of each round."""
        runs = in_turn({
            name: lambda candidate=candidate: self.once(case.load, candidate)
            for name, candidate in case.candidates.items()}, case.rounds)
        figures = {
            name: {key: [value[key] for value in values]
                   for key in values[0]}
            for name, values in runs.items()}
        if "copies alone" in figures:
            figures["the limit"] = {"mib/s": [
                1 / (1 / f + 1 / c) for f, c in zip(
                    figures["nbdkit file"]["mib/s"],
                    figures["copies alone"]["mib/s"])]}
        return figures


def judge(goal, figures):
    """A goal's row."""
    values = figures[goal.candidate][goal.figure]
    if goal.figure == "copied":
        ratio = (statistics.median(values), min(values), max(values))
    else:
        ratio = ratios(values, figures[goal.against][goal.figure])
    return {"candidate": goal.candidate, "against": goal.against,
            "figure": goal.figure, "wanted": goal.wanted, "ratio": ratio[0],
            "least": ratio[1], "most": ratio[2],
            "holds": goal.holds(ratio[0])}


def title(case):
    """What a case is called."""
    load = case.load
    return (f"{case.group}: {load.name}, depth {load.depth}"
            + (f", {load.connections} connections"
               if load.connections > 1 else ""))


def run_cases(bench, wanted):
    """Measure the cases of WANTED; a row for each."""
    for case in wanted:
        figures = bench.measure(case)
        yield {"case": title(case), "group": case.group,
               "load": case.load.name, "depth": case.load.depth,
               "connections": case.load.connections, "figures": figures,
               "goals": [judge(goal, figures) for goal in case.goals]}


def tell(row):
    """Show what came of a case's goals, and how fast they were."""
    print(row["case"])
    for name, figures in row["figures"].items():
        print(f"    {statistics.median(figures['mib/s']):8.0f} MiB/s  {name}")
    for goal in row["goals"]:
        least = "at most" if goal["figure"] != "mib/s" else "at least"
        print(f"  {'holds ' if goal['holds'] else 'MISSED'} "
              f"{goal['ratio']:.3f} ({goal['least']:.3f} to "
              f"{goal['most']:.3f}), {least} {goal['wanted']}: "
              f"{goal['candidate']} / {goal['against']}, {goal['figure']}",
              flush=True)


def compare(directory):
    """All cases and what is counted; the report."""
    with tempfile.TemporaryDirectory(prefix="fssnap-bench-") as programs:
        bench = Bench(directory, programs)
        rows = []
        for row in run_cases(bench, cases()):
            tell(row)
            rows.append(row)
        write_report(rows, counted(bench, SCATTERED, FIRST_TOUCH))


def check(directory):
    """The cases that have goals: whether they hold."""
    with tempfile.TemporaryDirectory(prefix="fssnap-bench-") as programs:
        missed = 0
        only = os.environ.get("BENCH_ONLY", "")
        for row in run_cases(Bench(directory, programs),
                             (case for case in cases()
                              if case.goals and only in title(case))):
            tell(row)
            missed += sum(not goal["holds"] for goal in row["goals"])
    if missed:
        sys.exit(f"{missed} goals are missed")
