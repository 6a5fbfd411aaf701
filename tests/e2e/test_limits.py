"""When there is no room: clients wait at the door until there is, and the worker neither spins nor dies of it."""

from __future__ import annotations

import os
import resource
import select
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack

import psutil
import pytest

from tests.conftest import eventually
from tests.e2e.conftest import Serve

BEGINNING = b"GET / HT"
REQUEST = BEGINNING + b"TP/1.1\r\nHost: x\r\n\r\n"

CONFIG = """
[workers]
count = 1
connections = {connections}
[log]
access = ""
[[route]]
respond = {{ body = "hello" }}
"""


def ask(connection: socket.socket) -> bytes:
    """A request on a connection that lives on; its answer, which is small."""
    connection.sendall(REQUEST)
    return connection.recv(65536)


def answered(connections: list[socket.socket], within: float = 0) -> list[socket.socket]:
    """Those of them that have something to read, as soon as there are any."""
    return select.select(connections, [], [], within)[0]


def lasting(look: Callable[[], set[int]]) -> set[int]:
    """The first result of `look` that stays the same for a moment: a worker may close a descriptor after its answer."""
    found = look()

    def lasts() -> bool:
        nonlocal found
        time.sleep(0.1)
        before, found = found, look()
        return found == before

    eventually(lasts)
    return found


@pytest.mark.parametrize("connections", [1, 3])
def test_clients_beyond_the_limit_wait_until_others_leave(serve: Serve, connections: int) -> None:
    server = serve(CONFIG.format(connections=connections))
    with ExitStack() as stack:
        inside = [stack.enter_context(server.connect()) for _ in range(connections)]
        for connection in inside:
            assert ask(connection).endswith(b"hello")
            connection.sendall(BEGINNING)  # busy: idle ones would make room
        outside = [stack.enter_context(server.connect()) for _ in range(3)]
        for connection in outside:
            connection.sendall(REQUEST)
        assert not answered(outside, within=0.5)
        for connection in outside:  # they come in one by one, in order
            inside.pop(0).close()
            assert connection.recv(65536).endswith(b"hello")
            connection.sendall(BEGINNING)
            inside.append(connection)


def test_an_idle_connection_makes_room_for_a_new_client(serve: Serve) -> None:
    server = serve(CONFIG.format(connections=2))
    with ExitStack() as stack:
        busy = stack.enter_context(server.connect())
        busy.sendall(BEGINNING)
        idle = stack.enter_context(server.connect())
        assert ask(idle).endswith(b"hello")
        fresh = stack.enter_context(server.connect())
        assert ask(fresh).endswith(b"hello")
        assert idle.recv(1) == b""
        busy.sendall(REQUEST.removeprefix(BEGINNING))
        assert busy.recv(65536).endswith(b"hello")


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="another process's limits can be set on Linux only")
def test_a_worker_without_descriptors_left_waits_until_somebody_is_idle_and_serves_all(serve: Serve) -> None:
    server = serve(CONFIG.format(connections=1000))
    (worker,) = server.workers()
    room = 5
    with ExitStack() as stack:
        clients = [stack.enter_context(server.connect())]
        assert ask(clients[0]).endswith(b"hello")
        before = worker.num_fds() - 1
        if sys.platform == "linux":
            taken = lasting(lambda: {int(name) for name in os.listdir(f"/proc/{worker.pid}/fd")})
            free = [number for number in range(1024) if number not in taken][: room - 1]  # the first client has one
            worker.rlimit(psutil.RLIMIT_NOFILE, (free[-1] + 1, free[-1] + 1))  # it bounds the numbers
        clients[0].sendall(BEGINNING)  # busy: idle ones would make room
        for number in range(1, 20):
            clients.append(stack.enter_context(server.connect()))
            if number < room:
                assert ask(clients[number]).endswith(b"hello")
            clients[number].sendall(BEGINNING)
        server.wait_log("not accepting for 0.5 s: Too many open files")
        used, since = sum(worker.cpu_times()[:2]), time.monotonic()
        server.wait_log(r"(?s)(not accepting.*){3}")
        spent = sum(worker.cpu_times()[:2]) - used
        assert spent < 0.2 * (time.monotonic() - since)
        assert not answered(clients)
        for client in clients:  # who is inside is served as ever, and makes room for one who waits
            client.sendall(REQUEST.removeprefix(BEGINNING))
        for client in clients:
            assert client.recv(65536).endswith(b"hello")
    assert server.get().body == b"hello"
    assert server.workers() == [worker]
    eventually(lambda: worker.num_fds() == before, what="the descriptors of before")
    assert len(server.stderr.splitlines()) < 30
