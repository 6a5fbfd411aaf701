"""Files and slow readers: sendfile from offset to count, and one download never in the way of others."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h11
import pytest

from prefork.http.message import FileSegment, Request, Response
from tests.http.conftest import GET, World, answering

Make = Callable[..., World]

SIZE = 3_000_000


class Shelf:
    """A Handler that serves `count` bytes of a file from `offset` on; `opened` and `closed` count."""

    def __init__(self, path: Path, offset: int, count: int, *fields: tuple[str, str]) -> None:
        self.path = path
        self.offset = offset
        self.count = count
        self.fields = fields
        self.opened = self.closed = 0

    async def handle(self, request: Request) -> Response:
        if request.path == "/small":
            return Response(200, (), b"small")
        file = os.open(self.path, os.O_RDONLY)
        self.opened += 1

        def close() -> None:
            self.closed += 1
            os.close(file)

        return Response(200, self.fields, FileSegment(file, self.offset, self.count, close))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(250)) * (SIZE // 250))
    return path


@pytest.mark.parametrize(("offset", "count"), [(0, SIZE), (0, 1), (SIZE - 1, 1), (1000, SIZE - 2000), (5, 0)])
@pytest.mark.parametrize("tcp", [True, False], ids=["tcp", "unix"])
def test_a_segment_is_sent_from_its_offset_and_no_further(
    world: Make, path: Path, offset: int, count: int, tcp: bool
) -> None:
    shelf = Shelf(path, offset, count)
    here = world(shelf.handle)
    found = here.talk(GET + b"GET /small HTTP/1.1\r\nHost: a\r\n\r\n", "GET GET", tcp)
    assert found[0].body == path.read_bytes()[offset : offset + count]
    assert found[0].headers["content-length"] == str(count)
    assert found[1].body == b"small"
    assert (shelf.opened, shelf.closed) == (1, 1)
    assert here.log[0].sent > count


def test_an_http_1_0_client_gets_the_same(world: Make, path: Path) -> None:
    found = world(Shelf(path, 10, SIZE - 10).handle).talk(b"GET / HTTP/1.0\r\n\r\n")
    assert found[0].body == path.read_bytes()[10:]


def test_head_sends_none_of_it(world: Make, path: Path) -> None:
    shelf = Shelf(path, 0, SIZE)
    found = world(shelf.handle).talk(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n" * 2, "HEAD HEAD")
    assert [(answer.headers["content-length"], answer.body) for answer in found] == [(str(SIZE), b"")] * 2
    assert shelf.closed == 2


@pytest.mark.parametrize("left", [0, 1, 700_000])
def test_a_file_that_shrinks_is_cut_so_that_the_client_can_tell(world: Make, path: Path, left: int) -> None:
    shelf = Shelf(path, 0, SIZE)
    os.truncate(path, left)
    here = world(shelf.handle)
    with pytest.raises(h11.RemoteProtocolError):
        here.talk(GET * 2, "GET GET")
    assert shelf.closed == 1
    assert "cut short" in here.warnings[0].getMessage()


def test_a_length_that_is_not_the_segments_is_a_500(world: Make, path: Path) -> None:
    shelf = Shelf(path, 0, SIZE, ("Content-Length", "5"))
    here = world(shelf.handle)
    assert here.talk(GET)[0].status == 500
    assert shelf.closed == 1
    here.errors.clear()


def test_a_client_that_leaves_leaves_no_file_open(world: Make, path: Path) -> None:
    shelf = Shelf(path, 0, SIZE)
    here = world(shelf.handle)
    peer = here.connect(buffer=4096)
    peer.send(GET)
    peer.take(b"\r\n\r\n")
    peer.close()
    peer.until_gone()
    assert shelf.closed == 1


@pytest.mark.skipif(not hasattr(socket, "MSG_MORE"), reason="this platform has no MSG_MORE")
@pytest.mark.parametrize(("method", "count", "waits"), [("GET", 5, True), ("GET", 0, False), ("HEAD", 5, False)])
def test_a_head_waits_for_the_body_only_where_one_follows(
    world: Make, path: Path, method: str, count: int, waits: bool
) -> None:
    """The kernel would hold it back for 200 ms."""
    flags: list[int] = []

    class Spied(socket.socket):
        def send(self, data: Any, *flag: int) -> int:
            flags.extend(flag)
            return super().send(data, *flag)

    peer = world(Shelf(path, 0, count).handle).connect(kind=Spied)
    peer.send(GET.replace(b"GET", method.encode()))
    peer.answer(method)
    assert (socket.MSG_MORE in flags) == waits


# ---- slow readers


@pytest.mark.parametrize("kind", ["bytes", "file"])
def test_a_client_that_does_not_read_is_in_nobodys_way(world: Make, path: Path, kind: str) -> None:
    shelf = Shelf(path, 0, SIZE)

    async def handle(request: Request) -> Response:
        if request.path == "/" and kind == "bytes":
            return Response(200, (), b"x" * SIZE)
        return await shelf.handle(request)

    here = world(handle)
    slow = [here.connect(buffer=4096) for _ in range(3)]
    for peer in slow:
        peer.send(GET)
    brisk = here.connect()
    for _ in range(20):
        brisk.send(b"GET /small HTTP/1.1\r\nHost: a\r\n\r\n")
        assert brisk.answer().body == b"small"
    assert not any(peer.ended for peer in slow)
    assert shelf.closed == 0
    for peer in slow:  # and gets it all when it reads at last
        assert len(peer.answer().body) == SIZE


def test_a_fast_download_lets_others_have_their_turn(world: Make, path: Path) -> None:
    """However fast it goes: each of its turns sends a slice, whatever the kernel would take."""
    here = world(Shelf(path, 0, SIZE).handle)
    greedy, modest = here.connect(), here.connect()
    modest.socket.send(b"GET /small HTTP/1.1\r\nHost: a\r\n\r\n")
    greedy.send(GET)
    turns = 0

    def done() -> bool:
        nonlocal turns
        turns += 1
        greedy.poll()
        return len(greedy.got) > SIZE

    assert modest.answer().body == b"small"
    here.until(done, "the download")
    assert turns >= 2


def test_what_a_client_pipelines_waits_while_it_does_not_read(world: Make) -> None:
    """Its requests stay in the kernel's buffers: nothing is handled that nobody takes."""
    handled = 0

    def make(request: Request) -> Response:
        nonlocal handled
        handled += 1
        return Response(200, (), b"x" * 1_000_000)

    here = world(answering(make))
    peer = here.connect()
    peer.send(GET * 50)
    for _ in range(200):
        here.loop.turn()
    assert handled < 50
    peer.shutdown()
    assert peer.rest().count(b"HTTP/1.1 200 OK\r\n") == handled == 50
