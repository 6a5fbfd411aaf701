"""What the tests of HTTP share: a Server on a real loop in this process, and clients on real sockets.

Client and server take turns in one thread: a client's call runs the loop, a turn at a time, until what it waits for has
happened. So tests read as conversations, and nothing in them depends on how fast the machine is.
"""

from __future__ import annotations

import logging
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import pytest
from msgspec import structs

from prefork.http.h1.connection import Connection
from prefork.http.h1.parse import Heads
from prefork.http.h1.protocol import Http1
from prefork.http.message import Chunks, Client, Fields, Handler, Headers, Request, RequestLine, Response
from prefork.http.registry import LAME_DUCK, Server
from prefork.net.stream import BOUNDS, Bounds, Stream
from prefork.runtime.loop import SWEEP, Loop
from prefork.runtime.poller import make_poller
from prefork.runtime.task import Task
from prefork.settings.schema import Http
from prefork.shared.counters import ACCEPTED, CONNECTIONS, WIDTH
from tests.http.h1.oracle import Answer, answers

PATIENCE = 10.0  # seconds until a test gives up
TICK = 0.005  # seconds: the longest turn
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
WHO = Client("127.0.0.1", 4711, "http", "127.0.0.1", "80")

Answers = Callable[[Request], Response]


class Entry(NamedTuple):
    """What the access log is told of a request: bytes of the answer's head, of all that was sent, and seconds."""

    client: Client
    request: Request | None
    status: int
    head: int
    sent: int
    seconds: float


class Everything:
    """A container of everything."""

    def __contains__(self, item: object) -> bool:
        return True


class World:
    """A Server whose handler is `handler`. `log` is what was recorded, `errors` what was logged from ERROR up."""

    def __init__(
        self,
        handler: Handler,
        *,
        sweep: float = SWEEP,
        bounds: Bounds = BOUNDS,
        lame_duck: float = LAME_DUCK,
        **limits: Any,
    ) -> None:
        self.loop = Loop(make_poller(), sweep=sweep)
        self.board = memoryview(bytearray(WIDTH * 8)).cast("Q")
        self.log: list[Entry] = []
        self.errors: list[logging.LogRecord] = []
        self.warnings: list[logging.LogRecord] = []
        self.handler = handler
        self.bounds = bounds
        http = structs.replace(Http(), **limits)
        record = lambda *entry: self.log.append(Entry(*entry))  # noqa: E731
        self.server = Server(self.loop, http, lambda _: self.handler, self.board, record, lame_duck=lame_duck)
        self.server.repeatable = Everything()
        self.protocol = Http1(self.server)
        self.clients: list[Peer] = []
        self.loop.spawn(self._tick(), "clock")
        self._listener = logging.Handler(logging.WARNING)
        self._listener.emit = self._note  # type: ignore[method-assign]
        logging.getLogger("prefork").addHandler(self._listener)

    def _note(self, record: logging.LogRecord) -> None:
        (self.errors if record.levelno >= logging.ERROR else self.warnings).append(record)

    async def _tick(self) -> None:
        while True:
            await self.loop.sleep(TICK)

    def connect(self, tcp: bool = True, buffer: int = 0, kind: type[socket.socket] = socket.socket) -> Peer:
        """A client, and a Connection that serves it by a socket of this `kind`; `buffer` bounds what the kernel holds,
        for slow readers.
        """
        theirs, ours = tcp_pair(buffer) if tcp else socket.socketpair()
        theirs = kind(fileno=theirs.detach())
        ours.setblocking(False)
        theirs.setblocking(False)
        stream = Stream(self.loop, theirs, self.server.http.min_send_rate, self.bounds)
        connection = Connection(self.protocol, stream, WHO)
        peer = Peer(self, ours, connection, self.loop.spawn(connection.serve(), "a connection"))
        self.clients.append(peer)
        return peer

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Run the loop until `condition()` is true; fails, naming `what`, after PATIENCE."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"not within {PATIENCE:g} s: {what}")
            self.loop.turn()

    def talk(self, data: bytes, methods: str = "GET", tcp: bool = True) -> list[Answer]:
        """What a client gets that says `data` and then only listens: its answers, checked by h11."""
        peer = self.connect(tcp)
        peer.send(data)
        peer.shutdown()
        return answers(peer.rest(), methods.split())

    def close(self) -> None:
        for peer in self.clients:
            peer.close()
        self.until(lambda: len(self.loop.tasks) == 1, "the end of every connection")
        self.loop.close()
        logging.getLogger("prefork").removeHandler(self._listener)
        assert self.server.connections == set()
        assert self.board[CONNECTIONS] == 0
        assert self.board[ACCEPTED] == len(self.clients)
        for record in self.errors:  # tests that expect some clear the list
            assert record.exc_info, record.getMessage()
            raise AssertionError(record.getMessage()) from record.exc_info[1]


