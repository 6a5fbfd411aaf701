"""Response heads: one framing for each case, nothing that could split a response, caches that stay true."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Callable, Iterable
from email.utils import parsedate_to_datetime
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.errors import ApplicationError
from prefork.http.h1.render import ENTRIES, ENTRY_BYTES, TO_PROXIES, Head, Renderer
from prefork.http.message import Body, FileSegment, Repeatable, RequestLine, Response, plain
from tests.http.conftest import Pieces

FILE = FileSegment(-1, 0, 7, lambda: None)
STREAM = Pieces(b"abc")


def render(
    response: Response, method: str = "GET", minor: int = 1, keep_alive: bool = True, renderer: Renderer | None = None
) -> Head:
    line = RequestLine(method, "/", "/", "", "", minor)
    return (renderer or Renderer("prefork")).head(response, line, keep_alive, 0.0)


def lines(head: Head) -> list[str]:
    """The head's lines, without Server and Date."""
    assert head.wire.endswith(b"\r\n\r\n")
    found = head.wire[:-4].decode("latin-1").split("\r\n")
    return [line for line in found if not line.startswith(("Server: ", "Date: "))]


# ---- framing: RFC 9112 §6.3


@pytest.mark.parametrize(
    ("body", "fields", "method", "minor", "expected"),
    [
        # a body whose length is known
        (b"abc", (), "GET", 1, ["Content-Length: 3"]),
        (b"", (), "GET", 1, ["Content-Length: 0"]),
        (b"abc", (), "GET", 0, ["Content-Length: 3", "Connection: keep-alive"]),
        (b"abc", (("Content-Length", "3"),), "POST", 1, ["Content-Length: 3"]),
        (b"abc", (("content-length", "003"),), "GET", 1, ["Content-Length: 3"]),
        (FILE, (), "GET", 1, ["Content-Length: 7"]),
        (FILE, (("Content-Length", "7"),), "GET", 0, ["Content-Length: 7", "Connection: keep-alive"]),
        # one whose end alone tells, unless the application does
        (STREAM, (), "GET", 1, ["Transfer-Encoding: chunked"]),
        (STREAM, (), "GET", 0, ["Connection: close"]),
        (STREAM, (("Content-Length", "3"),), "GET", 1, ["Content-Length: 3"]),
        (STREAM, (("Content-Length", "0"),), "GET", 1, ["Content-Length: 0"]),
        (STREAM, (("Content-Length", "3"),), "GET", 0, ["Content-Length: 3", "Connection: keep-alive"]),
        # HEAD: what GET would say, where that is known
        (b"abc", (), "HEAD", 1, ["Content-Length: 3"]),
        (b"", (("Content-Length", "9"),), "HEAD", 1, ["Content-Length: 9"]),
        (b"", (), "HEAD", 1, []),
        (FILE, (), "HEAD", 1, ["Content-Length: 7"]),
        (STREAM, (), "HEAD", 1, []),
        (STREAM, (), "HEAD", 0, ["Connection: keep-alive"]),
        (STREAM, (("Content-Length", "5"),), "HEAD", 1, ["Content-Length: 5"]),
    ],
)
def test_each_response_has_one_framing(
    body: Body, fields: tuple[tuple[str, str], ...], method: str, minor: int, expected: list[str]
) -> None:
    head = render(Response(200, fields, body), method, minor)
    assert lines(head) == ["HTTP/1.1 200 OK", *expected]
    assert head.silent == (method == "HEAD")
    assert head.chunked == ("Transfer-Encoding: chunked" in expected)
    assert head.keep_alive == ("Connection: close" not in expected)
    if not head.silent:
        said = [line for line in expected if line.startswith("Content-Length")]
        assert said == ([] if head.length is None else [f"Content-Length: {head.length}"])


