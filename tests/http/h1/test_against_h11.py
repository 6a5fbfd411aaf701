"""The whole connection against h11: valid requests are read the same, and nothing that h11 reads otherwise is taken.

Whatever two servers could read in two ways lets requests be smuggled past the first of them (RFC 9112 §11.2), so what
our handlers get must be, request by request, what h11 makes of the same bytes. Refusing more than h11 does is fine;
what we take and h11 does not is listed here, with its reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefork.http.message import Request, Response
from prefork.http.proxy_fields import PROXY_FIELDS
from tests.http.conftest import World
from tests.http.h1.oracle import Asked, answers, requests

EMPTY_LINE = b"\r\n"  # one before a request line is skipped, as RFC 9112 §2.2 asks: it can only be read in one way

# ---- requests, valid ones and others

TCHARS = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
tokens = st.text(TCHARS, min_size=1, max_size=12)
methods = st.sampled_from(["GET", "HEAD", "POST", "OPTIONS", "DELETE"]) | tokens.filter(
    lambda token: token != "CONNECT"
)
targets = st.text("abc/.-_~!$&'()*+,;=:@?", max_size=20).map(lambda text: "/x" + text.replace("..", ""))
values = st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]) | st.just("\t"), max_size=20)
OURS = {"host", "content-length", "transfer-encoding", "connection", "expect", "upgrade"}
names = tokens.filter(lambda name: name.lower() not in OURS and not PROXY_FIELDS[name.lower()])
fields = st.lists(st.tuples(names, values), max_size=5)
bodies = st.binary(max_size=60)
blanks = st.sampled_from(["", " ", "  ", "\t", " \t "])


@st.composite
def valid_requests(draw: st.DrawFn) -> bytes:
    """The bytes of one valid request that does not end its connection."""
    lines = [f"{name}:{draw(blanks)}{value}{draw(blanks)}" for name, value in draw(fields)]
    lines.insert(draw(st.integers(0, len(lines))), f"Host:{draw(blanks)}a")
    body = draw(bodies)
    match draw(st.sampled_from(["none", "length", "chunked"])):
        case "none":
            payload = b""
        case "length":
            lines.insert(
                draw(st.integers(0, len(lines))), f"Content-Length: {'0' * draw(st.integers(0, 2))}{len(body)}"
            )
            payload = body
        case _:
            lines.insert(draw(st.integers(0, len(lines))), "Transfer-Encoding: chunked")
            payload = b""
            while body:
                size = draw(st.integers(1, len(body)))
                extension = draw(st.sampled_from([b"", b";a", b';a="b"']))
                payload += b"%x%b\r\n%b\r\n" % (size, extension, body[:size])
                body = body[size:]
            payload += b"0\r\n" + draw(st.sampled_from([b"", b"X: y\r\n"])) + b"\r\n"
    head = "\r\n".join([f"{draw(methods)} {draw(targets)} HTTP/1.1", *lines, "", ""])
    return head.encode("latin-1") + payload


NASTY = [b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"\n\n", b"\0", b" ", b"\t", b":", b",", b";", b"\x0b", b"\x0c", b"\x85"]
NASTY += [b"\xa0", b"\xff", b"\x7f", b"0", b"5", b"-", b"+", b"_", b"x", b"/", b"?", b"#", b"%", b"*", b'"', b"\\"]
NASTY += [b"1.0", b"2.0", b"HTTP/1.1", b"chunked", b" chunked,", b"\r\n ", b"0\r\n\r\n", b"Host: b\r\n"]
NASTY += [b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding : chunked\r\n"]
NASTY += [b"GET / HTTP/1.1\r\nHost: b\r\n\r\n", b"Expect: 100-continue\r\n", b"Connection: close\r\n"]


@st.composite
def mutated_requests(draw: st.DrawFn) -> bytes:
    """Valid requests after an accident or two."""
    data = b"".join(draw(st.lists(valid_requests(), min_size=1, max_size=3)))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.integers(0, 4)))
        data = data[:at] + draw(st.sampled_from(NASTY) | st.just(b"")) + data[end:]
    return data


# ---- what our side makes of them


class Reader:
    """A World that keeps the requests that its handler got, whole."""

    def __init__(self) -> None:
        self.world = World(self.keep)
        self.kept: list[Asked] = []

    async def keep(self, request: Request) -> Response:
        with await request.body.spool() as file:
            body = file.read()
        version = request.version.removeprefix("HTTP/")
        self.kept.append(Asked(request.method, request.target, version, list(request.headers.pairs), body))
        return Response(200, (), b"ok")

    def read(self, data: bytes, cuts: list[int]) -> tuple[list[Asked], list[int]]:
        """What the handler gets of `data`, sent in pieces, and the statuses that the client gets."""
        self.kept = []
        self.world.log.clear()
        peer = self.world.connect(tcp=False)
        with suppress(BrokenPipeError, ConnectionResetError):  # as a client may meet that goes on after "close"
            for size in cuts:
                peer.send(data[:size])
                data = data[size:]
            peer.send(data)
            peer.shutdown()
            peer.until(lambda: peer.ended, "the end")
        peer.until_gone()
        peer.close()
        asked = [request.method or "GET" if request else "GET" for _, request, *_ in self.world.log]
        statuses = [answer.status for answer in answers(peer.got, asked)]
        return self.kept, [status for status in statuses if status != 100]


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    reader = Reader()
    yield reader
    reader.world.close()


patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=200)
splits = st.lists(st.integers(1, 60), max_size=5)


@patient
@given(st.lists(valid_requests(), min_size=1, max_size=4), splits)
def test_valid_requests_are_read_as_h11_reads_them(reader: Reader, messages: list[bytes], cuts: list[int]) -> None:
    data = b"".join(messages)
    kept, statuses = reader.read(data, cuts)
    assert kept == requests(data)
    assert len(kept) == len(messages)
    assert statuses == [200] * len(messages)


@patient
@given(mutated_requests(), splits)
def test_whatever_we_take_is_what_h11_reads(reader: Reader, data: bytes, cuts: list[int]) -> None:
    kept, statuses = reader.read(data, cuts)
    assert kept == requests(data, skip=EMPTY_LINE)[: len(kept)]
    assert statuses[: len(kept)] == [200] * len(kept)
    assert all(400 <= status <= 505 for status in statuses[len(kept) :])


@patient
@given(mutated_requests(), splits)
def test_the_verdict_does_not_depend_on_how_the_bytes_arrive(reader: Reader, data: bytes, cuts: list[int]) -> None:
    assert reader.read(data, cuts) == reader.read(data, [])
