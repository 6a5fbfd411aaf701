"""WebSocket frames as they may come: cut anywhere, compressed or not, or no frames at all."""

from __future__ import annotations

import socket

from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import Opcode

from prefork.settings.schema import Websocket
from tests.http.websocket.world import Peer, World

MESSAGES = st.lists(st.one_of(st.text(max_size=300), st.binary(max_size=300)), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(MESSAGES, st.lists(st.integers(1, 200), min_size=1, max_size=8), st.booleans(), st.integers(1, 100))
def test_however_it_is_cut_every_message_comes_back(
    messages: list[str | bytes], cuts: list[int], compression: bool, fragment: int
) -> None:
    place = World(Websocket())
    try:
        peer = Peer(place, compression)
        for message in messages:
            data = message.encode() if isinstance(message, str) else message
            send = peer.protocol.send_text if isinstance(message, str) else peer.protocol.send_binary
            send(data[:fragment], fin=len(data) <= fragment)
            for at in range(fragment, len(data), fragment):
                peer.protocol.send_continuation(data[at : at + fragment], fin=at + fragment >= len(data))
        wire, turn = b"".join(peer.protocol.data_to_send()), 0
        while wire:
            cut = cuts[turn % len(cuts)]
            peer.send(wire[:cut])
            wire, turn = wire[cut:], turn + 1
        echoed = [peer.next() for _ in messages]
        for frame, message in zip(echoed, messages, strict=True):
            text = bytes(frame.data).decode() if frame.opcode is Opcode.TEXT else bytes(frame.data)
            assert text == message
    finally:
        place.close()


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=300))
def test_garbage_ends_in_a_close_or_waits_for_more(garbage: bytes) -> None:
    place = World(Websocket())
    try:
        peer = Peer(place)
        peer.send(garbage)
        peer.socket.shutdown(socket.SHUT_WR)
        peer.until(lambda: peer.ended, "the end of the connection")
        assert place.sockets[0].closed is not None
    finally:
        place.close()
