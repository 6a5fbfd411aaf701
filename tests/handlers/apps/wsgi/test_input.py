"""wsgi.input and wsgi.errors: the request body to read, and the error log to write."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from prefork.handlers.apps.wsgi.file_wrapper import LONGEST_LINE
from prefork.observe.error_log import configure
from prefork.observe.sink import Sink
from prefork.settings.schema import Http
from tests.handlers.exchange import call, exchange, parse, reading, request, wsgi

Environ = dict[str, Any]
Start = Callable[..., Any]
LINES = b"first\n\nthird is longer\nlast, without an end"
HTTP = Http(max_body=1 << 20, body_buffer=1024)
PREFIX = r"^[-0-9]+ [.:0-9]+ [+-]\d{4} \[\d+\] (?:error: )?"
SIZES = {"in memory": 1, "spooled": 100}


def result(read: Callable[[Any], Any], body: bytes = LINES, chunked: bool = False) -> Any:
    if chunked:
        wire = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (body[:3], body[3:]) if piece) + b"0\r\n\r\n"
        sent = request("/", "Transfer-Encoding: chunked", method="POST", body=wire)
    else:
        sent = request("/", method="POST", body=body)
    return eval(parse(exchange(wsgi(reading(read)), sent, http=HTTP)).body)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("times", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize(
    ("read", "expected"),
    [
        (lambda input: input.read(), lambda body: body),
        (lambda input: input.read(-1), lambda body: body),
        (lambda input: input.read(7) + b"|" + input.read(), lambda body: body[:7] + b"|" + body[7:]),
        (lambda input: input.read(0), lambda body: b""),
        (lambda input: input.read(1 << 20), lambda body: body),
        (lambda input: (input.read(), input.read(), input.read(1)), lambda body: (body, b"", b"")),
        (lambda input: (input.readline(), input.readline()), lambda body: (b"first\n", b"\n")),
        (lambda input: (input.readline(3), input.readline(99)), lambda body: (b"fir", b"st\n")),
        (lambda input: input.readlines(), lambda body: body.splitlines(True)),
        (lambda input: input.readlines(1), lambda body: [b"first\n"]),
        (lambda input: list(input), lambda body: body.splitlines(True)),
        (lambda input: [next(input), input.read(2)], lambda body: [b"first\n", b"\nt"]),
    ],
)
def test_the_body_can_be_read_in_every_way(read: Any, expected: Any, times: int, chunked: bool) -> None:
    body = LINES * times
    assert result(read, body, chunked) == expected(body)


@pytest.mark.parametrize(
    "read",
    [
        lambda input: input.read(),
        lambda input: input.read(5),
        lambda input: input.readline(),
        lambda input: b"".join(input.readlines()),
        lambda input: b"".join(input),
    ],
)
def test_without_a_body_there_is_nothing_to_read(read: Any) -> None:
    assert call(reading(read)).body == b"b''"
    assert call(reading(read), "/", method="POST").body == b"b''"


def test_a_large_body_arrives_as_it_was_sent() -> None:
    body = bytes(range(256)) * 4096
    assert result(lambda input: (input.seek(0, 2), input.seek(0), input.read())[2], body) == body


def test_what_is_not_read_does_not_become_the_next_request() -> None:
    sent = request("/", method="POST", body=request("/smuggled") * 50) + request("/next")

    def application(environ: Environ, start_response: Start) -> list[bytes]:
        start_response("200 OK", [])
        return [environ["PATH_INFO"].encode()]

    first = parse(exchange(wsgi(application), sent, http=HTTP))
    second = parse(first.rest)
    assert (first.body, second.body, second.rest) == (b"/", b"/next", b"")


def test_a_body_beyond_the_bound_is_413_and_the_application_not_called() -> None:
    called = []
    for fields in ((), ("Transfer-Encoding: chunked",)):
        body = b"2000001\r\n" if fields else b"x" * (HTTP.max_body + 1)
        answer = parse(
            exchange(wsgi(lambda *a: called.append(a)), request("/", *fields, method="POST", body=body), http=HTTP)
        )
        assert (answer.status, answer.headers["Connection"]) == (413, "close")
    assert called == []


def test_a_body_that_breaks_off_never_reaches_the_application() -> None:
    called: list[Any] = []
    sent = request("/", "Content-Length: 10", method="POST") + b"half"
    assert exchange(wsgi(lambda *a: called.append(a)), sent) == b""
    assert called == []


def test_100_continue_is_sent_before_the_body_is_read() -> None:
    sent = request("/", "Expect: 100-continue", method="POST", body=b"abc")
    raw = exchange(wsgi(reading(lambda input: input.read())), sent.removesuffix(b"abc"), then=b"abc")
    assert raw.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
    assert raw.endswith(b"b'abc'")


# --- wsgi.errors ---


@contextmanager
def logging_to(path: Path, level: str) -> Iterator[None]:
    """The real error log, in a file."""
    sink = Sink(str(path))
    configure(sink, level)
    yield
    configure(Sink(""), "warning")
    sink.close()


@pytest.fixture
def log_lines(tmp_path: Path) -> Iterator[Callable[[], list[str]]]:
    """What the lines of the error log say."""
    path = tmp_path / "error.log"
    with logging_to(path, "info"):
        yield lambda: [re.sub(PREFIX, "", line) for line in path.read_text().splitlines()]


def complaining(complain: Callable[[Any], Any]) -> Callable[..., Any]:
    def application(environ: Environ, start_response: Start) -> list[bytes]:
        complain(environ["wsgi.errors"])
        start_response("200 OK", [])
        return [b"done"]

    return application


@pytest.mark.parametrize(
    ("complain", "lines"),
    [
        (lambda errors: print("one line", file=errors), ["one line"]),
        (lambda errors: print("one\ntwo", file=errors), ["one", "two"]),
        (lambda errors: errors.write("a") + errors.write("b\nc\n"), ["ab", "c"]),
        (lambda errors: errors.writelines(["a\n", "b", "c\n"]), ["a", "bc"]),
        (lambda errors: (errors.write("no end"), errors.flush(), errors.flush()), ["no end"]),
        (lambda errors: errors.flush(), []),
        (lambda errors: errors.write("\n\n a\n"), ["", "", " a"]),
        (lambda errors: [errors.write(piece) for piece in "ab\ncd\n"], ["ab", "cd"]),
        (lambda errors: (errors.write("x" * LONGEST_LINE), errors.write("\n")), ["x" * LONGEST_LINE]),
        (lambda errors: errors.write("x" * (2 * LONGEST_LINE + 1) + "\ny\n"), ["x" * LONGEST_LINE] * 2 + ["x", "y"]),
        (lambda errors: [errors.write("x" * 1024) for _ in range(LONGEST_LINE // 512 + 1)], ["x" * LONGEST_LINE] * 2),
        (lambda errors: print(errors.isatty(), file=errors), ["False"]),
        (
            lambda errors: print("tab\there, \x1b[2J, caf\xe9, \u202e", file=errors),
            [r"tab\x09here, \x1B[2J, café, \u202E"],
        ),
    ],
)
def test_what_is_written_to_wsgi_errors_is_logged_line_by_line_and_escaped(
    complain: Any, lines: list[str], log_lines: Callable[[], list[str]]
) -> None:
    assert call(complaining(complain)).body == b"done"
    assert log_lines() == [f"application: {line}" for line in lines]


@pytest.mark.parametrize("level", ["debug", "warning", "critical"])
def test_what_is_written_to_wsgi_errors_has_no_severity_and_is_told_at_any_level(level: str, tmp_path: Path) -> None:
    path = tmp_path / "error.log"
    with logging_to(path, level):
        assert call(complaining(lambda errors: print("a word", file=errors))).body == b"done"
    assert re.fullmatch(r"[-0-9]+ [.:0-9]+ [+-]\d{4} \[\d+\] application: a word\n", path.read_text())


def test_lines_of_several_threads_are_whole_and_none_is_lost(log_lines: Callable[[], list[str]]) -> None:
    threads, lines = 4, 500

    def complain(errors: Any) -> None:
        def flood(name: int) -> None:
            for number in range(lines):
                for piece in ("a ", f"{name} ", f"{number}", "\n"):
                    errors.write(piece)

        running = [threading.Thread(target=flood, args=[name]) for name in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()

    call(complaining(complain))
    expected = [f"application: a {name} {number}" for name in range(threads) for number in range(lines)]
    assert sorted(log_lines()) == sorted(expected)


def test_a_traceback_can_be_printed_to_wsgi_errors(log_lines: Callable[[], list[str]]) -> None:
    def complain(errors: Any) -> None:
        try:
            raise ValueError("the cause")
        except ValueError:
            import traceback

            traceback.print_exc(file=errors)

    call(complaining(complain))
    assert log_lines()[0] == "application: Traceback (most recent call last):"
    assert log_lines()[-1] == "application: ValueError: the cause"


def test_a_logging_handler_can_stand_on_wsgi_errors(log_lines: Callable[[], list[str]]) -> None:
    def complain(errors: Any) -> None:
        handler = logging.StreamHandler(errors)
        handler.emit(logging.makeLogRecord({"msg": "from %s", "args": ("logging",)}))

    call(complaining(complain))
    assert log_lines() == ["application: from logging"]


def test_only_text_can_be_written_to_wsgi_errors(log_lines: Callable[[], list[str]]) -> None:
    assert call(complaining(lambda errors: errors.write(b"bytes"))).status == 500
    assert "GET / failed: TypeError" in log_lines()[0]


def test_an_error_is_logged_with_its_stack_and_nothing_in_it_can_forge_a_line(
    log_lines: Callable[[], list[str]],
) -> None:
    def application(environ: Environ, start_response: Start) -> list[bytes]:
        raise ValueError("forged\n2026-01-01 [1] info: \x1b[2J")

    assert call(application, "/a?b").status == 500
    message, *stack = log_lines()
    assert message.startswith("GET /a?b failed: ValueError('forged\\n2026")
    assert len(stack) > 3
    assert all(line.startswith("    ") for line in stack)
    assert "\x1b" not in "".join(stack)
