"""Time limits: for a head, a body, a send, and between two requests."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from math import inf

import pytest

from prefork.http.message import Request, Response
from prefork.runtime.task import PAUSE
from tests.http.conftest import GET, Peer, World, answering, echo, ignore
from tests.http.h1.oracle import answers

Make = Callable[..., World]

SHORT = 0.05  # seconds
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"


def test_a_client_that_says_nothing_is_let_go_without_a_word(world: Make) -> None:
    here = world(header_timeout=SHORT)
    start = time.monotonic()
    assert here.connect().rest() == b""
    assert time.monotonic() - start >= SHORT - 0.01
    assert here.log == []


@pytest.mark.parametrize("data", [b"G", b"\r\nG", GET[:-1]])
def test_a_head_that_does_not_come_to_its_end_is_a_408(world: Make, data: bytes) -> None:
    """RFC 9110 §15.5.9."""
    here = world(header_timeout=SHORT)
    peer = here.connect()
    peer.send(data)
    assert answers(peer.rest(), ["GET"])[0].status == 408
    assert here.log[0].status == 408


def test_an_empty_line_behind_a_body_leaves_the_connection_idle(world: Make) -> None:
    """Old clients send one, and nothing may answer it (RFC 9112 §2.2)."""
    here = world(header_timeout=SHORT, keepalive_timeout=10 * SHORT)
    peer = here.connect()
    peer.send(GET)
    peer.answer()
    peer.send(b"\r\n")
    assert peer.rest() == b""
    assert [entry.status for entry in here.log] == [200]


def test_an_empty_line_that_arrives_before_its_request_is_ignored(world: Make) -> None:
    peer = world(header_timeout=SHORT).connect()
    peer.send(b"\r\n", GET)
    assert peer.answer().status == 200


def test_a_head_that_drips_in_is_not_given_more_time(world: Make) -> None:
    peer = world(header_timeout=0.2).connect()
    peer.send(GET[:20])
    drip(peer, b"X")
    assert answers(peer.rest(), ["GET"])[0].status == 408


def drip(peer: Peer, byte: bytes) -> None:
    """Go on sending single bytes until there is an answer."""

    def step() -> bool:
        peer.poll()
        peer.socket.send(byte)
        return bool(peer.got)

    peer.world.until(step, "an answer")


def test_the_next_head_has_its_own_time(world: Make) -> None:
    peer = world(header_timeout=SHORT, keepalive_timeout=3600).connect()
    peer.send(GET)
    peer.answer()
    peer.world.until(lambda: peer.task.deadline > peer.world.loop.now + 3000, "keepalive_timeout")
    peer.send(GET[:5])
    assert answers(peer.rest(), ["GET"])[0].status == 408


def test_an_idle_connection_is_closed_after_keepalive_timeout(world: Make) -> None:
    peer = world(keepalive_timeout=SHORT).connect()
    peer.send(GET)
    peer.answer()
    start = time.monotonic()
    assert peer.rest() == b""
    assert time.monotonic() - start >= SHORT - 0.02


def test_a_body_that_stops_coming_is_a_408(world: Make) -> None:
    here = world(echo, body_timeout=SHORT)
    peer = here.connect()
    peer.send(POST + b"he")
    assert answers(peer.rest(), ["POST"])[0].status == 408
    assert [entry.status for entry in here.log] == [408]


def test_a_client_that_waits_to_continue_has_its_time_too(world: Make) -> None:
    peer = world(echo, body_timeout=SHORT).connect()
    peer.send(POST[:-2] + b"Expect: 100-continue\r\n\r\n")
    assert [answer.status for answer in answers(peer.rest(), ["POST"])] == [100, 408]


def test_body_timeout_is_between_two_reads(world: Make) -> None:
    peer = world(echo, body_timeout=3600, min_receive_rate=0).connect()
    deadlines = []
    peer.send(POST)
    for byte in b"hell":
        deadlines.append(peer.task.deadline)
        peer.send(bytes([byte]))
        peer.until(lambda: inf > peer.task.deadline != deadlines[-1], "a new deadline")
    assert deadlines == sorted(deadlines)
    peer.send(b"o")
    assert peer.answer("POST").body == b"hello"


def test_a_body_that_nobody_reads_and_that_stops_coming_ends_the_connection(world: Make) -> None:
    peer = world(ignore, body_timeout=SHORT).connect()
    peer.send(POST + b"he")
    assert [answer.status for answer in answers(peer.rest(), ["POST"])] == [200]


def test_a_handler_has_all_the_time_it_takes(world: Make) -> None:
    """Whatever limits there are for it are not the connection's."""

    async def handle(request: Request) -> Response:
        assert peer.task.deadline == inf
        await here.loop.sleep(0.1)
        return Response(200)

    here = world(handle, header_timeout=SHORT, body_timeout=SHORT, keepalive_timeout=SHORT, send_timeout=SHORT)
    peer = here.connect()
    peer.send(GET)
    assert peer.answer().status == 200


