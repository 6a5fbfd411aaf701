"""How tasks end: by an error, a cancellation, a crash; and how the loop runs, stops and closes."""

from __future__ import annotations

import signal
import threading
from contextlib import suppress

import pytest

from prefork.errors import TimedOut
from prefork.runtime.loop import Loop
from prefork.runtime.task import PARKED, PAUSE, Task
from tests.runtime.conftest import Crashes, Noted, Pairs, pause


class Jolt(Exception):
    """What tests throw into tasks."""


# ---- throwing and cancelling


def test_an_error_is_thrown_where_the_task_waits(loop: Loop, pair: Pairs) -> None:
    left, _ = pair()
    order: list[str] = []

    async def wait() -> None:
        for waiting in (loop.readable(left.fileno()), loop.sleep(1000), PARKED):
            with pytest.raises(Jolt):
                await waiting
            order.append(type(waiting).__name__)

    async def disturb() -> None:
        while task in loop.tasks:
            await PAUSE
            task.throw(Jolt())

    task = loop.spawn(wait(), "waiting")
    loop.spawn(disturb(), "disturbing")
    loop.run()
    assert order == ["Readiness", "Sleep", "Parked"]


def test_after_an_error_the_same_wait_can_be_awaited_again(loop: Loop, pair: Pairs) -> None:
    left, right = pair()
    seen: list[bytes] = []

    async def wait() -> None:
        ready = loop.readable(left.fileno())
        for _ in range(3):
            with pytest.raises(Jolt):
                await ready
        await ready
        seen.append(left.recv(1))

    task = loop.spawn(wait(), "waiting")
    for _ in range(3):
        loop.turn()
        task.throw(Jolt())
        loop.turn()
    right.send(b"x")
    loop.run()
    assert seen == [b"x"]


def test_a_cancelled_task_runs_its_finally_blocks_at_once_and_goes_on_no_more(loop: Loop, pair: Pairs) -> None:
    left, right = pair()
    order: list[str] = []

    async def wait() -> None:
        try:
            await loop.readable(left.fileno())
            order.append("read")
        finally:
            order.append("finally")

    task = loop.spawn(wait(), "waiting")
    loop.turn()
    right.send(b"x")
    task.throw(Jolt())
    task.cancel()
    order.append("cancelled")
    task.cancel()
    loop.spawn(pause(), "other")
    loop.run()
    assert order == ["finally", "cancelled"]


def test_cancelling_who_has_ended_spares_who_waits_in_its_place(loop: Loop, pair: Pairs) -> None:
    left, right = pair()
    ready = loop.readable(left.fileno())
    seen: list[bytes] = []

    async def read() -> None:
        await ready
        seen.append(left.recv(1))

    first = loop.spawn(read(), "first")
    right.send(b"a")
    loop.run()
    loop.spawn(read(), "second")
    loop.turn()
    first.cancel()
    right.send(b"b")
    loop.run()
    assert seen == [b"a", b"b"]


@pytest.mark.parametrize("how", ["raises", "awaits"])
def test_a_cancelled_task_that_will_not_end_in_peace_crashes_alone(loop: Loop, crashes: Crashes, how: str) -> None:
    async def wait() -> None:
        try:
            await PARKED
        finally:
            if how == "raises":
                raise Jolt
            await PAUSE

    task = loop.spawn(wait(), "stubborn")
    loop.turn()
    task.cancel()
    assert not loop.tasks
    assert [record.getMessage() for record in crashes] == ["stubborn crashed"]
    crashes.clear()


# ---- crashing


@pytest.mark.parametrize("after", ["at once", "a descriptor", "a sleep", "a parking", "a throw", "a deadline"])
def test_a_crash_is_logged_with_its_stack_and_the_others_live(
    loop: Loop, pair: Pairs, crashes: Crashes, after: str
) -> None:
    left, right = pair()
    right.send(b"x")
    seen: list[str] = []

    async def crash() -> None:
        if after == "a descriptor":
            await loop.readable(left.fileno())
        elif after == "a sleep":
            await loop.sleep(0.001)
        elif after == "a parking":
            loop.current.wake()
            await PARKED
        elif after in ("a throw", "a deadline"):
            with suppress(Jolt, TimedOut):
                await PARKED
        raise ZeroDivisionError("of all things")

    async def live() -> None:
        await loop.sleep(0.02)
        seen.append("lived")

    task = loop.spawn(crash(), "client 127.0.0.1:4711")
    loop.spawn(live(), "living")
    loop.turn()
    if after == "a throw":
        task.throw(Jolt())
    if after == "a deadline":
        task.deadline = loop.now
    loop.run()
    assert seen == ["lived"]
    [record] = crashes
    assert record.getMessage() == "client 127.0.0.1:4711 crashed"
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ZeroDivisionError)
    assert record.exc_info[2] is not None
    crashes.clear()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("after", ["at once", "a descriptor"])
def test_an_interrupt_leaves_run_which_can_be_called_again(
    loop: Loop, pair: Pairs, error: type[BaseException], after: str
) -> None:
    left, right = pair()
    right.send(b"x")
    seen: list[str] = []

    async def interrupt() -> None:
        if after == "a descriptor":
            await loop.readable(left.fileno())
        raise error

    async def live() -> None:
        await PAUSE
        await loop.readable(other.fileno())
        await loop.sleep(0.01)
        seen.append("lived")

    other, peer = pair()
    loop.spawn(interrupt(), "interrupting")
    loop.spawn(live(), "living")
    with pytest.raises(error):
        loop.run()
    peer.send(b"x")
    loop.run()
    assert seen == ["lived"]


