#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Change a structure, and make its checksum right: what xfs_db would not do.

    patch.py IMAGE OFFSET SIZE CRC-AT AT HEX [AT HEX]...

What is changed is SIZE bytes at OFFSET; CRC-AT and AT are within them.
"""
import struct
import sys


def crc32c(data):
    """Slowly."""
    crc = 0xffffffff
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82f63b78 if crc & 1 else 0)
    return crc ^ 0xffffffff


def main():
    """See above."""
    offset, size, crc_at = map(int, sys.argv[2:5])
    with open(sys.argv[1], "r+b") as image:
        image.seek(offset)
        data = bytearray(image.read(size))
        for at, value in zip(sys.argv[5::2], sys.argv[6::2]):
            new = bytes.fromhex(value)
            data[int(at):int(at) + len(new)] = new
        data[crc_at:crc_at + 4] = bytes(4)
        data[crc_at:crc_at + 4] = struct.pack("<I", crc32c(data))
        image.seek(offset)
        image.write(data)


main()
