# SPDX-License-Identifier: BSD-3-Clause
"""The servers that are compared, each as its manual has it.

Each is made with the directory to work in and the origin, serves the origin
as the export "" and its newest snapshot as "snapshot", and knows what it has
copied.
"""
import json
import os
import shutil
import subprocess
import sys
import time

from common import PLUGIN, Control, Server, snapshots_of


class File(Server):
    """nbdkit's file plugin: what an NBD server can do here."""

    def __init__(self, directory, origin):
        super().__init__(directory, "file", origin)

    def copied(self):
        """Bytes that the copies take; fails if they do not hold."""
        return 0


class Fssnap(Server):
    """This project; ARGUMENTS are the plugin's.  COUNT snapshots, or none.
    Before each of the last COUNT of TIMES (at least COUNT) calls of BETWEEN
    with the server, one is taken."""

    def __init__(self, directory, origin, *arguments, count=1, times=0,
                 between=lambda server: None):
        self.control = os.path.join(directory, "control")
        self.count = count
        self.store = os.path.join(directory, "store")
        if "durability=stable" in arguments:  # has a store only
            arguments = (f"store={self.store}", *arguments)
        else:
            os.mkdir(self.store)
            arguments = (f"backing-store={self.store}", *arguments)
        super().__init__(directory, PLUGIN, origin, "snapshot=no",
                         f"control={self.control}", *arguments)
        with Control(self.control) as control:
            for left in range(max(count, times), 0, -1):
                if left <= count:
                    control.call("snapshot.create")
                between(self)

    def __exit__(self, *_):
        super().__exit__()
        shutil.rmtree(self.store)

    def copied(self):
        """Bytes that the copies take; fails if they do not hold."""
        with Control(self.control) as control:
            while True:
                snapshots = snapshots_of(control, self.count)
                if sum(s["bytes-in-memory"] for s in snapshots) == 0:
                    return sum(s["backing-store-len"] for s in snapshots)
                time.sleep(0.01)


class Qemu:
    """qemu-storage-daemon with copy-before-write to a sparse file."""

    def __init__(self, directory, origin):
        self.socket = os.path.join(directory, "socket")
        self.target = os.path.join(directory, "target")
        with open(self.target, "wb") as f:
            f.truncate(os.stat(origin).st_size)
        nodes = [
            {"driver": "file", "node-name": "origin", "filename": origin,
             "aio": "io_uring"},
            {"driver": "file", "node-name": "target", "filename": self.target,
             "aio": "io_uring"},
            {"driver": "copy-before-write", "node-name": "cbw",
             "file": "origin", "target": "target"},
            {"driver": "snapshot-access", "node-name": "snapshot",
             "file": "cbw"},
        ]
        arguments = [argument for node in nodes
                     for argument in ("--blockdev", json.dumps(node))]
        self.process = subprocess.Popen(
            ["qemu-storage-daemon", "--chardev", "stdio,id=qmp",
             "--monitor", "chardev=qmp", *arguments,
             "--nbd-server",
             f"addr.type=unix,addr.path={self.socket},max-connections=0",
             "--export",
             "type=nbd,id=origin,node-name=cbw,name=,writable=on",
             "--export",
             "type=nbd,id=snapshot,node-name=snapshot,name=snapshot"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        # It greets when all that was asked for is there.
        if b"QMP" not in self.process.stdout.readline():
            sys.exit("qemu-storage-daemon did not start")

    @property
    def pid(self):
        """The server's."""
        return self.process.pid

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.communicate()
        os.unlink(self.target)
        if os.path.exists(self.socket):
            os.unlink(self.socket)

    def copied(self):
        """Bytes that the copies take; one of its snapshots that does not hold
        fails its reads."""
        return os.stat(self.target).st_blocks * 512
