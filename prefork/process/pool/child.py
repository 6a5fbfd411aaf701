"""A child: what its parent knows of it, by the kernel's word and by its own. Owns the line between the two.

A child reports through a pair of sockets, in a line: that it is ready, or why it is not, with its traceback. Once
ready, it may say in another line that it is to be replaced; and its parent may ask what it is at. An application may
say all that as well, or nothing that can be understood: that costs the child, and nobody else.
"""

from __future__ import annotations

import os
import signal
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from math import inf
from time import monotonic

from prefork.errors import BootError, MalformedMessage, TimedOut
from prefork.logger import log
from prefork.process.lines import READ, Lines, decode
from prefork.process.messages import NOW, WHAT, WHERE, Account, Report
from prefork.process.pool.exit_status import describe_exit
from prefork.process.signals import ORDERED
from prefork.runtime.loop import Loop
from prefork.runtime.sync import Condition, Event
from prefork.runtime.task import Task

ANSWER = 1.0  # seconds that one whose boot takes too long has to say where it is
ENDING = 2.0  # seconds that one has for its exit functions, where nobody waits for anything else of it
TIMES = 8  # that it is told within these: it may be where one word is lost (Dismissed)
DUMP = 0.2  # seconds that it has to write that itself (Logs.catch_crashes), before it may be killed


