"""A master in simulated time: boots, operations and stops are its own, its workers and its clock are the test's."""

from __future__ import annotations

from collections import Counter

import pytest

from prefork.process.master.master import Master
from prefork.process.master.operations import Change, Operation
from prefork.process.pool.generation import Generation
from prefork.settings.schema import Settings
from prefork.shared.scoreboard import Order
from tests.process.pool.simulation import FakeChild, FakeLogs, Simulation

MODULE = "prefork.process.master.master"


class NoSignals:
    """Signals of a process that gets none."""

    def close_in_child(self) -> None: ...


class SimulatedMaster(Simulation):
    """A master that boots with `settings`, and reads them anew for a reload, or raises `problem`."""

    def __init__(self, patch: pytest.MonkeyPatch, settings: Settings) -> None:
        super().__init__(patch)
        self.settings = settings
        self.problem: Exception | None = None
        self.asked: list[Operation] = []
        self.answers: Counter[Operation] = Counter()  # how often each has been answered
        patch.setenv("PWD", "")  # which the master sets
        for name, fake in {
            "Logs": lambda settings, owner: FakeLogs(),
            "Loop": lambda poller: self.loop,
            "make_poller": lambda: self.clock,
            "Scoreboard": lambda slots: self.scoreboard,
            "Children": lambda loop: self.children,
            "Signals": lambda loop, obeyed: NoSignals(),
            "print_banner": lambda *_: None,
            "regret": lambda *_: None,
            "in_terminal": lambda: False,
        }.items():
            patch.setattr(f"{MODULE}.{name}", fake)
        settle = Operation.settle

        def note(operation: Operation, outcome: str, error: Exception | None) -> None:
            self.answers[operation] += 1
            settle(operation, outcome, error)

        patch.setattr(Operation, "settle", note)
        self.master = Master(settings, self._load)
        self.booting = self.begin(self.master._boot())

    def _load(self) -> Settings:
        if self.problem is not None:
            raise self.problem
        return self.settings

    # ---- what is asked of it

    def serve(self) -> None:
        """Have the first generation boot."""
        self.until(lambda: len(self.forked) == self.settings.workers.count, within=5.0)
        self.get_ready(*self.forked)
        assert self.generation.serving == self.settings.workers.count

    def ask(self, change: Change, by: int = 0) -> Operation:
        """Ask for it, and do not wait."""
        self.asked.append(self.master._operations.add(change, lambda size: max(1, size + by)))
        return self.asked[-1]

    def reload(self) -> Operation:
        operation = self.ask(Change.RELOAD)
        self.settle()
        return operation

    def scale(self, by: int) -> Operation:
        operation = self.ask(Change.SCALE, by)
        self.settle()
        return operation

    def stop(self, fast: bool = False) -> None:
        self.master._stop(fast)
        self.settle()

    def drain(self) -> None:
        self.master._drain()
        self.settle()

    # ---- what its workers do

    def get_ready(self, *children: FakeChild) -> None:
        for child in children:
            child.get_ready()
        self.settle()

    def kill(self, *children: FakeChild) -> None:
        for child in children:
            child.die()
        self.settle()

    # ---- what there is

    @property
    def is_over(self) -> bool:
        return self.loop.stopped

    @property
    def generation(self) -> Generation:
        return self.master.generation

    @property
    def living(self) -> list[Generation]:
        return self.master._generations.living

    @property
    def forked(self) -> list[FakeChild]:
        return self.children.forked

    @property
    def alive(self) -> list[FakeChild]:
        return self.children.alive

    @property
    def serving(self) -> list[FakeChild]:
        """The workers that take clients."""
        ready = {child for generation in self.living for child in generation.ready}
        return [child for child in self.alive if child in ready and child.order is Order.SERVE]

    def close(self) -> None:
        super().close()
        for generation in self.living:
            generation.close()
