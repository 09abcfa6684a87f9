# SPDX-License-Identifier: BSD-3-Clause
"""What finding out the free space saves: fssnap create --candidates=auto.

Three tables.  For each kind of file system that can be made and mounted here,
three tenths full of what is left of many files: what of it a snapshot keeps,
and what a backup of the snapshot reads.  How long it takes to look at file
systems of 100 GiB and 10 TiB that are nearly empty.  And what is copied aside
while new files fill the free space of one that is mounted: of the data,
nothing should be.
"""
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager

from common import PLUGIN, ROUNDS, SIZE, Control, Server, save

FSSNAP = os.path.abspath(os.environ.get("FSSNAP", "build/cli/fssnap"))

# How each is made, and mounted; None is not mounted.
KINDS = {
    "ext4": (["mkfs.ext4", "-q", "-F"], "ext4"),
    "xfs": (["mkfs.xfs", "-q", "-f"], "xfs"),
    "btrfs": (["mkfs.btrfs", "-q", "-f"], "btrfs"),
    "vfat": (["mkfs.vfat", "-F", "32"], "vfat"),
    "exfat": (["mkfs.exfat"], "exfat"),
    "ntfs": (["mkfs.ntfs", "-q", "-F", "-Q"], "ntfs-3g"),
    "swap": (["mkswap", "-q"], None),
}
FULL = 0.3
BIG = {"100 GiB": 100 << 30, "10 TiB": 10 << 40}
MKFS_SECONDS = 60


def run(*command):
    """What it prints; the end, if it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: {done.stderr}")
    return done.stdout


def make(kind, path, size):
    """An empty file system in a sparse file; whether that is possible."""
    command = KINDS[kind][0]
    if not shutil.which(command[0]):
        return False
    with open(path, "wb") as image:
        image.truncate(size)
    try:
        return subprocess.run([*command, path], capture_output=True,
                              timeout=MKFS_SECONDS).returncode == 0
    except subprocess.TimeoutExpired:
        return False


@contextmanager
def mounted(kind, path, directory):
    """Where the file system in PATH is mounted; None if it cannot be."""
    where = os.path.join(directory, "mounted")
    os.makedirs(where, exist_ok=True)
    loop = run("losetup", "--show", "-f", path).strip()
    try:
        if subprocess.run(["mount", "-t", KINDS[kind][1], loop, where],
                          capture_output=True).returncode != 0:
            yield None
            return
        try:
            yield where
        finally:
            run("umount", where)
    finally:
        run("losetup", "-d", loop)


def used(where):
    """Which part of a file system is in use."""
    status = os.statvfs(where)
    return 1 - status.f_bfree / status.f_blocks


def used_bytes(where):
    """What of its SIZE is not free: df leaves out what ext4 has for itself."""
    status = os.statvfs(where)
    return (SIZE << 20) - status.f_bfree * status.f_frsize


def write_files(where, name, part, source):
    """Files of 1 KiB to 4 MiB, small ones the most, until PART is used; their
    names, and bytes."""
    names, count = [], 0
    try:
        while used(where) < part:
            path = os.path.join(where, f"{name}{len(names)}")
            length = int(1024 * 4096 ** source.random())
            with open(path, "wb") as file:
                names.append(path)
                count += file.write(source.randbytes(length))
    except OSError:  # no space left: with metadata it may be a little less
        pass
    return names, count


def age(where):
    """Fill it, delete, and again: FULL is left, in pieces, and what was
    deleted is still there where nothing has been written since."""
    source = random.Random(1)
    names = []
    for turn, full in enumerate((0.8, 0.6, 0.8)):
        names += write_files(where, f"{turn}-", full, source)[0]
        source.shuffle(names)
        while names and used(where) > FULL:
            for _ in range(32):
                if names:
                    os.unlink(names.pop())
            run("sync", "-f", where)  # some count only then what is free
    run("sync", "-f", where)
    return used_bytes(where)


def age_vfat(path, directory):
    """As age, with mtools, where the kernel has no vfat."""
    files = os.path.join(directory, "files")
    os.mkdir(files)
    source = random.Random(1)
    names = []
    for i in range(int((SIZE << 20) * 0.8) // 492000):  # which they are long
        names.append(f"file{i}")
        with open(os.path.join(files, names[-1]), "wb") as file:
            file.write(source.randbytes(int(1024 * 4096 ** source.random())))
    kept = names[::3]
    run("mcopy", "-i", path, "-s", files, "::")
    run("mdel", "-i", path,
        *(f"::files/{name}" for name in names if name not in kept))
    count = sum(os.stat(os.path.join(files, name)).st_blocks * 512
                for name in kept)
    shutil.rmtree(files)
    return count


def make_aged(kind, directory):
    """Its path and the bytes used in it; None if that is not possible."""
    path = os.path.join(directory, f"{kind}.img")
    if not make(kind, path, SIZE << 20):
        return None
    if KINDS[kind][1] is None:
        return path, 4096
    with mounted(kind, path, directory) as where:
        if where is not None:
            return path, age(where)
    if kind == "vfat" and shutil.which("mcopy"):
        return path, age_vfat(path, directory)
    return None


def create(control, *options):
    """Seconds, the export's name, and what else was said."""
    begin = time.monotonic()
    done = subprocess.run([FSSNAP, "-s", control, "create", *options],
                          capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"fssnap create: {done.stderr}")
    return time.monotonic() - begin, done.stdout.strip(), done.stderr.strip()


def info(control, export):
    """What the server tells of a snapshot."""
    with Control(control) as connection:
        return connection.call("snapshot.info",
                               snapshot=int(export.split("/")[1]))


