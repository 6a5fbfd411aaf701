"""close() of what an application returns: called exactly once, whatever became of the response."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.handlers.apps.live import PATIENCE, live, receive
from tests.handlers.exchange import exchange, parse, request, wsgi

Environ = dict[str, Any]
Start = Callable[..., Any]
BIG = b"x" * 100_000


class Body:
    """An iterable that counts its ends; each of its pieces may be an exception to raise."""

    def __init__(self, *pieces: Any, closing: BaseException | None = None) -> None:
        self.pieces = pieces
        self.closing = closing
        self.asked = 0
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        for piece in self.pieces:
            self.asked += 1
            if isinstance(piece, BaseException):
                raise piece
            yield piece

    def close(self) -> None:
        self.closed += 1
        if self.closing is not None:
            raise self.closing


class Unready(Body):
    """Its iter() fails."""

    def __iter__(self) -> Iterator[bytes]:
        raise ValueError("no iterator")


def closings(
    body: Body,
    *headers: Any,
    status: str | None = "200 OK",
    sent: bytes | None = None,
    hang_up_after: int | None = None,
    pinned: bool = False,
) -> int:
    """How often `body` was closed, once the request had been dealt with; wsgi.input must have been closed as well."""
    inputs = []

    def application(environ: Environ, start_response: Start) -> Body:
        inputs.append(environ["wsgi.input"])
        if status is not None:
            start_response(status, list(headers))
        return body

    sent = sent or request("/", method="POST", body=b"abc")
    exchange(wsgi(application, pinned=pinned), sent, hang_up_after=hang_up_after)
    assert [stream.closed for stream in inputs] == [True]
    return body.closed


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (Body(b"ab", b"cd"), ()),
        (Body(b"ab", b"cd"), [("Content-Length", "4")]),
        (Body(b"abcd"), [("Content-Length", "4")]),
        (Body(), ()),
        (Body(b"", b""), ()),
    ],
)
def test_when_the_response_is_complete(body: Body, headers: Any) -> None:
    assert closings(body, *headers) == 1
    assert body.asked == len(body.pieces)


@pytest.mark.parametrize("error", [ValueError(), SystemExit(), "text", None])
@pytest.mark.parametrize("before", [[], [b""], [b"ab"], [b"ab", b"cd"]])
@pytest.mark.parametrize("headers", [(), [("Content-Length", "6")]])
def test_when_the_iterable_fails(error: Any, before: list[bytes], headers: Any) -> None:
    assert closings(Body(*before, error), *headers) == 1


def test_when_there_is_no_iterator() -> None:
    assert closings(Unready()) == 1


@pytest.mark.parametrize("headers", [(), [("Content-Length", "4")], [("Content-Length", "99")]])
@pytest.mark.parametrize("pinned", [False, True])
def test_with_head_and_nothing_is_iterated_beyond_the_first_piece(headers: Any, pinned: bool) -> None:
    body = Body(b"ab", b"cd", b"ef")
    assert closings(body, *headers, sent=request("/", method="HEAD"), pinned=pinned) == 1
    assert body.asked == 1


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
@pytest.mark.parametrize("pinned", [False, True])
def test_with_a_status_that_has_no_body(status: str, pinned: bool) -> None:
    body = Body(b"ab", b"cd")
    assert closings(body, status=status, pinned=pinned) == 1
    assert body.asked == 1


@pytest.mark.parametrize("length", ["3", "5"])
def test_when_the_length_does_not_fit(length: str) -> None:
    assert closings(Body(b"abcd"), ("Content-Length", length)) == 1
    assert closings(Body(b"ab", b"cd"), ("Content-Length", length)) == 1


@pytest.mark.parametrize("pieces", [(b"abcd",), (b"ab", b"cd"), ()])
@pytest.mark.parametrize("header", [("X-A", "1\r\nX-B: 2"), ("X-A", 1), "X-A", ("Content-Length", "4x")])
def test_when_the_head_is_invalid(pieces: Any, header: Any) -> None:
    assert closings(Body(*pieces), header) == 1


@pytest.mark.parametrize("pieces", [(b"abcd",), ()])
def test_when_start_response_was_never_called(pieces: Any) -> None:
    assert closings(Body(*pieces), status=None) == 1


def test_when_the_client_hangs_up_in_mid_stream() -> None:
    body = Body(*([BIG] * 1000))
    assert closings(body, hang_up_after=1000) == 1
    assert body.asked < 1000


def test_when_the_client_hangs_up_on_a_sized_body() -> None:
    body = Body(*([BIG] * 1000))
    assert closings(body, ("Content-Length", str(1000 * len(BIG))), hang_up_after=1000) == 1
    assert body.asked < 1000


def test_a_generator_is_closed_where_it_stands() -> None:
    events: list[str] = []

    def application(environ: Environ, start_response: Start) -> Iterator[bytes]:
        start_response("200 OK", [])
        try:
            while True:
                yield BIG
        except GeneratorExit:
            events.append("closed")
            raise

    exchange(wsgi(application), request("/"), hang_up_after=1000)
    assert events == ["closed"]


@pytest.mark.parametrize("error", [ValueError("the cause"), SystemExit("the cause")])
@pytest.mark.parametrize("headers", [(), [("Content-Length", "4")]])
def test_an_error_in_close_is_logged_and_spoils_nothing(
    error: BaseException, headers: Any, caplog: pytest.LogCaptureFixture
) -> None:
    bodies = [Body(b"ab", b"cd", closing=error), Body(b"abcd", closing=error)]
    made = iter(bodies)

    def application(environ: Environ, start_response: Start) -> Body:
        start_response("200 OK", list(headers))
        return next(made)

    first = parse(exchange(wsgi(application), request("/") * 2))
    assert (first.body, parse(first.rest).body) == (b"abcd", b"abcd")
    assert [body.closed for body in bodies] == [1, 1]
    assert [record.getMessage() for record in caplog.records] == [f"close() of a response failed: {error!r}"] * 2
    assert all(record.exc_info for record in caplog.records)


class Unclosable(Body):
    """Even to look for its close() fails."""

    @property
    def close(self) -> Any:  # type: ignore[override]
        self.closed += 1
        raise ValueError("the cause")


def test_a_close_that_cannot_be_had_is_logged_and_spoils_nothing(caplog: pytest.LogCaptureFixture) -> None:
    for body in (Unclosable(b"abcd"), Unclosable(b"ab", b"cd")):
        assert closings(body) == 1
    assert [record.getMessage() for record in caplog.records] == [
        "close() of a response failed: ValueError('the cause')"
    ] * 2


@pytest.mark.parametrize("make", [lambda: [b"abcd"], lambda: (b"abcd",), lambda: iter([b"ab", b"cd"]), lambda: None])
@pytest.mark.parametrize("pinned", [False, True])
def test_a_request_body_that_cannot_be_closed_is_logged_and_spoils_nothing(
    make: Callable[[], Any], pinned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    detached = []

    def application(environ: Environ, start_response: Start) -> Any:
        detached.append(environ["wsgi.input"].detach())
        start_response("200 OK", [])
        return make()

    sent = request("/", method="POST", body=b"x" * 100_000)
    first = parse(exchange(wsgi(application, pinned=pinned), sent * 2))
    second = parse(first.rest)
    assert [first.status, second.status] == [200 if make() else 500] * 2
    assert first.body == second.body == (b"abcd" if make() else b"500 Internal Server Error\n")
    told = [record.getMessage() for record in caplog.records if record.getMessage().startswith("close()")]
    assert told == ["close() of wsgi.input failed: ValueError('raw stream has been detached')"] * 2
    for raw in detached:
        raw.close()


def test_the_request_body_is_closed_when_the_application_raises(tmp_path: Path) -> None:
    inputs = []

    def application(environ: Environ, start_response: Start) -> list[bytes]:
        inputs.append(environ["wsgi.input"])
        raise ValueError

    sent = request("/", method="POST", body=b"x" * 100_000) + request("/", method="POST", body=b"abc")
    exchange(wsgi(application), sent)
    assert [stream.closed for stream in inputs] == [True, True]


@pytest.mark.parametrize("body", [[b"ab"], [b"ab", b"cd"], ["text"], [b"ab", 7], []])
def test_the_request_body_is_closed_when_a_list_is_returned(body: Any) -> None:
    inputs = []

    def application(environ: Environ, start_response: Start) -> list[bytes]:
        inputs.append(environ["wsgi.input"])
        start_response("200 OK", [])
        answer: list[bytes] = body
        return answer

    exchange(wsgi(application), request("/", method="POST", body=b"x" * 100_000))
    assert [stream.closed for stream in inputs] == [True]


# --- when nobody waits for it ---


@pytest.fixture(
    params=[(False, 1), (False, 3), (True, 1), (True, 3)], ids=["inline 1", "inline 3", "pinned 1", "pinned 3"]
)
def pool(request: pytest.FixtureRequest) -> dict[str, Any]:
    pinned, threads = request.param
    return {"pinned": pinned, "threads": threads}


class Lingering:
    """A body whose `end`, where it has one, and whose close() take until they may `go`; `late` as well to begin."""

    def __init__(self, *, late: bool, in_close: bool) -> None:
        self.go = threading.Event()
        self.late = late
        self.in_close = in_close
        self.threads: list[int] = []
        self.closed = False

    def __iter__(self) -> Iterator[bytes]:
        if self.late:
            time.sleep(0.05)
        yield b"whole"
        if not self.in_close:
            self._linger()

    def close(self) -> None:
        if self.in_close:
            self._linger()
        self.threads.append(threading.get_ident())
        self.closed = True

    def _linger(self) -> None:
        assert self.go.wait(PATIENCE)
        self.threads.append(threading.get_ident())


@pytest.mark.parametrize("late", [False, True], ids=["an application that is quick", "one that is slow"])
@pytest.mark.parametrize("in_close", [False, True], ids=["behind its last piece", "in close()"])
def test_what_is_whole_leaves_before_the_application_has_come_to_its_end(
    late: bool, in_close: bool, pool: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    bodies = [Lingering(late=late, in_close=in_close) for _ in range(2)]
    made = iter(bodies)

    def application(environ: Environ, start_response: Start) -> Lingering:
        start_response("200 OK", [("Content-Length", "5")])
        body = next(made)
        body.threads.append(threading.get_ident())
        return body

    with live(application, **pool) as here, here.connect() as client:
        for body in bodies:  # on one connection
            client.sendall(request("/"))
            assert receive(client, b"\r\n\r\nwhole").endswith(b"\r\n\r\nwhole")
            assert not body.closed
            body.go.set()
        here.until(lambda: all(body.closed for body in bodies))
    assert [len(set(body.threads)) for body in bodies] == [1, 1]  # all of it in the thread of the call
    assert "crashed" not in caplog.text
    assert "the loop is touched" not in caplog.text
