"""A generation in simulated time: every way in which workers fail to boot, die, depart, are too many, or have to go."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator
from typing import NoReturn

import pytest

from prefork.errors import BootError
from prefork.process.messages import WHERE
from prefork.process.pool.child import DUMP, ENDING, PLACE_TIMEOUT
from prefork.process.pool.generation import Generation
from prefork.process.pool.respawn import LONGEST_PAUSE, YOUNG
from prefork.process.pool.supervision import Phase
from prefork.process.worker.drain import GRACE
from prefork.runtime.loop import SWEEP
from prefork.shared.scoreboard import Order
from tests.process.pool.simulation import FORKING, SLOTS, FakeChild, FakeLogs, Outcome, Simulation, configured

BOOT = 10.0  # seconds: workers.boot_timeout
LATE = PLACE_TIMEOUT + DUMP + ENDING + 10 * SWEEP  # seconds until a worker that is given up is gone, whatever it is at


class Stage(Simulation):
    """A simulation with one generation, the first to make."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__(patch)
        self.living: list[Generation] = []
        self.changes = 0

    def make(self, count: int, preload: bool = False) -> Generation:
        logs = FakeLogs()
        settings = configured(count, boot_timeout=BOOT, preload=preload)
        made = Generation(1, settings, {}, logs, self.children, self.scoreboard, self.living)  # type: ignore[arg-type]
        made.on_change = self.note
        self.living.append(made)
        return made

    def note(self) -> None:
        self.changes += 1

    def boot(self, count: int, preload: bool = False) -> tuple[Generation, Outcome]:
        """A generation that boots, and is killed where it cannot."""
        made = self.make(count, preload)

        async def start() -> None:
            try:
                await made.start()
            except BootError:
                made.kill()
                raise

        return made, self.begin(start())

    def serve(self, count: int, preload: bool = False) -> Generation:
        """A generation that serves."""
        made, outcome = self.boot(count, preload)
        self.wait(preload * (count + 1) * FORKING)
        for child in self.children.forked:
            child.get_ready()
        self.settle()
        assert outcome.done
        assert outcome.error is None
        made.open()
        self.settle()
        return made

    def kill(self, child: FakeChild, status: int = -signal.SIGSEGV) -> None:
        child.die(status)
        self.settle()

    def get_ready(self, child: FakeChild) -> None:
        child.get_ready()
        self.settle()

    @property
    def forked(self) -> list[FakeChild]:
        return self.children.forked

    @property
    def alive(self) -> list[FakeChild]:
        return self.children.alive


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[Stage]:
    stage = Stage(monkeypatch)
    yield stage
    stage.settle()
    assert stage.taken == {child.pid for child in stage.alive}
    stage.close()
    for generation in stage.living:
        generation.close()
    assert "crashed" not in caplog.text


# ---- the boot


def test_a_generation_has_started_once_all_its_workers_are_ready(stage: Stage) -> None:
    generation, outcome = stage.boot(3)
    assert [child.position for child in stage.forked] == [0, 1, 2]
    for child in stage.forked:
        assert not outcome.done
        stage.get_ready(child)
    assert outcome.done
    assert outcome.error is None
    assert generation.ready == set(stage.forked)
    assert stage.changes == 3


def test_no_worker_is_told_to_serve_before_its_generation_is_opened(stage: Stage) -> None:
    generation, _ = stage.boot(2)
    for child in stage.forked:
        stage.get_ready(child)
    assert [child.order for child in stage.forked] == [Order.NONE, Order.NONE]
    generation.open()
    assert [child.order for child in stage.forked] == [Order.SERVE, Order.SERVE]
    assert generation.serving == 2


Failure = Callable[[FakeChild], object]
FAILURES: dict[str, Failure] = {
    "dies": lambda child: child.die(),
    "exits": lambda child: child.die(0),
    "says why": lambda child: child.fail(),
    "is ready and dies in the same breath": lambda child: (child.get_ready(), child.die()),
    "is never ready": lambda child: None,
    "is never ready, and deaf": lambda child: setattr(child, "deaf", True),
}


