"""What an application returns: every kind of iterable, its framing, and the lengths that do not fit."""

from __future__ import annotations

import gzip
import http.client
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from prefork.handlers.apps.response_buffer import MEMORY
from prefork.handlers.apps.wsgi.call import Bounds
from tests.handlers.apps.live import PATIENCE, live, receive, rest
from tests.handlers.exchange import assert_500, call, exchange, meet, parse, request, wsgi

Environ = dict[str, Any]
Start = Callable[..., Any]


def returning(make: Callable[[], Any], *headers: tuple[str, str], status: str = "200 OK") -> Callable[..., Any]:
    """An application that returns what `make` makes."""

    def application(environ: Environ, start_response: Start) -> Any:
        start_response(status, list(headers))
        return make()

    return application


class OldIterable:
    """An iterable by __getitem__, as Python knew it before there were iterators."""

    def __getitem__(self, index: int) -> bytes:
        return (b"ab", b"cd")[index]


class ListSubclass(list[bytes]):
    pass


class BytesSubclass(bytes):
    """Bytes that would be counted and joined otherwise."""

    def __len__(self) -> int:
        return 77


BODIES: dict[str, Callable[[], Any]] = {
    "a list of one": lambda: [b"abcd"],
    "a list of several": lambda: [b"a", b"", b"bcd"],
    "a subclass of list": lambda: ListSubclass([b"ab", b"cd"]),
    "a tuple": lambda: (b"ab", b"cd"),
    "a subclass of bytes in a list": lambda: [BytesSubclass(b"abcd")],
    "subclasses of bytes in a generator": lambda: map(BytesSubclass, (b"ab", b"cd")),
    "a generator": lambda: (piece for piece in (b"ab", b"cd")),
    "a generator with empty pieces": lambda: iter([b"", b"", b"ab", b"", b"cd", b""]),
    "a map": lambda: map(str.encode, "abcd"),
    "a set of one": lambda: {b"abcd"},
    "a dict's keys": lambda: {b"ab": 1, b"cd": 2}.keys(),
    "an old iterable": OldIterable,
}


