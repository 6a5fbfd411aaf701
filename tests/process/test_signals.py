"""Signals: the table that the package's docstring shows is the one by which the processes go.

And the terminal: a write to it from the background never holds anybody up.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import termios
from contextlib import suppress
from functools import partial

from prefork import process
from prefork.process import signals
from prefork.process.signals import Command
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


def documented() -> dict[str, dict[int, str]]:
    """The table in the docstring of prefork.process: for "master" and "worker" the words for each signal's number, but
    none for a signal that has "-" there. The columns begin where their heads do, and an empty line ends the table.
    """
    lines = iter((process.__doc__ or "").splitlines())
    head = next(line for line in lines if line.split() == ["signal", "master", "worker"])
    first, second = head.index("master"), head.index("worker")
    told: dict[str, dict[int, str]] = {"master": {}, "worker": {}}
    for row in iter(partial(next, lines), ""):
        cells = {"master": row[first:second].strip(), "worker": row[second:].strip()}
        for name in row[:first].split(","):
            number = signals.ORDERED if name.strip() == "ORDERED" else getattr(signal, f"SIG{name.strip()}")
            for kind, words in cells.items():
                assert words, f"{name.strip()}: nothing stands there for the {kind}"
                if words != "-":
                    told[kind][number] = words
    return told


def test_the_documented_signals_are_those_that_the_master_and_a_worker_handle() -> None:
    told = documented()
    assert told["master"].keys() == signals.MASTER.keys()
    assert told["worker"].keys() == signals.WORKER.keys()


def test_a_signal_that_is_documented_as_ignored_has_no_command() -> None:
    ignored = {number for number, words in documented()["worker"].items() if words == "ignored"}
    assert {signals.WORKER[number] for number in ignored} == {Command.NOTHING}
    others = {number for number, command in signals.WORKER.items() if command is Command.NOTHING} - ignored
    assert others <= {signal.SIGUSR2}, "faulthandler alone answers one without a command (Logs.catch_crashes)"
