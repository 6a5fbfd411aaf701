"""Slow and greedy clients: minimum rates both ways, connections per client, and proxies that speak for others."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from prefork.http.message import Body, Client, Request, Response
from prefork.net import stream
from tests.http.conftest import GET, Pieces, World, answering, echo
from tests.http.h1.oracle import answers

Make = Callable[..., World]

POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 500\r\n\r\n"


NO_GRACE = stream.Bounds(grace=0.05)


def test_a_body_below_the_minimum_rate_is_408_though_each_byte_is_in_time(world: Make) -> None:
    here = world(echo, body_timeout=60, min_receive_rate=1000, bounds=NO_GRACE)
    peer = here.connect()
    peer.send(POST)
    began = time.monotonic()
    while not here.log:
        peer.send(b"x")
        here.loop.turn()
        assert time.monotonic() - began < 5, "a drip that is not ended"
    assert [answer.status for answer in answers(peer.rest(), ["POST"])] == [408]


def test_a_body_at_the_minimum_rate_may_take_longer_than_the_grace(world: Make) -> None:
    here = world(echo, body_timeout=60, min_receive_rate=10, bounds=NO_GRACE)
    peer = here.connect()
    peer.send(POST)
    for _ in range(10):  # 50 bytes are worth 5 seconds each
        peer.send(b"x" * 50)
        until = time.monotonic() + 0.03
        here.until(lambda until=until: time.monotonic() > until, "the next moment")
    assert peer.answer("POST").body == b"x" * 500


def test_a_client_that_reads_below_the_minimum_rate_is_dropped(world: Make) -> None:
    here = world(
        answering(lambda request: Response(200, (), b"x" * 8_000_000)),
        send_timeout=60,
        min_send_rate=1 << 30,
        bounds=NO_GRACE,
    )
    peer = here.connect(buffer=4096)
    peer.send(GET)
    peer.until_gone()
    assert here.log[0].status == 200


def test_without_a_minimum_rate_only_the_timeouts_count() -> None:
    pace = stream.Pace(0, 7.0)
    assert pace.patience == 7.0


def test_what_has_moved_buys_time() -> None:
    pace = stream.Pace(100, 60.0)
    pace.moved(1000)
    assert 14.0 < pace.patience <= 15.0


def test_what_has_moved_buys_one_timeout_at_most() -> None:
    pace = stream.Pace(100, 30.0)
    pace.moved(1_000_000)
    assert pace.patience == 30.0
    pace.waited(20.0)
    pace.moved(500)
    assert pace.patience == 15.0


def test_a_grace_longer_than_the_timeout_lasts() -> None:
    pace = stream.Pace(100, 1.0)
    pace.waited(3.0)
    pace.moved(1)
    assert pace.patience == 1.0


def test_a_body_that_drips_after_a_burst_is_408(world: Make) -> None:
    here = world(echo, body_timeout=0.3, min_receive_rate=1000, bounds=NO_GRACE)
    peer = here.connect()
    peer.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n", b"x" * 100_000)
    began = time.monotonic()
    while not here.log:
        peer.send(b"x")
        here.loop.turn()
        assert time.monotonic() - began < 5, "a burst has paid for the drip"
    assert [answer.status for answer in answers(peer.rest(), ["POST"])] == [408]


def test_more_connections_than_one_client_may_have_are_503_and_others_are_served(world: Make) -> None:
    here = world(echo, connections_per_client=2, trusted_proxies=())
    first, second = here.connect(), here.connect()
    third = here.connect()
    third.send(GET)
    assert [answer.status for answer in answers(third.rest(), ["GET"])] == [503]
    for peer in (first, second):
        peer.send(GET)
        assert peer.answer().status == 200


def test_who_leaves_may_come_again(world: Make) -> None:
    here = world(echo, connections_per_client=1, trusted_proxies=())
    for _ in range(3):
        peer = here.connect()
        peer.send(GET)
        assert peer.answer().status == 200
        peer.close()
        peer.until_gone()
    assert not here.server._per_client


def test_a_proxy_of_ours_may_have_any_number(world: Make) -> None:
    here = world(echo, connections_per_client=1, trusted_proxies=("127.0.0.1",))
    peers = [here.connect() for _ in range(3)]
    for peer in peers:
        peer.send(GET)
        assert peer.answer().status == 200


def whoever(request: Request) -> Response:
    return Response(200, (), f"{request.client.address} {request.client.scheme}".encode())


FORWARDED = b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: %b\r\nX-Forwarded-Proto: https\r\n\r\n"


def test_each_request_of_a_proxys_connection_has_its_own_client(world: Make) -> None:
    here = world(answering(whoever), trusted_proxies=("127.0.0.0/8",))
    peer = here.connect()
    for address in (b"198.51.100.1", b"198.51.100.2"):
        peer.send(FORWARDED % address)
        assert peer.answer().body == address + b" https"
    peer.send(GET)
    assert peer.answer().body == b"127.0.0.1 http"
    assert [client.address for client, *_ in here.log] == ["198.51.100.1", "198.51.100.2", "127.0.0.1"]


def test_without_trusted_proxies_nobody_speaks_for_others(world: Make) -> None:
    peer = world(answering(whoever), trusted_proxies=()).connect()
    peer.send(FORWARDED % b"198.51.100.1")
    assert peer.answer().body == b"127.0.0.1 http"


def test_a_proxy_on_this_machine_is_trusted_unless_told_otherwise(world: Make) -> None:
    peer = world(answering(whoever)).connect()
    peer.send(FORWARDED % b"198.51.100.1")
    assert peer.answer().body == b"198.51.100.1 https"


def told(request: Request) -> Response:
    return Response(200, (), ",".join(sorted(request.headers.fields)).encode())


@pytest.mark.parametrize("proxies", [(), ("192.0.2.1",)])
def test_what_a_stranger_says_is_dropped_whoever_is_trusted(world: Make, proxies: tuple[str, ...]) -> None:
    peer = world(answering(told), trusted_proxies=proxies).connect()
    for _ in range(3):  # the head is new, known, known as a whole
        peer.send(FORWARDED % b"198.51.100.1")
        assert peer.answer().body == b"host"


def test_what_is_dropped_of_a_stranger_is_kept_of_a_proxy_with_the_same_head(world: Make) -> None:
    here = world(answering(told), trusted_proxies=("192.0.2.1",))
    proxy, stranger = here.connect(), here.connect()
    proxy.connection.client = Client("192.0.2.1", 4711, "http", "127.0.0.1", "80")
    for _ in range(3):
        for peer, fields in ((stranger, b"host"), (proxy, b"host,x-forwarded-for,x-forwarded-proto")):
            peer.send(FORWARDED % b"198.51.100.1")
            assert peer.answer().body == fields


@pytest.mark.parametrize("body", [b"", Pieces(b"abc")])
def test_where_a_file_lies_an_application_tells_proxies_alone(world: Make, body: Body) -> None:
    fields = (("X-Accel-Redirect", "/private/file"),)
    for proxies, told in (((), False), (("127.0.0.1",), True)):
        peer = world(answering(lambda request: Response(200, fields, body)), trusted_proxies=proxies).connect()
        peer.send(GET)
        assert (b"/private/file" in peer.take(b"\r\n\r\n")) is told
