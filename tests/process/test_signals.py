"""Signals and the terminal: what is written there from the background never holds anybody up."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import termios
from contextlib import suppress

from tests.e2e.harness import ROOT

# In the background of a terminal that stops such writers: the handlers of a master, then a line.
PROGRAM = """
import os
from prefork.runtime.loop import Loop
from prefork.runtime.poller import make_poller
from prefork.process.signals import MASTER, Signals
os.setpgrp()
Signals(Loop(make_poller()), MASTER)
print("written", flush=True)
"""
FOREGROUND = f"""
import subprocess, sys
subprocess.run([sys.executable, "-c", {PROGRAM!r}], timeout=8, check=True)
"""


def test_a_master_in_the_background_of_a_terminal_with_tostop_writes_on() -> None:
    ours, theirs = os.openpty()
    modes = termios.tcgetattr(theirs)
    modes[3] |= termios.TOSTOP
    termios.tcsetattr(theirs, termios.TCSANOW, modes)

    def become_foreground() -> None:
        import fcntl

        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    with subprocess.Popen(
        [sys.executable, "-c", FOREGROUND],
        cwd=ROOT,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        preexec_fn=become_foreground,
    ) as process:
        os.close(theirs)
        text = b""
        with suppress(OSError):  # EIO: nobody has the terminal any more
            while select.select([ours], (), (), 10)[0] and (piece := os.read(ours, 4096)):
                text += piece
        os.close(ours)
    assert process.returncode == 0, text
    assert b"written" in text
