"""Children: forks processes, learns whether they got ready, and reaps them. Owns the master's child processes.

A child reports through a pair of sockets, in a line: that it is ready, or why it is not, with its traceback. Once
ready, it may say in another line that it is to be replaced; and its parent may ask what it is at.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from math import inf
from time import monotonic
from typing import NoReturn

import msgspec

from prefork.errors import BootError, TimedOut
from prefork.kernel.event import Bell, Event
from prefork.kernel.loop import Loop, Task
from prefork.process.endings import OomKills, ending
from prefork.process.report import Account, Report, describe

WHERE = b"?"
WHAT = b"!"
ANSWER = 0.25  # seconds to answer WHAT, from a thread of its own: whoever cannot is stopped, or computes in C

NO_PULSE = memoryview(bytes(8)).cast("d")

log = logging.getLogger("prefork")


class Tell:
    """A child's end of the line to its parent. Called with a Report it says that, once or again; `fd` is readable when
    the parent asks something, and at its end when the parent wants to hear no more.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.told = False
        self.heard = True  # by the parent, so far

    def __call__(self, report: Report) -> None:
        self.told = True
        try:
            os.write(self.fd, msgspec.json.encode(report) + b"\n")
        except OSError:
            self.heard = False


Main = Callable[[Tell], int]


class Child:
    """One child process, as its parent sees it."""

    def __init__(self, loop: Loop, pid: int, report: int, name: str = "worker") -> None:
        self.pid = pid
        self.name = name
        self.started = monotonic()
        self.exited = Event(loop)
        self.departing = Event(loop)  # it has exited, or wants to be replaced
        self.account: Account | None = None  # what it has said since it was asked last
        self.heard = Bell(loop)  # rung when it has said something
        self.status = 0  # once exited: its exit status, or minus the signal's number (os.waitstatus_to_exitcode)
        self.out_of_memory = False  # is what the kernel seems to have killed it for
        self.pulse = NO_PULSE  # of its loop (Loop.pulse), where it has one
        self.asgi = False  # it is ready, and hosts an ASGI application
        self.stopped = inf  # since when (monotonic seconds), by SIGSTOP or the like
        self._loop = loop
        self._report = report
        self._said = b""  # and not heard yet
        self._waiting: Task | None = None  # for it

    async def ready(self, timeout: float) -> None:
        """Wait for its report. Raises BootError when it is not ready within `timeout` seconds, or cannot be."""
        ready = False
        try:
            with self._loop.within(timeout):
                report = msgspec.json.decode(await self._hear(), type=Report)
            if report.problem:
                raise BootError(f"{self.name} {self.pid} cannot boot: {report.problem}", report.traceback)
            ready = True
            self.asgi = report.asgi
        except msgspec.MsgspecError as error:
            raise BootError(f"{self.name} {self.pid} says what makes no sense: {error}") from None
        except TimedOut:
            raise BootError(f"{self.name} {self.pid} was not ready within {timeout:g} s") from None
        finally:
            self._waiting = None
            self._loop.forget(self._report)
            if not ready:
                self.hang_up()

    async def _hear(self) -> bytes:
        """A line that it says. Raises BootError when it has died instead: its own child may hold the line open."""
        readable = self._loop.readable(self._report)
        self._waiting = self._loop.current
        while b"\n" not in self._said:
            await readable  # or `end`
            try:
                piece = os.read(self._report, 65536)
            except BlockingIOError:
                if not self.exited.is_set():
                    continue
                piece = b""
            except ConnectionResetError:  # it has ended without having read a question
                piece = b""
            if not piece:
                await self.exited.wait()
                raise BootError(f"{self.name} {self.pid} died while it booted: {self.ending}")
            self._said += piece
        line, self._said = self._said.split(b"\n", 1)
        return line

    def end(self, status: int) -> None:
        """It has ended, with what `os.waitpid` says."""
        self.status = os.waitstatus_to_exitcode(status)
        self.exited.set()
        self.departing.set()
        self.heard.ring()
        if self._waiting is not None:
            self._waiting.resume()

    async def listen(self) -> None:
        """Once it is ready: take note of its accounts, until it wants to be replaced, which sets `departing`."""
        try:
            while True:
                *lines, self._said = self._said.split(b"\n")
                for line in lines:
                    self._note(msgspec.json.decode(line, type=Report))
                if self.departing.is_set():
                    return
                await self._loop.readable(self._report)
                try:
                    piece = os.read(self._report, 65536)
                except BlockingIOError:
                    continue
                except ConnectionResetError:  # it has ended without having read a question
                    return
                if not piece:
                    return
                self._said += piece
        finally:
            self._loop.forget(self._report)

    @property
    def stuck(self) -> float:
        """Seconds for which its loop has not turned, 0 while it does; or for which SIGSTOP or the like has held it."""
        return max(0.0, monotonic() - min(self.pulse[0] or inf, self.stopped))

    def _note(self, report: Report) -> None:
        self.account = report.account
        if report.account is None:
            self.departing.set()
        self.heard.ring()

    def ask(self, question: bytes) -> None:
        """Ask WHERE: it logs what it is at, if it can, and answers as one that is to be replaced does; or WHAT: it
        answers by an account.
        """
        with suppress(OSError):
            os.write(self._report, question)

    async def answered(self) -> None:
        """Wait for its account, or for its end."""
        await self.heard.until(lambda: self.account is not None or self.exited.is_set())

    @property
    def reports(self) -> bool:
        """The line to it is open."""
        return self._report >= 0

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
    def ending(self) -> str:
        """How it ended: "SIGKILL", "exit status 3"."""
        return ending(self.status, self.out_of_memory)

    @property
    def was_killed(self) -> bool:
        """It has ended by somebody's `kill -9`: of no fault of its own, as far as anybody can tell."""
        return self.status == -signal.SIGKILL and not self.out_of_memory

    def signal(self, number: int) -> None:
        """Send it a signal, if it lives: its pid is its own until it has been reaped."""
        if not self.exited.is_set():
            with suppress(ProcessLookupError):  # whoever tells all of them is to get to the last
                os.kill(self.pid, number)


