"""Turns: who is ahead of the others lets them accept first, unless they do not, or nobody stays for long anyway."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from time import monotonic

import pytest

from prefork.http.counts import ACCEPTED, CONNECTIONS
from prefork.kernel.loop import Loop
from prefork.kernel.poller import make_poller
from prefork.observe.scoreboard import STATE, Scoreboard, State
from prefork.process.turns import LOOKS, MOST, PATIENCE, SPAN, Turns
from tests.conftest import eventually


class Workshop:
    """Three workers of a generation, one of the generation before, and the Turns of the first. No client waits yet."""

    def __init__(self, loop: Loop, listener: socket.socket) -> None:
        self.loop = loop
        self.listener = listener
        self.board = Scoreboard(8)
        for slot, generation in ((1, 2), (2, 2), (3, 2), (4, 1)):
            self.board.occupy(slot, 1000 + slot, generation)
            self.board.slot(slot)[STATE] = State.SERVING
        self.turns = Turns(loop, self.board, 1)
        self.client: socket.socket | None = None

    def connections(self, *counts: int) -> None:
        for slot, count in enumerate(counts, 1):
            self.board.slot(slot)[CONNECTIONS] = count
            self.board.slot(slot)[ACCEPTED] = count

    def come(self) -> None:
        """A client comes into the queue."""
        self.client = socket.create_connection(self.listener.getsockname())

    def wait(self, limit: float = 0.1) -> float:
        """Seconds until it is the first one's turn, 0 if it is at once; inf if it is not within `limit` seconds."""
        began, ended = monotonic(), []

        async def wait() -> None:
            await self.turns.mine(self.listener)
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


def test_workers_that_do_not_serve_do_not_count(shop: Workshop) -> None:
    shop.connections(20, 0, 0, 0)
    for slot in (2, 3):
        shop.board.slot(slot)[STATE] = State.DRAINING
    assert shop.wait() == 0


def test_who_is_ahead_takes_the_client_that_nobody_else_takes(shop: Workshop) -> None:
    shop.connections(20, 0, 0, 0)
    shop.come()
    assert PATIENCE <= shop.wait(5) < 1


def test_where_others_take_clients_it_waits_on(shop: Workshop) -> None:
    shop.connections(20, 0, 0, 0)
    shop.come()

    async def take() -> None:
        while True:
            shop.board.slot(2)[ACCEPTED] += 1
            await shop.loop.sleep(PATIENCE / 3)

    others = shop.loop.spawn(take(), "taking clients")
    assert shop.wait() == float("inf")
    others.cancel()


def test_others_that_only_say_that_they_take_clients_do_not_keep_it_from_all(shop: Workshop) -> None:
    shop.connections(20, 0, 0, 0)
    shop.come()

    async def pretend() -> None:
        while True:
            shop.board.slot(2)[ACCEPTED] += 1
            await shop.loop.sleep(PATIENCE / 3)

    others = shop.loop.spawn(pretend(), "pretending to take clients")
    assert LOOKS * PATIENCE <= shop.wait(5) < 2
    others.cancel()


def test_once_it_is_not_ahead_any_more_it_takes_part(shop: Workshop) -> None:
    shop.connections(20, 0, 0, 0)
    shop.come()
    shop.board.slot(1)[CONNECTIONS] = 5

    async def catch_up() -> None:
        shop.board.slot(1)[CONNECTIONS] = 20
        await shop.loop.sleep(PATIENCE / 3)
        shop.board.slot(2)[ACCEPTED] = 18
        shop.board.slot(2)[CONNECTIONS] = 18
        shop.board.slot(3)[CONNECTIONS] = 18

    shop.loop.spawn(catch_up(), "catching up")
    assert shop.wait(5) < 1


def test_it_waits_for_fewer_and_fewer_clients_where_the_others_are_gone(shop: Workshop) -> None:
    shop.connections(20, 0, 0, 0)
    shop.come()
    waited = sum(shop.wait(5) >= PATIENCE for _ in range(1000))
    assert waited == 10  # for the 1st, 2nd, 4th, 8th ...
    assert MOST > 1000


def test_where_clients_come_and_go_nobody_waits(shop: Workshop) -> None:
    shop.connections(20, 0, 0, 0)
    shop.loop.turn(0)
    assert shop.wait(SPAN / 2) == float("inf")
    shop.board.slot(1)[ACCEPTED] += 100
    assert shop.wait() == 0
    eventually(lambda: shop.wait(SPAN / 2) == float("inf"), what="rest, once nobody leaves any more")