@pytest.mark.parametrize("others", ["ready", "booting", "deaf"])
@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_one_worker_that_cannot_boot_fails_the_start_and_the_others_end(
    stage: Stage, failure: Failure, which: int, others: str
) -> None:
    _, outcome = stage.boot(3)
    for child in stage.forked:
        if child.position == which:
            failure(child)
        elif others == "ready":
            child.get_ready()
        child.deaf = child.deaf or others == "deaf"
    stage.wait(BOOT + 2 * LATE)
    assert isinstance(outcome.error, BootError)
    assert stage.alive == []
    assert len(stage.forked) == 3


def test_the_first_that_fails_is_told_of_though_others_have_not_had_their_time(stage: Stage) -> None:
    _, outcome = stage.boot(2)
    stage.forked[1].fail("no such module")
    stage.settle()
    assert str(outcome.error) == f"worker {stage.forked[1].pid} cannot boot: no such module"
    assert isinstance(outcome.error, BootError)
    assert outcome.error.report == "its traceback\n"


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_fork_that_fails_fails_the_start(stage: Stage, after: int) -> None:
    def refuse_from_now_on(child: FakeChild) -> None:
        if len(stage.forked) == after:
            stage.children.refuse()

    stage.children.at_fork = refuse_from_now_on
    if not after:
        stage.children.refuse()
    _, outcome = stage.boot(3)
    assert str(outcome.error) == "cannot fork a worker: Cannot allocate memory"
    assert len(stage.forked) == after
    stage.wait(LATE)
    assert stage.alive == []


def test_where_the_scoreboard_has_no_room_the_start_fails(stage: Stage) -> None:
    _, outcome = stage.boot(SLOTS + 1)
    assert "scoreboard slots are taken" in str(outcome.error)
    stage.wait(LATE)
    assert stage.alive == []


def test_what_nobody_has_foreseen_is_a_failure_too_so_nobody_waits_in_vain(stage: Stage) -> None:
    stage.children.refusal = OSError(errno.EIO, os.strerror(errno.EIO))
    _, outcome = stage.boot(1)
    assert "cannot supervise a worker: OSError" in str(outcome.error)
    assert isinstance(outcome.error, BootError)
    assert "Traceback" in outcome.error.report


def test_a_worker_whose_line_cannot_be_read_ends_before_another_takes_its_place(stage: Stage) -> None:
    async def refuse() -> NoReturn:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def lose_line(child: FakeChild) -> None:
        child._hear = refuse  # type: ignore[method-assign]

    generation = stage.serve(1)
    stage.children.at_fork = lose_line
    stage.kill(stage.forked[0])
    for _ in range(20):
        stage.wait(1)
        assert len(stage.alive) <= 1
    assert len(stage.forked) > 3
    assert "cannot supervise a worker: OSError" in str(generation.deaths.last)


def test_a_worker_has_its_boot_timeout_to_the_end(stage: Stage) -> None:
    _, outcome = stage.boot(1)
    stage.wait(BOOT - 0.1)
    stage.get_ready(stage.children.last)
    assert outcome.done
    assert outcome.error is None


def test_a_worker_that_gets_ready_when_its_time_is_over_is_not_ready_any_more(stage: Stage) -> None:
    generation, outcome = stage.boot(1)
    (child,) = stage.forked
    stage.wait(BOOT + SWEEP)
    assert child.told == [WHERE]
    child.deaf = True
    stage.get_ready(child)
    stage.wait(LATE)
    assert f"was not ready within {BOOT:g} s" in str(outcome.error)
    assert generation.ready == set()
    assert stage.alive == []


def test_a_worker_that_dies_ready_while_others_boot_is_replaced_before_the_start_is_over(stage: Stage) -> None:
    _, outcome = stage.boot(2)
    slow, first = stage.forked
    stage.get_ready(first)
    stage.kill(first)
    stage.get_ready(slow)
    assert not outcome.done
    stage.get_ready(stage.children.last)
    assert outcome.done
    assert outcome.error is None
    assert len(stage.alive) == 2