@pytest.mark.parametrize("body", [b"", b"abc", FILE, STREAM], ids=["empty", "bytes", "file", "stream"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_204_and_304_have_no_body(body: Body, method: str) -> None:
    """RFC 9110 §15.3.5, §15.4.5; a 204 must not say Content-Length (§8.6), a 304 may say the one of a 200."""
    for fields in ((), (("Content-Length", "9"),)):
        head = render(Response(204, fields, body), method)
        assert (head.silent, head.keep_alive) == (True, True)
        assert lines(head) == ["HTTP/1.1 204 No Content"]
        head = render(Response(304, fields, body), method)
        assert (head.silent, head.keep_alive) == (True, True)
        assert lines(head) == ["HTTP/1.1 304 Not Modified", *[f"{name}: {value}" for name, value in fields]]


@pytest.mark.parametrize("minor", [0, 1])
@pytest.mark.parametrize("body", [b"", b"abc", FILE, STREAM], ids=["empty", "bytes", "file", "stream"])
@pytest.mark.parametrize("status", [200, 204, 304])
def test_a_connection_that_ends_says_so(status: int, body: Body, minor: int) -> None:
    """RFC 9112 §9.6."""
    for response, keep_alive in (
        (Response(status, (), body), False),
        (Response(status, (("Connection", "close"),), body), True),
        (Response(status, (("connection", "x, Close"),), body), True),
    ):
        head = render(response, minor=minor, keep_alive=keep_alive)
        assert not head.keep_alive
        assert [line for line in lines(head) if line.startswith("Connection")] == ["Connection: close"]


@pytest.mark.parametrize("minor", [0, 1])
@pytest.mark.parametrize("keep_alive", [True, False])
def test_the_version_is_our_own_whatever_was_asked_in(minor: int, keep_alive: bool) -> None:
    """RFC 9110 §2.5."""
    assert render(plain(200), minor=minor, keep_alive=keep_alive).wire.startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("body", [b"abc", FILE], ids=["bytes", "file"])
@pytest.mark.parametrize("length", ["0", "2", "4", "8"])
def test_a_content_length_that_is_not_true_is_refused(body: Body, length: str) -> None:
    with pytest.raises(ApplicationError, match="Content-Length"):
        render(Response(200, (("Content-Length", length),), body))


@pytest.mark.parametrize("length", ["", "+3", "-3", "3 ", " 3", "3.0", "0x3", "three", "3,3", "1" * 19, "²"])
def test_a_malformed_content_length_is_refused(length: str) -> None:
    with pytest.raises(ApplicationError):
        render(Response(200, (("Content-Length", length),), b"abc"))


def test_several_content_lengths_are_refused_where_they_differ() -> None:
    assert lines(render(Response(200, (("Content-Length", "3"),) * 2, b"abc")))[1:] == ["Content-Length: 3"]
    with pytest.raises(ApplicationError, match="two Content-Lengths that differ: 3 and 4"):
        render(Response(200, (("Content-Length", "3"), ("content-length", "4")), b"abc"))


# ---- status lines: RFC 9112 §4


@pytest.mark.parametrize(
    ("status", "reason", "line"),
    [
        (200, "", "200 OK"),
        (404, "Nothing here", "404 Nothing here"),
        (299, "", "299 "),
        (600, "", "600 "),
        (999, "Odd", "999 Odd"),
    ],
)
def test_the_reason_is_the_standard_one_unless_it_is_given(status: int, reason: str, line: str) -> None:
    assert lines(render(Response(status, (), b"", reason)))[0] == f"HTTP/1.1 {line}"


@pytest.mark.parametrize("status", [-200, 0, 99, 100, 101, 199, 1000, 20000])
def test_a_status_that_is_no_final_one_is_refused(status: int) -> None:
    """RFC 9110 §15: three digits, and interim ones are not an application's to give."""
    with pytest.raises(ApplicationError):
        render(Response(status))


@pytest.mark.parametrize("reason", ["OK\r\nSet-Cookie: a=b", "OK\n", "\r", "\0", "€", "\x7f"])
def test_a_reason_cannot_split_a_response(reason: str) -> None:
    with pytest.raises(ApplicationError):
        render(Response(200, (), b"", reason))


# ---- fields: RFC 9110 §5


SPLITTING = ["a\r\nSet-Cookie: b=c", "a\r\n\r\n<html>", "a\nb", "a\rb", "\r\n", "\n", "a\r\n b", "\0", "a\x0bb"]
SPLITTING += ["a\x0cb", "a\x7f", "\x1b[0m", "€", "a\u010ab", "\u560a", "\u2028", "\ud800"]


@pytest.mark.parametrize("value", SPLITTING)
def test_a_value_cannot_split_a_response(value: str) -> None:
    """Nor by characters whose code, cut to a byte, is a line break."""
    with pytest.raises(ApplicationError, match="field"):
        render(Response(200, (("X", value),)))


@pytest.mark.parametrize(
    "name", ["", "A B", "A:", "A\r\n", "A\n", "A\0", "é", "A\tB", "A(", " A", "A ", "\u010a", "\u212a"]
)
def test_a_name_is_a_token(name: str) -> None:
    with pytest.raises(ApplicationError, match="field"):
        render(Response(200, ((name, "a"),)))


@pytest.mark.parametrize(
    "fields",
    [(("A", 1),), ((1, "a"),), ((b"A", b"a"),), (("A", None),), (["A", 1],), (("A", ["a"]),), ({"A": "a"},), ("Aa",)],
)
def test_fields_that_are_no_pairs_of_str_are_refused(fields: Any) -> None:
    with pytest.raises(ApplicationError, match="pair"):
        render(Response(200, fields))


@pytest.mark.parametrize("value", ["", "a", "a\tb", "é\xff", " a ", ":", "a, b"])
def test_a_value_goes_out_as_latin_1(value: str) -> None:
    assert f"X: {value}\r\n".encode("latin-1") in render(Response(200, (("X", value),))).wire


def test_fields_keep_their_order_their_case_and_their_repetition() -> None:
    fields = (("Set-Cookie", "a=1"), ("X", "1"), ("SET-COOKIE", "b=2"), ("x", "2"))
    assert lines(render(Response(200, fields)))[1:5] == ["Set-Cookie: a=1", "X: 1", "SET-COOKIE: b=2", "x: 2"]


@pytest.mark.parametrize(
    "field", ["Connection: keep-alive", "Keep-Alive: timeout=5", "Transfer-Encoding: chunked", "TE: trailers"]
)
@pytest.mark.parametrize("minor", [0, 1])
def test_what_concerns_the_connection_is_the_servers_to_say(field: str, minor: int) -> None:
    """RFC 9110 §7.6.1; a second Transfer-Encoding would break the framing."""
    name, _, value = field.partition(": ")
    for spelling in (name, name.lower(), name.upper()):
        with_field = render(Response(200, ((spelling, value),), b"abc"), minor=minor)
        assert lines(with_field) == lines(render(Response(200, (), b"abc"), minor=minor))


def test_the_application_may_name_its_own_server_and_date() -> None:
    head = render(Response(200, (("server", "mine"), ("DATE", "today"))))
    assert head.wire == b"HTTP/1.1 200 OK\r\nserver: mine\r\nDATE: today\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize("name", ["X-Accel-Redirect", "x-sendfile", "X-LIGHTTPD-send-file"])
def test_what_an_application_says_to_a_proxy_is_withheld_from_others(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    renderer = Renderer("prefork", TO_PROXIES)
    for number in range(3):
        fields = ((name, f"/private/{number}"), ("X-Accel-Buffering", "no"))
        assert lines(render(Response(200, fields, b"abc"), renderer=renderer))[1:-1] == ["X-Accel-Buffering: no"]
        assert f"{name}: /private/{number}" in lines(render(Response(200, fields, b"abc")))
    assert [message.split(",")[0] for message in caplog.messages] == [f"an application answers with {name}"]


def test_the_server_field_can_be_switched_off() -> None:
    assert b"\r\nServer: prefork\r\n" in render(plain(200)).wire
    assert b"Server" not in render(plain(200), renderer=Renderer("")).wire


@given(st.lists(st.tuples(st.text(max_size=8), st.text(max_size=12)), max_size=4))
def test_a_head_has_the_lines_it_should_have_whatever_an_application_says(fields: list[tuple[str, str]]) -> None:
    try:
        head = render(Response(200, tuple(fields)))
    except ApplicationError:
        return
    assert re.fullmatch(rb"HTTP/1\.1 200 OK\r\n([!-9;-~]+: [\t -~\x80-\xff]*\r\n){1,}\r\n", head.wire)
    assert head.wire.count(b"\r\n") <= len(fields) + 5


# ---- caches


def dates(wires: Iterable[bytes]) -> list[bytes]:
    return [line for wire in wires for line in re.findall(rb"Date: [^\r]+", wire)]


def test_the_date_is_that_of_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 9110 §6.6.1."""
    monkeypatch.setattr("prefork.http.h1.render.time", lambda: 784111777.9)
    assert dates([render(plain(200)).wire]) == [b"Date: Sun, 06 Nov 1994 08:49:37 GMT"]


def test_the_date_changes_with_each_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is at most a second behind."""
    renderer = Renderer("prefork")
    now = 0.0
    monkeypatch.setattr("prefork.http.h1.render.time", lambda: now)
    seen = []
    for step in range(1000):
        now = step / 100
        wire = renderer.head(plain(200), RequestLine("GET", "/", "/", "", "", 1), True, now).wire
        shown = parsedate_to_datetime(dates([wire])[0][6:].decode()).timestamp()
        assert now - 2 < shown <= now
        seen.append(shown)
    assert seen == sorted(seen)
    assert set(seen) == set(range(10))


def test_a_repeated_response_is_rendered_once_a_second() -> None:
    renderer = Renderer("prefork")
    line = RequestLine("GET", "/", "/", "", "", 1)
    first = renderer.head(Response(200, (("A", "b"),), b"abc"), line, True, 5.0)
    assert renderer.head(Response(200, [("A", "b")], b"xyz"), line, True, 5.9) is first
    assert renderer.head(Response(200, (("A", "b"),), b"abc"), line, True, 6.0) is not first


@pytest.mark.parametrize("name", ["Date", "date", "DATE"])
@pytest.mark.parametrize("value", ["now", "", "x" * 100, "Sun, 06 Nov 1994 08:49:37 GMT"])
def test_a_date_of_the_application_s_own_stays_as_it_is_in_what_lasts(name: str, value: str) -> None:
    renderer = Renderer("prefork")
    line = RequestLine("GET", "/", "/", "", "", 1)
    response = Repeatable(200, ((name, value), ("X-After", "all of it")), b"abc", inf)
    wires = {renderer.head(response, line, True, float(second)).wire for second in range(3)}
    first = renderer.head(Response(200, response.headers, b"abc"), line, True, 9.0).wire
    assert wires == {first}
    assert first.count(f"{name}: {value}\r\n".encode()) == first.lower().count(b"\r\ndate:") == 1


@pytest.mark.parametrize("server", ["prefork", ""])
def test_the_date_of_what_lasts_is_replaced_and_nothing_else(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    renderer = Renderer(server)
    line = RequestLine("GET", "/", "/", "", "", 1)
    fields = (("X", "Date: \xe9"), ("X-Date", "Date: x"), ("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT"))
    response = Repeatable(200, fields, b"abc", inf)
    for second in range(3):
        monkeypatch.setattr("prefork.http.h1.render.time", lambda second=second: 1e9 + second)
        wire = renderer.head(response, line, True, float(second)).wire
        assert wire == Renderer(server).head(Response(200, fields, b"abc"), line, True, float(second)).wire
    assert b"Date: Sun, 09 Sep 2001 01:46:42 GMT\r\n" in wire


VARIANTS: dict[str, tuple[Response, str, int, bool]] = {
    "base": (Response(200, (("A", "b"),), b"abc"), "GET", 1, True),
    "status": (Response(201, (("A", "b"),), b"abc"), "GET", 1, True),
    "reason": (Response(200, (("A", "b"),), b"abc", "Fine"), "GET", 1, True),
    "name": (Response(200, (("B", "b"),), b"abc"), "GET", 1, True),
    "value": (Response(200, (("A", "c"),), b"abc"), "GET", 1, True),
    "length": (Response(200, (("A", "b"),), b"abcd"), "GET", 1, True),
    "file": (Response(200, (("A", "b"),), FILE), "GET", 1, True),
    "stream": (Response(200, (("A", "b"),), STREAM), "GET", 1, True),
    "method": (Response(200, (("A", "b"),), b"abc"), "HEAD", 1, True),
    "minor": (Response(200, (("A", "b"),), b"abc"), "GET", 0, True),
    "close": (Response(200, (("A", "b"),), b"abc"), "GET", 1, False),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_cached_head_is_the_one_that_would_be_rendered(variant: str) -> None:
    shared = Renderer("prefork")
    for _ in range(2):
        for arguments in VARIANTS.values():
            render(*arguments, renderer=shared)
    cached, fresh = render(*VARIANTS[variant], renderer=shared), render(*VARIANTS[variant])
    for name in ("silent", "chunked", "length", "keep_alive"):
        assert getattr(cached, name) == getattr(fresh, name)
    assert lines(cached) == lines(fresh)


def test_what_is_refused_once_is_refused_always() -> None:
    renderer = Renderer("prefork")
    pairs: Any = (["A", 1],)
    for response in (
        Response(200, (("A", "b\n"),)),
        Response(200, (("Content-Length", "1"),)),
        Response(99),
        Response(200, pairs),
    ):
        for _ in range(3):
            with pytest.raises(ApplicationError):
                render(response, renderer=renderer)


def test_the_caches_are_bounded() -> None:
    renderer = Renderer("prefork")
    for number in range(ENTRIES * 3):
        render(Response(200, (("X", str(number)),)), renderer=renderer)
        assert len(renderer.blocks) <= ENTRIES
        assert len(renderer.heads) <= ENTRIES


@pytest.mark.parametrize(
    "fields",
    [
        lambda number: [("X", f"{number:04}" * 2000)],
        lambda number: [("X", f"{number:04}" * 250), *((f"x{number}", f"{place}-{number}") for place in range(50))],
        lambda number: [("a", f"{number}") for _ in range(500)],
    ],
    ids=["a long one", "many", "no end of them"],
)
def test_the_caches_are_bounded_in_size(fields: Callable[[int], list[tuple[str, str]]]) -> None:
    renderer = Renderer("prefork")
    tracemalloc.start()
    for number in range(40):
        render(Response(200, tuple(fields(number))), renderer=renderer)
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert size < 2 * 2 * 40 * ENTRY_BYTES


def test_a_refusal_leaves_nothing_in_the_caches() -> None:
    renderer = Renderer("prefork")
    for number in range(20):
        with pytest.raises(ApplicationError):
            render(Response(200, (("X", f"{number}\n"),)), renderer=renderer)
    assert (renderer.blocks, renderer.heads) == ({}, {})
