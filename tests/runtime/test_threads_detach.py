"""Leader/Followers: a task goes on by another coroutine, while a thread is held up in the one that it had."""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any

import pytest

from prefork.errors import Abandoned
from prefork.runtime.calls import Call
from prefork.runtime.owner import Superseded
from prefork.runtime.task import Task, Wait
from tests.runtime.thread_pools import Ship, wait

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


class Owned:
    """A task that calls something at which its thread may detach itself; `seen` tells what happens, in order."""

    def __init__(self, ship: Ship, timeout: float = 0) -> None:
        self.ship = ship
        self.pool = ship.pool
        self.seen: list[Any] = []
        self.went_on = threading.Event()
        self.timeout = timeout
        self.task: Task | None = None

    def begins(self, task: Task) -> None:
        assert task is self.task
        self.seen.append("begins")

    def answered(self) -> None:
        self.seen.append("answered")

    def refused(self) -> None:
        self.seen.append("refused")
        self.went_on.set()

    def go_on(self, answered: Callable[[], None]) -> Coroutine[Wait, None, None]:
        return self._rest(answered)

    async def _rest(self, answered: Callable[[], None]) -> None:
        assert self.pool.loop.current is self.task
        answered()
        self.seen.append("goes on")
        self.went_on.set()

    async def live(self, function: Callable[[], None], what: object = "a call") -> None:
        self.task = self.pool.loop.current
        self.task.owner = self
        try:
            token = self.pool.enter(what, self.timeout, monotonic())
            function()
            assert not self.pool.leave(token)
            self.seen.append("returns")
            await self.pool.rejoin()
        except (Superseded, Abandoned) as error:
            self.seen.append(type(error))
            assert self.pool.leader == threading.get_ident()  # it is the leader who ends it
            if isinstance(error, Superseded):
                raise
        finally:
            self.seen.append("ended")


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("deposed", [False, True])
def test_the_task_goes_on_before_the_call_is_over_and_is_ended_where_it_was(threads: int, deposed: bool) -> None:
    ship = Ship(threads)
    owned = Owned(ship)
    what = object()

    def function() -> None:
        if deposed:
            assert not owned.went_on.wait(0.05)  # the watcher comes
        ship.pool.detach(Call(what, 0), owned)
        wait(owned.went_on)

    async def watch() -> None:
        await ship.until(lambda: "ended" in owned.seen)
        await ship.until(lambda: len(ship.pool.followers) == threads and not ship.pool.calls.under_way)
        assert not ship.pool.calls.away

    async def main() -> None:
        await owned.live(function, what)
        raise AssertionError("it has come back")

    ship.loop.spawn(main(), "owned")
    ship.run(watch())
    assert owned.seen == ["begins", "answered", "goes on", "returns", Superseded, "ended"]


def test_the_call_is_what_its_thread_is_at_until_it_is_over() -> None:
    ship = Ship(2)
    owned = Owned(ship)
    what, over = object(), threading.Event()
    call = Call(what, 0)

    def function() -> None:
        ship.pool.detach(call, owned)
        wait(over)

    async def watch() -> None:
        await ship.until(owned.went_on.is_set)
        assert list(ship.pool.calls.under_way.values()) == [call]
        assert call.task is owned.task
        over.set()
        await ship.pool.finished()

    ship.loop.spawn(owned.live(function, what), "owned")
    ship.run(watch())


def test_it_is_refused_where_the_thread_is_at_something_else_by_now() -> None:
    ship = Ship(2)
    owned = Owned(ship)

    def function() -> None:
        ship.pool.detach(Call("another call", 0), owned)
        wait(owned.went_on)

    ship.run(owned.live(function, "a call"))
    assert owned.seen == ["refused", "returns", "ended"]


def test_it_is_refused_to_a_thread_that_has_no_call() -> None:
    ship = Ship(1)
    owned = Owned(ship)

    async def main() -> None:
        helper = threading.Thread(target=ship.pool.detach, args=[Call("a call", 0), owned])
        helper.start()
        await ship.until(owned.went_on.is_set)
        helper.join()

    ship.run(main())
    assert owned.seen == ["refused"]


def test_it_is_refused_where_nobody_waits_for_the_call_any_more() -> None:
    ship = Ship(2)
    owned = Owned(ship, timeout=0.05)
    overdue = threading.Event()
    ship.pool.calls.overdue = lambda call: overdue.set()
    what = object()

    def function() -> None:
        wait(overdue)
        ship.pool.detach(Call(what, 0), owned)
        wait(owned.went_on)

    ship.run(owned.live(function, what))
    assert owned.seen == ["refused", "returns", Abandoned, "ended"]


def test_what_crashes_as_it_is_ended_is_logged_and_ends_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    ship = Ship(2)
    owned = Owned(ship)
    what = object()

    def function() -> None:
        ship.pool.detach(Call(what, 0), owned)

    async def main() -> None:
        try:
            await owned.live(function, what)
        finally:
            raise ValueError("the cause")

    async def watch() -> None:
        await ship.until(lambda: "ended" in owned.seen and not ship.pool.calls.under_way)

    ship.loop.spawn(main(), "owned")
    ship.run(watch())
    assert "the cause" in caplog.text
