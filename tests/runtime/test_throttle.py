"""Throttling: the first time is told at once, all others by their number, and none is forgotten."""

from __future__ import annotations

from itertools import pairwise

import pytest

from prefork.runtime.loop import Loop
from prefork.runtime.throttle import Throttle, ThrottledNotice


def test_what_happens_for_the_first_time_is_told_at_once() -> None:
    assert Throttle(10).happened(now=5.0) == 1


def test_what_happens_again_is_counted_and_told_once_the_interval_is_over() -> None:
    throttle = Throttle(10)
    told = [throttle.happened(now) for now in (100.0, 100.0, 101.0, 109.9, 110.0, 110.1, 119.9, 120.0)]
    assert told == [1, 0, 0, 0, 4, 0, 0, 3]
    assert throttle.left_out == 0


def test_what_happens_rarely_is_told_each_time() -> None:
    throttle = Throttle(10)
    assert [throttle.happened(now) for now in (0.0, 10.0, 35.0, 1000.0)] == [1, 1, 1, 1]


def test_the_interval_begins_when_it_is_told() -> None:
    throttle = Throttle(10)
    assert [throttle.happened(now) for now in (0.0, 9.0, 18.0, 27.0, 28.0)] == [1, 0, 2, 0, 2]


def test_what_was_left_out_can_be_told_without_another_time() -> None:
    throttle = Throttle(10)
    assert throttle.rest(now=0.0) == 0
    for now in (1.0, 2.0, 3.0):
        throttle.happened(now)
    assert throttle.left_out == 2
    assert [throttle.rest(now) for now in (10.9, 11.0, 12.0, 50.0)] == [0, 2, 0, 0]


@pytest.mark.parametrize("times", [1, 2, 50])
def test_a_notice_tells_the_first_at_once_and_the_others_by_their_number_later(loop: Loop, times: int) -> None:
    told: list[int] = []
    notice = ThrottledNotice(loop, 0.02, told.append)
    for _ in range(times):
        notice.happened()
    assert told == [1]
    loop.run()  # until no task is left: a notice keeps none for longer than it has something to tell
    assert told == ([1] if times == 1 else [1, times - 1])


def test_a_notice_goes_on_as_long_as_it_happens(loop: Loop) -> None:
    told: list[tuple[float, int]] = []
    notice = ThrottledNotice(loop, 0.05, lambda count: told.append((loop.now, count)))

    async def happen() -> None:
        for _ in range(40):
            notice.happened()
            await loop.sleep(0.005)

    loop.spawn(happen(), "happening")
    loop.run()
    assert sum(count for _, count in told) == 40
    assert all(later - earlier >= 0.05 for (earlier, _), (later, _) in pairwise(told))
    assert len(told) >= 3
