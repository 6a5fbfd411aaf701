"""A master's world without processes and without waiting: children that the test has live and die, and its clock.

Everything else is real: the loop, what Child and Children do with what a child says, and the scoreboard.
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Collection, Coroutine
from functools import partial
from itertools import count

import pytest

from prefork.errors import BootError
from prefork.process.messages import NOW, ORDER, Report
from prefork.process.pool.child import Child
from prefork.process.pool.children import Children, Main
from prefork.process.pool.respawn import Respawn
from prefork.process.signals import ORDERED
from prefork.runtime.loop import Loop
from prefork.runtime.poller import Events
from prefork.runtime.sync import Event, Lock
from prefork.runtime.task import PAUSE, Wait
from prefork.settings.schema import Master, Settings, Workers
from prefork.shared.counters import ACCEPTED, REQUESTS
from prefork.shared.scoreboard import Order, Scoreboard

CLOCKS = (  # where the time is asked for
    "prefork.runtime.loop.monotonic",
    "prefork.process.pool.child.monotonic",
    "prefork.process.pool.children.monotonic",
    "prefork.process.master.reload.monotonic",
)
FIRST_PID = 1 << 30  # above those that a kernel gives
SLOTS = 40
FORKING = 0.1  # seconds that a template takes to fork
STEP = 0.1  # seconds: how coarse `until` is
SHORT = 1e-6  # seconds: an instant is reached that is as near


class Clock:
    """A poller without descriptors, and the clock of its loop: time passes only while it waits."""

    limit: int | None = None

    def __init__(self) -> None:
        self.time = 5000.0

    def now(self) -> float:
        return self.time

    def poll(self, timeout: float | None) -> Events:
        assert timeout is not None, "the loop sleeps for ever"
        self.time += timeout
        return []

    def watch(self, fd: int, events: int) -> None: ...
    def forget(self, fd: int) -> None: ...
    def close(self) -> None: ...


class FakeChild(Child):
    """A worker that is no process. It obeys at once, unless it is `busy`, which keeps it until it is `busy` no more or
    no request is waited for, or `deaf`, which only SIGKILL ends.
    """

    def __init__(self, children: FakeChildren, pid: int, slot: int, position: int) -> None:
        super().__init__(children.loop, pid, -1)
        self.children = children
        self.slot = slot
        self.position = position
        self.busy = False
        self.deaf = False
        self.signals: list[int] = []
        self.told: list[bytes] = []
        self._says: deque[Report] = deque()

    # ---- what the test has it do

    def say(self, report: Report) -> None:
        self._says.append(report)
        self.heard.notify_all()

    def get_ready(self) -> None:
        self.say(Report())

    def fail(self, problem: str = "no such module") -> None:
        """Say why it cannot boot, and end, as a worker does whose application raises."""
        self.say(Report(problem, "its traceback\n"))
        self.die(os.EX_SOFTWARE)

    def depart(self) -> None:
        """Ask to be replaced, once it is ready."""
        self.say(Report())

    def die(self, status: int = -signal.SIGSEGV) -> None:
        """End now, with an exit status, or by minus a signal's number."""
        if not self.exited.is_set():
            del self.children._living[self.pid]
            self.end(status << 8 if status >= 0 else -status)

    def count(self, clients: int = 0, requests: int = 0) -> None:
        """Have so many more in its own page."""
        page = self.children.scoreboard.slot(self.slot)
        page[ACCEPTED] += clients
        page[REQUESTS] += requests

    def finish(self) -> None:
        """Be busy no more, and obey what it has been told meanwhile."""
        self.busy = False
        self._obey()

    @property
    def order(self) -> Order:
        """Its order on the scoreboard, until it is gone."""
        return self.children.scoreboard.orders(self.slot)[1]

    # ---- what the kernel and the line do for a real one

    async def _hear(self) -> Report | None:
        await self.heard.wait_for(lambda: bool(self._says) or self.exited.is_set())
        return self._says.popleft() if self._says else None

    def ask(self, question: bytes) -> None:
        self.told.append(question)
        if question == NOW:
            self._end_soon(0)
        elif question == ORDER:
            self._obey()

    def _obey(self) -> None:
        if ORDER in self.told and not self.exited.is_set() and self.order is Order.LEAVE and not self.busy:
            self._end_soon(0)

    def signal(self, number: int) -> None:
        if self.exited.is_set():
            return
        self.signals.append(number)
        if number == signal.SIGKILL:
            self._loop.spawn(self._end_in_a_turn(-number), "dying")
        elif number in (ORDERED, signal.SIGINT):
            self._end_soon(0)

    def _end_soon(self, status: int) -> None:
        if not self.deaf:
            self._loop.spawn(self._end_in_a_turn(status), "ending")

    async def _end_in_a_turn(self, status: int) -> None:
        await PAUSE
        self.die(status)


