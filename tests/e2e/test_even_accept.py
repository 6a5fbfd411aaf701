"""Accepting evenly: each worker of a shared socket gets its share of the connections that stay."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from time import monotonic

import pytest

from tests.conftest import eventually
from tests.e2e.apps import APP, CONFIG, status
from tests.e2e.conftest import Serve
from tests.e2e.harness import Server, suspend

COUNT = 400
REQUEST = b"GET /version HTTP/1.1\r\nHost: here\r\n\r\n"


@pytest.fixture(scope="module")
def server(serve_module: Serve) -> Server:
    return serve_module(CONFIG.replace("count = 1", "count = 4"), {"app.py": APP})


@pytest.fixture
def stack(server: Server) -> Iterator[ExitStack]:
    """For connections, which are gone when the next test begins."""
    with ExitStack() as stack:
        yield stack
    eventually(lambda: sum(shares(server)) == 0, what="the end of all connections")


def shares(server: Server) -> list[int]:
    return [worker["connections"] for worker in status(server)["workers"]]


def ask(client: socket.socket) -> None:
    client.sendall(REQUEST)
    assert client.recv(65536).endswith(b"one")


@pytest.mark.parametrize("at_once", [True, False])
def test_the_busiest_of_four_workers_has_little_more_than_its_share(
    server: Server, stack: ExitStack, at_once: bool
) -> None:
    clients = []
    for _ in range(COUNT):
        clients.append(stack.enter_context(server.connect()))
        if not at_once:
            ask(clients[-1])
    for client in clients:
        ask(client)
    assert sum(shares(server)) == COUNT
    assert max(shares(server)) <= 1.3 * COUNT / 4, shares(server)


def test_clients_are_served_where_all_the_others_are_stopped_and_nothing_spins(
    server: Server, stack: ExitStack
) -> None:
    first, *others = server.workers()
    for worker in others:
        suspend(worker)
    try:
        began = monotonic()
        clients = [stack.enter_context(server.connect()) for _ in range(200)]
        for client in clients:
            ask(client)
        assert monotonic() - began < 2, "each client waits"
    finally:
        for worker in others:
            worker.resume()
    assert sorted(shares(server)) == [0, 0, 0, 200]
    before = first.num_ctx_switches().voluntary
    assert select.select(clients, [], [], 0.5) == ([], [], []), "nobody has anything to say"
    assert first.num_ctx_switches().voluntary - before <= 5, "the worker that is ahead does not rest"
    for _ in range(60):
        ask(stack.enter_context(server.connect()))
    assert max(shares(server)) <= 200 + 60 / 4 + 5, "the one that is ahead takes more than its share of the new ones"
