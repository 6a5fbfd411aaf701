"""A loop and a pool that check that only the leader touches the loop. A worker uses them under `python -X dev`.

Owns the knowledge of which thread has the loop: the leader; none while an entry lies in the token; then the thread that
takes the entry out.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from prefork.logger import log
from prefork.runtime.loop import SWEEP, Loop
from prefork.runtime.poller import Poller
from prefork.runtime.task import Readiness, Sleep, Task, Wait
from prefork.runtime.threads import ThreadPool
from prefork.runtime.watcher import Token
from prefork.runtime.work import Follower


class CheckedLoop(Loop):
    """`owner` is the ident of the thread that may touch the loop, or 0. Raises AssertionError in any other thread.

    Attributes that a task keeps for itself, such as its deadline, are not checked.
    """

    def __init__(self, poller: Poller, *, sweep: float = SWEEP) -> None:
        super().__init__(poller, sweep=sweep)
        self.owner = threading.get_ident()
        self.ready, self.eager = _Ready(self), _Ready(self)

    def check(self) -> None:
        here = threading.get_ident()
        if self.owner != here:  # logged too: the exception may reach nobody but an application
            names = {thread.ident: thread.name for thread in threading.enumerate()}
            wrong = f"the loop is touched in {names.get(here)}, while it is {names.get(self.owner, 'nobody')}'s"
            log.critical("%s", wrong, stack_info=True)
            raise AssertionError(wrong)

    @property
    def current(self) -> Task:
        self.check()
        return self._current

    @current.setter
    def current(self, task: Task) -> None:
        self.check()
        self._current = task

    def spawn(self, coroutine: Coroutine[Wait, None, None], name: str, *, eager: bool = False) -> Task:
        self.check()
        return super().spawn(coroutine, name, eager=eager)

    def forget(self, fd: int) -> None:
        self.check()
        super().forget(fd)

    def stop(self) -> None:
        self.check()
        super().stop()

    def enlist(self, wait: Readiness) -> None:
        self.check()
        super().enlist(wait)

    def delist(self, wait: Readiness) -> None:
        self.check()
        super().delist(wait)

    def schedule(self, sleep: Sleep) -> None:
        self.check()
        super().schedule(sleep)

    def turn(self, limit: float | None = None) -> None:
        self.check()
        super().turn(limit)

    def finish_turn(self) -> None:
        self.check()
        super().finish_turn()
        self.check()

    def _notify(self, table: dict[int, Readiness], fd: int) -> None:
        self.check()
        super()._notify(table, fd)
        self.check()  # a thread that has lost the loop does not come here

    def _step(self, task: Task, error: BaseException | None = None) -> None:
        self.check()
        super()._step(task, error)
        self.check()

    def _suspend(self, task: Task, wanted: Wait) -> None:
        self.check()
        super()._suspend(task, wanted)

    def _ended(self, task: Task, error: BaseException) -> None:
        self.check()
        super()._ended(task, error)


class _Ready(deque[Any]):
    """The queue of ready tasks: here a `wake` or a `resume` touches the loop."""

    def __init__(self, loop: CheckedLoop) -> None:
        super().__init__()
        self._loop = loop

    def append(self, entry: Any) -> None:
        self._loop.check()
        super().append(entry)

    def popleft(self) -> Any:
        self._loop.check()
        return super().popleft()


class _Token(Token):
    """No thread has the loop while an entry is in here; then the thread that takes it out has it."""

    def __init__(self, loop: CheckedLoop) -> None:
        super().__init__()
        self._loop = loop

    def append(self, call: Any) -> None:
        self._loop.check()
        assert not self, "a call within a call"
        self._loop.owner = 0
        super().append(call)

    def pop(self) -> Any:  # type: ignore[override]
        call = super().pop()
        self._loop.owner = threading.get_ident()
        return call


class CheckedThreadPool(ThreadPool):
    """A pool for a CheckedLoop."""

    loop: CheckedLoop

    def __init__(self, loop: CheckedLoop, threads: int, **durations: float) -> None:
        super().__init__(loop, threads, **durations)  # for the types' sake

    def _follower(self) -> Follower:
        return Follower(_Token(self.loop))

    def run(self, abandon: Callable[[BaseException | None], None]) -> None:
        try:
            super().run(abandon)
        finally:
            self.loop.owner = threading.get_ident()

    def _lead(self, follower: Follower) -> None:
        self.loop.owner = threading.get_ident()
        super()._lead(follower)
