"""Calls: whoever takes too long is told of, once, and what is under way is known to its end."""

from __future__ import annotations

import threading
from time import monotonic
from typing import Any

import pytest

from prefork.errors import Abandoned
from prefork.runtime.calls import Call
from prefork.runtime.stack import stack
from prefork.runtime.threads import TAKEOVERS
from tests.runtime.thread_pools import Ship, wait

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


def test_a_call_that_takes_too_long_is_told_of_once_and_nobody_hears_its_outcome(pinned: bool) -> None:
    ship = Ship(1, pinned)
    told: list[Call] = []
    stacks: list[str] = []
    event = threading.Event()

    def overdue(call: Call) -> None:
        told.append(call)
        stacks.append(stack(call.thread))

    ship.pool.calls.overdue = overdue

    async def stuck() -> None:
        with pytest.raises(Abandoned):
            await ship.call(lambda: wait(event), "the request", timeout=0.03)
        assert not ship.pool.calls.away

    async def frees() -> None:
        await ship.until(lambda: told)
        await ship.loop.sleep(0.1)  # some more looks
        event.set()

    ship.run(stuck(), frees())
    assert [(call.what, call.timeout) for call in told] == [("the request", 0.03)]
    assert "assert event.wait(PATIENCE)" in stacks[0]


def test_a_call_without_a_timeout_may_take_for_ever(pinned: bool) -> None:
    ship = Ship(1, pinned)
    told: list[Call] = []
    ship.pool.calls.overdue = told.append
    event = threading.Event()

    async def frees() -> None:
        await ship.until(lambda: ship.pool.calls.away)
        await ship.loop.sleep(0.1)
        event.set()

    ship.run(ship.hold(event), frees())
    assert told == []


def test_a_takeover_is_told_of_while_the_call_still_lasts() -> None:
    ship = Ship(1)
    event = threading.Event()
    seen: list[int] = []
    ship.loop.after_turn.append(lambda: seen.append(ship.pool.counts[TAKEOVERS]))

    async def looks() -> None:
        await ship.until(lambda: 1 in seen)
        event.set()

    ship.run(ship.hold(event), looks())


def test_a_call_that_cannot_be_told_of_is_not_the_last(caplog: pytest.LogCaptureFixture) -> None:
    ship = Ship(3)
    told: list[str] = []
    event = threading.Event()

    def overdue(call: Call) -> None:
        told.append(call.what)
        if len(told) == 1:
            raise BrokenPipeError("nobody listens")
        event.set()

    ship.pool.calls.overdue = overdue

    async def stuck(what: str) -> None:
        with pytest.raises(Abandoned):
            await ship.call(lambda: wait(event), what, timeout=0.03)

    async def second() -> None:
        await ship.until(lambda: told)
        await stuck("second")

    ship.run(stuck("first"), second())
    assert told == ["first", "second"]
    assert "nobody listens" in caplog.text


def delegating(ship: Ship, call: Call, begin: threading.Event, end: threading.Event) -> Any:
    """A call of either kind, whose task goes on when it has begun; its thread, at `end`."""
    pool = ship.pool

    async def run() -> None:
        await ship.until(lambda: not pool.is_full)
        if pool.pinned:
            task = ship.loop.current

            def work() -> None:
                pool.hand_back(task)
                begin.set()
                wait(end)

            await pool.delegate(call, work)
        else:
            token = pool.enter("a call", 0, monotonic())
            await pool.produce(call, lambda: (begin.set(), wait(end)), leads=pool.leave(token))  # type: ignore[func-returns-value]

    return run()


def test_work_is_under_way_to_its_end_though_its_task_goes_on(pinned: bool) -> None:
    ship = Ship(1, pinned)
    call = Call("the request", 0)
    begun, end = threading.Event(), threading.Event()
    order: list[str] = []

    async def main() -> None:
        await delegating(ship, call, begun, end)
        assert ship.pool.calls.under_way == {call.thread: call}
        assert not ship.pool.calls.away
        ship.loop.spawn(ends(), "ends it")
        await ship.pool.finished()
        order.append("finished")
        assert not ship.pool.calls.under_way

    async def ends() -> None:
        order.append("ends")
        end.set()

    ship.run(main())
    assert order == ["ends", "finished"]


def test_work_that_takes_too_long_is_told_of_though_its_task_goes_on_and_not_waited_for(pinned: bool) -> None:
    ship = Ship(1, pinned)
    call = Call("the request", 0.03)
    begun, end = threading.Event(), threading.Event()
    told: list[Call] = []
    ship.pool.calls.overdue = told.append

    async def main() -> None:
        await delegating(ship, call, begun, end)
        await ship.pool.finished()
        assert told == [call]
        end.set()

    ship.run(main())


def test_work_of_which_something_comes_does_not_take_too_long(pinned: bool) -> None:
    ship = Ship(1, pinned)
    call = Call("the request", 0.5)
    begun, end = threading.Event(), threading.Event()
    told: list[Call] = []
    ship.pool.calls.overdue = told.append

    async def main() -> None:
        await delegating(ship, call, begun, end)
        since = call.since
        while ship.loop.now < since + 0.7:
            call.since = ship.loop.now
            await ship.loop.sleep(0.01)
        end.set()
        await ship.pool.finished()

    ship.run(main())
    assert told == []
