"""What the kernel's tests share: every poller in turn, a loop on it, and connected sockets."""

from __future__ import annotations

import logging
import os
import resource
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from prefork.runtime.loop import Loop
from prefork.runtime.poller import POLLERS, Events, KqueuePoller, Poller
from prefork.runtime.task import PAUSE
from tests.runtime import fake_kqueue

Pair = tuple[socket.socket, socket.socket]
Pairs = Callable[[], Pair]
Crashes = list[logging.LogRecord]

SLACK = 1.0  # seconds that a busy machine may be late
BRISK = 0.05  # seconds: the sweep in tests that run in real time
EVERY = {**POLLERS, "kqueue": KqueuePoller}  # where the platform has no kqueue, on a stand-in


def fill(sock: socket.socket) -> None:
    """Write until the kernel takes no more."""
    try:
        while True:
            sock.send(b"x" * 65536)
    except BlockingIOError:
        pass


def drain(sock: socket.socket) -> None:
    """Read all that is there."""
    try:
        while sock.recv(1 << 20):
            pass
    except BlockingIOError:
        pass


async def pause() -> None:
    """A task that is soon over."""
    await PAUSE


class Noted:
    """A poller that notes what it was asked."""

    def __init__(self, inner: Poller) -> None:
        self.inner = inner
        self.limit = inner.limit
        self.watched: list[tuple[int, int]] = []
        self.forgotten: list[int] = []
        self.timeouts: list[float | None] = []

    def watch(self, fd: int, events: int) -> None:
        self.watched.append((fd, events))
        self.inner.watch(fd, events)

    def forget(self, fd: int) -> None:
        self.forgotten.append(fd)
        self.inner.forget(fd)

    def poll(self, timeout: float | None) -> Events:
        self.timeouts.append(timeout)
        return self.inner.poll(timeout)

    def close(self) -> None:
        self.inner.close()


@pytest.fixture(params=EVERY)
def new_poller(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Poller]]:
    if request.param == "kqueue" and not hasattr(select, "kqueue"):
        fake_kqueue.install(monkeypatch)
    with ExitStack() as stack:

        def new() -> Poller:
            poller = EVERY[request.param]()
            stack.callback(poller.close)
            return poller

        yield new


@pytest.fixture
def poller(new_poller: Callable[[], Poller]) -> Noted:
    return Noted(new_poller())


@pytest.fixture
def crashes() -> Iterator[Crashes]:
    """What the loop has logged: a test that expects a crash looks at it, and clears the list."""
    records: Crashes = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    handler = Handler(logging.ERROR)
    logger = logging.getLogger("prefork")
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)


@pytest.fixture
def loop(poller: Noted, crashes: Crashes) -> Iterator[Loop]:
    loop = Loop(poller, sweep=BRISK)
    yield loop
    loop.close()
    for record in crashes:  # an assertion that failed in a task, most likely
        assert record.exc_info
        raise AssertionError(record.getMessage()) from record.exc_info[1]


@pytest.fixture
def pair() -> Iterator[Pairs]:
    """A maker of connected, non-blocking sockets."""
    with ExitStack() as stack:

        def new() -> Pair:
            left, right = socket.socketpair()
            for one in (left, right):
                one.setblocking(False)
                stack.enter_context(one)
            return left, right

        yield new


@pytest.fixture
def tcp_pair() -> Iterator[Pair]:
    """A client and a server socket, connected over loopback, both non-blocking."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as client:
        server, _ = listener.accept()
        with server:
            client.setblocking(False)
            server.setblocking(False)
            yield client, server


@pytest.fixture
def high_descriptor(pair: Pairs) -> Iterator[int]:
    """A socket with bytes to read whose number is above what select(2) can watch."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1200), hard))
    left, right = pair()
    right.send(b"x")
    high = os.dup2(left.fileno(), 1024)
    yield high
    os.close(high)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def no_thread_is_left(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before
    assert "the loop is touched" not in caplog.text


@pytest.fixture(params=[False, True], ids=["inline", "pinned"])
def pinned(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)