def test_a_signal_interrupts_a_loop_that_sleeps(loop: Loop, pair: Pairs, poller: Noted) -> None:
    left, right = pair()

    async def wait() -> None:
        await loop.readable(left.fileno())

    main = threading.main_thread().ident
    assert main is not None
    loop.spawn(wait(), "waiting")
    loop.turn()
    timer = threading.Timer(0.1, signal.pthread_kill, [main, signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        loop.run()
    timer.join()
    right.send(b"x")
    loop.run()


# ---- running


def test_run_returns_when_no_task_is_left(loop: Loop, poller: Noted) -> None:
    loop.run()
    assert poller.timeouts == []
    loop.spawn(pause(), "pausing")
    loop.run()
    assert not loop.tasks


def test_stop_makes_run_return_at_the_end_of_the_turn(loop: Loop) -> None:
    order: list[str] = []

    async def stop() -> None:
        loop.stop()
        order.append("stopped")
        await PAUSE
        order.append("went on")

    async def other() -> None:
        order.append("other")
        await PARKED

    loop.spawn(stop(), "stopping")
    task = loop.spawn(other(), "other")
    loop.run()
    assert order == ["stopped", "other"]
    task.wake()
    loop.run()
    assert order == ["stopped", "other", "went on"]


def test_a_task_may_spawn_others(loop: Loop) -> None:
    order: list[int] = []

    async def spawn(number: int) -> None:
        order.append(number)
        if number < 100:
            loop.spawn(spawn(number + 1), "next")

    loop.spawn(spawn(0), "first")
    loop.run()
    assert order == list(range(101))


def test_current_is_the_task_that_runs(loop: Loop, pair: Pairs) -> None:
    left, right = pair()
    right.send(b"x")

    async def look() -> None:
        ready = loop.readable(left.fileno())
        for waiting in (PAUSE, ready, loop.sleep(0.001), ready, PAUSE):
            await waiting
            assert loop.current.name == "looking"

    async def noise() -> None:
        for _ in range(20):
            await PAUSE
            assert loop.current.name == "noise"

    loop.spawn(look(), "looking")
    loop.spawn(noise(), "noise")
    loop.run()


def test_what_stands_in_after_turn_is_called_once_a_turn_before_the_loop_sleeps(loop: Loop, poller: Noted) -> None:
    order: list[str] = []

    async def step() -> None:
        order.append("step")
        await loop.sleep(0.01)
        order.append("step")

    loop.after_turn.append(lambda: order.append("flush"))
    loop.after_turn.append(lambda: order.append("count"))
    loop.spawn(step(), "stepping")
    loop.run()
    assert order[:3] == ["step", "flush", "count"]
    assert order[-3:] == ["step", "flush", "count"]
    assert order.count("flush") == order.count("count") == len(poller.timeouts)


def test_who_is_woken_after_a_turn_goes_on_in_the_next(loop: Loop, poller: Noted) -> None:
    async def park() -> None:
        await PARKED

    task = loop.spawn(park(), "parked")
    loop.after_turn.append(task.wake)
    loop.run()
    assert len(poller.timeouts) == 2


# ---- closing


def test_close_runs_every_finally_block_and_closes_the_poller(loop: Loop, pair: Pairs, poller: Noted) -> None:
    left, _ = pair()
    ended: list[str] = []

    async def wait(name: str) -> None:
        waits = {"fd": loop.readable(left.fileno()), "sleep": loop.sleep(1000), "park": PARKED, "pause": PAUSE}
        try:
            await waits[name]
        finally:
            loop.forget(left.fileno())
            ended.append(name)

    async def never() -> None:
        ended.append("stepped")

    for name in ("fd", "sleep", "park", "pause"):
        loop.spawn(wait(name), name)
    loop.turn()
    loop.spawn(never(), "never stepped")
    loop.close()
    assert sorted(ended) == ["fd", "park", "pause", "sleep"]
    assert not loop.tasks


@pytest.mark.parametrize("how", ["raises", "awaits"])
def test_a_task_that_will_not_end_in_peace_does_not_keep_the_others_from_closing(
    loop: Loop, crashes: Crashes, how: str
) -> None:
    ended: list[str] = []

    async def wait(name: str) -> None:
        try:
            await PARKED
        finally:
            ended.append(name)
            if name == "stubborn":
                if how == "raises":
                    raise Jolt
                await PAUSE

    for name in ("first", "stubborn", "last", "very last"):
        loop.spawn(wait(name), name)
    loop.turn()
    loop.close()
    assert sorted(ended) == ["first", "last", "stubborn", "very last"]
    assert [record.getMessage() for record in crashes] == ["stubborn crashed"]
    crashes.clear()


def test_a_task_spawned_by_a_closing_one_is_closed_too(loop: Loop) -> None:
    spawned: list[Task] = []

    async def wait() -> None:
        try:
            await PARKED
        finally:
            spawned.append(loop.spawn(pause(), "late"))

    loop.spawn(wait(), "waiting")
    loop.turn()
    loop.close()
    assert not loop.tasks
    assert spawned[0].coroutine.cr_frame is None  # type: ignore[attr-defined]