@pytest.mark.parametrize("ready", [0, 1])
def test_a_generation_that_is_to_leave_while_it_boots_says_so_and_ends_its_workers(stage: Stage, ready: int) -> None:
    generation, outcome = stage.boot(2)
    for child in stage.forked[:ready]:
        stage.get_ready(child)
    stage.begin(generation.drain())
    assert str(outcome.error) == "generation 1 is leaving"
    stage.wait(LATE)
    assert stage.alive == []
    assert len(stage.forked) == 2


# ---- deaths and departures


def test_a_worker_that_dies_is_replaced_at_once_and_its_successor_told_to_serve(stage: Stage) -> None:
    generation = stage.serve(2)
    stage.kill(stage.forked[0])
    successor = stage.children.last
    assert successor.position == 0
    assert generation.serving == 1
    stage.get_ready(successor)
    assert successor.order is Order.SERVE
    assert generation.serving == 2
    assert generation.deaths.count == 1
    assert len(generation.crashes) == 1


def test_a_worker_that_somebody_kills_has_not_crashed(stage: Stage) -> None:
    generation = stage.serve(1)
    stage.kill(stage.forked[0], -signal.SIGKILL)
    assert generation.deaths.count == 1
    assert not generation.crashes


def test_workers_that_die_young_one_after_another_are_replaced_ever_later(stage: Stage) -> None:
    generation = stage.serve(1)
    pauses = []
    for _ in range(8):
        stage.kill(stage.children.last)
        died, forked = stage.clock.time, len(stage.forked)
        waits = not stage.alive
        assert (generation.next_attempt is not None) == waits
        while not stage.alive:
            stage.wait(SWEEP)
        assert len(stage.forked) == forked + waits
        assert generation.next_attempt is None
        pauses.append(stage.clock.time - died)
        stage.get_ready(stage.children.last)
    assert all(due <= pause <= due + 2 * SWEEP for pause, due in zip(pauses, [0, 1, 2, 4, 8, 16, 30, 30], strict=True))


@pytest.mark.parametrize("lives", ["long", "with a client"])
def test_workers_that_have_been_of_use_are_replaced_at_once_each_time(stage: Stage, lives: str) -> None:
    stage.serve(1)
    for _ in range(8):
        stage.wait(YOUNG if lives == "long" else 0.2)
        stage.children.last.count(clients=lives == "with a client")
        stage.kill(stage.children.last)
        stage.get_ready(stage.children.last)
        assert len(stage.alive) == 1


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_a_successor_that_cannot_boot_is_tried_again_and_costs_nobody_else(stage: Stage, failure: Failure) -> None:
    generation = stage.serve(2)
    dead, other = stage.forked
    stage.kill(dead)
    for forked in (3, 4, 5):
        assert len(stage.forked) == forked
        failure(stage.children.last)
        stage.until(lambda forked=forked: len(stage.forked) > forked, BOOT + LATE + 2 * forked)
    assert generation.deaths.count == 4
    assert not other.exited.is_set()
    stage.get_ready(stage.children.last)
    assert generation.serving == 2
    assert len(stage.alive) == 2


def test_forks_that_fail_are_tried_again_ever_later(stage: Stage) -> None:
    generation = stage.serve(1)
    stage.children.refuse()
    stage.kill(stage.forked[0])
    stage.wait(20)
    assert generation.deaths.count == 6  # the worker, and forks after 0, 1, 3, 7 and 15 seconds
    stage.children.refusal = None
    stage.until(lambda: stage.alive, LONGEST_PAUSE)
    stage.get_ready(stage.children.last)
    assert generation.serving == 1


def test_a_worker_that_departs_serves_until_its_successor_is_ready(stage: Stage) -> None:
    generation = stage.serve(1)
    (before,) = stage.forked
    before.depart()
    stage.settle()
    successor = stage.children.last
    assert successor is not before
    assert before.order is Order.SERVE
    stage.get_ready(successor)
    assert stage.alive == [successor]
    assert generation.deaths.count == 0


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_a_worker_that_departs_stays_as_long_as_its_successors_cannot_boot(stage: Stage, failure: Failure) -> None:
    generation = stage.serve(1)
    (before,) = stage.forked
    before.depart()
    stage.settle()
    for forked in (2, 3, 4):
        failure(stage.children.last)
        stage.until(lambda forked=forked: len(stage.forked) > forked, BOOT + LATE + 2 * forked)
        assert generation.serving == 1
        assert not before.exited.is_set()
    stage.get_ready(stage.children.last)
    stage.wait(LATE)
    assert stage.alive == [stage.children.last]


