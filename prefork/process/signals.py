"""Signals: the tables from signal numbers to Commands, one for the master and one for workers. Owns the wakeup
descriptor.
"""

from __future__ import annotations

import os
import signal
import sys
import termios
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import Enum, auto
from types import FrameType
from typing import Any

from prefork.runtime import forks
from prefork.runtime.loop import Loop


class Command(Enum):
    """The meaning of a signal."""

    RELOAD = auto()
    STOP = auto()
    STOP_NOW = auto()
    OBEY = auto()
    REOPEN = auto()
    UPGRADE = auto()
    DRAIN = auto()
    MORE = auto()
    FEWER = auto()
    REAP = auto()
    NOTHING = auto()


# The master has an order for this process. A worker that serves hears of it by the channel to the master
# (worker/diagnostics.py), and notes it as if this signal had come. The signal itself ends a child that boots, and a
# template. The number is one that nobody else uses: applications handle SIGTERM, SIGHUP and SIGUSR2, the runtime of Go,
# which a library may bring along, uses SIGURG, and SIGCONT makes a stopped process forget SIGTTIN (signal(7)). A worker
# writes all stacks at SIGUSR2. Python knows of no real-time signals of macOS and BSD, but of SIGEMT, which no kernel of
# today sends.
ORDERED: int = signal.SIGRTMIN + 4 if sys.platform == "linux" else getattr(signal, "SIGEMT", signal.SIGUSR2)

MASTER: dict[int, Command] = {
    signal.SIGHUP: Command.RELOAD,
    signal.SIGTERM: Command.STOP,
    signal.SIGQUIT: Command.STOP,
    signal.SIGINT: Command.STOP_NOW,
    signal.SIGUSR1: Command.REOPEN,
    signal.SIGUSR2: Command.UPGRADE,
    signal.SIGWINCH: Command.DRAIN,
    signal.SIGTTIN: Command.MORE,
    signal.SIGTTOU: Command.FEWER,
    signal.SIGCHLD: Command.REAP,
}
WORKER = {
    **MASTER,  # signals for the master alone are ignored: by default they would end or stop the worker
    signal.SIGHUP: Command.NOTHING,
    signal.SIGUSR2: Command.NOTHING,
    signal.SIGTTIN: Command.NOTHING,
    signal.SIGTTOU: Command.NOTHING,
    ORDERED: Command.OBEY,
}
del WORKER[signal.SIGWINCH]
del WORKER[signal.SIGCHLD]  # an application looks after its own children


class Dismissed(SystemExit):
    """Raised in the main thread of a child that has been told to end while it imports an application.

    The exception is lost where it is raised in a finalizer, in a call at a fork, or below a bare `except:`. So the
    child is told several times, and raises the exception again only where the last one has been lost. `under_way` is
    true while one is raised and not lost.
    """

    under_way = False

    def __init__(self) -> None:
        super().__init__()
        Dismissed.under_way = True

    def __del__(self) -> None:
        Dismissed.under_way = False


def dismiss(frame: FrameType | None) -> None:
    """Raise Dismissed in the handler of a signal that has come at `frame`.

    Nothing is raised while an earlier Dismissed is under way, as it would cut off the clean-up behind that one, nor in
    the midst of a fork. The parent will tell the child again.
    """
    if not Dismissed.under_way and not forks.is_under_way(frame):
        raise Dismissed


class Signals:
    """Catches the signals of `table` from now on, and returns their commands in order (signal.set_wakeup_fd)."""

    def __init__(self, loop: Loop, table: Mapping[int, Command], *, insist: bool = False) -> None:
        """With `insist`, no signal is lost where an application has taken the wakeup descriptor, or has closed it, as
        asyncio.run does. Most signals come twice then.
        """
        self._loop = loop
        self._table = table
        self._received = b""
        self._interruptible = False
        # while an application call keeps the loop from reading, a pipe holds 65536 signals; a socket pair, 278
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._reading, False)
        os.set_blocking(self._writing, False)
        self._readable = loop.readable(self._reading)
        self.catch()
        self._handlers: dict[int, Any] = dict.fromkeys(table, self._insist if insist else _noted)
        if _is_held_up_by_terminal():
            self._handlers[signal.SIGTTOU] = signal.SIG_IGN
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
            signal.siginterrupt(number, False)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # signals that waited for a handler come now

    def note(self, number: int) -> None:
        """Have `next` return as if this signal had come. May be called in any thread."""
        with suppress(OSError):  # the pipe is full, as it may be for the wakeup descriptor
            os.write(self._writing, bytes([number]))

    def _insist(self, number: int, frame: FrameType | None) -> None:
        self.note(number)
        if number == ORDERED and self._interruptible:
            dismiss(frame)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """A block that ORDERED ends by Dismissed. It may take long, and nothing in it looks for orders."""
        self._interruptible = True
        try:
            yield
        finally:
            self._interruptible = False

    def catch(self) -> None:
        """Take the wakeup descriptor, or take it back from an application that has taken it while it was imported, as
        asyncio does for its own signal handlers. Handlers that the application has set stay.
        """
        signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)

    async def next(self) -> Command:
        """The next signal's command."""
        while not self._received:
            await self._readable
            try:
                self._received = os.read(self._reading, 65536)
            except BlockingIOError:
                continue
        number, self._received = self._received[0], self._received[1:]
        return self._table.get(number, Command.NOTHING)  # signals with an application's own handler come here, too

    def ignore_all(self) -> None:
        """Ignore all signals of the table: one that comes while the process ends must not change its exit status."""
        signal.set_wakeup_fd(-1)
        for number in self._table:
            signal.signal(number, signal.SIG_IGN)

    def close_in_child(self) -> None:
        """Let go of the signals in a child that the master or an application has forked: they must not be written to
        the pipe, which the child shares with its parent. Handlers that an application has set stay.
        """
        signal.set_wakeup_fd(-1)
        give_back(self._handlers)
        os.close(self._reading)
        os.close(self._writing)


def give_back(handlers: Mapping[int, object]) -> None:
    """Give Python's default action to each signal that still has the handler named here."""
    for number, handler in handlers.items():
        if signal.getsignal(number) == handler:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def _is_held_up_by_terminal() -> bool:
    """Whether the output goes to a terminal that no background process may write to (`stty tostop`).

    There, a write raises SIGTTOU. Where that is caught, the same write raises it again and again; where it is ignored,
    the write goes through (termios(3)).
    """
    for stream in (1, 2):
        with suppress(termios.error, OSError):
            if termios.tcgetattr(stream)[3] & termios.TOSTOP:
                return True
    return False


def _noted(number: int, frame: object) -> None:
    """Do nothing: Python has written the signal to the wakeup descriptor, which takes a handler to be set."""
