"""What the tests of sockets share: a loop, connected sockets, and processes of their own."""

from __future__ import annotations

import os
import signal
import socket
import traceback
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest

from prefork.runtime.loop import Loop
from prefork.runtime.poller import make_poller

PATIENCE = 10.0  # seconds until a test gives up
TICK = 0.005  # seconds: the loop's sweep in tests

Pair = tuple[socket.socket, socket.socket]
Run = Callable[..., Any]


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop(make_poller(), sweep=TICK)
    yield loop
    loop.close()


@pytest.fixture
def run(loop: Loop) -> Run:
    """`run(coroutine)`: its result, or what it raises; others given after it run along, and are ended with it."""

    def run(coroutine: Coroutine[Any, Any, Any], *others: Coroutine[Any, Any, Any]) -> Any:
        result: list[Any] = []
        error: list[BaseException] = []

        async def watched() -> None:
            try:
                with loop.within(PATIENCE):
                    result.append(await coroutine)
            except Exception as failure:
                error.append(failure)
            loop.stop()

        tasks = [loop.spawn(watched(), "the test"), *(loop.spawn(other, "along with it") for other in others)]
        loop.run()
        for task in tasks:
            task.cancel()
        if error:
            raise error[0]
        return result[0]

    return run


@pytest.fixture(params=["tcp", "unix"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """The server's side of a connection and the client's, both non-blocking."""
    with ExitStack() as stack:
        if request.param == "unix":
            server, client = socket.socketpair()
        else:
            server, client = tcp_pair()
        for one in (server, client):
            one.setblocking(False)
            stack.enter_context(one)
        yield server, client


def tcp_pair() -> Pair:
    """The server's side of a connection over loopback and the client's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        return listener.accept()[0], client


@contextmanager
def forked(function: Callable[[], None]) -> Iterator[int]:
    """A child process that runs `function`; its pid. It is waited for, and is to end well or by our SIGTERM."""
    pid = os.fork()
    if not pid:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        try:
            function()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    try:
        yield pid
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) in {0, -signal.SIGTERM}
