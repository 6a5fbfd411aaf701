"""A child process, as its parent sees it. Owns what the kernel and the child say of the child, and the parent's end of
the channel between the two.

The channel is a socket pair. In one message, a child reports that it is ready, or why it is not, with the traceback.
Once ready, it may ask in another message to be replaced, and its parent may ask for its oldest request. An application
in the child may write to the channel, too, even what makes no sense. That costs this child, and no other.
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

PLACE_TIMEOUT = 1.0  # seconds that a child whose boot takes too long has to say where it is
ENDING = 2.0  # seconds that a child without clients has for its exit functions, before it is killed
TIMES = 8  # how often it is told to end within these, as some places lose the exception (Dismissed)
DUMP = 0.2  # seconds that it has to write its stacks to the error log (Logs.catch_crashes), before it may be killed


class Child:
    """One child process, as its parent sees it."""

    def __init__(self, loop: Loop, pid: int, report: int, name: str = "worker") -> None:
        self.pid = pid
        self.name = name
        self.started = monotonic()
        self.exited = Event(loop)
        self.departing = Event(loop)  # it has exited, or must be replaced
        self.account: Account | None = None  # its answer since it was asked last
        self.heard = Condition(loop)  # notified when it has reported something, or has ended
        self.status = 0  # once exited: its exit status, or minus the signal's number (os.waitstatus_to_exitcode)
        self.out_of_memory = False  # the kernel seems to have killed it as memory had run out
        # gives the time at which the current turn of its loop began (Board.turn); a child without a loop is in none
        self.turn: Callable[[], float] = lambda: inf
        self.hold: Callable[[bool], None] = lambda held: None  # called when SIGSTOP stops it, or it goes on
        self._odd = inf  # since when `turn` has given what its loop cannot have written (monotonic seconds)
        self.asgi = False  # it is ready, and hosts an ASGI application
        self.served = 0.0  # once exited: the seconds for which it was ready
        self.clients = 0  # once exited: how many it has accepted, by its own count
        self._ready_at = inf  # monotonic seconds
        self.stopped = inf  # since when SIGSTOP or the like has held it (monotonic seconds)
        self._loop = loop
        self._report = report
        self._lines = Lines()
        self._said: deque[bytes] = deque()  # lines that have been read, and not decoded
        self._asked = 0  # questions for an account that it has not answered
        self._waiting: Task | None = None  # the task that waits for its next report
        self._deaf = False  # nothing is read from it any more

    async def ready(self, timeout: float, *, place_timeout: float = PLACE_TIMEOUT) -> None:
        """Wait until it reports that it is ready. Raises BootError when it does not within `timeout` seconds, or cannot
        be ready. One that is late has `place_timeout` seconds more to say where it is.
        """
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
            place = await self._place(place_timeout)
            late = f"{self.name} {self.pid} was not ready within {timeout:g} s (workers.boot_timeout)"
            hint = "" if place else ", and does not say where it is: see the error log"
            raise BootError(late + hint, place) from None
        finally:
            self._waiting = None
            self._loop.forget(self._report)
            if not ready:
                self.hang_up()

    async def _hear(self) -> Report | None:
        """Its next report; None when it has ended, even while a child of its own holds the channel open. Raises
        MalformedMessage.
        """
        readable = self._loop.readable(self._report)
        self._waiting = self._loop.current
        while not self._said:
            await readable  # or until `end` resumes this task
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

    async def _place(self, timeout: float) -> str:
        """The stacks of a child whose boot takes too long; "" where no thread of it gets to run and answer within
        `timeout` seconds. Then the error log has a dump, which needs no interpreter.
        """
        self.ask(WHERE)
        try:
            with self._loop.within(timeout):
                while report := await self._hear():
                    if report.place:
                        return report.place
        except (TimedOut, MalformedMessage):
            self.signal(signal.SIGUSR2)
            await self._loop.sleep(DUMP)
        return ""

    def end(self, status: int) -> None:
        """Note that it has ended; `status` is as os.waitpid returns it."""
        self.status = os.waitstatus_to_exitcode(status)
        self.served = max(0.0, monotonic() - self._ready_at)
        self.exited.set()
        self.departing.set()
        self.heard.notify_all()
        if self._waiting is not None:
            self._waiting.resume()

    async def listen(self) -> None:
        """From when it is ready until it has ended: take note of its accounts, and set `departing` when it asks to be
        replaced. A malformed message sets `departing`, too. After that nothing more is read from the child, but it can
        still be asked and told things.
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
        """Read nothing from it any more: where it writes, it gets an error, instead of waiting for room."""
        self._deaf = True
        self._loop.forget(self._report)
        with suppress(OSError), socket.socket(fileno=os.dup(self._report)) as channel:
            channel.shutdown(socket.SHUT_RD)

    @property
    def stuck(self) -> float:
        """Seconds for which its loop has been in one turn, or for which SIGSTOP or the like has held it; 0 for neither.

        Where `turn` gives what a loop cannot have written, the loop counts as stuck since then: one that turns would
        have overwritten it.
        """
        began, now = self.turn(), monotonic()
        self._odd = min(self._odd, now) if began == -inf else inf
        return max(0.0, now - min(began if began > 0.0 else self._odd, self.stopped))

    def _note(self, report: Report) -> None:
        """Take note of a report. Raises MalformedMessage for an account that nobody has asked for, and for a second
        request to be replaced: the number of reports must be bounded. Two questions that the child reads at once may
        have one answer.
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
        """Send a question or a command (messages.py).

        In answer to WHERE, a worker that serves logs its stacks, if it can, and asks to be replaced; a child that boots
        reports its `place`. WHAT is answered by an account. ORDER and NOW have no answer. A worker reads all of them in
        a thread of its own, whatever its application does to signals.
        """
        self._asked += question == WHAT
        with suppress(OSError):
            os.write(self._report, question)

    def hurry(self) -> None:
        """Tell it to end at once."""
        self.ask(NOW)
        self.signal(signal.SIGINT)  # for a child that is no worker

    async def answered(self) -> None:
        """Wait for its account, or for its end."""
        await self.heard.wait_for(lambda: self.account is not None or self.exited.is_set())

    @property
    def reports(self) -> bool:
        """Whether the channel to it is open."""
        return self._report >= 0

    @property
    def is_heard(self) -> bool:
        """Whether the channel to it is open, and still read."""
        return self.reports and not self._deaf

    def hang_up(self) -> None:
        """Close the parent's end of the channel."""
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
        """Whether somebody's `kill -9` has ended it. As far as anybody can tell, such a child was not at fault."""
        return self.status == -signal.SIGKILL and not self.out_of_memory

    def signal(self, number: int) -> None:
        """Send it a signal, if it has not been reaped: until then, no other process can have its pid."""
        if not self.exited.is_set():
            # a caller that signals all children must get to the last; and a child may have executed a program that runs
            # as another user
            with suppress(ProcessLookupError, PermissionError):
                os.kill(self.pid, number)

    async def see_end(self) -> None:
        """End a child that boots, that has failed to boot, or that is a template, and wait for its end.

        It ends in order, so that the processes that its application has started end with it. After ENDING seconds it is
        killed.
        """
        for _ in range(TIMES):
            self.signal(ORDERED)
            with suppress(TimedOut), self._loop.within(ENDING / TIMES):
                await self.exited.wait()
                return
        log.warning("%s %d has not ended %g s after it was told to; killing it", self.name, self.pid, ENDING)
        self.signal(signal.SIGKILL)
        await self.exited.wait()
