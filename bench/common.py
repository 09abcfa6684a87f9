# SPDX-License-Identifier: BSD-3-Clause
"""What all measurements need: the server, the loads, rounds in turn."""
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
SIZE = int(os.environ.get("BENCH_SIZE", "1024"))
CREATES = int(os.environ.get("BENCH_CREATES", "100"))
SECONDS = int(os.environ.get("BENCH_SECONDS", "5"))
CHUNKS = int(os.environ.get("BENCH_CHUNKS", "1000000"))
BASE = os.environ.get("BENCH_DIR", "/dev/shm")
DISK = os.environ.get("BENCH_DISK", "/tmp")
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


def run_fio(nbd, export, *arguments):
    """Run a load; what fio has to say of it."""
    out = subprocess.run(
        ["fio", "--name=bench", "--ioengine=nbd", "--output-format=json",
         f"--uri=nbd+unix:///{export}?socket={nbd}", *arguments],
        check=True, capture_output=True, text=True).stdout
    return json.loads(out[out.index("{"):])["jobs"][0]


def fio(nbd, export, load):
    """Run one load at depth 32; MiB/s."""
    job = run_fio(nbd, export, "--iodepth=32", f"--size={SIZE}m",
                  *LOADS[load])
    return (job["read"]["bw"] + job["write"]["bw"]) / 1024


# What nbdkit says whenever a server with a store ends.
ENDS = b"aborting sleep because of server shut down\n"


class Server:
    """nbdkit on a socket in DIRECTORY, up once the socket is there."""

    def __init__(self, directory, *arguments):
        self.socket = os.path.join(directory, "socket")
        self.pidfile = os.path.join(directory, "pid")
        self.log = tempfile.TemporaryFile()
        read, write = os.pipe()
        # The command runs when nbdkit serves, and for as long as it should.
        self.process = subprocess.Popen(
            ["nbdkit", "-U", self.socket, "-P", self.pidfile, *arguments,
             "--run", f"echo up >&{write}; exec {write}>&-; read _"],
            stdin=subprocess.PIPE, pass_fds=[write],
            stdout=subprocess.DEVNULL, stderr=self.log)
        os.close(write)
        with os.fdopen(read) as pipe:
            if pipe.readline() != "up\n":
                self.show_log()
                sys.exit("nbdkit did not start")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()
        self.show_log()
        if os.path.exists(self.socket):
            os.unlink(self.socket)

    @property
    def pid(self):
        """The server's; the process that was begun is the command's."""
        with open(self.pidfile, encoding="ascii") as f:
            return int(f.read())

    def show_log(self):
        """What is wrong, if anything is."""
        with self.log as log:
            log.seek(0)
            for line in log:
                if not line.endswith(ENDS):
                    sys.stderr.buffer.write(line)


class Control:
    """A connection to a server's control socket."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.lines = self.socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.lines.close()
        self.socket.close()

    def call(self, method, **params):
        """What METHOD results in."""
        self.socket.sendall(json.dumps(
            {"jsonrpc": "2.0", "id": 1, "method": method,
             "params": params}).encode() + b"\n")
        reply = json.loads(self.lines.readline())
        if "error" in reply:
            sys.exit(f"{method}: {reply['error']['message']}")
        return reply["result"]


def make_origin(directory, length=None, data=SIZE):
    """DATA MiB that are not zeros, so that every chunk must be stored; and a
    hole behind them, up to LENGTH bytes."""
    path = os.path.join(directory, f"origin-{length}-{data}.img")
    block = os.urandom(1 << 20)
    with open(path, "wb") as f:
        for i in range(data):
            f.write(i.to_bytes(8, "little") + block[8:])
        try:
            f.truncate(length)
        except OSError as e:
            sys.exit(f"BENCH_DIR={BASE}: no file of {length} bytes: {e}")
    return path


def build_program(directory, source, *flags):
    """Compile one of those that lie here; its path."""
    program = os.path.join(directory, os.path.splitext(source)[0])
    subprocess.run(["cc", "-O2", "-std=gnu11", "-o", program,
                    os.path.join(os.path.dirname(__file__), source), *flags],
                   check=True)
    return program


def build_random_writes(directory):
    """The program of random-writes.c."""
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "libnbd"],
                           check=True, capture_output=True, text=True).stdout
    return build_program(directory, "random-writes.c", *flags.split())


def file_system(path):
    """What kind it is on."""
    return subprocess.run(["df", "--output=fstype", path], check=True,
                          capture_output=True, text=True).stdout.split()[-1]


def disk_directory():
    """A new directory on a disk, which is gone at the end."""
    if file_system(DISK) == "tmpfs":
        sys.exit(f"BENCH_DISK={DISK}: that is no disk")
    return tempfile.TemporaryDirectory(prefix="fssnap-bench-", dir=DISK)


def settle(directory):
    """Let what has been written there reach its disk: nobody shall pay for
    what another left behind."""
    subprocess.run(["sync", "-f", directory], check=True)


def snapshots_of(control, count):
    """The server's COUNT snapshots, none of them broken."""
    snapshots = control.call("snapshot.list")["snapshots"]
    for snapshot in snapshots:
        if snapshot["broken-reason"] is not None:
            sys.exit(f"it is broken: {snapshot['broken-reason']}")
    if len(snapshots) != count:
        sys.exit(f"{len(snapshots)} snapshots instead of {count}")
    return snapshots


def save(rows):
    """All that was measured, as JSON, if that was asked for."""
    if path := os.environ.get("BENCH_JSON"):
        with open(path, "w", encoding="ascii") as f:
            json.dump(rows, f, indent=1)


def in_turn(candidates, rounds=ROUNDS):
    """CANDIDATES: name -> function.  name -> what it returned, ROUNDS times
    after one to warm up; they run one after the other in each round, in any
    order, so that none is always the one after another."""
    results = {name: [] for name in candidates}
    names = list(candidates)
    for round_ in range(-1, rounds):
        random.shuffle(names)
        for name in names:
            result = candidates[name]()
            if round_ >= 0:
                results[name].append(result)
    return results


def ratios(values, base):
    """The median, least and most of the ratios, pair by pair; None if BASE
    is nothing."""
    if 0 in base:
        return None
    pairs = [value / of for value, of in zip(values, base)]
    return statistics.median(pairs), min(pairs), max(pairs)