class Children:
    """The master's children. What registers in `private` is called in every child first: to close what is not its."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self._living: dict[int, Child] = {}
        self._reporting: list[Child] = []  # whose pipes are open, the living and those just dead
        self.private: list[Callable[[], None]] = []
        self._oom_kills = OomKills()
        self._adopting = 0
        self._strays: dict[int, int] = {}  # statuses of who has died unknown meanwhile, by pid
        # while the master lives it holds the writing end of this pipe, and it alone: reading ends when it dies
        self.lifeline, self._life = os.pipe()

    def fork(self, main: Main, name: str = "worker") -> Child:
        """Fork a child that runs `main(tell)` and exits with the status that it returns. Raises BootError.

        `name` is what it is called in errors and logs.
        """
        _flush()
        line: tuple[int, ...] = ()
        # signals wait until the child has handlers of its own: the parent's would write to the parent's descriptor
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            line = tuple(end.detach() for end in socket.socketpair())
            pid = os.fork()
            if not pid:
                self._become_child(main, *line)
        except OSError as error:
            for end in line:
                os.close(end)
            raise BootError(f"cannot fork a {name}: {error.strerror}") from None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        ours, theirs = line
        os.close(theirs)
        return self._known(pid, ours, name)

    @contextmanager
    def adopting(self) -> Iterator[None]:
        """A block in which another process forks a child for us, which may be dead before `adopt` makes it known."""
        self._adopting += 1
        try:
            yield
        finally:
            self._adopting -= 1
            if not self._adopting:
                self._strays.clear()

    def adopt(self, pid: int, ours: int) -> Child:
        """A child that another process has forked for us; `ours` is our end of the line to it."""
        child = self._known(pid, ours, "worker")
        if pid in self._strays:
            del self._living[pid]
            child.end(self._strays.pop(pid))
        return child

    def _known(self, pid: int, ours: int, name: str) -> Child:
        os.set_blocking(ours, False)
        child = self._living[pid] = Child(self.loop, pid, ours, name)
        self._reporting = [child, *(other for other in self._reporting if other.reports)]
        return child

    def _become_child(self, main: Main, ours: int, theirs: int) -> NoReturn:
        def begin(tell: Tell) -> int:
            os.close(ours)
            os.close(self._life)
            for child in self._reporting:
                child.hang_up()
            for close in self.private:
                close()
            return main(tell)

        live(begin, Tell(theirs))

    def reap(self) -> None:
        """Take note of who has died, is stopped, or goes on. To be called on SIGCHLD."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
            except ChildProcessError:
                return
            if not pid:
                return
            child = self._living.get(pid)
            if child is None:
                if self._adopting and not (os.WIFSTOPPED(status) or os.WIFCONTINUED(status)):
                    self._strays[pid] = status
                continue
            if os.WIFSTOPPED(status):
                child.stopped = monotonic()
                log.warning("%s %d is stopped: %s", child.name, pid, signal.Signals(os.WSTOPSIG(status)).name)
            elif os.WIFCONTINUED(status):
                child.stopped = inf
                log.warning("%s %d goes on", child.name, pid)
            else:
                del self._living[pid]
                child.out_of_memory = (
                    os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL and self._oom_kills.more()
                )
                child.end(status)

    def let_go(self, child: Child) -> None:
        """It is none of ours any more, though it lives."""
        del self._living[child.pid]

    @property
    def living(self) -> list[Child]:
        return list(self._living.values())

    async def accounts(self, children: Sequence[Child]) -> dict[int, Account]:
        """What each is at, by its pid; less those who have not answered in time."""
        for child in children:
            child.account = None
            child.ask(WHAT)
        with suppress(TimedOut), self.loop.within(ANSWER):
            for child in children:
                await child.answered()
        return {child.pid: child.account for child in children if child.account is not None}

    async def dismiss(self, children: Iterable[Child], number: int, timeout: float) -> None:
        """Send them a signal, and wait until they are gone; after `timeout` seconds they are killed. What they are at
        is logged then, but not after SIGINT, which is urgent.
        """
        leaving = list(children)
        for child in leaving:
            child.signal(number)
        try:
            with self.loop.within(timeout):
                for child in leaving:
                    await child.exited.wait()
        except TimedOut:
            asked = [child for child in leaving if child.reports and not child.exited.is_set()]
            told = await self.accounts(asked) if number != signal.SIGINT else {}
            for child in leaving:
                if child.exited.is_set():
                    continue
                request = told[child.pid].request if child.pid in told else ""
                at = f", which is at {request}" if request else ""
                log.warning("worker %d is not gone %g s after it was told; killing it%s", child.pid, timeout, at)
                child.signal(signal.SIGKILL)
            for child in leaving:
                await child.exited.wait()


def live(main: Main, tell: Tell) -> NoReturn:
    """In a forked child: run `main` and exit. Never return, never unwind into the parent's frames, whose finally blocks
    are the parent's.

    All signals are blocked still; Signals lets them in.
    """
    status = os.EX_SOFTWARE
    try:
        status = main(tell)
    except BaseException as error:
        if tell.told:
            log.critical("worker %d ends: %r", os.getpid(), error, exc_info=error)
        else:
            tell(describe(error))
    finally:
        try:
            _flush()
        finally:
            os._exit(status)


def _flush() -> None:
    """Flush what print has buffered, lest it leaves twice, or never. Nobody may be reading it any more."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
