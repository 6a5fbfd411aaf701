"""What the kernel's tests share: every poller in turn, a loop on it, and connected sockets."""

from __future__ import annotations

import logging
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from prefork.kernel.loop import Loop
from prefork.kernel.poller import POLLERS, Events, KqueuePoller, Poller
from tests.kernel import fake_kqueue

Pair = tuple[socket.socket, socket.socket]
EVERY = {**POLLERS, "kqueue": KqueuePoller}  # where the platform has no kqueue, on a stand-in


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
def crashes() -> Iterator[list[logging.LogRecord]]:
    """What the loop has logged: a test that expects a crash looks at it, and clears the list."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = records.append  # type: ignore[method-assign]
    logger = logging.getLogger("prefork")
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)


@pytest.fixture
def loop(poller: Noted, crashes: list[logging.LogRecord]) -> Iterator[Loop]:
    loop = Loop(poller)
    yield loop
    loop.close()
    for record in crashes:  # an assertion that failed in a task, most likely
        assert record.exc_info
        raise AssertionError(record.getMessage()) from record.exc_info[1]


@pytest.fixture
def pair() -> Iterator[Callable[[], Pair]]:
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