def bytes_read(control, export, *command):
    """What COMMAND reads of a snapshot that is not known to be zeros."""
    keys = ["reads-origin", "reads-memory", "reads-backing-file"]
    before = info(control, export)
    run(*command)
    after = info(control, export)
    return sum(after[key] - before[key] for key in keys)


def look_at(kind, path, in_use, directory, candidates):
    """One row of the first table."""
    control = os.path.join(directory, "control")
    copy = os.path.join(directory, "copy.img")
    with Server(directory, PLUGIN, path, "snapshot=no",
                f"control={control}") as server:
        seconds, export, said = create(control, f"--candidates={candidates}")
        uri = f"nbd+unix:///{export}?socket={server.socket}"
        figures = info(control, export)
        kept = figures["size"] - figures["chunks-free"] * figures["chunksize"]
        row = {"type": kind, "candidates": candidates,
               "size": figures["size"], "used": in_use, "kept": kept,
               "ratio": kept / in_use, "seconds": seconds, "said": said,
               "nbdcopy": bytes_read(control, export, "nbdcopy", uri, "null:")}
        row["qemu-img"] = bytes_read(control, export, "qemu-img", "convert",
                                     "-f", "raw", "-O", "raw", uri, copy)
        os.unlink(copy)
    return row


def backups(directory):
    """The first table."""
    print("| file system | candidates | MiB | used | kept | of used "
          "| nbdcopy reads | qemu-img reads | create, s | said |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: "
          "| --- |")
    for kind in KINDS:
        made = make_aged(kind, directory)
        if made is None:
            print(f"| {kind} | | | | | | | | | cannot be made or mounted |",
                  flush=True)
            continue
        for candidates in ("all", "auto"):
            row = look_at(kind, *made, directory, candidates)
            yield row
            figures = " | ".join(
                f"{row[key] / (1 << 20):.1f}"
                for key in ("size", "used", "kept"))
            print(f"| {kind} | {candidates} | {figures} | {row['ratio']:.3f} "
                  f"| {row['nbdcopy'] / (1 << 20):.1f} "
                  f"| {row['qemu-img'] / (1 << 20):.1f} "
                  f"| {row['seconds']:.2f} | {row['said']} |", flush=True)
        os.unlink(made[0])


def times(directory):
    """The second table."""
    print("\n| file system | size | to look at it, s | spread |")
    print("| --- | ---: | ---: | --- |")
    path = os.path.join(directory, "big.img")
    for kind in KINDS:
        for name, size in BIG.items():
            if not make(kind, path, size):
                print(f"| {kind} | {name} | cannot be made | |", flush=True)
                continue
            seconds = []
            for _ in range(ROUNDS + 1):
                begin = time.monotonic()
                said = run(FSSNAP, "candidates", path)
                seconds.append(time.monotonic() - begin)
            seconds = seconds[1:]
            yield {"type": kind, "size": size, "look-seconds": seconds,
                   "said": said}
            print(f"| {kind} | {name} | {statistics.median(seconds):.3f} "
                  f"| {min(seconds):.3f} to {max(seconds):.3f} |", flush=True)
            os.unlink(path)


@contextmanager
def mounted_export(kind, server, directory):
    """Where the file system on the origin's export is mounted."""
    where = os.path.join(directory, "fuse")
    os.makedirs(where, exist_ok=True)
    read, write = os.pipe()
    with subprocess.Popen(
            ["nbdfuse", "-P", f"/dev/fd/{write}", os.path.join(where, "disk"),
             f"nbd+unix:///?socket={server.socket}"],
            pass_fds=[write]) as process:
        os.close(write)
        os.read(read, 1)  # it is ready when it says its pid
        os.close(read)
        try:
            with mounted(kind, os.path.join(where, "disk"),
                         directory) as mount:
                yield mount
        finally:
            run("umount", "-l", where)
        process.wait()


def fill(kind, path, directory, candidates):
    """One row of the third table."""
    control = os.path.join(directory, "control")
    with Server(directory, PLUGIN, path, "snapshot=no",
                f"control={control}") as server:
        with mounted_export(kind, server, directory) as where:
            _, export, said = create(control, f"--freeze={where}",
                                     f"--candidates={candidates}")
            written = write_files(where, "new-", 0.95, random.Random(2))[1]
            run("sync", "-f", where)
            figures = info(control, export)
    # chunks-copied counts what is overwritten of the free space, too.
    copied = figures["bytes-copied"]
    return {"type": kind, "candidates": candidates, "written": written,
            "copied": copied, "ratio": copied / written, "said": said}


def fills(directory):
    """The third table."""
    print("\n| file system | candidates | new files, MiB | copied aside, MiB "
          "| of what is new | said |")
    print("| --- | --- | ---: | ---: | ---: | --- |")
    for kind in ("ext4", "xfs"):
        made = make_aged(kind, directory)
        if made is None:
            continue
        for candidates in ("all", "auto"):
            path = f"{made[0]}.tried"
            run("cp", "--sparse=always", made[0], path)
            row = fill(kind, path, directory, candidates)
            os.unlink(path)
            yield row
            said = row["said"].replace("\n", "; ")
            print(f"| {kind} | {candidates} | {row['written'] / (1 << 20):.1f} "
                  f"| {row['copied'] / (1 << 20):.1f} | {row['ratio']:.3f} "
                  f"| {said} |", flush=True)
        os.unlink(made[0])


def candidates_found(directory):
    """Print the tables."""
    if os.geteuid() != 0:
        sys.exit("mounting needs root")
    save([*backups(directory), *times(directory), *fills(directory)])
