"""Random lives of a server in simulated time: whatever workers do and operators ask for, nothing is lost of either."""

from __future__ import annotations

import operator
import signal
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from prefork.errors import ConfigError
from prefork.logger import Record, log
from prefork.process.master.master import State
from prefork.process.master.operations import Change, Operation
from prefork.process.messages import NOW
from prefork.process.pool.child import DUMP, ENDING, PLACE_TIMEOUT
from prefork.process.pool.generation import Generation
from prefork.process.pool.respawn import LONGEST_PAUSE
from prefork.process.pool.supervision import Phase
from prefork.process.worker.drain import GRACE
from prefork.runtime.loop import SWEEP
from prefork.shared.scoreboard import Order
from tests.process.master.simulated_master import SimulatedMaster
from tests.process.pool.simulation import FORKING, FakeChild, configured

BRIEF = settings(max_examples=50, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck))
MOST = 6  # workers
BOOT = 10.0  # seconds: workers.boot_timeout
PROBATION = 2.0  # seconds: workers.probation
LATE = PLACE_TIMEOUT + DUMP + ENDING + 10 * SWEEP  # seconds until a worker that is given up is gone, whatever it is at
GRACEFUL = 5.0 + GRACE + 2 * SWEEP  # seconds until one that has been told to leave is gone
RARELY = st.sampled_from([False] * 9 + [True])
CALM = LONGEST_PAUSE + 2 * (BOOT + LATE + GRACEFUL + PROBATION)  # seconds until nothing is under way any more

WHICH = st.integers(0, 2 * MOST)
SOON = st.sampled_from(["at once", "a turn", "all"])  # what goes on before the next step


