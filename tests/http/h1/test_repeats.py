"""Requests that come again, byte for byte: what lasts is given again, and never longer than it is true."""

from __future__ import annotations

import os
from collections.abc import Callable
from math import inf
from pathlib import Path

import pytest

from prefork.http.h1.connection import HEAD_READ
from prefork.http.h1.parse import OVERHEAD, Heads
from prefork.http.h1.protocol import Http1
from prefork.http.message import FileSegment, Repeatable, Request, Response, plain
from prefork.net.stream import SLICE
from prefork.shared.counters import REPEATS, REQUESTS
from tests.http.conftest import GET, World

Make = Callable[..., World]


class Source:
    """A Handler that gives `response`, and counts how often it is asked."""

    def __init__(self, response: Response) -> None:
        self.response = response
        self.asked = 0

    async def handle(self, request: Request) -> Response:
        self.asked += 1
        return self.response


def repeatable(here: World, seconds: float = 60.0, body: bytes = b"again") -> Repeatable:
    return Repeatable(200, (("Content-Type", "text/plain"),), body, here.loop.now + seconds)


@pytest.fixture
def here(world: Make) -> World:
    """A world whose handler is a Source of what lasts, in a second that does not end: with the next, it is asked again,
    and tests count that.
    """
    here = dated(world)
    here.protocol = Http1(here.server, interval=1e9)
    return here


def dated(world: Make) -> World:
    """Such a world, where seconds end."""
    here = world(lambda request: None)
    here.handler = Source(repeatable(here)).handle
    return here


def source(here: World) -> Source:
    found = here.handler.__self__  # type: ignore[attr-defined]
    assert isinstance(found, Source)
    return found


def test_what_keeps_coming_is_given_again_without_its_handler(here: World) -> None:
    peer = here.connect()
    for _ in range(6):
        peer.send(GET)
        assert peer.answer().body == b"again"
    assert source(here).asked == 3  # fields that came twice are remembered, and then the whole head that did
    assert (here.board[REPEATS], here.board[REQUESTS]) == (3, 6)
    assert [entry.status for entry in here.log] == [200] * 6
    assert here.log[5].sent == here.log[0].sent
    assert here.log[5].request is not None
    assert here.log[5].request.path == "/"


def test_another_connection_gets_it_too_and_another_request_does_not(here: World) -> None:
    for _ in range(5):
        peer = here.connect()
        peer.send(GET)
        peer.answer()
    assert source(here).asked == 3
    for other in (GET.replace(b"Host: a", b"Host: b"), GET.replace(b"/ HTTP", b"/?x HTTP")):
        asked = source(here).asked
        peer.send(other)
        peer.answer()
        assert source(here).asked == asked + 1


def test_what_is_over_is_not_given_again(here: World) -> None:
    peer = here.connect()
    for _ in range(4):
        peer.send(GET)
        peer.answer()
    response = source(here).response
    assert isinstance(response, Repeatable)
    response.retire()
    source(here).response = Repeatable(200, (), b"new", here.loop.now + 60)
    peer.send(GET)
    assert peer.answer().body == b"new"


def test_what_does_not_last_is_not_remembered(here: World) -> None:
    for response in (Repeatable(200, (), b"x", 0.0), Response(200, (), b"x")):
        source(here).response, source(here).asked = response, 0
        peer = here.connect()
        for _ in range(4):
            peer.send(GET)
            assert peer.answer().body == b"x"
        assert source(here).asked == 4


