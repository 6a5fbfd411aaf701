"""Children: forks processes and reaps them. Owns the master's child processes, and which they are (child.py)."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from math import inf
from time import monotonic
from typing import NoReturn

from prefork.errors import BootError, MalformedMessage, TimedOut
from prefork.logger import log
from prefork.process.messages import ORDER, WHAT, Account, Reporter, describe
from prefork.process.pool.child import Child
from prefork.process.pool.exit_status import OomKills
from prefork.runtime import forks
from prefork.runtime.finish import finish, flush
from prefork.runtime.loop import Loop

GENTLE = 0.5  # seconds for exit functions, where nobody waits for a child, until what it has started is sent SIGTERM
STUCK = 0.5  # seconds in one turn, after which a loop is not said to turn
ANSWER = 0.25  # seconds to answer WHAT, from a thread of its own: whoever cannot is stopped, or computes in C


Main = Callable[[Reporter], int]


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
        self._let_go: set[int] = set()  # pids of those that are none of ours any more, and have not been reaped
        # while the master lives it holds the writing end of this pipe, and it alone: reading ends when it dies
        self.lifeline, self._life = os.pipe()

    def fork(self, main: Main, name: str = "worker") -> Child:
        """Fork a child that runs `main(reporter)` and exits with the status that it returns. Raises BootError.

        `name` is what it is called in errors and logs.
        """
        flush()
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
        """A child that another process has forked for us, and tells us of; `ours` is our end of the line to it, which
        is closed where this raises.

        Raises MalformedMessage where the kernel knows no such child of this process, or we know it already: to signal
        it would be to signal anybody. A child's number is its own until we have reaped it.
        """
        if pid in self._living or pid in self._let_go or not (pid in self._strays or _is_our_child(pid)):
            os.close(ours)
            raise MalformedMessage(f"process {pid} is no new child of this one")
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
        def begin(reporter: Reporter) -> int:
            os.close(ours)
            os.close(self._life)
            for child in self._reporting:
                child.hang_up()
            for close in self.private:
                close()
            return main(reporter)

        live(begin, Reporter(theirs))

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
                if not (os.WIFSTOPPED(status) or os.WIFCONTINUED(status)):
                    self._let_go.discard(pid)
                if self._adopting and not (os.WIFSTOPPED(status) or os.WIFCONTINUED(status)):
                    self._strays[pid] = status
                continue
            if os.WIFSTOPPED(status):
                child.stopped = monotonic()
                child.hold(True)
                log.warning("%s %d is stopped: %s", child.name, pid, signal.Signals(os.WSTOPSIG(status)).name)
            elif os.WIFCONTINUED(status):
                child.stopped = inf
                child.hold(False)
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
        self._let_go.add(child.pid)

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

    async def dismiss(
        self, children: Iterable[Child], timeout: float, *, shutdown: float = 0.0, urgent: bool = False
    ) -> None:
        """Reporter them to end at once, where it is `urgent`, or else to obey their order, and wait until they are
        gone.

        After `timeout` seconds they are killed, but those have `shutdown` seconds more that host ASGI applications, if
        their loop turns by then, or those shut down. What they are at is logged when they are killed, where it is not
        urgent.
        """
        leaving = list(children)
        for child in leaving:
            if urgent:
                child.hurry()
            else:
                child.ask(ORDER)
        left = await self._left_after(timeout, leaving)
        spared = [child for child in left if child.asgi and child.stuck < STUCK]
        await self._kill([child for child in left if child not in spared], timeout, urgent)
        await self._kill(await self._left_after(shutdown, spared), timeout + shutdown, urgent)

    async def _left_after(self, seconds: float, children: Sequence[Child]) -> list[Child]:
        """Wait until they are gone, so many seconds at most; those who are not."""
        with suppress(TimedOut), self.loop.within(seconds):
            for child in children:
                await child.exited.wait()
        return [child for child in children if not child.exited.is_set()]

    async def _kill(self, children: Sequence[Child], waited: float, urgent: bool) -> None:
        """Kill them, so many seconds after they were told to leave, and wait until they are gone."""
        told = {} if urgent else await self.accounts([child for child in children if child.is_heard])
        for child in children:
            if child.exited.is_set():
                continue
            request = told[child.pid].request if child.pid in told else ""
            at = f", which is at {request}" if request else ""
            log.warning("worker %d has not ended %g s after it was told to; killing it%s", child.pid, waited, at)
            child.signal(signal.SIGKILL)
        for child in children:
            await child.exited.wait()


def live(main: Main, reporter: Reporter) -> NoReturn:
    """In a forked child: run `main` and exit. Never return, never unwind into the parent's frames, whose finally blocks
    are the parent's. Where applications ran in it, it ends in order: their threads end, and their exit functions run.

    All signals are blocked still; Signals lets them in.
    """
    status = os.EX_SOFTWARE
    try:
        try:
            with forks.applications_code():
                status = main(reporter)
        except BaseException as error:
            if reporter.ready:
                log.critical("worker %d ends: %r", os.getpid(), error, exc_info=error)
            else:
                reporter.send(describe(error))
                if not reporter.heard:  # an application has closed the line, with all else that it did not know
                    log.critical("worker %d cannot boot: %r", os.getpid(), error, exc_info=error)
        if forks.hosting:
            finish(inf if reporter.ready else GENTLE)  # who has not booted is to be gone soon
        else:
            flush()
    finally:
        os._exit(status)


def _is_our_child(pid: int) -> bool:
    """Whether the kernel knows this process as a child of ours, dead or alive, that has not been reaped (waitid(2))."""
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except (OSError, OverflowError):
        return False
    return True
