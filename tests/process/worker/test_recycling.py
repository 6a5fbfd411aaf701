"""Recycling: what has to have happened before a worker asks to be replaced, and that an idle one is not woken by it."""

from __future__ import annotations

import gc
import mmap
from array import array
from collections.abc import Callable

import pytest

from prefork.process.worker import recycling
from prefork.process.worker.recycling import WEIGHING_INTERVAL, recycle, resident
from prefork.runtime.loop import Loop
from prefork.runtime.poller import make_poller
from prefork.runtime.task import PAUSE
from prefork.settings.schema import Workers
from prefork.shared.counters import REQUESTS, WIDTH

MEBIBYTE = 1 << 20


class Life:
    """A worker's loop and counters; `reasons` are those for which it was to retire, `turn` is one turn of the loop."""

    def __init__(self, workers: Workers, weighing_interval: float) -> None:
        self.loop = Loop(make_poller())
        self.board = memoryview(array("Q", [0] * WIDTH))
        self.reasons: list[str] = []
        recycle(self.loop, workers, self.board, self.reasons.append, weighing_interval=weighing_interval)

    def turn(self) -> list[str]:
        async def step() -> None:
            await PAUSE

        self.loop.spawn(step(), "a step")
        self.loop.turn()
        return self.reasons


@pytest.fixture
def live() -> Callable[..., Life]:
    return lambda *, weighing_interval=WEIGHING_INTERVAL, **limits: Life(Workers(**limits), weighing_interval)


def test_by_default_nothing_is_looked_at(live: Callable[..., Life]) -> None:
    assert live().loop.after_turn == []


def test_the_turn_in_which_the_last_request_is_answered_is_the_last(live: Callable[..., Life]) -> None:
    life = live(max_requests=1)
    assert life.turn() == []
    life.board[REQUESTS] = 1
    assert life.turn() == ["it has answered 1 request (workers.max_requests)"]


def test_limits_of_workers_that_began_together_are_spread_by_a_tenth_either_way(live: Callable[..., Life]) -> None:
    def limit() -> int:
        life = live(max_requests=1000)
        life.board[REQUESTS] = 899
        while not life.turn():
            life.board[REQUESTS] += 1
        return life.board[REQUESTS]

    limits = [limit() for _ in range(20)]
    assert 900 <= min(limits) < max(limits) <= 1100


def test_memory_above_the_limit_is_noticed_at_the_next_weighing(live: Callable[..., Life]) -> None:
    gc.collect()  # what other tests have left, and would be gone by then
    life = live(max_memory=resident() + 50 * MEBIBYTE, weighing_interval=0.0)
    assert life.turn() == []
    with mmap.mmap(-1, 100 * MEBIBYTE) as leak:  # the allocator could take it from what other tests have freed
        leak[:: mmap.PAGESIZE] = b"x" * len(leak[:: mmap.PAGESIZE])
        (reason,) = life.turn()
    assert reason.startswith("it holds ")
    assert reason.endswith(" MiB of memory (workers.max_memory)")


def test_memory_is_not_weighed_with_every_turn(live: Callable[..., Life], monkeypatch: pytest.MonkeyPatch) -> None:
    life = live(max_memory=resident() + 50 * MEBIBYTE)
    life.turn()
    monkeypatch.setattr(recycling, "resident", lambda: pytest.fail("weighed again"))
    life.turn()


def test_a_limit_below_what_a_worker_begins_with_is_told_of_and_has_no_effect(
    live: Callable[..., Life], caplog: pytest.LogCaptureFixture
) -> None:
    life = live(max_memory=MEBIBYTE)
    assert life.loop.after_turn == []
    assert "more than workers.max_memory (1.0 MiB), which therefore has no effect" in caplog.text
