"""Request bodies on the wire: 100 Continue, what nobody reads, and what is refused while it still comes."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from prefork.http.h1.body import DISCARD
from prefork.http.message import Request, Response
from prefork.net.stream import Bounds
from tests.http.conftest import GET, Peer, World, answering, echo, ignore
from tests.http.h1.oracle import answers

Make = Callable[..., World]

POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
EXPECT = POST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"


def by_length(body: bytes) -> bytes:
    return POST + b"Content-Length: %d\r\n\r\n" % len(body) + body


def by_chunks(body: bytes) -> bytes:
    pieces = [body[at : at + 10_000] for at in range(0, len(body), 10_000)]
    encoded = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return POST + b"Transfer-Encoding: chunked\r\n\r\n" + encoded + b"0\r\n\r\n"


# ---- reading


@pytest.mark.parametrize("frame", [by_length, by_chunks])
@pytest.mark.parametrize("size", [1, 63, 64, 65, 100_000])
def test_a_body_arrives_whole_and_the_next_request_after_it(
    world: Make, frame: Callable[[bytes], bytes], size: int
) -> None:
    body = os.urandom(size)
    peer = world(echo, body_buffer=64).connect()
    for _ in range(2):
        peer.send(frame(body))
        assert peer.answer("POST").body == body
    peer.send(frame(body) + GET)
    assert [peer.answer("POST").body, peer.answer().body] == [body, b""]


@pytest.mark.parametrize(("size", "spooled"), [(64, False), (65, True)])
@pytest.mark.parametrize("frame", [by_length, by_chunks])
def test_a_body_above_body_buffer_is_spooled_to_disk(
    world: Make, frame: Callable[[bytes], bytes], size: int, spooled: bool
) -> None:
    async def handle(request: Request) -> Response:
        with await request.body.spool() as file:
            try:
                on_disk = file.fileno() >= 0
            except OSError:
                on_disk = False
            return Response(200, (), f"{on_disk} {file.tell()} {len(file.read())}".encode())

    assert world(handle, body_buffer=64).talk(frame(b"x" * size), "POST")[0].body == f"{spooled} 0 {size}".encode()


def test_a_body_can_be_read_piece_by_piece(world: Make) -> None:
    seen: list[bytes] = []

    async def handle(request: Request) -> Response:
        async for piece in request.body.chunks():
            seen.append(piece)
        return Response(200)

    peer = world(handle).connect()
    peer.send(POST + b"Transfer-Encoding: chunked\r\n\r\n", b"3\r\nabc\r\n", b"2\r\nde", b"\r\n0\r\n", b"\r\n")
    assert peer.answer("POST").status == 200
    assert b"".join(seen) == b"abcde"
    assert b"" not in seen


def test_a_body_that_was_read_has_nothing_more(world: Make) -> None:
    async def handle(request: Request) -> Response:
        first, second = await request.body.spool(), await request.body.spool()
        with first, second:
            return Response(200, (), b"%d %d" % (len(first.read()), len(second.read())))

    assert [answer.body for answer in world(handle).talk(by_length(b"abc") + GET, "POST GET")] == [b"3 0", b"0 0"]


# ---- 100 Continue: RFC 9110 §10.1.1


def test_a_client_that_waits_is_told_to_continue_when_the_body_is_read(world: Make) -> None:
    async def handle(request: Request) -> Response:
        assert peer.got == b""
        return await echo(request)

    peer = world(handle).connect()
    peer.send(EXPECT)
    assert peer.take(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    peer.send(b"hello" + GET)
    assert [peer.answer("POST").body, peer.answer().body] == [b"hello", b""]


def test_a_client_that_waits_is_not_told_to_continue_when_nobody_reads(world: Make) -> None:
    """And since it may send the body or not, the connection cannot go on."""
    peer = world(ignore).connect()
    peer.send(EXPECT)
    assert [answer.status for answer in answers(peer.rest(), ["POST"])] == [200]


def test_a_body_that_nobody_asked_for_is_never_taken_for_a_request(world: Make) -> None:
    peer = world(ignore).connect()
    peer.send(EXPECT + b"GET /")
    assert [answer.status for answer in answers(peer.rest(), ["POST"])] == [200]


def test_a_client_that_does_not_wait_after_all_is_served(world: Make) -> None:
    found = world(echo).talk(EXPECT + b"hello" + GET, "POST GET")
    assert [(answer.status, answer.body) for answer in found if answer.status != 100] == [(200, b"hello"), (200, b"")]


def test_an_http_1_0_client_gets_no_interim_response(world: Make) -> None:
    """RFC 9110 §15.2; §10.1.1: the expectation of an HTTP/1.0 client MUST be ignored."""
    peer = world(echo).connect()
    peer.send(EXPECT.replace(b"1.1", b"1.0"))
    peer.until(lambda: peer.connection.request is not None, "the request")
    peer.send(b"hello")
    assert [(answer.status, answer.body) for answer in answers(peer.rest(), ["POST"])] == [(200, b"hello")]


def test_a_body_too_large_is_refused_before_it_is_sent(world: Make) -> None:
    peer = world(echo, max_body=4).connect()
    peer.send(EXPECT)
    assert [answer.status for answer in answers(peer.rest(), ["POST"])] == [413]


def test_another_expectation_is_refused(world: Make) -> None:
    assert world().talk(GET[:-2] + b"Expect: 200-ok\r\n\r\n")[0].status == 417


def test_an_expectation_without_a_body_expects_nothing(world: Make) -> None:
    found = world(echo).talk((GET[:-2] + b"Expect: 100-continue\r\n\r\n") * 2, "GET GET")
    assert [answer.status for answer in found] == [200, 200]


# ---- what nobody reads


@pytest.mark.parametrize("frame", [by_length, by_chunks])
@pytest.mark.parametrize("handler", [ignore, answering(lambda request: 1 / 0)], ids=["ignored", "failed"])  # type: ignore[arg-type, return-value]
def test_a_body_that_nobody_reads_is_read_over(world: Make, frame: Callable[[bytes], bytes], handler: Any) -> None:
    here = world(handler)
    peer = here.connect()
    peer.send(frame(b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n" * 3))
    assert peer.answer("POST").status in {200, 500}
    peer.send(frame(b"x" * 100_000) + GET)
    assert peer.answer("POST").body != b"/smuggled"
    assert peer.answer().body != b"/smuggled"
    assert [request and request.method for _, request, *_ in here.log] == ["POST", "POST", "GET"]
    here.errors.clear()


def test_a_body_read_in_part_is_read_over(world: Make) -> None:
    async def handle(request: Request) -> Response:
        async for piece in request.body.chunks():
            return Response(200, (), piece[:1])
        return Response(200, (), b"none")

    peer = world(handle).connect()
    for frame in (by_length, by_chunks):
        peer.send(frame(b"x" * 200_000) + GET)
        assert [peer.answer("POST").body, peer.answer().body] == [b"x", b"none"]


@pytest.mark.parametrize("frame", [by_length, by_chunks])
def test_a_long_body_that_nobody_reads_ends_the_connection(world: Make, frame: Callable[[bytes], bytes]) -> None:
    """The client still gets its answer: no reset takes it away."""
    peer = world(ignore, max_body=0).connect()
    peer.send(frame(b"x" * (DISCARD + 200_000)))
    peer.shutdown()
    assert answers(peer.rest(), ["POST"])[0].body == b"/"


def test_a_body_that_is_malformed_and_nobody_reads_ends_the_connection(world: Make) -> None:
    peer = world(ignore).connect()
    peer.send(POST + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n" + GET)
    assert [answer.status for answer in answers(peer.rest(), ["POST"])] == [200]


# ---- refusals


BAD_CHUNKS = POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nxyz\r\n"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        (b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", 501),
        (b"GET /" + b"a" * 400 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET /" + b"a" * 400, 414),
        (GET[:-2] + b"X: " + b"a" * 400 + b"\r\n\r\n", 431),
        (GET[:-2] + b"X: " + b"a" * 400, 431),
        (GET[:-2] + b"X: y\r\n" * 9 + b"\r\n", 431),
        (POST + b"Content-Length: 101\r\n\r\n", 413),
        (POST + b"Content-Length: 999999999999999999\r\n\r\nx", 413),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n65\r\n", 413),
        (POST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (BAD_CHUNKS, 400),
    ],
)  # fmt: skip
def test_a_client_that_is_refused_is_told_so_and_let_go(world: Make, data: bytes, status: int) -> None:
    here = world(echo, max_head=300, max_fields=9, max_body=100)
    peer = here.connect()
    peer.send(data)
    answer = answers(peer.rest(), ["POST"])[0]
    assert (answer.status, answer.headers["connection"]) == (status, "close")
    assert answer.body.startswith(str(status).encode())


def test_a_refusal_comes_after_the_answers_before_it(world: Make) -> None:
    found = world(echo).talk(GET * 2 + b"nonsense\r\n\r\n" + GET, "GET GET GET GET")
    assert [answer.status for answer in found] == [200, 200, 400]


def test_a_refused_head_request_gets_no_body(world: Make) -> None:
    found = world(echo, max_body=1).talk(b"HEAD / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n", "HEAD")
    assert (found[0].status, found[0].body) == (413, b"")


@pytest.mark.parametrize("data", [POST + b"Content-Length: 5000000\r\n\r\n", BAD_CHUNKS, b"nonsense\r\n\r\n"])
def test_a_client_that_is_still_sending_gets_to_read_why(world: Make, data: bytes) -> None:
    """RFC 9112 §9.6: the connection is closed in stages, so that no reset overtakes the answer."""
    here = world(echo, max_body=1000)
    peer = here.connect()
    peer.send(data)
    for _ in range(40):  # it does not look at what comes while it sends
        peer.send(b"x" * 50_000)
    peer.shutdown()
    assert answers(peer.rest(), ["POST"])[0].status in {400, 413}
    peer.until_gone()


def test_a_client_that_never_stops_sending_is_let_go_in_the_end(world: Make) -> None:
    here = world(echo, bounds=Bounds(linger=0.05))
    flood(here, here.connect())


def test_a_client_that_sends_too_much_after_a_refusal_is_let_go(world: Make) -> None:
    here = world(echo, bounds=Bounds(linger=3600, linger_bytes=1_000_000))
    flood(here, here.connect())


def flood(here: World, peer: Peer) -> None:
    peer.send(b"nonsense\r\n\r\n")

    def gone() -> bool:
        try:
            peer.socket.send(b"x" * 65536)
        except BlockingIOError:
            pass
        except OSError:
            return True
        return False

    here.until(gone, "the end of the server's patience")
    peer.until_gone()


def test_a_silent_client_that_was_refused_is_let_go(world: Make) -> None:
    peer = world(bounds=Bounds(linger=0.05)).connect()
    peer.send(b"nonsense\r\n\r\n")
    peer.until_gone()


def test_many_small_chunks_let_others_have_their_turn(world: Make) -> None:
    here = world(echo)
    uploader, other = here.connect(), here.connect()
    body = b"1\r\na\r\n" * 10_000 + b"0\r\n\r\n"
    uploader.socket.sendall(b"POST /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
    other.socket.sendall(GET)
    assert uploader.answer("POST").body == b"a" * 10_000
    assert [entry.request.method for entry in here.log if entry.request] == ["GET", "POST"]
