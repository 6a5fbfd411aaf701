"""Applications that fail: before the head is out a 500, after it a cut that no client takes for the end."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import h11
import pytest

from prefork.errors import BadRequest, Disconnected, TimedOut
from prefork.http.message import Body, Fields, FileSegment, Request, Response
from prefork.runtime.task import PAUSE
from tests.http.conftest import GET, Peer, Pieces, World, answering, chunked, ignore
from tests.http.h1.oracle import answers

Make = Callable[..., World]
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"


def boom() -> ZeroDivisionError:
    return ZeroDivisionError("boom")


def raising(error: BaseException) -> Any:
    async def handle(request: Request) -> Response:
        if request.path == "/fine":
            return Response(200, (), b"fine")
        raise error

    return handle


def only_error(here: World) -> logging.LogRecord:
    """The one thing that was logged as an error."""
    (record,) = here.errors
    here.errors.clear()
    return record


# ---- before the head is out


@pytest.mark.parametrize(
    "error", [boom(), SystemExit(3), TimedOut(), OSError("disk full"), RecursionError(), UnicodeError()]
)
def test_a_handler_that_raises_is_a_500_and_the_connection_lives_on(world: Make, error: BaseException) -> None:
    here = world(raising(error))
    peer = here.connect()
    peer.send(b"GET /bad?a HTTP/1.1\r\nHost: a\r\n\r\n")
    answer = peer.answer()
    assert (answer.status, answer.body) == (500, b"500 Internal Server Error\n")
    record = only_error(here)
    assert "GET /bad?a failed" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[1] is error
    peer.send(b"GET /fine HTTP/1.1\r\nHost: a\r\n\r\n")
    assert peer.answer().body == b"fine"
    assert [entry.status for entry in here.log] == [500, 200]


def test_the_answer_says_nothing_of_the_error(world: Make) -> None:
    here = world(raising(ZeroDivisionError("the secret")))
    answer = here.talk(GET)[0]
    assert "secret" not in f"{answer.headers} {answer.body!r} {answer.reason}"
    here.errors.clear()


def test_a_route_that_cannot_be_found_out_is_a_500(world: Make) -> None:
    def find(request: Request) -> Any:
        raise boom()

    here = world()
    here.server.find = find
    assert [answer.status for answer in here.talk(GET * 2, "GET GET")] == [500, 500]
    here.errors.clear()


NONSENSE: dict[str, Callable[[], Any]] = {
    "no response": lambda: None,
    "a status of 99": lambda: Response(99),
    "a status of 1000": lambda: Response(1000),
    "no status": lambda: Response(None),  # type: ignore[arg-type]
    "a field with CR LF": lambda: Response(200, (("A", "b\r\nC: d"),)),
    "fields that are no pairs": lambda: Response(200, (("A",),)),  # type: ignore[arg-type]
    "fields of sets": lambda: Response(200, ({"A", "b"},)),  # type: ignore[arg-type]
    "a field of unhashable values": lambda: Response(200, (["A", ["b"]],)),  # type: ignore[arg-type]
    "fields of bytes": lambda: Response(200, ((b"A", b"b"),)),  # type: ignore[arg-type]
    "a length that is not true": lambda: Response(200, (("Content-Length", "5"),), b"abc"),
}


@pytest.mark.parametrize("nonsense", NONSENSE)
def test_a_response_that_cannot_be_sent_is_a_500_and_the_connection_lives_on(world: Make, nonsense: str) -> None:
    here = world(answering(lambda request: NONSENSE[nonsense]()))
    found = here.talk(GET * 2, "GET GET")
    assert [answer.status for answer in found] == [500, 500]
    assert all("c" not in answer.headers for answer in found)
    assert len(here.errors) == 2
    here.errors.clear()


def test_a_response_that_cannot_be_sent_is_closed(world: Make) -> None:
    pieces, closed = Pieces(b"abc"), []
    segment = FileSegment(-1, 0, 5, lambda: closed.append(True))
    bodies: list[Body] = [pieces, segment]
    here = world(answering(lambda request: Response(200, (("A", "\n"),), bodies.pop())))
    assert [answer.status for answer in here.talk(GET * 2, "GET GET")] == [500, 500]
    here.errors.clear()
    assert (pieces.closed, pieces.started, closed) == (1, False, [True])


def test_a_handler_may_refuse_the_client(world: Make) -> None:
    """As reading a body does: no fault of the application's, so it is not logged as one."""
    found = world(raising(BadRequest("no"))).talk(GET * 2, "GET GET")
    assert [(answer.status, answer.headers["connection"]) for answer in found] == [(400, "close")]