def test_a_client_that_takes_nothing_is_dropped_after_send_timeout(world: Make) -> None:
    here = world(answering(lambda request: Response(200, (), b"x" * 20_000_000)), send_timeout=SHORT)
    peer = here.connect()
    peer.send(GET)
    peer.until_gone()
    assert [entry.status for entry in here.log] == [200]  # its head went out


def test_a_client_that_takes_a_little_now_and_then_is_served(world: Make) -> None:
    size = 4_000_000
    here = world(answering(lambda request: Response(200, (), b"x" * size)), send_timeout=3600)
    peer = here.connect(buffer=4096)
    peer.send(GET)
    deadlines: set[float] = set()

    def sip() -> bool:
        deadlines.add(peer.task.deadline)
        with suppress(BlockingIOError):
            peer.got += peer.socket.recv(100_000)
        return len(peer.got) > size

    here.until(sip, "the whole body")
    assert peer.answer().body == b"x" * size
    assert len(deadlines - {inf}) > 3, "each bit that is taken prolongs the deadline"


# ---- what arrives while we are busy with somebody else is in time


def held_up(here: World, peer: Peer, data: bytes) -> None:
    """Another client holds the loop beyond the time-out of `peer`, and for a turn in which that sends `data`."""

    async def stall(request: Request) -> Response:
        time.sleep(3 * SHORT)
        await PAUSE  # until the next turn has asked which descriptors are ready
        peer.socket.sendall(data)
        return Response(200)

    usual, here.handler = here.handler, stall
    other = here.connect()
    other.send(GET)
    assert other.answer().status == 200
    here.handler = usual


@pytest.mark.parametrize("draining", [False, True])
def test_a_request_that_arrives_while_the_loop_is_busy_is_answered(world: Make, draining: bool) -> None:
    """The keep-alive time-out and the drain end idle connections; nginx would make a 502 of it."""
    here = world(keepalive_timeout=10 if draining else SHORT, lame_duck=SHORT)
    peer = here.connect()
    peer.send(GET)
    peer.answer()
    here.until(lambda: peer.connection.idle, "an idle connection")
    if draining:
        here.server.drain()
    held_up(here, peer, GET)
    assert peer.take(b"\r\n\r\n").startswith(b"HTTP/1.1 200 ")


def test_a_body_that_arrives_while_the_loop_is_busy_is_in_time(world: Make) -> None:
    here = world(echo, body_timeout=SHORT)
    peer = here.connect()
    peer.send(POST)
    here.until(lambda: peer.connection.request, "a request")
    held_up(here, peer, b"hello")
    assert peer.answer("POST").body == b"hello"


def test_a_head_that_arrives_while_the_loop_is_busy_is_in_time(world: Make) -> None:
    here = world(header_timeout=SHORT)
    peer = here.connect()
    peer.send(GET[:-4])
    here.until(lambda: peer.connection.stream.unread, "the beginning of a head")
    held_up(here, peer, b"\r\n\r\n")
    assert peer.answer().status == 200


# ---- and clients are told how long they may idle


@pytest.mark.parametrize(("timeout", "told"), [(130, "timeout=129"), (5.5, "timeout=4"), (2, "timeout=1"), (1.5, None)])
@pytest.mark.parametrize("asked", [GET, b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"], ids=["1.1", "1.0"])
def test_clients_are_told_a_second_less_than_they_have(
    world: Make, timeout: float, told: str | None, asked: bytes
) -> None:
    """Node's agents obey it, and do not ask on a connection that is just being closed."""
    peer = world(keepalive_timeout=timeout).connect()
    peer.send(asked)
    answer = peer.answer()
    assert answer.headers.get("keep-alive") == told
    if told:
        assert answer.headers["connection"] == "keep-alive", "which names the field (RFC 9110 §7.6.1)"


def test_who_is_not_to_come_again_is_told_nothing_of_it(world: Make) -> None:
    peer = world().connect()
    peer.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    (answer,) = answers(peer.rest(), ["GET"])
    assert (answer.headers["connection"], "keep-alive" in answer.headers) == ("close", False)
