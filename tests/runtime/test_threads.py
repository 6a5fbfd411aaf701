"""Leader/Followers: the loop goes on while calls block, and everything comes back to it."""

from __future__ import annotations

import os
import threading
from time import monotonic

import pytest

from prefork.errors import TimedOut
from prefork.runtime import threads, watcher
from prefork.runtime.threads import FULL_SINCE, QUEUED, TAKEOVERS
from tests.conftest import eventually
from tests.runtime.thread_pools import Ship, for_ever, wait

MAIN = threading.main_thread().ident


pytestmark = pytest.mark.usefixtures("no_thread_is_left")


def test_a_fast_call_is_made_in_the_thread_of_the_loop() -> None:
    ship = Ship()
    threads: list[int] = []

    async def main() -> None:
        for _ in range(3):
            await ship.call(lambda: threads.append(threading.get_ident()))
        assert not ship.pool.calls.away

    ship.run(main())
    assert len(set(threads)) == 1


def test_a_call_may_wait_for_what_the_loop_brings(pinned: bool) -> None:
    ship = Ship(1, pinned)
    event = threading.Event()

    async def brings() -> None:
        await ship.until(lambda: ship.pool.calls.away)
        event.set()

    ship.run(ship.hold(event), brings())
    assert ship.pool.counts[TAKEOVERS] == (0 if pinned else 1)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_it_is_told_since_when_no_thread_has_been_free(threads: int, pinned: bool) -> None:
    ship = Ship(threads, pinned)
    event = threading.Event()

    async def watches() -> None:
        counts = ship.pool.counts
        for number in range(threads):
            assert not counts[FULL_SINCE]
            ship.loop.spawn(ship.hold(event), f"call {number}")
            await ship.until(lambda number=number: len(ship.pool.calls.away) > number)
        since = counts[FULL_SINCE]
        assert 0 <= monotonic() * 1000 - since < 5000
        ship.loop.spawn(ship.hold(event), "a call more")
        await ship.loop.sleep(0.01)
        assert counts[FULL_SINCE] == since
        event.set()
        await ship.until(lambda: not counts[FULL_SINCE])

    ship.run(watches())


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


def test_one_call_at_a_time_is_the_main_threads_and_others_have_their_turns_meanwhile() -> None:
    ship = Ship(1)
    made_by: list[int] = []
    events = [threading.Event() for _ in range(5)]

    async def calls(event: threading.Event) -> None:
        await ship.call(lambda: (wait(event), made_by.append(threading.get_ident())))
        await ship.call(lambda: made_by.append(threading.get_ident()))

    async def opens() -> None:
        await ship.until(lambda: ship.pool.counts[TAKEOVERS])
        for event in events:
            event.set()
            await ship.loop.sleep(0.001)
        await ship.until(lambda: len(made_by) == 10 and ship.pool.leader == MAIN)

    ship.run(*(calls(event) for event in events), opens())
    assert made_by == [MAIN] * 10
    assert ship.pool.counts[TAKEOVERS] < 5  # the others wait for the main thread


def test_who_waits_for_a_thread_is_served_in_the_order_of_arrival(pinned: bool) -> None:
    ship = Ship(1, pinned)
    order: list[int] = []
    event = threading.Event()

    async def one(number: int) -> None:
        await ship.call(lambda: (wait(event), order.append(number)))

    async def opens() -> None:
        await ship.until(lambda: len(ship.pool.jobs) == 9)
        event.set()

    ship.run(*(one(number) for number in range(10)), opens())
    assert order == list(range(10))
    assert ship.pool.counts[QUEUED] == 9


def test_who_has_waited_long_enough_leaves_the_queue_and_holds_nobody_up(pinned: bool) -> None:
    ship = Ship(1, pinned)
    event = threading.Event()
    told: list[str] = []

    async def gives_up() -> None:
        await ship.until(lambda: ship.pool.calls.away)
        with pytest.raises(TimedOut), ship.loop.within(0.01):
            await ship.call(lambda: told.append("never"))
        event.set()

    async def stays() -> None:
        await ship.until(lambda: ship.pool.jobs)
        await ship.call(lambda: told.append("served"))

    ship.run(ship.hold(event), gives_up(), stays())
    assert told == ["served"]


def test_who_is_cancelled_in_the_queue_holds_nobody_up(pinned: bool) -> None:
    ship = Ship(1, pinned)
    event = threading.Event()
    told: list[str] = []

    async def queues(word: str) -> None:
        await ship.until(lambda: ship.pool.calls.away)
        await ship.call(lambda: told.append(word))

    async def main() -> None:
        first = ship.loop.spawn(queues("cancelled"), "the first")
        await ship.until(lambda: len(ship.pool.jobs) == 1)
        second = ship.loop.spawn(queues("served"), "the second")
        await ship.until(lambda: len(ship.pool.jobs) == 2)
        first.cancel()
        event.set()
        await ship.until(lambda: second not in ship.loop.tasks)

    ship.run(ship.hold(event), main())
    assert told == ["served"]


@pytest.mark.parametrize("error", [ValueError("the cause"), SystemExit(3)])
def test_what_a_call_raises_in_another_thread_reaches_its_task(error: BaseException, pinned: bool) -> None:
    ship = Ship(2, pinned)

    def fails() -> None:
        eventually(lambda: ship.pool.calls.away)
        raise error

    async def main() -> None:
        with pytest.raises(type(error)) as raised:
            await ship.call(fails)
        assert raised.value is error
        assert await ship.call(lambda: "and goes on") == "and goes on"

    ship.run(main())