def test_a_handler_that_finds_the_client_gone_ends_the_connection(world: Make) -> None:
    assert world(raising(Disconnected("gone"))).talk(GET) == []


def test_a_client_that_leaves_is_not_recorded_with_the_status_of_an_earlier_answer(world: Make) -> None:
    handler, _ = chunked(b"abc")

    async def handle(request: Request) -> Response:
        with await request.body.spool():
            return await handler(request)

    here = world(handle)
    assert [answer.status for answer in here.talk(GET + POST + b"ab", "GET POST")] == [200]
    assert [entry.status for entry in here.log] == [200, 499]


# ---- in mid-body


FRAMINGS: dict[str, tuple[bytes, Fields]] = {
    "chunked": (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", ()),
    "by length": (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", (("Content-Length", "6"),)),
    "by length, 1.0": (b"GET / HTTP/1.0\r\n\r\n", (("Content-Length", "6"),)),
    "to the end": (b"GET / HTTP/1.0\r\n\r\n", ()),
}


@pytest.fixture(params=FRAMINGS)
def framing(request: pytest.FixtureRequest) -> tuple[bytes, Fields]:
    return FRAMINGS[request.param]


def test_a_body_that_fails_is_cut_so_that_the_client_can_tell(world: Make, framing: Any) -> None:
    """RFC 9112 §8: by what is missing; where the end of the connection is the end of the body, by a reset."""
    data, fields = framing
    body = Pieces(b"abc", boom())
    here = world(answering(lambda request: Response(200, fields, body)))
    peer = here.connect()
    peer.send(data)
    with pytest.raises((h11.RemoteProtocolError, ConnectionResetError)):
        answers(peer.rest(), ["GET"])
    peer.until_gone()
    assert body.closed == 1
    assert "boom" in only_error(here).getMessage()


@pytest.mark.parametrize("how", ["it stalls", "the server stops"])
def test_a_body_whose_client_does_not_get_the_rest_is_cut_so_that_it_can_tell(
    world: Make, framing: Any, how: str
) -> None:
    """As one does that reads too slowly, or that is still being sent to when time is up."""
    data, fields = framing
    fields = tuple((name, "60000000") for name, _ in fields)
    body = Pieces(*[b"x" * 1_000_000] * 60)
    here = world(answering(lambda request: Response(200, fields, body)), send_timeout=0.05)
    peer = here.connect()
    peer.send(data)
    if how == "the server stops":
        here.until(lambda: peer.connection.stream.sent, "some of it")
        here.server.cut()
        peer.task.cancel()
    peer.until_gone()
    with pytest.raises((h11.RemoteProtocolError, ConnectionResetError)):
        answers(peer.rest(), ["GET"])
    assert body.closed == 1


def test_a_body_that_ends_is_not_cut(world: Make, framing: Any) -> None:
    data, fields = framing
    body = Pieces(b"abc", b"", b"def")
    here = world(answering(lambda request: Response(200, fields, body)))
    peer = here.connect()
    peer.send(data)
    peer.shutdown()
    assert answers(peer.rest(), ["GET"])[0].body == b"abcdef"
    assert (body.closed, here.errors) == (1, [])


def test_an_interrupted_application_is_cut_as_well(world: Make) -> None:
    handler, body = chunked(b"abc", SystemExit(1))
    here = world(handler)
    with pytest.raises(h11.RemoteProtocolError):
        here.talk(GET)
    assert body.closed == 1
    only_error(here)


@pytest.mark.parametrize("pieces", [[b"abc"], [b"abc", b"de"], [b"a", b"", b"b"]])
def test_a_body_shorter_than_its_content_length_is_cut(world: Make, pieces: list[bytes]) -> None:
    body = Pieces(*pieces)
    here = world(answering(lambda request: Response(200, (("Content-Length", "6"),), body)))
    with pytest.raises(h11.RemoteProtocolError):
        here.talk(GET * 2, "GET GET")
    assert body.closed == 1
    assert f"{6 - len(b''.join(pieces))} bytes shorter" in only_error(here).getMessage()


@pytest.mark.parametrize("pieces", [[boom()], [b"", boom()]])
def test_a_body_that_fails_before_its_first_piece_is_a_500(world: Make, pieces: list[Any]) -> None:
    handler, body = chunked(*pieces)
    here = world(handler)
    assert [answer.status for answer in here.talk(GET * 2, "GET GET")] == [500]
    assert [entry.status for entry in here.log] == [500]
    assert body.closed == 1
    only_error(here)


@pytest.mark.parametrize("pieces", [[b"abcdefg"], [b"abcdef", b"g"], [b"abc", b"defgh"], [b"a"] * 7])
def test_a_body_longer_than_its_content_length_never_reaches_the_next_response(
    world: Make, pieces: list[bytes]
) -> None:
    body = Pieces(*pieces)
    here = world(answering(lambda request: Response(200, (("Content-Length", "6"),), body)))
    found = here.talk(GET * 2, "GET GET")
    assert [answer.body for answer in found] == [b"".join(pieces)[:6]]
    assert body.closed == 1
    assert "longer" in only_error(here).getMessage()


def test_a_body_with_a_content_length_of_nothing(world: Make) -> None:
    bodies = [Pieces(), Pieces(b"")]
    here = world(answering(lambda request: Response(200, (("Content-Length", "0"),), bodies.pop())))
    assert [answer.body for answer in here.talk(GET * 2, "GET GET")] == [b"", b""]


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
def test_a_body_that_is_not_sent_is_not_asked_for_and_closed(world: Make, method: str, status: int) -> None:
    body = Pieces(b"abc")
    here = world(answering(lambda request: Response(status, (), body)))
    found = here.talk(GET.replace(b"GET", method.encode()) * 2, f"{method} {method}")
    assert [answer.body for answer in found] == [b"", b""]
    assert (body.started, body.closed) == (False, 2)


def test_a_body_whose_client_leaves_is_closed(world: Make) -> None:
    class Endless(Pieces):
        async def __anext__(self) -> bytes:
            return b"x" * 100_000

    body = Endless()
    here = world(answering(lambda request: Response(200, (), body)))
    peer = here.connect()
    peer.send(GET)
    peer.until(lambda: len(peer.got) > 1_000_000, "a part of it")
    peer.close()
    peer.until_gone()
    assert (body.closed, here.errors) == (1, [])


def test_an_endless_body_lets_others_have_their_turn(world: Make) -> None:
    class Endless(Pieces):
        async def __anext__(self) -> bytes:
            return b"x"

    here = world(answering(lambda request: Response(200, (), Endless() if request.path == "/endless" else b"fine")))
    greedy, modest = here.connect(), here.connect()
    greedy.send(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
    modest.send(GET)
    assert modest.answer().body == b"fine"


def test_a_connection_that_was_cut_takes_no_other_with_it(world: Make) -> None:
    """Its descriptor may be another connection's by the time that its body has been closed."""
    newcomers: list[Peer] = []

    class Slow(Pieces):
        prompt = False

        async def aclose(self) -> None:
            with lowest_free_descriptor(peer.connection.stream.fd):
                newcomers.append(here.connect(tcp=False))
            for _ in range(5):
                await PAUSE

    async def handle(request: Request) -> Response:
        return await ignore(request) if request.line.minor else Response(200, (), Slow(b"abc", boom()))

    here = world(handle)
    peer = here.connect()
    peer.send(b"GET / HTTP/1.0\r\n\r\n")
    peer.until_gone()
    only_error(here)
    newcomers[0].send(GET)
    assert newcomers[0].answer().body == b"/"


@contextmanager
def lowest_free_descriptor(number: int) -> Iterator[None]:
    """Descriptors below `number` are all taken; it is the next to be given out if it is free."""
    taken = [os.dup(0)]
    while taken[-1] < number:
        taken.append(os.dup(0))
    os.close(taken.pop())
    yield
    for each in taken:
        os.close(each)


def test_a_client_on_a_unix_socket_fails_as_well(world: Make) -> None:
    here = world(raising(boom()))
    assert here.talk(GET, tcp=False)[0].status == 500
    only_error(here)
