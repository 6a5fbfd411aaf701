"""A worker all of whose places are taken for long, by WebSockets or event streams: it answers, and says so."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from websockets.sync.client import connect

from tests.conftest import eventually
from tests.e2e.conftest import Serve
from tests.e2e.harness import Server

CONFIG = """
[workers]
count = {count}
connections = 3
[log]
access = ""
[[route]]
path = "/"
asgi = "app:app"
[[route]]
path = "/status"
status = true
"""

APP = """
import asyncio

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise NotImplementedError
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"] == "/events":
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await receive()
        await receive()
    await send({"type": "http.response.body", "body": b"fine"})
"""


def fill(server: Server, stack: ExitStack, count: int) -> None:
    for _ in range(count):
        stack.enter_context(connect(f"ws://127.0.0.1:{server.port}/"))


@pytest.fixture
def full(serve: Serve) -> Iterator[Server]:
    """One worker of three places: two WebSockets and an event stream."""
    server = serve(CONFIG.format(count=1), {"app.py": APP})
    with ExitStack() as stack, server.connect() as events:
        fill(server, stack, 2)
        events.sendall(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n")
        assert events.recv(4096)
        yield server


def test_status_is_answered_and_all_else_is_told_to_come_again(full: Server) -> None:
    answer = full.get("/status")
    assert (answer.status, answer.headers["Connection"]) == (200, "close")
    refused = full.get("/")
    assert (refused.status, refused.headers["Retry-After"], refused.headers["Connection"]) == (503, "1", "close")
    for _ in range(20):  # more than there are places beyond the limit
        assert full.get("/status").status == 200
        assert full.get("/").status == 503
    (line,) = [line for line in full.stderr.splitlines() if "workers.connections" in line]
    assert "warning: all 3 connections are taken for long, 2 of them by WebSockets" in line


def test_many_at_once_who_say_nothing_leave_the_worker_alone(full: Server) -> None:
    with ExitStack() as stack:
        silent = [stack.enter_context(full.connect()) for _ in range(30)]
        assert len(silent) == 30
    assert full.get("/status").status == 200


def test_who_leaves_makes_room_at_once(serve: Serve) -> None:
    server = serve(CONFIG.format(count=1), {"app.py": APP})
    with ExitStack() as stack:
        fill(server, stack, 3)
        assert server.get("/").status == 503
    assert eventually(lambda: server.get("/").status == 200)


def test_nobody_is_refused_while_another_worker_has_room(serve: Serve) -> None:
    server = serve(CONFIG.format(count=2), {"app.py": APP})
    with ExitStack() as stack:
        fill(server, stack, 5)
        for _ in range(20):
            assert server.get("/").status == 200
        last = socket.create_connection(("127.0.0.1", server.port))
        last.close()
        fill(server, stack, 1)
        assert server.get("/").status == 503
        assert server.get("/status").status == 200