def test_workers_that_depart_together_are_replaced_one_at_a_time(stage: Stage) -> None:
    generation = stage.serve(3)
    for child in stage.forked:
        child.depart()
    stage.settle()
    for forked in (4, 5, 6):
        assert len(stage.forked) == forked
        assert generation.serving == 3
        stage.get_ready(stage.children.last)
    assert stage.alive == stage.forked[3:]


def test_a_worker_that_dies_while_it_waits_for_another_to_be_replaced_is_replaced_at_once(stage: Stage) -> None:
    generation = stage.serve(3)
    for child in stage.forked:
        child.depart()
    stage.settle()
    stage.kill(stage.forked[2])
    assert [child.position for child in stage.forked[3:]] == [0, 2]
    stage.get_ready(stage.forked[4])
    assert generation.serving == 3
    assert len(stage.forked) == 5  # the third one waits for the first still
    stage.get_ready(stage.forked[3])
    stage.get_ready(stage.forked[5])
    assert stage.alive == stage.forked[3:]


def test_a_worker_that_departs_and_never_goes_is_killed_when_its_time_is_over(stage: Stage) -> None:
    stage.serve(1)
    (before,) = stage.forked
    before.busy = True
    before.depart()
    stage.settle()
    stage.get_ready(stage.children.last)
    stage.wait(5.0)
    assert before.signals == []
    stage.wait(GRACE + 2 * SWEEP)
    assert before.signals == [signal.SIGKILL]
    assert stage.alive == [stage.children.last]


def test_the_master_keeps_only_so_many_crashes_however_long_it_lives(stage: Stage) -> None:
    generation = stage.serve(1)
    for _ in range(100):
        stage.children.last.count(clients=1)
        stage.kill(stage.children.last)
        stage.wait(1)
        stage.get_ready(stage.children.last)
    assert generation.deaths.count == 100
    assert len(generation.crashes) <= 10


# ---- more and fewer workers


def test_more_workers_are_there_once_they_are_ready_and_serve(stage: Stage) -> None:
    generation = stage.serve(1)
    outcome = stage.begin(generation.resize(3))
    assert generation.size == 1
    for child in stage.forked[1:]:
        stage.get_ready(child)
    assert outcome.done
    assert outcome.error is None
    assert generation.size == generation.serving == 3
    assert all(child.order is Order.SERVE for child in stage.alive)


@pytest.mark.parametrize("others", ["ready", "booting"])
@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_where_one_of_more_workers_cannot_boot_there_are_as_many_as_before(
    stage: Stage, failure: Failure, others: str
) -> None:
    generation = stage.serve(2)
    before = list(stage.forked)
    outcome = stage.begin(generation.resize(4))
    one, other = stage.forked[2:]
    if others == "ready":
        other.get_ready()
    failure(one)
    stage.wait(BOOT + 2 * LATE)
    assert isinstance(outcome.error, BootError)
    assert stage.alive == before
    assert generation.size == generation.serving == 2
    stage.kill(before[0])
    assert len(stage.alive) == 2  # it goes on looking after them


def test_workers_that_are_too_many_finish_what_is_under_way(stage: Stage) -> None:
    generation = stage.serve(3)
    for child in stage.forked:
        child.busy = True
    outcome = stage.begin(generation.resize(1))
    assert outcome.done
    assert [child.order for child in stage.forked] == [Order.SERVE, Order.LEAVE, Order.LEAVE]
    assert generation.serving == 1
    stage.forked[1].finish()
    stage.settle()
    assert stage.alive == [stage.forked[0], stage.forked[2]]
    stage.wait(5.0 + GRACE + 2 * SWEEP)
    assert stage.alive == [stage.forked[0]]
    assert generation.deaths.count == 0


