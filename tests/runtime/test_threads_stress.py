"""The whole way under stress: real connections and a real WSGI handler, on a loop that is checked at every touch."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from prefork.handlers.apps.wsgi.application import Wsgi
from prefork.handlers.apps.wsgi.call import Bounds
from prefork.handlers.apps.wsgi.wait_estimate import Estimate, Estimates
from prefork.http.h1.connection import Connection
from prefork.http.h1.protocol import Http1
from prefork.http.message import Client
from prefork.http.registry import Server
from prefork.net.stream import Stream
from prefork.runtime.threads import DELEGATED, TAKEOVERS
from prefork.settings.schema import Http
from prefork.shared.counters import WIDTH
from tests.handlers.exchange import parse
from tests.runtime.thread_pools import PATIENCE, Ship

CLIENT = Client("192.0.2.7", 50000, "http", "127.0.0.1", "8000")
CLIENTS = 12
REQUESTS = 25  # of each client
TICK = 0.001
LATE = 1.0  # seconds that the loop may be late on a busy machine; a call that blocked it would add up to more


class World:
    """An application that behaves at random, and notes who calls it from where; `wrong` is what ought not to be."""

    def __init__(self, threads: int, seed: int) -> None:
        self.threads = threads
        self.random = random.Random(seed)
        self.inside: Counter[int] = Counter()
        self.wrong: list[str] = []
        self.closed = 0
        self.streams = 0
        self.calls = 0

    def busy(self) -> None:
        time.sleep(self.random.choice([0, 0, 0, TICK * 0.9, TICK * 2, TICK * 2.2, TICK * 5]))

    def enter(self) -> int:
        here = threading.get_ident()
        self.inside[here] += 1
        if len(+self.inside) > self.threads:
            self.wrong.append(f"{len(+self.inside)} calls at once")
        return here

    def application(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        self.calls += 1
        here = self.enter()
        try:
            kind, _, token = environ["PATH_INFO"].strip("/").partition("/")
            self.busy()
            if kind == "error":
                raise ValueError(token)
            start_response("200 OK", [])
            if kind == "stream":
                self.streams += 1
                return Pieces(self, here, token)
            return [token.encode()]
        finally:
            self.inside[here] -= 1


class Pieces:
    """Is to be iterated and closed where it was made."""

    def __init__(self, world: World, thread: int, token: str) -> None:
        self.world = world
        self.thread = thread
        self.pieces = pieces(token)

    def __iter__(self) -> Pieces:
        return self

    def here(self) -> int:
        here = self.world.enter()
        if here != self.thread:
            self.world.wrong.append("another thread")
        return here

    def __next__(self) -> bytes:
        here = self.here()
        try:
            self.world.busy()
            return next(self.pieces)
        finally:
            self.world.inside[here] -= 1

    def close(self) -> None:
        here = self.here()
        self.world.closed += 1
        self.world.inside[here] -= 1


def pieces(token: str) -> Iterator[bytes]:
    """Small ones, or some that outgrow the memory, and then the file, of an buffer."""
    choice = random.Random(token)
    for _ in range(choice.randrange(1, 8)):
        yield token.encode() * choice.choice([1, 1, 10, 3000])


async def client(ship: Ship, stream: Stream, plan: list[str], results: list[str], leaves: bool) -> None:
    """Ask for one after another, and see that each answer is the right one; one that `leaves` does so in between."""
    for number, path in enumerate(plan):
        await stream.write(f"GET /{path} HTTP/1.1\r\nHost: a\r\n\r\n".encode(), PATIENCE)
        if leaves and number == len(plan) // 2:
            stream.close()
            return
        kind, _, token = path.partition("/")
        data = b""
        while not complete(data):
            piece = await stream.read(PATIENCE)
            if not piece:
                break
            data += piece
        answer = parse(data)
        expected = {"fast": token.encode(), "stream": b"".join(pieces(token))}.get(kind)
        if answer.rest or (answer.status, answer.body) != (
            (200, expected) if expected is not None else (500, answer.body)
        ):
            results.append(f"{path}: {answer.status} {len(answer.body)} bytes")
    stream.close()


def complete(data: bytes) -> bool:
    head, end, body = data.partition(b"\r\n\r\n")
    if not end:
        return False
    if b"chunked" in head:
        return body.endswith(b"0\r\n\r\n") and (body == b"0\r\n\r\n" or body.endswith(b"\r\n0\r\n\r\n"))
    return len(body) >= int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])


class Whim(Estimate):
    """Hands over this share of the calls, whatever they do."""

    def __init__(self, share: float) -> None:
        super().__init__(mean=share)
        self.random = random.Random(share)

    def hands_over(self) -> bool:
        return self.random.random() < self.mean

    def note(self, seconds: float, measured: bool) -> None:
        self.measures = self.random.choice([0, 1])


class Whims(Estimates):
    def __init__(self, share: float) -> None:
        super().__init__()
        self.whim = Whim(share)

    def find(self, method: str, path: str) -> Estimate:
        return self.whim


WAYS: dict[str, Callable[[], Estimates]] = {
    "inline": lambda: Whims(0),
    "both": lambda: Whims(0.5),
    "handed over": lambda: Whims(1),
    "learned": Estimates,
    "pinned": Estimates,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("threads", [1, 2, 8])
def test_whatever_happens_everybody_gets_the_right_answers(
    threads: int, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = set(threading.enumerate())
    pinned = way == "pinned"
    ship = Ship(threads, pinned, tick=TICK, probe=TICK)
    world = World(threads, seed=threads)
    bounds = Bounds(memory=8 * 1024, disk=32 * 1024)
    estimates = WAYS[way]()
    handle = Wsgi(world.application, "", ship.pool, multiprocess=False, estimates=estimates, bounds=bounds).handle
    server = Server(ship.loop, Http(), lambda request: handle, memoryview(bytearray(8 * WIDTH)).cast("Q"), None)
    protocol = Http1(server)
    wrong: list[str] = []
    pauses: list[float] = []
    done: list[int] = []

    async def one(number: int) -> None:
        left, right = socket.socketpair()
        left.setblocking(False)
        right.setblocking(False)
        plan = [
            f"{world.random.choice(['fast', 'fast', 'stream', 'stream', 'error'])}/{number}-{count}"
            for count in range(REQUESTS)
        ]
        ship.loop.spawn(Connection(protocol, Stream(ship.loop, left), CLIENT).serve(), "the server's side")
        try:
            await client(ship, Stream(ship.loop, right), plan, wrong, leaves=number % 4 == 3)
        finally:
            right.close()
            done.append(number)

    async def ticks() -> None:
        while len(done) < CLIENTS or server.connections or len(ship.pool.followers) < threads:
            began = time.monotonic()
            await ship.loop.sleep(0.001)
            pauses.append(time.monotonic() - began)

    ship.run(*(one(number) for number in range(CLIENTS)), ticks())
    assert wrong == []
    assert world.wrong == []
    assert world.closed == world.streams > 0
    assert pinned or threads > 1 or set(world.inside) == {threading.main_thread().ident}
    assert max(pauses) < LATE
    assert set(threading.enumerate()) <= before
    assert not ship.pool.calls.away
    assert not ship.pool.jobs
    few = -1 if threads < 8 else 5  # where no thread is free, calls wait for one, and need not be taken over
    assert ship.pool.counts[TAKEOVERS] > {"inline": few, "both": few}.get(way, -1)
    assert ship.pool.inline > {"inline": few, "both": few, "learned": min(few, 0)}.get(way, -1)
    assert ship.pool.counts[DELEGATED] > (-1 if way == "inline" else 50)
    assert "the loop is touched" not in caplog.text
    assert "crashed" not in caplog.text
    assert "executing" not in caplog.text
