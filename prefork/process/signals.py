"""Signals: number -> Command, one table for the master and one for workers. Owns the wakeup descriptor."""

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
    """What a signal asks for."""

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


# The master has left an order: a worker hears of it by the line between them (worker/diagnostics.py), and notes it as
# if it were this signal; as one it ends a child that boots. Nobody else has a use for it: applications take SIGTERM,
# SIGHUP and SIGUSR2, Go's runtime, which a library may bring along, SIGURG; and a stopped process that goes on forgets
# SIGTTIN (signal(7)). Nor is it SIGUSR2, at which a worker writes all stacks. macOS and BSD have no real-time signals
# that Python knows of, but SIGEMT, which no kernel of today sends.
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
    **MASTER,  # what is the master's alone is ignored: the defaults would be to die, or to stop
    signal.SIGHUP: Command.NOTHING,
    signal.SIGUSR2: Command.NOTHING,
    signal.SIGTTIN: Command.NOTHING,
    signal.SIGTTOU: Command.NOTHING,
    ORDERED: Command.OBEY,
}
del WORKER[signal.SIGWINCH]
del WORKER[signal.SIGCHLD]  # an application's own children are its own affair


class Dismissed(SystemExit):
    """Raised in the main thread of a child that has been told to end while it imports an application.

    It may come up where nothing comes through: in a finalizer, a call at a fork, or a bare `except:`. It is gone then,
    while one that is on its way is not; so who is told again raises another one only where it has to.
    """

    under_way = False

    def __init__(self) -> None:
        super().__init__()
        Dismissed.under_way = True

    def __del__(self) -> None:
        Dismissed.under_way = False


def dismiss(frame: FrameType | None) -> None:
    """Raise Dismissed in the handler of a signal that has come at `frame`, unless one is on its way already: whoever
    cleans up behind it is not to be cut off. Nor is a fork; one who is told so then will be told again.
    """
    if not Dismissed.under_way and not forks.is_under_way(frame):
        raise Dismissed


class Signals:
    """Catches the signals of `table` from now on, and hands them out in order (signal.set_wakeup_fd)."""

    def __init__(self, loop: Loop, table: Mapping[int, Command], *, insist: bool = False) -> None:
        """With `insist` no signal is lost, though an application may have the wakeup descriptor at the moment, or have
        closed it, as asyncio.run does; most come twice then.
        """
        self._loop = loop
        self._table = table
        self._received = b""
        self._interruptible = False
        # a pipe holds 65536 of them while an application call keeps us from reading; a socket pair, 278
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
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # whatever waited for a handler comes in now

    def note(self, number: int) -> None:
        """As if this signal had come; in any thread."""
        with suppress(OSError):  # as full as the wakeup descriptor may be
            os.write(self._writing, bytes([number]))

    def _insist(self, number: int, frame: FrameType | None) -> None:
        self.note(number)
        if number == ORDERED and self._interruptible:
            dismiss(frame)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """A block that ORDERED ends by Dismissed: nothing in it would look for orders, and it may take long."""
        self._interruptible = True
        try:
            yield
        finally:
            self._interruptible = False

    def catch(self) -> None:
        """Have the wakeup descriptor, again where an application that was imported has taken it, as asyncio does for
        its own signal handlers. What it does with the signals themselves is its affair.
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
        return self._table.get(number, Command.NOTHING)  # those of an application's own handlers come in as well

    def ignore_all(self) -> None:
        """Hear of none any more: whoever still tells a process to end that is at its end must not change its status."""
        signal.set_wakeup_fd(-1)
        for number in self._table:
            signal.signal(number, signal.SIG_IGN)

    def close_in_child(self) -> None:
        """In a forked child, a worker's or an application's: its signals are its own, and not to be written into the
        descriptor that it shares with us. Handlers that an application has set stay.
        """
        signal.set_wakeup_fd(-1)
        give_back(self._handlers)
        os.close(self._reading)
        os.close(self._writing)


def give_back(handlers: Mapping[int, object]) -> None:
    """Let signals do what they do in a Python process, those that have these handlers still."""
    for number, handler in handlers.items():
        if signal.getsignal(number) == handler:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def _is_held_up_by_terminal() -> bool:
    """Whether our output goes to a terminal that lets nobody write from the background (`stty tostop`): a SIGTTOU that
    is caught would come again and again with the same write, while one that is ignored lets it pass (termios(3)).
    """
    for stream in (1, 2):
        with suppress(termios.error, OSError):
            if termios.tcgetattr(stream)[3] & termios.TOSTOP:
                return True
    return False


def _noted(number: int, frame: object) -> None:
    """The wakeup descriptor has it already; a handler must stand there for Python to write to it."""
