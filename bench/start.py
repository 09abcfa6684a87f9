# SPDX-License-Identifier: BSD-3-Clause
"""How long a server with a store takes to start.

The time from the start of nbdkit to the reply to the first read, 4 KiB of the
oldest snapshot, which looks through all of them.  The origin is a sparse file
of 1 TiB.  There are 8 snapshots with BENCH_CHUNKS copied chunks of 4 KiB
together, scattered over all of the origin, or in one run in each of them.
The store is filled through the server: what is copied was written before.

In "no store" the read is one of the origin, and tells what nbdkit and the
measuring take.  The start after "killed" follows one that was ended by
SIGKILL, the others a clean end.  "dropped" is with nothing in the page cache,
where the kernel lets us do that; not on tmpfs, which has no other place.
"""
import os
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import time

from common import (CHUNKS, PLUGIN, ROUNDS, Control, Server, disk_directory,
                    file_system, in_turn, run_fio, save, settle, snapshots_of)

SIZE = 1 << 40
SNAPSHOTS = 8
CHUNK = 4096
EACH = CHUNKS // SNAPSHOTS  # chunks
RUN = 64 << 10
SHIFT = 1 << 30

SCATTERED = "scattered"
IN_RUNS = "in runs"
LAYOUTS = [SCATTERED, IN_RUNS]

# As soon as someone listens, but not so often that it takes the server's
# time.
RETRY = 0.001

LONGEST = 300  # seconds, for a start

DROP = "/proc/sys/vm/drop_caches"


def overwrite(server, layout, number):
    """Write the chunks that are snapshot NUMBER's to keep; the same ones each
    time."""
    load = ["--iodepth=32"]
    if layout == SCATTERED:
        # fio's sequence is always the same: for each it begins elsewhere.
        load += ["--rw=randwrite", "--bs=4k", f"--offset={number * SHIFT}",
                 f"--size={SIZE - SNAPSHOTS * SHIFT}",
                 f"--io_size={EACH * CHUNK}"]
    else:
        load += ["--rw=write", f"--bs={RUN}", f"--size={EACH * CHUNK}",
                 f"--offset={SIZE // SNAPSHOTS * number}"]
    run_fio(server.socket, "", *load)


def fill(directory, origin, store, layout):
    """Make the origin and the store."""
    path = os.path.join(directory, "control")
    with open(origin, "wb") as f:
        f.truncate(SIZE)
    with Server(directory, PLUGIN, origin, "snapshot=no", f"store={store}",
                f"control={path}") as server, \
            Control(path) as control:
        for number in range(SNAPSHOTS):
            overwrite(server, layout, number)
        for number in range(SNAPSHOTS):
            control.call("snapshot.create")
            overwrite(server, layout, number)
        for snapshot in snapshots_of(control, SNAPSHOTS):
            # The last write of a run may reach beyond it.
            if not EACH <= snapshot["chunks-copied"] < EACH + RUN // CHUNK:
                sys.exit(f"{snapshot['chunks-copied']} chunks were copied "
                         f"instead of {EACH}")
        settle(directory)  # or the end would take long


def receive(connection, count):
    """COUNT bytes."""
    data = b""
    while len(data) < count:
        more = connection.recv(count - len(data))
        if not more:
            sys.exit("the server hung up")
        data += more
    return data


def read(connection, export):
    """Open EXPORT, and read what it begins with."""
    greeting = receive(connection, 18)
    if greeting[:16] != b"NBDMAGICIHAVEOPT":
        sys.exit("this is no NBD server")
    name = export.encode()
    connection.sendall(
        struct.pack(">L", 3)  # fixed newstyle, no zeroes
        + b"IHAVEOPT" + struct.pack(">LL", 7, len(name) + 6)  # NBD_OPT_GO
        + struct.pack(">L", len(name)) + name + struct.pack(">H", 0))
    kind = None
    while kind != 1:  # NBD_REP_ACK
        _, _, kind, length = struct.unpack(">QLLL", receive(connection, 20))
        receive(connection, length)
        if kind & 1 << 31:
            sys.exit(f"{export}: refused ({kind & 0xffff})")
    connection.sendall(struct.pack(">LHHQQL", 0x25609513, 0, 0, 1, 0, CHUNK))
    _, error, _ = struct.unpack(">LLQ", receive(connection, 16))
    if error != 0:
        sys.exit(f"{export}: error {error}")
    receive(connection, CHUNK)


def first_read(path, server, export):
    """Read as soon as the server listens."""
    deadline = time.monotonic() + LONGEST
    with socket.socket(socket.AF_UNIX) as connection:
        while True:
            try:
                connection.connect(path)
                break
            except (FileNotFoundError, ConnectionRefusedError):
                if server.poll() is not None or time.monotonic() > deadline:
                    sys.exit("nbdkit did not start")
                time.sleep(RETRY)
        read(connection, export)


def start(directory, export, *arguments, ending=signal.SIGTERM):
    """Seconds from the start of a server to the reply to a read.  It is ended
    by a signal."""
    path = os.path.join(directory, "socket")
    begin = time.monotonic()
    with subprocess.Popen(["nbdkit", "-f", "-U", path, PLUGIN,
                           *arguments], stderr=subprocess.DEVNULL) as server:
        try:
            first_read(path, server, export)
            result = time.monotonic() - begin
        finally:
            server.send_signal(ending)
    if os.path.exists(path):
        os.unlink(path)
    return result


def drop_caches():
    """Empty the page cache.  False if we may not."""
    os.sync()
    try:
        with open(DROP, "w", encoding="ascii") as f:
            f.write("3\n")
    except OSError:
        return False
    return True


def candidates_of(directory, origin, store):
    """What there is to be started: name -> function."""
    arguments = [origin, f"store={store}"]

    def killed():
        start(directory, "snapshot/1", *arguments, ending=signal.SIGKILL)
        return start(directory, "snapshot/1", *arguments)

    def dropped():
        drop_caches()
        return start(directory, "snapshot/1", *arguments)

    candidates = {
        "no store": lambda: start(directory, "", origin, "snapshot=no"),
        "stopped": lambda: start(directory, "snapshot/1", *arguments),
        "killed": killed,
    }
    if file_system(directory) != "tmpfs" and drop_caches():
        candidates["stopped, dropped"] = dropped
    return candidates


def start_times(directory):
    """Print the table."""
    rows = []
    print(f"Milliseconds of {ROUNDS} starts each; an origin of 1 TiB, "
          f"{EACH * SNAPSHOTS} chunks in {SNAPSHOTS} snapshots.\n")
    print("| on | chunks | before | median | least | most |")
    print("| --- | --- | --- | ---: | ---: | ---: |")
    with disk_directory() as disk:
        for place in (directory, disk):
            origin = os.path.join(place, "origin.img")
            store = os.path.join(place, "store")
            for layout in LAYOUTS:
                fill(place, origin, store, layout)
                runs = in_turn(candidates_of(place, origin, store))
                for name, values in runs.items():
                    ms = [value * 1e3 for value in values]
                    rows.append({"on": file_system(place), "chunks": layout,
                                 "before": name, "ms": ms})
                    print(f"| {file_system(place)} | {layout} | {name} "
                          f"| {statistics.median(ms):.1f} | {min(ms):.1f} "
                          f"| {max(ms):.1f} |", flush=True)
                os.unlink(origin)
                shutil.rmtree(store)
    save(rows)
