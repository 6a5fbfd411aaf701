"""Respawn: who is replaced at once, for whom the next attempt waits, and that nobody forks without end."""

from __future__ import annotations

import pytest

from prefork.process.pool.respawn import BURST, BUSY_RATE, LONGEST_PAUSE, RATE, YOUNG, Respawn, pause_after


class Place:
    """A worker's place, with a clock that the test winds: each life is waited for, and then the pause."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.respawn = Respawn(lambda: self.now)

    def live(self, lived: float, clients: int = 0, boot: float = 0.0) -> float:
        """The pause after a worker that took `boot` seconds to be ready."""
        self.now += boot + lived
        pause = self.respawn.after_death(lived, clients)
        self.now += pause
        return pause

    def depart(self) -> float:
        pause = self.respawn.after_departure()
        self.now += pause
        return pause


@pytest.fixture
def place() -> Place:
    return Place()


@pytest.mark.parametrize(("in_vain", "seconds"), [(0, 0), (1, 0), (2, 1), (3, 2), (6, 16), (7, LONGEST_PAUSE)])
def test_the_pause_doubles_with_each_worker_that_comes_to_nothing(in_vain: int, seconds: float) -> None:
    assert pause_after(in_vain) == seconds


@pytest.mark.parametrize("in_vain", [1025, 1026, 10**9])
def test_a_worker_that_comes_to_nothing_for_days_is_still_replaced(in_vain: int) -> None:
    assert pause_after(in_vain) == LONGEST_PAUSE


@pytest.mark.parametrize("lived", [0.0, 0.06, YOUNG - 0.1])
def test_those_that_cannot_boot_or_die_young_without_a_client_wait_ever_longer(place: Place, lived: float) -> None:
    assert [place.live(lived) for _ in range(8)] == [0, 1, 2, 4, 8, 16, 30, 30]


def test_a_worker_that_has_met_a_client_is_replaced_at_once_however_often_that_happens(place: Place) -> None:
    """Two workers, and a request that kills one twice a second."""
    assert [place.live(lived=0.9, clients=1, boot=0.1) for _ in range(600)] == [0] * 600


def test_a_worker_that_has_lived_is_replaced_at_once_and_its_successors_begin_anew(place: Place) -> None:
    assert [place.live(0.0) for _ in range(3)] == [0, 1, 2]
    assert place.live(YOUNG) == 0
    assert [place.live(0.0) for _ in range(3)] == [0, 1, 2]


def test_how_slowly_it_boots_makes_no_life_longer(place: Place) -> None:
    assert [place.live(0.1, boot=60) for _ in range(3)] == [0, 1, 2]


def test_those_that_die_at_once_with_a_client_each_are_a_burst_and_then_so_many_a_second(place: Place) -> None:
    begin = place.now
    pauses = [place.live(lived=0.01, clients=1) for _ in range(100)]
    assert pauses[: BURST - 1] == [0] * (BURST - 1)
    assert max(pauses) <= 1 / BUSY_RATE
    assert 100 - BURST <= (place.now - begin) * BUSY_RATE <= 100


def test_no_client_that_asks_ten_times_a_second_for_what_kills_keeps_a_place_empty(place: Place) -> None:
    assert [place.live(lived=0.05, clients=1, boot=0.05) for _ in range(600)] == [0] * 600


def test_clients_of_one_worker_let_no_others_die_without_any_faster(place: Place) -> None:
    begin = place.now
    for _ in range(100):
        place.live(YOUNG / 100)
        place.live(0.01, clients=1)
    assert (place.now - begin) * RATE >= 100 - BURST


def test_workers_that_ask_to_be_replaced_as_soon_as_they_are_ready_are_bounded_too(place: Place) -> None:
    begin = place.now
    assert max(place.depart() for _ in range(100)) <= 1 / RATE
    assert (place.now - begin) * RATE >= 100 - BURST


def test_one_that_asks_to_be_replaced_says_nothing_of_those_that_die(place: Place) -> None:
    assert place.live(0.0) == 0
    assert place.depart() == 0
    assert place.live(0.0) == 1
