"""WebSockets: the handshake, messages, back-pressure, and every way to end."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from websockets.frames import Frame, Opcode

from prefork.settings.schema import Websocket
from tests.http.websocket.world import Peer, World

HANDSHAKE = (
    b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)

Worlds = Callable[..., World]


@pytest.fixture
def world() -> Iterator[Worlds]:
    worlds: list[World] = []

    def new(**options: Any) -> World:
        worlds.append(World(Websocket(**options), sweep=0.005))
        return worlds[-1]

    yield new
    for each in worlds:
        each.close()
        assert not each.server.connections


def answer(place: World, data: bytes, until: bytes) -> bytearray:
    """What comes on a connection of its own to whom says this, up to what has `until` in it."""
    client = place.connect()
    client.sendall(data)
    got = bytearray()

    def is_here() -> bool:
        with suppress(BlockingIOError):
            got.extend(client.recv(65536))
        return until in got

    place.until(is_here, f"an answer with {until!r}")
    return got


@pytest.mark.parametrize("compression", [False, True])
def test_messages_come_back_as_they_were(world: Worlds, compression: bool) -> None:
    peer = Peer(world(), compression)
    assert bool(peer.protocol.extensions) == compression
    for text in ("", "hello", "grüße " * 20_000):
        peer.protocol.send_text(text.encode())
        peer.flush()
        frame = peer.next()
        assert frame.opcode is Opcode.TEXT
        assert bytes(frame.data).decode() == text
    data = bytes(range(256)) * 4096
    peer.protocol.send_binary(data)
    peer.flush()
    assert bytes(peer.next().data) == data


def test_compression_can_be_switched_off(world: Worlds) -> None:
    peer = Peer(world(compression=False), compression=True)
    assert not peer.protocol.extensions


def test_a_subprotocol_is_agreed_on(world: Worlds) -> None:
    peer = Peer(world(), subprotocols=["one", "two"])
    assert peer.protocol.subprotocol == "two"


def test_fragments_are_joined_and_pings_between_them_answered(world: Worlds) -> None:
    peer = Peer(world())
    peer.protocol.send_text(b"gr\xc3", fin=False)
    peer.protocol.send_ping(b"now")
    peer.protocol.send_continuation(b"\xbc", fin=False)
    peer.protocol.send_continuation(b"n", fin=True)
    peer.flush()
    assert (peer.next().opcode, bytes(peer.next().data)) == (Opcode.PONG, "grün".encode())


def test_frames_behind_the_handshake_are_not_lost(world: Worlds) -> None:
    early = Frame(Opcode.TEXT, b"early")
    got = answer(world(), HANDSHAKE + early.serialize(mask=True), until=b"\x81\x05early")
    assert got.endswith(b"\x81\x05early")
    assert got.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in got
    assert b"Content-Length" not in got


@pytest.mark.parametrize(
    ("old", "new", "status"),
    [
        (b"Version: 13", b"Version: 12", b"426"),
        (b"GET", b"POST", b"400"),
        (b"dGhlIHNhbXBsZSBub25jZQ==", b"dGhlIHNhbXBsZQ==", b"400"),
        (b"dGhlIHNhbXBsZSBub25jZQ==", b"dGhlIHNhbXBsZSBub25jZQ", b"400"),
        (b"\r\n\r\n", b"\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", b"400"),
        (b"\r\n\r\n", b"\r\nSec-WebSocket-Protocol: a b\r\n\r\n", b"400"),
        (b"\r\n\r\n", b"\r\nSec-WebSocket-Protocol: " + b"a, " * 100 + b"a\r\n\r\n", b"400"),
    ],
)
def test_a_malformed_handshake_is_refused(world: Worlds, old: bytes, new: bytes, status: bytes) -> None:
    got = answer(world(), HANDSHAKE.replace(old, new, 1), until=b"\r\n\r\n")
    assert got.split(b" ")[1] == status
    for field in (b"Sec-WebSocket-Version: 13\r\n", b"Upgrade: websocket\r\n", b"Connection: Upgrade\r\n"):
        assert (field in got) == (status == b"426")


@pytest.mark.parametrize("others", [b"a, ", b"a; b, ", b"a; b=c, "])
def test_of_more_than_a_hundred_extensions_and_parameters_none_is_agreed_on(world: Worlds, others: bytes) -> None:
    """There is room for thousands in a head, and to look at each takes up to 20 us."""
    for offered, agreed in ((b"", True), (others * 50, True), (others * 101, False)):
        field = b"\r\nSec-WebSocket-Extensions: " + offered + b"permessage-deflate\r\n\r\n"
        got = answer(world(), HANDSHAKE.replace(b"\r\n\r\n", field), until=b"\r\n\r\n")
        assert got.startswith(b"HTTP/1.1 101 ")
        assert (b"Sec-WebSocket-Extensions: permessage-deflate" in got) == agreed


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (Frame(Opcode.TEXT, b"\xff").serialize(mask=True), 1007),
        (Frame(Opcode.BINARY, bytes(1001)).serialize(mask=True), 1009),
        (Frame(Opcode.TEXT, b"bare").serialize(mask=False), 1002),
        (Frame(Opcode.CONT, b"nothing to continue").serialize(mask=True), 1002),
        (b"\xff\xff\xff\xff" * 10, 1002),
        (Frame(Opcode.CLOSE, b"\x03").serialize(mask=True), 1002),
        (Frame(Opcode.CLOSE, b"\x0f\xa0bye").serialize(mask=True), 4000),
    ],
    ids=["not UTF-8", "too big", "not masked", "no beginning", "garbage", "half a code", "a code of the client's"],
)
def test_each_way_to_end_has_its_code(world: Worlds, frame: bytes, code: int) -> None:
    place = world(max_message=1000)
    peer = Peer(place)
    peer.send(frame)
    assert peer.code() == code
    closed = place.sockets[0].closed
    assert closed is not None
    assert closed.code == code
    peer.socket.close()
    place.until(lambda: place.log, "the access log's record")
    assert place.log[0].status == 101


def test_a_client_that_vanishes_is_1006(world: Worlds) -> None:
    place = world()
    peer = Peer(place)
    peer.socket.close()
    place.until(lambda: place.sockets[0].closed, "the end")
    assert place.sockets[0].closed is not None
    assert place.sockets[0].closed.code == 1006


def test_a_client_that_answers_no_ping_is_closed_with_1011(world: Worlds) -> None:
    place = world(ping_interval=0.02, ping_timeout=0.05)
    peer = Peer(place)
    place.until(lambda: place.sockets[0].closed, "the end")  # nobody polls the client
    assert peer.code() == 1011


def test_a_client_that_answers_pings_stays(world: Worlds) -> None:
    place = world(ping_interval=0.01, ping_timeout=5)
    peer = Peer(place)
    peer.until(lambda: len(peer.frames) >= 3, "three pings")
    assert {frame.opcode for frame in peer.frames} == {Opcode.PING}
    assert place.sockets[0].closed is None


def test_nothing_more_is_read_while_nobody_takes_the_messages(world: Worlds) -> None:
    place = world()
    place.echoes = False
    peer = Peer(place)
    wire = Frame(Opcode.BINARY, bytes(10_000)).serialize(mask=True) * 500
    sent = 0

    def stuck() -> bool:
        nonlocal sent
        try:
            sent += peer.socket.send(wire[sent:])
        except BlockingIOError:
            return place.sockets[0]._untaken > 0 and place.loop.turn(0.02) is None and not _takes(peer.socket)
        return False

    place.until(stuck, "a client that cannot send more")
    assert sent < len(wire)
    taken = 0
    while (message := place.sockets[0].take()) is not None:
        taken += len(message)
    assert taken < 1 << 20
    place.until(lambda: place.sockets[0].take(), "reading that goes on")


def test_what_is_inflated_is_bounded_as_well(world: Worlds) -> None:
    place = world(max_message=4 << 20)
    place.echoes = False
    peer = Peer(place, compression=True)
    for _ in range(20):
        peer.protocol.send_binary(bytes(4 << 20))
    wire = b"".join(peer.protocol.data_to_send())
    assert len(wire) < 128 << 10
    peer.socket.setblocking(True)
    peer.socket.sendall(wire)
    peer.socket.setblocking(False)
    held, taken = [], 0

    def one_more() -> bool:
        nonlocal taken
        held.append(place.sockets[0]._untaken)
        while place.sockets[0].take() is not None:
            taken += 1
        return taken == 20

    place.until(one_more, "all of the messages")
    assert max(held) < 10 << 20


def test_nobody_is_held_up_by_a_close_that_the_client_does_not_hear(world: Worlds) -> None:
    place = world()
    peer = Peer(place)
    place.sockets[0].put(bytes(8 << 20))
    place.sockets[0].close()
    assert not place.sockets[0].congested
    peer.socket.close()


def _takes(client: socket.socket) -> bool:
    return bool(select.select([], [client], [], 0)[1])


def test_a_big_message_arrives_before_the_close_frame(world: Worlds) -> None:
    place = world()
    peer = Peer(place)
    place.sockets[0].put(bytes(8 << 20))
    assert place.sockets[0].congested
    place.sockets[0].close(4001, "that was all")
    assert peer.code() == 4001
    assert sum(len(frame.data) for frame in peer.frames if frame.opcode is Opcode.BINARY) == 8 << 20
    place.until(lambda: place.log, "the access log's record")
    assert place.log[0].sent > 8 << 20


def test_a_drain_closes_with_1012_one_after_another(world: Worlds) -> None:
    place = world()
    peers = [Peer(place) for _ in range(10)]
    place.server.drain(0.5)
    began = time.monotonic()
    at = {}

    def all_closed() -> bool:
        for number, peer in enumerate(peers):
            peer.poll()
            if peer.protocol.close_rcvd is not None:
                at.setdefault(number, time.monotonic() - began)
        return len(at) == len(peers)

    place.until(all_closed, "ten close frames")
    assert {peer.code() for peer in peers} == {1012}
    assert max(at.values()) >= 0.4
    late = Peer(place)  # its handshake was under way
    assert late.code() == 1012


def test_a_hundred_at_once(world: Worlds) -> None:
    place = world()
    peers = [Peer(place) for _ in range(100)]
    for number, peer in enumerate(peers):
        peer.protocol.send_text(b"%d" % number)
        peer.flush()
    assert [bytes(peer.next().data) for peer in peers] == [b"%d" % number for number in range(100)]
