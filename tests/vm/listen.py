#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Run a server that listens on a Unix socket and on a free TCP port.

listen.py SOCKET PORTFILE COMMAND...  hands COMMAND both as systemd does,
so that no one can take the port in between, and writes its number.
"""
import os
import socket
import sys

path, port_file, command = sys.argv[1], sys.argv[2], sys.argv[3:]
local = socket.socket(socket.AF_UNIX)
local.bind(path)
remote = socket.socket()
remote.bind(("127.0.0.1", 0))
with open(port_file, "w", encoding="ascii") as file:
    print(remote.getsockname()[1], file=file)
for listener in (local, remote):
    listener.listen(64)
local_fd, remote_fd = local.detach(), remote.detach()
assert (local_fd, remote_fd) == (3, 4), "systemd has them from 3 on"
for fd in (local_fd, remote_fd):
    os.set_inheritable(fd, True)
os.environ["LISTEN_FDS"] = "2"
os.environ["LISTEN_PID"] = str(os.getpid())
os.execvp(command[0], command)
