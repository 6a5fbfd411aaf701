"""Waiting without a descriptor: sleeping, parking, pausing."""

from __future__ import annotations

from math import inf
from time import monotonic

import pytest

from prefork.errors import TimedOut
from prefork.runtime.loop import Loop
from prefork.runtime.task import PARKED, PAUSE
from tests.runtime.conftest import SLACK, Noted, Pairs, pause


class Jolt(Exception):
    """What tests throw into tasks."""


# ---- sleeping


def test_sleepers_go_on_in_the_order_of_their_instants_and_never_early(loop: Loop) -> None:
    order: list[float] = []

    async def sleep(seconds: float) -> None:
        start = monotonic()
        await loop.sleep(seconds)
        assert seconds <= monotonic() - start < seconds + SLACK
        order.append(seconds)

    for seconds in (0.05, 0.01, 0.03, 0.0, 0.0004, 0.02):
        loop.spawn(sleep(seconds), "sleeper")
    loop.run()
    assert order == [0.0, 0.0004, 0.01, 0.02, 0.03, 0.05]


def test_sleepers_of_one_instant_go_on_in_the_order_of_their_coming(loop: Loop) -> None:
    order: list[int] = []

    async def sleep(number: int) -> None:
        waiting = loop.sleep(0)
        waiting.when = until
        await waiting
        order.append(number)

    until = monotonic() + 0.01
    for number in range(20):
        loop.spawn(sleep(number), "sleeper")
    loop.run()
    assert order == list(range(20))


def test_a_sleeping_loop_does_not_spin(loop: Loop, poller: Noted) -> None:
    async def sleep() -> None:
        for _ in range(5):
            await loop.sleep(0.0107)

    loop.spawn(sleep(), "sleeper")
    loop.run()
    assert len(poller.timeouts) <= 1 + 2 * 5  # twice where adding floats falls short of the instant


@pytest.mark.parametrize("seconds", [0.0, -1.0, -inf])
def test_sleeping_for_no_time_lets_the_others_go_on(loop: Loop, seconds: float) -> None:
    steps = 0

    async def insomniac() -> None:
        nonlocal steps
        while len(loop.tasks) > 1 and steps < 10_000:
            steps += 1
            await loop.sleep(seconds)

    async def other() -> None:
        for _ in range(5):
            await PAUSE

    loop.spawn(insomniac(), "insomniac")
    loop.spawn(other(), "other")
    loop.run()
    assert steps < 50


def test_a_sleep_that_was_cut_short_does_not_wake_its_task_later(loop: Loop, pair: Pairs) -> None:
    left, right = pair()
    order: list[str] = []

    async def sleep() -> None:
        try:
            await loop.sleep(0.02)
        except Jolt:
            order.append("jolted")
        await loop.readable(left.fileno())
        order.append("read")

    async def disturb() -> None:
        await PAUSE
        sleeper.throw(Jolt())
        await loop.sleep(0.05)
        order.append("send")
        right.send(b"x")

    sleeper = loop.spawn(sleep(), "sleeper")
    loop.spawn(disturb(), "disturbing")
    loop.run()
    assert order == ["jolted", "send", "read"]


# ---- parking and waking


def test_a_wake_up_ends_a_parking(loop: Loop) -> None:
    order: list[str] = []

    async def park() -> None:
        await PARKED
        order.append("woken")

    async def wake() -> None:
        await loop.sleep(0.01)
        order.append("wake")
        parked.wake()

    parked = loop.spawn(park(), "parked")
    loop.spawn(wake(), "waking")
    loop.run()
    assert order == ["wake", "woken"]


def test_a_wake_up_before_the_parking_is_not_lost(loop: Loop) -> None:
    async def park() -> None:
        await loop.sleep(0.01)
        await PARKED

    task = loop.spawn(park(), "parked")
    task.wake()  # before its first step
    loop.run()
    task = loop.spawn(park(), "parked")
    loop.turn()
    task.wake()  # while it waits for something else
    loop.run()


