# SPDX-License-Identifier: BSD-3-Clause
"""What a first-touch write costs in system calls and bytes: counted, so that
it does not depend on how fast or how busy the machine is.
"""
import signal
import subprocess
import tempfile


def io_of(pid):
    """What /proc/PID/io says."""
    with open(f"/proc/{pid}/io", encoding="ascii") as f:
        return {key: int(value)
                for key, value in (line.split(":") for line in f)}


def calls_in(text):
    """System call -> how often, of strace -c."""
    calls = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) in (5, 6) and words[3].isdigit() \
                and words[-1] != "total":
            calls[words[-1]] = int(words[3])
    return calls


class Strace:
    """Count what a process calls while this is open."""

    def __init__(self, pid):
        self.calls = None
        self.out = tempfile.NamedTemporaryFile("r")
        self.process = subprocess.Popen(
            ["strace", "-f", "-c", "-o", self.out.name, "-p", str(pid)],
            stderr=subprocess.PIPE, text=True)
        self.process.stderr.readline()  # it has attached

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGINT)
        self.process.communicate()
        with self.out as out:
            self.calls = calls_in(out.read())


def count_one(bench, load, candidate):
    """What one write of LOAD takes."""
    origin = bench.origin(load.size)
    writes = load.total // load.block
    with candidate.start(bench.directory, origin) as server:
        before = io_of(server.pid)
        load.run(server)
        copied = server.copied()
        after = io_of(server.pid)
    with candidate.start(bench.directory, origin) as server:
        with Strace(server.pid) as strace:
            load.run(server)
            server.copied()
    calls = {name: count / writes for name, count in strace.calls.items()}
    return {
        "bytes-read": (after["rchar"] - before["rchar"]) / writes,
        "bytes-written": (after["wchar"] - before["wchar"]) / writes,
        "bytes-copied": copied / writes,
        "calls": sum(calls.values()),
        "most": dict(sorted(calls.items(), key=lambda item: -item[1])[:6]),
    }


def counted(bench, load, candidates):
    """Candidate -> what count_one says, of those that are servers."""
    return {name: count_one(bench, load, candidate)
            for name, candidate in candidates.items()
            if candidate is not None}
