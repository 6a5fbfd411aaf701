"""AcceptBalance: who is ahead of the others lets them accept first, unless they do not, or nobody stays for long
anyway.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from time import monotonic

import pytest

from prefork.process.worker.accept_balance import FULL, LOOKS, MOST_IN_A_ROW, SPAN, TURN_TIMEOUT, AcceptBalance
from prefork.runtime.loop import Loop
from prefork.runtime.poller import make_poller
from prefork.runtime.sync import Condition
from prefork.shared.counters import ACCEPTED, BUSY, BUSY_UNTIL, CONNECTIONS, FULL_SINCE
from prefork.shared.scoreboard import STATE, Scoreboard, State
from tests.conftest import eventually


class Workshop:
    """Three workers of a generation, one of the generation before, and the AcceptBalance of the first. No client waits
    yet.
    """

    def __init__(self, loop: Loop, listener: socket.socket) -> None:
        self.loop = loop
        self.listener = listener
        self.board = Scoreboard(8)
        for slot, generation in ((1, 2), (2, 2), (3, 2), (4, 1)):
            self.board.occupy(slot, 1000 + slot, generation)
            self.board.slot(slot)[STATE] = State.SERVING
        self.balance = AcceptBalance(loop, self.board, 1)
        self.client: socket.socket | None = None

    def connections(self, *counts: int) -> None:
        for slot, count in enumerate(counts, 1):
            self.board.slot(slot)[CONNECTIONS] = count
            self.board.slot(slot)[ACCEPTED] = count

    def busy(self, *counts: int) -> None:
        """So many of these are busy, for the next hour."""
        for slot, count in enumerate(counts, 1):
            self.board.slot(slot)[BUSY] = count
            self.board.slot(slot)[BUSY_UNTIL] = int((monotonic() + 3600) * 1000)

    def come(self) -> None:
        """A client comes into the queue."""
        self.client = socket.create_connection(self.listener.getsockname())

    def wait(self, limit: float = 0.1) -> float:
        """Seconds until it is the first one's turn, 0 if it is at once; inf if it is not within `limit` seconds."""
        began, ended = monotonic(), []

        async def wait() -> None:
            await self.balance.wait_for_turn(self.listener)
            ended.append(monotonic())

        task = self.loop.spawn(wait(), "waiting for a turn")
        self.loop.turn(0)
        if ended:
            return 0.0
        while not ended and monotonic() < began + limit:
            self.loop.turn(0.01)
        if not ended:
            task.cancel()
            self.loop.forget(self.listener.fileno())
        return ended[0] - began if ended else float("inf")


@pytest.fixture
def shop() -> Iterator[Workshop]:
    loop = Loop(make_poller())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        workshop = Workshop(loop, listener)
        yield workshop
        if workshop.client is not None:
            workshop.client.close()
    loop.close()


@pytest.mark.parametrize(
    "counts", [(0, 0, 0, 0), (4, 0, 0, 0), (10, 10, 10, 0), (12, 10, 8, 0), (110, 100, 100, 100), (0, 50, 50, 0)]
)
def test_who_has_about_its_share_does_not_wait(shop: Workshop, counts: tuple[int, ...]) -> None:
    shop.connections(*counts)
    assert shop.wait() == 0


@pytest.mark.parametrize("counts", [(20, 0, 0, 0), (130, 100, 100, 0), (20, 0, 0, 500)])
def test_who_is_ahead_of_its_own_generation_waits(shop: Workshop, counts: tuple[int, ...]) -> None:
    shop.connections(*counts)
    assert shop.wait() == float("inf")


@pytest.mark.parametrize(
    ("counts", "busy"),
    [
        ((100, 0, 0), (0, 2, 2)),  # event streams, and clients that stay away for now
        ((100, 0, 0), (10, 12, 12)),
        ((300, 300, 300), (12, 10, 11)),
        ((2, 0, 0), (1, 0, 0)),
    ],
)
def test_a_worker_with_about_its_share_of_the_busy_connections_does_not_wait(
    shop: Workshop, counts: tuple[int, ...], busy: tuple[int, ...]
) -> None:
    shop.connections(*counts)
    shop.busy(*busy)
    assert shop.wait() == 0


