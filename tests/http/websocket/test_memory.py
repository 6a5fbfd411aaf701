"""What clients of WebSockets may make a worker hold, for how long, and how much of it is one turn's work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from websockets.frames import Frame, Opcode

from prefork.settings.schema import Websocket
from tests.http.websocket.world import Peer, World

Worlds = Callable[..., World]
MiB = 1 << 20


@pytest.fixture
def world() -> Iterator[Worlds]:
    worlds: list[World] = []

    def new(**options: Any) -> World:
        worlds.append(World(Websocket(**options), sweep=0.005))
        return worlds[-1]

    yield new
    for each in worlds:
        each.close()


def send_part(peer: Peer, compression: bool) -> None:
    """A message that is not whole: of 900 KiB, or what is inflated to that."""
    peer.protocol.send_binary(bytes(900 << 10), fin=False)
    peer.flush()


@pytest.mark.parametrize("compression", [False, True])
def test_messages_that_are_not_whole_are_bounded_over_all_clients(
    world: Worlds, compression: bool, caplog: pytest.LogCaptureFixture
) -> None:
    place = world(max_buffered=4 * MiB)
    small = Peer(place)
    small.protocol.send_text(b"begun", fin=False)
    small.flush()
    peers = [Peer(place, compression) for _ in range(10)]
    for peer in peers:
        send_part(peer, compression)
    place.until(lambda: sum(socket.closed is not None for socket in place.sockets) == 6, "six that are closed")
    shed = [peer for peer, socket in zip(peers, place.sockets[1:], strict=True) if socket.closed is not None]
    assert {peer.code() for peer in shed} == {1013}
    small.protocol.send_continuation(b" and done", fin=True)
    small.flush()
    assert bytes(small.next().data) == b"begun and done"
    assert len([record for record in caplog.records if "websocket.max_buffered" in record.getMessage()]) == 1


def test_messages_that_nobody_receives_are_bounded_over_all_clients(world: Worlds) -> None:
    place = world(max_buffered=4 * MiB)
    place.echoes = False
    peers = [Peer(place) for _ in range(10)]
    for peer in peers:
        peer.protocol.send_binary(bytes(900 << 10))
        peer.flush()
    place.until(lambda: sum(socket.closed is not None for socket in place.sockets) == 6, "six that are closed")


def leave_messages(place: World, clients: int) -> int:
    """So many clients send 60 kB that are not received, and leave; how many of these messages are held."""
    place.echoes = False
    for _ in range(clients):
        peer = Peer(place)
        peer.protocol.send_binary(bytes(60_000))
        peer.flush()
        place.until(lambda: place.sockets[-1]._untaken, "the message")
        peer.socket.close()
        place.until(lambda: place.sockets[-1].closed, "its client's end")
    return sum(socket._untaken > 0 for socket in place.sockets)


def test_messages_of_clients_that_have_left_are_bounded_until_the_application_takes_them(world: Worlds) -> None:
    place = world(max_message=100_000, max_buffered=250_000)
    assert leave_messages(place, 10) == 4
    assert len([message for socket in place.sockets if (message := socket.take())]) == 4


def test_messages_that_an_application_has_left_are_not_held(world: Worlds) -> None:
    place = world(max_message=100_000, max_buffered=250_000)
    assert leave_messages(place, 4) == 4
    for socket in place.sockets:
        socket.forget()
    assert all(socket.take() is None for socket in place.sockets)
    assert leave_messages(place, 4) == 4


def test_what_has_been_received_or_has_ended_is_not_held(world: Worlds) -> None:
    place = world(max_buffered=2 * MiB)
    for _ in range(10):
        peer = Peer(place)
        peer.protocol.send_binary(bytes(900 << 10))
        peer.flush()
        assert len(peer.next().data) == 900 << 10
        send_part(peer, compression=False)
        peer.socket.close()
    place.until(lambda: all(socket.closed is not None for socket in place.sockets), "the end of all")
    assert {socket.closed.code for socket in place.sockets if socket.closed is not None} == {1006}


@pytest.mark.parametrize(
    "part",
    [
        Frame(Opcode.TEXT, b"begun", fin=False).serialize(mask=True),
        Frame(Opcode.TEXT, b"", fin=False).serialize(mask=True),
        Frame(Opcode.BINARY, bytes(60_000)).serialize(mask=True)[:100],
    ],
    ids=["a fragment", "an empty one", "half a frame"],
)
def test_message_that_does_not_become_whole_ends_its_connection(world: Worlds, part: bytes) -> None:
    """Answers to pings do not prolong that."""
    place = world(message_timeout=0.1, ping_interval=0.01, ping_timeout=5)
    peer = Peer(place)
    peer.send(part)
    assert peer.code() == 1008
    assert any(frame.opcode is Opcode.PING for frame in peer.frames)


def test_time_that_the_application_takes_is_not_the_clients(world: Worlds) -> None:
    place = world(message_timeout=0.1)
    place.echoes = False
    peer = Peer(place)
    wire = Frame(Opcode.BINARY, bytes(50_000)).serialize(mask=True) * 4
    peer.socket.send(wire[:140_000])  # the last message has begun when too much waits
    place.until(lambda: place.sockets[0]._untaken > 64 << 10, "too much that waits")
    until = place.loop.now + 0.3
    place.until(lambda: place.loop.now > until, "more than the time of a message")
    while place.sockets[0].take() is not None:
        pass
    peer.send(wire[140_000:])
    place.until(lambda: place.sockets[0].take() is not None, "the rest")
    assert place.sockets[0].closed is None


def test_tiny_frames_are_a_few_a_turn(world: Worlds) -> None:
    place = world()
    peer = Peer(place)
    socket = place.sockets[0]
    counts: list[int] = []

    def count() -> None:
        counts.append(0)
        while socket.take() is not None:
            counts[-1] += 1

    socket.changed = count
    peer.send(Frame(Opcode.TEXT, b"").serialize(mask=True) * 5000)
    place.until(lambda: sum(counts) == 5000, "all messages")
    first, *rest = counts
    assert first < 700
    assert max(rest) < 100
