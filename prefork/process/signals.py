"""Signals: number -> Command, one table for the master and one for workers. Owns the wakeup descriptor."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from enum import Enum, auto

from prefork.kernel.loop import Loop


class Command(Enum):
    """What a signal asks for."""

    RELOAD = auto()
    STOP = auto()
    STOP_NOW = auto()
    REOPEN = auto()
    REAP = auto()
    NOTHING = auto()


MASTER = {
    signal.SIGHUP: Command.RELOAD,
    signal.SIGTERM: Command.STOP,
    signal.SIGQUIT: Command.STOP,
    signal.SIGINT: Command.STOP_NOW,
    signal.SIGUSR1: Command.REOPEN,
    signal.SIGCHLD: Command.REAP,
    signal.SIGUSR2: Command.NOTHING,  # whose default would be to die of it
}
WORKER = {**MASTER, signal.SIGHUP: Command.NOTHING}
del WORKER[signal.SIGCHLD]  # an application's own children are its own affair


class Signals:
    """Catches the signals of `table` from now on, and hands them out in order (signal.set_wakeup_fd)."""

    def __init__(self, loop: Loop, table: Mapping[signal.Signals, Command]) -> None:
        self._loop = loop
        self._table = table
        self._received = b""
        # a pipe holds 65536 of them while an application call keeps us from reading; a socket pair, 278
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._reading, False)
        os.set_blocking(self._writing, False)
        self._readable = loop.readable(self._reading)
        signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # a child forgets what its parent listened to
        for number in table:
            signal.signal(number, _noted)
            signal.siginterrupt(number, False)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # whatever waited for a handler comes in now

    async def next(self) -> Command:
        """The next signal's command."""
        while not self._received:
            await self._readable
            try:
                self._received = os.read(self._reading, 65536)
            except BlockingIOError:
                continue
        number, self._received = self._received[0], self._received[1:]
        return self._table.get(signal.Signals(number), Command.NOTHING)

    def close_in_child(self) -> None:
        """Stop listening in a forked child: it must not write its own signals into its parent's descriptor."""
        signal.set_wakeup_fd(-1)
        os.close(self._reading)
        os.close(self._writing)


def _noted(number: int, frame: object) -> None:
    """The wakeup descriptor has it already; a handler must stand there for Python to write to it."""
