"""Leader/Followers: the loop goes on while calls block, and everything comes back to it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from prefork.errors import Abandoned, TimedOut
from prefork.kernel import leader
from prefork.kernel.leader import Call
from prefork.kernel.stack import stack
from tests.conftest import eventually
from tests.kernel.crews import Ship, for_ever, wait

MAIN = threading.main_thread().ident


@pytest.fixture(autouse=True)
def no_thread_is_left(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before
    assert "the loop is touched" not in caplog.text


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leader, "SWEEP", 0.02)
    monkeypatch.setattr(leader, "TICK", 0.002)


@pytest.fixture(params=[False, True], ids=["inline", "pinned"])
def pinned(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_a_fast_call_is_made_in_the_thread_of_the_loop() -> None:
    ship = Ship()
    threads: list[int] = []

    async def main() -> None:
        for _ in range(3):
            await ship.call(lambda: threads.append(threading.get_ident()))
        assert not ship.crew.away

    ship.run(main())
    assert len(set(threads)) == 1


def test_a_call_may_wait_for_what_the_loop_brings(pinned: bool) -> None:
    ship = Ship(1, pinned)
    event = threading.Event()

    async def waits() -> None:
        await ship.call(lambda: wait(event))

    async def brings() -> None:
        await ship.until(lambda: ship.crew.away)
        event.set()

    ship.run(waits(), brings())
    assert ship.crew.takeovers == (0 if pinned else 1)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_as_many_calls_are_made_at_once_as_there_are_threads_and_no_more(threads: int, pinned: bool) -> None:
    ship = Ship(threads, pinned)
    inside: set[int] = set()
    most = 0
    barrier = threading.Barrier(threads)

    def meet() -> None:
        nonlocal most
        inside.add(threading.get_ident())
        most = max(most, len(inside))
        barrier.wait(10)
        inside.discard(threading.get_ident())

    async def one() -> None:
        await ship.call(meet)

    ship.run(*(one() for _ in range(threads * 4)))
    assert most <= threads


def test_who_waits_for_a_thread_is_served_in_the_order_of_arrival(pinned: bool) -> None:
    ship = Ship(1, pinned)
    order: list[int] = []
    event = threading.Event()

    async def one(number: int) -> None:
        await ship.call(lambda: (wait(event), order.append(number)))

    async def opens() -> None:
        await ship.until(lambda: len(ship.crew.queue) == 9)
        event.set()

    ship.run(*(one(number) for number in range(10)), opens())
    assert order == list(range(10))
    assert ship.crew.queued == 9


def test_who_has_waited_long_enough_leaves_the_queue_and_holds_nobody_up(
    pinned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefork.kernel.loop.SWEEP", 0.02)
    ship = Ship(1, pinned)
    event = threading.Event()
    told: list[str] = []

    async def occupies() -> None:
        await ship.call(lambda: wait(event))

    async def gives_up() -> None:
        await ship.until(lambda: ship.crew.away)
        with pytest.raises(TimedOut), ship.loop.within(0.01):
            await ship.call(lambda: told.append("never"))
        event.set()

    async def stays() -> None:
        await ship.until(lambda: ship.crew.queue)
        await ship.call(lambda: told.append("served"))

    ship.run(occupies(), gives_up(), stays())
    assert told == ["served"]


def test_who_is_cancelled_in_the_queue_holds_nobody_up(pinned: bool) -> None:
    ship = Ship(1, pinned)
    event = threading.Event()
    told: list[str] = []

    async def occupies() -> None:
        await ship.call(lambda: wait(event))

    async def queues(word: str) -> None:
        await ship.until(lambda: ship.crew.away)
        await ship.call(lambda: told.append(word))

    async def main() -> None:
        first = ship.loop.spawn(queues("cancelled"), "the first")
        await ship.until(lambda: first in ship.crew.queue)
        second = ship.loop.spawn(queues("served"), "the second")
        await ship.until(lambda: second in ship.crew.queue)
        first.cancel()
        event.set()
        await ship.until(lambda: second not in ship.loop.tasks)

    ship.run(occupies(), main())
    assert told == ["served"]


@pytest.mark.parametrize("error", [ValueError("the cause"), SystemExit(3)])
def test_what_a_call_raises_in_another_thread_reaches_its_task(error: BaseException, pinned: bool) -> None:
    ship = Ship(2, pinned)

    def fails() -> None:
        eventually(lambda: ship.crew.away)
        raise error

    async def main() -> None:
        with pytest.raises(type(error)) as raised:
            await ship.call(fails)
        assert raised.value is error
        assert await ship.call(lambda: "and goes on") == "and goes on"

    ship.run(main())


def test_a_post_that_comes_while_the_alarm_is_being_read_does_not_silence_those_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ship = Ship()
    heard: list[str] = []
    read = os.read

    def read_late(fd: int, count: int) -> bytes:
        if fd == ship.crew._reading:
            monkeypatch.setattr(leader.os, "read", read)
            poster = threading.Thread(target=ship.crew.post, args=[lambda: heard.append("meanwhile")])
            poster.start()
            poster.join()
        return read(fd, count)

    async def main() -> None:
        monkeypatch.setattr(leader.os, "read", read_late)
        for word in ("first", "last"):
            ship.crew.post(partial(heard.append, word))
            await ship.until(partial(heard.__contains__, word))

    ship.run(main())
    assert heard == ["first", "meanwhile", "last"]


def test_who_comes_back_from_a_call_late_does_not_take_the_leadership_of_who_has_it_by_then() -> None:
    ship = Ship(2)
    inside, back = threading.Event(), threading.Event()

    async def late() -> None:
        await ship.call(lambda: wait(inside))
        assert ship.loop.now
        back.set()

    async def leads() -> None:
        await ship.until(lambda: ship.crew.away)
        await ship.call(lambda: (inside.set(), wait(back)))

    ship.run(late(), leads())
    assert ship.crew.takeovers == 2


# --- calls that take too long ---


def test_a_call_that_takes_too_long_is_told_of_once_and_nobody_hears_its_outcome(pinned: bool) -> None:
    ship = Ship(1, pinned)
    told: list[Call] = []
    stacks: list[str] = []
    event = threading.Event()

    def overdue(call: Call) -> None:
        told.append(call)
        stacks.append(stack(call.thread))

    ship.crew.overdue = overdue

    async def stuck() -> None:
        with pytest.raises(Abandoned):
            await ship.call(lambda: wait(event), "the request", timeout=0.03)
        assert not ship.crew.away

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
    ship.crew.overdue = told.append
    event = threading.Event()

    async def slow() -> None:
        await ship.call(lambda: wait(event))

    async def frees() -> None:
        await ship.until(lambda: ship.crew.away)
        await ship.loop.sleep(0.1)
        event.set()

    ship.run(slow(), frees())
    assert told == []


def test_a_takeover_is_told_of_while_the_call_still_lasts() -> None:
    ship = Ship(1)
    event = threading.Event()
    seen: list[int] = []
    ship.crew.changed = lambda: seen.append(ship.crew.takeovers)

    async def slow() -> None:
        await ship.call(lambda: wait(event))

    async def looks() -> None:
        await ship.until(lambda: 1 in seen)
        event.set()

    ship.run(slow(), looks())


# --- the watcher ---


def test_an_idle_watcher_sleeps_until_there_is_a_call_again(monkeypatch: pytest.MonkeyPatch) -> None:
    ship = Ship(1)
    looks: list[float] = []
    sleep = leader.sleep
    monkeypatch.setattr(leader, "sleep", lambda seconds: (looks.append(seconds), sleep(seconds)))
    event = threading.Event()

    async def main() -> None:
        for _ in range(3):
            await ship.until(lambda: ship.crew._parked)
            count = len(looks)
            await ship.loop.sleep(0.05)
            assert len(looks) == count
            event.clear()
            slow = ship.loop.spawn(one(), "a slow call")
            await ship.until(lambda: ship.crew.away)
            event.set()
            await ship.until(lambda: slow not in ship.loop.tasks)  # noqa: B023

    async def one() -> None:
        await ship.call(lambda: wait(event))

    ship.run(main())
    assert ship.crew.takeovers == 3


# --- the end ---


def test_run_returns_in_the_main_thread_where_another_one_leads() -> None:
    ship = Ship(2)
    leads: list[int] = []

    async def main() -> None:
        while ship.crew._leader == MAIN:
            await ship.call(lambda: eventually(lambda: ship.crew.away))
        leads.append(ship.crew._leader)

    ship.run(main())
    assert threading.get_ident() == MAIN
    assert leads != [MAIN]


@pytest.mark.parametrize("patience", [0.05, 20.0])
def test_a_main_thread_that_hangs_in_a_call_is_waited_for_and_then_abandoned(
    patience: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leader, "PATIENCE", patience)
    ship = Ship(1)
    stopped = threading.Event()

    def hang() -> None:
        assert threading.get_ident() == MAIN
        wait(stopped)
        if patience < 1:
            eventually(ship.abandoned.is_set)

    async def hangs() -> None:
        await ship.call(hang)

    async def stops() -> None:
        await ship.until(lambda: ship.crew.away)
        ship.loop.stop()
        stopped.set()

    ship.run(hangs(), stops(), stop=False)
    assert ship.abandoned.is_set() == (patience < 1)


def test_what_ends_the_loop_in_another_thread_is_raised_in_the_main_one() -> None:
    ship = Ship(2)
    event = threading.Event()

    async def holds_the_main_thread() -> None:
        await ship.call(lambda: wait(event))

    async def interrupts() -> None:
        await ship.until(lambda: ship.crew.away)
        event.set()
        raise KeyboardInterrupt

    async def main() -> None:
        ship.loop.spawn(interrupts(), "an interruption")
        await for_ever()

    with pytest.raises(KeyboardInterrupt):
        ship.run(holds_the_main_thread(), main())


# --- who does work for a task that goes on ---


@pytest.mark.parametrize("lasts", [False, True])
def test_work_is_done_in_the_thread_of_the_call_before_it(lasts: bool) -> None:
    ship = Ship(2)
    crew = ship.crew
    threads: list[int] = []
    done = threading.Event()

    def work() -> None:
        threads.append(threading.get_ident())
        if lasts:
            wait(done)

    async def main() -> None:
        await crew.admit()
        for number in range(4):
            baton = crew.enter("a call", 0)
            threads.append(threading.get_ident())
            if number % 2:
                eventually(lambda: crew.away)
            done.clear()
            await crew.produce(work, leads=crew.leave(baton))
            done.set()  # where the work lasts, the task goes on before its end
            await ship.until(lambda: len(crew.followers) == 2)
            await crew.admit()

    ship.run(main())
    assert threads[::2] == threads[1::2]


def test_a_thread_that_steps_down_works_on_while_another_one_leads() -> None:
    ship = Ship(1)
    crew = ship.crew
    seen: list[Any] = []
    event = threading.Event()

    def work() -> None:
        crew.step_down()
        crew.step_down()  # it does not lead any more
        wait(event)
        seen.append("worked")

    async def main() -> None:
        await crew.admit()
        baton = crew.enter("a call", 0)
        await crew.produce(work, leads=crew.leave(baton))
        assert not crew.followers
        event.set()
        await crew.admit()
        assert seen == ["worked"]

    ship.run(main())
    assert crew.takeovers == 1


# --- the check ---


def test_a_checked_loop_is_not_to_be_touched_from_elsewhere(caplog: pytest.LogCaptureFixture) -> None:
    ship = Ship()
    failures: list[BaseException] = []

    def touch() -> None:
        for wrong in (lambda: ship.loop.forget(99), lambda: ship.loop.ready.append(None), ship.loop.turn):
            try:
                wrong()
            except AssertionError as error:
                failures.append(error)

    async def main() -> None:
        other = threading.Thread(target=touch)
        other.start()
        other.join()
        with pytest.raises(AssertionError, match="nobody's"):
            await ship.call(lambda: ship.loop.forget(99))

    ship.run(main())
    assert len(failures) == 3
    assert caplog.text.count("the loop is touched") == 4
    caplog.clear()