def test_a_worker_that_boots_at_a_place_that_is_closed_ends_and_none_follows(stage: Stage) -> None:
    generation = stage.serve(2)
    stage.kill(stage.forked[1])
    assert stage.begin(generation.resize(1)).done
    stage.wait(LATE)
    assert stage.alive == [stage.forked[0]]
    assert len(stage.forked) == 3
    assert generation.deaths.count == 1


def test_a_place_that_is_closed_in_a_pause_gets_no_worker_any_more(stage: Stage) -> None:
    generation = stage.serve(2)
    stage.kill(stage.forked[1])
    stage.get_ready(stage.children.last)
    stage.kill(stage.children.last)
    assert generation.next_attempt is not None
    assert stage.begin(generation.resize(1)).done
    assert generation.next_attempt is None
    stage.wait(LONGEST_PAUSE)
    assert stage.alive == [stage.forked[0]]


def test_a_place_that_is_closed_while_its_worker_waits_to_be_replaced_ends_it(stage: Stage) -> None:
    generation = stage.serve(3)
    for child in stage.forked:
        child.depart()
    stage.settle()
    assert stage.begin(generation.resize(1)).done
    stage.wait(LATE)
    stage.get_ready(stage.children.last)
    stage.wait(LATE)
    assert generation.serving == 1
    assert len(stage.alive) == 1


def test_a_generation_that_leaves_has_no_more_workers(stage: Stage) -> None:
    generation = stage.serve(1)
    outcome = stage.begin(generation.resize(3))
    stage.begin(generation.drain())
    assert str(outcome.error) == "generation 1 is leaving"
    stage.wait(LATE)
    assert stage.alive == []


# ---- its health


def test_a_generation_is_healthy_while_one_worker_serves_that_is_not_stuck(stage: Stage) -> None:
    generation = stage.serve(2)
    began = stage.clock.time
    stage.wait(5)
    assert generation.is_healthy(1.0)
    for child in stage.forked:
        child.turn = lambda: began
    assert generation.is_healthy(6.0)
    assert not generation.is_healthy(1.0)
    stage.kill(stage.forked[0])
    assert not generation.is_healthy(1.0)
    stage.get_ready(stage.children.last)
    assert generation.is_healthy(1.0)


def test_a_generation_that_is_to_have_no_workers_is_healthy_without_any(stage: Stage) -> None:
    generation = stage.serve(1)
    stage.begin(generation.drain())
    assert stage.alive == []
    assert generation.is_healthy(1.0)


# ---- standing by


def test_a_generation_that_stands_by_replaces_nobody_until_it_comes_back(stage: Stage) -> None:
    generation = stage.serve(2)
    generation.stand_by()
    assert [child.order for child in stage.forked] == [Order.STAND_BY, Order.STAND_BY]
    stage.kill(stage.forked[0])
    stage.wait(60)
    assert stage.alive == [stage.forked[1]]
    generation.come_back()
    stage.settle()
    assert stage.forked[1].order is Order.SERVE
    stage.get_ready(stage.children.last)
    assert generation.serving == 2
    assert stage.children.last.order is Order.SERVE


@pytest.mark.parametrize("deaf", [False, True])
def test_a_worker_that_boots_as_its_generation_stands_by_ends_and_another_boots_as_it_comes_back(
    stage: Stage, deaf: bool
) -> None:
    generation = stage.serve(2)
    stage.kill(stage.forked[0])
    booting = stage.children.last
    booting.deaf = deaf
    generation.stand_by()
    booting.get_ready()  # too late
    stage.wait(LATE)
    assert booting.exited.is_set()
    assert len(stage.forked) == 3
    generation.come_back()
    stage.settle()
    assert len(stage.forked) == 4
    assert generation.deaths.count == 1