def test_who_comes_back_from_a_call_late_does_not_take_the_leadership_of_who_has_it_by_then() -> None:
    ship = Ship(2)
    inside, back = threading.Event(), threading.Event()
    resumed_by: list[tuple[int, int]] = []
    thirds: list[int] = []

    async def late() -> None:
        await ship.call(lambda: wait(inside))
        resumed_by.append((threading.get_ident(), ship.pool.leader))
        back.set()

    async def leads() -> None:
        await ship.until(lambda: ship.pool.calls.away)
        await ship.call(lambda: (thirds.append(threading.get_ident()), inside.set(), wait(back)))

    ship.run(late(), leads())
    assert ship.pool.counts[TAKEOVERS] == 2
    ((thread, led),) = resumed_by
    assert thread == led  # the third, after the main thread and the one that waits for `back`
    assert thread not in (MAIN, *thirds)


# --- the watcher ---


def test_an_idle_watcher_sleeps_until_there_is_a_call_again(monkeypatch: pytest.MonkeyPatch) -> None:
    ship = Ship(1)
    looks: list[float] = []
    sleep = watcher.sleep
    monkeypatch.setattr(watcher, "sleep", lambda seconds: (looks.append(seconds), sleep(seconds)))
    event = threading.Event()

    async def main() -> None:
        for _ in range(3):
            await ship.until(lambda: ship.pool._watcher.parked)
            count = len(looks)
            await ship.loop.sleep(0.05)
            assert len(looks) == count
            event.clear()
            slow = ship.loop.spawn(ship.hold(event), "a slow call")
            await ship.until(lambda: ship.pool.calls.away)
            event.set()
            await ship.until(lambda: slow not in ship.loop.tasks)  # noqa: B023

    ship.run(main())
    assert ship.pool.counts[TAKEOVERS] == 3


# --- the end ---


def test_run_returns_in_the_main_thread_where_another_one_leads() -> None:
    ship = Ship(2)
    leads: list[int] = []

    async def main() -> None:
        while ship.pool.leader == MAIN:
            await ship.call(lambda: eventually(lambda: ship.pool.calls.away))
        leads.append(ship.pool.leader)

    ship.run(main())
    assert threading.get_ident() == MAIN
    assert leads != [MAIN]


@pytest.mark.parametrize(("patience", "hurried"), [(0.05, False), (20.0, False), (20.0, True)])
def test_a_main_thread_that_hangs_in_a_call_is_waited_for_unless_in_a_hurry_and_then_abandoned(
    patience: float, hurried: bool
) -> None:
    ship = Ship(1, last_call=patience)
    ship.pool.hurried = hurried
    is_abandoned = hurried or patience < 1
    stopped = threading.Event()

    def hang() -> None:
        assert threading.get_ident() == MAIN
        wait(stopped)
        if is_abandoned:
            eventually(ship.abandoned.is_set)

    async def hangs() -> None:
        await ship.call(hang)

    async def stops() -> None:
        await ship.until(lambda: ship.pool.calls.away)
        ship.loop.stop()
        stopped.set()

    ship.run(hangs(), stops(), stop=False)
    assert ship.abandoned.is_set() == is_abandoned


@pytest.mark.parametrize("_", range(5))
def test_a_main_thread_that_is_idle_is_waited_for_in_a_hurry_too(_: int) -> None:
    """Or two threads would end the process at once, and one of them before the other is done."""
    ship = Ship(2)
    ship.pool.hurried = True
    event = threading.Event()

    async def main() -> None:
        await ship.until(lambda: ship.pool.calls.away)
        event.set()
        await ship.until(lambda: len(ship.pool.followers) == 2 and not ship.pool.calls.under_way)
        assert ship.pool.leader != MAIN

    ship.run(ship.hold(event), main())
    assert not ship.abandoned.is_set()


def test_what_ends_the_loop_in_another_thread_is_raised_in_the_main_one() -> None:
    ship = Ship(2)
    event = threading.Event()

    async def interrupts() -> None:
        await ship.until(lambda: ship.pool.calls.away)
        event.set()
        raise KeyboardInterrupt

    async def main() -> None:
        ship.loop.spawn(interrupts(), "an interruption")
        await for_ever()

    with pytest.raises(KeyboardInterrupt):
        ship.run(ship.hold(event), main())


def test_what_ends_the_loop_is_told_where_the_main_thread_does_not_come_back() -> None:
    ship = Ship(2, last_call=0.05)

    def fail() -> None:
        if ship.pool.calls.away:
            raise ValueError("the cause")

    ship.loop.after_turn.append(fail)
    with pytest.raises(ValueError, match="the cause"):
        ship.run(ship.hold(ship.abandoned))
    assert isinstance(ship.lost, ValueError)


def test_a_crew_that_is_not_started_has_no_descriptors_and_no_threads() -> None:
    loop = Ship().loop
    before = len(os.listdir("/dev/fd")), threading.active_count()
    pool = threads.ThreadPool(loop, 2)
    assert (len(os.listdir("/dev/fd")), threading.active_count()) == before
    assert not pool.followers


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