class Peer:
    """A client. `connection` and `task` are the server's side of it; `got` what has arrived and was not taken."""

    def __init__(self, world: World, ours: socket.socket, connection: Connection, task: Task) -> None:
        self.world = world
        self.socket = ours
        self.connection = connection
        self.task = task
        self.got = b""
        self.ended = False

    def send(self, *pieces: bytes) -> None:
        """Send each piece by itself, with the server having its turn after each."""
        for piece in pieces:
            view = memoryview(piece)
            deadline = time.monotonic() + PATIENCE
            while view:
                try:
                    view = view[self.socket.send(view) :]
                except BlockingIOError:
                    assert time.monotonic() < deadline, "the server reads nothing more"
                self.world.loop.turn()

    def shutdown(self) -> None:
        """Say that nothing more will come; the server may have left before."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def poll(self) -> None:
        """Take what is there. Raises ConnectionResetError."""
        with suppress(BlockingIOError):
            while not self.ended:
                data = self.socket.recv(1 << 20)
                self.got += data
                self.ended = not data

    def take(self, end: bytes) -> bytes:
        """What arrives up to and with `end`."""
        self.until(lambda: end in self.got or self.ended, f"{end!r}; what came is {self.got[-500:]!r}")
        head, found, self.got = self.got.partition(end)
        assert found, f"the connection ended without {end!r}: {head!r}"
        return head + end

    def answer(self, method: str = "GET") -> Answer:
        """The next response, with the connection still open after it; a body to be framed by Content-Length."""
        head = self.take(b"\r\n\r\n")
        answer = answers(head, [method], partial=True)[0]
        length = 0 if method == "HEAD" else int(answer.headers.get("content-length", 0))
        self.until(lambda: len(self.got) >= length, "the whole body")
        body, self.got = self.got[:length], self.got[length:]
        return answers(head + body, [method], partial=True)[0]

    def rest(self) -> bytes:
        """All that arrives until the server says that nothing more will."""
        self.until(lambda: self.ended, f"the end of the connection; what came is {self.got[-500:]!r}")
        rest, self.got = self.got, b""
        return rest

    def until(self, condition: Callable[[], object], what: str) -> None:
        def polled() -> object:
            self.poll()
            return condition()

        self.world.until(polled, what)

    def until_gone(self) -> None:
        """Until the server has done with this connection."""
        self.world.until(lambda: self.task not in self.world.loop.tasks, "the end of the connection's task")

    def close(self) -> None:
        self.socket.close()

    def reset(self) -> None:
        """Leave without a good-bye, and without reading what came."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


class Pieces:
    """Chunks made of `pieces`, exceptions being raised in their place; `closed` counts the calls of aclose."""

    def __init__(self, *pieces: bytes | BaseException) -> None:
        self.left = list(pieces)
        self.started = False
        self.closed = 0

    def __aiter__(self) -> Pieces:
        self.started = True
        return self

    async def __anext__(self) -> bytes:
        if not self.left:
            raise StopAsyncIteration
        piece = self.left.pop(0)
        if isinstance(piece, BaseException):
            raise piece
        return piece

    prompt = False
    trailers: Fields = ()

    async def aclose(self) -> None:
        self.closed += 1


def parse(data: bytes, heads: Heads | None = None) -> tuple[RequestLine, Headers]:
    """The head that `data` begins with; by a parser of its own unless there is one."""
    end = data.find(b"\r\n\r\n")
    assert end >= 0
    return (heads or Heads(32768, 100)).parse(data, end)[:2]


def tcp_pair(buffer: int = 0) -> tuple[socket.socket, socket.socket]:
    """A server's and a client's socket, connected over loopback."""
    with socket.socket() as listener:
        if buffer:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        ours = socket.socket()
        if buffer:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        ours.connect(listener.getsockname())
        return listener.accept()[0], ours


def answering(make: Answers) -> Handler:
    """A Handler that makes its response at once."""

    async def handle(request: Request) -> Response:
        return make(request)

    return handle


async def echo(request: Request) -> Response:
    """The request body, back; the request line in a field."""
    with await request.body.spool() as file:
        return Response(200, (("X-Line", f"{request.method} {request.target}"),), file.read())


async def ignore(request: Request) -> Response:
    """An answer that does not wait for the request's body."""
    return Response(200, (), request.target.encode("latin-1"))


def chunked(*pieces: bytes | BaseException) -> tuple[Handler, Pieces]:
    """A Handler whose response body is `pieces`, without a length."""
    body: Chunks = Pieces(*pieces)
    return answering(lambda request: Response(200, (), body)), body  # type: ignore[return-value]


@pytest.fixture
def world() -> Iterator[Callable[..., World]]:
    """`world(handler, header_timeout=...)`: a World with these limits; deadlines are looked at every 5 ms."""
    worlds: list[World] = []

    def new(handler: Handler = ignore, **limits: Any) -> World:
        worlds.append(World(handler, sweep=TICK, **limits))
        return worlds[-1]

    yield new
    for each in worlds:
        each.close()
