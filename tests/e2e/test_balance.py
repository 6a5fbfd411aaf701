"""Balance: what counts for a worker's share is who is busy, not who is connected.

A worker that the system does not run for 10 ms leaves its share to the other. So the tests ask several times, and take
the best answer.
"""

from __future__ import annotations

import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from prefork.process.worker.accept_balance import FULL
from tests.conftest import eventually
from tests.e2e.apps import ALONE, status
from tests.e2e.conftest import Serve
from tests.e2e.harness import Server

# Tells which worker it is; "/stream" then stays for as long as its client.
APP = """
import os

async def app(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError
    stays = scope["path"] == "/stream"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-worker", b"%d;" % os.getpid())]})
    await send({"type": "http.response.body", "body": b"here", "more_body": stays})
    while stays and (await receive())["type"] != "http.disconnect":
        pass
"""
CONFIG = f'{ALONE.replace("count = 1", "count = 2")}[[route]]\npath = "/"\nasgi = "app:app"\n'
STREAMS = 40  # of each worker
BUSY = 24
BURST = 32
TRIES = 3


@pytest.fixture
def server(serve: Serve) -> Server:
    return serve(CONFIG, {"app.py": APP})


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def ask(client: socket.socket, path: str = "/") -> int:
    """The pid of the worker that answers."""
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    data = b""
    while b"here" not in data:
        piece = client.recv(65536)
        assert piece, data
        data += piece
    return int(data.lower().partition(b"x-worker: ")[2].partition(b";")[0])


def open_streams(server: Server, stack: ExitStack, each: int) -> dict[int, list[socket.socket]]:
    """So many event streams of each worker, by its pid, which nobody takes for busy any more."""
    streams: dict[int, list[socket.socket]] = {worker.pid: [] for worker in server.workers()}
    while min(map(len, streams.values())) < each:
        client = stack.enter_context(server.connect())
        streams[ask(client, "/stream")].append(client)
    eventually(lambda: sum(busy(server).values()) <= 1, what="the rest of the streams")  # the one is the question
    return streams


def busy(server: Server) -> dict[int, int]:
    return {worker["pid"]: worker["busy"] for worker in status(server)["workers"]}


def meet(server: Server, regulars: list[socket.socket]) -> list[Counter[int]]:
    """New clients come one after another, and stay busy, as the regulars do: how many of them each worker has, in each
    of several tries.
    """
    tries = []
    for _ in range(TRIES):
        clients, shares = list(regulars), Counter[int]()
        for client in regulars:
            ask(client)
        with ExitStack() as stack:
            for number in range(BUSY):
                clients.append(stack.enter_context(server.connect()))
                shares[ask(clients[-1])] += 1
                ask(clients[2 * number % len(clients)])
                ask(clients[(2 * number + 1) % len(clients)])
        tries.append(shares)
        eventually(lambda: sum(busy(server).values()) <= 1, what="the end of a try")
    return tries


def test_when_event_streams_leave_a_worker_it_does_not_get_all_the_busy_clients(
    server: Server, stack: ExitStack
) -> None:
    streams = open_streams(server, stack, STREAMS)
    first, second = streams
    for client in streams[first]:
        client.close()
    eventually(
        lambda: min(worker["connections"] for worker in status(server)["workers"]) <= 1, what="the streams to leave"
    )
    tries = meet(server, [])
    assert min(max(shares.values()) for shares in tries) <= 17, f"{tries}, where {second} has {STREAMS} streams"


def test_a_worker_in_place_of_another_has_no_more_than_its_share_of_who_comes_back(
    server: Server, stack: ExitStack
) -> None:
    """Though it has none of the idle ones that the other worker has."""
    open_streams(server, stack, STREAMS)
    regulars: dict[int, list[socket.socket]] = {worker.pid: [] for worker in server.workers()}
    while min(map(len, regulars.values())) < 8:
        client = stack.enter_context(server.connect())
        regulars[ask(client)].append(client)
    (victim, _), (survivor, there) = regulars.items()
    next(worker for worker in server.workers() if worker.pid == victim).send_signal(signal.SIGKILL)
    eventually(
        lambda: len(busy(server)) == 2 and victim not in busy(server) and status(server)["serving"] == 2,
        what="a worker in its place",
    )
    tries = meet(server, there)
    most = min(max(shares[survivor] + len(there), BUSY - shares[survivor]) for shares in tries)
    assert most <= (len(there) + BUSY) * 0.65, f"{tries}, beside {len(there)} that were there"


def test_a_burst_comes_to_both_workers(server: Server) -> None:
    bursts = []
    for _ in range(TRIES):
        with ExitStack() as stack:
            clients = [stack.enter_context(server.connect()) for _ in range(BURST)]
            bursts.append(max(Counter(map(ask, clients)).values()))
        eventually(lambda: sum(busy(server).values()) <= 1, what="the end of the burst")
    assert min(bursts) <= 20, bursts


@pytest.mark.parametrize("threads", [1, 2])
def test_new_clients_do_not_wait_for_a_worker_whose_threads_are_all_in_calls(
    serve: Serve, stack: ExitStack, threads: int
) -> None:
    source = """
import os, time

def app(environ, start_response):
    if environ["PATH_INFO"] == "/wait":
        time.sleep(3)
    start_response("200 OK", [("X-Worker", f"{os.getpid()};")])
    return [b"here"]
"""
    config = CONFIG.replace("asgi", "wsgi").replace("count = 2", f"count = 2\nthreads = {threads}")
    server = serve(config, {"app.py": source})
    held: list[socket.socket] = []
    first = ask(stack.enter_context(server.connect()))
    while len(held) < threads:  # all of one worker
        client = stack.enter_context(server.connect())
        if ask(client) == first:
            client.sendall(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
            held.append(client)
    time.sleep(2 * FULL)
    began = time.monotonic()
    workers = {ask(stack.enter_context(server.connect())) for _ in range(40)}
    assert time.monotonic() - began < 2
    assert first not in workers
