"""Reloads in simulated time: whatever comes in between, the server has a generation that serves, or an end."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec import structs

from prefork.errors import BootError, ConfigError
from prefork.net import listen
from prefork.process.master.operations import Operation
from prefork.process.master.reload import LOOK_INTERVAL, PROOF
from prefork.process.pool.child import DUMP, ENDING, PLACE_TIMEOUT
from prefork.process.pool.respawn import LONGEST_PAUSE
from prefork.process.pool.supervision import Phase
from prefork.process.worker.drain import GRACE
from prefork.runtime.loop import SWEEP
from prefork.settings.address import Address
from prefork.settings.schema import Listener, Settings
from prefork.shared.scoreboard import Order
from tests.process.master.simulated_master import SimulatedMaster
from tests.process.pool.simulation import FakeChild, configured

COUNT = 3  # workers
BOOT = 10.0  # seconds: workers.boot_timeout
PROBATION = 2.0  # seconds: workers.probation
LATE = PLACE_TIMEOUT + DUMP + ENDING + 10 * SWEEP  # seconds until a worker that is given up is gone, whatever it is at
GRACEFUL = 5.0 + GRACE + 2 * SWEEP  # seconds until one that has been told to leave is gone
Failure = Callable[[FakeChild], object]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[SimulatedMaster]:
    server = SimulatedMaster(monkeypatch, configured(COUNT, PROBATION, BOOT))
    yield server
    server.settle()
    assert server.taken == {child.pid for child in server.alive}
    for generation in server.living:
        listen.release(generation.sockets, keep={})
    server.close()
    assert "crashed" not in caplog.text


@pytest.fixture
def old(server: SimulatedMaster) -> list[FakeChild]:
    """The workers of the first generation, which serves."""
    server.serve()
    return server.alive


def newest(server: SimulatedMaster) -> list[FakeChild]:
    return server.forked[-COUNT:]


def boot(server: SimulatedMaster) -> tuple[Operation, list[FakeChild]]:
    """A reload whose workers are ready, and on probation."""
    operation = server.reload()
    fresh = newest(server)
    server.get_ready(*fresh)
    assert not operation.done.is_set()
    return operation, fresh


def error_of(operation: Operation) -> str:
    assert operation.done.is_set()
    assert operation.error is not None
    return str(operation.error)


def assert_granted(*operations: Operation) -> None:
    assert [operation.done.is_set() for operation in operations] == [True] * len(operations)
    assert [operation.error for operation in operations] == [None] * len(operations)


# ---- one that goes well


def test_a_reload_brings_new_workers_and_the_old_ones_leave_after_the_probation(
    server: SimulatedMaster, old: list[FakeChild]
) -> None:
    operation, fresh = boot(server)
    assert server.serving == fresh
    assert [child.order for child in old] == [Order.STAND_BY] * COUNT
    server.wait(PROBATION - LOOK_INTERVAL)
    assert not operation.done.is_set()
    server.wait(3 * LOOK_INTERVAL)
    assert_granted(operation)
    assert server.alive == fresh
    assert server.living == [server.generation]
    assert server.generation.number == 2


def test_the_old_workers_serve_until_the_last_new_one_is_ready(server: SimulatedMaster, old: list[FakeChild]) -> None:
    server.reload()
    for child in newest(server):
        assert server.serving == old
        server.get_ready(child)
    assert server.serving == newest(server)


def test_a_generation_that_has_answered_enough_is_on_probation_no_more(
    server: SimulatedMaster, old: list[FakeChild]
) -> None:
    operation, fresh = boot(server)
    fresh[0].count(requests=PROOF - 1)
    server.wait(2 * LOOK_INTERVAL)
    assert not operation.done.is_set()
    fresh[1].count(requests=1)
    server.wait(2 * LOOK_INTERVAL)
    assert_granted(operation)


def listening(path: str) -> Settings:
    return structs.replace(configured(COUNT, PROBATION, BOOT), listen=(Listener(address=Address("unix", path=path)),))


@pytest.mark.parametrize("spelling", ["{}/app.sock", "{}/./app.sock", "{}//app.sock"])
def test_there_is_a_probation_however_the_path_of_a_socket_is_written(
    server: SimulatedMaster, old: list[FakeChild], spelling: str, tmp_path: Path
) -> None:
    server.settings = listening(f"{tmp_path}/app.sock")
    boot(server)
    server.wait(PROBATION + LOOK_INTERVAL)
    server.settings = listening(spelling.format(tmp_path))
    boot(server)


def test_there_is_no_probation_where_nobody_listens_at_an_address_any_more(
    server: SimulatedMaster, old: list[FakeChild], tmp_path: Path
) -> None:
    server.settings = listening(f"{tmp_path}/app.sock")
    boot(server)
    server.wait(PROBATION + LOOK_INTERVAL)
    server.settings = listening(f"{tmp_path}/other.sock")
    operation = server.reload()
    server.get_ready(*newest(server))
    assert_granted(operation)


def test_without_a_probation_the_old_workers_leave_at_once(server: SimulatedMaster, old: list[FakeChild]) -> None:
    server.settings = configured(COUNT, probation=0)
    operation = server.reload()
    server.get_ready(*newest(server))
    assert_granted(operation)
    assert server.alive == newest(server)


def test_old_workers_finish_what_is_under_way_however_many_reloads_there_are(
    server: SimulatedMaster, old: list[FakeChild]
) -> None:
    for child in old:
        child.busy = True
    for _ in range(2):
        boot(server)
        server.wait(PROBATION + LOOK_INTERVAL)
    assert server.alive == [*old, *newest(server)]
    assert [generation.number for generation in server.living] == [1, 3]
    for child in old:
        child.finish()
    server.settle()
    assert server.alive == newest(server)
    assert server.living == [server.generation]


def test_a_reload_has_as_many_workers_as_the_configuration_says(server: SimulatedMaster, old: list[FakeChild]) -> None:
    server.scale(1)
    server.get_ready(server.children.last)
    assert server.generation.size == COUNT + 1
    server.settings = configured(1, PROBATION)
    operation = server.reload()
    server.get_ready(server.children.last)
    server.wait(PROBATION + LOOK_INTERVAL)
    assert_granted(operation)
    assert server.serving == server.alive == [server.children.last]


# ---- those that fail before a new worker serves


FAILURES: dict[str, Failure] = {
    "dies": lambda child: child.die(),
    "exits": lambda child: child.die(0),
    "says why": lambda child: child.fail(),
    "is ready and dies in the same breath": lambda child: (child.get_ready(), child.die()),
    "is never ready": lambda child: None,
    "is never ready, and deaf": lambda child: setattr(child, "deaf", True),
}


@pytest.mark.parametrize("which", range(COUNT))
@pytest.mark.parametrize("others", ["ready", "booting"])
@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_a_reload_of_which_one_worker_cannot_boot_changes_nothing(
    server: SimulatedMaster, old: list[FakeChild], failure: Failure, others: str, which: int
) -> None:
    operation = server.reload()
    for number, child in enumerate(newest(server)):
        if number == which:
            failure(child)
        elif others == "ready":
            child.get_ready()
    server.wait(BOOT + 2 * LATE)
    assert error_of(operation)
    assert server.alive == server.serving == old
    assert server.living == [server.generation]
    assert server.generation.number == 1
    assert len(server.forked) == 2 * COUNT


@pytest.mark.parametrize("after", range(COUNT))
def test_a_reload_of_which_one_worker_cannot_be_forked_changes_nothing(
    server: SimulatedMaster, old: list[FakeChild], after: int
) -> None:
    def refuse_from_now_on(child: FakeChild) -> None:
        if len(server.forked) == COUNT + after:
            server.children.refuse()

    server.children.at_fork = refuse_from_now_on
    if not after:
        server.children.refuse()
    operation = server.reload()
    assert error_of(operation) == "cannot fork a worker: Cannot allocate memory"
    server.wait(LATE)
    assert server.alive == server.serving == old
    assert server.living == [server.generation]


def test_a_configuration_that_cannot_be_served_forks_nobody(server: SimulatedMaster, old: list[FakeChild]) -> None:
    server.problem = ConfigError("prefork.toml: workers.count: expected an integer, got 'many'")
    assert error_of(server.reload()).startswith("prefork.toml: workers.count")
    assert server.forked == old


def test_a_reload_goes_well_after_any_number_that_failed(server: SimulatedMaster, old: list[FakeChild]) -> None:
    for _ in range(3):
        operation = server.reload()
        newest(server)[1].fail()
        server.wait(LATE)
        assert "no such module" in error_of(operation)
    operation, fresh = boot(server)
    server.wait(PROBATION + LOOK_INTERVAL)
    assert_granted(operation)
    assert server.alive == fresh


def test_an_old_worker_that_dies_while_new_ones_boot_is_replaced(server: SimulatedMaster, old: list[FakeChild]) -> None:
    operation = server.reload()
    server.kill(old[0])
    replacing = server.children.last
    server.get_ready(replacing)
    assert server.serving == [*old[1:], replacing]
    server.forked[COUNT].fail()
    server.wait(LATE)
    assert error_of(operation)
    assert server.alive == server.serving == [*old[1:], replacing]


# ---- the probation


def test_new_workers_that_crash_on_probation_bring_the_old_ones_back(
    server: SimulatedMaster, old: list[FakeChild]
) -> None:
    operation, fresh = boot(server)
    server.kill(fresh[0], fresh[1])
    server.wait(2 * LOOK_INTERVAL)
    assert error_of(operation).startswith("the new workers crash with their first requests: worker ")
    assert server.serving == old
    server.wait(LATE)
    assert server.alive == old
    assert server.living == [server.generation]
    assert server.generation.number == 1


def test_the_only_new_worker_need_crash_but_once(server: SimulatedMaster, old: list[FakeChild]) -> None:
    server.settings = configured(1, PROBATION)
    operation = server.reload()
    server.get_ready(server.children.last)
    server.kill(server.children.last)
    server.wait(2 * LOOK_INTERVAL)
    assert error_of(operation)
    server.wait(LATE)
    assert server.alive == server.serving == old


def test_one_crash_of_several_new_workers_is_forgiven(server: SimulatedMaster, old: list[FakeChild]) -> None:
    operation, fresh = boot(server)
    server.kill(fresh[0])
    server.get_ready(server.children.last)
    server.wait(PROBATION + LOOK_INTERVAL)
    assert_granted(operation)
    assert server.alive == server.serving == server.forked[-COUNT:]


def test_new_workers_that_somebody_kills_have_not_crashed(server: SimulatedMaster, old: list[FakeChild]) -> None:
    operation, fresh = boot(server)
    for child in fresh:
        child.die(-signal.SIGKILL)
    server.settle()
    server.get_ready(*newest(server))
    server.wait(PROBATION + LOOK_INTERVAL)
    assert_granted(operation)
    assert server.alive == server.serving == newest(server)


def test_workers_that_crash_after_the_probation_are_replaced_by_their_own_kind(
    server: SimulatedMaster, old: list[FakeChild]
) -> None:
    _, fresh = boot(server)
    server.wait(PROBATION + LOOK_INTERVAL)
    server.kill(*fresh)
    server.get_ready(*newest(server))
    assert server.generation.number == 2
    assert server.alive == server.serving == newest(server)


def test_old_workers_that_die_as_they_stand_by_are_replaced_when_they_are_to_serve_again(
    server: SimulatedMaster, old: list[FakeChild]
) -> None:
    operation, fresh = boot(server)
    server.kill(*old)
    assert server.alive == fresh
    server.kill(*fresh[:2])
    server.wait(2 * LOOK_INTERVAL)
    assert error_of(operation)
    server.until(lambda: len(server.forked) == 3 * COUNT + 2, LONGEST_PAUSE)
    server.get_ready(*newest(server))
    server.wait(LATE)
    assert server.alive == server.serving == newest(server)
    assert server.generation.number == 1


def test_a_new_worker_that_boots_as_its_generation_fails_ends(server: SimulatedMaster, old: list[FakeChild]) -> None:
    _, fresh = boot(server)
    server.kill(*fresh[:2])
    booting = server.forked[-2:]
    server.wait(2 * LOOK_INTERVAL)
    server.get_ready(*booting)
    server.wait(LATE)
    assert server.alive == server.serving == old


def test_new_workers_that_are_busy_when_their_generation_fails_finish(
    server: SimulatedMaster, old: list[FakeChild]
) -> None:
    _, fresh = boot(server)
    fresh[2].busy = True
    server.kill(*fresh[:2])
    server.wait(GRACEFUL / 2)
    assert server.alive == [*old, fresh[2]]
    assert server.serving == old
    fresh[2].finish()
    server.settle()
    assert server.alive == old


# ---- one operation while another is under way


@pytest.mark.parametrize(
    ("asked", "ends"),
    [
        ("as it boots", "well"),
        ("as it boots", "in the boot"),
        ("as it boots", "on probation"),
        ("on probation", "well"),
        ("on probation", "on probation"),
    ],
)
def test_reloads_that_are_asked_for_during_one_are_one_after_it(
    server: SimulatedMaster, old: list[FakeChild], asked: str, ends: str
) -> None:
    first = server.reload()
    fresh = newest(server)
    if asked == "as it boots":
        later = [server.reload(), server.reload()]
    if ends == "in the boot":
        fresh[0].fail()
    else:
        server.get_ready(*fresh)
    if asked == "on probation":
        later = [server.reload(), server.reload()]
    assert not any(operation.done.is_set() for operation in later)
    if ends == "on probation":
        server.kill(*fresh[:2])
    server.until(first.done.is_set, PROBATION + LATE)
    assert (first.error is None) == (ends == "well")
    server.settle()
    server.get_ready(*newest(server))
    server.wait(PROBATION + LATE)
    assert_granted(*later)
    assert set(server.answers.values()) == {1}
    assert server.generation.number == (3 if ends == "well" else 2)
    assert server.alive == server.serving == newest(server)


def test_more_workers_that_are_asked_for_during_a_reload_are_of_the_new_generation(
    server: SimulatedMaster, old: list[FakeChild]
) -> None:
    reload = server.reload()
    more = server.scale(1)
    server.get_ready(*newest(server))
    server.wait(PROBATION + LOOK_INTERVAL)
    assert_granted(reload)
    server.get_ready(server.children.last)
    assert_granted(more)
    assert len(server.serving) == COUNT + 1
    assert server.alive == server.serving


def test_fewer_workers_that_are_asked_for_during_a_reload_that_fails_are_of_the_old_generation(
    server: SimulatedMaster, old: list[FakeChild]
) -> None:
    reload = server.reload()
    fewer = server.scale(-1)
    newest(server)[0].fail()
    server.wait(LATE)
    assert error_of(reload)
    assert_granted(fewer)
    assert server.alive == server.serving == old[: COUNT - 1]


def test_a_reload_waits_for_the_workers_that_have_been_asked_for_before(
    server: SimulatedMaster, old: list[FakeChild]
) -> None:
    more = server.scale(2)
    reload = server.reload()
    assert len(server.forked) == COUNT + 2
    server.get_ready(*server.forked[-2:])
    assert_granted(more)
    server.get_ready(*newest(server))
    server.wait(PROBATION + LOOK_INTERVAL)
    assert_granted(reload)
    assert server.alive == newest(server)


def test_a_reload_brings_new_workers_after_they_have_been_drained(
    server: SimulatedMaster, old: list[FakeChild]
) -> None:
    server.drain()
    server.wait(LATE)
    assert server.alive == []
    assert error_of(server.scale(1)) == "the workers have been drained; a reload brings new ones"
    operation = server.reload()
    server.get_ready(*newest(server))
    assert_granted(operation)
    assert server.alive == server.serving == newest(server)


# ---- the stop


def test_a_server_whose_first_workers_cannot_boot_ends_with_an_error(server: SimulatedMaster) -> None:
    reload = server.reload()
    server.forked[1].fail()
    server.wait(LATE)
    assert server.is_over
    assert server.master._exit_status == 1
    assert error_of(reload) == "the server is stopping"


MOMENTS: dict[str, Callable[[SimulatedMaster], object]] = {
    "boots": lambda server: server.get_ready(server.forked[0]),
    "serves": lambda server: server.serve(),
    "replaces a dead worker": lambda server: (server.serve(), server.kill(server.forked[0])),
    "waits to do so": lambda server: (
        server.serve(),
        server.kill(server.forked[0]),
        server.get_ready(server.children.last),
        server.kill(server.children.last),
    ),
    "replaces workers that depart": lambda server: (
        server.serve(),
        [child.depart() for child in server.alive],
        server.settle(),
    ),
    "gets more workers": lambda server: (server.serve(), server.scale(2), server.get_ready(server.children.last)),
    "gets fewer workers": lambda server: (server.serve(), server.scale(-1)),
    "reloads": lambda server: (server.serve(), server.reload(), server.get_ready(server.children.last)),
    "ends what could not boot": lambda server: (server.serve(), server.reload(), server.children.last.fail()),
    "has new workers on probation": lambda server: (server.serve(), boot(server)),
    "has one of them crash": lambda server: (server.serve(), server.kill(boot(server)[1][0])),
    "has taken the old ones back": lambda server: (
        server.serve(),
        server.kill(*boot(server)[1][:2]),
        server.wait(2 * LOOK_INTERVAL),
    ),
    "drains old workers": lambda server: (server.serve(), boot(server), server.wait(PROBATION + LOOK_INTERVAL)),
    "drains all": lambda server: (server.serve(), server.drain()),
}


@pytest.mark.parametrize("stops", [1, 2, 3])
@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("trait", ["obedient", "busy", "deaf"])
@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS)
def test_nothing_lives_after_a_stop_whatever_the_server_is_at_and_everybody_is_answered(
    server: SimulatedMaster, moment: Callable[[SimulatedMaster], object], trait: str, fast: bool, stops: int
) -> None:
    def be(child: FakeChild) -> None:
        if trait != "obedient":
            setattr(child, trait, True)

    for child in server.forked:
        be(child)
    server.children.at_fork = be
    moment(server)
    late = [server.reload(), server.scale(1), server.reload()]
    forked = len(server.forked)
    begin = server.clock.time
    for _ in range(stops):
        server.stop(fast)
    late.append(server.reload())
    server.wait(5.0 + GRACE + LATE)
    assert server.is_over
    assert server.alive == []
    assert len(server.forked) == forked
    assert all(operation.done.is_set() for operation in late)
    assert error_of(late[-1]) == "the server is stopping"
    assert set(server.answers.values()) == {1}
    if stops == 3:
        assert server.clock.time - begin < SWEEP


def test_workers_that_finish_are_waited_for_and_those_of_earlier_generations_too(
    server: SimulatedMaster, old: list[FakeChild]
) -> None:
    old[0].busy = True
    _, fresh = boot(server)
    server.wait(PROBATION + LOOK_INTERVAL)
    fresh[0].busy = True
    server.stop()
    server.wait(1)
    assert server.alive == [old[0], fresh[0]]
    fresh[0].finish()
    server.settle()
    assert not server.is_over
    old[0].finish()
    server.settle()
    assert server.is_over


def test_a_worker_that_dies_after_the_stop_is_not_replaced(server: SimulatedMaster, old: list[FakeChild]) -> None:
    for child in old:
        child.busy = True
    server.stop()
    server.kill(old[0])
    server.wait(LONGEST_PAUSE)
    assert server.forked == old


def test_a_stop_on_probation_tells_the_reload_that_the_server_stops_and_the_old_do_not_come_back(
    server: SimulatedMaster, old: list[FakeChild]
) -> None:
    operation, fresh = boot(server)
    for child in [*old, *fresh]:
        child.busy = True
    server.stop()
    assert error_of(operation) == "the server is stopping"
    assert isinstance(operation.error, BootError)
    assert [child.order for child in server.alive] == [Order.LEAVE] * 2 * COUNT
    assert all(generation.phase is Phase.LEAVING for generation in server.living)