def test_a_worker_that_ends_because_its_generation_stood_by_is_no_worker_that_cannot_boot(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """Though the generation is back before that worker is gone."""
    generation = stage.serve(2)
    stage.kill(stage.forked[0])
    stage.children.last.deaf = True
    generation.stand_by()
    stage.wait(0.05)
    generation.come_back()
    stage.wait(LATE)
    assert generation.deaths.count == 1
    assert "while it booted" not in caplog.text
    assert len(stage.alive) == 2
    stage.get_ready(stage.children.last)
    assert generation.serving == 2


def test_no_worker_is_forked_in_the_place_of_one_that_departs_while_its_generation_stands_by(stage: Stage) -> None:
    generation = stage.serve(2)
    for child in stage.forked:
        child.depart()
    stage.settle()
    assert len(stage.forked) == 3
    generation.stand_by()
    stage.wait(LATE)
    assert len(stage.forked) == 3
    assert stage.alive == stage.forked[:2]
    generation.come_back()
    stage.settle()
    stage.get_ready(stage.children.last)
    stage.get_ready(stage.children.last)
    stage.wait(LATE)
    assert generation.serving == 2
    assert not set(stage.forked[:2]) & set(stage.alive)


@pytest.mark.parametrize("why", ["stands by", "has fewer places", "leaves"])
def test_a_worker_that_a_template_forks_when_it_is_wanted_no_more_ends(stage: Stage, why: str) -> None:
    generation = stage.serve(2, preload=True)
    stage.kill(stage.forked[1])
    if why == "stands by":
        generation.stand_by()
    elif why == "has fewer places":
        stage.begin(generation.resize(1))
    else:
        stage.begin(generation.drain())
    forked = len(stage.forked)
    stage.wait(2 * FORKING)
    assert len(stage.forked) == forked + (why != "leaves")
    stage.get_ready(stage.children.last)
    stage.wait(LATE)
    assert stage.alive == [stage.forked[0]] * (why != "leaves")
    generation.come_back()
    stage.wait(2 * FORKING)
    assert len(stage.alive) == {"stands by": 2, "has fewer places": 1, "leaves": 0}[why]


def test_a_generation_that_leaves_does_not_come_back(stage: Stage) -> None:
    generation = stage.serve(1)
    generation.stand_by()
    stage.begin(generation.drain())
    generation.come_back()
    stage.wait(LATE)
    assert generation.phase is Phase.LEAVING
    assert stage.alive == []


# ---- the end


def test_a_drain_is_over_when_the_last_worker_is_gone_and_replaces_nobody(stage: Stage) -> None:
    generation = stage.serve(3)
    for child in stage.forked:
        child.busy = True
    outcome = stage.begin(generation.drain())
    stage.kill(stage.forked[0])
    stage.forked[1].finish()
    stage.settle()
    assert not outcome.done
    stage.forked[2].finish()
    stage.settle()
    assert outcome.done
    assert len(stage.forked) == 3
    assert generation.deaths.count == 0


@pytest.mark.parametrize("state", ["ready", "booting", "departing", "in a pause"])
@pytest.mark.parametrize("deaf", [False, True])
def test_nothing_is_left_of_a_generation_that_drains_whatever_its_workers_are_at(
    stage: Stage, state: str, deaf: bool
) -> None:
    generation = stage.serve(2)
    if state == "departing":
        for child in stage.forked:
            child.depart()
    elif state != "ready":
        stage.kill(stage.forked[0])
    if state == "in a pause":
        stage.get_ready(stage.children.last)
        stage.kill(stage.children.last)
    stage.settle()
    for child in stage.alive:
        child.deaf = deaf
    forked = len(stage.forked)
    outcome = stage.begin(generation.drain())
    stage.wait(5.0 + GRACE + LATE)
    assert outcome.done
    assert stage.alive == []
    stage.wait(LONGEST_PAUSE)
    assert len(stage.forked) == forked


def test_a_generation_that_drains_twice_does_so_once(stage: Stage) -> None:
    generation = stage.serve(2)
    stage.forked[0].busy = True
    first, second = stage.begin(generation.drain()), stage.begin(generation.drain())
    assert not first.done
    stage.forked[0].finish()
    stage.settle()
    assert first.done
    assert second.done
    assert stage.alive == []
