"""A WSGI application that is being served while a test talks to it by plain, blocking sockets.

Its loop runs in threads of its own, so that a client can wait for what has left before the application has returned.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from prefork.handlers.apps.saturation import INTERVAL, Saturation
from prefork.handlers.apps.wsgi.application import Wsgi
from prefork.handlers.apps.wsgi.call import BOUNDS, Bounds
from prefork.handlers.apps.wsgi.input import Unbuffered
from prefork.handlers.apps.wsgi.wait_estimate import Estimates
from prefork.handlers.encode.compression import Compression
from prefork.http.h1.connection import Connection
from prefork.http.h1.protocol import Http1
from prefork.http.message import Client, Handler, Request
from prefork.http.registry import Server
from prefork.net.stream import Stream
from prefork.runtime.checked import CheckedLoop, CheckedThreadPool
from prefork.runtime.loop import SWEEP
from prefork.runtime.poller import make_poller
from prefork.settings.schema import Compression as CompressionSettings
from prefork.settings.schema import Http
from prefork.shared.counters import WIDTH
from tests.handlers.exchange import CLIENT
from tests.runtime.thread_pools import started

PATIENCE = 10.0  # seconds that anything in here may take


class Entry(NamedTuple):
    """A line of the access log."""

    target: str
    status: int
    head: int
    sent: int


class Live:
    """The server's side: `log` is its access log, `board` its counts."""

    def __init__(self, pool: CheckedThreadPool, handler: Handler) -> None:
        self.pool = pool
        self.log: list[Entry] = []
        self.board = memoryview(bytearray(8 * WIDTH)).cast("Q")
        self.server = Server(pool.loop, Http(), lambda request: handler, self.board, self._record)
        self.protocol = Http1(self.server)
        self._listener = socket.create_server(("127.0.0.1", 0))

    def _record(
        self, client: Client, request: Request | None, status: int, head: int, sent: int, duration: float
    ) -> None:
        self.log.append(Entry(request.target if request else "-", status, head, sent))

    def connect(self, sent: bytes = b"") -> socket.socket:
        """A client that has sent these bytes."""
        client = socket.create_connection(self._listener.getsockname(), PATIENCE)
        ours, _ = self._listener.accept()
        ours.setblocking(False)
        loop = self.pool.loop

        def serve() -> None:
            loop.spawn(Connection(self.protocol, Stream(loop, ours), CLIENT).serve(), "a connection")

        self.pool.call_soon(serve)
        client.sendall(sent)
        return client

    def until(self, condition: Callable[[], object]) -> None:
        until = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < until
            time.sleep(0.002)

    def close(self) -> None:
        self._listener.close()


@contextmanager
def live(
    application: Callable[..., Any],
    *,
    threads: int = 2,
    pinned: bool = False,
    timeout: float = 0,
    queue_timeout: float = 0,
    notices: float = INTERVAL,
    buffered: bool = True,
    compressed: bool = False,
    estimates: Estimates | None = None,
    sweep: float = SWEEP,
    bounds: Bounds = BOUNDS,
) -> Iterator[Live]:
    """`application`, served within the block; in the end its connections have been closed, and its calls are over."""
    ready = threading.Event()
    lives: list[Live] = []
    failures: list[BaseException] = []

    def serve() -> None:
        pool = CheckedThreadPool(CheckedLoop(make_poller(), sweep=sweep), threads)
        pool.pinned = pinned
        handler: Handler = Wsgi(
            application,
            "",
            pool,
            multiprocess=True,
            timeout=timeout,
            queue_timeout=queue_timeout,
            saturation=Saturation(pool, notices),
            estimates=estimates,
            bounds=bounds,
        ).handle
        if not buffered:
            handler = Unbuffered(handler, pool).handle
        if compressed:
            handler = Compression(CompressionSettings(enabled=True)).around(handler, keeps=False)
        lives.append(Live(pool, handler))
        with started(pool):
            ready.set()
            try:
                pool.run(lambda failure: None)
            except BaseException as failure:
                failures.append(failure)
            finally:
                pool.loop.close()

    serving = threading.Thread(target=serve, name="the first of the pool")
    serving.start()
    assert ready.wait(PATIENCE)
    one = lives[0]
    try:
        yield one
        one.until(lambda: not one.server.connections)
        one.until(lambda: all(call.abandoned for call in tuple(one.pool.calls.under_way.values())))
    finally:
        one.pool.call_soon(one.pool.loop.stop)
        serving.join(PATIENCE)
        one.close()
    assert not failures
    assert not serving.is_alive()


def receive(client: socket.socket, ending: bytes) -> bytes:
    """What comes, up to this."""
    received = b""
    while not received.endswith(ending):
        piece = client.recv(65536)
        assert piece, received
        received += piece
    return received


def rest(client: socket.socket) -> bytes:
    """What comes until the server closes; raises ConnectionError where that is by a reset."""
    received = bytearray()
    with client:
        while piece := client.recv(65536):
            received += piece
    return bytes(received)
