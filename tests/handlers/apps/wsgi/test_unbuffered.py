"""Request bodies that the application reads as they arrive: `request_buffering = false`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf
from queue import SimpleQueue
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest

from prefork.errors import BodyLost
from prefork.handlers.apps.wsgi.input import BodyReader
from prefork.http.message import Handler
from prefork.runtime.calls import Call
from prefork.runtime.loop import Loop
from prefork.runtime.poller import make_poller
from prefork.runtime.task import PARKED, Wait
from prefork.settings.schema import Http
from tests.handlers.exchange import exchange, meet, parse, reading, request, wsgi

Environ = dict[str, Any]
Start = Callable[..., Any]
LINES = b"first\n\nthird is longer\nlast, without an end"
HTTP = Http(max_body=1 << 20, body_timeout=0.3)


@pytest.fixture(params=["inline", "pinned"])
def unbuffered(request: pytest.FixtureRequest) -> Callable[..., Handler]:
    """A Handler for an application, by the two ways that there are of calling it."""
    return lambda application, **how: wsgi(application, pinned=request.param == "pinned", buffered=False, **how)


def post(body: bytes, sent: bytes | None = None, chunked: bool = False) -> bytes:
    """A request with `body`, of which `sent` (default: all) comes along."""
    if chunked:
        wire = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (body[:3], body[3:]) if piece) + b"0\r\n\r\n"
        return request("/", "Transfer-Encoding: chunked", method="POST", body=wire)
    head = request("/", f"Content-Length: {len(body)}", method="POST")
    return head + (body if sent is None else sent)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("times", [1, 5000])
@pytest.mark.parametrize(
    ("read", "expected"),
    [
        (lambda input: input.read(), lambda body: body),
        (lambda input: input.read(7) + b"|" + input.read(), lambda body: body[:7] + b"|" + body[7:]),
        (lambda input: input.read(0), lambda body: b""),
        (lambda input: input.read(1 << 20), lambda body: body),
        (lambda input: (input.read(), input.read(), input.read(1)), lambda body: (body, b"", b"")),
        (lambda input: (input.readline(), input.readline(3)), lambda body: (b"first\n", b"\n")),
        (lambda input: input.readlines(), lambda body: body.splitlines(True)),
        (lambda input: list(input), lambda body: body.splitlines(True)),
    ],
)
def test_what_is_read_is_what_was_sent(
    unbuffered: Callable[..., Handler],
    read: Callable[[Any], Any],
    expected: Callable[[bytes], Any],
    times: int,
    chunked: bool,
) -> None:
    body = LINES * times
    answer = parse(exchange(unbuffered(reading(read)), post(body, chunked=chunked), http=HTTP))
    assert (answer.status, answer.body) == (200, repr(expected(body)).encode())


def test_the_client_sends_more_once_it_has_read_what_became_of_the_beginning(
    unbuffered: Callable[..., Handler],
) -> None:
    def application(environ: Environ, start_response: Start) -> Iterator[bytes]:
        start_response("200 OK", [])
        while piece := environ["wsgi.input"].read1():
            yield piece.upper()

    sent = post(b"one, two", b"one, ")
    answer = parse(meet(unbuffered(application), sent, then=b"two", http=HTTP)[0])
    assert (answer.status, answer.body) == (200, b"ONE, TWO")


class Reader:
    """An application that reads all of its input, and answers whatever comes of that; `failure` is what came."""

    def __init__(self) -> None:
        self.failure: OSError | None = None

    def __call__(self, environ: Environ, start_response: Start) -> list[bytes]:
        try:
            while environ["wsgi.input"].read(4096):
                pass
        except OSError as error:
            self.failure = error
        start_response("200 OK", [])
        return [b"as if nothing had been"]


CHUNKED = "Transfer-Encoding: chunked"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (request("/", CHUNKED, method="POST", body=b"3\r\nabc\r\n+4\r\nfour\r\n0\r\n\r\n"), 400),
        (request("/", CHUNKED, method="POST", body=b"f0000\r\n" + b"x" * 0xF0000 + b"\r\nf0000\r\n"), 413),
        (request("/", CHUNKED, method="POST", body=b"1\r\nx\r\n0\r\n" + b"a: b\r\n" * 5000 + b"\r\n"), 431),
    ],
)
def test_what_is_wrong_with_the_body_reaches_the_application_and_the_client(
    unbuffered: Callable[..., Handler], sent: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    application = Reader()
    answer = parse(exchange(unbuffered(application), sent, http=HTTP))
    assert (answer.status, answer.headers["Connection"]) == (status, "close")
    assert application.failure is not None or status != 413  # what is wrong from the start is seen before the call
    assert [record.levelname for record in caplog.records] == ["WARNING"] * (status == 413)  # which limit it was


def test_a_client_that_sends_no_more_gets_a_408(unbuffered: Callable[..., Handler]) -> None:
    application = Reader()
    told = meet(unbuffered(application), post(b"half of it", b"half"), hang_up_after=12, http=HTTP)[0]
    assert told.startswith(b"HTTP/1.1 408")
    assert application.failure is not None


def test_a_client_that_leaves_ends_the_reading_and_gets_nothing(
    unbuffered: Callable[..., Handler], caplog: pytest.LogCaptureFixture
) -> None:
    application = Reader()
    assert exchange(unbuffered(application), post(b"half of it", b"half"), http=HTTP) == b""
    assert application.failure is not None
    assert not caplog.records


def test_an_error_of_the_application_s_own_is_a_500(unbuffered: Callable[..., Handler]) -> None:
    def application(environ: Environ, start_response: Start) -> list[bytes]:
        environ["wsgi.input"].read(2)
        raise OSError("not the body's fault")

    answer = parse(exchange(unbuffered(application), post(b"body"), http=HTTP))
    assert (answer.status, answer.headers["Connection"]) == (500, "keep-alive")


@pytest.mark.parametrize("read", [0, 2])
def test_a_body_that_is_not_read_is_passed_over(unbuffered: Callable[..., Handler], read: int) -> None:
    answer = parse(exchange(unbuffered(reading(lambda input: input.read(read))), post(b"body" * 9) * 2, http=HTTP))
    assert (answer.status, answer.body) == (200, repr(b"body"[:read]).encode())
    assert parse(answer.rest).status == 200


def test_what_is_read_once_the_request_is_answered_is_an_error(unbuffered: Callable[..., Handler]) -> None:
    kept: list[Any] = []

    def application(environ: Environ, start_response: Start) -> list[bytes]:
        kept.append(environ["wsgi.input"].raw)
        start_response("200 OK", [])
        return [b""]

    assert parse(exchange(unbuffered(application), post(b"body", b""), http=HTTP)).status == 200
    with pytest.raises(BodyLost):
        kept[0].readinto(memoryview(bytearray(1)))


def test_the_client_is_asked_for_the_body_by_the_first_read(unbuffered: Callable[..., Handler]) -> None:
    head = request("/", "Content-Length: 4", "Expect: 100-continue", method="POST")
    told = meet(unbuffered(reading(lambda input: input.read())), head, then=b"body", http=HTTP)[0]
    assert told.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")


def test_an_answer_that_is_under_way_is_cut_short_where_the_body_ends_too_early(
    unbuffered: Callable[..., Handler], caplog: pytest.LogCaptureFixture
) -> None:
    closed: list[bool] = []

    def application(environ: Environ, start_response: Start) -> Iterator[bytes]:
        start_response("200 OK", [])
        try:
            while piece := environ["wsgi.input"].read1():
                yield piece
        finally:
            closed.append(True)

    told = exchange(unbuffered(application), post(b"half of it", b"half"), http=HTTP)
    assert told.endswith(b"\r\n4\r\nhalf\r\n")
    assert closed
    assert not caplog.records


def test_a_thread_that_asks_as_the_reading_is_stopped_goes_on() -> None:
    """Who was to read for it has not taken a step yet."""
    loop = Loop(make_poller())
    call, posted, lost = Call("POST /", 1.0), SimpleQueue[Callable[[], None]](), SimpleQueue[BodyLost]()
    call.task = loop.current = loop.spawn(wait(PARKED), "a request")
    calls = SimpleNamespace(size=None, under_way={1: call})
    pool: Any = SimpleNamespace(size=None, loop=loop, calls=calls, step_down=lambda: None, call_soon=posted.put)
    body: Any = SimpleNamespace(size=None, ended=False, piece=lambda: wait(PARKED))
    reader = BodyReader(body, call.what, pool)

    def ask() -> None:
        try:
            reader.readinto(memoryview(bytearray(1)))
        except BodyLost as error:
            lost.put(error)

    Thread(target=ask, daemon=True).start()
    posted.get(timeout=10)()
    assert call.since == inf
    reader.stop()
    assert call.since < inf
    assert "has been answered" in str(lost.get(timeout=10))
    loop.close()


async def wait(wait: Wait) -> None:
    await wait
