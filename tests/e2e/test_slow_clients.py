"""Hundreds of clients that take their time on one worker: everybody else is served at once, and they are shown out."""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import psutil
import pytest

from prefork.net.stream import GRACE
from tests.conftest import eventually
from tests.e2e.apps import SITE, status, undisturbed
from tests.e2e.conftest import Serve
from tests.e2e.harness import Server

MiB = 1 << 20
TIMEOUT = 3.0  # seconds: header_timeout, send_timeout
SLACK = 2.0  # seconds within which a worker looks at a deadline that has passed, and a client at its end
NORMAL = 200  # requests of somebody in no trouble
PROMPT = 0.1  # seconds that 99 of 100 of them may take

CONFIG = f"""
[http]
header_timeout = {TIMEOUT}
send_timeout = {TIMEOUT}
min_receive_rate = 100_000
{SITE}"""

APP = f"""
def app(environ, start_response):
    start_response("200 OK", [])
    if environ["PATH_INFO"] == "/big":
        return (bytes(65536) for _ in range({64 * MiB // 65536}))
    return [b"%d" % len(environ["wsgi.input"].read())]
"""


@pytest.fixture
def server(serve: Serve) -> Iterator[Server]:
    """A server whose worker lives on after the test, with no connection and no word about it."""
    server = serve(CONFIG, files={"app.py": APP, "public/small": b"x"})
    with open(server.directory / "public" / "big", "wb") as file:
        file.truncate(64 * MiB)
    with undisturbed(server) as worker:
        before = worker.num_fds()
        yield server
        eventually(lambda: worker.num_fds() <= before, what="the descriptors of before")


@contextmanager
def clients(server: Server, count: int, beginning: Callable[[int], bytes]) -> Iterator[list[socket.socket]]:
    """So many connections, on each of which `beginning` of its number has been said."""
    with ExitStack() as stack:
        connections = [stack.enter_context(server.connect()) for _ in range(count)]
        for number, connection in enumerate(connections):
            connection.sendall(beginning(number))
        yield connections


class Normal:
    """One who asks something small, again and again, and looks at the clock."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.took: list[float] = []

    def ask(self, times: int = 1) -> None:
        for _ in range(times):
            began = time.perf_counter()
            assert self.server.get().body == b"0"
            self.took.append(time.perf_counter() - began)

    def check(self, within: float = PROMPT) -> None:
        self.took.sort()
        middle, late = self.took[len(self.took) // 2], self.took[len(self.took) * 99 // 100]
        print(f"{len(self.took)} normal requests: median {middle * 1000:.1f} ms, p99 {late * 1000:.1f} ms")
        assert late < within


def endings(connections: list[socket.socket], until: float, meanwhile: Callable[[], None]) -> list[bytes]:
    """What each of them gets before the server ends it; `meanwhile` is done all the time. Fails at `until`."""
    got = [b""] * len(connections)
    with selectors.DefaultSelector() as selector:
        for number, connection in enumerate(connections):
            selector.register(connection, selectors.EVENT_READ, number)
        while left := selector.get_map():
            assert time.monotonic() < until, f"{len(left)} clients that are still connected"
            for key, _ in selector.select(0.05):
                data = connections[key.data].recv(65536)
                got[key.data] += data
                if not data:
                    selector.unregister(key.fileobj)
            meanwhile()
    return got


def is_timeout(answer: bytes) -> bool:
    return answer.startswith(b"HTTP/1.1 408 ") and answer.count(b"HTTP/1.1 ") == 1


def test_half_sent_heads_hold_nobody_up_and_are_timed_out(server: Server) -> None:
    normal = Normal(server)
    with clients(server, 200, lambda number: b"GET / HTTP/1.1\r\nHost: x\r\nA: "[: 1 + number % 30]) as slow:
        until = time.monotonic() + TIMEOUT + SLACK
        normal.ask(NORMAL)
        answers = endings(slow, until, normal.ask)
    assert len(answers) == 200
    assert all(map(is_timeout, answers))
    normal.check()


def test_bodies_that_drip_hold_nobody_up_and_are_timed_out(server: Server) -> None:
    normal = Normal(server)
    head = b"POST / HTTP/1.1\r\nHost: x\r\n%b\r\n\r\n"
    framings = [b"Content-Length: 100000", b"Transfer-Encoding: chunked"]
    with clients(server, 200, lambda number: head % framings[number % 2] + b"ffff\r\n") as slow:
        until = time.monotonic() + GRACE + SLACK

        def drip() -> None:
            for connection in slow:
                with suppress(OSError):  # it has been ended
                    connection.send(b"x")
            normal.ask(NORMAL // 50)

        answers = endings(slow, until, drip)
    assert all(map(is_timeout, answers))
    assert len(normal.took) >= NORMAL
    normal.check()


def test_clients_that_do_not_read_hold_nobody_up_and_are_left(server: Server) -> None:
    normal = Normal(server)
    (worker,) = server.workers()

    def connected() -> int:
        return sum(one.status != psutil.CONN_LISTEN for one in worker.net_connections("tcp"))

    ask = b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n"
    with clients(server, 50, lambda number: ask % [b"/files/big", b"/big"][number % 2]) as slow:
        # on a slow machine, the first have been left before the last are in
        eventually(lambda: status(server)["totals"]["accepted"] >= 50, 10, "all of them")
        normal.ask(NORMAL)
        eventually(lambda: connected() == 0, TIMEOUT + SLACK, "the end of all who do not read")
        assert all(0 < received(connection) < 64 * MiB for connection in slow)
    normal.check(10 * PROMPT)  # 25 threads' worth of 64 MiB each are made meanwhile, and put aside


def received(connection: socket.socket) -> int:
    """How many bytes can still be read of an answer that the server has given up."""
    count = 0
    with suppress(ConnectionResetError):
        while data := connection.recv(MiB):
            count += len(data)
    return count
