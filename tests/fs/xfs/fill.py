#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Fill a directory, and age it: fill.py DIRECTORY FILES [SEED]

Files of many sizes, sparse ones, links, directories; half of them are deleted,
and some more written, some by appending in turns, so that space is in pieces.
"""
import os
import random
import subprocess
import sys

TOP, FILES = sys.argv[1], int(sys.argv[2])
RANDOM = random.Random(int(sys.argv[3]) if len(sys.argv) > 3 else 1)


def write(name, size):
    """A file of that size, some with holes."""
    with open(name, "ab") as f:
        if RANDOM.random() < 0.1:
            f.seek(RANDOM.randrange(1 << 20), os.SEEK_END)
            f.truncate(f.tell())
        f.write(RANDOM.randbytes(size))


def sync():
    """This file system alone: another one may be frozen just now."""
    subprocess.run(["sync", "-f", TOP], check=True)


def size():
    """Mostly small."""
    return RANDOM.randrange(1 << RANDOM.choice((8, 10, 12, 13, 14, 17)))


def main():
    """See above."""
    names = []
    for i in range(FILES):
        folder = f"{TOP}/d{i % 7}/e{i % 3}"
        os.makedirs(folder, exist_ok=True)
        names.append(f"{folder}/{'n' * RANDOM.randrange(100)}{i}")
        write(names[-1], size())
        if i % 20 == 0:
            os.symlink("x" * RANDOM.randrange(1, 900), f"{folder}/s{i}")
            os.link(names[-1], f"{folder}/h{i}")
    sync()
    RANDOM.shuffle(names)
    for name in names[FILES // 2:]:
        os.unlink(name)
    for _ in range(3):
        for name in names[:FILES // 20]:
            write(name, size())
            if RANDOM.random() < 0.1:
                sync()
    write(f"{TOP}/large", 8 << 20)


main()
