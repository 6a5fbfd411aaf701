"""Generations: how long the next attempt to replace a worker waits."""

from __future__ import annotations

import pytest

from prefork.process.generation import LONGEST_PAUSE, pause_after


@pytest.mark.parametrize(("early", "seconds"), [(0, 0), (1, 0), (2, 1), (3, 2), (6, 16), (7, LONGEST_PAUSE)])
def test_the_pause_doubles_with_each_early_death_up_to_the_longest(early: int, seconds: float) -> None:
    assert pause_after(early) == seconds


@pytest.mark.parametrize("early", [1025, 1026, 10**9])
def test_a_worker_that_has_died_early_for_days_is_still_replaced(early: int) -> None:
    assert pause_after(early) == LONGEST_PAUSE
