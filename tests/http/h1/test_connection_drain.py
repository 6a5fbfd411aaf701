"""Draining: what is under way is answered, nobody meets a reset, and nobody stays."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from math import inf

import pytest

from prefork.http.message import Request, Response
from tests.http.conftest import GET, Pieces, World, answering, chunked, echo
from tests.http.h1.oracle import answers

Make = Callable[..., World]


SHORT = 0.1  # seconds that an idle connection stays open in a drain


@pytest.fixture
def world(world: Make) -> Make:
    return partial(world, lame_duck=SHORT)


def test_a_request_under_way_is_answered_and_told_close(world: Make) -> None:
    async def handle(request: Request) -> Response:
        here.server.drain()
        return Response(200, (), b"done")

    here = world(handle)
    peer = here.connect()
    peer.send(GET)
    answer = answers(peer.rest(), ["GET"])[0]
    assert (answer.body, answer.headers["connection"]) == (b"done", "close")


def test_a_request_whose_body_still_comes_is_answered_and_told_close(world: Make) -> None:
    here = world(echo)
    peer = here.connect()
    peer.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe")
    here.server.drain()
    peer.send(b"llo")
    answer = answers(peer.rest(), ["POST"])[0]
    assert (answer.body, answer.headers["connection"]) == (b"hello", "close")


def test_a_head_that_still_comes_is_answered_and_told_close(world: Make) -> None:
    here = world(echo)
    peer = here.connect()
    peer.send(GET[:20])
    here.until(lambda: not peer.connection.idle, "the beginning of a head")
    here.server.drain()
    assert peer.task.deadline > here.loop.now + SHORT, "it has the whole header_timeout"
    peer.send(GET[20:])
    assert answers(peer.rest(), ["GET"])[0].headers["connection"] == "close"


def test_an_idle_client_may_ask_once_more(world: Make) -> None:
    """It may have been sending at that very moment."""
    here = world(echo)
    peer = here.connect()
    peer.send(GET)
    assert peer.answer().headers["connection"] == "keep-alive"
    here.server.drain()
    peer.send(GET)
    assert answers(peer.rest(), ["GET"])[0].headers["connection"] == "close"


def test_idle_clients_are_let_go_after_the_lame_duck_second(world: Make) -> None:
    here = world(echo)
    fresh, idle = here.connect(), here.connect()
    idle.send(GET)
    idle.answer()
    start = time.monotonic()
    here.server.drain()
    assert idle.task.deadline == pytest.approx(here.loop.now + 0.1, abs=0.1)
    assert [fresh.rest(), idle.rest()] == [b"", b""]
    assert time.monotonic() - start >= 0.1 - 0.02


def test_a_client_that_comes_late_is_served(world: Make) -> None:
    """From the listener's queue: it had connected before the doors were closed."""
    here = world(echo)
    here.server.drain()
    peer = here.connect()
    peer.send(GET)
    assert answers(peer.rest(), ["GET"])[0].headers["connection"] == "close"
    silent = here.connect()
    assert silent.rest() == b""


def test_a_client_whose_answer_was_under_way_does_not_stay(world: Make) -> None:
    """Its head had promised keep-alive before the drain began."""
    body = Pieces(b"a", b"b")
    sent: list[bytes] = []

    class Draining(Pieces):
        async def __anext__(self) -> bytes:
            sent.append(b"")
            if len(sent) == 2:
                here.server.drain()
            return await body.__anext__()

    here = world(answering(lambda request: Response(200, (), Draining())), keepalive_timeout=3600)
    peer = here.connect()
    peer.send(GET)
    answer = answers(peer.rest(), ["GET"])[0]
    assert answer.body == b"ab"
    assert answer.headers["connection"] == "keep-alive"


def test_a_pipeline_is_cut_after_the_request_under_way(world: Make) -> None:
    here = world(echo)

    async def handle(request: Request) -> Response:
        here.server.drain()
        return Response(200, (), request.target.encode())

    here.handler = handle
    found = here.talk(GET * 3, "GET GET GET")
    assert [answer.headers["connection"] for answer in found] == ["close"]


def test_draining_waits_for_the_last_connection(world: Make) -> None:
    here = world(chunked(b"a")[0])
    gone: list[int] = []

    async def wait() -> None:
        await here.server.fewer(1)
        gone.append(len(here.server.connections))

    peers = [here.connect(), here.connect()]
    here.loop.spawn(wait(), "waiting")
    peers[0].close()
    peers[0].until_gone()
    assert gone == []
    here.server.drain()
    here.until(lambda: gone, "the last to leave")
    assert gone == [0]


def test_drain_does_not_prolong_a_deadline(world: Make) -> None:
    here = world(echo, header_timeout=0.05)
    peer = here.connect()
    here.until(lambda: peer.task.deadline < inf, "the connection's beginning")
    before = peer.task.deadline
    here.server.drain()
    assert peer.task.deadline == before
