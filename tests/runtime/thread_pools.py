"""A pool with its loop, checked at every touch, that runs a test's coroutines to their end."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any, TypeVar

from prefork.runtime.calls import Call
from prefork.runtime.checked import CheckedLoop, CheckedThreadPool
from prefork.runtime.poller import make_poller
from prefork.runtime.task import PARKED
from prefork.runtime.threads import ThreadPool

T = TypeVar("T")
PATIENCE = 10.0  # seconds that anything in here may take
BRISK = 0.02  # seconds between two looks of the guard: it is quick to notice
TICK = 0.002  # seconds between two looks of the watcher


class Ship:
    """A pool of `threads`; `run` it once. `abandoned` is set where the main thread did not come back, and `lost` is
    what had ended the loop then. `durations` are those of ThreadPool.
    """

    def __init__(self, threads: int = 2, pinned: bool = False, *, tick: float = TICK, **durations: float) -> None:
        self.loop = CheckedLoop(make_poller(), sweep=BRISK)
        self.pool = CheckedThreadPool(self.loop, threads, tick=tick, **durations)
        self.pool.pinned = pinned
        self.abandoned = threading.Event()
        self.lost: BaseException | None = None
        self._failures: list[BaseException] = []
        self._left = 0

    async def call(self, function: Callable[[], T], what: Any = "a call", timeout: float = 0) -> T:
        """What the handlers do around an application call."""
        pool = self.pool
        if pool.pinned or pool.is_full:
            return await self.delegate(function, what, timeout)
        token = pool.enter(what, timeout, monotonic())
        try:
            result = function()
        except BaseException:
            if not pool.leave(token):
                await pool.rejoin()
            raise
        if not pool.leave(token):
            await pool.rejoin()
        return result

    async def hold(self, event: threading.Event) -> None:
        """A call that waits for the event."""
        await self.call(lambda: wait(event))

    async def delegate(self, function: Callable[[], T], what: Any = "a call", timeout: float = 0) -> T:
        """A call that is handed to another thread."""
        outcome = []

        def work() -> None:
            try:
                outcome.append((function(), None))
            except BaseException as error:
                outcome.append((None, error))  # type: ignore[arg-type]

        await self.pool.delegate(Call(what, timeout), work)
        result, error = outcome[0]
        if error is not None:
            raise error
        return result

    def run(self, *coroutines: Coroutine[Any, Any, None], stop: bool = True) -> None:
        """Run these, and stop when all are through; raises what the first to fail has raised."""
        self._left = len(coroutines)
        for coroutine in coroutines:
            self.loop.spawn(self._watched(coroutine, stop), "a test's")
        self.loop.spawn(self._give_up(), "patience")
        with started(self.pool):
            try:
                self.pool.run(self._abandon)
            finally:
                self.loop.close()
        if self._failures:
            raise self._failures[0]

    def _abandon(self, failure: BaseException | None) -> None:
        self.lost = failure
        self.abandoned.set()

    async def _watched(self, coroutine: Coroutine[Any, Any, None], stop: bool) -> None:
        try:
            await coroutine
        except GeneratorExit:
            raise
        except BaseException as error:
            self._failures.append(error)
        self._left -= 1
        if stop and not self._left:
            self.loop.stop()

    async def _give_up(self) -> None:
        await self.loop.sleep(PATIENCE)
        self._failures.append(AssertionError(f"not done within {PATIENCE:g} s"))
        self.loop.stop()

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            await self.loop.sleep(0.002)


@contextmanager
def started(pool: ThreadPool) -> Iterator[None]:
    """The pool's threads are there within the block, in which the loop stops, and not after it."""
    before, switch = set(threading.enumerate()), sys.getswitchinterval()
    sys.setswitchinterval(0.0005)  # as in a worker (surroundings.py)
    pool.start()
    threads, standing_by = set(threading.enumerate()) - before, list(pool.followers)
    try:
        yield
    finally:
        pool._over = True
        for follower in standing_by:
            with suppress(RuntimeError):
                follower.lock.release()
        pool._watcher.wake()
        for thread in threads:
            thread.join()
        pool.loop.callbacks.close()
        sys.setswitchinterval(switch)


async def for_ever() -> None:
    while True:
        await PARKED


def wait(event: threading.Event) -> None:
    """As an application waits for what another request brings."""
    assert event.wait(PATIENCE)
