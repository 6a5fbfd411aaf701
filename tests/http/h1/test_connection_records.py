"""What is recorded of answers that do not get through, or never could: bytes, seconds, and what was asked."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from prefork.http.message import FileSegment, Request, Response, Upgrade
from prefork.net.stream import Bounds, Stream
from prefork.shared.counters import REQUESTS, SENT, STATUS_CLASS
from tests.http.conftest import GET, Pieces, World, answering, echo
from tests.http.h1.oracle import answers

Make = Callable[..., World]

POST = b"POST /big HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
LONG = 30_000_000  # bytes: more than a kernel takes for a peer that does not read


def test_a_cut_answer_is_recorded_with_what_was_sent_of_it(world: Make) -> None:
    here = world(answering(lambda request: Response(200, (), b"x" * LONG)))
    peer = here.connect()
    peer.send(GET)
    peer.take(b"\r\n\r\n")
    peer.close()
    peer.until_gone()
    entry = here.log[0]
    assert (entry.status, here.board[SENT]) == (200, entry.sent)
    assert 0 < entry.head < entry.sent < LONG


def test_a_cut_download_is_recorded_with_what_was_sent_of_it(world: Make, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.truncate(tmp_path / "file", LONG)

    def serve(request: Request) -> Response:
        file = os.open(tmp_path / "file", os.O_RDONLY)
        return Response(200, (), FileSegment(file, 0, LONG, lambda: os.close(file)))

    here = world(answering(serve))
    peer = here.connect()
    peer.send(GET)
    peer.take(b"\r\n\r\n")
    peer.close()
    peer.until_gone()
    assert here.log[0].status == 200
    assert here.log[0].head < here.log[0].sent < LONG


def test_a_client_that_does_not_wait_is_recorded_with_the_seconds_that_it_did(world: Make) -> None:
    async def handle(request: Request) -> Response:
        await here.loop.sleep(0.05)
        await request.body.piece()
        raise AssertionError("the client is gone")

    here = world(handle)
    peer = here.connect()
    peer.send(POST % 9)
    peer.close()
    peer.until_gone()
    assert [(entry.status, entry.sent) for entry in here.log] == [(499, 0)]
    assert here.log[0].seconds >= 0.05


def test_a_body_that_stalls_is_recorded_with_its_seconds(world: Make) -> None:
    here = world(echo, body_timeout=0.05)
    peer = here.connect()
    peer.send(POST % 9)
    assert answers(peer.rest(), ["POST"])[0].status == 408
    assert here.log[0].seconds >= 0.05


def test_a_100_continue_is_no_part_of_what_was_sent(world: Make) -> None:
    here = world(answering_once_read(lambda: Pieces(b"abc")))
    peer = here.connect()
    peer.send((POST % 2).replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
    peer.take(b"100 Continue\r\n\r\n")
    peer.send(b"ok")
    size = len(peer.take(b"0\r\n\r\n"))
    here.until(lambda: here.log, "the record")
    assert here.log[0].sent == size


def answering_once_read(make: Callable[[], Pieces]) -> Callable[[Request], object]:
    async def handle(request: Request) -> Response:
        (await request.body.spool()).close()
        return Response(200, (), make())

    return handle


def test_a_refusal_that_nobody_waits_for_is_counted_and_recorded(world: Make) -> None:
    here = world(echo, max_body=10)
    peer = here.connect()
    peer.socket.send(POST % 11 + b"x" * 11)
    peer.reset()
    peer.until_gone()
    assert [entry.status for entry in here.log] == [413]
    assert here.board[REQUESTS] == here.board[STATUS_CLASS + 4] == 1


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"GET /where HTTP/1.1\r\nbad field\r\n\r\n", ("GET", "/where", "HTTP/1.1")),
        (b"GET /where HTTP/1.1\r\n\r\n", ("GET", "/where", "HTTP/1.1")),
        (b"GET /where HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", ("GET", "/where", "HTTP/1.1")),
        (b"\x16\x03", ("", "\x16\x03", "")),
        (b"GET  /where HTTP/1.1\r\nHost: a\r\n\r\n", ("", "GET  /where HTTP/1.1", "")),
        (b"GET /" + b"w" * 5000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", ("", "GET /" + "w" * 2043, "")),
    ],
)
@pytest.mark.parametrize("cut", [2, 10_000])
def test_a_refused_head_is_recorded_with_its_request_line(
    world: Make, data: bytes, shown: tuple[str, str, str], cut: int
) -> None:
    here = world(echo, max_head=4096)
    peer = here.connect()
    peer.send(data[:cut])
    peer.until(lambda: peer.connection.stream.unread or here.log, "the first bytes")
    peer.send(data[cut:])
    peer.rest()
    request = here.log[0].request
    assert request is not None
    assert (request.method, request.target, request.version) == shown


def test_a_refused_head_request_is_answered_without_a_body(world: Make) -> None:
    here = world(echo)
    assert here.talk(b"HEAD / HTTP/1.1\r\n\r\n", "HEAD")[0].status == 400


def test_a_file_that_cannot_be_sent_is_logged_and_the_answer_cut(world: Make) -> None:
    reading, writing = os.pipe()  # sendfile(2) has no offset in a pipe
    os.write(writing, b"abc")

    def serve(request: Request) -> Response:
        return Response(200, (), FileSegment(reading, 0, 3, lambda: None))

    here = world(answering(serve))
    peer = here.connect()
    peer.send(GET)
    assert b"abc" not in peer.rest()
    peer.until_gone()
    os.close(reading)
    os.close(writing)
    assert "OSError" in here.errors.pop().getMessage()
    assert here.log[0].sent == here.log[0].head


def test_an_application_that_takes_its_time_does_not_count_against_its_clients_rate(world: Make) -> None:
    async def handle(request: Request) -> Response:
        await here.loop.sleep(0.15)
        return await echo(request)

    here = world(handle, min_receive_rate=1000, bounds=Bounds(grace=0.05))
    peer = here.connect()
    peer.send((POST % 3).replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
    peer.take(b"100 Continue\r\n\r\n")
    peer.send(b"abc")
    assert peer.answer("POST").body == b"abc"


def test_a_connection_whose_body_is_being_dropped_is_not_idle(world: Make) -> None:
    here = world(answering(lambda request: Response(200)))
    peer = here.connect()
    peer.send(POST % 1000 + b"x" * 10)
    peer.answer("POST")
    assert not peer.connection.idle
    peer.send(b"x" * 990)
    here.until(lambda: peer.connection.idle, "the end of the body")


def test_a_connection_that_lingers_is_not_idle(world: Make) -> None:
    peer = world().connect()
    peer.send(b"nonsense\r\n\r\n")
    peer.until(lambda: b"400" in peer.got, "the refusal")
    assert peer.task in peer.world.loop.tasks
    assert not peer.connection.idle


class Raw(Upgrade):
    """Says what it has got."""

    __slots__ = ()
    protocol = "raw"

    async def converse(self, stream: Stream) -> None:
        await stream.write(stream.unread, 1.0)

    async def aclose(self) -> None:
        pass


def test_an_upgrade_behind_a_body_gets_what_follows_it_once(world: Make) -> None:
    async def handle(request: Request) -> Response:
        (await request.body.spool()).close()
        return Response(101, (), Raw())

    peer = world(handle).connect()
    peer.send(POST % 5 + b"helloFRAME")
    peer.take(b"\r\n\r\n")
    assert peer.rest() == b"FRAME"