def test_a_wake_up_from_the_task_itself_is_not_lost(loop: Loop) -> None:
    async def park() -> None:
        for _ in range(3):
            loop.current.wake()
            await PARKED

    loop.spawn(park(), "parked")
    loop.run()


def test_a_wake_up_while_the_task_goes_on_is_not_lost(loop: Loop, pair: Pairs) -> None:
    left, right = pair()

    async def park() -> None:
        await loop.readable(left.fileno())
        loop.current.wake()
        await PARKED
        loop.current.wake()
        await PARKED

    right.send(b"x")
    loop.spawn(park(), "parked")
    loop.run()


def test_waking_twice_wakes_once(loop: Loop) -> None:
    times = 0

    async def park() -> None:
        nonlocal times
        while True:
            await PARKED
            times += 1

    task = loop.spawn(park(), "parked")
    loop.turn()
    task.wake()
    task.wake()
    for _ in range(3):
        loop.spawn(pause(), "other")
        loop.turn()
    assert times == 1


def test_waking_who_has_ended_is_fine(loop: Loop) -> None:
    async def park() -> None:
        await PARKED

    task = loop.spawn(park(), "parked")
    loop.turn()
    task.wake()
    loop.run()
    task.wake()
    task.throw(Jolt())
    task.resume()
    loop.spawn(pause(), "other")
    loop.run()


def test_waking_does_not_disturb_who_waits_for_something_else(loop: Loop, pair: Pairs) -> None:
    left, right = pair()
    order: list[str] = []

    async def wait() -> None:
        await loop.readable(left.fileno())
        order.append("read")
        await loop.sleep(0.02)
        order.append("slept")

    async def disturb() -> None:
        for _ in range(3):
            await PAUSE
            task.wake()
        order.append("send")
        right.send(b"x")
        while task in loop.tasks:
            task.wake()
            await loop.sleep(0.005)

    task = loop.spawn(wait(), "waiting")
    loop.spawn(disturb(), "disturbing")
    start = monotonic()
    loop.run()
    assert order == ["send", "read", "slept"]
    assert monotonic() - start >= 0.02


# ---- pausing


def test_pausing_tasks_take_turns(loop: Loop) -> None:
    order: list[str] = []

    async def step(name: str) -> None:
        for _ in range(3):
            order.append(name)
            await PAUSE

    for name in "abc":
        loop.spawn(step(name), name)
    loop.run()
    assert order == list("abcabcabc")


async def pausing(steps: list[int], disturbance: type[Exception]) -> None:
    """Takes a step a turn, for ever; a disturbance costs it that turn's."""
    while True:
        try:
            await PAUSE
        except disturbance:
            continue
        steps.append(len(steps))


def steps_of_ten_turns(loop: Loop, steps: list[int]) -> int:
    before = len(steps)
    for _ in range(10):
        loop.turn()
    return len(steps) - before


@pytest.mark.parametrize("how", ["thrown twice", "thrown and resumed"])
def test_a_pausing_task_that_was_disturbed_still_takes_one_step_a_turn(loop: Loop, how: str) -> None:
    steps: list[int] = []
    task = loop.spawn(pausing(steps, Jolt), "pausing")
    loop.turn()
    task.throw(Jolt())
    if how == "thrown twice":
        task.throw(Jolt())
    else:
        task.resume()
    loop.turn()
    loop.turn()
    assert steps_of_ten_turns(loop, steps) == 10


def test_a_pausing_task_that_timed_out_still_takes_one_step_a_turn(loop: Loop) -> None:
    loop.sweep = 0.0
    steps: list[int] = []
    task = loop.spawn(pausing(steps, TimedOut), "pausing")
    for _ in range(5):
        task.deadline = loop.now
        loop.turn()
    assert steps_of_ten_turns(loop, steps) == 10
