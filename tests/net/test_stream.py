"""Streams: one socket, read and written without blocking; the peer's end is an event, not a fault."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from math import inf
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from prefork.errors import Disconnected, TimedOut
from prefork.net.stream import READ_SIZE, SLICE, Bounds, Stream
from prefork.runtime.loop import Loop
from prefork.runtime.task import PAUSE
from tests.net.conftest import PATIENCE, Pair, Run, tcp_pair

LONG = bytes(range(256)) * 20_000  # more than the kernel's buffers hold


@pytest.fixture
def bounds() -> Bounds:
    return Bounds()


@pytest.fixture
def stream(loop: Loop, pair: Pair, bounds: Bounds) -> Iterator[Stream]:
    stream = Stream(loop, pair[0], bounds=bounds)
    yield stream
    stream.close()


@pytest.fixture
def client(pair: Pair) -> socket.socket:
    return pair[1]


async def receive(client: socket.socket, size: int) -> bytes:
    """That many bytes, or all to the end."""
    data = b""
    while len(data) < size:
        try:
            piece = client.recv(1 << 20)
        except BlockingIOError:
            await PAUSE
            continue
        if not piece:
            break
        data += piece
    return data


def reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()


# ---- reading


def test_reading_gives_what_has_arrived(run: Run, stream: Stream, client: socket.socket) -> None:
    client.send(b"hello")
    assert run(stream.read(PATIENCE)) == b"hello"
    client.send(b"x" * (READ_SIZE + 5))
    assert len(run(stream.read(PATIENCE))) <= READ_SIZE


def test_reading_waits_for_something_to_arrive(run: Run, stream: Stream, client: socket.socket) -> None:
    async def say() -> None:
        for _ in range(3):
            await PAUSE
        client.send(b"late")

    assert run(stream.read(PATIENCE), say()) == b"late"


def test_reading_at_the_end_gives_nothing(run: Run, stream: Stream, client: socket.socket) -> None:
    client.send(b"last")
    client.shutdown(socket.SHUT_WR)
    assert [run(stream.read(PATIENCE)) for _ in range(3)] == [b"last", b"", b""]


def test_reading_from_a_peer_that_has_reset_is_a_disconnection(run: Run, loop: Loop) -> None:
    server, client = tcp_pair()
    server.setblocking(False)
    reset(client)
    stream = Stream(loop, server)
    with pytest.raises(Disconnected):
        run(stream.read(PATIENCE))
    stream.close()


def test_reading_has_a_time_limit(run: Run, stream: Stream) -> None:
    start = monotonic()
    with pytest.raises(TimedOut):
        run(stream.read(0.05))
    assert monotonic() - start >= 0.05


def test_the_time_limit_ends_with_the_reading(run: Run, loop: Loop, stream: Stream, client: socket.socket) -> None:
    async def read() -> float:
        await stream.read(PATIENCE)
        return loop.current.deadline

    client.send(b"a")
    assert run(read()) == inf


def test_the_time_limit_counts_from_now_whenever_this_turn_began(run: Run, loop: Loop, stream: Stream) -> None:
    """An application may have held the turn up."""

    async def read() -> float:
        loop.now -= 3600
        with suppress(TimedOut):
            await stream.read(0.05)
        return monotonic()

    start = monotonic()
    assert run(read()) - start >= 0.05


# ---- writing


def test_what_is_written_arrives_whole_and_in_order(run: Run, stream: Stream, client: socket.socket) -> None:
    async def write() -> None:
        for piece in (b"a", b"", LONG, memoryview(LONG), b"z"):
            await stream.write(piece, PATIENCE)

    async def both() -> bytes:
        return await receive(client, 2 * len(LONG) + 2)

    assert run(both(), write()) == b"a" + LONG + LONG + b"z"


def test_writing_to_a_peer_that_takes_nothing_is_a_disconnection_in_the_end(run: Run, stream: Stream) -> None:
    with pytest.raises(Disconnected, match=r"0\.05 s"):
        run(stream.write(LONG * 3, 0.05))


def test_a_peer_that_takes_a_little_has_its_time_again(
    run: Run, loop: Loop, stream: Stream, client: socket.socket
) -> None:
    async def write() -> int:
        await stream.write(LONG * 3, 3600)
        return len(deadlines - {inf})

    async def sip() -> None:
        task = next(task for task in loop.tasks if task.name == "the test")
        while True:
            deadlines.add(task.deadline)
            with suppress(BlockingIOError):
                client.recv(200_000)
            await PAUSE

    deadlines: set[float] = set()
    assert run(write(), sip()) >= 3


@pytest.mark.parametrize("how", ["closed", "reset"])
def test_writing_to_a_peer_that_has_left_is_a_disconnection(
    run: Run, stream: Stream, client: socket.socket, how: str
) -> None:
    async def write() -> None:
        for _ in range(100):
            await stream.write(LONG, PATIENCE)

    client.close() if how == "closed" else reset(client)
    with pytest.raises(Disconnected):
        run(write())


def test_a_long_write_lets_others_have_their_turn(run: Run, loop: Loop) -> None:
    """Even where the kernel takes it all at once, as a fast reader makes it."""
    sent: list[int] = []
    turns = 0

    class TakesAll(socket.socket):
        def send(self, data: Any, flags: int = 0) -> int:
            sent.append(len(data))
            return len(data)

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await PAUSE

    with TakesAll() as taking:
        run(Stream(loop, taking).write(b"x" * (4 * SLICE), PATIENCE), count())
    assert sent == [SLICE] * 4
    assert turns >= 3


# ---- files


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "file"
    path.write_bytes(LONG)
    file = os.open(path, os.O_RDWR)
    yield file
    os.close(file)


@pytest.mark.parametrize(("offset", "count"), [(0, len(LONG)), (1, 1), (len(LONG) - 3, 3), (1000, 3_000_000), (7, 0)])
def test_a_file_is_sent_from_its_offset_and_no_further(
    run: Run, stream: Stream, client: socket.socket, file: int, offset: int, count: int
) -> None:
    async def both() -> bytes:
        return await receive(client, count)

    assert run(both(), stream.send_file(file, offset, count, PATIENCE)) == LONG[offset : offset + count]
    assert os.lseek(file, 0, os.SEEK_CUR) == 0, "its position is another's"
    with pytest.raises(BlockingIOError):
        client.recv(1)


@pytest.mark.parametrize("left", [0, 1, 2_000_000])
def test_a_file_that_ends_too_early_is_an_end_of_file(
    run: Run, stream: Stream, client: socket.socket, file: int, left: int
) -> None:
    async def drain() -> None:
        await receive(client, len(LONG))

    os.truncate(file, left)
    with pytest.raises(EOFError):
        run(stream.send_file(file, 0, len(LONG), PATIENCE), drain())


def test_sending_a_file_to_a_peer_that_takes_nothing_is_a_disconnection(run: Run, stream: Stream, file: int) -> None:
    async def send() -> None:
        while True:
            await stream.send_file(file, 0, len(LONG), 0.05)

    with pytest.raises(Disconnected):
        run(send())


def test_sending_a_file_to_a_peer_that_has_left_is_a_disconnection(
    run: Run, stream: Stream, client: socket.socket, file: int
) -> None:
    client.close()
    with pytest.raises(Disconnected):
        run(stream.send_file(file, 0, len(LONG), PATIENCE))


# ---- ends


def test_lingering_lets_the_peer_read_it_all_although_it_goes_on_sending(
    run: Run, stream: Stream, client: socket.socket
) -> None:
    """RFC 9112 §9.6."""

    async def farewell() -> None:
        await stream.write(b"bye", PATIENCE)
        await stream.linger()
        stream.close()

    async def talk() -> None:
        for _ in range(100):
            with suppress(BlockingIOError):
                client.send(b"x" * 10_000)
            await PAUSE
        client.shutdown(socket.SHUT_WR)

    client.send(b"x" * 1000)
    run(farewell(), talk())
    client.setblocking(True)
    assert client.recv(100) == b"bye"
    assert client.recv(100) == b""


def test_lingering_tells_the_peer_that_nothing_follows(run: Run, stream: Stream, client: socket.socket) -> None:
    async def wait_for_the_end() -> bytes:
        data = await receive(client, 1)
        client.close()
        return data

    async def both() -> bytes:
        return await wait_for_the_end()

    assert run(both(), stream.linger()) == b""


def test_lingering_ends_when_the_peer_does(run: Run, stream: Stream, client: socket.socket) -> None:
    client.send(b"unread")
    client.close()
    run(stream.linger())


@pytest.mark.parametrize("bounds", [Bounds(linger=0.05)])
def test_lingering_has_a_time_limit(run: Run, stream: Stream, client: socket.socket) -> None:
    async def chat() -> None:
        while True:
            with suppress(BlockingIOError):
                client.send(b"x")
            await PAUSE

    start = monotonic()
    run(stream.linger(), chat())
    assert monotonic() - start >= 0.04
    run(stream.linger())


@pytest.mark.parametrize("bounds", [Bounds(linger=3600, linger_bytes=300_000)])
def test_lingering_has_a_size_limit(run: Run, stream: Stream, client: socket.socket) -> None:
    dropped = 0

    async def flood() -> None:
        nonlocal dropped
        while True:
            with suppress(BlockingIOError):
                dropped += client.send(b"x" * 10_000)
            await PAUSE

    run(stream.linger(), flood())
    assert dropped >= 300_000


def test_lingering_with_a_peer_that_has_reset_is_nothing_special(
    run: Run, stream: Stream, client: socket.socket
) -> None:
    reset(client)
    run(stream.linger())


def test_a_spoilt_connection_ends_in_a_reset(run: Run, loop: Loop) -> None:
    """So that what arrived is not taken for the whole."""
    server, client = tcp_pair()
    server.setblocking(False)
    stream = Stream(loop, server)
    run(stream.write(b"half", PATIENCE))
    stream.reset_on_close()
    stream.close()
    client.settimeout(PATIENCE)
    with client, pytest.raises(ConnectionResetError):
        list(iter(lambda: client.recv(100), b""))


def test_a_connection_of_a_peer_that_has_left_can_be_spoilt_as_well(
    run: Run, stream: Stream, client: socket.socket
) -> None:
    reset(client)
    stream.reset_on_close()


def test_a_closed_streams_descriptor_can_be_anothers(run: Run, loop: Loop) -> None:
    server, client = socket.socketpair()
    server.setblocking(False)
    client.send(b"a")
    stream = Stream(loop, server)
    number = stream.fd
    run(stream.read(PATIENCE))
    stream.close()
    client.close()
    successor, client = socket.socketpair()
    successor.setblocking(False)
    with client:
        assert successor.fileno() == number
        client.send(b"b")
        stream = Stream(loop, successor)
        assert run(stream.read(PATIENCE)) == b"b"
        stream.close()
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        os.fstat(number)


# ---- the peer's end


@pytest.mark.parametrize("leave", [socket.socket.close, reset], ids=["closes", "resets"])
@pytest.mark.parametrize("size", [0, 100, READ_SIZE - 1, READ_SIZE + 5000])
@pytest.mark.parametrize("bounds", [Bounds(look_interval=0.01)])
def test_hangup_is_heard_whatever_came_before_it(
    run: Run, stream: Stream, client: socket.socket, leave: Any, size: int
) -> None:
    async def say() -> None:
        view = memoryview(bytes(size))
        while view:
            with suppress(BlockingIOError):
                view = view[client.send(view) :]
            await PAUSE
        for _ in range(3):
            await PAUSE
        assert not stream.has_left
        leave(client)

    run(stream.hangup(), say())
    assert stream.has_left
    assert len(stream.unread) <= 2 * READ_SIZE
