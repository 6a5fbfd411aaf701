"""WebSockets over real sockets: a server in this process, and the sans-I/O client of `websockets` as the oracle."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame
from websockets.protocol import State
from websockets.uri import parse_uri

from prefork.http.h1.connection import Connection
from prefork.http.h1.protocol import Http1
from prefork.http.message import Client, Request, Response
from prefork.http.registry import Server
from prefork.http.websocket.handshake import Handshake, refusal
from prefork.http.websocket.memory import Memory
from prefork.http.websocket.protocol import WebSocket
from prefork.net.stream import Stream
from prefork.runtime.loop import SWEEP, Loop
from prefork.runtime.poller import make_poller
from prefork.settings.schema import Http, Websocket
from prefork.shared.counters import WIDTH
from tests.http.conftest import Entry

PATIENCE = 10.0


class World:
    """A server all of whose WebSockets echo, and its loop, which a client's calls run."""

    def __init__(self, options: Websocket, *, sweep: float = SWEEP) -> None:
        self.loop = Loop(make_poller(), sweep=sweep)
        self.board = memoryview(bytearray(WIDTH * 8)).cast("Q")
        self.log: list[Entry] = []
        self.options = options
        self.memory = Memory(options)
        self.echoes = True
        self.clients: list[socket.socket] = []
        self.sockets: list[WebSocket] = []
        record = lambda *entry: self.log.append(Entry(*entry))  # noqa: E731
        self.server = Server(self.loop, Http(), lambda _: self.handle, self.board, record)

    async def handle(self, request: Request) -> Response:
        refused = refusal(request)
        if refused is not None:
            return refused
        handshake = Handshake(request, self.options.compression)
        conversation = WebSocket(self.loop, self.options, 5.0, handshake.extensions, self.memory)
        conversation.changed = lambda: self.echo(conversation)
        self.sockets.append(conversation)
        return handshake.response(conversation, (handshake.subprotocols or [""])[-1], (("X-Own", "1"),))

    def echo(self, conversation: WebSocket) -> None:
        while self.echoes and not conversation.congested and (message := conversation.take()) is not None:
            conversation.put(message)

    def connect(self) -> socket.socket:
        theirs, ours = socket.socketpair()
        theirs.setblocking(False)
        ours.setblocking(False)
        self.clients.append(ours)
        connection = Connection(Http1(self.server), Stream(self.loop, theirs, 240), Client("", 0, "http", "a", "80"))
        self.loop.spawn(connection.serve(), "a connection")
        return ours

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self.loop.close()

    def until(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"not in time: {what}"
            self.loop.turn(0.005)


class Peer:
    """A client whose frames `websockets` makes and reads; `frames` are those that have come."""

    def __init__(self, world: World, compression: bool = False, subprotocols: Any = None) -> None:
        self.world = world
        self.socket = world.connect()
        extensions = [ClientPerMessageDeflateFactory()] if compression else None
        self.protocol = ClientProtocol(
            parse_uri("ws://a/"), extensions=extensions, subprotocols=subprotocols, max_size=None
        )
        self.frames: list[Frame] = []
        self.ended = False
        self.protocol.send_request(self.protocol.connect())
        self.flush()
        self.until(lambda: self.protocol.state is not State.CONNECTING, "the handshake's answer")
        assert self.protocol.handshake_exc is None

    def flush(self) -> None:
        for data in self.protocol.data_to_send():
            if data:
                self.send(data)

    def send(self, data: bytes) -> None:
        deadline = time.monotonic() + PATIENCE
        while data:
            assert time.monotonic() < deadline, "the server reads nothing more"
            try:
                data = data[self.socket.send(data) :]
            except BlockingIOError:
                self.poll()
            except OSError:
                return
            self.world.loop.turn(0)

    def poll(self) -> None:
        try:
            data = self.socket.recv(1 << 20)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if data:
            self.protocol.receive_data(data)
        elif not self.ended:
            self.ended = True
            self.protocol.receive_eof()
        self.frames += [event for event in self.protocol.events_received() if isinstance(event, Frame)]
        self.flush()

    def until(self, condition: Callable[[], object], what: str) -> None:
        def polled() -> object:
            self.poll()
            return condition()

        self.world.until(polled, what)

    def next(self) -> Frame:
        self.until(lambda: self.frames, "a frame")
        return self.frames.pop(0)

    def code(self) -> int | None:
        """How the server closes, once it has."""
        self.until(lambda: self.ended, "the end of the connection")
        return self.protocol.close_rcvd.code if self.protocol.close_rcvd else None
