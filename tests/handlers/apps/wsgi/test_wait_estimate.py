"""Wait estimates: which calls are handed over, from what is measured of those before them."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from prefork.handlers.apps.wsgi import wait_estimate
from prefork.handlers.apps.wsgi.wait_estimate import (
    DOUBTFUL,
    FIRST_TRIAL,
    KINDS,
    LAST_TRIAL,
    LONG,
    MEASURED,
    PAYS,
    AllWait,
    Estimate,
    Estimates,
    Meter,
)
from prefork.runtime.watcher import TICK


class Machine:
    """What the system tells of the time and of this thread: `wall` and `used` seconds, `switches` of its own accord."""

    def __init__(self) -> None:
        self.wall, self.used, self.switches = 1000.0, 5.0, 7

    def getrusage(self, who: int) -> SimpleNamespace:
        return SimpleNamespace(ru_nvcsw=self.switches, ru_utime=self.used, ru_stime=0.0)

    def pass_by(self, wall: float, used: float, switches: int) -> None:
        self.wall, self.used, self.switches = self.wall + wall, self.used + used, self.switches + switches


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine()
    monkeypatch.setattr(wait_estimate, "monotonic", lambda: machine.wall)
    monkeypatch.setattr(wait_estimate, "_USAGE", 1)
    monkeypatch.setattr(wait_estimate.resource, "getrusage", machine.getrusage)
    return machine


# ---- the meter


@pytest.mark.parametrize(
    ("wall", "used", "switches", "expected"),
    [
        (0.004, 0.001, 1, 0.003),  # it waits
        (0.200, 0.001, 1, TICK),  # it would be taken over
        (0.004, 0.004, 0, 0.0),  # it computes
        (0.004, 0.0001, 0, 0.0),  # it is preempted
        (0.200, 2 * TICK, 0, TICK),  # it computes for so long
        (LONG / 2, 0.0, 5, 0.0),
    ],
)
def test_waiting_is_time_without_the_processor_that_was_given_up_of_ones_own_accord(
    machine: Machine, wall: float, used: float, switches: int, expected: float
) -> None:
    meter = Meter()
    machine.pass_by(wall, used, switches)
    assert meter.held_up() == pytest.approx(expected)


def test_a_thread_that_sleeps_is_seen_to_wait_and_one_that_computes_is_not() -> None:
    meter = Meter()
    time.sleep(0.02)
    assert meter.held_up() == TICK
    meter, until = Meter(), time.thread_time() + TICK / 2
    while time.thread_time() < until:
        pass
    assert meter.held_up() < TICK


def test_where_switches_are_not_told_time_without_the_processor_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wait_estimate, "_USAGE", None)
    meter = Meter()
    time.sleep(0.02)
    assert meter.held_up() == TICK


# ---- one kind of calls


def test_calls_that_take_no_time_are_not_watched() -> None:
    estimate = Estimate()
    for _ in range(100):
        assert not estimate.hands_over()
        estimate.note(LONG / 2, measured=False)
        assert not estimate.is_watched


def test_after_a_long_call_the_next_ones_are_measured_and_not_handed_over_for_that_alone() -> None:
    estimate = Estimate()
    estimate.note(1.0, measured=False)
    for _ in range(MEASURED):
        assert estimate.is_watched
        assert estimate.measures
        assert not estimate.hands_over()
        estimate.note(0.0, measured=True)
    assert not estimate.is_watched


@pytest.mark.parametrize("wait", [0.020, 0.001, 0.0003])
def test_calls_that_wait_are_handed_over_from_the_first_that_is_measured_on(wait: float) -> None:
    estimate = Estimate()
    assert not estimate.hands_over()
    estimate.note(wait, measured=False)
    assert not estimate.hands_over()
    estimate.note(wait, measured=True)
    assert estimate.hands_over()


def test_what_is_decided_by_is_the_mean() -> None:
    """One in 1,000 that is taken over costs less inline than 1,000 hand-overs; one in 10, more than 10."""
    for every, least, most in (1000, 0, 0.05), (10, 0.9, 1):
        estimate, handed_over = Estimate(), 0
        for number in range(20 * 1000):
            is_handed_over = estimate.hands_over()
            handed_over += is_handed_over
            waits = number % every == every - 1
            estimate.note(TICK if waits else 0.0, measured=waits or is_handed_over or bool(estimate.measures))
        assert least <= handed_over / (20 * 1000) <= most


def test_a_kind_that_waits_no_more_is_made_inline_again() -> None:
    estimate = Estimate()
    for _ in range(10):
        estimate.note(0.1, measured=True)
    calls = 0
    while estimate.hands_over():
        estimate.note(0.0, measured=True)
        calls += 1
    assert calls < 500
    while estimate.measures:
        estimate.note(0.0, measured=True)
    for _ in range(1000):
        estimate.note(LONG / 2, measured=False)
    assert not estimate.is_watched


def test_one_call_at_a_time_is_tried_inline_and_the_others_do_not_wait_for_its_end() -> None:
    """Each would hold up the loop before it loses it, one after the other."""
    estimate = Estimate()
    assert [estimate.hands_over() for _ in range(10)] == [False] + [True] * 9  # of a new kind, all at once
    estimate.note(DOUBTFUL, measured=True)
    while estimate.hands_over():
        pass
    assert [estimate.hands_over() for _ in range(10)] == [True] * 10  # the one that is tried waits, and goes on waiting
    estimate.note(0.0, measured=True)
    assert not estimate.hands_over()


def test_a_kind_that_waits_for_long_is_not_tried_inline() -> None:
    estimate = Estimate()
    estimate.note(TICK, measured=True)
    for _ in range(3 * LAST_TRIAL):
        assert estimate.hands_over()
        estimate.note(TICK, measured=True)


def test_now_and_then_a_kind_that_waits_for_little_is_tried_inline_and_ever_less_often() -> None:
    estimate, runs, run = Estimate(), [], 0
    for _ in range(10_000):
        if estimate.hands_over():
            run += 1
            estimate.note(DOUBTFUL / 2, measured=True)  # for the interpreter, say
        else:
            if run:
                runs.append(run + 1)
            run = 0
            assert estimate.measures or not runs
            estimate.note(DOUBTFUL / 2, measured=True)
    assert runs[:4] == [FIRST_TRIAL, 2 * FIRST_TRIAL, 4 * FIRST_TRIAL, 8 * FIRST_TRIAL]
    assert runs[-1] == LAST_TRIAL


def test_a_kind_that_has_not_waited_but_in_threads_is_made_inline_after_the_trial() -> None:
    estimate = Estimate()
    estimate.note(0.02, measured=True)
    while estimate.hands_over():
        estimate.note(0.0005, measured=True)
    for _ in range(MEASURED):
        estimate.note(0.0, measured=True)
        assert not estimate.hands_over()
    assert not estimate.is_watched


# ---- kinds


def test_a_kind_is_a_method_and_a_path_without_its_numbers() -> None:
    estimates = Estimates()
    find = estimates.find
    assert find("GET", "/users/7/posts/19") is find("GET", "/users/8/posts/20")
    assert find("GET", "/users/5f2c-77") is find("GET", "/users/%41b")
    assert find("GET", "/users/7") is not find("GET", "/users/7/posts")
    assert find("GET", "/users/7") is not find("POST", "/users/7")
    assert find("GET", "/users") is not find("GET", "/posts")
    assert find("GET", "/" + "a" * 5000) is find("GET", "/" + "a" * 6000)


@pytest.mark.parametrize("path", ["/" + 30000 * "a", "/" + 15000 * "a/", "/" + 30000 * "1"])
def test_a_path_is_looked_at_in_time_that_grows_with_its_length_alone(path: str) -> None:
    estimates = Estimates(longest_path=len(path))
    began = time.thread_time()
    estimates.find("GET", path)
    assert time.thread_time() - began < 0.2


def test_a_new_kind_is_taken_for_what_other_new_ones_were() -> None:
    estimates = Estimates()
    for name in ("a", "b", "c"):
        estimates.find("GET", f"/blog/{name}").note(0.02, measured=True)
    assert estimates.find("GET", "/blog/d").hands_over()
    for _ in range(300):
        estimates.find("GET", "/blog/d").note(0.02, measured=True)  # it is known by now, and tells nothing of others
    for number in range(300):
        word = "".join(chr(ord("a") + int(digit)) for digit in str(number))
        estimates.find("GET", f"/fast/{word}").note(0.0, measured=True)
    assert not estimates.find("GET", "/fast/other").hands_over()
    assert estimates.find("GET", "/blog/d").mean > PAYS


def test_the_kinds_are_bounded_and_those_in_use_stay() -> None:
    estimates = Estimates()
    mine = estimates.find("GET", "/mine")
    for number in range(3 * KINDS):
        word = "".join(chr(ord("a") + int(digit)) for digit in str(number))
        estimates.find("GET", f"/{word}")
        if not number % 100:
            assert estimates.find("GET", "/mine") is mine
    assert len(estimates.by_kind) == KINDS


def test_where_all_wait_every_call_is_handed_over() -> None:
    estimate = AllWait().find("GET", "/")
    for _ in range(3 * LAST_TRIAL):
        assert estimate.is_watched
        assert estimate.hands_over()
        assert not estimate.measures
        estimate.note(0.0, measured=True)
