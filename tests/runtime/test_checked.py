"""The check of the loop: a thread that does not lead is told so, whatever of the loop it uses."""

from __future__ import annotations

import threading

import pytest

from tests.runtime.thread_pools import Ship, for_ever


def test_who_has_lost_the_loop_can_neither_see_its_task_nor_stop_it(caplog: pytest.LogCaptureFixture) -> None:
    ship = Ship()
    event = threading.Event()
    refused: list[str] = []

    def touch() -> None:
        assert event.wait(5)
        for wrong in (lambda: ship.loop.current, ship.loop.stop, lambda: ship.loop.within(1).__enter__()):
            with pytest.raises(AssertionError, match="the loop is touched"):
                wrong()
            refused.append("refused")

    async def frees() -> None:
        await ship.until(lambda: ship.pool.calls.away)
        event.set()

    ship.run(ship.call(touch), frees())
    assert len(refused) == 3
    caplog.clear()


def test_a_task_that_another_thread_has_is_not_cancelled() -> None:
    ship = Ship()
    event = threading.Event()

    async def cancels() -> None:
        await ship.until(lambda: ship.pool.calls.away)
        (task,) = ship.pool.calls.away
        with pytest.raises(AssertionError, match="while another thread has it"):
            task.cancel()
        event.set()
        await ship.until(lambda: not ship.pool.calls.away)

    ship.run(ship.hold(event), cancels())


def test_closing_leaves_alone_what_another_thread_has() -> None:
    ship = Ship()
    event = threading.Event()
    ends: list[str] = []

    async def ends_well() -> None:
        try:
            await for_ever()
        finally:
            ends.append("closed")

    async def stops() -> None:
        await ship.until(lambda: ship.pool.calls.away)
        event.set()
        ship.loop.stop()  # at the end of this turn: nobody hears that the call is over

    ship.run(ship.hold(event), ends_well(), stops(), stop=False)
    assert ends == ["closed"]
    assert not ship.loop.tasks
