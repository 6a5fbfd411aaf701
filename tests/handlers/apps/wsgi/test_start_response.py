"""start_response: what it takes, when it may be called, and what becomes of an application that gets it wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from prefork.settings.schema import Http
from prefork.shared.counters import ACCEPTED, REQUESTS, SENT, STATUS_CLASS, WIDTH
from tests.handlers.exchange import assert_500, call, exchange, parse, request, wsgi

Environ = dict[str, Any]
Start = Callable[..., Any]


def answering(status: Any, headers: Any = (), body: Any = (b"body",)) -> Callable[..., Any]:
    """An application that answers with these, as a list."""

    def application(environ: Environ, start_response: Start) -> list[bytes]:
        start_response(status, list(headers) if isinstance(headers, tuple) else headers)
        return list(body)

    return application


def generating(status: Any, headers: Any = ()) -> Callable[..., Any]:
    """The same as a generator, so that it is called when the first piece is wanted."""

    def application(environ: Environ, start_response: Start) -> Iterator[bytes]:
        start_response(status, list(headers) if isinstance(headers, tuple) else headers)
        yield b"body"

    return application


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [
        ("200 OK", 200, "OK"),
        ("200 Fine, thanks", 200, "Fine, thanks"),
        ("404 ", 404, "Not Found"),
        ("404", 404, "Not Found"),
        ("299 ", 299, ""),
        ("599 Odd", 599, "Odd"),
        ("600 Beyond", 600, "Beyond"),
        ("999", 999, ""),
        ("200 caf\xe9", 200, "caf\xe9"),
    ],
)
@pytest.mark.parametrize("make", [answering, generating])
def test_the_status_is_sent_as_given_with_the_standard_reason_where_there_is_none(
    make: Any, status: str, code: int, reason: str
) -> None:
    answer = call(make(status))
    assert (answer.status, answer.reason, answer.body) == (code, reason, b"body")


@pytest.mark.parametrize(
    "status",
    [
        "",
        "OK",
        "20",
        "20 OK",
        "2000 OK",
        "200OK",
        " 200 OK",
        "-20 OK",
        "\u0662\u0660\u0660 OK",
        "200 O\u20acK",
        "200 OK\r\nX-Split: yes",
        "200 OK\n",
        "200 OK\0",
        "100 Continue",
        "101 Switching Protocols",
        "000 Zero",
        "1000 Beyond",
        b"200 OK",
        200,
        None,
    ],
    ids=repr,
)
@pytest.mark.parametrize("make", [answering, generating])
def test_an_invalid_status_is_500(make: Any, status: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert_500(make(status), caplog, "status")


@pytest.mark.parametrize("status", [600, 699, 700, 899, 999])
@pytest.mark.parametrize("pieces", [[b"whole"], [b"x" * 200_000] * 3])
def test_a_status_beyond_599_counts_as_5xx_and_as_nothing_else(status: int, pieces: list[bytes]) -> None:
    board = memoryview(bytearray(8 * WIDTH)).cast("Q")
    answer = parse(exchange(wsgi(answering(f"{status} Beyond", body=pieces)), request("/"), board=board))
    assert (answer.status, answer.body) == (status, b"".join(pieces))
    counted = {index: count for index, count in enumerate(board[:SENT]) if count}
    assert counted == {ACCEPTED: 1, REQUESTS: 1, STATUS_CLASS + 5: 1}


def test_a_status_beyond_599_whose_client_leaves_counts_as_5xx_and_as_nothing_else() -> None:
    board = memoryview(bytearray(8 * WIDTH)).cast("Q")
    handler = wsgi(answering("900 Beyond", body=iter([b"x" * 200_000] * 500)))
    exchange(handler, request("/"), board=board, hang_up_after=1)
    counted = {index: count for index, count in enumerate(board[:SENT]) if count}
    assert counted == {ACCEPTED: 1, REQUESTS: 1, STATUS_CLASS + 5: 1}


@pytest.mark.parametrize(
    "header",
    [
        ("X-A", "1\r\nX-Split: yes"),
        ("X-A", "1\nX-Split: yes"),
        ("X-A", "1\0"),
        ("X-A", "\u20ac"),
        ("X-A\r\nX-Split", "yes"),
        ("X A", "1"),
        ("X-A:", "1"),
        ("", "1"),
        ("X-\xe9", "1"),
        ("X-A", 1),
        ("X-A", b"1"),
        ("X-A", None),
        (b"X-A", "1"),
        (1, "1"),
        ["X-A", 1],
        ["X-A", ["1"]],
        ("Content-Length", "-1"),
        ("Content-Length", "1_0"),
        ("Content-Length", "four"),
        ("Content-Length", ""),
        ("Content-Length", 4),
        ("Content-Length", "\u0664"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("make", [answering, generating])
def test_an_invalid_header_is_500_and_never_sent(make: Any, header: Any, caplog: pytest.LogCaptureFixture) -> None:
    application = make("200 OK", (("X-Good", "1"), header))
    raw = exchange(wsgi(application), request("/wrong"))
    assert b"Split" not in raw
    assert b"X-Good" not in raw
    assert_500(application, caplog)
    assert "ApplicationError" in caplog.text


@pytest.mark.parametrize(
    "headers",
    [None, 7, ["X-A: 1"], ["ab"], [()], [("X-A",)], [["X-A"]], [("X-A", "1", "2")], {"X-A": "1"}, {"XA": "1"}, "ab"],
)
@pytest.mark.parametrize("make", [answering, generating])
def test_headers_that_are_no_pairs_are_500(make: Any, headers: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert_500(make("200 OK", headers), caplog)


def test_two_different_content_lengths_are_500(caplog: pytest.LogCaptureFixture) -> None:
    differing = (("Content-Length", "4"), ("content-length", "5"))
    assert_500(answering("200 OK", differing), caplog, "two Content-Lengths that differ: 4 and 5")


class Shouting(str):
    """Text that would show itself as more than it is."""

    def __str__(self) -> str:
        return f"{self[:]}\r\nX-Split: yes"

    def __format__(self, spec: str) -> str:
        return str(self)


TAKEN: dict[str, Callable[[], Any]] = {
    "lists of lists": lambda: [["X-A", "1"], ["X-B", "2"]],
    "lists and tuples": lambda: [("X-A", "1"), ["X-B", "2"]],
    "items of a dict": lambda: {"X-A": "1", "X-B": "2"}.items(),
    "an iterator": lambda: iter([("X-A", "1"), ("X-B", "2")]),
    "subclasses of str": lambda: [(Shouting("X-A"), Shouting("1")), ("X-B", Shouting("2"))],
}


@pytest.mark.parametrize("headers", TAKEN.values(), ids=TAKEN)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("make", [answering, generating])
def test_headers_may_come_in_any_shape_that_has_pairs_of_text(make: Any, method: str, headers: Any) -> None:
    raw = exchange(wsgi(make("200 OK", headers())), request("/", method=method))
    answer = parse(raw, method)
    assert (answer.status, answer.headers["X-A"], answer.headers["X-B"]) == (200, "1", "2")
    assert b"Split" not in raw
    assert answer.body == (b"body" if method == "GET" else b"")


def test_headers_keep_their_order_case_and_repetition() -> None:
    fields = [("X-b", "1"), ("Set-Cookie", "a=1"), ("x-A", ""), ("Set-Cookie", "b=2"), ("X-Name", "caf\xc3\xa9")]
    answer = call(answering("200 OK", tuple(fields)))
    own = {"server", "date", "content-length", "connection", "keep-alive"}
    assert [pair for pair in answer.headers.items() if pair[0].lower() not in own] == fields


def test_hop_by_hop_headers_are_the_servers_affair() -> None:
    fields = (("Transfer-Encoding", "chunked"), ("Keep-Alive", "5"), ("Upgrade", "h2c"), ("X-A", "1"))
    answer = call(answering("200 OK", fields))
    assert (answer.headers["Content-Length"], answer.headers["X-A"], answer.body) == ("4", "1", b"body")
    assert not {"transfer-encoding", "upgrade"} & {name.lower() for name in answer.headers}
    assert answer.headers.get_all("Keep-Alive") == [f"timeout={Http().keepalive_timeout - 1:g}"]


def test_an_application_may_ask_for_the_end_of_the_connection() -> None:
    raw = exchange(wsgi(answering("200 OK", (("Connection", "close"),))), request("/") * 2)
    answer = parse(raw)
    assert (answer.headers["Connection"], answer.rest) == ("close", b"")


def test_server_and_date_of_the_application_take_the_place_of_the_servers() -> None:
    date = "Sun, 06 Nov 1994 08:49:37 GMT"
    answer = call(answering("200 OK", (("Server", "mine"), ("Date", date))))
    assert (answer.headers.get_all("Server"), answer.headers.get_all("Date")) == (["mine"], [date])


def test_headers_may_be_changed_until_the_head_is_out() -> None:
    def application(environ: Environ, start_response: Start) -> list[bytes]:
        headers = [("X-A", "1")]
        start_response("200 OK", headers)
        headers.append(("X-B", "2"))
        return [b""]

    assert call(application).headers["X-B"] == "2"


# --- when it is called ---


@pytest.mark.parametrize(
    "body",
    [[b"x"], [], (b"x",), iter([b"x"]), iter([]), b"", ""],
    ids=["list", "empty list", "tuple", "iterator", "empty iterator", "bytes", "text"],
)
def test_an_application_that_never_calls_it_is_500(body: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert_500(lambda environ, start_response: body, caplog, "start_response")


def test_a_second_call_without_exc_info_is_500(caplog: pytest.LogCaptureFixture) -> None:
    def application(environ: Environ, start_response: Start) -> list[bytes]:
        start_response("200 OK", [])
        start_response("200 OK", [])
        return [b"x"]

    assert_500(application, caplog, "twice")


def test_a_second_call_with_exc_info_replaces_status_and_headers() -> None:
    def application(environ: Environ, start_response: Start) -> list[bytes]:
        start_response("200 OK", [("X-Old", "1"), ("Content-Length", "400")])
        try:
            raise ValueError
        except ValueError:
            start_response("503 Sorry", [("X-New", "1")], sys.exc_info())
        return [b"sorry"]

    answer = call(application)
    assert (answer.status, answer.reason, answer.body) == (503, "Sorry", b"sorry")
    assert (answer.headers["X-Old"], answer.headers["X-New"]) == (None, "1")


def test_a_first_call_may_have_exc_info() -> None:
    def application(environ: Environ, start_response: Start) -> list[bytes]:
        try:
            raise ValueError
        except ValueError:
            start_response("503 Sorry", [], sys.exc_info())
        return [b"sorry"]

    assert call(application).status == 503


def test_once_the_head_is_out_exc_info_is_raised_again_and_the_response_cut(caplog: pytest.LogCaptureFixture) -> None:
    raised: list[BaseException] = []

    def application(environ: Environ, start_response: Start) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"begin"
        try:
            raise ValueError("the cause")
        except ValueError as error:
            try:
                start_response("503 Sorry", [], sys.exc_info())
            except ValueError as again:
                raised.extend([error, again])
                raise
        yield b"end"

    raw = exchange(wsgi(application), request("/"))
    assert raw.startswith(b"HTTP/1.1 200 OK\r\n")
    assert raw.endswith(b"\r\n5\r\nbegin\r\n")  # no last chunk: the client knows that it is not the whole
    assert b"Sorry" not in raw
    assert len(raised) == 2
    assert raised[0] is raised[1]
    assert "the cause" in caplog.text


def test_a_call_without_exc_info_once_the_head_is_out_cuts_the_response(caplog: pytest.LogCaptureFixture) -> None:
    def application(environ: Environ, start_response: Start) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"begin"
        start_response("200 OK", [])
        yield b"end"

    assert exchange(wsgi(application), request("/")).endswith(b"\r\n5\r\nbegin\r\n")
    assert "twice" in caplog.text


def test_a_generator_calls_it_when_its_first_piece_is_wanted() -> None:
    def application(environ: Environ, start_response: Start) -> Iterator[bytes]:
        yield b""
        start_response("201 Created", [("X-A", "1")])
        yield b""
        yield b"made"

    answer = call(application)
    assert (answer.status, answer.headers["X-A"], answer.body) == (201, "1", b"made")


def test_a_generator_that_yields_before_it_calls_it_is_500(caplog: pytest.LogCaptureFixture) -> None:
    def application(environ: Environ, start_response: Start) -> Iterator[bytes]:
        yield b"too early"
        start_response("200 OK", [])

    assert_500(application, caplog, "start_response")


def test_an_error_after_it_was_called_is_500_and_its_headers_are_not_sent(caplog: pytest.LogCaptureFixture) -> None:
    def application(environ: Environ, start_response: Start) -> list[bytes]:
        start_response("200 OK", [("Set-Cookie", "a=1")])
        raise ValueError("the cause")

    assert_500(application, caplog, "ValueError('the cause')")
    assert call(application).headers["Set-Cookie"] is None


@pytest.mark.parametrize("error", [SystemExit(), SystemExit(3), RecursionError(), MemoryError()])
def test_whatever_it_raises_is_500_and_the_connection_lives(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def application(environ: Environ, start_response: Start) -> list[bytes]:
        raise error

    assert_500(application, caplog, repr(error))


@pytest.mark.parametrize("error", [GeneratorExit(), KeyboardInterrupt(), StopIteration(3), StopAsyncIteration()])
@pytest.mark.parametrize("pinned", [False, True])
def test_what_would_end_a_coroutine_or_the_process_is_500_when_an_application_raises_it(
    error: BaseException, pinned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def application(environ: Environ, start_response: Start) -> list[bytes]:
        raise error

    answer = parse(exchange(wsgi(application, pinned=pinned), request("/wrong") * 2))
    assert (answer.status, parse(answer.rest).status) == (500, 500)
    record = caplog.records[0]
    assert f"GET /wrong failed: ApplicationError({f'the application raised {error!r}'!r})" in record.getMessage()
    assert record.exc_info
    assert record.exc_info[1]
    assert record.exc_info[1].__cause__ is error
