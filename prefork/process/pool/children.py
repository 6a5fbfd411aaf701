"""Children: forks processes and reaps them. Owns the table of the master's child processes (child.py)."""

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

GENTLE = 0.5  # seconds for the exit functions of a child without clients, until its own children are sent SIGTERM
STUCK = 0.5  # seconds in one turn, after which a loop counts as stuck
# seconds to answer WHAT in the diagnostics thread: a worker that cannot is stopped, or computes in C
ACCOUNT_TIMEOUT = 0.25


Main = Callable[[Reporter], int]


class Children:
    """The master's children. Each function in `private` is called in every forked child before its `main`: it closes
    what the child must not have.
    """

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self._living: dict[int, Child] = {}
        self._reporting: list[Child] = []  # children whose channel is open: the living, and those that have just died
        self.private: list[Callable[[], None]] = []
        self._oom_kills = OomKills()
        self._adopting = 0
        self._strays: dict[int, int] = {}  # statuses of those that died before they were adopted, by pid
        self._let_go: set[int] = set()  # pids of processes that `let_go` has named, and that have not been reaped
        # only the master holds the writing end of this pipe, so the reading end comes to its end when the master dies
        self.lifeline, self._life = os.pipe()

    def fork(self, main: Main, name: str = "worker") -> Child:
        """Fork a child that runs `main(reporter)`, and exits with the status that this returns. Raises BootError.

        Errors and logs call the child `name`.
        """
        flush()
        channel: tuple[int, ...] = ()
        # signals wait until the child has its own handlers: the parent's handlers would write to the parent's pipe
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            channel = tuple(end.detach() for end in socket.socketpair())
            pid = os.fork()
            if not pid:
                self._become_child(main, *channel)
        except OSError as error:
            for end in channel:
                os.close(end)
            raise BootError(f"cannot fork a {name}: {error.strerror}") from None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        ours, theirs = channel
        os.close(theirs)
        return self._known(pid, ours, name)

    @contextmanager
    def adopting(self) -> Iterator[None]:
        """A block in which another process forks a child for this one. The child may die before `adopt` names it: the
        block keeps its status until then.
        """
        self._adopting += 1
        try:
            yield
        finally:
            self._adopting -= 1
            if not self._adopting:
                self._strays.clear()

    def adopt(self, pid: int, ours: int) -> Child:
        """Take in a child that another process has forked for this one. `ours` is the parent's end of the channel to
        it, and is closed where this raises.

        Raises MalformedMessage where the kernel knows no such child of this process, or where the child is known
        already: `pid` may be any process, which must not be signalled. The pid of a child stays its own until this
        process reaps it.
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
        """Take note of every child that has died, has been stopped, or goes on. To be called on SIGCHLD."""
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
        """Forget a child that lives on by itself."""
        del self._living[child.pid]
        self._let_go.add(child.pid)

    @property
    def living(self) -> list[Child]:
        return list(self._living.values())

    async def accounts(self, children: Sequence[Child]) -> dict[int, Account]:
        """The account of each child, by its pid; none of a child that does not answer within ACCOUNT_TIMEOUT."""
        for child in children:
            child.account = None
            child.ask(WHAT)
        with suppress(TimedOut), self.loop.within(ACCOUNT_TIMEOUT):
            for child in children:
                await child.answered()
        return {child.pid: child.account for child in children if child.account is not None}

    async def dismiss(
        self, children: Iterable[Child], timeout: float, *, shutdown: float = 0.0, urgent: bool = False
    ) -> None:
        """Tell the children to end at once, where it is `urgent`, or else to obey the order in the scoreboard. Wait
        until they are gone.

        After `timeout` seconds, children are killed. A child that hosts ASGI applications has `shutdown` seconds more,
        where its loop is not stuck, or rests while the applications shut down. Where it is not urgent, the oldest
        request of a killed child is logged.
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
        """Wait until the children are gone, at most `seconds`. Returns those that are not."""
        with suppress(TimedOut), self.loop.within(seconds):
            for child in children:
                await child.exited.wait()
        return [child for child in children if not child.exited.is_set()]

    async def _kill(self, children: Sequence[Child], waited: float, urgent: bool) -> None:
        """Kill the children, which were told to leave `waited` seconds ago, and wait until they are gone."""
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
    """In a forked child: run `main`, and exit with the status that it returns.

    This never returns, and never unwinds into the parent's frames: their `finally` blocks are for the parent alone. A
    child that has run an application ends in order: the threads end, and the exit functions run.

    All signals are still blocked here; Signals unblocks them.
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
                if not reporter.heard:  # an application has closed the channel, as one does that closes all descriptors
                    log.critical("worker %d cannot boot: %r", os.getpid(), error, exc_info=error)
        if forks.hosting:
            finish(inf if reporter.ready else GENTLE)  # a child that has not booted must be gone soon
        else:
            flush()
    finally:
        os._exit(status)


def _is_our_child(pid: int) -> bool:
    """Whether `pid` is a child of this process, dead or alive, that has not been reaped (waitid(2))."""
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except (OSError, OverflowError):
        return False
    return True
