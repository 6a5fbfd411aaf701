"""Random pipelines in random pieces: every request is answered as it should be, in order, framed so that h11 agrees."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefork.http.message import FileSegment, Request, Response
from prefork.net.stream import READ_SIZE
from prefork.runtime.task import PAUSE
from tests.http.conftest import Pieces, World
from tests.http.h1.oracle import Answer, answers

TEXT = bytes(range(256)) * 40


def test_what_a_client_sends_while_its_answers_are_made_is_bounded(world: Callable[..., World]) -> None:
    """Each answer is watched for the client's end, which reads what comes; there is always more."""

    async def handle(request: Request) -> Response:
        loop = here.loop
        watching = loop.spawn(request.body.hangup(), "watching")
        for _ in range(4):
            await loop.sleep(0)
        watching.cancel()
        return Response(200, (), request.path.encode())

    here = world(handle)
    peer = here.connect()
    asked = b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\nX: %b\r\n\r\n" % (number, b"x" * 2000) for number in range(600))
    most = 0
    for number in range(600):
        with suppress(BlockingIOError):
            while asked:
                asked = asked[peer.socket.send(asked) :]
        assert peer.answer().body == b"/%d" % number
        most = max(most, len(peer.connection.stream.unread))
    assert 0 < most <= 2 * READ_SIZE


class Ask(NamedTuple):
    """A request. `kind` is what its answer is made of, `size` how long that is; `body` is None where there is none."""

    method: str
    kind: str
    size: int
    status: int
    version: str
    connection: str
    body: bytes | None
    chunked: bool

    @property
    def wire(self) -> bytes:
        lines = [f"{self.method} /{self.kind}/{self.size}/{self.status} HTTP/{self.version}", "Host: a"]
        if self.connection:
            lines.append(f"Connection: {self.connection}")
        payload = self.body or b""
        if self.chunked:
            lines.append("Transfer-Encoding: chunked")
            pieces = [payload[at : at + 7] for at in range(0, len(payload), 7)]
            payload = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
        elif self.body is not None:
            lines.append(f"Content-Length: {len(payload)}")
        return "\r\n".join([*lines, "", ""]).encode() + payload

    @property
    def expected(self) -> tuple[int, bytes]:
        """The status and body that the client is to get."""
        if self.kind == "fails":
            return 500, b"" if self.method == "HEAD" else b"500 Internal Server Error\n"
        content = (self.body or b"") if self.kind == "echo" else TEXT[: self.size]
        return self.status, b"" if self.method == "HEAD" or self.status in {204, 304} else content

    @property
    def ends(self) -> bool:
        """True where it says that it is the last: the client must not send another after it (RFC 9112 §9.6)."""
        return self.connection == "close" or (self.version == "1.0" and self.connection != "keep-alive")

    @property
    def is_last(self) -> bool:
        """True where the connection ends with its answer."""
        silent = self.method == "HEAD" or self.status in {204, 304}
        endless = self.kind == "stream" and self.version == "1.0" and not silent
        return self.ends or endless or self.kind == "closes"


@st.composite
def asks(draw: st.DrawFn) -> Ask:
    version = draw(st.sampled_from(["1.1", "1.1", "1.1", "1.0"]))
    body = draw(st.none() | st.binary(max_size=100))
    return Ask(
        draw(st.sampled_from(["GET", "HEAD", "POST", "X-Y"])),
        draw(st.sampled_from(["bytes", "stream", "sized", "file", "echo", "fails", "closes", "late"])),
        draw(st.sampled_from([0, 1, 10, 9000])),
        draw(st.sampled_from([200, 200, 200, 404, 204, 304])),
        version,
        draw(st.sampled_from(["", "", "", "keep-alive", "close"])),
        body,
        body is not None and version == "1.1" and draw(st.booleans()),
    )


class Site:
    """A Handler that answers as the path says; `open` counts the files that it has open."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.path.write_bytes(TEXT)
        self.open = 0

    async def handle(self, request: Request) -> Response:
        kind, size, status = request.path[1:].split("/")
        content, length, code = TEXT[: int(size)], (("Content-Length", size),), int(status)
        match kind:
            case "stream":
                return Response(code, (), Pieces(content[:5], b"", content[5:]))
            case "sized":
                return Response(code, length, Pieces(content[:5], content[5:]))
            case "file":
                return Response(code, (), self.segment(int(size)))
            case "echo":
                with await request.body.spool() as file:
                    return Response(code, (), file.read())
            case "fails":
                raise ZeroDivisionError
            case "closes":
                return Response(code, (("Connection", "close"),), content)
            case "late":
                for _ in range(3):
                    await PAUSE
        return Response(code, (), content)

    def segment(self, size: int) -> FileSegment:
        file = os.open(self.path, os.O_RDONLY)
        self.open += 1

        def close() -> None:
            self.open -= 1
            os.close(file)

        return FileSegment(file, 0, size, close)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    site = Site(tmp_path_factory.mktemp("site") / "file")
    world = World(site.handle)
    yield world
    world.errors.clear()  # of those that were to fail
    world.close()
    assert site.open == 0


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=200)
@given(st.lists(asks(), min_size=1, max_size=6), st.lists(st.integers(1, 300), max_size=6), st.booleans())
def test_every_request_is_answered_in_order(here: World, asked: list[Ask], cuts: list[int], tcp: bool) -> None:
    asked = asked[: next((number for number, ask in enumerate(asked, 1) if ask.ends), None)]
    data = b"".join(ask.wire for ask in asked)
    peer = here.connect(tcp)
    for size in cuts:
        peer.send(data[:size])
        data = data[size:]
    peer.send(data)
    peer.shutdown()
    found = answers(peer.rest(), [ask.method for ask in asked])
    peer.until_gone()
    peer.close()
    last = next((number for number, ask in enumerate(asked, 1) if ask.is_last), len(asked))
    assert [(answer.status, answer.body) for answer in found] == [ask.expected for ask in asked[:last]]
    for answer, ask in zip(found, asked, strict=False):
        check_framing(answer, ask)


def check_framing(answer: Answer, ask: Ask) -> None:
    """The answer says how long it is, and whether the connection ends, as the version and the status have it."""
    names = answer.headers.keys()
    assert (answer.headers.get("connection") == "close") == ask.is_last
    assert ask.version == "1.1" or "transfer-encoding" not in names
    assert answer.status != 204 or "content-length" not in names
    assert not answer.body or ask.is_last or not names.isdisjoint(("content-length", "transfer-encoding"))
