"""Deadlines: raised at most one sweep late, extended for nothing, lifted once passed; and an idle loop sleeps."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from math import inf
from time import monotonic

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefork.errors import TimedOut
from prefork.runtime.loop import SWEEP, Loop
from prefork.runtime.poller import Events
from prefork.runtime.sync import Event
from prefork.runtime.task import PARKED, PAUSE, Task
from tests.runtime.conftest import BRISK, SLACK, Noted, Pairs

EPSILON = 1e-6  # of adding floats


class Simulated:
    """A poller without descriptors, and the clock of its loop: time passes only while it waits."""

    limit: int | None = None

    def __init__(self) -> None:
        self.time = 5000.0
        self.timeouts: list[float | None] = []

    def clock(self) -> float:
        return self.time

    def poll(self, timeout: float | None) -> Events:
        assert timeout is not None, "the loop sleeps for ever"
        self.timeouts.append(timeout)
        self.time += timeout
        return []

    def watch(self, fd: int, events: int) -> None: ...
    def forget(self, fd: int) -> None: ...
    def close(self) -> None: ...


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> Callable[[], tuple[Loop, Simulated]]:
    """A maker of loops in simulated time."""

    def new() -> tuple[Loop, Simulated]:
        poller = Simulated()
        monkeypatch.setattr("prefork.runtime.loop.monotonic", poller.clock)
        return Loop(poller), poller

    return new


Simulation = Callable[[], tuple[Loop, Simulated]]


# ---- in real time, on every poller


def test_a_deadline_is_raised_where_the_task_waits_for_a_descriptor(loop: Loop, pair: Pairs) -> None:
    left, _ = pair()
    late = -inf

    async def wait() -> None:
        nonlocal late
        loop.current.deadline = loop.now + 0.1
        due = loop.current.deadline
        with pytest.raises(TimedOut):
            await loop.readable(left.fileno())
        late = monotonic() - due

    loop.spawn(wait(), "waiting")
    loop.run()
    assert 0 <= late <= BRISK + SLACK


def test_ten_thousand_tasks_meet_their_deadlines(loop: Loop) -> None:
    lateness: list[float] = []

    async def wait(seconds: float) -> None:
        loop.current.deadline = due = loop.now + seconds
        try:
            await PARKED
        except TimedOut:
            lateness.append(loop.now - due)

    for number in range(10_000):
        loop.spawn(wait(number / 50_000), "one")
    loop.run()
    assert len(lateness) == 10_000
    assert min(lateness) >= 0
    assert max(lateness) <= BRISK + SLACK


@pytest.mark.parametrize("deadline", [inf, 3600.0], ids=["no deadline", "far deadline"])
def test_an_idle_loop_makes_no_wake_ups(loop: Loop, pair: Pairs, poller: Noted, deadline: float) -> None:
    left, right = pair()

    async def wait() -> None:
        loop.current.deadline = loop.now + deadline
        await loop.readable(left.fileno())

    loop.spawn(wait(), "waiting")
    timer = threading.Timer(10 * BRISK, right.send, [b"x"])
    timer.start()
    loop.run()
    timer.join()
    assert len(poller.timeouts) == 3  # the first step; the one sweep after it; the byte
    last = poller.timeouts[-1]
    assert last is None if deadline == inf else last is not None and last > 1000


@pytest.mark.parametrize("seconds", [1e7, 1e10, 1e300])
def test_a_deadline_years_away_is_fine(loop: Loop, pair: Pairs, seconds: float) -> None:
    left, right = pair()

    async def wait() -> None:
        loop.current.deadline = loop.now + seconds
        await loop.readable(left.fileno())

    async def sleep() -> None:
        with suppress(TimedOut):
            await loop.sleep(seconds)

    loop.spawn(wait(), "waiting")
    sleeper = loop.spawn(sleep(), "sleeping")
    timer = threading.Timer(3 * BRISK, right.send, [b"x"])
    timer.start()
    for _ in range(3):
        loop.turn()
    timer.join()
    assert loop.tasks == {sleeper}


def test_bytes_that_come_in_the_turn_of_the_deadline_are_read(loop: Loop, pair: Pairs) -> None:
    left, right = pair()
    seen: list[object] = []

    async def wait() -> None:
        with loop.within(0.001):
            await loop.readable(left.fileno())
            seen.append(left.recv(1))
        await loop.sleep(3 * BRISK)

    loop.spawn(wait(), "waiting")
    loop.turn()
    right.send(b"x")
    threading.Event().wait(2 * BRISK)  # the machine stalls: bytes and deadline are both due
    loop.run()
    assert seen == [b"x"]


@pytest.mark.parametrize("event", ["readable", "writable"])
def test_a_descriptor_that_became_ready_during_a_long_turn_is_in_time(loop: Loop, pair: Pairs, event: str) -> None:
    """Whatever waits: for a request, for more of a body, or for room to write."""
    left, right = pair()
    seen: list[object] = []

    async def wait() -> None:
        with suppress(BlockingIOError):
            while event == "writable":
                left.send(bytes(65536))
        with loop.within(BRISK):
            await getattr(loop, event)(left.fileno())
            seen.append(event)

    async def stall() -> None:
        threading.Event().wait(SWEEP + 2 * BRISK)
        await PAUSE  # this turn begins after the deadline, and the sweep comes at its end
        right.send(b"x")
        with suppress(BlockingIOError):
            while event == "writable":
                right.recv(1 << 20)

    loop.spawn(wait(), "waiting")
    loop.spawn(stall(), "stalling")
    loop.run()
    assert seen == [event]


def test_the_deadline_of_a_descriptor_that_was_closed_is_raised(loop: Loop, pair: Pairs) -> None:
    left, _ = pair()
    raised: list[object] = []

    async def wait() -> None:
        try:
            with loop.within(BRISK):
                await loop.readable(left.fileno())
        except TimedOut as error:
            raised.append(error)

    async def close() -> None:
        loop.forget(left.fileno())
        left.close()

    loop.spawn(wait(), "waiting")
    loop.turn()
    loop.spawn(close(), "closing")
    loop.run()
    assert len(raised) == 1


# ---- in simulated time


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    plans=st.lists(
        st.lists(st.tuples(st.floats(0, 3), st.floats(-1, 3), st.sampled_from(["sleep", "park", "pause"])), max_size=5),
        min_size=1,
        max_size=8,
    )
)
def test_a_deadline_is_never_early_and_at_most_a_sweep_late(
    simulated: Simulation, plans: list[list[tuple[float, float, str]]]
) -> None:
    loop, poller = simulated()
    raised = 0

    async def wait(plan: list[tuple[float, float, str]]) -> None:
        nonlocal raised
        for delay, seconds, way in plan:
            await loop.sleep(delay)
            asked = poller.time
            loop.current.deadline = asked + seconds
            due = max(asked, loop.current.deadline)
            with suppress(TimedOut):
                while True:
                    if way == "pause":
                        poller.time += 0.001  # a turn takes time
                    await {"sleep": loop.sleep(9999), "park": PARKED, "pause": PAUSE}[way]
            assert due <= poller.time <= due + SWEEP + 0.01 * len(plans)
            assert loop.current.deadline == inf
            raised += 1

    for plan in plans:
        loop.spawn(wait(plan), "one")
    loop.run()
    assert raised == sum(len(plan) for plan in plans)


def test_a_deadline_that_is_extended_is_not_raised_and_costs_no_wake_up(simulated: Simulation) -> None:
    loop, poller = simulated()

    async def extend() -> None:
        for _ in range(100):
            loop.current.deadline = loop.now + 1
            await loop.sleep(0.9)
        loop.current.deadline = inf

    loop.spawn(extend(), "extending")
    loop.run()
    assert len(poller.timeouts) <= 2 * 100 + 2  # a sweep at most to each sleep


def test_all_tasks_are_looked_through_at_most_once_a_sweep(simulated: Simulation) -> None:
    loop, poller = simulated()

    async def wait(seconds: float) -> None:
        with suppress(TimedOut), loop.within(seconds):
            await PARKED

    for number in range(1000):
        loop.spawn(wait(number / 100), "one")
    loop.run()
    assert len(poller.timeouts) <= 10 / SWEEP + 3


def test_a_deadline_is_lifted_once_it_has_passed(simulated: Simulation) -> None:
    loop, poller = simulated()

    async def wait() -> None:
        task = loop.current
        task.deadline = loop.now + 1
        with pytest.raises(TimedOut):
            await PARKED
        assert task.deadline == inf
        await loop.sleep(10)
        task.deadline = loop.now + 1
        with pytest.raises(TimedOut):
            await PARKED

    loop.spawn(wait(), "waiting")
    loop.run()
    assert poller.time >= 5012


@pytest.mark.parametrize("before", [inf, 1000.0])
def test_another_task_may_set_a_deadline_while_one_waits(simulated: Simulation, before: float) -> None:
    loop, poller = simulated()

    async def wait() -> None:
        loop.current.deadline = loop.now + before
        with pytest.raises(TimedOut):
            await PARKED

    async def hurry(task: Task) -> None:
        await loop.sleep(20)
        task.deadline = loop.now + 0.1

    loop.spawn(hurry(loop.spawn(wait(), "waiting")), "hurrying")
    loop.run()
    assert 5020.1 <= poller.time <= 5020.1 + SWEEP + EPSILON


def test_a_deadline_that_a_sweep_has_extended_is_not_raised_by_it(simulated: Simulation) -> None:
    loop, poller = simulated()
    tasks: list[Task] = []
    raised: list[Task] = []

    async def wait() -> None:
        try:
            await PARKED
        except TimedOut:
            raised.append(loop.current)
            for task in tasks:
                if task is not loop.current:
                    task.deadline = loop.now + 100

    tasks += [loop.spawn(wait(), "one"), loop.spawn(wait(), "other")]
    for task in tasks:
        task.deadline = loop.now + 1
    loop.run()
    assert len(raised) == 2
    assert poller.time >= 5101


def test_who_is_cancelled_in_the_sweep_of_its_deadline_is_spared_it(
    simulated: Simulation, caplog: pytest.LogCaptureFixture
) -> None:
    loop, _ = simulated()
    tasks: list[Task] = []
    raised: list[str] = []

    async def wait() -> None:
        try:
            await PARKED
        except TimedOut:
            raised.append(loop.current.name)
            for task in tasks:
                if task is not loop.current:
                    task.cancel()

    tasks += [loop.spawn(wait(), "one"), loop.spawn(wait(), "other")]
    for task in tasks:
        task.deadline = loop.now + 1
    loop.run()
    assert len(raised) == 1
    assert not caplog.records


def test_the_earlier_of_nested_deadlines_counts(simulated: Simulation) -> None:
    loop, poller = simulated()

    async def wait(outer: float, inner: float) -> None:
        with pytest.raises(TimedOut), loop.within(outer), loop.within(inner):
            await PARKED
        assert loop.current.deadline == inf
        assert min(outer, inner) <= poller.time - 5000 <= min(outer, inner) + SWEEP + EPSILON

    loop.spawn(wait(2, 20), "outer first")
    loop.spawn(wait(20, 2), "inner first")
    loop.run()
    assert poller.time < 5003


def test_after_an_inner_block_the_outer_deadline_counts_again(simulated: Simulation) -> None:
    loop, poller = simulated()

    async def wait() -> None:
        with suppress(TimedOut), loop.within(10):
            with suppress(TimedOut), loop.within(1):
                await PARKED
            with loop.within(3):
                await loop.sleep(2)
            await PARKED

    loop.spawn(wait(), "waiting")
    loop.run()
    assert 5010 <= poller.time <= 5010 + SWEEP + EPSILON


def test_a_block_that_is_left_in_time_leaves_no_deadline(simulated: Simulation) -> None:
    loop, poller = simulated()

    async def wait() -> None:
        with loop.within(1):
            await loop.sleep(0.5)
        await loop.sleep(10)
        with suppress(KeyError), loop.within(1):
            raise KeyError
        await loop.sleep(10)

    loop.spawn(wait(), "waiting")
    loop.run()
    assert poller.time >= 5020.5


def test_a_block_entered_late_in_a_long_turn_has_its_full_time(simulated: Simulation) -> None:
    loop, poller = simulated()

    async def wait() -> None:
        poller.time += 30  # an application call that blocks
        with loop.within(10):
            await loop.sleep(5)

    loop.spawn(wait(), "waiting")
    loop.run()
    assert poller.time >= 5035


def test_a_deadline_reaches_a_task_before_its_first_step(simulated: Simulation) -> None:
    loop, _ = simulated()
    event = Event(loop)
    seen: list[str] = []

    async def wait() -> None:
        try:
            await event.wait()
        except TimedOut:
            seen.append("raised")

    loop.spawn(wait(), "waiting").deadline = loop.now - 1
    loop.run()
    assert seen == ["raised"]


def test_a_deadline_that_nobody_catches_is_logged(simulated: Simulation, caplog: pytest.LogCaptureFixture) -> None:
    loop, _ = simulated()

    async def wait() -> None:
        with loop.within(1):
            await PARKED

    loop.spawn(wait(), "waiting")
    loop.run()
    assert [record.getMessage() for record in caplog.records] == ["waiting crashed"]
