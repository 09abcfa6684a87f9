#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Read a store as docs/store-format.md has it, and as nothing else has it:

  second-reader.py DIR
  second-reader.py DIR compare CHECK LIST
  second-reader.py DIR export NUMBER ORIGIN

The first prints as JSON what there is: of each layer, the oldest first, its number,
whether it is deleted, why it is refused (or null), and the chunks that are
copied, free and unreadable, as [first, last] pairs.

The second does so, too; CHECK and LIST are files with what "fssnap check
--json" and "fssnap list --all --json --store" printed: they must say the same.

The third writes the content of a snapshot, what is to be read from the origin
included.
"""

import json
import os
import re
import stat
import struct
import sys
import uuid


class Refused(Exception):
    pass


def make_table():
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


TABLE = make_table()


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def crc_is_right(sector, at):
    (crc,) = struct.unpack_from("<I", sector, at)
    return crc == crc32c(sector[:at] + bytes(4) + sector[at + 4:])


def check(condition, why):
    if not condition:
        raise Refused(why)


# --- the catalogue ---------------------------------------------------------

BOOL = object()
UUID = object()
ESCAPED = object()
FILES = object()
NAME = object()
I63 = (0, 2**63 - 1)
SIGNED = (-2**63, 2**63 - 1)
LEVELS = ("async", "written", "stable")

ORIGIN = {"path": ESCAPED, "identity": ESCAPED, "size": I63, "mtime": SIGNED,
          "mtime-ns": (0, 999999999), "first-mib-crc": (0, 2**32 - 1),
          "last-mib-crc": (0, 2**32 - 1), "sectors-written": I63,
          "disk-sequence": I63}
BROKEN = {"reason": ESCAPED, "errno": (0, 2**31 - 1), "time": SIGNED}
COUNTERS = {key: I63 for key in (
    "copied", "waits", "flush-errors", "reads-origin", "reads-memory",
    "reads-backfile", "reads-free", "chunks-copied", "chunks-free",
    "chunks-unreadable")}
LAYER = {"uuid": UUID, "number": (1, 999999999), "name": NAME,
         "created": SIGNED, "size": I63, "chunksize": (512, 67108864),
         "maxsize": I63, "backfile-size": I63, "cow-timeout": (0, 86400),
         "durability": LEVELS, "level": LEVELS,
         "on-error": ("break-snapshot", "break-write"), "files": FILES,
         "pending": BOOL, "creating": BOOL, "ephemeral": BOOL,
         "deleted": BOOL, "broken": [None, BROKEN], "counters": COUNTERS}
LEFT = {"uuid": UUID, "files": FILES}
CATALOG = {"store": UUID, "generation": I63, "clean": BOOL, "boot": "boot",
           "origin": [None, ORIGIN], "layers": [LAYER], "making": [LEFT],
           "removing": [LEFT]}


def unescape(text):
    check(isinstance(text, str) and "\0" not in text, "no string")
    check(re.fullmatch(r"(?:[^%]|%[0-9A-F]{2})*", text, re.S), "wrong escape")
    data = re.sub(rb"%(..)", lambda m: bytes([int(m[1], 16)]), text.encode())
    check(b"\0" not in data, "%00")
    return data


def check_files(files):
    check(isinstance(files, list) and 1 <= len(files) <= 256, "files")
    for name in map(unescape, files):
        check(1 <= len(name) <= 4095, "name of a file")
        check(name.startswith(b"/") or b"/" not in name, "name of a file")
        check(name not in (b".", b"..", b"lock", b"catalog",
                           b"catalog.spare"), "name of a file")


def check_value(value, kind, key):
    """Refuse a VALUE that is not of the KIND said above."""
    if isinstance(kind, dict):
        check(isinstance(value, dict), key)
        for member, of in kind.items():
            check(member in value, member)
            check_value(value[member], of, member)
    elif isinstance(kind, list) and kind[0] is None:
        if value is not None:
            check_value(value, kind[1], key)
    elif isinstance(kind, list):
        check(isinstance(value, list), key)
        for item in value:
            check_value(item, kind[0], key)
    elif kind is BOOL:
        check(isinstance(value, bool), key)
    elif kind is UUID:
        check(isinstance(value, str) and re.fullmatch(
            r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}", value),
            key)
    elif kind is ESCAPED:
        unescape(value)
    elif kind is FILES:
        check_files(value)
    elif kind is NAME:
        check(value is None or isinstance(value, str) and re.fullmatch(
            r"(?=.{0,63}[^0-9])[A-Za-z0-9][A-Za-z0-9._-]{0,63}", value), key)
    elif kind == "boot":
        check(isinstance(value, str)
              and re.fullmatch(r"[!-~]{0,36}", value), key)
    elif isinstance(kind[0], str):
        check(value in kind, key)
    else:
        check(isinstance(value, int) and not isinstance(value, bool)
              and kind[0] <= value <= kind[1], key)


def no_key_twice(pairs):
    check(len(dict(pairs)) == len(pairs), "a key twice")
    return dict(pairs)


def no_fraction(text):
    raise Refused("a fraction: " + text)


def check_layers(catalog):
    layers = catalog["layers"]
    for layer in layers:
        size = layer["chunksize"]
        check(size & size - 1 == 0, "chunksize")
    live = [layer for layer in layers if not layer["deleted"]]
    for what in ([uuid.UUID(layer["uuid"]) for layer in layers],
                 [layer["number"] for layer in live],
                 [layer["name"] for layer in live if layer["name"]],
                 [unescape(name) for key in ("layers", "making", "removing")
                  for item in catalog[key] for name in item["files"]]):
        check(len(set(what)) == len(what), "something twice")


def read_catalog(path):
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(fd, "rb") as f:
        st = os.fstat(fd)
        check(stat.S_ISREG(st.st_mode) and st.st_size <= 64 << 20, "no file")
        data = f.read()
    version = re.match(rb"fssnap-catalog ([0-9]+)", data)
    check(version, "no catalogue")
    check(version[1] == b"1", "format " + version[1].decode())
    line = re.match(rb"fssnap-catalog 1 ([0-9a-f]{8}) ([1-9][0-9]*)\n", data)
    check(line, "first line")
    end = line.end() + int(line[2])
    text = data[line.end():end]
    check(len(text) == int(line[2]), "cut off")
    check(crc32c(text) == int(line[1], 16), "checksum")
    check(not data[end:].strip(b"\0"), "bytes behind it")
    try:
        catalog = json.loads(text.decode("utf-8"),
                             object_pairs_hook=no_key_twice,
                             parse_float=no_fraction,
                             parse_constant=no_fraction)
    except ValueError as error:
        raise Refused(str(error)) from error
    check_value(catalog, CATALOG, "catalog")
    check_layers(catalog)
    return catalog


# --- backing files ---------------------------------------------------------

def up(value, multiple):
    return -(-value // multiple) * multiple


class Part:
    """Where things are in a part with LENGTH bytes of the origin."""

    def __init__(self, chunk_size, length):
        self.groups = -(-length // (64 * chunk_size))
        self.units = -(-self.groups // 60)
        self.table_bytes = up(self.units * 512, 4096)
        self.data = up(4096 + 3 * self.table_bytes, max(4096, chunk_size))
        self.file_size = self.data + length

    def table(self, t):
        return 4096 + t * self.table_bytes


def span_of(layer):
    group = 64 * layer["chunksize"]
    limit = layer["backfile-size"]
    if limit == 0:
        return max(up(layer["size"], group), group)
    low, high = 0, limit // group
    while low < high:
        middle = (low + high + 1) // 2
        if Part(layer["chunksize"], middle * group).file_size <= limit:
            low = middle
        else:
            high = middle - 1
    return low * group


def check_header(sector, catalog, layer, part, first, length, place):
    check(sector[:8] == b"FSSNAPBF", "no backing file")
    (version,) = struct.unpack_from("<I", sector, 8)
    check(version == 1, f"format {version}")
    check(crc_is_right(sector, 12), "checksum of the header")
    fields = struct.unpack_from("<16s16sIIQQQQQQQII", sector, 16)
    expected = (uuid.UUID(catalog["store"]).bytes,
                uuid.UUID(layer["uuid"]).bytes, part, len(layer["files"]),
                layer["chunksize"], layer["size"], first, length, 4096,
                place.units, place.data)
    check(fields[:11] == expected, "header of something else")
    check(1 <= fields[11] <= 999999999 and fields[12] == 0, "header")
    name, path = sector[128:192].rstrip(b"\0"), sector[192:447].rstrip(b"\0")
    check(re.fullmatch(rb"[!-~]*", name) and b"\0" not in path
          and not any(sector[447:]), "header")


def read_unit(sector, layer, part, t, u):
    """The bits of a unit, as one large number."""
    if not any(sector):
        return 0
    check(crc_is_right(sector, 0), f"checksum of unit {u} of table {t}")
    check(struct.unpack_from("<HH8sQQ", sector, 4)
          == (t, part, uuid.UUID(layer["uuid"]).bytes[:8], u, 0),
          f"unit {u} of table {t} is of something else")
    return int.from_bytes(sector[32:], "little")


def read_table(fd, layer, part, place, t, chunks):
    """The chunks of the part that have their bit."""
    found = []
    u = 0
    while u < place.units:
        offset = place.table(t) + 512 * u
        try:
            data = os.lseek(fd, offset, os.SEEK_DATA)
        except OSError:
            break
        u += (data - offset) // 512
        if u >= place.units:
            break
        bits = read_unit(os.pread(fd, 512, place.table(t) + 512 * u), layer,
                         part, t, u)
        while bits:
            bit = (bits & -bits).bit_length() - 1
            found.append(u * 3840 + bit)
            bits &= bits - 1
        u += 1
    check(not found or found[-1] < chunks, "chunks behind the end")
    return found


def read_part(directory, catalog, layer, part, span):
    first = part * span
    length = min(span, layer["size"] - first)
    place = Part(layer["chunksize"], length)
    name = unescape(layer["files"][part])
    fd = os.open(os.path.join(os.fsencode(directory), name),
                 os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        st = os.fstat(fd)
        check(stat.S_ISREG(st.st_mode), "no file")
        sector = os.pread(fd, 512, 0)
        check(len(sector) == 512, "cut off")
        check_header(sector, catalog, layer, part, first, length, place)
        check(st.st_size == place.file_size <= 2**63 - 1, "size")
        start = first // layer["chunksize"]
        chunks = -(-length // layer["chunksize"])
        return [[start + chunk for chunk in
                 read_table(fd, layer, part, place, t, chunks)]
                for t in range(3)]
    finally:
        os.close(fd)


def read_tables(directory, catalog, layer):
    """Sets of the chunks that are copied, free, unreadable."""
    span = span_of(layer)
    check(span > 0, "backfile-size")
    parts = max(1, -(-layer["size"] // span))
    check(parts == len(layer["files"]), "number of files")
    tables = [set(), set(), set()]
    for part in range(parts):
        for table, chunks in zip(tables, read_part(directory, catalog, layer,
                                                   part, span)):
            table.update(chunks)
    tables[0] |= tables[2]
    counted = [layer["counters"]["chunks-" + what]
               for what in ("copied", "free", "unreadable")]
    if not layer["deleted"]:
        check(all(len(table) >= count
                  for table, count in zip(tables, counted)),
              "fewer chunks than there were")
    return tables


# --- layers ----------------------------------------------------------------

def ranges(chunks):
    result = []
    for chunk in sorted(chunks):
        if result and result[-1][1] == chunk - 1:
            result[-1][1] = chunk
        else:
            result.append([chunk, chunk])
    return result


def why_lost(catalog, layer):
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as f:
        boot = f.read().strip()
    if layer["broken"] is not None:
        return "broken"
    mark = "/dev/shm/fssnap-" + str(uuid.UUID(layer["uuid"]))
    if os.path.lexists(mark) and os.lstat(mark).st_uid in (0, os.geteuid()):
        return "marked"
    if not catalog["clean"] and (
            layer["level"] == "async"
            or layer["level"] == "written" and catalog["boot"] != boot):
        return "not closed cleanly"
    return None


def read_layer(directory, catalog, layer):
    result = {"snapnumber": layer["number"], "deleted": layer["deleted"],
              "refused": why_lost(catalog, layer), "copied": None,
              "free": None, "unreadable": None}
    if result["refused"] is None:
        try:
            tables = read_tables(directory, catalog, layer)
        except (Refused, OSError) as error:
            result["refused"] = str(error)
        else:
            for what, table in zip(("copied", "free", "unreadable"), tables):
                result[what] = ranges(table)
    return result


def compare(second, check_file, list_file):
    """What fssnap found is what we have found."""
    with open(check_file, encoding="utf-8") as f:
        first = json.load(f)["snapshots"]
    with open(list_file, encoding="utf-8") as f:
        listed = json.load(f)["snapshots"]
    numbers = [layer["snapnumber"] for layer in second]
    assert [layer["snapnumber"] for layer in first] == numbers, numbers
    assert [layer["snapnumber"] for layer in listed] == numbers, numbers
    for ours, theirs in zip(second, first):
        assert ours["deleted"] == theirs["deleted"], (ours, theirs)
        if theirs["next-start"] != "deleted":
            assert (theirs["next-start"] == "kept") \
                == (ours["refused"] is None), (ours, theirs)
        for key, of in (("chunks-copied", "copied"), ("chunks-free", "free"),
                        ("chunks-lost", "unreadable")):
            count = None if ours[of] is None \
                else sum(b - a + 1 for a, b in ours[of])
            assert theirs[key] == count \
                or ours["refused"] == "not closed cleanly", (ours, theirs)


class Layer:
    """One layer, to read from."""

    def __init__(self, directory, catalog, layer):
        self.size = layer["size"]
        self.chunk_size = layer["chunksize"]
        self.number = layer["number"]
        self.deleted = layer["deleted"]
        self.pending = layer["pending"]
        self.span = span_of(layer)
        self.files = [os.path.join(os.fsencode(directory), unescape(name))
                      for name in layer["files"]]
        self.lost = why_lost(catalog, layer)
        if self.lost is None:
            self.copied, self.free, self.unreadable = read_tables(
                directory, catalog, layer)

    def data(self, offset, length):
        part = offset // self.span
        first = part * self.span
        place = Part(self.chunk_size, min(self.span, self.size - first))
        with open(self.files[part], "rb") as f:
            return os.pread(f.fileno(), length, place.data + offset - first)


def read_piece(layers, origin, offset, length):
    """Of the first of LAYERS; in one chunk of each."""
    for layer in layers:
        check(layer.lost is None, f"snapshot {layer.number}: {layer.lost}")
        chunk = offset // layer.chunk_size
        if layer is layers[0] and chunk in layer.free:
            return bytes(length)
        if offset >= layer.size:
            continue
        check(chunk not in layer.unreadable, "unreadable")
        if chunk in layer.copied:
            return layer.data(offset, length)
    return os.pread(origin.fileno(), length, offset)


def export(directory, catalog, number, origin):
    layers = [Layer(directory, catalog, layer) for layer in catalog["layers"]]
    while not layers or layers[0].number != number or layers[0].deleted \
            or layers[0].pending:
        check(layers, "there is no such snapshot")
        layers.pop(0)
    step = min(layer.chunk_size for layer in layers)
    with open(origin, "rb") as f:
        for offset in range(0, layers[0].size, step):
            length = min(step, layers[0].size - offset)
            # A newer layer may end within the piece.
            ends = [layer.size for layer in layers
                    if offset < layer.size < offset + length]
            for start, end in zip([offset] + sorted(ends),
                                  sorted(ends) + [offset + length]):
                sys.stdout.buffer.write(read_piece(layers, f, start,
                                                   end - start))


def main():
    directory = sys.argv[1]
    try:
        catalog = read_catalog(os.path.join(directory, "catalog"))
    except (Refused, OSError) as error:
        sys.exit(f"{directory}: {error}")
    if sys.argv[2:3] == ["export"]:
        export(directory, catalog, int(sys.argv[3]), sys.argv[4])
        return
    result = [read_layer(directory, catalog, layer)
              for layer in catalog["layers"]]
    print(json.dumps(result))
    if sys.argv[2:3] == ["compare"]:
        compare(result, sys.argv[3], sys.argv[4])


if __name__ == "__main__":
    main()