class FakeChildren(Children):
    """Children of no process. `forked` are all, in order; a fork fails as long as there is a `refusal`; `at_fork` is
    called with each that has been forked.
    """

    def __init__(self, loop: Loop, scoreboard: Scoreboard) -> None:
        super().__init__(loop)
        self.scoreboard = scoreboard
        self.forked: list[FakeChild] = []
        self.refusal: Exception | None = None
        self.at_fork: Callable[[FakeChild], None] = lambda child: None
        self._pids = count(FIRST_PID)

    def fork(self, main: Main, name: str = "worker") -> FakeChild:
        if self.refusal is not None:
            raise self.refusal
        assert isinstance(main, partial), "what is forked is no worker of a generation"
        slot, position = main.args
        child = FakeChild(self, next(self._pids), slot, position)
        self._living[child.pid] = child
        self.forked.append(child)
        self.at_fork(child)
        return child

    @property
    def alive(self) -> list[FakeChild]:
        return [child for child in self.forked if not child.exited.is_set()]

    @property
    def last(self) -> FakeChild:
        return self.forked[-1]

    def refuse(self) -> None:
        self.refusal = BootError("cannot fork a worker: Cannot allocate memory")

    def close(self) -> None:
        os.close(self.lifeline)
        os.close(self._life)


class FakeTemplate:
    """A template whose forks take FORKING seconds each, one after the other."""

    def __init__(self, children: FakeChildren, main: object, boot_timeout: float) -> None:
        self._children = children
        self._turn = Lock(children.loop)
        self._dismissed = False
        self._ended = Event(children.loop)

    async def fork(self, slot: int, pages: int, position: int, workers: int) -> FakeChild:
        await self._turn.acquire()
        try:
            await self._children.loop.sleep(FORKING)
            if self._dismissed:
                raise BootError("its generation leaves")
            return self._children.fork(partial(lambda *_: 0, slot, position))
        finally:
            self._turn.release()

    def dismiss(self) -> None:
        self._dismissed = True

    async def end(self, workers: Collection[Child]) -> None:
        while workers:
            await next(iter(workers)).exited.wait()
            await PAUSE
        self._ended.set()

    async def ended(self) -> None:
        await self._ended.wait()


class FakeLogs:
    """Logs that lead nowhere."""

    closed = False

    def apply(self) -> None:
        assert not self.closed

    def count_in(self, board: memoryview) -> None: ...

    def close(self) -> None:
        self.closed = True


class Outcome:
    """What has come of a coroutine: nothing yet, or `error` where it has raised one."""

    def __init__(self, coroutine: Coroutine[Wait, None, object]) -> None:
        self.done = False
        self.error: Exception | None = None
        self._coroutine = coroutine

    async def run(self) -> None:
        try:
            await self._coroutine
        except Exception as error:
            self.error = error
        self.done = True


class Simulation:
    """A loop, its clock, a scoreboard and children, each of which does what the test has it do."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.clock = Clock()
        for name in CLOCKS:
            patch.setattr(name, self.clock.now)
        patch.setattr("prefork.process.pool.generation.Template", FakeTemplate)
        patch.setattr("prefork.process.pool.position.Respawn", partial(Respawn, self.clock.now))
        self.loop = Loop(self.clock)
        self.scoreboard = Scoreboard(SLOTS)
        self.children = FakeChildren(self.loop, self.scoreboard)

    @property
    def taken(self) -> set[int]:
        """The pids that stand in the scoreboard, less those that are not known yet."""
        return {row.pid for row in self.scoreboard.workers()} - {0}

    def settle(self) -> None:
        """Let all go on that needs no time, until the loop is stopped."""
        for _ in range(1000):
            if self.loop.stopped or not self._is_due():
                return
            self.loop.turn(0.0)
        pytest.fail("somebody goes round and round")

    def _is_due(self) -> bool:
        sleeping = self.loop._sleeping
        return bool(self.loop.ready) or bool(sleeping and sleeping[0][0] <= self.clock.time)

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.settle()
        until = self.clock.time + seconds
        while self.clock.time < until - SHORT and not self.loop.stopped:
            self.loop.turn(until - self.clock.time)
        self.settle()

    def until(self, condition: Callable[[], object], within: float) -> float:
        """Let time pass until that holds; the seconds it took."""
        begin = self.clock.time
        while not condition():
            assert self.clock.time < begin + within, f"not within {within:g} s"
            self.wait(STEP)
        return self.clock.time - begin

    def begin(self, coroutine: Coroutine[Wait, None, object]) -> Outcome:
        outcome = Outcome(coroutine)
        self.loop.spawn(outcome.run(), "what the test waits for")
        self.settle()
        return outcome

    def close(self) -> None:
        self.loop.close()
        self.children.close()
        for descriptor in (self.scoreboard.pages, self.scoreboard._reading_roster, self.scoreboard._reading_pages):
            os.close(descriptor)


def configured(count: int, probation: float = 2.0, boot_timeout: float = 10.0, preload: bool = False) -> Settings:
    """Settings with so many workers, and without addresses, files and routes."""
    workers = Workers(
        count=count,
        probation=probation,
        boot_timeout=boot_timeout,
        preload=preload,
        graceful_timeout=5.0,
        timeout=0,
    )
    return Settings(listen=(), master=Master(pid_file="", control=""), workers=workers)
