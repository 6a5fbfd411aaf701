"""Bells and events: who waits goes on when its condition holds, and not before."""

from __future__ import annotations

from contextlib import suppress

import pytest

from prefork.runtime.loop import Loop
from prefork.runtime.sync import Condition, Event, Lock
from prefork.runtime.task import PARKED, PAUSE


class Jolt(Exception):
    """What tests throw into tasks."""


def test_who_waits_until_something_holds_looks_again_at_every_ring(loop: Loop) -> None:
    condition = Condition(loop)
    left = {"short": 1, "long": 3}
    order: list[str] = []

    async def wait(name: str) -> None:
        await condition.wait_for(lambda: not left[name])
        order.append(name)

    async def notify_all() -> None:
        while condition.waiting:
            left.update({name: max(0, count - 1) for name, count in left.items()})
            order.append("ring")
            condition.notify_all()
            for _ in range(3):
                await PAUSE  # those who have been woken take their steps, and leave

    for name in ("long", "short"):
        loop.spawn(wait(name), name)
    loop.spawn(notify_all(), "ringing")
    loop.run()
    assert order == ["ring", "short", "ring", "ring", "long"]


def test_who_waits_for_what_holds_already_does_not_wait(loop: Loop) -> None:
    condition = Condition(loop)
    loop.spawn(condition.wait_for(lambda: True), "waiting")
    loop.turn()
    assert not loop.tasks
    assert not condition.waiting


def test_an_event_wakes_all_who_wait_and_stays_set(loop: Loop) -> None:
    event = Event(loop)
    order: list[str] = []

    async def wait(name: str) -> None:
        await event.wait()
        order.append(name)

    async def set_it() -> None:
        await loop.sleep(0.01)
        assert not event.is_set()
        order.append("set")
        event.set()
        event.set()
        await wait("at once")

    for name in ("a", "b", "c"):
        loop.spawn(wait(name), name)
    loop.spawn(set_it(), "setting")
    loop.run()
    assert order == ["set", "at once", "a", "b", "c"]
    assert event.is_set()


def test_who_waits_for_an_event_is_not_deceived_by_a_wake_up(loop: Loop) -> None:
    event = Event(loop)
    order: list[str] = []

    async def wait() -> None:
        await event.wait()
        order.append("woken")

    task = loop.spawn(wait(), "waiting")
    loop.turn()
    for _ in range(3):
        task.wake()
        loop.turn()
    order.append("set")
    event.set()
    loop.run()
    assert order == ["set", "woken"]


def test_who_gave_up_an_event_is_not_woken_by_it(loop: Loop) -> None:
    event = Event(loop)
    order: list[str] = []

    async def wait() -> None:
        with pytest.raises(Jolt):
            await event.wait()
        await PARKED
        order.append("woken")

    task = loop.spawn(wait(), "waiting")
    loop.turn()
    task.throw(Jolt())
    loop.turn()
    event.set()
    assert not loop.ready
    order.append("wake")
    task.wake()
    loop.run()
    assert order == ["wake", "woken"]


def test_turns_are_taken_one_at_a_time_in_the_order_in_which_they_were_asked_for(loop: Loop) -> None:
    turns, order = Lock(loop), []

    async def acquire(number: int) -> None:
        await turns.acquire()
        order.append(number)
        await loop.sleep(0)
        order.append(number)
        turns.release()

    for number in range(5):
        loop.spawn(acquire(number), "taking a turn")
    loop.run()
    assert order == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert not turns.locked


def test_who_gives_up_waiting_for_a_turn_holds_nobody_up(loop: Loop) -> None:
    turns, took = Lock(loop), []

    async def acquire(number: int) -> None:
        await turns.acquire()
        took.append(number)
        if number == 0:
            for task in tasks[1:4]:
                task.wake()  # which is not a turn
            await loop.sleep(0)
            tasks[1].cancel()
            tasks[2].throw(Jolt())
            await loop.sleep(0)
        turns.release()
        if number == 0:
            tasks[3].cancel()  # it has been given the turn, and has not gone on yet

    async def endure(number: int) -> None:
        with suppress(Jolt):
            await acquire(number)

    tasks = [loop.spawn(endure(number), "taking a turn") for number in range(5)]
    loop.run()
    assert took == [0, 4]
    assert not turns.locked
