"""Leader/Followers: who does work for a task that goes on, and what becomes of it."""

from __future__ import annotations

import threading
from time import monotonic
from typing import Any

import pytest

from prefork.runtime.calls import Call
from prefork.runtime.threads import TAKEOVERS
from tests.conftest import eventually
from tests.runtime.thread_pools import Ship, wait

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


@pytest.mark.parametrize("lasts", [False, True])
def test_work_is_done_in_the_thread_of_the_call_before_it(lasts: bool) -> None:
    ship = Ship(2)
    pool = ship.pool
    threads: list[int] = []
    done = threading.Event()

    def work() -> None:
        threads.append(threading.get_ident())
        if lasts:
            wait(done)

    async def main() -> None:
        await ship.until(lambda: not pool.is_full)
        for number in range(4):
            token = pool.enter("a call", 0, monotonic())
            threads.append(threading.get_ident())
            if number % 2:
                eventually(lambda: pool.calls.away)
            done.clear()
            await pool.produce(Call("a call", 0), work, leads=pool.leave(token))
            done.set()  # where the work lasts, the task goes on before its end
            await ship.until(lambda: len(pool.followers) == 2)
            await ship.until(lambda: not pool.is_full)

    ship.run(main())
    assert threads[::2] == threads[1::2]


def test_a_thread_that_steps_down_works_on_while_another_one_leads() -> None:
    ship = Ship(1)
    pool = ship.pool
    seen: list[Any] = []
    event = threading.Event()

    def work() -> None:
        pool.step_down()
        pool.step_down()  # it does not lead any more
        wait(event)
        seen.append("worked")

    async def main() -> None:
        await ship.until(lambda: not pool.is_full)
        token = pool.enter("a call", 0, monotonic())
        await pool.produce(Call("a call", 0), work, leads=pool.leave(token))
        assert not pool.followers
        event.set()
        await ship.until(lambda: not pool.is_full)
        assert seen == ["worked"]

    ship.run(main())
    assert pool.counts[TAKEOVERS] == 1


@pytest.mark.parametrize("loses", [False, True])
def test_work_that_raises_is_logged_and_its_thread_is_back_and_alone(
    loses: bool, caplog: pytest.LogCaptureFixture
) -> None:
    ship = Ship(2)
    pool = ship.pool
    leaders: set[tuple[int, int]] = set()

    def work() -> None:
        if loses:
            pool.step_down()
        raise SystemExit("the cause")

    async def main() -> None:
        for leads in (True, False):
            await ship.until(lambda: not pool.is_full)
            token = pool.enter("a call", 0, monotonic())
            if not leads:
                eventually(lambda: pool.calls.away)
            await pool.produce(Call("a call", 0), work, leads=pool.leave(token))
            await ship.until(lambda: len(pool.followers) == 2 and not pool.calls.under_way)
            leaders.add((threading.get_ident(), pool.leader))
            assert not pool._token

    ship.run(main())
    assert all(thread == leader for thread, leader in leaders)
    assert caplog.text.count("SystemExit: the cause") == 2


def test_delegated_work_that_raises_brings_its_task_back(caplog: pytest.LogCaptureFixture) -> None:
    ship = Ship(1, pinned=True)
    pool = ship.pool

    def work() -> None:
        raise ValueError("the cause")

    async def main() -> None:
        for _ in range(2):
            await pool.delegate(Call("a call", 0), work)

    ship.run(main())
    assert caplog.text.count("ValueError: the cause") == 2