@pytest.mark.parametrize("make", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("headers", [[], [("Content-Length", "4")]], ids=["unsized", "sized"])
@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
def test_any_iterable_of_bytes_is_a_body(make: Callable[[], Any], headers: Any, version: str) -> None:
    answer = call(returning(make, *headers), "/", version=version)
    assert (answer.status, answer.body) == (200, b"abcd")


@pytest.mark.parametrize("make", BODIES.values(), ids=BODIES)
def test_head_is_answered_without_a_body(make: Callable[[], Any]) -> None:
    raw = exchange(wsgi(returning(make)), request("/", method="HEAD") * 2)
    answer = parse(raw, "HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert parse(answer.rest, "HEAD").rest == b""


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
@pytest.mark.parametrize("make", [list, lambda: iter(()), lambda: iter([b"", b"x"]), lambda: [b"x"]])
def test_204_and_304_have_no_body_whatever_is_returned(status: str, make: Callable[[], Any]) -> None:
    raw = exchange(wsgi(returning(make, status=status)), request("/") * 2)
    answer = parse(raw)
    assert (answer.status, answer.body, answer.headers["Transfer-Encoding"]) == (int(status[:3]), b"", None)
    assert parse(answer.rest).rest == b""


@pytest.mark.parametrize(
    "make", [list, lambda: [b""], lambda: [b"", b""], tuple, lambda: iter(()), lambda: iter([b""])]
)
def test_an_empty_body_has_length_zero(make: Callable[[], Any]) -> None:
    answer = call(returning(make))
    assert (answer.headers["Content-Length"], answer.headers["Transfer-Encoding"], answer.body) == ("0", None, b"")


class OnePiece:
    """An iterable that says that it has one piece, which is then the whole (PEP 3333)."""

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[bytes]:
        yield b"abcd"


WHOLE: dict[str, Callable[[], Any]] = {
    "a list of one": lambda: [b"abcd"],
    "a list of several": lambda: [b"ab", b"", b"cd"],
    "a subclass of list": lambda: ListSubclass([b"ab", b"cd"]),
    "a tuple": lambda: (b"ab", b"cd"),
    "an iterable of length one": OnePiece,
}


@pytest.mark.parametrize("make", WHOLE.values(), ids=WHOLE)
@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
@pytest.mark.parametrize("pinned", [False, True])
def test_what_is_whole_has_its_length_each_time_and_the_connection_lives(
    make: Callable[[], Any], version: str, pinned: bool
) -> None:
    times = 40
    raw = exchange(
        wsgi(returning(make), pinned=pinned), request("/", "Connection: keep-alive", version=version) * times
    )
    assert raw.count(b"\r\nContent-Length: 4\r\n") == raw.count(b"\r\n\r\nabcd") == times


class Untold:
    """An iterable whose length is not to be had."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __len__(self) -> int:
        raise self.error

    def __iter__(self) -> Iterator[bytes]:
        return iter([b"ab", b"cd"])


@pytest.mark.parametrize("error", [TypeError(), NotImplementedError(), AttributeError(), ValueError(), OverflowError()])
@pytest.mark.parametrize("headers", [(), [("Content-Length", "4")]], ids=["unsized", "sized"])
def test_an_iterable_need_not_know_its_length(error: Exception, headers: Any) -> None:
    raw = exchange(wsgi(returning(lambda: Untold(error), *headers)), request("/"))
    assert (parse(raw).status, parse(raw).body) == (200, b"abcd")


@pytest.mark.parametrize("make", [lambda: [b"abcd " * 1000] * 2, lambda: (b"abcd " * 1000,) * 2])
def test_what_is_whole_is_compressed_as_a_whole_each_time(make: Callable[[], Any]) -> None:
    asked = request("/", "Accept-Encoding: gzip", "Connection: close")
    with live(returning(make, ("Content-Type", "text/plain")), pinned=True, compressed=True) as here:
        for _ in range(10):
            answer = parse(rest(here.connect(asked)))
            assert (answer.headers["Content-Encoding"], answer.headers["Transfer-Encoding"]) == ("gzip", None)
            assert gzip.decompress(answer.body) == b"abcd " * 2000


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
def test_pieces_that_are_soon_complete_leave_in_one_and_the_connection_lives(version: str) -> None:
    raw = exchange(
        wsgi(returning(lambda: iter([b"ab", b"", b"cd"]))), request("/", "Connection: keep-alive", version=version) * 2
    )
    answer = parse(raw)
    assert (answer.headers["Transfer-Encoding"], answer.headers["Content-Length"]) == (None, "4")
    assert parse(answer.rest).body == b"abcd"


def slow_pieces(gate: threading.Semaphore) -> Iterator[bytes]:
    """Those behind the first come when `gate` lets them."""
    yield b"ab"
    assert gate.acquire(timeout=PATIENCE)
    yield b""
    yield b"cd"


def test_pieces_that_take_their_time_are_chunked_and_the_connection_lives() -> None:
    gate = threading.Semaphore(0)
    with live(returning(lambda: slow_pieces(gate))) as here, here.connect() as client:
        for _ in range(2):
            client.sendall(request("/"))
            begun = receive(client, b"ab\r\n")
            gate.release()
            raw = begun + receive(client, b"\r\n0\r\n\r\n")
            answer = parse(raw)
            assert (answer.headers["Transfer-Encoding"], answer.headers["Content-Length"]) == ("chunked", None)
            assert raw.endswith(b"\r\n\r\n2\r\nab\r\n2\r\ncd\r\n0\r\n\r\n")


def test_pieces_that_outgrow_memory_are_chunked() -> None:
    answer = parse(exchange(wsgi(returning(lambda: iter([b"x" * 100_000] * 5))), request("/")))
    assert answer.headers["Transfer-Encoding"] == "chunked"
    assert answer.body == b"x" * 500_000


def test_slow_pieces_to_http_1_0_end_with_the_connection() -> None:
    gate = threading.Semaphore(0)
    asked = request("/", "Connection: keep-alive", version="HTTP/1.0") * 2
    with live(returning(lambda: slow_pieces(gate))) as here, here.connect(asked) as client:
        begun = receive(client, b"ab")
        gate.release()
        answer = parse(begun + rest(client))
    assert (answer.headers["Transfer-Encoding"], answer.headers["Connection"]) == (None, "close")
    assert answer.body == b"abcd"  # and no second answer after it


def test_pieces_with_a_length_are_not_chunked_and_the_connection_lives() -> None:
    raw = exchange(wsgi(returning(lambda: iter([b"ab", b"", b"cd"]), ("Content-Length", "4"))), request("/") * 2)
    answer = parse(raw)
    assert (answer.headers["Transfer-Encoding"], answer.headers["Content-Length"]) == (None, "4")
    assert parse(answer.rest).body == b"abcd"


def test_an_iterator_that_waits_by_yielding_nothing_lets_others_have_their_turn() -> None:
    """Two requests, each of which waits for the other to come by: on one thread they can only do so in turns."""
    arrived: list[str] = []

    def application(environ: Environ, start_response: Start) -> Iterator[bytes]:
        arrived.append(environ["PATH_INFO"])
        start_response("200 OK", [])
        while len(arrived) < 2:
            yield b""
        yield b"met"

    answers = meet(wsgi(application), request("/a"), request("/b"))
    assert [parse(raw).body for raw in answers] == [b"met", b"met"]


def test_endless_streams_take_turns() -> None:
    turns: list[str] = []

    def application(environ: Environ, start_response: Start) -> Iterator[bytes]:
        start_response("200 OK", [])
        while len(turns) < 4000:  # so much that no thread makes it all before it lets another lead
            turns.append(environ["PATH_INFO"])
            yield b"x" * 1000

    meet(wsgi(application), request("/a"), request("/b"))
    assert sorted({turns.count("/a"), turns.count("/b")})[0] > 100


# --- clients that leave while nothing comes ---


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("pinned", [False, True])
def test_an_iterator_that_yields_nothing_ends_when_its_client_has_left(
    begun: bool, pinned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    ends: list[str] = []

    def application(environ: Environ, start_response: Start) -> Iterator[bytes]:
        start_response("200 OK", [])
        try:
            if begun:
                yield b"begin"
            while True:
                yield b""
                time.sleep(0.005)
        finally:
            ends.append("closed")

    with live(application, pinned=pinned, bounds=Bounds(look_interval=0.05)) as here:
        with here.connect(request("/left")) as client:
            if begun:
                receive(client, b"begin\r\n")
            here.until(lambda: here.pool.calls.under_way)
        here.until(lambda: ends)
    assert [(entry.target, entry.status) for entry in here.log] == [("/left", 200 if begun else 499)]
    assert not caplog.records


@pytest.mark.parametrize("pinned", [False, True])
def test_an_iterator_that_yields_nothing_ends_when_its_client_has_had_a_504(pinned: bool) -> None:
    ends: list[str] = []

    def application(environ: Environ, start_response: Start) -> Iterator[bytes]:
        start_response("200 OK", [])
        try:
            while True:
                yield b""
                time.sleep(0.005)
        finally:
            ends.append("closed")

    bounds = Bounds(look_interval=0.05)
    with live(application, pinned=pinned, timeout=0.1, sweep=0.02, bounds=bounds) as here:
        here.pool.calls.overdue = lambda call: next(iter(here.server.connections)).give_up()
        assert parse(rest(here.connect(request("/")))).status == 504
        others = [here.connect() for _ in range(3)]  # one of which has its descriptor, most likely
        here.until(lambda: ends)
        for other in others:
            other.close()


# --- lengths that do not fit ---

MUCH = b"x" * (MEMORY + 1)  # so that a response with it leaves before it is whole


@pytest.mark.parametrize("length", ["3", "5", "0"])
@pytest.mark.parametrize("make", BODIES.values(), ids=BODIES)
def test_a_body_that_is_whole_and_not_as_long_as_announced_is_500(
    make: Callable[[], Any], length: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert_500(returning(make, ("Content-Length", length)), caplog, f"Content-Length is {length}", "4 bytes")


@pytest.mark.parametrize("make", [lambda: iter(()), lambda: iter([b"", b""])])
def test_an_iterable_without_the_announced_bytes_is_500(
    make: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    assert_500(returning(make, ("Content-Length", "4")), caplog, "Content-Length is 4", "0 bytes")


def test_an_iterable_that_ends_too_early_is_cut_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    handler = wsgi(returning(lambda: iter([MUCH, b"c"]), ("Content-Length", str(len(MUCH) + 2))))
    raw = exchange(handler, request("/") * 2)
    assert raw.endswith(b"\r\n\r\n" + MUCH + b"c")  # and the connection is closed: no second answer
    with pytest.raises(http.client.IncompleteRead):
        parse(raw)
    assert f"1 bytes shorter than its Content-Length of {len(MUCH) + 2}" in caplog.text


@pytest.mark.parametrize(
    "pieces", [[b"ab", MUCH], [MUCH + b"cd", b"g"], [b"ab", b"cd", MUCH], [MUCH[:4], MUCH], [MUCH, b"e"]]
)
@pytest.mark.parametrize("length", [4, len(MUCH)])
def test_an_iterable_that_goes_on_is_cut_where_announced_and_logged(
    pieces: list[bytes], length: int, caplog: pytest.LogCaptureFixture
) -> None:
    raw = exchange(wsgi(returning(lambda: iter(pieces), ("Content-Length", str(length)))), request("/") * 2)
    answer = parse(raw)
    assert (answer.body, answer.rest) == (b"".join(pieces)[:length], b"")  # the connection is closed: no second answer
    assert f"longer than its Content-Length of {length}" in caplog.text


# --- what is no body ---

ERRORS = [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit, StopAsyncIteration]


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: ["text"], "str"),
        (lambda: [""], "str"),
        (lambda: [b"bytes", "text"], "str"),
        (lambda: [7], "int"),
        (lambda: [None], "NoneType"),
        (lambda: [bytearray(b"x")], "bytearray"),
        (lambda: [b"x", bytearray(b"x")], "bytearray"),
        (lambda: ("text",), "str"),
        (lambda: ("",), "str"),
        (lambda: iter(["text"]), "str"),
        (lambda: iter([b"", "text"]), "str"),
        (lambda: iter([None, b"x"]), "NoneType"),
        (lambda: iter([memoryview(b"x")]), "memoryview"),
        (lambda: "text", "str"),
        (lambda: b"bytes", "int"),
        (lambda: {"key": 1}, "str"),
    ],
)
def test_a_body_that_is_not_bytes_is_500_and_the_log_says_what_it_is(
    make: Callable[[], Any], kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert_500(returning(make), caplog, f"yielded {kind}, not bytes")


@pytest.mark.parametrize("body", ["text", b"bytes"])
def test_text_or_bytes_in_the_place_of_a_list_are_told_as_that(body: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert_500(returning(lambda: body), caplog, f"returned {type(body).__name__} in the place of a list of bytes")


@pytest.mark.parametrize("body", [None, 7, object()])
def test_a_body_that_is_no_iterable_is_500(body: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert_500(returning(lambda: body), caplog, "is not iterable")


@pytest.mark.parametrize("wrong", ["text", None, 7])
def test_a_later_piece_that_is_not_bytes_cuts_the_response(wrong: Any, caplog: pytest.LogCaptureFixture) -> None:
    def pieces() -> Iterable[Any]:
        yield b"ab"
        yield wrong

    assert exchange(wsgi(returning(pieces)), request("/")).endswith(b"\r\n2\r\nab\r\n")
    assert f"yielded {type(wrong).__name__}, not bytes" in caplog.text


@pytest.mark.parametrize("error", [error("the cause") for error in ERRORS])
def test_an_error_in_mid_body_cuts_a_chunked_response(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    class Pieces:
        """No generator, from which a StopIteration could not come."""

        def __init__(self) -> None:
            self.next = iter([b"ab"])

        def __iter__(self) -> Iterator[bytes]:
            return self  # type: ignore[return-value]

        def __next__(self) -> bytes:
            for piece in self.next:
                return piece
            raise error

    raw = exchange(wsgi(returning(Pieces)), request("/cut"))
    assert raw.endswith(b"\r\n2\r\nab\r\n")
    with pytest.raises(http.client.IncompleteRead):
        parse(raw)
    assert "GET /cut failed" in caplog.text
    assert "the cause" in caplog.text


def test_an_error_in_mid_body_resets_a_connection_whose_end_would_look_like_the_bodys() -> None:
    def pieces() -> Iterator[bytes]:
        yield b"ab"
        raise ValueError

    exchange(wsgi(returning(pieces)), request("/", version="HTTP/1.0"), resets=True)


@pytest.mark.parametrize("error", [error("the cause") for error in ERRORS])
def test_an_error_before_the_first_piece_is_500(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    def pieces() -> Iterator[bytes]:
        yield b""
        raise error

    assert_500(returning(pieces), caplog, "the cause")


def test_an_error_while_the_end_of_a_whole_body_is_looked_for_is_500(caplog: pytest.LogCaptureFixture) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"abcd"
        raise ValueError("the cause")

    assert_500(returning(pieces, ("Content-Length", "4")), caplog, "the cause")
