#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Make XFS use its log and its btrees, and see where the log's head is.

    log.py fragment DIRECTORY FILES
    log.py churn DIRECTORY FILES IMAGE OFFSET SIZE
    log.py head IMAGE OFFSET SIZE

"fragment" leaves every second of many files of a block.  "churn" changes inodes
until the log has gone round and its head is near its end.  "head" prints
the cycle and the head; a frozen or an unmounted one's.
"""
import os
import subprocess
import sys

MAGIC = 0xfeedbabe
NEAR = 256  # blocks of 512 bytes


def cycle_of(block):
    """What cycle a block was written in."""
    first = int.from_bytes(block[:4], "big")
    return int.from_bytes(block[4:8], "big") if first == MAGIC else first


def head_of(image, offset, size):
    """Cycle and head, a block's number."""
    with open(image, "rb") as f:
        f.seek(offset)
        log = f.read(size)
    cycles = [cycle_of(log[i:i + 8]) for i in range(0, size, 512)]
    for i, cycle in enumerate(cycles):
        if cycle != cycles[0]:
            return cycles[0], i
    return cycles[0], len(cycles)


def sync(top):
    """This file system alone."""
    subprocess.run(["sync", "-f", top], check=True)


def fragment(top, files):
    """Every second one is deleted when all are on the disk."""
    for i in range(files):
        with open(f"{top}/f{i}", "wb") as f:
            f.write(i.to_bytes(8, "big"))
    sync(top)
    for i in range(0, files, 2):
        os.unlink(f"{top}/f{i}")


def churn(top, files, image, offset, size):
    """Fewer inodes at a time the nearer the end is."""
    for i in range(files):
        with open(f"{top}/c{i}", "wb"):
            pass
    sync(top)
    for turn in range(2000):
        cycle, head = head_of(image, offset, size)
        left = size // 512 - head
        if cycle >= 2 and left < NEAR:
            return
        for i in range(files if cycle < 2 else min(files, left // 2)):
            os.chmod(f"{top}/c{i}", 0o600 + turn % 64)
        sync(top)
    sys.exit(f"the log is at {cycle}, {head}")


def main():
    """See above."""
    arguments = sys.argv[2:]
    if sys.argv[1] == "fragment":
        fragment(arguments[0], int(arguments[1]))
    elif sys.argv[1] == "churn":
        churn(arguments[0], int(arguments[1]), arguments[2],
              *map(int, arguments[3:]))
    else:
        print(*head_of(arguments[0], *map(int, arguments[1:])))


main()
