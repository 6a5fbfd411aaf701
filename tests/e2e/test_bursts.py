"""Bursts: many new clients at once beside busy ones, whose calls compute."""

from __future__ import annotations

import selectors
import socket
from contextlib import ExitStack

import psutil
import pytest

from tests.conftest import eventually
from tests.e2e.apps import ALONE, serving, status
from tests.e2e.conftest import Serve
from tests.e2e.harness import Server, suspend

# Every call computes for 2 ms, or a tenth of one, and tells how many calls there were before it.
COMPUTE = """
import itertools
import os
import time

numbers = itertools.count()

def app(environ, start_response):
    if environ["PATH_INFO"] == "/die":
        os.abort()
    until = time.thread_time() + (0.0001 if environ["PATH_INFO"] == "/short" else 0.002)
    while time.thread_time() < until:
        pass
    start_response("200 OK", [])
    return [b"number %d." % next(numbers)]

async def asgi(scope, receive, send):
    if scope["type"] == "http":
        answer = app({"PATH_INFO": scope["path"]}, lambda *_: None)
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": answer[0]})
"""
BUSY = 8
NEW = 60
PATIENCE = 30.0  # seconds
TRIES = 5


def config(kind: str) -> str:
    return f'{ALONE}[[route]]\npath = "/"\n{kind} = "app:{"app" if kind == "wsgi" else kind}"\n'


def request(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode()


class Clients:
    """Some that are busy, as each asks again once it has its answer, and new ones, each with what it asks for."""

    def __init__(self, server: Server, stack: ExitStack) -> None:
        self._server = server
        self._stack = stack
        self._selector = stack.enter_context(selectors.DefaultSelector())
        self.answers: dict[socket.socket, bytes] = {}  # of the new ones; b"" where the connection has broken

    def connect(self, path: str, busy: bool = False) -> socket.socket:
        client = self._stack.enter_context(self._server.connect())
        client.sendall(request(path))
        self._selector.register(client, selectors.EVENT_READ, path if busy else "")
        return client

    def burst(self, worker: psutil.Process, path: str, wanted: list[str]) -> dict[socket.socket, str]:
        """New clients that come at once beside busy ones that ask for `path`, each with what it asks for; all have had
        their answers.
        """
        for _ in range(BUSY):
            self.connect(path, busy=True)
        self.connect(path)
        self.until(1)
        suspend(worker)
        new = {self.connect(one): one for one in wanted}
        worker.resume()
        self.until(1 + len(new))
        return new

    def until(self, count: int) -> None:
        """Until so many of the new ones have their answer."""
        while len(self.answers) < count:
            ready = self._selector.select(PATIENCE)
            assert ready, f"nobody is answered, and {len(self.answers)} are of {count}"
            for key, _ in ready:
                client, busy = key.fileobj, key.data
                assert isinstance(client, socket.socket)
                try:
                    answer = client.recv(4096)
                except ConnectionError:
                    answer = b""
                if busy and answer:
                    client.sendall(request(busy))
                else:
                    self._selector.unregister(client)
                    if not busy:
                        self.answers[client] = answer


@pytest.mark.parametrize("kind", ["wsgi", "asgi"])
def test_a_burst_of_new_clients_is_answered_within_few_turns_of_the_busy_ones(serve: Serve, kind: str) -> None:
    server = serve(config(kind), {"app.py": COMPUTE})
    (worker,) = server.workers()
    with ExitStack() as stack:
        clients = Clients(server, stack)
        new = clients.burst(worker, "/", ["/"] * NEW)
        numbers = sorted(int(clients.answers[client].rpartition(b"number ")[2].rstrip(b".")) for client in new)
    between = numbers[-1] - numbers[0] + 1 - NEW
    assert between <= 10 * BUSY, f"the busy ones had {between} answers before the last of the new ones had one"


@pytest.mark.parametrize("kind", ["wsgi", "asgi"])
def test_a_deadly_request_in_a_burst_beside_busy_clients_takes_no_other_new_one_with_it(
    serve: Serve, kind: str
) -> None:
    """However many clients are accepted in a turn: each is answered before the next is accepted; unless its call is
    handed to a thread, as happens to one that takes long since the machine is busy.
    """
    server = serve(config(kind), {"app.py": COMPUTE})
    for _ in range(TRIES):
        before = handed_over(server)
        if not bystanders(server):
            return
        assert handed_over(server) > before
    pytest.fail("calls that compute for 0.1 ms are taken for such as wait")


def bystanders(server: Server) -> list[str]:
    """What those have asked for that were not answered, in a burst with two deadly requests, but should have been."""
    (worker,) = server.workers()
    with ExitStack() as stack:
        clients = Clients(server, stack)
        paths = clients.burst(worker, "/short", [*["/short"] * 9, "/die"] * 2)
        answered = {client: clients.answers[client].startswith(b"HTTP/1.1 200 ") for client in paths}
    eventually(lambda: serving(server) and serving(server) != {worker.pid})
    assert not any(answered[client] for client, path in paths.items() if path == "/die")
    return [path for client, path in paths.items() if path != "/die" and not answered[client]]


def handed_over(server: Server) -> int:
    return int(status(server)["totals"]["handed_over"])