@pytest.mark.parametrize(
    ("counts", "busy"),
    [
        ((14, 100, 100), (14, 10, 10)),  # the others have event streams besides
        ((3, 1, 1), (3, 1, 1)),
        ((20, 20, 20), (20, 0, 0)),
        ((100, 0, 0), (10, 10, 10)),  # as many of the busy ones, but more that may be so later
        ((12, 9, 9, 500), (12, 9, 9, 500)),  # the last one is of another generation
    ],
)
def test_a_worker_that_is_ahead_by_its_busy_connections_waits(
    shop: Workshop, counts: tuple[int, ...], busy: tuple[int, ...]
) -> None:
    shop.connections(*counts)
    shop.busy(*busy)
    assert shop.wait() == float("inf")


@pytest.mark.parametrize(
    ("full", "waits"),
    [
        ((60, 0, 0), True),
        ((60, 30, 5000), True),  # the second is so for a moment only
        ((30, 0, 0), False),
        ((60, 60, 60), False),
        ((60, 60, 60, 0), False),  # the last one is of another generation
        ((0, 60, 60), False),
    ],
)
def test_a_worker_whose_threads_are_all_in_calls_for_long_waits_where_others_have_free_ones(
    shop: Workshop, full: tuple[int, ...], waits: bool
) -> None:
    shop.connections(1, 1, 1, 1)
    for slot, milliseconds in enumerate(full, 1):
        shop.board.slot(slot)[FULL_SINCE] = milliseconds and int(monotonic() * 1000) - milliseconds
    assert (shop.wait(0.01) > 0) == waits


def test_it_is_told_once_that_it_has_had_no_free_thread_for_long_and_others_have(shop: Workshop) -> None:
    told: list[float] = []
    filled = Condition(shop.loop)
    own, other = shop.board.slot(1), shop.board.slot(2)
    shop.board.slot(3)[STATE] = State.DRAINING

    async def listen() -> None:
        while True:
            await shop.balance.overloaded(filled)
            told.append(monotonic())

    def passes(seconds: float) -> None:
        until = monotonic() + seconds
        while monotonic() < until:
            shop.loop.turn(0.005)

    task = shop.loop.spawn(listen(), "listening")
    for number in (1, 2):
        other[FULL_SINCE] = own[FULL_SINCE] = began = int(monotonic() * 1000)
        filled.notify_all()
        passes(3 * FULL)
        assert len(told) == number - 1  # the other has none, either
        other[FULL_SINCE] = 0
        passes(3 * FULL)
        assert len(told) == number
        assert told[-1] >= began / 1000 + FULL
        own[FULL_SINCE] = 0
    own[FULL_SINCE] = int(monotonic() * 1000)
    filled.notify_all()
    passes(FULL / 2)
    own[FULL_SINCE] = 0
    passes(2 * FULL)
    assert len(told) == 2
    task.cancel()


@pytest.mark.parametrize("idle", [(0, 0), (100, 0), (0, 100), (1000, 0)])
@pytest.mark.parametrize(("clients", "worst"), [(24, 15), (32, 18)])
def test_however_quick_a_worker_is_it_takes_little_more_than_its_share_of_a_burst(
    shop: Workshop, idle: tuple[int, int], clients: int, worst: int
) -> None:
    """Whatever else is connected, and whichever of the two is quick."""
    shop.board.slot(3)[STATE] = State.DRAINING
    for quick in (1, 2):
        taken = [0, 0]
        workers = [AcceptBalance(shop.loop, shop.board, slot) for slot in (1, 2)]
        for _ in range(clients):
            shop.connections(idle[0] + taken[0], idle[1] + taken[1])
            shop.busy(*taken)
            shop.balance = workers[quick - 1]
            taken[quick - 1 if shop.wait(0) == 0 else 2 - quick] += 1
        assert max(taken) <= worst, f"{taken}, where worker {quick} is quick"


def test_of_two_workers_one_may_always_accept(shop: Workshop) -> None:
    """Or each would wait for the other."""
    shop.board.slot(3)[STATE] = State.DRAINING
    workers = [AcceptBalance(shop.loop, shop.board, slot) for slot in (1, 2)]
    for busy in range(0, 30, 3):
        for more in range(0, 30, 3):
            for idle in (0, 5, 100):
                shop.connections(busy + idle, more)
                shop.busy(busy, more)
                waits = []
                for shop.balance in workers:
                    waits.append(shop.wait(0))
                assert 0 in waits, (busy, more, idle)


