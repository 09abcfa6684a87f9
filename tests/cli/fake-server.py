# SPDX-License-Identifier: BSD-3-Clause
"""A server that says what a test wants:  fake-server.py PIDFILE SOCKET SCRIPT
LOG.  For each connection SCRIPT is read anew and done line by line:

    read         read a line, append it to LOG; @ID@ is its id from here on
    send TEXT    send TEXT and a newline
    bytes TEXT   send TEXT, with Python's escapes, as it is
    fill N       send N letters
    tell FIFO    write a line there
    await FIFO   read a line there
    wait         until the client hangs up

and then the connection is closed.
"""

import json
import os
import socket
import sys


class Connection:
    def __init__(self, connection, log):
        self.connection = connection
        self.lines = connection.makefile("rb")
        self.log = log
        self.id = "null"

    def expand(self, text):
        return text.replace("@ID@", self.id)

    def do_read(self, _):
        line = self.lines.readline()
        if not line:
            raise ConnectionError("the client hung up")
        with open(self.log, "ab") as log:
            log.write(line)
        self.id = str(json.loads(line)["id"])

    def do_send(self, text):
        self.connection.sendall(self.expand(text).encode() + b"\n")

    def do_bytes(self, text):
        self.connection.sendall(
            self.expand(text).encode("ascii").decode("unicode_escape")
            .encode("latin-1"))

    def do_fill(self, count):
        piece = b"x" * 65536
        for _ in range(int(count) // len(piece)):
            self.connection.sendall(piece)

    def do_tell(self, fifo):
        with open(fifo, "w") as out:
            out.write("\n")

    def do_await(self, fifo):
        with open(fifo) as lines:
            lines.readline()

    def do_wait(self, _):
        self.lines.read()


def main(pidfile, path, script, log):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    with open(pidfile, "w") as out:
        out.write(str(os.getpid()))
    while True:
        connection = Connection(listener.accept()[0], log)
        with open(script) as steps:
            try:
                for step in steps:
                    what, _, argument = step.rstrip("\n").partition(" ")
                    getattr(connection, "do_" + what)(argument)
            except ConnectionError:
                pass  # the client does not want to hear more
        connection.lines.close()
        connection.connection.close()


main(*sys.argv[1:])
