#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Lose all free space of an image: what is left must do without.

    lose-free.py [--zero] [--type=TYPE] IMAGE [COPY]

COPY becomes IMAGE with other bytes wherever "fssnap candidates" says that it
is free: garbage, or with --zero nothing (a snapshot reads as that), which is
the way for images that are large and sparse.  Then check the copy, and read
all files.  Without COPY nothing is written.

Prints the total of bytes free, and for each thing found "TYPE FREE SIZE" and why
it is kept.  The extents must be in order, apart from one another, and within
the image.  $FSSNAP is the command.
"""
import ctypes
import json
import os
import subprocess
import sys

GARBAGE = bytes([0xdb, 0x5a]) * (64 << 10)
KEEP_SIZE, PUNCH_HOLE = 1, 2
LIBC = ctypes.CDLL(None, use_errno=True)


def candidates(image, kind):
    """What the command found, and the free extents."""
    found, extents, done = [], [], False
    with subprocess.Popen([os.environ["FSSNAP"], "candidates", "--json",
                           f"--type={kind}", image],
                          stdout=subprocess.PIPE) as command:
        for line in command.stdout:
            line = json.loads(line)
            found += [line["found"]] if "found" in line else []
            extents += line.get("free", [])
            done = line.get("done", False)
    if command.returncode != 0 or not done:
        sys.exit(f"fssnap candidates: status {command.returncode}")
    return found, extents


def check(extents, size):
    """They are what they should be."""
    last = -1
    for offset, length in extents:
        if offset <= last or length <= 0 or offset + length > size:
            sys.exit(f"extent {offset} {length} after {last}, of {size}")
        last = offset + length


def lose(copy, extents, zero):
    """Overwrite the extents."""
    with open(copy, "r+b", buffering=0) as f:
        for offset, length in extents:
            if zero:
                if LIBC.fallocate(f.fileno(), KEEP_SIZE | PUNCH_HOLE,
                                  ctypes.c_long(offset),
                                  ctypes.c_long(length)) != 0:
                    sys.exit(os.strerror(ctypes.get_errno()))
                continue
            f.seek(offset)
            while length > 0:
                length -= f.write(GARBAGE[:min(length, len(GARBAGE))])


def main():
    """See above."""
    names = [a for a in sys.argv[1:] if not a.startswith("--")]
    kind = ([a[7:] for a in sys.argv[1:] if a.startswith("--type=")]
            or ["auto"])[0]
    found, extents = candidates(names[0], kind)
    check(extents, os.stat(names[0]).st_size)
    print(sum(length for _, length in extents))
    for what in found:
        print(what["type"], what["free"], what["size"],
              what["kept-because"] or "")
    if len(names) > 1:
        subprocess.run(["cp", "--sparse=always", *names], check=True)
        lose(names[1], extents, "--zero" in sys.argv)


main()