def test_a_slot_that_is_taken_while_a_worker_looks_at_the_others_does_no_harm(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The master takes it, in its own process, for the next worker."""
    shop.connections(20, 20, 20)
    look = shop.board.column

    def column(word: int) -> list[int]:
        if not shop.board.generation(5):
            found = look(word)
            shop.board.occupy(5, 1005, 2)
            return found
        return look(word)

    monkeypatch.setattr(shop.board, "column", column)
    assert shop.wait() == 0


def test_workers_that_do_not_serve_do_not_count(shop: Workshop) -> None:
    shop.connections(20, 0, 0, 0)
    for slot in (2, 3):
        shop.board.slot(slot)[STATE] = State.DRAINING
    assert shop.wait() == 0


def test_who_is_ahead_takes_the_client_that_nobody_else_takes(shop: Workshop) -> None:
    shop.connections(20, 0, 0, 0)
    shop.come()
    assert TURN_TIMEOUT <= shop.wait(5) < 1


def test_where_others_take_clients_it_waits_on(shop: Workshop) -> None:
    shop.connections(20, 0, 0, 0)
    shop.come()

    async def take() -> None:
        while True:
            shop.board.slot(2)[ACCEPTED] += 1
            await shop.loop.sleep(TURN_TIMEOUT / 3)

    others = shop.loop.spawn(take(), "taking clients")
    assert shop.wait() == float("inf")
    others.cancel()


def test_others_that_only_say_that_they_take_clients_do_not_keep_it_from_all(shop: Workshop) -> None:
    shop.connections(20, 0, 0, 0)
    shop.come()

    async def pretend() -> None:
        while True:
            shop.board.slot(2)[ACCEPTED] += 1
            await shop.loop.sleep(TURN_TIMEOUT / 3)

    others = shop.loop.spawn(pretend(), "pretending to take clients")
    assert LOOKS * TURN_TIMEOUT <= shop.wait(5) < 2
    others.cancel()


def test_once_it_is_not_ahead_any_more_it_takes_part(shop: Workshop) -> None:
    shop.connections(20, 0, 0, 0)
    shop.come()
    shop.board.slot(1)[CONNECTIONS] = 5

    async def catch_up() -> None:
        shop.board.slot(1)[CONNECTIONS] = 20
        await shop.loop.sleep(TURN_TIMEOUT / 3)
        shop.board.slot(2)[ACCEPTED] = 18
        shop.board.slot(2)[CONNECTIONS] = 18
        shop.board.slot(3)[CONNECTIONS] = 18

    shop.loop.spawn(catch_up(), "catching up")
    assert shop.wait(5) < 1


def test_it_waits_for_fewer_and_fewer_clients_where_the_others_are_gone(shop: Workshop) -> None:
    shop.connections(20, 0, 0, 0)
    shop.come()
    waited = sum(shop.wait(5) >= TURN_TIMEOUT for _ in range(1000))
    assert waited == 10  # for the 1st, 2nd, 4th, 8th ...
    assert MOST_IN_A_ROW > 1000


def test_where_clients_come_and_go_nobody_waits(shop: Workshop) -> None:
    shop.connections(20, 0, 0, 0)
    shop.loop.turn(0)
    assert shop.wait(SPAN / 2) == float("inf")
    shop.board.slot(1)[ACCEPTED] += 100
    assert shop.wait() == 0
    eventually(lambda: shop.wait(SPAN / 2) == float("inf"), what="rest, once nobody leaves any more")


def test_where_many_that_had_stayed_leave_at_once_the_next_clients_are_still_shared(shop: Workshop) -> None:
    shop.connections(40, 0, 0, 0)
    shop.loop.turn(0)
    assert shop.wait(SPAN / 10) == float("inf")
    shop.board.slot(1)[CONNECTIONS] = 10
    shop.board.slot(1)[ACCEPTED] += 10
    shop.busy(10, 0, 0, 0)
    assert shop.wait(SPAN / 10) == float("inf")