class Life(RuleBasedStateMachine):
    """One server: its workers do what they like, and it is asked for whatever it can do, at any moment."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.made: list[Generation] = []
        self.own_deaths: set[FakeChild] = set()  # of workers that nobody had told to end
        self.before: set[FakeChild] = set()  # those that served when the reload began that is under way
        self.is_settled = False
        self.wrong: list[str] = []  # what the log says that nobody has foreseen, and what a failed reload has cost

    def set_up(self, preload: bool) -> None:
        self.preload = preload
        self.server = SimulatedMaster(self.patch, configured(2, PROBATION, BOOT, preload))
        self.made += self.server.living
        log.handlers.append(self.hear)
        generations = self.server.master._generations
        make, settle = generations.make, Operation.settle

        def note_generation(*arguments: object) -> Generation:
            holders = {position.holder for position in self.server.generation._positions}
            self.before = holders.intersection(self.server.serving)
            self.made.append(make(*arguments))  # type: ignore[arg-type]
            return self.made[-1]

        def note_answer(operation: Operation, outcome: str, error: Exception | None) -> None:
            settle(operation, outcome, error)
            if operation.change is Change.RELOAD:
                if error is not None:
                    self.check_all_serve_on()
                self.before.clear()

        self.patch.setattr(generations, "make", note_generation)
        self.patch.setattr(Operation, "settle", note_answer)

    def hear(self, record: Record) -> None:
        if record.error is not None or "crashed" in record.text or "supervise" in record.text:
            self.wrong.append(record.text)

    # ---- what happens

    def go_on(self, soon: str) -> None:
        if soon == "all":
            self.server.settle()
        elif soon == "a turn" and not self.server.is_over:
            self.server.loop.turn(0.0)
        self.is_settled = soon == "all" and not self.server.is_over

    def pick(self, which: int, among: Callable[[FakeChild], bool]) -> list[FakeChild]:
        """One of the living workers of which that holds, where there is any."""
        found = [child for child in self.server.alive if among(child)]
        return [found[which % len(found)]] if found else []

    def is_ready(self, child: FakeChild) -> bool:
        return any(child in generation.ready for generation in self.made)

    def boots(self, child: FakeChild) -> bool:
        return not self.is_ready(child) and not child._says

    @initialize(
        preload=st.booleans(),
        boot=st.sampled_from([True, True, True, False]),
        traits=st.lists(st.sampled_from(["", "", "busy", "deaf"]), min_size=20),
    )
    def begin(self, preload: bool, boot: bool, traits: list[str]) -> None:
        self.set_up(preload)

        def be(child: FakeChild) -> None:
            if trait := traits[child.pid % len(traits)]:
                setattr(child, trait, True)

        self.server.children.at_fork = be
        if boot:
            self.server.serve()

    @rule(which=WHICH, soon=SOON)
    def one_gets_ready(self, which: int, soon: str) -> None:
        for child in self.pick(which, self.boots):
            child.get_ready()
        self.go_on(soon)

    @rule(soon=SOON)
    def all_get_ready(self, soon: str) -> None:
        for child in self.server.alive:
            if self.boots(child):
                child.get_ready()
        self.go_on(soon)

    @rule(which=WHICH, soon=SOON)
    def one_cannot_boot(self, which: int, soon: str) -> None:
        for child in self.pick(which, self.boots):
            self.own_deaths.add(child)
            child.fail()
        self.go_on(soon)

    @rule(which=WHICH, status=st.sampled_from([-signal.SIGSEGV, -signal.SIGSEGV, -signal.SIGKILL, 0]), soon=SOON)
    def one_dies(self, which: int, status: int, soon: str) -> None:
        for child in self.pick(which, lambda child: True):
            self.own_deaths.add(child)
            child.die(status)
        self.go_on(soon)

    @rule(soon=SOON)
    def all_of_the_current_generation_crash(self, soon: str) -> None:
        for child in self.server.alive:
            if child in self.server.generation.ready:
                self.own_deaths.add(child)
                child.die()
        self.go_on(soon)

    @rule(which=WHICH, soon=SOON)
    def one_departs(self, which: int, soon: str) -> None:
        for child in self.pick(which, lambda child: self.is_ready(child) and not child.departing.is_set()):
            if not child._says:
                child.depart()
        self.go_on(soon)

    @rule(which=WHICH, soon=SOON)
    def one_finishes(self, which: int, soon: str) -> None:
        for child in self.pick(which, lambda child: child.busy):
            child.finish()
        self.go_on(soon)

    @rule(which=WHICH, clients=st.integers(0, 1), requests=st.sampled_from([0, 1, 100]))
    def one_serves_clients(self, which: int, clients: int, requests: int) -> None:
        for child in self.pick(which, self.is_ready):
            child.count(clients, requests)

    @rule(refused=RARELY)
    def forks_fail_or_not(self, refused: bool) -> None:
        self.server.children.refusal = None
        if refused:
            self.server.children.refuse()

    @rule(valid=RARELY.map(operator.not_), count=st.integers(1, 3), soon=SOON)
    def reload(self, valid: bool, count: int, soon: str) -> None:
        self.server.settings = configured(count, PROBATION, BOOT, self.preload)
        self.server.problem = None if valid else ConfigError("prefork.toml: no such key")
        self.server.ask(Change.RELOAD)
        self.go_on(soon)

    @rule(soon=SOON)
    def a_reload_gets_as_far_as_its_probation(self, soon: str) -> None:
        self.reload(True, 2, "all")
        self.server.wait(3 * self.preload * FORKING)
        self.all_get_ready(soon)

    @rule(by=st.sampled_from([-1, 1]), soon=SOON)
    def scale(self, by: int, soon: str) -> None:
        self.server.ask(Change.SCALE, by)
        self.go_on(soon)

    @rule(sure=RARELY, soon=SOON)
    def drain(self, sure: bool, soon: str) -> None:
        if sure:
            self.server.master._drain()
        self.go_on(soon)

    @rule(sure=RARELY, fast=st.booleans(), soon=SOON)
    def stop(self, sure: bool, fast: bool, soon: str) -> None:
        if sure and not self.server.is_over:
            self.server.master._stop(fast)
        self.go_on(soon)

    @rule(seconds=st.sampled_from([0.05, 0.05, 0.5, 1.0, 3.0, 12.0]))
    def time_passes(self, seconds: float) -> None:
        self.server.wait(seconds)
        self.go_on("all")

    # ---- what holds at every moment

    @invariant()
    def nothing_has_gone_wrong(self) -> None:
        assert self.wrong == []

    @invariant()
    def nobody_is_answered_twice(self) -> None:
        assert set(self.server.answers.values()) <= {1}

    @invariant()
    def every_worker_is_some_generations_or_has_been_told_to_go(self) -> None:
        for child in self.server.alive:
            (generation,) = (generation for generation in self.made if child in generation._members)
            if generation not in self.server.living or (
                generation.phase in (Phase.LEAVING, Phase.STANDING_BY) and child not in generation.ready
            ):
                assert child in generation._dismissed or NOW in child.told

    @invariant()
    def no_place_has_two_workers_that_boot(self) -> None:
        for generation in self.made:
            for position in generation._positions:
                assert len(position.children - generation.ready - generation._dismissed) <= 1

    @precondition(lambda self: self.is_settled)
    @invariant()
    def the_scoreboard_tells_of_who_lives_and_no_others(self) -> None:
        assert self.server.taken == {child.pid for child in self.server.alive}

    @precondition(lambda self: self.is_settled)
    @invariant()
    def every_worker_knows_whether_to_serve(self) -> None:
        orders = {Phase.SERVING: Order.SERVE, Phase.STANDING_BY: Order.STAND_BY, Phase.BOOTING: Order.NONE}
        for generation in self.made:
            for child in generation.ready - generation._dismissed:
                if generation.phase in orders:
                    assert child.order is orders[generation.phase]

    @invariant()
    def one_generation_serves_at_most_and_that_is_the_current_one(self) -> None:
        serving = [generation for generation in self.made if generation.phase is Phase.SERVING]
        assert serving in ([], [self.server.generation])

    def check_all_serve_on(self) -> None:
        """After a reload that has failed."""
        server = self.server
        if server.master._state is not State.RUNNING or server.generation.phase is not Phase.SERVING:
            return
        lost = {child for child in self.before - self.own_deaths - set(server.serving) if not child.departing.is_set()}
        if lost:
            self.wrong.append(f"a reload that failed has cost {len(lost)} workers")

    # ---- how it ends

    def teardown(self) -> None:
        try:
            self.calm_down()
            self.end()
        finally:
            log.handlers.remove(self.hear)
            self.patch.undo()
            self.server.close()

    def calm_down(self) -> None:
        """From now on all goes well, so in the end there are as many workers as there should be."""
        server = self.server
        server.children.refusal = None
        server.children.at_fork = lambda child: child.get_ready()
        for child in server.alive:
            child.finish()
            child.deaf = False
        self.all_get_ready("all")
        server.wait(CALM)
        if server.master._state is not State.RUNNING:
            return
        assert set(server.answers) == set(server.asked)
        if server.generation.phase is Phase.LEAVING:
            assert server.alive == []
        else:
            assert len(server.serving) == server.generation.size
            assert len(server.generation._positions) == server.generation.size
            assert server.serving == server.alive
            assert server.living == [server.generation]
            assert len(server.scoreboard.workers()) == server.generation.size

    def end(self) -> None:
        server = self.server
        if not server.is_over and server.master._state is State.RUNNING:
            server.stop()
        server.wait(GRACEFUL + LATE)
        self.check_end()

    def check_end(self) -> None:
        assert self.server.is_over
        assert self.server.alive == []
        assert self.wrong == []
        assert set(self.server.answers) == set(self.server.asked)
        assert set(self.server.answers.values()) <= {1}


def test_whatever_happens_no_worker_is_lost_no_reload_costs_one_and_everybody_is_answered_once() -> None:
    run_state_machine_as_test(Life, settings=BRIEF)
