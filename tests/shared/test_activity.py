"""Activity: a connection is busy for a while from its last request on, whatever it holds open."""

from __future__ import annotations

import random

import pytest

from prefork.http.message import Response
from prefork.shared.activity import SPAN, Activity, busy
from prefork.shared.counters import BUSY, BUSY_BEFORE, BUSY_UNTIL, WIDTH
from tests.http.conftest import GET, World, answering

SOON = SPAN / 100


class Connection:
    def __init__(self) -> None:
        self.busy_until = 0.0


class Worker:
    """A worker whose clock is `now`; `lasted` is how long its last turn took."""

    def __init__(self) -> None:
        self.board = memoryview(bytearray(8 * WIDTH)).cast("Q")
        self.activity = Activity(self.board)
        self.now = 1000.0
        self.lasted = 0.0

    def accept(self) -> Connection:
        connection = Connection()
        self.activity.note(connection, self.now, self.lasted)
        return connection

    def ask(self, *connections: Connection) -> None:
        for connection in connections:
            if self.now >= connection.busy_until:
                self.activity.note(connection, self.now, self.lasted)

    @property
    def busy(self) -> int:
        return busy(self.board[BUSY], self.board[BUSY_BEFORE], self.board[BUSY_UNTIL], self.now)


@pytest.fixture
def worker() -> Worker:
    return Worker()


def test_at_first_nobody_is_busy(worker: Worker) -> None:
    assert worker.busy == 0


def test_new_connections_are_busy_at_once_until_they_turn_out_to_be_idle(worker: Worker) -> None:
    for _ in range(5):
        worker.accept()
    assert worker.busy == 5
    worker.now += SPAN - SOON
    assert worker.busy == 5
    worker.now += SPAN + 2 * SOON
    assert worker.busy == 0


def test_a_connection_counts_once_however_often_it_asks(worker: Worker) -> None:
    connections = [worker.accept() for _ in range(3)]
    for _ in range(1000):
        worker.now += SOON
        worker.ask(*connections, *connections)
        assert worker.busy == 3


def test_connections_that_idle_count_no_more_while_others_are_busy(worker: Worker) -> None:
    for _ in range(100):
        worker.accept()  # event streams, say
    one = worker.accept()
    for _ in range(301):
        worker.now += SOON
        worker.ask(one)
    assert worker.busy == 1


def test_what_comes_back_is_busy_again(worker: Worker) -> None:
    one = worker.accept()
    worker.now += 100 * SPAN
    assert worker.busy == 0
    worker.ask(one)
    assert worker.busy == 1


@pytest.mark.parametrize("age", [0.0, 0.9 * SPAN, 1.1 * SPAN, 10 * SPAN])
def test_a_connection_that_has_ended_is_not_busy(worker: Worker, age: float) -> None:
    one, other = worker.accept(), worker.accept()
    worker.now += age
    worker.ask(other)
    worker.activity.leave(one)
    assert worker.busy == 1
    worker.activity.leave(other)
    assert worker.busy == 0


def test_a_turn_that_takes_long_makes_nobody_idle(worker: Worker) -> None:
    connections = [worker.accept() for _ in range(8)]
    for worker.lasted in (0.1, 10 * SPAN, 10 * SPAN):
        worker.now += worker.lasted  # nobody could ask anything in it
        for connection in connections:
            worker.ask(connection)
            assert worker.busy == 8


@pytest.mark.parametrize("seed", range(20))
def test_whoever_has_asked_within_a_span_is_busy_and_nobody_who_has_not_within_three(worker: Worker, seed: int) -> None:
    chance = random.Random(seed)
    asked: dict[Connection, float] = {}
    for _ in range(2000):
        worker.now += chance.choice([0.0, SOON, SPAN / 5, SPAN])
        match chance.randrange(4):
            case 0:
                asked[worker.accept()] = worker.now
            case 1 if asked:
                one = chance.choice(list(asked))
                del asked[one]
                worker.activity.leave(one)
            case 2 if asked:
                one = chance.choice(list(asked))
                worker.ask(one)
                asked[one] = worker.now
        ages = [worker.now - when for when in asked.values()]
        assert sum(age < SPAN - 0.002 for age in ages) <= worker.busy <= sum(age <= 3 * SPAN + 0.002 for age in ages)


def test_a_connection_is_busy_by_its_requests_and_not_by_what_it_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("prefork.runtime.loop.monotonic", lambda: now)
    here = World(answering(lambda _: Response(200)))
    board = here.board

    def count() -> int:
        return busy(board[BUSY], board[BUSY_BEFORE], board[BUSY_UNTIL], now)

    here.loop.turn(0)
    peers = [here.connect() for _ in range(3)]
    assert count() == 3
    for _ in range(4):
        now += SPAN
        peers[0].send(GET)
        peers[0].answer()
    assert count() == 1
    peers[0].close()
    here.until(lambda: len(here.server.connections) == 2, "the end of a connection")
    assert count() == 0
    here.close()
