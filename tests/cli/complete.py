# SPDX-License-Identifier: BSD-3-Clause
"""Complete lines in a real bash on a terminal:  complete.py RCFILE <LINES

Each line of the standard input is KEY LINE: LINE is typed, then KEY, which
is "tab" or "all" (insert every completion); what the line is then is printed.
The bash reads RCFILE first.
"""

import os
import pty
import signal
import sys
import termios
import threading

KEYS = {"tab": "\t", "all": "\x1b*"}

# Control-X w says what the line is.
SETTINGS = r"""
bind -x '"\C-xw": printf "%s\n" "$READLINE_LINE" >&9'
PS1= PS2=
PROMPT_COMMAND='echo ready >&9; PROMPT_COMMAND='
unset HISTFILE
"""


def drain(terminal):
    try:
        while os.read(terminal, 65536):
            pass
    except OSError:
        pass  # bash has ended


def start_bash(rcfile, out):
    pid, terminal = pty.fork()
    if pid == 0:
        os.dup2(out, 9)
        os.environ["TERM"] = "dumb"
        os.execlp("bash", "bash", "--noprofile", "--rcfile", rcfile, "-i")
    threading.Thread(target=drain, args=(terminal,), daemon=True).start()
    return pid, terminal


def await_readline(terminal):
    """What is typed before it has set the terminal up may be lost; nothing
    tells when it has, but the terminal's settings."""
    while termios.tcgetattr(terminal)[3] & termios.ICANON:
        os.sched_yield()


def main(rcfile):
    with open(rcfile, "a") as settings:
        settings.write(SETTINGS)
    answers, out = os.pipe()
    pid, terminal = start_bash(rcfile, out)
    os.close(out)
    lines = os.fdopen(answers)
    if lines.readline() != "ready\n":
        sys.exit("bash did not start")
    for line in sys.stdin:
        key, _, typed = line.rstrip("\n").partition(" ")
        await_readline(terminal)
        os.write(terminal, (typed + KEYS[key] + "\x18w").encode())
        print(lines.readline().rstrip("\n"), flush=True)
        await_readline(terminal)
        os.write(terminal, b"\x01\x0b")  # to its beginning, erase to the end
    # Closing the terminal would not do: the thread that reads it keeps it.
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


main(*sys.argv[1:])