class Child:
    """One child process, as its parent sees it."""

    def __init__(self, loop: Loop, pid: int, report: int, name: str = "worker") -> None:
        self.pid = pid
        self.name = name
        self.started = monotonic()
        self.exited = Event(loop)
        self.departing = Event(loop)  # it has exited, or wants to be replaced
        self.account: Account | None = None  # what it has said since it was asked last
        self.heard = Condition(loop)  # rung when it has said something
        self.status = 0  # once exited: its exit status, or minus the signal's number (os.waitstatus_to_exitcode)
        self.out_of_memory = False  # is what the kernel seems to have killed it for
        # when the turn began that its loop is in, as Board.turn has it, where it has a loop
        self.turn: Callable[[], float] = lambda: inf
        self.hold: Callable[[bool], None] = lambda held: None  # called when SIGSTOP or the like holds it, or no more
        self._odd = inf  # since when its loop's turn makes no sense (monotonic seconds)
        self.asgi = False  # it is ready, and hosts an ASGI application
        self.served = 0.0  # once exited: the seconds for which it was ready
        self.clients = 0  # once exited: how many it has accepted, by its own word
        self._ready_at = inf  # monotonic seconds
        self.stopped = inf  # since when (monotonic seconds), by SIGSTOP or the like
        self._loop = loop
        self._report = report
        self._lines = Lines()
        self._said: deque[bytes] = deque()  # lines that are not heard yet
        self._asked = 0  # questions for an account that it has not answered
        self._waiting: Task | None = None  # for it
        self._deaf = False  # we are, to what it says

    async def ready(self, timeout: float) -> None:
        """Wait for its report. Raises BootError when it is not ready within `timeout` seconds, or cannot be."""
        ready = False
        try:
            with self._loop.within(timeout):
                report = await self._hear()
            if report is None:
                raise BootError(f"{self.name} {self.pid} died while it booted: {self.exit_description}")
            if report.problem:
                raise BootError(f"{self.name} {self.pid} cannot boot: {report.problem}", report.traceback)
            ready = True
            self._ready_at = monotonic()
            self.asgi = report.asgi
        except MalformedMessage as error:
            raise BootError(f"{self.name} {self.pid} sent a malformed message: {error}") from None
        except TimedOut:
            place = await self._place()
            late = f"{self.name} {self.pid} was not ready within {timeout:g} s (workers.boot_timeout)"
            hint = "" if place else ", and does not say where it is: see the error log"
            raise BootError(late + hint, place) from None
        finally:
            self._waiting = None
            self._loop.forget(self._report)
            if not ready:
                self.hang_up()

    async def _hear(self) -> Report | None:
        """The next that it says; None when it has ended instead: its own child may hold the line open. Raises
        MalformedMessage.
        """
        readable = self._loop.readable(self._report)
        self._waiting = self._loop.current
        while not self._said:
            await readable  # or `end`
            try:
                piece = os.read(self._report, READ)
            except BlockingIOError:
                if not self.exited.is_set():
                    continue
                piece = b""
            except ConnectionResetError:  # it has ended without having read a question
                piece = b""
            if not piece:
                await self.exited.wait()
                return None
            self._said += self._lines.feed(piece)
        return decode(self._said.popleft(), Report)

    async def _place(self) -> str:
        """Where it is, as its boot takes too long; "" where it cannot say that, as not even another thread gets to run:
        then the dump that needs no interpreter is in the error log.
        """
        self.ask(WHERE)
        try:
            with self._loop.within(ANSWER):
                while report := await self._hear():
                    if report.place:
                        return report.place
        except (TimedOut, MalformedMessage):
            self.signal(signal.SIGUSR2)
            await self._loop.sleep(DUMP)
        return ""

    def end(self, status: int) -> None:
        """It has ended, with what `os.waitpid` says."""
        self.status = os.waitstatus_to_exitcode(status)
        self.served = max(0.0, monotonic() - self._ready_at)
        self.exited.set()
        self.departing.set()
        self.heard.notify_all()
        if self._waiting is not None:
            self._waiting.resume()

    async def listen(self) -> None:
        """Once it is ready, and until it has ended: take note of its accounts, and of its operation to be replaced,
        which sets `departing`. So does what makes no sense, after which nothing more is heard; it may be told things
        still.
        """
        try:
            while report := await self._hear():
                self._note(report)
        except MalformedMessage as error:
            log.error("%s %d sent a malformed message: %s; replacing it", self.name, self.pid, error)
            self._turn_deaf()
            self.departing.set()
            await self.exited.wait()
        finally:
            self._waiting = None
            self._loop.forget(self._report)
            self.hang_up()

    def _turn_deaf(self) -> None:
        """Have it get an error where it says more, instead of waiting for somebody who hears it."""
        self._deaf = True
        self._loop.forget(self._report)
        with suppress(OSError), socket.socket(fileno=os.dup(self._report)) as line:
            line.shutdown(socket.SHUT_RD)

    @property
    def stuck(self) -> float:
        """Seconds for which its loop has not turned, 0 while it does; or for which SIGSTOP or the like has held it.

        A loop that turns would write over what makes no sense there.
        """
        began, now = self.turn(), monotonic()
        self._odd = min(self._odd, now) if began == -inf else inf
        return max(0.0, now - min(began if began > 0.0 else self._odd, self.stopped))

    def _note(self, report: Report) -> None:
        """Raises MalformedMessage where it gives an account that nobody has asked for: there would be no end of them,
        while one that has heard two questions at once may answer both by one.
        """
        if report.account is None:
            if self.departing.is_set():
                raise MalformedMessage("it asks to be replaced a second time")
            self.departing.set()
        elif self._asked:
            self._asked -= 1
            self.account = report.account.within(self.age)
        else:
            raise MalformedMessage("an account that was not requested")
        self.heard.notify_all()

    def ask(self, question: bytes) -> None:
        """Ask WHERE: it logs what it is at, if it can, and answers as one that is to be replaced does; or WHAT: it
        answers by an account. ORDER and NOW have no answer. A worker hears these in a thread of its own, whatever its
        application does to signals.
        """
        self._asked += question == WHAT
        with suppress(OSError):
            os.write(self._report, question)

    def hurry(self) -> None:
        """Reporter it to end at once."""
        self.ask(NOW)
        self.signal(signal.SIGINT)  # not all are workers

    async def answered(self) -> None:
        """Wait for its account, or for its end."""
        await self.heard.wait_for(lambda: self.account is not None or self.exited.is_set())

    @property
    def reports(self) -> bool:
        """The line to it is open."""
        return self._report >= 0

    @property
    def is_heard(self) -> bool:
        """The line to it is open, and what it says there is read."""
        return self.reports and not self._deaf

    def hang_up(self) -> None:
        """Close our end of the line to it."""
        if self._report >= 0:
            os.close(self._report)
            self._report = -1

    @property
    def age(self) -> float:
        """Seconds since it was forked."""
        return monotonic() - self.started

    @property
    def exit_description(self) -> str:
        """How it ended: "SIGKILL", "exit status 3"."""
        return describe_exit(self.status, self.out_of_memory)

    @property
    def was_killed(self) -> bool:
        """It has ended by somebody's `kill -9`: of no fault of its own, as far as anybody can tell."""
        return self.status == -signal.SIGKILL and not self.out_of_memory

    def signal(self, number: int) -> None:
        """Send it a signal, if it lives: its pid is its own until it has been reaped."""
        if not self.exited.is_set():
            # whoever tells all of them is to get to the last; and it may have executed what runs as another user
            with suppress(ProcessLookupError, PermissionError):
                os.kill(self.pid, number)

    async def see_end(self) -> None:
        """Have it end, where it boots, has failed to, or is a template: in order, so that what its application has
        started ends with it; by force where that takes too long.
        """
        for _ in range(TIMES):
            self.signal(ORDERED)
            with suppress(TimedOut), self._loop.within(ENDING / TIMES):
                await self.exited.wait()
                return
        log.warning("%s %d has not ended %g s after it was told to; killing it", self.name, self.pid, ENDING)
        self.signal(signal.SIGKILL)
        await self.exited.wait()