def test_the_date_goes_on(world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    here = dated(world)
    dates = iter(["Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:38 GMT"])
    last = "Sun, 06 Nov 1994 08:49:38 GMT"
    monkeypatch.setattr("prefork.http.h1.render.formatdate", lambda *_, **__: next(dates, last))
    peer = here.connect()
    seen = []
    until = here.loop.now + 1.2
    while len(seen) < 3 or here.loop.now < until:
        peer.send(GET)
        seen.append(peer.answer().headers["date"])
        here.loop.turn()
    assert list(dict.fromkeys(seen)) == ["Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:38 GMT"]
    assert here.board[REPEATS] > 0


@pytest.mark.parametrize(
    ("head", "method"),
    [
        (b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", "HEAD"),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "GET"),
    ],
)
def test_other_forms_are_answered_in_their_form_each_time(here: World, head: bytes, method: str) -> None:
    peer = here.connect()
    for _ in range(4):
        peer.send(GET)
        peer.answer()
    for _ in range(4):
        peer.send(head)
        assert peer.answer(method).body == (b"" if method == "HEAD" else b"again")
    assert here.board[REPEATS] == 1


def test_a_request_that_closes_is_answered_so_however_often(here: World) -> None:
    for _ in range(4):
        (found,) = here.talk(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert (found.body, found.headers["connection"]) == (b"again", "close")


def test_in_a_drain_every_answer_closes(here: World) -> None:
    first, second = here.connect(), here.connect()
    for _ in range(4):
        for peer in (first, second):
            peer.send(GET)
            peer.answer()
    here.server.drain()
    first.send(GET)
    assert first.answer().headers["connection"] == "close"


def test_a_request_with_a_body_always_asks(here: World) -> None:
    post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab"
    peer = here.connect()
    for _ in range(4):
        peer.send(post)
        assert peer.answer("POST").body == b"again"
    assert source(here).asked == 4


def test_pipelined_repeats_come_in_order(here: World) -> None:
    found = here.talk(GET * 6, " ".join(["GET"] * 6))
    assert [answer.body for answer in found] == [b"again"] * 6


def test_a_reader_that_takes_its_time_gets_all_of_it(here: World) -> None:
    body = os.urandom(3_000_000)
    source(here).response = repeatable(here, body=body)
    for _ in range(4):
        here.talk(GET)
    peer = here.connect(buffer=4096)
    peer.send(GET)
    here.loop.turn()
    assert peer.answer().body == body


def test_a_repeat_has_all_the_time_that_any_answer_has(world: Make, tmp_path: Path) -> None:
    """Not what is left of the time for which its connection could have been idle."""
    here = world(header_timeout=5, keepalive_timeout=5, send_timeout=3600, min_send_rate=0)
    size = 10 * SLICE
    (tmp_path / "file").write_bytes(bytes(size))
    file = os.open(tmp_path / "file", os.O_RDONLY)
    here.handler = Source(Repeatable(200, (), FileSegment(file, 0, size, lambda: None), inf)).handle
    peer = here.connect()
    deadlines = []

    def sending() -> bool:
        if peer.connection.answer:
            deadlines.append(peer.task.deadline)
        return len(peer.got) > size

    while here.board[REPEATS] < 2:
        peer.send(GET)
        peer.until(sending, "the whole file")
        assert len(peer.answer().body) == size
    assert deadlines
    assert min(deadlines) > here.loop.now + 3000
    os.close(file)


def test_a_file_is_held_anew_for_each_repeat(here: World, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(range(250)) * 4000)
    file = os.open(tmp_path / "file", os.O_RDONLY)
    holders = 0

    def hold(change: int = 1) -> None:
        nonlocal holders
        holders += change

    segment = FileSegment(file, 0, 1_000_000, lambda: hold(-1))
    response = Repeatable(200, (), segment, here.loop.now + 60, hold)

    async def handle(request: Request) -> Response:
        hold()
        return response

    here.handler = handle
    for _ in range(5):
        (found,) = here.talk(GET)
        assert found.body == (tmp_path / "file").read_bytes()
    peer = here.connect(buffer=4096)
    peer.send(GET)
    peer.take(b"\r\n\r\n")
    assert holders == 1
    peer.close()
    peer.until_gone()
    assert holders == 0
    assert here.board[REPEATS] == 3
    os.close(file)


def test_heads_that_are_all_different_fill_no_memory(here: World) -> None:
    here.protocol = Http1(here.server, Heads(32768, 100, whole_bytes=20_000))
    peer = here.connect()
    known = here.protocol.heads.wholes
    for number in range(60):
        for _ in range(2):
            peer.send(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number)
            peer.answer()
        assert len(known) * OVERHEAD <= 20_000 + OVERHEAD
    assert known


def test_a_head_as_long_as_one_read_is_no_less_one(here: World) -> None:
    long = b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * HEAD_READ + b"\r\n\r\n"
    peer = here.connect()
    for _ in range(3):
        peer.send(long)
        assert peer.answer().body == b"again"


def test_a_rule_that_looks_at_the_client_sees_each_request(here: World) -> None:
    """Though the handler below it gives the same answer again and again."""
    below = here.handler
    may_come = [False, True, True, True, True, True, False]

    async def rule(request: Request) -> Response:
        return await below(request) if may_come.pop(0) else plain(403)

    here.handler = rule
    here.server.repeatable = {below}
    peer = here.connect()
    statuses = []
    while may_come:
        peer.send(GET)
        statuses.append(peer.answer().status)
    assert statuses == [403, 200, 200, 200, 200, 200, 403]


def test_what_one_listener_answers_is_not_repeated_to_clients_of_another(here: World) -> None:
    other = Http1(here.server, here.protocol.heads)
    for protocol, repeats in ((here.protocol, True), (other, False), (here.protocol, False)):
        here.protocol = protocol
        before = here.board[REPEATS]
        peer = here.connect()
        for _ in range(6 if repeats else 1):
            peer.send(GET)
            assert peer.answer().status == 200
        assert (here.board[REPEATS] > before) == repeats
